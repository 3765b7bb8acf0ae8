"""A take's motion, live over UDP: one JSON datagram a frame and actor, at playback speed.

```json
{"studio": 1, "actor": "ann", "frame": 120, "timecode": "01:00:04:00", "fps": 30.0,
 "hips": [0.1, -0.2, 0.95], "joints": {"Hips": [1, 0, 0, 0], "Spine": [0.99, 0.1, 0, 0]}, "face": {"jawOpen": 0.2}}
```

`hips` is the root joint's position, m, world z up. `joints` are rotations against the parent as quaternions w x y z; at rest every joint's
axes are the world's, so a rest pose is all ones and zeros. Once a second, and first of all, a datagram tells the skeleton at rest:
`{"studio": 1, "actor": "ann", "rest": {"Hips": [null, 0, 0, 0.95], "Spine": ["Hips", 0, 0, 1.05]}}`, parent and position (m).
`extras/blender_live.py` receives it in Blender.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from rigs.catalogue import open_body
from rigs.rotation import exp, quaternion
from studio.export import timecode
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
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Send all actors of a take that has been fitted, frame by frame at `speed` times its rate; how many frames were sent.

    A frame that is late is sent at once and none is left out; `loop` begins again until interrupted. A `FileNotFoundError` or
    `ValueError` names what is missing or wrong.
    """
    if not 0 < port < 65536:
        raise ValueError(f"studio stream: port {port}: needs 1 to 65535")
    if not 0.01 <= speed <= 100:
        raise ValueError(f"studio stream: speed {speed:g}: needs 0.01 to 100")
    motions = [Motion.load(p) for a in take.actors if (p := take.motion_file(a)).is_file()]
    if not motions:
        raise FileNotFoundError(f"{take.folder}: holds no motion; `studio run {take.folder}` makes it")
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    except OSError as error:
        raise ValueError(
            f"studio stream: {host}: no such computer ({error.strerror}); give a name or address, for example --to 192.168.0.5"
        ) from error
    sent = 0
    with socket.socket(address[0], socket.SOCK_DGRAM) as out:
        begun = clock()
        for number, parts in _frames(motions, loop):
            if (left := begun + number / (motions[0].fps * speed) - clock()) > 0:
                wait(left)
            for part in parts:
                data = json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode()
                if len(data) > LARGEST:
                    raise ValueError(f"{take.folder}: a frame of {part['actor']} is {len(data)} bytes, too much for one datagram")
                out.sendto(data, address[4])
            sent += 1
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
