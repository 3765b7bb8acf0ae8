"""What dense surface correspondences are worth to the solver: `python benchmarks/dense_surface.py [--people 10] [--json FILE]`.

Held-out synthetic people of another generator in free motion (12 frames at 30 fps) before four cameras, in crops of 64 px. Body and foot
keypoints with a detector's errors are fitted alone; with the exact skin; with that disturbed; and with what a network saw (`--weights`).
Of each: the mean vertex's distance to the truth, and how far forearms and upper arms are turned about their own axes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calibration.triangulate import triangulate
from rigs import makehuman
from rigs.body import Body
from rigs.rotation import log
from studio.fit.config import FitConfig
from studio.fit.dense import Sightings, skin_points
from studio.fit.observed import Observed
from studio.fit.person import fit_actor
from studio.nets.hourglass import BODY
from studio.nets.surface import Eye, Skin, sighted
from studio.train.drawing import CLIPS, sample
from studio.train.geodesics import Geodesics
from studio.train.performers import KEYPOINTS, model, other_person, topology
from studio.train.scenes import SceneConfig, Scenes, held_out
from studio.train.surface_crops import Skins

FRAMES = 12
NOISE = 0.4
"""px of the crop (about 12 mm) by which keypoints are off."""
OFF = 0.04
"""m by which the skin is disturbed where there is no network to be like: the most that its gate allows."""
SHARED = 0.05
LIMBS = {"forearm": ("forearm", "ForeArm", "Hand"), "upper arm": ("upper_arm", "Arm", "ForeArm")}
"""Part, joint at its beginning and joint at its end."""


def person(number: int) -> Scenes:
    """One held-out person's clip; each number another person."""
    config = SceneConfig(size=64, cameras=4, moments=FRAMES, maps=("mask", "part", "surface"))
    return sample(replace(held_out(config), loose=1.0), number * CLIPS)


def observed(scenes: Scenes, seed: int) -> Observed:
    """Keypoints with noise, outliers and gaps."""
    g = torch.Generator().manual_seed(seed)
    which = [KEYPOINTS.index(n) for n in BODY]
    pixels = scenes.keypoints[0][..., which, :].transpose(0, 1).double()
    rand = lambda *n: torch.randn(*n, generator=g, dtype=torch.float64)  # noqa: E731
    wild = torch.rand(pixels.shape[:-1], generator=g) < 0.03
    pixels = pixels + NOISE * rand(*pixels.shape) + 8 * wild[..., None] * rand(*pixels.shape)
    pixels[torch.rand(pixels.shape[:-1], generator=g) < 0.1] = torch.nan
    pixels[~scenes.visible[0][..., which].transpose(0, 1) & (torch.rand(pixels.shape[:-1], generator=g) < 0.5)] = torch.nan
    cameras, sigma = scenes.cameras(0), torch.full(pixels.shape[:-1], NOISE, dtype=torch.float64)
    points = triangulate(cameras, pixels, sigma).points
    return Observed(cameras, BODY, "exact", 30.0, pixels.float(), sigma.float(), points.float())


def truth(scenes: Scenes) -> tuple[Float[Tensor, "T V 3"], Float[Tensor, "T J 3"]]:
    """Vertices of the skin and joints, m."""
    performer = other_person(int(scenes.person[0]))
    posed = performer.posed(scenes.rotation[0], scenes.translation[0])
    return performer.points(posed), posed.joints


def exact(scenes: Scenes) -> Skin:
    """What a faultless network would see, cloth and all."""
    data = Skins.of(scenes)
    return Skin(data.part > 0, (data.part.long() - 1).clamp_min(0), data.rest.float(), torch.full(data.part.shape, 0.01))


def disturbed(skin: Skin, median: float, seed: int) -> Skin:
    """Exact places moved by errors of that median, m: a third of the square is shared by a part in a picture, the rest is a pixel's own."""
    g = torch.Generator().manual_seed(seed)
    size = median / 1.54  # of three directions
    own = torch.randn(skin.rest.shape, generator=g)
    shared = torch.randn(len(skin.part), len(topology().part_names), 3, generator=g)
    pick = skin.part.flatten(1)[..., None].expand(-1, -1, 3)
    rest = skin.rest + size * ((2 / 3) ** 0.5 * own + (1 / 3) ** 0.5 * shared.gather(1, pick).view_as(own))
    return Skin(skin.seen, skin.part, rest, torch.full_like(skin.sigma, size))


def sightings(skin: Skin, body: Body) -> Sightings:
    """Of the solver's points, from crops of all cameras in all moments."""
    vertices = skin_points(body)
    part = torch.from_numpy(topology().parts)[vertices].long() - 1
    pixels, sigma = sighted(skin, body.skin.rest[vertices], part)
    back = lambda x: x.unflatten(0, (FRAMES, -1)).transpose(0, 1)  # noqa: E731
    return Sightings(vertices, back(pixels), back(sigma))


def twist(found: Tensor, true: Tensor, joints: Tensor, side: str, limb: str) -> Float[Tensor, "T"]:
    """How far the skin of a limb is turned about the bone's axis, degrees."""
    names, (part, begin, end) = model().skeleton.names, LIMBS[limb]
    a, b = (joints[:, names.index(side.capitalize() + n)] for n in (begin, end))
    axis = torch.nn.functional.normalize(b - a, dim=-1)[:, None]
    own = torch.from_numpy(topology().parts == topology().part_names.index(f"{side}_{part}") + 1)
    across = lambda v: (d := v - v.mean(1, keepdim=True)) - (d * axis).sum(-1, keepdim=True) * axis  # noqa: E731
    p, q = across(found[:, own]), across(true[:, own])
    sine = (torch.linalg.cross(p, q) * axis).sum((1, 2))
    return torch.rad2deg(torch.atan2(sine, (p * q).sum((1, 2))).abs())


def errors(body: Body, seen: Observed, true: Tensor, joints: Tensor, config: FitConfig) -> dict[str, float]:
    """Of one fit."""
    fitted = fit_actor(body, seen, config)
    posed = body.shaped(fitted.shape).posed(log(fitted.state.R), fitted.state.root, fitted.state.expression)
    found, outer = posed.points(), Geodesics.of(body.skin.rest.numpy(), body.triangles.numpy(), 1).reached
    off = (found - true).norm(dim=-1)[:, outer]
    row = {"vertices mm": 1000 * float(off.mean()), "joints mm": 1000 * float((posed.joints - joints).norm(dim=-1).mean())}
    for limb in LIMBS:
        row[f"{limb} twist"] = float(torch.cat([twist(found, true, joints, s, limb) for s in ("left", "right")]).mean())
    return row


def measured(number: int, eye: Eye | None, shared: float) -> dict[str, dict[str, float]]:
    """All arms on one person."""
    scenes, body = person(number), makehuman.load()
    seen, (true, joints) = observed(scenes, number), truth(scenes)
    skin, config = exact(scenes), FitConfig(dense=shared, device="cpu", workers=1)
    arm = lambda s, c: errors(body, replace(seen, sightings=sightings(s, body)), true, joints, c)  # noqa: E731
    rows = {"keypoints": errors(body, seen, true, joints, replace(config, dense=0.0))}
    rows["and exact skin"] = arm(skin, replace(config, dense=0.01))
    off = OFF
    if eye is not None:
        network = eye.see(scenes.image.flatten(0, 2), seen.pixels.transpose(0, 1).flatten(0, 1))
        off = float((network.rest - skin.rest).norm(dim=-1)[skin.seen & network.seen].median())
        rows["and the network's skin"] = arm(network, config)
    rows["and exact skin, disturbed"] = arm(disturbed(skin, off, number), config) | {"disturbed mm": 1000 * off}
    return rows


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--weights", default="", help="a checkpoint; without one the network's own arm is left out")
    parser.add_argument("--shared", type=float, default=SHARED, help="how far off neighbours may be together, m")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    eye = Eye(options.weights) if options.weights else None
    runs = [measured(n, eye, options.shared) for n in range(options.first, options.first + options.people)]
    rows = {arm: {k: float(np.mean([r[arm][k] for r in runs])) for k in runs[0][arm]} for arm in runs[0]}
    print(f"{'synthetic held-out people':32s}" + "".join(f"{k:>18s}" for k in rows["keypoints"]))
    for arm, row in rows.items():
        print(f"{arm:32s}" + "".join(f"{row[k]:10.1f} {100 * (row[k] / v - 1):+6.0f}%" for k, v in rows["keypoints"].items()))
    if options.json:
        options.json.write_text(json.dumps({"shared_m": options.shared, "mean": rows, "every": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
