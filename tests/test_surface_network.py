"""Dense surface correspondences: distances along a skin, labels, what is made of a network's answer, and learning itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

from studio.fit.dense import skin_points
from studio.nets.surface import Skin, SurfaceNet, sighted
from studio.train.drawing import sample
from studio.train.geodesics import Geodesics
from studio.train.loop import Loop
from studio.train.performers import model, other_person, topology
from studio.train.scenes import SceneConfig, Scenes, held_out
from studio.train.surface import LABELLED, Plan, balance, fitted, inpainted, losses, mean_person, measured
from studio.train.surface_crops import UNKNOWN, Skins, sides

CONFIG = SceneConfig(size=64, cameras=4, maps=("mask", "part", "surface"))


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes.stacked([sample(replace(held_out(CONFIG), occluded=0.0), n) for n in range(2)])


@pytest.fixture(scope="module")
def data(scenes) -> Skins:
    return Skins.of(scenes)


def exact(data: Skins) -> Skin:
    return Skin(data.part > 0, (data.part.long() - 1).clamp_min(0), data.rest.float(), torch.full(data.part.shape, 0.01))


def sphere(count: int) -> tuple[np.ndarray, np.ndarray]:
    points = np.random.default_rng(0).normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, ConvexHull(points).simplices


def test_distances_along_a_sphere_are_those_of_great_circles():
    points, triangles = sphere(2000)
    a, b = np.random.default_rng(1).integers(0, len(points), (2, 300))
    a, b = a[a != b], b[a != b]
    circle = np.arccos((points[a] * points[b]).sum(1).clip(-1, 1))
    off = np.abs(Geodesics.of(points, triangles).between(a, b, limit=4.0) / circle - 1)
    assert off.mean() < 0.005 and np.quantile(off, 0.95) < 0.02
    edges = np.abs(Geodesics.of(points, triangles, hops=1).between(a, b, limit=4.0) / circle - 1)
    assert edges.mean() > 0.02  # the limit above tells a worse way apart


def test_there_is_no_way_along_the_skin_to_another_piece_nor_beyond_the_limit():
    points, triangles = sphere(200)
    both = Geodesics.of(np.concatenate([points, points[:50] * 0.1]), np.concatenate([triangles, ConvexHull(points[:50]).simplices + 200]))
    assert np.isinf(both.between(np.array([0]), np.array([210]), 9.0)[0])
    opposite = int((points @ points[0]).argmin())
    assert np.isinf(both.between(np.array([0]), np.array([opposite]), 1.0)[0])


def test_points_of_the_skin_are_sighted_where_cameras_project_them(scenes, data):
    vertices = skin_points(model())
    part = torch.from_numpy(topology().parts)[vertices].long() - 1
    pixels, sigma = sighted(exact(data), model().skin.rest[vertices], part)
    off, size = [], []
    for n in range(len(scenes)):
        performer = other_person(int(scenes.person[n]))
        skin = performer.points(performer.posed(scenes.rotation[n], scenes.translation[n]))[:, vertices].double()
        cameras = scenes.cameras(n)
        metre = cameras.focal.mean(1)[:, None] / cameras.to_camera(skin)[:, 0, :, 2]
        off.append((cameras.project(skin)[:, 0] - pixels.unflatten(0, (2, 4))[n]).norm(dim=-1) / metre)
        size.append(sigma.unflatten(0, (2, 4))[n])
    off = torch.cat(off)
    seen = torch.isfinite(off)
    assert 0.2 < seen.float().mean() < 0.5  # no camera sees both sides
    assert off[seen].median() < 0.010 and off[seen].quantile(0.95) < 0.04  # m; cloth is up to 22 mm thick, a pixel 33 mm wide
    assert torch.allclose(torch.cat(size)[seen], torch.tensor(0.01))


def test_a_crop_without_a_person_shows_no_skin(data):
    empty = replace(exact(data), seen=torch.zeros_like(data.part, dtype=torch.bool))
    pixels, sigma = sighted(empty, model().skin.rest[:5], torch.zeros(5, dtype=torch.long))
    assert pixels.isnan().all() and sigma.isnan().all()


def test_what_is_measured_is_zero_for_the_truth_and_chance_for_permuted_parts(data):
    data = Skins(*(getattr(data, f)[:3] for f in Skins.__dataclass_fields__))
    right = measured(exact(data), data)
    assert right["median mm"] < 1 and right["GPS AP"] > 0.99 and right["IoU"] == 1
    permuted = measured(exact(data), data, swap=np.roll(np.arange(len(topology().part_names)), 5))
    assert permuted["GPS AP"] < 0.05 and permuted["part right"] == 0
    blind = measured(mean_person(data, data), data)
    assert 50 < blind["median mm"] and blind["GPS"] < 0.8


def test_a_mirrored_crop_has_its_labels_on_the_other_side(data):
    assert sides()[sides()[3]] == 3
    batch = data.batch(0, 64, 5)
    for i, name in enumerate(topology().part_names):
        x = batch["rest"][:, 0][batch["part"] == i + 1]
        if name.startswith(("left", "right")) and len(x) > 20 and "thigh" not in name:
            assert (x > 0).float().mean() > 0.95 or name.startswith("right")
            assert (x < 0).float().mean() > 0.95 or name.startswith("left")


def test_people_label_few_pixels_and_a_teacher_the_others(data):
    few = data.sparse(LABELLED, 1)
    known = (few.part > 0) & (few.part != UNKNOWN)
    assert known.sum((1, 2)).tolist() == [LABELLED] * len(data)
    assert torch.equal(few.part[known], data.part[known]) and ((few.part == 0) == (data.part == 0)).all()
    whole = inpainted(few, exact(data))
    assert torch.equal(whole.part, data.part) and not (whole.part == UNKNOWN).any()
    unlike = inpainted(few, replace(exact(data), part=torch.full(data.part.shape, 4)))
    assert torch.equal(unlike.part[known], data.part[known])  # a teacher does not overrule people


def test_learning_from_labels_brings_the_network_nearer_to_them(data):
    plan = Plan(steps=30, batch=8, widths=(16, 24, 32, 48), top=24)
    batch = data.batch(0, 16, 9)
    told = []
    for steps in (1, plan.steps):
        network, done = fitted(plan, data, Loop(steps, device="cpu"))
        with torch.no_grad():
            told.append({k: float(v) for k, v in losses(network(batch["images"], batch["points"]), batch, balance(data)).items()})
        assert done
    assert all(told[1][k] < told[0][k] - 0.1 * abs(told[0][k]) for k in told[0]), told


def test_crops_of_another_size_are_refused_in_words():
    with pytest.raises(ValueError, match="multiples of 16"):
        SurfaceNet()(torch.zeros(1, 3, 40, 64), torch.zeros(1, 23, 2))
