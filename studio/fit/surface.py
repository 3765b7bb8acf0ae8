"""Points spread over a body's skin, with normals: what silhouettes, point clouds, dense networks and contact between limbs pull on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, dijkstra
from torch import Tensor

from rigs.body import Body, Skin, vertex_normals
from rigs.rotation import from_6d


@dataclass(frozen=True)
class Surface:
    """A coarse mesh whose corners are points of a body's skin."""

    skin: Skin
    vertices: Int[Tensor, "P"]
    """Which vertices of the body's mesh the points are."""
    triangles: Int[Tensor, "F 3"]
    """Counter-clockwise seen from outside."""
    neighbour: Int[Tensor, "P"]
    """One other corner of a triangle of each point."""
    normal: Float[Tensor, "P 3"]
    """The skin's own normal at rest in the frame of the coarse mesh: its normal, the direction to the neighbour, and across."""

    def __len__(self) -> int:
        return len(self.vertices)

    def to(self, device: str | torch.device) -> Surface:
        """The same on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self)}
        return Surface(**moved)

    def normals(self, points: Float[Tensor, "... P 3"]) -> Float[Tensor, "... P 3"]:
        """Outward unit normals of the posed points: those of the skin at rest, carried along by the triangles around each point."""
        return (self._frames(points) @ self.normal.to(points)[..., None])[..., 0]

    def _frames(self, points: Float[Tensor, "... P 3"]) -> Float[Tensor, "... P 3 3"]:
        """Of every point, in columns: the mean normal of its triangles by area, the direction to the neighbour, and across."""
        across = vertex_normals(points, self.triangles)
        return from_6d(torch.cat([across, points[..., self.neighbour, :] - points], -1))


def sampled(body: Body, count: int = 600) -> Surface:
    """About `count` points spread evenly over the outer skin.

    Farthest-point sampling; triangles are the dual of the points' Voronoi cells on the mesh (geodesic, so that an arm beside the trunk
    stays apart).
    """
    rest, faces = body.skin.rest.double().cpu().numpy(), body.triangles.cpu().numpy()
    allowed = _outer(body, faces)
    chosen = _spread(rest, allowed, count)
    nearest = _cells(rest, faces, chosen)
    corner = nearest[faces]
    whole = (corner >= 0).all(1) & (corner[:, 0] != corner[:, 1]) & (corner[:, 1] != corner[:, 2]) & (corner[:, 2] != corner[:, 0])
    triangles = np.unique(_turned(corner[whole]), axis=0)
    used = np.unique(triangles)  # a point without a triangle has no normal
    again = np.full(len(chosen), -1)
    again[used] = np.arange(len(used))
    vertices, corners = torch.from_numpy(chosen[used]), torch.from_numpy(again[triangles])
    neighbour = torch.zeros(len(vertices), dtype=torch.long)
    for i in range(3):
        neighbour[corners[:, i]] = corners[:, (i + 1) % 3]
    coarse = Surface(body.to("cpu").skin[vertices], vertices, corners, neighbour, torch.eye(3)[:1].expand(len(vertices), 3))
    own = vertex_normals(body.skin.rest.cpu(), body.triangles.cpu())[vertices]
    normal = (coarse._frames(coarse.skin.rest).mT @ own[..., None])[..., 0]
    return replace(coarse, normal=normal).to(body.triangles.device)


def _outer(body: Body, faces: np.ndarray) -> np.ndarray:
    """Vertices of the largest connected piece; eyes, teeth and tongue are others."""
    n = len(body.skin)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    _, piece = connected_components(coo_matrix((np.ones(len(edges)), edges.T), shape=(n, n)), directed=False)
    return np.flatnonzero(piece == np.bincount(piece).argmax())


def _spread(rest: np.ndarray, allowed: np.ndarray, count: int) -> np.ndarray:
    """Farthest-point sampling, begun at the lowest vertex."""
    x, y, z = points = np.ascontiguousarray(rest[allowed].T)
    far = lambda i: (x - x[i]) ** 2 + (y - y[i]) ** 2 + (z - z[i]) ** 2  # noqa: E731
    chosen = [int(z.argmin())]
    distance = far(chosen[0])
    for _ in range(min(count, points.shape[1]) - 1):
        chosen.append(int(distance.argmax()))
        np.minimum(distance, far(chosen[-1]), out=distance)
    return allowed[np.array(chosen)]


def _cells(rest: np.ndarray, faces: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """For every vertex the chosen point nearest along the skin; -1 where none can be reached."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    length = np.linalg.norm(rest[edges[:, 0]] - rest[edges[:, 1]], axis=1) + 1e-9
    graph = coo_matrix((length, edges.T), shape=(len(rest), len(rest))).tocsr()
    distance, _, source = dijkstra(graph, directed=False, indices=chosen, min_only=True, return_predecessors=True)
    index = np.full(len(rest), -1)
    index[chosen] = np.arange(len(chosen))
    return np.where(np.isfinite(distance), index[np.maximum(source, 0)], -1)


def _turned(corner: np.ndarray) -> np.ndarray:
    """Each triangle begun at its smallest index, so that equal ones are equal; the sense of rotation stays."""
    first = corner.argmin(1)
    return np.stack([corner[np.arange(len(corner)), (first + i) % 3] for i in range(3)], 1)
