"""The networks of the mediapipe wheel as graphs: operations in order, with their options and constants, straight from the .tflite file.

The file format's own reader comes with LiteRT (`ai_edge_litert.schema_py_generated`); nothing of the weights is kept in this repository.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np

Array = np.ndarray

FILES = {
    "pose detection": "pose_detection/pose_detection.tflite",
    "pose": "pose_landmark/pose_landmark_full.tflite",
    "hand": "hand_landmark/hand_landmark_full.tflite",
    "hand region": "holistic_landmark/hand_recrop.tflite",
    "palm detection": "palm_detection/palm_detection_full.tflite",
    "face detection": "face_detection/face_detection_short_range.tflite",
    "face": "face_landmark/face_landmark.tflite",
}
"""The networks that the studio runs."""
MORE_FILES = {
    "face with irises": "face_landmark/face_landmark_with_attention.tflite",
    "iris": "iris_landmark/iris_landmark.tflite",
    "hand, light": "hand_landmark/hand_landmark_lite.tflite",
    "palm detection, light": "palm_detection/palm_detection_lite.tflite",
    "face detection, far": "face_detection/face_detection_full_range_sparse.tflite",
    "person mask": "selfie_segmentation/selfie_segmentation.tflite",
}
"""Others of the wheel, for training and comparison; the landmark networks named lite and heavy are not in it."""

PARTS = {"pose, no mask": ("pose", (0, 1, 3, 4))}
"""Networks with some of the outputs of another (by their place in the file's list): the person's mask costs 45 % of the pose's time."""


def network_file(name: str) -> Path:
    """Where the wheel keeps a network; found without importing it. A `ValueError` says what to install."""
    spec = importlib.util.find_spec("mediapipe")
    folder = Path(next(iter(spec.submodule_search_locations))) / "modules" if spec and spec.submodule_search_locations else None
    files = FILES | MORE_FILES
    if name not in files:
        raise ValueError(f"no network {name!r} in the mediapipe package; there are {sorted(files)}")
    if folder is None or not (folder / files[name]).is_file():
        raise ValueError(
            f"mediapipe ({folder or 'not installed'}) carries no network {name!r}; "
            "install the version that does: pip install mediapipe==0.10.14"
        )
    return folder / files[name]


def file_of_part(data: bytes, outputs: Sequence[int]) -> bytes:
    """A .tflite file with only these outputs of another's, and only the operations that lead to them."""
    schema: Any = importlib.import_module("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    (graph,) = model.subgraphs
    graph.outputs = [graph.outputs[i] for i in outputs]
    needed, live = {int(i) for i in graph.outputs}, []
    for operation in reversed(graph.operators):
        if needed.intersection(int(i) for i in operation.outputs):
            needed.update(int(i) for i in operation.inputs)
            live.append(operation)
    graph.operators, model.signatureDefs = live[::-1], None
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@dataclass(frozen=True)
class Operation:
    """One step: tensors by number in, one tensor out."""

    kind: str
    """Its name in the format's list, such as CONV_2D; of a custom operation its own name."""
    inputs: tuple[int, ...]
    output: int
    options: Any
    """The format's options object of that kind, None where it has none; of a custom operation its bytes."""


@dataclass(frozen=True)
class Graph:
    """A network as it stands in its file; weights unpacked to float32, axes in the file's order (NHWC)."""

    operations: tuple[Operation, ...]
    constants: dict[int, Array]
    shapes: dict[int, tuple[int, ...]]
    """Of every tensor, with a batch axis of 1."""
    input: int
    outputs: tuple[int, ...]

    def only(self, outputs: Iterable[int]) -> Graph:
        """The part that these of its outputs (by their place in the list) need."""
        wanted = tuple(self.outputs[i] for i in outputs)
        needed, live = set(wanted), []
        for operation in reversed(self.operations):
            if operation.output in needed:
                needed.update(operation.inputs)
                live.append(operation)
        return Graph(tuple(live[::-1]), self.constants, self.shapes, self.input, wanted)


def read_graph(path: Path) -> Graph:
    """The one graph of a .tflite file. A `ValueError` names a file that is none, or that holds what is not read here."""
    schema: Any = importlib.import_module("ai_edge_litert.schema_py_generated")
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise ValueError(f"{path}: not a .tflite network (its identifier is {data[4:8]!r}, not b'TFL3')")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    (graph,) = model.subgraphs
    if len(graph.inputs) != 1:
        raise ValueError(f"{path}: {len(graph.inputs)} inputs; only networks with one are read")
    kinds = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    constants = _constants(model, graph, schema, path)
    operations = []
    for step in graph.operators:
        code = model.operatorCodes[step.opcodeIndex]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if kind in ("DEQUANTIZE", "DENSIFY"):  # stored small; here constants are unpacked once
            constants[int(step.outputs[0])] = constants[int(step.inputs[0])]
            continue
        options = step.builtinOptions
        if kind == "CUSTOM":
            kind, options = code.customCode.decode(), b"" if step.customOptions is None else bytes(np.asarray(step.customOptions))
        if len(step.outputs) != 1:
            raise ValueError(f"{path}: operation {kind} has {len(step.outputs)} outputs; only one is read")
        operations.append(Operation(kind, tuple(int(i) for i in step.inputs), int(step.outputs[0]), options))
    shapes = {i: () if t.shape is None else tuple(int(n) for n in t.shape) for i, t in enumerate(graph.tensors)}
    return Graph(tuple(operations), constants, shapes, int(graph.inputs[0]), tuple(int(i) for i in graph.outputs))


def _constants(model: Any, graph: Any, schema: Any, path: Path) -> dict[int, Array]:
    """Every tensor that is stored in the file; half precision becomes float32."""
    kinds = {
        schema.TensorType.FLOAT32: np.float32,
        schema.TensorType.FLOAT16: np.float16,
        schema.TensorType.INT32: np.int32,
        schema.TensorType.INT64: np.int64,
    }
    found = {}
    for i, tensor in enumerate(graph.tensors):
        data = model.buffers[tensor.buffer].data
        if data is None or len(data) == 0:
            continue
        if tensor.type not in kinds:
            raise ValueError(f"{path}: tensor {tensor.name.decode()} is of type {tensor.type}; quantised networks are not read")
        values = np.asarray(data, np.uint8).view(kinds[tensor.type])
        shape = tuple(int(n) for n in tensor.shape)
        values = values.reshape(shape) if tensor.sparsity is None else _dense(values, tensor.sparsity, shape, schema, path)
        found[i] = values.astype(np.float32) if values.dtype == np.float16 else values
    return found


def _dense(values: Array, sparsity: Any, shape: tuple[int, ...], schema: Any, path: Path) -> Array:
    """A tensor stored by its nonzero values: all axes dense but the last, of which the positions are listed row by row."""
    formats = [axis.format for axis in sparsity.dimMetadata]
    dense, listed = schema.DimensionType.DENSE, schema.DimensionType.SPARSE_CSR
    if formats != [dense] * (len(shape) - 1) + [listed] or list(sparsity.traversalOrder) != list(range(len(shape))):
        raise ValueError(f"{path}: a sparse tensor is laid out as {formats}; only lists along the last axis are read")
    last = sparsity.dimMetadata[-1]
    ends, columns = (np.asarray(part.values, np.int64) for part in (last.arraySegments, last.arrayIndices))
    whole = np.zeros((int(np.prod(shape[:-1])), shape[-1]), values.dtype)
    whole[np.repeat(np.arange(len(ends) - 1), np.diff(ends)), columns] = values
    return whole.reshape(shape)
