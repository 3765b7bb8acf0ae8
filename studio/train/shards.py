"""Training scenes kept on disk: drawn once, in shards that appear whole or not at all, so that a stopped drawing goes on."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

import cv2
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError

from rigs.makehuman_assets import cache_folder, digest, fingerprint
from studio.freshness import write_text
from studio.train import crops, drawing, performers, poses, scenes, wardrobe
from studio.train.drawing import CLIPS, sample
from studio.train.scenes import SceneConfig, Scenes

SHARD = 8 * CLIPS
"""Samples in a file."""
_CODE = digest(*(str(m.__file__) for m in (crops, drawing, performers, poses, scenes, wardrobe)))


def folder_of(config: SceneConfig) -> Path:
    """Where the samples of a config lie; another one for other settings and for other code."""
    told = "-".join(f"{k}{v}" for k, v in sorted(asdict(config).items()))
    return cache_folder() / "scenes" / fingerprint(_CODE, told)


def cached(config: SceneConfig, count: int, workers: int = 1, maps: tuple[str, ...] | None = None) -> Scenes:
    """The first `count` samples of a config, those that are not there yet drawn and kept.

    With `maps`, only these are kept in memory (the images of 10,000 crops of 64 px are 120 MB). Several workers are processes: the calling
    script needs the usual `if __name__ == "__main__"` guard.
    """
    folder = folder_of(config)
    files = [folder / f"{i:05d}.safetensors" for i in range(-(-count // SHARD))]
    missing = [i for i, file in enumerate(files) if not file.is_file()]
    if missing:
        write_text(folder / "config.yaml", "".join(f"{k}: {v}\n" for k, v in asdict(config).items()))
        _draw(config, missing, folder, workers)
    return Scenes.stacked([_read(file, maps) for file in files])[:count]


def drawn(config: SceneConfig) -> int:
    """How many samples of a config there are already."""
    have = {int(f.stem) for f in folder_of(config).glob("*.safetensors")}
    return SHARD * next(i for i in range(len(have) + 1) if i not in have)


def _draw(config: SceneConfig, shards: list[int], folder: Path, workers: int) -> None:
    columns = (TextColumn("training scenes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task("", total=len(shards) * SHARD)
        if workers <= 1:
            for i in shards:
                _shard(config, i, folder)
                progress.advance(bar, SHARD)
            return
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _alone) as pool:
            for job in as_completed([pool.submit(_shard, config, i, folder) for i in shards]):
                job.result()
                progress.advance(bar, SHARD)


def _alone() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _shard(config: SceneConfig, number: int, folder: Path) -> None:
    part = Scenes.stacked([sample(config, n) for n in range(number * SHARD, (number + 1) * SHARD)])
    part.save(folder / f"{number:05d}.safetensors")


def _read(file: Path, maps: tuple[str, ...] | None) -> Scenes:
    try:
        part = Scenes.load(file)
    except ValueError as error:
        raise ValueError(f"{file}: damaged ({error}); delete it, it is drawn again") from error
    except SafetensorError as error:
        raise ValueError(f"{file}: not a readable safetensors file ({error}); delete it, it is drawn again") from error
    return part if maps is None else part.only(maps)
