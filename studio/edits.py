"""A take's `edits.yaml`: what a person knows better than the networks. Applied at every fit, undone by deleting a line.

```yaml
- {drop: cam03, frames: [120, 180]}                                # do not use a camera
- {ignore: left_wrist, camera: cam01, frames: [130, 140]}          # do not use a keypoint; in all cameras where none is named
- {point: left_wrist, camera: cam01, frame: 133, at: [612, 380]}   # here it is, px
- {contact: left_heel, frames: [40, 80], planted: false}           # the foot is, or is not, on the floor
- {contact: left_hand, frames: [40, 80], planted: true}            # the hand rests on something that stays where it is
- {swap: [ann, bob], frames: [200, 260]}                           # each is the other
- {nearer: left_wrist, than: left_elbow, camera: cam01, frame: 133}  # seen from there; turns a mirrored limb, its neighbours follow
```
Frames count on the take's clock, the last excluded; without `frames` an edit holds for the whole take. `actor: ann` narrows an edit to one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

FILE = "edits.yaml"
CONTACTS = {
    **{name: (i,) for i, name in enumerate(("left_heel", "left_big_toe", "right_heel", "right_big_toe"))},
    **{"left_hand": (4, 5), "left_fingertips": (5,), "right_hand": (6, 7), "right_fingertips": (7,)},
}
"""What can be said to be planted -> columns of `Motion.contacts`."""
KINDS = {
    "drop": ("frames", "actor"),
    "ignore": ("camera", "frames", "actor"),
    "point": ("camera", "frame", "at", "actor"),
    "contact": ("frames", "planted", "actor"),
    "swap": ("frames",),
    "nearer": ("than", "camera", "frame", "frames", "actor"),
}
NEEDED = {"point": ("camera", "frame", "at"), "contact": ("planted",), "nearer": ("than", "camera")}
FOLLOW = {"nearer": 60}
"""How many frames around an edit may follow it."""
SIGMA = 1.0
"""Of a point that a person set, px."""


@dataclass(frozen=True)
class Edit:
    """One line of `edits.yaml`."""

    kind: str
    what: str | tuple[str, str]
    """Camera, keypoint, contact point, or the two actors."""
    frames: tuple[float, float]
    """First and one past the last; infinite where the whole take is meant."""
    actor: str | None = None
    camera: str | None = None
    at: tuple[float, float] | None = None
    planted: bool = False
    than: str | None = None

    def holds(self, first: int, count: int) -> slice:
        """Which of `count` frames, the first of which is number `first`, the edit speaks of."""
        low, high = self.frames
        return slice(int(min(max(low - first, 0), count)), int(min(max(high - first, 0), count)))


@dataclass(frozen=True)
class Edits:
    """All edits of a take."""

    each: tuple[Edit, ...] = ()

    @classmethod
    def load(cls, folder: Path, cameras: Sequence[str], keypoints: Sequence[str], actors: Sequence[str]) -> Edits:
        """The edits of a take's folder, none where it has no such file; a `ValueError` names the line and the remedy."""
        path = folder / FILE
        if not path.is_file():
            return cls()
        try:
            listed = yaml.safe_load(path.read_text()) or []
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a YAML file: {error}") from error
        if not isinstance(listed, list):
            raise ValueError(f"{path}: needs a list, one edit a line, for example `- {{drop: cam03, frames: [120, 180]}}`")
        known = {"drop": cameras, "contact": tuple(CONTACTS), "swap": actors} | dict.fromkeys(("ignore", "point", "nearer"), keypoints)
        return cls(tuple(_edit(f"{path}: edit {i + 1}", entry, known, cameras, actors) for i, entry in enumerate(listed)))

    def of(self, actor: str) -> Edits:
        """Those that speak of an actor."""
        return Edits(tuple(e for e in self.each if actor in (e.what if e.kind == "swap" else (e.actor or actor,))))

    def partner(self, actor: str, first: int, count: int) -> list[tuple[str, slice]]:
        """With whom an actor is exchanged, and in which of `count` frames from number `first`."""
        swaps = [(e, e.holds(first, count)) for e in self.each if e.kind == "swap" and actor in e.what]
        return [(e.what[1] if e.what[0] == actor else e.what[0], f) for e, f in swaps if f.start < f.stop]

    def seen(
        self,
        cameras: Sequence[str],
        keypoints: Sequence[str],
        first: int,
        pixels: Float[Tensor, "C T K 2"],
        sigma: Float[Tensor, "C T K"],
        points: Float[Tensor, "T K 3"],
    ) -> tuple[Float[Tensor, "C T K 2"], Float[Tensor, "C T K"], Float[Tensor, "T K 3"]]:
        """One actor's observations as edited; a 3D point that rested on what was edited is no longer known."""
        pixels, sigma, points = pixels.clone(), sigma.clone(), points.clone()
        for e in self.each:
            f = e.holds(first, len(points))
            if f.start >= f.stop:
                continue
            k = keypoints.index(e.what) if e.kind in ("ignore", "point") else slice(None)
            if e.kind in ("drop", "ignore"):
                named = e.what if e.kind == "drop" else e.camera
                c = slice(None) if named is None else cameras.index(str(named))
                pixels[c, f, k], sigma[c, f, k] = torch.nan, torch.inf
            elif e.kind == "point":
                c = cameras.index(str(e.camera))
                pixels[c, f, k], sigma[c, f, k] = torch.tensor(e.at, dtype=pixels.dtype), SIGMA
            if e.kind in ("ignore", "point"):
                points[f, k] = torch.nan
        return pixels, sigma, points

    def standing(self, first: int, count: int) -> Float[Tensor, "T 8"]:
        """What was said of heels, toes and hands: 1 planted, 0 free, NaN nothing."""
        said = torch.full((count, 8), torch.nan)
        for e in self.each:
            if e.kind == "contact":
                said[e.holds(first, count), list(CONTACTS[str(e.what)])] = float(e.planted)
        return said

    def orders(self, first: int, count: int) -> list[tuple[str, str, str, slice]]:
        """Camera, what is nearer in its view, than what, and in which of `count` frames from number `first`."""
        said = [(e, e.holds(first, count)) for e in self.each if e.kind == "nearer"]
        return [(str(e.camera), str(e.what), str(e.than), f) for e, f in said if f.start < f.stop]


def changed(before: Edits, after: Edits, first: int, count: int) -> list[tuple[int, int]]:
    """Stretches of frames (of `count`, the first being number `first`) on which two lists of edits differ, joined where they touch."""
    odd = [e for e in before.each if e not in after.each] + [e for e in after.each if e not in before.each]
    held = [(e, f) for e in odd if (f := e.holds(first, count)).start < f.stop]
    spans = sorted((max(0, f.start - FOLLOW.get(e.kind, 0)), min(count, f.stop + FOLLOW.get(e.kind, 0))) for e, f in held)
    joined: list[tuple[int, int]] = []
    for a, z in spans:
        if joined and a <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(z, joined[-1][1]))
        else:
            joined.append((a, z))
    return joined


def plain(edits: Edits) -> list[dict[str, Any]]:
    """The edits as JSON values, to remember which a result was made with."""
    return [{**e.__dict__, "frames": [None if math.isinf(x) else int(x) for x in e.frames]} for e in edits.each]


def remembered(values: list[dict[str, Any]]) -> Edits:
    """What `plain` wrote."""
    paired: list[dict[str, Any]] = [{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()} for entry in values]
    made = [Edit(**entry) for entry in paired]
    ends = (-math.inf, math.inf)
    return Edits(tuple(replace(e, frames=tuple(end if x is None else x for x, end in zip(e.frames, ends))) for e in made))


def _edit(where: str, entry: Any, known: dict[str, Sequence[str]], cameras: Sequence[str], actors: Sequence[str]) -> Edit:
    kinds = [k for k in KINDS if isinstance(entry, dict) and k in entry]
    if len(kinds) != 1:
        raise ValueError(f"{where}: needs exactly one of {', '.join(KINDS)}, for example `{{drop: cam03, frames: [120, 180]}}`")
    [kind] = kinds
    if wrong := [k for k in entry if k not in (kind, *KINDS[kind])]:
        raise ValueError(f"{where}: unknown key {wrong[0]!r}; beside `{kind}` there are {', '.join(KINDS[kind])}")
    if missing := [k for k in NEEDED.get(kind, ()) if k not in entry]:
        raise ValueError(f"{where}: `{kind}` needs `{missing[0]}:` too")
    what = tuple(entry[kind]) if kind == "swap" and isinstance(entry[kind], list) else entry[kind]
    for name, among, field in (
        *((n, known[kind], kind) for n in (what if isinstance(what, tuple) else (what,))),
        *(((entry["camera"], cameras, "camera"),) if "camera" in entry else ()),
        *(((entry["actor"], actors, "actor"),) if "actor" in entry else ()),
        *(((entry["than"], known[kind], "than"),) if "than" in entry else ()),
    ):
        if name not in among:
            raise ValueError(f"{where}: `{field}: {name}` is none of {', '.join(among)}")
    if kind == "swap" and not (isinstance(what, tuple) and len(what) == 2 and what[0] != what[1]):
        raise ValueError(f"{where}: `swap` needs two different actors, for example [ann, bob]")
    if kind == "nearer" and what == entry["than"]:
        raise ValueError(f"{where}: `nearer: {what}` than itself; name two keypoints")
    frames, at, planted = _frames(where, kind, entry), _at(where, entry), bool(entry.get("planted"))
    return Edit(kind, what, frames, entry.get("actor"), entry.get("camera"), at, planted, entry.get("than"))


def _frames(where: str, kind: str, entry: dict[str, Any]) -> tuple[float, float]:
    if "frame" in entry:
        frame = entry["frame"]
        if type(frame) is not int or frame < 0:
            raise ValueError(f"{where}: `frame: {frame}` is not a frame's number")
        return frame, frame + 1
    frames = entry.get("frames")
    if frames is None:
        return -math.inf, math.inf
    if not (isinstance(frames, list) and len(frames) == 2 and all(type(x) is int for x in frames) and 0 <= frames[0] < frames[1]):
        raise ValueError(f"{where}: `frames: {frames}` is not [first, last + 1]")
    return frames[0], frames[1]


def _at(where: str, entry: dict[str, Any]) -> tuple[float, float] | None:
    at = entry.get("at")
    if at is None:
        return None
    if not (isinstance(at, list) and len(at) == 2 and all(type(x) in (int, float) and math.isfinite(x) for x in at)):
        raise ValueError(f"{where}: `at: {at}` is not [x, y] in pixels")
    return float(at[0]), float(at[1])
