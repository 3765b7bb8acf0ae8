"""Left taken for right: `python benchmarks/left_right.py CAPTURE... [--real TAKE] [--reference FILE.trc] [--json FILE]`.

Of rendered captures with a finished `take/` (`benchmarks/virtual_accuracy.py FOLDER` leaves such), and of a finished take of
`pose2sim_single` beside another tool's triangulation. A pair of shoulders, elbows, wrists, hips, knees or ankles is flipped where
exchanging left and right would bring it to less than half its distance from the truth; pairs nearer to one another than 3 cm, or than a
hundredth of the image, are not judged. Printed is how many are: in single views as the network saw them, of these in views from behind,
then triangulated, then fitted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from real_capture import DATA, JOINTS, REFERENCE, read_trc
from torch import Tensor

from rigs.catalogue import open_body
from rigs.landmarks import landmark_skin
from studio.evaluate import posed_of
from studio.take import Take
from studio.values import Keypoints2D, Motion, Tracks3D
from studio.virtual import Truth

PAIRS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def flipped(
    found: Float[Tensor, "... 2 d"], true: Float[Tensor, "... 2 d"], least: float
) -> tuple[Bool[Tensor, "..."], Bool[Tensor, "..."]]:
    """Which pairs (left, right) are, and which can be judged at all."""
    known = torch.isfinite(found).all(-1).all(-1) & torch.isfinite(true).all(-1).all(-1)
    known &= (true[..., 0, :] - true[..., 1, :]).norm(dim=-1) > least
    straight = (found - true).norm(dim=-1).sum(-1)
    crossed = (found - true.flip(-2)).norm(dim=-1).sum(-1)
    return known & (crossed < 0.5 * straight), known


def columns(names: tuple[str, ...]) -> list[list[int]]:
    """Of both sides of every pair."""
    return [[names.index(f"{side}_{pair}") for side in ("left", "right")] for pair in PAIRS]


def counted(flips: Tensor, known: Tensor) -> dict[str, int]:
    """As JSON."""
    return {"flipped": int(flips.sum()), "of": int(known.sum())}


def in_space(take: Take, true: Float[Tensor, "T P 2 3"]) -> dict[str, dict[str, int]]:
    """Of triangulated points and of the fitted body's own landmarks."""
    tracks = Tracks3D.load(take.tracks_file)
    columns_ = columns(tracks.keypoints)
    n = min(len(true), len(tracks.points))
    rows = {"triangulated": counted(*flipped(tracks.points[:n, 0][:, columns_].double(), true[:n], 0.03))}
    motion, body = Motion.load(take.motion_file(take.actors[0])), open_body(take.body)
    names = tuple(f"{side}_{pair}" for pair in PAIRS for side in ("left", "right"))
    network = Keypoints2D.load(next(iter(sorted(take.keypoints_folder.glob("*.safetensors")))), slice(0, 1)).network
    points = posed_of(motion).points(landmark_skin(body, names, network)[0])
    fitted = points.unflatten(1, (len(PAIRS), 2)).double()
    return rows | {"fitted": counted(*flipped(fitted[:n], true[:n], 0.03))}


def rendered(capture: Path) -> dict[str, dict[str, int]]:
    """One capture."""
    truth, take = Truth.load(capture / "truth.safetensors"), Take.open(capture / "take")
    true = truth.keypoints[:, 0][:, columns(truth.keypoint_names)].double()
    cameras, rows = take.cameras(), {"single views": {"flipped": 0, "of": 0}, "from behind": {"flipped": 0, "of": 0}}
    hips, shoulders = true[:, PAIRS.index("hip")], true[:, PAIRS.index("shoulder")]
    up = shoulders.mean(1) - hips.mean(1)
    front = torch.linalg.cross(hips[:, 0] - hips[:, 1], up)  # left to right across up: out of the chest
    for c, name in enumerate(cameras.names):
        seen = Keypoints2D.load(take.keypoints_folder / f"{name}.safetensors")
        pixels = cameras[name].project(true.flatten(0, 2))[0].view(*true.shape[:3], 2)
        n = min(len(pixels), seen.pixels.shape[1])
        flips, known = flipped(seen.pixels[0, :n, 0][:, columns(seen.keypoints)].double(), pixels[:n], 0.01 * float(cameras.size[c].max()))
        behind = ((hips.mean(1) - cameras.position[c]) * front).sum(-1)[:n] > 0
        for row, some in (("single views", slice(None)), ("from behind", behind)):
            for key, value in counted(flips[some], known[some]).items():
                rows[row][key] += value
    return rows | in_space(take, true)


def real(folder: Path, reference: Path) -> dict[str, dict[str, int]]:
    """The man of `pose2sim_single`, beside another tool's joints."""
    theirs = {ours: points for name, points in read_trc(reference).items() if (ours := JOINTS.get(name))}
    true = torch.stack([torch.stack([torch.tensor(theirs[f"{side}_{pair}"]) for side in ("left", "right")], 1) for pair in PAIRS], 1)
    return in_space(Take.open(folder), true)


def main() -> None:
    """Print a table, and keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", type=Path, nargs="+")
    parser.add_argument("--real", type=Path)
    parser.add_argument("--reference", type=Path, default=DATA / REFERENCE)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {capture.name: rendered(capture) for capture in options.captures}
    if options.real:
        found["real man"] = real(options.real, options.reference)
    for name, rows in found.items():
        print(f"{name:12}" + "   ".join(f"{row}: {r['flipped']} of {r['of']}" for row, r in rows.items()))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
