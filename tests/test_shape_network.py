"""Shape from masks: what the network is shown, and what it is worth on people it never saw."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from calibration.cameras import Cameras
from rigs import makehuman, rotation
from studio.nets.shape import JOINTS, SIZE, WINDOW, PosePrior, ShapePrior, Sight, crop, heading, load
from studio.train import sampled, shape
from studio.virtual.rays import Meshes
from studio.virtual.rig import ring


@pytest.fixture(scope="module")
def bank():
    return sampled.poses([1], frames=40)


def cast_mask(vertices: torch.Tensor, triangles: torch.Tensor, camera: Cameras) -> torch.Tensor:
    """A mask by ray casting through every pixel: another way than the scattered points of the sampler."""
    width, height = (int(v) for v in camera.size[0])
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    rays = camera.ray(torch.stack([x, y], -1)[None])[0].numpy().astype(np.float32)
    meshes = Meshes([(vertices.numpy().astype(np.float32), triangles.numpy())])
    return torch.from_numpy(meshes.cast(camera.position[0].numpy().astype(np.float32), rays).person >= 0)


def test_a_mask_of_a_distorted_tilted_camera_arrives_in_the_upright_window_as_the_sampler_draws_it(bank):
    people = sampled.people(1, 1, 4, bank, clean=True)
    who, body = sampled.default(), makehuman.load()
    full = torch.cat([people.shape, torch.zeros(1, 3)], -1)
    vertices = sampled.placed(body, people.shape, people.R, people.root, body.skin)[0]
    assert len(who.body.shape_names) == full.shape[1]
    eye = ring(1, 320, 240, seed=3)
    forward = people.root[0].double() - people.sight.position[0, 0].double() + torch.tensor([0.15, 0.0, 0.2])
    roll = rotation.exp(torch.tensor([0.0, 0.0, 0.4], dtype=torch.float64))
    R = roll @ Sight.at(torch.zeros(3).double(), forward).R_view_world
    f = torch.full((1, 2), 60.0 * float(forward.norm()), dtype=torch.float64)
    camera = Cameras(eye.names, eye.size, f, eye.centre, eye.distortion, eye.lens, R[None], people.sight.position[0].double())
    mask = cast_mask(vertices, body.triangles, camera)
    sight = Sight(*(x[:, 0] for x in vars(people.sight).values()))
    found, drawn = crop(mask[None], camera, sight)[0], people.masks[0, 0].float() / 255
    together = torch.minimum(found, drawn).sum() / torch.maximum(found, drawn).sum()
    assert drawn.sum() > 100 and together > 0.85, float(together)


def test_the_window_has_metric_size():
    sight = Sight.at(torch.tensor([0.0, -4.0, 1.0]), torch.tensor([0.0, 0.0, 1.0]))
    ends = sight.window(torch.tensor([[0.0, 0, 1 + WINDOW / 2], [WINDOW / 2, 0, 1.0], [0.0, 0, 1]]))
    assert torch.allclose(ends, torch.tensor([[0.0, -1], [1, 0], [0, 0]]), atol=1e-6)


def test_where_the_camera_is_is_told_in_the_axes_of_the_hips():
    left, right = torch.tensor([0.0, 0.1, 0.9]), torch.tensor([0.0, -0.1, 0.9])  # turned to face +x
    front = Sight.at(torch.tensor([3.0, 0.0, 0.9]), torch.tensor([0.0, 0.0, 0.9]))
    assert torch.allclose(front.seen_from(heading(left, right)), torch.tensor([0.0, -1, 0, 0]), atol=1e-6)  # a body faces its -y


def test_views_that_were_not_seen_have_no_say():
    torch.manual_seed(0)
    network = ShapePrior(5).eval()
    masks, views = torch.rand(2, 3, SIZE, SIZE), torch.randn(2, 3, 4)
    seen = torch.tensor([[True, True, False]]).expand(2, 3)
    with torch.no_grad():
        assert torch.allclose(network(masks, views, seen), network(masks[:, :2], views[:, :2]), atol=1e-5)


def test_poses_begin_at_rest_and_are_rotations():
    R = PosePrior().eval()(torch.rand(3, 23, 3), torch.zeros(3, 2))
    assert R.shape == (3, len(JOINTS), 3, 3)
    assert torch.allclose(R @ R.mT, torch.eye(3).expand_as(R), atol=1e-5)


def test_sampled_people_depend_on_their_seed_alone(bank):
    once, again, other = (sampled.people(2, 2, s, bank) for s in (5, 5, 6))
    assert torch.equal(once.masks, again.masks) and torch.equal(once.keypoints, again.keypoints)
    assert not torch.equal(once.masks, other.masks)


def test_the_shipped_network_knows_strangers_better_than_the_mean_person_does():
    held = sampled.others(range(9000, 9006), 3, 4, 77, sampled.poses([900]))
    mean = shape.tpose_error(lambda masks, views: masks.new_zeros(len(masks), 31), held, 4)
    found = shape.tpose_error(load().shape, held, 4)
    other = replace(held, masks=held.masks.roll(9, 0))
    assert found < 0.7 * mean
    assert shape.tpose_error(load().shape, other, 4) > 0.95 * mean  # the masks of somebody else tell nothing
