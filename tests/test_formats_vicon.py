"""Vicon's and OptiTrack's camera files: against each tool's own projection, written out here in numpy."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation

from calibration.formats import read_cameras

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
# As Vicon wrote it for a real studio's 60 degree lens (cuevhv/mamma, configs/examples/calib/250903_Ballroom.yaml, camera IOI_01).
FOCAL, CENTRE, RADIAL = (
    1788.189697265625,
    (1033.4899692348724, 720.5197497067926),
    (2.0277525117869924e-08, -1.2790214472884419e-14, 1.06e-22),
)
QUATERNION, POSITION = (0.7235876425266888, 0.002830808660173212, -0.003216958498601863, 0.6902192124847123), (29.43, -4425.61, 1347.27)


def xcp(lens: str | None = None, frames: int = 1, quaternion: tuple[float, ...] = QUATERNION, **more: str) -> str:
    """One video camera, one camera for markers, and one that was not calibrated."""
    radial = lens if lens is not None else "Vicon3Parameter " + " ".join(map(repr, (*CENTRE, *RADIAL)))
    camera = {
        "DEVICEID": "2118670",
        "NAME": "IOI_01",
        "TYPE": "VideoFile",
        "SENSOR_SIZE": "2056 1504",
        "PIXEL_ASPECT_RATIO": "1",
        "SKEW": "0",
    }
    frame = {
        "FRAME": "0",
        "FOCAL_LENGTH": repr(FOCAL),
        "PRINCIPAL_POINT": "{!r} {!r}".format(*CENTRE),
        "ORIENTATION": " ".join(map(repr, quaternion)),
        "POSITION": " ".join(map(repr, POSITION)),
    } | ({"VICON_RADIAL2": radial} if not radial[:1].isdigit() else {"VICON_RADIAL": radial})

    def tag(name: str, fields: dict[str, str]) -> str:
        return f"<{name} " + " ".join(f'{k}="{v}"' for k, v in fields.items() if v != "") + "/>"

    fields = {**camera, **frame} | more
    outer = " ".join(f'{k}="{fields[k]}"' for k in camera if fields[k] != "")
    inner = tag("KeyFrame", {k: fields[k] for k in frame})
    marker = '<Camera DEVICEID="1" NAME="Vero" TYPE="Vero"><KeyFrames>' + inner + "</KeyFrames></Camera>"
    return (
        f'<?xml version="1.0" encoding="UTF-8" standalone="no" ?>\n<Cameras NAME="" VERSION="1.0"><Camera {outer}><KeyFrames>'
        f'{inner * frames}</KeyFrames></Camera>{marker}<Camera DEVICEID="3" TYPE="VideoFile"><KeyFrames/></Camera></Cameras>'
    )


def corrected(seen: float, radial: tuple[float, ...]) -> float:
    """Vicon's correction: where a point seen `seen` px from the centre would be without the lens."""
    k1, k2, k3 = radial
    return seen * (1 + k1 * seen**2 + k2 * seen**4 + k3 * seen**6)


def vicon_pixels(points: np.ndarray, radial: tuple[float, ...]) -> np.ndarray:
    """Where Vicon's camera sees world points (m): its correction is inverted by bisection."""
    x, y, z = Rotation.from_quat(QUATERNION).as_matrix() @ (points * 1000 - POSITION).T
    ideal = FOCAL * np.stack([x / z, y / z], -1)
    far = np.linalg.norm(ideal, axis=-1)
    seen = np.array([brentq(lambda s, f=f: corrected(s, radial) - f, 0, 1.5 * f) for f in far])
    return np.array(CENTRE) + ideal * (seen / far)[:, None]


def in_view(count: int = 400) -> np.ndarray:
    """World points, m, before that camera and all over its image."""
    plane = (RNG.uniform((0, 0), (2055, 1503), (count, 2)) - CENTRE) / FOCAL
    depth = RNG.uniform(2, 8, (count, 1))
    R = Rotation.from_quat(QUATERNION).as_matrix()
    return np.array(POSITION) / 1000 + np.concatenate([plane * depth, depth], -1) @ R


@pytest.mark.parametrize("radial", [RADIAL, (0.0, 0.0, 0.0), (6e-8, 2e-15, 0.0), (-3e-8, 0.0, 0.0)])
def test_a_vicon_camera_sees_points_where_vicon_sees_them(tmp_path, radial):
    path, points = tmp_path / "take.xcp", in_view()
    path.write_text(xcp("Vicon3Parameter " + " ".join(map(repr, (*CENTRE, *radial)))))
    camera = read_cameras(path)
    seen = vicon_pixels(points, radial)
    inside = (seen > 0).all(1) & (seen < (2055, 1503)).all(1)
    off = np.abs(camera.project(torch.tensor(points))[0].numpy() - seen)[inside]
    print("px off Vicon's own lens, worst:", off.max(), "of", np.abs(seen - vicon_pixels(points, (0.0, 0.0, 0.0)))[inside].max())
    assert inside.sum() > 200 and off.max() < 0.01
    assert camera.names == ("IOI_01",) and camera.size.tolist() == [[2056, 1504]]  # not the one for markers, nor the uncalibrated


def test_the_correction_is_not_mistaken_for_a_distortion(tmp_path):
    points = in_view()
    wrong = np.array(CENTRE) + np.stack([corrected(1.0, RADIAL) * d for d in vicon_pixels(points, (0.0, 0.0, 0.0)) - CENTRE])
    assert np.abs(wrong - vicon_pixels(points, RADIAL)).max() > 5  # the test above would tell the two apart


def test_the_older_vicon_radial_has_two_terms_about_the_principal_point(tmp_path):
    (tmp_path / "a.xcp").write_text(xcp("2e-8 -1e-14"))
    (tmp_path / "b.xcp").write_text(xcp("Vicon3Parameter {!r} {!r} 2e-8 -1e-14 0".format(*CENTRE)))
    assert torch.equal(read_cameras(tmp_path / "a.xcp").distortion, read_cameras(tmp_path / "b.xcp").distortion)


def test_pixels_that_are_not_square_have_two_focal_lengths_and_the_unit_can_be_given(tmp_path):
    (tmp_path / "a.xcp").write_text(xcp("0 0", PIXEL_ASPECT_RATIO="1.25", NAME=""))
    camera = read_cameras(tmp_path / "a.xcp", unit=0.01)
    assert camera.names == ("2118670",) and np.allclose(camera.focal[0], [FOCAL, FOCAL / 1.25])
    assert np.allclose(camera.position[0], np.array(POSITION) / 100)


BAD_XCP = {
    "moving": (xcp(frames=2), "camera 'IOI_01': field 'KeyFrames' holds 2 poses.*standing still"),
    "quaternion": (xcp(quaternion=(1.0, 1.0, 0.0, 0.0)), "camera 'IOI_01': field 'ORIENTATION' is a quaternion of length 1.414"),
    "missing": (xcp().replace("FOCAL_LENGTH", "LENGTH"), "camera 'IOI_01': field 'FOCAL_LENGTH' is missing"),
    "number": (xcp(POSITION="1 2 far"), "field 'POSITION' does not hold numbers"),
    "few": (xcp(POSITION="1 2"), r"field 'POSITION' has shape \(2,\)"),
    "lens": (xcp("Vicon9Parameter 1 2 3"), "field 'VICON_RADIAL2' names the lens 'Vicon9Parameter'.*undistorted"),
    "fold": (xcp("Vicon3Parameter {!r} {!r} -9e-7 0 0".format(*CENTRE)), "field 'VICON_RADIAL2' folds the image over"),
    "aspect": (xcp(PIXEL_ASPECT_RATIO="1.1"), "field 'PIXEL_ASPECT_RATIO' is not 1"),
    "middle": (xcp("Vicon3Parameter 1000 700 2e-8 0 0"), "is centred at .*not at the principal point"),
    "skew": (xcp(SKEW="2"), "field 'SKEW' is 2"),
    "truncated": (xcp()[:300], "its syntax is broken"),
}


@pytest.mark.parametrize("name", BAD_XCP)
def test_a_bad_vicon_file_is_refused_with_file_camera_field_and_remedy(tmp_path, name):
    text, says = BAD_XCP[name]
    (tmp_path / "a.xcp").write_text(text)
    with pytest.raises(ValueError, match=f"(?s)a.xcp.*{says}"):
        read_cameras(tmp_path / "a.xcp")


# OptiTrack

MCAL = """<?xml version="1.0" encoding="UTF-16LE"?>
<calibrationProfile version="1"><Calibration><Cameras Count="1"><Camera Serial="C11764"><Properties CameraID="13"/>
<Attributes ImagerPixelWidth="1920" ImagerPixelHeight="1080"/>
<Intrinsic LensCenterX="1" LensCenterY="1" HorizontalFocalLength="1" VerticalFocalLength="1" k1="9" k2="9" k3="9"/>
<IntrinsicStandardCameraModel LensCenterX="960.596" LensCenterY="538.614" HorizontalFocalLength="1247.841" VerticalFocalLength="1247.755"
 k1="0.136385" k2="-0.125546" k3="0.000035" TangentialX="0.000259" TangentialY="-0.000259"/>
<Extrinsic X="-0.268640" Y="2.655145" Z="-3.509723" OrientMatrix0="-0.995356" OrientMatrix1="-0.046982" OrientMatrix2="0.084021"
 OrientMatrix3="0.000355" OrientMatrix4="0.871016" OrientMatrix5="0.491255" OrientMatrix6="-0.096264" OrientMatrix7="0.489003"
 OrientMatrix8="-0.866954"/></Camera></Cameras></Calibration></calibrationProfile>"""


def motive_pixels(points: np.ndarray) -> np.ndarray:
    """Where that camera sees points of Motive's y-up world: it looks along its -z, y up, and its matrix turns camera into world."""
    R = np.array([[-0.995356, -0.046982, 0.084021], [0.000355, 0.871016, 0.491255], [-0.096264, 0.489003, -0.866954]])
    x, y, z = ((points - [-0.268640, 2.655145, -3.509723]) @ R).T
    x, y = x / -z, -y / -z
    r2 = x * x + y * y
    bend = 1 + 0.136385 * r2 - 0.125546 * r2**2 + 0.000035 * r2**3
    p1, p2 = 0.000259, -0.000259
    u, v = x * bend + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * bend + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.stack([1247.841 * u + 960.596, 1247.755 * v + 538.614], -1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_an_optitrack_camera_stands_in_a_world_with_z_up(tmp_path, encoding):
    path = tmp_path / "studio.mcal"
    path.write_bytes(MCAL.encode(encoding))
    camera = read_cameras(path)
    assert camera.names == ("C11764",) and camera.size.tolist() == [[1920, 1080]]
    assert np.allclose(camera.position[0], [-0.268640, 3.509723, 2.655145])  # 2.66 m above the floor
    motive = RNG.uniform((-1, 0, -1), (1, 2, 1), (100, 3))
    ours = np.stack([motive[:, 0], -motive[:, 2], motive[:, 1]], -1)
    off = np.abs(camera.project(torch.tensor(ours))[0].numpy() - motive_pixels(motive)).max()
    assert off < 1e-3  # six decimals of rotation
    head, feet = camera.project(torch.tensor([[0, 0, 1.8], [0, 0, 0]], dtype=torch.float64))[0]
    assert head[1] < feet[1] and bool(camera.inside(torch.stack([head, feet])[None]).all())


BAD_MCAL = {
    "own": (MCAL.replace("IntrinsicStandardCameraModel", "Other"), "field 'IntrinsicStandardCameraModel' is missing.*Motive 3.2"),
    "pose": (MCAL.replace("OrientMatrix4", "Orient"), "field 'OrientMatrix4' is missing"),
    "turned": (MCAL.replace('"0.871016"', '"0.5"'), "field 'OrientMatrix0' is not a rotation"),
    "size": (MCAL.replace("ImagerPixelWidth", "Width"), "field 'ImagerPixelWidth' is missing"),
    "truncated": (MCAL[:700], "its syntax is broken"),
}


@pytest.mark.parametrize("name", BAD_MCAL)
def test_a_bad_optitrack_file_is_refused_with_file_camera_field_and_remedy(tmp_path, name):
    text, says = BAD_MCAL[name]
    (tmp_path / "a.mcal").write_bytes(text.encode("utf-16"))
    with pytest.raises(ValueError, match=f"(?s)a.mcal.*{says}"):
        read_cameras(tmp_path / "a.mcal")


def test_motive_s_old_binary_file_says_what_to_export(tmp_path):
    (tmp_path / "a.cal").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match=r"a\.cal: not a text file.*\.mcal with Motive 3\.2"):
        read_cameras(tmp_path / "a.cal")
