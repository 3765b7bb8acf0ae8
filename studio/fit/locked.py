"""Joints that the fit leaves at rest."""

from __future__ import annotations

from dataclasses import replace

from rigs.body import Body, Skin

LOCKED = ("Jaw", "LeftEye", "RightEye")
"""Joints no keypoint sees: the expression's jawOpen and eyeLook coefficients move their flesh."""


def with_locked_joints(skin: Skin, body: Body) -> Skin:
    """The same points, carried by the joint above where theirs is locked: at rest it moves as that one does."""
    weights = skin.weights.clone()
    for joint in sorted((body.skeleton.index(j) for j in LOCKED), reverse=True):
        weights[:, body.skeleton.parents[joint]] += weights[:, joint]
        weights[:, joint] = 0
    return replace(skin, weights=weights)
