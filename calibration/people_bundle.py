"""Bundle adjustment over points that are free in every frame: cameras, lenses, delays and bone lengths from what moves.

Unknown are each camera's pose, lens and delay, the length of each bone, and every point in every frame. Points of one frame meet
only each other (through bones) and the cameras, so each frame is one small dense block of the normal equations: the Schur complement
over frames (Triggs et al. 2000, "Bundle adjustment - a modern synthesis", section 6) leaves a system of a few dozen unknowns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from calibration.bundle import skew

POSE, LENS, DELAY = slice(0, 6), slice(6, 10), 10
OWN = 11
"""Unknowns of a camera: turn (rad), position (m), log focal length, radial distortion, principal point (px), delay (frames)."""


@dataclass(frozen=True)
class Sightings:
    """What the cameras saw, and how far it can be trusted."""

    pixels: Float[Tensor, "C T K 2"]
    """px; anything where not seen."""
    velocity: Float[Tensor, "C T K 2"]
    """px a frame."""
    sigma: Float[Tensor, "C T K"]
    """px; infinite where not seen."""
    bones: Int[Tensor, "B 2"]
    """Pairs of points whose distance does not change."""
    bone_sigma: Float[Tensor, "B"]
    """How well it keeps, as a fraction of it: lengths in metres would reward a world that shrinks."""


@dataclass(frozen=True)
class State:
    """The unknowns."""

    R: Float[Tensor, "C 3 3"]
    """R_camera_world."""
    position: Float[Tensor, "C 3"]
    lens: Float[Tensor, "C 4"]
    """Log focal length (px), radial distortion, principal point (px)."""
    delay: Float[Tensor, "C"]
    """A camera's frame t + delay shows what frame t of the others shows; frames."""
    points: Float[Tensor, "T K 3"]
    length: Float[Tensor, "B"]
    """Log of the bones' lengths, m."""

    def moved(self, cameras: Float[Tensor, "C 11"], length: Float[Tensor, "B"], points: Float[Tensor, "T K 3"]) -> State:
        """The state after a step."""
        return State(
            turned(self.R, cameras[:, :3]), self.position + cameras[:, 3:6], self.lens + cameras[:, LENS],
            self.delay + cameras[:, DELAY], self.points + points, self.length + length,
        )  # fmt: skip


@dataclass(frozen=True)
class Prior:
    """What was known of the cameras before: a Gaussian around `state`."""

    state: State
    information: Float[Tensor, "C 11 C 11"]
    """Inverse covariance of the cameras' unknowns, in their units."""

    def difference(self, state: State) -> Float[Tensor, "C 11"]:
        """How far a state's cameras are from the prior's."""
        turn = _turn(state.R @ self.state.R.mT)
        lens, delay = state.lens - self.state.lens, state.delay - self.state.delay
        return torch.cat([turn, state.position - self.state.position, lens, delay[:, None]], 1)


@dataclass(frozen=True)
class Solution:
    """Where the adjustment ended."""

    state: State
    residual: Float[Tensor, "C T K 2"]
    """Predicted less seen, px; NaN where not seen."""
    information: Float[Tensor, "G G"]
    """Of the cameras' unknowns (camera by camera) and then the bones' lengths, all points taken out."""
    steps: int
    cost: float

    @property
    def covariance(self) -> Float[Tensor, "C 11 11"]:
        """Of each camera's unknowns, in the gauge where the cameras as a whole do not move, turn or grow (their inner constraints)."""
        full = self._inverse()
        return torch.stack([full[c * OWN : (c + 1) * OWN, c * OWN : (c + 1) * OWN] for c in range(len(self.state.R))])

    def joint(self, entry: int) -> Float[Tensor, "C C"]:
        """Covariance of one unknown of all cameras (its place among the `OWN`)."""
        which = torch.arange(len(self.state.R)) * OWN + entry
        return self._inverse()[which][:, which]

    def _inverse(self) -> Float[Tensor, "G G"]:
        scale = self.information.diagonal().clamp_min(1e-12).rsqrt()
        values, vectors = torch.linalg.eigh(self.information * scale[:, None] * scale[None])
        inverse = torch.where(values > 1e-9 * values[-1], 1 / values.clamp_min(1e-300), 0.0)
        return (vectors * inverse) @ vectors.mT * scale[:, None] * scale[None]


def turned(R: Float[Tensor, "... 3 3"], turn: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3 3"]:
    """R followed by the rotation vector `turn`, rad."""
    return torch.linalg.matrix_exp(skew(turn)) @ R


def _turn(R: Float[Tensor, "... 3 3"]) -> Float[Tensor, "... 3"]:
    """Rotation vector of a rotation by less than half a turn, rad."""
    axis = torch.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], -1) / 2
    sine, cosine = axis.norm(dim=-1), (R.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    factor = torch.where(sine > 1e-9, torch.atan2(sine, cosine) / sine.clamp_min(1e-12), 1.0)
    return axis * factor[..., None]


def project(state: State, points: Float[Tensor, "T K 3"]) -> tuple[Float[Tensor, "C T K 3"], Float[Tensor, "C T K 2"]]:
    """Points in camera axes (m), and their pixels."""
    p = torch.einsum("cij,ctkj->ctki", state.R, points - state.position[:, None, None])
    plane = p[..., :2] / p[..., 2:].clamp_min(0.05)
    bent = plane * (1 + state.lens[:, None, None, 1:2] * plane.square().sum(-1, keepdim=True))
    return p, bent * state.lens[:, None, None, :1].exp() + state.lens[:, None, None, 2:]


def deviation(state: State, seen: Sightings) -> tuple[Float[Tensor, "C T K 2"], Bool[Tensor, "C T K"]]:
    """Predicted less seen, px, and where there is something to compare."""
    p, pixels = project(state, state.points)
    there = torch.isfinite(seen.sigma) & (p[..., 2] > 0.05)
    return pixels - seen.pixels - state.delay[:, None, None, None] * seen.velocity, there


def _cauchy(e2: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Cost and weight of squared deviations: Cauchy's, quadratic up to about `width` standard deviations."""
    return width**2 * torch.log1p(e2 / width**2), 1 / (1 + e2 / width**2)


def cost_of(state: State, seen: Sightings, prior: Prior, width: float) -> float:
    """What the adjustment makes small."""
    e, there = deviation(state, seen)
    e2 = torch.where(there, e.square().sum(-1) / seen.sigma.square(), 0.0)
    behind = (torch.isfinite(seen.sigma) & ~there).sum() * 4 * width**2
    b2 = _bones(state, seen)[1].square()
    d = prior.difference(state)
    return float(_cauchy(e2, width)[0].sum() + behind + _cauchy(b2, width)[0].sum() + torch.einsum("ci,cidj,dj->", d, prior.information, d))


def _bones(state: State, seen: Sightings) -> tuple[Float[Tensor, "T B 3"], Float[Tensor, "T B"]]:
    """Each bone's change of log length with its first end, in standard deviations a metre, and its deviation in standard deviations."""
    along = state.points[:, seen.bones[:, 0]] - state.points[:, seen.bones[:, 1]]
    length = along.norm(dim=-1).clamp_min(1e-6)
    return along / (length.square() * seen.bone_sigma)[..., None], (length.log() - state.length) / seen.bone_sigma


@dataclass(frozen=True)
class _Normal:
    """The normal equations, points apart from the rest."""

    H: Float[Tensor, "G G"]
    g: Float[Tensor, "G"]
    Hp: Float[Tensor, "T P P"]
    gp: Float[Tensor, "T P"]
    cross: Float[Tensor, "T P G"]


def _jacobians(state: State) -> tuple[Float[Tensor, "C T K 2 11"], Float[Tensor, "C T K 2 3"]]:
    """Change of a pixel with its camera's unknowns (all but the delay) and with its point."""
    p, _ = project(state, state.points)
    z = p[..., 2].clamp_min(0.05)
    x = p[..., :2] / z[..., None]
    f, k = state.lens[:, None, None, 0].exp(), state.lens[:, None, None, 1]
    r2 = x.square().sum(-1)
    eye = torch.eye(2, dtype=p.dtype)
    A = f[..., None, None] * ((1 + k * r2)[..., None, None] * eye + 2 * k[..., None, None] * x[..., :, None] * x[..., None, :])
    to_plane = torch.cat([eye.expand(*x.shape[:-1], 2, 2), -x[..., None]], -1) / z[..., None, None]
    J = A @ to_plane
    JX = J @ state.R[:, None, None]
    own = p.new_zeros(*x.shape[:-1], 2, OWN)
    own[..., :3], own[..., 3:6] = -J @ skew(p), -JX
    own[..., 6], own[..., 7] = f[..., None] * (1 + k * r2)[..., None] * x, f[..., None] * r2[..., None] * x
    own[..., 8:10] = eye
    return own, JX


def _normal(state: State, seen: Sightings, prior: Prior, width: float) -> _Normal:
    C, T, K = seen.sigma.shape
    B, G = len(seen.bones), OWN * C + len(seen.bones)
    e, there = deviation(state, seen)
    inverse = torch.where(there, 1 / seen.sigma.square(), 0.0)
    root = (inverse * _cauchy(e.square().sum(-1) * inverse, width)[1]).sqrt()[..., None]
    own, JX = _jacobians(state)
    own[..., DELAY] = -seen.velocity
    own, JX, e = own * root[..., None], JX * root[..., None], e * root
    H, g = e.new_zeros(G, G), e.new_zeros(G)
    d = prior.difference(state)
    c = torch.arange(C)
    blocks = prior.information.clone()
    blocks[c, :, c] += torch.einsum("ctkai,ctkaj->cij", own, own)
    pulls = torch.einsum("ctkai,ctka->ci", own, e) + torch.einsum("cidj,dj->ci", prior.information, d)
    H[: OWN * C, : OWN * C], g[: OWN * C] = blocks.view(OWN * C, OWN * C), pulls.flatten()
    Hp = e.new_zeros(T, K, 3, K, 3)
    i = torch.arange(K)
    Hp[:, i, :, i] = torch.einsum("ctkai,ctkaj->ktij", JX, JX)
    gp = torch.einsum("ctkai,ctka->tki", JX, e)
    cross = e.new_zeros(T, K, 3, G)
    cross[..., : OWN * C] = torch.einsum("ctkai,ctkaj->tkicj", JX, own).flatten(3)
    if B:
        _add_bones(state, seen, width, H, g, Hp, gp, cross)
    return _Normal(H, g, Hp.reshape(T, 3 * K, 3 * K), gp.reshape(T, 3 * K), cross.reshape(T, 3 * K, G))


def _add_bones(
    state: State, seen: Sightings, width: float, H: Tensor, g: Tensor, Hp: Tensor, gp: Tensor, cross: Tensor
) -> None:  # in place: the blocks are large
    along, r = _bones(state, seen)
    weight = _cauchy(r.square(), width)[1]
    a, b = seen.bones.T
    first = len(g) - len(state.length)
    outer = weight[..., None, None] * along[..., :, None] * along[..., None, :]
    pull = (weight * r)[..., None] * along
    mixed = (weight / seen.bone_sigma)[..., None] * along
    for n, (i, j) in enumerate(zip(a.tolist(), b.tolist())):
        Hp[:, i, :, i] += outer[:, n]
        Hp[:, j, :, j] += outer[:, n]
        Hp[:, i, :, j] -= outer[:, n]
        Hp[:, j, :, i] -= outer[:, n]
        gp[:, i] += pull[:, n]
        gp[:, j] -= pull[:, n]
        cross[:, i, :, first + n] -= mixed[:, n]
        cross[:, j, :, first + n] += mixed[:, n]
    k = torch.arange(first, len(g))
    H[k, k] += weight.sum(0) / seen.bone_sigma.square()
    g[k] -= (weight * r).sum(0) / seen.bone_sigma


def _reduced(n: _Normal, damping: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reduced matrix and right side, and the factors to find the points' steps from the others'."""
    Hp = n.Hp + torch.diag_embed(n.Hp.diagonal(dim1=1, dim2=2) * damping + 1e-6)
    factor = torch.linalg.cholesky(Hp)
    both = torch.cholesky_solve(torch.cat([n.cross, n.gp[..., None]], -1), factor)
    D, y = both[..., :-1], both[..., -1]
    S = n.H - torch.einsum("tpi,tpj->ij", n.cross, D)
    return S, n.g - torch.einsum("tpi,tp->i", n.cross, y), D, y


def adjust(state: State, seen: Sightings, prior: Prior, width: float = 2.0, steps: int = 40, settled: float = 1e-5) -> Solution:
    """The state that makes reprojection, bone lengths and prior agree best, by Levenberg-Marquardt; `width` is Cauchy's, in sigma."""
    C, T, K = seen.sigma.shape
    damping, done = 1e-3, 0
    cost = cost_of(state, seen, prior, width)
    normal = _normal(state, seen, prior, width)
    for _ in range(steps):
        S, g, D, y = _reduced(normal, damping)
        S = S + torch.diag(normal.H.diagonal() * damping + 1e-9)
        step = -torch.linalg.solve(S, g)
        points = -(y + torch.einsum("tpi,i->tp", D, step)).view(T, K, 3)
        tried = state.moved(step[: OWN * C].view(C, OWN), step[OWN * C :], points)
        new = cost_of(tried, seen, prior, width)
        done += 1
        if not new < cost:
            damping *= 6
            if damping > 1e8:
                break
            continue
        small = cost - new < settled * cost
        state, cost, damping = tried, new, max(damping / 4, 1e-9)
        normal = _normal(state, seen, prior, width)
        if small:
            break
    e, there = deviation(state, seen)
    return Solution(state, torch.where(there[..., None], e, torch.nan), _reduced(normal, 0.0)[0], done, cost)
