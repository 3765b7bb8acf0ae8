"""Square, rotated regions of an image: where a network looks, and the way back into the image.

The formulas are MediaPipe's (mediapipe/modules: pose_landmark, hand_landmark, face_landmark and the calculators
`AlignmentPointsRectsCalculator`, `RectTransformationCalculator`), in coordinates where pixel (0, 0) is the centre of the top-left pixel.
Angles are clockwise on the screen, rad. Plain numpy: these are four numbers at a time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

Array = np.ndarray


class Region(NamedTuple):
    """A square of side `size` px around (x, y), turned by `angle`."""

    x: float
    y: float
    size: float
    angle: float

    def shifted(self, down: float) -> Region:
        """Moved along its own vertical by `down` sizes."""
        step = down * self.size
        return self._replace(x=self.x - step * math.sin(self.angle), y=self.y + step * math.cos(self.angle))

    def scaled(self, by: float) -> Region:
        """About its centre."""
        return self._replace(size=self.size * by)


def to_image(points: Float[Array, "K n"], region: Region, side: int) -> Float[Array, "K n"]:
    """Image px of points given in px of a crop with `side` px a side; a third coordinate is scaled alike."""
    turn = _rotation(region.angle)
    flat = (points[:, :2] / side - 0.5) @ turn.T * region.size + (region.x, region.y)
    return flat if points.shape[1] == 2 else np.concatenate([flat, points[:, 2:] / side * region.size], 1)


def to_crop(points: Float[Array, "K 2"], region: Region, side: int) -> Float[Array, "K 2"]:
    """Px of a crop with `side` px a side of points given in image px."""
    return ((points - (region.x, region.y)) @ _rotation(region.angle) / region.size + 0.5) * side


def turned(points: Float[Array, "K 3"], region: Region) -> Float[Array, "K 3"]:
    """3D points from the axes of a crop to those of the image."""
    return np.concatenate([points[:, :2] @ _rotation(region.angle).T, points[:, 2:]], 1)


def crop(pyramid: list[UInt8[Array, "H W 3"]], region: Region, side: int, black: bool = False) -> Float[Array, "side side 3"]:
    """The region as a `side` px image, 0 to 255, float32; beyond the border the edge goes on, or black.

    `pyramid` is the image and its halvings (`halvings`): the level is taken that is at least as fine as the crop, so that fine
    texture does not alias into the network. Not rounded to whole grey levels: a region moved by a thousandth of a pixel would then
    move landmarks by whole pixels, and frame by frame that becomes jitter.
    """
    return sampled(pyramid, _crop_matrix(region, side), (side, side), black)


def sampled(
    pyramid: list[UInt8[Array, "H W 3"]], matrix: Float[Array, "2 3"], size: tuple[int, int], black: bool = False
) -> Float[Array, "h w 3"]:
    """As `crop`, of any width and height, with the matrix that takes its px to px of the image."""
    (a, b, x), (c, d, y) = matrix.tolist()  # plain numbers: numpy asks more for a matrix so small than its contents are worth
    scale = math.sqrt(abs(a * d - b * c))
    level = min(max(int(math.log2(max(scale, 1.0))), 0), len(pyramid) - 1)
    image = pyramid[level]
    if level:  # the centre of pixel 0 moves by half a pixel of the finer level at every halving
        factor = 2.0**level
        a, b, c, d = a / factor, b / factor, c / factor, d / factor
        x, y = (x - (factor - 1) / 2) / factor, (y - (factor - 1) / 2) / factor
    # Only what the crop shows becomes floating point.
    left, right = _extent(x, a * size[0], b * size[1], image.shape[1])
    top, bottom = _extent(y, c * size[0], d * size[1], image.shape[0])
    patch = image[top:bottom, left:right].astype(np.float32)
    matrix = np.array([[a, b, x - left], [c, d, y - top]])
    border = cv2.BORDER_CONSTANT if black else cv2.BORDER_REPLICATE
    return cv2.warpAffine(patch, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=border)


def _extent(origin: float, across: float, down: float, length: int) -> tuple[int, int]:
    """First row or column of an image with `length` of them that a crop with these sides shows, and one past the last; never none."""
    low, high = origin + min(across, 0.0) + min(down, 0.0), origin + max(across, 0.0) + max(down, 0.0)
    first = min(max(math.floor(low - 1), 0), length - 1)
    return first, min(max(math.ceil(high + 2), first + 1), length)


def paste(mask: Float[Array, "side side"], region: Region, width: int, height: int, reduction: int) -> Float[Array, "h w"]:
    """A crop's mask put back into the image, at 1/`reduction` of its resolution; zero outside the region."""
    side = mask.shape[0]
    # From a pixel of the reduced image to the image, then into the crop.
    offset = (reduction - 1) / 2
    into = _inverse(_crop_matrix(region, side))
    matrix = np.concatenate([into[:, :2] * reduction, into[:, :2] @ np.full((2, 1), offset) + into[:, 2:]], 1)
    size = (-(-width // reduction), -(-height // reduction))
    return cv2.warpAffine(mask, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT)


def halvings(image: UInt8[Array, "H W 3"], levels: int = 3) -> list[UInt8[Array, "h w 3"]]:
    """The image and its halvings by averaging 2x2 pixels."""
    pyramid = [image]
    for _ in range(levels):
        height, width = pyramid[-1].shape[0] // 2, pyramid[-1].shape[1] // 2
        if min(height, width) < 64:
            break
        pyramid.append(cv2.resize(pyramid[-1][: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA))
    return pyramid


def around_body(hips: Float[Array, "2"], rim: Float[Array, "2"]) -> Region:
    """From the middle of the hips and a point on the circle around the whole body, straight above when standing."""
    along = rim - hips
    return Region(float(hips[0]), float(hips[1]), 2.5 * float(np.hypot(*along)), _angle(along, 90))


def around_coarse_hand(wrist: Float[Array, "2"], pinky: Float[Array, "2"], index: Float[Array, "2"]) -> Region:
    """From the pose's wrist and knuckles."""
    middle = (2 * index + pinky) / 3
    along = middle - wrist
    size = 2 * float(np.hypot(*along))
    return Region(float(middle[0]), float(middle[1]), size, _angle(along, 90)).shifted(-0.1).scaled(2.7)


def beyond_forearm(elbow: Float[Array, "2"], wrist: Float[Array, "2"], forearm: float) -> Region:
    """Where a relaxed hand is: along the forearm, with a hand's length judged from the forearm's unforeshortened length in px."""
    along = wrist - elbow
    reach = along / max(float(np.hypot(*along)), 1e-6) * 0.35 * forearm
    centre = wrist + reach * min(1.0, float(np.hypot(*along)) / forearm)
    return Region(float(centre[0]), float(centre[1]), 1.3 * forearm, _angle(along, 90))


def around_points(hints: Float[Array, "2 2"], side: int, region: Region) -> Region:
    """From the two points, in crop px, with which a small network corrects a coarse hand region."""
    a, b = to_image(hints, region, side)
    along = b - a
    return Region(float(a[0]), float(a[1]), 2 * float(np.hypot(*along)), _angle(along, -90)).shifted(-0.1)


def around_hand(points: Float[Array, "21 2"]) -> Region:
    """From the hand found in the frame before: its palm and first knuckles, upright along the palm."""
    palm = points[[0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]]
    along = ((palm[4] + palm[8]) / 2 + palm[6]) / 2 - palm[0]
    return _enclosing(palm, _angle(along, 90)).shifted(-0.1).scaled(2.0)


def around_palm(found: Float[Array, "9 2"]) -> Region:
    """From the palm detector's box (two corners) and keypoints (wrist first, root of the middle finger third)."""
    return _box(found[:2], _angle(found[4] - found[2], 90)).shifted(-0.5).scaled(2.6)


def around_face(points: Float[Array, "468 2"]) -> Region:
    """From the face found in the frame before, upright along the eyes."""
    return _box(points, _angle(points[263] - points[33], 0)).scaled(1.5)


def around_head(points: Float[Array, "11 2"]) -> Region:
    """From the pose's nose, eyes, ears and mouth."""
    return _box(points, _angle(points[2] - points[5], 0)).scaled(3.0)


def around_eyes_and_mouth(found: Float[Array, "8 2"]) -> Region:
    """From what the face detector finds: two corners, then right and left eye, nose, mouth and ears."""
    points = found[2:]
    return _box(points, _angle(points[1] - points[0], 0)).shifted(-0.1).scaled(2.0)


def _rotation(angle: float) -> Float[Array, "2 2"]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


def _angle(along: Float[Array, "2"], target: float) -> float:
    """Turn that brings `along` (y down) to `target` degrees (y up)."""
    angle = math.radians(target) - math.atan2(-float(along[1]), float(along[0]))
    return (angle + math.pi) % (2 * math.pi) - math.pi


def _box(points: Float[Array, "K 2"], angle: float) -> Region:
    low, high = points.min(0), points.max(0)
    centre = (low + high) / 2
    return Region(float(centre[0]), float(centre[1]), float((high - low).max()), angle)


def _enclosing(points: Float[Array, "K 2"], angle: float) -> Region:
    """The turned square that encloses the points."""
    turn = _rotation(angle)
    own = points @ turn
    low, high = own.min(0), own.max(0)
    centre = turn @ ((low + high) / 2)
    return Region(float(centre[0]), float(centre[1]), float((high - low).max()), angle)


def _crop_matrix(region: Region, side: int) -> Float[Array, "2 3"]:
    """From crop px to image px."""
    c, s = math.cos(region.angle) * region.size / side, math.sin(region.angle) * region.size / side
    return np.array([[c, -s, region.x - (c - s) * side / 2], [s, c, region.y - (s + c) * side / 2]])


def from_crop_to_crop(region: Region, side: int, other: Region, other_side: int) -> Float[Array, "2 3"]:
    """From px of a region's crop to px of another's."""
    out, into = _crop_matrix(region, side), _inverse(_crop_matrix(other, other_side))
    return np.concatenate([into[:, :2] @ out[:, :2], into[:, :2] @ out[:, 2:] + into[:, 2:]], 1)


def _inverse(matrix: Float[Array, "2 3"]) -> Float[Array, "2 3"]:
    back = np.linalg.inv(matrix[:, :2])
    return np.concatenate([back, -back @ matrix[:, 2:]], 1)
