"""Whether a lens fit can be trusted, and in words which views are missing."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras

FOCAL_SD = 0.01
"""A focal length known worse than this moves everything nearer or farther by more than 1 cm a metre."""
CENTRE_SD = 0.01
"""Of the image's width."""
TILT = 15.0
"""Degrees; boards that all face the camera flatter than this tell focal length from distance by noise only."""
LEAST_VIEWS = 5
EMPTY = 0.2
"""Width of the strip along an edge that some corner must lie in, as a part of the image."""
RMS = 0.0015
"""Of the image's width: corners that miss by more were blurred, or the board is not what its description says."""
CELLS = (6, 8)


def coverage_map(pixels: Float[Tensor, "*N 2"], size: Float[Tensor, "2"]) -> Float[Tensor, "6 8"]:
    """Corners in each cell of a grid over the image, top left first."""
    rows, columns = CELLS
    seen = pixels[pixels.isfinite().all(-1)]
    cell = ((seen + 0.5) / size * torch.tensor([columns, rows])).long()
    cell = cell.clamp(min=torch.zeros(2, dtype=torch.long), max=torch.tensor([columns - 1, rows - 1]))
    return torch.bincount(cell[:, 1] * columns + cell[:, 0], minlength=rows * columns).reshape(rows, columns).to(torch.float64)


def judge_lens(
    camera: Cameras,
    covariance: Float[Tensor, "12 12"],
    R_camera_board: Float[Tensor, "V 3 3"],
    coverage: Float[Tensor, "6 8"],
    rms: float,
    held_out: float,
    pixels: Float[Tensor, "V N 2"],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Why a lens (C=1) is not to be trusted, each with its remedy, and advice where it can be."""
    size, V = camera.size[0], len(R_camera_board)
    tilt = float(R_camera_board[:, 2, 2].abs().clamp(max=1).acos().max()) * 180 / torch.pi
    focal_sd = float((covariance.diagonal()[:2].sqrt() / camera.focal[0]).max())
    centre_sd = float(covariance.diagonal()[2:4].sqrt().max() / size[0])
    reasons, advice = [], []
    if V < LEAST_VIEWS:
        reasons.append(f"only {V} views could be used: show the board in at least 10 different positions and tilts")
    if tilt < TILT:
        reasons.append(f"the board faces the camera in all views (most tilt {tilt:.0f} degrees): tilt the board 30-45 degrees each way")
    if focal_sd > FOCAL_SD:
        reasons.append(
            f"the focal length is known to {100 * focal_sd:.1f} % only (limit {100 * FOCAL_SD:g} %): {_remedy(tilt, V, pixels, size)}"
        )
    if centre_sd > CENTRE_SD:
        reasons.append(f"the image centre is known to {100 * centre_sd:.1f} % of the width only: tilt the board about both its axes")
    if not rms <= RMS * float(size.max()) or held_out > 2 * RMS * float(size.max()):
        worse = max(rms, held_out) if held_out == held_out else rms
        reasons.append(
            f"the corners miss any lens by {worse:.1f} px: hold the board still and flat in good light, and check its description"
        )
    empty = _empty_edges(coverage, pixels, size)
    filled = float((coverage > 0).to(torch.float64).mean())
    missing = [f"fill the {edge} edge of the image" for edge in empty]
    if len(empty) >= 3 or filled < 0.25:
        reasons.append(f"corners cover {100 * filled:.0f} % of the image: {', '.join(missing) or 'bring the board to its corners'}")
    else:
        advice += missing
    if not reasons and _ends(camera):
        advice.append("the lens's curve ends before the image's corners: bring the board into them")
    if 0 < V < 10 and not reasons:
        advice.append(f"{V} views were used: 10 or more make it firmer")
    if not reasons and not empty and tilt < 25:
        advice.append(f"most tilt {tilt:.0f} degrees: tilt the board 30-45 degrees")
    return tuple(reasons), tuple(advice)


def _remedy(tilt: float, views: int, pixels: Float[Tensor, "V N 2"], size: Float[Tensor, "2"]) -> str:
    if tilt < 25:
        return "tilt the board 30-45 degrees left, right, up and down"
    low, high = pixels.nan_to_num(torch.inf).amin(1), pixels.nan_to_num(-torch.inf).amax(1)
    part = float(((high - low).prod(-1) / size.prod()).median())
    if part < 0.05:
        return f"the board fills {100 * part:.0f} % of the image: bring it nearer, tilted 30-45 degrees"
    if views < 10:
        return f"{views} views are too few: show it in 10 or more, tilted 30-45 degrees about both its axes"
    return "tilt the board 30-45 degrees about both its axes, near the camera and near the image's corners"


def _ends(camera: Cameras) -> bool:
    """Whether some corner of the image belongs to no direction; a fisheye's may look sideways."""
    far = camera.size[0] - 1
    corners = torch.stack([torch.zeros_like(far), far, far * far.new_tensor([1, 0]), far * far.new_tensor([0, 1])])
    return camera.lens[0] == "brown" and not bool(camera.undistort(corners[None]).isfinite().all())


def _empty_edges(coverage: Float[Tensor, "6 8"], pixels: Float[Tensor, "V N 2"], size: Float[Tensor, "2"]) -> list[str]:
    seen = pixels[pixels.isfinite().all(-1)] / size
    if not len(seen):
        return ["left", "right", "top", "bottom"]
    (left, top), (right, bottom) = seen.amin(0).tolist(), seen.amax(0).tolist()
    gaps = {"left": left, "right": 1 - right, "top": top, "bottom": 1 - bottom}
    return [edge for edge, gap in gaps.items() if gap > EMPTY]
