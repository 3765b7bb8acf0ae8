"""Takes in which one view alone sees arms and legs, and how many of the limbs a fit mirrors: with nothing said, with a few words on who
is nearer, with what a network thinks. Exact people of MakeHuman's own space, disturbed keypoints; synthetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.triangulate import triangulate
from rigs import makehuman
from rigs.keypoints import COCO_WHOLEBODY
from studio.fit.config import FitConfig
from studio.fit.mirrored import LIMBS, Nearer
from studio.fit.observed import Observed
from studio.fit.person import Fitter
from studio.train.poses import TRAINED, clips
from studio.virtual.rig import ring

FRAMES = 60
FPS = 30.0
NOISE = 4.0
"""px."""
HIDDEN = ("elbow", "wrist", "hand", "knee", "ankle", "toe", "heel")
"""What the second view does not see."""
WORDS, APART = 20, 8
"""How many words a take gets, and how many frames lie at least between two on the same limb."""


@dataclass(frozen=True)
class Ambiguous:
    """A take and its truth."""

    observed: Observed
    truth: Float[Tensor, "T K 3"]
    """Of the observed keypoints, m."""

    def ends(self) -> tuple[list[int], list[int]]:
        """The keypoints at which limbs begin and end."""
        names = self.observed.keypoints
        return [names.index(a) for a, _ in LIMBS], [names.index(b) for _, b in LIMBS]

    def towards(self) -> Float[Tensor, "3"]:
        """Viewing direction of the view that sees everything."""
        return self.observed.cameras.R_camera_world[0, 2].float()

    def depth(self) -> Float[Tensor, "T L"]:
        """How much farther the end of every limb truly is than its beginning, m."""
        begin, end = self.ends()
        return (self.truth[:, end] - self.truth[:, begin]) @ self.towards()


def ambiguous(seed: int) -> Ambiguous:
    """A person in two views, the second of which is spared arms and legs."""
    body, rng = makehuman.individual(31_000 + seed), np.random.default_rng(seed)
    motion = clips(body, rng, TRAINED, 1, FRAMES, 1.0)
    posed = body.shaped(torch.zeros(0)).posed(motion.rotation[0], motion.translation[0], torch.zeros(FRAMES, len(body.expression_names)))
    names = [n for n in COCO_WHOLEBODY if n in body.keypoint_names]
    truth = torch.full((FRAMES, len(COCO_WHOLEBODY), 3), torch.nan)
    truth[:, [COCO_WHOLEBODY.index(n) for n in names]] = posed.points(body.keypoint_skin(names))
    cameras = ring(4, 1280, 720, seed)[[0, 1]]
    g = torch.Generator().manual_seed(seed)
    pixels = cameras.project(truth.double()).float()
    pixels = pixels + NOISE * torch.randn(pixels.shape, generator=g)
    pixels[1][:, [k for k, n in enumerate(COCO_WHOLEBODY) if any(h in n for h in HIDDEN)]] = torch.nan
    pixels[torch.rand(pixels.shape[:-1], generator=g) < 0.05] = torch.nan
    sigma = torch.full(pixels.shape[:-1], NOISE)
    points = triangulate(cameras, pixels.flatten(1, 2), sigma.flatten(1, 2)).points.view(FRAMES, -1, 3).float()
    return Ambiguous(Observed(cameras, COCO_WHOLEBODY, "exact", FPS, pixels, sigma, points), truth)


def fitted(take: Ambiguous, orders: Sequence[Nearer] = (), sure: float = 0.0) -> Float[Tensor, "T K 3"]:
    """Where a fit puts the keypoints, NaN for those it has not; `orders` are said to it, `sure` asks the network."""
    observed = replace(take.observed, orders=tuple(orders))
    fitter = Fitter(makehuman.load(), observed, FitConfig(order=sure))
    shape, _ = fitter.shape(observed)
    state = fitter.stretch(observed, shape)[0]
    out = torch.full_like(take.truth, torch.nan)
    out[:, [observed.keypoints.index(n) for n in fitter.names]] = fitter.model.place(state, shape).points
    return out


def mirrored(take: Ambiguous, points: Float[Tensor, "T K 3"]) -> Bool[Tensor, "T L"]:
    """Which limbs point more than 40 degrees off, towards the camera where they truly point away or the other way round."""
    begin, end = take.ends()
    unit = lambda p: torch.nn.functional.normalize(p[:, end] - p[:, begin], dim=-1)  # noqa: E731
    found, true, z = unit(points), unit(take.truth), take.towards()
    opposite = ((found @ z) * (true @ z) < 0) & ((found @ z - true @ z).abs() > 0.5)
    return opposite & ((found * true).sum(-1) < 0.77)


def words(take: Ambiguous, wrong: Bool[Tensor, "T L"], lot: torch.Generator | None = None) -> list[Nearer]:
    """At most `WORDS` words, each on one limb in one frame: the mirrored ones that are deepest first; with `lot` each is true or false."""
    depth, said = take.depth(), []
    for number in torch.argsort(torch.where(wrong, depth.abs(), 0).flatten(), descending=True, stable=True).tolist():
        frame, limb = divmod(number, len(LIMBS))
        if not wrong[frame, limb] or len(said) == WORDS:
            break
        if any(abs(frame - other) < APART for other, same, _ in said if same == limb):
            continue
        said.append((frame, limb, float(depth[frame, limb]) > 0 if lot is None else bool(torch.rand(1, generator=lot) < 0.5)))
    ends = [(LIMBS[limb] if beginning else LIMBS[limb][::-1], frame) for frame, limb, beginning in said]
    return [Nearer.at(0, near, far, slice(frame, frame + 1), FRAMES) for (near, far), frame in ends]


def counted(seeds: Sequence[int], sure: float = 0.9) -> dict[str, dict[str, float]]:
    """Mirrored limbs of all frames and their ends' mean error, by what was said."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        take = ambiguous(seed)
        _, end = take.ends()
        plain = fitted(take)
        wrong = mirrored(take, plain)
        lot = torch.Generator().manual_seed(seed)
        found = {"two views, nothing said": plain}
        found[f"two views, {WORDS} words"] = fitted(take, words(take, wrong)) if bool(wrong.any()) else plain
        found[f"two views, {WORDS} words by lot"] = fitted(take, words(take, wrong, lot)) if bool(wrong.any()) else plain
        found["two views, network asked"] = fitted(take, sure=sure)
        for name, points in found.items():
            off = 1000 * float((points - take.truth)[:, end].norm(dim=-1).mean())
            rows.setdefault(name, []).append((float(mirrored(take, points).sum()), off))
    return {name: {"mirrored limbs": sum(m for m, _ in v), "limbs' ends mm": sum(e for _, e in v) / len(v)} for name, v in rows.items()}
