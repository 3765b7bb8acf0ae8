"""Tracking on random moving stick figures, seen by pinhole formulas written here; and on real footage where it is present."""

import json
import os
import tomllib
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.cameras import Cameras
from rigs.keypoints import BODY_25B, COCO_17, FEET, LEFT_HAND, RIGHT_HAND, mirrored
from studio.track import TrackConfig, disagreement, track, track_actors
from studio.values import Keypoints2D, Tracks3D

NAMES = COCO_17 + FEET
WITH_HANDS = NAMES + LEFT_HAND + RIGHT_HAND
ACTOR = ("actor",)
SIDES = (("left", 1), ("right", -1))


def ring(count: int = 4, radius: float = 5.0) -> Cameras:
    angle = 2 * np.pi * (np.arange(count) + 0.3) / count
    position = np.stack([radius * np.cos(angle), radius * np.sin(angle), 1.2 + 0.9 * (np.arange(count) % 2)], -1)
    forward = np.array([0, 0, 1.0]) - position
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    full = lambda *row: torch.tensor([row], dtype=torch.float64).repeat(count, 1)  # noqa: E731
    R = torch.from_numpy(np.stack([right, np.cross(forward, right), forward], 1))
    lens = ("brown",) * count
    names = tuple(f"c{i}" for i in range(count))
    sizes = full(1920, 1080), full(1000, 1000), full(960, 540), full(*[0] * 8)
    return Cameras(names, *sizes, lens, R, torch.from_numpy(position))


def person(T: int, seed: int, path: np.ndarray | None = None, names: tuple[str, ...] = NAMES, height: float = 1.7) -> np.ndarray:
    """(T, K, 3) m: a figure that walks, turns, swings arms and legs, and looks about."""
    random, t = np.random.default_rng(seed), np.arange(T) / 30

    def wave(size: float) -> np.ndarray:
        return sum(size / 2 * random.normal() * np.sin(2 * np.pi * (random.uniform(0.2, 1.0) * t + random.random())) for _ in range(2))

    def turn(v: np.ndarray, angle: np.ndarray, axis: int) -> np.ndarray:
        a, b = [k for k in range(3) if k != axis]
        out = v.copy()
        out[:, a], out[:, b] = v[:, a] * np.cos(angle) - v[:, b] * np.sin(angle), v[:, a] * np.sin(angle) + v[:, b] * np.cos(angle)
        return out

    still = lambda x, y, z: np.tile([x, y, z], (T, 1)).astype(float)  # noqa: E731
    points, head = {}, wave(0.4)
    face = {"nose": (0, -0.12, 1.6)}
    face |= {f"{side}_{n}": (s * x, y, z) for side, s in SIDES for n, x, y, z in (("eye", 0.035, -0.1, 1.64), ("ear", 0.075, 0, 1.62))}
    for name, v in face.items():
        points[name] = turn(still(*v), head, 2)
    for side, s in SIDES:
        shoulder, hip = still(0.19 * s, 0, 1.42), still(0.11 * s, 0, 0.95)
        spread = 0.5 + wave(0.4)
        upper = turn(turn(still(0, 0, -0.28), wave(0.8), 0), -s * spread, 1)
        lower = turn(turn(still(0, 0, -0.25), wave(0.8) - 0.5, 0), -s * spread, 1)
        points |= {f"{side}_shoulder": shoulder, f"{side}_elbow": shoulder + upper, f"{side}_wrist": shoulder + upper + lower}
        for i, name in enumerate(LEFT_HAND if side == "left" else RIGHT_HAND):
            points[name] = (
                points[f"{side}_wrist"] + lower * 0.1 * (i > 0) + 0.03 * np.array([np.sin(i), np.cos(i), np.sin(2 * i)]) * (i > 0)
            )
        swing = wave(0.6)
        knee = hip + turn(still(0, 0, -0.43), swing, 0)
        ankle = knee + turn(still(0, 0, -0.43), swing + 0.3 + wave(0.2), 0)
        points |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle}
        foot = {"big_toe": (0, -0.17, -0.06), "small_toe": (0.05 * s, -0.14, -0.06), "heel": (0, 0.06, -0.06)}
        points |= {f"{side}_{n}": ankle + np.array(v) for n, v in foot.items()}
    body = np.stack([points[n] for n in names], 1) * height / 1.7
    heading = np.cumsum(np.full(T, random.uniform(0.01, 0.03))) + random.uniform(0, 6)
    body = np.stack([turn(body[:, k], heading, 2) for k in range(len(names))], 1)
    if path is None:
        path = np.stack([wave(0.8), wave(0.8)], -1)
    return body + np.concatenate([path, np.zeros((T, 1))], -1)[:, None]


def seen(
    cameras: Cameras, people: list[np.ndarray], seed: int = 0, noise: float = 2.0, names: tuple[str, ...] = NAMES, own: bool = False
) -> Keypoints2D:
    """Every person as a detection of every view, in shuffled order that a second value tells: `order[c, t, person]`."""
    random = np.random.default_rng(seed)
    C, T, D, K = len(cameras), len(people[0]), len(people), len(names)
    R, t, focal, centre = (x.numpy() for x in (cameras.R_camera_world, cameras.translation, cameras.focal, cameras.centre))
    pixels, skeleton = np.empty((C, T, D, K, 2)), np.empty((C, T, D, K, 3))
    for d, points in enumerate(people):
        p = np.einsum("cij,tkj->ctki", R, points) + t[:, None, None]
        pixels[:, :, d] = p[..., :2] / p[..., 2:] * focal[:, None, None] + centre[:, None, None]
        pixels[:, :, d] += random.normal(size=(C, T, K, 2)) * noise
        skeleton[:, :, d] = p - p.mean(2, keepdims=True) + random.normal(size=p.shape) * 0.03
    return Keypoints2D(
        cameras=cameras.names,
        keypoints=names,
        network="exact",
        fps=30.0,
        first_frame=0,
        pixels=torch.from_numpy(pixels).float(),
        sigma=torch.full((C, T, D, K), noise),
        confidence=torch.full((C, T, D, K), 0.9),
        skeleton=torch.from_numpy(skeleton).float() if own else None,
    )


def shuffled(keypoints: Keypoints2D, seed: int) -> tuple[Keypoints2D, np.ndarray]:
    """Detections in random order, and where each person went: (C, T, D)."""
    random = np.random.default_rng(seed)
    C, T, D = keypoints.pixels.shape[:3]
    source = np.argsort(random.random((C, T, D)), axis=2)
    index = torch.from_numpy(source)[..., None, None].expand(keypoints.pixels.shape)
    return replace(keypoints, pixels=keypoints.pixels.gather(2, index)), np.argsort(source, axis=2)


def with_swaps(keypoints: Keypoints2D, swapped: np.ndarray, parts: tuple[str, ...] = ("",)) -> Keypoints2D:
    """The keypoints whose names contain one of `parts`, left and right exchanged in the views and frames of `swapped` (C, T)."""
    chosen = torch.tensor([any(p in n for p in parts) for n in keypoints.keypoints])
    mask = torch.from_numpy(swapped)[:, :, None, None] & chosen
    other = list(mirrored(keypoints.keypoints))
    exchange = lambda v: torch.where(mask[..., None] if v.ndim == 5 else mask, v[:, :, :, other], v)  # noqa: E731
    skeleton = None if keypoints.skeleton is None else exchange(keypoints.skeleton)
    return replace(keypoints, pixels=exchange(keypoints.pixels), skeleton=skeleton)


def intervals(C: int, T: int, seed: int, views: int = 1) -> np.ndarray:
    """(C, T): in about half of the time, `views` random cameras."""
    random, out, t = np.random.default_rng(seed), np.zeros((C, T), bool), 0
    while t < T:
        length = int(random.integers(1, 25))
        if random.random() < 0.5:
            out[random.choice(C, views, replace=False), t : t + length] = True
        t += length
    return out


def error(tracks: Tracks3D, truth: np.ndarray, actor: int = 0) -> np.ndarray:
    return np.linalg.norm(tracks.points[:, actor].numpy() - truth, axis=-1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_wrong_swap_in_one_view_does_not_survive_three_agreeing_views(seed):
    cameras, truth = ring(4), person(150, seed)
    swapped = intervals(4, 150, seed)
    keypoints = with_swaps(seen(cameras, [truth], seed), swapped)
    tracks = track_actors(cameras, keypoints, ACTOR)
    assert (tracks.swapped[:, :, 0].numpy() == swapped).mean() > 0.99
    assert np.isfinite(error(tracks, truth)).mean() > 0.995
    assert np.nanquantile(error(tracks, truth), 0.999) < 0.05
    ignored = track_actors(cameras, keypoints, ACTOR, TrackConfig(exchange=False))
    assert ignored.trusted.float().mean() < tracks.trusted.float().mean() - 0.05  # the swaps are there to be found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_legs_and_arms_are_exchanged_independently_and_hands_follow_the_arms(seed):
    cameras, truth = ring(5), person(90, seed, names=WITH_HANDS)
    arms, legs = intervals(5, 90, seed), intervals(5, 90, seed + 50)
    keypoints = with_swaps(seen(cameras, [truth], seed, names=WITH_HANDS), arms, ("shoulder", "elbow", "wrist", "hand", "finger", "thumb"))
    keypoints = with_swaps(keypoints, legs, ("hip", "knee", "ankle", "toe", "heel"))
    tracks = track_actors(cameras, keypoints, ACTOR)
    found = dict(zip(WITH_HANDS, tracks.exchanged[:, :, 0].unbind(-1)))
    for name, expected in {"left_wrist": arms, "right_pinky_finger3": arms, "right_knee": legs, "left_small_toe": legs}.items():
        assert (found[name].numpy() == expected).mean() > 0.985, name
    assert np.nanquantile(error(tracks, truth), 0.995) < 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_left_stays_left_when_most_views_are_wrong_for_a_while(seed):
    cameras, truth = ring(4), person(120, seed)
    swapped = np.zeros((4, 120), bool)
    swapped[[0, 1, 3], 40:55] = True
    tracks = track_actors(cameras, with_swaps(seen(cameras, [truth], seed), swapped), ACTOR)
    assert (tracks.swapped[:, :, 0].numpy() == swapped).mean() > 0.99
    assert np.nanquantile(error(tracks, truth), 0.99) < 0.05


def test_the_networks_own_skeletons_settle_what_two_views_cannot():
    cameras, wrong = ring(5)[[0, 1]], {True: [], False: []}
    for seed, own in product((0, 2, 3), wrong):
        swapped = np.zeros((2, 120), bool)
        swapped[1, 40:90] = True
        keypoints = with_swaps(seen(cameras, [person(120, seed)], seed, own=own), swapped)
        tracks = track_actors(cameras, keypoints, ACTOR)
        wrong[own].append((tracks.swapped[:, :, 0].numpy() != swapped).mean())
    assert max(wrong[True]) < 0.005
    assert np.mean(wrong[False]) > 0.01  # two views alone do not know


def test_ten_cameras_are_judged_as_well_as_four():
    cameras, truth = ring(10), person(40, 4)
    swapped = intervals(10, 40, 4, views=3)
    tracks = track_actors(cameras, with_swaps(seen(cameras, [truth], 4), swapped), ACTOR)
    assert (tracks.swapped[:, :, 0].numpy() == swapped).mean() > 0.99


@pytest.mark.parametrize("seed", [0, 1])
def test_a_bystander_in_two_views_is_not_the_actor(seed):
    cameras = ring(4)
    truth, bystander = person(90, seed), person(90, seed + 7, path=np.full((90, 2), 1.3), height=1.8)
    keypoints, order = shuffled(seen(cameras, [truth, bystander], seed), seed)
    for c, where in ((0, order), (1, order)):  # two cameras do not see the bystander
        for t in range(90):
            keypoints.pixels[c, t, where[c, t, 1]] = torch.nan
    tracks = track_actors(cameras, keypoints, ACTOR)
    assert (tracks.detection[:, :, 0].numpy() == order[:, :, 0]).mean() > 0.99
    assert np.nanquantile(error(tracks, truth), 0.99) < 0.05


@pytest.mark.parametrize("count", [2, 3])
def test_people_who_cross_keep_their_identities(count):
    cameras, T = ring(5), 120
    across = np.linspace(-1.2, 1.2, T)
    paths = [
        np.stack([across, np.full(T, 0.3)], -1),
        np.stack([-across, np.full(T, -0.3)], -1),
        np.stack([np.full(T, 1.0), across * 0.8], -1),
    ]
    people = [person(T, 20 + i, path=paths[i]) for i in range(count)]
    keypoints, order = shuffled(seen(cameras, people, 3), 3)
    tracks = track_actors(cameras, keypoints, tuple(f"actor{i}" for i in range(count)))
    owner = [int(np.nanargmin([np.nanmedian(error(tracks, p, a)) for p in people])) for a in range(count)]
    assert sorted(owner) == list(range(count))
    for a, o in enumerate(owner):
        assert (tracks.detection[:, :, a].numpy() == order[:, :, o]).mean() > 0.97
        assert np.nanquantile(error(tracks, people[o], a), 0.99) < 0.06


def test_an_actor_lost_by_everyone_for_a_moment_is_the_same_actor():
    cameras, T = ring(4), 120
    people = [person(T, 1, path=np.full((T, 2), -0.8)), person(T, 2, path=np.full((T, 2), 0.8))]
    keypoints, order = shuffled(seen(cameras, people, 1), 1)
    for c in range(4):
        for t in range(50, 70):
            keypoints.pixels[c, t, order[c, t, 0]] = torch.nan
    tracks = track_actors(cameras, keypoints, ("a", "b"))
    first = 0 if np.nanmedian(error(tracks, people[0], 0)) < 0.1 else 1
    assert np.isnan(error(tracks, people[0], first)[50:70]).all()
    for part in (slice(0, 50), slice(70, T)):
        assert (tracks.detection[:, part, first].numpy() == order[:, part, 0]).mean() > 0.97
        assert (tracks.detection[:, part, 1 - first].numpy() == order[:, part, 1]).mean() > 0.97


def test_views_that_come_and_go_do_not_move_the_actor():
    cameras, truth = ring(5), person(100, 5)
    keypoints = seen(cameras, [truth], 5)
    keypoints.pixels[0, 20:50] = torch.nan
    keypoints.pixels[1, 30:80] = torch.nan
    keypoints.confidence[2, 60:] = 0  # pixels there, but not seen
    keypoints.pixels[2, 60:] += 300
    tracks = track_actors(cameras, keypoints, ACTOR)
    assert np.isfinite(error(tracks, truth)).mean() > 0.99
    assert np.nanquantile(error(tracks, truth), 0.99) < 0.06
    assert bool((tracks.detection[2, 60:, 0] == -1).all())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_someone_whom_one_view_alone_saw_for_a_while_is_met_again(seed):
    cameras, T = ring(5)[[0, 1]], 90
    people = [person(T, seed), person(T, seed + 5, path=np.full((T, 2), 1.2))]
    keypoints, order = shuffled(seen(cameras, people, seed), seed)
    for t in range(30, 60):
        keypoints.pixels[1, t, order[1, t, 0]] = torch.nan
    tracks = track_actors(cameras, keypoints, ("a", "b"), TrackConfig(exchange=False))
    owner = [int(np.nanargmin([np.nanmedian(error(tracks, p, a)) for p in people])) for a in range(2)]
    assert sorted(owner) == [0, 1]
    a = owner.index(0)
    assert np.isnan(error(tracks, people[0], a)[30:60]).all()
    assert (tracks.detection[0, :, a].numpy() == order[0, :, 0]).mean() > 0.95
    assert (tracks.detection[1, 62:, a].numpy() == order[1, 62:, 0]).mean() > 0.95


def test_hands_without_a_body_belong_to_the_only_actor():
    cameras, truth = ring(3), person(30, 3, names=WITH_HANDS)
    keypoints = seen(cameras, [truth], 3, names=WITH_HANDS)
    keypoints.pixels[:, :, :, : len(NAMES)] = torch.nan
    tracks = track_actors(cameras, keypoints, ACTOR)
    assert np.isfinite(error(tracks, truth)[:, len(NAMES) :]).mean() > 0.98
    assert np.nanquantile(error(tracks, truth), 0.99) < 0.06


def test_a_keypoint_that_leaves_for_one_frame_is_not_trusted():
    cameras, truth = ring(3), person(60, 6)
    moved = truth.copy()
    wrist = NAMES.index("left_wrist")
    moved[30, wrist] += [0.3, 0.3, 0.4]
    tracks = track_actors(cameras, seen(cameras, [moved], 6), ACTOR)
    assert bool(tracks.points[30, 0, wrist].isnan().all())
    assert not tracks.trusted[:, 30, 0, wrist].any()
    assert bool(torch.isfinite(tracks.points[29:32:2, 0]).all())


def test_observations_carry_the_exchange_and_leave_out_what_is_not_trusted():
    cameras, truth = ring(4), person(80, 7)
    clean = seen(cameras, [truth], 7)
    swapped = np.zeros((4, 80), bool)
    swapped[2, 20:60] = True
    dirty = with_swaps(clean, swapped)
    elbow = NAMES.index("right_elbow")
    dirty.pixels[0, 10:15, 0, elbow] += 150
    tracks = track_actors(cameras, dirty, ACTOR)
    pixels, sigma = tracks.observations(dirty, 0)
    assert bool(pixels[0, 10:15, elbow].isnan().all() and sigma[0, 10:15, elbow].isinf().all())
    kept = torch.isfinite(sigma)
    assert kept.float().mean() > 0.97
    assert bool((torch.isfinite(pixels).all(-1) == kept).all())
    same = (pixels - clean.pixels[:, :, 0]).norm(dim=-1)[kept] == 0
    assert same.float().mean() > 0.995  # left is left again


def test_a_view_whose_own_skeleton_is_of_somebody_else_shows():
    cameras, truth = ring(4), person(60, 8)
    keypoints = seen(cameras, [truth], 8, own=True)
    other = seen(cameras, [person(60, 99)], 9, own=True).skeleton
    keypoints.skeleton[3] = other[3, torch.arange(59, -1, -1)]
    apart = disagreement(cameras, keypoints, track_actors(cameras, keypoints, ACTOR))[:, :, 0].nanmedian(1).values
    assert (apart[:3] < 0.06).all()
    assert apart[3] > 1.5 * apart[:3].max()


def stand_in(tmp_path: Path, cameras: Cameras, keypoints: Keypoints2D):
    class Here:
        keypoints_folder, tracks_file, actors = tmp_path / "keypoints2d", tmp_path / "tracks3d.safetensors", ACTOR
        one_rate, probes, fps = True, {}, 30.0
        notes: dict

        def cameras(self) -> Cameras:
            return cameras

        def note(self, stage, warnings=(), **numbers):
            self.kept = list(warnings), numbers

    for c, name in enumerate(cameras.names):
        parts = {k: getattr(keypoints, k)[c : c + 1] for k in ("pixels", "sigma", "confidence")}
        replace(keypoints, cameras=(name,), skeleton=None, **parts).save(Here.keypoints_folder / f"{name}.safetensors")
    return Here()


def test_the_stage_writes_what_the_function_finds_and_says_so(tmp_path, capsys):
    cameras, truth = ring(3), person(40, 9)
    keypoints = seen(cameras, [truth], 9)
    take = stand_in(tmp_path, cameras, keypoints)
    path = track(take)
    stored, direct = Tracks3D.load(path), track_actors(cameras, keypoints, ACTOR)
    torch.testing.assert_close(stored.points, direct.points, equal_nan=True)
    assert bool((stored.exchanged == direct.exchanged).all())
    warnings, numbers = take.kept
    assert not warnings
    assert 0.5 < numbers["reprojection_px"] < 3
    assert "track: 40 frames, 1 actor in 3 views" in capsys.readouterr().out


def test_nothing_seen_gives_empty_tracks_and_a_clear_message(tmp_path, capsys):
    cameras = ring(3)
    keypoints = seen(cameras, [person(12, 0)], 0)
    take = stand_in(tmp_path, cameras, replace(keypoints, pixels=torch.full_like(keypoints.pixels, torch.nan)))
    tracks = Tracks3D.load(track(take))
    assert bool(tracks.points.isnan().all())
    assert bool((tracks.detection == -1).all())
    assert not tracks.trusted.any()
    assert "nobody was found in two views at once" in " ".join(capsys.readouterr().out.split())


def test_no_frames_give_no_tracks():
    cameras = ring(3)
    keypoints = seen(cameras, [person(5, 0)], 0)
    empty = {k: getattr(keypoints, k)[:, :0] for k in ("pixels", "sigma", "confidence")}
    assert track_actors(cameras, replace(keypoints, **empty), ACTOR).points.shape == (0, 1, len(NAMES), 3)


def test_chunks_do_not_change_the_result():
    cameras, truth = ring(3), person(70, 10)
    keypoints = seen(cameras, [truth], 10)
    whole, parts = track_actors(cameras, keypoints, ACTOR), track_actors(cameras, keypoints, ACTOR, TrackConfig(chunk=13))
    torch.testing.assert_close(whole.points, parts.points, atol=1e-5, rtol=0, equal_nan=True)


@pytest.mark.parametrize("cameras", [4, 9])
def test_seams_between_blocks_change_nobody_and_no_side(cameras):
    C, T = cameras, 150
    rig = ring(C)
    people = [person(T, 30 + i, path=np.full((T, 2), 0.9 * (i - 0.5))) for i in range(2)]
    keypoints, _ = shuffled(seen(rig, people, 4), 4)
    swapped = intervals(C, T, 4)
    swapped[2, 70:90] = True  # across a seam
    keypoints = with_swaps(keypoints, swapped)
    keypoints.pixels[1, 60:85] = torch.nan  # so is a view that sees nobody
    keypoints.pixels[:, 79, :, NAMES.index("left_wrist")] += 400  # and a keypoint that jumps at one
    actors = ("a", "b")
    whole = track_actors(rig, keypoints, actors)
    parts = track_actors(rig, keypoints, actors, TrackConfig(block=40, overlap=30))
    assert bool((whole.detection == parts.detection).all())
    assert whole.swapped.any() and (whole.swapped != parts.swapped).float().mean() < 0.002
    assert whole.exchanged is not None and parts.exchanged is not None
    assert (whole.exchanged != parts.exchanged).float().mean() < 0.002
    assert (whole.points.isnan() != parts.points.isnan()).float().mean() < 0.002
    assert (whole.points - parts.points).norm(dim=-1).nan_to_num(0).quantile(0.998) < 1e-5


def test_the_stage_in_blocks_writes_the_same_file_and_the_same_numbers(tmp_path):
    cameras, truth = ring(3), person(60, 9)
    keypoints = with_swaps(seen(cameras, [truth], 9), intervals(3, 60, 9))
    found = {}
    for block in (1000, 16):
        take = stand_in(tmp_path / str(block), cameras, keypoints)
        found[block] = Tracks3D.load(track(take, TrackConfig(block=block))), take.kept
    torch.testing.assert_close(found[16][0].points, found[1000][0].points, atol=1e-5, rtol=0, equal_nan=True)
    assert found[16][0].first_frame == found[1000][0].first_frame == 0
    assert found[16][1][0] == found[1000][1][0]
    assert found[16][1][1]["reprojection_px"] == pytest.approx(found[1000][1][1]["reprojection_px"], abs=0.01)


def footage() -> tuple[Cameras, Keypoints2D]:
    folder = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data")) / "pose2sim_single" / "reference"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: needs the real footage's reference keypoints")
    import cv2

    listed = tomllib.loads((folder / "Calib_qualisys.toml").read_text())
    listed = [listed[k] for k in sorted(listed) if k.startswith("cam")]
    column = {k: torch.tensor([c[k] for c in listed], dtype=torch.float64) for k in ("size", "matrix", "distortions", "translation")}
    R = torch.from_numpy(np.stack([cv2.Rodrigues(np.array(c["rotation"]))[0] for c in listed]))
    K, names = column["matrix"], tuple(f"cam0{i + 1}" for i in range(4))
    lens = torch.cat([column["distortions"], torch.zeros(4, 4)], 1)
    position = -(R.mT @ column["translation"][..., None])[..., 0]
    cameras = Cameras(names, column["size"], K[:, [0, 1], [0, 1]], K[:, :2, 2], lens, ("brown",) * 4, R, position)
    values = torch.zeros(4, 100, 3, 25, 3)
    for c, name in enumerate(names):
        for t, path in enumerate(sorted((folder / "openpose_json" / f"{name}_json").glob("*.json"))[:100]):
            for d, someone in enumerate(json.loads(path.read_text())["people"]):
                values[c, t, d] = torch.tensor(someone["pose_keypoints_2d"]).view(25, 3)
    confidence = values[..., 2]
    pixels = torch.where(confidence[..., None] > 0, values[..., :2], torch.nan)
    return cameras, Keypoints2D(names, BODY_25B, "openpose", 60.0, 0, pixels, 4 / confidence.clamp_min(0.1), confidence)


def test_on_real_footage_an_injected_swap_is_undone_and_the_man_is_found_everywhere():
    cameras, keypoints = footage()
    clean = track_actors(cameras, keypoints, ACTOR)
    assert torch.isfinite(clean.points).all(-1).float().mean() > 0.99
    pixels, _ = clean.observations(keypoints, 0)
    residual = (cameras.project(clean.points[:, 0].double()) - pixels).norm(dim=-1)
    assert residual[torch.isfinite(residual)].median() < 15  # the cameras agree only to a few frames
    swapped = np.zeros((4, 100), bool)
    swapped[1, 20:50] = True
    swapped[3, 60:90] = True
    tracks = track_actors(cameras, with_swaps(keypoints, swapped), ACTOR)
    assert (tracks.swapped[:, :, 0].numpy() == swapped).mean() > 0.97
    assert (tracks.points - clean.points).norm(dim=-1).nanmedian() < 0.001
