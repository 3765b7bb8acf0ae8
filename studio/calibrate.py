"""`studio calibrate --from-people`: a camera rig from a take of a person walking, and a known rig checked and refined by one."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from rich import print as say
from torch import Tensor

from calibration.cameras import Cameras, adapt_to_video, joined
from calibration.formats import read_cameras
from calibration.people import PeopleConfig, PeopleFit, PeopleViews, calibrate_people
from calibration.people_watch import refine_people, watch
from calibration.people_world import World, lengths_of, levelled, scaled
from rigs.catalogue import open_body
from rigs.keypoints import BONES, COCO_17, FEET, LEFT_HAND, RIGHT_HAND, mirrored
from rigs.landmarks import landmark_skin
from studio.freshness import write_text
from studio.pairing import video_files
from studio.take import Take
from studio.values import Keypoints2D
from studio.video import probe

BODY_LANDMARKS = (*COCO_17, *FEET)
LANDMARKS = (*BODY_LANDMARKS, *(n for n in LEFT_HAND + RIGHT_HAND if n[-1] in "t14"))
"""Points that a rig is found from: body, feet, and of the hands, which networks see sharpest, the root and both ends of each finger."""
SPINE = tuple((f"{s}_{a}", f"{s}_{b}") for s in ("left", "right") for a, b in (("ankle", "knee"), ("knee", "hip"), ("hip", "shoulder")))
"""Pairs (lower, upper) that lie above each other in a standing person; with a stature their lengths give the scale."""
STATURE_SPREAD = 0.02
"""How much a person's legs and trunk differ from the average body's of the same stature (standard deviation, as a share)."""

SAME = 0.004
"""How much lenses of one model at one zoom differ, as a share of the focal length."""


@dataclass(frozen=True)
class Filmed:
    """Footage of a person, seen by networks."""

    folder: Path
    videos: dict[str, Path]
    keypoints: Keypoints2D
    warnings: tuple[str, ...]

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
        return PeopleViews(k.cameras, self.size, k.fps, pixels, sigma, skeleton, mirrored(kept), bones)


def _largest(pixels: Float[Tensor, "C T D K 2"]) -> Tensor:
    """The detection that spans most of each image."""
    low = pixels.nan_to_num(torch.inf).amin(3)
    high = pixels.nan_to_num(-torch.inf).amax(3)
    return (high - low).clamp_min(0).prod(-1).argmax(2)


def _of(values: Tensor, which: Tensor) -> Tensor:
    index = which.view(*which.shape, *(1,) * (values.ndim - 2)).expand(-1, -1, 1, *values.shape[3:])
    return values.gather(2, index)[:, :, 0].clone()


def filmed(places: Sequence[Path], out: Path) -> Filmed:
    """The keypoints of a take's folder, or of videos: detected into `<out>_people/` beside the result where there are none."""
    if len(places) == 1 and (places[0] / "take.yaml").is_file():
        folder, videos = places[0], _videos_of(places[0])
    else:
        folder = out.with_name(out.stem + "_people")
        videos = {p.stem: p for p in video_files(places)}
    if len(videos) < 2:
        raise ValueError(f"{folder}: {len(videos)} video; a rig needs at least two cameras, one video each")
    torch.set_num_threads(1)  # the matrices are small: more threads only wait for each other
    names = tuple(sorted(videos))
    given = (folder / "take.yaml").is_file() and all((folder / "keypoints2d" / f"{c}.safetensors").is_file() for c in names)
    if not given:  # what is fresh of an earlier run is not detected again
        from studio.detect import DetectConfig, detect

        take = Take(folder, {c: videos[c] for c in names}, out)
        take = replace(take, frames=take.span)
        detect(take, DetectConfig(masks=False))
    keypoints = Keypoints2D.read(folder / "keypoints2d", names)
    odd = ()
    if keypoints.pixels.shape[2] > 1 and bool((torch.isfinite(keypoints.pixels[..., 0]).any(-1).sum(2) > 1).any()):
        odd = ("Several people are in view; the largest in each image is used. Film one person alone for a calibration.",)
    return Filmed(folder, videos, keypoints, odd)


def _videos_of(folder: Path) -> dict[str, Path]:
    """The videos of a take that need not have a calibration yet."""
    file = folder / "take.yaml"
    listed = (yaml.safe_load(file.read_text()) or {}).get("videos", ["videos"])
    if isinstance(listed, dict):
        return {str(c): folder / v for c, v in listed.items()}
    return {p.stem: p for p in video_files([folder / v for v in listed])}


def _fitted(cameras: Cameras, film: Filmed) -> Cameras:
    """Known cameras in the keypoints' order, adapted to the videos."""
    if missing := [c for c in film.keypoints.cameras if c not in cameras.names]:
        raise ValueError(f"{film.folder}: no camera {missing[0]!r} in the camera file, which has {list(cameras.names)}")
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
) -> Path:
    """Writes `cameras.yaml` of the rig that filmed a person, in metres, z up, floor at 0, and `<out>.json` with how far it holds.

    `height` is the person's (m); without it the scale is the network's guess. `lenses` names a camera file whose lenses are known;
    else focal lengths are found too, less exactly, best where all are the `same_lens`. A `ValueError` says why footage cannot give
    a rig, and what to film.
    """
    begun = time.monotonic()
    if height is not None and not 0.5 < height < 2.5:
        raise ValueError(f"--height {height:g}: a person's height in metres, between 0.5 and 2.5")
    film = filmed(places, out)
    views = film.views
    config = config or PeopleConfig()
    if same_lens:
        config = replace(config, focal_spread=SAME, distortion_spread=SAME)
    known = _fitted(read_cameras(lenses), film) if lenses else None
    world = in_world(film, calibrate_people(views, known, config), height)
    notes = _notes(film, world, height)
    out.parent.mkdir(parents=True, exist_ok=True)
    world.fit.cameras.save(out)
    write_text(out.with_suffix(".json"), json.dumps(notes, indent=1))
    _summary(out, world, notes, time.monotonic() - begun)
    return out


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
    feet = [i for i, n in enumerate(names) if n in FEET or n.endswith("ankle")]
    touching = [i for i in feet if "toe" in names[i] or "heel" in names[i]]
    return levelled(fit, touching or feet, [(names.index(a), names.index(b)) for a, b in SPINE])


def _notes(film: Filmed, world: World, height: float | None) -> dict[str, Any]:
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
    warnings = list(film.warnings)
    if height is None:
        warnings.append("The scale is the network's guess, good to about 10 %; give the person's height with --height.")
    if not world.from_floor:
        warnings.append("The person stood in too few places to tell the floor's tilt; up is their mean axis. Walk through the volume.")
    if vague := [c for c, v in cameras.items() if v["focal_sigma_share"] > 0.03]:
        worst = 100 * max(cameras[c]["focal_sigma_share"] for c in vague)
        warnings.append(
            f"The focal lengths of {', '.join(vague)} are known only to {worst:.0f} %, which moves the cameras: calibrate the lenses and "
            "give --lenses, or say --same-lens if they are alike."
        )
    if late := [c for c, v in cameras.items() if abs(v["delay_frames"]) > max(0.5, 2 * v["delay_sigma_frames"])]:
        told = ", ".join(f"{c} by {cameras[c]['delay_frames']:.1f} frames" for c in late)
        warnings.append(f"Cameras are out of step with {fit.cameras.names[0]}: {told}.")
    return {
        "warnings": warnings,
        "residual_px": fit.rms,
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
        say(f"[yellow]{sentence}[/]")


def check_with_people(places: Sequence[Path], cameras_file: Path) -> int:
    """Prints whether the cameras stand as their file says, told by the person in a take; 0, or 3 with an alarm."""
    film = filmed(places, cameras_file)
    result = watch(film.views, _fitted(read_cameras(cameras_file), film))
    say(f"calibrate: {len(film.keypoints.cameras)} cameras disagree by {result.disagreement:.1f} px about a person (median)")
    for sentence in result.alarms:
        say(f"[bold red]{sentence}[/]")
    if not result.alarms:
        say("calibrate: no camera was bumped and none are exchanged")
    return 3 if result.alarms else 0


def refine_from_people(
    places: Sequence[Path], cameras_file: Path, out: Path, turn: float = math.radians(0.5), position: float = 0.02
) -> Path:
    """Writes the cameras of `cameras_file` after each has moved as far as a take of a person asks, held by `turn` (rad) and `position` (m).

    A `ValueError` tells of exchanged cameras.
    """
    begun = time.monotonic()
    film = filmed(places, out)
    known = _fitted(read_cameras(cameras_file), film)
    covariance = torch.diag(torch.tensor([turn**2] * 3 + [position**2] * 3, dtype=torch.float64)).expand(len(known), 6, 6)
    fit = refine_people(film.views, known, covariance)
    out.parent.mkdir(parents=True, exist_ok=True)
    fit.cameras.save(out)
    moved = 1000 * (fit.cameras.position - known.position).norm(dim=-1)
    told = ", ".join(f"{c} {m:.0f} mm" for c, m in zip(known.names, moved.tolist()))
    say(f"calibrate: refined by {len(fit.frames)} frames of a person: {told}; {time.monotonic() - begun:.0f} s -> {out}")
    return out
