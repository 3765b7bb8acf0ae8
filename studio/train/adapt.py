"""A studio's own unlabelled takes improve its networks: every view learns what all of them together say.

Triangulate, then teach, with the labels' covariance as weight, is the calibrated form of the multi-view consistency of Rhodin et al.,
Learning Monocular 3D Human Pose Estimation from Multi-view Images, 2018; its pull towards the network's first outputs is kept. Only a
network's last part learns. One camera has no say in the labels and is not learned from; on it, and on moments that were kept back, the
network must come closer to what the others see, or nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from calibration.cameras import Cameras
from studio.nets.checkpoint import Card
from studio.take import Session, Take
from studio.train.jobs import Gate
from studio.train.loop import Loop, Losses, Player, learn
from studio.train.moments import Labels, Moments, labels_of, left_out, moments_of, points_of, to_crop
from studio.train.pupils import PUPILS, Pupil

HELD = 0.25
"""Share of a take's moments, its last ones, from which nothing is learned."""
AGREE = 0.8
"""A camera that agrees with the others in a smaller share of what it sees has moved, or is out of step."""
BATCH = 16
FLOOR = 1.0
"""px of the crop: what even the best label is taken to be off."""
FAR = 12.0
"""px of the crop by which a label may be off what the network says; beyond, one of them means something else."""
BETTER = 0.98
"""Of the first network's median error on the camera left out: an adapted one must be below."""
LOOKS = 2000
"""Remembered at most: the pose network's features of one look are 0.4 MB."""
SURE = 0.95
"""Of redrawn sets of moments, the share in which the adapted network must be better there."""


@dataclass(frozen=True)
class Adapting:
    """How to adapt."""

    network: Literal["pose", "hourglass"] = "pose"
    """`pose`: the wheel's landmarks of bodies; `hourglass`: our own."""
    weights: str = "hourglass"
    """Of `hourglass`: the checkpoint to begin from."""
    hold_out: str | None = None
    """The camera that has no say; by default the last by name of each take's cameras."""
    steps: int = 300
    minutes: float | None = None
    """Stop learning after this long and judge what there is."""
    seed: int = 0
    moments: int = 120
    """At most, over all takes; fewer where there are so many cameras that `LOOKS` would be exceeded."""
    more: int = 1
    """Looks beside the network's own, a little off, that are learned from."""
    rate: float = 1e-4
    stay: float = 0.3
    """Weight of the pull towards the first outputs."""


@dataclass(frozen=True)
class Judged:
    """Medians and 90th percentiles, px, over what was measured, with the first network and with the adapted one."""

    rows: dict[str, tuple[float, float, float, float]]
    """What was measured on -> first median, adapted median, first 90 %, adapted 90 %."""
    better: float
    """Share of redrawn sets of moments in which the median on the camera left out, in moments kept back, falls."""
    gates: tuple[Gate, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether every gate is passed."""
        return all(gate.passed for gate in self.gates)

    def show(self, console: Console) -> None:
        """Print the table and the gates."""
        view = Table("distance to what the other cameras see, px", "before", "after", "90 % before", "90 % after")
        for column in view.columns[1:]:
            column.justify = "right"
        for name, values in self.rows.items():
            view.add_row(name, *(f"{v:.2f}" for v in values))
        console.print(view)
        for gate in self.gates:
            sign, colour = (">=" if gate.at_least else "<="), ("green" if gate.passed else "bold red")
            console.print(f"[{colour}]{'passed' if gate.passed else 'MISSED'}[/] {gate.name}: {gate.value:.3f} {sign} {gate.limit:g}")


@dataclass
class Lesson:
    """One take as it is learned from: what the network first said, the labels, and who may teach and learn."""

    moments: Moments
    first: Float[Tensor, "C n K 2"]
    """px of the images, by the network as it was."""
    labels: Labels
    out: int
    """The camera left out."""
    late: Bool[Tensor, "n"]
    """Moments kept back."""
    targets: Float[Tensor, "m K 2"] = field(init=False)
    """px of the crops; NaN where there is no label."""
    weight: Float[Tensor, "m K"] = field(init=False)
    rows: Int[Tensor, "m"] = field(init=False)
    """Of the features."""

    def __post_init__(self) -> None:
        teach = self.moments.row >= 0
        teach[self.out] = False
        teach[:, self.late] = False
        c, i, v = teach.nonzero().unbind(-1)
        matrix = self.moments.matrix[c, i, v]
        scale = torch.linalg.det(matrix[..., :2]).sqrt()[:, None]
        self.rows, self.targets = self.moments.row[c, i, v], to_crop(self.labels.pixels[c, i], matrix)
        gone = (to_crop(self.first[c, i], matrix) - self.targets).norm(dim=-1)
        sigma = self.labels.sigma[c, i] / scale
        known = torch.isfinite(gone) & (gone < FAR) & torch.isfinite(sigma)
        self.weight = torch.where(known, FLOOR**2 / (FLOOR**2 + sigma**2), 0.0)
        self.targets = torch.where(known[..., None], self.targets, 0.0)
        some = known.sum(-1) >= 4
        self.rows, self.targets, self.weight = self.rows[some], self.targets[some], self.weight[some]


def lesson_of(moments: Moments, pupil: Pupil, hold_out: str | None = None, cameras: Cameras | None = None, checked: bool = True) -> Lesson:
    """What a take teaches. `ValueError` where cameras are too few, or one of them does not agree with the others (unless not `checked`).

    `cameras` in place of the moments' own is for a control.
    """
    names = moments.cameras.names
    if hold_out is not None and hold_out not in names:
        raise ValueError(f"{moments.name}: no camera {hold_out!r} to leave out; there are {list(names)}")
    if len(names) < 3:
        raise ValueError(f"{moments.name}: has {len(names)} cameras; to learn from two and to judge by a third, three are needed")
    out = len(names) - 1 if hold_out is None else names.index(hold_out)
    teachers = torch.ones(len(names), dtype=torch.bool)
    teachers[out] = False
    first = points_of(moments, pupil, pupil.tail)
    labels = labels_of(moments, first, teachers, cameras)
    odd = [(n, float(a)) for n, a, t in zip(names, labels.agree, teachers, strict=True) if t and not float(a) >= AGREE]
    if checked and odd:
        worst, share = min(odd, key=lambda o: o[1])
        raise ValueError(
            f"{moments.name}: camera {worst!r} agrees with the others in {100 * share:.0f} % of what it sees; nothing can be learned from "
            "such views. Check its calibration and its clock (`studio sync`), or leave the take out"
        )
    late = torch.arange(len(moments)) >= round((1 - HELD) * len(moments))
    if checked and (int(late.sum()) < 3 or int((~late).sum()) < 6):
        raise ValueError(f"{moments.name}: {len(moments)} moments are too few to learn and to judge; use longer takes")
    return Lesson(moments, first, labels, out, late)


def taught(pupil: Pupil, lessons: Sequence[Lesson], config: Adapting) -> nn.Module:
    """The network's last part after the lessons; `ValueError` where no view has a label."""
    weights = torch.tensor([float(len(x.rows)) for x in lessons])
    if not float(weights.sum()):
        raise ValueError("adapt: the views agree on nobody, so there is nothing to learn; check the calibration and the clocks")
    tail, before = deepcopy(pupil.tail), deepcopy(pupil.tail).eval()

    def batch(step: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        lesson = lessons[int(torch.multinomial(weights, 1, generator=g))]
        pick = torch.randint(len(lesson.rows), (BATCH,), generator=g)
        features = {k: v[lesson.rows[pick]] for k, v in lesson.moments.features.items()}
        return {"target": lesson.targets[pick], "weight": lesson.weight[pick], **{f"/{k}": v for k, v in features.items()}}

    def loss(b: dict[str, Tensor]) -> Losses:
        features = {k[1:]: v for k, v in b.items() if k[0] == "/"}
        points, maps = pupil.look(tail, features)
        with torch.no_grad():
            _, said = pupil.look(before, features)
        off = (points - b["target"]).square().sum(-1)
        agree = (b["weight"] * ((1 + off / 4).sqrt() - 1)).sum() / b["weight"].sum().clamp_min(1)
        return {"agree": agree} | ({"stay": config.stay * pupil.apart(maps, said)} if config.stay else {})

    player = Player(tail, loss, rate=config.rate, decay=0.0, average=0.98)
    learn(player, batch, Loop(config.steps, config.seed, config.minutes, device="cpu", precision="float32"))
    return tail


def judged(pupil: Pupil, tail: nn.Module, lessons: Sequence[Lesson]) -> Judged:
    """The network with this last part beside the first one: how far each is from what the *other* cameras' first looks triangulate to."""
    kinds = ("camera left out, moments kept back", "camera left out, all moments", "other cameras, moments kept back")
    pairs: dict[str, list[Tensor]] = {k: [] for k in kinds}
    for lesson in lessons:
        after = points_of(lesson.moments, pupil, tail)
        for c in range(len(lesson.moments.cameras)):
            truth = left_out(lesson.moments, lesson.first, c)
            seen = torch.isfinite(lesson.moments.sigma[c])
            off = torch.stack([(p[c] - truth).norm(dim=-1) for p in (lesson.first, after)], -1)
            off = torch.where(seen[..., None], off, torch.nan)
            if c == lesson.out:
                pairs[kinds[0]].append(off[lesson.late])
                pairs[kinds[1]].append(off)
            else:
                pairs[kinds[2]].append(off[lesson.late])
    rows, every = {}, {k: torch.cat(v) for k, v in pairs.items()}
    for kind, off in every.items():
        middle, high = (off.flatten(0, 1).nanquantile(q, 0).tolist() for q in (0.5, 0.9))
        rows[kind] = (middle[0], middle[1], high[0], high[1])
    return _gated(rows, _redrawn(every[kinds[0]]), kinds)


def _redrawn(off: Float[Tensor, "n K 2"]) -> float:
    g = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(off), (200, len(off)), generator=g)
    middle = off[drawn].flatten(1, 2).nanmedian(1).values
    return float((middle[:, 1] < middle[:, 0]).float().mean())


def _gated(rows: dict[str, tuple[float, float, float, float]], better: float, kinds: Sequence[str]) -> Judged:
    out, _, others = (rows[k] for k in kinds)
    gates = (
        Gate(f"{kinds[0]}: median after over before", out[1] / out[0], BETTER, False),
        Gate(f"{kinds[0]}: 90 % after over before", out[3] / out[2], 1.02, False),
        Gate(f"{kinds[0]}: better in redrawn moments", better, SURE),
        Gate(f"{kinds[2]}: median after over before", others[1] / others[0], 1.0, False),
    )
    return Judged(rows, better, gates)


def takes_of(path: Path) -> tuple[list[Take], Path]:
    """The takes of a session that were tracked, or the one take; and the folder in which `networks` are kept."""
    if (path / "session.yaml").is_file():
        session = Session.open(path)
        takes = [t for t in (session.take(n) for n in session.takes()) if t.tracks_file.is_file()]
        if not takes:
            raise FileNotFoundError(f"{path}: none of its takes {list(session.takes())} was tracked; run them first (`studio run`)")
        return takes, path
    take = Take.open(path)
    session_folder = path.resolve().parent.parent
    return [take], session_folder if (session_folder / "session.yaml").is_file() else path


def adapt(path: Path, config: Adapting, console: Console | None = None) -> Path | None:
    """The adapted network's file in the session's (or lone take's) folder `networks`; None where the gates refused it."""
    console = console or Console(highlight=False, soft_wrap=True)
    takes, home = takes_of(path)
    pupil: Pupil = PUPILS["pose"]() if config.network == "pose" else PUPILS["hourglass"](config.weights)
    lessons = []
    for take in takes:
        count = max(1, min(config.moments, LOOKS // (len(take.videos) * (1 + config.more))) // len(takes))
        lessons.append(lesson_of(moments_of(take, pupil, count, config.more, config.seed), pupil, config.hold_out))
    views = sum(len(x.rows) for x in lessons)
    left = sorted({x.moments.cameras.names[x.out] for x in lessons})
    console.print(
        f"adapt: {sum(len(x.late) for x in lessons)} moments of {len(takes)} takes, {views} labelled looks, without {', '.join(left)}"
    )
    tail = taught(pupil, lessons, config)
    result = judged(pupil, tail, lessons)
    result.show(console)
    if not result.accepted:
        console.print(
            "[bold red]adapt: refused[/], nothing is written: on what it did not learn from the adapted network is not better. "
            "Longer and more varied takes teach more; a doubtful calibration or clock teaches nothing"
        )
        return None
    card = Card(
        f"{config.network}, adapted", keypoints=pupil.keypoints, size=(pupil.side, pupil.side), seeds=(config.seed,), steps=config.steps,
        data=f"own takes {', '.join(t.folder.name for t in takes)}: {views} looks, labelled by all cameras but {', '.join(left)}",
        metrics={k: [round(float(x), 3) for x in v] for k, v in result.rows.items()},
    )  # fmt: skip
    written = pupil.write(home / "networks" / f"{config.network}.safetensors", tail, card)
    how = f"--adapted {config.network}" if config.network == "pose" else f"--detector {written}"
    console.print(f"adapt: {written}; use it with `studio detect TAKE {how}` (kept in the take's settings), then `studio run TAKE`")
    return written


def turned(cameras: Cameras, camera: int, rotation: Float[Tensor, "3 3"]) -> Cameras:
    """The same with one camera turned about its own centre: a wrong calibration, for controls."""
    R = cameras.R_camera_world.clone()
    R[camera] = rotation.to(R) @ R[camera]
    return replace(cameras, R_camera_world=R)
