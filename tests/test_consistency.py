"""Multi-view consistency: what it measures, what it cannot be cheated with, and that it learns from views alone."""

import pytest
import torch

from rigs import rotation
from studio.nets.monocular import Monocular
from studio.train import consistency
from studio.train.consistency import VIEWS, agreed, disagreement
from studio.train.poses import TRAINED


@pytest.fixture(scope="module")
def data():
    return consistency.moments(range(41_000, 41_002), 12, TRAINED, 0)


def views_of(pose, seed=0):
    """One pose as cameras see it that are turned anyhow."""
    g = torch.Generator().manual_seed(seed)
    R = rotation.exp(torch.randn(len(pose), VIEWS, 3, generator=g))
    return pose[:, None] @ R.mT, R


def test_views_of_one_pose_agree_and_those_of_two_do_not():
    pose = torch.randn(5, 17, 3, generator=torch.Generator().manual_seed(1))
    seen, R = views_of(pose)
    assert float(disagreement(seen, R)) < 1e-10
    seen[:, 0] = seen[:, 0].flip(0)
    assert float(disagreement(seen, R)) > 0.05
    assert float(disagreement(views_of(pose)[0], rotation.exp(torch.randn(5, VIEWS, 3)))) > 0.1


def test_shrinking_all_poses_does_not_make_them_agree():
    pose = torch.randn(5, 17, 3, generator=torch.Generator().manual_seed(2))
    seen, R = views_of(pose)
    seen = seen + 0.2 * torch.randn(seen.shape, generator=torch.Generator().manual_seed(3))
    assert float(disagreement(0.01 * seen, R)) == pytest.approx(float(disagreement(seen, R)), rel=1e-3)


def test_what_all_views_say_leaves_out_the_one_that_is_wrong():
    pose = torch.randn(5, 17, 3, generator=torch.Generator().manual_seed(4))
    seen, R = views_of(pose)
    wrong = seen.clone()
    wrong[:, 1] += 3.0
    assert float((agreed(wrong, R)[:, [0, 2, 3]] - seen[:, [0, 2, 3]]).abs().max()) < 1e-4


def test_the_views_of_a_moment_are_one_pose_and_those_a_second_later_another(data):
    world = data.truth @ data.R_view_world
    assert float((world[:, 0] - world[:, 0, :1]).abs().max()) < 1e-4
    assert float((world[:, 0, 0] - world[:, 1, 0]).norm(dim=-1).mean()) > 0.05


def test_cameras_triangulate_what_they_see_and_say_how_well(data):
    """Beside exact projections, one view is wrong: the point stays, and where hardly anybody sees it nothing is said."""
    g = torch.Generator().manual_seed(7)
    R, position = data.R_view_world[:, 0], data.position[:, 0]
    points = torch.tensor([0.0, 0.0, 1.0]) + 0.4 * torch.randn(len(data), 17, 3, generator=g)
    view = (points[:, None] - position[:, :, None]) @ R.mT
    plane = view[..., :2] / view[..., 2:]
    plane[:, 2, 5] += 0.1  # 30 cm off
    plane[:, 1:, 6] = torch.nan
    found, spread = consistency.triangulated(plane, R, position)
    off = (found - points).norm(dim=-1)
    assert float(off[:, [k for k in range(17) if k not in (5, 6)]].max()) < 1e-3
    assert float(off[:, 5].median()) < 0.01
    assert bool(torch.isinf(spread[:, 6]).all()) and bool(torch.isfinite(spread[:, :5]).all())


def test_what_is_projected_lies_where_the_pose_says(data):
    """Rays through the detected points pass near the true ones: independent of how the cameras were made."""
    seen = torch.isfinite(data.plane).all(-1)
    flatness = (data.plane - data.plane[..., :1, :].nan_to_num()).norm(dim=-1)[seen].median()
    size = data.truth[..., :2].norm(dim=-1)[seen].median()
    assert 0.1 < float(flatness / size) < 0.8  # a person 2.5 to 5 m away


def test_views_teach_a_network_that_has_hardly_any_labels(monkeypatch):
    monkeypatch.setattr(consistency, "BATCH", 12)
    data = consistency.moments(range(41_010, 41_012), 40, TRAINED, 1)
    torch.manual_seed(0)
    first = consistency.begun(data, 0, 60)
    seen, tilt, R = data.inputs(torch.arange(len(data)))
    apart = lambda n: float(disagreement(n(seen.flatten(0, 1), tilt.flatten()).unflatten(0, (-1, VIEWS)), R))  # noqa: E731
    taught = consistency.fitted(data, "consistency", 0, 60, first=first)
    alone = consistency.fitted(data, "supervised", 0, 60, first=first)
    assert isinstance(taught, Monocular) and apart(taught) < 0.8 * apart(alone)
