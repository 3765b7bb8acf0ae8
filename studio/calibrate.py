"""`studio calibrate --from-people`: a camera rig from a take of a person walking, and a known rig checked and refined by one."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from rich import print as say
from rich.markup import escape
from torch import Tensor

from calibration.cameras import Cameras, adapt_to_video, joined
from calibration.formats import read_cameras
from calibration.gates import Gate, passed, place_for, save_gates, told_refused
from calibration.lens_library import Library
from calibration.people import PeopleConfig, PeopleFit, PeopleViews, calibrate_people
from calibration.people_gates import judge_people, judge_world
from calibration.people_prior import of_one_kind
from calibration.people_world import World, lengths_of, levelled, scaled
from rigs.catalogue import open_body
from rigs.keypoints import BONES, COCO_17, FEET, LEFT_HAND, RIGHT_HAND, mirrored
from rigs.landmarks import landmark_skin
from rigs.makehuman_assets import cache_folder
from studio.calibrate_sides import habit_of
from studio.calibration_report import account_of_people, write_report
from studio.freshness import fingerprint, write_text
from studio.pairing import video_files
from studio.take import Take
from studio.values import Keypoints2D
from studio.video import probe
from studio.world_points import Marks, named, settled
from studio.world_points import World as WorldByPoints

BODY_LANDMARKS = (*COCO_17, *FEET)
LANDMARKS = (*BODY_LANDMARKS, *(n for n in LEFT_HAND + RIGHT_HAND if n[-1] in "t14"))
"""Points that a rig is found from: body, feet, and of the hands, which networks see sharpest, the root and both ends of each finger."""
SPINE = tuple((f"{s}_{a}", f"{s}_{b}") for s in ("left", "right") for a, b in (("ankle", "knee"), ("knee", "hip"), ("hip", "shoulder")))
"""Pairs (lower, upper) that lie above each other in a standing person; with a stature their lengths give the scale."""
STATURE_SPREAD = 0.02
"""How much a person's legs and trunk differ from the average body's of the same stature (standard deviation, as a share)."""


@dataclass(frozen=True)
class Filmed:
    """Footage of a person, seen by networks."""

    folder: Path
    videos: dict[str, Path]
    keypoints: Keypoints2D
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the footage, in words."""
        own = self.folder if (self.folder / "take.yaml").is_file() else next(iter(self.videos.values())).parent
        return own.resolve().name

    @property
    def size(self) -> Float[Tensor, "C 2"]:
        """Of the videos, px."""
        infos = [probe(self.videos[c]) for c in self.keypoints.cameras]
        return torch.tensor([[i.width, i.height] for i in infos], dtype=torch.float64)

    @property
    def landmarks(self) -> tuple[str, ...]:
        """Those of `LANDMARKS` that any camera ever saw."""
        seen = torch.isfinite(self.keypoints.pixels[..., 0]).flatten(0, 2).any(0)
        return tuple(n for n in LANDMARKS if n in self.keypoints.keypoints and bool(seen[self.keypoints.keypoints.index(n)]))

    @property
    def views(self) -> PeopleViews:
        """The landmarks that a rig is found from; where several people are seen, the largest."""
        kept = self.landmarks
        index = [self.keypoints.keypoints.index(n) for n in kept]
        k = self.keypoints
        if k.skeleton is None:
            raise ValueError(
                f"{self.folder / 'keypoints2d'}: the network {k.network!r} gives no 3D guess of a person, from which the cameras' "
                "rotations come; detect with mediapipe: `studio detect TAKE --detector mediapipe`"
            )
        which = _largest(k.pixels)
        pixels, sigma, skeleton = (_of(v, which)[:, :, index] for v in (k.pixels, k.sigma, k.skeleton))
        skeleton[:, :, [i for i, n in enumerate(kept) if n not in BODY_LANDMARKS]] = torch.nan  # a hand's own axes are not the body's
        bones = tuple((kept.index(a), kept.index(b)) for a, b in BONES if a in kept and b in kept)
        habit = habit_of(kept, k.network)
        return PeopleViews(k.cameras, self.size, k.fps, pixels, sigma, skeleton, mirrored(kept), bones, habit)


def _largest(pixels: Float[Tensor, "C T D K 2"]) -> Tensor:
    """The detection that spans most of each image."""
    low = pixels.nan_to_num(torch.inf).amin(3)
    high = pixels.nan_to_num(-torch.inf).amax(3)
    return (high - low).clamp_min(0).prod(-1).argmax(2)


def _of(values: Tensor, which: Tensor) -> Tensor:
    index = which.view(*which.shape, *(1,) * (values.ndim - 2)).expand(-1, -1, 1, *values.shape[3:])
    return values.gather(2, index)[:, :, 0].clone()


def filmed(places: Sequence[Path], known: Cameras | None = None) -> Filmed:
    """The keypoints of a take's folder, or of videos: where there are none they are detected, those of videos into the cache (see
    `detections`). A `ValueError` names a camera of the footage that `known` cameras lack, before anything is detected.
    """
    if taken := len(places) == 1 and (places[0] / "take.yaml").is_file():
        folder, videos = places[0], _videos_of(places[0])
    else:
        videos = {p.stem: p for p in video_files(places)}
        folder = detections(videos)
    if len(videos) < 2:
        raise ValueError(f"{places[0]}: {len(videos)} video; a rig needs at least two cameras, one video each")
    torch.set_num_threads(1)  # the matrices are small: more threads only wait for each other
    names = tuple(sorted(videos))
    _refuse_missing(places[0], names, known)
    given = taken and all((folder / "keypoints2d" / f"{c}.safetensors").is_file() for c in names)
    if not given:  # what is fresh of an earlier run is not detected again
        from studio.detect import DetectConfig, detect

        take = Take(folder, {c: videos[c] for c in names}, folder / "cameras.yaml")
        take = replace(take, frames=take.span)
        detect(take, DetectConfig(masks=False, guided=False))
    keypoints = Keypoints2D.read(folder / "keypoints2d", names)
    odd = ()
    if keypoints.pixels.shape[2] > 1 and bool((torch.isfinite(keypoints.pixels[..., 0]).any(-1).sum(2) > 1).any()):
        odd = ("Several people are in view; the largest in each image is used. Film one person alone for a calibration.",)
    return Filmed(folder, videos, keypoints, odd)


def detections(videos: Mapping[str, Path]) -> Path:
    """The folder for what is detected in videos: one for the same clips wherever the result goes, in the cache, beside no one's data."""
    digest = blake2b(digest_size=8)
    for name in sorted(videos):
        digest.update(f"{name} {fingerprint(videos[name])}\n".encode())
    return cache_folder() / "people" / digest.hexdigest()


def _refuse_missing(footage: Path, names: Sequence[str], known: Cameras | None) -> None:
    if known is not None and (missing := [c for c in names if c not in known.names]):
        raise ValueError(f"{footage}: no camera {missing[0]!r} in the camera file, which has {list(known.names)}")


def _videos_of(folder: Path) -> dict[str, Path]:
    """The videos of a take that need not have a calibration yet."""
    file = folder / "take.yaml"
    listed = (yaml.safe_load(file.read_text()) or {}).get("videos", ["videos"])
    if isinstance(listed, dict):
        return {str(c): folder / v for c, v in listed.items()}
    return {p.stem: p for p in video_files([folder / v for v in listed])}


def fitted(cameras: Cameras, film: Filmed) -> Cameras:
    """Known cameras in the keypoints' order, adapted to the videos."""
    _refuse_missing(film.folder, film.keypoints.cameras, cameras)
    sizes = film.size.long().tolist()
    return joined([adapt_to_video(cameras[c], *size) for c, size in zip(film.keypoints.cameras, sizes)])


def stature_lengths(
    names: Sequence[str], network: str, height: float, body: str = "makehuman"
) -> tuple[list[tuple[int, int]], Float[Tensor, "N"]]:
    """Pairs of landmarks along legs and trunk, and their distances in the average body of this height, m."""
    open_ = open_body(body)
    stature = float(open_.skin.rest[:, 2].max() - open_.skin.rest[:, 2].min())
    place = landmark_skin(open_, list(names), network)[0].rest.double()
    pairs = [(list(names).index(a), list(names).index(b)) for a, b in SPINE]
    return pairs, lengths_of(place[None], pairs) * height / stature


def calibrate_from_people(
    places: Sequence[Path],
    out: Path,
    height: float | None = None,
    lenses: Path | None = None,
    same_lens: bool = False,
    config: PeopleConfig | None = None,
    accept: bool = False,
    place: WorldByPoints | None = None,
    library: Library | None = None,
) -> Path:
    """Writes `cameras.yaml` of the rig that filmed a person, in metres, z up, floor at 0, its gates, its report, and `<out>.json`.

    `height` is the person's (m); without it the scale is the network's guess. `lenses` names a camera file whose lenses are known;
    else focal lengths are found too, less exactly, best where all are the `same_lens`. A `ValueError` says why
    footage cannot give a rig, and what to film. `place` says in points where the world is instead. `library` holds the lenses
    of cameras of these models. The file written: not `out` where a gate fails and `out` holds a calibration (see `place_for`).
    """
    begun = time.monotonic()
    if height is not None and not 0.5 < height < 2.5:
        raise ValueError(f"--height {height:g}: a person's height in metres, between 0.5 and 2.5")
    read = read_cameras(lenses) if lenses else None
    film = filmed(places, read)
    views = film.views
    config = config or PeopleConfig()
    if same_lens:
        config = of_one_kind(config)
    known = fitted(read, film) if read is not None else None
    if known is None and library is not None:
        known = library.cameras({c: (int(w), int(h)) for c, (w, h) in zip(views.cameras, views.size.tolist())})
    world = in_world(film, calibrate_people(views, known, config), height)
    gates = (*judge_people(world.fit, film.size, views.fps), *judge_world(world, height, seen_stature(film)))
    marks: Marks = {}
    if place:
        told = settled(world.fit.cameras, place, metric=False)
        world = replace(world, fit=world.fit.moved(told.move.R, told.move.t, told.move.scale))
        gates, marks = named(gates, told.gates), told.places
    notes = _notes(film, world, height, gates)
    out = write_people_rig(film, out, world.fit, gates, accept, "" if height is None else f" {height:.2f} m tall", marks)
    write_text(out.with_suffix(".json"), json.dumps(notes, indent=1))
    _summary(out, world, notes, time.monotonic() - begun)
    return out


def write_people_rig(
    film: Filmed, out: Path, fit: PeopleFit, gates: Sequence[Gate], accept: bool, tall: str = "", marks: dict | None = None
) -> Path:
    """Write the cameras, their gates and the report; the file of the cameras (see `place_for`)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    asked, out = out, place_for(out, gates, accept)
    fit.cameras.save(out)
    accepted = accept and not passed(gates)
    save_gates(out, gates, accepted=accepted)
    account = account_of_people(fit, gates, {"Network": film.keypoints.network}, feet_among(film.landmarks), f"{film.name}: a person{tall}")
    write_report(out, replace(account, accepted=accepted, marks=marks or {}))
    if words := told_refused(asked, out):
        say(f"[bold red]calibrate: {escape(words)}[/]")
    return out


def seen_stature(film: Filmed) -> float:
    """How tall the network takes the person for, m."""
    own = film.views.skeleton.double().flatten(0, 1)
    pairs, unit = stature_lengths(film.landmarks, film.keypoints.network, 1.0)
    return float((lengths_of(own, pairs) / unit).median())


def feet_among(names: Sequence[str]) -> list[int]:
    """Points that touch the floor; ankles where toes and heels are not seen."""
    feet = [i for i, n in enumerate(names) if n in FEET or n.endswith("ankle")]
    return [i for i in feet if "toe" in names[i] or "heel" in names[i]] or feet


def in_world(film: Filmed, fit: PeopleFit, height: float | None) -> World:
    """The rig in metres by the person's height, level, on the floor."""
    names = film.landmarks
    if lost := sorted({n for pair in SPINE for n in pair} - set(names)):
        raise ValueError(f"{film.folder}: {lost[0].replace('_', ' ')} is never seen; film the whole person, from head to feet")
    if height is not None:
        fit = scaled(fit, *stature_lengths(names, film.keypoints.network, height))
    else:
        own = film.views.skeleton.double().flatten(0, 1)
        pairs = [(names.index(a), names.index(b)) for a, b in SPINE]
        fit = scaled(fit, pairs, lengths_of(own, pairs))
    return levelled(fit, feet_among(names), [(names.index(a), names.index(b)) for a, b in SPINE])


def _notes(film: Filmed, world: World, height: float | None, gates: Sequence[Gate]) -> dict[str, Any]:
    fit = world.fit
    sigma = fit.covariance.diagonal(dim1=1, dim2=2).clamp_min(0)
    cameras = {
        c: {
            "residual_px": float(fit.residual[i].nanmedian()),
            "position_sigma_mm": 1000 * float(sigma[i, 3:].sum().sqrt()),
            "turn_sigma_deg": math.degrees(float(sigma[i, :3].sum().sqrt())),
            "focal_px": float(fit.cameras.focal[i, 0]),
            "focal_sigma_share": float(fit.focal_sigma[i]),
            "delay_frames": float(fit.delay[i]),
            "delay_sigma_frames": float(fit.delay_sigma[i]),
            "left_right_exchanged_share": float(fit.exchanged[i].double().mean()),
        }
        for i, c in enumerate(fit.cameras.names)
    }
    warnings = [*film.warnings, *(f"{g.sentence} {g.remedy}" for g in gates if g.verdict != "pass")]
    if fit.alike:
        warnings.append("The lenses were taken to be of one kind, for the footage does not show them to differ; if they do, give --lenses.")
    return {
        "warnings": warnings,
        "residual_px": fit.rms,
        "lenses_alike": fit.alike,
        "scale": "height" if height is not None else "network",
        "scale_sigma_share": STATURE_SPREAD if height is not None else 0.1,
        "floor_rms_mm": 1000 * world.floor_rms,
        "floor_from": "feet" if world.from_floor else "body axis",
        "cameras": cameras,
    }


def _summary(out: Path, world: World, notes: dict[str, Any], seconds: float) -> None:
    worst = max(v["position_sigma_mm"] for v in notes["cameras"].values())
    say(
        f"calibrate: {len(world.fit.cameras)} cameras from {len(world.fit.frames)} frames of a person, "
        f"residual {notes['residual_px']:.1f} px, positions to {worst:.0f} mm, {seconds:.0f} s -> {out}"
    )
    for sentence in notes["warnings"]:
        say(f"[yellow]{escape(sentence)}[/]")
