"""A network of the mediapipe wheel as a studio's own takes changed it: the changed constants alone, put into the wheel's file when it runs.

The wheel's weights stay in the wheel. A difference is a safetensors file with the new values by their number in the .tflite file, and a
card that names that file's sha256; `studio adapt` writes both.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from studio.detect.tflite import Array, Graph, network_file
from studio.nets import checkpoint
from studio.nets.checkpoint import Card

KIND = "difference"
"""What the card calls its network."""


class Difference(nn.Module):
    """Changed constants, axes in the file's order."""

    def __init__(self, base: str, sha256: str, shapes: dict[str, list[int]]) -> None:
        """`base` is the wheel's network, `sha256` that of its file; shapes by the constants' numbers."""
        super().__init__()
        self.base, self.sha256 = base, sha256
        for number, shape in shapes.items():
            self.register_buffer(f"constant_{number}", torch.zeros(shape))


@dataclass(frozen=True)
class Changed:
    """What of a network is other than in the wheel."""

    base: str
    """Its name in `studio.detect.tflite`."""
    constants: dict[int, Array]
    """By their number in the file."""
    card: Card


def write(path: Path, base: str, constants: dict[int, Array], card: Card) -> Path:
    """The difference as `path` (*.safetensors) and its card; values are those of `rounded`, so that what is read is what was measured."""
    values = rounded(base, constants)
    made = Difference(base, base_sha256(base), {str(i): list(v.shape) for i, v in values.items()})
    made.load_state_dict({f"constant_{i}": torch.tensor(v) for i, v in values.items()})
    facts = {"base": base, "sha256": made.sha256, "shapes": {str(i): list(v.shape) for i, v in values.items()}}
    return checkpoint.write(path, made, replace(card, network=KIND, architecture=facts))


def read(path: Path) -> Changed:
    """A difference that fits the wheel as it is installed; a `ValueError` says what does not, a `FileNotFoundError` what is missing."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such adapted network; make one with `studio adapt`, or leave `adapted` out of the settings")
    made, card = checkpoint.read(path, Difference, KIND)
    if (here := base_sha256(made.base)) != made.sha256:
        raise ValueError(
            f"{path}: changes a {made.base!r} network with sha256 {made.sha256[:12]}; the installed mediapipe has {here[:12]}. "
            "Install the version it was made with, or run `studio adapt` again"
        )
    values = {int(k.removeprefix("constant_")): v.numpy() for k, v in made.state_dict().items()}
    places = stored_in(made.base)
    if wrong := [i for i in values if i not in places]:
        raise ValueError(f"{path}: there is no constant {wrong[0]} in the {made.base!r} network; run `studio adapt` again")
    return Changed(made.base, values, card)


def find(name: str, folders: Sequence[Path]) -> Path:
    """The difference that a setting means: a file, or a name among the `networks` of these folders (of a take, of its session)."""
    places = [Path(name)] if name.endswith(".safetensors") else [f / "networks" / f"{name}.safetensors" for f in folders]
    if found := [p for p in places if p.is_file()]:
        return found[0]
    raise FileNotFoundError(f"{places[-1]}: no such adapted network; make one with `studio adapt`, or leave `adapted` out of the settings")


@lru_cache
def base_sha256(base: str) -> str:
    """Of the wheel's file."""
    return hashlib.sha256(network_file(base).read_bytes()).hexdigest()


@lru_cache
def stored_in(base: str) -> dict[int, tuple[int, Any]]:
    """Constant's number -> the buffer that holds it, and its type there: what is unpacked from half precision is stored small."""
    schema: Any = importlib.import_module("ai_edge_litert.schema_py_generated")
    model = schema.Model.GetRootAsModel(network_file(base).read_bytes(), 0)
    graph = model.Subgraphs(0)
    kinds = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16}
    source = {i: i for i in range(graph.TensorsLength())}
    for step in (graph.Operators(i) for i in range(graph.OperatorsLength())):
        code = model.OperatorCodes(step.OpcodeIndex())
        if max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) == schema.BuiltinOperator.DEQUANTIZE:
            source[step.Outputs(0)] = step.Inputs(0)
    found = {}
    for i, place in source.items():
        tensor = graph.Tensors(place)
        if tensor.Sparsity() is None and tensor.Type() in kinds and model.Buffers(tensor.Buffer()).DataLength():
            found[i] = (tensor.Buffer(), kinds[tensor.Type()])
    return found


def rounded(base: str, constants: dict[int, Array]) -> dict[int, Array]:
    """float32 values as precisely as the file can hold them."""
    return {i: v.astype(stored_in(base)[i][1]).astype(np.float32) for i, v in constants.items()}


def file_with(changed: Changed) -> bytes:
    """The wheel's file with the changed constants in their places."""
    schema: Any = importlib.import_module("ai_edge_litert.schema_py_generated")
    content = bytearray(network_file(changed.base).read_bytes())
    model = schema.Model.GetRootAsModel(content, 0)
    for i, values in changed.constants.items():
        place, kind = stored_in(changed.base)[i]
        model.Buffers(place).DataAsNumpy()[:] = np.frombuffer(values.astype(kind).tobytes(), np.uint8)
    return bytes(content)


def graph_with(graph: Graph, changed: Changed) -> Graph:
    """The same graph with the changed constants."""
    return replace(graph, constants=graph.constants | changed.constants)
