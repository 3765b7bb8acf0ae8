"""Rotations against scipy's."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from rigs import rotation


def vectors(count=500, seed=0):
    """Rotation vectors of every length up to pi, and the awkward ones: zero, tiny, and near pi about every axis."""
    random = np.random.default_rng(seed)
    axes = random.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = np.concatenate([[0, 1e-12, 1e-8, 1e-5, 2e-4, 1e-3, np.pi - 1e-6, np.pi - 1e-9], random.uniform(0, np.pi, count - 8)])
    awkward = np.concatenate([np.eye(3), -np.eye(3)]) * (np.pi - 1e-7)
    return np.concatenate([axes * angles[:, None], awkward])


def test_exp_equals_scipy_in_both_precisions():
    v = vectors()
    expected = Rotation.from_rotvec(v).as_matrix()
    assert np.abs(rotation.exp(torch.from_numpy(v)).numpy() - expected).max() < 1e-12
    assert np.abs(rotation.exp(torch.from_numpy(v).float()).numpy() - expected).max() < 1e-6


def test_a_tiny_turn_keeps_its_second_order_in_single_precision():
    v = torch.tensor([5e-4, 0, 0])
    R = rotation.exp(v)
    assert abs(float(1 - R[1, 1].double()) - (1 - np.cos(5e-4))) < 7e-8
    assert torch.autograd.functional.jacobian(lambda x: rotation.exp(x)[2, 2], v)[0].item() == pytest.approx(-np.sin(5e-4), rel=1e-3)


def test_log_undoes_exp_up_to_half_a_turn():
    v = vectors()
    back = rotation.log(torch.from_numpy(Rotation.from_rotvec(v).as_matrix())).numpy()
    assert np.abs(Rotation.from_rotvec(back).as_matrix() - Rotation.from_rotvec(v).as_matrix()).max() < 1e-9
    assert np.linalg.norm(back, axis=1).max() <= np.pi + 1e-12
    inside = np.linalg.norm(v, axis=1) < 3.14
    assert np.abs(back - v)[inside].max() < 1e-9


def test_log_of_exactly_half_a_turn_is_half_a_turn():
    R = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    assert rotation.log(R).abs().tolist() == pytest.approx([0, 0, np.pi])


def test_quaternions_equal_scipys():
    v = vectors()
    q = rotation.quaternion(torch.from_numpy(Rotation.from_rotvec(v).as_matrix())).numpy()
    expected = Rotation.from_rotvec(v).as_quat(canonical=True)[:, [3, 0, 1, 2]]
    assert np.minimum(np.abs(q - expected), np.abs(q + expected)).max() < 1e-9
    assert (q[:, 0] >= 0).all()
    assert np.abs(rotation.matrix(torch.from_numpy(3.7 * q)).numpy() - Rotation.from_rotvec(v).as_matrix()).max() < 1e-9


def test_gradients_are_finite_at_the_identity_and_match_differences():
    v = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    rotation.log(rotation.exp(v)).sum().backward()
    assert v.grad is not None and torch.isfinite(v.grad).all()
    assert torch.autograd.gradcheck(rotation.exp, torch.from_numpy(vectors(20)[:18]).requires_grad_())


def test_six_numbers_give_the_rotation_whose_columns_they_are():
    R = torch.from_numpy(Rotation.random(50, random_state=1).as_matrix())
    stretched = torch.cat([2 * R[..., 0], 0.5 * R[..., 1] + 3 * R[..., 0]], -1)
    assert (rotation.from_6d(stretched) - R).abs().max() < 1e-12


def test_geodesic_is_the_angle_between():
    a, b = Rotation.random(50, random_state=2), Rotation.random(50, random_state=3)
    angle = rotation.geodesic(torch.from_numpy(a.as_matrix()), torch.from_numpy(b.as_matrix())).numpy()
    assert np.abs(angle - (a.inv() * b).magnitude()).max() < 1e-9


def test_the_nearest_rotation_is_no_reflection_and_beats_its_neighbours():
    torch.manual_seed(0)
    M = torch.randn(40, 3, 3, dtype=torch.float64)
    R = rotation.project_to_rotation(M)
    assert (torch.det(R) - 1).abs().max() < 1e-9
    for seed in range(5):
        near = torch.from_numpy(Rotation.from_rotvec(0.05 * np.random.default_rng(seed).normal(size=(40, 3))).as_matrix()) @ R
        assert ((M - R).square().sum((1, 2)) <= (M - near).square().sum((1, 2)) + 1e-12).all()


def test_slerp_turns_at_constant_speed_the_short_way():
    a, b = (Rotation.random(30, random_state=s).as_quat(canonical=True)[:, [3, 0, 1, 2]] for s in (4, 5))
    a, b = torch.from_numpy(a), -torch.from_numpy(b)
    whole = rotation.geodesic(rotation.matrix(a), rotation.matrix(b))
    for t in (0.0, 0.3, 1.0):
        part = rotation.matrix(rotation.slerp(a, b, torch.full((30,), t, dtype=torch.float64)))
        assert (rotation.geodesic(rotation.matrix(a), part) - t * whole).abs().max() < 1e-7
        assert (rotation.geodesic(part, rotation.matrix(b)) - (1 - t) * whole).abs().max() < 1e-7
