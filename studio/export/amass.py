"""A motion of an SMPL-family body as npz in the layout of the AMASS archive (Mahmood et al. 2019), z up, metres.

`poses` (T, 3 joints) are rotation vectors in the model's own joint order; the root's takes the model's y up to the world's z up, as in
the archive. `trans` is what the smplx package calls `transl`: vertices = its forward pass with global_orient = poses[:, :3].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rigs import rotation, smpl
from rigs.body import Body
from studio.export.animation import in_pieces
from studio.values import Motion

KINDS = {24: "smpl", 52: "smplh", 55: "smplx"}
"""Joints in a model file -> what the archive calls the model."""


def write(path: Path, motion: Motion, body: Body, model_file: Path) -> Path:
    """Write one motion of the body in `model_file`; a `ValueError` where that is none of SMPL, SMPL-H and SMPL-X."""
    file = model_file.expanduser()
    if file.suffix != ".npz" or not file.is_file():
        raise ValueError(
            f"{path}: AMASS files hold SMPL-family bodies and {motion.actor!r} was fitted with {motion.body!r}; fit again with "
            "`--body MODEL.npz`, or leave 'npz' out of formats"
        )
    with np.load(file) as model:
        count, lift = len(model["J_regressor"]), -float(model["v_template"][:, 1].min())
    kind = KINDS[count]
    names = smpl.JOINTS[{"smpl": "SMPL", "smplh": "SMPL-H", "smplx": "SMPL-X"}[kind]]
    poses = _poses(motion, names)
    rate = np.float64(motion.fps)
    arrays = {
        "poses": poses.numpy(),
        "trans": _trans(motion, body, lift).numpy(),
        "betas": motion.shape.double().numpy(),
        "gender": np.array(gender(file)),
        "mocap_framerate": rate,
        "mocap_frame_rate": rate,
        "surface_model_type": np.array(kind),
    }
    if kind == "smplx":
        arrays |= {"expression": motion.expression.double().numpy()}
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as out:
        np.savez_compressed(out, **arrays)
    temporary.replace(path)
    return path


def gender(file: Path) -> str:
    """ "female", "male" or, where a model file's name tells neither, "neutral"."""
    name = file.stem.lower()
    return "female" if "female" in name or name.endswith("_f") else "male" if "male" in name or name.endswith("_m") else "neutral"


def _poses(motion: Motion, names: tuple[str, ...]) -> Float[Tensor, "T P"]:
    turn = smpl.AXES.double()
    index = [motion.joints.index(name) for name in names]
    repeated = torch.tensor([name in names[:k] for k, name in enumerate(names)])

    def theirs(vectors: Tensor) -> Tensor:
        R = turn.T @ rotation.exp(vectors[:, index].double()) @ turn
        R[:, 0] = turn @ R[:, 0]  # the root also brings y up to z up
        # SMPL's rigid finger joints are our hand a second time and must not turn twice.
        return torch.where(repeated[:, None], 0.0, rotation.log(R)).flatten(1)

    return in_pieces(theirs, motion.rotation)


def _trans(motion: Motion, body: Body, lift: float) -> Float[Tensor, "T 3"]:
    """The package turns about the pelvis of its own rest pose, which lies lower than ours by what lifted the soles to the floor."""
    pelvis = body.to(dtype=torch.float64).shaped(motion.shape.double()).joints[0] - torch.tensor([0.0, 0.0, lift]).double()
    return motion.translation.double() - pelvis @ smpl.AXES.double()
