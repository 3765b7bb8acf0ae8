"""What guessed poses are worth where the fit is lost: `python benchmarks/recovery_start.py CAPTURE... [--picture FILE] [--out JSON]`.

Virtual captures (rendered people, synthetic; the capture's `take` must be detected and tracked). In half of the frames all cameras but one
are blinded, so that nothing is triangulated there; the shape is known. Errors of the body's joints in these frames, mm: of the closed-form
start, of the start with the network's guesses where they reproject better, and of the whole fits from both.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from torch import Tensor

from rigs.catalogue import open_body
from studio.clock import footage
from studio.evaluate import BODY
from studio.fit import FitConfig, Observed, StoredTake
from studio.fit.person import Fitter, one_thread
from studio.fit.state import State
from studio.freshness import write_text
from studio.take import Take
from studio.values import Motion, Tracks3D
from studio.video import frames as images
from studio.virtual import Truth


@dataclass(frozen=True)
class Blinded:
    """A take in which one camera alone sees the frames from `first` on up to `last`."""

    take: StoredTake
    first: int
    last: int
    camera: int

    def whole(self) -> Observed:
        """All frames."""
        seen = self.take[:]
        pixels, points = seen.pixels.clone(), seen.points.clone()
        others = [c for c in range(len(seen.cameras)) if c != self.camera]
        pixels[others, self.first : self.last] = torch.nan
        points[self.first : self.last] = torch.nan
        return replace(
            seen, pixels=pixels, sigma=torch.where(torch.isfinite(pixels).all(-1), seen.sigma, torch.nan), points=points, masks=()
        )


def measured(capture: Path, camera: int) -> tuple[dict[str, float], dict[str, Tensor], Take, int]:
    """Errors; joints of the middle frame by name of the fit."""
    take, truth = Take.open(capture / "take"), Truth.load(capture / "truth.safetensors")
    body, cameras, frames = open_body(take.body), take.cameras(), Tracks3D.count(take.tracks_file)
    shape = Motion.load(take.motion_file(take.actors[0])).shape
    first, last = frames // 4, 3 * frames // 4
    seen = Blinded(StoredTake(cameras, footage(take, cameras.names), take.tracks_file, 0, frames), first, last, camera).whole()
    which = [truth.joint_names.index(n) for n in BODY]
    true = truth.joints[:frames, 0][:, which]
    row, shown = {}, {"truth": truth.joints[(first + last) // 2, 0]}

    def error(state: State) -> float:
        joints = body.shaped(shape).body.skeleton.forward(state.R, body.shaped(shape).joints, state.root)[1]
        return round(1000 * float((joints[:, which] - true)[first:last].norm(dim=-1).mean()), 1)

    with one_thread():
        for name, on in (("closed form", False), ("with guesses", True)):
            fitter = Fitter(body, seen[:1], FitConfig(recover=on, contact=0.0))
            start = fitter.start(seen, shape)
            fitted = fitter.stretch(seen, shape)[0]
            row |= {f"start, {name}": error(start), f"fit, {name}": error(fitted)}
            moment = fitted[torch.tensor([(first + last) // 2])]
            shown[name] = body.skeleton.forward(moment.R, body.shaped(shape).joints, moment.root)[1][0]
    return row, shown, take, (first + last) // 2


def drawn(take: Take, shown: dict[str, Tensor], frame: int, camera: int, seen_by: int) -> np.ndarray:
    """The moment in one camera with the skeletons: truth green, closed form red, with guesses blue."""
    cameras = take.cameras()
    name = cameras.names[camera]
    image = next(i for _, i in images(take.videos[name], frame, frame + 1)).copy()
    image = np.ascontiguousarray(image[..., ::-1])
    skeleton = open_body(take.body).skeleton
    keep = [j for j, n in enumerate(skeleton.names) if not ("Hand" in n and n[-1].isdigit()) and n[-3:] not in ("Eye", "Jaw")]
    for kind, colour in (("truth", (60, 220, 60)), ("closed form", (60, 60, 255)), ("with guesses", (255, 120, 40))):
        pixels = cameras[name].project(shown[kind].double())[0]
        for j in keep[1:]:
            a, b = (tuple(int(v) for v in pixels[i].round()) for i in (j, skeleton.parents[j]))
            cv2.line(image, a, b, colour, 3, cv2.LINE_AA)
    cv2.putText(
        image, "the one camera that sees" if camera == seen_by else "blinded", (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (255, 255, 255), 2
    )
    return image


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captures", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    table, rows = {}, []
    for i, capture in enumerate(args.captures):
        camera = i % len(Take.open(capture / "take").cameras())
        table[capture.name], shown, take, frame = measured(capture, camera)
        print(capture.name, table[capture.name], flush=True)
        if args.picture:
            rows.append(np.hstack([drawn(take, shown, frame, c, camera) for c in (camera, (camera + 1) % len(take.cameras()))]))
    table["median"] = {k: round(median([row[k] for row in table.values()]), 1) for k in next(iter(table.values()))}
    print(json.dumps(table, indent=1))
    if args.picture:
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(args.picture), cv2.resize(np.vstack(rows), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    if args.out:
        write_text(args.out, json.dumps({"data": "synthetic: rendered captures, joints of the body, mm", "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
