"""EasyMocap's pair of files, intri.yml and extri.yml in one folder."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from calibration.camera_file import Entry, Source, parse
from calibration.cameras import Cameras, single
from calibration.formats.fields import rotation


def known(source: Source) -> bool:
    """A YAML with `names` and matrices that carry a camera's name."""
    return source.syntax == "yaml" and any(k.startswith(("K_", "R_", "Rot_")) for k in source.keys) and "names" in source.keys


def read(source: Source, unit: float) -> Iterator[Cameras]:
    """intri.yml holds `K_`, `dist_` or `D_`, `H_`, `W_`; extri.yml `R_` (vector) or `Rot_` (matrix), `T_`."""
    files = {name: source.path.with_name(f"{name}.yml") for name in ("intri", "extri")}
    inner, outer = (parse(files[name]).document for name in files)
    if not isinstance(inner, dict) or not isinstance(outer, dict) or not isinstance(inner.get("names"), list):
        raise ValueError(f"{files['intri']}: field 'names' is missing; it must list the cameras")
    for name in inner["names"]:
        lens = Entry(files["intri"], name, inner)
        pose = Entry(files["extri"], name, outer)
        K = lens.numbers(f"K_{name}", shapes=((3, 3),))
        if f"W_{name}" not in inner or f"H_{name}" not in inner:
            raise lens.error(f"W_{name}", f"or 'H_{name}' is missing; add the image size: `W_{name}: 1920` and `H_{name}: 1080`")
        R = rotation(pose, f"R_{name}", f"Rot_{name}")
        yield single(
            name,
            torch.cat([lens.numbers(f"{axis}_{name}", shapes=((1,),)) for axis in "WH"]),
            lens.focal(K[[0, 1], [0, 1]], f"K_{name}"),
            K[:2, 2],
            lens.distortion("brown", f"dist_{name}", f"D_{name}"),
            "brown",
            R,
            -R.mT @ (pose.numbers(f"T_{name}", shapes=((3,),)) * unit),
        )
