"""A network made to fit one shot: its last layers learn from what was detected in it alone, and are refused where that does not help.

After Tung, Tung, Yumer and Fragkiadaki, Self-supervised Learning of Motion Capture, 2017: reprojected keypoints, masks in both directions
and optical flow of visible skin. Here all three are estimates, every residual is in standard deviations, and what was learned counts only
if it foretells better what was held back: another camera, or keypoints that were hidden where one camera is all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from calibration.cameras import Cameras
from rigs import rotation
from rigs.anatomy import anatomy
from rigs.body import Body
from studio.fit.evidence import Evidence, Figure, Terms, gathered
from studio.fit.observed import Observed
from studio.fit.recovered import Seen, relaxed, shown, windowed
from studio.fit.state import State
from studio.nets import recovery as network
from studio.nets.recovery import Recovery
from studio.nets.shape import JOINTS, KEYPOINTS, SIZE, Sight, crop

FAR = 0.15
"""A keypoint that was held back counts as at most so far off, m at the body's distance."""
HELD = 2
"""How many cameras are held back, one after the other."""
LEAST = 12
"""Frames of a shot from which a network may learn within a fit."""
How = Literal["network", "parameters"]


@dataclass(frozen=True)
class Shot:
    """What was estimated of one person in T consecutive frames of C calibrated cameras."""

    cameras: Cameras
    pixels: Float[Tensor, "C T K 2"]
    """Of `KEYPOINTS`; NaN where not detected."""
    middle: Float[Tensor, "T 3"]
    """About where the hips are, world, m."""
    masks: tuple[Bool[Tensor, "T _ _"], ...] = ()
    """Of each camera's whole image, at any resolution; none, or one for each."""
    flow: Float[Tensor, "C T h w 2"] | None = None
    """Of pixels of the frame before, at any resolution, their motion to this one, px of the whole image; NaN where unknown."""
    network: str = ""
    """Whose keypoints they are (`rigs.landmarks`)."""

    def __post_init__(self) -> None:
        C, T = self.pixels.shape[:2]
        if len(self.cameras) != C or self.pixels.shape[2] != len(KEYPOINTS):
            raise ValueError(
                f"shot: pixels are {tuple(self.pixels.shape)}; wanted are {len(self.cameras)} cameras and {len(KEYPOINTS)} keypoints"
            )
        if len(self.masks) not in (0, C) or any(len(m) != T for m in self.masks):
            raise ValueError(f"shot: masks of {len(self.masks)} cameras; give none, or {T} frames of each of {C}")
        if self.flow is not None and self.flow.shape[:2] != (C, T):
            raise ValueError(f"shot: flow is of {tuple(self.flow.shape[:2])} cameras and frames; wanted are {(C, T)}, the first frame NaN")
        if len(self.middle) != T or not bool(torch.isfinite(self.middle).all()):
            raise ValueError("shot: middle must say for every frame where the person is about; bridge the gaps first")

    def __len__(self) -> int:
        return len(self.middle)

    def of_cameras(self, chosen: Sequence[int]) -> Shot:
        """What some of the cameras saw."""
        which = list(chosen)
        flow = None if self.flow is None else self.flow[which]
        return replace(
            self, cameras=self.cameras[which], pixels=self.pixels[which], masks=tuple(self.masks[c] for c in which if self.masks), flow=flow
        )


@dataclass(frozen=True)
class ShotConfig:
    """Standard deviations in physical units; 0 leaves a term out."""

    keypoint: float = 0.02
    """How far keypoints lie off the body's, m at its distance."""
    mask: float = 0.03
    """How far the mask's outline lies off the body's, m at its distance."""
    flow: float = 1.0
    """px a frame."""
    turn: float = 0.3
    """How far joints turn away from what the network first said, rad."""
    build: float = 0.5
    """How far the shape moves from the network's mean over the shot."""
    place: float = 0.1
    """How far the body moves from where the network first put it, m."""
    steps: int = 120
    rate: float = 1e-3
    """Of the network's weights."""
    parameter_rate: float = 1e-2
    """Where poses themselves are optimised."""
    hold: int = 8
    """With one camera every so many-th keypoint is held back, for three frames at a time."""
    trust: float = 0.2
    """Greatest share of held-back keypoints that may be gross errors."""

    def terms(self) -> Terms:
        """What evidence is weighed by."""
        return Terms(self.keypoint, self.mask, self.flow)


@dataclass(frozen=True)
class Verdict:
    """Whether what was learned is kept."""

    accepted: bool
    before: float
    """Mean distance of held-back keypoints from the network's, m at the body's distance, gross errors capped."""
    after: float
    gross: float
    """Share of held-back keypoints that are gross errors to the adapted network."""

    @staticmethod
    def on(before: Float[Tensor, "N"], after: Float[Tensor, "N"], trust: float) -> Verdict:
        """From how far off each held-back keypoint is."""
        if not len(before):
            return Verdict(False, torch.nan, torch.nan, torch.nan)
        was, now = (float(x.clamp_max(FAR).mean()) for x in (before, after))
        gross = float((after > 0.9 * FAR).float().mean())
        return Verdict(now < was and gross <= trust, was, now, gross)


@dataclass(frozen=True)
class Pose:
    """One person through a shot."""

    state: State
    shape: Float[Tensor, "S"] | Float[Tensor, "T S"]


@dataclass(frozen=True)
class Adapted:
    """What came of it."""

    first: Pose
    """As the network said it, a shape for each frame."""
    learned: Pose
    """After learning, one shape for all frames, whether accepted or not."""
    verdict: Verdict

    @property
    def pose(self) -> Pose:
        """What to use."""
        return self.learned if self.verdict.accepted else self.first


def adapted(body: Body, shot: Shot, config: ShotConfig | None = None, networks: Recovery | None = None, how: How = "network") -> Adapted:
    """The regressor, adapted to the shot where that passes its test; `how` may be `parameters`, which moves poses instead of weights.

    With one camera what is held back is never used. `ValueError` where the regressor knows another body.
    """
    config, networks = config or ShotConfig(), networks or network.load()
    if networks.regressor.shapes != len(body.shape_names):
        raise ValueError(
            f"body {body.name!r}: has {len(body.shape_names)} shape coefficients, the regressor {networks.regressor.shapes}; use its body"
        )
    body = body.to("cpu")
    if len(shot.cameras) == 1:
        hidden = held_back(shot.pixels, config.hold)
        first, learned = _learned(body, replace(shot, pixels=shot.pixels.masked_fill(hidden[..., None], torch.nan)), config, networks, how)
        off = [misses(body, shot, pose)[hidden] for pose in (first, learned)]
        known = torch.isfinite(off[0])
        return Adapted(first, learned, Verdict.on(off[0][known], off[1][known], config.trust))
    before, after = [], []
    for c in range(min(HELD, len(shot.cameras))):
        rest = shot.of_cameras([i for i in range(len(shot.cameras)) if i != c])
        poses = _learned(body, rest, config, networks, how)
        off = [misses(body, shot.of_cameras([c]), pose) for pose in poses]
        before, after = before + [off[0][torch.isfinite(off[0])]], after + [off[1][torch.isfinite(off[0])]]
    return Adapted(*_learned(body, shot, config, networks, how), Verdict.on(torch.cat(before), torch.cat(after), config.trust))


def held_back(pixels: Float[Tensor, "C T K 2"], every: int) -> Bool[Tensor, "C T K"]:
    """Which keypoints are hidden from adaptation: each in turn, for three frames."""
    C, T, K = pixels.shape[:3]
    return ((torch.arange(T)[:, None] // 3 + torch.arange(K)) % every == 0).expand(C, T, K)


def misses(body: Body, shot: Shot, pose: Pose) -> Float[Tensor, "C T K"]:
    """How far each detected keypoint is from the pose's, m at the body's distance; NaN where not detected."""
    with torch.no_grad():
        figure = Figure.of(body, KEYPOINTS, shot.network, 0)
        return gathered(replace(shot, masks=(), flow=None), figure).misses(figure.posed(pose.state.R, pose.state.root, pose.shape)[0])


@dataclass
class _Told:
    """What the regressor is told of a shot, and how its answer becomes a pose of the whole body."""

    body: Body
    features: Float[Tensor, "T C F"]
    R_view_first: Float[Tensor, "T C 3 3"]
    there: Bool[Tensor, "T C"]
    R_first_world: Float[Tensor, "T 3 3"]
    middle: Float[Tensor, "T 3"]

    @staticmethod
    def of(body: Body, shot: Shot, networks: Recovery) -> _Told:
        seen = windowed(shot.cameras, KEYPOINTS, shot.pixels, shot.middle.float())
        T, C = seen.there.shape
        masks = _crops(shot, seen)
        # Where a camera saw too little it has no say, unless none saw more.
        there = seen.there | ~seen.there.any(1, keepdim=True)
        order = torch.argsort(there.int(), dim=1, descending=True, stable=True)
        pick = lambda x: x.gather(1, order.view(T, C, *(1,) * (x.dim() - 2)).expand_as(x))  # noqa: E731
        with torch.no_grad():
            features = networks.proxy(seen.keypoints.flatten(0, 1), masks.flatten(0, 1), seen.sight.tilt().flatten(0, 1)).view(T, C, -1)
        R_view = pick(seen.sight.R_view_world)
        return _Told(body, pick(features), network.relative(R_view), pick(there), R_view[:, 0], seen.middle)

    def whole(self, R: Float[Tensor, "T J 3 3"], shift: Float[Tensor, "T 3"], ease: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations of all joints, the root's in the world, and the root's place."""
        back = self.R_first_world.mT
        own = torch.cat([(back @ R[:, 0])[:, None], R[:, 1:]], 1)
        return ease.index_copy(1, rows, own), self.middle + (back @ shift[..., None])[..., 0]


def _crops(shot: Shot, seen: Seen) -> Float[Tensor, "T C 64 64"]:
    if not shot.masks:
        return torch.zeros(*seen.there.shape, SIZE, SIZE)
    views = [Sight(*(getattr(seen.sight, f)[:, c] for f in ("R_view_world", "position", "distance"))) for c in range(len(shot.cameras))]
    return torch.stack([crop(mask, shot.cameras[n], view) for mask, n, view in zip(shot.masks, shot.cameras.names, views)], 1)


def _learned(body: Body, shot: Shot, config: ShotConfig, networks: Recovery, how: How) -> tuple[Pose, Pose]:
    """What the network says first, and what it says (or what poses are) after the steps."""
    told, regressor = _Told.of(body, shot, networks), deepcopy(networks.regressor).eval().requires_grad_(False)
    with torch.no_grad():
        first = regressor(told.features, told.R_view_first, told.there)[-1]
    ease, rows = relaxed(body, anatomy(body), len(shot)), torch.tensor([body.skeleton.index(j) for j in JOINTS])
    shape = nn.Parameter(first.shape.mean(0))
    if how == "network":
        layers = nn.ModuleList([regressor.inner, regressor.change]).requires_grad_(True)
        weights, rate = [*layers.parameters()], config.rate

        def said() -> tuple[Tensor, Tensor]:
            guess = regressor(told.features, told.R_view_first, told.there)[-1]
            return guess.R, guess.shift
    else:
        turns, shift = nn.Parameter(first.R[..., :2].mT.flatten(-2)), nn.Parameter(first.shift.clone())
        weights, rate = [turns, shift], config.parameter_rate

        def said() -> tuple[Tensor, Tensor]:
            return rotation.from_6d(turns), shift

    figure = Figure.of(body, KEYPOINTS, shot.network)
    evidence = gathered(shot, figure)
    centre = shape.detach().clone()

    def drift() -> Tensor:
        R, shift = said()
        turned = (R - first.R).square().sum((1, 2, 3)) / (4 * config.turn**2)  # |R - R0|^2 is about twice the angle's square
        moved = (shift - first.shift).square().sum(-1) / (2 * config.place**2)
        return (turned + moved).mean() + ((shape - centre) / config.build).square().sum() / (2 * len(shot))

    _optimised(weights, shape, rate, config, lambda: (*told.whole(*said(), ease, rows), shape), drift, figure, evidence)
    neutral = torch.zeros(len(shot), len(body.expression_names))
    with torch.no_grad():
        begin = Pose(State(*told.whole(first.R, first.shift, ease, rows), neutral), first.shape)
        end = Pose(State(*told.whole(*said(), ease, rows), neutral), shape.detach())
    return begin, end


def _optimised(
    weights: list[nn.Parameter],
    shape: nn.Parameter,
    rate: float,
    config: ShotConfig,
    pose: Callable[[], tuple[Tensor, Tensor, Tensor]],
    drift: Callable[[], Tensor],
    figure: Figure,
    evidence: Evidence,
) -> None:
    """Adam with a rate that rises and falls; which skin is visible, and where flow takes it, is asked anew every twentieth step."""
    optimiser = torch.optim.Adam([{"params": weights, "lr": rate}, {"params": [shape], "lr": 0.02}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [rate, 0.02], max(config.steps, 2), pct_start=0.1)
    terms = config.terms()
    for step in range(config.steps):
        keys, skin, normals = figure.posed(*pose())
        if step % 20 == 0:
            evidence = evidence.carried(skin.detach(), normals.detach(), terms)
        optimiser.zero_grad()
        loss = evidence.cost(keys, skin, terms) + drift()
        loss.backward()
        nn.utils.clip_grad_norm_([*weights, shape], 1e3)
        optimiser.step()
        schedule.step()


def mended(
    body: Body, observed: Observed, guess: State, able: Bool[Tensor, "T"], config: ShotConfig | None = None
) -> tuple[State, Bool[Tensor, "T"]]:
    """Guesses as `recovered.guessed` has them, by a network adapted to each stretch in which one camera alone saw the person, where what
    it learned is accepted; without flow, which no stage keeps."""
    pixels = torch.where(torch.isfinite(observed.sigma)[..., None], observed.pixels, torch.nan)
    seen = shown(observed.cameras, observed.keypoints, pixels, observed.points)
    if seen is None:
        return guess, able
    R, root = guess.R.clone(), guess.root.clone()
    columns = [observed.keypoints.index(n) if n in observed.keypoints else -1 for n in KEYPOINTS]
    named = pixels[:, :, columns].masked_fill((torch.tensor(columns) < 0)[:, None], torch.nan)
    for camera, run in _alone(seen.there):
        masks = tuple(m[run] for m in observed.masks[camera : camera + 1])
        shot = Shot(observed.cameras[[camera]], named[camera : camera + 1, run], seen.middle[run], masks, None, observed.network)
        done = adapted(body, shot, config)
        if done.verdict.accepted:
            R[run], root[run] = done.learned.state.R, done.learned.state.root
    return replace(guess, R=R, root=root), able


def _alone(there: Bool[Tensor, "T C"]) -> list[tuple[int, slice]]:
    """Stretches of frames in which one camera alone sees enough, and which."""
    which = torch.where(there.sum(1) == 1, there.int().argmax(1), -1).tolist()
    begins = [t for t in range(len(which)) if t == 0 or which[t] != which[t - 1]]
    runs = [(which[a], slice(a, z)) for a, z in zip(begins, [*begins[1:], len(which)])]
    return [(camera, run) for camera, run in runs if camera >= 0 and run.stop - run.start >= LEAST]
