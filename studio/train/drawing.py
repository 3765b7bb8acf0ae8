"""Draws the samples of training scenes: `sample(config, number)`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from rigs.keypoints import GROUPS
from studio.train.crops import Eye, Light, Surface, backdrop, cropped, developed, occluder, pictured, placed
from studio.train.performers import Performer, Topology, model_person, other_person, topology
from studio.train.poses import HELD_OUT, TRAINED, Clips, clips
from studio.train.scenes import SceneConfig, Scenes, voxels
from studio.train.wardrobe import SEEDS, wardrobe
from studio.virtual.actions import ACTIONS
from studio.virtual.rays import Hits, Meshes

FAR: dict[str, tuple[tuple[float, float], ...]] = {"train": ((2.4, 3.3), (3.9, 6.0)), "test": ((3.3, 3.9),)}
"""Distances of cameras of each split, m."""
CLIPS = 8
"""Consecutive samples that are of one person: their motion is made together."""
OTHERS = 16
"""How many people of the other kind a split has."""
HANDS = {"left_hand": 23, "right_hand": 23 + len(GROUPS["left_hand"])}
"""Where a hand's 21 begin in `KEYPOINTS`."""
Array = np.ndarray


def stream(config: SceneConfig, start: int = 0) -> Iterator[Scenes]:
    """Samples without end, one after the other."""
    return (sample(config, number) for number in count(start))


def sample(config: SceneConfig, number: int) -> Scenes:
    """The sample of that number (N = 1); the same settings and number give the same bytes."""
    act, mine, shared, bank = _act(config, number // CLIPS), number % CLIPS, topology(), wardrobe(config.split)
    rng = np.random.default_rng([config.seed, SEEDS[config.split], number, 13])
    posed = act.performer.posed(act.clips.rotation[mine], act.clips.translation[mine])
    skins, points = act.performer.points(posed).numpy(), act.performer.keypoints(posed)
    outfit = int(rng.integers(len(bank.textures)))
    thick = act.performer.loose + bank.thickness[outfit].numpy()
    tint = np.exp(config.loose * 0.25 * rng.normal(0, 1, 3)).clip(0.5, 1.6).astype(np.float32)
    T = config.moments
    surfaces = [Surface.dressed(shared, skin, thick, bank.textures[outfit].numpy(), tint) for skin in skins[:T]]
    # The moment after the last one is there for the flow alone.
    after = [s.vertices for s in surfaces[1:]] + [skin + thick[:, None] * shared.normals(skin) for skin in skins[T:]]
    values = _viewed(config, rng, surfaces, after, points[:T].numpy(), posed.joints[:T, 0].numpy())
    if config.occupancy:
        grids = [_occupied(skins[t], shared, posed.joints[t, 0].numpy(), config.occupancy) for t in range(T)]
        values["occupancy"] = np.stack(grids)
    known = {"points": points[:T], "joints": posed.joints[:T], "shape": act.performer.shape}
    known |= {"rotation": act.clips.rotation[mine, :T], "translation": act.clips.translation[mine, :T]}
    actions = sorted(ACTIONS)
    facts = {
        "number": number,
        "person": act.person,
        "action": actions.index(act.clips.actions[mine]),
        "outfit": SEEDS[config.split] + outfit,
    }
    tensors: dict[str, Any] = {k: torch.from_numpy(np.ascontiguousarray(v))[None] for k, v in values.items()}
    tensors |= {k: v[None].clone() for k, v in known.items()} | {k: torch.tensor([v]) for k, v in facts.items()}
    return Scenes(**tensors)


@dataclass(frozen=True)
class _Act:
    """A person with their clips."""

    person: int
    performer: Performer
    clips: Clips


@lru_cache(maxsize=4)
def _act(config: SceneConfig, block: int) -> _Act:
    start = SEEDS[config.split]
    rng = np.random.default_rng([config.seed, start, block, 11])
    if config.bodies == "other":
        person = start + 5000 + int(rng.integers(OTHERS))
        performer = other_person(person)
    else:
        person = start + 10_000 + 1_000_000 * config.seed + block
        performer = model_person(rng)
    names = TRAINED if config.split == "train" else HELD_OUT
    length = config.moments + ("flow" in config.maps)
    return _Act(person, performer, clips(performer.body, rng, names, CLIPS, length, config.loose, config.fps))


def _viewed(
    config: SceneConfig,
    rng: np.random.Generator,
    surfaces: list[Surface],
    after: list[Float[Array, "V 3"]],
    points: Float[Array, "T K 3"],
    roots: Float[Array, "T 3"],
) -> dict[str, Array]:
    """What all cameras see: eyes (C ...) and, for every moment, (T C ...)."""
    bank, light, start = wardrobe(config.split), Light.random(rng), rng.uniform(0, 2 * np.pi)
    eyes, views = [], []
    for c in range(config.cameras):
        yaw = start + 2 * np.pi * c / config.cameras + rng.uniform(-0.35, 0.35) * (config.cameras > 1)
        eye = _eye(config, rng, yaw, [_shown(config, s.vertices, p) for s, p in zip(surfaces, points, strict=True)])
        behind = backdrop(rng, config.size, bank)
        cover = occluder(rng, config.size, bank) if rng.uniform() < config.occluded else None
        moments = []
        for t, surface in enumerate(surfaces):
            light_in, hits = pictured(surface, light, eye, behind)
            hidden = np.zeros(hits.person.shape, bool)
            if cover is not None:
                light_in = light_in * (1 - cover[0][..., None]) + cover[0][..., None] * cover[1]
                hidden = cover[0] > 0.5
            known = {"image": developed(rng, light_in, config.strength)} | _keypoints(eye, surface, points[t], hidden)
            low_high = eye.project(_shown(config, surface.vertices, points[t]))[0]
            known["box"] = np.concatenate([low_high.min(0), low_high.max(0)]).astype(np.float32)
            moments.append(known | _maps(config, eye, surface, hits, hidden, roots[t], after[t] if t < len(after) else None))
        eyes.append({"focal": eye.focal, "centre": eye.centre, "R_camera_world": eye.R_camera_world, "position": eye.position})
        views.append({k: np.stack([m[k] for m in moments]) for k in moments[0]})
    seen = {k: np.stack([v[k] for v in views], 1) for k in views[0]}
    return {k: np.stack([np.asarray(e[k]) for e in eyes]) for k in eyes[0]} | seen


def _eye(config: SceneConfig, rng: np.random.Generator, yaw: float, shown: list[Float[Array, "N 3"]]) -> Eye:
    """A camera whose crop holds the person in all moments."""
    bands = FAR[config.split]
    eye = placed(rng, yaw, float(rng.uniform(*bands[rng.integers(len(bands))])), config.size)
    padding = config.padding * (1 + config.jitter * rng.uniform(-0.15, 0.3))
    return cropped(eye, np.concatenate(shown), padding, config.jitter * rng.uniform(-0.1, 0.1, 2))


def _shown(config: SceneConfig, vertices: Float[Array, "V 3"], points: Float[Array, "K 3"]) -> Float[Array, "N 3"]:
    """What the crop is around."""
    if config.focus == "body":
        return vertices
    first = HANDS[config.focus]
    return points[first : first + len(GROUPS["left_hand"])]


def _keypoints(eye: Eye, surface: Surface, points: Float[Array, "K 3"], hidden: Bool[Array, "S S"]) -> dict[str, Array]:
    """Where keypoints are on the crop and which are seen: the first thing on the way is hardly before the skin they lie under."""
    pixels, z = eye.project(points)
    hits = surface.meshes.cast(eye.position.astype(np.float32), eye.rays(pixels))
    free = z - hits.distance < 2.5 * surface.shared.depths + 0.015
    cell = np.round(pixels).astype(int)
    inside = ((cell >= 0) & (cell < eye.size)).all(-1)
    x, y = cell.clip(0, eye.size - 1).T
    return {"keypoints": pixels.astype(np.float32), "visible": inside & free & ~hidden[y, x]}


def _maps(
    config: SceneConfig,
    eye: Eye,
    surface: Surface,
    hits: Hits,
    hidden: Bool[Array, "S S"],
    root: Float[Array, "3"],
    after: Float[Array, "V 3"] | None,
) -> dict[str, Array]:
    """The pictures of truth that are wanted."""
    solid, shared = hits.person >= 0, surface.shared
    maps: dict[str, Array] = {}
    if "mask" in config.maps:
        maps["mask"] = np.where(solid, np.where(hidden, 1, 2), 0).astype(np.uint8)
    if "part" in config.maps:
        owner = np.take_along_axis(shared.triangles[hits.triangle[solid]], hits.corner[solid].argmax(1)[:, None], 1)[:, 0]
        maps["part"] = _filled(solid, shared.parts[owner], 0, np.uint8)
    if "uv" in config.maps:
        maps["uv"] = _filled(solid, surface.uv(hits, solid), np.nan, np.float32)
    if "surface" in config.maps:
        maps["triangle"] = np.where(solid, hits.triangle, -1).astype(np.int32)
        maps["corner"] = np.where(solid[..., None], hits.corner, 0).astype(np.float32)
    if "depth" in config.maps:
        maps["depth"] = np.where(solid, hits.distance - eye.project(root)[1], np.nan).astype(np.float32)
    if "flow" in config.maps:
        assert after is not None
        now, later = (eye.project(surface.at(v, hits, solid).astype(np.float64))[0] for v in (surface.vertices, after))
        maps["flow"] = _filled(solid, later - now, np.nan, np.float32)
    return maps


def _filled(solid: Bool[Array, "S S"], values: Array, empty: float, kind: type) -> Array:
    out = np.full((*solid.shape, *values.shape[1:]), empty, kind)
    out[solid] = values
    return out


def _occupied(skin: Float[Array, "V 3"], shared: Topology, root: Float[Array, "3"], size: int) -> Bool[Array, "G G G"]:
    return Meshes([(np.ascontiguousarray(skin, np.float32), shared.triangles)]).inside(root + voxels(size))
