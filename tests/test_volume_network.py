"""Volumes from masks: their truth, their geometry, and what the network adds to the hull."""

from dataclasses import replace

import numpy as np
import open3d as o3d
import pytest
import torch
from torch.nn import functional as F

from rigs import rotation
from studio.fit.volumes import cloud_of
from studio.nets import checkpoint
from studio.nets.shape import KEYPOINTS, Sight
from studio.nets.volume import REACH, Grid, Volume, features, hull, occupancy, projected
from studio.train import sampled, voxels
from studio.train.loop import Loop
from studio.train.volume import Solids, hull_row, learned, made, row
from studio.train.volume_fits import fits, vertex_error

CUBE = (2 * REACH) ** 3
ONE_CELL = CUBE / 32**3


def ball(radius: float, x: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    mesh = o3d.geometry.TriangleMesh.create_sphere(radius, 40)
    return np.asarray(mesh.vertices) + [x, 0, 0], np.asarray(mesh.triangles)


def solids(count: int, views: int, clean: bool, seed: int = 5) -> Solids:
    people = sampled.people(count, views, seed, sampled.poses([3], 40), clean=clean)
    return Solids.of(people, voxels.bare(people))


def test_a_ball_has_the_volume_of_a_ball():
    filled = voxels.inside(*ball(0.5), 32).sum() * ONE_CELL
    assert filled == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.02)


def test_limbs_that_sink_into_each_other_stay_solid():
    (a, faces), (b, _) = ball(0.5), ball(0.5, 0.4)
    both = voxels.inside(np.concatenate([a, b]), np.concatenate([faces, faces + len(a)]), 32).sum() * ONE_CELL
    lens = np.pi * (2 * 0.5 - 0.4) ** 2 * (0.4**2 + 4 * 0.4 * 0.5) / (12 * 0.4)
    assert both == pytest.approx(2 * 4 / 3 * np.pi * 0.5**3 - lens, rel=0.02)


def test_a_person_has_the_volume_of_a_person_and_the_hips_in_the_middle():
    one = solids(2, 2, True)
    litres = 1000 * CUBE * one.truth(slice(None), 32).mean((1, 2, 3))
    assert ((litres > 35) & (litres < 140)).all()
    assert (one.truth(slice(None), 32)[:, 14:17, 15:17, 15:17].amax((1, 2, 3)) > 0.9).all()


def test_the_hull_of_perfect_masks_contains_the_body_and_tightens_with_views():
    many = solids(4, 8, True)
    four, eight = (hull_row(many, 32, 0.5, n) for n in (4, 8))
    assert eight["recall"] > 0.99
    assert eight["IoU"] > four["IoU"] + 0.05


def test_the_shadow_of_the_true_volume_is_the_mask():
    one = solids(3, 3, True)
    logits = 20 * (one.truth(slice(None), 64) - 0.5)  # a ray that meets a quarter of a cell meets the body
    shadow, mask = projected(logits, one.grid, one.people.sight) > -5, F.avg_pool2d(one.people.masks.float(), 2) > 127
    assert (shadow & mask).sum() / (shadow | mask).sum() > 0.85
    other = mask.flip(-1)
    assert (shadow & other).sum() / (shadow | other).sum() < 0.75


def test_the_network_is_told_of_the_hulls_emptiness_outside_windows_too():
    one = solids(2, 3, False)
    people = one.people
    masks = torch.ones_like(people.masks, dtype=torch.float32)  # so near a wall of masks that only the windows' edges carve
    x, emptiest = features(masks, people.keypoints, people.sight, one.grid, size=32)
    outside = (people.sight.window(one.grid.points(32)[:, None].expand(-1, 3, -1, -1)).abs() > 1.05).any(-1).any(1)
    assert 0.02 < outside.float().mean() < 0.98
    assert (emptiest.flatten(1)[outside] == 1).all()
    assert torch.allclose(emptiest, 1 - hull(masks, people.sight, one.grid, 32), atol=1e-5)
    far = x[:, 24:32].view(2, 2, 2, 2, 16, 16, 16).permute(0, 4, 1, 5, 2, 6, 3).reshape(2, -1)
    assert (far[outside] == 1).all()


def test_an_untrained_network_says_what_the_hull_does():
    one, network = solids(2, 4, False), made(0).eval()
    masks, sight = one.people.masks.float() / 255, one.people.sight
    found = occupancy(network, masks, one.people.keypoints, sight, one.grid, size=32) > 0.5
    own = hull(masks, sight, one.grid, 32) > 0.9
    assert (found == own).float().mean() > 0.999
    assert own.any()


def test_features_of_a_mirror_are_those_of_the_mirrored_person():
    one = solids(2, 3, False)
    people, flip = one.people, torch.tensor([-1.0, 1, 1])
    centre = people.sight.position + people.sight.R_view_world[..., 2, :] * people.sight.distance[..., None]
    upright = Grid.around(centre[:, 0], torch.eye(3).expand(2, 3, 3))
    there = Grid(upright.centre * flip, upright.R_grid_world)
    swapped = [KEYPOINTS.index(n.replace("left", "?").replace("right", "left").replace("?", "right")) for n in KEYPOINTS]
    masks, keys = people.masks.float() / 255, people.keypoints
    own = features(masks, keys, people.sight, upright, mirrored=True, size=16)
    true = features(masks.flip(-1), (keys * flip)[:, :, swapped], Sight.at(people.sight.position * flip, centre * flip), there, size=16)
    for a, b in zip(own, true, strict=True):
        assert torch.allclose(a, b, atol=2e-3)
    plain = features(masks, keys, people.sight, upright, size=16)[0]
    assert (plain - true[0]).abs().max() > 0.2


def test_the_order_of_views_does_not_matter_and_unseen_ones_have_no_say():
    one, network = solids(1, 4, False), made(0).eval()
    torch.nn.init.normal_(network.cells.weight)
    masks, keys, sight = one.people.masks.float() / 255, one.people.keypoints, one.people.sight
    whole = occupancy(network, masks, keys, sight, one.grid, size=16)
    turned = [2, 0, 3, 1]
    assert torch.allclose(
        occupancy(network, masks[:, turned], keys[:, turned], voxels.chosen(sight, turned), one.grid, size=16), whole, atol=1e-4
    )
    two = occupancy(network, masks[:, :2], keys[:, :2], voxels.chosen(sight, [0, 1]), one.grid, size=16)
    seen = torch.tensor([[True, True, False, False]])
    assert torch.equal(occupancy(network, masks, keys, sight, one.grid, seen, size=16), two)
    assert not torch.allclose(two, whole, atol=1e-2)
    assert not occupancy(network, masks, keys, sight, one.grid, ~seen & seen, size=16).any()


def test_the_surface_of_a_ball_is_that_ball_in_the_world():
    turn = rotation.exp(torch.tensor([[0.0, 0.0, 0.7]]))
    grid = Grid(torch.tensor([[1.0, -2.0, 0.9]]), turn)
    middle = torch.tensor([0.2, 0.1, -0.3])
    a = Grid.axis(32)
    z, y, x = torch.meshgrid(a, a, a, indexing="ij")
    soft = torch.sigmoid((0.5 - (torch.stack([x, y, z], -1) - middle).norm(dim=-1)) / 0.05)
    found = cloud_of(soft[None], grid, 400)
    at = (turn[0].mT @ middle) + grid.centre[0]
    out = found.points[0] - at
    assert torch.allclose(out.norm(dim=-1), torch.full((400,), 0.5), atol=0.01)
    assert (F.normalize(out, dim=-1) * found.normals[0]).sum(-1).min() > 0.98


def test_an_empty_volume_has_no_surface():
    assert cloud_of(torch.zeros(1, 8, 8, 8), Grid(torch.zeros(1, 3), torch.eye(3)[None]), 10).points.isnan().all()


def test_a_stopped_training_ends_where_an_uninterrupted_one_does(tmp_path):
    few = solids(4, 4, False)
    whole, parts = made(1), made(1)
    learned(whole, few, Loop(3, 1, precision="float32", device="cpu", save_every=1e9), "shadows", 16)
    state = tmp_path / "state.safetensors"
    for _ in range(3):
        learned(parts, few, Loop(3, 1, minutes=1e-9, precision="float32", device="cpu"), "shadows", 16, state)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_body_is_drawn_to_the_surface_of_a_volume():
    people, bodies = voxels.others((9901,), 2, 4, 3, sampled.poses([950], 60))
    held = Solids.of(people, bodies)
    alone, with_truth = (vertex_error(fits(people, v, held.grid, 2), bodies) for v in (None, held.truth(slice(None), 64)))
    assert with_truth < 0.95 * alone
    elsewhere = replace(held.grid, centre=held.grid.centre + torch.tensor([0.08, 0.0, 0.0]))
    assert vertex_error(fits(people, held.truth(slice(None), 64), elsewhere, 2), bodies) > alone


def test_the_shipped_network_knows_its_own_volume_and_is_lost_in_a_mirror():
    network = checkpoint.read("volume", Volume, "volume")[0]
    people, bodies = voxels.others((9900,), 3, 4, 3, sampled.poses([950], 60))
    held = Solids.of(people, bodies)
    right = row(network, held, 64)["IoU"]
    assert right > 0.5
    assert row(network, held, 64, spoilt="mirrored")["IoU"] < 0.8 * right
