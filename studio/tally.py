"""What all of a take's tracks together say: how well views agree, who was found, whom the networks themselves contradict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from rigs import rotation
from studio.values import Keypoints2D, Tracks3D, exchanged, of_actor

BODY = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "eye", "ear")
SAMPLED = 10_000
"""About as many frames tell a take's median error."""


def body_of(names: tuple[str, ...]) -> list[int]:
    """Which keypoints are a body's own: joints of the limbs and the head, no hands, face or feet."""
    return [k for k, n in enumerate(names) if n in {f"{s}_{p}" for s in ("left", "right") for p in BODY} | {"nose"}]


def disagreement(cameras: Cameras, keypoints: Keypoints2D, tracks: Tracks3D) -> Float[Tensor, "C T A"]:
    """How far each view's own 3D body is from the triangulated one after the best similarity transform, median over the body, m.

    NaN where a network gives no 3D, or fewer than six points can be compared. Umeyama 1991.
    """
    C, T, A = tracks.detection.shape
    out = torch.full((C, T, A), torch.nan)
    if keypoints.skeleton is None:
        return out
    body = body_of(tracks.keypoints)
    for a in range(A):
        skeleton = of_actor(keypoints.skeleton, tracks.detection[:, :, a], torch.nan)
        skeleton = exchanged(skeleton, tracks.exchange(a), tracks.keypoints)[:, :, body]
        turned = torch.einsum("cji,ctkj->ctki", cameras.R_camera_world.float(), skeleton)
        out[:, :, a] = _misfit(turned, tracks.points[:, a][:, body].expand(C, -1, -1, -1))
    return out


def _misfit(source: Float[Tensor, "*b K 3"], target: Float[Tensor, "*b K 3"]) -> Float[Tensor, "*b"]:
    """Median distance after the similarity that brings source to target, m; NaN for fewer than six points."""
    both = torch.isfinite(source).all(-1) & torch.isfinite(target).all(-1)
    weight = both[..., None].float() / both.sum(-1).clamp_min(1)[..., None, None]
    x, y = (torch.where(both[..., None], p, 0.0) for p in (source, target))
    x, y = (torch.where(both[..., None], p - (p * weight).sum(-2, keepdim=True), 0.0) for p in (x, y))
    M = (y * weight).mT @ x
    R = rotation.project_to_rotation(M + 1e-12 * torch.eye(3))
    scale = (R * M).sum((-1, -2)) / (x.square() * weight).sum((-1, -2)).clamp_min(1e-9)
    apart = (y - scale[..., None, None] * x @ R.mT).norm(dim=-1)
    median = torch.where(both, apart, torch.nan).nanmedian(-1).values
    return torch.where(both.sum(-1) >= 6, median, torch.nan)


class Tally:
    """What the operator and the report want to know of all blocks together."""

    def __init__(self, cameras: Cameras, actors: Sequence[str], frames: int) -> None:
        self.cameras, self.actors = cameras, actors
        C, A = len(cameras), len(actors)
        self.every = max(1, frames // SAMPLED)
        """The median error is that of every so many frames: of all but in takes longer than twice `SAMPLED`."""
        self.found = torch.zeros(A, frames, dtype=torch.bool)
        self.apart = torch.full((C, frames, A), torch.nan)
        self.trusted, self.present = torch.zeros(C, A), torch.zeros(C, A)
        self.errors: list[Tensor] = []
        self.swapped = 0

    def add(self, start: int, keypoints: Keypoints2D, tracks: Tracks3D, apart: Float[Tensor, "C T A"]) -> None:
        """One block, from frame `start` of the take on."""
        body, part = body_of(tracks.keypoints), slice(start, start + keypoints.frames)
        self.apart[:, part] = apart
        self.swapped += int(tracks.swapped.sum())
        for a in range(len(self.actors)):
            seen = torch.isfinite(tracks.chosen(keypoints, a)[1])
            there = torch.ones_like(seen) if tracks.hidden is None else ~tracks.hidden[:, :, a]
            hands = ~seen[:, :, body].any(-1).any(0)  # frames in which no view shows anything of a body
            located = torch.isfinite(tracks.points[:, a, :, 0])
            self.found[a, part] = torch.where(hands, located.any(-1), located[:, body].any(-1))
            pixels, _ = tracks.observations(keypoints, a)
            error = (self.cameras.project(tracks.points[:, a].double()) - pixels).norm(dim=-1).float()
            error = error if bool(hands.all()) else error[:, :, body]
            error = error[:, -start % self.every :: self.every]
            self.errors.append(error[torch.isfinite(error)])
            present = tracks.detection[:, :, a] >= 0
            self.present[:, a] += present.sum(1)
            trusted = tracks.trusted[:, :, a]
            bare = trusted[:, :, body].sum(-1) / there[:, :, body].sum(-1).clamp_min(1)
            share = torch.where(hands, (trusted & seen).sum(-1) / seen.sum(-1).clamp_min(1), bare)
            self.trusted[:, a] += (share * present).sum(1)

    def said(self) -> tuple[list[str], dict]:
        """Warnings in plain sentences, and numbers for the report."""
        warnings = []
        for a, actor in enumerate(self.actors):
            if not bool(self.found[a].any()):
                warnings.append(
                    f"{actor}: nobody was found in two views at once. Check that the cameras see the same person at the same time, "
                    "and that the calibration belongs to these videos."
                )
            elif (lost := 1 - self.found[a].float().mean().item()) > 0.05:
                warnings.append(f"{actor}: not found in {lost:.0%} of the frames.")
            for name, trusted, present in zip(self.cameras.names, self.trusted[:, a].tolist(), self.present[:, a].tolist(), strict=True):
                if trusted < 0.5 * present:
                    warnings.append(f"{actor}: camera {name!r} disagrees with the others in {1 - trusted / present:.0%} of the keypoints.")
        error = torch.cat([torch.zeros(0), *self.errors])
        median = error.median().item() if len(error) else None
        own = {n: v for n, v in zip(self.cameras.names, (self.apart.flatten(1) * 1e3).nanmedian(1).values.tolist()) if v == v}
        for name, mm in own.items():
            if mm > max(100, 2 * float(np.median(list(own.values())))):
                warnings.append(
                    f"camera {name!r}: the 3D body that the network sees there is {mm:.0f} mm from what all views give; "
                    "is its person hidden, or the camera moved?"
                )
        return warnings, {"reprojection_px": median, "swapped_views": self.swapped, "own_skeleton_mm": own}
