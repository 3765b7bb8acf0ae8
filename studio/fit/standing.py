"""Which feet and hands of a person stand, and where: contacts found, then a person's word on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rigs.body import Body, Skin
from studio.fit import contact
from studio.fit.pulls import Views


@dataclass(frozen=True)
class Standing:
    """What of a model's keypoints can be planted."""

    feet: list[int]
    """Of `contact.POINTS`."""
    hands: list[int]
    """Of `contact.HANDS`; none where these are no keypoints."""
    sides: tuple[list[int], list[int]]
    """Keypoints that show a left and a right hand."""
    soles: Float[Tensor, "4"]
    """How high the feet's points are while they stand, m."""
    fps: float

    @classmethod
    def of(cls, body: Body, skin: Skin, names: Sequence[str], fps: float) -> Standing | None:
        """Of keypoints by their names, `skin` being theirs; None where the feet are not among them."""
        feet, hands = ([names.index(n) for n in wanted if n in names] for wanted in (contact.POINTS, contact.HANDS))
        if len(feet) != len(contact.POINTS):
            return None
        left, right = ([k for k, n in enumerate(names) if n.startswith((f"{s}_hand", f"{s}_middle"))] for s in ("left", "right"))
        soles = skin.rest[feet, 2] - body.skin.rest[:, 2].min()
        return cls(feet, hands if len(hands) == len(contact.HANDS) else [], (left, right), soles, fps)

    @property
    def chosen(self) -> list[int]:
        """Feet, then hands, in the order of `Motion.contacts`."""
        return self.feet + self.hands

    def seen(self, views: Views) -> Bool[Tensor, "T 2"]:
        """Whether any camera saw the left and the right hand."""
        return torch.stack([(views.precision[:, k] > 0).any(0).any(0) for k in self.sides], 1)

    def found(
        self, points: Float[Tensor, "W P 3"], seen: Bool[Tensor, "T 2"], own: slice, said: Float[Tensor, "T 8"] | None
    ) -> tuple[Float[Tensor, "T 8"], Float[Tensor, "T P 3"]]:
        """Probability that each of the `chosen` points is planted in its `own` frames of all that are known, above a half where it is
        held; and where it is held, m, NaN where it is not. What a person `said` (NaN: nothing) holds."""
        contacts, on = self._judged(points, seen, own)
        if said is not None:
            said = said[:, : points.shape[1]]
            on[own], contacts[own] = torch.where(said.isnan(), on[own], said > 0.5), torch.where(said.isnan(), contacts[own], said)
        contacts = torch.where(on, contacts.clamp_min(0.51), contacts.clamp_max(0.49))
        return torch.nn.functional.pad(contacts[own], (0, 8 - points.shape[1])), contact.anchors(points, on)[own]

    def _judged(self, points: Tensor, seen: Tensor, own: slice) -> tuple[Float[Tensor, "W P"], Bool[Tensor, "W P"]]:
        feet, hands = points[:, :4], points[:, 4:]
        p = contact.probability(feet, self.fps)
        if not self.hands:
            return p, contact.planted(p, self.fps)
        known = torch.ones(len(points), 2, dtype=torch.bool, device=points.device)
        known[own] = seen
        q = contact.hand_probability(hands, feet, self.soles, known, self.fps)
        return torch.cat([p, q], 1), torch.cat([contact.planted(p, self.fps), contact.leaning(q, self.fps)], 1)
