"""FBX: parsed again by a reader that also reads other tools' files, its skeleton and skin evaluated, compared with the body model."""

import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export_scene import motion, person, truth, y_up
from scipy.spatial.transform import Rotation

from studio.export import fbx
from studio.export.animation import character

SAMPLES = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data")) / "fbx_samples"
SCALARS = {b"C": "<?", b"Y": "<h", b"I": "<i", b"L": "<q", b"F": "<f", b"D": "<d"}
ARRAYS = {b"d": "<f8", b"f": "<f4", b"i": "<i4", b"l": "<i8", b"b": "?"}


class Record:
    """One node of a binary FBX 7.4 file: name, properties, children."""

    def __init__(self, data, at):
        self.end, count, length, size = struct.unpack_from("<IIIB", data, at)
        self.name, at = data[at + 13 : at + 13 + size].decode(), at + 13 + size
        stop, self.properties, self.children = at + length, [], []
        while at < stop:
            at = self.property(data, at)
        assert at == stop and len(self.properties) == count
        while self.end and at < self.end - 13:
            self.children.append(Record(data, at))
            at = self.children[-1].end
        assert not self.end or (at in (self.end, self.end - 13) and data[at : self.end] == b"\0" * (self.end - at))

    def property(self, data, at):
        kind = data[at : at + 1]
        at += 1
        if kind in SCALARS:
            self.properties.append(struct.unpack_from(SCALARS[kind], data, at)[0])
            return at + struct.calcsize(SCALARS[kind])
        if kind in b"SR":
            size = struct.unpack_from("<I", data, at)[0]
            raw = data[at + 4 : at + 4 + size]
            self.properties.append(raw.decode() if kind == b"S" else raw)
            return at + 4 + size
        count, packed, size = struct.unpack_from("<III", data, at)
        raw = data[at + 12 : at + 12 + size]
        self.properties.append(np.frombuffer(zlib.decompress(raw) if packed else raw, ARRAYS[kind]))
        assert len(self.properties[-1]) == count
        return at + 12 + size

    def __getitem__(self, name):
        return next(child for child in self.children if child.name == name)

    def values(self, setting):
        return next(p.properties[4:] for p in self["Properties70"].children if p.properties[0] == setting)


class Document:
    """Objects and connections of a binary FBX file."""

    def __init__(self, path):
        data = path.read_bytes()
        assert data[:23] == b"Kaydara FBX Binary  \0\x1a\0" and struct.unpack_from("<I", data, 23)[0] == 7400
        at, self.tops = 27, {}
        while struct.unpack_from("<I", data, at)[0]:
            node = Record(data, at)
            self.tops[node.name], at = node, node.end
        self.objects = {node.properties[0]: node for node in self.tops["Objects"].children}
        links = [c.properties for c in self.tops["Connections"].children]
        self.under = [(link[1], link[2]) for link in links if link[0] == "OO"]
        limbs = self.of("Model")  # a limb lies below another limb, and below the cluster it moves
        self.parent = {a: b for a, b in self.under if a not in limbs or b in limbs or b == 0}
        self.onto = [(link[1], link[2], link[3]) for link in links if link[0] == "OP"]

    def of(self, kind, cls=None):
        return {i: n for i, n in self.objects.items() if n.name == kind and cls in (None, n.properties[2])}

    def curves(self, target, field):
        """Values per axis of what drives a property."""
        group = next((a for a, b, f in self.onto if b == target and f == field), None)
        return {f[2:]: self.objects[a]["KeyValueFloat"].properties[0].astype(float) for a, b, f in self.onto if b == group}

    def world(self, frames):
        """Name -> (T, 4, 4) of every limb, in the file's unit."""
        limbs, result = self.of("Model", "LimbNode"), {}

        def of(i):
            if i not in result:
                local = np.tile(np.eye(4), (frames, 1, 1))
                local[:, :3, 3] = limbs[i].values("Lcl Translation")
                for field, slot in (("Lcl Translation", "t"), ("Lcl Rotation", "r")):
                    axes = self.curves(i, field)
                    if axes:
                        table = np.stack([np.broadcast_to(axes[a], frames) for a in "XYZ"], 1)
                        if slot == "t":
                            local[:, :3, 3] = table
                        else:
                            local[:, :3, :3] = Rotation.from_euler("xyz", table, degrees=True).as_matrix()  # extrinsic: Rz Ry Rx
                result[i] = of(self.parent[i]) @ local if self.parent[i] in limbs else local
            return result[i]

        return {limbs[i].properties[1].split("\0")[0]: of(i) for i in limbs}

    def skinned(self, frames, t):
        """Vertices on frame t, in the file's unit."""
        geometry = next(iter(self.of("Geometry", "Mesh").values()))
        points = geometry["Vertices"].properties[0].reshape(-1, 3).copy()
        for i, channel in self.of("Deformer", "BlendShapeChannel").items():
            weight = np.broadcast_to(self.curves(i, "DeformPercent")["DeformPercent"], frames)[t] / channel["FullWeights"].properties[0][0]
            shape = next(self.objects[a] for a, b in self.parent.items() if b == i)
            points[shape["Indexes"].properties[0]] += weight * shape["Vertices"].properties[0].reshape(-1, 3)
        world, moved = self.world(frames), np.zeros_like(points)
        for i, cluster in self.of("Deformer", "Cluster").items():
            index, weights = cluster["Indexes"].properties[0], cluster["Weights"].properties[0]
            transform = cluster["Transform"].properties[0].reshape(4, 4).T
            assert np.allclose(transform @ cluster["TransformLink"].properties[0].reshape(4, 4).T, np.eye(4), atol=1e-9)
            limb = next(a for a, b in self.under if b == i)
            bones = world[self.objects[limb].properties[1].split("\0")[0]][t] @ transform
            moved[index] += weights[:, None] * (points[index] @ bones[:3, :3].T + bones[:3, 3])
        return moved


@pytest.fixture(scope="module")
def scene():
    body = person()
    return body, motion(body)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no FBX files of other tools at {SAMPLES}")
def test_the_reader_of_these_tests_reads_other_tools_files():
    for name, limbs in (("blender_293_half_skinned_7400_binary.fbx", 2), ("maya_human_ik_7400_binary.fbx", 20)):
        assert len(Document(SAMPLES / name).of("Model", "LimbNode")) >= limbs


@pytest.mark.parametrize("rest", ["t", "a"])
def test_joints_and_deformed_mesh_come_back_within_a_hundredth_of_a_millimetre(scene, tmp_path, rest):
    body, moved = scene
    document, frames = Document(fbx.write(tmp_path / "ann.fbx", character(moved, body, rest))), len(moved.translation)
    posed, world = truth(body, moved), document.world(frames)
    for j, name in enumerate(body.skeleton.names):
        assert np.abs(world[name][:, :3, 3] / 100 - y_up(posed.joints[:, j]).numpy()).max() < 5e-6
    for t in (0, 7, 60):
        assert np.abs(document.skinned(frames, t) / 100 - y_up(posed.vertices()[t]).numpy()).max() < 1e-5


def test_the_comparison_notices_a_wrong_motion(scene, tmp_path):
    body, moved = scene
    document = Document(fbx.write(tmp_path / "ann.fbx", character(moved, body)))
    other = truth(body, replace(moved, rotation=moved.rotation * 1.001, expression=0.9 * moved.expression))
    assert (
        np.abs(document.world(61)["LeftHand"][:, :3, 3] / 100 - y_up(other.joints[:, body.skeleton.index("LeftHand")]).numpy()).max() > 1e-4
    )


def test_the_rest_pose_in_the_file_is_the_t_pose_with_hips_on_top(scene, tmp_path):
    body, moved = scene
    document = Document(fbx.write(tmp_path / "ann.fbx", character(moved, body)))
    models = {n.properties[1].split("\0")[0]: (i, n) for i, n in document.of("Model").items()}
    assert all(n.values("Lcl Rotation") == [0, 0, 0] and n.values("Lcl Scaling") == [1, 1, 1] for _, n in models.values())
    assert document.parent[models["Hips"][0]] == 0
    x, y, z = models["LeftForeArm"][1].values("Lcl Translation")
    assert x > 20 and abs(y) < 1e-6 and abs(z) < 1e-6
    settings = document.tops["GlobalSettings"]
    assert settings.values("UpAxis") == [1] and settings.values("UnitScaleFactor") == [1.0]


@pytest.mark.parametrize(("fps", "mode"), [(30000 / 1001, 9), (24.0, 11), (60.0, 3), (60000 / 1001, 17), (37.5, 14)])
def test_keys_lie_on_the_frames_of_every_rate(scene, tmp_path, fps, mode):
    body, moved = scene
    document = Document(fbx.write(tmp_path / "ann.fbx", character(replace(moved, fps=fps), body)))
    assert document.tops["GlobalSettings"].values("TimeMode") == [mode]
    times = max((n["KeyTime"].properties[0] for n in document.of("AnimationCurve").values()), key=len)
    assert np.abs(times - np.arange(61) * 46186158000 / fps).max() <= 0.5


def test_two_full_turns_run_through_without_a_jump(scene, tmp_path):
    body, moved = scene
    document = Document(fbx.write(tmp_path / "ann.fbx", character(moved, body)))
    hips = next(i for i, n in document.of("Model").items() if n.properties[1].startswith("Hips"))
    heading = document.curves(hips, "Lcl Rotation")["Y"]
    assert np.abs(np.diff(heading)).max() < 13 and abs(abs(heading[-1] - heading[0]) - 720) < 1e-3


def test_face_shapes_carry_their_names(scene, tmp_path):
    body, moved = scene
    document = Document(fbx.write(tmp_path / "ann.fbx", character(moved, body)))
    assert [n.properties[1].split("\0")[0] for n in document.of("Deformer", "BlendShapeChannel").values()] == list(body.expression_names)


def test_contacts_and_sigmas_are_animated_properties_when_asked_for(scene, tmp_path):
    body, moved = scene
    feet = torch.rand(61, 4, generator=torch.Generator().manual_seed(1)).double()
    shown = character(replace(moved, contacts=feet), body)
    document = Document(fbx.write(tmp_path / "ann.fbx", shown, options=fbx.Options(measures=True)))
    limbs = {n.properties[1].split("\0")[0]: i for i, n in document.of("Model", "LimbNode").items()}
    for k, name in enumerate(("contact_left_heel", "contact_left_toe", "contact_right_heel", "contact_right_toe")):
        assert np.abs(document.curves(limbs["Hips"], name)[name] - feet[:, k].numpy()).max() < 1e-6
        flags = next(p.properties for p in document.objects[limbs["Hips"]]["Properties70"].children if p.properties[0] == name)
        assert flags[1:4] == ["Number", "", "A+U"]
    for j, name in enumerate(body.skeleton.names):
        assert np.abs(document.curves(limbs[name], "sigma_mm")["sigma_mm"] - 1000 * moved.sigma[:, j].numpy()).max() < 1e-5
    plain = Document(fbx.write(tmp_path / "ann.fbx", shown))
    assert not any(field.startswith(("contact", "sigma")) for _, _, field in plain.onto)


@pytest.mark.parametrize(("code", "fps", "mode", "first"), [("01:00:00:00", 24.0, 11, 86400), ("01:00:00;00", 30000 / 1001, 8, 107892)])
def test_time_begins_at_the_timecode_in_every_place_that_says_so(scene, tmp_path, code, fps, mode, first):
    body, moved = scene
    timed = character(replace(moved, timecode=code, fps=fps, first_frame=0), body)
    document = Document(fbx.write(tmp_path / "ann.fbx", timed, "walk", fbx.Options(timeline="timecode")))
    begin, end = (round((first + t) * 46186158000 / fps) for t in (0, 60))
    settings, (stack,) = document.tops["GlobalSettings"], document.of("AnimationStack").values()
    assert settings.values("TimeMode") == [mode] and settings.values("CustomFrameRate") == [fps]
    assert (*settings.values("TimeSpanStart"), *settings.values("TimeSpanStop")) == (begin, end)
    assert (*stack.values("LocalStart"), *stack.values("LocalStop")) == (begin, end)
    assert stack.properties[1].split("\0")[0] == "walk"
    assert document.tops["Takes"]["Take"]["LocalTime"].properties == [begin, end]
    times = max((n["KeyTime"].properties[0] for n in document.of("AnimationCurve").values()), key=len)
    assert times[0] == begin and times[-1] == end


def test_the_mesh_has_normals_texture_coordinates_smoothing_and_materials(scene, tmp_path):
    body, moved = scene
    geometry = next(iter(Document(fbx.write(tmp_path / "ann.fbx", character(moved, body))).of("Geometry", "Mesh").values()))
    corners = 3 * len(body.triangles)
    assert np.abs(np.linalg.norm(geometry["LayerElementNormal"]["Normals"].properties[0].reshape(corners, 3), axis=1) - 1).max() < 1e-9
    layer = geometry["LayerElementUV"]
    places = layer["UV"].properties[0].reshape(-1, 2)[layer["UVIndex"].properties[0]]
    assert np.abs(places - body.uv.reshape(-1, 2).numpy()).max() < 1e-12
    assert set(geometry["LayerElementSmoothing"]["Smoothing"].properties[0]) == {1}
    assert len(geometry["LayerElementMaterial"]["Materials"].properties[0]) == len(body.triangles)


def test_fewer_keys_keep_every_frame_within_the_stated_error(scene, tmp_path):
    body, moved = scene
    shown = character(moved, body)
    document = Document(fbx.write(tmp_path / "ann.fbx", shown, options=fbx.Options(degrees=1.0, millimetres=5.0)))
    world, kept, frames = {}, 0, np.arange(61)
    for i, limb in document.of("Model", "LimbNode").items():
        group = next(a for a, b, f in document.onto if b == i and f == "Lcl Rotation")
        axes = {}
        for a, b, f in document.onto:
            if b == group:
                curve = document.objects[a]
                at = np.round(curve["KeyTime"].properties[0] * shown.fps / 46186158000)
                axes[f[2:]] = np.interp(frames, at, curve["KeyValueFloat"].properties[0].astype(float))
                kept += len(at)
        world[limb.properties[1].split("\0")[0]] = Rotation.from_euler("xyz", np.stack([axes[a] for a in "XYZ"], 1), degrees=True)
    for j, name in enumerate(body.skeleton.names):
        missed = Rotation.from_matrix(shown.R_parent_joint[:, j].numpy()).inv() * world[name]
        assert np.degrees(missed.magnitude()).max() <= 1.0
    assert kept < 0.8 * 3 * 55 * 61
