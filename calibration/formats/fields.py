"""What several layouts share: fields under their usual names, the pose that OpenCV takes, and the numbers that writers need."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from calibration.camera_file import Entry
from calibration.cameras import Cameras, single

MATRIX = ("camera_matrix", "cameraMatrix", "intrinsic_matrix", "K", "matrix")
DISTORTION = ("distortion_coefficients", "dist_coeffs", "distCoeffs", "distortion", "dist", "D", "distortions")
SIZE = ("image_size", "imageSize", "size", "resolution")
ROTATION = ("R", "rotation", "rotation_matrix", "rvec", "Rvec")
TRANSLATION = ("T", "t", "tvec", "Tvec", "translation")
GL_FROM_CV = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
"""Signs that turn a camera with y down, looking along z, into one with y up, looking along -z; and back."""


def posed(entry: Entry, unit: float, lens: str) -> Cameras:
    """A camera (C=1) given as matrix, distortion, and the rotation and translation (in `unit` m) of `cv2.projectPoints`."""
    matrix = entry.named(*MATRIX)
    K = pinhole(entry, entry.numbers(matrix, shapes=((3, 3),)), matrix)
    R = rotation(entry, *ROTATION)
    t = entry.numbers(*TRANSLATION, shapes=((3,),)) * unit
    return single(
        entry.camera,
        image_size(entry),
        entry.focal(K[[0, 1], [0, 1]], matrix),
        K[:2, 2],
        entry.distortion(lens, *DISTORTION),
        lens,
        R,
        -R.mT @ t,
    )


def pinhole(entry: Entry, K: Float[Tensor, "r c"], field: str) -> Float[Tensor, "r c"]:
    """The intrinsic matrix, px, after a check that it has no skew."""
    if abs(float(K[0, 1])) > 1e-6 * abs(float(K[0, 0])):
        raise entry.error(field, f"has skew {float(K[0, 1]):g}, which no lens here has; calibrate without skew")
    return K


def rotation(entry: Entry, *fields: str) -> Float[Tensor, "3 3"]:
    """The rotation given as a matrix or a Rodrigues vector, rad."""
    field = entry.named(*fields)
    given = entry.numbers(field, shapes=((3, 3), (3,)))
    if given.shape == (3, 3):
        return entry.rotation(given, field)
    return torch.from_numpy(Rotation.from_rotvec(given.numpy()).as_matrix())


def quaternion(entry: Entry, xyzw: Float[Tensor, "4"], field: str) -> Float[Tensor, "3 3"]:
    """The rotation of a quaternion, scalar last; a `ValueError` where it is far from unit length."""
    if abs(float(xyzw.norm()) - 1) > 1e-3:
        raise entry.error(field, f"is a quaternion of length {float(xyzw.norm()):.4g}, not 1; export the calibration again")
    return torch.from_numpy(Rotation.from_quat(xyzw.numpy()).as_matrix())


def image_size(entry: Entry) -> Float[Tensor, "2"]:
    """Width and height, px, under any of the usual names."""
    for pair in (("image_width", "image_height"), ("width", "height"), ("W", "H")):
        if all(entry.values.get(f) is not None for f in pair):
            return torch.cat([entry.numbers(f, shapes=((1,),)) for f in pair])
    return entry.size(*SIZE)


def trimmed(cameras: Cameras, c: int) -> list[float]:
    """The fewest coefficients (4, 5 or 8) that OpenCV accepts and that say all."""
    k = cameras.distortion[c].tolist()
    return next(k[:n] for n in (4, 5, 8) if not any(k[n:]))


def rodrigues(cameras: Cameras, c: int) -> list[float]:
    """World to camera as a rotation vector, rad."""
    return Rotation.from_matrix(cameras.R_camera_world[c].numpy()).as_rotvec().tolist()
