"""A whole small capture: files, truth, resuming, honesty of errors."""

import dataclasses

import numpy as np
import pytest
import torch

from calibration.cameras import Cameras
from rigs.keypoints import COCO_WHOLEBODY
from studio.video import frames, probe
from studio.virtual import Truth, VirtualCapture, read_maps, render_capture

SMALL = VirtualCapture(cameras=2, width=160, height=90, frames=3, people=2, seed=2, truth_maps=True, fps=10)


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return render_capture(tmp_path_factory.mktemp("virtual"), SMALL)


def pictures(path):
    return np.stack([image for _, image in frames(path)])


def test_a_capture_holds_videos_cameras_and_truth_that_fit_together(capture):
    cameras, truth = Cameras.load(capture / "cameras.yaml"), Truth.load(capture / "truth.safetensors")
    assert truth.cameras == cameras.names == ("cam01", "cam02")
    for name in cameras.names:
        info = probe(capture / "videos" / f"{name}.mp4")
        assert (info.width, info.height, info.frames, float(info.fps)) == (160, 90, 3, 10)
    assert truth.keypoints.shape == (3, 2, 133, 3) and truth.visible.shape == (2, 3, 2, 133) and truth.contacts.shape == (3, 2, 4)
    for actor in range(2):
        assert torch.allclose(truth.posed(actor).joints, truth.joints[:, actor], atol=1e-5)


def test_visible_keypoints_lie_on_their_person_in_the_picture(capture):
    cameras, truth = Cameras.load(capture / "cameras.yaml"), Truth.load(capture / "truth.safetensors")
    inner = [COCO_WHOLEBODY.index(f"{s}_{n}") for s in ("left", "right") for n in ("shoulder", "hip", "knee", "elbow")]
    pixels = cameras.project(truth.keypoints.double()).round().long()
    right, seen = 0, 0
    for c, name in enumerate(cameras.names):
        for t in range(3):
            person = read_maps(capture, name, t).person
            for a in range(2):
                for k in inner:
                    x, y = pixels[c, t, a, k].tolist()
                    if truth.visible[c, t, a, k]:
                        seen += 1
                        right += person[y, x] == a + 1
    assert seen > 20 and right / seen > 0.95


def test_a_face_is_visible_from_the_front_and_not_from_behind():
    from studio.virtual.capture import figures_of, performances
    from studio.virtual.rig import ring
    from studio.virtual.truth import truth_of

    config = dataclasses.replace(SMALL, people=1, motion="squat", frames=1)
    acts = performances(config)
    truth = truth_of(acts, config.seeds, figures_of(config, acts), ring(8, 160, 90, seed=1), 10)
    cameras = ring(8, 160, 90, seed=1)
    nose, left, right = (truth.keypoints[0, 0, COCO_WHOLEBODY.index(n)] for n in ("nose", "left_ear", "right_ear"))
    ahead = (nose - (left + right) / 2)[:2]
    to_camera = cameras.position[:, :2].float() - nose[:2]
    facing = torch.cosine_similarity(to_camera, ahead[None])
    face = truth.visible[:, 0, 0, 23 + 27 : 23 + 36].float().mean(-1)  # bridge and base of the nose
    assert (face[facing > 0.8] > 0.9).all() and (face[facing < -0.6] == 0).all()
    assert (facing > 0.8).any() and (facing < -0.6).any()


def test_whoever_stands_in_the_way_hides_the_other():
    from rigs import makehuman
    from studio.virtual.looks import dressed
    from studio.virtual.scene import Crowd, Figure
    from studio.virtual.truth import seen_points

    body = makehuman.load()
    figure = Figure.of(body, dressed(body, 1, 64))
    skin = body.skin.rest.numpy()
    names = ["left_shoulder", "right_shoulder", "left_hip", "right_hip", "left_knee", "right_knee"]
    points = body.keypoint_skin(names).rest.numpy()
    depth = np.full((1, 6), 0.07, np.float32)
    camera = np.float32([0, -4, 1.2])
    alone = Crowd.posed((figure,), [skin])
    assert seen_points(alone, camera, points[None], depth).all()
    hidden = Crowd.posed((figure, figure), [skin, skin * np.float32([1.2, 1, 1]) + np.float32([0, -0.6, 0])])
    assert not seen_points(hidden, camera, points[None], depth).any()
    behind = Crowd.posed((figure, figure), [skin, skin + np.float32([0, 0.8, 0])])
    assert seen_points(behind, camera, points[None], depth).all()


def test_a_lost_video_is_rendered_again_alike_and_the_others_are_kept(capture):
    one, other = (capture / "videos" / f"{n}.mp4" for n in ("cam01", "cam02"))
    before, stamp = pictures(one), other.stat().st_mtime_ns
    one.unlink()
    render_capture(capture, SMALL)
    assert (pictures(one) == before).all() and other.stat().st_mtime_ns == stamp


def test_a_folder_with_other_settings_is_refused_by_name(capture):
    with pytest.raises(ValueError, match="frames 3 there, 4 asked for"):
        render_capture(capture, dataclasses.replace(SMALL, frames=4))


@pytest.mark.parametrize(("field", "value"), [("people", 9), ("cameras", 0), ("fps", -1.0), ("frames", 0)])
def test_impossible_settings_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        VirtualCapture(**{field: value})


def test_people_keep_apart():
    from studio.virtual.capture import performances

    for seed in range(3):
        acts = performances(VirtualCapture(people=3, frames=150, fps=10, seed=seed))
        roots = torch.stack([a.translation for a in acts])
        gaps = [(roots[i] - roots[j])[:, :2].norm(dim=-1).min() for i in range(3) for j in range(i)]
        assert min(gaps) > 0.8


def test_motion_blur_is_centred_on_the_moment_of_truth(tmp_path):
    sharp, blurred = (
        pictures(
            render_capture(
                tmp_path / str(blur), dataclasses.replace(SMALL, cameras=1, people=1, truth_maps=False, motion_blur=blur, noise=0.0)
            )
            / "videos/cam01.mp4"
        )
        for blur in (False, True)
    )
    difference = np.abs(sharp.astype(int) - blurred.astype(int)).mean(-1)
    assert difference.max() > 4, "something moved and is blurred"
    assert np.median(difference) < 2, "the room is not"


def test_who_is_alone_does_what_he_does_among_the_others(capture, tmp_path):
    config = dataclasses.replace(SMALL, alone=2, truth_maps=False, background=4)
    single = Truth.load(render_capture(tmp_path, config) / "truth.safetensors")
    both = Truth.load(capture / "truth.safetensors")
    assert single.person_seeds == both.person_seeds[1:] and torch.equal(single.joints[:, 0], both.joints[:, 1])
    with pytest.raises(ValueError, match="alone 2 there, None asked for"):
        render_capture(tmp_path, dataclasses.replace(SMALL, truth_maps=False))
    with pytest.raises(ValueError, match="alone is 3; it must be 1 to 2"):
        dataclasses.replace(SMALL, alone=3)


def test_the_empty_room_is_what_is_seen_where_nobody_is(capture, tmp_path):
    folder = render_capture(tmp_path, dataclasses.replace(SMALL, truth_maps=False, background=12))
    for name in ("cam01", "cam02"):
        empty = pictures(folder / "background" / f"{name}.mp4").astype(float)
        assert len(empty) == 12
        seen, nobody = pictures(folder / "videos" / f"{name}.mp4")[0], read_maps(capture, name, 0).person == 0
        off = np.abs(seen - empty.mean(0)).max(-1)
        assert np.median(off[nobody]) < 4 and np.median(off[~nobody]) > 15
