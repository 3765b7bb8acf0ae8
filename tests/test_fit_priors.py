"""Priors on joints: learned poses, synergies of the hand, liveliness of parts; truth is scripted, or a BVH of somebody else's."""

from functools import cache

import torch
from test_fit_person import performed

from rigs import makehuman, rotation
from rigs.anatomy import anatomy
from studio.fit import learned
from studio.fit.limbs import Normal
from studio.fit.points import Model
from studio.fit.priors import ExpressionPrior, JointPrior, Priors
from studio.fit.state import State


def priors(weight: float = 1.0, synergies: float = 0.12) -> Priors:
    body = makehuman.load()
    a = anatomy(body).to(dtype=torch.float64)
    return Priors(JointPrior(a), ExpressionPrior(), learned.prior(a, body.skeleton, 0.2, synergies, weight))


def double(state: State) -> State:
    return State(rotation.exp(rotation.log(state.R.double())), state.root.double(), torch.full_like(state.expression, 0.3).double())


@cache
def model() -> Model:
    body = makehuman.load()
    return Model(body, body.keypoint_skin(("nose", "left_wrist", "left_forefinger4", "right_wrist")))


def normal(prior: Priors, state: State):
    """The prior's own normal equations, dense, in the order of the body's unknowns."""
    layout = model().layout(torch.ones(model().unknowns, dtype=torch.bool))
    T, levels = len(state), layout.limbs.levels
    own = [torch.zeros(T, x.count, x.size, x.size, dtype=torch.float64) for x in levels]
    border = [torch.zeros(T, x.count, x.size, x.border.shape[1], dtype=torch.float64) for x in levels]
    system = prior.added(Normal(own, border, torch.zeros(T, len(layout.limbs.columns), dtype=torch.float64)), state, layout)
    back = layout.limbs.columns.argsort()
    return system.g[:, back], layout.limbs.dense(system)[:, back][:, :, back]


def test_the_gradient_of_all_priors_equals_finite_differences():
    state, prior = double(performed(makehuman.individual(1), 6, 1)), priors()
    gradient, _ = normal(prior, state)
    g = torch.Generator().manual_seed(0)
    for _ in range(6):
        direction = torch.randn(6, model().unknowns, generator=g, dtype=torch.float64)
        plus, minus = (prior.cost(state.moved(s * 1e-6 * direction)) for s in (1, -1))
        slope = (plus - minus) / 2e-6
        assert torch.allclose(slope, (gradient * direction).sum(1), rtol=1e-4, atol=1e-3)


def test_the_priors_matrix_lies_above_the_curvature_that_the_tree_cannot_hold():
    """At the mean of a Gaussian the solver's blocks are no smaller than the true precision, also between fingers."""
    hand = next(k for k in priors().poses.kinds if k.mean.shape[1] == 45)
    above = torch.block_diag(*hand.blocks[0]) - hand.precision[0]
    assert float(torch.linalg.eigvalsh(above).min()) > -1e-9 * float(hand.precision.abs().max())
    assert float(above.abs().max()) > 1  # fingers do share something


def test_joints_of_a_limb_are_coupled_in_the_solvers_matrix():
    state = double(performed(makehuman.individual(1), 2, 1))
    _, H = normal(priors(), state)
    names = makehuman.load().skeleton.names
    at = lambda n: slice(3 + 3 * names.index(n), 6 + 3 * names.index(n))  # noqa: E731
    for a, b in (("LeftForeArm", "LeftArm"), ("RightLeg", "RightUpLeg"), ("LeftHandIndex3", "LeftHandIndex2"), ("Head", "Neck")):
        assert float(H[:, at(a), at(b)].abs().max()) > 0.5, (a, b)
        assert torch.allclose(H[:, at(a), at(b)], H[:, at(b), at(a)].mT)
    assert float(H[:, at("LeftForeArm"), at("RightArm")].abs().max()) == 0


def test_a_pose_unlike_all_costs_a_bounded_amount_and_is_not_pulled():
    prior = priors().poses
    names = makehuman.load().skeleton.names
    off = torch.zeros(3, 55, 40, dtype=torch.float64)
    off[0, names.index("LeftArm")] = torch.linspace(0, 12, 40)
    cost = prior.cost(off)
    assert float(cost.min()) >= 0 and float(cost[-1] - cost[-2]) < 1e-3 < float(cost[4] - cost[0])
    turn = torch.eye(3, dtype=torch.float64)[:, :, None, None].expand(3, 3, 55, 40)
    slope = prior.terms(off, turn)[0][0, names.index("LeftArm")]
    assert float(slope[-1].abs()) < 1e-3 * float(slope.abs().max())
