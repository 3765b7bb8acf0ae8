"""Animators' files read back: against another reader's and another tool's numbers, and against what the studio itself wrote."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from export_scene import motion, person, truth

from rigs import characters
from rigs.characters import fbx_nodes
from studio.export import bvh, fbx, glb
from studio.export.animation import character

DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data"))
SAMPLES, ORACLE = DATA / "fbx_samples", DATA / "bvh_oracle"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no FBX files of other tools at {SAMPLES}")
UFBX = {
    "maya_kenney_character_7700_binary.fbx": {
        "LeftHandIndex3": {0: (0.345620, -1.011649, 2.041151), 7: (0.484174, 0.391561, 1.239777), 20: (0.345620, -1.011649, 2.041151)},
        "RightToes": {0: (-0.231825, -0.655306, 0.151555), 7: (-0.223284, 0.948585, 0.424326), 20: (-0.231825, -0.655306, 0.151555)},
        "Head": {0: (-0.032211, -0.356097, 2.560488), 7: (0.021040, -0.355728, 2.560630), 20: (-0.032211, -0.356097, 2.560488)},
    },
    "blender_293_barbarian_7400_binary.fbx": {
        "main droite": {0: (-1.260028, -1.240554, 3.067826), 31: (-1.356222, -1.108705, 2.853580), 62: (-1.260028, -1.240554, 3.067826)},
        "pied gauche": {0: (0.352455, -1.470459, 1.489354), 31: (0.390147, -1.633739, 1.458490), 62: (0.352455, -1.470459, 1.489354)},
        "tête": {0: (-0.342111, -1.100096, 3.256895), 31: (-0.497234, -1.127698, 3.042657), 62: (-0.342111, -1.100096, 3.256895)},
    },
    "maya_human_ik_7400_binary.fbx": {
        "Character1_LeftHandIndex4": {0: (0.893640, -0.037795, 1.467883), 119: (0.893640, -0.037795, 1.467883)},
        "Character1_RightToeBase": {0: (-0.089111, -0.129552, 0.018881), 119: (-0.089111, -0.129552, 0.018881)},
    },
    "maya_transformed_skin_7700_binary.fbx": {
        "joint3": {0: (0.025858, 0.0, 0.034142), 10: (0.025858, 0.0, 0.034142), 20: (0.025858, 0.0, 0.034142)},
    },
}
"""World positions in m (our axes) of some joints on some frames, as the library ufbx 0.0.5 evaluates these files."""


@pytest.fixture(scope="module")
def scene():
    body = person()
    return body, motion(body)


@pytest.mark.parametrize("kind", ["fbx", "bvh", "glb"])
def test_the_studios_own_files_come_back_within_a_hundredth_of_a_millimetre(scene, tmp_path, kind):
    body, moved = scene
    ours, path = character(moved, body), tmp_path / f"ann.{kind}"
    {"fbx": fbx.write, "bvh": bvh.write, "glb": lambda p, c: glb.write(p, [c])}[kind](path, ours)
    back = characters.read(path)
    clip = back.clips[0]
    _, p = back.world(clip)
    wanted = truth(body, moved).joints
    index = [back.index(name) for name in body.skeleton.names]
    assert clip.frames == len(moved.translation) and abs(clip.fps - moved.fps) < 1e-3
    assert (p[:, index] - wanted).norm(dim=-1).max() < 1e-5
    assert not back.problems, back.problems


@pytest.mark.parametrize("kind", ["fbx", "glb"])
def test_the_rest_pose_mesh_and_morphs_of_the_studios_own_files_come_back(scene, tmp_path, kind):
    body, moved = scene
    ours, path = character(moved, body, rebound=True), tmp_path / f"ann.{kind}"
    {"fbx": fbx.write, "glb": lambda p, c: glb.write(p, [c])}[kind](path, ours)
    back = characters.read(path)
    _, p = back.rest
    rest = torch.stack([ours.rest[:, 0], -ours.rest[:, 2], ours.rest[:, 1]], -1)
    assert (p[[back.index(n) for n in body.skeleton.names]] - rest).abs().max() < 1e-6
    assert back.morphs == body.expression_names
    mesh = back.meshes[0]
    assert mesh.weights is not None and (mesh.weights.sum(1) - 1).abs().max() < 1e-5
    assert abs(float(mesh.points[:, 2].min())) < 1e-6  # soles on the floor


@pytest.mark.skipif(not ORACLE.is_dir(), reason=f"no BVH oracle at {ORACLE}")
def test_a_walk_in_bvh_stands_where_another_tool_computed_it():
    walk = characters.read(ORACLE / "walk01.bvh")
    _, p = walk.world(walk.clips[0])
    with (ORACLE / "walk01_pos.csv").open() as file:
        rows = list(csv.reader(file))
    column = {name.strip(): n for n, name in enumerate(rows[0])}
    table = torch.tensor([[float(cell) for cell in row] for row in rows[1:]], dtype=torch.float64)
    for j, name in enumerate(walk.joints):
        x, y, z = (table[:, column[f"{name}.{axis}"]] / 100 for axis in "xyz")
        assert (torch.stack([x, -z, y], -1) - p[:, j]).abs().max() < 1e-6
    assert walk.source.up == "y" and walk.source.unit == 0.01


@needs_samples
@pytest.mark.parametrize("name", UFBX)
def test_fbx_of_maya_and_blender_moves_as_another_reader_moves_it(name):
    found = characters.read(SAMPLES / name)
    _, p = found.world(found.clips[0])
    for joint, frames in UFBX[name].items():
        for frame, place in frames.items():
            assert (p[frame, found.index(joint)] - torch.tensor(place).double()).norm() < 1e-5


@needs_samples
def test_skins_scales_and_takes_of_other_tools_are_told():
    kenney = characters.read(SAMPLES / "maya_kenney_character_7700_binary.fbx")
    assert [(c.name, c.frames, c.fps) for c in kenney.clips] == [("Take 001", 21, 24.0)]
    assert len(kenney.meshes) == 1 and len(kenney.meshes[0].points) == 804
    assert any("scale other than 1" in p for p in kenney.problems)
    barbarian = characters.read(SAMPLES / "blender_293_barbarian_7400_binary.fbx")
    assert barbarian.morphs == ("Left", "Right", "Mouth")
    assert any("do not sum to 1" in p for p in barbarian.problems)


@needs_samples
def test_every_binary_sample_is_written_back_as_it_was_read(tmp_path):
    for path in sorted(SAMPLES.glob("*_7*_binary.fbx")):
        nodes, version = fbx_nodes.load(path)
        fbx_nodes.save(tmp_path / "again.fbx", nodes, version)
        again, same = fbx_nodes.load(tmp_path / "again.fbx")
        assert same == version and repr(again) == repr(nodes)


@needs_samples
@pytest.mark.parametrize(("pattern", "words"), [("*ascii.fbx", "ASCII"), ("*6100_binary.fbx", "FBX 6.1")])
def test_text_and_old_fbx_are_refused_with_a_remedy(pattern, words):
    for path in SAMPLES.glob(pattern):
        with pytest.raises(ValueError, match=words) as caught:
            characters.read(path)
        assert str(path) in str(caught.value) and "xport it again" in str(caught.value)


@pytest.mark.parametrize("kind", ["fbx", "glb", "bvh"])
def test_a_file_cut_short_anywhere_is_refused_by_name(scene, tmp_path, kind):
    body, moved = scene
    path = tmp_path / f"ann.{kind}"
    {"fbx": fbx.write, "bvh": bvh.write, "glb": lambda p, c: glb.write(p, [c])}[kind](path, character(moved, body))
    whole = path.read_bytes()
    for part in (0, 3, 20, 30, 400, len(whole) // 3, len(whole) // 2, int(0.9 * len(whole))):
        path.write_bytes(whole[:part])
        with pytest.raises(ValueError, match=r"ann\.") as caught:
            characters.read(path)
        assert len(str(caught.value)) < 400


def test_damaged_bytes_never_end_in_anything_but_a_message(scene, tmp_path):
    body, moved = scene
    path = fbx.write(tmp_path / "ann.fbx", character(moved, body))
    whole, random = path.read_bytes(), np.random.default_rng(4)
    for _ in range(30):
        broken = bytearray(whole)
        for at in random.integers(23, len(whole) // 3, 4):
            broken[at] = int(random.integers(256))
        path.write_bytes(broken)
        try:
            characters.read(path)
        except ValueError as error:
            assert str(path) in str(error)


def test_a_kind_of_file_that_nobody_reads_is_refused(tmp_path):
    with pytest.raises(ValueError, match="convert"):
        characters.read(tmp_path / "hero.max")
    with pytest.raises(FileNotFoundError, match="no such file"):
        characters.read(tmp_path / "hero.fbx")
