"""Depth from order: what the loss is told, what the network says, and that it learns from order alone."""

import pytest
import torch

from studio.nets.ordinal import HIPS, KEYPOINTS, Lifter, flat, shipped
from studio.train import ordinal
from studio.train.loop import Loop
from studio.train.poses import HELD_OUT


@pytest.fixture(scope="module")
def strangers():
    """People and actions that the shipped network has not seen."""
    return ordinal.views(range(29_400, 29_402), 100, HELD_OUT, 3)


def test_order_says_who_is_nearer_and_who_is_level():
    z = torch.tensor([[0.0, 0.5, 0.05]])
    assert ordinal.order(z).tolist() == [[[0, 1, 0], [-1, 0, -1], [0, 1, 0]]]


def test_the_loss_falls_only_towards_the_order_that_was_said():
    z = torch.tensor([[0.0, 0.3]])
    right, wrong = (ordinal.ranking(z, torch.tensor([[[0.0, s], [-s, 0.0]]])) for s in (1.0, -1.0))
    level = ordinal.ranking(z, torch.zeros(1, 2, 2))
    assert float(right) < 0.05 and float(wrong) > 3 and float(level) > 3


def test_labels_by_lot_are_half_wrong_and_stay_antisymmetric():
    z = torch.randn(50, 17, generator=torch.Generator().manual_seed(0))
    true, lot = ordinal.told(z, "ordinal", 0), ordinal.told(z, "random", 0)
    clear = true != 0
    assert 0.45 < float((true == lot)[clear].float().mean()) < 0.55
    assert torch.equal(lot, -lot.mT)


def test_what_is_not_seen_is_zero_and_says_so():
    plane = torch.randn(2, 17, 2, generator=torch.Generator().manual_seed(1))
    plane[0, 9] = torch.nan
    seen, centre, size = flat(plane)
    assert seen[0, 9].tolist() == [0, 0, 0] and seen[1, 9, 2] == 1
    assert torch.allclose(seen[1, :, :2] * size[1] + centre[1], plane[1], atol=1e-5)
    assert torch.allclose(centre[1], plane[1, list(HIPS)].mean(0))


def test_order_alone_teaches_order_within_seconds():
    data = ordinal.views(range(20_000, 20_002), 150, ("wave", "walk", "squat"), 1)
    network = Lifter(96)
    before = ordinal.measured(network.eval(), data)["pairs in order"]
    ordinal._learned(network, data, Loop(150, 0, device="cpu", precision="float32"), "ordinal")
    assert before < 0.7 and ordinal.measured(network, data)["pairs in order"] > 0.85


def test_the_shipped_network_orders_the_keypoints_of_strangers(strangers):
    errors = ordinal.measured(shipped(), strangers)
    assert errors["pairs in order"] > 0.87 and errors["pose mm"] < 120
    flattened = ordinal.measured(shipped(), strangers, torch.zeros(len(strangers), len(KEYPOINTS)))
    assert flattened["pose mm"] > 1.2 * errors["pose mm"]  # depth is what it adds


def test_the_shipped_network_is_right_as_often_as_it_says(strangers):
    network = shipped()
    with torch.no_grad():
        p = network.depth.nearer(network.depth.depth(network.depth(flat(strangers.plane)[0], strangers.tilt)))
    ends = [(KEYPOINTS.index(a), KEYPOINTS.index(b)) for a, b in ordinal.LIMBS]
    said = torch.stack([p[:, i, j] for i, j in ends], 1)
    right = torch.stack([strangers.truth[:, i, 2] < strangers.truth[:, j, 2] for i, j in ends], 1)
    sure = (said > 0.9) | (said < 0.1)
    assert float(sure.float().mean()) > 0.2
    assert 0.88 < float(((said > 0.5) == right)[sure].float().mean()) <= 1.0
