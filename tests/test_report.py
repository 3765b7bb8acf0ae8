"""The take report: what it measures, what it warns of, and that it opens anywhere."""

import base64
import json
import math
import re
import shutil
import subprocess
import time
from dataclasses import replace
from urllib.request import urlopen

import cv2
import numpy as np
import open3d as o3d
import pytest
import torch

from calibration.cameras import Cameras
from rigs import keypoints as sets
from rigs import makehuman
from rigs.body import Body, Skin
from rigs.skeleton import Skeleton
from studio.review import ReportConfig, overlays, report
from studio.review.material import gathered
from studio.review.measures import STRANGE, _looked_at
from studio.review.plausible import strange_joints
from studio.review.scene import strongest
from studio.take import Take
from studio.values import Keypoints2D, Motion, Tracks3D
from studio.video import VideoWriter
from studio.virtual.motion import scripted

T, FPS, SIZE = 40, 30.0, (640, 480)
CAMERAS = ("east", "north", "south", "west")

# ---- a puppet of tubes: its places are written here by hand, so truth does not come from the model under test
TRUNK = {
    "Hips": (0, 0, 0.95), "Spine": (0, 0, 1.05), "Spine1": (0, 0, 1.18), "Spine2": (0, 0, 1.3), "Neck": (0, 0, 1.48),
    "Head": (0, -0.02, 1.58), "Jaw": (0, -0.03, 1.57), "LeftEye": (0.03, -0.09, 1.64), "RightEye": (-0.03, -0.09, 1.64),
}  # fmt: skip
SIDE = {
    "Shoulder": (0.05, 0, 1.43), "Arm": (0.18, 0, 1.42), "ForeArm": (0.45, 0, 1.42), "Hand": (0.7, 0, 1.42),
    "UpLeg": (0.1, 0, 0.92), "Leg": (0.1, 0, 0.5), "Foot": (0.1, 0.02, 0.09), "ToeBase": (0.1, -0.12, 0.03),
    **{f"Hand{f}{i}": (0.7 + (0.03 if f == "Thumb" else 0.08) + 0.03 * (i - 1), y, 1.42) for f, y in
       (("Thumb", -0.05), ("Index", -0.03), ("Middle", -0.01), ("Ring", 0.01), ("Pinky", 0.03)) for i in (1, 2, 3)},
}  # fmt: skip
RADIUS = {
    "Hips": 0.12, "Spine": 0.13, "Spine1": 0.13, "Spine2": 0.1, "Neck": 0.06, "Head": 0.09, "UpLeg": 0.075, "Leg": 0.055, "Foot": 0.04,
    "Arm": 0.045, "ForeArm": 0.035, "Shoulder": 0.06,
}  # fmt: skip


def places(names):
    found = []
    for name in names:
        side = next((s for s in ("Left", "Right") if name.startswith(s) and name not in TRUNK), None)
        x, y, z = TRUNK[name] if side is None else SIDE[name.removeprefix(side)]
        found.append((-x if side == "Right" else x, y, z))
    return torch.tensor(found)


def tube(a, b, radius, sides=10, rings=4):
    along = (b - a) / (b - a).norm().clamp_min(1e-6)
    across = torch.linalg.cross(along, torch.tensor([0.3, 0.9, 0.2]))
    across = across / across.norm()
    third = torch.linalg.cross(along, across)
    turn = torch.arange(sides) * 2 * math.pi / sides
    ring = across * turn.cos()[:, None] + third * turn.sin()[:, None]
    width = [0.55, 1.0, 1.0, 0.55]
    points = torch.cat([a + (b - a) * (i / (rings - 1)) + ring * radius * width[i] for i in range(rings)] + [a[None], b[None]])
    quads = [
        (i * sides + k, i * sides + (k + 1) % sides, (i + 1) * sides + (k + 1) % sides, (i + 1) * sides + k)
        for i in range(rings - 1)
        for k in range(sides)
    ]
    faces = [t for p, q, r, s in quads for t in ((p, q, r), (p, r, s))]
    last, n = (rings - 1) * sides, rings * sides
    faces += [(n, (k + 1) % sides, k) for k in range(sides)] + [(n + 1, last + k, last + (k + 1) % sides) for k in range(sides)]
    return points, torch.tensor(faces)


def rigid(points, joint, J):
    weights = torch.zeros(len(points), J)
    weights[:, joint] = 1
    return Skin(points, torch.zeros(len(points), 3, 2), torch.zeros(len(points), 3, 1), weights)


def keypoint_places(skeleton, joints):
    """(joint, place at rest) of all 133 keypoints."""
    at = lambda name: joints[skeleton.index(name)]  # noqa: E731
    table = {"nose": ("Head", at("Head") + torch.tensor([0, -0.1, 0.02]))}
    for s, S, sign in (("left", "Left", 1), ("right", "Right", -1)):
        table |= {f"{s}_eye": (S + "Eye", at(S + "Eye")), f"{s}_ear": ("Head", at("Head") + torch.tensor([sign * 0.08, 0, 0.04]))}
        for k, j in (
            ("shoulder", "Arm"),
            ("elbow", "ForeArm"),
            ("wrist", "Hand"),
            ("hip", "UpLeg"),
            ("knee", "Leg"),
            ("ankle", "Foot"),
            ("hand_root", "Hand"),
        ):
            table[f"{s}_{k}"] = (S + j, at(S + j))
        toe = at(S + "ToeBase")
        table |= {f"{s}_big_toe": (S + "ToeBase", toe + torch.tensor([-sign * 0.03, -0.07, -0.02]))}
        table |= {f"{s}_small_toe": (S + "ToeBase", toe + torch.tensor([sign * 0.03, -0.05, -0.02]))}
        table |= {f"{s}_heel": (S + "Foot", at(S + "Foot") + torch.tensor([0, 0.05, -0.08]))}
        for finger, f in (
            ("Thumb", "thumb"),
            ("Index", "forefinger"),
            ("Middle", "middle_finger"),
            ("Ring", "ring_finger"),
            ("Pinky", "pinky_finger"),
        ):
            for i in (1, 2, 3):
                table[f"{s}_{f}{i}"] = (f"{S}Hand{finger}{i}", at(f"{S}Hand{finger}{i}"))
            table[f"{s}_{f}4"] = (f"{S}Hand{finger}3", at(f"{S}Hand{finger}3") + torch.tensor([sign * 0.025, 0, 0]))
    for i in range(68):
        a = i / 68 * 2 * math.pi
        table[f"face-{i}"] = ("Head", at("Head") + torch.tensor([0.06 * math.cos(a), -0.085, 0.02 + 0.07 * math.sin(a)]))
    return table


def puppet():
    skeleton = Skeleton.human()
    joints, J = places(skeleton.names), len(skeleton)
    parts, faces, start = [], [], 0
    for j, name in enumerate(skeleton.names):
        plain = name.removeprefix("Left").removeprefix("Right") if name not in TRUNK else name
        children = [i for i, p in enumerate(skeleton.parents) if p == j] or [None]
        for child in children:
            end = (
                joints[child]
                if child is not None
                else joints[j] + {"Head": torch.tensor([0, 0, 0.2])}.get(name, (joints[j] - joints[skeleton.parents[j]]) * 0.7)
            )
            if plain in ("Jaw", "LeftEye", "RightEye") or (child is not None and skeleton.names[child] in ("Jaw", "LeftEye", "RightEye")):
                continue
            points, triangles = tube(joints[j], end, RADIUS.get(plain, 0.011 if "Hand" in name and plain != "Hand" else 0.025))
            parts.append(rigid(points, j, J))
            faces.append(triangles + start)
            start += len(points)
    head, triangles = tube(joints[skeleton.index("Head")], joints[skeleton.index("Head")] + torch.tensor([0, 0, 0.2]), 0.095)
    parts.append(rigid(head, skeleton.index("Head"), J))
    faces.append(triangles + start)
    table = keypoint_places(skeleton, joints)
    dots = Skin.stacked([rigid(table[n][1][None], skeleton.index(table[n][0]), J) for n in sets.COCO_WHOLEBODY])
    return Body(
        "puppet",
        skeleton,
        joints,
        torch.zeros(J, 3, 2),
        Skin.stacked(parts),
        torch.cat(faces),
        ("size", "width"),
        ("smile",),
        sets.COCO_WHOLEBODY,
        dots,
    )


def around(radius=3.2, height=1.5):
    angle = torch.tensor([0.0, 90.0, 270.0, 180.0], dtype=torch.float64).deg2rad() + 0.3
    position = torch.stack([radius * angle.cos(), radius * angle.sin(), torch.full((4,), height, dtype=torch.float64)], -1)
    forward = torch.tensor([0.0, 0.0, 0.9], dtype=torch.float64) - position
    forward = forward / forward.norm(dim=-1, keepdim=True)
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(4, 3))
    right = right / right.norm(dim=-1, keepdim=True)
    R = torch.stack([right, torch.linalg.cross(forward, right), forward], -2)
    wide = torch.tensor([[640.0, 480.0]], dtype=torch.float64).expand(4, 2)
    k = torch.zeros(4, 8, dtype=torch.float64)
    k[:, 0], k[:, 1] = -0.12, 0.03
    return Cameras(CAMERAS, wide, torch.full((4, 2), 560.0, dtype=torch.float64), wide / 2, k, ("brown",) * 4, R, position)


def dance(skeleton):
    """Arms wave, the trunk turns, the feet stay: (translation, rotation)."""
    t = torch.arange(T) / FPS
    rotation = torch.zeros(T, len(skeleton), 3)
    wave = (2 * math.pi * 0.8 * t).sin()
    for s, sign in (("Left", 1), ("Right", -1)):
        rotation[:, skeleton.index(s + "Arm"), 1] = sign * (0.7 + 0.5 * wave)
        rotation[:, skeleton.index(s + "ForeArm"), 2] = -sign * (0.5 + 0.4 * wave)
        rotation[:, skeleton.index(s + "HandIndex1"), 1] = sign * 0.6 * wave.abs()
    rotation[:, skeleton.index("Spine1"), 2] = 0.3 * wave
    rotation[:, skeleton.index("Head"), 2] = -0.3 * wave
    return places(["Hips"]).expand(T, 3).clone(), rotation


def seen_by_opencv(cameras, points):
    """Pixels by OpenCV's own projection: (C, ..., 2)."""
    found = []
    for c in range(len(cameras)):
        turn, _ = cv2.Rodrigues(cameras.R_camera_world[c].numpy())
        flat = points.reshape(-1, 3).double().numpy()
        dots, _ = cv2.projectPoints(flat, turn, cameras.translation[c].numpy(), cameras.matrix[c].numpy(), cameras.distortion[c].numpy())
        found.append(torch.from_numpy(dots[:, 0]).float().reshape(*points.shape[:-1], 2))
    return torch.stack(found)


def film(path, dots):
    """A grey room with the keypoints' skeleton in it."""
    pairs = [(sets.COCO_WHOLEBODY.index(a), sets.COCO_WHOLEBODY.index(b)) for a, b in sets.BONES]
    room = np.full((SIZE[1], SIZE[0], 3), 96, np.uint8)
    room[300:] = (120, 112, 104)
    with VideoWriter(path, *SIZE, FPS) as video:
        for frame in dots:
            image = room.copy()
            for a, b in pairs:
                cv2.line(image, frame[a].int().tolist(), frame[b].int().tolist(), (205, 180, 160), 5, cv2.LINE_AA)
            video.write(image)


@pytest.fixture(scope="module")
def studio_floor(tmp_path_factory):
    """Body, cameras and films that all takes here share."""
    folder = tmp_path_factory.mktemp("floor")
    body, cameras = puppet(), around()
    body.save(folder / "puppet.safetensors")
    cameras.save(folder / "cameras.yaml")
    translation, rotation = dance(body.skeleton)
    points = body.shaped(torch.zeros(2)).posed(rotation, translation).points(body.keypoints)
    for c, dots in enumerate(seen_by_opencv(cameras, points)):
        film(folder / f"{CAMERAS[c]}.mp4", dots)
    return folder, body, cameras, translation, rotation


def staged(studio_floor, folder, noise=1.0, speed=0.0, spoil=lambda pixels, confidence, swapped, detection: None):
    """A take on disk as the stages would leave it; `spoil` edits what was seen in place."""
    floor, body, cameras, translation, rotation = studio_floor
    random = torch.Generator().manual_seed(7)
    translation = translation + torch.arange(T)[:, None] / FPS * torch.tensor([speed, 0.0, 0.0])
    points = body.shaped(torch.zeros(2)).posed(rotation, translation).points(body.keypoints)
    K, C = points.shape[1], len(cameras)
    pixels = seen_by_opencv(cameras, points)
    pixels = pixels + noise * torch.randn(pixels.shape, generator=random)
    confidence, swapped, detection = torch.ones(C, T, K), torch.zeros(C, T, 1, dtype=torch.bool), torch.zeros(C, T, 1, dtype=torch.int64)
    spoil(pixels, confidence, swapped, detection)
    videos = {n: floor / f"{n}.mp4" for n in CAMERAS}
    take = Take.of(videos, floor / "cameras.yaml", folder, body=str(floor / "puppet.safetensors"))
    for c, name in enumerate(CAMERAS):
        sigma = torch.full((1, T, 1, K), noise)
        Keypoints2D((name,), sets.COCO_WHOLEBODY, "exact", FPS, 0, pixels[c][None, :, None], sigma, confidence[c][None, :, None]).save(
            take.keypoints_folder / f"{name}.safetensors"
        )
    trusted = (confidence > 0)[:, :, None] & (detection >= 0)[..., None]
    measured = points + 0.003 * torch.randn(points.shape, generator=random)
    measured[trusted[:, :, 0].sum(0) < 2] = torch.nan
    covariance = (torch.eye(3) * 9e-6).expand(T, 1, K, 3, 3)
    Tracks3D(sets.COCO_WHOLEBODY, ("actor",), FPS, 0, measured[:, None], covariance, detection, swapped, trusted).save(take.tracks_file)
    J = len(body.skeleton)
    sigma = 0.004 + 0.002 * torch.rand(T, J, generator=random)
    Motion(
        "puppet",
        "actor",
        body.skeleton.names,
        FPS,
        0,
        "00:00:00:00",
        torch.zeros(2),
        translation,
        rotation,
        torch.zeros(T, 1),
        sigma,
        torch.ones(T, 4),
    ).save(take.motion_file("actor"))
    return take


FAST = ReportConfig(thumbnails=2, thumbnail_px=300, playback=False)


def numbers(take, config=FAST):
    page = report(take, config)
    return json.loads(page.with_suffix(".json").read_text()), page.read_text()


def titles(found, severity):
    return [f["title"] for f in found["findings"] if f["severity"] == severity]


def test_the_error_of_a_clean_take_is_the_noise_that_was_added(studio_floor, tmp_path):
    found, _ = numbers(staged(studio_floor, tmp_path / "clean", noise=1.5))
    for name in CAMERAS:  # the median length of a 2D normal vector is sqrt(2 ln 2) sigma
        assert found["measures"]["actor"]["cameras"][name]["px"]["median"] == pytest.approx(1.5 * math.sqrt(2 * math.log(2)), rel=0.03)


def test_a_clean_take_is_trusted(studio_floor, tmp_path):
    found, page = numbers(staged(studio_floor, tmp_path / "clean"))
    assert found["verdict"]["level"] == "good" and not found["findings"], found["findings"]
    assert "Trust: good" in page


def test_a_camera_that_moved_is_named_with_its_shift(studio_floor, tmp_path):
    def spoil(pixels, *_):
        pixels[CAMERAS.index("west")] += torch.tensor([9.0, -4.0])

    found, _ = numbers(staged(studio_floor, tmp_path / "moved", spoil=spoil))
    assert "Camera west is off in one direction" in titles(found, "look")
    shift = {c: n["shift"] for c, n in found["measures"]["actor"]["cameras"].items()}
    assert shift["west"]["x_px"] == pytest.approx(9, abs=0.2) and shift["west"]["y_px"] == pytest.approx(-4, abs=0.2)
    assert not any("one direction" in t for t in titles(found, "look") if "west" not in t)


def test_a_camera_that_runs_ahead_is_named_with_its_frames(studio_floor, tmp_path):
    def spoil(pixels, *_):
        c = CAMERAS.index("north")
        pixels[c, :-2] = pixels[c, 2:].clone()

    found, _ = numbers(staged(studio_floor, tmp_path / "late", spoil=spoil))
    cameras = found["measures"]["actor"]["cameras"]
    assert cameras["north"]["late_frames"] == pytest.approx(2, abs=0.5) and abs(cameras["south"]["late_frames"]) < 0.2
    assert "Camera north is out of step" in titles(found, "look")


def test_hands_that_are_not_seen_are_said_and_seen_ones_are_not(studio_floor, tmp_path):
    def spoil(pixels, confidence, *_):
        confidence[1:, 8:, list(sets.GROUPS["left_hand"])] = 0

    found, _ = numbers(staged(studio_floor, tmp_path / "hands", spoil=spoil))
    groups = found["measures"]["actor"]["groups"]
    assert groups["left_hand"]["coverage"] == pytest.approx(8 / T) and groups["right_hand"]["coverage"] == 1
    assert titles(found, "look") == ["The left hand of actor is rarely seen"]


def test_exchanged_sides_are_put_back_before_errors_are_measured(studio_floor, tmp_path):
    mirror = list(sets.mirrored(sets.COCO_WHOLEBODY))

    def spoil(pixels, confidence, swapped, detection):
        pixels[2] = pixels[2][:, mirror].clone()
        swapped[2] = True

    found, _ = numbers(staged(studio_floor, tmp_path / "swapped", spoil=spoil))
    south = found["measures"]["actor"]["cameras"]["south"]
    assert south["swapped_frames"] == T and south["px"]["p90"] < 3
    assert titles(found, "note") == ["Left and right were often exchanged in the pictures"]


def test_a_take_measured_in_pieces_has_the_same_numbers(studio_floor, tmp_path, monkeypatch):
    def spoil(pixels, confidence, swapped, detection):
        detection[1:, 30:36] = -1
        confidence[2, 10:20] = 0

    take = staged(studio_floor, tmp_path / "pieces", spoil=spoil)
    whole, _ = numbers(take)
    monkeypatch.setattr("studio.review.measures.PIECE", 7)
    pieces, _ = numbers(take)
    assert pieces["measures"] == whole["measures"] and pieces["findings"] == whole["findings"]


def test_a_long_take_is_measured_on_some_of_its_frames_and_says_so(studio_floor, tmp_path, monkeypatch):
    def spoil(pixels, *_):
        pixels[CAMERAS.index("west")] += torch.tensor([9.0, -4.0])

    take = staged(studio_floor, tmp_path / "long", spoil=spoil)
    whole, _ = numbers(take)
    monkeypatch.setattr("studio.review.measures.LOOKED_AT", T // 4)
    monkeypatch.setattr("studio.review.measures.PIECE", 7)
    some, page = numbers(take)
    one, other = (n["measures"]["actor"] for n in (whole, some))
    assert other["every"] == 4 and "one frame in 4" in page
    assert other["feet"] == one["feet"] and other["frames_in_two_views"] == one["frames_in_two_views"]
    assert 3.5 < one["groups"]["body"]["px"]["count"] / other["groups"]["body"]["px"]["count"] < 4.5
    for name in CAMERAS:
        assert other["cameras"][name]["px"]["median"] == pytest.approx(one["cameras"][name]["px"]["median"], rel=0.1)
    assert titles(some, "look") == titles(whole, "look")
    assert "Camera west is off in one direction" in titles(some, "look")


def test_frames_outside_of_the_covered_volume_are_listed(studio_floor, tmp_path):
    def spoil(pixels, confidence, swapped, detection):
        detection[1:, 30:36] = -1

    found, _ = numbers(staged(studio_floor, tmp_path / "outside", spoil=spoil))
    gone = next(f for f in found["findings"] if "leaves the covered volume" in f["title"])
    assert "frames 30–35" in gone["measured"]


def test_frames_that_are_not_looked_at_are_not_kept(studio_floor, tmp_path):
    parts = _looked_at(gathered(staged(studio_floor, tmp_path / "kept")), "actor", "fit", slice(0, T), 4)
    assert len(parts) > 8 and all(x.untyped_storage().nbytes() == x.numel() * x.element_size() for x in parts.values())


def test_feet_that_slide_while_planted_are_measured_in_mm_a_second(studio_floor, tmp_path):
    found, _ = numbers(staged(studio_floor, tmp_path / "slide", speed=0.25))
    assert found["measures"]["actor"]["feet"]["speed_mm_s"]["median"] == pytest.approx(250, rel=0.01)
    assert "The feet of actor slide while planted" in titles(found, "look")


def test_without_a_motion_the_report_is_still_written_and_says_so(studio_floor, tmp_path):
    take = staged(studio_floor, tmp_path / "nobody")
    take.motion_file("actor").unlink()
    found, page = numbers(take)
    assert found["verdict"]["level"] == "stop" and "actor has no motion" in page
    assert found["measures"]["actor"]["source"] == "triangulation"
    take.tracks_file.unlink()
    shutil.rmtree(take.keypoints_folder)
    found, page = numbers(take)
    assert found["verdict"]["level"] == "stop" and "Camera north has no detections" in page


def test_the_drawn_mesh_covers_what_rays_through_a_bent_lens_hit(studio_floor, tmp_path):
    _, body, cameras, translation, rotation = studio_floor
    vertices = body.shaped(torch.zeros(2)).posed(rotation, translation).vertices()[10]
    grey = np.full((SIZE[1], SIZE[0], 3), 100, np.uint8)
    drawn = (overlays.shaded(grey, cameras[0], vertices, body.triangles, (255, 0, 0)) != grey).any(-1)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    plane = cv2.undistortPoints(
        np.stack([x, y], -1).reshape(-1, 1, 2).astype(np.float64), cameras.matrix[0].numpy(), cameras.distortion[0].numpy()
    )
    direction = np.c_[plane[:, 0], np.ones(len(plane))] @ cameras.R_camera_world[0].numpy()
    rays = np.c_[np.broadcast_to(cameras.position[0].numpy(), direction.shape), direction].astype(np.float32)
    world = o3d.t.geometry.RaycastingScene()
    world.add_triangles(vertices.numpy(), body.triangles.numpy().astype(np.uint32))
    hit = np.isfinite(world.cast_rays(o3d.core.Tensor(rays))["t_hit"].numpy()).reshape(drawn.shape)
    assert (drawn & hit).sum() / (drawn | hit).sum() > 0.93  # the rest is half a pixel along the outline
    moved = np.roll(hit, 6, axis=1)
    assert (drawn & moved).sum() / (drawn | moved).sum() < 0.8


def test_an_overlay_can_be_asked_for_at_full_size(studio_floor, tmp_path):
    image = overlays.draw(staged(studio_floor, tmp_path / "one"), 12, "south")
    assert image.shape == (SIZE[1], SIZE[0], 3) and image.dtype == np.uint8
    with pytest.raises(ValueError, match="no camera 'roof'"):
        overlays.draw(staged(studio_floor, tmp_path / "one"), 12, "roof")


def squatting(frames=60):
    """A scripted person, as a motion that begins with frame 100."""
    body = makehuman.load()
    played = scripted(body, frames, FPS, 3, "squat")
    flat = torch.zeros(frames, len(body.skeleton))
    shape, face, contacts = torch.zeros(len(body.shape_names)), torch.zeros(frames, len(body.expression_names)), torch.zeros(frames, 8)
    place = played.rotation.new_zeros(frames, 3)
    return Motion("makehuman", "ann", body.skeleton.names, FPS, 100, "", shape, place, played.rotation, face, flat, contacts)


def test_a_knee_that_bends_forwards_is_named_with_its_frames_and_a_squat_is_not():
    motion = squatting()
    assert strange_joints(motion, STRANGE) == []
    knee = motion.joints.index("LeftLeg")
    motion.rotation[20:30, knee] = torch.tensor([-1.5, 0, 0])
    motion.rotation[40:42, knee] = torch.tensor([-1.5, 0, 0])  # too brief to tell
    [row] = strange_joints(motion, STRANGE)
    assert row["joint"] == "LeftLeg" and row["frames"] == [[120, 129]] and row["most"] > STRANGE
    assert strange_joints(replace(motion, body="other"), STRANGE) == []


def test_names_cannot_put_markup_into_the_page(studio_floor, tmp_path):
    take = staged(studio_floor, tmp_path / "<img src=x onerror=alert(1)>")
    take.note("detect", ["a <script>alert(2)</script> & more"], table={"row": {"a": "<b>", "c": 1.5}})
    _, page = numbers(take)
    assert "<img src=x" not in page and "<script>alert" not in page and "&lt;script&gt;alert(2)" in page and "&lt;b&gt;" in page


def test_the_viewer_gets_four_bones_a_vertex_whose_weights_sum_to_one():
    weights = torch.rand(50, 9, generator=torch.Generator().manual_seed(1))
    kept = strongest(weights)
    assert bool(((kept > 0).sum(-1) == 4).all()) and torch.allclose(kept.sum(-1), torch.ones(50))
    assert torch.equal(kept.argmax(-1), weights.argmax(-1))


def test_the_page_needs_no_other_file_and_no_network(studio_floor, tmp_path):
    page = report(staged(studio_floor, tmp_path / "whole"), ReportConfig(thumbnails=2)).read_text()
    addresses = set(re.findall(r"https?://[^\s\"'<>&;]+", page))
    assert all(a.startswith("http://www.w3.org/") for a in addresses), addresses
    outer = re.sub(r'srcdoc="[^"]*"', "", page)
    assert all(a.startswith(("data:", "#")) for a in re.findall(r'(?:src|href)="([^"]*)"', outer))
    assert len(page) < 4e6


class Browser:
    """Headless Chromium through its DevTools protocol, with everything it asks the network for and complains of."""

    def __init__(self, folder):
        connect = pytest.importorskip("websockets.sync.client", reason="websockets (part of viser) is not installed").connect
        program = next((p for p in ("chromium", "chromium-browser", "google-chrome") if shutil.which(p)), None)
        if program is None:
            pytest.skip("no Chromium here: apt-get install chromium")
        quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
        software = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--remote-debugging-port=0"]
        self.process = subprocess.Popen([program, *quiet, *software, f"--user-data-dir={folder}", "about:blank"], stderr=subprocess.DEVNULL)
        told = folder / "DevToolsActivePort"
        wait(lambda: told.exists() and len(told.read_text().split()) == 2)
        port = told.read_text().split()[0]
        with urlopen(f"http://127.0.0.1:{port}/json") as answer:
            tab = next(t for t in json.load(answer) if t["type"] == "page")
        self.socket, self.number, self.events = connect(tab["webSocketDebuggerUrl"], max_size=None), 0, []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (reply := json.loads(self.socket.recv(timeout=60))).get("id") != self.number:
            self.events.append(reply)
        return reply["result"]

    def value(self, expression):
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self):
        data = np.frombuffer(base64.b64decode(self.ask("Page.captureScreenshot")["data"]), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR)

    def complaints(self):
        for event in self.events:
            what, facts = event["method"], event["params"]
            if what == "Network.requestWillBeSent" and not facts["request"]["url"].startswith(("file:", "data:", "blob:", "about:")):
                yield facts["request"]["url"]
            if what == "Runtime.exceptionThrown" or (what == "Runtime.consoleAPICalled" and facts["type"] == "error"):
                yield json.dumps(facts)[:500]
            if what == "Log.entryAdded" and facts["entry"]["level"] == "error":
                yield facts["entry"]["text"]

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)


def wait(until, seconds=40):
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.2)


def test_the_page_plays_offline_in_a_browser_without_a_complaint(studio_floor, tmp_path):
    page = report(staged(studio_floor, tmp_path / "played"), ReportConfig(thumbnails=14, thumbnail_px=300))
    browser = Browser(tmp_path)
    try:
        browser.ask("Page.navigate", url=page.as_uri())
        wait(lambda: browser.value("document.readyState") == "complete")
        assert browser.value("[...document.querySelectorAll('.strip')].every(s => s.scrollWidth > s.clientWidth)")  # strips scroll
        assert browser.value("document.documentElement.scrollWidth <= innerWidth")  # the page does not
        browser.value("document.querySelector('iframe').scrollIntoView({block: 'center', behavior: 'instant'})")

        def actor_is_drawn():
            blue, green, red = browser.picture().astype(int).transpose(2, 0, 1)
            return ((blue > red + 60) & (blue > green + 20)).sum() > 300

        wait(actor_is_drawn)
        assert not list(browser.complaints()), list(browser.complaints())
    finally:
        browser.close()
