"""BVH: our reader against another tool's forward kinematics, our writer against our reader and the studio's skeleton."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from export_scene import motion, person, truth, y_up
from scipy.spatial.transform import Rotation

from rigs import euler
from studio.export import bvh
from studio.export.animation import character

ORACLE = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data")) / "bvh_oracle"


@pytest.fixture(scope="module")
def scene():
    body = person()
    return body, motion(body)


@pytest.mark.skipif(not ORACLE.is_dir(), reason=f"no BVH oracle at {ORACLE}")
def test_reading_a_walk_gives_the_positions_another_tool_computed():
    clip = bvh.read(ORACLE / "walk01.bvh")
    R, p = clip.forward()
    with (ORACLE / "walk01_pos.csv").open() as file:
        rows = list(csv.reader(file))
    column = {name.strip(): n for n, name in enumerate(rows[0])}
    table = torch.tensor([[float(cell) for cell in row] for row in rows[1:]], dtype=torch.float64)
    for j, name in enumerate(clip.skeleton.names):
        assert (table[:, [column[f"{name}.{axis}"] for axis in "xyz"]] - p[:, j]).abs().max() < 1e-4
    for j, end in clip.ends.items():
        site = table[:, [column[f"{clip.skeleton.names[j]}_End.{axis}"] for axis in "xyz"]]
        assert (site - p[:, j] - R[:, j] @ end).abs().max() < 1e-4
    assert len(p) == 101 and abs(clip.frame_time - 1 / 24) < 1e-6


@pytest.mark.parametrize("order", euler.ORDERS)
@pytest.mark.parametrize("rest", ["t", "a"])
def test_joints_come_back_within_two_micrometres(scene, tmp_path, order, rest):
    body, moved = scene
    clip = bvh.read(bvh.write(tmp_path / "ann.bvh", character(moved, body, rest), order))
    _, p = clip.forward()
    wanted = y_up(truth(body, moved).joints)
    index = [body.skeleton.index(name) for name in clip.skeleton.names]
    assert set(index) == set(range(len(body.skeleton)))
    assert (p / 100 - wanted[:, index]).norm(dim=-1).max() < 2e-6
    assert abs(clip.frame_time - 1001 / 30000) < 1e-9


def test_the_file_has_one_root_called_hips_with_the_only_position_channels(scene, tmp_path):
    body, moved = scene
    text = bvh.write(tmp_path / "ann.bvh", character(moved, body)).read_text()
    assert text.startswith(
        "HIERARCHY\nROOT Hips\n{\n\tOFFSET 0.000000 0.000000 0.000000\n\tCHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Y"
    )
    assert text.count("position") == 3 and text.count("CHANNELS") == len(body.skeleton)
    clip = bvh.read(tmp_path / "ann.bvh")
    childless = {j for j in range(len(body.skeleton)) if j not in clip.skeleton.parents}
    assert set(clip.ends) == childless
    assert all(0.3 < float(end.norm()) < 40 for end in clip.ends.values())


def test_two_full_turns_run_through_without_a_jump(scene, tmp_path):
    body, moved = scene
    text = bvh.write(tmp_path / "ann.bvh", character(moved, body)).read_text()
    heading = torch.tensor([float(line.split()[5]) for line in text.splitlines()[-len(moved.translation) :]])
    assert heading.diff().abs().max() < 13
    assert abs(abs(float(heading[-1] - heading[0])) - 720) < 1e-3


@pytest.mark.parametrize("order", euler.ORDERS)
def test_angles_agree_with_scipy_also_at_the_poles(order):
    random = Rotation.random(500, random_state=3)
    poles = Rotation.from_euler(
        order, [[a, m, c] for m in (90, -90, 90 - 1e-7, 89.9999) for a in (10, -170) for c in (0, 77)], degrees=True
    )
    wanted = torch.tensor(Rotation.concatenate([random, poles]).as_matrix())
    found = euler.angles(wanted, order)
    assert (torch.tensor(Rotation.from_euler(order, found.numpy()).as_matrix()) - wanted).abs().max() < 1e-7
    assert (euler.matrix(found, order) - wanted).abs().max() < 1e-7


def test_angles_at_the_pole_stay_with_the_frame_before():
    R = torch.tensor(Rotation.from_euler("ZXY", [[20, 88, 30], [20, 90, 30], [20, 92, 30]], degrees=True).as_matrix())
    found = torch.rad2deg(euler.unrolled(R, "ZXY"))
    assert (found - torch.tensor([[20.0, 88, 30], [20, 90, 30], [20, 92, 30]])).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("ROOT Hips", "JOINT Hips", "ROOT"),
        ("Frames: 61", "Frames: 62", "62 frames"),
        ("Xposition Yposition", "Xposition Sideways", "Sideways"),
        ("Frame Time:", "Frame Rate:", "Time:"),
        ("Zrotation Xrotation Yrotation\n\tJOINT", "Zrotation Xrotation Zrotation\n\tJOINT", "ZXZ"),
        ("OFFSET 0.000000", "OFFSET nan", "line 4"),
        ("CHANNELS 3 ", "CHANNELS 4 ", "'Spine' says CHANNELS 4 and lists fewer"),
        ("CHANNELS 3 ", "CHANNELS 2 ", "'Spine' says CHANNELS 2 and lists more"),
        ("CHANNELS 3 Zrotation Xrotation Yrotation", "CHANNELS 2 Zrotation Xrotation", "61 frames of 167 channels need 10187 numbers"),
        ("CHANNELS 6 Xposition Yposition Zposition ", "CHANNELS 3 ", "61 frames of 165 channels"),
    ],
)
def test_a_damaged_file_is_refused_with_the_reason(scene, tmp_path, old, new, word):
    body, moved = scene
    path = bvh.write(tmp_path / "ann.bvh", character(moved, body))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=word) as caught:
        bvh.read(path)
    assert str(path) in str(caught.value)


def test_a_file_cut_short_is_refused(scene, tmp_path):
    body, moved = scene
    path = bvh.write(tmp_path / "ann.bvh", character(moved, body))
    path.write_text(path.read_text()[:900])
    with pytest.raises(ValueError, match="cut short"):
        bvh.read(path)


def test_too_few_decimals_are_refused(scene, tmp_path):
    body, moved = scene
    with pytest.raises(ValueError, match="decimals"):
        bvh.write(tmp_path / "ann.bvh", character(replace(moved), body), digits=2)
    assert not list(tmp_path.iterdir())
