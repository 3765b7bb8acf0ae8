"""The solver's mathematics: gradients are exact, steps lower the objective, a perfect input is recovered."""

import math
from dataclasses import replace

import pytest
import torch
from bodies import stick_person

from calibration.cameras import Cameras
from rigs import rotation
from rigs.anatomy import Anatomy, anatomy
from studio.fit import lanes, pulls
from studio.fit.points import Model
from studio.fit.priors import ExpressionPrior, JointPrior, Priors, Smoothness
from studio.fit.solve import Problem, nested, objective, settle, smooth
from studio.fit.state import State


def ring(count: int = 4) -> Cameras:
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    position = torch.stack([3.5 * angle.cos(), 3.5 * angle.sin(), torch.full_like(angle, 1.6)], 1)
    z = torch.tensor([0, 0, 1.0], dtype=torch.float64) - position
    z = z / z.norm(dim=1, keepdim=True)
    x = torch.linalg.cross(z, torch.tensor([0, 0, 1.0], dtype=torch.float64).expand_as(z))
    x = x / x.norm(dim=1, keepdim=True)
    R = torch.stack([x, torch.linalg.cross(z, x), z], 1)
    same = lambda *v: torch.tensor(v, dtype=torch.float64).expand(count, -1).clone()  # noqa: E731
    return Cameras(
        tuple(f"c{i}" for i in range(count)),
        same(1280, 720),
        same(900, 900),
        same(639.5, 359.5),
        same(*[0] * 8),
        ("brown",) * count,
        R,
        position,
    )


def random_state(body, T: int, seed: int = 1, size: float = 0.25) -> State:
    g = torch.Generator().manual_seed(seed)
    phase = torch.rand(len(body.skeleton), 3, generator=g, dtype=torch.float64) * 6
    t = torch.arange(T, dtype=torch.float64)[:, None, None] / 12
    turn = size * torch.sin(t + phase)
    root = torch.tensor([0.1, 0, 0.95], dtype=torch.float64) + 0.05 * torch.sin(t[:, :, 0] + torch.arange(3))
    e = 0.3 + 0.2 * torch.sin(t[:, :, 0] + torch.arange(len(body.expression_names)))
    return State(rotation.exp(turn), root, e)


def wide_priors(body) -> Priors:
    a = anatomy(body)
    return Priors(JointPrior(Anatomy(a.axes, a.low - 2, a.high + 2, a.mean), spread=50), ExpressionPrior(sigma=10, wall=1))


def everything(model: Model, shape, views: pulls.Views, kernel: float) -> Problem:
    """All unknowns free, priors out of the way."""
    free = torch.ones(model.unknowns, dtype=torch.bool)
    return Problem(model, shape, lambda x, f: pulls.keypoints(x, views[f], kernel), wide_priors(model.body), free)


@pytest.fixture
def scene():
    body = stick_person()
    model = Model(body, body.skin)
    truth = random_state(body, 5)
    shape = torch.zeros(6, dtype=torch.float64)
    cameras = ring()
    pixels = cameras.project(model.place(truth, shape).points)
    views = pulls.Views.undistorted(cameras, pixels, torch.full(pixels.shape[:-1], 2.0), torch.float64)
    return body, model, truth, shape, views


def test_the_gradient_of_everything_equals_finite_differences(scene):
    body, model, _, shape, views = scene
    priors = Priors(JointPrior(anatomy(body)), ExpressionPrior())
    smoothness = Smoothness.from_sigmas(5.0, torch.full((55,), 20.0, dtype=torch.float64), 30.0, 4, 30.0)
    problem = Problem(model, shape, lambda x, f: pulls.keypoints(x, views[f], 30.0), priors, torch.ones(model.unknowns, dtype=torch.bool))
    state = random_state(body, 5, seed=2, size=0.5)
    normal = problem.normal(problem.look(state, slice(0, 5)))
    gradient = torch.zeros(5, model.unknowns, dtype=torch.float64).index_copy(1, problem.layout.limbs.columns, normal.g)
    gradient = gradient + smoothness.gradient(state)
    g = torch.Generator().manual_seed(0)
    for _ in range(6):
        direction = torch.randn(5, model.unknowns, generator=g, dtype=torch.float64)
        h = 1e-6
        plus, minus = (objective(problem, state.moved(s * h * direction), smoothness) for s in (1, -1))
        slope = (plus - minus) / (2 * h)
        assert abs(float(slope - (gradient * direction).sum())) < 1e-5 * float((gradient.abs() * direction.abs()).sum())


def test_composite_inertias_equal_an_explicit_jacobian_where_points_are_rigid(scene):
    body, _, truth, shape, views = scene
    one = torch.zeros_like(body.skin.weights).scatter(1, body.skin.weights.argmax(1, keepdim=True), 1.0)
    model = Model(body, replace(body.skin, weights=one))
    state = truth[:1]
    placed = model.place(state, shape)
    pull = pulls.keypoints(placed.points, views[slice(0, 1)], 1e6)
    layout = model.layout(torch.ones(model.unknowns, dtype=torch.bool))
    H = layout.limbs.dense(model.assemble(placed, pull, layout))[0]
    x = lambda d: model.place(state.moved(d[None]), shape).points[0]  # noqa: E731
    J = torch.autograd.functional.jacobian(x, torch.full((model.unknowns,), 1e-9, dtype=torch.float64))
    explicit = torch.einsum("kax,kab,kby->xy", J, pull.information[0], J)[layout.limbs.columns][:, layout.limbs.columns]
    assert (explicit - H).abs().max() < 1e-6 * explicit.abs().max()


def test_shape_coupling_equals_an_explicit_jacobian_where_points_are_rigid(scene):
    body, _, truth, shape, views = scene
    one = torch.zeros_like(body.skin.weights).scatter(1, body.skin.weights.argmax(1, keepdim=True), 1.0)
    model = Model(body, replace(body.skin, weights=one))
    state = truth[:1]
    placed = model.place(state, shape)
    pull = pulls.keypoints(placed.points, views[slice(0, 1)], 20.0)
    layout = model.layout(torch.ones(model.unknowns, dtype=torch.bool))
    B, C, c = model.couple_shape(placed, pull, layout)
    x = lambda d: model.place(state.moved(d[None]), shape).points[0]  # noqa: E731
    y = lambda s: model.place(state, s).points[0]  # noqa: E731
    Jx = torch.autograd.functional.jacobian(x, torch.full((model.unknowns,), 1e-9, dtype=torch.float64))
    Js = torch.autograd.functional.jacobian(y, shape)
    explicit = torch.einsum("kax,kab,kby->xy", Jx, pull.information[0], Js)[layout.limbs.columns]
    assert torch.allclose(explicit, B[0], atol=1e-5 * float(B.abs().max()))
    assert torch.allclose(torch.einsum("kax,kab,kby->xy", Js, pull.information[0], Js), C, atol=1e-6 * float(C.abs().max()))
    assert torch.allclose(torch.einsum("kax,ka->x", Js, pull.gradient[0]), c[0], atol=1e-6 * float(c.abs().max()) + 1e-9)


def test_a_perfect_input_is_recovered_from_thirty_degrees_away():
    body, T = stick_person(points=250), 60
    model, shape = Model(body, body.skin), torch.zeros(6, dtype=torch.float64)
    truth, cameras = random_state(body, T), ring()
    pixels = cameras.project(model.place(truth, shape).points)
    views = pulls.Views.undistorted(cameras, pixels, torch.full(pixels.shape[:-1], 2.0), torch.float64)
    g = torch.Generator().manual_seed(3)
    away = torch.randn(T, 55, 3, generator=g, dtype=torch.float64)
    away = rotation.exp(away / away.norm(dim=-1, keepdim=True) * math.radians(30))
    start = State(away @ truth.R, truth.root + 0.1, torch.zeros_like(truth.expression))
    state, _ = settle(everything(model, shape, views, 1e3), start, 40, tolerance=0)
    error = (model.place(state, shape).points - model.place(truth, shape).points).norm(dim=-1).mean(1)
    assert (error < 1e-4).double().mean() >= 0.95  # of the frames, 0.1 mm


def test_outliers_do_not_move_the_body(scene):
    _, model, truth, shape, views = scene
    g = torch.Generator().manual_seed(4)
    bad = torch.rand(views.precision.shape, generator=g) < 0.08
    plane = torch.where(bad, views.plane + 0.2, views.plane)
    dirty = pulls.Views(views.R, views.translation, plane, views.precision)
    state, _ = settle(everything(model, shape, dirty, 4.0), truth, 30)
    error = (model.place(state, shape).points - model.place(truth, shape).points).norm(dim=-1)
    assert error.mean() < 1e-3


def test_smoothing_lowers_the_objective_and_the_acceleration():
    body, T = stick_person(points=250), 24
    model, shape = Model(body, body.skin), torch.zeros(6, dtype=torch.float64)
    truth, cameras = random_state(body, T), ring()
    g = torch.Generator().manual_seed(5)
    pixels = cameras.project(model.place(truth, shape).points)
    noisy = pixels + 4 * torch.randn(pixels.shape, generator=g, dtype=torch.float64)
    views = pulls.Views.undistorted(cameras, noisy, torch.full(pixels.shape[:-1], 4.0), torch.float64)
    problem = replace(everything(model, shape, views, 10.0), chunk=10)
    smoothness = Smoothness.from_sigmas(3.0, torch.full((55,), 10.0, dtype=torch.float64), 30.0, 4, 30.0)
    alone, _ = settle(problem, truth, 15)
    together = smooth(problem, alone, smoothness, 8)
    where = lambda s: model.place(s, shape).points  # noqa: E731
    rough = lambda x: (x[2:] - 2 * x[1:-1] + x[:-2]).norm(dim=-1).mean()  # noqa: E731
    assert objective(problem, together, smoothness) < 0.5 * objective(problem, alone, smoothness)
    assert rough(where(together)) < 0.3 * rough(where(alone))
    assert (where(together) - where(truth)).norm(dim=-1).mean() < (where(alone) - where(truth)).norm(dim=-1).mean()


def test_the_inverse_left_jacobian_is_the_derivative_of_the_logarithm():
    r = torch.tensor([0.4, -1.1, 0.7], dtype=torch.float64)
    J = torch.autograd.functional.jacobian(
        lambda d: rotation.log(rotation.exp(d) @ rotation.exp(r)), torch.full((3,), 1e-9, dtype=torch.float64)
    )
    ours = lanes.against_left_jacobian(r[:, None, None], torch.eye(3, dtype=torch.float64)[:, :, None])[..., 0]
    assert torch.allclose(J.T, ours, atol=1e-6)


def performed(T: int, dtype: torch.dtype = torch.float64):
    """A noisy sequence of a dense stick person: model, views, smoothness, a rough start."""
    body = stick_person(points=250)
    truth, cameras = random_state(body, T), ring()
    exact = Model(body, body.skin).place(truth, torch.zeros(6, dtype=torch.float64)).points
    g = torch.Generator().manual_seed(9)
    pixels = cameras.project(exact) + 2 * torch.randn(4, T, 250, 2, generator=g, dtype=torch.float64)
    views = pulls.Views.undistorted(cameras, pixels, torch.full(pixels.shape[:-1], 2.0), dtype)
    away = rotation.exp(0.2 * torch.randn(T, 55, 3, generator=g, dtype=torch.float64))
    start = State((away @ truth.R).to(dtype), truth.root.to(dtype) + 0.05, torch.zeros_like(truth.expression).to(dtype))
    cast = body.to(dtype=dtype)
    smoothness = Smoothness.from_sigmas(3.0, torch.full((55,), 10.0, dtype=dtype), 30.0, 4, 30.0)
    return Model(cast, cast.skin), views, smoothness, start, exact


def followed(scene, frames: slice = slice(None)):
    """Points (T, K, 3) of `nested` on some of the frames."""
    model, views, smoothness, start, _ = scene
    some, shape = views[frames], torch.zeros(6, dtype=views.plane.dtype)
    problems = [(everything(model, shape, some, kernel), n) for kernel, n in ((30.0, 2), (10.0, 2))]
    return model.place(nested(problems, start[frames], smoothness, fine=4, inner=40), shape).points.double()


def test_single_precision_is_as_good_as_double():
    single, double = performed(40, torch.float32), performed(40)
    assert (followed(single) - followed(double)).norm(dim=-1).mean() < 5e-5  # m


def test_stretches_solved_apart_meet_where_the_whole_goes():
    scene = performed(110)
    whole = followed(scene)
    first, second = followed(scene, slice(0, 80)), followed(scene, slice(30, 110))
    met = torch.cat([first[:55], second[25:]])
    assert (met - whole).norm(dim=-1).mean(1).max() < 1e-4  # m, in every frame
    cold = torch.cat([followed(scene, slice(0, 55))[:55], followed(scene, slice(55, 110))])
    assert (cold - whole)[50:60].norm(dim=-1).mean(1).max() > 1e-4  # without the overlap they do not meet


def test_every_third_frame_first_ends_no_worse_than_all_frames_alone_first():
    scene = performed(36)
    model, views, smoothness, start, exact = scene
    problem = everything(model, torch.zeros(6, dtype=torch.float64), views, 10.0)
    alone, _ = settle(problem, start, 15)
    slow = smooth(problem, alone, smoothness, 8, inner=40, tolerance=0)
    quick = nested([(problem, 4)], start, smoothness, fine=5, inner=40)
    assert objective(problem, quick, smoothness) < 1.001 * objective(problem, slow, smoothness)
    assert (followed(scene) - exact).norm(dim=-1).mean() < 0.6 * (model.place(alone, problem.shape).points - exact).norm(dim=-1).mean()


def test_limbs_solve_as_the_whole_matrix_does():
    body = stick_person()
    model, g = Model(body, body.skin), torch.Generator().manual_seed(1)
    for locked in ((), ("Jaw", "LeftEye", "RightEye"), ("LeftHand", "Spine1")):
        free = torch.ones(model.unknowns, dtype=torch.bool)
        for joint in locked:
            at = 3 + 3 * body.skeleton.index(joint)
            free[at : at + 3] = False
        state, shape, cameras = random_state(body, 3), torch.zeros(6, dtype=torch.float64), ring()
        placed = model.place(state, shape)
        views = pulls.Views.undistorted(cameras, cameras.project(placed.points), torch.full((4, 3, 90), 2.0), torch.float64)
        layout = model.layout(free)
        normal = model.assemble(placed, pulls.keypoints(placed.points, views, 5.0), layout)
        normal = normal.raised(torch.full_like(normal.g, 50.0))
        H, r = layout.limbs.dense(normal), torch.randn(normal.g.shape, generator=g, dtype=torch.float64)
        factor = layout.limbs.factor(normal)
        assert len(layout.limbs.columns) == int(free.sum())
        assert torch.allclose(layout.limbs.solve(factor, r), torch.linalg.solve(H, r[..., None])[..., 0], rtol=1e-8, atol=1e-12)


def test_joint_covariance_is_that_of_the_dense_inverse():
    body = stick_person()
    model, shape = Model(body, body.skin), torch.zeros(6, dtype=torch.float64)
    state, cameras = random_state(body, 1), ring()
    placed = model.place(state, shape)
    views = pulls.Views.undistorted(cameras, cameras.project(placed.points), torch.full((4, 1, 90), 2.0), torch.float64)
    layout = model.layout(torch.ones(model.unknowns, dtype=torch.bool))
    normal = model.assemble(placed, pulls.keypoints(placed.points, views, 5.0), layout)
    normal = normal.raised(torch.full_like(normal.g, 5.0))
    C = torch.linalg.inv(layout.limbs.dense(normal))[0]
    order = layout.limbs.columns

    def joints(d):
        moved = state.moved(torch.zeros_like(d).index_put((order,), d)[None])
        return model.place(moved, shape).p[..., 0].T + moved.root

    L = torch.autograd.functional.jacobian(joints, torch.full((model.unknowns,), 1e-9, dtype=torch.float64))
    right = torch.einsum("jax,xy,jby->jab", L, C, L)
    assert torch.allclose(
        model.joint_covariance(placed, layout.limbs.factor(normal), layout)[0], right, atol=1e-6 * float(right.abs().max())
    )
