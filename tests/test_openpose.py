"""Keypoints of other programs: every set lands on the right names, bad files are named."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from rigs.keypoints import BODY_25, BODY_25B, COCO_17, COCO_WHOLEBODY
from studio.detect.openpose import read_keypoints

DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parent.parent.parent / "shared" / "data")) / "pose2sim_single"

STANDING = {
    "nose": (500, 100), "left_eye": (510, 90), "right_eye": (490, 90), "left_ear": (525, 95), "right_ear": (475, 95), "neck": (500, 150),
    "head_top": (500, 50), "left_shoulder": (560, 160), "right_shoulder": (440, 160), "left_elbow": (580, 260), "right_elbow": (420, 260),
    "left_wrist": (585, 350), "right_wrist": (415, 350), "mid_hip": (500, 380), "left_hip": (535, 380), "right_hip": (465, 380),
    "left_knee": (540, 520), "right_knee": (460, 520), "left_ankle": (545, 660), "right_ankle": (455, 660), "left_heel": (545, 675),
    "right_heel": (455, 675), "left_big_toe": (560, 690), "right_big_toe": (440, 690),
    "left_small_toe": (575, 688), "right_small_toe": (425, 688),
}  # fmt: skip


def person(names, shift=0, **more):
    points = [[STANDING[n][0] + shift, STANDING[n][1], 0.8] for n in names]
    return {"pose_keypoints_2d": [v for p in points for v in p], **more}


def write(folder, camera, frame, people, name="{camera}.{frame:04d}.json"):
    folder = folder / f"{camera}_json"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name.format(camera=camera, frame=frame)).write_text(json.dumps({"version": 1.3, "people": people}))
    return folder / name.format(camera=camera, frame=frame)


@pytest.mark.parametrize("names", [BODY_25, BODY_25B, COCO_17], ids=["body_25", "body_25b", "coco_17"])
def test_every_set_lands_on_the_right_names(tmp_path, names):
    write(tmp_path, "cam01", 0, [person(names)])
    found = read_keypoints(tmp_path, ["cam01"], 30.0)
    for k, name in enumerate(COCO_WHOLEBODY):
        if name in names:
            assert found.pixels[0, 0, 0, k].tolist() == list(STANDING[name]), name
            assert found.confidence[0, 0, 0, k] == pytest.approx(0.8)
            assert 1 < found.sigma[0, 0, 0, k] < 20
        else:
            assert found.pixels[0, 0, 0, k].isnan().all() and found.confidence[0, 0, 0, k] == 0
    assert found.network == "openpose" and found.fps == 30


def test_whole_body_hands_and_face_keep_their_order(tmp_path):
    def part(start, count):
        return [v for i in range(count) for v in (start + i, 2 * start + i, 0.9)]

    whole = {"pose_keypoints_2d": part(100, 133)}
    parts = person(BODY_25, face_keypoints_2d=part(300, 70), hand_left_keypoints_2d=part(400, 21), hand_right_keypoints_2d=part(500, 21))
    write(tmp_path, "a", 0, [whole])
    write(tmp_path, "a", 1, [parts])
    x = read_keypoints(tmp_path, ["a"], 30.0).pixels[0, :, 0, :, 0]
    assert x[0].tolist() == list(range(100, 233))
    assert x[1, 23:91].tolist() == list(range(300, 368))
    assert x[1, 91:112].tolist() == list(range(400, 421)) and x[1, 112:].tolist() == list(range(500, 521))


def test_frames_people_and_cameras_keep_their_places(tmp_path):
    for frame in (3, 4, 6):
        write(tmp_path, "cam1", frame, [person(BODY_25, 10 * frame), person(BODY_25, 10 * frame + 500)], "v_{frame:012d}_keypoints.json")
        write(tmp_path, "cam10", frame, [person(BODY_25, 1000 + frame)], "v_{frame:012d}_keypoints.json")
    found = read_keypoints(tmp_path, ["cam1", "cam10"], 30.0, 3, 8)
    assert found.pixels.shape == (2, 5, 2, 133, 2) and found.first_frame == 3
    nose = found.pixels[..., 0, 0]
    assert nose[0, [0, 1, 3]].tolist() == [[530, 1030], [540, 1040], [560, 1060]]
    assert nose[0, [2, 4]].isnan().all()
    assert nose[1, [0, 1, 3], 0].tolist() == [1503, 1504, 1506] and nose[1, :, 1].isnan().all()


def test_an_unsure_point_has_a_larger_sigma_and_a_hopeless_one_none(tmp_path):
    sure = person(BODY_25)
    sure["pose_keypoints_2d"][2] = 0.3
    sure["pose_keypoints_2d"][5] = 0.02
    sure["pose_keypoints_2d"][15:18] = [0, 0, 0]
    write(tmp_path, "a", 0, [sure])
    found = read_keypoints(tmp_path, ["a"], 30.0)
    nose, left_shoulder, eye = 0, COCO_WHOLEBODY.index("left_shoulder"), COCO_WHOLEBODY.index("left_eye")
    assert found.sigma[0, 0, 0, nose] > 2 * found.sigma[0, 0, 0, eye]
    assert found.pixels[0, 0, 0, left_shoulder].isnan().all()


def test_points_that_are_no_numbers_count_as_not_seen_with_a_warning(tmp_path):
    odd = person(BODY_25)
    odd["pose_keypoints_2d"][0] = float("nan")
    odd["pose_keypoints_2d"][49] = None
    file = write(tmp_path, "a", 0, [odd])
    with pytest.warns(UserWarning, match=f"{file.name}.*2 points of `pose_keypoints_2d`"):
        found = read_keypoints(tmp_path, ["a"], 30.0)
    assert found.pixels[0, 0, 0, 0].isnan().all() and torch.isfinite(found.pixels[0, 0, 0, 5]).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not an OpenPose file"),
        ('{"people": 3}', "not an OpenPose file"),
        ('{"people": [{}]}', "a person without `pose_keypoints_2d`"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "holds 2 numbers"),
        ('{"people": [{"pose_keypoints_2d": [1, 2, "x"]}]}', "something that is not a number"),
        (json.dumps({"people": [{"pose_keypoints_2d": [5.0] * 30}]}), "holds 10 points; known sets"),
        (json.dumps({"people": [{"pose_keypoints_2d": [0.4, 0.6, 0.9] * 25}]}), "coordinates lie between 0 and 1"),
        (json.dumps({"people": [{"pose_keypoints_2d": [4000, 3000, 0.9] * 25}]}), "in a video of 1920x1080"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path, content, message):
    file = write(tmp_path, "a", 0, [])
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_keypoints(tmp_path, ["a"], 30.0, sizes={"a": (1920, 1080)})
    assert str(file) in str(caught.value)


def test_missing_folders_and_frames_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_keypoints(tmp_path / "none", ["a"], 30.0)
    write(tmp_path, "cam10", 0, [person(BODY_25)])
    with pytest.raises(ValueError, match=r"no folder for camera 'cam1'.*cam10_json"):
        read_keypoints(tmp_path, ["cam1"], 30.0)
    with pytest.raises(ValueError, match="nobody is seen in frames 5 to 8"):
        read_keypoints(tmp_path, ["cam10"], 30.0, 5, 9)
    (tmp_path / "cam2_json").mkdir()
    with pytest.raises(ValueError, match=r"cam2_json: holds no \.json file"):
        read_keypoints(tmp_path, ["cam2"], 30.0)


@pytest.mark.skipif(not DATA.is_dir(), reason="pose2sim_single is not there (STUDIO_DATA)")
def test_real_files_are_recognised_as_body_25b():
    cameras = ["cam01", "cam02", "cam03", "cam04"]
    found = read_keypoints(DATA / "reference" / "openpose_json", cameras, 60.0, 0, 100)
    assert found.pixels.shape[:2] == (4, 100) and found.pixels.shape[3] == 133
    at = {name: found.pixels[:, :, 0, k] for k, name in enumerate(COCO_WHOLEBODY)}
    ankle, heel = at["right_ankle"], at["right_heel"]
    thigh = (at["right_hip"] - at["right_knee"]).norm(dim=-1)
    assert np.nanmedian((ankle - heel).norm(dim=-1)) < 0.5 * np.nanmedian(thigh)
