"""What every FBX file has besides its characters: header, axes, rate, objects and their connections, one take and its curves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rigs.characters.fbx_nodes import CREATION_TIME, FILE_ID, VERSION, Int, Node

TICKS = 46186158000
"""FBX time units a second."""
TIME_MODES = {
    120: 1,
    100: 2,
    60: 3,
    50: 4,
    48: 5,
    30: 6,
    30000 / 1001: 9,
    25: 10,
    24: 11,
    24000 / 1001: 13,
    96: 15,
    72: 16,
    60000 / 1001: 17,
}
CUSTOM_RATE, DROP_FRAME = 14, 8
LINEAR = 4
SEPARATOR = "\0\1"


@dataclass
class Objects:
    """Objects and who belongs to whom, while they grow."""

    objects: Node = field(default_factory=lambda: Node("Objects"))
    connections: Node = field(default_factory=lambda: Node("Connections"))
    last: int = 1_000_000

    def object(self, kind: str, name: str, cls: str, *more: str) -> tuple[int, Node]:
        """A new object's id and node; FBX calls it `name`, of class `cls`."""
        self.last += 1
        return self.last, self.objects.add(kind, self.last, f"{name}{SEPARATOR}{cls}", *(more or ("",)))

    def model(self, number: int) -> Node:
        """The object with this id."""
        return next(node for node in reversed(self.objects.children) if node.properties[0] == number)

    def connect(self, child: int, parent: int, field_name: str | None = None) -> None:
        """Put an object under another, or on one of its properties."""
        if field_name is None:
            self.connections.add("C", "OO", child, parent)
        else:
            self.connections.add("C", "OP", child, parent, field_name)


@dataclass(frozen=True)
class Curves:
    """One take of one layer that grows curve by curve."""

    scene: Objects
    layer: int
    ticks: np.ndarray

    @classmethod
    def of(cls, scene: Objects, clip: str, ticks: np.ndarray) -> Curves:
        """A new take called `clip` with keys at these times."""
        stack, node = scene.object("AnimationStack", clip, "AnimStack")
        node.settings(*((name, "KTime", "Time", "", int(value)) for name, value in span("Local", ticks) + span("Reference", ticks)))
        layer, _ = scene.object("AnimationLayer", "BaseLayer", "AnimLayer")
        scene.connect(layer, stack)
        return cls(scene, layer, ticks)

    def on(self, target: int, field_name: str, short: str, values: dict[str, np.ndarray], frames: np.ndarray | None = None) -> None:
        """Animate a property of an object: a value per frame for each of its axes; keys on all frames, or on those chosen."""
        group, node = self.scene.object("AnimationCurveNode", short, "AnimCurveNode")
        node.settings(*((f"d|{axis}", "Number", "", "A", float(v[0])) for axis, v in values.items()))
        self.scene.connect(group, self.layer)
        self.scene.connect(group, target, field_name)
        for axis, v in values.items():
            ticks, v = (self.ticks, v) if frames is None else (self.ticks[frames], v[frames])
            self.scene.connect(keyed(self.scene, ticks, v), group, f"d|{axis}")


def keyed(scene: Objects, ticks: np.ndarray, values: np.ndarray) -> int:
    """A linear curve with a key at each of these times; one key where nothing changes."""
    this, node = scene.object("AnimationCurve", "", "AnimCurve")
    count = 1 if float(np.ptp(values)) == 0.0 else len(ticks)
    node.fill(Default=float(values[0]), KeyVer=Int(4008), KeyTime=ticks[:count], KeyValueFloat=values[:count].astype(np.float32))
    node.fill(
        KeyAttrFlags=np.array([LINEAR], np.int32), KeyAttrDataFloat=np.zeros(4, np.float32), KeyAttrRefCount=np.array([count], np.int32)
    )
    return this


def span(kind: str, ticks: np.ndarray) -> list[tuple[str, int]]:
    """First and last key as two settings."""
    return [(f"{kind}Start", int(ticks[0])), (f"{kind}Stop", int(ticks[-1]))]


def head(path: Path, fps: float, clip: str, ticks: np.ndarray, version: int = VERSION, drop: bool = False) -> list[Node]:
    """Everything before the objects: who wrote it, axes, unit, rate."""
    header = Node("FBXHeaderExtension").fill(FBXHeaderVersion=Int(1003), FBXVersion=Int(version), EncryptionType=Int(0))
    moment = dict(Year=1970, Month=1, Day=1, Hour=10, Minute=0, Second=0, Millisecond=0)
    header.add("CreationTimeStamp").fill(Version=Int(1000), **{k: Int(v) for k, v in moment.items()})
    header.fill(Creator="mocap-studio")
    info = header.add("SceneInfo", f"GlobalInfo{SEPARATOR}SceneInfo", "UserData").fill(Type="UserData", Version=Int(100))
    info.settings(
        ("DocumentUrl", "KString", "Url", "", path.name),
        ("SrcDocumentUrl", "KString", "Url", "", path.name),
        ("Original", "Compound", "", ""),
        ("Original|ApplicationName", "KString", "", "", "mocap-studio"),
        ("Original|FileName", "KString", "", "", path.name),
    )
    rate = time_mode(fps, drop)
    axes = {
        "UpAxis": 1,
        "UpAxisSign": 1,
        "FrontAxis": 2,
        "FrontAxisSign": 1,
        "CoordAxis": 0,
        "CoordAxisSign": 1,
        "OriginalUpAxis": 1,
        "OriginalUpAxisSign": 1,
    }
    world = (
        Node("GlobalSettings")
        .fill(Version=Int(1000))
        .settings(
            *((name, "int", "Integer", "", Int(value)) for name, value in axes.items()),
            ("UnitScaleFactor", "double", "Number", "", 1.0),
            ("OriginalUnitScaleFactor", "double", "Number", "", 1.0),
            ("TimeMode", "enum", "", "", Int(rate)),
            *((name, "KTime", "Time", "", value) for name, value in span("TimeSpan", ticks)),
            ("CustomFrameRate", "double", "Number", "", float(fps)),
        )
    )
    documents = Node("Documents").fill(Count=Int(1))
    document = documents.add("Document", 1, "Scene", "Scene")
    document.settings(("SourceObject", "object", "", ""), ("ActiveAnimStackName", "KString", "", "", clip)).fill(RootNode=0)
    return [
        header,
        Node("FileId", (FILE_ID,)),
        Node("CreationTime", (CREATION_TIME,)),
        Node("Creator", ("mocap-studio",)),
        world,
        documents,
        Node("References"),
    ]


def time_mode(fps: float, drop: bool = False) -> int:
    """FBX's number for a frame rate; 29.97 has another where timecode drops frame numbers."""
    if drop and abs(fps - 30000 / 1001) < 1e-4:
        return DROP_FRAME
    return next((mode for rate, mode in TIME_MODES.items() if abs(rate - fps) < 1e-4), CUSTOM_RATE)


def definitions(scene: Objects) -> Node:
    """How many objects of each kind there are."""
    counts = Counter(node.name for node in scene.objects.children)
    table = Node("Definitions").fill(Version=Int(100), Count=Int(1 + counts.total()))
    for kind, count in {"GlobalSettings": 1, **counts}.items():
        table.add("ObjectType", kind).fill(Count=Int(count))
    return table


def takes(clip: str, ticks: np.ndarray) -> Node:
    """The old table of takes, which some readers still look into."""
    takes = Node("Takes").fill(Current=clip)
    entry = takes.add("Take", clip).fill(FileName=f"{clip.replace(' ', '_')}.tak")
    entry.add("LocalTime", int(ticks[0]), int(ticks[-1]))
    entry.add("ReferenceTime", int(ticks[0]), int(ticks[-1]))
    return takes
