"""Errors against the truth: offsets put in by hand come out as millimetres and m/s²."""

from dataclasses import replace
from math import isnan

import pytest
import torch
from small_footage import film, rig

from rigs.catalogue import open_body
from rigs.keypoints import COCO_WHOLEBODY
from studio.evaluate import evaluate, foretold, posed_of, skated
from studio.take import Take
from studio.values import Motion, Tracks3D
from studio.virtual import Truth

T, FPS = 6, 30.0


def motion(actor, root):
    """Somebody who stands still at `root`."""
    body = open_body("makehuman")
    J, E = len(body.skeleton.names), len(body.expression_names)
    still = torch.tensor(root).repeat(T, 1)
    shape = torch.zeros(len(body.shape_names))
    empty = torch.zeros(T, J)
    return Motion(
        "makehuman", actor, body.skeleton.names, FPS, 2, "00:00:00:00", shape, still, torch.zeros(T, J, 3), torch.zeros(T, E), empty,
        torch.zeros(T, 4),
    )  # fmt: skip


def write(folder, truth_joints, truth_points, motions, track_points):
    """A take's files and a truth whose first two frames the take leaves out."""
    before = lambda x: torch.cat([x[:1], x[:1], x])  # noqa: E731
    A, K, names = len(motions), len(COCO_WHOLEBODY), motions[0].joints
    roots = torch.stack([m.translation for m in motions], 1).flip(1)  # the truth lists people in another order
    Truth(
        tuple(f"p{i}" for i in range(A)), (), names, COCO_WHOLEBODY, (), (0,) * A, FPS, before(roots), torch.zeros(T + 2, A, len(names), 3),
        torch.zeros(T + 2, A, 0), before(truth_joints.flip(1)), before(truth_points.flip(1)), torch.zeros(0, T + 2, A, K).bool(),
        torch.zeros(T + 2, A, 4),
    ).save(folder / "truth.safetensors")  # fmt: skip
    for name in ("left", "right"):
        film(folder / f"{name}.mp4", 2)
    rig(["left", "right"]).save(folder / "cameras.yaml")
    take = Take.of([folder], folder / "cameras.yaml", folder / "out", actors=tuple(m.actor for m in motions))
    for m in motions:
        m.save(take.motion_file(m.actor))
    none = torch.zeros(0, T, A)
    Tracks3D(
        COCO_WHOLEBODY, take.actors, FPS, 2, track_points, torch.zeros(T, A, K, 3, 3), none.long(), none.bool(),
        torch.zeros(0, T, A, K).bool(),
    ).save(take.tracks_file)  # fmt: skip
    return take


def test_a_known_offset_a_known_acceleration_and_a_known_gap_are_measured(tmp_path):
    motions = [motion("Ann", [0.0, 0.0, 0.9]), motion("Bob", [1.0, 0.0, 0.9])]
    body = open_body("makehuman")
    known = [n for n in COCO_WHOLEBODY if n in body.keypoint_names]
    points = torch.full((T, 2, len(COCO_WHOLEBODY), 3), torch.nan)
    for a, m in enumerate(motions):
        points[:, a, [COCO_WHOLEBODY.index(n) for n in known]] = posed_of(m).points(body.keypoint_skin(known))
    joints = torch.stack([posed_of(m).joints for m in motions], 1)
    away = torch.zeros(T, 1, 1, 3)
    away[..., 1] = 0.03 + 0.5 * 2.0 * ((torch.arange(T) / FPS) ** 2)[:, None, None]  # moves off at 2 m/s²
    tracks = points + torch.tensor([0.0, 0.0, 0.02])
    tracks[0] = torch.nan
    take = write(tmp_path, joints + torch.tensor([0.01, 0.0, 0.0]), points + away, motions, tracks)
    rows = evaluate(take, tmp_path / "truth.safetensors")
    for actor in ("Ann", "Bob"):
        for part in ("body joints", "hand joints"):
            row = rows[f"{actor}: {part}, fitted"]
            assert row["error_mm"] == pytest.approx(10, abs=0.01) and row["acceleration"] == pytest.approx(0, abs=0.02)
        limbs = rows[f"{actor}: limb keypoints, fitted"]
        assert limbs["acceleration"] == pytest.approx(2.0, abs=0.02) and limbs["found"] == 1
        raw = rows[f"{actor}: limb keypoints, triangulated only"]
        assert raw["found"] == pytest.approx((T - 1) / T)
        assert raw["error_mm"] > 1000 * (0.02**2 + 0.03**2) ** 0.5 - 0.1
    assert take.notes()["truth"]["numbers"]["against_truth"] == rows


def test_what_has_no_acceleration_can_be_noted(tmp_path):
    """A standing foot's skate has none, and notes hold no NaN."""
    standing = motion("Ann", [0.0, 0.0, 0.9])
    points = torch.zeros(T, 1, len(COCO_WHOLEBODY), 3)
    take = write(tmp_path, posed_of(standing).joints[:, None], points, [standing], points)
    exact = Truth.load(tmp_path / "truth.safetensors")
    replace(exact, contacts=torch.ones_like(exact.contacts)).save(tmp_path / "truth.safetensors")
    rows = evaluate(take, tmp_path / "truth.safetensors")
    noted = take.notes()["truth"]["numbers"]["against_truth"]["skate of planted feet a frame"]
    assert isnan(rows["skate of planted feet a frame"]["acceleration"]) and noted["acceleration"] is None


def test_only_feet_that_truly_stand_can_skate():
    feet = torch.zeros(5, 4, 3)
    feet[:, 0, 0] = 0.002 * torch.arange(5)  # slides by 2 mm a frame
    feet[:, 1, 0] = 0.3 * torch.arange(5)  # walks
    standing = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(5, 4).clone()
    standing[4] = 0
    row = skated(feet, standing)
    assert row["error_mm"] == pytest.approx(2.0, abs=1e-3) and row["found"] == pytest.approx(3 / 16)


def test_more_motions_than_people_is_refused(tmp_path):
    motions = [motion("Ann", [0.0, 0.0, 0.9])]
    nothing = torch.zeros(T, 1, len(COCO_WHOLEBODY), 3)
    take = write(tmp_path, posed_of(motions[0]).joints[:, None], nothing, motions, nothing)
    twice = Take.of([tmp_path], tmp_path / "cameras.yaml", take.folder, actors=("Ann", "Bob"))
    motion("Bob", [0.0, 0.0, 0.9]).save(twice.motion_file("Bob"))
    with pytest.raises(ValueError, match=r"2 motions .* for 1 people .*--actors 1"):
        evaluate(twice, tmp_path / "truth.safetensors")


@pytest.mark.parametrize("told", [0.5, 1.0, 2.0])
def test_sigma_is_compared_with_what_joints_are_really_off_by(tmp_path, told):
    right = motion("Ann", [0.0, 0.0, 0.9])
    off = 0.01 * torch.randn(T, len(right.joints), 3, generator=torch.Generator().manual_seed(2))
    points = torch.zeros(T, 1, len(COCO_WHOLEBODY), 3)
    write(tmp_path, (posed_of(right).joints + off)[:, None], points, [right], points)
    sure = replace(right, sigma=torch.full_like(right.sigma, 0.01 * told))
    assert foretold(sure, Truth.load(tmp_path / "truth.safetensors")) == pytest.approx(1 / told**2, rel=0.1)
