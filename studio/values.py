"""What flows between stages: `Keypoints2D`, `Tracks3D`, `Motion`. Frozen; arrays on disk are safetensors.

Axes: T frames, C cameras, A actors, D detections in one image, K keypoints, J joints, S shape, E expression.
NaN pixels or zero confidence mean not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rigs.keypoints import mirrored
from studio.stored import Stored


@dataclass(frozen=True)
class Keypoints2D(Stored):
    """What a network saw in every image."""

    cameras: tuple[str, ...]
    keypoints: tuple[str, ...]
    """Keypoint names, usually `rigs.keypoints.COCO_WHOLEBODY`."""
    network: str
    """Which network placed them (`mediapipe`, `openpose`, `exact`): names its landmark placement on the body."""
    fps: float
    first_frame: int
    """Number of frame 0 here within the videos."""
    pixels: Float[Tensor, "C T D K 2"]
    """px in the videos' own resolution, lens distortion included; NaN where not seen."""
    sigma: Float[Tensor, "C T D K"]
    """Standard deviation of each coordinate, px."""
    confidence: Float[Tensor, "C T D K"]
    """0 (not seen) to 1."""
    skeleton: Float[Tensor, "C T D K 3"] | None = None
    """The network's own 3D guess, m, in the camera's axes (x right, y down, z forward), origin anywhere; NaN where it has none."""
    look: Float[Tensor, "C T D H"] | None = None
    """Shares of colours on each detection's clothes; NaN where they are not seen."""
    looked: Bool[Tensor, "C T"] | None = None
    """Frames that a network looked at; the others lie between two looks. None where it looked at all of them, or nobody knows."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.pixels.shape[1]

    @classmethod
    def read(cls, folder: Path, cameras: Sequence[str], frames: slice | None = None) -> Self:
        """The files of these cameras in `folder`, joined; a `FileNotFoundError` or `ValueError` names the file that does not fit."""
        if lost := [c for c in cameras if not (folder / f"{c}.safetensors").exists()]:
            raise FileNotFoundError(f"{folder / (lost[0] + '.safetensors')}: no keypoints of camera {lost[0]!r}; run the stage `detect`")
        return cls.joined([cls.load(folder / f"{c}.safetensors", frames) for c in cameras])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Several cameras in one value, detections padded with not seen; frames cut to the shortest."""
        first = parts[0]
        for part in parts:
            same = ("keypoints", "network", "fps", "first_frame")
            if wrong := [k for k in same if getattr(part, k) != getattr(first, k)]:
                raise ValueError(
                    f"keypoints of cameras {first.cameras[0]!r} and {part.cameras[0]!r} differ in {wrong}; detect both again alike"
                )
        T = min(p.frames for p in parts)
        D = max(p.pixels.shape[2] for p in parts)

        def stack(name: str, empty: float) -> Tensor:
            tensors = [getattr(p, name)[:, :T] for p in parts]
            padded = [torch.cat([x, x.new_full((x.shape[0], T, D - x.shape[2], *x.shape[3:]), empty)], 2) for x in tensors]
            return torch.cat(padded)

        skeleton, look = (None if any(getattr(p, n) is None for p in parts) else stack(n, torch.nan) for n in ("skeleton", "look"))
        looked = [torch.ones(len(p.cameras), T, dtype=torch.bool) if p.looked is None else p.looked[:, :T] for p in parts]
        names = tuple(c for p in parts for c in p.cameras)
        pixels, sigma, confidence = stack("pixels", torch.nan), stack("sigma", torch.inf), stack("confidence", 0.0)
        return cls(
            names, first.keypoints, first.network, first.fps, first.first_frame, pixels, sigma, confidence, skeleton, look,
            None if all(p.looked is None for p in parts) else torch.cat(looked),
        )  # fmt: skip


class Footage(Protocol):
    """What the networks saw of a take, in memory or on disk; only the frames asked for need to be in memory."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        ...

    def cut(self, frames: slice) -> Keypoints2D:
        """Some consecutive frames of all cameras."""
        ...


@dataclass(frozen=True)
class KeypointFiles:
    """The keypoints of some cameras on disk, one file each."""

    folder: Path
    cameras: tuple[str, ...]

    @property
    def frames(self) -> int:
        """Number of frames that all files have; a `FileNotFoundError` or `ValueError` names a file that does not fit."""
        Keypoints2D.read(self.folder, self.cameras, slice(0, 0))
        return min(Keypoints2D.count(self.folder / f"{c}.safetensors") for c in self.cameras)

    def cut(self, frames: slice) -> Keypoints2D:
        """Some consecutive frames, read now."""
        return Keypoints2D.read(self.folder, self.cameras, frames)


@dataclass(frozen=True)
class Tracks3D(Stored):
    """Who is who, and where their keypoints are."""

    keypoints: tuple[str, ...]
    actors: tuple[str, ...]
    fps: float
    first_frame: int
    points: Float[Tensor, "T A K 3"]
    """World, m; NaN where fewer than two views agree."""
    covariance: Float[Tensor, "T A K 3 3"]
    """m^2."""
    detection: Int[Tensor, "C T A"]
    """Which detection of each view is this actor; -1 for none."""
    swapped: Bool[Tensor, "C T A"]
    """Views whose left and right were exchanged by the network, in the arms or in the legs, and must be exchanged back."""
    trusted: Bool[Tensor, "C T A K"]
    """Keypoints of that detection (after the exchange) that agree with the other views."""
    exchanged: Bool[Tensor, "C T A K"] | None = None
    """Which keypoints of that detection take the place of their left or right counterpart; None for all of a swapped view."""
    hidden: Bool[Tensor, "C T A K"] | None = None
    """Which of them are left out because somebody else stands before them and other views show them; None where nobody looked."""

    def chosen(self, keypoints: Keypoints2D, actor: int) -> tuple[Float[Tensor, "C T K 2"], Float[Tensor, "C T K"], Float[Tensor, "C T K"]]:
        """Pixels, sigma (px; infinite where not seen), confidence of an actor's detections in the same frames, sides put back."""
        which = self.detection[:, :, actor]
        pixels = of_actor(keypoints.pixels, which, torch.nan)
        sigma = of_actor(keypoints.sigma, which, torch.inf)
        confidence = of_actor(keypoints.confidence, which, 0.0)
        seen = torch.isfinite(pixels).all(-1) & torch.isfinite(sigma) & (sigma > 0) & (confidence > 0)
        values = pixels, torch.where(seen, sigma, torch.inf), torch.where(seen, confidence, 0.0)
        return tuple(exchanged(v, self.exchange(actor), self.keypoints) for v in values)  # type: ignore[return-value]

    def observations(self, keypoints: Keypoints2D, actor: int) -> tuple[Float[Tensor, "C T K 2"], Float[Tensor, "C T K"]]:
        """One actor's pixels and their standard deviation, px, in the same frames; NaN and infinite where not to be trusted."""
        pixels, sigma, _ = self.chosen(keypoints, actor)
        trusted = self.trusted[:, :, actor] & torch.isfinite(sigma)
        return torch.where(trusted[..., None], pixels, torch.nan), torch.where(trusted, sigma, torch.inf)

    def exchange(self, actor: int) -> Bool[Tensor, "C T K"]:
        """Which of an actor's keypoints take the place of their left or right counterpart."""
        if self.exchanged is not None:
            return self.exchanged[:, :, actor]
        return self.swapped[:, :, actor, None].expand(*self.swapped.shape[:2], len(self.keypoints))


def of_actor(values: Float[Tensor, "C T D *k"], detection: Int[Tensor, "C T"], empty: float) -> Float[Tensor, "C T *k"]:
    """The values of the chosen detection, `empty` where there is none (-1)."""
    index = detection.clamp_min(0).view(*detection.shape, *(1,) * (values.ndim - 2)).expand(-1, -1, 1, *values.shape[3:])
    picked = values.gather(2, index)[:, :, 0]
    return torch.where(detection.view(*detection.shape, *(1,) * (picked.ndim - 2)) >= 0, picked, empty)


def exchanged(values: Tensor, exchange: Bool[Tensor, "*axes K"], names: tuple[str, ...]) -> Tensor:
    """Values (*axes, K) or (*axes, K, n), those marked replaced by their left or right counterpart's."""
    axis = exchange.ndim - 1
    mask = exchange if values.ndim == exchange.ndim else exchange[..., None]
    return torch.where(mask, values.index_select(axis, torch.tensor(mirrored(names))), values)


@dataclass(frozen=True)
class Motion(Stored):
    """One actor's animation, bound to a body model."""

    body: str
    """Name of the body model."""
    actor: str
    joints: tuple[str, ...]
    fps: float
    first_frame: int
    timecode: str
    """Of frame 0, HH:MM:SS:FF."""
    shape: Float[Tensor, "S"]
    translation: Float[Tensor, "T 3"]
    """World position of the root joint, m."""
    rotation: Float[Tensor, "T J 3"]
    """Local joint rotation vectors, rad."""
    expression: Float[Tensor, "T E"]
    sigma: Float[Tensor, "T J"]
    """Standard deviation of each joint's world position (root mean square of the three axes), m."""
    contacts: Float[Tensor, "T 8"]
    """Probability that left heel, left toe, right heel, right toe is planted, and that ball and tip of the left and of the right hand
    rest on the floor. Files from before there were hands have the first four."""
