"""One actor as frames arrive: the solver of whole takes on a short window that moves on, for live use.

A frame is given out `lag` frames after it came. Until then it is solved again with every new one, under the same terms, priors and limits
as in a take; frames that left tell the window what they knew (`studio.fit.past`). Nothing depends on a frame that has not come yet.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from rigs.body import Body
from studio.fit import contact, lanes, pulls
from studio.fit.config import FitConfig
from studio.fit.observed import Observed
from studio.fit.past import Continued, Past, condensed, eliminated
from studio.fit.person import Fitter, one_thread
from studio.fit.solve import Problem, smooth
from studio.fit.state import State, time_last

LEAST = 8
"""Keypoints in 3D that a start needs, and sightings of keypoints without which a frame counts as blind."""
MUCH = 0.02
"""Share of the objective that a step gains when another is worth its time."""
TRUNK = ("left_hip", "right_hip", "left_shoulder", "right_shoulder")
LOST = 0.6
"""Above this share of the most that evidence can cost, a frame's pose is beside what is seen."""
WIDE = 25.0
"""Kernel under which what is seen of a foot is believed though the body has it elsewhere, in standard deviations."""
UNSEEN = 0.05
"""How far a foot may be from where the body has it where views do not tell, m."""
CALM = 5
"""Frames over which what is seen of a foot is averaged: networks tremble."""
FADE = 0.1
"""How quickly a body nobody sees comes to rest, s."""
FLOOR_MEMORY = 10.0
"""How long feet are remembered, s: they show where the floor is, and where a foot that stands was put down."""


@dataclass(frozen=True)
class CausalConfig:
    """How a take is followed while it happens."""

    lag: int = 10
    """Frames between one that comes and the one that is given out; 0 gives out what just came."""
    memory: int = 6
    """Frames solved together at least, whatever the lag: what left earlier was not yet settled, and misleads what follows."""
    iterations: int = 2
    """Steps a frame at most; the second only where the first changed much, or failed."""
    learn: float = 3.0
    """Footage that a shape nobody knows is solved from, s; nothing is given out until then."""
    patience: float = 0.3
    """How long an actor whom nobody sees is believed to go on, s (and `lag` frames at least); then the pose is held until seen again."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(device="cpu", silhouette=0.0, key_frames=32))
    """Strengths of the terms. Silhouettes are not used."""

    def __post_init__(self) -> None:
        for name, least in (("lag", 0), ("memory", 2), ("iterations", 1), ("learn", 0.1), ("patience", 0.0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"causal fit: {name} {getattr(self, name)}: needs at least {least}")


@dataclass(frozen=True)
class Solved:
    """One frame given out."""

    frame: int
    """Counted from the first that was pushed."""
    state: State
    """Of this frame alone."""
    contacts: Float[Tensor, "4"]
    """Probability that each of `contact.POINTS` is planted."""
    followed: bool
    """False where the actor was lost and the pose is held."""


class Causal:
    """Follows one actor: push a frame, get those whose lag is over. Memory does not grow.

    Without a known shape the first seconds are kept, the shape is solved from them and held; then they are given out at once.
    """

    def __init__(self, body: Body, config: CausalConfig | None = None, shape: Float[Tensor, "S"] | None = None) -> None:
        self.body, self.config, self.shape = body, config or CausalConfig(), shape
        self._fitter: Fitter | None = None
        self._waiting: deque[Observed] = deque()
        self._window: _Window | None = None
        self._next = 0

    def push(self, seen: Observed) -> list[Solved]:
        """What can be given out now that one more frame has come: usually one frame, none before the actor is found."""
        if len(seen) != 1:
            raise ValueError(f"causal fit: push one frame at a time, got {len(seen)}")
        with one_thread():
            self._fitter = self._fitter or Fitter(self.body, seen, self.config.fit)
            if self._window is not None:
                return self._window.push(seen)
            if self.shape is None and not self._learned(seen):
                return []
            assert self.shape is not None
            self._window = _Window(self._fitter, self.config, self.shape.to(self._fitter.device), self._next)
            return [x for one in [*self._waiting, *([] if self._waiting else [seen])] for x in self._window.push(one)]

    def finish(self) -> list[Solved]:
        """The frames that are left when no more will come."""
        with one_thread():
            out: list[Solved] = []
            if self._window is None and self._fitter is not None and any(_found(x, self._fitter) for x in self._waiting):
                self._solve_shape()
                assert self.shape is not None
                self._window = _Window(self._fitter, self.config, self.shape, self._next)
                out = [x for one in self._waiting for x in self._window.push(one)]
            return out if self._window is None else out + self._window.finish()

    def _learned(self, seen: Observed) -> bool:
        """Keeps frames until there are enough; then solves the shape."""
        assert self._fitter is not None
        enough = max(1, round(self.config.learn * seen.fps))
        found = _found(seen, self._fitter)
        if not self._waiting and not found:
            self._next += 1
            return False
        self._waiting.append(seen)
        if len(self._waiting) > 3 * enough:
            self._waiting.popleft()
            self._next += 1
        if sum(_found(x, self._fitter) for x in self._waiting) < enough:
            return False
        self._solve_shape()
        return True

    def _solve_shape(self) -> None:
        assert self._fitter is not None
        self.shape = self._fitter.shape(joined([x for x in self._waiting if _found(x, self._fitter)]))[0]


def joined(parts: Sequence[Observed]) -> Observed:
    """Frames of one actor, one after the other."""
    cat = lambda name, axis: torch.cat([getattr(p, name) for p in parts], axis)  # noqa: E731
    return replace(parts[0], pixels=cat("pixels", 1), sigma=cat("sigma", 1), points=cat("points", 0), standing=None, masks=())


def _found(seen: Observed, fitter: Fitter) -> bool:
    """Whether one frame alone tells where the body is."""
    there = torch.isfinite(seen.points[0, fitter.columns]).all(-1)
    trunk = [k for k, n in enumerate(fitter.names) if n in TRUNK]
    return int(there.sum()) >= LEAST and int(there[trunk].sum()) >= 3


class _Window:
    """The frames that are not settled yet, and what earlier ones left."""

    def __init__(self, fitter: Fitter, config: CausalConfig, shape: Tensor, first: int) -> None:
        self.fitter, self.config, self.shape = fitter, config, shape
        self.smoothness = fitter.smoothness()
        self.free = fitter.free.clone()
        if not fitter.faces:
            self.free[3 + 3 * len(fitter.body.skeleton) :] = False
        self.patience = max(round(config.patience * fitter.fps), config.lag)
        self.first = first
        """Number of the first frame here."""
        self.given = first
        """Number of the frame to give out next."""
        self.state: State | None = None
        self.views: pulls.Views | None = None
        self.contacts = torch.zeros(0, 4, device=fitter.device)
        self.seen: list[bool] = []
        self.followed: list[bool] = []
        self.bound = 0
        """How many frames, counted from the last, are solved together; 0 while the actor is lost."""
        self.past: Past | None = None
        self.feet = torch.zeros(0, 4, 3, device=fitter.device)
        """Where the body had its feet in frames that left, since the actor was last found."""
        self.steps = self.feet
        """Where its feet were seen in those and in the frames solved together. A foot that is held stands still whatever it does; what is
        seen of it does not."""

    def push(self, seen: Observed) -> list[Solved]:
        views = self.fitter.views(seen)
        sighted = int((views.precision > 0).sum()) >= LEAST
        if self.bound == 0:
            self._wait(seen, views)
        else:
            self._add(predicted(self._own()), views, sighted)
            self._tread()
            if sighted:
                self._solve()
                self._recover(seen)
            elif not any(self.seen[-self.patience - 1 :]):
                self._lose()
        if self.state is None:
            self.first, self.given = self.first + 1, self.given + 1
            return []
        out = self._out(self.first + len(self.state) - 1 - self.config.lag)
        while len(self.state) > max(self.config.lag + 1, self.config.memory, 2):
            self._drop()
        return out

    def finish(self) -> list[Solved]:
        return [] if self.state is None else self._out(self.first + len(self.state) - 1)

    def _own(self) -> State:
        assert self.state is not None
        return self.state[len(self.state) - self.bound :]

    def _add(self, state: State, views: pulls.Views, sighted: bool, followed: bool = True) -> None:
        self.state = state if self.state is None else State.joined([self.state, state])
        self.views = views if self.views is None else _views_joined(self.views, views)
        self.contacts = torch.cat([self.contacts, self.contacts.new_zeros(1, 4)])
        self.seen.append(sighted)
        self.followed.append(followed)
        self.bound += followed

    def _wait(self, seen: Observed, views: pulls.Views) -> None:
        """While the actor is lost: start anew where a frame tells enough, otherwise hold the pose."""
        if _found(seen, self.fitter):
            self._add(self.fitter.alone(self.fitter.start(seen, self.shape), views, self.shape), views, True)
            self._begin()
        elif self.state is not None:
            self._add(self.state[-1:], views, False, followed=False)

    def _begin(self) -> None:
        """The last frame is the first of a new pursuit."""
        self.bound, self.past, self.feet = 1, None, self.feet[:0]
        self.steps = self.steps[:0]
        self._tread()

    def _tread(self) -> None:
        """Notes where the feet of the last frame are seen: the body's, moved to what the views say of them."""
        if self.fitter.standing is None:
            return
        assert self.state is not None and self.views is not None
        points = self.fitter.model.place(self.state[-1:], self.shape).points
        pull = pulls.keypoints(points, self.views[slice(len(self.state) - 1, None)], WIDE)
        A, g = (x[0, self.fitter.standing.feet] for x in (pull.information, pull.gradient))
        near = torch.eye(3, dtype=A.dtype, device=A.device) / UNSEEN**2
        moved = points[0, self.fitter.standing.feet] - torch.linalg.solve(A + near, g[..., None])[..., 0]
        self.steps = torch.cat([self.steps, moved[None]])[-round(FLOOR_MEMORY * self.fitter.fps) - len(self.state) :]

    def _problem(self, held: Tensor | None) -> Problem:
        assert self.views is not None and self.state is not None
        views = self.views[slice(len(self.state) - self.bound, None)]
        return replace(self.fitter.problem(self.shape, views, self.fitter.config.kernel, held), free=self.free)

    def _solve(self) -> None:
        problem = self._problem(self._held())
        joint = Continued.of_past(self.smoothness, self.past)
        own = smooth(problem, self._own(), joint, self.config.iterations, tolerance=MUCH, stepped=eliminated)
        assert self.state is not None
        self.state = self.state.replaced(slice(len(self.state) - self.bound, None), own)

    def _held(self) -> Tensor | None:
        """Where feet that stand are held, over the frames solved together; notes what stands."""
        if not self.fitter.config.contact or self.fitter.standing is None or len(self.steps) < self.fitter.fps:
            return None
        now = self.fitter.model.place(self._own(), self.shape).points[:, self.fitter.standing.feet]
        feet = torch.cat([self.feet, now])
        calm = torch.nn.functional.avg_pool1d(self.steps[-len(feet) :].flatten(1).T[None], CALM, 1, CALM // 2, count_include_pad=False)
        chance = contact.probability(calm[0].T.unflatten(1, (4, 3)), self.fitter.fps)
        on = contact.planted(chance, self.fitter.fps)
        chance = torch.where(on, chance.clamp_min(0.51), chance.clamp_max(0.49))  # above a half is what is held
        self.contacts[-self.bound :] = chance[-self.bound :]
        held = torch.full((self.bound, len(self.fitter.names), 3), torch.nan, device=feet.device)
        held[:, self.fitter.standing.feet] = contact.anchors(feet, on)[-self.bound :]
        return held

    def _beside(self, state: State, views: pulls.Views) -> float:
        """What a frame's evidence costs, as a share of the most it can."""
        kernel = self.fitter.config.kernel
        cost = pulls.keypoints(self.fitter.model.place(state, self.shape).points, views, kernel).cost
        return float(cost) / (0.5 * kernel**2 * max(1, int((views.precision > 0).sum())))

    def _recover(self, seen: Observed) -> None:
        """Where the last frame's pose is beside what is seen, and a start from this frame alone is not, the actor is followed from there.

        Blind frames just before are bridged while they are still here; without them the past is wrong and is forgotten.
        """
        assert self.state is not None and self.views is not None
        last = len(self.state) - 1
        views = self.views[slice(last, None)]
        share = self._beside(self.state[-1:], views)
        if share < LOST or not _found(seen, self.fitter):
            return
        anew = self.fitter.alone(self.fitter.start(seen, self.shape), views, self.shape)
        if self._beside(anew, views) > 0.7 * share:
            return
        self.state = self.state.replaced(slice(last, None), anew)
        before = next((i for i in range(last - 1, last - self.bound, -1) if self.seen[i]), None)
        if before is None or before == last - 1:
            self._begin()
            return
        ends = State.joined([self.state[before : before + 1], anew])
        known = torch.tensor([0, last - before], device=anew.root.device)
        self.state = self.state.replaced(slice(before, None), ends.between(known, last - before + 1))
        self._solve()

    def _lose(self) -> None:
        """Nobody saw the actor for too long: the movement fades out, as far as it was not given out yet, and the pose is held."""
        assert self.state is not None
        T = len(self.state)
        base = max((i for i in range(T) if self.seen[i]), default=0)
        base = max(base, self.given - self.first - 1, 0)
        if base + 1 < T:
            rest = _faded(self.state[max(0, base - 1) : base + 1], T - base - 1, self.fitter.fps)
            self.state = self.state.replaced(slice(base + 1, None), rest)
            self.followed[base + 1 :] = [False] * (T - base - 1)
        self.bound, self.past = 0, None

    def _out(self, upto: int) -> list[Solved]:
        assert self.state is not None
        found = []
        for number in range(max(self.given, self.first), upto + 1):
            i = number - self.first
            one = self.state[i : i + 1]
            found.append(Solved(number, replace(one, expression=one.expression.clamp(0, 1)), self.contacts[i].clone(), self.followed[i]))
        self.given = max(self.given, upto + 1)
        return found

    def _drop(self) -> None:
        """The oldest frame leaves; what it knew stays."""
        assert self.state is not None and self.views is not None
        if self.bound == len(self.state):
            self.past = condensed(self._problem(self._held()), self._own(), self.smoothness, self.past)
            self.bound -= 1
            if self.fitter.standing is not None:
                feet = self.fitter.model.place(self.state[:1], self.shape).points[:, self.fitter.standing.feet]
                self.feet = torch.cat([self.feet, feet])[-round(FLOOR_MEMORY * self.fitter.fps) :]
        self.state, self.views, self.contacts = self.state[1:], self.views[slice(1, None)], self.contacts[1:]
        self.seen, self.followed, self.first = self.seen[1:], self.followed[1:], self.first + 1


def _views_joined(a: pulls.Views, b: pulls.Views) -> pulls.Views:
    """One after the other, of the same cameras."""
    both = pulls.Views(a.R, a.translation, torch.cat([a.plane, b.plane], -1), torch.cat([a.precision, b.precision], -1))
    both.__dict__["collapse"] = a.collapse
    return both


def predicted(before: State) -> State:
    """The frame after these, at constant velocity; no faster than a body can turn, and a face keeps still."""
    last = before[-1:]
    if len(before) < 2:
        return last
    return _moved_on(before[-2:], torch.ones(1, device=last.root.device))


def _faded(pair: State, frames: int, fps: float) -> State:
    """Frames after the last of these, its velocity fading out."""
    share = torch.exp(-torch.arange(1, frames + 1, device=pair.root.device) / (FADE * fps)).cumsum(0)
    return _moved_on(pair, share if len(pair) > 1 else torch.zeros_like(share))


def _moved_on(pair: State, share: Float[Tensor, "n"]) -> State:
    """The last of the frames moved on by shares of the way from the one before."""
    R = time_last(pair.R)
    turn = lanes.log(lanes.product(R[..., -1:], R[..., :1].transpose(0, 1)))
    size = (turn * turn).sum(0).sqrt().clamp_min(1e-9)
    turn = turn * (math.pi / 6 / size).clamp_max(1)
    R = lanes.product(lanes.exp(turn * share), R[..., -1:].expand(-1, -1, -1, len(share)))
    root = pair.root[-1] + share[:, None] * (pair.root[-1] - pair.root[0])
    return State(R.permute(3, 2, 0, 1), root, pair.expression[-1:].expand(len(share), -1).clone())
