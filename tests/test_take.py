"""Sessions and takes: what is told apart, what is refused, and what counts as up to date."""

import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from small_footage import film, rig

from studio.freshness import fingerprint, fresh, seal, stamp
from studio.pairing import pair
from studio.take import Session, Take
from studio.values import Tracks3D


@pytest.fixture
def footage(tmp_path):
    """Three cameras, three videos, a calibration."""
    rig(["left", "right", "top"]).save(tmp_path / "cameras.yaml")
    for name in ("left", "right", "top"):
        film(tmp_path / "videos" / f"{name}.mp4")
    return tmp_path


def opened(footage, **facts):
    return Take.of([footage / "videos"], footage / "cameras.yaml", footage / "out", **facts)


@pytest.mark.parametrize(
    ("stems", "cameras", "expected"),
    [
        (["cam01", "cam02"], ["cam01", "cam02"], {"cam01": "cam01", "cam02": "cam02"}),
        (["CAM_1", "cam-2"], ["cam01", "cam02"], {"cam01": "CAM_1", "cam02": "cam-2"}),
        (["walk_cam1_4k", "walk_cam10_4k"], ["cam1", "cam10"], {"cam1": "walk_cam1_4k", "cam10": "walk_cam10_4k"}),
        (["left", "left_wide"], ["left", "left_wide"], {"left": "left", "left_wide": "left_wide"}),
        (["camera 1", "view2"], ["cam01", "cam02"], {"cam01": "camera 1", "cam02": "view2"}),
    ],
)
def test_videos_find_their_cameras_by_name(stems, cameras, expected):
    paired, odd = pair([Path(f"{s}.mp4") for s in stems], cameras, Path("c.yaml"))
    assert {c: v.stem for c, v in paired.items()} == expected
    assert not odd


def test_a_name_that_fits_two_cameras_is_given_to_neither():
    paired, odd = pair([Path("a1.mp4"), Path("b2.mp4"), Path("stage.mp4")], ["a1", "b2", "stage left", "stage right"], Path("c.yaml"))
    assert set(paired) == {"a1", "b2"}
    assert any("stage left" in o for o in odd) and any("stage.mp4" in o for o in odd)


def test_what_has_no_partner_is_named(footage):
    (footage / "videos/top.mp4").rename(footage / "videos/crowd.mp4")
    take = opened(footage)
    assert sorted(take.videos) == ["left", "right"]
    assert any("top" in w for w in take.warnings) and any("crowd.mp4" in w for w in take.warnings)


def test_a_saved_take_opens_equal_and_moves_with_its_folder(footage):
    take = Take.of([footage / "videos"], footage / "cameras.yaml", footage, frames=(1, 5), actors=("Ann", "Bob"))
    take.save()
    assert Take.open(footage) == take
    moved = footage.rename(footage.with_name(footage.name + "-moved"))
    text = (moved / "take.yaml").read_text()
    assert str(footage) not in text.replace(str(moved), "")
    assert Take.open(moved).videos["left"] == moved / "videos/left.mp4"


def test_a_take_of_a_session_takes_the_sessions_cameras_actors_and_body(footage):
    session = Session(footage / "day", Path("../cameras.yaml"), ("Ann",), "makehuman")
    session.save()
    folder = Session.open(footage / "day").add("walk", [footage / "videos"])
    take = Session.open(footage / "day").take("walk")
    assert take.folder == folder and take.actors == ("Ann",) and len(take.videos) == 3
    assert Session.open(footage / "day").takes() == ("walk",)
    with pytest.raises(FileExistsError, match="walk"):
        session.add("walk", [footage / "videos"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("framess: [0, 3]", r"unknown key 'framess'.*'frames'"),
        ("frames: 3", r"first, last \+ 1"),
        ("frames: [5, 2]", "first < last"),
        ("timecode: 10", "HH:MM:SS:FF"),
        ("actors: [a, a]", "different names"),
        ("actors: ['../a']", "file name"),
        ("videos: {front: x.mp4, left: y.mp4}", "no camera 'front'"),
        ("videos: [nowhere]", "nowhere: no such"),
        ("a: [", "not a YAML file"),
    ],
)
def test_a_wrong_take_file_is_refused_with_the_remedy(footage, line, told):
    opened(footage).save()
    folder = footage / "out"
    base = "cameras: ../cameras.yaml\nvideos: [../videos]\n"
    (folder / "take.yaml").write_text((base if "videos" not in line else base.splitlines()[0] + "\n") + line + "\n")
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        Take.open(folder)


def test_cameras_are_those_with_a_video_at_the_videos_resolution(footage):
    for name in ("left", "right"):
        film(footage / "videos" / f"{name}.mp4", width=128, height=96)
    (footage / "videos/top.mp4").unlink()
    cameras = opened(footage).cameras()
    assert cameras.names == ("left", "right")
    assert cameras.size.tolist() == [[128, 96]] * 2
    corner = rig(["left", "right", "top"])["left"]
    point = torch.tensor([[0.2, 0.1, 0.3]], dtype=torch.float64)
    small, large = corner.project(point)[0, 0], cameras["left"].project(point)[0, 0]
    assert torch.allclose(large + 0.5, 2 * (small + 0.5))  # image corners, not pixel centres, scale by two


def test_unequal_lengths_are_said_and_count_while_two_videos_last(footage):
    film(footage / "videos/right.mp4", frames=4)
    film(footage / "videos/top.mp4", frames=9)
    take = opened(footage).checked()
    assert take.span == (0, 6) and take.stretch("right") == (0, 4) and take.stretch("top") == (0, 9)
    assert any("right 4" in w and "left 6" in w for w in take.warnings)
    part = opened(footage, frames=(1, 5)).checked()
    assert part.span == (1, 5) and part.stretch("right") == (1, 4) and part.stretch("top") == (1, 5)
    assert any("end at 6" in w for w in opened(footage, frames=(0, 8)).checked().warnings)
    with pytest.raises(ValueError, match="starts at frame 6"):
        opened(footage, frames=(6, 8)).checked()


def test_the_most_common_rate_is_the_results_unless_another_is_asked_for(footage):
    film(footage / "videos/right.mp4", frames=12, fps=60)
    take = opened(footage).checked()
    assert take.fps == 30 and not take.one_rate and any("right 60" in w for w in take.warnings)
    assert opened(footage, frames=(2, 4)).stretch("left") == (2, 4) and opened(footage, frames=(2, 4)).stretch("right") == (4, 7)
    (footage / "videos/top.mp4").unlink()
    assert opened(footage).fps == 60  # among equally common ones the highest: nothing seen is lost
    asked = opened(footage, rate=50.0)
    asked.save()
    assert asked.fps == 50 and Take.open(footage / "out") == asked and asked.facts != opened(footage).facts
    (footage / "out/take.yaml").write_text("cameras: ../cameras.yaml\nvideos: [../videos]\nfps: 0.5\n")
    with pytest.raises(ValueError, match=r"fps 0\.5: needs 1 to 1000"):
        Take.open(footage / "out")


def test_ntsc_is_not_taken_for_30_and_the_same_rate_with_another_crystal_is(footage):
    film(footage / "videos/right.mp4", fps=Fraction(30000, 1001))
    assert not opened(footage).one_rate and opened(footage).fps == 30
    film(footage / "videos/right.mp4", fps=Fraction(300_030, 10_000))
    assert opened(footage).one_rate


def test_notes_come_back_as_the_stages_left_them(footage):
    take = opened(footage)
    take.note("detect", ["left: nobody in 3 frames"], missing=torch.tensor([3, 0]))
    assert take.notes() == {"detect": {"warnings": ["left: nobody in 3 frames"], "numbers": {"missing": [3, 0]}}}


def test_an_artefact_is_fresh_until_an_input_or_a_setting_changes(tmp_path):
    source, made = tmp_path / "in.txt", tmp_path / "out.json"
    source.write_text("one"), made.write_text("result")
    assert not fresh(made, [source], {"sigma": 1.0})
    seal(made, [source], {"sigma": 1.0})
    assert fresh(made, [source], {"sigma": 1.0})
    assert not fresh(made, [source], {"sigma": 2.0})
    source.touch()
    assert fresh(made, [source], {"sigma": 1.0})  # content counts, not the clock
    source.write_text("two")
    assert not fresh(made, [source], {"sigma": 1.0})
    source.write_text("one")
    made.write_text("damaged")
    assert not fresh(made, [source], {"sigma": 1.0})


def test_a_folder_is_stale_when_a_file_in_it_is_lost(tmp_path):
    folder = tmp_path / "keypoints2d"
    folder.mkdir()
    (folder / "a").write_text("a"), (folder / "b").write_text("b")
    seal(folder, [], {})
    assert fresh(folder, [], {})
    (folder / "b").unlink()
    assert not fresh(folder, [], {})


def test_a_safetensors_file_carries_its_own_record(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("one")
    nothing = torch.zeros(0, 1, 1)
    tracks = Tracks3D((), (), 30.0, 0, nothing, nothing, nothing.long(), nothing.bool(), nothing.bool())
    path = tmp_path / "tracks3d.safetensors"
    tracks.save(path, **stamp([source], {"sigma": (1, 2)}))
    assert fresh(path, [source], {"sigma": (1, 2)})
    copy = tmp_path / "copy" / path.name
    copy.parent.mkdir()
    assert fresh(Path(shutil.copy(path, copy)), [source], {"sigma": (1, 2)})
    assert not fresh(path, [source], {"sigma": (1, 3)})


def test_a_video_with_other_content_has_another_fingerprint(tmp_path):
    a, b = tmp_path / "a.mp4", tmp_path / "b.mp4"
    content = bytearray(9_000_000)
    a.write_bytes(content)
    content[-10] = 1
    b.write_bytes(content)
    assert fingerprint(a) != fingerprint(b)


def test_opening_a_take_does_not_import_torch_before_it_must():
    code = "import sys, studio.take, studio.cli; sys.exit('torch' in sys.modules or 'mediapipe' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
