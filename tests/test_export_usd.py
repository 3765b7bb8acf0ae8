"""USD: opened by usd-core itself, its skeleton and skin evaluated by UsdSkel, compared with the body model."""

from dataclasses import replace

import numpy as np
import pytest
from export_scene import motion, person, truth, y_up

from studio.export import usd
from studio.export.animation import character

pytest.importorskip("pxr", reason="usd-core is not installed")
from pxr import Gf, Usd, UsdGeom, UsdShade, UsdSkel, Vt


@pytest.fixture(scope="module")
def scene():
    body = person()
    return body, motion(body)


@pytest.fixture(scope="module", params=["usda", "usdc"])
def stage(scene, tmp_path_factory, request):
    body, moved = scene
    path = usd.write(tmp_path_factory.mktemp("usd") / f"ann.{request.param}", [character(moved, body)], "walk", first_code=7)
    return Usd.Stage.Open(str(path))


def queried(stage, place="/ann"):
    root = UsdSkel.Root.Get(stage, place)
    cache = UsdSkel.Cache()
    cache.Populate(root, Usd.PrimDefaultPredicate)
    (binding,) = cache.ComputeSkelBindings(root, Usd.PrimDefaultPredicate)
    return cache.GetSkelQuery(binding.GetSkeleton()), binding.GetSkinningTargets()[0]


def joints(query, code):
    matrices = query.ComputeJointSkelTransforms(Usd.TimeCode(code))
    return np.array([M.ExtractTranslation() for M in matrices]) / 100


def skinned(query, target, code):
    """Points as UsdSkel deforms them: its own blend shapes, its own skinning."""
    mesh, time = UsdGeom.Mesh(target.GetPrim()), Usd.TimeCode(code)
    points = Vt.Vec3fArray(mesh.GetPointsAttr().Get())
    shapes = UsdSkel.BlendShapeQuery(UsdSkel.BindingAPI(target.GetPrim()))
    weights = target.GetBlendShapeMapper().Remap(query.GetAnimQuery().ComputeBlendShapeWeights(time))
    parts = shapes.ComputeSubShapeWeights(weights)
    shapes.ComputeDeformedPoints(*parts, shapes.ComputeBlendShapePointIndices(), shapes.ComputeSubShapePointOffsets(), points)
    assert target.ComputeSkinnedPoints(query.ComputeSkinningTransforms(time), points, time)
    return np.array(points) / 100


def test_joints_and_deformed_mesh_come_back_within_a_hundredth_of_a_millimetre(scene, stage):
    body, moved = scene
    posed, (query, target) = truth(body, moved), queried(stage)
    assert [str(j).rsplit("/")[-1] for j in query.GetJointOrder()] == list(body.skeleton.names)
    for t in range(len(moved.translation)):
        assert np.abs(joints(query, 7 + t) - y_up(posed.joints[t]).numpy()).max() < 1e-5
    for t in (0, 7, 60):
        assert np.abs(skinned(query, target, 7 + t) - y_up(posed.vertices()[t]).numpy()).max() < 1e-5


def test_the_comparison_notices_a_wrong_face_and_a_wrong_pose(scene, stage):
    body, moved = scene
    query, target = queried(stage)
    other = truth(body, replace(moved, rotation=moved.rotation * 1.001, expression=0.9 * moved.expression))
    assert np.abs(joints(query, 7 + 50) - y_up(other.joints[50]).numpy()).max() > 1e-4
    assert np.abs(skinned(query, target, 7 + 50) - y_up(other.vertices()[50]).numpy()).max() > 1e-4


def test_the_skeleton_rests_in_the_t_pose_while_the_skin_is_bound_as_modelled(scene, stage):
    body, moved = scene
    query, _ = queried(stage)
    rest = np.array([M.ExtractTranslation() for M in query.ComputeJointSkelTransforms(Usd.TimeCode(0), True)]) / 100
    arm, hand = (body.skeleton.index(n) for n in ("LeftForeArm", "LeftHand"))
    assert np.allclose((rest[hand] - rest[arm])[1:], 0, atol=1e-6)
    bind = np.array([M.ExtractTranslation() for M in query.GetJointWorldBindTransforms()]) / 100
    assert np.abs(bind - y_up(truth(body, moved).shaped.joints).numpy()).max() < 1e-6


def test_unit_axis_and_rate_stand_in_the_file(scene, stage):
    _, moved = scene
    assert UsdGeom.GetStageMetersPerUnit(stage) == 0.01 and UsdGeom.GetStageUpAxis(stage) == "Y"
    assert stage.GetTimeCodesPerSecond() == moved.fps and stage.GetFramesPerSecond() == moved.fps
    assert (stage.GetStartTimeCode(), stage.GetEndTimeCode()) == (7, 7 + 60)
    assert str(stage.GetDefaultPrim().GetPath()) == "/ann"


def test_face_shapes_carry_their_names_and_weights(scene, stage):
    body, moved = scene
    query, target = queried(stage)
    assert list(query.GetAnimQuery().GetBlendShapeOrder()) == list(body.expression_names)
    weights = [query.GetAnimQuery().ComputeBlendShapeWeights(Usd.TimeCode(7 + t)) for t in range(61)]
    assert np.abs(np.array(weights) - moved.expression.numpy()).max() < 1e-6
    assert [p.pathString.rsplit("/")[-1] for p in UsdSkel.BindingAPI(target.GetPrim()).GetBlendShapeTargetsRel().GetTargets()] == list(
        body.expression_names
    )


def test_the_mesh_has_normals_texture_coordinates_and_materials(scene, stage):
    body, _ = scene
    mesh = UsdGeom.Mesh(queried(stage)[1].GetPrim())
    assert np.abs(np.linalg.norm(np.array(mesh.GetNormalsAttr().Get()), axis=1) - 1).max() < 1e-5
    st = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st")
    assert np.abs(np.array(st.Get()) - body.uv.reshape(-1, 2).numpy()).max() < 1e-6 and st.GetInterpolation() == "faceVarying"
    subsets = UsdShade.MaterialBindingAPI(mesh).GetMaterialBindSubsets()
    assert sum(len(s.GetIndicesAttr().Get()) for s in subsets) == len(body.triangles)
    assert all(UsdShade.MaterialBindingAPI(s).ComputeBoundMaterial()[0] for s in subsets)


def test_actors_of_one_file_keep_apart_and_keep_letters_of_all_scripts(scene, tmp_path):
    body, moved = scene
    second = replace(motion(body, seed=8), actor="Zoë Ö", translation=moved.translation + 1.5)
    third = replace(second, actor="Zoë.Ö")
    stage = Usd.Stage.Open(str(usd.write(tmp_path / "all.usdc", [character(m, body) for m in (moved, second, third)])))
    actors = [p for p in stage.GetPseudoRoot().GetChildren()]
    assert [p.GetDisplayName() for p in actors] == ["ann", "Zoë Ö", "Zoë.Ö"] and len({p.GetName() for p in actors}) == 3
    for prim, each in zip(actors, (moved, second, third)):
        query, target = queried(stage, prim.GetPath())
        posed = truth(body, each)
        assert np.abs(joints(query, 40) - y_up(posed.joints[40]).numpy()).max() < 1e-5
        assert np.abs(skinned(query, target, 40) - y_up(posed.vertices()[40]).numpy()).max() < 1e-5


def test_fewer_keys_keep_every_frame_within_the_stated_error(scene, tmp_path):
    body, moved = scene
    # slowly moved, for all joints share their keys: the quickest decides
    slow = replace(moved, rotation=0.1 * moved.rotation, translation=0.2 * moved.translation, expression=0.1 * moved.expression)
    shown = character(slow, body)
    whole, few = usd.write(tmp_path / "all.usdc", [shown]), usd.write(tmp_path / "few.usdc", [shown], "take", 0, 0.5, 2.0)
    stages = [Usd.Stage.Open(str(path)) for path in (whole, few)]
    keyed = [UsdSkel.Animation(stage.GetPrimAtPath("/ann/skeleton/take")) for stage in stages]
    for name, most in (("GetRotationsAttr", 45), ("GetTranslationsAttr", 45), ("GetBlendShapeWeightsAttr", 55)):
        counts = [len(getattr(k, name)().GetTimeSamples()) for k in keyed]
        assert counts[0] == 61 and 1 < counts[1] < most
    for t in range(61):
        turns = [np.array([[q.GetReal(), *q.GetImaginary()] for q in k.GetRotationsAttr().Get(t)]) for k in keyed]
        cosine = np.abs((turns[0] * turns[1]).sum(1)) / np.linalg.norm(turns[0], axis=1) / np.linalg.norm(turns[1], axis=1)
        assert np.degrees(2 * np.arccos(cosine.clip(0, 1))).max() <= 0.5 + 0.05  # arccos of single precision near 1
        places = [np.array(k.GetTranslationsAttr().Get(t)) for k in keyed]
        assert np.linalg.norm(places[0] - places[1], axis=1).max() <= 0.2


def test_a_missing_library_is_named_with_its_extra(scene, tmp_path, monkeypatch):
    body, moved = scene
    monkeypatch.setitem(__import__("sys").modules, "pxr", None)
    with pytest.raises(ModuleNotFoundError, match=r"ann\.usda: USD needs the usd-core package: pip install 'mocap-studio\[usd\]'"):
        usd.write(tmp_path / "ann.usda", [character(moved, body)])
    assert not list(tmp_path.iterdir())


def test_matrices_are_written_for_row_vectors(scene, stage):
    body, moved = scene
    query, _ = queried(stage)
    c = character(moved, body)
    j = body.skeleton.index("LeftArm")
    bind = query.GetJointWorldBindTransforms()[j]
    assert np.abs(np.array(bind)[:3, :3] - c.R_rest_bind[j].numpy()).max() < 1e-6  # the transpose of the rotation to the bind pose
    assert isinstance(bind, Gf.Matrix4d)
