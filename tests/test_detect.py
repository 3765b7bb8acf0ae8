"""Detecting: where networks look, what their landmarks become, and a stage that survives being killed."""

import json
import os
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest

from rigs.keypoints import COCO_WHOLEBODY, mirrored
from studio.detect import DetectConfig, detect
from studio.detect import mediapipe as detectors
from studio.detect.landmarks import COARSE_HAND, FACE_MESH, HandSight, Sight, whole_body
from studio.detect.mediapipe import Holistic, Mediapipe, candidates
from studio.detect.networks import Networks, PoseSight
from studio.detect.parts import face_of, hands_of
from studio.detect.regions import Region, around_body, around_face, crop, halvings, paste, to_image
from studio.take import Take
from studio.values import Keypoints2D
from studio.video import VideoWriter, frames

DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data")) / "pose2sim_single"
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real footage in {DATA}; set STUDIO_DATA")
PORTRAIT = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
K = {name: k for k, name in enumerate(COCO_WHOLEBODY)}


# --- regions


@pytest.mark.parametrize("size", [100.0, 256.0, 700.0, 1800.0])
def test_a_point_seen_in_a_crop_is_found_again_in_the_image(size):
    rng = np.random.default_rng(0)
    for _ in range(4):
        region = Region(*rng.uniform(700, 900, 2), size, rng.uniform(-3, 3))
        # A blob painted where the crop is known to show it.
        spot = np.array([region.x, region.y]) + rng.uniform(-0.3, 0.3, 2) * size
        y, x = np.mgrid[:1600, :1600]
        blob = np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * (size / 40) ** 2))
        image = np.repeat((255 * blob).astype(np.uint8)[..., None], 3, 2)
        seen = crop(halvings(image), region, 128)[..., 0].astype(float)
        rows, columns = np.indices(seen.shape)
        centre = np.array([[(seen * columns).sum(), (seen * rows).sum()]]) / seen.sum()
        assert np.abs(to_image(centre, region, 128) - spot).max() < 0.1 * size / 128 + 0.05


def test_a_mask_returns_to_where_it_was_cut_out():
    image = np.zeros((400, 600, 3), np.uint8)
    cv2.circle(image, (350, 150), 60, (255, 255, 255), -1)
    region = Region(330.0, 170.0, 300.0, 0.7)
    mask = crop([image], region, 256)[..., 0].astype(np.float32) / 255
    for reduction in (1, 4):
        back = paste(mask, region, 600, 400, reduction)
        assert back.shape == (400 // reduction, 600 // reduction)
        truth = cv2.resize(image[..., 0], (600 // reduction, 400 // reduction), interpolation=cv2.INTER_AREA) / 255
        assert np.abs(back - truth).mean() < 0.004
        rows, columns = np.nonzero(back > 0.5)
        expected = (np.array([350, 150]) + 0.5) / reduction - 0.5
        assert np.abs([columns.mean(), rows.mean()] - expected).max() < 0.6 / reduction


def test_without_masks_the_same_body_is_seen_and_no_mask_is_made_up():
    image = cv2.cvtColor(cv2.imread(str(PORTRAIT)), cv2.COLOR_BGR2RGB)
    region = Region(260.0, 300.0, 600.0, 0.05)
    whole, bare = (Networks().poses(halvings(image), [region], masks=masks)[0] for masks in (True, False))
    assert np.array_equal(whole.points, bare.points) and np.array_equal(whole.world, bare.world) and whole.presence == bare.presence
    assert bare.mask is None and whole.outline(512, 600, 4).max() > 0.9
    with pytest.raises(ValueError, match="without its mask"):
        bare.outline(512, 600, 4)


# --- landmarks


def test_left_and_right_of_the_face_table_are_mirror_images():
    image = cv2.cvtColor(cv2.imread(str(PORTRAIT)), cv2.COLOR_BGR2RGB)
    once, twice = (portrait_face(i) for i in (image, np.ascontiguousarray(image[:, ::-1])))
    swap = [i - 23 for i in mirrored(COCO_WHOLEBODY)[23:91]]
    flipped = np.stack([image.shape[1] - 1 - twice[swap, 0], twice[swap, 1]], 1)
    assert np.median(np.linalg.norm(once - flipped, axis=1)) < 4  # px, of a face 150 px wide


def portrait_face(image):
    (sight,) = Mediapipe().see(image).values()
    return sight.pixels[23:91]


def test_face_points_of_a_portrait_lie_in_order():
    """From the meaning of iBUG's numbers: x grows along jaw, brows, eyes, lips; brows over eyes over nose over lips over chin."""
    face = portrait_face(cv2.cvtColor(cv2.imread(str(PORTRAIT)), cv2.COLOR_BGR2RGB))
    assert len(set(FACE_MESH)) == 68
    for row in (range(17), range(17, 27), range(31, 36), (36, 37, 38, 39), (42, 43, 44, 45), range(48, 55), range(60, 65)):
        assert (np.diff(face[list(row), 0]) > 0).all(), row
    assert (np.diff(face[27:31, 1]) > 0).all()  # down the bridge of the nose
    height = [face[list(rows), 1].mean() for rows in (range(17, 27), range(36, 48), range(31, 36), range(48, 60), (7, 8, 9))]
    assert (np.diff(height) > 0).all()
    assert face[37:39, 1].mean() < face[40:42, 1].mean() and face[50:53, 1].mean() < face[56:59, 1].mean()


def landmarks(scale=300.0, at=(500.0, 500.0)):
    """33 landmarks of a body of known size in m and its image at `scale` px/m."""
    world = np.random.default_rng(1).uniform(-0.6, 0.6, (33, 3))
    return world[:, :2] * scale + at, world


def test_what_is_hidden_is_less_sure_and_what_lies_outside_is_not_seen():
    points, world = landmarks()
    visibility = np.ones(33)
    visibility[25], visibility[26] = 0.3, 0.01
    points[27] = (-40, 100)
    sight = whole_body(points, visibility, world, 600, {}, None, (1000, 1000), None)
    assert sight.sigma[K["left_knee"]] == pytest.approx(sight.sigma[K["left_hip"]] / 0.3, rel=0.5)
    for name in ("right_knee", "left_ankle"):
        assert np.isnan(sight.pixels[K[name]]).all() and sight.confidence[K[name]] == 0
    assert np.isnan(sight.pixels[K["left_small_toe"]]).all()


def test_sigma_grows_with_the_person_in_the_image():
    near, far = (whole_body(points, np.ones(33), world, size, {}, None, (3000, 3000), None).sigma for (points, world), size in zip(
        (landmarks(800.0, (1500, 1500)), landmarks(200.0, (1500, 1500))), (1600, 400), strict=True))  # fmt: skip
    seen = np.isfinite(near)
    assert np.allclose(near[seen], 4 * far[seen], rtol=1e-6) and seen.sum() >= 21


def test_where_no_hand_was_found_the_body_lends_coarse_knuckles():
    points, world = landmarks()
    hand = HandSight(0.9, 1.0, np.tile([[400.0, 400.0]], (21, 1)), np.zeros((21, 3)), 80)
    sight = whole_body(points, np.ones(33), world, 600, {"left": hand}, None, (1000, 1000), None)
    for name, i in COARSE_HAND["right"].items():
        assert (sight.pixels[K[name]] == points[i]).all()
    assert sight.sigma[K["right_forefinger1"]] > 1.5 * sight.sigma[K["left_forefinger1"]]
    assert np.isnan(sight.pixels[K["right_forefinger4"]]).all() and (sight.pixels[K["left_forefinger4"]] == 400).all()
    assert np.allclose(sight.skeleton[K["left_pinky_finger4"]], world[15])


@pytest.mark.parametrize("down", [-0.3, 0.2, 0.35])
def test_a_face_that_slipped_off_the_eyes_is_put_back(down):
    """Its network is as sure of itself there; the body knows better where eyes and mouth are."""
    image = cv2.cvtColor(cv2.imread(str(PORTRAIT)), cv2.COLOR_BGR2RGB)
    networks, pyramid = Networks(), halvings(image)
    whole = Region((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2, float(max(image.shape)), 0.0)
    ((_, person),) = networks.people(pyramid, whole, 0.5)[:1]
    body = networks.pose(pyramid, around_body(person[2], person[3]))
    right = face_of(networks, pyramid, body, None)
    region = around_face(right.points)
    again = face_of(networks, pyramid, body, region.shifted(down))
    assert np.linalg.norm(again.points - right.points, axis=1).mean() < 0.03 * region.size


class Mistaken:
    """Sees a hand at the nearer wrist wherever it looks, and takes every hand for a right one."""

    def __init__(self, wrists, scale):
        shape = np.random.default_rng(4).uniform(-0.06, 0.06, (21, 3))
        shape[0] = 0
        self.wrists, self.scale, self.shape = wrists, scale, shape

    def hand_hints(self, pyramid, region):
        return np.array([[128.0, 140.0], [128.0, 100.0]])

    def hand(self, pyramid, region):
        root = min(self.wrists, key=lambda w: np.hypot(w[0] - region.x, w[1] - region.y))
        return 0.97, 1.0, root + self.scale * self.shape[:, :2], self.shape

    def palms(self, pyramid, region, threshold):
        return []


def test_a_hand_is_the_arms_whatever_its_own_network_calls_it():
    points, world = landmarks()
    points[[13, 15, 17, 19]] = (600, 500), (640, 580), (650, 605), (640, 608)  # left elbow, wrist and knuckles
    points[[14, 16, 18, 20]] = (400, 500), (360, 580), (350, 605), (360, 608)
    body = PoseSight(Region(500, 500, 600, 0), 1.0, points, np.ones(33), world, points[23:25], np.zeros((256, 256)))
    hands = hands_of(Mistaken(points[[15, 16]], 300.0), [np.zeros((1000, 1000, 3), np.uint8)], body, {}, True)
    assert set(hands) == {"left", "right"} and hands["left"].right == 1.0
    for side, wrist in (("left", points[15]), ("right", points[16])):
        assert np.linalg.norm(hands[side].points[0] - wrist) < 1
    alone = hands_of(Mistaken(points[[16]], 300.0), [np.zeros((1000, 1000, 3), np.uint8)], body, {}, True)
    assert set(alone) == {"right"}  # the other arm's hand, too far away, is not lent
    networks = Mistaken(points[[15, 16]], 300.0)
    rested = hands_of(networks, [np.zeros((1000, 1000, 3), np.uint8)], body, {}, True, rested={"left"})
    assert set(rested) == {"right"}  # it is not looked for this time


def test_while_people_are_followed_the_whole_image_and_one_tile_are_searched_by_turns():
    class Searched:
        def __init__(self):
            self.places = []

        def people(self, pyramid, place, threshold):
            self.places.append((place.x, place.size))
            return []

    image = [np.zeros((600, 1000, 3), np.uint8)]

    def places(**how):
        networks = Searched()
        candidates(networks, image, **how)
        return networks.places

    everywhere = places()
    assert everywhere[0] == (499.5, 1000.0) and len(everywhere) > 2
    pairs = [places(turn=t, whole=True) for t in range(len(everywhere) - 1)]
    assert all(p[0] == everywhere[0] and len(p) == 2 for p in pairs) and {p[1] for p in pairs} == set(everywhere[1:])
    assert [places(turn=t) for t in range(len(everywhere))] == [[place] for place in everywhere]


# --- real networks on real images


@real
def test_two_independent_detectors_agree_with_the_studio_on_real_frames():
    for camera in ("cam01", "cam03"):
        number, image = next(iter(frames(DATA / "videos" / f"{camera}.mp4", 40, 41)))
        (ours,) = Mediapipe().see(image).values()
        theirs = Holistic().see(image)[0]
        folder = DATA / "reference" / "openpose_json" / f"{camera}_json"
        people = json.loads((folder / f"{camera}.{number:04d}.json").read_text())["people"]
        openpose = np.array(people[0]["pose_keypoints_2d"]).reshape(-1, 3)[:17, :2]
        gap = np.linalg.norm(ours.pixels[:17] - theirs.pixels[:17], axis=1)
        assert np.nanmedian(gap) < 8, camera
        limbs = slice(5, 17)
        assert np.nanmedian(np.linalg.norm(ours.pixels[limbs] - openpose[limbs], axis=1)) < 25, camera


@real
def test_the_skeleton_is_in_the_cameras_axes():
    """Its picture, x right and y down, is the image's up to scale and place; and the arm stretched to the camera is nearer than the hip."""
    _, image = next(iter(frames(DATA / "videos" / "cam01.mp4", 40, 41)))
    (sight,) = Mediapipe().see(image).values()
    flat, metric = sight.pixels[5:17], sight.skeleton[5:17, :2]
    flat, metric = flat - flat.mean(0), metric - metric.mean(0)
    scale = (flat * metric).sum() / (metric**2).sum()
    assert np.linalg.norm(flat - scale * metric) < 0.25 * np.linalg.norm(flat)
    assert 250 < scale < 800  # px/m of a man about 900 px tall


@real
def test_hands_are_told_apart_from_no_hands():
    rng = np.random.default_rng(0)
    assert Mediapipe().see(rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)) == {}
    assert Mediapipe().see(np.full((480, 640, 3), 128, np.uint8)) == {}
    _, image = next(iter(frames(DATA / "videos" / "cam02.mp4", 40, 41)))
    (sight,) = Mediapipe().see(image).values()
    for side in ("left", "right"):
        tips = sight.pixels[[K[f"{side}_{f}4"] for f in ("forefinger", "middle_finger")]]
        assert np.linalg.norm(tips - sight.pixels[K[f"{side}_wrist"]], axis=1).max() < 120


@real
def test_two_people_side_by_side_are_seen_as_when_alone():
    alone = [next(iter(frames(DATA / "videos" / f"cam0{i}.mp4", 40, 41)))[1] for i in (1, 2)]
    together = np.concatenate(alone, 1)
    found = Mediapipe().see(together)
    assert len(found) == 2
    for shift, image in zip((0, alone[0].shape[1]), alone, strict=True):
        (single,) = Mediapipe().see(image).values()
        gaps = [np.nanmedian(np.linalg.norm(s.pixels[:17] - (shift, 0) - single.pixels[:17], axis=1)) for s in found.values()]
        assert min(gaps) < 10 and max(gaps) > 300


@real
def test_a_hand_without_a_body_is_a_hand_and_no_imagined_body():
    detector = Mediapipe()
    seen = [detector.see(image) for _, image in frames(DATA.parent / "handpose_two_view" / "media" / "cam1_test.mp4", 100, 112)]
    sights = [s[0] for s in seen if s]
    assert len(sights) >= 8
    for sight in sights:
        assert not sight.confidence[:91].any()
        assert sight.confidence[112:].all() and not sight.confidence[91:112].any()  # it is a right hand


# --- the stage


class Stub:
    """Sees one or two people whose place spells the brightness of the frame; who is in which slot depends on where it starts."""

    calls = 0
    stop_after: int | None = None

    def __init__(self, people=3, search_every=0, reduction=0, regions=1, runtime=None):
        self.turn = None
        self.reduction = reduction

    def see(self, image, passed=1):
        if Stub.stop_after is not None and Stub.calls >= Stub.stop_after:
            raise KeyboardInterrupt
        Stub.calls += 1
        number = round(float(image.mean()) / 4)
        self.turn = number % 2 if self.turn is None else self.turn
        return {slot: self.sight(number, (slot + self.turn) % 2, image) for slot in (0, 1)}

    def remembered(self):
        return lambda: None  # who has which slot is known from the first frame on

    def sight(self, number, who, image):
        pixels = np.tile([[number + 1000.0 * who, 7.0]], (133, 1))
        mask = np.zeros((-(-image.shape[0] // 4), -(-image.shape[1] // 4)), np.float32)
        mask[:, : mask.shape[1] // 2] = 1 - who
        mask[:, mask.shape[1] // 2 :] = who
        return Sight(pixels, np.ones(133), np.full(133, 0.9), np.zeros((133, 3)), mask if self.reduction else None)


@pytest.fixture
def take(tmp_path, monkeypatch):
    monkeypatch.setitem(detectors.DETECTORS, "mediapipe", Stub)
    Stub.calls, Stub.stop_after = 0, None
    for camera in ("a", "b"):
        with VideoWriter(tmp_path / f"{camera}.mp4", 64, 48, 30, crf=4) as writer:
            for i in range(50):
                writer.write(np.full((48, 64, 3), 4 * i, np.uint8))
    return Take(tmp_path / "take", {c: tmp_path / f"{c}.mp4" for c in ("a", "b")}, tmp_path / "none.yaml", frames=(3, 48))


CONFIG = DetectConfig(piece=10, workers=1)


def test_every_frame_is_seen_and_people_keep_their_slots_across_pieces(take):
    folder = detect(take, CONFIG)
    assert folder == take.keypoints_folder
    for camera in ("a", "b"):
        seen = Keypoints2D.load(folder / f"{camera}.safetensors")
        assert seen.cameras == (camera,) and seen.first_frame == 3 and seen.fps == 30
        assert seen.pixels.shape == (1, 45, 2, 133, 2)
        x = seen.pixels[0, :, :, 0, 0].round()
        order = sorted((0, 1), key=lambda slot: x[0, slot])
        assert x[:, order[0]].tolist() == list(range(3, 48)) and x[:, order[1]].tolist() == list(range(1003, 1048))
        labels = [image for _, image in frames(take.folder / "masks" / f"{camera}.mkv", gray=True)]
        assert len(labels) == 45 and all((image == labels[0]).all() for image in labels)
        assert labels[0].shape == (12, 16) and labels[0][0, 0] == order[0] + 1 and labels[0][0, -1] == order[1] + 1
    assert not (take.folder / "parts").exists()


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(take):
    detect(take, CONFIG)
    whole = Keypoints2D.load(take.keypoints_folder / "b.safetensors")
    needed = Stub.calls
    for file in take.keypoints_folder.iterdir():
        file.unlink()
    Stub.calls, Stub.stop_after = 0, 40
    with pytest.raises(KeyboardInterrupt):
        detect(take, CONFIG)
    assert not list(take.folder.rglob("*.partial*")) and not list(take.keypoints_folder.iterdir())
    first, Stub.stop_after = Stub.calls, None
    detect(take, CONFIG)
    again = Keypoints2D.load(take.keypoints_folder / "b.safetensors")
    assert again.pixels.equal(whole.pixels)
    assert Stub.calls < needed + 30 and Stub.calls - first < needed - 15  # the finished pieces were not seen again


def test_only_what_changed_is_seen_again(take):
    detect(take, CONFIG)
    before = Stub.calls
    detect(take, DetectConfig(piece=10, workers=2))
    assert Stub.calls == before
    (take.keypoints_folder / "a.safetensors").unlink()
    detect(take, CONFIG)
    assert before < Stub.calls < 2 * before
    before = Stub.calls
    detect(take, DetectConfig(piece=10, workers=1, people=2))
    assert Stub.calls > before


def test_a_video_that_breaks_off_leaves_unseen_frames_and_a_warning(take, monkeypatch):
    from studio.detect import chunks
    from studio.video import BrokenVideo

    def broken(path, first, last):
        yield from frames(path, first, min(last, 30)) if first < 30 else ()
        if last > 30:
            raise BrokenVideo(f"{path}: frame 30 of 50 cannot be decoded", 30)

    monkeypatch.setattr(
        chunks, "frames", lambda path, first=0, last=None, **more: broken(path, first, last) if last else frames(path, first, last, **more)
    )
    detect(take, CONFIG)
    seen = Keypoints2D.load(take.keypoints_folder / "a.safetensors").confidence[0].sum((-1, -2)) > 0
    assert seen[:27].all() and not seen[27:].any()
    assert "frame 30 of 50" in " ".join(take.notes()["detect"]["warnings"])


def test_keypoints_of_another_program_take_the_networks_place(take, tmp_path):
    for camera in ("a", "b"):
        folder = tmp_path / "json" / camera
        folder.mkdir(parents=True)
        for i in range(50):
            person = {"pose_keypoints_2d": [v for k in range(17) for v in (i + 2 * k, 20 + k, 0.9)]}
            (folder / f"{i:012d}_keypoints.json").write_text(json.dumps({"people": [person]}))
    detect(take, DetectConfig(keypoints=tmp_path / "json"))
    seen = Keypoints2D.load(take.keypoints_folder / "b.safetensors")
    assert seen.network == "openpose" and seen.pixels[0, :, 0, 0, 0].tolist() == list(range(3, 48))
    assert Stub.calls == 0


@real
def test_processes_of_their_own_see_the_same_as_one(tmp_path):
    take = Take(tmp_path, {c: DATA / "videos" / f"{c}.mp4" for c in ("cam01", "cam02")}, tmp_path / "none", frames=(0, 4))
    detect(take, DetectConfig(workers=1))
    one = Keypoints2D.load(take.keypoints_folder / "cam02.safetensors")
    for file in take.keypoints_folder.iterdir():
        file.unlink()
    detect(take, DetectConfig(workers=2))
    two = Keypoints2D.load(take.keypoints_folder / "cam02.safetensors")
    assert np.allclose(one.pixels, two.pixels, atol=0.05, equal_nan=True)


@real
def test_in_the_region_that_mediapipes_graph_looked_at_the_same_landmarks_are_seen(monkeypatch):
    """What is left of the difference in our own region is the region: each follows the person by its own landmarks."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from same_landmarks import PARTS, bodies  # type: ignore[import-not-found]

    rows = bodies(DATA / "videos" / "cam01.mp4", 36, 46)
    assert len(rows["our region"]) >= 6
    for part, which in PARTS.items():
        assert np.median(np.array(rows["the graph's region"])[:, which]) < 2, part
        assert np.median(np.array(rows["our region"])[:, which]) < 8, part
    assert np.median(rows["regions apart"]) < 0.03
