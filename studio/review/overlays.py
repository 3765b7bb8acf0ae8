"""Pictures of the fitted body over the footage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from calibration.cameras import Cameras
from rigs import keypoints as sets
from studio import clock, video
from studio.review.material import Material, Sighting, gathered

if TYPE_CHECKING:
    from studio.take import Take

COLOURS = ((74, 144, 226), (230, 140, 40), (46, 170, 120), (190, 90, 190), (200, 180, 40), (220, 80, 90))
"""RGB of the actors' bodies, in order."""
OPACITY = 0.55
TRUSTED, REJECTED, FITTED = (170, 255, 60), (255, 60, 60), (255, 255, 255)
SUBPIXEL = 4
"""Bits of the fraction in OpenCV's drawing coordinates."""


def draw(take: Take, frame: int, camera: str) -> UInt8[np.ndarray, "H W 3"]:
    """RGB picture of the take's frame `frame` with every actor's mesh, detected keypoints and fitted keypoints over it.

    Detected keypoints are dots (green where other views agree, red where not), fitted ones white crosses, joined by a line.
    Raises `ValueError` where the camera or the frame does not exist.
    """
    if camera not in take.videos:
        raise ValueError(f"take {take.folder.name!r} has no camera {camera!r}; it has {sorted(take.videos)}")
    material = gathered(take)
    return drawn(material, frame, camera, picture(take, frame, camera))


def picture(take: Take, frame: int, camera: str, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """The video frame nearest to the take's frame `frame`, RGB, scaled to `size` (width, height); black where the camera did not film."""
    if clock.sync_of(take) is not None and not clock.recorded(take, camera, frame):
        width, height = size or (take.probes[camera].width, take.probes[camera].height)
        return np.zeros((height, width, 3), np.uint8)
    frame = clock.video_frame(take, camera, frame)
    for _, image in video.frames(take.videos[camera], frame, frame + 1, size):
        return np.array(image)
    raise ValueError(f"{take.videos[camera]}: has no frame {frame}; choose one that the video holds")


def _sightings(material: Material, frame: int) -> dict[str, Sighting]:
    """What was seen of every actor in video frame `frame`; of a nameless one where nobody was tracked. Nothing outside of the time line."""
    t = frame - material.first
    if not 0 <= t < material.count:
        return {}
    return {actor: material.sighting(actor, slice(t, t + 1)) for actor in material.actors or material.take.actors}


def drawn(material: Material, frame: int, camera: str, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """`image` (of any size) with all actors drawn over it."""
    c = material.cameras.index(camera)
    here = material.cameras[camera]
    scale = torch.tensor([[image.shape[1], image.shape[0]]], dtype=here.size.dtype) / here.size
    lens = here.resized(here.size * scale)
    seen = _sightings(material, frame)
    for number, actor in enumerate(material.actors):
        vertices = material.mesh(actor, frame)
        if vertices is not None and material.body is not None:
            image = shaded(image, lens, vertices, material.body.triangles, COLOURS[number % len(COLOURS)])
    dots = {actor: (sighting.pixels[c, 0] + 0.5) * scale.float() - 0.5 for actor, sighting in seen.items()}
    for actor, sighting in seen.items():
        image = marked(image, dots[actor], sighting.trusted[c, 0], _sizes(material))
    for actor in seen:
        if (places := _keypoints(material, actor, frame)) is not None:
            image = crossed(image, dots[actor], lens.project(places.double())[0].float(), _sizes(material))
    return image


def _sizes(material: Material) -> list[float]:
    """Marks of hands and face are half as large: they lie close together."""
    small = set().union(*(sets.GROUPS[g] for g in ("face", "left_hand", "right_hand")))
    fine = {sets.COCO_WHOLEBODY[i] for i in small}
    return [0.5 if name in fine else 1.0 for name in material.names]


def _keypoints(material: Material, actor: str, frame: int) -> Float[Tensor, "K 3"] | None:
    """Fitted keypoints, or triangulated ones where there is no fit."""
    if material.body is not None and actor in material.motions:
        known = [k for k, n in enumerate(material.names) if n in material.body.keypoint_names]
        skin = material.landmarks([material.names[k] for k in known])
        found = material.mesh(actor, frame, skin)
        if found is not None:
            places = torch.full((len(material.names), 3), torch.nan)
            places[known] = found
            return places
    t = frame - material.first
    return material.triangulated(actor, slice(t, t + 1))[0] if material.tracks and 0 <= t < material.count else None


def shaded(
    image: UInt8[np.ndarray, "H W 3"],
    lens: Cameras,
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "F 3"],
    colour: tuple[int, int, int],
) -> UInt8[np.ndarray, "H W 3"]:
    """`image` with the mesh over it, half transparent, lens distortion included: triangles that face the camera, far ones first."""
    p = lens.to_camera(vertices.to(lens.position))[0]
    pixels = lens.project(vertices.to(lens.position))[0]
    corners = p[triangles]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    centre = corners.mean(1)
    facing = -(normal * centre).sum(-1) / (normal.norm(dim=-1) * centre.norm(dim=-1)).clamp_min(1e-12)
    usable = (facing > 0) & torch.isfinite(pixels[triangles]).all(-1).all(-1) & (corners[..., 2] > 0.05).all(-1)
    index = torch.nonzero(usable)[:, 0]
    index = index[centre[index, 2].argsort(descending=True)]
    outline = (pixels[triangles[index]] * 2**SUBPIXEL).round().clamp(-(2**20), 2**20).int().numpy()
    tone = (0.35 + 0.65 * facing[index].float())[:, None] * torch.tensor(colour).float()
    layer = image.copy()
    for polygon, rgb in zip(outline, tone.tolist(), strict=True):
        cv2.fillConvexPoly(layer, polygon, rgb, cv2.LINE_8, SUBPIXEL)
    return cv2.addWeighted(layer, OPACITY, image, 1 - OPACITY, 0)


def marked(
    image: UInt8[np.ndarray, "H W 3"], dots: Float[Tensor, "K 2"], trusted: Bool[Tensor, "K"], sizes: list[float]
) -> UInt8[np.ndarray, "H W 3"]:
    """`image` with a dot on every seen keypoint: green where other views agree, red where not."""
    for (x, y), good, size in zip(dots.tolist(), trusted.tolist(), sizes, strict=True):
        radius = size * _stroke(image)
        if np.isfinite([x, y]).all() and max(abs(x), abs(y)) < 1e5:
            cv2.circle(image, _fixed(x, y), int((radius + 0.75) * 2**SUBPIXEL), (20, 20, 20), -1, cv2.LINE_AA, SUBPIXEL)
            cv2.circle(image, _fixed(x, y), int(radius * 2**SUBPIXEL), TRUSTED if good else REJECTED, -1, cv2.LINE_AA, SUBPIXEL)
    return image


def crossed(
    image: UInt8[np.ndarray, "H W 3"], dots: Float[Tensor, "K 2"], places: Float[Tensor, "K 2"], sizes: list[float]
) -> UInt8[np.ndarray, "H W 3"]:
    """`image` with a cross where the body says each seen keypoint is, and a line from there to where it was seen."""
    for (x, y), (u, v), size in zip(dots.tolist(), places.tolist(), sizes, strict=True):
        if not np.isfinite([x, y, u, v]).all() or max(abs(x), abs(y), abs(u), abs(v)) > 1e5:
            continue
        arm = size * (_stroke(image) + 0.5)
        cv2.line(image, _fixed(x, y), _fixed(u, v), FITTED, 1, cv2.LINE_AA, SUBPIXEL)
        cv2.line(image, _fixed(u - arm, v - arm), _fixed(u + arm, v + arm), FITTED, 1, cv2.LINE_AA, SUBPIXEL)
        cv2.line(image, _fixed(u - arm, v + arm), _fixed(u + arm, v - arm), FITTED, 1, cv2.LINE_AA, SUBPIXEL)
    return image


@dataclass(frozen=True)
class Window:
    """A cut-out of one size around the actors, its centre a frame's own."""

    size: tuple[int, int]
    """Width and height, px of the video."""
    centres: dict[int, tuple[float, float]]

    @classmethod
    def around(cls, material: Material, camera: str, frames: list[int], margin: float = 1.3) -> Window:
        """The smallest window that holds all actors in each of `frames`; the whole picture where nobody is."""
        width, height = (int(v) for v in material.cameras[camera].size[0].tolist())
        boxes = {f: box for f in frames if (box := _box(material, camera, f)) is not None}
        if not boxes:
            return cls((width, height), {})
        w = max(b[2] - b[0] for b in boxes.values()) * margin
        h = max(b[3] - b[1] for b in boxes.values()) * margin
        w, h = max(w, 0.6 * h, 0.25 * width), max(h, 0.6 * w, 0.25 * height)
        centres = {f: ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for f, b in boxes.items()}
        return cls((min(int(w), width), min(int(h), height)), centres)

    def cut(self, image: UInt8[np.ndarray, "H W 3"], frame: int, longest: int) -> UInt8[np.ndarray, "h w 3"]:
        """This window of `image`, no side longer than `longest`."""
        height, width = image.shape[:2]
        w, h = min(self.size[0], width), min(self.size[1], height)
        x, y = self.centres.get(frame, (width / 2, height / 2))
        left, top = round(min(max(x - w / 2, 0), width - w)), round(min(max(y - h / 2, 0), height - h))
        part = image[top : top + h, left : left + w]
        scale = longest / max(w, h)
        if scale >= 1:
            return part
        return cv2.resize(part, (max(round(w * scale), 1), max(round(h * scale), 1)), interpolation=cv2.INTER_AREA)


def _box(material: Material, camera: str, frame: int) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of all actors in a picture, px: of the bodies, else of the keypoints that views agree on."""
    c, seen = material.cameras.index(camera), _sightings(material, frame)
    dots = []
    for actor in material.actors or material.take.actors:
        places = _keypoints(material, actor, frame)
        found = None if places is None else material.cameras[camera].project(places.double())[0].float()
        if (found is None or not bool(torch.isfinite(found).any())) and actor in seen:
            found = torch.where(seen[actor].trusted[c, 0][:, None], seen[actor].pixels[c, 0], torch.nan)
        if found is not None:
            dots.append(found[torch.isfinite(found).all(-1)])
    points = torch.cat(dots) if dots else torch.zeros(0, 2)
    size = material.cameras[camera].size[0].float()
    points = points[((points >= 0) & (points < size)).all(-1)]
    return None if len(points) < 3 else (*points.min(0).values.tolist(), *points.max(0).values.tolist())


def _stroke(image: np.ndarray) -> float:
    return max(1.5, max(image.shape[:2]) / 450)


def _fixed(x: float, y: float) -> tuple[int, int]:
    return round(x * 2**SUBPIXEL), round(y * 2**SUBPIXEL)
