"""The account of a rig that was found or refined from a person."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch

from calibration.gates import Gate
from calibration.people import PeopleFit
from calibration.people_gates import shared_frames
from studio.calibration_report.account import Account, Link, Row, Seen


def account_of_people(fit: PeopleFit, gates: Sequence[Gate], facts: dict[str, str], feet: Sequence[int], source: str) -> Account:
    """What a rig found from a person has to say; `feet` are the points whose ways are drawn."""
    C = len(fit.cameras)
    foretold = fit.cameras.project(fit.points)
    seen = tuple(_seen(fit, foretold[c] - fit.offset[c], c) for c in range(C))
    ways = (fit.points.nanmean(1), *(fit.points[:, i] for i in feet))
    told = {"Frames": f"{len(fit.frames)} of the take", "Points miss by": f"{fit.rms:.1f} px (median)"}
    rows, links = tuple(_row(fit, c) for c in range(C)), _links(fit)
    title = "Calibration from a person" if fit.start is not None else "Calibration refined by a person"
    return Account(title, source, fit.cameras, tuple(gates), told | facts, seen, rows, links, paths=ways)


def _seen(fit: PeopleFit, pixels: torch.Tensor, c: int) -> Seen:
    good = fit.offset[c].isfinite().all(-1) & pixels.isfinite().all(-1)
    count = int(good.any(-1).sum())
    exchanged = int(fit.exchanged[c].sum())
    words = f"left and right were exchanged, and put back, in {exchanged} of {fit.exchanged.shape[1]} frames" if exchanged else ""
    over_time = fit.residual[c].nanmedian(-1).values
    return Seen(fit.cameras.names[c], "points of the person", pixels[good], fit.offset[c][good], over_time, count, count, words)


def _row(fit: PeopleFit, c: int) -> Row:
    sd = fit.covariance[c].diagonal().clamp_min(0)
    unknown = float("nan")
    focal = float(fit.focal_sigma[c])
    delay, delay_sd = float(fit.delay[c]), float(fit.delay_sigma[c])
    return Row(fit.cameras.names[c], focal, unknown, float(sd[3:].sum().sqrt()), float(sd[:3].sum().sqrt()), delay, delay_sd, unknown)


def _links(fit: PeopleFit) -> tuple[Link, ...]:
    names, shared = fit.cameras.names, shared_frames(fit)
    each = fit.residual.nanmedian(-1).values
    found = []
    for a, b in combinations(range(len(names)), 2):
        both = each[a].isfinite() & each[b].isfinite()
        px = float(torch.maximum(each[a], each[b])[both].median()) if bool(both.any()) else float("nan")
        found.append(Link(names[a], names[b], int(both.sum()), int(shared[a, b]), px))
    return tuple(sorted(found, key=lambda link: link.agreeing))
