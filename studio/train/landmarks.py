"""Learn where on the body a network puts its landmarks, from virtual captures whose truth is known.

For each keypoint an offset from the anatomical point, in the rest axes of the joint that carries it, is solved robustly over all people,
poses and views; left and right share one mirrored offset. What the offset cannot explain is the landmark's scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from rigs.body import Body
from rigs.landmarks import FOLDER
from studio.detect import DetectConfig, detect
from studio.freshness import write_text
from studio.take import Take
from studio.values import Keypoints2D
from studio.virtual import Truth

STATURE = 1.7
"""Offsets are kept for a person this tall, m."""


@dataclass(frozen=True)
class Sightings:
    """Every time one keypoint was seen: N views of it, in one virtual person each."""

    point: Float[Tensor, "N 3"]
    """True position of the anatomical keypoint, world, m."""
    R: Float[Tensor, "N 2 3 3"]
    """World rotation of the carrying joint and of its parent; columns mirrored for right-hand keypoints."""
    tall: Float[Tensor, "N"]
    """Stature over `STATURE`."""
    R_camera: Float[Tensor, "N 3 3"]
    in_camera: Float[Tensor, "N 3"]
    """The true point in the camera, m."""
    plane: Float[Tensor, "N 2"]
    """Where the network saw it, on the ideal image plane."""
    group: Float[Tensor, "N"]
    """Which capture and camera: errors inside one repeat."""

    @staticmethod
    def joined(parts: Sequence[Sightings]) -> Sightings:
        """All of them."""
        return Sightings(*(torch.cat([getattr(p, f) for p in parts]) for f in Sightings.__annotations__))


@dataclass(frozen=True)
class Placement:
    """Where a landmark sits, and how well that describes it."""

    offset: tuple[float, float, float]
    parent: float
    """Share of the parent joint in carrying the offset."""
    scatter: float
    """Standard deviation of each coordinate that is left, m."""
    before: float
    """The same without any offset, m."""
    count: int


def sightings(
    keypoints: Keypoints2D,
    cameras: Cameras,
    body: Body,
    name: str,
    points: Float[Tensor, "T K 3"],
    rotations: Float[Tensor, "T J 3 3"],
    group: int,
) -> Sightings | None:
    """What all cameras saw of one keypoint; detection 0 is taken to be the person."""
    if name not in keypoints.keypoints or name not in body.keypoint_names:
        return None
    k, kb = keypoints.keypoints.index(name), body.keypoint_names.index(name)
    joint = int(body.keypoint_skin([name]).weights[0].argmax())
    carriers = [joint, max(body.skeleton.parents[joint], 0)]
    mirror = torch.diag(torch.tensor([-1.0 if name.startswith("right_") else 1.0, 1.0, 1.0]))
    tall = float(body.skin.rest[:, 2].max() - body.skin.rest[:, 2].min()) / STATURE
    plane = cameras.undistort(keypoints.pixels[:, :, 0, k].double()).float()
    sigma = keypoints.sigma[:, :, 0, k]
    typical = sigma[torch.isfinite(sigma)].median() if bool(torch.isfinite(sigma).any()) else sigma.new_tensor(1.0)
    parts = []
    for c in range(len(cameras)):
        ok = torch.isfinite(plane[c]).all(-1) & (sigma[c] < 1.5 * typical)
        x = points[ok, kb].float()
        R_camera = cameras.R_camera_world[c].float().expand(len(x), 3, 3)
        local = cameras[c].to_camera(x.double())[0].float()
        R = rotations[ok][:, carriers].float() @ mirror
        parts.append(
            Sightings(x, R, torch.full((len(x),), tall), R_camera, local, plane[c][ok], torch.full((len(x),), float(100 * group + c)))
        )
    return Sightings.joined(parts)


def placed(seen: Sightings, kernel: float = 0.04, iterations: int = 12) -> Placement:
    """The offset that best explains the sightings (Geman-McClure, `kernel` in m), with the best of three carriers."""
    fits = []
    for share in (0.0, 0.5, 1.0):
        M = seen.R_camera @ ((1 - share) * seen.R[:, 0] + share * seen.R[:, 1]) * seen.tall[:, None, None]
        offset = torch.zeros(3)
        for _ in range(iterations):
            r, J = _residual(seen, M, offset)
            keep = (kernel**2 / (kernel**2 + (r * r).sum(-1))).square()
            H = torch.einsum("nij,n,nik->jk", J, keep, J) + 1e-3 * torch.eye(3)
            offset = offset - torch.linalg.solve(H, torch.einsum("nij,n,ni->j", J, keep, r))
        r, _ = _residual(seen, M, offset)
        fits.append((_spread(r), share, offset))
    spread, share, offset = min(fits, key=lambda f: f[0])
    before, _ = _residual(seen, seen.R_camera @ seen.R[:, 0], torch.zeros(3))
    x, y, z = (round(float(v), 4) for v in offset)
    return Placement((x, y, z), share, round(spread, 4), round(_spread(before), 4), len(seen.point))


def _residual(seen: Sightings, M: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Miss in metres at the point's depth, and its derivative."""
    p = seen.in_camera + M @ offset
    z = p[:, 2:]
    uv = p[:, :2] / z
    depth = seen.in_camera[:, 2:]
    J = (M[:, :2] - uv[..., None] * M[:, 2:3]) * (depth / z)[..., None]
    return (uv - seen.plane) * depth, J


def _spread(r: Tensor) -> float:
    return float(1.4826 * r.abs().median())


def learn(samples: dict[str, Sightings]) -> dict[str, Placement]:
    """Placement of every keypoint name with enough sightings; right-hand names join their left counterpart."""
    merged: dict[str, list[Sightings]] = {}
    for name, seen in samples.items():
        merged.setdefault("left_" + name[6:] if name.startswith("right_") else name, []).append(seen)
    joined = {name: Sightings.joined(parts) for name, parts in merged.items()}
    return {name: placed(seen) for name, seen in joined.items() if len(seen.point) >= 50}


def save(network: str, placements: dict[str, Placement], note: str, folder: Path = FOLDER) -> Path:
    """Write `<network>.yaml` for `rigs.landmarks`."""
    table = {
        name: {
            "offset": list(p.offset),
            **({"parent": p.parent} if p.parent else {}),
            "scatter": p.scatter,
            "before": p.before,
            "count": p.count,
        }
        for name, p in placements.items()
    }
    text = "".join(f"# {line}\n" for line in note.splitlines())
    return write_text(folder / f"{network}.yaml", text + yaml.safe_dump(table, sort_keys=False, default_flow_style=None, width=140))


def learn_from(captures: Sequence[Path], network: str = "mediapipe", folder: Path = FOLDER) -> dict[str, Placement]:
    """Placements from folders that `studio virtual` rendered (one person each); detects where that has not been done, writes the table.

    A `FileNotFoundError` names a folder that is no virtual capture.
    """
    samples: dict[str, list[Sightings]] = {}
    for group, capture in enumerate(captures):
        if not (capture / "truth.safetensors").exists():
            raise FileNotFoundError(f"{capture}: holds no truth.safetensors; render it with `studio virtual {capture}`")
        take = Take.of([capture / "videos"], capture / "cameras.yaml", capture / "take").checked()
        if not all((take.keypoints_folder / f"{c}.safetensors").exists() for c in take.videos):
            take.folder.mkdir(exist_ok=True)
            detect(take, DetectConfig(masks=False))
        keypoints, truth = Keypoints2D.read(take.keypoints_folder, sorted(take.videos)), Truth.load(capture / "truth.safetensors")
        body, frames = truth.body(0), slice(0, keypoints.frames)
        points = truth.keypoints[frames, 0][:, [truth.keypoint_names.index(n) for n in body.keypoint_names]]
        rotations = truth.posed(0, frames).R_world_joint
        for name in keypoints.keypoints:
            seen = sightings(keypoints, take.cameras(), body, name, points, rotations, group)
            if seen is not None and len(seen.point):
                samples.setdefault(name, []).append(seen)
    placements = learn({name: Sightings.joined(parts) for name, parts in samples.items()})
    note = (
        f"Where the landmarks of {network} sit on the body: offset from the anatomical keypoint, m, for a person of 1.70 m.\n"
        f"Learned by `studio train landmarks` from {len(captures)} virtual captures (synthetic people).\n"
        "scatter and before: standard deviation of what is left with and without the offset, m."
    )
    save(network, placements, note, folder)
    return placements
