"""A small body of the studio's skeleton with random flesh, for tests that need no real person."""

import torch

from rigs.body import Body, Skin
from rigs.skeleton import Skeleton


def stick_person(seed: int = 0, points: int = 90, shapes: int = 6, expressions: int = 4, dtype: torch.dtype = torch.float64) -> Body:
    """55 joints at human places, `points` skin points near them (two carriers each), random small bases."""
    g = torch.Generator().manual_seed(seed)
    skeleton = Skeleton.human()
    up = {"Spine": (0, 0, 0.1), "Spine1": (0, 0, 0.15), "Spine2": (0, 0, 0.15), "Neck": (0, 0, 0.2), "Head": (0, -0.02, 0.1),
          "Jaw": (0, -0.05, 0.0), "Eye": (0.03, -0.09, 0.06), "Shoulder": (0.03, 0, 0.15), "Arm": (0.14, 0, 0), "ForeArm": (0.2, 0, -0.2),
          "Hand": (0.18, -0.02, -0.18), "UpLeg": (0.1, 0, -0.06), "Leg": (0.01, -0.01, -0.42), "Foot": (0, 0.03, -0.42),
          "ToeBase": (0.01, -0.14, -0.06)}  # fmt: skip
    joints = torch.zeros(len(skeleton), 3, dtype=dtype)
    joints[0] = torch.tensor([0, 0, 0.95])
    for j, name in enumerate(skeleton.names[1:], 1):
        side = 1 if name.startswith("Left") else -1 if name.startswith("Right") else 0
        kind = name.removeprefix("Left").removeprefix("Right")
        if kind.startswith("Hand") and kind != "Hand":
            finger = ["Thumb", "Index", "Middle", "Ring", "Pinky"].index(kind[4:-1])
            step = (0.06, -0.03 + 0.018 * finger, -0.06) if kind.endswith("1") else (0.02, -0.004, -0.02)
        else:
            step = up[kind]
        offset = torch.tensor(step, dtype=dtype) * torch.tensor([side or 1, 1, 1], dtype=dtype)
        joints[j] = joints[skeleton.parents[j]] + offset
    carrier = torch.arange(points) % len(skeleton)
    other = torch.tensor([max(p, 0) for p in skeleton.parents])[carrier]
    weights = torch.zeros(points, len(skeleton), dtype=dtype)
    share = 0.6 + 0.4 * torch.rand(points, generator=g, dtype=dtype)
    weights[torch.arange(points), carrier] += share
    weights[torch.arange(points), other] += 1 - share
    rand = lambda *n: torch.randn(*n, generator=g, dtype=dtype)  # noqa: E731
    expression_basis = 0.01 * rand(points, 3, expressions) * ((carrier == 5) | (carrier == 6))[:, None, None]
    skin = Skin(joints[carrier] + 0.05 * rand(points, 3), 0.01 * rand(points, 3, shapes), expression_basis, weights)
    return Body("stick", skeleton, joints, 0.005 * rand(len(skeleton), 3, shapes), skin, torch.zeros(0, 3, dtype=torch.long),
                tuple(f"s{i}" for i in range(shapes)), tuple(f"e{i}" for i in range(expressions)))  # fmt: skip
