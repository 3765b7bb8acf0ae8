"""A person's corrections: a wrong point, a bad camera, a foot, two actors; and what a wrong line is told."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from moving_scene import NAMES, Dancer, Recording, taken

from rigs.keypoints import COCO_WHOLEBODY, LEFT_HAND
from studio.clock import footage
from studio.edits import CONTACTS, Edits, changed, plain, remembered
from studio.evaluate import posed_of
from studio.fit import FitConfig, fit
from studio.fit.again import REACH
from studio.fit.stored_take import StoredTake
from studio.track import track
from studio.values import Keypoints2D, Motion, Tracks3D

FRAMES = 30
KEYPOINTS = ("nose", "left_wrist", "right_wrist")


def edits(tmp_path, text, actors=("ann", "bob")):
    (tmp_path / "edits.yaml").write_text(text)
    return Edits.load(tmp_path, NAMES, KEYPOINTS, actors)


@pytest.mark.parametrize(
    "text, told",
    [
        ("drop: cam", "needs a list"),
        ("- {drop: c9}", "`drop: c9` is none of c0"),
        ("- {drop: c0, frames: [9, 3]}", "is not \\[first, last \\+ 1\\]"),
        ("- {ignore: left_thumb}", "`ignore: left_thumb` is none of nose"),
        ("- {ignore: nose, frame: 3}", "unknown key 'frame'"),
        ("- {point: nose, camera: c0, frame: 3}", "needs `at:`"),
        ("- {point: nose, camera: c0, frame: 3, at: [1, .nan]}", "is not \\[x, y\\] in pixels"),
        ("- {contact: left_knee, planted: true}", "`contact: left_knee` is none of left_heel"),
        ("- {contact: left_heel}", "needs `planted:`"),
        ("- {swap: [ann, ann]}", "two different actors"),
        ("- {swap: ann}", "two different actors"),
        ("- {drop: c0, swap: [ann, bob]}", "exactly one of"),
        ("- {drop: c0, actor: eve}", "`actor: eve` is none of ann"),
        ("- {nearer: nose, camera: c0}", "`nearer` needs `than:` too"),
        ("- {nearer: nose, than: left_thumb, camera: c0}", "`than: left_thumb` is none of nose"),
        ("- {nearer: nose, than: nose, camera: c0}", "than itself"),
        ("- [", "not a YAML file"),
    ],
)
def test_a_wrong_line_is_told_with_its_number_and_the_remedy(tmp_path, text, told):
    with pytest.raises(ValueError, match=told) as error:
        edits(tmp_path, text)
    assert str(tmp_path / "edits.yaml") in str(error.value)


def test_a_word_on_who_is_nearer_holds_in_its_frames_and_those_around_are_solved_again(tmp_path):
    listed = edits(tmp_path, "- {nearer: left_wrist, than: nose, camera: c1, frame: 133}\n")
    assert listed.orders(100, 100) == [("c1", "left_wrist", "nose", slice(33, 34))]
    assert listed.orders(0, 100) == []
    [(low, high)] = changed(Edits(), listed, 100, 100)
    assert low < 33 and high > 34
    assert remembered(plain(listed)) == listed


def test_edits_change_only_what_they_name(tmp_path):
    listed = edits(
        tmp_path,
        "- {drop: c1, frames: [12, 14]}\n- {ignore: left_wrist, frames: [15, 16], actor: ann}\n"
        "- {point: nose, camera: c0, frame: 11, at: [5, 6.5]}\n- {contact: left_heel, frames: [10, 12], planted: true}\n",
    )
    pixels, sigma, points = torch.zeros(4, 10, 3, 2), torch.ones(4, 10, 3), torch.zeros(10, 3, 3)
    p, s, x = listed.of("ann").seen(NAMES, KEYPOINTS, 10, pixels, sigma, points)
    lost = p.isnan().all(-1)
    wanted = torch.zeros_like(lost)
    wanted[1, 2:4], wanted[:, 5, 1] = True, True
    assert torch.equal(lost, wanted) and torch.equal(s.isinf(), wanted)
    assert p[0, 1, 0].tolist() == [5, 6.5]
    assert torch.equal(x.isnan().all(-1).nonzero(), torch.tensor([[1, 0], [5, 1]]))
    bob = listed.of("bob").seen(NAMES, KEYPOINTS, 10, pixels, sigma, points)[0]
    assert not bob[:, 5].isnan().any() and bob[1, 2].isnan().all()
    said = listed.standing(10, 10)
    assert said[:2, CONTACTS["left_heel"]].flatten().tolist() == [1, 1] and int(said.isnan().sum()) == 78
    assert not pixels.any()  # what was given is left as it was


def test_only_frames_whose_edits_changed_are_named(tmp_path):
    before = edits(tmp_path, "- {drop: c1, frames: [10, 20]}\n- {drop: c0, frames: [50, 60]}")
    after = edits(tmp_path, "- {drop: c1, frames: [10, 20]}\n- {drop: c0, frames: [50, 70]}\n- {ignore: nose, frames: [200, 210]}")
    assert changed(before, after, 5, 100) == [(45, 65)]
    assert changed(after, after, 5, 100) == [] and changed(before, Edits(), 5, 8) == [(5, 8)]
    assert remembered(plain(after)) == after


@pytest.fixture(scope="module")
def take(tmp_path_factory):
    """A dancer whose left wrist one camera puts wildly wrong, but steadily, for a third of a second."""
    folder, dancer = tmp_path_factory.mktemp("edited"), Dancer(1, pitch=1.0)
    take = taken(folder, dancer, [Recording(0.0, Fraction(30), FRAMES)] * 4)
    track(take)
    return dancer, take


WRONG = slice(10, 20)


def mistaken(take, dancer):
    """The left arm below the elbow, hand and all, 15 cm too high in every view for a third of a second."""
    cameras = take.cameras()
    for name in cameras.names:
        path = take.keypoints_folder / f"{name}.safetensors"
        seen = Keypoints2D.load(path)
        arm = [k for k, n in enumerate(seen.keypoints) if n in HAND or n == "left_wrist"]
        high = dancer.keypoints(torch.arange(FRAMES) / 30)[WRONG][:, arm] + torch.tensor([0.0, 0.0, 0.15])
        pixels = seen.pixels.clone()
        pixels[0, WRONG, 0, arm] = cameras[name].project(high.double())[0].float()
        replace(seen, pixels=pixels).save(path)


HAND = tuple(n for n in COCO_WHOLEBODY if n.startswith("left_") and n in LEFT_HAND)


def test_points_set_by_hand_bring_a_limb_back_and_deleting_them_undoes_it(tmp_path):
    dancer = Dancer(1, pitch=1.0)
    take = taken(tmp_path, dancer, [Recording(0.0, Fraction(30), FRAMES)] * 4)
    mistaken(take, dancer)
    track(take)
    config, hand = FitConfig(device="cpu", key_frames=10), dancer.person.skeleton.index("LeftHand")
    truth, cameras = dancer.keypoints(torch.arange(FRAMES) / 30), take.cameras()
    true_hand = dancer.joints(torch.arange(FRAMES) / 30)[WRONG, hand]

    def error():
        return float((posed_of(Motion.load(fit(take, config))).joints[WRONG, hand] - true_hand).norm(dim=-1)[2:-2].mean())

    before = error()
    wrist = cameras.project(truth[:, COCO_WHOLEBODY.index("left_wrist")].double())
    lines = [f"- {{ignore: {n}, frames: [{WRONG.start}, {WRONG.stop}]}}" for n in HAND]
    lines += [
        f"- {{point: left_wrist, camera: {c}, frame: {f}, at: [{wrist[i, f, 0]:.2f}, {wrist[i, f, 1]:.2f}]}}"
        for i, c in enumerate(cameras.names)
        for f in range(WRONG.start, WRONG.stop)
    ]
    (take.folder / "edits.yaml").write_text("\n".join(lines))
    edited = error()
    (take.folder / "edits.yaml").unlink()
    assert before > 0.1 and edited < 0.3 * before
    assert error() == pytest.approx(before, rel=1e-3)


def test_only_frames_around_an_edit_are_solved_again_and_meet_the_others(tmp_path, capsys):
    dancer = Dancer(1, pitch=1.0)
    take = taken(tmp_path, dancer, [Recording(0.0, Fraction(30), 240)] * 4)
    track(take)
    config = FitConfig(device="cpu", key_frames=10)
    before = Motion.load(fit(take, config))
    line = "- {ignore: left_wrist, camera: c0, frames: [100, 104]}"
    (take.folder / "edits.yaml").write_text(line)
    capsys.readouterr()
    after = Motion.load(fit(take, config))
    assert f"solved again: actor {4 + 2 * REACH} frames" in capsys.readouterr().out
    same = (posed_of(after).joints == posed_of(before).joints).flatten(1).all(1)
    assert same.nonzero()[:, 0].tolist() == [t for t in range(240) if not 100 - REACH <= t < 104 + REACH]
    (take.folder / "edits.yaml").write_text(line + "\n- {drop: c0}")  # the whole take: from the start
    fit(take, config)
    assert "solved again" not in capsys.readouterr().out
    whole = Motion.load(take.motion_file("actor"))
    (take.folder / "edits.yaml").write_text(line)
    fit(take, replace(config, kernel=4.0))  # other strengths
    assert "solved again" not in capsys.readouterr().out and not torch.equal(whole.rotation, before.rotation)


def test_a_dropped_camera_is_not_used_and_a_contact_is_as_said(take):
    _, take = take
    path = take.folder / "edits.yaml"
    path.write_text(
        "- {drop: c2, frames: [5, 9]}\n- {contact: left_heel, planted: true, frames: [3, 25]}\n- {contact: right_heel, planted: false}\n"
    )
    tracks = Tracks3D.load(take.tracks_file)
    listed = Edits.load(take.folder, NAMES, tracks.keypoints, tracks.actors)
    source = StoredTake(take.cameras(), footage(take, NAMES), take.tracks_file, 0, FRAMES, listed.of("actor"), tracks.first_frame)
    seen = source[slice(3, 12)]
    assert seen.pixels[2, 2:6].isnan().all() and not seen.pixels[2, :2].isnan().all()
    motion = Motion.load(fit(take, FitConfig(device="cpu", key_frames=10)))
    path.unlink()
    assert bool((motion.contacts[3:25, 0] > 0.5).all()) and bool((motion.contacts[:, 2] < 0.5).all())


def test_swapped_actors_are_each_other(take, tmp_path):
    _, take = take
    tracks = Tracks3D.load(take.tracks_file)
    doubled = {
        f: torch.cat([getattr(tracks, f)] * 2, 2 if f in ("detection", "swapped", "trusted") else 1)
        for f in ("points", "covariance", "detection", "swapped", "trusted")
    }
    doubled["points"] = doubled["points"].clone()
    doubled["points"][:, 1] += 1.0
    exchanged = None if tracks.exchanged is None else torch.cat([tracks.exchanged] * 2, 2)
    two = replace(tracks, actors=("ann", "bob"), exchanged=exchanged, **doubled)
    two.save(tmp_path / "tracks.safetensors")
    listed = edits(tmp_path, "- {swap: [ann, bob], frames: [4, 6]}").of("ann")
    make = lambda e: StoredTake(take.cameras(), footage(take, NAMES), tmp_path / "tracks.safetensors", 0, FRAMES, e)  # noqa: E731
    plain_, swapped = make(Edits())[slice(2, 8)], make(listed)[slice(2, 8)]
    apart = (swapped.points - plain_.points).nan_to_num().amax((1, 2))
    assert apart.tolist() == pytest.approx([0, 0, 1, 1, 0, 0], abs=1e-5)
