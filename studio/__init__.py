"""Markerless motion capture from calibrated cameras.

```python
import studio
take = studio.Take.of([Path("videos")], Path("cameras.yaml"), folder=Path("out"))
studio.run(take)                                        # detect, track, fit, export, report
motion = studio.Motion.load(take.motion_file("actor"))  # translation (T,3) m, rotation (T,J,3) rad
```
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.pipeline import Config, run
    from studio.take import Session, Take
    from studio.values import Keypoints2D, Motion, Tracks3D

try:
    __version__ = version("mocap-studio")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0"

__all__ = ["Config", "Keypoints2D", "Motion", "Session", "Take", "Tracks3D", "__version__", "run"]

_HOME = {
    "Config": "pipeline",
    "run": "pipeline",
    "Session": "take",
    "Take": "take",
    "Keypoints2D": "values",
    "Motion": "values",
    "Tracks3D": "values",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `studio --help` must not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'studio' has no attribute {name!r}")
    return getattr(import_module(f"studio.{_HOME[name]}"), name)
