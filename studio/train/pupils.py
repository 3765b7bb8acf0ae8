"""Networks of keypoints that can go on learning: a frozen trunk that looks at a crop once, and a small last part that learns from that.

What the trunk says of a crop does not change while the last part learns, so it is asked once and remembered, in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from studio.detect import adapted
from studio.detect.landmarks import BODY
from studio.detect.networks import Networks
from studio.detect.own import square
from studio.detect.regions import Array, Region, around_body, to_image
from studio.detect.tflite import Graph, network_file, read_graph
from studio.detect.torch_network import Convolution, TorchNetwork
from studio.nets import checkpoint
from studio.nets.checkpoint import Card
from studio.nets.hourglass import Hourglass, decoded, normalised, probabilities

Features = dict[str, Tensor]
Matrix = Float[Array, "2 3"]
"""From px of a crop to px of the image."""


class Pupil(Protocol):
    """What adaptation must know of a network."""

    @property
    def keypoints(self) -> tuple[str, ...]:
        """COCO-WholeBody's names of what it sees."""
        ...

    @property
    def side(self) -> int:
        """Of its crops, px."""
        ...

    @property
    def tail(self) -> nn.Module:
        """What learns."""
        ...

    def places(
        self, pyramid: list[UInt8[Array, "H W 3"]], points: Float[Array, "n 2"], rng: np.random.Generator, more: int
    ) -> list[Matrix]:
        """Where it would look at a person whose keypoints these are (image px), and `more` such places that are a little off."""
        ...

    def remembered(self, crops: UInt8[Tensor, "B side side 3"]) -> Features:
        """What the trunk says; a batch axis first."""
        ...

    def look(self, tail: nn.Module, features: Features) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K h w"]]:
        """Points (crop px), as its detector reads them, and the maps from which it reads them; differentiable in the tail."""
        ...

    def apart(self, maps: Float[Tensor, "B K h w"], first: Float[Tensor, "B K h w"]) -> Float[Tensor, ""]:
        """How far maps have drifted from the first ones."""
        ...

    def write(self, path: Path, tail: nn.Module, card: Card) -> Path:
        """What its detector loads."""
        ...


class Frozen(nn.Module):
    """A part whose statistics stay as they are while its weights learn."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def train(self, mode: bool = True) -> Frozen:
        """Always as in evaluation."""
        return super().train(False)


class Pose:
    """The wheel's pose network: its 39 heat maps learn to say where landmarks are, through the last layers that lead to them.

    Coarse landmarks, from which it knows where to look next, presence, visibility and the 3D guess stay as they are; heat maps move
    landmarks by at most 4 of their cells, 16 px of the crop, and only where one is at least 0.5 high.
    """

    TAUGHT = (16, 26, 51, 70, 95)
    """Places of the operations that learn: the feature pyramid's ways in from five scales, and the maps' own layer."""
    REACH = 4
    """Cells."""

    def __init__(self) -> None:
        graph = read_graph(network_file("pose")).only((0, 3))
        whole = read_graph(network_file("pose"))
        taught = {whole.operations[i].output for i in self.TAUGHT}
        tail, made = [], set()
        for operation in graph.operations:
            if operation.output in taught or made & set(operation.inputs):
                tail.append(operation)
                made.add(operation.output)
        self._cut = tuple(sorted({i for o in tail for i in o.inputs if i >= 0 and i not in graph.constants and i not in made}))
        self._coarse, self._heat = graph.outputs
        trunk = replace(graph, outputs=(self._coarse, *self._cut)).only(range(1 + len(self._cut)))
        self._trunk = TorchNetwork(trunk).eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._graph: Graph = replace(graph, operations=tuple(tail), outputs=(self._heat,))
        self.tail = TorchNetwork(self._graph).eval()
        self.keypoints, self.side = tuple(BODY), graph.shapes[graph.input][1]
        self._which = list(BODY.values())
        self._networks = Networks()

    def places(
        self, pyramid: list[UInt8[Array, "H W 3"]], points: Float[Array, "n 2"], rng: np.random.Generator, more: int
    ) -> list[Matrix]:
        """As the detector follows people: by the two extra landmarks, seen in a first region around the known keypoints."""
        low, high = points.min(0), points.max(0)
        middle = (low + high) / 2
        first = Region(float(middle[0]), float(middle[1]), 1.25 * float((high - low).max()), 0.0)
        for _ in range(2):
            first = around_body(*self._networks.pose(pyramid, first).anchors)
        off = rng.uniform(-1, 1, (more, 4)) * (0.04, 0.04, 0.1, 0.15)
        others = [
            first._replace(x=first.x + dx * first.size, y=first.y + dy * first.size, size=first.size * (1 + grow), angle=first.angle + turn)
            for dx, dy, grow, turn in off.tolist()
        ]
        return [_matrix(region, self.side) for region in (first, *others)]

    @torch.no_grad()
    def remembered(self, crops: UInt8[Tensor, "B side side 3"]) -> Features:
        """Coarse landmarks, and the maps' ingredients at five scales."""
        images = (crops.movedim(-1, 1).float() / 255).contiguous(memory_format=torch.channels_last)
        coarse, *cut = self._trunk(images)
        points = coarse.unflatten(1, (39, 5))[:, self._which, :2]
        return {"coarse": points.clone(), **{str(i): y.half() for i, y in zip(self._cut, cut, strict=True)}}

    def look(self, tail: nn.Module, features: Features) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K h w"]]:
        """As `studio.detect.networks` refines landmarks: the centre of mass around the coarse one, where the map is sure."""
        (heat,) = tail.run({i: features[str(i)].float() for i in self._cut})  # type: ignore[operator]
        maps = torch.sigmoid(heat[:, self._which].float())
        return refined(features["coarse"] / self.side, maps, self.REACH) * self.side, maps

    def apart(self, maps: Float[Tensor, "B K h w"], first: Float[Tensor, "B K h w"]) -> Float[Tensor, ""]:
        """Of what a map holds in all, and of its height: where it is may change."""
        mass = ((maps.sum((-1, -2)) - first.sum((-1, -2))) / first.sum((-1, -2)).clamp_min(1)).square().mean()
        return mass + (maps.amax((-1, -2)) - first.amax((-1, -2))).square().mean() + 10 * (maps - first).square().sum((-1, -2)).mean() / 50

    def write(self, path: Path, tail: nn.Module, card: Card) -> Path:
        """The difference to the wheel's file."""
        return adapted.write(path, "pose", self.constants(tail), card)

    def constants(self, tail: nn.Module) -> dict[int, Array]:
        """The taught layers' weights by their number in the file, axes in its order."""
        found: dict[int, Array] = {}
        for operation, layer in zip(self._graph.operations, tail.layers, strict=True):  # type: ignore[arg-type]
            if isinstance(layer, Convolution):
                axes = (1, 2, 3, 0) if layer.groups > 1 else (0, 2, 3, 1)
                found[operation.inputs[1]] = layer.weight.detach().permute(axes).numpy()
                if layer.bias is not None:
                    found[operation.inputs[2]] = layer.bias.detach().numpy()
        return found


class Own:
    """Our hourglass: its last stack's way out learns."""

    def __init__(self, weights: str | Path = "hourglass") -> None:
        """By the name of a checkpoint, or its file."""
        self._network, self._card = checkpoint.read(weights, Hourglass, "hourglass")
        self._network.requires_grad_(False)
        last = nn.Sequential(self._network.after[-1], self._network.heads[-1]).requires_grad_(True)
        self.tail = Frozen(last).eval()
        self.keypoints, self.side = self._card.keypoints, self._card.size[0]

    def places(
        self, pyramid: list[UInt8[Array, "H W 3"]], points: Float[Array, "n 2"], rng: np.random.Generator, more: int
    ) -> list[Matrix]:
        """The square around the keypoints."""
        matrix, _ = square(points, self.side)
        middle = matrix @ (*[(self.side - 1) / 2] * 2, 1)
        found = [matrix]
        for dx, dy, grow in (rng.uniform(-1, 1, (more, 3)) * (0.05, 0.05, 0.1)).tolist():
            turn = matrix[:, :2] * (1 + grow)
            shift = middle + matrix[0, 0] * self.side * np.array([dx, dy]) - turn @ np.full(2, (self.side - 1) / 2)
            found.append(np.concatenate([turn, shift[:, None]], 1))
        return found

    @torch.no_grad()
    def remembered(self, crops: UInt8[Tensor, "B side side 3"]) -> Features:
        """The last stack's features."""
        kept: list[Any] = []
        hook = self._network.glasses[-1].register_forward_hook(lambda module, given, out: kept.append(out))
        try:
            self._network(normalised(crops))
        finally:
            hook.remove()
        return {"features": kept[0].half()}

    def look(self, tail: nn.Module, features: Features) -> tuple[Float[Tensor, "B K 2"], Float[Tensor, "B K h w"]]:
        """As `studio.nets.hourglass` decodes, without the mirror image."""
        maps = probabilities(tail.part(features["features"].float()))  # type: ignore[operator]
        return decoded(maps).points, maps

    def apart(self, maps: Float[Tensor, "B K h w"], first: Float[Tensor, "B K h w"]) -> Float[Tensor, ""]:
        """The distributions' mean divergence."""
        return (first * (first.clamp_min(1e-9).log() - maps.clamp_min(1e-9).log())).sum((-1, -2)).mean()

    def write(self, path: Path, tail: nn.Module, card: Card) -> Path:
        """A whole checkpoint, for `--detector`."""
        after, head = cast(nn.Sequential, tail.part)
        self._network.after[-1].load_state_dict(after.state_dict())
        self._network.heads[-1].load_state_dict(head.state_dict())
        known = self._card
        facts = {"name": card.name, "steps": card.steps, "seeds": card.seeds, "metrics": {**known.metrics, "adapted": card.metrics}}
        return checkpoint.write(path, self._network, replace(known, data=f"{known.data}; then {card.data}", **facts))


PUPILS = {"pose": Pose, "hourglass": Own}


def refined(points: Float[Tensor, "B K 2"], maps: Float[Tensor, "B K h w"], reach: int) -> Float[Tensor, "B K 2"]:
    """Points (0..1) moved to the centre of mass of their map within `reach` cells, where it is sure (0.5) of them."""
    h, w = maps.shape[-2:]
    cell = (points.detach() * points.new_tensor([w, h])).trunc()
    x, y = torch.arange(w, device=maps.device), torch.arange(h, device=maps.device)
    across, down = (x - cell[..., :1]).abs() <= reach, (y - cell[..., 1:]).abs() <= reach
    weight = maps * (down[..., :, None] & across[..., None, :])
    inside = ((cell >= 0) & (cell < cell.new_tensor([w, h]))).all(-1)
    sure = inside & (weight.detach().amax((-1, -2)) >= 0.5)
    total = weight.sum((-1, -2)).clamp_min(1e-6)
    centre = torch.stack([(weight.sum(-2) * x).sum(-1) / total / w, (weight.sum(-1) * y).sum(-1) / total / h], -1)
    return torch.where(sure[..., None], centre, points)


def joined(parts: Sequence[Features]) -> Features:
    """Several batches as one."""
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]} if parts else {}


def _matrix(region: Region, side: int) -> Matrix:
    a, b, c = to_image(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), region, side)
    return np.stack([b - a, c - a, a], 1)
