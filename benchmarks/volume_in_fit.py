"""What a network's volume adds to the shape of an actor: `python benchmarks/volume_in_fit.py CAPTURE... [--out JSON]`.

For each virtual capture (rendered people, synthetic; the capture's `take` must be detected and tracked) the shape is solved from keypoints
alone and with the surface of the volume on key frames. Errors are T-pose vertex errors against the exact person, relative to the root
joint, mm.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from rich import print as tell

from rigs.catalogue import open_body
from studio.clock import footage
from studio.fit import FitConfig, StoredTake
from studio.fit.person import Fitter, one_thread
from studio.freshness import write_text
from studio.take import Take
from studio.values import Tracks3D
from studio.virtual import Truth

SIGMAS = (0.0, 0.03, 0.08, 0.2, 0.4)
"""m; 0: keypoints alone."""


def measured(capture: Path, frames: int) -> dict[str, float]:
    """Errors of every strength, and the CPU seconds of the fits."""
    take, truth = Take.open(capture / "take"), Truth.load(capture / "truth.safetensors")
    body, cameras, person = open_body(take.body), take.cameras(), truth.body(0)
    count = Tracks3D.count(take.tracks_file)
    source = StoredTake(cameras, footage(take, cameras.names), take.tracks_file, 0, count, masks=take)
    true, out = person.skin.rest - person.joints[0], {}
    for sigma in SIGMAS:
        begun = time.process_time()
        with one_thread():
            shape, _ = Fitter(body, source[:1], replace(FitConfig(), key_frames=frames, volume=sigma)).shape(source)
        rest = body.skin.rest - body.joints[0] + (body.skin.shape_basis - body.joint_shape_basis[0]) @ shape
        name = f"volume, {sigma} m" if sigma else "keypoints alone"
        out[name] = round(1000 * float((rest - true).norm(dim=-1).mean()), 1)
        out[f"{name}, s"] = round(time.process_time() - begun, 1)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captures", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=12, help="key frames")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = {}
    for capture in arguments.captures:
        rows[capture.name] = measured(capture, arguments.frames)
        tell(capture.name, rows[capture.name])
        if arguments.out:
            write_text(arguments.out, json.dumps({"key_frames": arguments.frames, "t_pose_vertex_mm": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
