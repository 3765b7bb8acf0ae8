"""One lens from views of a board: which views, how many distortion coefficients, how certain, and whether that is enough.

Pixels are OpenCV's: (0, 0) is the centre of the top-left pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot, radians, tan
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from calibration.cameras import Cameras, Lens, single
from calibration.lens_bundle import Bundle, LensPrior, Poses, pose_boards, settle_poses, solve_lens
from calibration.lens_verdict import coverage_map, judge_lens
from calibration.reprojection import LENS, Sightings

K1, K2, P1, P2, K3, K4, K5, K6 = range(4, 12)
MODELS: tuple[tuple[Lens, tuple[int, ...]], ...] = (
    ("brown", ()),
    ("brown", (K1,)),
    ("brown", (K1, K2)),
    ("brown", (K1, K2, P1, P2)),
    ("brown", (K1, K2, P1, P2, K3)),
    ("fisheye", (K1, K2, P1, P2)),
    ("brown", (K1, K2, P1, P2, K3, K4, K5, K6)),
)
"""Distortion models from simple to rich; a fisheye's four coefficients lie where a brown lens has its first four."""
ASPECT_SD = 0.003
"""Pixels are square to this part, as far as makers tell."""
CENTRE_SD = 0.05
"""The principal point lies in the image's middle to this part of its width."""
RATIONAL_SD = 1.0
"""Prior of a distortion coefficient: keeps a rational lens's numerator and denominator from growing together."""
FOLDS = 4
FINE = 0.5
"""A view whose corners miss by less, px, is not bad, however well the others fit."""


@dataclass(frozen=True)
class FocalPrior:
    """A focal length known beforehand, px, and its standard deviation as a part of it."""

    focal: float
    relative_sd: float = 0.05

    @classmethod
    def from_view(cls, degrees: float, size: tuple[float, float], relative_sd: float = 0.05) -> FocalPrior:
        """From the horizontal field of view that a maker states."""
        if not 1 < degrees < 175:
            raise ValueError(f"field of view {degrees:g} degrees: state the horizontal one, between 1 and 175")
        return cls(size[0] / 2 / tan(radians(degrees) / 2), relative_sd)

    @classmethod
    def from_35mm(cls, millimetres: float, size: tuple[float, float], relative_sd: float = 0.08) -> FocalPrior:
        """From EXIF's `FocalLengthIn35mmFilm`: the diagonal of 36 x 24 mm stands for the image's (CIPA DC-008)."""
        if not millimetres > 0:
            raise ValueError(f"focal length {millimetres:g} mm: EXIF says 0 where it is unknown; leave the prior out")
        return cls(millimetres * hypot(*size) / hypot(36, 24), relative_sd)


@dataclass(frozen=True)
class LensFit:
    """A calibrated lens and how far it can be trusted. float64."""

    size: Float[Tensor, "2"]
    """Width and height, px."""
    focal: Float[Tensor, "2"]
    """px."""
    centre: Float[Tensor, "2"]
    """px."""
    distortion: Float[Tensor, "8"]
    lens: Lens
    coefficients: int
    """How many distortion coefficients the views carry; the others are zero."""
    covariance: Float[Tensor, "12 12"]
    """Of focal x y, centre x y (px), distortion; zero for what was fixed."""
    rms: float
    """Distance between projected and seen corners in the used views, px."""
    held_out: float
    """The same in views that the lens was not fitted to, px; NaN with fewer than four views."""
    used: Bool[Tensor, "B"]
    """Views that the fit rests on."""
    bad: Bool[Tensor, "B"]
    """Views that were rejected because they disagree with the others."""
    R_camera_board: Float[Tensor, "B 3 3"]
    """Pose of the board in each view that shows at least six corners; NaN in the others."""
    translation: Float[Tensor, "B 3"]
    """Board origin in the camera's frame, m; NaN likewise."""
    coverage: Float[Tensor, "6 8"]
    """Corners of the used views in each cell of the image, top left first."""
    trusted: bool
    reasons: tuple[str, ...]
    """Why it is not trusted, and what to do, in words."""
    advice: tuple[str, ...] = ()
    """What would make it better."""

    @property
    def focal_sd(self) -> float:
        """Standard deviation of the focal length as a part of it, the worse of both axes."""
        return float((self.covariance.diagonal()[:2].sqrt() / self.focal).max())

    def camera(self, name: str = "camera") -> Cameras:
        """The lens as a camera (C=1) at the world's origin."""
        eye, origin = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        return single(name, self.size, self.focal, self.centre, self.distortion, self.lens, eye, origin)


def calibrate_lens(
    pixels: Float[Tensor, "B N 2"],
    points: Float[Tensor, "N 3"] | Float[Tensor, "B N 3"],
    size: Float[Tensor, "2"] | Sequence[float],
    sigma: Float[Tensor, "B N"] | None = None,
    lens: Literal["brown", "fisheye"] | None = None,
    coefficients: int | None = None,
    prior: FocalPrior | None = None,
    most_views: int = 40,
) -> LensFit:
    """The lens that saw a board's corners (board frame, m) at these pixels (NaN where not seen).

    `lens` and `coefficients` are chosen by what views that were left out say, where not given. Of many views the `most_views` that
    together tell most of the lens are used. A `ValueError` says what is missing where there is nothing to calibrate from.
    """
    shape = torch.as_tensor(size, dtype=torch.float64)
    views, index = _sightings(pixels, points, sigma)
    if len(views) < 2:
        raise ValueError(f"{len(views)} of {len(pixels)} views show six corners of the board or more; film it in at least 10 poses")
    models = [m for m in MODELS if lens in (None, m[0]) and coefficients in (None, len(m[1]))]
    if not models:
        raise ValueError(f"no {lens or ''} lens with {coefficients} coefficients; there are {sorted({(m[0], len(m[1])) for m in MODELS})}")
    known = _prior(shape, prior)
    start: dict[Lens, Bundle] = {}
    kinds: tuple[Lens, ...] = ("brown", "fisheye")
    for kind in kinds:
        if all(kind != m[0] for m in models):
            continue
        if kind == "brown" or lens == "fisheye" or _wide(start["brown"], shape):
            start[kind] = _start(views, shape, kind, known, prior)
    models = [m for m in models if m[0] in start]
    kind = min(start, key=lambda k: float(_view_rms(start[k].residual).median()))
    views, chosen, noise = _agreeing(views, start[kind], _diverse(start[kind], min(most_views, len(views))))
    fits = [_fit(views, start[m[0]], chosen, m, noise, known) for m in models]
    best, held_out = _choose(fits)
    fit, chosen = _trimmed(fits[best], chosen)
    return _described(fit, views, index, chosen, pixels, shape, held_out)


def _sightings(pixels: Tensor, points: Tensor, sigma: Tensor | None) -> tuple[Sightings, Tensor]:
    """Views with at least six corners, and which of all they are."""
    pixels = pixels.to(torch.float64)
    seen = pixels.isfinite().all(-1)
    index = (seen.sum(-1) >= 6).nonzero()[:, 0]
    sigma = torch.ones_like(pixels[..., 0]) * 0.2 if sigma is None else sigma.to(torch.float64)
    weight = torch.where(seen & (sigma > 0), 1 / sigma, 0)
    points = points.to(torch.float64).expand(len(pixels), *points.shape[-2:])
    none = torch.zeros(len(index), dtype=torch.long)
    return Sightings(none, torch.arange(len(index)), points[index], pixels[index].nan_to_num(), weight[index]), index


def _prior(size: Float[Tensor, "2"], focal: FocalPrior | None) -> LensPrior:
    """Square pixels, the centre in the middle, moderate coefficients, and the stated focal length."""
    mean, P = torch.zeros(LENS, dtype=torch.float64), torch.zeros(LENS, LENS, dtype=torch.float64)
    scale = focal.focal if focal else float(size.max())
    mean[:2], mean[2:4] = scale, (size - 1) / 2
    P[:2, :2] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64) / (ASPECT_SD * scale) ** 2
    if focal:
        P[:2, :2] += 1 / (2 * focal.relative_sd * scale) ** 2
    P[2, 2] = P[3, 3] = 1 / (CENTRE_SD * float(size.max())) ** 2
    P[range(4, LENS), range(4, LENS)] = 1 / RATIONAL_SD**2
    return LensPrior(mean, P)


def _start(views: Sightings, size: Tensor, kind: Lens, prior: LensPrior, stated: FocalPrior | None) -> Bundle:
    """A first lens and all poses: the best of several focal lengths, then two coefficients set free."""
    some = torch.linspace(0, len(views) - 1, min(len(views), 24)).round().long()
    scales = (
        [stated.focal]
        if stated
        else [float(size.max()) * s for s in ((0.25, 0.4) if kind == "fisheye" else ()) + (0.5, 0.7, 1.0, 1.5, 2.5, 4.0)]
    )
    trials = []
    for focal in scales:
        lens = prior.mean.clone()
        lens[:2] = focal
        error = pose_boards(views[some], lens, kind == "fisheye")[1]
        trials.append((float(error.clamp(max=50).median()), lens))
    lens = min(trials, key=lambda t: t[0])[1]
    poses, error = pose_boards(views, lens, kind == "fisheye")
    # Corners may be off by the whole distortion, so a first fit forgives as much as the poses do.
    loose = views.quieter(torch.tensor([max(float(error[error.isfinite()].median() * views.weight.max()), 1.0)], dtype=torch.float64))
    for columns in ((0, 1), (0, 1, K1, K2), (0, 1, 2, 3, K1, K2)):
        bundle = solve_lens(loose, poses, lens, kind == "fisheye", columns, prior, steps=15)
        lens = bundle.lens
        again, cost = settle_poses(loose, pose_boards(views, lens, kind == "fisheye")[0], lens, kind == "fisheye")
        better = cost < bundle.normals.cost
        poses = Poses(torch.where(better[:, None, None], again.R, bundle.poses.R), torch.where(better[:, None], again.t, bundle.poses.t))
    return solve_lens(loose, poses, lens, kind == "fisheye", (0, 1, 2, 3, K1, K2), prior, steps=15)


def _wide(start: Bundle, size: Tensor) -> bool:
    """Whether a fisheye model can tell itself from a Brown lens: corners beyond 35 degrees off the axis, or a Brown lens does not fit."""
    p = start.views.points @ start.poses.R.mT + start.poses.t[:, None]
    off = (p[..., :2].norm(dim=-1) / p[..., 2].clamp_min(1e-3))[start.views.weight > 0]
    return float(off.quantile(0.99)) > 0.7 or float(_view_rms(start.residual).median()) > 2e-3 * float(size.max())


def _diverse(bundle: Bundle, most: int) -> Tensor:
    """Views that together tell most of the lens: greedily the largest growth of its information's determinant (D-optimal design)."""
    information = bundle.view_information
    columns = list(bundle.columns)
    total = bundle.prior.information[columns][:, columns] + torch.diag(1 / (bundle.lens[columns].abs() + 1) ** 2)
    left, chosen = torch.ones(len(information), dtype=torch.bool), []
    while len(chosen) < most:
        growth = torch.linalg.slogdet(total + information)[1]
        best = int(torch.where(left, growth.nan_to_num(-torch.inf), -torch.inf).argmax())
        chosen.append(best)
        left[best] = False
        total = total + information[best]
    return torch.tensor(chosen)


def _view_rms(residual: Float[Tensor, "V N 2"]) -> Float[Tensor, "V"]:
    return residual.square().sum(-1).nanmean(-1).sqrt()


def _agreeing(views: Sightings, start: Bundle, chosen: Tensor) -> tuple[Sightings, Tensor, float]:
    """All views without stray corners, those that agree with most others, and how many times their sigma the corners scatter.

    The worst views go first.
    """
    noise, bundle = float(views.weight.max() / start.views.weight.max()), start
    for _ in range(8):
        quiet = views[chosen].quieter(torch.tensor([noise], dtype=torch.float64))
        bundle = solve_lens(quiet, start.poses[chosen], bundle.lens, start.fish, start.columns, start.prior, steps=15)
        noise *= _scatter(bundle)
        keep, stray = _keeping(_view_error(bundle.residual)), _stray(bundle)
        if bool(keep.all()) and not bool(stray.any()):
            break
        weight = views.weight.clone()
        weight[chosen] = torch.where(stray, 0, weight[chosen])
        views, chosen = replace(views, weight=weight), chosen[keep]
    return views, chosen, noise


def _view_error(residual: Float[Tensor, "V N 2"]) -> Float[Tensor, "V"]:
    """Distance that half of a view's corners exceed, as the rms it would have without strays, px."""
    return residual.norm(dim=-1).nanmedian(-1).values * 1.2


def _stray(bundle: Bundle) -> Bool[Tensor, "V N"]:
    """Corners that miss by far more than their fellows, in views that hold six others: a finger, a shine, a wrong edge."""
    miss = bundle.residual.norm(dim=-1)
    stray = miss > max(5 * float(miss.nanmedian()), FINE)
    return stray & ((miss.isfinite() & ~stray).sum(-1, keepdim=True) >= 6)


def _keeping(error: Float[Tensor, "V"]) -> Bool[Tensor, "V"]:
    """Without the worse half of the views whose error is over three times the median; never fewer than three or 60 % stay."""
    bad = (error > (3 * error.median()).clamp(min=FINE)) | error.isnan()
    out = min(int(bad.sum()) // 2 + int(bad.sum()) % 2, len(error) - 3, int(0.4 * len(error)))
    keep = torch.ones(len(error), dtype=torch.bool)
    if out > 0:
        keep[error.nan_to_num(torch.inf).argsort(descending=True)[:out]] = False
    return keep


def _scatter(bundle: Bundle) -> float:
    """How many times their sigma the corners scatter, by the median, the fitted unknowns taken into account."""
    whitened = (bundle.residual * bundle.views.weight[..., None]).abs()
    count = int(whitened.isfinite().sum())
    free = 6 * len(bundle.views) + len(bundle.columns)
    return max(float(whitened.nanmedian()) / 0.6745 * (count / max(count - free, 0.2 * count)) ** 0.5, 1e-6)


def _fit(views: Sightings, start: Bundle, chosen: Tensor, model: tuple[Lens, tuple[int, ...]], noise: float, prior: LensPrior) -> Bundle:
    """One distortion model through the chosen views."""
    lens, columns = start.lens.clone(), (0, 1, 2, 3, *model[1])
    fixed = torch.tensor([i for i in range(4, LENS) if i not in columns], dtype=torch.long)
    lens[fixed] = 0
    quiet = views[chosen].quieter(torch.tensor([noise], dtype=torch.float64))
    return solve_lens(quiet, start.poses[chosen], lens, start.fish, columns, prior)


def _choose(fits: list[Bundle]) -> tuple[int, float]:
    """The simplest model that foretells views it has not seen as well as the best does, to one standard error; and its error there, px.

    Models whose lens folds back within what the board covered are out, unless all do. With fewer than four views nothing can be held out:
    one coefficient at most.
    """
    if len(fits[0].views) < FOLDS:
        return min(range(len(fits)), key=lambda m: (len(fits[m].columns) > 5, -len(fits[m].columns))), float("nan")
    whole = [m for m in range(len(fits)) if _unfolded(fits[m])] or list(range(len(fits)))
    told = {m: _foretold(fits[m]) for m in whole}  # in logarithms, so that no single view decides
    best = min(whole, key=lambda m: float(told[m][0].mean()))
    for m in whole:
        excess = told[m][0] - told[best][0]
        if float(excess.mean()) <= float(excess.std() / len(excess) ** 0.5):
            return m, told[m][1]
    return best, told[best][1]


def _foretold(fit: Bundle) -> tuple[Float[Tensor, "V"], float]:
    """Logarithm of each view's robust cost a corner, the lens fitted to the other folds; and the rms distance, px."""
    V = len(fit.views)
    cost, squares = torch.zeros(V, dtype=torch.float64), []
    for fold in range(FOLDS):
        out = torch.arange(V) % FOLDS == fold
        rest = solve_lens(fit.views[~out], fit.poses[~out], fit.lens, fit.fish, fit.columns, fit.prior, steps=4)
        views = fit.views[out]
        poses, cost[out] = settle_poses(views, fit.poses[out], rest.lens, fit.fish, steps=4)
        squares.append(replace(rest, views=views, poses=poses).residual.square().sum(-1))
    square = torch.cat([s[s.isfinite()] for s in squares])
    return (cost / (fit.views.weight > 0).sum(-1)).log(), float(square.mean().sqrt())


def _unfolded(fit: Bundle) -> bool:
    """Whether every seen corner belongs to a direction."""
    return bool(_camera(fit).undistort(fit.views.pixels[fit.views.weight > 0][None]).isfinite().all())


def _camera(fit: Bundle) -> Cameras:
    size, eye = 2 * fit.prior.mean[2:4] + 1, torch.eye(3, dtype=torch.float64)
    kind = "fisheye" if fit.fish else "brown"
    return single("camera", size, fit.lens[:2], fit.lens[2:4], fit.lens[4:], kind, eye, torch.zeros(3, dtype=torch.float64))


def _trimmed(fit: Bundle, chosen: Tensor) -> tuple[Bundle, Tensor]:
    """The fit without views that disagree with it, and with the corners' true scatter."""
    for _ in range(4):
        keep = _keeping(_view_error(fit.residual))
        views = fit.views[keep].quieter(torch.tensor([_scatter(fit)], dtype=torch.float64))
        chosen = chosen[keep]
        fit = solve_lens(views, fit.poses[keep], fit.lens, fit.fish, fit.columns, fit.prior)
        if bool(keep.all()):
            break
    return fit, chosen


def _described(
    fit: Bundle, views: Sightings, index: Tensor, chosen: Tensor, pixels: Tensor, size: Float[Tensor, "2"], held_out: float
) -> LensFit:
    B = len(pixels)
    first, _ = pose_boards(views, fit.lens, fit.fish)
    first.R[chosen], first.t[chosen] = fit.poses.R, fit.poses.t
    poses, _ = settle_poses(views, first, fit.lens, fit.fish)
    error = _view_error(replace(fit, views=views, poses=poses).residual)
    used, bad = torch.zeros(B, dtype=torch.bool), torch.zeros(B, dtype=torch.bool)
    used[index[chosen]] = True
    rms = float(fit.residual.square().sum(-1).nanmean().sqrt())
    bad[index] = (error > (3 * error[chosen].median()).clamp(min=FINE)) & ~used[index]
    R, t = torch.full((B, 3, 3), torch.nan, dtype=torch.float64), torch.full((B, 3), torch.nan, dtype=torch.float64)
    R[index], t[index] = poses.R, poses.t
    covariance, coverage = fit.covariance(), coverage_map(pixels[used], size)
    camera = _camera(fit)
    reasons, advice = judge_lens(camera, covariance, fit.poses.R, coverage, rms, held_out, pixels[used])
    return LensFit(
        size, fit.lens[:2], fit.lens[2:4], fit.lens[4:], camera.lens[0], len(fit.columns) - 4, covariance, rms, held_out,
        used, bad, R, t, coverage, not reasons, reasons, advice,
    )  # fmt: skip
