"""Per-pixel truth of one frame and camera: who, where on the body, how far, and where it moves; PNG files, 16 bits where needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from studio.virtual.scene import Crowd, View

DEPTH_UNIT = 0.0002
"""m per grey level of a depth file."""
FLOW_UNIT, FLOW_ZERO = 1 / 64, 32768
"""px per grey level of a flow file, and the level of no motion (the KITTI convention)."""


@dataclass(frozen=True)
class Maps:
    """What the centre of every pixel sees."""

    person: Int[np.ndarray, "H W"]
    """Actor number from 1; 0 is the room."""
    part: Int[np.ndarray, "H W"]
    """Body part number from 1 (`Body.part_names`); 0 is the room."""
    uv: Float[np.ndarray, "H W 2"]
    """Texture coordinates on the body, 0..1; 0 in the room."""
    depth: Float[np.ndarray, "H W"]
    """Distance along the optical axis, m; of the room too."""
    flow: Float[np.ndarray, "H W 2"]
    """Where the surface point goes until the next frame, px; 0 in the room."""
    moving: Bool[np.ndarray, "H W"]
    """Whether the flow is known: everywhere but in the last frame."""


def maps_of(view: View, now: Crowd, after: Crowd | None) -> Maps:
    """Truth maps of a view, `after` being the people one frame later."""
    hits = view.seen(now)
    solid = hits.person >= 0
    part, uv = np.zeros(solid.shape, np.uint8), np.zeros((*solid.shape, 2), np.float32)
    flow = np.zeros((*solid.shape, 2), np.float32)
    axis = view.camera.R_camera_world[0, 2].numpy().astype(np.float32)
    for p, figure in enumerate(now.figures):
        mine = hits.person == p
        corners, b = figure.triangles[hits.triangle[mine]], hits.corner[mine]
        assert figure.body.parts is not None
        owner = np.take_along_axis(corners, b.argmax(1)[:, None], 1)[:, 0]
        part[mine] = figure.body.parts.numpy()[owner] + 1
        uv[mine] = np.einsum("nk,nkc->nc", b, figure.uv[hits.triangle[mine]])
        if after is not None:
            index = corners + now.offset(p)
            moved = [
                view.camera.project(torch.from_numpy(np.einsum("nk,nkc->nc", b, c.vertices[index])).double())[0].numpy()
                for c in (now, after)
            ]
            flow[mine] = moved[1] - moved[0]
    depth = np.where(solid, hits.distance, view.distance) * (view.rays @ axis)
    return Maps((hits.person + 1).astype(np.uint8), part, uv, depth.astype(np.float32), flow, np.full(solid.shape, after is not None))


def write_maps(maps: Maps, folder: Path, frame: int) -> None:
    """Write `<frame>_person.png`, `_iuv.png`, `_depth.png`, `_flow.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    iuv = np.dstack([maps.part.astype(np.uint16), *(np.round(maps.uv * 65535).astype(np.uint16)[..., i] for i in (0, 1))])
    depth = np.round(maps.depth / DEPTH_UNIT).clip(0, 65535).astype(np.uint16)
    flow = np.round(maps.flow / FLOW_UNIT + FLOW_ZERO).clip(0, 65535).astype(np.uint16)
    images = {"person": maps.person.astype(np.uint8), "iuv": iuv, "depth": depth, "flow": np.dstack([flow, maps.moving.astype(np.uint16)])}
    for name, image in images.items():
        path = folder / f"{frame:06d}_{name}.png"
        temporary = folder / f"{frame:06d}_{name}.partial.png"
        # cv2 stores the last channel first.
        if not cv2.imwrite(str(temporary), image[..., ::-1] if image.ndim == 3 else image, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(f"{path}: could not be written; is the disk full?")
        temporary.replace(path)


def read_maps(folder: Path, camera: str, frame: int) -> Maps:
    """Truth maps of one frame of a capture in `folder`, to within the files' rounding (0.1 mm, 1/128 px)."""
    images = {}
    for name in ("person", "iuv", "depth", "flow"):
        path = folder / "maps" / camera / f"{frame:06d}_{name}.png"
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise FileNotFoundError(f"{path}: no such map; render the capture with truth_maps")
        images[name] = image[..., ::-1] if image.ndim == 3 else image
    iuv, flow = images["iuv"], images["flow"]
    return Maps(
        person=images["person"],
        part=iuv[..., 0].astype(np.uint8),
        uv=iuv[..., 1:].astype(np.float32) / 65535,
        depth=images["depth"].astype(np.float32) * DEPTH_UNIT,
        flow=(flow[..., :2].astype(np.float32) - FLOW_ZERO) * FLOW_UNIT,
        moving=flow[..., 2] > 0,
    )
