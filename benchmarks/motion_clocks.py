"""How exactly motion tells clocks: `python benchmarks/motion_clocks.py TAKE_FOLDER... [--relative]`.

Of each take's detections every camera keeps every second frame, some cameras the even and some the odd ones, and some begin later: delays
that are known exactly, in halves of a frame. Prints the largest error of any camera against the others' mean and the largest sigma, in
frames of the take's rate. The cameras must be in step; where that is not known (`--relative`), errors count from what is found unshifted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from studio.sync import by_motion
from studio.sync.person import Path2D, path_of, prominent
from studio.take import Take
from studio.values import Keypoints2D

SHIFTS = ((1, (0, 0, 0, 0)), (1, (0, 1, 0, 2)), (2, (0, 1, 0, 1)), (2, (0, 1, 1, 0)), (2, (0, 2, 0, 1)))
"""Every how many frames are kept, and each camera's first."""


def paths(take: Take) -> list[Path2D]:
    """The largest person in each view."""
    found = []
    for camera in sorted(take.videos):
        seen = Keypoints2D.load(take.keypoints_folder / f"{camera}.safetensors")
        found.append(path_of([(seen, prominent(seen)[0])], torch.arange(seen.first_frame + seen.frames, dtype=torch.float64) / seen.fps))
    return found


def shifted(whole: list[Path2D], every: int, first: tuple[int, ...]) -> list[Path2D]:
    """Each path from its own first frame on, at a lower rate."""
    first = tuple(first[c % len(first)] for c in range(len(whole)))
    return [Path2D(p.times[a::every] - p.times[a], p.pixels[a::every], p.sigma[a::every]) for p, a in zip(whole, first)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("takes", nargs="+", type=Path)
    parser.add_argument("--relative", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for folder in asked.takes:
        take = Take.open(folder)
        whole, cameras = paths(take), take.cameras()
        zero = by_motion(cameras, whole).estimate.shift() * take.fps if asked.relative else torch.zeros(len(whole))
        for every, first in SHIFTS:
            found = by_motion(cameras, shifted(whole, every, first)).estimate
            true = torch.tensor([first[c % len(first)] for c in range(len(whole))], dtype=torch.float64)
            error = found.shift() * take.fps - zero - true
            error, sigma = float((error - error.mean()).abs().max()), float(found.sigma.max()) * take.fps
            rate = take.fps / every
            print(f"{folder} at {rate:g} frames/s, begun {list(first)} frames of {take.fps:g} later: error {error:.2f}, sigma {sigma:.2f}")


if __name__ == "__main__":
    main()
