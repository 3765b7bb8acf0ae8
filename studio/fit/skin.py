"""What a network sees of the actors' skin in a take's videos, kept per camera in `surface/<camera>.safetensors`.

Every video is decoded once; of each crop only where the solver's points were seen is kept, a byte a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from rigs.body import Body
from studio.clock import footage
from studio.fit.dense import Sightings, skin_points
from studio.fit.masks import own_rows
from studio.freshness import fresh, stamp
from studio.nets.surface import Eye, sighted
from studio.stored import Stored
from studio.take import Take
from studio.values import Keypoints2D, Tracks3D
from studio.video import frames as images

STRETCH = 64
"""Frames in memory at once."""
LEAST = 6
"""Keypoints that must be seen of an actor."""
PADDING = 1.35
"""Side of the crop over that of the keypoints' box; the head reaches beyond them."""
STEP = 0.001
"""m that one unit of a stored sigma stands for."""
NOT_SEEN = 255


@dataclass(frozen=True)
class SeenSkin(Stored):
    """Of one camera; A actors as in the tracks."""

    vertices: Int[Tensor, "P"]
    """Of the body's mesh."""
    size: int
    """Side of a crop, px."""
    box: Float[Tensor, "T A 3"]
    """Left and top edge and side of the crop in the image, px; NaN where nobody was looked for."""
    points: UInt8[Tensor, "T A P 2"]
    """Parts of the crop's side, of 254; `NOT_SEEN` where not seen."""
    sigma: UInt8[Tensor, "T A P"]
    """`STEP` m; along the skin."""

    def pixels(self, actor: int) -> tuple[Float[Tensor, "T P 2"], Float[Tensor, "T P"]]:
        """Of one actor px of the image, and how far off, m."""
        share, box = self.points[:, actor].float() / 254, self.box[:, actor, None]
        at = box[..., :2] + share * box[..., 2:] - 0.5
        return torch.where(self.points[:, actor] == NOT_SEEN, torch.nan, at), self.sigma[:, actor].float() * STEP


def skin_file(take: Take, camera: str) -> Path:
    """Where it is kept."""
    return take.folder / "surface" / f"{camera}.safetensors"


def see_skin(take: Take, body: Body, weights: str | Path = "surface") -> None:
    """Look at the actors in all cameras; what is up to date stays. A `ValueError` where the network knows another body."""
    eye = Eye(weights)
    if body.name != "makehuman":
        raise ValueError(f"fit: dense: the network of surfaces knows the body makehuman, not {body.name!r}; set dense to 0 in the config")
    assert body.parts is not None  # of that body
    vertices = skin_points(body)
    part = body.parts[vertices].long()
    recipe = {"network": eye.card.sha256, "points": len(vertices)}
    for camera, video in take.videos.items():
        if camera not in take.cameras().names:
            continue
        path, inputs = skin_file(take, camera), [video, take.tracks_file, take.keypoints_folder]
        if not fresh(path, inputs, recipe):
            _see(take, camera, eye, (vertices, body.skin.rest[vertices].float(), part), path, stamp(inputs, recipe))


def sightings(take: Take, cameras: tuple[str, ...], actor: int, frames: slice) -> Sightings:
    """What all cameras saw of an actor's skin in consecutive frames of the tracks."""
    seen = [SeenSkin.load(skin_file(take, c), frames) for c in cameras]
    parts = [s.pixels(actor) for s in seen]
    return Sightings(seen[0].vertices, torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts]))


def _see(take: Take, camera: str, eye: Eye, skin: tuple[Tensor, Tensor, Tensor], path: Path, record: dict) -> None:
    T, A = Tracks3D.count(take.tracks_file), len(Tracks3D.load(take.tracks_file, slice(0, 1)).actors)
    P = len(skin[0])
    empty = lambda n: SeenSkin(  # noqa: E731
        skin[0], eye.size, torch.full((n, A, 3), torch.nan), torch.full((n, A, P, 2), NOT_SEEN, dtype=torch.uint8),
        torch.zeros((n, A, P), dtype=torch.uint8),
    )  # fmt: skip
    with empty(1).writer(path, T, **record) as writer:
        for begin in range(0, T, STRETCH):
            span = slice(begin, min(begin + STRETCH, T))
            part = empty(span.stop - begin)
            where, crops = [], []
            box, points = _boxes(take, camera, span, A, eye)
            part.box.copy_(box)
            for t, image in _images(take, camera, span):
                for a in torch.isfinite(part.box[t, :, 0]).nonzero()[:, 0].tolist():
                    where.append((t, a))
                    crops.append(_crop(image, part.box[t, a].tolist(), eye.size))
            for i in range(0, len(crops), 32):
                some = where[i : i + 32]
                shown = eye.see(torch.from_numpy(np.stack(crops[i : i + 32])), torch.stack([points[t, a] for t, a in some]))
                _kept(part, some, *sighted(shown, *skin[1:]))
            writer.put(begin, part)


def _kept(part: SeenSkin, where: list[tuple[int, int]], points: Tensor, sigma: Tensor) -> None:
    there = torch.isfinite(points).all(-1) & (points > -0.5).all(-1) & (points < part.size - 0.5).all(-1)
    share = ((points + 0.5) / part.size * 254).round().nan_to_num(NOT_SEEN).clamp(0, 254).to(torch.uint8)
    for n, (t, a) in enumerate(where):
        part.points[t, a] = torch.where(there[n, :, None], share[n], NOT_SEEN)
        part.sigma[t, a] = (sigma[n] / STEP).nan_to_num(0).round().clamp(0, 255).to(torch.uint8)


def _boxes(take: Take, camera: str, span: slice, actors: int, eye: Eye) -> tuple[Float[Tensor, "T A 3"], Float[Tensor, "T A K 2"]]:
    """Squares around the keypoints that a camera saw of each actor, whole px; and these keypoints in px of the crop."""
    tracks = Tracks3D.load(take.tracks_file, span)
    seen = footage(take, take.cameras().names).cut(span)
    c, boxes, points = seen.cameras.index(camera), [], []
    for a in range(actors):
        pixels = tracks.observations(seen, a)[0][c].float()
        own = torch.full((len(pixels), len(eye.card.keypoints), 2), torch.nan)
        for k, name in enumerate(eye.card.keypoints):
            if name in seen.keypoints:
                own[:, k] = pixels[:, seen.keypoints.index(name)]
        known = torch.isfinite(own).all(-1)
        low, high = (f(torch.where(known[..., None], own, far), 1) for f, far in ((torch.amin, torch.inf), (torch.amax, -torch.inf)))
        side = (PADDING * (high - low).amax(-1)).round()
        corner = ((low + high) / 2 + 0.5 - side[:, None] / 2).round()
        enough = (known.sum(1) >= LEAST) & (side >= 16)
        boxes.append(torch.where(enough[:, None], torch.cat([corner, side[:, None]], -1), torch.nan))
        points.append((own + 0.5 - corner[:, None]) * eye.size / side[:, None, None] - 0.5)
    return torch.stack(boxes, 1), torch.stack(points, 1)


def _images(take: Take, camera: str, span: slice) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """Rows of the stretch with their images; nothing where the camera did not record."""
    begin = Keypoints2D.load(take.keypoints_folder / f"{camera}.safetensors", slice(0, 1)).first_frame
    numbers = (own_rows(take, camera, span) + begin).tolist()
    rows: dict[int, list[int]] = {}
    for t, number in enumerate(numbers):
        rows.setdefault(number, []).append(t)
    low, high = max(min(numbers), 0), min(max(numbers) + 1, take.probes[camera].frames)
    for number, image in images(take.videos[camera], low, high) if low < high else ():
        for t in rows.get(number, ()):
            yield t, image


def _crop(image: UInt8[np.ndarray, "H W 3"], box: list[float], size: int) -> UInt8[np.ndarray, "S S 3"]:
    """The box as a crop; beyond the border the edge goes on."""
    x, y, side = (int(v) for v in box)
    h, w = image.shape[:2]
    before, after = (max(0, -y), max(0, -x)), (max(0, y + side - h), max(0, x + side - w))
    patch = image[max(y, 0) : max(y + side, 1), max(x, 0) : max(x + side, 1)]
    if not patch.size:
        return np.zeros((size, size, 3), np.uint8)
    patch = cv2.copyMakeBorder(patch, before[0], after[0], before[1], after[1], cv2.BORDER_REPLICATE)
    return cv2.resize(patch, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
