"""Face weights in the layout of the Live Link Face app, and timecode."""

import csv
import math
from dataclasses import replace

import pytest
import torch
from export_scene import motion, person

from rigs import makehuman
from studio.export import arkit, timecode

APPS_COLUMNS = (
    "Timecode,BlendShapeCount,EyeBlinkLeft,EyeLookDownLeft,EyeLookInLeft,EyeLookOutLeft,EyeLookUpLeft,EyeSquintLeft,EyeWideLeft,"
    "EyeBlinkRight,EyeLookDownRight,EyeLookInRight,EyeLookOutRight,EyeLookUpRight,EyeSquintRight,EyeWideRight,JawForward,JawRight,"
    "JawLeft,JawOpen,MouthClose,MouthFunnel,MouthPucker,MouthRight,MouthLeft,MouthSmileLeft,MouthSmileRight,MouthFrownLeft,"
    "MouthFrownRight,MouthDimpleLeft,MouthDimpleRight,MouthStretchLeft,MouthStretchRight,MouthRollLower,MouthRollUpper,"
    "MouthShrugLower,MouthShrugUpper,MouthPressLeft,MouthPressRight,MouthLowerDownLeft,MouthLowerDownRight,MouthUpperUpLeft,"
    "MouthUpperUpRight,BrowDownLeft,BrowDownRight,BrowInnerUp,BrowOuterUpLeft,BrowOuterUpRight,CheekPuff,CheekSquintLeft,"
    "CheekSquintRight,NoseSneerLeft,NoseSneerRight,TongueOut,HeadYaw,HeadPitch,HeadRoll,LeftEyeYaw,LeftEyePitch,LeftEyeRoll,"
    "RightEyeYaw,RightEyePitch,RightEyeRoll"
)


@pytest.fixture(scope="module")
def scene():
    body = person()
    return body, motion(body)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_columns_are_the_apps_and_rows_are_the_weights(scene, tmp_path):
    body, moved = scene
    path = arkit.write(tmp_path / "face.csv", moved, body.expression_names)
    assert path.read_text().splitlines()[0] == APPS_COLUMNS
    table = rows(path)
    assert len(table) == 61 and table[30]["BlendShapeCount"] == "61"
    for column, n in (("JawOpen", 0), ("TongueOut", 1), ("MouthSmileLeft", 2)):
        assert max(abs(float(r[column]) - float(w)) for r, w in zip(table, moved.expression[:, n])) < 1e-6
    assert all(float(r["EyeBlinkLeft"]) == 0 for r in table)
    assert table[0]["Timecode"] == "01:00:04:00.000" and table[31]["Timecode"] == "01:00:05:01.000"  # video frame 120 of 29.97 NDF


def test_the_default_body_has_every_one_of_apples_shapes():
    assert set(arkit.NAMES) == set(makehuman.load().expression_names) and len(arkit.NAMES) == 52


@pytest.mark.parametrize(
    ("joint", "axis", "column"),
    # the body faces -y with its left at +x and z up: turning about +z looks left, about +x down, about -y leans to the right
    [("Head", (0, 0, 1), "HeadYaw"), ("Neck", (1, 0, 0), "HeadPitch"), ("Head", (0, -1, 0), "HeadRoll"),
     ("LeftEye", (0, 0, 1), "LeftEyeYaw"), ("RightEye", (1, 0, 0), "RightEyePitch")],
)  # fmt: skip
def test_head_and_eyes_turn_about_their_own_axes(scene, tmp_path, joint, axis, column):
    body, moved = scene
    rotation = torch.zeros_like(moved.rotation)
    rotation[:, 0] = moved.rotation[:, 0]  # where the hips face does not matter
    rotation[:, body.skeleton.index(joint)] = 0.3 * torch.tensor(axis).double()
    row = rows(arkit.write(tmp_path / "face.csv", replace(moved, rotation=rotation), body.expression_names))[20]
    assert abs(float(row[column]) - 0.3) < 1e-6
    assert all(abs(float(row[other])) < 1e-6 for other in arkit.TURNS if other != column)


def test_a_body_without_apples_shapes_is_refused_with_a_way_out(scene, tmp_path):
    _, moved = scene
    with pytest.raises(ValueError, match="has none of Apple's face shapes; fit with the body makehuman"):
        arkit.write(tmp_path / "face.csv", moved, ("expression_00", "e1", "e2"))


@pytest.mark.parametrize("fps", [24000 / 1001, 24, 25, 30000 / 1001, 30, 48, 50, 60000 / 1001, 60, 100, 120, 37.5])
def test_timecode_and_frames_are_each_others_inverse(fps):
    for frame in (0, 1, 1799, 1800, 17982, 107892, 123456):
        assert timecode.frames(timecode.text(frame, fps), fps) == frame
        if timecode.nominal(fps) % 30 == 0:
            assert timecode.frames(timecode.text(frame, fps, drop=True), fps) == frame


@pytest.mark.parametrize(("said", "meant"), [(23.98, 24000 / 1001), (23.976, 24000 / 1001), (29.97, 30000 / 1001), (59.94, 60000 / 1001),
                                             (24, 24), (30, 30), (37.5, 37.5), (25, 25)])  # fmt: skip
def test_rates_of_television_are_taken_exactly(said, meant):
    assert timecode.exact(said) == meant


def test_drop_frame_timecode_keeps_up_with_the_clock():
    # SMPTE 12M: 00:01:00;02 follows 00:00:59;29, ten minutes are 17982 frames, an hour is within a frame of the clock
    assert timecode.text(1800, 30000 / 1001, True) == "00:01:00;02" and timecode.text(1799, 30000 / 1001, True) == "00:00:59;29"
    assert timecode.frames("00:10:00;00", 30000 / 1001) == 17982 and timecode.frames("00:01:00;04", 60000 / 1001) == 3600
    assert math.isclose(timecode.frames("01:00:00;00", 30000 / 1001) * 1001 / 30000, 3600, abs_tol=1 / 29)
    assert timecode.frames("01:00:00:00", 30000 / 1001) == 108000


@pytest.mark.parametrize(("text", "word"), [("1:00:00:00", "is not HH:MM:SS:FF"), ("00:00:00:25", "does not exist at 25 frames"),
                                            ("00:61:00:00", "does not exist")])  # fmt: skip
def test_a_timecode_that_cannot_be_is_refused(text, word):
    with pytest.raises(ValueError, match=word):
        timecode.frames(text, 25)
