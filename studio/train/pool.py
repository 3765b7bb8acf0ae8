"""The sampled people a training learns from: made once, and kept in a file while the training is under way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.nets.shape import Sight
from studio.train import sampled
from studio.train.sampled import Sampled

VIEWS = 4
SPREAD = 1.15
"""Standard deviation of the shape coefficients: somewhat more than people's, so that what is measured lies inside."""
_last: dict[tuple[int, int], Sampled] = {}


@dataclass(frozen=True)
class Pool:
    """Which people to learn from; they are made when first asked for."""

    people: int
    seed: int
    file: Path | None = None

    def __call__(self) -> Sampled:
        """As `pool`."""
        return pool(self.people, self.seed, self.file)


def pool(people: int, seed: int, file: Path | None = None) -> Sampled:
    """So many random people of the default body, `VIEWS` views each. What `file` holds is taken up; `ValueError` where it is of others."""
    if (people, seed) in _last:
        return _last[people, seed]
    if file is not None and file.is_file():
        made = _read(file)
        if len(made) != people:
            raise ValueError(f"{file}: holds {len(made)} people, this training needs {people}; delete it, or choose another --out")
        _last.clear()
        _last[people, seed] = made
        return made
    bank = sampled.poses(range(100 + 40 * seed, 130 + 40 * seed))
    parts = (sampled.people(min(250, people - i), VIEWS, 100_000 * seed + i, bank, spread=SPREAD) for i in range(0, people, 250))
    made = Sampled.joined(list(parts))
    _last.clear()
    _last[people, seed] = made
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".partial")
        save_file({k: v.contiguous() for k, v in _flat(made).items()}, partial)
        partial.replace(file)
    return made


def _flat(people: Sampled) -> dict[str, Tensor]:
    return {k: v for k, v in vars(people).items() if k != "sight"} | {f"sight.{k}": v for k, v in vars(people.sight).items()}


def _read(file: Path) -> Sampled:
    tensors = load_file(file)
    sight = Sight(**{k.removeprefix("sight."): v for k, v in tensors.items() if k.startswith("sight.")})
    return Sampled(**{k: v for k, v in tensors.items() if "." not in k}, sight=sight)
