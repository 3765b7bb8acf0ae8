"""What a clip of the empty stage is worth to masks: `python benchmarks/clean_plate.py CAPTURE... [--every 15] [--json FILE]`.

For each rendered CAPTURE (`studio virtual`) whose `take` was detected without one: a clip of the empty room of 30 frames is rendered, the
masks of every so many frames are compared with whose body each cell shows in truth, mostly (intersection over union, mean over people and
views), as the network left them and refined by the clip; and again with the frames' exposure up by 20 % in a warmer light. Then the take is
fitted with either masks, and the body's joints, shoulders to ankles, are compared with the truth; CAPTURE/plate keeps the second.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from calibration.cameras import Cameras
from studio.detect.clean_plate import Plate
from studio.evaluate import BODY, posed_of
from studio.fit import FitConfig, fit
from studio.take import Take
from studio.values import Motion
from studio.video import VideoWriter, frames, probe
from studio.virtual import Truth, VirtualCapture, render_capture
from studio.virtual.capture import figures_of, performances
from studio.virtual.scene import Crowd, View
from studio.virtual.truth import posed_at

DRIFT = np.array([1.25, 1.2, 1.12], np.float32)


def truths(config: VirtualCapture, camera: Cameras, numbers: list[int], shape: tuple[int, int]) -> dict[int, np.ndarray]:
    """For some frames the labels (h, w) that are right: 0 where less than half of a cell shows anybody, else whom it shows most."""
    acts = performances(config)
    figures, view, out = figures_of(config, acts), View(camera, config.room()), {}
    for t in numbers:
        who = view.seen(Crowd.posed(figures, [posed_at(p, slice(t, t + 1)).vertices()[0].numpy() for p in acts])).person
        shares = [cv2.resize((who == p).astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA) for p in range(len(acts))]
        out[t] = np.where(sum(shares) > 0.5, np.argmax(shares, 0) + 1, 0)
    return out


def overlap(found: np.ndarray, right: np.ndarray) -> list[float]:
    """Of every true person with the label that is most of him, intersection over union."""
    out = []
    for person in np.unique(right[right > 0]):
        mine = right == person
        if mine.sum() < 100:
            continue
        labels, count = np.unique(found[mine], return_counts=True)
        label = labels[labels > 0][count[labels > 0].argmax()] if (labels > 0).any() else 255
        out.append(float((mine & (found == label)).sum() / (mine | (found == label)).sum()))
    return out


def refit(folder: Path) -> dict[str, float]:
    """Mean errors of the body, mm, fitted with the take's own masks and with refined ones."""
    take, truth = Take.open(folder / "take"), Truth.load(folder / "truth.safetensors")
    rows = {}
    for kind in ("network", "plate"):
        copy = replace(take, folder=folder / kind)
        shutil.rmtree(copy.folder, ignore_errors=True)
        shutil.copytree(take.folder, copy.folder, ignore=shutil.ignore_patterns("export", "motion_*", "report*"))
        for camera in take.videos if kind == "plate" else ():
            file = copy.folder / "masks" / f"{camera}.mkv"
            info = probe(file)
            plate = Plate.learned(folder / "background" / f"{camera}.mp4", (info.height, info.width))
            with VideoWriter(file, info.width, info.height, info.fps, codec="ffv1 gray") as writer:
                for (_, labels), (_, image) in zip(frames(take.folder / "masks" / f"{camera}.mkv", gray=True), frames(take.videos[camera])):
                    writer.write(plate.refined(labels, image))
        fit(copy, FitConfig())
        errors = []
        for actor in take.actors:
            found = posed_of(Motion.load(copy.motion_file(actor))).joints[:, None]
            which = [truth.joint_names.index(n) for n in BODY]
            off = (found - truth.joints)[:, :, which].norm(dim=-1)
            errors.append(off[:, off.mean((0, 2)).argmin()].mean())
        rows[f"fit_{kind}_mm"] = 1000 * float(torch.stack(errors).mean())
    return rows


def measured(folder: Path, every: int) -> dict[str, float]:
    """Of one capture."""
    told = Truth.record(folder / "truth.safetensors")["config"]
    config = replace(VirtualCapture(**told), background=30)
    render_capture(folder, config)
    rows: dict[str, list[float]] = {"network": [], "plate": [], "drift": []}
    cameras = Cameras.load(folder / "cameras.yaml")
    for name in cameras.names:
        file = folder / "take" / "masks" / f"{name}.mkv"
        shape = (probe(file).height, probe(file).width)
        plate = Plate.learned(folder / "background" / f"{name}.mp4", shape)
        numbers = list(range(0, config.frames, every))
        right = truths(config, cameras[name], numbers, shape)
        for (t, labels), (_, image) in zip(frames(file, gray=True), frames(folder / "videos" / f"{name}.mp4")):
            if t not in right:
                continue
            other = (image * DRIFT).clip(0, 255).astype(np.uint8)
            rows["network"] += overlap(labels, right[t])
            rows["plate"] += overlap(plate.refined(labels, image), right[t])
            rows["drift"] += overlap(plate.refined(labels, other), right[t])
    return {**{k: float(np.mean(v)) for k, v in rows.items()}, **refit(folder)}


def main() -> None:
    """Print the table; JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", type=Path, nargs="+")
    parser.add_argument("--every", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = {}
    for folder in options.captures:
        row = table[folder.name] = measured(folder, options.every)
        print(f"{folder.name:10s} " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
