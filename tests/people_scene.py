"""A jointed figure that walks before four cameras, made with numpy and OpenCV alone: ground truth for rigs found from people."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from calibration.cameras import Cameras
from calibration.people import PeopleViews

NAMES = ["head", *(s + n for s in "lr" for n in ("ear", "shoulder", "elbow", "wrist", "hand", "hip", "knee", "ankle", "toe", "heel"))]
MIRROR = tuple(NAMES.index({"l": "r", "r": "l"}.get(n[0], n[0]) + n[1:]) if n != "head" else 0 for n in NAMES)
CHAINS = [("shoulder", "elbow"), ("elbow", "wrist"), ("wrist", "hand"), ("hip", "knee"), ("knee", "ankle"), ("ankle", "toe"),
          ("ankle", "heel"), ("shoulder", "hip")]  # fmt: skip
BONES = tuple((NAMES.index(s + a), NAMES.index(s + b)) for s in "lr" for a, b in CHAINS)
SPINE = tuple((NAMES.index(s + a), NAMES.index(s + b)) for s in "lr" for a, b in (("ankle", "knee"), ("knee", "hip"), ("hip", "shoulder")))
FEET = tuple(NAMES.index(s + n) for s in "lr" for n in ("toe", "heel"))


def turn(axis, angle):
    return cv2.Rodrigues(np.asarray(axis, float) * angle)[0]


def figure(frames, fps=30.0, travel=1.0, swing=1.0, seed=0):
    """(T, K, 3), m: a figure of 1.7 m that walks along a winding path on the floor z = 0."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6.28, 8)
    out = np.zeros((frames, len(NAMES), 3))
    for t in range(frames):
        w = 2 * np.pi * t / fps
        heading = turn([0, 0, 1], travel * (0.5 * w + 0.3 * np.sin(0.35 * w + phase[0])))
        place = travel * np.array([1.0 * np.sin(0.4 * w + phase[1]), 0.9 * np.sin(0.27 * w + phase[2]), 0.0])
        p = {"head": np.array([0, 0.10, 1.58])}
        for side, sign in (("l", 1), ("r", -1)):
            beat = np.sin(1.0 * w + phase[3] + (0 if sign > 0 else np.pi))
            thigh = turn([1, 0, 0], swing * 0.5 * beat)
            shin = thigh @ turn([1, 0, 0], -swing * 0.3 * (1 + np.sin(w + phase[4] + sign)))
            arm = turn([1, 0, 0], -swing * 0.9 * beat) @ turn([0, 1, 0], -sign * (0.4 + swing * 0.5 * np.sin(0.6 * w + phase[5])))
            lower = arm @ turn([1, 0, 0], swing * 0.7 * (1 + np.sin(0.8 * w + phase[6] + sign)))
            p[side + "ear"] = np.array([-0.08 * sign, 0.0, 1.58])
            p[side + "shoulder"] = np.array([-0.19 * sign, 0, 1.40])
            p[side + "elbow"] = p[side + "shoulder"] + arm @ [0, 0, -0.30]
            p[side + "wrist"] = p[side + "elbow"] + lower @ [0, 0, -0.26]
            p[side + "hand"] = p[side + "wrist"] + lower @ [0, 0.03, -0.09]
            p[side + "hip"] = np.array([-0.10 * sign, 0, 0.90])
            p[side + "knee"] = p[side + "hip"] + thigh @ [0, 0, -0.42]
            p[side + "ankle"] = p[side + "knee"] + shin @ [0, 0, -0.42]
            p[side + "toe"] = p[side + "ankle"] + shin @ [0, 0.17, -0.06]
            p[side + "heel"] = p[side + "ankle"] + shin @ [0, -0.05, -0.06]
        body = np.stack([p[n] for n in NAMES])
        body[:, 2] -= body[:, 2].min()
        out[t] = body @ heading.T + place
    return out


def truth(count=4, focal=1000.0, distortion=0.0):
    """Cameras on an uneven ring that look at the figure's middle."""
    R, position = [], []
    for c in range(count):
        a = 2 * np.pi * c / count + 0.3 * np.sin(3 * c)
        o = np.array([3.8 * np.cos(a), 3.4 * np.sin(a), 1.4 + 0.35 * (c % 3)])
        z = np.array([0, 0, 0.9]) - o
        z /= np.linalg.norm(z)
        x = np.cross(z, [0, 0, 1])
        x /= np.linalg.norm(x)
        R.append(np.stack([x, np.cross(z, x), z]))
        position.append(o)
    size = torch.tensor([[1280.0, 720.0]] * count, dtype=torch.float64)
    k = torch.zeros(count, 8, dtype=torch.float64)
    k[:, 0] = distortion
    focals = focal * (1 + 0.04 * torch.arange(count, dtype=torch.float64))[:, None].expand(count, 2)
    return Cameras(
        tuple(f"cam{c + 1}" for c in range(count)), size, focals, (size - 1) / 2, k, ("brown",) * count,
        torch.from_numpy(np.stack(R)), torch.from_numpy(np.stack(position)),
    )  # fmt: skip


@dataclass
class Filmed:
    cameras: Cameras
    points: np.ndarray
    views: PeopleViews


def film(frames=60, noise=1.0, seed=0, count=4, delay=None, fps=30.0, steps=4, tilt=0.12, distortion=0.0, **walk):
    """What the cameras see of the figure; `delay` frames late each, a network's own skeletons leaning by `tilt` rad and off by 3 cm."""
    rng = np.random.default_rng(seed + 1000)
    cameras = truth(count, distortion=distortion)
    fine = figure((frames + 20) * steps, fps * steps, seed=seed, **walk)
    delay = delay or [0.0] * count
    at = [np.round((np.arange(frames) + 10 - d) * steps).astype(int) for d in delay]
    pixels, skeleton = [], []
    for c in range(count):
        X, R = fine[at[c]], cameras.R_camera_world[c].numpy()
        t = -R @ cameras.position[c].numpy()
        image, _ = cv2.projectPoints(X.reshape(-1, 3), cv2.Rodrigues(R)[0], t, cameras.matrix[c].numpy(), cameras.distortion[c, :5].numpy())
        pixels.append(image.reshape(frames, -1, 2) + rng.normal(0, noise, (frames, len(NAMES), 2)))
        own = X @ R.T
        own -= own.mean(1, keepdims=True)
        skeleton.append(own @ turn(rng.normal(size=3) * 0.6, tilt).T + rng.normal(0, 0.03, own.shape))
    shape = (count, frames, len(NAMES))
    views = PeopleViews(
        cameras.names, cameras.size, fps, torch.from_numpy(np.stack(pixels)), torch.full(shape, max(noise, 0.5)).double(),
        torch.from_numpy(np.stack(skeleton)), MIRROR, BONES,
    )  # fmt: skip
    return Filmed(cameras, fine[at[0]], views)
