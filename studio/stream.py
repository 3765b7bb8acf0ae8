"""A take's motion, live over UDP: one JSON datagram a frame and actor, at playback speed.

```json
{"studio": 1, "actor": "ann", "frame": 120, "timecode": "01:00:04:00", "fps": 30.0,
 "hips": [0.1, -0.2, 0.95], "joints": {"Hips": [1, 0, 0, 0], "Spine": [0.99, 0.1, 0, 0]}, "face": {"jawOpen": 0.2}}
```

`hips` is the root joint's position, m, world z up. `joints` are rotations against the parent as quaternions w x y z; at rest every joint's
axes are the world's, so a rest pose is all ones and zeros. Once a second, and first of all, a datagram tells the skeleton at rest:
`{"studio": 1, "actor": "ann", "rest": {"Hips": [null, 0, 0, 0.95], "Spine": ["Hips", 0, 0, 1.05]}}`, parent and position (m).
`extras/blender_live.py` receives it in Blender.

With `causal` a take need only be tracked: it is fitted while it plays, each frame from those before it and a few after, and sent then.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from rigs.catalogue import open_body
from rigs.rotation import exp, quaternion
from studio.export import timecode
from studio.fit.causal import CausalConfig
from studio.follow import Pace, follow, tracked
from studio.take import Take
from studio.values import Motion

PORT = 39540
LARGEST = 60_000
"""Bytes of a datagram that every network stack takes."""


def resting(motion: Motion) -> dict[str, Any]:
    """The datagram that tells an actor's skeleton at rest."""
    body = open_body(motion.body)
    joints = body.shaped(motion.shape).joints.tolist()
    parents = [None if p < 0 else motion.joints[p] for p in body.skeleton.parents]
    rest = {n: [p, *(round(x, 5) for x in at)] for n, p, at in zip(motion.joints, parents, joints, strict=True)}
    return {"studio": 1, "actor": motion.actor, "rest": rest}


def told(motion: Motion, frame: int, expression_names: tuple[str, ...]) -> dict[str, Any]:
    """The datagram of one frame of a motion, counted from the motion's first."""
    number = motion.first_frame + frame
    turn = quaternion(exp(motion.rotation[frame])).tolist()
    began = timecode.frames(motion.timecode, motion.fps)
    return {
        "studio": 1,
        "actor": motion.actor,
        "frame": number,
        "timecode": timecode.text(began + number, motion.fps, timecode.drops(motion.timecode)),
        "fps": motion.fps,
        "hips": [round(x, 5) for x in motion.translation[frame].tolist()],
        "joints": {n: [round(x, 6) for x in q] for n, q in zip(motion.joints, turn, strict=True)},
        "face": {n: round(w, 4) for n, w in zip(expression_names, motion.expression[frame].tolist()) if abs(w) > 5e-4},
    }


def stream(
    take: Take,
    host: str = "127.0.0.1",
    port: int = PORT,
    speed: float = 1.0,
    loop: bool = False,
    causal: CausalConfig | None = None,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Send all actors of a take that has been fitted, frame by frame at `speed` times its rate; how many frames were sent.

    A frame that is late is sent at once and none is left out; `loop` begins again until interrupted. With `causal` the stored detections
    are fitted as they play, and what that took is printed. A `FileNotFoundError` or `ValueError` names what is missing or wrong.
    """
    if not 0 < port < 65536:
        raise ValueError(f"studio stream: port {port}: needs 1 to 65535")
    if not 0.01 <= speed <= 100:
        raise ValueError(f"studio stream: speed {speed:g}: needs 0.01 to 100")
    motions: list[Motion] = []
    if causal is None:
        motions = [Motion.load(p) for a in take.actors if (p := take.motion_file(a)).is_file()]
        if not motions:
            raise FileNotFoundError(f"{take.folder}: holds no motion; `studio run {take.folder}` makes it")
    fps = motions[0].fps if causal is None else tracked(take).fps
    pace = None if causal is None else Pace(causal.lag, fps)
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    except OSError as error:
        raise ValueError(
            f"studio stream: {host}: no such computer ({error.strerror}); give a name or address, for example --to 192.168.0.5"
        ) from error
    sent = 0
    with socket.socket(address[0], socket.SOCK_DGRAM) as out:
        begun = clock()
        frames = _frames(motions, loop) if causal is None or pace is None else _solved(take, causal, pace, loop)
        for number, parts in frames:
            if (left := begun + number / (fps * speed) - clock()) > 0:
                wait(left)
            for part in parts:
                data = json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode()
                if len(data) > LARGEST:
                    raise ValueError(f"{take.folder}: a frame of {part['actor']} is {len(data)} bytes, too much for one datagram")
                out.sendto(data, address[4])
            sent += max(Counter(part["actor"] for part in parts if "joints" in part).values(), default=0)
    if pace is not None:
        print(pace.said())
    return sent


def _frames(motions: list[Motion], loop: bool) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Number since the beginning, and the datagrams of all actors."""
    names = [open_body(m.body).expression_names for m in motions]
    rests, count, each = [resting(m) for m in motions], max(len(m.translation) for m in motions), max(1, round(motions[0].fps))
    number = 0
    while True:
        for frame in range(count):
            parts = rests if number % each == 0 else []
            there = [(m, n) for m, n in zip(motions, names) if frame < len(m.translation)]
            yield number, [*parts, *(told(m, frame, n) for m, n in there)]
            number += 1
        if not loop:
            return


def _solved(take: Take, causal: CausalConfig, pace: Pace, loop: bool) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """As `_frames`, of a take that is fitted now. A number belongs to the frame that comes, what is sent with it is `lag` older."""
    number, names = 0, open_body(take.body).expression_names
    told_rest: dict[str, int] = {}
    while True:
        for motions in follow(take, causal, pace):
            parts = []
            for m in motions:
                if m.first_frame >= told_rest.get(m.actor, m.first_frame):
                    parts.append(resting(m))
                    told_rest[m.actor] = m.first_frame + max(1, round(m.fps))
                parts.append(told(m, 0, names))
            yield number, parts
            number += 1
        told_rest.clear()
        if not loop:
            return
