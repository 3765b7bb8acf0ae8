"""The wheel's networks through LiteRT and through torch, side by side: ms per crop, and how far their answers lie apart.

    python benchmarks/networks.py [--image FILE] [--device cuda] [--batch 8]

Writes networks.json in the current folder. Crops are pieces of a photograph (matplotlib's by default) and noise.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image

from studio.detect.runtimes import LiteRT, Runtime, Torch
from studio.detect.tflite import FILES

LOW = {"pose detection": -1.0, "face detection": -1.0}
PORTRAIT = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def crops_of(image: np.ndarray, side: int, count: int) -> np.ndarray:
    """Turned and scaled pieces of the image, the last of noise."""
    rng, pieces = np.random.default_rng(0), []
    for _ in range(count - 1):
        size = int(min(image.shape[:2]) * rng.uniform(0.4, 0.9))
        top, left = (rng.integers(0, n - size + 1) for n in image.shape[:2])
        pieces.append(np.asarray(Image.fromarray(image[top : top + size, left : left + size]).resize((side, side)), np.float32))
    return np.stack([*pieces, rng.uniform(0, 255, (side, side, 3)).astype(np.float32)])


def fastest(work: Callable[[], object], least: float = 0.6) -> float:
    """s; the best of several, after one to warm up."""
    work()
    times, until = [], time.perf_counter() + least
    while time.perf_counter() < until or len(times) < 3:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def apart(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Largest difference as a share of that output's range (1 for probabilities)."""
    return max(float(np.abs(x - y).max()) / max(float(np.ptp(y)), 1.0) for x, y in zip(a, b, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, default=PORTRAIT)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    image = np.asarray(Image.open(options.image).convert("RGB"))
    litert, exact = LiteRT(), Torch(options.device)
    runtimes: dict[str, Runtime] = {"torch": exact}
    if exact.device.type == "cuda":
        runtimes |= {p: Torch(options.device, p) for p in ("float16", "bfloat16")}
    print(
        f"torch on {exact.device}, {options.threads} thread(s); LiteRT on one thread. ms a crop; difference in shares of the output's range"
    )
    table = {}
    for name in FILES:
        low, crops = LOW.get(name, 0.0), crops_of(image, litert.side(name), options.batch)
        truth = litert.run(name, crops, low)
        row = {"litert": 1e3 * fastest(lambda: litert.run(name, crops[:1], low))}  # noqa: B023
        for label, runtime in runtimes.items():
            row[f"{label} 1"] = 1e3 * fastest(lambda: runtime.run(name, crops[:1], low))  # noqa: B023
            row[f"{label} {options.batch}"] = 1e3 * fastest(lambda: runtime.run(name, crops, low)) / options.batch  # noqa: B023
            row[f"{label} difference"] = apart(runtime.run(name, crops, low), truth)
        table[name] = {k: float(f"{v:.3g}") for k, v in row.items()}
        print(f"{name:15}", "  ".join(f"{k} {v:g}" for k, v in table[name].items()))
    Path("networks.json").write_text(json.dumps({"device": str(exact.device), "threads": options.threads, "ms": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
