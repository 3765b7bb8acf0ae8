"""Where a network's landmarks sit: learned offsets are the true ones, and the fit uses them."""

from dataclasses import replace

import pytest
import torch
from test_fit_solver import ring

from rigs import landmarks, makehuman
from studio.train.landmarks import learn, learn_from, save, sightings
from studio.values import Keypoints2D


def biased(offset: torch.Tensor, noise: float = 0.0):
    """A person turning on the spot whose left and right elbows are seen at mirrored offsets from the joint."""
    person = makehuman.individual(3)
    T = 40
    turn = torch.zeros(T, 55, 3)
    turn[:, 0, 2] = torch.linspace(0, 3, T)
    turn[:, person.skeleton.index("LeftForeArm"), 2] = torch.linspace(0, 1.2, T)
    posed = person.shaped(torch.zeros(0)).posed(turn, torch.tensor([0.0, 0, 0.95]).expand(T, 3))
    points = posed.points(person.keypoints)
    names = ("left_elbow", "right_elbow")
    height = float(person.skin.rest[:, 2].max() - person.skin.rest[:, 2].min())
    shifted = []
    for name in names:
        joint = int(person.keypoint_skin([name]).weights[0].argmax())
        o = offset * torch.tensor([-1.0 if name.startswith("right") else 1.0, 1, 1]) * height / 1.7
        shifted.append(points[:, person.keypoint_names.index(name)] + posed.R_world_joint[:, joint] @ o)
    cameras = ring()
    pixels = cameras.project(torch.stack(shifted, 1).double())
    pixels = pixels + noise * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shape = (4, T, 1, 2)
    seen = Keypoints2D(cameras.names, names, "biased", 30.0, 0, pixels[:, :, None].float(), torch.full(shape, 3.0), torch.ones(shape))
    found = {n: sightings(seen, cameras, person, n, points, posed.R_world_joint, 0) for n in names}
    return {n: s for n, s in found.items() if s is not None}


def test_a_known_offset_is_learned_from_both_sides_and_leaves_no_scatter():
    offset = torch.tensor([0.02, -0.015, 0.03])
    learned = learn(biased(offset))["left_elbow"]
    assert torch.allclose(torch.tensor(learned.offset), offset, atol=0.0005)
    assert learned.scatter < 0.001 < 0.01 < learned.before and learned.parent == 0


def test_scatter_says_how_noisy_the_network_is():
    noise = 6.0
    learned = learn(biased(torch.tensor([0.02, -0.015, 0.03]), noise))["left_elbow"]
    expected = noise * 3.5 / 900
    assert 0.7 * expected < learned.scatter < 1.3 * expected


def test_a_few_gross_errors_do_not_move_the_offset():
    offset = torch.tensor([0.02, -0.015, 0.03])
    samples = biased(offset)
    bad = {}
    for name, seen in samples.items():
        wild = (torch.arange(len(seen.plane)) % 12 == 0)[:, None]
        bad[name] = replace(seen, plane=torch.where(wild, seen.plane + 0.2, seen.plane))
    assert torch.allclose(torch.tensor(learn(bad)["left_elbow"].offset), offset, atol=0.003)


def test_the_table_places_the_landmark_on_both_sides(tmp_path, monkeypatch):
    offset = torch.tensor([0.02, -0.015, 0.03])
    save("biased", learn(biased(offset)), "for a test", tmp_path)
    monkeypatch.setattr(landmarks, "FOLDER", tmp_path)
    landmarks._placements.cache_clear()
    body = makehuman.load()
    names = ("left_elbow", "right_elbow", "left_wrist")
    skin, scatter = landmarks.landmark_skin(body, names, "biased")
    plain = body.keypoint_skin(names)
    scale = float(body.skin.rest[:, 2].max() - body.skin.rest[:, 2].min()) / 1.7
    moved = (skin.rest - plain.rest) / scale
    assert torch.allclose(moved[0], offset, atol=0.001) and torch.allclose(moved[1], offset * torch.tensor([-1.0, 1, 1]), atol=0.001)
    assert moved[2].norm() == 0 and scatter[2] == 0
    landmarks._placements.cache_clear()


def test_the_shipped_table_is_plausible():
    body = makehuman.load()
    skin, scatter = landmarks.landmark_skin(body, body.keypoint_names, "mediapipe")
    assert (skin.rest - body.keypoints.rest).norm(dim=-1).max() < 0.06
    assert float(scatter.max()) < 0.04 and float(scatter[:17].min()) > 0.002


def test_a_folder_without_truth_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="studio virtual"):
        learn_from([tmp_path])
