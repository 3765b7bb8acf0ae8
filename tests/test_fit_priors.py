"""Priors on joints: learned poses, synergies of the hand, liveliness of parts; truth is scripted, or a BVH of somebody else's."""

import math
import os
from functools import cache
from pathlib import Path

import pytest
import torch
from test_fit_person import performed
from test_fit_solver import ring

from rigs import makehuman, rotation
from rigs.anatomy import anatomy
from rigs.keypoints import COCO_WHOLEBODY
from studio.fit import learned
from studio.fit.config import FitConfig
from studio.fit.limbs import Normal
from studio.fit.observed import Observed
from studio.fit.person import fit_actor
from studio.fit.points import Model
from studio.fit.priors import ExpressionPrior, JointPrior, Priors
from studio.fit.state import State
from studio.train.pose_prior import learn
from studio.virtual import anatomy as acted
from studio.virtual.actions import smooth
from studio.virtual.anatomy import Performance
from studio.virtual.bvh import from_bvh
from studio.virtual.motion import scripted


def priors(weight: float = 1.0, synergies: float = 0.12) -> Priors:
    body = makehuman.load()
    a = anatomy(body).to(dtype=torch.float64)
    return Priors(JointPrior(a), ExpressionPrior(), learned.prior(a, body.skeleton, 0.2, synergies, weight, shares=0.2))


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
    for a, b in (("LeftForeArm", "LeftArm"), ("RightLeg", "RightUpLeg"), ("LeftHandIndex3", "LeftHandIndex2")):
        assert float(H[:, at(a), at(b)].abs().max()) > 0.5, (a, b)
        assert torch.allclose(H[:, at(a), at(b)], H[:, at(b), at(a)].mT)
    assert float(H[:, at("LeftForeArm"), at("RightArm")].abs().max()) == 0


def test_a_nod_is_shared_by_neck_and_head_as_their_ranges_allow():
    body = makehuman.load()
    a, names = anatomy(body), body.skeleton.names
    neck, head = names.index("Neck"), names.index("Head")

    def cost(bent: float, nodded: float, shares: float = 0.2) -> float:
        off = torch.zeros(3, len(names), 1)
        off[0, neck], off[0, head] = bent, nodded
        prior = learned.prior(a, body.skeleton, 0.2, 0.12, shares=shares)
        return float(prior.cost(off) - prior.cost(torch.zeros_like(off)))

    half = 0.5 * (a.high - a.low)[[neck, head], 0]
    share = (0.6 * half / half.sum()).tolist()
    assert cost(*share) < 0.5 < 5 * cost(*share) < cost(0.6, 0.0) and cost(0.6, 0.0, 0.0) == 0


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


def watched(truth: Performance, fps: float, hidden: tuple[str, ...] = (), frames: slice = slice(None), seed: int = 1) -> Observed:
    """Four cameras, 3 px noise, a fifth missing; keypoints that begin with a hidden word are not seen in those frames."""
    points = truth.body.shaped(torch.zeros(0)).posed(truth.rotation, truth.translation, truth.expression)
    points = points.points(truth.body.keypoint_skin(COCO_WHOLEBODY))
    g = torch.Generator().manual_seed(seed)
    pixels = ring().project(points.double())
    pixels = pixels + 3 * torch.randn(pixels.shape, generator=g, dtype=torch.float64)
    pixels[torch.rand(pixels.shape[:-1], generator=g) < 0.2] = math.nan
    rough = points + 0.01 * torch.randn(points.shape, generator=g)
    which = [k for k, n in enumerate(COCO_WHOLEBODY) if n.startswith(hidden)] if hidden else []
    start, stop, _ = frames.indices(len(points))
    for k in which:
        pixels[:, start:stop, k], rough[start:stop, k] = math.nan, math.nan
    return Observed(ring(), COCO_WHOLEBODY, "exact", fps, pixels, torch.full(pixels.shape[:-1], 3.0, dtype=torch.float64), rough)


def joints(truth: Performance, observed: Observed, config: FitConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Fitted and true joints, m."""
    found = fit_actor(makehuman.load(), observed, config)
    fitted = makehuman.load().shaped(found.shape).posed(rotation.log(found.state.R), found.state.root).joints
    return fitted, truth.body.shaped(torch.zeros(0)).posed(truth.rotation, truth.translation).joints


def off(truth: Performance, observed: Observed, config: FitConfig, names: tuple[str, ...], frames: slice = slice(None)) -> float:
    """Mean distance of some joints, m."""
    fitted, exact = joints(truth, observed, config)
    which = [truth.body.skeleton.index(n) for n in names]
    return float((fitted - exact)[frames][:, which].norm(dim=-1).mean())


def acting(seed: int, frames: int, **curves: torch.Tensor) -> Performance:
    zero = torch.zeros(frames, dtype=torch.float64)
    return acted.performed(makehuman.individual(seed), {k: zero + v for k, v in curves.items()}, torch.zeros(2, dtype=torch.float64), 0.4)


LEG = ("LeftLeg", "LeftFoot", "LeftToeBase")
SHIN = ("left_knee", "left_ankle", "left_heel", "left_big_toe", "left_small_toe")


def bridged(truth: Performance, without: tuple[str, ...], folder: Path) -> list[float]:
    """Error of a leg that nobody sees for two thirds of a second: without learned poses, and with those of other motion."""
    file = learn(without, range(2), folder / "poses.safetensors")
    gap = slice(14, 34)
    seen = watched(truth, 30.0, SHIN, gap)
    return [off(truth, seen, FitConfig(poses=p, pose_file=str(file), key_frames=12), LEG, gap) for p in (0.0, FitConfig.poses)]


def test_a_kick_nobody_sees_is_closer_with_poses_learned_from_other_motion(tmp_path):
    truth = scripted(makehuman.individual(2), 48, 30.0, 2, "kick")
    without, with_poses = bridged(truth, ("kick", "squat", "lunge"), tmp_path)
    assert with_poses < 0.85 * without, (without, with_poses)


def test_hidden_fingers_close_with_those_that_are_seen():
    fist = {f"{s}_{f}": torch.tensor(0.8) for s in ("Left", "Right") for f in acted.FINGERS}
    truth = acting(3, 20, **fist, Left_elbow=torch.tensor(1.2), Right_elbow=torch.tensor(1.0))
    hidden = tuple(f"{s}_{f}" for s in ("left", "right") for f in ("middle", "ring", "pinky"))
    tips = tuple(f"{s}Hand{f}3" for s in ("Left", "Right") for f in ("Middle", "Ring", "Pinky"))
    seen = watched(truth, 30.0, hidden)
    without, together = (off(truth, seen, FitConfig(synergies=s, key_frames=12), tips) for s in (0.0, FitConfig.synergies))
    assert together < 0.92 * without, (without, together)


def test_a_strike_keeps_its_speed_and_a_held_pose_trembles_less():
    """Peak acceleration 200 m/s^2 at 60 frames a second; the guard before it is held still."""
    t = torch.arange(56) / 60.0
    go = torch.from_numpy(smooth(((t - 0.5) / 0.1).numpy()) - smooth(((t - 0.72) / 0.2).numpy()))
    truth = acting(1, 56, Left_elbow=2.1 - 1.95 * go, Left_raise=0.5 + 0.95 * go, Left_front=1.0 + 0.45 * go, twist=-0.3 * go)
    hand = truth.body.skeleton.index("LeftHand")
    kept, trembling = [], []
    for bursts in (0.0, FitConfig.bursts):
        fitted, exact = joints(truth, watched(truth, 60.0), FitConfig(bursts=bursts, key_frames=12))
        speed = lambda x: float((x[1:, hand] - x[:-1, hand]).norm(dim=-1).max())  # noqa: E731
        kept.append(speed(fitted) / speed(exact))
        trembling.append(float(torch.diff(fitted[4:26], n=2, dim=0).norm(dim=-1).mean()))
    assert kept[0] < 0.8 and 0.85 < kept[1] < 1.05, kept
    assert trembling[1] < 0.85 * trembling[0], trembling


def test_a_recorded_walk_whose_leg_is_unseen_is_closer_with_poses_learned_without_walking(tmp_path):
    data = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = data / "bvh_oracle" / "walk01.bvh"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    truth = from_bvh(makehuman.individual(1), path, 48, 30.0, 1)
    without, with_poses = bridged(truth, ("walk",), tmp_path)
    assert with_poses < without, (without, with_poses)


def test_a_wrong_table_and_an_unknown_script_are_named(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.safetensors: cannot be read.*studio train pose_prior"):
        learned.learned(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="no script 'dance'"):
        learn(("dance",), file=tmp_path / "y.safetensors")
