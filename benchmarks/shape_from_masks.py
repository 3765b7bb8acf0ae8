"""What masks add to the shape of an actor: `python benchmarks/shape_from_masks.py CAPTURE... [--picture FILE] [--out JSON]`.

For each virtual capture (rendered people, synthetic; the capture's `take` must be detected and tracked) the shape is solved from keypoints
alone and with the network's estimate from the masks. Errors are T-pose vertex errors against the exact person, relative to the root
joint, mm. The picture shows mean person, keypoints alone, the network alone, both together, and the truth.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from torch import Tensor

from rigs.catalogue import open_body
from studio.clock import footage
from studio.fit import FitConfig, StoredTake
from studio.fit.person import Fitter, one_thread
from studio.fit.silhouettes import likely_shape
from studio.freshness import write_text
from studio.take import Take
from studio.values import Tracks3D
from studio.virtual import Truth
from studio.virtual.rays import Meshes, single


def measured(capture: Path, weights: str) -> tuple[dict[str, float], list[Tensor]]:
    """Errors of every way to a shape and the CPU seconds of the fits; the rest meshes, the truth's last."""
    take, truth = Take.open(capture / "take"), Truth.load(capture / "truth.safetensors")
    body, cameras, person = open_body(take.body), take.cameras(), truth.body(0)
    count = Tracks3D.count(take.tracks_file)
    source = StoredTake(cameras, footage(take, cameras.names), take.tracks_file, 0, count, masks=take)
    true = person.skin.rest - person.joints[0]
    rest = lambda s: body.skin.rest - body.joints[0] + (body.skin.shape_basis - body.joint_shape_basis[0]) @ s  # noqa: E731
    likely = likely_shape(body, source, weights)
    if likely is None:
        raise ValueError(f"{take.folder}: holds no masks of the actor; run the stage detect with masks")
    shapes = {"mean person": torch.zeros(len(body.shape_names)), "masks alone": likely.mean}
    times = {}
    for name, on in (("keypoints alone", False), ("keypoints and masks", True)):
        begun = time.process_time()
        with one_thread():
            shapes[name], _ = Fitter(body, source[:1], replace(FitConfig(), mask_shape=on)).shape(source)
        times[f"{name}, s"] = time.process_time() - begun
    errors = {name: 1000 * float((rest(s) - true).norm(dim=-1).mean()) for name, s in shapes.items()}
    order = ("mean person", "keypoints alone", "masks alone", "keypoints and masks")
    return {name: round(v, 1) for name, v in (errors | times).items()}, [rest(shapes[n]) for n in order] + [true]


def drawn(meshes: list[Tensor], triangles: Tensor) -> np.ndarray:
    """Bodies side by side from the front and the side, coloured by their distance from the last one: white 0, red 3 cm."""
    rows = []
    y, x = np.meshgrid(np.linspace(0.95, -1.05, 320), np.linspace(-0.75, 0.75, 240), indexing="ij")
    for front in (True, False):
        row = []
        for mesh in meshes:
            off = (mesh - meshes[-1]).norm(dim=-1).numpy()
            hits = Meshes([(mesh.numpy().astype(np.float32), triangles.numpy())])
            eye = np.stack([x, np.full_like(x, -3), y] if front else [np.full_like(x, 3), x, y], -1).astype(np.float32)
            ray = np.broadcast_to(single([0, 1, 0] if front else [-1, 0, 0]), eye.shape)
            seen = hits.cast(eye, ray)
            there = seen.person >= 0
            corners = triangles.numpy()[seen.triangle[there]]
            red = (np.einsum("nk,nk->n", off[corners], seen.corner[there]) / 0.03).clip(0, 1)
            v = mesh.numpy()[corners]
            normal = np.cross(v[:, 1] - v[:, 0], v[:, 2] - v[:, 0])
            lamp = single([0.3, -0.85, 0.4] if front else [0.85, -0.3, 0.4])
            light = 0.35 + 0.65 * np.abs(normal @ lamp) / np.linalg.norm(normal, axis=1).clip(1e-9)
            image = np.full((*x.shape, 3), 40, np.uint8)
            image[there] = (255 * light[:, None] * np.stack([1 - red, 1 - red, np.ones_like(red)], -1)).clip(0, 255)
            row.append(image)
        rows.append(np.hstack(row))
    return np.vstack(rows)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captures", nargs="+", type=Path)
    parser.add_argument("--weights", default="shape")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {c.name: measured(c, args.weights) for c in args.captures}
    table = {name: row for name, (row, _) in found.items()}
    table["median"] = {k: round(median([row[k] for row in table.values()]), 1) for k in next(iter(table.values()))}
    print(json.dumps(table, indent=1))
    if args.picture:
        triangles = open_body("makehuman").triangles
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(args.picture), np.vstack([drawn(meshes, triangles) for _, meshes in found.values()]))
    if args.out:
        write_text(args.out, json.dumps({"data": "synthetic: rendered captures, T-pose vertex errors, mm", "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
