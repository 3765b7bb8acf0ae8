"""Learn from virtual captures how a network misplaces landmarks in the image, by the side from which it sees the person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from calibration.people_sides import learned, sides
from calibration.people_views import PeopleViews, without_lens
from calibration.triangulate import triangulate
from studio.calibrate import Filmed
from studio.calibrate_sides import FOLDER, one_sided, trunk_of
from studio.freshness import write_text
from studio.values import Keypoints2D

MIRROR = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)


def errors(
    views: PeopleViews, cameras: Cameras, trunk: tuple[int, int, int, int]
) -> tuple[Float[Tensor, "C T 3"], Float[Tensor, "C T K 2"]]:
    """From which side each camera saw the person, and by how much (right and down, share of the trunk's length) each point was off.

    A point's place is where the known cameras together see it: what all of them miss alike bends no rig.
    """
    flat = without_lens(views, cameras)
    focal = cameras.focal.mean(1, keepdim=True).expand(-1, 2)
    pinhole = replace(cameras, focal=focal, distortion=torch.zeros_like(cameras.distortion), lens=("brown",) * len(cameras))
    sigma = torch.where(views.seen, views.sigma.double(), torch.nan)
    points = triangulate(pinhole, flat.pixels.double(), sigma, threshold=8.0, dtype=torch.float64).points
    side, _, length = sides(points, trunk, cameras.position)
    depth = pinhole.to_camera(points)[..., 2:]
    off = (flat.pixels.double() - pinhole.project(points)) * depth / pinhole.focal[:, None, None]
    return side, off / length[:, None, None]


def learn_from(captures: Sequence[Path], network: str = "mediapipe", folder: Path = FOLDER) -> dict[str, Float[Tensor, "9 2"]]:
    """The habit of every landmark (the left one's, the right's being its mirror image), from captures with keypoints; writes the table.

    A `FileNotFoundError` names a folder that is no virtual capture or has no keypoints yet.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for capture in captures:
        for file in (capture / "cameras.yaml", capture / "truth.safetensors", capture / "take" / "keypoints2d"):
            if not file.exists():
                raise FileNotFoundError(
                    f"{file}: not there; render with `studio virtual {capture}`, then `studio train landmarks {capture}`"
                )
        cameras = Cameras.load(capture / "cameras.yaml")
        videos = {c: capture / "videos" / f"{c}.mp4" for c in cameras.names}
        film = Filmed(capture, videos, Keypoints2D.read(capture / "take" / "keypoints2d", cameras.names), ())
        names = film.landmarks
        side, off = errors(film.views, cameras, trunk_of(names))
        for k, name in enumerate(names):
            own, other = (side, off[:, :, k]), (side * MIRROR, off[:, :, k] * MIRROR[:2])
            # What lies in the middle is its own mirror image.
            told = [own] if name.startswith("left_") else [other] if name.startswith("right_") else [own, other]
            found.setdefault(one_sided(name), []).extend((s.flatten(0, 1), e.flatten(0, 1)) for s, e in told)
    tables = {name: learned(torch.cat([s for s, _ in parts]), torch.cat([e for _, e in parts])) for name, parts in found.items()}
    note = (
        f"# How far {network} sees a landmark too far right and down, as a share of the trunk's length: for each term of\n"
        f"# `calibration.people_sides.basis`. Of the left landmark; the right one's is its mirror image.\n"
        f"# Learned by `studio train sides` from {len(captures)} virtual captures (synthetic people).\n"
    )
    table = {name: [[round(float(v), 4) for v in row] for row in t] for name, t in sorted(tables.items())}
    write_text(folder / f"sides_{network}.yaml", note + yaml.safe_dump(table, sort_keys=False, default_flow_style=None, width=140))
    return tables
