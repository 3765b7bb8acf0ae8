"""Keypoints that OpenPose, or a program that writes its files, has found: a folder of JSON files for every camera.

Format: https://github.com/CMU-Perceptual-Computing-Lab/openpose, `doc/02_output.md`. One file a frame, with `people`, each a list of
x, y, confidence; which set the list follows is known from its length.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from rigs.keypoints import COCO_WHOLEBODY, GROUPS, SETS
from studio.values import Keypoints2D

Array = np.ndarray
BY_LENGTH = {len(names): names for key, names in SETS.items() if key != "body_25b"}
"""BODY_25 and BODY_25B have one length; `_body_set` tells them apart."""
PART_SIGMA = {"body": 0.012, "feet": 0.014, "face": 0.004, "left_hand": 0.006, "right_hand": 0.006}
"""Standard deviation as a fraction of the person's height in the image, at full confidence."""
SEEN = 0.1
"""Below this confidence a point counts as not seen."""


def read_keypoints(
    folder: Path,
    cameras: Sequence[str],
    fps: float,
    first: int = 0,
    last: int | None = None,
    sizes: dict[str, tuple[int, int]] | None = None,
    names: str | None = None,
) -> Keypoints2D:
    """All cameras' keypoints in COCO-WholeBody order, frames `first` up to but without `last` (None: the longest camera's end).

    `folder` holds one folder a camera whose name contains the camera's (`cam01_json`), each one JSON file a frame whose name ends in the
    frame's number. `sizes` (width, height) lets values outside the image be noticed. `names` ("body_25", "body_25b") settles which 25
    points are meant where the numbers leave it open. Neck, middle of the hips and head top have no place in the order and are dropped.
    `FileNotFoundError` and `ValueError` name the folder or file.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give the one that holds a folder of JSON files for each camera")
    files = {camera: _frames(_folder_of(folder, camera, cameras)) for camera in cameras}
    end = last if last is not None else max(max(found) for found in files.values()) + 1
    if end <= first:
        raise ValueError(f"{folder}: frames {first} to {end} asked for, but the files end at frame {end - 1}")
    size = sizes or {}
    people = {c: [_people(files[c][t], size.get(c)) if t in files[c] else [] for t in range(first, end)] for c in cameras}
    if not any(frame for frames in people.values() for frame in frames):
        raise ValueError(f"{folder}: nobody is seen in frames {first} to {end - 1} of any camera; do the frame numbers fit the videos?")
    twenty_five = SETS[names] if names else _body_set(people)
    depth = max(len(frame) for frames in people.values() for frame in frames)
    values = np.full((len(cameras), end - first, depth, len(COCO_WHOLEBODY), 3), np.nan, np.float32)
    for c, camera in enumerate(cameras):
        for t, frame in enumerate(people[camera]):
            for d, person in enumerate(frame):
                values[c, t, d] = _whole_body(person, twenty_five)
    return _as_keypoints(values, tuple(cameras), fps, first)


def _as_keypoints(values: Float[Array, "C T D K 3"], cameras: tuple[str, ...], fps: float, first: int) -> Keypoints2D:
    """Positions and confidences with sigma: a share of the person's height, larger where confidence is low."""
    confidence = np.nan_to_num(values[..., 2]).clip(0, 1)
    seen = np.isfinite(values).all(-1) & (confidence >= SEEN)
    pixels = np.where(seen[..., None], values[..., :2], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # persons of whom nothing is seen
        extent = np.nanmax(pixels, -2) - np.nanmin(pixels, -2)
    height = np.nan_to_num(np.linalg.norm(extent, axis=-1), nan=1.0)
    share = np.zeros(len(COCO_WHOLEBODY))
    for part, indices in GROUPS.items():
        share[list(indices)] = PART_SIGMA[part]
    sigma = np.where(seen, share * height[..., None] / np.clip(confidence, 0.2, 1), np.nan)
    return Keypoints2D(
        cameras,
        COCO_WHOLEBODY,
        "openpose",
        fps,
        first,
        pixels=torch.from_numpy(pixels.astype(np.float32)),
        sigma=torch.from_numpy(sigma.astype(np.float32)),
        confidence=torch.from_numpy(np.where(seen, confidence, 0.0).astype(np.float32)),
    )


def _folder_of(folder: Path, camera: str, cameras: Sequence[str]) -> Path:
    """The one subfolder named after a camera; `cam1` is not `cam10`."""
    inside = sorted(p for p in folder.iterdir() if p.is_dir())
    pattern = re.compile(rf"(?<![^\W_]){re.escape(camera)}(?![^\W_])", re.IGNORECASE)
    found = [p for p in inside if p.name.lower() == camera.lower()] or [p for p in inside if pattern.search(p.name)]
    if len(found) == 1:
        return found[0]
    seen = [p.name for p in inside]
    problem = (
        f"{len(found)} folders {[p.name for p in found]} are named after camera {camera!r}" if found else f"no folder for camera {camera!r}"
    )
    raise ValueError(f"{folder}: {problem}; it holds {seen}, the cameras are {list(cameras)}. Name one folder after each camera")


def _frames(folder: Path) -> dict[int, Path]:
    """Frame number -> file, by the last number in the file's name."""
    found: dict[int, Path] = {}
    for file in sorted(folder.glob("*.json")):
        numbers = re.findall(r"\d+", file.stem)
        if not numbers:
            raise ValueError(f"{file}: its name holds no frame number; expected names like {folder.name}_000000000012_keypoints.json")
        number = int(numbers[-1])
        if number in found:
            raise ValueError(f"{file} and {found[number].name} are both frame {number}; keep one take's files in a folder")
        found[number] = file
    if not found:
        raise ValueError(f"{folder}: holds no .json file; OpenPose writes them with --write_json")
    return found


def _people(file: Path, size: tuple[int, int] | None) -> list[dict[str, Float[Array, "K 3"]]]:
    """What one file holds: a list of points for each part of each person, NaN where malformed or not seen."""
    try:
        document = json.loads(file.read_text())
        people = document["people"]
        assert isinstance(people, list)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{file}: not an OpenPose file with a list of `people` ({error!r}); write it again") from error
    found = [_person(file, person) for person in people]
    for person in found:
        body = person["pose_keypoints_2d"]
        seen = body[np.isfinite(body).all(1) & (body[:, 2] > 0)]
        if len(seen) >= 4 and np.abs(seen[:, :2]).max() <= 1.5:
            raise ValueError(f"{file}: coordinates lie between 0 and 1: give pixels of the video (OpenPose: --keypoint_scale 0)")
        if size and len(seen) and ((seen[:, :2] > 1.5 * np.array(size)).any(1)).mean() > 0.5:
            raise ValueError(
                f"{file}: points up to {seen[:, :2].max():.0f} px in a video of {size[0]}x{size[1]}; were they found in another?"
            )
    return found


def _person(file: Path, person: Any) -> dict[str, Float[Array, "K 3"]]:
    if not isinstance(person, dict) or not person.get("pose_keypoints_2d"):
        raise ValueError(f"{file}: a person without `pose_keypoints_2d`; write it again")
    parts = {}
    for part in ("pose_keypoints_2d", "face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d"):
        numbers = person.get(part) or []
        try:
            flat = np.array([np.nan if value is None else value for value in numbers], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}: `{part}` holds something that is not a number ({error}); write it again") from error
        if flat.ndim != 1 or len(flat) % 3:
            raise ValueError(f"{file}: `{part}` holds {len(flat)} numbers, not x, y, confidence for every point")
        points = flat.reshape(-1, 3)
        broken = ~np.isfinite(points).all(1)
        if broken.any():
            warnings.warn(f"{file}: {broken.sum()} points of `{part}` are not finite and count as not seen", stacklevel=2)
        points[broken | (points[:, 2] <= 0)] = np.nan
        parts[part] = points
    count = len(parts["pose_keypoints_2d"])
    if count not in BY_LENGTH:
        known = {len(names): key for key, names in SETS.items()}
        raise ValueError(f"{file}: `pose_keypoints_2d` holds {count} points; known sets are {known}")
    return parts


def _body_set(people: dict[str, list[list[dict[str, Any]]]]) -> tuple[str, ...]:
    """BODY_25 or BODY_25B: of two orders of 25 points the one whose limbs are short, since a wrong name joins far points."""
    default, other = SETS["body_25"], SETS["body_25b"]
    errors: dict[tuple[str, ...], list[float]] = {default: [], other: []}
    for frames in people.values():
        for person in (p for frame in frames for p in frame):
            points = person["pose_keypoints_2d"]
            if len(points) != 25:
                continue
            for names in errors:
                at = {name: points[i, :2] for i, name in enumerate(names)}
                bones = (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"), ("ankle", "heel"))
                limbs = [np.linalg.norm(at[f"{s}_{a}"] - at[f"{s}_{b}"]) for s in ("left", "right") for a, b in bones]
                if np.isfinite(limbs).any():
                    errors[names].append(float(np.nanmean(limbs)))
    medians = {names: np.median(values) if values else np.inf for names, values in errors.items()}
    return default if medians[default] <= medians[other] else other


def _whole_body(person: dict[str, Float[Array, "K 3"]], twenty_five: tuple[str, ...]) -> Float[Array, "133 3"]:
    """One person in COCO-WholeBody's order."""
    body = person["pose_keypoints_2d"]
    names = twenty_five if len(body) == 25 else BY_LENGTH[len(body)]
    whole = np.full((len(COCO_WHOLEBODY), 3), np.nan)
    for i, name in enumerate(names):
        if name in COCO_WHOLEBODY:
            whole[COCO_WHOLEBODY.index(name)] = body[i]
    for part, group, count in (
        ("face_keypoints_2d", "face", 68),  # OpenPose adds the pupils as 69 and 70
        ("hand_left_keypoints_2d", "left_hand", 21),
        ("hand_right_keypoints_2d", "right_hand", 21),
    ):
        if len(points := person[part]) >= count:
            whole[list(GROUPS[group])] = points[:count]
    return whole
