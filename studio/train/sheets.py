"""A contact sheet of training scenes, to be looked at: `python -m studio.train.sheets sheet.png` draws one of each split."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from rigs.keypoints import BONES
from studio.train.drawing import sample
from studio.train.performers import KEYPOINTS
from studio.train.scenes import SceneConfig, Scenes, held_out

Picture = UInt8[np.ndarray, "H W 3"]
_LINES = [(KEYPOINTS.index(a), KEYPOINTS.index(b)) for a, b in BONES if a in KEYPOINTS and b in KEYPOINTS]
_COLOURS = np.random.default_rng(4).integers(60, 255, (32, 3)).astype(np.uint8)


def sheet(scenes: Scenes, path: Path, zoom: int = 2) -> Path:
    """Writes a PNG: a row of all cameras and moments for each sample, as seen, then with keypoints (hidden ones thin), then its maps."""
    rows = [_row(scenes, n, zoom) for n in range(len(scenes))]
    widest = max(r.shape[1] for r in rows)
    whole = np.concatenate([np.pad(r, ((0, 4), (0, widest - r.shape[1]), (0, 0))) for r in rows])
    temporary = path.with_name(path.name + ".partial.png")
    if not cv2.imwrite(str(temporary), whole[..., ::-1]):
        raise OSError(f"{path}: could not be written; is the folder there, and the disk not full?")
    temporary.replace(path)
    return path


def _row(scenes: Scenes, n: int, zoom: int) -> Picture:
    pictures = []
    for t in range(scenes.image.shape[1]):
        for c in range(scenes.image.shape[2]):
            image = _large(scenes.image[n, t, c].numpy(), zoom)
            pictures.append(image)
            pictures.append(_marked(image, scenes.keypoints[n, t, c].numpy(), scenes.visible[n, t, c].numpy(), zoom))
            pictures += [_large(m, zoom) for m in _maps(scenes, n, t, c)]
    return np.concatenate(pictures, 1)


def _large(image: Picture, zoom: int) -> Picture:
    return cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)


def _marked(image: Picture, keypoints: np.ndarray, visible: np.ndarray, zoom: int) -> Picture:
    out, at = image.copy(), ((keypoints + 0.5) * zoom - 0.5)
    for a, b in _LINES:
        seen = bool(visible[a] and visible[b])
        colour = (255, 220, 0) if KEYPOINTS[a].startswith("left") else (0, 220, 255)
        ends = [tuple(int(v) for v in np.round(at[i])) for i in (a, b)]
        cv2.line(out, ends[0], ends[1], colour if seen else tuple(int(v) // 3 for v in colour), 1, cv2.LINE_AA)
    return out


def _maps(scenes: Scenes, n: int, t: int, c: int) -> list[Picture]:
    """The truth maps there are, as colours."""
    found = []
    if scenes.mask is not None:
        found.append(np.repeat((scenes.mask[n, t, c].numpy() * 127)[..., None], 3, 2))
    if scenes.part is not None:
        found.append(_COLOURS[scenes.part[n, t, c].numpy()])
    if scenes.uv is not None:
        uv = np.nan_to_num(scenes.uv[n, t, c].numpy())
        found.append((np.dstack([uv, np.zeros(uv.shape[:2])]) * 255).astype(np.uint8))
    if scenes.depth is not None:
        near = np.nan_to_num(0.5 - scenes.depth[n, t, c].numpy() / 1.6, nan=0.0).clip(0, 1)
        found.append(np.repeat((near * 255).astype(np.uint8)[..., None], 3, 2))
    if scenes.flow is not None:
        flow = np.nan_to_num(scenes.flow[n, t, c].numpy())
        found.append(np.dstack([(128 + 40 * flow).clip(0, 255), np.full(flow.shape[:2], 128)]).astype(np.uint8))
    return found


def main() -> None:
    """Draw some samples of training and of tests."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "sheet.png")
    config = SceneConfig(size=96, cameras=2, maps=("mask", "part", "uv", "depth", "flow"))
    for name, chosen in (("train", config), ("test", held_out(config))):
        print(sheet(Scenes.stacked([sample(chosen, 5 * n) for n in range(8)]), path.with_stem(f"{path.stem}-{name}"), 1))


if __name__ == "__main__":
    main()
