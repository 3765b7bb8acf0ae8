"""The hourglass of hands: 21 keypoints of a right hand in a crop around it; left hands are shown to it as in a mirror."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from studio.nets.checkpoint import find
from studio.train import hourglass
from studio.train.jobs import Evaluation, Report, Training

NAME = "hourglass-hands"


def train(config: Training) -> Path:
    """The checkpoint's file; as `studio.train.hourglass.train`."""
    return hourglass.train(config, hands=True)


def evaluate(config: Evaluation) -> Report:
    """Errors on held-out synthetic hands; as `studio.train.hourglass.evaluate`, without the comparison of trainings, which is of bodies."""
    return hourglass.evaluate(replace(config, weights=config.weights or find(NAME)), compare=False)
