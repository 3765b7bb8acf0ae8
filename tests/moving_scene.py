"""Somebody who moves fast, known at every moment, and the keypoints that cameras with clocks of their own see of it."""

from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
import torch
from test_fit_solver import ring

from rigs import makehuman
from rigs.anatomy import anatomy
from rigs.keypoints import COCO_WHOLEBODY
from studio.fit.locked import LOCKED
from studio.take import Take
from studio.values import Keypoints2D

NAMES = ("c0", "c1", "c2", "c3")
WIDTH, HEIGHT = 160, 90


class Dancer:
    """Joints swing on sines of up to `pitch` turns a second inside a part of their ranges, so the exact pose at any moment is known."""

    def __init__(self, seed=1, pitch=1.6, part=0.22):
        self.person = makehuman.individual(seed)
        self.shaped = self.person.shaped(torch.zeros(0))
        self.anatomy = anatomy(self.person)
        g = torch.Generator().manual_seed(seed)
        self.phase = 6.28 * torch.rand(len(self.person.skeleton), 3, generator=g)
        self.pitch = pitch * (0.5 + 0.5 * torch.rand(len(self.person.skeleton), 3, generator=g))
        self.part = part

    def posed(self, times):
        t = times.float()[:, None, None]
        a = self.anatomy
        angle = a.mean + self.part * (a.high - a.low) * torch.sin(6.28 * self.pitch * t + self.phase)
        turn = (a.axes.mT @ angle[..., None])[..., 0]
        turn[:, 0] = 0.25 * torch.sin(5 * t[:, 0] + torch.arange(3))
        for joint in LOCKED:
            turn[:, self.person.skeleton.index(joint)] = 0
        root = torch.tensor([0.0, 0, 0.95]) + torch.tensor([0.25, 0.25, 0.08]) * torch.sin(5 * t[:, 0] + torch.arange(3))
        return self.shaped.posed(turn, root)

    def joints(self, times):
        """(n, J, 3) m."""
        return self.posed(times).joints

    def keypoints(self, times):
        """(n, K, 3) m."""
        return self.posed(times).points(self.person.keypoint_skin(COCO_WHOLEBODY))


@dataclass(frozen=True)
class Recording:
    """When one camera exposed its frames, on the room's clock."""

    start: float = 0.0
    rate: Fraction = Fraction(30)
    """Frames a second by the camera's own clock."""
    count: int = 60
    lost: tuple[int, ...] = ()
    """Frames that were dropped; the time stamps of the others stay."""
    drift: float = 0.0

    @property
    def numbers(self):
        return [n for n in range(self.count) if n not in self.lost]

    @property
    def times(self):
        own = torch.tensor(self.numbers, dtype=torch.float64) / float(self.rate)
        return self.start + own * (1 + self.drift)


def cameras_of(names=NAMES):
    """Four cameras around the dancer, of small images."""
    cameras = ring(len(names))
    shrink = WIDTH / float(cameras.size[0, 0])
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float64).repeat(len(names), 1)
    return replace(cameras, names=tuple(names), size=size, focal=cameras.focal * shrink, centre=size / 2 - 0.5)


def filmed(path, recording, light=lambda t: 0.0):
    """A video with these time stamps, as bright as `light` is over each frame's time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=recording.rate)
        stream.width, stream.height, stream.pix_fmt, stream.options = WIDTH, HEIGHT, "yuv420p", {"preset": "ultrafast"}
        stream.codec_context.time_base = 1 / recording.rate
        for n, t in zip(recording.numbers, recording.times.tolist()):
            level = np.mean([light(t + part / 40 / float(recording.rate)) for part in range(-20, 20)])
            frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), round(40 + 120 * level), np.uint8), format="rgb24")
            frame.pts, frame.time_base = n, 1 / recording.rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def taken(folder, dancer, recordings, noise=0.1, seed=0, light=lambda t: 0.0, **facts):
    """A take of these recordings with its videos and the keypoints that an exact network would give, `noise` px off."""
    cameras, g = cameras_of(NAMES[: len(recordings)]), torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    cameras.save(folder / "cameras.yaml")
    for name, recording in zip(cameras.names, recordings):
        filmed(folder / "videos" / f"{name}.mp4", recording, light)
        pixels = cameras[name].project(dancer.keypoints(recording.times).double())[0]
        pixels = (pixels + noise * torch.randn(pixels.shape, generator=g, dtype=torch.float64)).float()[None, :, None]
        flat = torch.ones_like(pixels[..., 0])
        seen = Keypoints2D((name,), COCO_WHOLEBODY, "exact", float(recording.rate), 0, pixels, noise * flat, flat)
        seen.save(folder / "take" / "keypoints2d" / f"{name}.safetensors")
    take = Take.of([folder / "videos"], folder / "cameras.yaml", folder / "take", **facts)
    take.save()
    return take
