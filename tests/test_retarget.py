"""Performances on other skeletons: feet stand, hands arrive, nothing jumps, whatever names, axes, rest pose and size the target has."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from rigs import characters, makehuman, rotation
from rigs.alignment import PARENT, rest_name
from rigs.bone_names import spelled
from rigs.bones import mapped
from rigs.characters import preset
from rigs.characters.character import forward, relative
from rigs.performed import Performed
from rigs.rest import aimed
from rigs.retarget import Options, retarget
from rigs.skeleton import HUMAN
from studio.fit.contact import planted, probability
from studio.virtual.motion import scripted

DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data"))
SAMPLES = DATA / "fbx_samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no FBX files of other tools at {SAMPLES}")
FPS = 30.0
MAYA, KENNEY = "maya_character_7500_binary.fbx", "maya_kenney_character_7700_binary.fbx"
SKATE, HAND, JUMP = 0.004, 0.020, 1.5
SIDES = ("Left", "Right")


@pytest.fixture(scope="module")
def body():
    return makehuman.load()


@pytest.fixture(scope="module")
def shaped(body):
    return body.shaped(torch.zeros(len(body.shape_names)))


@pytest.fixture(scope="module")
def performed(body, shaped):
    def of(motion, frames=90, seed=3):
        done = scripted(body, frames, FPS, seed, motion)
        free = Performed.of(motion, shaped, done.rotation, done.translation, torch.zeros(frames, 4), FPS)
        ankles, toes = ({s: free.at(s + part) for s in SIDES} for part in ("Foot", "ToeBase"))
        points = feet(ankles, toes, free.R, free.p, free.rest, free.floor)
        return replace(free, contacts=planted(probability(points, FPS), FPS).double())

    cache = {}
    return lambda *key: cache[key] if key in cache else cache.setdefault(key, of(*key))


def feet(ankles, toes, R, p, rest, floor):
    """Left heel and ball, right heel and ball (T, 4, 3), fixed to the foot: on the floor at rest, behind the ankle and below the toe."""
    found = []
    for s in SIDES:
        for part in (-0.3, 1.0):
            point = torch.lerp(rest[ankles[s]], rest[toes[s]], part)
            away = torch.tensor([*point[:2], floor]).double() - rest[ankles[s]]
            found.append(p[:, ankles[s]] + (R[:, ankles[s]] @ away[:, None])[..., 0])
    return torch.stack(found, 1)


def on_target(character, mapping, clip):
    R, p = character.world(clip)
    R_rest, p_rest = character.rest
    ankles = {s: mapping.joints[f"{s}Foot"] for s in SIDES}
    toes = {s: mapping.joints[f"{s}ToeBase"] for s in SIDES}
    return feet(ankles, toes, R @ R_rest.mT, p, p_rest, 0.0), R, p


def skate(points, contacts):
    """Greatest level step of a point between two frames on which it is in contact, m; a heel that is lifted slides not."""
    both = (contacts[1:] > 0.5) & (contacts[:-1] > 0.5)
    assert bool(both.any())
    return float((points[1:] - points[:-1])[..., :2].norm(dim=-1)[both].max())


def turning(R):
    """Greatest rotation of a joint from one frame to the next, rad."""
    return float(rotation.geodesic(R[1:], R[:-1]).max())


def own_turning(source):
    up = [source.at(PARENT[n]) if PARENT[n] else None for n in source.names]
    return max(turning(source.R[:, j] if u is None else source.R[:, u].mT @ source.R[:, j]) for j, u in enumerate(up))


def targets(shaped):
    found = [preset.named("ue5_manny", shaped, mesh=False)]
    return found + ([characters.read(SAMPLES / MAYA), characters.read(SAMPLES / KENNEY)] if SAMPLES.is_dir() else [])


@pytest.mark.parametrize("motion", ["walk", "squat", "lunge", "kick", "mixed"])
def test_standing_feet_stand_hands_arrive_and_nothing_jumps(shaped, performed, motion):
    source = performed(motion)
    for character in targets(shaped):
        mapping = mapped(character)
        clip, fit = retarget(source, character, mapping)
        points, _, p = on_target(character, mapping, clip)
        assert skate(points, source.contacts) < SKATE, character.name
        parts = sorted(mapping.all)
        assert turning(clip.R_parent_joint[:, parts]) < JUMP * own_turning(source), character.name
        middle = p[:, [mapping.joints[f"{s}Arm"] for s in SIDES]].mean(1)
        theirs = source.p[:, [source.at(f"{s}Arm") for s in SIDES]].mean(1)
        size = arms(character.rest[1], mapping.joints) / arms(source.rest, {n: j for j, n in enumerate(source.names)})
        for s in SIDES:
            wanted = middle + size * (source.p[:, source.at(f"{s}Hand")] - theirs)
            assert (p[:, mapping.joints[f"{s}Hand"]] - wanted).norm(dim=-1).max() < HAND, character.name
        assert float(points[..., 2].min()) > -0.02 * fit.scale, character.name


def arms(rest, at):
    """From the middle of the shoulders to a stretched hand, m."""
    reach = sum(float((rest[at[s + a]] - rest[at[s + b]]).norm()) for s in SIDES for a, b in (("Arm", "ForeArm"), ("ForeArm", "Hand")))
    return (reach + float((rest[at["LeftArm"]] - rest[at["RightArm"]]).norm())) / 2


def test_feet_that_slide_in_the_performance_stand_on_the_character(shaped, performed):
    source, character = performed("walk"), preset.named("humanik", shaped, mesh=False)
    drift = 0.008 * torch.arange(len(source.p))[:, None, None] * torch.tensor([1.0, 0, 0]).double()
    sliding, mapping = replace(source, p=source.p + drift), mapped(character)
    for options, slides in ((Options(), False), (Options(plant=False), True)):
        clip, _ = retarget(sliding, character, mapping, options)
        assert (skate(on_target(character, mapping, clip)[0], source.contacts) > SKATE) == slides


@needs_samples
def test_hands_in_the_room_are_where_the_scaled_performers_were(performed):
    source, character = performed("squat"), characters.read(SAMPLES / MAYA)
    mapping = mapped(character)
    clip, fit = retarget(source, character, mapping, Options(hands="world"))
    _, _, p = on_target(character, mapping, clip)
    start = source.p[:1, 0] * torch.tensor([1.0, 1, 0]).double()
    for s in SIDES:
        wanted = start + fit.scale * (source.p[:, source.at(f"{s}Hand")] - start)
        assert (p[:, mapping.joints[f"{s}Hand"]] - wanted).norm(dim=-1).max() < HAND
    assert turning(clip.R_parent_joint) < JUMP * own_turning(source)


@pytest.mark.parametrize("name", preset.names())
def test_a_preset_of_the_performers_own_size_moves_as_the_performer(shaped, performed, name):
    source, character = performed("reach"), preset.named(name, shaped, mesh=False)
    mapping = mapped(character)
    clip, fit = retarget(replace(source, contacts=torch.zeros_like(source.contacts)), character, mapping, Options(hands="off"))
    _, p = character.world(clip)
    assert abs(fit.scale - 1) < 1e-6
    limbs = [n for n, _ in HUMAN if n in mapping.joints and n not in ("Spine", "Spine1", "Spine2", "Neck", "Jaw")]
    away = torch.stack([(p[:, mapping.joints[n]] - source.p[:, source.at(n)]).norm(dim=-1).max() for n in limbs])
    assert float(away.max()) < (0.001 if len(mapping.spine) == 3 and len(mapping.neck) == 1 else 0.01), limbs[int(away.argmax())]


@pytest.mark.parametrize("name", preset.names())
def test_the_parts_of_every_preset_are_told_by_their_names(shaped, name):
    facts = yaml.safe_load((preset.FOLDER / f"{name}.yaml").read_text())
    character = preset.named(name, shaped, mesh=False)
    mapping = mapped(character)
    assert mapping.convention == facts["names"]
    for joint, (_, part, *more) in preset._listed(facts).items():
        if not more and part in PARENT and part not in ("Spine", "Spine1", "Spine2") and not joint.startswith("ik_"):
            assert character.joints[mapping.joints[part]] == joint
    assert rest_name(character, mapping) == facts["rest"].upper()


def turned(character, seed):
    """The same character with every joint's frame turned at random: other axes, same bones."""
    g = torch.Generator().manual_seed(seed)
    Q = rotation.exp(3 * torch.randn(len(character), 3, generator=g).double())
    R, p = character.rest
    R_local, offsets = relative(character.parents, R @ Q, p)
    return replace(character, R_parent_rest=R_local, offsets=offsets)


def test_the_axes_of_joints_do_not_matter(shaped, performed):
    source, character = performed("walk"), preset.named("ue5_manny", shaped, mesh=False)
    other = turned(character, 1)
    places = [c.world(retarget(source, c, mapped(c))[0])[1] for c in (character, other)]
    assert (places[0] - places[1]).abs().max() < 1e-6


def test_the_way_a_character_faces_and_where_it_stands_do_not_matter(shaped, performed):
    source, character = performed("walk"), preset.named("humanik", shaped, mesh=False)
    R, p = character.rest
    quarter = rotation.exp(torch.tensor([0.0, 0, torch.pi / 2]).double())
    R_local, offsets = relative(character.parents, quarter @ R, p @ quarter.T + torch.tensor([3.0, -1, 0]).double())
    other = replace(character, R_parent_rest=R_local, offsets=offsets)
    places = [c.world(retarget(source, c, mapped(c))[0])[1] for c in (character, other)]
    assert (places[0] - places[1]).abs().max() < 1e-6


def test_an_a_pose_and_a_t_pose_of_one_character_move_alike(shaped, performed):
    source, character = performed("wave"), preset.named("humanik", shaped, mesh=False)
    mapping = mapped(character)
    R, _ = character.rest
    lowered = character.R_parent_rest.clone()
    for s, sign in (("Left", 1.0), ("Right", -1.0)):
        j = mapping.joints[f"{s}Arm"]
        down = aimed(torch.tensor([sign, 0, 0]).double(), torch.tensor([sign, 0, -1.0]).double())
        up = R[character.parents[j]]
        lowered[j] = up.mT @ down @ up @ lowered[j]
    other = replace(character, R_parent_rest=lowered)
    assert rest_name(character, mapping) == "T" and rest_name(other, mapping) == "A"
    places = [c.world(retarget(source, c, mapping)[0])[1] for c in (character, other)]
    assert (places[0] - places[1]).abs().max() < 1e-3


def test_twice_the_size_makes_twice_the_way(shaped, performed):
    source, character = performed("walk"), preset.named("humanik", shaped, mesh=False)
    large = replace(character, offsets=2 * character.offsets)
    (clip, fit), (big, twice) = (retarget(source, c, mapped(c)) for c in (character, large))
    assert abs(twice.scale - 2 * fit.scale) < 0.02
    way = [c.world(k)[1][:, 0] for c, k in ((character, clip), (large, big))]
    assert ((way[1] - way[1][:1]) - 2 * (way[0] - way[0][:1])).abs().max() < 0.02


def test_games_bones_follow_hands_and_feet_and_the_root_stays_on_the_floor(shaped, performed):
    source, character = performed("walk"), preset.named("ue5_manny", shaped, mesh=False)
    mapping = mapped(character)
    clip, _ = retarget(source, character, mapping, Options(root="floor"))
    R, p = character.world(clip)
    for follower, leader in (("ik_foot_l", "foot_l"), ("ik_hand_r", "hand_r"), ("ik_hand_gun", "hand_r")):
        a, b = character.index(follower), character.index(leader)
        assert (p[:, a] - p[:, b]).abs().max() < 1e-9 and (R[:, a] - R[:, b]).abs().max() < 1e-9
    root, pelvis = character.index("root"), character.index("pelvis")
    assert p[:, root, 2].abs().max() < 1e-9
    up = R[:, root] @ character.rest[0][root].T
    gap = (up.mT @ (p[:, pelvis] - p[:, root])[..., None])[:, :2, 0]
    assert (gap - gap[:1]).abs().max() < 1e-9  # the pelvis only rises and sinks above the root
    assert (up[:, 2, 2] - 1).abs().max() < 1e-9 and turning(R[:, root : root + 1]) > 0.001


def test_in_place_is_the_same_performance_without_its_way(shaped, performed):
    source, character = performed("walk"), preset.named("ue5_manny", shaped, mesh=False)
    mapping = mapped(character)
    moving, still = (retarget(source, character, mapping, Options(root=root))[0] for root in ("floor", "in_place"))
    _, q = character.world(still)
    root, pelvis = character.index("root"), character.index("pelvis")
    assert q[:, root].abs().max() < 1e-9 and (q[:, pelvis, :2] - q[:1, pelvis, :2]).abs().max() < 1e-9
    parts = sorted(mapping.all)
    assert (moving.R_parent_joint[:, parts] - still.R_parent_joint[:, parts]).abs().max() < 1e-9


def test_twist_joints_share_a_turned_hand_and_move_no_part(shaped, performed):
    source, character = performed("reach"), preset.named("ue5_manny", shaped, mesh=False)
    mapping = mapped(character)
    assert len(mapping.served) == 16
    hand = source.at("LeftHand")
    R = source.R.clone()
    axis = source.R[:, source.at("LeftForeArm")] @ (source.rest[hand] - source.rest[source.at("LeftForeArm")])
    R[:, hand] = rotation.exp(1.2 * axis / axis.norm(dim=-1, keepdim=True)) @ R[:, hand]
    angles = {}
    for name in ("lowerarm_l", "lowerarm_twist_01_l", "lowerarm_twist_02_l"):
        turns = [character.world(retarget(replace(source, R=r), character, mapping)[0])[0][:, character.index(name)] for r in (source.R, R)]
        angles[name] = float(rotation.geodesic(*turns).mean())
    assert angles["lowerarm_l"] < 0.02
    assert abs(angles["lowerarm_twist_01_l"] - 0.8) < 0.1 and abs(angles["lowerarm_twist_02_l"] - 0.4) < 0.1


def without(character, gone):
    """The character without some joints; what hung below them goes too."""
    kept = []
    for j, up in enumerate(character.parents):
        if not gone(character.joints[j]) and (up < 0 or up in kept):
            kept.append(j)
    parents = tuple(kept.index(character.parents[j]) if character.parents[j] >= 0 else -1 for j in kept)
    return replace(
        character,
        joints=tuple(character.joints[j] for j in kept),
        parents=parents,
        R_parent_rest=character.R_parent_rest[kept],
        offsets=character.offsets[kept],
    )


def test_a_character_without_fingers_and_toes_is_fine(shaped, performed):
    source = performed("walk")
    plain = preset.named("humanik", shaped, mesh=False)
    bare = without(plain, lambda n: "ToeBase" in n or ("Hand" in n and n[-1].isdigit()))
    mapping = mapped(bare)
    assert not any("Toe" in n or "Thumb" in n for n in bare.joints) and "LeftHandIndex1" in mapping.missing
    clip, _ = retarget(source, bare, mapping)
    assert bool(torch.isfinite(clip.R_parent_joint).all())
    _, p = bare.world(clip)
    whole, _ = retarget(source, plain, mapped(plain))
    _, q = plain.world(whole)
    assert (p[:, bare.index("LeftHand")] - q[:, plain.index("LeftHand")]).norm(dim=-1).max() < 0.01


def test_a_character_without_a_leg_is_refused_with_what_is_missing(shaped, performed):
    lame = without(preset.named("humanik", shaped, mesh=False), lambda n: n == "RightLeg")
    with pytest.raises(ValueError, match="RightLeg, RightFoot"):
        retarget(performed("walk"), lame, mapped(lame))


@pytest.mark.parametrize(
    ("name", "side", "core", "number"),
    [
        ("mixamorig:LeftForeArm", "Left", "forearm", -1),
        ("upperarm_l", "Left", "upperarm", -1),
        ("DEF-upper_arm.R", "Right", "upperarm", -1),
        ("f_index.02.L", "Left", "index", 2),
        ("left_collar", "Left", "collar", -1),
        ("Bip001 R Thigh", "Right", "thigh", -1),
        ("lThighBend", "Left", "thighbend", -1),
        ("RightFinger2Proximal", "Right", "finger2proximal", -1),
        ("J_Bip_L_UpperArm", "Left", "bipupperarm", -1),
        ("character:spine_03", "", "spine", 3),
    ],
)
def test_names_are_taken_apart_in_every_convention(name, side, core, number):
    found = spelled(name)
    assert (found.side, found.number) == (side, number) and found.core == core


def test_forward_and_relative_are_inverse():
    g = torch.Generator().manual_seed(2)
    parents = (-1, 0, 0, 2, -1)
    R, p = rotation.exp(torch.randn(7, 5, 3, generator=g).double()), torch.randn(7, 5, 3, generator=g).double()
    again = relative(parents, *forward(parents, R, p))
    assert (again[0] - R).abs().max() < 1e-12 and (again[1] - p).abs().max() < 1e-12
