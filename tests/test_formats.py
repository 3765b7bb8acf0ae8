"""Camera files of other tools: against the tools' own results, real footage, and OpenCV."""

import csv
import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from calibration.cameras import Cameras, adapt_to_video
from calibration.formats import read_cameras, write_cameras

torch.set_num_threads(1)
DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data"))
QCA = DATA / "pose2sim_single/calibration/Calib.qca.txt"
real = pytest.mark.skipif(not QCA.exists(), reason=f"no real footage in {DATA}; set STUDIO_DATA")
FIELDS = ("size", "focal", "centre", "distortion", "R_camera_world", "position")


def rig(names: tuple[str, ...] = ("left", "01", "über")) -> Cameras:
    """Three cameras around the origin, with five coefficients each."""
    C, rng = len(names), np.random.default_rng(0)
    return Cameras(
        names=names,
        size=torch.tensor([[1920.0, 1080.0]] * C, dtype=torch.float64),
        focal=torch.tensor(rng.uniform(900, 1600, (C, 2))),
        centre=torch.tensor(rng.uniform((900, 500), (1000, 580), (C, 2))),
        distortion=torch.tensor(np.c_[rng.normal(size=(C, 5)) * [0.2, 0.1, 2e-3, 2e-3, 1e-5], np.zeros((C, 3))]),
        lens=("brown",) * C,
        R_camera_world=torch.tensor(Rotation.random(C, random_state=0).as_matrix()),
        position=torch.tensor(rng.normal(size=(C, 3)) * 3),
    )


def assert_same(a: Cameras, b: Cameras, tolerance: float = 1e-12) -> None:
    assert a.names == b.names and a.lens == b.lens
    for field in FIELDS:
        assert (getattr(a, field) - getattr(b, field)).abs().max() <= tolerance, field


def triangulated(cameras: Cameras, pixels: np.ndarray, use: list[int]) -> torch.Tensor:
    """The linear solution (N, 3) of pixels (C, N, 2) in the cameras `use`."""
    plane = cameras.undistort(torch.tensor(pixels))
    P = torch.cat([cameras.R_camera_world, cameras.translation[..., None]], -1)
    rows = [plane[c, :, i, None] * P[c, 2] - P[c, i] for c in use for i in (0, 1)]
    X = torch.linalg.svd(torch.stack(rows, 1))[2][:, -1]
    return X[:, :3] / X[:, 3:]


# Qualisys and Pose2Sim, on a real rig


@real
def test_qualisys_and_its_conversion_project_alike():
    ours, theirs = read_cameras(QCA), read_cameras(DATA / "pose2sim_single/reference/Calib_qualisys.toml")
    assert ours.names == ("cam01", "cam02", "cam03", "cam04") and theirs.names == ("cam_01", "cam_02", "cam_03", "cam_04")
    points = torch.tensor(np.random.default_rng(0).uniform((-1, -1, 0), (1, 1, 2), (200, 3)))
    none = torch.zeros_like(ours.distortion)
    apart = replace(ours, distortion=none).project(points) - replace(theirs, distortion=none).project(points)
    assert apart.abs().max() < 1e-6  # one world: same axes, same metres
    assert torch.allclose(theirs.distortion * 64, ours.distortion, atol=1e-9)  # the converter divides what has no unit
    seen = ours.inside(ours.project(points))
    curved = (ours.project(points) - theirs.project(points)).norm(dim=-1)[seen]
    print("px that the divided distortion costs: median, worst:", float(curved.median()), float(curved.max()))
    assert seen.sum() > 400 and curved.median() < 2 and curved.max() < 15


@real
def test_qualisys_distortion_is_what_checkerboards_say():
    board = np.zeros((28, 3), np.float32)
    board[:, :2] = np.mgrid[:4, :7].T.reshape(-1, 2)
    views = []
    for file in sorted((DATA / "pose2sim_single/calibration/intrinsics/int_cam04_img").glob("*.jpg")):
        image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        found, corners = cv2.findChessboardCorners(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), (4, 7))
        if found:
            corners = (corners * 2 + 0.5).astype(np.float32)
            reach = max(3, int(np.linalg.norm(corners[1] - corners[0]) / 5))
            views.append(cv2.cornerSubPix(image, corners, (reach, reach), (-1, -1), (3, 40, 1e-3)))
    assert len(views) >= 4
    rms, _, k, _, _ = cv2.calibrateCamera([board] * len(views), views, (1088, 1920), None, None, flags=cv2.CALIB_FIX_K3)
    cameras = read_cameras(QCA)
    print("k1 k2 of the checkerboards and of the file:", k[0, :2], cameras.distortion[3, :2].tolist(), "rms px", rms)
    assert rms < 0.3
    assert abs(k[0, 0] - cameras.distortion[3, 0]) < 0.01 and abs(k[0, 1] - cameras.distortion[3, 1]) < 0.03
    assert abs(k[0, 0] - cameras.distortion[3, 0] / 64) > 0.03  # a sixty-fourth of it is not this lens


def openpose(frames: range) -> np.ndarray:
    """The tallest person's BODY_25B of every camera, (C, frames * 25, 3)."""
    views = []
    for c in (1, 2, 3, 4):
        files = sorted((DATA / f"pose2sim_single/reference/openpose_json/cam0{c}_json").glob("*.json"))
        people = [[np.reshape(p["pose_keypoints_2d"], (25, 3)) for p in json.loads(files[t].read_text())["people"]] for t in frames]
        views.append([max(each, key=lambda p: p[:, 1].max() - p[p[:, 2] > 0.3, 1].min(initial=2000)) for each in people])
    return np.array(views).reshape(4, -1, 3)


@real
def test_a_person_seen_by_three_cameras_is_where_the_fourth_sees_him():
    cameras, seen = read_cameras(QCA), openpose(range(0, 100, 5))
    seen = seen[:, (seen[..., 2] > 0.4).all(0)]
    off = []
    for left_out in range(4):
        X = triangulated(cameras, seen[..., :2], [c for c in range(4) if c != left_out])
        assert X[:, 2].min() > -0.3 and X[:, 2].max() < 2.3  # a man on a floor at z = 0, in metres
        off.append(float((cameras.project(X)[left_out] - torch.tensor(seen[left_out, :, :2])).norm(dim=-1).median()))
    print("leave-one-out reprojection, px median per camera:", np.round(off, 1))
    assert 10 < np.median(off) < 35 and max(off) < 40  # cameras a few frames apart; a wrong convention gives hundreds


@real
def test_a_converted_video_is_letterboxed_not_cropped_nor_stretched():
    import av

    camera = read_cameras(QCA)["cam02"]
    still = cv2.imread(str(DATA / "pose2sim_single/calibration/extrinsics/cam02_ext.png"), cv2.IMREAD_GRAYSCALE)
    with av.open(str(DATA / "pose2sim_single/videos/cam02.mp4")) as video:
        frame = next(video.decode(video=0)).to_ndarray(format="gray")
    assert still.shape == (1920, 1088) and frame.shape == (1920, 1080)
    sift = cv2.SIFT.create(1000)
    (a, da), (b, db) = sift.detectAndCompute(still, None), sift.detectAndCompute(frame, None)
    pairs = [m for m, n in cv2.BFMatcher().knnMatch(da, db, k=2) if m.distance < 0.7 * n.distance]
    before, after = np.array([a[m.queryIdx].pt for m in pairs]), np.array([b[m.trainIdx].pt for m in pairs])
    plane = camera.undistort(torch.tensor(before)[None])
    stretched = camera.resized(torch.tensor([[1080.0, 1920.0]], dtype=torch.float64))
    centred = replace(camera, centre=camera.centre - torch.tensor([[4.0, 0.0]]))
    letterboxed, cropped = adapt_to_video(camera, 1080, 1920), adapt_to_video(camera, 1080, 1920, "cropped")
    found = [
        float(np.median(np.linalg.norm(c.distort(plane)[0].numpy() - after, axis=1))) for c in (letterboxed, cropped, stretched, centred)
    ]
    print("median px: letterboxed, cropped, stretched, cropped both sides:", np.round(found, 2))
    assert found[0] < 0.6 and min(found[1:]) > 1.5


# Caliscope, on a real rig


@real
def test_caliscope_cameras_measure_the_board_it_was_calibrated_with():
    cameras = read_cameras(DATA / "caliscope_charuco/camera_array.toml")
    assert cameras.names == ("cam_0", "cam_1", "cam_2", "cam_3")
    assert_same(cameras, read_cameras(DATA / "caliscope_charuco/config.toml"))  # the older layout of the same tool
    corners: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    place = {}
    with (DATA / "caliscope_charuco/calibration/extrinsic/CHARUCO/xy_CHARUCO.csv").open() as file:
        for row in csv.DictReader(file):
            corners.setdefault((row["sync_index"], row["keypoint_id"]), {})[int(row["cam_id"])] = np.array(
                [float(row["img_loc_x"]), float(row["img_loc_y"])]
            )
            place[row["keypoint_id"]] = np.array([float(row["obj_loc_x"]), float(row["obj_loc_y"])])
    points = {}
    for use in {tuple(sorted(views)) for views in corners.values() if len(views) >= 2}:
        keys = [key for key, views in corners.items() if tuple(sorted(views)) == use]
        found = triangulated(cameras[list(use)], np.array([[corners[key][c] for key in keys] for c in use]), list(range(len(use))))
        points |= dict(zip(keys, found.numpy()))
    edges = [
        np.linalg.norm(points[t, i] - points[t, j])
        for t, i in points
        for j in place
        if (t, j) in points and 0.053 < np.linalg.norm(place[i] - place[j]) < 0.055
    ]
    print("squares, mm:", len(edges), np.round(np.percentile(np.array(edges) * 1000, [10, 50, 90]), 2))
    assert len(edges) > 200
    assert abs(np.median(edges) - 0.054) < 0.0005  # the board's square, 54 mm


# Every layout, from a rig we know


def toml_tables(cameras: Cameras, unit: float, **more: object) -> str:
    """What `toml` writes for aniposelib's `CameraGroup.get_dicts`."""
    text = ""
    for c, name in enumerate(cameras.names):
        fields = {
            "name": name,
            "size": [int(v) for v in cameras.size[c]],
            "matrix": cameras.matrix[c].tolist(),
            "distortions": cameras.distortion[c, :5].tolist(),
            "rotation": cv2.Rodrigues(cameras.R_camera_world[c].numpy())[0].ravel().tolist(),
            "translation": (cameras.translation[c] / unit).tolist(),
        } | more
        text += f"[cam_{c}]\n" + "".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in fields.items())
    return text


LAYOUTS = {
    "anipose": (0.001, {}, "[metadata]\nadjusted = true\nerror = 1.6\n"),
    "freemocap": (0.001, {}, '[metadata]\ncharuco_square_size = 58.0\ndate_time_calibrated = "2025-03-11T14:19:33"\n'),
    "pose2sim": (1.0, {"fisheye": False}, "[metadata]\nadjusted = false\nerror = 0.0\n"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".toml", ".txt"])
def test_toml_layouts_are_told_apart_by_content(tmp_path, layout, suffix):
    unit, more, metadata = LAYOUTS[layout]
    path = tmp_path / f"calibration{suffix}"
    path.write_text(toml_tables(rig(), unit, **more) + metadata, encoding="utf-8")
    assert_same(read_cameras(path), rig(), 1e-9)


def test_a_unit_can_be_given_and_a_wrong_one_is_noticed(tmp_path):
    path = tmp_path / "calibration.toml"
    path.write_text(toml_tables(rig(), 1.0), encoding="utf-8")  # anipose, but a board measured in metres
    with pytest.raises(ValueError, match=r"calibration\.toml: the cameras would be 0\.0\d+ m apart.*unit="):
        read_cameras(path)
    assert_same(read_cameras(path, unit=1.0), rig(), 1e-9)


def test_caliscope_leaves_ignored_cameras_out_and_reads_both_rotations(tmp_path):
    cameras, path = rig(("cam_0", "cam_1", "cam_2")), tmp_path / "camera_array.toml"
    text = ""
    for c in range(3):
        R = cameras.R_camera_world[c].numpy()
        rotation = R.tolist() if c == 0 else cv2.Rodrigues(R)[0].ravel().tolist()
        k = cameras.distortion[c, :5].tolist()
        text += f"[cameras.{c}]\ncam_id = {c}\nignore = {'true' if c == 1 else 'false'}\nsize = [1920, 1080]\n"
        text += f"matrix = {cameras.matrix[c].tolist()}\n"
        text += f"distortions = {k}\nrotation = {rotation}\ntranslation = {cameras.translation[c].tolist()}\n"
    path.write_text(text)
    assert_same(read_cameras(path), cameras[[0, 2]], 1e-9)
    path.write_text(text.replace("ignore = false", "ignore = true"))
    with pytest.raises(ValueError, match=r"camera_array\.toml: holds no camera"):
        read_cameras(path)


def store(
    path: Path, cameras: Cameras, c: int, vector: bool = False, names: tuple[str, ...] = ("camera_matrix", "distortion_coefficients")
) -> None:
    """One camera as `cv2.FileStorage` writes it."""
    file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    file.write("calibration_time", "Thu Jan 30 14:43:57 2020")
    file.write("image_width", 1920)
    file.write("image_height", 1080)
    file.write(names[0], cameras.matrix[c].numpy())
    file.write(names[1], cameras.distortion[c, :5, None].numpy())
    R = cameras.R_camera_world[c].numpy()
    file.write("rvec" if vector else "R", cv2.Rodrigues(R)[0] if vector else R)
    file.write("tvec" if vector else "T", cameras.translation[c][:, None].numpy())
    file.release()


@pytest.mark.parametrize("suffix", [".yml", ".json"])
def test_a_folder_of_opencv_files_is_a_rig(tmp_path, suffix):
    cameras = rig(("a", "b", "c"))
    for c, name in enumerate(cameras.names):
        store(
            tmp_path / f"{name}{suffix}",
            cameras,
            c,
            vector=c == 1,
            names=("K", "D") if c == 2 else ("camera_matrix", "distortion_coefficients"),
        )
    assert_same(read_cameras(tmp_path), cameras, 1e-9)
    assert_same(read_cameras(tmp_path / f"b{suffix}"), cameras["b"], 1e-9)


def test_one_json_or_yaml_holds_many_cameras(tmp_path):
    cameras = rig(("a", "b"))
    listed = {
        name: {
            "image_size": [1920, 1080],
            "distortion_model": "plumb_bob",
            "camera_matrix": {"rows": 3, "cols": 3, "data": cameras.matrix[c].ravel().tolist()},
            "dist_coeffs": [cameras.distortion[c, :5].tolist() + [0.0] * 9],
            "rvec": cv2.Rodrigues(cameras.R_camera_world[c].numpy())[0].tolist(),
            "tvec": cameras.translation[c].tolist(),
        }
        for c, name in enumerate(cameras.names)
    }
    for name, document in {
        "a.json": listed,
        "b.json": {"cameras": listed},
        "c.yaml": {"cameras": [{"name": n, **v} for n, v in listed.items()]},
    }.items():
        (tmp_path / name).write_text(json.dumps(document, indent=1))
        assert_same(read_cameras(tmp_path / name), cameras, 1e-9)


def easymocap(folder: Path, cameras: Cameras, size: bool = True) -> None:
    """EasyMocap's two files, six decimals and carriage returns as that tool writes them."""

    def matrix(key: str, value: np.ndarray) -> str:
        data = ", ".join(f"{v:.6f}" for v in value.ravel())
        return f"{key}: !!opencv-matrix\r\n  rows: {value.shape[0]}\r\n  cols: {value.shape[1]}\r\n  dt: d\r\n  data: [{data}]\r\n"

    head = "%YAML:1.0\r\n---\r\nnames:\r\n" + "".join(f'  - "{n}"\r\n' for n in cameras.names)
    intri = extri = head
    for c, n in enumerate(cameras.names):
        R = cameras.R_camera_world[c].numpy()
        intri += matrix(f"K_{n}", cameras.matrix[c].numpy()) + matrix(f"dist_{n}", cameras.distortion[c : c + 1, :5].numpy())
        intri += f"H_{n}: 1080\r\nW_{n}: 1920\r\n" if size else ""
        extri += matrix(f"R_{n}", cv2.Rodrigues(R)[0]) + matrix(f"Rot_{n}", R) + matrix(f"T_{n}", cameras.translation[c][:, None].numpy())
    (folder / "intri.yml").write_bytes(intri.encode())
    (folder / "extri.yml").write_bytes(extri.encode())


def test_easymocap_is_read_from_its_folder_or_either_file(tmp_path):
    cameras = rig(("01", "02"))
    easymocap(tmp_path, cameras)
    for path in (tmp_path, tmp_path / "intri.yml", tmp_path / "extri.yml"):
        assert_same(read_cameras(path), cameras, 1e-5)
    easymocap(tmp_path, cameras, size=False)
    with pytest.raises(ValueError, match=r"intri\.yml: camera '01': field 'W_01'.*W_01: 1920"):
        read_cameras(tmp_path)
    easymocap(tmp_path, cameras)
    (tmp_path / "extri.yml").unlink()
    with pytest.raises(FileNotFoundError, match=r"extri\.yml"):
        read_cameras(tmp_path)


# Writing


def in_view(camera: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """World points near the middle of the view, and their pixels."""
    plane = torch.tensor(np.random.default_rng(1).uniform(-0.3, 0.3, (50, 2)))
    points = torch.nn.functional.pad(plane, (0, 1), value=1.0) * 3 @ camera.R_camera_world[0] + camera.position[0]
    return points.numpy(), camera.project(points)[0].numpy()


@pytest.mark.parametrize("name", ["cameras.yaml", "Calib.toml", "cameras.yml"])
def test_what_is_written_is_read_again(tmp_path, name):
    write_cameras(rig(), tmp_path / name)
    assert_same(read_cameras(tmp_path / name), rig(), 1e-12)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    if name == "cameras.yaml":
        assert_same(read_cameras(tmp_path), rig())


def test_opencv_itself_reads_the_written_file(tmp_path):
    cameras = rig()
    write_cameras(cameras, tmp_path / "rig.yml", "opencv")
    file = cv2.FileStorage(str(tmp_path / "rig.yml"), cv2.FILE_STORAGE_READ)
    for c in range(3):
        node = file.getNode("cameras").at(c)
        K, k, R, T = (node.getNode(n).mat() for n in ("camera_matrix", "distortion_coefficients", "R", "T"))
        assert node.getNode("name").string() == cameras.names[c] and node.getNode("image_width").real() == 1920
        points, expected = in_view(cameras[c])
        assert np.abs(cv2.projectPoints(points, cv2.Rodrigues(R)[0], T, K, k)[0][:, 0] - expected).max() < 1e-6


def test_pose2sim_projects_the_written_file_alike(tmp_path):
    cameras = rig()
    write_cameras(cameras, tmp_path / "Calib.toml")
    tables = tomllib.loads((tmp_path / "Calib.toml").read_text(encoding="utf-8"))
    for c, table in enumerate(t for name, t in tables.items() if name != "metadata"):
        K, k, r, t = (np.array(table[f]) for f in ("matrix", "distortions", "rotation", "translation"))
        points, expected = in_view(cameras[c])
        assert table["fisheye"] is False
        assert np.abs(cv2.projectPoints(points, r, t, K, k)[0][:, 0] - expected).max() < 1e-6


def test_a_fisheye_survives_opencv_files_and_is_refused_where_it_would_not(tmp_path):
    cameras = replace(rig(), lens=("brown", "fisheye", "brown"), distortion=rig().distortion * torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]))
    write_cameras(cameras, tmp_path / "rig.yml")
    assert_same(read_cameras(tmp_path / "rig.yml"), cameras, 1e-12)
    with pytest.raises(ValueError, match=r"Calib\.toml: camera '01': .*fisheye.*OpenCV"):
        write_cameras(cameras, tmp_path / "Calib.toml")
    with pytest.raises(ValueError, match=r"rig\.xyz.*\.yaml"):
        write_cameras(cameras, tmp_path / "rig.xyz")


# Bad files

QUALISYS = """<calibration><cameras><camera active="1" serial="26580" model="Miqus Video">
<fov_video left="8" top="0" right="1927" bottom="1079"/>
<transform x="1000" y="2000" z="1500" r11="1" r12="0" r13="0" r21="0" r22="0" r23="1" r31="0" r32="-1" r33="0"/>
<intrinsic focalLengthU="64000" focalLengthV="64000" centerPointU="61952" centerPointV="34560" radialDistortion1="-0.05"
 radialDistortion2="0.13" radialDistortion3="0" tangentalDistortion1="0.001" tangentalDistortion2="0.002"/></camera>
<camera active="0" serial="off"/></cameras></calibration>"""


def test_the_filmed_part_of_a_qualisys_sensor_moves_the_centre(tmp_path):
    path = tmp_path / "rig.qca.txt"
    path.write_text(QUALISYS)
    camera = read_cameras(path)
    assert camera.names == ("26580",) and camera.size.tolist() == [[1920, 1080]]
    assert camera.centre.tolist() == [[960, 540]] and camera.focal.tolist() == [[1000, 1000]]
    # upright at (1, 2, 1.5) m and looking along +y: what is ahead is at the centre, what is higher is higher
    ahead, above = camera.project(torch.tensor([[1.0, 5, 1.5], [1, 5, 2]], dtype=torch.float64))[0]
    assert torch.allclose(ahead, camera.centre[0]) and above[1] < ahead[1]


BROKEN = {
    "syntax.txt": (QUALISYS[:-5], "syntax"),
    "syntax.json": ('{"camera_matrix": [', "syntax"),
    "syntax.toml": ("[cam_0\nname = 1", "syntax"),
    "syntax.yml": ("camera_matrix: [", "not valid YAML"),
    "twice.json": ('{"a": 1, "a": 2}', "'a' appears twice"),
    "twice.toml": ("[cam_0]\nmatrix = []\n[cam_0]\nmatrix = []", "cam_0"),
    "other.xml": ("<project/>", "known layout.*Qualisys"),
    "other.toml": ("[project]\nname = 'x'", "known layout"),
    "other.yaml": ("videos: [a.mp4]", "known layout"),
    "empty.txt": ("", "known layout"),
    "none.txt": (QUALISYS.replace('active="1"', 'active="0"'), "holds no camera"),
    "number.txt": (QUALISYS.replace('"64000"', '"wide"', 1), "camera '26580': field 'focalLengthU' does not hold numbers"),
    "missing.txt": (QUALISYS.replace('r11="1"', ""), "camera '26580': field 'r11' is missing"),
    "turned.txt": (QUALISYS.replace('r11="1"', 'r11="2"'), "camera '26580': field 'transform' is not a rotation"),
    "mirror.txt": (QUALISYS.replace('r11="1"', 'r11="-1"'), "camera '26580': field 'transform' is a mirror"),
    "pose.json": ('{"camera_matrix": [[9,0,4],[0,9,4],[0,0,1]], "image_size": [9, 9]}', r"camera 'pose': field 'R \(or"),
    "skew.json": ('{"camera_matrix": [[9,1,4],[0,9,4],[0,0,1]], "image_size": [9, 9]}', "camera 'skew': field 'camera_matrix' has skew"),
    "sizeless.json": (
        '{"camera_matrix": [[9,0,4],[0,9,4],[0,0,1]], "rvec": [0,0,0], "tvec": [0,0,1]}',
        "camera 'sizeless': field 'image_size",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_file_is_refused_with_file_and_reason(tmp_path, name):
    text, says = BROKEN[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"(?s){name}.*{says}"):
        read_cameras(tmp_path / name)


@pytest.mark.parametrize("field", ["size", "matrix", "rotation", "translation"])
def test_a_missing_toml_field_is_named(tmp_path, field):
    path = tmp_path / "c.toml"
    lines = toml_tables(rig(), 1.0, fisheye=False).splitlines()
    second = [i for i, line in enumerate(lines) if line.startswith(field)][1]
    path.write_text("\n".join(lines[:second] + lines[second + 1 :]), encoding="utf-8")
    with pytest.raises(ValueError, match=f"c.toml: camera '01': field '.*{field}.*is missing"):
        read_cameras(path)


def test_one_name_for_two_cameras_is_refused(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(toml_tables(rig(), 1.0, fisheye=False, name="left"))
    with pytest.raises(ValueError, match=r"c\.toml: camera 'left'.*twice"):
        read_cameras(path)


def test_cameras_all_in_one_place_have_no_poses(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(toml_tables(rig(), 1.0, fisheye=False, rotation=[0, 0, 0], translation=[0, 0, 0]), encoding="utf-8")
    with pytest.raises(ValueError, match="poses are missing"):
        read_cameras(path)


def test_a_folder_or_path_without_cameras_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder without intri"):
        read_cameras(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such camera file"):
        read_cameras(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="not a text file"):
        read_cameras(tmp_path / "binary.toml")
