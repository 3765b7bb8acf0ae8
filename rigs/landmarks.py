"""Where a network's landmarks sit on the body: not at the joint centre, but where its training images were clicked.

`presets/landmarks/<network>.yaml` holds, for each keypoint, an offset from the anatomical keypoint in the body's rest axes (m, for a
1.70 m person, left side; the right is its mirror image), how far it sits towards the parent's bone, and its scatter over people and poses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from rigs.body import Body, Skin

FOLDER = Path(__file__).parent / "presets" / "landmarks"


@cache
def _placements(network: str) -> dict[str, dict[str, Any]]:
    path = FOLDER / f"{network}.yaml"
    return yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if path.exists() else {}  # ten times faster


def landmark_skin(body: Body, names: Sequence[str], network: str) -> tuple[Skin, Float[Tensor, "K"]]:
    """The material points where `network` places its landmarks, and their scatter (standard deviation, m).

    A network without a table places them at the anatomical keypoints, scatter zero.
    """
    skin = body.keypoint_skin(names)
    table = _placements(network)
    height = float(body.skin.rest[:, 2].max() - body.skin.rest[:, 2].min()) if len(body.skin) else 1.7
    offset = torch.zeros_like(skin.rest)
    scatter = torch.zeros_like(skin.rest[:, 0])
    weights = skin.weights.clone()
    for k, name in enumerate(names):
        right = name.startswith("right_")
        entry = table.get("left_" + name[6:] if right else name)
        if entry is None:
            continue
        x, y, z = entry["offset"]
        offset[k] = torch.tensor([-x if right else x, y, z]) * (height / 1.7)
        scatter[k] = entry["scatter"]
        share = float(entry.get("parent", 0.0))
        joint = int(skin.weights[k].argmax())
        if share and joint:
            weights[k] *= 1 - share
            weights[k, body.skeleton.parents[joint]] += share
    return replace(skin, rest=skin.rest + offset, weights=weights), scatter
