"""Distances along a mesh's surface, for measuring where on a body a network says that something is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.csgraph import connected_components, dijkstra

HOPS = 3
"""Vertices so many edges apart are joined by straight lines: along edges alone a way zigzags and is up to a sixth too long."""


@dataclass(frozen=True)
class Geodesics:
    """The largest connected piece of a mesh as a graph of short straight lines on it."""

    graph: sparse.csr_matrix
    """(V, V) lengths, m; other pieces have none."""
    reached: Int[np.ndarray, "n"]
    """Vertices of the piece."""

    @classmethod
    def of(cls, vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"], hops: int = HOPS) -> Geodesics:
        """Of a mesh, m."""
        V = len(vertices)
        i, j = triangles[:, [0, 1, 2]].ravel(), triangles[:, [1, 2, 0]].ravel()
        one = sparse.csr_matrix((np.ones(2 * len(i), np.int8), (np.concatenate([i, j]), np.concatenate([j, i]))), shape=(V, V)).astype(bool)
        _, piece = connected_components(one, directed=False)
        reached = np.flatnonzero(piece == np.bincount(piece).argmax())
        near = one
        for _ in range(hops - 1):
            near = near + near @ one
        a, b = near.nonzero()
        keep = (a != b) & np.isin(a, reached)
        a, b = a[keep], b[keep]
        length = np.linalg.norm(vertices[a] - vertices[b], axis=1).clip(1e-9)
        return cls(sparse.csr_matrix((length, (a, b)), shape=(V, V)), reached)

    def between(self, a: Int[np.ndarray, "N"], b: Int[np.ndarray, "*k N"], limit: float = 1.0) -> Float[np.ndarray, "*k N"]:
        """From each vertex `a` to one or several others, m; infinite beyond `limit` and between pieces."""
        out = np.full(b.shape, np.inf)
        starts, which = np.unique(a, return_inverse=True)
        order = np.argsort(which, kind="stable")
        edges = np.searchsorted(which[order], np.arange(len(starts) + 1))
        for first in range(0, len(starts), 64):  # bounds memory: 64 rows of all vertices
            some = starts[first : first + 64]
            far = dijkstra(self.graph, directed=False, indices=some, limit=limit)
            for k in range(len(some)):
                mine = order[edges[first + k] : edges[first + k + 1]]
                out[..., mine] = far[k, b[..., mine]]
        return out
