"""Labels the 68 iBUG face points on the default body, once: `python -m studio.train.label_face` rewrites the face lines of
rigs/presets/makehuman/keypoints.txt.

No table from a face network's points to MakeHuman's mesh exists. So heads of several people are rendered from several sides,
with several expressions, MediaPipe's face mesh looks at them, and each of its points is cast back onto the mesh as (triangle,
barycentric). All people share one mesh, so the hits are carried to the mean person; their medians, made symmetric, are where the
points are seen in each expression. The point of the skin that stays nearest through all of them is the label: without the
closed eyes a lid's edge would be taken for the fold above it, which moves far less.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open3d
import torch
from mediapipe.python.solutions.face_mesh import FaceMesh
from open3d.core import Tensor

from rigs import makehuman
from rigs.body import Body
from rigs.keypoints import FACE, mirrored
from rigs.makehuman_assets import assets, preset
from studio.detect.landmarks import FACE_MESH

Array = np.ndarray
SEEDS = range(8)
YAWS, PITCHES = (-45, -30, -15, 0, 15, 30, 45), (-8, 8)
"""Views, degrees; the person's left cheek shows at positive yaw."""
OUTLINE = {0: -1, 1: -1, 2: -1, 3: -1, 4: -1, 5: -1, 11: 1, 12: 1, 13: 1, 14: 1, 15: 1, 16: 1}
"""Face points on the cheeks and the side that shows them. Elsewhere they lie on the outline, and a ray hits the cheek before it."""
EXPRESSIONS: tuple[dict[str, float], ...] = (
    {},
    {"eyeBlinkLeft": 1, "eyeBlinkRight": 1},
    {"jawOpen": 0.6},
    {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8},
)
"""Faces made, the neutral one first; the others are looked at from the front only."""
NEAR = 0.012
"""The label is sought this far around where the point is seen in the neutral face, m."""
SIZE, FIELD = 640, 16.0
DISTANCE = 1.6
STEEPEST = 0.35
"""Smallest cosine between ray and surface normal of a hit that counts: grazing rays land anywhere."""
SKIN = np.array([0.85, 0.66, 0.55])


class Head:
    """A person's head to look at."""

    def __init__(self, body: Body, colours: Array, expression: dict[str, float]) -> None:
        self.vertices, self.triangles = with_expression(body, expression), body.triangles.numpy()
        self.colours = colours
        self.centre = self.vertices[body.parts.numpy() == 0].mean(0) + [0, -0.02, 0.01] if body.parts is not None else self.vertices.mean(0)
        mesh = open3d.geometry.TriangleMesh(
            open3d.utility.Vector3dVector(self.vertices.astype(float)), open3d.utility.Vector3iVector(self.triangles)
        )
        mesh.compute_vertex_normals()
        self.normals = np.asarray(mesh.vertex_normals)
        self.scene = open3d.t.geometry.RaycastingScene()
        self.scene.add_triangles(Tensor.from_numpy(self.vertices), Tensor.from_numpy(self.triangles.astype(np.uint32)))

    def rays(self, yaw: float, pitch: float, pixels: Array) -> Array:
        """Origin and unit direction through each pixel of a camera in front of the face, turned by the two angles."""
        y, p = np.radians([yaw, pitch])
        back = np.array([np.sin(y) * np.cos(p), -np.cos(y) * np.cos(p), np.sin(p)])
        right = np.array([np.cos(y), np.sin(y), 0])
        focal = SIZE / 2 / np.tan(np.radians(FIELD / 2))
        offset = (pixels - (SIZE - 1) / 2) / focal
        along = -back + offset[..., :1] * right - offset[..., 1:] * np.cross(back, right)
        along /= np.linalg.norm(along, axis=-1, keepdims=True)
        return np.concatenate([np.broadcast_to(self.centre + DISTANCE * back, along.shape), along], -1).astype(np.float32)

    def cast(self, rays: Array) -> tuple[Array, Array, Array]:
        """Triangle (-1: none), barycentric weights and cosine of incidence of each ray's hit."""
        answer = self.scene.cast_rays(Tensor.from_numpy(rays))
        triangle = np.where(np.isfinite(answer["t_hit"].numpy()), answer["primitive_ids"].numpy().astype(np.int64), -1)
        uv = answer["primitive_uvs"].numpy()
        mix = np.concatenate([1 - uv.sum(-1, keepdims=True), uv], -1)
        normal = (self.normals[self.triangles[triangle]] * mix[..., None]).sum(-2)
        return triangle, mix, -(normal * rays[..., 3:]).sum(-1)

    def picture(self, yaw: float, pitch: float) -> Array:
        """A shaded image, RGB."""
        rows, columns = np.mgrid[:SIZE, :SIZE]
        triangle, mix, cosine = self.cast(self.rays(yaw, pitch, np.stack([columns, rows], -1)))
        colour = (self.colours[self.triangles[triangle]] * mix[..., None]).sum(-2) * (0.25 + 0.75 * cosine.clip(0, 1))[..., None]
        return (np.where(triangle[..., None] >= 0, colour, 0.7).clip(0, 1) * 255).astype(np.uint8)


def painted(body: Body) -> Array:
    """Vertex colours: skin, white eyeballs with a dark iris."""
    names, rest = body.skeleton.names, body.skin.rest.numpy()
    colours = np.tile(SKIN, (len(rest), 1))
    ball = assets().base_index.numpy() >= 13380  # past the body proper: eyes, teeth, tongue
    for side in ("LeftEye", "RightEye"):
        eye = ball & (body.skin.weights[:, names.index(side)].numpy() > 0.5)
        front = rest[eye][:, 1].min()
        aside = np.linalg.norm(rest[:, [0, 2]] - rest[eye][:, [0, 2]].mean(0), axis=1)
        colours[eye] = 0.95
        colours[eye & (aside < 0.006) & (rest[:, 1] < front + 0.008)] = (0.25, 0.15, 0.1)
    return colours


def with_expression(body: Body, expression: dict[str, float]) -> Array:
    """Vertices at rest with an expression, m."""
    units = torch.zeros(len(body.expression_names))
    for name, value in expression.items():
        units[body.expression_names.index(name)] = value
    return (body.skin.rest + body.skin.expression_basis @ units).numpy()


def hits(body: Body, expression: dict[str, float]) -> Array:
    """Where each face point was seen, carried to the mean person, m: (views, 68, 3), NaN where not."""
    mean, triangles, colours, found = with_expression(body, expression), body.triangles.numpy(), painted(body), []
    # A point on the jaw's edge may be seen just past it, on the neck.
    on_head = body.skin.weights[:, [body.skeleton.index(n) for n in ("Head", "Jaw", "LeftEye", "RightEye")]].sum(1).numpy() > 0.6
    with FaceMesh(static_image_mode=True, max_num_faces=1) as network:
        for seed in SEEDS:
            head = Head(makehuman.individual(seed), colours, expression)
            for yaw in (y for y in YAWS if not expression or abs(y) <= 15):
                for pitch in PITCHES:
                    answer = network.process(head.picture(yaw, pitch)).multi_face_landmarks  # type: ignore[attr-defined]
                    if not answer:
                        continue
                    pixels = np.array([[answer[0].landmark[i].x, answer[0].landmark[i].y] for i in FACE_MESH]) * SIZE - 0.5
                    triangle, mix, cosine = head.cast(head.rays(yaw, pitch, pixels))
                    point = (mean[triangles[triangle]] * mix[..., None]).sum(-2)
                    shown = np.array([OUTLINE.get(k, 0) * yaw >= 30 or (k not in OUTLINE and abs(yaw) <= 30) for k in range(68)])
                    good = shown & (triangle >= 0) & on_head[triangles[triangle]].all(-1) & (cosine > STEEPEST)
                    found.append(np.where(good[:, None], point, np.nan))
    return np.stack(found)


def nearest(seen: Array, body: Body) -> list[tuple[Array, Array]]:
    """Vertices and barycentric weights of the points of the outer skin nearest to where each was seen (X 68 3) in every expression."""
    outside = body.triangles.numpy()[(assets().base_index[body.triangles] < 13380).all(1).numpy()]
    faces = np.stack([with_expression(body, e) for e in EXPRESSIONS])
    steps = np.array([(i, j, 6 - i - j) for i in range(7) for j in range(7 - i)]) / 6
    labels = []
    for k in range(68):
        around = outside[np.linalg.norm(faces[0][outside].mean(1) - seen[0, k], axis=-1) < NEAR]
        candidates = np.einsum("sc,xtcd->xtsd", steps, faces[:, around])
        distance = np.square(candidates - seen[:, None, None, k]).sum(-1)
        # What was never seen with an expression (the cheeks' outline) is decided by the neutral face.
        cost = np.where(np.isnan(distance), 0, distance).sum(0)
        t, s = np.unravel_index(cost.argmin(), cost.shape)
        labels.append((around[t], steps[s]))
    return labels


def main() -> None:
    """Label, and rewrite the face lines of the keypoint file."""
    torch.set_num_threads(1)
    body = makehuman.load()
    seen = []
    for expression in EXPRESSIONS:
        views = hits(body, expression)
        middle = np.nanmedian(views, 0)
        mirror = middle[list(mirrored(FACE))] * (-1, 1, 1)
        spread = np.nanmedian(np.linalg.norm(views - middle, axis=-1), 0) * 1e3
        worst = FACE[int(np.nanargmax(spread))]
        print(f"{expression or 'neutral'}: {len(views)} views")
        print(f"  scatter {np.nanmedian(spread):.1f} mm median, {np.nanmax(spread):.1f} mm worst ({worst})")
        print(f"  left against right {np.nanmean(np.linalg.norm(middle - mirror, axis=-1)) * 1e3:.1f} mm mean")
        seen.append((middle + mirror) / 2)
    base = assets().base_index.numpy()
    lines = [line for line in preset("keypoints.txt").read_text().splitlines() if not line.startswith("face-")]
    for name, (corner, mix) in zip(FACE, nearest(np.stack(seen), body)):
        lines.append(f"{name} " + " ".join(f"{base[v]}:{w:.4f}" for v, w in zip(corner, mix)))
    path: Path = preset("keypoints.txt")
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    main()
