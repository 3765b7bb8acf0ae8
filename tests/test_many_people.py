"""Several people: exact keypoints of stick figures who cross, hug, leave and return, beside posters and mirrors."""

from dataclasses import replace

import numpy as np
import pytest
from crowd_scene import alone, crowd, outcome
from small_footage import film
from test_track import NAMES, footage

from studio import pipeline
from studio.casting import Part, joined
from studio.detect.neighbours import image_without
from studio.detect.regions import Region
from studio.identity import identify
from studio.misnamed import exchanged_cameras
from studio.people import IdentityConfig, Person
from studio.take import AUTO, Take
from studio.track import track_actors
from studio.values import Tracks3D, of_actor
from studio.virtual import VirtualCapture


def tracked(scene, count):
    return track_actors(scene.cameras, scene.keypoints, tuple(f"actor{i + 1}" for i in range(count))).points.numpy()


def recorded(folder, scene, actors):
    """A take of the scene, filmed at a tenth of its resolution."""
    scene.cameras.save(folder / "cameras.yaml")
    for c, name in enumerate(scene.cameras.names):
        film(folder / "videos" / f"{name}.mp4", scene.keypoints.frames, 30, 192, 108)
        part = {k: getattr(scene.keypoints, k)[c : c + 1] for k in ("pixels", "sigma", "confidence")}
        part["pixels"] = (part["pixels"] + 0.5) / 10 - 0.5
        part["sigma"] = part["sigma"] / 10
        replace(scene.keypoints, cameras=(name,), **part).save(folder / "take" / "keypoints2d" / f"{name}.safetensors")
    take = Take.of([folder / "videos"], folder / "cameras.yaml", folder / "take", actors=actors)
    take.save()
    return take


def share_right(scene, detection):
    """Of the sightings of each person the share that one actor holds; actors with sightings of two people."""
    same = (detection[:, :, :, None] == scene.slot[:, :, None]) & (detection[..., None] >= 0)
    held = same.sum((0, 1)) / (scene.slot >= 0).sum((0, 1))
    return held.max(0), int(((held > 0.02).sum(1) > 1).sum())


@pytest.mark.parametrize(
    ("count", "cameras", "kind"), [(2, 4, "cross"), (2, 4, "hug"), (3, 4, "cross"), (3, 8, "hug"), (8, 8, "cross"), (8, 16, "hug")]
)
def test_everybody_is_found_and_nobody_becomes_another(count, cameras, kind):
    scene = crowd(count, cameras, kind, frames=60 if count == 8 else 90)
    found = identify(scene.cameras, scene.keypoints, None, IdentityConfig())
    assert found.detection.shape[2] == count and not found.said
    share, mixed = share_right(scene, found.detection.numpy())
    assert share.min() > 0.8 and mixed == 0


def test_neighbours_cost_little_accuracy():
    scene = crowd(2, 4, "hug", frames=60)
    single = np.mean([outcome(one, tracked(one, 1))["error_mm"] for one in (alone(scene, 0), alone(scene, 1))])
    both = outcome(scene, tracked(scene, 2))
    assert both["switches"] == both["phantoms"] == both["lost"] == 0
    assert both["error_mm"] < 1.2 * single


@pytest.mark.parametrize(("count", "cameras"), [(1, 8), (2, 4), (3, 8)])
def test_posters_and_mirror_images_are_left_out_and_said(count, cameras):
    scene = crowd(count, cameras, poster=True, mirror=True)
    for asked in (None, count):
        found = identify(scene.cameras, scene.keypoints, asked, IdentityConfig())
        assert found.detection.shape[2] == count
        share, mixed = share_right(scene, found.detection.numpy())
        assert share.min() > 0.8 and mixed == 0
        said = " ".join(found.said)
        assert "mirror image" in said and "poster" in said


def test_a_statue_is_an_actor_where_nobody_else_is():
    scene = crowd(1, 4)
    scene.keypoints.pixels[:] = scene.keypoints.pixels[:, 40:41]
    found = identify(scene.cameras, scene.keypoints, 1, IdentityConfig())
    assert (found.detection >= 0).float().mean() > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_who_comes_back_elsewhere_after_seconds_is_known_by_his_clothes(seed):
    scene = crowd(2, 4, frames=200, seed=seed, away=(50, 150), looks=True)
    found = identify(scene.cameras, scene.keypoints, None, IdentityConfig())
    assert found.detection.shape[2] == 2
    share, mixed = share_right(scene, found.detection.numpy())
    assert share.min() > 0.9 and mixed == 0


def test_somebody_else_who_comes_in_is_another_person():
    scene = crowd(2, 4, frames=200, away=(50, 150), looks=True)
    newcomer = np.abs(np.random.default_rng(3).dirichlet(np.full(16, 0.4)))
    assert scene.keypoints.look is not None
    for c, t in np.argwhere(scene.slot[:, 150:, 0] >= 0):
        scene.keypoints.look[c, 150 + t, scene.slot[c, 150 + t, 0]] = scene.keypoints.look.new_tensor(newcomer)
    assert identify(scene.cameras, scene.keypoints, None, IdentityConfig()).detection.shape[2] == 3


def test_auto_names_everybody_and_says_who_was_left_out(tmp_path, capsys):
    scene = crowd(2, 4, frames=70, poster=True)
    take = recorded(tmp_path, scene, AUTO)
    take = pipeline.with_actors(take, pipeline.Config().track)
    assert take.actors == ("actor1", "actor2") == Take.open(take.folder).actors
    pipeline.step(take, "track", pipeline.Config().track)
    assert Tracks3D.load(take.tracks_file).actors == take.actors
    assert "poster" in " ".join(take.notes()["track"]["warnings"])
    assert "actors: actor1, actor2 found" in capsys.readouterr().out


def test_auto_without_people_is_a_clear_error(tmp_path):
    scene = crowd(1, 4, frames=12)
    scene.keypoints.pixels[:] = np.nan
    with pytest.raises(ValueError, match="nobody was found in two views at once"):
        pipeline.with_actors(recorded(tmp_path, scene, AUTO), pipeline.Config().track)


@pytest.mark.parametrize(("people", "cameras"), [(1, 5), (2, 8)])
def test_two_exchanged_cameras_are_named(people, cameras):
    scene = crowd(people, cameras, frames=40)
    order = [0, 3, 2, 1, *range(4, cameras)]
    wrong = replace(scene.cameras[order], names=scene.cameras.names)
    assert exchanged_cameras(wrong, scene.keypoints, IdentityConfig()) == ("c1", "c3")
    assert exchanged_cameras(scene.cameras, scene.keypoints, IdentityConfig()) is None


def test_exchanged_cameras_are_said_with_the_tracks(tmp_path):
    scene = crowd(1, 5, frames=40)
    take = recorded(tmp_path, replace(scene, cameras=replace(scene.cameras[[2, 1, 0, 3, 4]], names=scene.cameras.names)), ("actor",))
    pipeline.step(take, "track", pipeline.Config().track)
    assert "Cameras 'c0' and 'c2' seem to be exchanged" in " ".join(take.notes()["track"]["warnings"])


def test_people_half_in_view_are_followed():
    scene = crowd(2, 6, "cross", frames=60)
    below = [k for k, n in enumerate(NAMES) if n.endswith(("knee", "ankle", "toe", "heel"))]
    scene.keypoints.pixels[:, :, :, below] = np.nan
    found = identify(scene.cameras, scene.keypoints, None, IdentityConfig())
    share, mixed = share_right(scene, found.detection.numpy())
    assert found.detection.shape[2] == 2 and share.min() > 0.8 and mixed == 0


def test_twelve_people_are_found():
    scene = crowd(12, 10, "hug", frames=40, looks=True)
    found = identify(scene.cameras, scene.keypoints, None, IdentityConfig())
    share, mixed = share_right(scene, found.detection.numpy())
    assert found.detection.shape[2] == 12 and share.min() > 0.7 and mixed == 0


@pytest.mark.parametrize("asked", [None, 1, 2])
def test_on_real_footage_the_man_at_the_back_is_never_mixed_in(asked):
    cameras, keypoints = footage()
    found = identify(cameras, keypoints, asked, IdentityConfig())
    detection = found.detection
    assert detection.shape[2] == (asked or 2)
    pixels = of_actor(keypoints.pixels, detection[:, :, 0], np.nan)
    height = pixels[..., 1].nan_to_num(-1e9).amax(-1) - pixels[..., 1].nan_to_num(1e9).amin(-1)
    assert (detection[:, :, 0] >= 0).float().mean() > 0.98 and (height > 550).float().mean() > 0.98  # the other is 380 to 460 px high
    if asked == 1:
        assert "One more person was seen" in " ".join(found.said)
    else:
        assert (detection[:2, :, 1] >= 0).float().mean() > 0.95 and bool((detection[2:, :, 1] == -1).all())  # two cameras see him


def stretch(frames, views):
    """Somebody about the origin in these frames, seen by so many of four cameras in each."""
    person = Person()
    for frame, count in zip(frames, views, strict=True):
        marks = np.array([(0, 0, 1.4), (0, 0, 0.9), (0.002 * frame, 0, 0.5)])
        if count > 1:
            person.met(frame, np.where(np.arange(4) < count, 0, -1), marks, 0.5 * count)
        else:
            person.met(frame, np.array([-1, 1, -1, -1]), np.full((3, 3), np.nan), 0.5)
    return person


def test_one_view_that_holds_on_to_whom_two_people_have_become_makes_nobody_two():
    later = stretch(range(25, 90), [3] * 65)
    held_on = stretch(range(45), [3] * 25 + [1] * 20)
    assert len(joined([held_on, later], 20.0, IdentityConfig())) == 1
    seen_apart = stretch(range(45), [3] * 45)
    assert len(joined([seen_apart, later], 20.0, IdentityConfig())) == 2


def test_nobody_gives_no_actor():
    scene = crowd(1, 4, frames=20)
    scene.keypoints.pixels[:] = np.nan
    assert identify(scene.cameras, scene.keypoints, None, IdentityConfig()).detection.shape == (4, 20, 0)


def test_who_is_followed_is_painted_over_with_what_is_around():
    image = np.full((120, 160, 3), 60, np.uint8)
    image[:, 80:] = 140
    image[40:80, 30:50] = 255
    mask = np.zeros((128, 128), np.float32)
    mask[22:107, 40:88] = 1  # of a region of 64 px about (40, 60): 24 px wide, 42 high
    shown = image_without(image, [(mask, Region(39.5, 59.5, 64.0, 0.0))], 1)
    assert np.abs(shown[:, :78].astype(int) - 60).max() < 12 and (shown[:, 82:] == 140).all()


def test_virtual_people_hug_cross_and_leave_the_room():
    from studio.virtual.capture import performances

    def ways(paths):
        config = VirtualCapture(people=2, paths=paths, frames=41, fps=10, height=90, width=160)
        return config, np.stack([p.translation[:, :2].numpy() for p in performances(config)])

    _, hug = ways("hug")
    apart = np.linalg.norm(hug[0] - hug[1], axis=-1)
    assert 0.25 < apart.min() < 0.55 and apart[0] > 1.4 and apart[-1] > 1.4
    _, cross = ways("cross")
    assert np.abs(cross[:, -1] + cross[:, 0]).max() < 0.3  # to the opposite place
    config, leave = ways("leave")
    assert np.abs(leave[0, 20]).max() > config.room().half * 0.7 and np.linalg.norm(leave[0, -1] - leave[0, 0]) < 0.3


def test_of_two_stretches_of_one_person_the_one_that_more_views_follow_has_the_say():
    def stretch(detections):
        person = Person()
        for frame, seen in detections.items():
            person.met(frame, np.array(seen), np.zeros((7, 3)), 1.0)
        return person

    stray = stretch({0: [0, 0, -1], 1: [0, -1, -1], 2: [0, -1, -1], 3: [0, -1, -1]})
    right = stretch({2: [-1, 1, -1], 3: [-1, 1, -1], 4: [-1, 1, 1], 5: [-1, 1, 1]})
    for people in ([stray, right], [right, stray]):
        part = Part(people)
        assert part.frames.tolist() == [0, 1, 2, 3, 4, 5]
        assert part.detections[3].tolist() == [-1, 1, -1]  # as many views, but more of them around
        assert part.detections[1].tolist() == [0, -1, -1] and part.detections[4].tolist() == [-1, 1, 1]


def test_who_runs_out_of_sight_and_comes_back_is_the_same():
    at = lambda x: np.full((6, 3), 0.0) + [x, 0.0, 1.0]  # noqa: E731
    gone, back, slow = (seen_at(frames, at(x)) for frames, x in ((range(30), 0.0), (range(36, 60), 1.6), (range(37, 60), 0.4)))
    config = IdentityConfig()
    assert len(joined([gone, back], 30.0, config)) == 1  # 1.6 m in a fifth of a second
    assert sorted(len(p.people) for p in joined([gone, back, slow], 30.0, config)) == [1, 2]
    assert any(p.people == [gone, slow] for p in joined([gone, back, slow], 30.0, config))  # a walk is more likely


def seen_at(frames, marks):
    """Somebody whom two views see standing there."""
    person = Person()
    for t in frames:
        person.met(t, np.array([0, 0]), marks, 1.0)
    return person


def test_a_few_frames_of_crossing_rays_do_not_take_the_place_of_who_comes_back():
    at = lambda x: np.full((6, 3), 0.0) + [x, 0.0, 1.0]  # noqa: E731
    gone, back = seen_at(range(30), at(0.0)), seen_at(range(36, 60), at(1.2))
    stray = seen_at(range(37, 39), at(1.1))  # nearer, and nobody
    assert any(p.people == [gone, back] for p in joined([gone, stray, back], 30.0, IdentityConfig()))
