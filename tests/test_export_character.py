"""Takes on other skeletons, written and read back: the user's file keeps all but its animation, and nothing is written by halves."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export_scene import motion, person

from rigs import characters
from rigs.bones import mapped
from rigs.characters import fbx_nodes, preset
from rigs.retarget import Options
from studio.export import ExportConfig, character_bvh, character_fbx, character_glb, export, fbx, glb
from studio.export.animation import character
from studio.export.onto import Onto, Target
from studio.inspect import report
from studio.take import Take

DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data"))
SAMPLES = DATA / "fbx_samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no FBX files of other tools at {SAMPLES}")
ANIMATION = ("AnimationStack", "AnimationLayer", "AnimationCurveNode", "AnimationCurve")


@pytest.fixture(scope="module")
def scene():
    body = person()
    return body, replace(motion(body), contacts=torch.zeros(61, 4).double())


@pytest.fixture
def take(scene, tmp_path, monkeypatch):
    body, moved = scene
    monkeypatch.setattr("rigs.catalogue.open_body", lambda name: {body.name: body}[name])
    moved.save(tmp_path / "motion_ann.safetensors")
    return Take(tmp_path, {}, tmp_path / "cameras.yaml", actors=("ann",), body=body.name)


def onto(scene, target):
    body, moved = scene
    return Onto.of(moved, body, target, Options(), None)


def positions(path, names):
    back = characters.read(path)
    return back.world(back.clips[0])[1][:, [back.index(n) for n in names]]


@needs_samples
@pytest.mark.parametrize("name", ["maya_kenney_character_7700", "maya_human_ik_7400", "maya_character_7500"])
def test_the_users_fbx_moves_as_retargeted_and_keeps_everything_else(scene, tmp_path, name):
    original = SAMPLES / f"{name}_binary.fbx"
    done = onto(scene, Target(original, None))
    path = character_fbx.write(tmp_path / "hero.fbx", done.character, done.clip)
    back = characters.read(path)
    assert back.joints == done.character.joints and back.parents == done.character.parents
    assert (back.world(back.clips[0])[1] - done.character.world(done.clip)[1]).norm(dim=-1).max() < 1e-5
    assert (back.rest[1] - done.character.rest[1]).abs().max() < 1e-9
    assert [c.name for c in back.clips] == ["ann"] and abs(back.clips[0].fps - 30000 / 1001) < 1e-3
    kept = [[repr(n) for n in nodes_of(p) if n.name not in ANIMATION] for p in (original, path)]
    assert kept[0] == kept[1] and len(kept[0]) > 50


def nodes_of(path):
    nodes, _ = fbx_nodes.load(path)
    return next(n for n in nodes if n.name == "Objects").children


@pytest.mark.parametrize("name", ["ue5_manny", "mixamo", "smplx"])
def test_a_preset_comes_back_from_every_format(scene, tmp_path, name):
    done = onto(scene, Target(None, name))
    hips = done.mapping.joints["Hips"]
    wanted = done.character.world(done.clip)[1]
    for path in (
        character_fbx.write(tmp_path / "ann.fbx", done.character, done.clip),
        character_bvh.write(tmp_path / "ann.bvh", done.character, done.clip, hips),
        character_glb.write(tmp_path / "ann.glb", done.character, done.clip),
    ):
        assert (positions(path, done.character.joints) - wanted).norm(dim=-1).max() < 1e-5
        if path.suffix != ".bvh":
            back = characters.read(path)
            index = [back.index(n) for n in done.character.joints]
            assert (back.rest[0][index] - done.character.rest[0]).abs().max() < 1e-6
            assert back.meshes[0].weights is not None and len(back.meshes[0].points) == len(scene[0].skin)
            assert not [p for p in back.problems if "weight" in p]


def test_the_users_glb_keeps_its_mesh_and_morphs_follow_the_face(scene, tmp_path):
    body, moved = scene
    hero = glb.write(tmp_path / "hero.glb", [character(moved, body)])
    done = onto(scene, Target(hero, None))
    assert set(done.morphs) == set(body.expression_names)
    path = character_glb.write(tmp_path / "again.glb", done.character, done.clip, done.morphs)
    back, was = characters.read(path), characters.read(hero)
    assert back.joints == was.joints and (back.rest[1] - was.rest[1]).abs().max() < 1e-6
    assert torch.equal(back.meshes[0].points, was.meshes[0].points) and back.morphs == was.morphs
    assert (positions(path, was.joints) - was.world(done.clip)[1]).norm(dim=-1).max() < 1e-5
    from rigs.characters.gltf_file import GltfFile

    file = GltfFile.of(path)
    channel = next(c for c in file.listed("animations")[0]["channels"] if c["target"]["path"] == "weights")
    values = file.table(file.listed("animations")[0]["samplers"][channel["sampler"]]["output"])
    assert np.abs(values.reshape(61, -1) - moved.expression.numpy()).max() < 1e-6


@pytest.mark.parametrize("form", ["fbx", "glb"])
def test_a_preset_has_the_performers_face(scene, tmp_path, form):
    body, moved = scene
    done = onto((body, replace(moved, expression=0.25 * torch.ones_like(moved.expression))), Target(None, "metahuman"))
    write = {"fbx": character_fbx.write, "glb": character_glb.write}[form]
    path = write(tmp_path / f"ann.{form}", done.character, done.clip, done.morphs)
    assert characters.read(path).morphs == body.expression_names
    if form == "fbx":
        percent = [n.value("KeyValueFloat") for n in nodes_of(path) if n.name == "AnimationCurve"]
        assert sum(len(v) == 1 and abs(float(v[0]) - 25) < 1e-4 for v in percent) == len(body.expression_names)
        shapes = {str(n.properties[1]).split("\0")[0]: n for n in nodes_of(path) if n.name == "Geometry" and n.properties[2] == "Shape"}
        moves = np.abs(np.asarray(shapes["jawOpen"].value("Vertices"))).max() / 100
        assert 0.5 < moves / float(body.skin.expression_basis[..., 0].abs().max()) < 2
    else:
        from rigs.characters.gltf_file import GltfFile

        file = GltfFile.of(path)
        channel = next(c for c in file.listed("animations")[0]["channels"] if c["target"]["path"] == "weights")
        values = file.table(file.listed("animations")[0]["samplers"][channel["sampler"]]["output"])
        assert values.size == 61 * len(body.expression_names) and np.abs(values - 0.25).max() < 1e-6


def test_arms_that_are_too_short_point_at_their_goals_and_that_is_said(scene, tmp_path):
    body, moved = scene
    hero = preset.named("humanik", body.shaped(moved.shape), mesh=False)
    fewer = torch.tensor([0.6 if "ForeArm" in n or n.endswith("Hand") else 1.0 for n in hero.joints]).double()
    short = replace(hero, offsets=fewer[:, None] * hero.offsets)
    still = characters.Clip("still", 30.0, short.R_parent_rest[None], short.offsets[None])
    target = Target(character_fbx.write(tmp_path / "short.fbx", short, still), None)
    wide = replace(moved, rotation=0.0 * moved.rotation)  # arms stretched in the model's own pose
    assert not [w for w in Onto.of(wide, body, target, Options("body"), None).remarks() if "too short" in w]
    done = Onto.of(wide, body, target, Options("world"), None)
    told = [word for word in done.remarks() if "too short" in word]
    assert len(told) == 1 and "LeftHand" in told[0] and "--hands body" in told[0]
    R, p = done.character.world(done.clip)
    assert bool(torch.isfinite(R).all())
    a, b, c = (done.mapping.joints["Left" + part] for part in ("Arm", "ForeArm", "Hand"))
    length = (p[:, a] - p[:, b]).norm(dim=-1) + (p[:, b] - p[:, c]).norm(dim=-1)
    assert float(((p[:, a] - p[:, c]).norm(dim=-1) / length).min()) > 0.97  # as near as they reach


@needs_samples
def test_what_is_odd_about_a_character_is_said_when_it_is_used(take):
    export(take, ExportConfig(("fbx",), to_character=SAMPLES / "maya_kenney_character_7700_binary.fbx"))
    told = [w for w in take.notes()["export"]["warnings"] if "maya_kenney" in w]
    assert any("scale other than 1" in word for word in told)


def test_the_users_fbx_with_face_shapes_follows_the_face(scene, tmp_path):
    body, moved = scene
    hero = fbx.write(tmp_path / "hero.fbx", character(moved, body))
    still = replace(moved, expression=0.25 * torch.ones_like(moved.expression))
    done = onto((body, still), Target(hero, None))
    path = character_fbx.write(tmp_path / "again.fbx", done.character, done.clip, done.morphs)
    percent = [n.value("KeyValueFloat") for n in nodes_of(path) if n.name == "AnimationCurve"]
    assert sum(len(v) == 1 and abs(float(v[0]) - 25) < 1e-4 for v in percent) == len(body.expression_names)


def test_the_stage_writes_the_character_in_place_of_the_studios_own(take):
    folder = export(take, ExportConfig(("fbx", "bvh", "glb", "trc"), preset="humanik", fps=24.0))
    assert {p.name for p in folder.iterdir()} == {"ann_humanik.fbx", "ann_humanik.bvh", "ann_humanik.glb", "ann.trc"}
    back = characters.read(folder / "ann_humanik.fbx")
    assert back.clips[0].fps == 24.0 and back.clips[0].frames == 49 and mapped(back).convention == "HumanIK"


@pytest.mark.parametrize("own", [True, False])
def test_a_character_begins_at_the_timecode_where_the_studios_own_skeleton_does(scene, take, tmp_path, own):
    body, moved = scene
    other = {"to_character": fbx.write(tmp_path / "hero.fbx", character(moved, body))} if own else {"preset": "humanik"}
    first = (3600 * 30 + moved.first_frame) * 1001 / 30000  # 01:00:00:00, counted in whole frames at 29.97
    for settings, begin in (({}, first), ({"fps": 24.0}, round(first * 24) / 24), ({"timeline": "zero"}, 0.0)):
        export(take, ExportConfig(("fbx",), **settings))
        export(take, ExportConfig(("fbx",), **settings, **other))
        for name in ("ann.fbx", "ann_hero.fbx" if own else "ann_humanik.fbx"):
            assert abs(characters.read(tmp_path / "export" / name).clips[0].start - begin) < 1e-6


def test_drop_frame_timecode_is_said_in_a_characters_file_as_in_the_studios_own(scene, take, tmp_path):
    body, moved = scene
    replace(moved, timecode="01:00:00;00").save(tmp_path / "motion_ann.safetensors")
    hero = fbx.write(tmp_path / "hero.fbx", character(moved, body))
    modes = {}
    for name, other in (("ann", {}), ("ann_hero", {"to_character": hero}), ("ann_humanik", {"preset": "humanik"})):
        folder = export(take, ExportConfig(("fbx",), **other))
        settings = next(n for n in fbx_nodes.load(folder / f"{name}.fbx")[0] if n.name == "GlobalSettings")
        (rows,) = (c.children for c in settings.children if c.name == "Properties70")
        modes[name] = next(r.properties[4] for r in rows if r.properties[0] == "TimeMode")
    assert set(modes.values()) == {8}  # FbxTime's eNTSCDropFrame


@pytest.mark.parametrize("root", ["hips", "floor", "in_place"])
def test_one_word_says_for_every_skeleton_what_carries_the_path(take, root):
    folder = export(take, ExportConfig(("fbx",), root=root))
    export(take, ExportConfig(("fbx",), root=root, preset="ue5_manny"))
    for name, hips in (("ann.fbx", "Hips"), ("ann_ue5_manny.fbx", "pelvis")):
        back = characters.read(folder / name)
        p = back.world(back.clips[0])[1]
        travelled = {j: float((p[:, j, :2] - p[:1, j, :2]).norm(dim=-1).max()) for j in back.above(back.index(hips))}
        above = [away for j, away in travelled.items() if j != back.index(hips)]
        assert bool(above) == (name != "ann.fbx" or root != "hips")
        assert all((away > 0.1) == (root == "floor") for away in above)
        assert (travelled[back.index(hips)] > 0.1) == (root != "in_place")


def test_a_script_and_the_command_line_agree_on_what_happens_unasked():
    assert (Options().root, Options().hands) == (ExportConfig().root, ExportConfig().hands)


def test_settings_that_a_character_does_not_follow_are_told_in_one_line(take):
    asked = {"measures": True, "actors": "one", "reduce_degrees": 0.2, "reduce_mm": 1.0}
    export(take, ExportConfig(("fbx",), preset="humanik", **asked))
    told = [w for w in take.notes()["export"]["warnings"] if "do not follow" in w]
    assert len(told) == 1 and told[0].endswith(" --actors, --reduce-degrees, --reduce-mm, --measures")
    for config in (ExportConfig(("fbx",), preset="humanik", smooth="butterworth"), ExportConfig(("fbx",), **asked)):
        export(take, config)
        assert not [w for w in take.notes()["export"]["warnings"] if "do not follow" in w]


def test_what_cannot_be_used_is_refused_before_anything_is_written(scene, take, tmp_path):
    body, moved = scene
    whole = fbx.write(tmp_path / "hero.fbx", character(moved, body))
    cut = tmp_path / "cut.fbx"
    cut.write_bytes(whole.read_bytes()[:5000])
    for config, words in (
        (ExportConfig(preset="ue6"), "there are humanik"),
        (ExportConfig(preset="mixamo", to_character=whole), "--preset None"),
        (ExportConfig(to_character=cut), "cut short"),
        (ExportConfig(to_character=tmp_path / "none.fbx"), "no such file"),
        (ExportConfig(to_character=tmp_path / "motion_ann.safetensors"), "convert it"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            export(take, config)
        assert not (tmp_path / "export").exists()


def test_a_character_that_lacks_a_leg_leaves_no_file(scene, take, tmp_path):
    body, moved = scene
    hero = preset.named("humanik", body.shaped(moved.shape), mesh=False)
    kept = [j for j, n in enumerate(hero.joints) if not n.startswith(("RightLeg", "RightFoot", "RightToe"))]
    lame = replace(
        hero,
        joints=tuple(hero.joints[j] for j in kept),
        parents=tuple(kept.index(hero.parents[j]) if hero.parents[j] >= 0 else -1 for j in kept),
        R_parent_rest=hero.R_parent_rest[kept],
        offsets=hero.offsets[kept],
    )
    clip = characters.Clip("still", 30.0, lame.R_parent_rest[None], lame.offsets[None])
    path = character_fbx.write(tmp_path / "lame.fbx", lame, clip)
    with pytest.raises(ValueError, match="RightLeg, RightFoot"):
        export(take, ExportConfig(("fbx",), to_character=path))
    assert not (tmp_path / "export").exists()
    assert "RightLeg" in "\n".join(report(path, tree=False))


def test_broken_skins_and_scales_are_told(scene, tmp_path):
    body, moved = scene
    path = fbx.write(tmp_path / "hero.fbx", character(moved, body))
    nodes, version = fbx_nodes.load(path)
    objects = next(n for n in nodes if n.name == "Objects").children
    clusters = [n for n in objects if n.name == "Deformer" and n.properties[2] == "Cluster"]
    for child in clusters[3].children:
        child.properties = (0.5 * child.properties[0],) if child.name == "Weights" else child.properties
    objects.remove(next(n for n in objects if n.name == "Pose"))
    fbx_nodes.save(path, nodes, version)
    told = "\n".join(report(path, tree=False))
    assert "do not sum to 1" in told and "missing bind pose" in told


def test_the_original_is_never_touched(scene, tmp_path):
    body, moved = scene
    hero = fbx.write(tmp_path / "hero.fbx", character(moved, body))
    before = hero.read_bytes()
    done = onto(scene, Target(hero, None))
    character_fbx.write(tmp_path / "out.fbx", done.character, done.clip)
    assert hero.read_bytes() == before and not list(tmp_path.glob("*.partial"))
