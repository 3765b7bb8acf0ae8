"""Filters, mirror, loop, root bones, trimming and fewer keys: what they change, and what they must leave alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from bodies import stick_person
from export_scene import motion, person, truth, y_up
from test_export_glb import Parsed

from rigs import rotation
from rigs.body import Body
from studio.export import bvh, glb, keys, usd
from studio.export.animation import character, resampled
from studio.export.curves import looped, mirrored, smoothed
from studio.export.root import BONES, heading, rooted

pytest.importorskip("pxr", reason="usd-core is not installed")
from pxr import Usd, UsdSkel


@pytest.fixture(scope="module")
def scene():
    body = person()
    return body, motion(body)


def waving(moved, hertz, size=0.3, fps=100.0, frames=400):
    """Everything still but one elbow and the root, which swing at some frequency."""
    t = torch.arange(frames).double() / fps
    wave = size * torch.sin(2 * math.pi * hertz * t)
    rotation_ = torch.zeros(frames, 55, 3).double()
    rotation_[:, 12, 0] = wave
    still = {k: torch.zeros(frames, getattr(moved, k).shape[1]).double() for k in ("expression", "sigma", "contacts")}
    return replace(moved, fps=fps, rotation=rotation_, translation=wave[:, None] * torch.tensor([0, 1.0, 0]).double(), **still)


@pytest.mark.parametrize(("hertz", "passed"), [(1.0, (0.99, 1.001)), (6.0, (0.70, 0.715)), (24.0, (0.0, 0.02))])
def test_butterworth_halves_the_power_at_its_cutoff_and_delays_nothing(scene, hertz, passed):
    wave = waving(scene[1], hertz)
    middle = slice(100, 300)
    for field, pick in (("rotation", (slice(None), 12, 0)), ("translation", (slice(None), 1))):
        before, after = getattr(wave, field)[pick][middle], getattr(smoothed(wave, "butterworth", 6.0), field)[pick][middle]
        assert passed[0] <= float((before @ after) / (before @ before)) <= passed[1]  # in phase
        late = 0.3 * torch.cos(2 * math.pi * hertz * torch.arange(400).double() / 100)[middle]
        assert abs(float(late @ after) / float(before @ before)) < 0.01  # nothing of it a quarter of a period late


def test_filters_take_out_jitter_and_keep_two_full_turns(scene):
    _, moved = scene
    g = torch.Generator().manual_seed(0)
    noisy = replace(moved, rotation=moved.rotation + 0.01 * torch.randn(moved.rotation.shape, generator=g).double())

    def jitter(m):
        R = rotation.exp(m.rotation[:, 20:])
        steps = R[:-1].mT @ R[1:]
        return rotation.geodesic(steps[:-1], steps[1:]).mean()

    for how in ("butterworth", "one_euro"):
        calm = smoothed(noisy, how, 4.0)
        assert jitter(calm) < 0.6 * jitter(noisy)
        away = rotation.geodesic(rotation.exp(calm.rotation[:, 0]), rotation.exp(moved.rotation[:, 0]))
        assert away[10:-10].max() < (0.1 if how == "butterworth" else 0.8)  # one_euro lags by design
    assert smoothed(noisy, "off", 4.0) is noisy


def test_filtered_faces_stay_within_what_was_seen(scene):
    _, moved = scene
    blinks = torch.where(torch.arange(61) % 20 < 10, 1.0, -2.0).double()[:, None].expand(61, 3)
    calm = smoothed(replace(moved, expression=blinks), "butterworth", 5.0).expression
    assert calm.min() >= -2 and calm.max() <= 1 and not torch.allclose(calm, blinks, atol=0.2)
    assert smoothed(replace(moved, expression=blinks[:, :0]), "one_euro", 5.0).expression.shape == (61, 0)


def test_one_euro_opens_for_quick_movements(scene):
    wave = waving(scene[1], 3.0, size=1.0)
    kept = [
        smoothed(wave, "one_euro", 1.0, beta).rotation[100:, 12, 0].std() / wave.rotation[100:, 12, 0].std() for beta in (0.0, 1.0, 10.0)
    ]
    assert kept[0] < 0.4 < kept[1] < kept[2] and kept[2] > 0.9


def test_a_senseless_cutoff_is_refused(scene):
    with pytest.raises(ValueError, match="cutoff 20 Hz must lie between 0 and half the frame rate"):
        smoothed(scene[1], "butterworth", 20.0)


def symmetric() -> Body:
    """A body whose right side is the mirror image of its left."""
    body = stick_person(expressions=0)
    other = torch.tensor(body.skeleton.mirrored())
    across = torch.tensor([-1.0, 1, 1]).double()
    return replace(body, joints=(body.joints + body.joints[other] * across) / 2, joint_shape_basis=0 * body.joint_shape_basis)


def test_the_mirror_shows_every_joint_on_the_other_side():
    body = symmetric()
    moved = motion(replace(body, expression_names=()))
    seen = mirrored(moved, body)
    wanted = truth(body, moved).joints[:, torch.tensor(body.skeleton.mirrored())] * torch.tensor([-1.0, 1, 1]).double()
    assert (truth(body, seen).joints - wanted).abs().max() < 1e-9
    again = mirrored(seen, body)
    assert torch.equal(again.rotation, moved.rotation) and torch.equal(again.translation, moved.translation)


def test_the_mirror_exchanges_face_shapes_and_feet(scene):
    body, moved = scene
    named = replace(body, expression_names=("jawOpen", "mouthSmileLeft", "mouthSmileRight"))
    feet = torch.rand(61, 4, generator=torch.Generator().manual_seed(1)).double()
    seen = mirrored(replace(moved, contacts=feet), named)
    assert torch.equal(seen.expression, moved.expression[:, [0, 2, 1]]) and torch.equal(seen.contacts, feet[:, [2, 3, 0, 1]])
    assert torch.equal(seen.sigma[:, body.skeleton.index("LeftHand")], moved.sigma[:, body.skeleton.index("RightHand")])


def test_a_loop_ends_as_it_began_and_eases_into_it(scene):
    _, moved = scene
    stays = replace(moved, translation=moved.translation * torch.tensor([0.05, 0.2, 1.0]).double())
    ring = looped(stays, 0.5)
    n = round(0.5 * moved.fps)
    assert torch.equal(ring.rotation[:-n], moved.rotation[:-n]) and torch.equal(ring.translation[:-n], stays.translation[:-n])
    assert rotation.geodesic(rotation.exp(ring.rotation[0]), rotation.exp(ring.rotation[-1])).max() < 1e-6
    assert torch.allclose(ring.translation[0], ring.translation[-1]) and torch.allclose(ring.expression[0], ring.expression[-1])
    added = rotation.geodesic(rotation.exp(ring.rotation), rotation.exp(moved.rotation)).amax(1)
    assert (added.diff()[-n:].abs() <= 1.6 / n * math.pi).all() and added[-n] < 0.05 * math.pi  # at most 1.5 times an even share


def test_a_walker_keeps_the_path_over_the_floor_in_a_loop(scene):
    _, moved = scene  # who ends two metres from the beginning
    ring = looped(moved, 0.5)
    assert torch.equal(ring.translation[:, :2], moved.translation[:, :2])
    assert torch.allclose(ring.translation[0, 2], ring.translation[-1, 2])


def world(c):
    """Joint positions of a character, bones above the body left out."""
    places = c.offsets.repeat(len(c.root), 1, 1)
    for j, place in c.places.items():
        places[:, j] = place
    R, p = [], []
    for j, up in enumerate(c.skeleton.parents):
        R.append(c.R_parent_joint[:, j] if up < 0 else R[up] @ c.R_parent_joint[:, j])
        p.append(places[:, j] if up < 0 else p[up] + (R[up] @ places[:, j, :, None])[..., 0])
    return torch.stack(R, 1), torch.stack(p, 1)


def test_a_root_on_the_floor_moves_no_joint_and_carries_path_and_heading(scene):
    body, moved = scene
    c = rooted(character(moved, body), "floor")
    _, p = world(c)
    assert (p[:, len(BONES) :] - y_up(truth(body, moved).joints)).abs().max() < 1e-9
    assert bool((c.root[:, 1] == 0).all()) and (c.root[:, [0, 2]] - p[:, 2, [0, 2]]).abs().max() < 1e-9
    turned = heading(c.R_parent_joint[:, 0])
    assert torch.allclose(turned.diff(), torch.full((60,), math.radians(720 / 60)).double(), atol=1e-9)
    assert torch.allclose(c.R_parent_joint[:, 2], torch.eye(3).double().expand(61, 3, 3), atol=1e-9)  # the hips themselves do not turn


def test_in_place_the_performer_stays_over_the_origin_and_moves_as_before(scene):
    body, moved = scene
    here, there = rooted(character(moved, body), "in_place"), rooted(character(moved, body), "floor")
    _, p = world(here)
    assert p[:, 2, [0, 2]].abs().max() < 1e-9 and torch.allclose(p[:, 2, 1], there.hips[:, 1])
    assert torch.equal(here.R_parent_joint[:, 1:], there.R_parent_joint[:, 1:])


def joints_in(path):
    """(T, 55, 3) m of the body's joints, y up, and the time between frames, as the file has them."""
    names = stick_person().skeleton.names
    if path.suffix == ".bvh":
        clip = bvh.read(path)
        return clip.forward()[1][:, [clip.skeleton.names.index(n) for n in names]].numpy() / 100, clip.frame_time
    if path.suffix == ".glb":
        file = Parsed(path)
        at = {node["name"]: n for n, node in enumerate(file.json["nodes"])}
        times, _ = file.sampled(at["Hips"], "translation", -1)
        return file.world(len(times))[:, [at[n] for n in names]][..., :3, 3], float(times[1])
    stage = Usd.Stage.Open(str(path))
    root = UsdSkel.Root(stage.GetDefaultPrim())
    cache = UsdSkel.Cache()
    cache.Populate(root, Usd.PrimDefaultPredicate)
    query = cache.GetSkelQuery(UsdSkel.Skeleton(stage.GetPrimAtPath(f"{root.GetPath()}/skeleton")))
    order = [str(joint).rsplit("/")[-1] for joint in query.GetJointOrder()]
    codes = np.arange(stage.GetStartTimeCode(), stage.GetEndTimeCode() + 1)
    found = [[M.ExtractTranslation() for M in query.ComputeJointSkelTransforms(Usd.TimeCode(c))] for c in codes]
    return np.array(found)[:, [order.index(n) for n in names]] / 100, 1 / stage.GetTimeCodesPerSecond()


WRITERS = {"bvh": bvh.write, "glb": lambda path, c: glb.write(path, [c]), "usdc": lambda path, c: usd.write(path, [c])}


@pytest.mark.parametrize("form", list(WRITERS))
def test_a_root_bone_moves_no_joint_in_a_file(scene, tmp_path, form):
    body, moved = scene
    found, _ = joints_in(WRITERS[form](tmp_path / f"ann.{form}", rooted(character(moved, body), "floor")))
    assert np.abs(found - y_up(truth(body, moved).joints).numpy()).max() < 1e-5


@pytest.mark.parametrize("form", list(WRITERS))
def test_files_of_another_rate_hold_the_same_movement(scene, tmp_path, form):
    body, moved = scene
    found, step = joints_in(WRITERS[form](tmp_path / f"ann.{form}", resampled(character(moved, body), moved.fps / 2)))
    assert abs(step * moved.fps - 2) < 1e-6
    assert np.abs(found - y_up(truth(body, moved).joints[::2]).numpy()).max() < 1e-5


def test_heading_is_told_when_the_hips_lie_level():
    up, right = torch.tensor([0, 1.0, 0]).double(), torch.tensor([1.0, 0, 0]).double()
    turns = torch.linspace(0, 7, 50).double()
    lying = rotation.exp(turns[:, None] * up) @ rotation.exp(0.5 * math.pi * right)
    assert torch.allclose(heading(lying), turns, atol=1e-9)
    over = rotation.exp(turns[:, None] * up) @ rotation.exp(torch.linspace(0, math.pi, 50).double()[:, None] * right)
    assert heading(over).diff().abs().max() < 0.2 and bool(torch.isfinite(heading(over)).all())


def test_a_rooted_character_is_resampled_with_its_hips(scene):
    body, moved = scene
    fast = resampled(rooted(character(moved, body), "floor"), 2 * moved.fps)
    _, p = world(fast)
    assert (p[::2, len(BONES) :] - y_up(truth(body, moved).joints)).abs().max() < 1e-9
    assert fast.start == 2 * rooted(character(moved, body), "floor").start


def test_keys_are_left_out_only_within_the_limit():
    g = np.random.default_rng(0)
    t = np.linspace(0, 1, 500)
    values = np.stack([np.sin(9 * t), np.abs(t - 0.5), 0.01 * g.normal(size=500)], 1)
    for limit in (0.003, 0.05):
        frames = keys.kept(500, keys.straight(values), limit)
        again = np.stack([np.interp(np.arange(500), frames, values[frames, k]) for k in range(3)], 1)
        assert np.linalg.norm(again - values, axis=1).max() <= limit and frames[0] == 0 and frames[-1] == 499
    assert len(frames) < 60
    line = keys.kept(500, keys.straight(np.stack([t, 3 * t], 1)), 1e-9)
    assert line.tolist() == [0, 499]


def test_keys_on_the_sphere_follow_the_shorter_arc():
    turns = torch.linspace(0, 2.5, 200).double()[:, None] * torch.tensor([0.6, 0, 0.8]).double()
    q = rotation.quaternion(rotation.exp(turns)).numpy()
    assert keys.kept(200, keys.arc(q), 1e-6).tolist() == [0, 199]  # a steady turn is one arc
    q[120:] *= -1
    assert keys.kept(200, keys.arc(q), 1e-6).tolist() == [0, 199]
    wobble = torch.sin(torch.linspace(0, 12, 200)).double()[:, None] * torch.tensor([0, 1.0, 0]).double()
    q = rotation.quaternion(rotation.exp(turns) @ rotation.exp(0.2 * wobble))
    frames = keys.kept(200, keys.arc(q.numpy()), 0.01)
    at = torch.arange(200)
    before = torch.tensor(np.searchsorted(frames, at.numpy(), side="right") - 1).clamp(max=len(frames) - 2)
    a, b = torch.tensor(frames)[before], torch.tensor(frames)[before + 1]
    again = rotation.slerp(q[a], q[b], ((at - a) / (b - a)).double())
    assert rotation.geodesic(rotation.matrix(again), rotation.matrix(q)).max() <= 0.01 and len(frames) < 50


def test_one_frame_and_none_have_their_keys():
    assert (
        keys.kept(1, keys.straight(np.zeros((1, 3))), 0.1).tolist() == [0] and len(keys.kept(0, keys.straight(np.zeros((0, 3))), 0.1)) == 0
    )
