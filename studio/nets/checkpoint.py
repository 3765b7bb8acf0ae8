"""A network's weights as safetensors, and beside them the card: a YAML file that says what they are, how to feed and how to read them.

Shipped checkpoints are package data in `studio/nets/weights`; trained ones lie in the user's cache, or wherever `--out` said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from rigs.makehuman_assets import cache_folder
from studio import settings

SHIPPED = Path(__file__).parent / "weights"
"""All files in here together stay below 20 MB, one below 3 MB."""
LICENCE = "Apache-2.0"
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Card:
    """What must be known of a checkpoint."""

    name: str = ""
    """A word for it; of a shipped one the file's name."""
    network: str = ""
    """The module of `studio.nets` whose network this is."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments that build the network."""
    keypoints: tuple[str, ...] = ()
    """Names in the network's order, where it sees keypoints."""
    size: tuple[int, int] = (64, 64)
    """Width and height of the input, px."""
    normalisation: dict[str, Any] = field(default_factory=dict)
    """How an image (or whatever goes in) becomes numbers: mean, deviation, padding, units."""
    decoding: dict[str, Any] = field(default_factory=dict)
    """How the output is read; calibration constants learned on held-out data."""
    data: str = ""
    """What it learned from, in words: kind of data, how many people and samples. Says "synthetic" where it was."""
    seeds: tuple[int, ...] = ()
    steps: int = 0
    licence: str = LICENCE
    metrics: dict[str, Any] = field(default_factory=dict)
    """Results on held-out data when it was made."""
    sha256: str = ""
    """Of the weights' file."""


def trained(name: str) -> Path:
    """Where a checkpoint of that name lies when a user has trained it and named no other place."""
    return cache_folder() / "nets" / f"{name}.safetensors"


def find(name: str | Path) -> Path:
    """The weights that a word or a path means: a file, else the shipped checkpoint of that name, else the one trained into the cache.

    A shipped one is never silently superseded by one in the cache: name the file to use that. A `FileNotFoundError` lists what there is.
    """
    path = Path(name)
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such checkpoint; train one with `studio train NAME --out {path}`. {_known()}")
        return path
    for candidate in (SHIPPED / f"{name}.safetensors", trained(str(name))):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"checkpoint {str(name)!r}: none of that name; train one with `studio train`, or name a file. {_known()}")


def write(path: Path, network: nn.Module, card: Card, half: bool = True) -> Path:
    """Write the network's weights to `path` (*.safetensors) and its card beside it (*.yaml), each to a temporary name, then renamed.

    With `half`, matrices and kernels are stored in float16; vectors (biases, statistics of normalisations) stay float32.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a checkpoint's file must end in .safetensors")
    content = save({k: _stored(v, half) for k, v in network.state_dict().items()}, {"kind": "checkpoint", "network": card.network})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(content)
    temporary.replace(path)
    settings.save(replace(card, sha256=hashlib.sha256(content).hexdigest()), path.with_suffix(".yaml"), everything=True)
    return path


def read_card(path: Path) -> Card:
    """The card beside a checkpoint's file; errors name the file, the key and the remedy."""
    file = path.with_suffix(".yaml")
    if not file.is_file():
        raise FileNotFoundError(f"{file}: the card of {path.name} is missing; copy it beside the weights, or train again")
    return settings.load(file, Card)


def read(name: str | Path, build: Callable[..., Network], network: str) -> tuple[Network, Card]:
    """The network, in evaluation mode with float32 weights on the CPU, and its card. `build(**card.architecture)` makes the bare network.

    `ValueError` where the card is of another network, the file is damaged or was changed, or the weights do not fit the architecture.
    """
    path = find(name)
    card = read_card(path)
    if card.network != network:
        raise ValueError(f"{path.with_suffix('.yaml')}: network is {card.network!r}, wanted is {network!r}; name another checkpoint")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if card.sha256 and card.sha256 != digest:
        raise ValueError(f"{path}: its sha256 is {digest}, its card says {card.sha256}; put back the pair of files that belong together")
    try:
        tensors = {k: v.float() if v.is_floating_point() else v for k, v in load(content).items()}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); train again or put back the original") from error
    try:
        made = build(**card.architecture)
        made.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: its weights do not fit the architecture of its card ({_first(error)}); train again") from error
    return made.eval(), card


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if half and value.dtype == torch.float32 and value.ndim > 1 else value


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _known() -> str:
    places = [p for folder in (SHIPPED, trained("any").parent) for p in sorted(folder.glob("*.safetensors"))]
    return f"There are {[str(p) for p in places]}" if places else "There is none yet"
