"""The real balancing man beside another tool's result: `python benchmarks/real_capture.py TAKE_FOLDER [--reference FILE.trc]`.

Reads `export/points_<actor>.csv` and `report.json` of a finished run on `pose2sim_single` and prints, for each joint, the distance to the
reference TRC: raw, and after removing the joint's constant offset (the two tools place a joint differently). The reference is another
tool's triangulation, not truth; its axes map as calibration xyz = TRC [z, x, y].
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path

import numpy as np

JOINTS = {
    "RHip": "right_hip", "RKnee": "right_knee", "RAnkle": "right_ankle", "LHip": "left_hip", "LKnee": "left_knee", "LAnkle": "left_ankle",
    "RShoulder": "right_shoulder", "RElbow": "right_elbow", "RWrist": "right_wrist",
    "LShoulder": "left_shoulder", "LElbow": "left_elbow", "LWrist": "left_wrist",
}  # fmt: skip
HERE = Path(__file__).parent.parent
DATA = Path(os.environ.get("STUDIO_DATA", HERE.parent / "shared" / "data"))
REFERENCE = "pose2sim_single/reference/pose-3d/S00_P00_T01_BalancingTrial_0-100.trc"


def read_trc(path: Path) -> dict[str, np.ndarray]:
    """Marker name -> positions (T, 3), m, in the calibration's axes."""
    lines = path.read_text().splitlines()
    names = [n for n in lines[3].split("\t")[2:] if n.strip()]
    rows = np.array([[float(v) for v in line.split("\t")[: 2 + 3 * len(names)]] for line in lines[5:] if line.strip()])
    return {n: rows[:, 2 + 3 * i : 5 + 3 * i][:, [2, 0, 1]] for i, n in enumerate(names)}


def read_points(path: Path) -> dict[str, dict[int, np.ndarray]]:
    """Keypoint name -> frame -> position, m."""
    found: dict[str, dict[int, np.ndarray]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["name"], {})[int(row["frame"])] = np.array([float(row[a]) for a in "xyz"])
    return found


def compared(points: dict[str, dict[int, np.ndarray]], reference: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Per joint: median distance (mm) raw and with the constant offset removed."""
    table = {}
    for theirs, ours in JOINTS.items():
        frames = sorted(f for f in points[ours] if f < len(reference[theirs]))
        difference = np.array([points[ours][f] - reference[theirs][f] for f in frames]) * 1000
        offset = np.median(difference, 0)
        table[ours] = {
            "raw": float(np.median(np.linalg.norm(difference, axis=1))),
            "offset_removed": float(np.median(np.linalg.norm(difference - offset, axis=1))),
            "frames": len(frames),
        }
    return table


def main() -> None:
    """Print the table, and JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("take", type=Path)
    parser.add_argument("--actor", default="actor")
    parser.add_argument("--reference", type=Path, default=DATA / REFERENCE)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table = compared(read_points(options.take / "export" / f"points_{options.actor}.csv"), read_trc(options.reference))
    overall = float(np.median([row["offset_removed"] for row in table.values()]))
    report = json.loads((options.take / "report.json").read_text())
    pixels = report["measures"][options.actor]["reprojection"]["px"]
    if options.json:
        print(json.dumps({"joints": table, "median_of_joints_mm": overall, "reprojection_px": pixels}, indent=1))
        return
    print(f"{'joint':16s} {'raw mm':>8s} {'offset removed mm':>18s} {'frames':>7s}")
    for name, row in table.items():
        print(f"{name:16s} {row['raw']:8.1f} {row['offset_removed']:18.1f} {row['frames']:7.0f}")
    print(f"median over joints, offset removed: {overall:.1f} mm")
    print(f"reprojection of the fitted body: {pixels['median']:.1f} px median, {pixels['p90']:.1f} px for nine in ten")


if __name__ == "__main__":
    main()
