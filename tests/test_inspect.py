"""`studio inspect`: what people are told of anyone's file."""

import os
from pathlib import Path

import pytest
from export_scene import motion, person

from studio.cli import call
from studio.export import bvh, fbx, glb
from studio.export.animation import character
from studio.inspect import report

DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data"))
SAMPLES = DATA / "fbx_samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no FBX files of other tools at {SAMPLES}")


@pytest.fixture(scope="module")
def scene():
    body = person()
    return body, motion(body)


@pytest.mark.parametrize(("kind", "rest", "told"), [("fbx", "t", "pose: T"), ("glb", "a", "pose: A"), ("bvh", "t", "pose: T")])
def test_own_files_are_told_as_they_were_written(scene, tmp_path, kind, rest, told):
    body, moved = scene
    path = tmp_path / f"ann.{kind}"
    {"fbx": fbx.write, "bvh": bvh.write, "glb": lambda p, c: glb.write(p, [c])}[kind](path, character(moved, body, rest, rebound=True))
    text = "\n".join(report(path))
    assert told in text and "names: HumanIK" in text and "61 frames, 2.00 s at 29.97" in text
    assert "y up, z front" in text and "parts of a person: 55 of 55" in text and "no problems" in text
    assert "      LeftHandIndex1" in text


@needs_samples
def test_what_maya_wrote_is_told():
    text = "\n".join(report(SAMPLES / "maya_human_ik_7400_binary.fbx", tree=False))
    assert "FBX 7.4 binary, written by Maya 2022" in text and "unit m, 24 frames a second" in text
    assert "62 joints below Character1_Hips" in text and "rest pose: T; names: HumanIK" in text
    assert "0.01" in text and "scale other than 1" in text
    assert "Character1_LeftHand " not in text


@needs_samples
def test_a_file_without_a_skeleton_says_so():
    assert "no joints" in "\n".join(report(SAMPLES / "motionbuilder_actor_7700_binary.fbx"))


def test_the_command_line_prints_and_refuses(scene, tmp_path, capsys):
    body, moved = scene
    path = bvh.write(tmp_path / "ann.bvh", character(moved, body))
    assert call(["inspect", str(path), "--no-tree"]) == 0
    assert "clips: 1" in capsys.readouterr().out
    path.write_text(path.read_text()[:500])
    assert call(["inspect", str(path)]) == 2
    assert "cut short" in capsys.readouterr().err
    assert call(["inspect", str(tmp_path / "none.fbx")]) == 2
