"""An FBX file's objects, and where each of its models is at any time, in the file's own axes and unit.

A model's local matrix is T Roff Rp Rpre R Rpost^-1 Rp^-1 Soff Sp S Sp^-1 (Autodesk, "Computing transformation matrices").
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rigs import euler
from rigs.characters.fbx_curves import Curve
from rigs.characters.fbx_nodes import Node, load

ORDERS = ("ZYX", "YZX", "XZY", "ZXY", "YXZ", "XYZ", "ZYX")
"""FBX's orders of rotation as products of matrices: its XYZ turns about x first, which is Rz Ry Rx."""
RATES = {1: 120, 2: 100, 3: 60, 4: 50, 5: 48, 6: 30, 7: 30, 8: 30000 / 1001, 9: 30000 / 1001, 10: 25, 11: 24, 12: 1000,
         13: 24000 / 1001, 15: 96, 16: 72, 17: 60000 / 1001}  # fmt: skip
"""TimeMode -> frames a second; 14 is custom, 0 leaves it to the program."""
IGNORES_PARENT_SCALE = 2
FIELDS = {"Lcl Translation": "t", "Lcl Rotation": "r", "Lcl Scaling": "s"}


@dataclass(frozen=True)
class Model:
    """One node of the scene with what its transform is made of."""

    id: int
    name: str
    kind: str
    """LimbNode, Null, Mesh ..."""
    parent: int
    """Id of the model above; 0 for none."""
    t: Float[Tensor, "3"]
    r: Float[Tensor, "3"]
    """Degrees, x y z."""
    s: Float[Tensor, "3"]
    order: str
    pre: Float[Tensor, "3 3"]
    post: Float[Tensor, "3 3"]
    """Already inverted."""
    pivots: Float[Tensor, "4 3"]
    """Rotation offset, rotation pivot, scaling offset, scaling pivot."""
    inherit: int

    def local(self, t: Float[Tensor, "T 3"], r: Float[Tensor, "T 3"], s: Float[Tensor, "T 3"]) -> Float[Tensor, "T 4 4"]:
        """Local matrix from translation, rotation (degrees) and scaling."""
        R = self.turned(r)
        roff, rp, soff, sp = self.pivots
        M = torch.zeros(len(t), 4, 4, dtype=torch.float64)
        M[:, :3, :3] = R * s[:, None, :]
        M[:, :3, 3] = t + roff + rp + (R @ (soff + sp - rp - s * sp)[..., None])[..., 0]
        M[:, 3, 3] = 1
        return M

    def turned(self, r: Float[Tensor, "T 3"]) -> Float[Tensor, "T 3 3"]:
        """Local rotation from angles about x, y, z (degrees)."""
        letters = ["XYZ".index(axis) for axis in self.order]
        return self.pre @ euler.matrix(torch.deg2rad(r)[:, letters], self.order) @ self.post


@dataclass
class Scene:
    """Everything in an FBX file that a character needs."""

    path: Path
    nodes: list[Node]
    version: int
    objects: dict[int, Node]
    models: dict[int, Model]
    links: list[tuple[int, int, str]]
    """Child, parent, name of the property (empty for a plain connection)."""
    settings: dict[str, tuple[Any, ...]]
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path) -> Scene:
        """The scene of a binary FBX; a `ValueError` names the file and what is wrong with it."""
        nodes, version = load(path)
        tops = {n.name: n for n in nodes}
        if "Objects" not in tops:
            raise ValueError(f"{path}: holds no objects; export it again with its skeleton")
        try:
            objects = {int(n.properties[0]): n for n in tops["Objects"].children if n.properties}
            links = [_link(c) for c in tops["Connections"].children] if "Connections" in tops else []
            settings = tops["GlobalSettings"].table if "GlobalSettings" in tops else {}
            scene = cls(path, nodes, version, objects, {}, links, settings)
            bodies = {i for i, node in objects.items() if node.name == "Model"}
            above = {a: b for a, b, name in links if not name and a in bodies and b in bodies}
            defaults = _defaults(tops.get("Definitions"))
            for i in [i for i in objects if i in bodies]:
                scene.models[i] = _model(i, objects[i], above.get(i, 0), defaults)
        except (IndexError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: its objects are not as FBX has them ({error}); export it again") from error
        scene._no_loops()
        return scene

    def _no_loops(self) -> None:
        for i in self.models:
            seen, at = set(), i
            while at:
                if at in seen:
                    raise ValueError(f"{self.path}: model {self.models[i].name!r} is its own ancestor; export the file again")
                seen.add(at)
                at = self.models[at].parent if at in self.models else 0

    def under(self, parent: int, kind: str) -> list[int]:
        """Ids of the objects of a kind connected below another object."""
        return [a for a, b, name in self.links if b == parent and not name and a in self.objects and self.objects[a].name == kind]

    @property
    def fps(self) -> float:
        """Frames a second of the file's time mode; 30 where it leaves that to the program."""
        mode = int(self.settings.get("TimeMode", (0,))[0])
        custom = float(self.settings.get("CustomFrameRate", (0,))[0])
        return custom if mode == 14 and custom > 0 else float(RATES.get(mode, 30))

    @property
    def stacks(self) -> dict[str, list[int]]:
        """Take name -> its layers, lowest first."""
        found = {}
        for i, node in self.objects.items():
            if node.name == "AnimationStack":
                found[label(node)] = sorted(self.under(i, "AnimationLayer"), key=lambda j: list(self.objects).index(j))
        return found

    def span(self, stack: str) -> tuple[int, int]:
        """First and last time of a take, in FBX ticks."""
        node = next(n for n in self.objects.values() if n.name == "AnimationStack" and label(n) == stack)
        table = node.table
        if "LocalStop" in table:
            return int(table.get("LocalStart", (0,))[0]), int(table["LocalStop"][0])
        takes = next((n for n in self.nodes if n.name == "Takes"), Node("Takes"))
        for take in takes.children:
            if take.name == "Take" and take.properties and take.properties[0] == stack and take.child("LocalTime"):
                return tuple(int(v) for v in take.child("LocalTime").properties[:2])  # type: ignore[union-attr, return-value]
        times = [c.ticks for curves in self.curves(stack).values() for axes in curves for c in axes.values()]
        return (int(min(t[0] for t in times)), int(max(t[-1] for t in times))) if times else (0, 0)

    def curves(self, stack: str) -> dict[tuple[int, str], list[dict[str, Curve]]]:
        """(model, field) -> for each layer the curves of its axes; an axis without a curve keeps the layer's constant as one key."""
        drives = defaultdict(list)
        for a, b, name in self.links:
            if name:
                drives[b].append((a, name))
        targets = {a: (b, name) for a, b, name in self.links if name and a in self.objects and self.objects[a].name == "AnimationCurveNode"}
        found: dict[tuple[int, str], list[dict[str, Curve]]] = defaultdict(list)
        for layer in self.stacks[stack]:
            for group in self.under(layer, "AnimationCurveNode"):
                target = targets.get(group)
                if target is None or target[1] not in FIELDS or target[0] not in self.models:
                    continue
                axes = {k[2:]: _constant(v[0]) for k, v in self.objects[group].table.items() if k in ("d|X", "d|Y", "d|Z") and v}
                axes |= self._keyed(drives[group])
                if axes:
                    found[target].append(axes)
        return found

    def _keyed(self, drivers: list[tuple[int, str]]) -> dict[str, Curve]:
        keyed = {}
        for i, name in drivers:
            if i in self.objects and self.objects[i].name == "AnimationCurve" and name in ("d|X", "d|Y", "d|Z"):
                try:
                    curve = Curve.of(self.objects[i])
                except (ValueError, TypeError) as error:
                    raise ValueError(f"{self.path}: animation: {error}; export it again") from error
                if curve is not None:
                    keyed[name[2:]] = curve
        return keyed

    def world(self, stack: str | None, ticks: Int[np.ndarray, "T"]) -> dict[int, Float[Tensor, "T 4 4"]]:
        """Model -> world matrix at each time, in the file's axes and unit; without a take, as the file stands."""
        curves = self.curves(stack) if stack is not None else {}
        result: dict[int, Tensor] = {0: torch.eye(4, dtype=torch.float64).expand(len(ticks), 4, 4)}

        def values(model: Model, name: str) -> Tensor:
            still = getattr(model, FIELDS[name]).expand(len(ticks), 3)
            layers = curves.get((model.id, name), [])
            if not layers:
                return still
            table = still.clone()
            for n, axes in enumerate(layers):
                for axis, curve in axes.items():
                    sampled = torch.from_numpy(curve.at(ticks))
                    table[:, "XYZ".index(axis)] = sampled if n == 0 else table[:, "XYZ".index(axis)] + sampled
            return table

        def of(i: int) -> Tensor:
            if i not in result:
                model = self.models[i]
                local = model.local(*(values(model, name) for name in FIELDS))
                result[i] = joined(of(model.parent) if model.parent in self.models else result[0], local, model.inherit)
            return result[i]

        for i in self.models:
            of(i)
        return result


def joined(above: Float[Tensor, "T 4 4"], local: Float[Tensor, "T 4 4"], inherit: int) -> Float[Tensor, "T 4 4"]:
    """World matrix of a model below another; joints may ignore their parent's scaling (but not for where they are)."""
    M = above @ local
    if inherit == IGNORES_PARENT_SCALE:
        size = above[:, :3, :3].norm(dim=1, keepdim=True).clamp_min(1e-12)
        M[:, :3, :3] = (above[:, :3, :3] / size) @ local[:, :3, :3]
    return M


def label(node: Node) -> str:
    """An object's name."""
    return str(node.properties[1]).split("\0")[0] if len(node.properties) > 1 else ""


def _constant(value: Any) -> Curve:
    one = np.zeros((1, 2))
    return Curve(np.zeros(1, np.int64), np.array([float(value)]), np.full(1, 4), one, one)


def _link(node: Node) -> tuple[int, int, str]:
    kind, child, parent, *more = node.properties
    return int(child), int(parent), str(more[0]) if kind == "OP" and more else ""


def _defaults(definitions: Node | None) -> dict[str, tuple[Any, ...]]:
    """Settings that the file gives to every model that does not say otherwise."""
    for kind in definitions.children if definitions else []:
        if kind.name == "ObjectType" and kind.properties and kind.properties[0] == "Model":
            template = kind.child("PropertyTemplate")
            return template.table if template else {}
    return {}


def _model(i: int, node: Node, parent: int, defaults: dict[str, tuple[Any, ...]]) -> Model:
    table = {**defaults, **node.table}

    def vector(name: str, plain: float = 0.0) -> Tensor:
        values = table.get(name, ())
        return torch.tensor([float(v) for v in values[:3]] if len(values) >= 3 else [plain] * 3, dtype=torch.float64)

    active = bool(table.get("RotationActive", (0,))[0])
    order = int(table.get("RotationOrder", (0,))[0]) if active else 0

    def fixed(name: str) -> Tensor:
        return euler.matrix(torch.deg2rad(vector(name))[[2, 1, 0]], "ZYX") if active else torch.eye(3, dtype=torch.float64)

    pivots = torch.stack([vector(n) for n in ("RotationOffset", "RotationPivot", "ScalingOffset", "ScalingPivot")])
    return Model(
        i,
        label(node),
        str(node.properties[2]),
        parent,
        vector("Lcl Translation"),
        vector("Lcl Rotation"),
        vector("Lcl Scaling", 1.0),
        ORDERS[order] if 0 <= order < len(ORDERS) else "ZYX",
        fixed("PreRotation"),
        fixed("PostRotation").mT,
        pivots,
        int(table.get("InheritType", (0,))[0]),
    )
