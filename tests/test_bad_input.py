"""What a user may get wrong: each gives one clear line that names the file and the remedy, or a result that says what is odd."""

import json
import math

import pytest
import torch
from small_footage import film, rig
from test_video import patched, raw

from rigs.keypoints import COCO_17
from studio import cli
from studio.take import Take
from studio.values import Motion
from studio.video import frames

NAMES = ("cam01", "cam02", "cam03")
FRAMES = 8


@pytest.fixture
def footage(tmp_path):
    """Three cameras with videos, and keypoint files of a stick figure as seen by them."""
    cameras = rig(NAMES, 320, 240)
    cameras.save(tmp_path / "cameras.yaml")
    for c, name in enumerate(NAMES):
        film(tmp_path / "videos" / f"{name}.mp4", FRAMES, width=320, height=240)
        for t in range(FRAMES):
            write_keypoints(tmp_path, name, t, cameras.project(stick(t))[c].tolist())
    return tmp_path


def stick(t):
    """Seventeen points of somebody who stands and sways, m; nose to ankles in COCO's order."""
    height = {"nose": 1.6, "eye": 1.63, "ear": 1.6, "shoulder": 1.4, "elbow": 1.12, "wrist": 0.88, "hip": 0.92, "knee": 0.5, "ankle": 0.09}
    width = {"nose": 0.0, "eye": 0.03, "ear": 0.07, "shoulder": 0.18, "elbow": 0.24, "wrist": 0.26, "hip": 0.1, "knee": 0.1, "ankle": 0.1}
    ahead = {"nose": 0.1, "eye": 0.08}
    points = []
    for name in COCO_17:
        part, sign = name.split("_")[-1], -1 if name.startswith("right") else 1
        points.append([ahead.get(part, 0.0) + 0.02 * math.sin(t), sign * width[part], height[part]])
    return torch.tensor(points, dtype=torch.float64)


def write_keypoints(folder, camera, t, pixels, people=None):
    place = folder / "keypoints" / camera
    place.mkdir(parents=True, exist_ok=True)
    numbers = [v for x, y in pixels for v in (x, y, 0.9)]
    found = [{"pose_keypoints_2d": numbers}] if people is None else people
    (place / f"{camera}_{t:012d}_keypoints.json").write_text(json.dumps({"people": found}))


def run(folder, *words):
    asked = ["run", str(folder / "videos"), "--cameras", str(folder / "cameras.yaml"), "--out", str(folder / "out"), *words]
    return cli.call([str(w) for w in asked])


def refused(capsys, code, *told):
    """The one line of a refusal holds all of `told`."""
    line = capsys.readouterr().err.strip()
    assert code == 2
    assert "Traceback" not in line and "\n" not in line
    for text in told:
        assert text in line, line


def test_no_video(footage, capsys):
    for video in (footage / "videos").iterdir():
        video.unlink()
    refused(capsys, run(footage), str(footage / "videos"), "holds no video", "one file per camera")


def test_a_folder_that_is_not_there(footage, capsys):
    (footage / "videos").rename(footage / "elsewhere")
    refused(capsys, run(footage), str(footage / "videos"), "no such file or folder")


def test_a_video_cut_off_in_its_middle(footage, capsys):
    video = footage / "videos/cam02.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    refused(capsys, run(footage), "cam02.mp4", "not a readable video", "repair")


def test_a_video_cut_off_whose_index_lies_in_front_is_used_as_far_as_it_goes_and_said(footage):
    for name in NAMES:
        raw(footage / "videos" / f"{name}.mp4", count=60, noise=200, container_options={"movflags": "faststart"})
    video = footage / "videos/cam02.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 6 // 10])
    take = Take.of([footage / "videos"], footage / "cameras.yaml", footage / "out").checked()
    assert 10 < take.stretch("cam02")[1] < 50 and take.span == (0, 60)
    assert any("cam02.mp4 is cut off" in w and "60" in w for w in take.warnings)


def test_an_empty_video_file(footage, capsys):
    (footage / "videos/cam02.mp4").write_bytes(b"")
    refused(capsys, run(footage), "cam02.mp4", "empty", "copy it again")


def test_a_text_file_called_video(footage, capsys):
    (footage / "videos/cam02.mp4").write_text("not a video")
    refused(capsys, run(footage), "cam02.mp4", "not a readable video")


def test_different_rates_give_a_result_that_says_so(footage):
    film(footage / "videos/cam02.mp4", FRAMES, fps=25, width=320, height=240)
    assert run(footage, "--keypoints", footage / "keypoints") == 0
    take = Take.open(footage / "out")
    assert any("cam02 25" in w and "cam01 30" in w for w in take.notes()["take"]["warnings"])
    motion = Motion.load(take.motion_file("actor"))
    assert motion.fps == 30 and len(motion.translation) == FRAMES and bool(torch.isfinite(motion.rotation).all())


def test_a_camera_missing_in_the_file_is_left_out_and_said(footage):
    rig(["cam01", "cam03"], 320, 240).save(footage / "cameras.yaml")
    take = Take.of([footage / "videos"], footage / "cameras.yaml", footage / "out")
    assert sorted(take.videos) == ["cam01", "cam03"]
    assert any("cam02.mp4" in w for w in take.warnings)


def test_names_that_have_nothing_in_common(footage, capsys):
    rig(["front", "back", "side"], 320, 240).save(footage / "cameras.yaml")
    refused(capsys, run(footage), "cameras.yaml", "cam01.mp4", "front", "Name each video after its camera")


def test_one_camera_only(footage, capsys):
    for name in ("cam02", "cam03"):
        (footage / "videos" / f"{name}.mp4").unlink()
    refused(capsys, run(footage), "cameras.yaml", "only 1", "at least two")


def test_a_calibration_for_another_shape_of_image(footage, capsys):
    rig(NAMES, 400, 240).save(footage / "cameras.yaml")
    refused(capsys, run(footage), "cam01.mp4", "cameras.yaml", "400 x 240", "320 x 240")  # before the networks run, which takes long
    assert not (footage / "out/keypoints2d").exists()


def test_portrait_footage_with_rotation_metadata_meets_a_portrait_calibration(footage):
    rig(NAMES, 240, 320).save(footage / "cameras.yaml")
    for name in NAMES:
        patched(footage / "videos" / f"{name}.mp4", (0, 1, -1, 0))
    cameras = Take.of([footage / "videos"], footage / "cameras.yaml", footage / "out").cameras()
    assert cameras.size.tolist() == [[240, 320]] * 3
    assert next(frames(footage / "videos/cam01.mp4"))[1].shape == (320, 240, 3)


def test_a_calibration_made_without_the_rotation_is_explained(footage, capsys):
    patched(footage / "videos/cam01.mp4", (0, 1, -1, 0))
    refused(capsys, run(footage, "--keypoints", footage / "keypoints"), "cam01", "exchanged", "rotation", "upright")


@pytest.mark.parametrize(
    ("content", "told"), [("", "camera"), ("cameras: [", "line 1"), ("{}", "camera"), ("cameras: {cam01: {size: [1, 2]}}", "cam01")]
)
def test_a_broken_camera_file(footage, capsys, content, told):
    (footage / "cameras.yaml").write_text(content)
    refused(capsys, run(footage), "cameras.yaml", told)


def test_frames_beyond_the_footage(footage, capsys):
    refused(capsys, run(footage, "--frames", "100:200"), "cam0", f"has {FRAMES} frames", "starts at frame 100")


def test_an_output_folder_that_is_a_file(footage, capsys):
    (footage / "out").write_text("")
    refused(capsys, run(footage), str(footage / "out"), "choose another --out")


def test_an_empty_stage(footage, capsys):
    for name in NAMES:
        for t in range(FRAMES):
            write_keypoints(footage, name, t, [], people=[])
    refused(capsys, run(footage, "--keypoints", footage / "keypoints"), str(footage / "keypoints"), "nobody is seen")


def test_nan_in_keypoint_files_and_videos_of_different_length_give_a_result_that_says_so(footage):
    file = footage / "keypoints/cam02/cam02_000000000003_keypoints.json"
    person = json.loads(file.read_text())["people"][0]
    person["pose_keypoints_2d"][0] = float("nan")
    file.write_text(json.dumps({"people": [person]}))
    film(footage / "videos/cam02.mp4", FRAMES - 2, width=320, height=240)
    assert run(footage, "--keypoints", footage / "keypoints") == 0
    take = Take.open(footage / "out")
    report = (take.folder / "report.html").read_text()
    assert any(file.name in w and "not finite" in w for w in take.notes()["detect"]["warnings"])
    assert any("different numbers of frames" in w for w in take.notes()["take"]["warnings"])
    assert file.name in report and "different numbers of frames" in report
    motion = Motion.load(take.motion_file("actor"))
    assert len(motion.translation) == FRAMES and bool(torch.isfinite(motion.rotation).all())
