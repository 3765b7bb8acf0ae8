"""FBX read by ufbx, a reader of another hand: joints on every frame, names, rates, takes, face shapes."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export_scene import motion, person, truth, y_up
from scipy.spatial.transform import Rotation

from rigs import makehuman
from studio.export import arkit, fbx, timecode
from studio.export.animation import character
from studio.export.root import BONES, rooted

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ufbx") is None, reason="ufbx is not installed")
RATES = (24000 / 1001, 24, 25, 30000 / 1001, 30, 48, 50, 60000 / 1001, 60, 100, 120, 37.5)


@pytest.fixture(scope="module")
def scene():
    body = person()
    return body, motion(body)


def read(path, fps):
    reader = Path(__file__).with_name("read_with_ufbx.py")
    return json.loads(subprocess.run([sys.executable, reader, path, str(fps)], capture_output=True, text=True, check=True).stdout)


def world(seen, name, parents):
    """(T, 4, 4) of a joint below its ancestors, in the file's unit."""
    rows = np.array(seen["tracks"][name])
    local = np.tile(np.eye(4), (len(rows), 1, 1))
    local[:, :3, 3], local[:, :3, :3] = rows[:, :3], Rotation.from_quat(rows[:, 3:]).as_matrix()
    return world(seen, parents[name], parents) @ local if parents[name] in parents else local


def farthest(seen, body, moved, prefix=""):
    """Largest distance of a joint from where the body has it, m."""
    wanted = y_up(truth(body, moved).joints).numpy()
    found = [world(seen, prefix + n, seen["parents"])[:, :3, 3] * seen["unit"] for n in body.skeleton.names]
    return np.abs(np.stack(found, 1) - wanted).max()


@pytest.mark.parametrize("version", ["7.4", "7.5"])
def test_every_joint_is_where_the_body_has_it_on_every_frame(scene, tmp_path, version):
    body, moved = scene
    seen = read(fbx.write(tmp_path / "ann.fbx", character(moved, body, rebound=True), "walk", fbx.Options(version)), moved.fps)
    assert seen["version"] == 1000 * float(version) and seen["unit"] == 0.01 and seen["warnings"] == 0 and seen["take"] == "walk"
    assert len(seen["tracks"]["Hips"]) == 61 and farthest(seen, body, moved) < 1e-5
    assert farthest(seen, body, replace(moved, rotation=1.001 * moved.rotation)) > 1e-4  # it does compare
    assert seen["skins"] == 1 and seen["materials"] == ["skin", "eye"]


@pytest.mark.parametrize("fps", RATES)
def test_keys_begin_at_their_timecode_at_every_rate(scene, tmp_path, fps):
    body, moved = scene
    few = replace(moved.cut(slice(0, 5)), fps=float(fps), first_frame=7)
    seen = read(fbx.write(tmp_path / "ann.fbx", character(few, body), options=fbx.Options(timeline="timecode")), fps)
    start = 3600 * timecode.nominal(fps) + 7
    assert abs(seen["fps"] / fps - 1) < 2e-6  # ufbx knows 29.97 as that, not as 30000/1001
    assert abs(seen["begin"] - start / fps) < 1e-9 and abs(seen["end"] - (start + 4) / fps) < 1e-9
    assert farthest(seen, body, few) < 1e-5


def test_actors_of_one_file_hang_below_nodes_of_their_own(scene, tmp_path):
    body, moved = scene
    second = replace(motion(body, seed=8), actor="Zoë 李", translation=moved.translation + 1.5)
    seen = read(fbx.write(tmp_path / "two.fbx", [character(m, body) for m in (moved, second)]), moved.fps)
    for each in (moved, second):
        assert farthest(seen, body, each, f"{each.actor}:") < 1e-5 and seen["parents"][f"{each.actor}:Hips"] == each.actor
    assert seen["skins"] == 2 and seen["morphs"] == 2 * list(body.expression_names)


def test_a_root_bone_carries_the_path_and_moves_no_joint(scene, tmp_path):
    body, moved = scene
    seen = read(fbx.write(tmp_path / "ann.fbx", rooted(character(moved, body), "floor")), moved.fps)
    assert farthest(seen, body, moved) < 1e-5
    assert [name for name, up in seen["parents"].items() if up == BONES[0]] == ["ik_foot_root", "Hips"]  # never an only child
    assert np.abs(np.array(seen["tracks"]["root"])[:, 1]).max() == 0


def test_the_default_body_has_apples_52_names_exactly(tmp_path):
    body = makehuman.load()
    moved = motion(replace(body), frames=2)
    moved = replace(moved, expression=torch.zeros(2, 52), shape=torch.zeros(len(body.shape_names)))
    seen = read(fbx.write(tmp_path / "ann.fbx", character(moved, body)), moved.fps)
    assert sorted(seen["morphs"]) == sorted(arkit.NAMES)


def test_fewer_keys_miss_no_rotation_and_no_place_by_more_than_was_allowed(scene, tmp_path):
    body, moved = scene
    # the hips' sway in the scene is quick; a slower take is what keys can be left out of
    slow = replace(moved, fps=240.0, rotation=0.5 * moved.rotation)
    whole = character(slow, body)
    options = fbx.Options(degrees=0.5, millimetres=2.0)
    full, path = fbx.write(tmp_path / "all.fbx", whole), fbx.write(tmp_path / "few.fbx", whole, options=options)
    seen = read(path, slow.fps)
    off = 0.0
    for j, name in enumerate(body.skeleton.names):
        rows = np.array(seen["tracks"][name])
        missed = Rotation.from_matrix(whole.R_parent_joint[:, j].numpy()).inv() * Rotation.from_quat(rows[:, 3:])
        off = max(off, np.degrees(missed.magnitude()).max())
    place = np.linalg.norm(np.array(seen["tracks"]["Hips"])[:, :3] / 100 - whole.root.numpy(), axis=1).max()
    assert 0.05 < off <= 0.5 and 1e-4 < place <= 0.002
    assert path.stat().st_size < 0.8 * full.stat().st_size
