"""Footage in which somebody pulled the plug, left the lens cap on, or never came in; and files in which people stand in any order."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from crowd_scene import alone, crowd, outcome
from small_footage import rig
from test_bad_input import refused, run
from test_many_people import tracked

from rigs.keypoints import COCO_17
from studio.detect.openpose import read_keypoints
from studio.identity import identify
from studio.people import IdentityConfig
from studio.track import track_actors
from studio.video import VideoWriter


def dark(scene, camera, frames):
    """The scene with one camera that sees nothing in some frames."""
    pixels, confidence = scene.keypoints.pixels.clone(), scene.keypoints.confidence.clone()
    pixels[camera, frames], confidence[camera, frames] = torch.nan, 0.0
    return replace(scene, keypoints=replace(scene.keypoints, pixels=pixels, confidence=confidence))


@pytest.mark.parametrize("frames", [slice(30, 60), slice(None)])
def test_a_camera_that_goes_black_costs_what_a_camera_is_worth_and_nobody_changes(frames):
    scene = dark(crowd(2, 5, "cross"), 1, frames)
    found = identify(scene.cameras, scene.keypoints, None, IdentityConfig())
    assert found.detection.shape[2] == 2
    result, before = outcome(scene, tracked(scene, 2)), outcome(scene, tracked(crowd(2, 5, "cross"), 2))
    assert result["switches"] == result["phantoms"] == result["lost"] == 0 and result["found"] > 0.98
    assert result["error_mm"] < 1.35 * before["error_mm"]


def test_all_cameras_black_for_a_second_leave_a_gap_and_the_same_person():
    scene = crowd(1, 4)
    for camera in range(4):
        scene = dark(scene, camera, slice(30, 60))
    points = tracked(scene, 1)
    assert np.isnan(points[32:58]).all() and np.isfinite(points[:29, 0, 5:17]).mean() > 0.9
    result = outcome(scene, points)
    assert result["switches"] == result["phantoms"] == 0 and 0.6 < result["found"] < 0.7


def test_people_cut_off_by_the_pictures_edge_are_followed():
    scene = crowd(2, 6, "cross", frames=60)
    width = scene.cameras.size[:, 0].view(-1, 1, 1, 1).float()
    for c, far in ((0, 0.5), (2, 0.5)):  # two cameras are turned away: half of the room is beyond the edge
        gone = scene.keypoints.pixels[c, ..., 0] > far * width[c]
        scene.keypoints.pixels[c][gone] = torch.nan
        scene.keypoints.confidence[c][gone] = 0
    result = outcome(scene, tracked(scene, 2))
    assert result["switches"] == result["phantoms"] == result["lost"] == 0
    single = np.mean([outcome(one, tracked(one, 1))["error_mm"] for one in (alone(scene, 0), alone(scene, 1))])
    assert result["error_mm"] < 1.6 * single


@pytest.mark.parametrize("black", [("cam01",), ("cam01", "cam02", "cam03")])
def test_the_networks_find_nobody_in_black_or_empty_pictures_and_the_run_says_so(tmp_path, capsys, black):
    names = ("cam01", "cam02", "cam03")
    rig(names, 320, 240).save(tmp_path / "cameras.yaml")
    wall = np.random.default_rng(0).integers(90, 110, (240, 320, 3)).astype(np.uint8)
    for name in names:
        with VideoWriter(tmp_path / "videos" / f"{name}.mp4", 320, 240, 30) as writer:
            for _ in range(4):
                writer.write(np.zeros_like(wall) if name in black else wall)
    settings = tmp_path / "settings.yaml"
    settings.write_text("detect: {workers: 1, runtime: litert}\n")
    refused(capsys, run(tmp_path, "--settings", settings), "nobody")


def test_openpose_files_in_which_people_change_places_give_each_his_own_track(tmp_path):
    scene = crowd(2, 4, frames=30, missing=0.0, wild=0.0)
    names = scene.keypoints.keypoints
    for c, camera in enumerate(scene.cameras.names):
        (tmp_path / camera).mkdir()
        for t in range(30):
            people = []
            for slot in range(scene.keypoints.pixels.shape[2]):  # in random order from frame to frame
                p = scene.keypoints.pixels[c, t, slot]
                if torch.isfinite(p).any():
                    listed = [[*p[names.index(n)].tolist(), 0.9] if n in names else [0, 0, 0] for n in COCO_17]
                    people.append({"pose_keypoints_2d": [0.0 if v != v else v for row in listed for v in row]})
            (tmp_path / camera / f"{t:012d}_keypoints.json").write_text(json.dumps({"people": people}))
    read = read_keypoints(tmp_path, list(scene.cameras.names), 30.0, 0, 30)
    tracks = track_actors(scene.cameras, read, ("one", "two"))
    limbs = [names.index(n) for n in COCO_17[5:]]
    few = replace(scene, truth=scene.truth[:, :, limbs])
    points = tracks.points[:, :, [read.keypoints.index(n) for n in COCO_17[5:]]].numpy()
    result = outcome(few, points, list(range(12)))
    assert result["switches"] == result["phantoms"] == result["lost"] == 0 and result["found"] > 0.95
