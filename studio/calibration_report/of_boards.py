"""The account of a calibration from boards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.boards import BoardViews
from calibration.extrinsics import RigFit
from calibration.gates import Gate
from calibration.held_out import HeldOut
from calibration.intrinsics import LensFit
from calibration.rig_views import UNSEEN, USED
from studio.calibration_report.account import Account, Link, Row, Seen

LENSES = {"fixed": "taken as given", "refined": "refined with the rig", "shared": "refined with the rig, shared by cameras of one type"}

LEFT_OUT = {
    "alone": "seen by no other camera",
    "disagrees": "placed elsewhere by the other cameras",
    "few corners": "with too few corners",
    "from behind": "seen from behind",
}
"""Views that were left out, in words after their number."""


def account_of_boards(views: BoardViews, lenses: Sequence[LensFit], fit: RigFit, held: HeldOut | None, gates: Sequence[Gate]) -> Account:
    """What a rig solved from board views has to say, in the rig's own world (`fit.cameras`)."""
    names = fit.cameras.names
    return Account(
        "Calibration from a board",
        f"a {views.board.kind} board",
        fit.cameras,
        tuple(gates),
        _facts(views, fit, held),
        tuple(_seen(views, fit, c) for c in range(len(names))),
        tuple(_row(lenses[c], fit, held, c) for c in range(len(names))),
        _links(fit, held),
        _quads(views, fit),
    )


def _facts(views: BoardViews, fit: RigFit, held: HeldOut | None) -> dict[str, str]:
    facts = {
        "Instants": f"{int(fit.used.any(0).sum())} of {views.pixels.shape[1]} show the board to two cameras that agree",
        "Corners miss by": f"{fit.rms:.2f} px (root mean square), {fit.excess:.2f} px of it more than their own noise",
        "Lenses": LENSES.get(fit.lenses, fit.lenses),
        "Covariances": f"widened {fit.correlation:.1f} times, for corners of one instant err together",
    }
    if held is None:
        return facts
    true = views.board.pitch
    facts["Known square"] = (
        f"{1000 * true:g} mm measures {1000 * (held.square - true):+.2f} mm, spread {1000 * held.spread:.2f} mm, over {held.edges} edges "
        f"at {int(held.instants.sum())} instants that were held out"
    )
    left = held.left_out[held.left_out.isfinite()]
    if len(left):
        facts["Leave one out"] = (
            f"the other cameras foretell what one saw to {float(left.median()):.2f} px, {float(left.max()):.2f} at worst"
        )
    return facts


def _seen(views: BoardViews, fit: RigFit, c: int) -> Seen:
    offset = torch.where(fit.used[c][:, None, None], fit.residual[c], torch.nan)
    good = offset.isfinite().all(-1) & views.pixels[c].isfinite().all(-1)
    words = ", ".join(f"{n} {LEFT_OUT.get(why, why)}" for why, n in fit.rejected[fit.cameras.names[c]].items())
    verdict = fit.verdict[c]
    over_time = offset.norm(dim=-1).nanmedian(-1).values
    counts = int((verdict != UNSEEN).sum()), int((verdict == USED).sum())
    return Seen(fit.cameras.names[c], "corners", views.pixels[c][good], offset[good], over_time, *counts, words)


def _row(lens: LensFit, fit: RigFit, held: HeldOut | None, c: int) -> Row:
    sd = fit.lens_covariance[c].diagonal().clamp_min(0).sqrt()
    pose = fit.camera_covariance[c].diagonal().clamp_min(0)
    left = float(held.left_out[c]) if held is not None else float("nan")
    return Row(
        fit.cameras.names[c],
        float((sd[:2] / fit.cameras.focal[c]).max()),
        float(sd[2:4].max()),
        float(pose[3:].sum().sqrt()),
        float(pose[:3].sum().sqrt()),
        float(fit.delay[c]),
        float(fit.delay_sd[c]),
        left,
        (*lens.reasons, *lens.advice),
    )


def _links(fit: RigFit, held: HeldOut | None) -> tuple[Link, ...]:
    names, used = fit.cameras.names, fit.used
    doubtful = {frozenset(pair) for pair in fit.doubtful}
    found = []
    for pair in fit.pairs:
        a, b = pair.first, pair.second
        px = float(held.pair[a, b]) if held is not None else float("nan")
        both = int((used[a] & used[b]).sum())
        found.append(Link(names[a], names[b], pair.shared, both, px, frozenset((names[a], names[b])) in doubtful))
    return tuple(sorted(found, key=lambda link: link.agreeing))


def _quads(views: BoardViews, fit: RigFit) -> Float[Tensor, "B 4 3"]:
    """The board's outline at every solved instant, m."""
    points = views.board.points()
    (left, top), (right, bottom) = points.amin(0)[:2].tolist(), points.amax(0)[:2].tolist()
    flat = torch.tensor([[left, top, 0], [right, top, 0], [right, bottom, 0], [left, bottom, 0]], dtype=torch.float64)
    there = fit.board_position.isfinite().all(-1)
    return torch.einsum("bij,nj->bni", fit.R_world_board[there], flat) + fit.board_position[there, None]
