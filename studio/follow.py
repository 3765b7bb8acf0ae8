"""A take's stored detections solved as if they came now, frame by frame: what a live studio would send.

Who is who, and which side is left, is what the stage `track` decided, and cameras' clocks what `sync` did, both from the whole take;
points are triangulated, views judged and bodies solved from each frame and those before it alone. What others stand before is left out
of takes only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from calibration.cameras import Cameras
from rigs.catalogue import open_body
from rigs.rotation import log
from studio.clock import footage
from studio.fit.causal import Causal, CausalConfig, Solved
from studio.fit.observed import Observed
from studio.fit.profile import known_shape
from studio.take import Take
from studio.track import TrackConfig, locate
from studio.values import Keypoints2D, Motion, Tracks3D

BLOCK = 64
"""Frames read from disk at once."""


def sighting(
    cameras: Cameras, keypoints: Keypoints2D, tracks: Tracks3D, actor: int, place: Float[Tensor, "3"], config: TrackConfig | None = None
) -> Observed:
    """What one frame of detections tells of an actor: sides put back, triangulated, views that disagree left out.

    `tracks` says which detection is whose; all else in it is found anew. `place` is where the actor was last, m; NaN where unknown.
    """
    config = config or TrackConfig()
    blank = replace(
        tracks,
        points=torch.full_like(tracks.points, torch.nan),
        covariance=torch.full_like(tracks.covariance, torch.nan),
        trusted=torch.zeros_like(tracks.trusted),
        detection=tracks.detection.clone(),
    )
    depth = cameras.to_camera(place.double()[None])[..., 2].clamp_min(0.3).nan_to_num(3.0)
    locate(cameras, keypoints, blank, actor, depth, config)
    pixels, sigma = blank.observations(keypoints, actor)
    return Observed(cameras, keypoints.keypoints, keypoints.network, keypoints.fps, pixels, sigma, blank.points[:, actor])


def sightings(take: Take, actor: int) -> Iterator[Observed]:
    """Every frame of a take as it tells of an actor, in order; only a block of them is in memory."""
    cameras = take.cameras()
    seen, frames = footage(take, cameras.names), Tracks3D.count(take.tracks_file)
    place = torch.full((3,), torch.nan)
    for start in range(0, frames, BLOCK):
        block = slice(start, min(start + BLOCK, frames))
        keypoints, tracks = seen.cut(block), Tracks3D.load(take.tracks_file, block)
        for t in range(block.stop - block.start):
            one = sighting(cameras, keypoints.cut(slice(t, t + 1)), tracks.cut(slice(t, t + 1)), actor, place)
            there = one.points[0][torch.isfinite(one.points[0]).all(-1)]
            place = there.median(0).values if len(there) else place
            yield one


@dataclass
class Pace:
    """How long solving took."""

    lag: int
    fps: float
    frames: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    learning: float = 0.0
    """Of that which shapes nobody knew took, once, with the frames kept until then, s."""

    def add(self, seconds: float) -> None:
        """One frame more."""
        self.frames, self.seconds, self.longest = self.frames + 1, self.seconds + seconds, max(self.longest, seconds)

    def said(self) -> str:
        """In words: latency, and the rate that could be reached."""
        learned = f"; {self.learning:.1f} s for the shape (`studio actor` keeps it)" if self.learning else ""
        if not self.frames:
            return f"causal: no frame was followed{learned}"
        each = self.seconds / self.frames
        return (
            f"causal: {self.frames} frames, latency {self.lag} frames ({1000 * self.lag / self.fps:.0f} ms) and {1000 * each:.0f} ms to "
            f"solve one (at most {1000 * self.longest:.0f}); could follow {1 / max(each, 1e-9):.0f} frames/s{learned}"
        )


def follow(take: Take, config: CausalConfig, pace: Pace, clock: Callable[[], float] = time.perf_counter) -> Iterator[list[Motion]]:
    """For each frame of a tracked take what is given out then: motions of one frame each, numbered by `first_frame`.

    After the last frame once more, with all that was still waiting. A `FileNotFoundError` or `ValueError` names what is missing.
    """
    head, body = tracked(take), open_body(take.body)
    solvers = [Causal(body, config, known_shape(take, actor, body)) for actor in head.actors]
    sources = [sightings(take, a) for a in range(len(head.actors))]
    frames = Tracks3D.count(take.tracks_file)
    for frame in range(frames + 1):
        out, begun, unknown = [], clock(), sum(one.shape is None for one in solvers)
        for a, one in enumerate(solvers):
            seen = next(sources[a], None)
            given = one.finish() if seen is None else one.push(seen)
            out += [_motion(take, head, a, one, x) for x in given]
        if sum(one.shape is None for one in solvers) < unknown:
            pace.learning += clock() - begun
        elif unknown < len(solvers) and frame < frames:
            pace.add(clock() - begun)
        yield out


def tracked(take: Take) -> Tracks3D:
    """The facts of a take's tracks; a `FileNotFoundError` says what makes them."""
    if not take.tracks_file.is_file():
        raise FileNotFoundError(f"{take.tracks_file}: no tracks yet; `studio run {take.folder}` makes them")
    return Tracks3D.load(take.tracks_file, slice(0, 1))


def _motion(take: Take, tracks: Tracks3D, actor: int, one: Causal, solved: Solved) -> Motion:
    """A frame given out as a motion of one frame; how uncertain it is is not known."""
    assert one.shape is not None
    s, body = solved.state, one.body
    unknown = torch.full((1, len(body.skeleton)), torch.nan)
    cpu = lambda x: x.detach().float().cpu()  # noqa: E731
    return Motion(
        body.name, tracks.actors[actor], body.skeleton.names, tracks.fps, tracks.first_frame + solved.frame, take.timecode,
        cpu(one.shape), cpu(s.root), cpu(log(s.R)), cpu(s.expression), unknown, cpu(solved.contacts)[None],
    )  # fmt: skip
