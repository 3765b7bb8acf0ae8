"""Hands and faces of a body that was found: looked for where its own wrists and head are, and believed only if they belong to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np
from jaxtyping import Float

from studio.detect.landmarks import SIDES, FaceSight, HandSight, pixels_per_metre
from studio.detect.networks import Networks, PoseSight
from studio.detect.regions import (
    Array,
    Region,
    around_coarse_hand,
    around_eyes_and_mouth,
    around_face,
    around_hand,
    around_head,
    around_palm,
    around_points,
    beyond_forearm,
)

PRESENT, SURE = 0.5, 0.9
"""Presence that a network must state for its hand or face to be believed, and from which nothing better is looked for."""
ARM = {"left": (13, 15, 17, 19), "right": (14, 16, 18, 20)}
"""Pose landmarks: elbow, wrist, pinky and index knuckle."""
FOREARM, HAND_REACH = 0.26, 0.13
"""m: an adult's forearm; how far a hand's root may lie from the body's wrist."""
FACE_APART, EARS = 0.025, 0.13
"""m: how far a face's eyes, nose and mouth may lie from the body's on average; between the ears of a face seen from the front."""
FEATURES = {0: (4,), 2: (362, 263), 5: (33, 133), 9: (291,), 10: (61,)}
"""Pose landmark of nose, left and right eye, left and right corner of the mouth -> vertices of the face mesh around it."""
SMALLEST = 12.0
"""px: the side of a region below which there is nothing to see."""


def hands_of(
    networks: Networks,
    pyramid: list[Array],
    body: PoseSight,
    before: dict[str, Region],
    thorough: bool,
    turns: Mapping[str, int] | None = None,
    rested: Set[str] = frozenset(),
) -> dict[str, HandSight]:
    """The hands that could be seen; `before` holds the regions that follow from the frame before; `thorough` costs a palm search.

    A side in `turns`, one that has not been seen for some frames, is looked for in one place only: the places take turns by this number.
    A side in `rested` is not looked for.
    """
    found: dict[str, HandSight] = {}
    for side in (s for s in SIDES if s not in rested):
        turn = (turns or {}).get(side)
        if (hand := _hand(networks, pyramid, body, side, before.get(side), thorough, turn)) is not None:
            found[side] = hand
    if len(found) == 2:
        gap = np.linalg.norm(found["left"].points - found["right"].points, axis=1).mean()
        if gap < 0.05 * pixels_per_metre(body.points, body.world):  # both wrists led to one hand
            del found[max(SIDES, key=lambda side: _stretch(found[side], body, side))]
    return found


def _hand(
    networks: Networks, pyramid: list[Array], body: PoseSight, side: str, before: Region | None, thorough: bool, turn: int | None
) -> HandSight | None:
    """The surest hand among the regions tried."""
    if body.visibility[ARM[side][1]] < 0.1:
        return None
    best: HandSight | None = None
    for region in _hand_regions(networks, pyramid, body, side, before, thorough, turn):
        if not SMALLEST < region.size < 4 * max(pyramid[0].shape[:2]):
            continue
        hand = HandSight(*networks.hand(pyramid, region), region.size)
        if hand.presence >= PRESENT and _belongs(hand, body, side) and (best is None or hand.presence > best.presence):
            best = hand
        if best is not None and best.presence >= SURE:
            break
    if best is not None and before is None:  # a first look is refined by a second one, centred
        region = around_hand(best.points)
        again = HandSight(*networks.hand(pyramid, region), region.size)
        best = again if again.presence >= PRESENT and _belongs(again, body, side) else best
    return best


def _hand_regions(
    networks: Networks, pyramid: list[Array], body: PoseSight, side: str, before: Region | None, thorough: bool, turn: int | None
) -> Iterator[Region]:
    """Where the hand may be, likeliest first; computed only as far as needed."""
    if before is not None:
        yield before
    elbow, wrist, pinky, index = (body.points[i] for i in ARM[side])
    forearm = FOREARM * pixels_per_metre(body.points, body.world)
    places = around_coarse_hand(wrist, pinky, index), beyond_forearm(elbow, wrist, forearm)
    for coarse in places if turn is None else places[turn % 2 :][:1]:
        if coarse.size > SMALLEST:
            yield around_points(networks.hand_hints(pyramid, coarse), 256, coarse)
    if thorough and body.visibility[ARM[side][1]] > 0.5:
        reach = Region(float(wrist[0]), float(wrist[1]), 2.7 * forearm, 0.0)
        yield from (around_palm(found) for _, found in networks.palms(pyramid, reach, 0.5)[:2])


def lone_hands(networks: Networks, pyramid: list[Array], before: dict[str, Region]) -> dict[str, HandSight]:
    """Hands of which no body is seen, at most one a side; searched for by their palms where they are not followed."""
    height, width = pyramid[0].shape[:2]
    regions = list(before.values())
    if len(regions) < 2:
        whole = Region((width - 1) / 2, (height - 1) / 2, float(max(width, height)), 0.0)
        regions += [around_palm(found) for _, found in networks.palms(pyramid, whole, 0.5)]
    best: dict[str, HandSight] = {}
    taken: list[HandSight] = []
    for region in regions:
        hand = HandSight(*networks.hand(pyramid, region), region.size)
        if hand.presence < PRESENT or is_known(hand, taken):
            continue
        taken.append(hand)
        side = "right" if hand.right >= 0.5 else "left"
        if side not in best or hand.presence > best[side].presence:
            best[side] = hand
    return best


def is_known(hand: HandSight, found: Sequence[HandSight]) -> bool:
    """Whether it is one that was found already."""
    return any(np.linalg.norm(hand.points - o.points, axis=1).mean() < 0.2 * o.size for o in found)


def _belongs(hand: HandSight, body: PoseSight, side: str) -> bool:
    """Whether the hand sits at the body's wrist and has a size that fits it."""
    scale = pixels_per_metre(body.points, body.world)
    spread = np.sqrt(((hand.points - hand.points.mean(0)) ** 2).sum())
    metric = np.sqrt(((hand.world - hand.world.mean(0))[:, :2] ** 2).sum())
    return _stretch(hand, body, side) < HAND_REACH * scale and 0.35 < spread / max(metric * scale, 1e-6) < 2.2


def _stretch(hand: HandSight, body: PoseSight, side: str) -> float:
    """px from the body's wrist to the hand's root."""
    return float(np.linalg.norm(hand.points[0] - body.points[ARM[side][1]]))


def face_of(networks: Networks, pyramid: list[Array], body: PoseSight, before: Region | None) -> FaceSight | None:
    """The face, where it is seen and lies on the body's own eyes, nose and mouth: its network is just as sure of eyes on a mouth.

    The mean of what is seen where it was before and where it is found now: two looks, half the noise.
    """
    looks: list[tuple[float, FaceSight]] = []
    scale = pixels_per_metre(body.points, body.world)
    for region in _face_regions(networks, pyramid, body, before):
        if not SMALLEST < region.size < 4 * max(pyramid[0].shape[:2]):
            continue
        presence, points = networks.face(pyramid, region)
        apart = _apart(points, body) / scale
        if presence >= PRESENT and apart < FACE_APART:
            looks.append((apart, FaceSight(presence * _plausible(apart, body, scale), points, region.size)))
        if len(looks) == 2:
            break
    if not looks:
        return None
    weights = [1 / apart**2 for apart, _ in looks]
    presence, points, size = (np.average([getattr(f, n) for _, f in looks], 0, weights) for n in ("presence", "points", "size"))
    return FaceSight(float(presence), points, float(size))


def _apart(mesh: Float[Array, "468 2"], body: PoseSight) -> float:
    """px between the face's and the body's idea of eyes, nose and corners of the mouth."""
    own = np.stack([mesh[list(vertices)].mean(0) for vertices in FEATURES.values()])
    return float(np.linalg.norm(own - body.points[list(FEATURES)], axis=1).mean())


def _plausible(apart: float, body: PoseSight, scale: float) -> float:
    """0 to 1: less, the farther the face lies from the body's idea of it (m), and the more it is seen from the side."""
    across = float(np.linalg.norm(body.points[7] - body.points[8])) / scale
    return math.exp(-0.5 * (apart / FACE_APART) ** 2) * (0.3 + 0.7 * min(across / EARS, 1.0))


def _face_regions(networks: Networks, pyramid: list[Array], body: PoseSight, before: Region | None) -> Iterator[Region]:
    """Where the face may be, likeliest first."""
    if before is not None:
        yield before
    head = around_head(body.points[:11])
    if head.size > SMALLEST:
        for _, keypoints in networks.faces(pyramid, head, 0.5)[:2]:
            yield around_eyes_and_mouth(keypoints)
            yield around_eyes_and_mouth(np.concatenate([np.zeros((2, 2)), _like_a_found_face(body)]))


def _like_a_found_face(body: PoseSight) -> Float[Array, "6 2"]:
    """The body's right and left eye, nose, middle of the mouth, right and left ear."""
    p = body.points
    return np.stack([p[5], p[2], p[0], (p[9] + p[10]) / 2, p[8], p[7]])


def next_regions(hands: dict[str, HandSight], face: FaceSight | None) -> tuple[dict[str, Region], Region | None]:
    """Where to look in the next frame."""
    return {side: around_hand(hand.points) for side, hand in hands.items()}, around_face(face.points) if face else None
