"""Verbs of learning: `train` and `evaluate`.

A network of ours is two files. `studio/nets/NAME.py` is the network alone. `studio/train/NAME.py` has `train(config: Training) -> Path`,
which writes a checkpoint, and `evaluate(config: Evaluation) -> Report`, which measures it on held-out synthetic data (three seeds, a
baseline with as many steps, an upper bound, a negative control); both configs are those of `studio.train.jobs`. A row in `NETWORKS`
makes them verbs.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from studio.cli.arguments import File, Folder, writable

NETWORKS: dict[str, str] = {
    "consistency": "studio.train.consistency",
    "hourglass": "studio.train.hourglass",
    "hourglass-hands": "studio.train.hourglass_hands",
    "ordinal": "studio.train.ordinal",
    "recovery": "studio.train.recovery",
    "shape": "studio.train.shape",
    "volume": "studio.train.volume",
    "shot": "studio.train.shot",
    "surface": "studio.train.surface",
}
"""Verb's argument -> module with `train` and `evaluate`; imported when it is asked for."""
TABLES = ("landmarks", "sides")
"""What is learned from whole virtual captures: tables, not networks."""


def train(
    what: Positional[str],
    captures: Positional[tuple[Path, ...]] = (),
    /,
    network: str = "mediapipe",
    preset: Literal["small", "full"] = "small",
    seed: int = 0,
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None,
    minutes: Annotated[float | None, arg(metavar="N", help_behavior_hint="")] = None,
    out: File = None,
    events: Folder = None,
    device: str = "auto",
) -> None:
    """`studio train NAME`: train a network of ours; `studio train landmarks|sides CAPTURE...`: how another network places its landmarks.

    Args:
        what: a network; pose_prior, how people pose; landmarks, where on the body they lie; sides, how far off by the side they are seen
        captures: for landmarks and sides: folders that `studio virtual` rendered, one person each
        network: for landmarks and sides: whose landmarks: mediapipe
        preset: small, minutes on a processor; full, what is shipped
        seed: another seed, another start and other data
        steps: of the optimiser; the preset's own by default
        minutes: stop after this long; the same command goes on from there
        out: the checkpoint's file (.safetensors), its card and its state beside it; the user's cache by default
        events: folder for TensorBoard's events
        device: cpu, cuda or cuda:1; auto is a GPU where there is one
    """
    if what == "pose_prior":
        from studio.train.pose_prior import FILE, learn

        print(f"poses that people take: {learn(file=_suffixed(out or FILE))}")
        return
    if what in TABLES:
        _table(what, captures, network)
        return
    module = _module("train", what)
    if captures:
        raise ValueError(
            f"studio train {what}: learns from data of its own; leave out {captures[0]}, or train landmarks or sides from captures"
        )
    from studio.train.jobs import Training

    if out is not None:
        out = writable("--out", _suffixed(out))
    config = Training(preset, seed, steps, minutes, out, events, device)
    print(f"{what}: {module.train(config)}")


def _table(what: str, captures: tuple[Path, ...], network: str) -> None:
    if not captures:
        raise ValueError(f"studio train {what}: needs CAPTURE...: folders that `studio virtual` rendered")
    if what == "sides":
        from studio.train import sides

        print(f"habits of {len(sides.learn_from(captures, network))} landmarks -> {sides.FOLDER / f'sides_{network}.yaml'}")
        return
    from studio.train.landmarks import learn_from

    for name, p in learn_from(captures, network).items():
        print(f"{name:24s} {p.count:6d} sightings, scatter {1000 * p.before:5.1f} -> {1000 * p.scatter:5.1f} mm")


def evaluate(
    what: Positional[str],
    /,
    weights: File = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    quick: bool = False,
    out: File = None,
    device: str = "auto",
    truth: File = None,
) -> int:
    """Measure a network of ours on held-out synthetic data, or a take against the exact truth of its virtual capture; prints a table.

    Args:
        what: a network, or a take's folder
        weights: of a network: the checkpoint; the shipped one by default
        seeds: of a network: of the held-out data
        quick: of a network: fewer samples, nothing trained for comparison
        out: JSON file of the results; for a network in the user's cache by default
        device: of a network: cpu, cuda or cuda:1; auto is a GPU where there is one
        truth: of a take: the virtual capture's truth.safetensors; beside the take's folder by default
    """
    from rich.console import Console

    if Path(what).is_dir():
        return _take(Path(what), truth, out)
    module = _module("evaluate", what)
    from studio.nets.checkpoint import trained
    from studio.train.jobs import Evaluation

    target = writable("--out", out or trained(what).with_name(f"{what}_evaluation.json"))
    report = module.evaluate(Evaluation(weights, seeds, quick, target, device))
    report.show(Console())
    print(f"{what}: {report.save(target)}")
    return 0 if all(gate.passed for gate in report.gates) else 1


def _take(folder: Path, truth: Path | None, out: Path | None) -> int:
    import json

    from rich.console import Console

    from studio.evaluate import evaluate as against
    from studio.evaluate import table
    from studio.freshness import write_text
    from studio.take import Take

    take = Take.open(folder)
    truth = truth or folder.parent / "truth.safetensors"
    if not truth.is_file():
        raise FileNotFoundError(f"{truth}: no exact truth; name the virtual capture's truth.safetensors with --truth")
    rows = against(take, truth)
    table(rows, Console())
    if out is not None:
        print(write_text(writable("--out", out), json.dumps(rows, indent=1) + "\n"))
    return 0


def _module(verb: str, what: str) -> Any:
    if what not in NETWORKS:
        tables = f", or {', '.join(TABLES)} with CAPTURE..." if verb == "train" else ", or a take's folder"
        raise ValueError(f"studio {verb}: {what!r} is unknown; use `studio {verb} NAME` with one of {', '.join(NETWORKS)}{tables}")
    return import_module(NETWORKS[what])


def _suffixed(out: Path) -> Path:
    if out.suffix not in ("", ".safetensors"):
        raise ValueError(f"--out {out}: a checkpoint's file ends in .safetensors")
    return out.with_suffix(".safetensors")
