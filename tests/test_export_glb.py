"""GLB: read back by plain parsing of the specification's layout, skinned again, compared with the body model; and by another library."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from export_scene import motion, person, truth, y_up
from scipy.spatial.transform import Rotation, Slerp

from studio.export import glb
from studio.export.animation import character

TYPES = {5126: np.float32, 5125: np.uint32, 5123: np.uint16}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Parsed:
    """A GLB by the letter of the glTF 2.0 specification, in numpy alone."""

    def __init__(self, path):
        data = path.read_bytes()
        magic, version, total = struct.unpack_from("<4sII", data)
        assert (magic, version, total) == (b"glTF", 2, len(data))
        length, kind = struct.unpack_from("<I4s", data, 12)
        assert kind == b"JSON" and length % 4 == 0
        self.json = json.loads(data[20 : 20 + length])
        size, kind = struct.unpack_from("<I4s", data, 20 + length)
        assert kind == b"BIN\0" and 28 + length + size == total
        self.bin = data[28 + length :]

    def view(self, n, kind, width, count):
        view = self.json["bufferViews"][n]
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= len(self.bin)
        return np.frombuffer(self.bin, TYPES[kind], count * width, view["byteOffset"]).reshape(count, width)

    def table(self, n):
        a = self.json["accessors"][n]
        width = WIDTHS[a["type"]]
        shape = (a["componentType"], width, a["count"])
        values = self.view(a["bufferView"], *shape) if "bufferView" in a else np.zeros((a["count"], width), np.float32)
        if sparse := a.get("sparse"):
            rows = self.view(sparse["indices"]["bufferView"], sparse["indices"]["componentType"], 1, sparse["count"])[:, 0]
            assert (np.diff(rows.astype(int)) > 0).all()
            values = values.copy()
            values[rows] = self.view(sparse["values"]["bufferView"], a["componentType"], width, sparse["count"])
        return values

    def sampled(self, node, path, frames):
        for channel in self.json["animations"][0]["channels"]:
            if channel["target"] == {"node": node, "path": path}:
                sampler = self.json["animations"][0]["samplers"][channel["sampler"]]
                values = self.table(sampler["output"])
                times = self.table(sampler["input"])[:, 0]
                values = values.reshape(len(times), -1)
                return times, values if frames < 0 or len(times) == frames else np.repeat(values, frames, 0)
        return None, None

    def world(self, frames):
        """World matrices (T, nodes, 4, 4), animated."""
        nodes = self.json["nodes"]
        parent = {c: n for n, node in enumerate(nodes) for c in node.get("children", [])}
        result = {}

        def of(n):
            if n not in result:
                _, t = self.sampled(n, "translation", frames)
                _, q = self.sampled(n, "rotation", frames)
                local = np.tile(np.eye(4), (frames, 1, 1))
                local[:, :3, 3] = nodes[n].get("translation", [0, 0, 0]) if t is None else t
                if q is not None:
                    assert np.abs(np.linalg.norm(q, axis=1) - 1).max() < 1e-5
                    local[:, :3, :3] = Rotation.from_quat(q).as_matrix()
                result[n] = of(parent[n]) @ local if n in parent else local
            return result[n]

        return np.stack([of(n) for n in range(len(nodes))], 1)

    def skinned(self, node, frames, chosen):
        """Vertices (len(chosen), P, 3) of a mesh node on the chosen frames."""
        mesh, skin = self.json["meshes"][self.json["nodes"][node]["mesh"]], self.json["skins"][self.json["nodes"][node]["skin"]]
        primitive = mesh["primitives"][0]
        base = self.table(primitive["attributes"]["POSITION"]).astype(float)
        _, weights = self.sampled(node, "weights", frames)
        targets = [self.table(t["POSITION"]) for t in primitive.get("targets", [])]
        matrices = self.world(frames)[chosen][:, skin["joints"]] @ self.table(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(
            0, 2, 1
        )
        result = []
        for t, bones in zip(chosen, matrices):
            points = base + sum((w * d for w, d in zip(weights[t], targets)), np.zeros_like(base)) if targets else base
            points = np.concatenate([points, np.ones((len(points), 1))], 1)
            moved = np.zeros_like(base)
            for n in range(2):
                if f"JOINTS_{n}" in primitive["attributes"]:
                    joints, w = self.table(primitive["attributes"][f"JOINTS_{n}"]), self.table(primitive["attributes"][f"WEIGHTS_{n}"])
                    blended = (w[:, :, None] * bones.reshape(-1, 16)[joints]).sum(1).reshape(-1, 4, 4)
                    moved += (blended @ points[:, :, None])[:, :3, 0]
            result.append(moved)
        return np.stack(result)


def source_of(body, count):
    """Body vertex of every file vertex: unique (vertex, texture corner) pairs in sorted order."""
    corners = torch.cat([body.triangles.reshape(-1, 1).double(), body.uv.reshape(-1, 2).double()], -1)
    source = np.unique(corners.numpy(), axis=0)[:, 0].astype(int)
    assert len(source) == count
    return source


def compare(path, body, moved, chosen, actor=0):
    """Largest joint and vertex distance (m) between a file and the studio's body."""
    file, frames = Parsed(path), len(moved.translation)
    skin = file.json["skins"][actor]
    posed = truth(body, moved)
    joints = file.world(frames)[:, skin["joints"]][..., :3, 3]
    node = next(n for n, node in enumerate(file.json["nodes"]) if node.get("skin") == actor)
    vertices = file.skinned(node, frames, chosen)
    few = replace(moved, **{k: getattr(moved, k)[chosen] for k in ("translation", "rotation", "expression")})
    wanted = y_up(truth(body, few).vertices()).numpy()[:, source_of(body, vertices.shape[1])]
    return np.linalg.norm(joints - y_up(posed.joints).numpy(), axis=-1).max(), np.linalg.norm(vertices - wanted, axis=-1).max()


@pytest.fixture(scope="module")
def scene():
    body = person()
    return body, motion(body)


@pytest.mark.parametrize("rest", ["t", "a"])
def test_joints_and_deformed_mesh_come_back_within_a_hundredth_of_a_millimetre(scene, tmp_path, rest):
    body, moved = scene
    joints, vertices = compare(glb.write(tmp_path / "ann.glb", [character(moved, body, rest)]), body, moved, [0, 7, 30, 60])
    assert joints < 1e-5 and vertices < 1e-5


def test_the_comparison_notices_a_wrong_body(scene, tmp_path):
    body, moved = scene
    path = glb.write(tmp_path / "ann.glb", [character(moved, body)])
    other = replace(moved, rotation=moved.rotation * 1.001, expression=moved.expression * 0.9)
    joints, vertices = compare(path, body, other, [7])
    assert joints > 1e-4 and vertices > 1e-4


def test_several_actors_share_a_file_and_keep_apart(scene, tmp_path):
    body, moved = scene
    second = replace(motion(body, seed=8), actor="bob", translation=moved.translation + 1.5)
    path = glb.write(tmp_path / "two.glb", [character(moved, body), character(second, body)])
    for actor, each in enumerate((moved, second)):
        joints, vertices = compare(path, body, each, [5, 40], actor)
        assert joints < 1e-5 and vertices < 1e-5
    names = [node["name"] for node in Parsed(path).json["nodes"]]
    assert names.index("ann") == 0 and "bob" in names and "bob_mesh" in names


def test_the_rest_pose_in_the_file_is_the_t_pose(scene, tmp_path):
    body, moved = scene
    file = Parsed(glb.write(tmp_path / "ann.glb", [character(moved, body)]))
    node = {node["name"]: node for node in file.json["nodes"]}
    assert all("rotation" not in n for n in node.values())
    left, right = np.array(node["LeftForeArm"]["translation"]), np.array(node["RightForeArm"]["translation"])
    assert left[0] > 0.2 and right[0] < -0.2 and np.abs([left[1:], right[1:]]).max() < 1e-9


def test_face_shapes_have_their_names_and_weights_and_an_empty_one_costs_nothing(scene, tmp_path):
    body, moved = scene
    file = Parsed(glb.write(tmp_path / "ann.glb", [character(moved, body)]))
    mesh = file.json["meshes"][0]
    assert mesh["extras"]["targetNames"] == ["jawOpen", "tongueOut", "mouthSmileLeft"] and len(mesh["weights"]) == 3
    node = next(n for n, node in enumerate(file.json["nodes"]) if "mesh" in node)
    _, weights = file.sampled(node, "weights", len(moved.expression))
    assert np.abs(weights - moved.expression.numpy()).max() < 1e-7
    targets = [file.json["accessors"][t["POSITION"]] for t in mesh["primitives"][0]["targets"]]
    assert all("sparse" in t and "bufferView" not in t and "min" in t for t in targets)
    assert targets[1]["sparse"]["count"] == 1 and np.abs(file.table(mesh["primitives"][0]["targets"][1]["POSITION"])).max() == 0


def test_quaternions_never_jump_to_the_other_side(scene, tmp_path):
    body, moved = scene
    file = Parsed(glb.write(tmp_path / "ann.glb", [character(moved, body)]))
    for joint in file.json["skins"][0]["joints"]:
        _, q = file.sampled(joint, "rotation", len(moved.rotation))
        assert ((q[1:] * q[:-1]).sum(1) > 0.9).all()
    times, _ = file.sampled(file.json["skins"][0]["joints"][0], "translation", len(moved.rotation))
    assert times[0] == 0 and abs(times[-1] - 60 * 1001 / 30000) < 1e-6


def test_another_library_reads_mesh_normals_and_texture_coordinates(scene, tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    body, moved = scene
    loaded = trimesh.load(glb.write(tmp_path / "ann.glb", [character(moved, body)]), process=False)
    meshes = list(loaded.geometry.values())
    assert sum(len(m.faces) for m in meshes) == len(body.triangles)
    rest = y_up(truth(body, moved).shaped.rest()).numpy()
    skin = next(m for m in meshes if "skin" in m.visual.material.name)
    assert np.abs(skin.vertices - rest[source_of(body, len(skin.vertices))]).max() < 1e-6
    assert np.abs(np.linalg.norm(skin.vertex_normals, axis=1) - 1).max() < 1e-4
    uv = np.unique(torch.cat([body.triangles.reshape(-1, 1).double(), body.uv.reshape(-1, 2).double()], -1).numpy(), axis=0)[:, 1:]
    assert np.abs(skin.visual.uv - uv).max() < 1e-6  # trimesh flips v back


def test_the_default_body_survives_with_its_52_face_shapes(tmp_path):
    makehuman = pytest.importorskip("rigs.makehuman")
    body = makehuman.load()
    moved = motion(replace(body, expression_names=body.expression_names), frames=5)
    weights = torch.rand(5, len(body.expression_names), generator=torch.Generator().manual_seed(2)).double()
    moved = replace(moved, expression=0.3 * weights, shape=torch.randn(len(body.shape_names), generator=torch.Generator().manual_seed(3)))
    path = glb.write(tmp_path / "ann.glb", [character(moved, body)])
    joints, vertices = compare(path, body, moved, [2])
    assert joints < 1e-5 and vertices < 1e-5
    names = Parsed(path).json["meshes"][0]["extras"]["targetNames"]
    assert len(names) == 52 and {"jawOpen", "eyeBlinkLeft", "mouthSmileRight", "tongueOut"} <= set(names)
    assert path.stat().st_size < 6e6


def test_fewer_keys_keep_every_frame_within_the_stated_error(scene, tmp_path):
    body, moved = scene
    shown = character(moved, body)
    path = glb.write(tmp_path / "few.glb", [shown], degrees=1.0, millimetres=5.0)
    file, kept, at = Parsed(path), 0, np.arange(61) / shown.fps
    for j, node in enumerate(file.json["skins"][0]["joints"]):
        times, q = file.sampled(node, "rotation", -1)
        kept += len(times)
        again = Slerp(times, Rotation.from_quat(q))(at.clip(times[0], times[-1])) if len(times) > 1 else Rotation.from_quat(q[0])
        assert np.degrees((Rotation.from_matrix(shown.R_parent_joint[:, j].numpy()).inv() * again).magnitude()).max() <= 1.0
    times, places = file.sampled(file.json["skins"][0]["joints"][0], "translation", -1)
    again = np.stack([np.interp(at, times, places[:, k]) for k in range(3)], 1)
    assert np.linalg.norm(again - shown.root.numpy(), axis=1).max() <= 0.005
    assert kept < 0.8 * 55 * 61


def test_the_timecode_is_noted_at_the_actors_node(scene, tmp_path):
    body, moved = scene
    node = Parsed(glb.write(tmp_path / "ann.glb", [character(moved, body)])).json["nodes"][0]
    assert node["name"] == "ann" and node["extras"] == {"timecode": "01:00:00:00", "first_frame": 120, "fps": moved.fps}
