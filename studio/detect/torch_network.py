"""A network of the mediapipe wheel as an ordinary torch module: batched, on any device, in any precision, trainable.

Each operation of the file becomes a layer. Meanings are those of TensorFlow Lite's reference kernels (tensorflow/lite/kernels) and, for
the face network with irises, of MediaPipe's own operations (mediapipe/util/tflite/operations). Batch normalisation is folded into the
weights, so fine-tuning wants a small step (Adam, 1e-5).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from studio.detect.adapted import Changed, graph_with
from studio.detect.face_warp import FACE_OPERATIONS
from studio.detect.tflite import Array, Graph, Operation, network_file, read_graph

ACTIVATIONS: dict[int, Callable[[Tensor], Tensor]] = {0: lambda x: x, 1: F.relu, 3: F.relu6}


class TorchNetwork(nn.Module):
    """Images in, the file's outputs out in its order; axes of feature maps are (batch, channel, row, column) throughout."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.side = graph.shapes[graph.input][1]
        self.layers = nn.ModuleList([_layer(operation, graph) for operation in graph.operations])
        self._input, self._outputs = graph.input, graph.outputs
        self._wires = [
            (tuple(i for i in operation.inputs if i >= 0 and i not in graph.constants), operation.output) for operation in graph.operations
        ]
        last = {i: step for step, (inputs, _) in enumerate(self._wires) for i in inputs}
        self._free = [[i for i in inputs if last[i] == step and i not in graph.outputs] for step, (inputs, _) in enumerate(self._wires)]

    def forward(self, images: Float[Tensor, "B 3 side side"]) -> list[Float[Tensor, "B ..."]]:
        """Every output, a batch axis first; feature maps as (B, C, H, W)."""
        return self.run({self._input: images})

    def run(self, values: dict[int, Float[Tensor, "B ..."]]) -> list[Float[Tensor, "B ..."]]:
        """The same from tensors inside, by their number in the file: for a part of a network that begins at several."""
        values = dict(values)
        for layer, (inputs, output), free in zip(self.layers, self._wires, self._free, strict=True):
            values[output] = layer(*[values[i] for i in inputs])
            for i in free:
                values.pop(i, None)
        return [values[i] for i in self._outputs]


def load(name: str, outputs: Sequence[int] | None = None, changed: Changed | None = None) -> TorchNetwork:
    """A new copy of a network with the wheel's weights, or those `changed`, float32 on the CPU; of only these `outputs` where named."""
    graph = _graph(name) if changed is None else graph_with(_graph(name), changed)
    return TorchNetwork(graph if outputs is None else graph.only(outputs))


@lru_cache
def _graph(name: str) -> Graph:
    return read_graph(network_file(name))


class Convolution(nn.Module):
    """With TensorFlow's padding, which may be one larger at the far side, and the activation that follows."""

    def __init__(self, operation: Operation, graph: Graph, depthwise: bool) -> None:
        super().__init__()
        o, (source, weight, *bias) = operation.options, operation.inputs
        kernel = graph.constants[weight]
        channels = graph.shapes[source][3]
        if depthwise and kernel.shape[3] != channels:
            raise ValueError(f"{operation.kind} with depth multiplier {kernel.shape[3] / channels:g}; only 1 is built")
        self.weight = _parameter(kernel.transpose(3, 0, 1, 2) if depthwise else kernel.transpose(0, 3, 1, 2))
        self.bias = _parameter(graph.constants[bias[0]]) if bias and bias[0] >= 0 else None
        self.stride, self.dilation = (o.strideH, o.strideW), (o.dilationHFactor, o.dilationWFactor)
        self.same, self.groups, self.activation = o.padding == 0, channels if depthwise else 1, o.fusedActivationFunction
        _ = ACTIVATIONS[self.activation]

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps to feature maps."""
        padding = 0
        if self.same:
            edges = _same(x, self.weight.shape[2:], self.stride, self.dilation)
            if edges[0] == edges[1] and edges[2] == edges[3]:
                padding = (edges[2], edges[0])
            else:
                x = F.pad(x, edges)
        y = F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return ACTIVATIONS[self.activation](y)


class Dense(nn.Module):
    """Fully connected; feature maps are taken in the file's order (row, column, channel)."""

    def __init__(self, operation: Operation, graph: Graph) -> None:
        super().__init__()
        self.weight, self.bias = (_parameter(graph.constants[i]) for i in operation.inputs[1:3])
        self.activation = operation.options.fusedActivationFunction

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to (B, n)."""
        return ACTIVATIONS[self.activation](F.linear(_last(x).flatten(1), self.weight, self.bias))


class ParametricReLU(nn.Module):
    """One slope a channel."""

    def __init__(self, operation: Operation, graph: Graph) -> None:
        super().__init__()
        slopes = graph.constants[operation.inputs[1]]
        if slopes.size != slopes.shape[-1]:
            raise ValueError(f"PRELU with slopes of shape {slopes.shape}; only one a channel is built")
        self.weight = _parameter(slopes.reshape(-1))

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps to feature maps."""
        return F.prelu(x, self.weight)


class Enlarging(nn.Module):
    """MediaPipe's `Convolution2DTransposeBias`; its options are three numbers: padding, column and row stride."""

    def __init__(self, operation: Operation, graph: Graph) -> None:
        super().__init__()
        _, across, down = struct.unpack("<iii", operation.options[:12])
        kernel = graph.constants[operation.inputs[1]]
        if kernel.shape[1:3] != (down, across):
            raise ValueError(f"{operation.kind} with kernel {kernel.shape[1:3]} and stride {(down, across)}; only equal ones are built")
        self.weight, self.bias, self.stride = (
            _parameter(kernel.transpose(3, 0, 1, 2)),
            _parameter(graph.constants[operation.inputs[2]]),
            (down, across),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps to larger ones."""
        return F.conv_transpose2d(x, self.weight, self.bias, self.stride)


class Plain(nn.Module):
    """A step without weights; what it needs of constants it holds as buffers."""

    def __init__(self, step: Callable[..., Tensor], fixed: dict[int, Tensor] | None = None) -> None:
        super().__init__()
        self._step, self._places = step, tuple(fixed or ())
        for place, value in (fixed or {}).items():
            self.register_buffer(f"constant_{place}", value)

    def forward(self, *given: Tensor) -> Tensor:
        """The step on its inputs, constants put in their places."""
        arguments = list(given)
        for place in self._places:
            arguments.insert(place, getattr(self, f"constant_{place}"))
        return self._step(*arguments)


def _elementwise(combine: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Operation, Graph], nn.Module]:
    def build(operation: Operation, graph: Graph) -> nn.Module:
        activation = ACTIVATIONS[operation.options.fusedActivationFunction if operation.options else 0]
        fixed = {place: _first(torch.tensor(graph.constants[i])) for place, i in enumerate(operation.inputs) if i in graph.constants}
        return Plain(lambda a, b: activation(combine(a, b)), fixed)

    return build


def _pad(operation: Operation, graph: Graph) -> nn.Module:
    edges = graph.constants[operation.inputs[1]].tolist()
    order = [edges[i] for i in ((2, 1, 3) if len(edges) == 4 else range(len(edges) - 1, 0, -1))]  # innermost axis first
    return Plain(lambda x: F.pad(x, [n for pair in order for n in pair]))


def _pool(operation: Operation, graph: Graph) -> nn.Module:
    o = operation.options
    kernel, stride, same, activation = (o.filterHeight, o.filterWidth), (o.strideH, o.strideW), o.padding == 0, o.fusedActivationFunction
    largest = operation.kind == "MAX_POOL_2D"

    def pool(x: Tensor) -> Tensor:
        edges = _same(x, kernel, stride, (1, 1)) if same else [0] * 4
        if any(edges) and not largest:
            raise ValueError("AVERAGE_POOL_2D over the border is not built")
        x = F.pad(x, edges, value=-torch.inf) if any(edges) else x
        return ACTIVATIONS[activation]((F.max_pool2d if largest else F.avg_pool2d)(x, kernel, stride))

    return Plain(pool)


def _resize(operation: Operation, graph: Graph) -> nn.Module:
    size, o = graph.constants[operation.inputs[1]].tolist(), operation.options
    if not (o.alignCorners or o.halfPixelCenters):
        raise ValueError("RESIZE_BILINEAR without half-pixel centres is not built")
    return Plain(lambda x: F.interpolate(x, size, mode="bilinear", align_corners=bool(o.alignCorners)))


def _reshape(operation: Operation, graph: Graph) -> nn.Module:
    shape = graph.shapes[operation.output][1:]  # the file's batch axis is 1; ours is whatever comes
    return Plain(lambda x: _first(_last(x).reshape(x.shape[0], *shape)))


def _concatenation(operation: Operation, graph: Graph) -> nn.Module:
    rank = len(graph.shapes[operation.output])
    axis = operation.options.axis % rank
    axis = {1: 2, 2: 3, 3: 1}[axis] if rank == 4 else axis
    return Plain(lambda *parts: ACTIVATIONS[operation.options.fusedActivationFunction](torch.cat(parts, axis)))


def _mean(operation: Operation, graph: Graph) -> nn.Module:
    axes = sorted(graph.constants[operation.inputs[1]].reshape(-1).tolist())
    if axes != [1, 2]:
        raise ValueError(f"MEAN over axes {axes}; only over rows and columns is built")
    return Plain(lambda x: x.mean((2, 3), keepdim=bool(operation.options.keepDims)))


def _depth_to_space(operation: Operation, graph: Graph) -> nn.Module:
    block = operation.options.blockSize

    def spread(x: Tensor) -> Tensor:  # channels are (row, column, channel) here, unlike in torch's pixel_shuffle
        B, C, H, W = x.shape
        parts = x.reshape(B, block, block, C // block**2, H, W).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(B, C // block**2, H * block, W * block)

    return Plain(spread)


def _slice(operation: Operation, graph: Graph) -> nn.Module:
    o = operation.options
    if o.beginMask or o.endMask or o.ellipsisMask or o.newAxisMask or o.shrinkAxisMask:
        raise ValueError("STRIDED_SLICE with masks is not built")
    begin, end, step = (graph.constants[i].tolist() for i in operation.inputs[1:4])
    parts = tuple(slice(*limits) for limits in zip(begin, end, step, strict=True))[1:]
    return Plain(lambda x: _first(_last(x)[(slice(None), *parts)]))


LAYERS: dict[str, Callable[[Operation, Graph], nn.Module]] = {
    "CONV_2D": lambda o, g: Convolution(o, g, depthwise=False),
    "DEPTHWISE_CONV_2D": lambda o, g: Convolution(o, g, depthwise=True),
    "FULLY_CONNECTED": Dense,
    "PRELU": ParametricReLU,
    "Convolution2DTransposeBias": Enlarging,
    "ADD": _elementwise(torch.add),
    "SUB": _elementwise(torch.sub),
    "MUL": _elementwise(torch.mul),
    "PAD": _pad,
    "MAX_POOL_2D": _pool,
    "AVERAGE_POOL_2D": _pool,
    "RESIZE_BILINEAR": _resize,
    "RESHAPE": _reshape,
    "CONCATENATION": _concatenation,
    "MEAN": _mean,
    "DEPTH_TO_SPACE": _depth_to_space,
    "STRIDED_SLICE": _slice,
    "LOGISTIC": lambda o, g: Plain(torch.sigmoid),
    "RELU": lambda o, g: Plain(F.relu),
    "HARD_SWISH": lambda o, g: Plain(F.hardswish),
    **{name: lambda o, g, step=step: Plain(step(o.options)) for name, step in FACE_OPERATIONS.items()},
}


def _layer(operation: Operation, graph: Graph) -> nn.Module:
    if operation.kind not in LAYERS:
        raise ValueError(f"a network with the operation {operation.kind} cannot be built in torch; known are {sorted(LAYERS)}")
    return LAYERS[operation.kind](operation, graph)


def _parameter(values: Array) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float32).contiguous())


def _same(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Left, right, top, bottom: edges with which every `stride`-th pixel has its window, the odd one at the far side."""
    edges: list[Any] = []
    for axis in (1, 0):
        n, step = x.shape[2 + axis], stride[axis]
        total = max((-(-n // step) - 1) * step + (kernel[axis] - 1) * dilation[axis] + 1 - n, 0)
        edges += [total // 2, total - total // 2]
    return edges


def _last(x: Tensor) -> Tensor:
    """Feature maps in the file's order, channels last."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def _first(x: Tensor) -> Tensor:
    """Feature maps in torch's order, channels first."""
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x
