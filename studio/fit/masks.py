"""An actor's masks, as the detector left them beside the keypoints."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from studio.clock import own_times, sync_of
from studio.take import Take
from studio.values import Keypoints2D, Tracks3D
from studio.video import frames as images
from studio.video import probe

FINEST = 320
"""Masks are brought to at most so many pixels across: a window of many cameras must fit into memory."""


def masks_folder(take: Take) -> Path:
    """Where the detector leaves masks, one video a camera."""
    return take.folder / "masks"


def masks_of(take: Take, camera: str, detection: Int[Tensor, "T"], frames: slice) -> tuple[Bool[Tensor, "T h w"], Bool[Tensor, "T h w"]]:
    """Which pixels of a camera's masks are the person who is `detection` (-1 for nobody) in consecutive frames of the take; and which are
    others, behind whom more of the person may be.

    A frame between two of the camera's own has the nearer one's. They show the whole image, no finer than `FINEST`; empty where the
    detector wrote none.
    """
    file = masks_folder(take) / f"{camera}.mkv"
    if not file.is_file():
        nothing = torch.zeros(len(detection), 2, 2, dtype=torch.bool)
        return nothing, nothing
    own = own_rows(take, camera, frames)
    info = probe(file)
    coarser = -(-max(info.width, info.height) // FINEST)
    size = (-(-info.width // coarser), -(-info.height // coarser))
    kept, others = (np.zeros((len(detection), size[1], size[0]), bool) for _ in range(2))
    low, high = max(int(own.min()), 0), min(int(own.max()) + 1, info.frames)
    rows: dict[int, list[int]] = {}
    for t, number in enumerate(own.tolist()):
        if detection[t] >= 0:
            rows.setdefault(number, []).append(t)
    for number, image in images(file, low, high, gray=True) if low < high else ():
        for t in rows.get(number, ()):
            own = image == int(detection[t]) + 1
            kept[t] = cv2.resize(own.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 127
            others[t] = cv2.resize(((image > 0) & ~own).astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 127
    return torch.from_numpy(kept), torch.from_numpy(others)


def own_rows(take: Take, camera: str, frames: slice) -> Int[Tensor, "T"]:
    """Rows of a camera's keypoint file, and so of its masks, that are nearest to frames of the take's tracks."""
    sync = sync_of(take)
    wanted = torch.arange(frames.start, frames.stop)
    if sync is None:
        return wanted
    first = Tracks3D.load(take.tracks_file, slice(0, 1)).first_frame
    begin = Keypoints2D.load(take.keypoints_folder / f"{camera}.safetensors", slice(0, 1)).first_frame
    own = own_times(take, camera, sync)
    moments = sync.cameras[camera].own((first + wanted).double() / sync.fps)
    after = torch.searchsorted(own, moments).clamp(1, len(own) - 1)
    nearer = torch.where(moments - own[after - 1] < own[after] - moments, after - 1, after)
    return nearer - begin
