"""A real hand in two cameras and no body: `studio run` from videos to motion, and how far the fitted fingers are from what was seen, px.

    python benchmarks/hands_alone.py FOLDER TAKE

FOLDER is the sample of TemugeB/handpose3d (MIT): two videos of 378 frames, OpenCV lenses and poses in its own text files, whose unit is a
square of unknown size. 45 mm a square make the hand that of an average adult. There is no truth: networks say where the hand is.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from calibration.cameras import Cameras, joined, single
from rigs import rotation
from rigs.catalogue import open_body
from rigs.keypoints import GROUPS
from rigs.landmarks import landmark_skin
from studio.detect import DetectConfig
from studio.fit.points import Model
from studio.fit.state import State
from studio.pipeline import Config, run
from studio.take import Take
from studio.values import Keypoints2D, Motion

SQUARE = 0.045
"""m."""
UPWARDS = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
"""The sample's z points into the table."""


def matrices(path: Path) -> dict[str, torch.Tensor]:
    """The matrices of one of the sample's files, by their headings."""
    found: dict[str, list[list[float]]] = {}
    heading = ""
    for line in path.read_text().split("#")[0].splitlines():
        if line.strip().endswith(":"):
            heading = line.strip(" :\n")
            found[heading] = []
        elif line.strip():
            found[heading].append([float(x) for x in line.split()])
    return {k: torch.tensor(v, dtype=torch.float64) for k, v in found.items()}


def cameras(folder: Path) -> Cameras:
    """Both cameras, m, z up."""
    rig = []
    for i in (0, 1):
        lens, pose = matrices(folder / f"c{i}.dat"), matrices(folder / f"rot_trans_c{i}.dat")
        K, R = lens["intrinsic"], rotation.project_to_rotation(pose["R"])
        distortion = torch.cat([lens["distortion"][0], torch.zeros(3, dtype=torch.float64)])
        position = UPWARDS @ -(R.T @ pose["T"][:, 0]) * SQUARE
        size = torch.tensor([720.0, 720.0], dtype=torch.float64)
        rig.append(single(f"cam{i}", size, K[[0, 1], [0, 1]], K[:2, 2], distortion, "brown", R @ UPWARDS.T, position))
    return joined(rig)


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    (out / "videos").mkdir(parents=True, exist_ok=True)
    for i in (0, 1):
        shutil.copy(source / "media" / f"cam{i}_test.mp4", out / "videos" / f"cam{i}.mp4")
    cameras(source / "camera_parameters").save(out / "sample.yaml")
    take = Take.of([out / "videos"], out / "sample.yaml", folder=out)
    run(take, Config(detect=DetectConfig(detector="hands")))
    rig, body, motion = take.cameras(), open_body(take.body), Motion.load(take.motion_file("actor"))
    skin, _ = landmark_skin(body, tuple(Keypoints2D.read(take.keypoints_folder, rig.names, slice(0, 0)).keypoints), "mediapipe")
    points = Model(body, skin).place(State(rotation.exp(motion.rotation), motion.translation, motion.expression), motion.shape).points
    hand = list(GROUPS["right_hand"])
    seen = Keypoints2D.read(take.keypoints_folder, rig.names).pixels[:, :, 0, hand]
    error = (rig.project(points[:, hand].double()) - seen).norm(dim=-1)
    for c, name in enumerate(rig.names):
        known = error[c][torch.isfinite(error[c])]
        share = torch.isfinite(error[c]).all(-1).float().mean()
        print(f"{name}: hand seen in {share:.0%} of the frames, {known.median():.1f} px median, {known.quantile(0.9):.1f} px at 90 %")
    for finger, k in zip(("thumb", "index", "middle", "ring", "little"), range(1, 21, 4)):
        print(f"{finger}: {error[..., k : k + 4].nanmedian():.1f} px")
    away = (motion.translation - motion.translation.mean(0)).norm(dim=-1).max()
    fingers = [j for j, n in enumerate(motion.joints) if n.startswith("RightHand")]
    print(f"hips move {1000 * away:.0f} mm; sigma of the fingers {1000 * motion.sigma[:, fingers].median():.0f} mm")


if __name__ == "__main__":
    main()
