"""Recovery from single views: geometry of its views, what counts as impossible, and what the critic sees."""

import pytest
import torch

from rigs import makehuman, rotation
from studio.nets.recovery import CROP, FEATURES, Critic, Regressor, Trunk, relative
from studio.nets.shape import JOINTS, Sight
from studio.train import recovery, sampled


@pytest.fixture(scope="module")
def bank():
    return sampled.poses([2], frames=60)


def test_the_truth_reprojects_onto_what_every_camera_saw(bank):
    people = sampled.people(3, 3, 8, bank, clean=True)
    batch = recovery.batch_of(people, slice(0, 3))
    keys = recovery.keypoints(people.shape, batch["R"])
    centre = people.sight.position[:, 0] + people.sight.R_view_world[:, 0, 2] * people.sight.distance[:, :1]
    shift = (people.sight.R_view_world[:, 0] @ (people.root - centre)[..., None])[..., 0]
    off = (recovery.reprojected(keys, shift, batch) - people.keypoints[..., :2]).norm(dim=-1)
    assert float(off.max()) < 1e-3


def test_the_first_view_is_the_frame_of_all():
    sight = Sight.at(torch.randn(2, 3, 3) + 4, torch.zeros(2, 3, 3))
    R = relative(sight.R_view_world)
    assert torch.allclose(R[:, 0], torch.eye(3).expand(2, 3, 3), atol=1e-5)
    assert torch.allclose(R[:, 2] @ sight.R_view_world[:, 0], sight.R_view_world[:, 2], atol=1e-5)


def test_a_view_that_was_not_seen_has_no_say():
    torch.manual_seed(1)
    network = Regressor(5).eval()
    features, R = torch.randn(2, 3, FEATURES), rotation.exp(torch.randn(2, 3, 3))
    seen = torch.tensor([[True, True, False]]).expand(2, 3)
    with torch.no_grad():
        some, all_ = network(features, R, seen)[-1], network(features[:, :2], R[:, :2])[-1]
    assert torch.allclose(some.R, all_.R, atol=1e-5) and torch.allclose(some.shape, all_.shape, atol=1e-5)


def test_scripted_people_stay_within_limits_and_a_knee_bent_forwards_does_not(bank):
    R = rotation.exp(bank)[:, recovery.joint_rows()]
    assert recovery.violations(R) < 0.02
    knee = JOINTS.index("LeftLeg")
    R[:, knee] = rotation.exp(torch.tensor([-1.0, 0.0, 0.0]))  # about x a positive turn takes what hangs below backwards
    forwards = recovery.beyond(R)[:, knee - 1].mean()
    R[:, knee] = rotation.exp(torch.tensor([1.0, 0.0, 0.0]))
    backwards = recovery.beyond(R)[:, knee - 1].mean()
    assert float(forwards) > 0.5 and float(backwards) < 0.1


def test_one_joint_is_broken_and_no_other(bank):
    R = rotation.exp(bank)[:20, recovery.joint_rows()]
    wrong, where = recovery.broken(R, torch.Generator().manual_seed(0))
    turned = rotation.geodesic(wrong, R) > 0.5
    assert torch.equal(turned[:, 1:], where) and bool((where.sum(1) == 1).all())


def test_alignment_takes_away_turn_size_and_place_and_nothing_else():
    g = torch.Generator().manual_seed(4)
    true = torch.randn(6, 12, 3, generator=g)
    moved = 1.7 * true @ rotation.exp(torch.randn(6, 3, generator=g)).mT + 5
    assert torch.allclose(recovery.aligned(moved, true), true, atol=1e-4)
    bent = moved.clone()
    bent[:, 0] += 3
    assert float((recovery.aligned(bent, true) - true).norm(dim=-1).mean()) > 0.1


def test_the_critic_judges_each_joint_by_its_own_rotation_alone():
    torch.manual_seed(2)
    critic = Critic(4).eval()
    R = rotation.exp(torch.randn(1, len(JOINTS) - 1, 3))
    other = R.clone()
    other[:, 3] = rotation.exp(torch.tensor([1.0, 2.0, 0.5]))
    with torch.no_grad():
        changed = (critic(R, torch.zeros(1, 4)) - critic(other, torch.zeros(1, 4))).abs()[0] > 1e-6
    assert changed.nonzero()[:, 0].tolist() == [3, len(JOINTS) - 1]  # its own score, and that of the whole body


def test_an_image_gives_features_of_the_same_kind():
    assert Trunk()(torch.rand(2, 3, CROP, CROP), torch.zeros(2, 2)).shape == (2, FEATURES)


def test_limbs_alone_move_like_the_whole_body(bank):
    body, limbs = makehuman.load(), sampled.Limbed.made()
    R = rotation.exp(bank)[:4]
    shape = torch.randn(4, len(body.shape_names), generator=torch.Generator().manual_seed(1))
    names = ("nose", "left_wrist", "right_big_toe", "left_knee")
    whole = body.shaped(shape).posed(bank[:4], torch.zeros(4, 3)).points(body.keypoint_skin(names))
    few = limbs.points(shape, R[:, recovery.joint_rows()], limbs.keypoints)[:, [recovery.KEYPOINTS.index(n) for n in names]]
    assert torch.allclose(whole, few, atol=1e-4)
