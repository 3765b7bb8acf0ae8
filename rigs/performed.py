"""What a body of the studio did, ready to be put on another skeleton."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rigs import rotation
from rigs.body import Shaped
from rigs.rest import tips


@dataclass(frozen=True)
class Performed:
    """What a body of the studio did: the source of a retargeting."""

    name: str
    names: tuple[str, ...]
    """Joint names, those of `HUMAN`."""
    rest: Float[Tensor, "J 3"]
    """Joint centres at rest, m; joint frames are then parallel to the world, and the person faces -y."""
    floor: float
    """Height of the soles at rest, m."""
    tips: dict[str, Float[Tensor, "3"]]
    """Where the bones of childless joints end at rest, m."""
    R: Float[Tensor, "T J 3 3"]
    """World rotation of every joint."""
    p: Float[Tensor, "T J 3"]
    """World position of every joint, m."""
    contacts: Float[Tensor, "T 4"]
    """Probability that left heel, left toe, right heel, right toe stand on the floor."""
    fps: float
    start: float = 0.0
    """Time of the first frame, s."""
    timecode: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        shaped: Shaped,
        rotations: Float[Tensor, "T J 3"],
        translation: Float[Tensor, "T 3"],
        contacts: Float[Tensor, "T 4"],
        fps: float,
        start: float = 0.0,
        timecode: str = "",
    ) -> Performed:
        """A person's local joint rotations (rad) and root positions (m), posed in double precision."""
        skeleton, joints = shaped.body.skeleton, shaped.joints.double()
        R, p = skeleton.forward(rotation.exp(rotations.double()), joints, translation.double())
        rest = shaped.rest().double()
        ends = {name: tip.double() for name, tip in tips(shaped).items()}
        floor = float(rest[:, 2].min()) if len(rest) else float(joints[:, 2].min())
        return cls(name, skeleton.names, joints, floor, ends, R, p, contacts.double(), fps, start, timecode)

    def at(self, part: str) -> int:
        """Index of a joint."""
        return self.names.index(part)
