"""The operations of the face network with irises: eyes and lips are cut out of its own feature maps where its first guess puts them.

As in mediapipe/util/tflite/operations: `landmarks_to_transform_matrix.cc`, `transform_tensor_bilinear.cc`, `transform_landmarks.cc`.
Coordinates count pixel corners: the centre of the first pixel is (0.5, 0.5). Matrices are kept in float32 whatever the network's precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def _options(data: bytes) -> dict[str, Any]:
    from flatbuffers import flexbuffers

    options: Any = flexbuffers.Loads(data) if data else {}
    return options


def _cut_out(data: bytes) -> Callable[[Tensor], Tensor]:
    """Landmarks to the matrix that takes px of an upright cut-out around some of them to px of the image."""
    o = _options(data)
    subset, left, right = (o[key] for key in ("subset_idxs", "left_rotation_idx", "right_rotation_idx"))
    chosen = [int(i) for i in torch.as_tensor(subset).flatten()]
    size = (float(o["output_width"]), float(o["output_height"]))
    scale = (float(o["scale_x"]), float(o["scale_y"]))

    def matrix(landmarks: Float[Tensor, "B K 3"]) -> Float[Tensor, "B 4 4"]:
        points = landmarks[..., :2].float()
        along = points[:, right] - points[:, left]
        angle = float(o.get("target_rotation_radians", 0.0)) - torch.atan2(along[:, 1], along[:, 0])
        c, s = torch.cos(angle), torch.sin(angle)
        upright = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
        own = points[:, chosen] @ upright.mT
        low, high = own.amin(1), own.amax(1)
        out = own.new_tensor(size)
        linear = upright.mT * ((high - low) * own.new_tensor(scale) / out)[:, None, :]
        centre = (((low + high) / 2)[:, None] @ upright)[:, 0]
        matrix = torch.eye(4, device=points.device).repeat(len(points), 1, 1)
        matrix[:, :2, :2] = linear
        matrix[:, :2, 3] = centre - (linear @ (out / 2)[:, None])[..., 0]
        return matrix

    return matrix


def _warp(data: bytes) -> Callable[[Tensor, Tensor], Tensor]:
    """Feature maps seen through a matrix; nothing beyond their border."""
    o = _options(data)
    height, width = int(o["output_height"]), int(o["output_width"])

    def warp(maps: Float[Tensor, "B C H W"], matrix: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B C h w"]:
        B, _, H, W = maps.shape
        y, x = torch.meshgrid(torch.arange(height).to(matrix) + 0.5, torch.arange(width).to(matrix) + 0.5, indexing="ij")
        at = torch.stack([x, y], -1).reshape(1, -1, 2) @ matrix[:, :2, :2].mT + matrix[:, None, :2, 3]
        limit = at.new_tensor([W, H])
        seen = F.grid_sample(
            maps.float(), (2 * at / limit - 1).reshape(B, height, width, 2), mode="bilinear", padding_mode="zeros", align_corners=False
        )
        inside = ((at >= 0.5) & (at <= limit - 0.5)).all(-1).reshape(B, 1, height, width)
        return (seen * inside).to(maps.dtype)

    return warp


def _move(data: bytes) -> Callable[[Tensor, Tensor], Tensor]:
    """Landmarks moved by a matrix; depth stays."""

    def move(landmarks: Float[Tensor, "B K n"], matrix: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B K n"]:
        flat = landmarks[..., :2].float() @ matrix[:, :2, :2].mT + matrix[:, None, :2, 3]
        return torch.cat([flat.to(landmarks.dtype), landmarks[..., 2:]], -1)

    return move


FACE_OPERATIONS: dict[str, Callable[[bytes], Callable[..., Tensor]]] = {
    "Landmarks2TransformMatrix": _cut_out,
    "TransformTensorBilinear": _warp,
    "TransformLandmarks": _move,
}
