"""XRMoCap's, Blender's and MAMMA's cameras: files laid out here by each tool's documentation, and their projections in numpy."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_formats import assert_same, rig
from test_formats_vicon import CENTRE, FOCAL, POSITION, QUATERNION, RADIAL, in_view, vicon_pixels

from calibration.formats import read_cameras, write_cameras

torch.set_num_threads(1)
K, SIZE = np.array([[1500, 0, 955], [0, 1480, 545], [0, 0, 1.0]]), (1920, 1080)
R, T = Rotation.from_rotvec([1.2, -0.4, 0.3]).as_matrix(), np.array([0.2, -0.1, 4.0])
BENT = np.array([-0.11, 0.03, 1e-3, -2e-3, 0.01, 0.02, -0.01, 0.005])


def points(seed: int = 0) -> np.ndarray:
    """World points, m, in the view of a camera at R, T."""
    rng = np.random.default_rng(seed)
    return (np.c_[rng.uniform(-0.3, 0.3, (50, 2)), np.ones(50)] * rng.uniform(2, 5, (50, 1)) - T) @ R


def seen(distortion: np.ndarray) -> np.ndarray:
    """Where OpenCV, which XRPrimer and MAMMA hand their cameras to, sees those points."""
    return cv2.projectPoints(points(), cv2.Rodrigues(R)[0], T, K, distortion)[0][:, 0]


def off(path: Path, goal: np.ndarray, unit: float | None = None, **which: str) -> float:
    cameras = read_cameras(path, unit)
    camera = cameras[which["name"]] if which else cameras
    return float(np.abs(camera.project(torch.tensor(points()))[0].numpy() - goal).max())


# XRMoCap


def xrprimer(**more: object) -> dict:
    """What `FisheyeCameraParameter.SaveFile` writes (openxrlab/xrprimer, cpp/modules/core): a perspective 4x4, then R, T and k."""
    k = dict(zip(("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"), BENT))
    intrinsic = [[*row, 0] for row in K[:2].tolist()] + [[0, 0, 0, 1], [0, 0, 1, 0]]
    pose = {"extrinsic_r": R.tolist(), "extrinsic_t": T.tolist(), "world2cam": True, "convention": "opencv"}
    fields = {"class_name": "FisheyeCameraParameter", "name": "left", "width": 1920, "height": 1080, "intrinsic": intrinsic, **pose, **k}
    return {k: v for k, v in (fields | more).items() if v is not None}


def test_an_xrmocap_camera_is_opencv_s_whichever_way_its_pose_is_written(tmp_path):
    path = tmp_path / "fisheye_param_00.json"
    path.write_text(json.dumps(xrprimer()))
    assert off(path, seen(BENT)) < 1e-9 and read_cameras(path).names == ("left",)
    path.write_text(json.dumps(xrprimer(world2cam=False, extrinsic_r=R.T.tolist(), extrinsic_t=(-R.T @ T).tolist(), intrinsic=K.tolist())))
    assert off(path, seen(BENT)) < 1e-9
    path.write_text(json.dumps(xrprimer(extrinsic_t=(T * 1000).tolist())))
    assert off(path, seen(BENT), unit=0.001) < 1e-9


def test_a_folder_of_xrmocap_files_is_a_rig_and_unnamed_ones_have_their_file_s_name(tmp_path):
    for n in range(3):
        file = xrprimer(name="default" if n else None, class_name="PinholeCameraParameter", extrinsic_t=[n, 0, 4])
        (tmp_path / f"fisheye_param_{n:02d}.json").write_text(json.dumps({k: v for k, v in file.items() if k not in ("k1", "k4", "p1")}))
    assert read_cameras(tmp_path).names == ("fisheye_param_00", "fisheye_param_01", "fisheye_param_02")


def test_what_is_written_for_xrmocap_is_read_again_and_is_what_it_documents(tmp_path):
    write_cameras(rig(), tmp_path / "cameras", "xrmocap")
    assert_same(read_cameras(tmp_path / "cameras"), rig(), 1e-12)
    file = json.loads((tmp_path / "cameras/fisheye_param_01.json").read_text(encoding="utf-8"))
    assert file["class_name"] == "FisheyeCameraParameter" and file["world2cam"] is True and file["name"] == "01"
    assert np.array(file["intrinsic"])[2:].tolist() == [[0, 0, 0, 1], [0, 0, 1, 0]]
    with pytest.raises(ValueError, match=r"holds fisheye_param_02\.json, which would be read as another camera"):
        write_cameras(rig()[:2], tmp_path / "cameras", "xrmocap")


# MAMMA


def mamma(**more: object) -> dict:
    fields = {
        "image_size": [list(SIZE)],
        "intrinsic_matrix": K.tolist(),
        "distortions": BENT[:5].tolist(),
        "extrinsics_matrix": np.c_[R, T].tolist(),
    }
    return {k: v for k, v in (fields | more).items() if v is not None}


def vicon_of_mamma() -> dict:
    """Its older layout, with Vicon's own lens."""
    pose = {"rotation": Rotation.from_quat(QUATERNION).as_matrix().tolist(), "position": [v / 1000 for v in POSITION]}
    return {"focal": FOCAL, "princpt": list(CENTRE), "sensor_size": [2056, 1504], "vicon_radial_2": [*CENTRE, *RADIAL], **pose}


def yaml_of_mamma(way: str, order: str) -> str:
    """The YAML of capture/loaders/yaml_loader.py."""
    A, t = (R, T) if way == "world2cam" else (R.T, -R.T @ T)
    q = Rotation.from_matrix(A).as_quat()
    lines = [
        f"extrinsics_convention: {way}",
        f"quaternion_order: {order}",
        "cameras:",
        "  left:",
        "    camera_model: pinhole",
        "    distortion_model: radtan",
        "    intrinsics: [1500, 1480, 955, 545]",
        f"    distortion_coeffs: {BENT[:4].tolist()}",
        "    resolution: [1920, 1080]",
        f"    translation: {t.tolist()}",
        f"    rotation_quaternion: {(q if order == 'xyzw' else q[[3, 0, 1, 2]]).tolist()}",
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: {"seq_01": c}])
def test_mamma_s_json_is_read_with_and_without_a_sequence(tmp_path, wrap):
    (tmp_path / "calib.json").write_text(json.dumps(wrap({"left": mamma(), "right": mamma(extrinsics_matrix=np.c_[R, T + 1].tolist())})))
    assert off(tmp_path / "calib.json", seen(BENT[:5]), name="left") < 1e-9


@pytest.mark.parametrize("way", ["cam2world", "world2cam"])
@pytest.mark.parametrize("order", ["wxyz", "xyzw"])
def test_mamma_s_yaml_says_which_way_its_poses_go(tmp_path, way, order):
    (tmp_path / "calib.yaml").write_text(yaml_of_mamma(way, order))
    assert off(tmp_path / "calib.yaml", seen(BENT[:4])) < 1e-9


def npz(path: Path, **more: object) -> None:
    """A camera's file as capture/run_ma_cap.py writes it, with a pickled None among it."""
    fields = {
        "cam_name": np.array("left"),
        "cam_int": K.astype(np.float32),
        "cam_ext": np.r_[np.c_[R, T], [[0, 0, 0, 1]]].astype(np.float32),
        "cam_img_w": 1920,
        "cam_img_h": 1080,
        "distortion_model": np.array("opencv_brown"),
        "distortion_coeffs": BENT[:5],
        "vicon_radial_2": None,
    } | more
    np.savez(path, **{k: v for k, v in fields.items() if v is not ...})


def test_mamma_s_npz_is_read_alone_and_in_its_folder_without_unpickling(tmp_path):
    npz(tmp_path / "left.npz")
    npz(tmp_path / "old.npz", cam_name=np.array("old"), cam_ext=np.eye(4), distortion_model=..., distortion_coeffs=...)
    np.savez(tmp_path / "global.npz", fps=30)
    assert off(tmp_path / "left.npz", seen(BENT[:5])) < 2e-3  # single precision
    cameras = read_cameras(tmp_path)
    assert cameras.names == ("left", "old") and not bool(cameras["old"].distortion.any())


@pytest.mark.parametrize("layout", ["json", "npz"])
def test_vicon_s_lens_in_a_mamma_file_bends_as_vicon_s(tmp_path, layout):
    path, world = tmp_path / f"calib.{layout}", in_view()
    old = vicon_of_mamma()
    if layout == "json":
        path.write_text(json.dumps({"IOI_01": old}))
    else:
        A = np.array(old["rotation"])
        K_ = np.array([[FOCAL, 0, CENTRE[0]], [0, FOCAL, CENTRE[1]], [0, 0, 1]])
        E = np.r_[np.c_[A, -A @ old["position"]], [[0, 0, 0, 1]]]
        npz(
            path,
            cam_int=K_,
            cam_ext=E,
            cam_img_w=2056,
            cam_img_h=1504,
            distortion_model=...,
            distortion_coeffs=...,
            vicon_radial_2=np.array(old["vicon_radial_2"]),
        )
    assert np.abs(read_cameras(path).project(torch.tensor(world))[0].numpy() - vicon_pixels(world, RADIAL)).max() < 0.01


def test_what_is_written_for_mamma_is_read_again(tmp_path):
    write_cameras(rig(), tmp_path / "calib.json", "mamma")
    assert_same(read_cameras(tmp_path / "calib.json"), rig(), 1e-12)


# Blender: numbers from Blender 5.0.1 itself (extras/blender_cameras.py export; pixels by bpy_extras.object_utils.world_to_camera_view)

BLENDER = [
    (
        {"resolution": [1080, 1920], "pixel_aspect": [1, 1], "sensor_fit": "AUTO", "sensor_width": 31.4706478, "sensor_height": 19.2743626}
        | {"lens": 53.2643166, "shift_x": -0.1746158, "shift_y": 0.141577},
        [
            [-0.1642677, 0.9568781, 0.2395834, 2.9388361],
            [0.4731737, -0.1366766, 0.8703023, -2.4688914],
            [0.8655187, 0.2563271, -0.4303181, 1.8035719],
        ],
        1.0,
        [
            [1.473041, -5.14428, 2.54819, 462.429, 2147.783],
            [1.290482, -4.857289, 3.026978, 1090.889, 2246.555],
            [2.143318, -5.341012, 2.523491, 219.174, 1430.776],
        ],
    ),
    (
        {
            "resolution": [720, 900],
            "pixel_aspect": [1, 1.5],
            "sensor_fit": "HORIZONTAL",
            "sensor_width": 37.0889778,
            "sensor_height": 16.2919197,
        }
        | {"lens": 58.9877014, "shift_x": 0.000848, "shift_y": -0.0736415},
        [
            [-0.1872337, 0.936215, -0.2973972, -111.252121],
            [-0.6445391, 0.1113807, 0.7564151, -89.226265],
            [0.7412914, 0.3333105, 0.5825729, 88.1481705],
        ],
        0.01,
        [
            [-0.102933, -3.522344, -0.337796, 588.799, 351.59],
            [-0.433598, -3.101747, -1.052702, 306.667, 479.083],
            [0.160991, -3.111353, -0.736698, 355.951, 310.898],
        ],
    ),
    (
        {
            "resolution": [720, 900],
            "pixel_aspect": [1, 1.2],
            "sensor_fit": "VERTICAL",
            "sensor_width": 25.3434696,
            "sensor_height": 18.2640724,
        }
        | {"lens": 43.3859329, "shift_x": -0.1907501, "shift_y": -0.0082042},
        [
            [0.0399742, 0.8761806, 0.4803223, -0.7034994],
            [0.062704, 0.4775594, -0.876359, -1.9665135],
            [-0.9972313, 0.0651499, -0.03585, -0.8371779],
        ],
        1.0,
        [
            [-1.319251, 1.131459, -1.13554, 965.027, -213.885],
            [-2.620909, 0.400212, -0.699832, 509.745, 827.512],
            [-1.784202, 0.837221, -0.172289, 111.89, 131.848],
        ],
    ),
]


@pytest.mark.parametrize("case", range(3))
def test_a_blender_camera_sees_points_where_blender_sees_them(tmp_path, case):
    lens, place, scale, rows = BLENDER[case]
    camera = {"name": "c0", "type": "PERSP", **lens, "matrix_world": [*place, [0, 0, 0, 1]]}
    (tmp_path / "scene.json").write_text(json.dumps({"format": "blender cameras", "unit_scale": scale, "cameras": [camera]}))
    found = read_cameras(tmp_path / "scene.json")
    rows = torch.tensor(rows, dtype=torch.float64)
    assert float((found.project(rows[:, :3])[0] - rows[:, 3:]).abs().max()) < 5e-3  # six decimals of points


def test_a_rig_goes_to_blender_and_back_with_its_lenses(tmp_path):
    fish = replace(rig(), lens=("brown", "fisheye", "brown"), distortion=rig().distortion * torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]))
    write_cameras(fish, tmp_path / "rig.json", "blender")
    assert_same(read_cameras(tmp_path / "rig.json"), fish, 1e-9)
    file = json.loads((tmp_path / "rig.json").read_text(encoding="utf-8"))
    assert all(min(c["pixel_aspect"]) == 1 for c in file["cameras"])  # Blender takes none below


def with_blender(**more: object) -> dict:
    camera = {"name": "c0", "matrix_world": np.eye(4).tolist(), **BLENDER[0][0]} | more
    return {"format": "blender cameras", "cameras": [{k: v for k, v in camera.items() if v is not None}]}


BAD = {
    "xr-class": (xrprimer(class_name="OmniCameraParameter"), "field 'class_name' is 'OmniCameraParameter'.*pinhole or fisheye"),
    "xr-convention": (xrprimer(convention="opengl"), "field 'convention' is 'opengl'; convert it with XRPrimer"),
    "xr-flag": (xrprimer(world2cam=None), "field 'world2cam' must be true .* or false"),
    "xr-size": (xrprimer(width=None), "camera 'left': field 'image_size"),
    "xr-zero": (xrprimer(extrinsic_r=np.zeros((3, 3)).tolist()), "field 'extrinsic_r' is not a rotation"),
    "xr-pose": (xrprimer(extrinsic_t=None), "field 'extrinsic_t' is missing"),
    "mamma-size": ({"a": mamma(image_size=None)}, "camera 'a': field 'image_size' is missing"),
    "mamma-lens": ({"a": mamma(distortions=[0.1, 0.2])}, r"camera 'a': field 'distortions' has shape \(2,\)"),
    "mamma-matrix": ({"a": mamma(intrinsic_matrix=[[1, 2], [3, 4]])}, "field 'intrinsic_matrix' has shape"),
    "mamma-turn": ({"a": vicon_of_mamma() | {"rotation": np.ones((3, 3)).tolist()}}, "field 'rotation' is not a rotation"),
    "mamma-model": ({"cameras": {"a": {"rotation_quaternion": [1, 0, 0, 0], "camera_model": "omni"}}}, "field 'camera_model' is 'omni'"),
    "mamma-mixed": ({"a": mamma(), "b": 3}, "camera 'b': needs a mapping"),
    "blender-type": (with_blender(type="PANO"), "camera 'c0': field 'type' is PANO; only perspective"),
    "blender-fit": (with_blender(sensor_fit="WIDE"), "field 'sensor_fit' is 'WIDE'"),
    "blender-lens": (with_blender(lens=None), "camera 'c0': field 'lens' is missing"),
    "blender-zero": (with_blender(lens=0), "field 'lens' holds a focal length that is not positive"),
    "blender-place": (with_blender(matrix_world=np.zeros((4, 4)).tolist()), "field 'matrix_world' is not a rotation"),
    "blender-model": (with_blender(lens_model="pinball"), "field 'lens' is 'pinball', none of"),
    "blender-list": ({"format": "blender cameras", "cameras": 3}, "field 'cameras' must be a list"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_file_camera_field_and_remedy(tmp_path, name):
    document, says = BAD[name]
    (tmp_path / "bad.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=f"(?s)bad.json.*{says}"):
        read_cameras(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text(json.dumps(document)[:-20])
    with pytest.raises(ValueError, match=r"bad\.json: its syntax is broken"):
        read_cameras(tmp_path / "bad.json")


def test_a_truncated_npz_and_an_unknown_lens_are_refused(tmp_path):
    npz(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"b\.npz: not a readable npz"):
        read_cameras(tmp_path / "b.npz")
    npz(tmp_path / "a.npz", distortion_model=np.array("kannala"))
    with pytest.raises(ValueError, match=r"a\.npz: camera 'left': field 'distortion_model' is 'kannala', none of radtan"):
        read_cameras(tmp_path / "a.npz")
    npz(tmp_path / "a.npz", cam_ext=...)
    with pytest.raises(ValueError, match=r"a\.npz: camera 'left': field 'cam_ext' is missing"):
        read_cameras(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["mamma", "xrmocap"])
def test_a_lens_that_a_tool_lacks_is_refused_with_a_way_out(tmp_path, kind):
    fish = replace(rig(), lens=("brown", "brown", "fisheye"), distortion=0.01 * torch.ones(3, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"camera '(über|left)'.*write OpenCV \(\.yml\)"):
        write_cameras(fish, tmp_path / "out", kind)
    assert not (tmp_path / "out").exists()
