"""One person from observations to a fitted body: one shape for all frames, pose and expression per frame, smooth, feet planted.

Stages of freeing: stature and poses in closed form; every frame alone under a wide robust kernel that narrows; the shape on key
frames; every frame alone again; the whole stretch with smoothness; contacts found, then held.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rigs.anatomy import Anatomy, anatomy
from rigs.body import Body, Skin
from rigs.landmarks import landmark_skin
from studio.fit import contact, initial, learned, pulls, recovered, shot
from studio.fit.bursts import Bursts, parts
from studio.fit.config import FitConfig
from studio.fit.earlier import Earlier
from studio.fit.flesh import Flesh
from studio.fit.locked import LOCKED, with_locked_joints
from studio.fit.mirrored import opinions, order_of, turned_back, with_order
from studio.fit.observed import Observed, Source
from studio.fit.order import Order
from studio.fit.outlines import Outlines
from studio.fit.points import Model
from studio.fit.priors import ExpressionPrior, JointPrior, Priors, Smoothness
from studio.fit.seat import HANDS, Seat, seated
from studio.fit.silhouettes import likely_shape
from studio.fit.solve import Problem, settle, settle_shape, smooth, spread
from studio.fit.standing import Standing
from studio.fit.state import Pull, State
from studio.fit.volumes import with_volumes
from studio.fit.windows import faded, windows

FAST = {"Arm": 2.7, "ForeArm": 3.6, "Hand": 4.5, "Leg": 2.7, "UpLeg": 2.2}
"""How much livelier than the trunk a joint accelerates; fingers as `Hand`."""

WIDE = 25.0
"""Kernel that heeds nearly everything: begins a fit, and tells a frame that went astray."""
UNSEEN = 2.0
"""How much livelier than usual a person is granted to be where nobody looks."""
UNLIKE = 0.002
"""How far the joints of a person lie from those of the most similar body that the model can be, per axis, m."""


@dataclass(frozen=True)
class Fitted:
    """The result of a fit."""

    shape: Float[Tensor, "S"]
    shape_sigma: Float[Tensor, "S"]
    state: State
    sigma: Float[Tensor, "T J"]
    """Standard deviation of joint positions, m."""
    contacts: Float[Tensor, "T 8"]
    """Probability that heels and toes, balls and tips of the hands are planted; of hands that are no keypoints 0."""


class Fitter:
    """A body, its priors and a take's strengths, ready to fit stretches of frames."""

    def __init__(self, body: Body, observed: Observed, config: FitConfig) -> None:  # `observed`: any stretch of the take
        self.config, self.fps = config, observed.fps
        device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
        self.device = torch.device(device)
        self.body = body.to(self.device)
        named = tuple(n for n in observed.keypoints if n in body.keypoint_names)
        self.columns = [observed.keypoints.index(n) for n in named]
        self.names = named
        skin, self.scatter = landmark_skin(body, named, observed.network)
        self.scatter = self.scatter.to(self.device)
        self.model = Model(self.body, with_locked_joints(skin, body).to(self.device))
        self.anatomy: Anatomy = anatomy(body).to(self.device)
        weight, file = 1 / max(1.0, config.pose_time * self.fps), Path(config.pose_file or learned.FILE)
        poses = learned.prior(self.anatomy, body.skeleton, config.poses, config.synergies, weight, file, config.shares)
        self.priors = Priors(JointPrior(self.anatomy, known=None if poses is None else poses.joints), ExpressionPrior(), poses)
        self.free = torch.ones(self.model.unknowns, dtype=torch.bool, device=self.device)
        for joint in LOCKED:
            j = 3 + 3 * body.skeleton.index(joint)
            self.free[j : j + 3] = False
        faces = [k for k, n in enumerate(named) if n.startswith("face-")]
        self.faces = faces
        self.standing = Standing.of(self.body, self.model.skin, named, self.fps)
        self.firm = torch.ones(len(named), device=self.device)
        if self.standing is not None:
            self.firm[self.standing.hands] = contact.FIRM
        self.seat: Seat | None = None
        outlined = config.silhouette if observed.masks else 0.0  # without masks there is nothing to sample a surface for
        self.flesh = Flesh.of(self.body, outlined, config.solid, config.floor, config.kernel)
        self.fleshed = self.model
        if self.flesh is not None:
            surface = with_locked_joints(self.flesh.surface.skin, self.body)
            self.fleshed = Model(self.body, Skin.stacked([self.model.skin, surface]))
        seen = observed.sightings if config.dense else None
        self.sighted = None if seen is None else with_locked_joints(body.skin[seen.vertices], body).to(self.device)

    def sat(self, observed: Source) -> Fitter:
        """The same for a whole take, which tells whether hands are all that is seen of this person."""
        seen = observed.coverage()
        if bool(seen.any()) and int(seen.max()) <= HANDS:
            some = seen.nonzero()[:, 0]
            points = observed[some[torch.linspace(0, len(some) - 1, min(24, len(some))).round().long()]].points
            self.seat = seated(self.body, self.names, points[:, self.columns].to(self.device))
        return self

    def doubt(self) -> Float[Tensor, "J"]:
        """What no number of frames averages out, m: how far the landmarks that place each joint scatter on the body, and `UNLIKE`.

        A joint without landmarks of its own has its parent's; the root the mean of its children's.
        """
        carrier = self.model.skin.weights.argmax(1)
        own = [self.scatter[carrier == j] for j in range(len(self.body.skeleton))]
        found = [float(x.mean()) if len(x) else None for x in own]
        known = [x for x in found if x is not None]
        if found[0] is None:
            found[0] = sum(known) / len(known) if known else 0.0
        for j, parent in enumerate(self.body.skeleton.parents):
            if found[j] is None:
                found[j] = found[parent]
        return (torch.tensor(found, device=self.device) ** 2 + UNLIKE**2).sqrt()

    def smoothness(self) -> Smoothness:
        """Accelerations of this take."""

        def lively(joint: str) -> float:
            kind = joint.removeprefix("Left").removeprefix("Right")
            return FAST["Hand"] if kind.startswith("Hand") else FAST.get(kind, 1.0)

        c = self.config
        each = torch.tensor([lively(j) for j in self.body.skeleton.names], device=self.device)
        return Smoothness.from_sigmas(
            c.root_acceleration, c.joint_acceleration * each, c.expression_acceleration, len(self.body.expression_names), self.fps
        )

    def smoothed(self, problem: Problem, state: State, nearly: bool = False) -> tuple[State, Smoothness]:
        """All frames together; smoothness too, which becomes each part's own in each moment while the fit settles. `nearly`: most frames
        have been smooth already."""
        usual, config = self.smoothness(), self.config
        if config.bursts <= 0:
            return smooth(problem, state, usual, 8), usual
        part = parts(self.body.skeleton, len(self.body.expression_names)).to(self.device)
        bursts = Bursts(part, max(1.0, config.bursts / config.joint_acceleration))
        state = smooth(problem, state, usual, 1 if nearly else 3)
        for _ in range(1 if nearly else 2):
            state = smooth(problem, state, bursts.adapted(usual, state), 2)
        return state, bursts.adapted(usual, state)

    def unseated(self, state: State, views: pulls.Views, shape: Tensor) -> Float[Tensor, "T J"]:
        """Spread of the joints without the seat, m; in double precision: the rest hangs on the hands by priors that these far outweigh."""
        sharp, double = views.to(torch.float64), torch.float64
        model = Model(self.body.to(dtype=double), self.model.skin.to(dtype=double))
        priors = Priors(JointPrior(self.anatomy.to(dtype=double)), ExpressionPrior())

        def evidence(points: Tensor, frames: slice | Tensor) -> Pull:
            return pulls.keypoints(points, sharp[frames], self.config.kernel)

        free = self.free.clone()
        free[3 + 3 * len(self.body.skeleton) :] = False
        exact = State(state.R.to(double), state.root.to(double), state.expression.to(double))
        return spread(Problem(model, shape.to(double), evidence, priors, free), exact, None).to(shape)

    def views(self, observed: Observed) -> pulls.Views:
        """Keypoints on the image planes; their uncertainty joined with how far the landmark scatters on the body."""
        pixels, sigma = observed.pixels[:, :, self.columns], observed.sigma[:, :, self.columns]
        depth = observed.cameras.to_camera(observed.points[:, self.columns].nanmean(1, keepdim=True).to(torch.float64))[..., 2]
        depth = torch.where(torch.isfinite(depth), depth, depth.nanmedian().nan_to_num(3.0)).clamp_min(0.3)
        blur = self.scatter.cpu() * (observed.cameras.focal.mean(1)[:, None, None] / depth)
        return pulls.Views.undistorted(observed.cameras, pixels, (sigma**2 + blur**2).sqrt()).to(self.device)

    def problem(
        self,
        shape: Tensor,
        views: pulls.Views,
        kernel: float,
        planted: Tensor | None = None,
        face: bool = True,
        earlier: Earlier | None = None,
    ) -> Problem:
        """The objective for one stretch; expression is free only with `face` and where a face was seen."""

        def evidence(points: Tensor, frames: slice | Tensor) -> Pull:
            pull = pulls.keypoints(points, views[frames], kernel)
            if self.seat is not None:
                pull = pull + self.seat.pull(points)
            if planted is not None:
                pull = pull + pulls.targets(points, planted[frames], (self.config.contact * self.firm).expand(points.shape[:2]), 20.0)
            return pull if earlier is None else pull + earlier.pull(points, frames)

        free = self.free.clone()
        if not face or not bool((views.precision[:, self.faces] > 0).any()):
            free[3 + 3 * len(self.body.skeleton) :] = False
        return Problem(self.model, shape, evidence, self.priors, free)

    def with_sightings(self, problem: Problem, observed: Observed, centre: Float[Tensor, "T 3"]) -> Problem:
        """The problem with what a network saw of the skin, where that is asked."""
        if self.sighted is None or observed.sightings is None:
            return problem
        c = self.config
        return observed.sightings.heeded(problem, self.body, self.sighted, observed.cameras, centre, c.dense, c.kernel)

    def start(self, observed: Observed, shape: Tensor) -> State:
        """Closed-form poses; a network's, if it is asked, where those explain what was seen better."""
        points = observed.points[:, self.columns].to(self.device)
        points = points if self.seat is None else self.seat.completed(points)
        state = initial.poses(self.body, self.anatomy, self.names, points, shape)
        guess = recovered.guessed(self.body, self.anatomy, observed) if self.config.recover and self.seat is None else None
        if guess is None:
            return state
        guess = shot.mended(self.body.to("cpu"), observed, *guess) if self.config.adapt else guess
        return recovered.better(self.problem(shape, self.views(observed), WIDE, face=False), state, *guess)[0]

    def alone(self, state: State, views: pulls.Views, shape: Tensor, rescue: bool = True) -> State:
        """Every frame by itself, the kernel narrowing; with `rescue` who is lost tries where its neighbours are."""
        for kernel, iterations in ((WIDE, 6), (8.0, 6)):
            state, cost = settle(self.problem(shape, views, kernel, face=False), state, iterations)
            state = self._rescued(state, cost, views, shape, kernel) if rescue else state
        state, _ = settle(self.problem(shape, views, self.config.kernel), state, 5)
        return state

    def _rescued(self, state: State, cost: Tensor, views: pulls.Views, shape: Tensor, kernel: float) -> State:
        """Frames far worse than a neighbour start again from its pose."""
        T = len(state)
        for shift in (1, -1):
            source = (torch.arange(T, device=self.device) - shift).clamp(0, T - 1)
            chosen = (cost > 1.5 * cost[source] + 10).nonzero()[:, 0]
            if not len(chosen):
                continue
            tried, new = settle(self.problem(shape, views[chosen], kernel, face=False), state[source[chosen]], 6)
            better = new < cost[chosen]
            state = state.replaced(chosen, tried.where(better, state[chosen]))
            cost = cost.index_put((chosen,), torch.where(better, new, cost[chosen]))
        return state

    def shape(self, observed: Source) -> tuple[Tensor, Tensor]:
        """One person's shape from key frames spread over the stretch; zeros where nothing was seen."""
        seen = observed.coverage()
        good = (seen >= max(8, int(0.5 * float(seen.max())))).nonzero()[:, 0]
        if not len(good) or not len(self.body.shape_names):
            zero = torch.zeros(len(self.body.shape_names), device=self.device)
            return zero, torch.ones_like(zero)
        pick = good[torch.linspace(0, len(good) - 1, min(self.config.key_frames, len(good))).round().long()]
        some = observed[pick]
        points = some.points[:, self.columns].to(self.device)
        likely = likely_shape(self.body, observed) if self.config.mask_shape else None
        told = None if likely is None else (likely.mean, likely.covariance)
        shape = initial.stature(self.body, self.names, points, likely=told)
        views = self.views(some)
        state = self.alone(self.start(some, shape), views, shape)
        problem = self.with_sightings(self.problem(shape, views, self.config.kernel), some, state.root)
        if self.config.volume:
            moments = (observed[slice(t, t + 1)] for t in pick.tolist())  # scattered frames come without masks
            problem = with_volumes(problem, self.body, moments, self.config.volume, self.config.kernel)
        state, shape, sigma = settle_shape(problem, state, 12, likely=told)
        return shape, sigma

    def order(self, observed: Observed) -> Order | None:
        """Who is nearer, as a person said or, if it is asked, as a network thinks."""
        c = self.config
        thought = opinions(observed.cameras, observed.keypoints, observed.pixels, c.order) if c.order else ()
        return order_of((*observed.orders, *thought), self.names, observed.cameras, self.device)

    def again(self, observed: Observed, views: pulls.Views, shape: Tensor, earlier: Earlier) -> State:
        """The earlier poses; where something else is told now, what that leads to from there, or from nothing where it fits far worse than
        the frames around it do."""
        fresh, others = earlier.fresh.nonzero()[:, 0], (~earlier.fresh).nonzero()[:, 0]
        if not len(fresh):
            return earlier.state
        found, _ = settle(self.problem(shape, views[fresh], self.config.kernel), earlier.state[fresh], 5)
        wide = self.problem(shape, views, WIDE)
        cost = wide.cost(found, fresh)
        usual = wide.cost(earlier.state[others], others).median() if len(others) else 0.0
        lost = (cost > 2 * usual + 60).nonzero()[:, 0]
        if len(lost):
            told = views[fresh[lost]]
            anew = self.alone(self.start(observed[fresh[lost]], shape), told, shape, rescue=False)
            better = self.problem(shape, told, WIDE).cost(anew, slice(None)) < cost[lost]
            found = found.replaced(lost, anew.where(better, found[lost]))
        return earlier.state.replaced(fresh, found)

    def held(
        self, observed: Observed, views: pulls.Views, state: State, shape: Tensor, earlier: Earlier | None
    ) -> tuple[Float[Tensor, "T 8"], Float[Tensor, "T K 3"] | None]:
        """Probability that feet and hands are planted, and where they are held, NaN while they are not; None where nothing ever is."""
        if not self.config.contact or self.standing is None or self.seat is not None:
            return torch.zeros(len(state), 8, device=self.device), None
        points = self.model.place(state, shape).points[:, self.standing.chosen]
        own = slice(0, len(points)) if earlier is None else earlier.own
        points = points if earlier is None else earlier.widened(points, self.standing.chosen)
        said = None if observed.standing is None else observed.standing.to(self.device)
        contacts, anchors = self.standing.found(points, self.standing.seen(views), own, said)
        held = torch.full((len(state), len(self.names), 3), torch.nan, device=self.device)
        held[:, self.standing.chosen] = anchors
        return contacts, held

    def stretch(self, observed: Observed, shape: Tensor, earlier: Earlier | None = None) -> tuple[State, Tensor, Tensor]:
        """Poses, joint spread and contacts of consecutive frames; of an `earlier` fit both ends stay."""
        flesh = self.flesh if self.flesh is not None and self.flesh.speaks(observed.masks) else None
        if flesh is None or earlier is None:
            return self._stretch(observed, shape, flesh, None, earlier)
        with ThreadPoolExecutor(1) as aside:  # where somebody waits for an edit, masks are drawn beside the first steps
            drawn = aside.submit(flesh.outlined, observed.cameras, observed.masks, earlier.state.root, observed.others)
            return self._stretch(observed, shape, flesh, drawn, earlier)

    def _stretch(
        self, observed: Observed, shape: Tensor, flesh: Flesh | None, drawn: Future[Outlines | None] | None, earlier: Earlier | None
    ) -> tuple[State, Tensor, Tensor]:
        views, kernel = self.views(observed), self.config.kernel
        if earlier is None:
            state = self.alone(self.start(observed, shape), views, shape)
        else:
            state = self.again(observed, views, shape, earlier)
        problem, order = self.problem(shape, views, kernel, earlier=earlier), self.order(observed)
        if order is not None:
            state = turned_back(lambda kernel: self.problem(shape, views, kernel, earlier=earlier), state, order, kernel)
            problem = with_order(problem, order)
        state, smoothness = self.smoothed(problem, state, earlier is not None)
        contacts, held = self.held(observed, views, state, shape, earlier)
        problem = self.problem(shape, views, kernel, held, earlier=earlier)
        problem = problem if order is None else with_order(problem, order)
        if flesh is not None:
            seen = flesh.outlined(observed.cameras, observed.masks, state.root, observed.others) if drawn is None else drawn.result()
            problem = flesh.joined(problem, self.fleshed, seen)
        problem = self.with_sightings(problem, observed, state.root)
        if held is not None or flesh is not None or self.sighted is not None:
            state = smooth(problem, state, smoothness, 5 if earlier is None else 2)
        # A still moment may be one nobody saw, in which people may do more than they mostly do.
        wary = Smoothness(torch.minimum(smoothness.precision, self.smoothness().precision / UNSEEN**2))
        sigma = (spread(replace(problem, priors=self.priors.apart()), state, wary) ** 2 + self.doubt() ** 2).sqrt()
        if self.seat is not None:  # held is not seen: neither the seat nor other frames tell where the unseen is
            sigma = (self.unseated(state, views, shape) ** 2 + self.doubt() ** 2).sqrt()
        return state, sigma, contacts


def fit_actor(
    body: Body,
    observed: Source,
    config: FitConfig | None = None,
    shape: Float[Tensor, "S"] | None = None,
    advance: Callable[[int], None] = lambda frames: None,
) -> Fitted:
    """Fit one person. A known `shape` is kept, else it is solved first. `advance` hears how many more frames are done."""
    config = config or FitConfig()
    fitter = Fitter(body, observed[slice(0, 1)], config).sat(observed)
    with one_thread():
        if shape is None:
            shape, shape_sigma = fitter.shape(observed)
        else:
            shape, shape_sigma = shape.to(fitter.device), torch.zeros_like(shape)
        parts = list(_stretches(fitter, observed, shape, advance))
    state = faded([(state, kept) for state, kept, _, _ in parts])
    state = replace(state, expression=state.expression.clamp(0, 1))
    return Fitted(shape, shape_sigma, state, torch.cat([p[2] for p in parts]), torch.cat([p[3] for p in parts]))


def _stretches(
    fitter: Fitter, observed: Source, shape: Tensor, advance: Callable[[int], None]
) -> Iterator[tuple[State, slice, Tensor, Tensor]]:
    """Every window's state and which frames of it are its own, and spread and contacts of these, in order; on a CPU several windows at
    once."""
    config = fitter.config
    cuts = list(windows(len(observed), config.window, config.halo))

    def solve(cut: tuple[slice, slice]) -> tuple[State, slice, Tensor, Tensor]:
        whole, kept = cut
        state, sigma, contacts = fitter.stretch(observed[whole], shape)
        advance(kept.stop - kept.start)
        return state, kept, sigma[kept], contacts[kept]

    workers = 1 if fitter.device.type != "cpu" else config.workers or os.cpu_count() or 1
    with ThreadPoolExecutor(min(workers, len(cuts))) as pool:
        yield from pool.map(solve, cuts)


@contextmanager
def one_thread() -> Iterator[None]:
    """Small systems gain nothing from torch's own threads, and lose much when the machine is busy; windows run side by side instead."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
