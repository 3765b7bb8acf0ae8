"""The take report: one HTML file that opens offline and says how far a take can be trusted, and `report.json` with its numbers."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from studio.freshness import plain, write_text
from studio.review import overlays
from studio.review.findings import Finding, Thresholds, findings, verdict
from studio.review.material import Material, gathered
from studio.review.measures import Measured, measured
from studio.review.page import Thumbnail, page
from studio.review.scene import playback

if TYPE_CHECKING:
    from studio.take import Take

console = Console(highlight=False)


@dataclass(frozen=True)
class ReportConfig:
    """What the report shows and when it warns."""

    thumbnails: int = 9
    """Overlay pictures a camera."""
    thumbnail_px: int = 720
    """Longest side of an overlay picture; smaller where there are many, so that the file stays below about 12 MB."""
    playback: bool = True
    """Whether to put the 3D playback in."""
    playback_frames: int = 600
    """Most frames of the playback; a longer take is thinned out."""
    playback_fps: float = 30.0
    limits: Thresholds = field(default_factory=Thresholds)


def report(take: Take, config: ReportConfig | None = None) -> Path:
    """Write `report.html` and `report.json` into the take's folder; the path of the page. Works with whatever artefacts there are."""
    config = config or ReportConfig()
    material = gathered(take)
    actors = [measured(material, actor) for actor in material.actors]
    found = findings(material, actors, config.limits)
    summary = _summary(material, actors, found, config)
    film = (
        playback(material, config.playback_frames, config.playback_fps) if config.playback and material.actors and material.count else None
    )
    path = write_text(take.folder / "report.html", page(material, actors, summary, found, film, _thumbnails(material, config)))
    write_text(take.folder / "report.json", json.dumps(summary, indent=1, default=plain, allow_nan=False))
    errors = [a.numbers["reprojection"]["px"]["median"] for a in actors]
    middle = ", ".join(f"{e:.1f} px" for e in errors if e is not None) or "nothing measured"
    counts = ", ".join(f"{n} {s}" for s in ("stop", "look", "note") if (n := sum(f.severity == s for f in found)))
    size = path.stat().st_size / 1e6
    console.print(
        f"report: {summary['verdict']['text']}; reprojection {middle} median; findings: {counts or 'none'}; {size:.1f} MB", soft_wrap=True
    )
    return path


def _summary(material: Material, actors: list[Measured], found: list[Finding], config: ReportConfig) -> dict[str, Any]:
    """Everything `report.json` holds."""
    take = material.take
    level, words = verdict(found)
    return {
        "schema": 1,
        "take": take.folder.resolve().name,
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "frames": material.count,
        "first_frame": material.first,
        "fps": round(float(material.fps), 6),
        "timecode": take.timecode,
        "cameras": list(material.cameras.names),
        "actors": list(material.actors),
        "body": material.body.name if material.body else take.body,
        "networks": sorted({d.facts.network for d in material.detections.values()}),
        "verdict": {"level": level, "text": words},
        "findings": [asdict(f) for f in found],
        "measures": {a.actor: a.numbers for a in actors},
        "notes": {stage: note for stage, note in take.notes().items() if stage != "report"},
        "limits": asdict(config.limits),
        "videos": {c: str(v) for c, v in take.videos.items()},
        "cameras_file": str(take.cameras_file),
        "versions": {
            "Python": platform.python_version(),
            **{name: _version(name) for name in ("mocap-studio", "torch", "numpy", "opencv-contrib-python", "mediapipe", "viser")},
        },
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _thumbnails(material: Material, config: ReportConfig) -> list[Thumbnail]:
    """Overlay pictures, evenly over the take; one video frame in memory at a time."""
    from studio.review import figures

    if not material.count or not material.cameras.names:
        return []
    amount = min(config.thumbnails, material.count)
    frames = [material.first + (2 * i + 1) * material.count // (2 * amount) for i in range(amount)]
    # About 0.13 bytes a pixel: forty pictures of 720 px are 2 MB.
    longest = min(config.thumbnail_px, max(240, int(config.thumbnail_px * (60 / max(amount * len(material.cameras), 1)) ** 0.5)))
    shots = []
    for camera in track(material.cameras.names, "report: overlays", console=console, transient=True):
        window = overlays.Window.around(material, camera, frames)
        for frame in frames:
            try:
                image = overlays.picture(material.take, frame, camera)
            except ValueError:  # the detect stage has said that this video ends early
                continue
            image = window.cut(overlays.drawn(material, frame, camera, image), frame, longest)
            shots.append(Thumbnail(camera, frame, figures.picture(image)))
    return shots


__all__ = ["ReportConfig", "Thresholds", "report"]
