"""A calibration explains itself in a page that opens offline, and its failed gates stop a run. Scenes: `test_quality`, `people_scene`."""

import html
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from people_scene import FEET as STANDING
from people_scene import SPINE
from people_scene import film as film_person
from scipy.spatial.transform import Rotation
from small_footage import film, rig
from test_people import take_of
from test_quality import ARC, boards, lenses_of, seen

from calibration.gates import Gate, accept, add_gates, doubts, gates_of, refuse_failed, save_gates
from calibration.people import PeopleConfig, calibrate_people
from calibration.people_gates import judge_ground, judge_people, judge_stature, judge_watch, judge_world
from calibration.people_watch import watch
from calibration.people_world import ground_of, levelled, scaled
from calibration.world import moved
from studio import board_steps as steps
from studio import pipeline
from studio.board_steps import solve
from studio.calibration_report import Account, Seen, account_of_people, write_report
from studio.calibration_report.page import page, verdict
from studio.calibration_report.pictures import coverage, enlargement, filled
from studio.cli import call
from studio.take import Take

BAD = Gate("held still", "fail", 9.0, 2.0, "Camera left moved.", "Fix it.")


@pytest.fixture(scope="module")
def account() -> Account:
    random = np.random.default_rng(3)
    views = seen([ARC] * 40, boards(40, random), random)
    found = solve(views, dict(zip(views.cameras, lenses_of(views)))).account
    assert found is not None
    return found


def text_of(document: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script)>.*?</\1>", " ", document, flags=re.S)))


def test_the_page_is_one_file_that_asks_for_no_other(account, tmp_path):
    cameras = tmp_path / "cameras.yaml"
    cameras.write_text("")
    file = write_report(cameras, account)
    assert file == tmp_path / "report.html" and list(tmp_path.iterdir()) and not list(tmp_path.glob("*.partial"))
    own = re.sub(r'srcdoc="[^"]*"', "", file.read_text())
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', own)
    assert "<iframe" in file.read_text() and file.stat().st_size > 200_000  # the viewer is inside


def test_every_gate_stands_there_with_its_remedy_and_the_verdict_comes_first(account):
    told = text_of(page(replace(account, gates=(*account.gates, BAD)), None))
    assert told.index("Do not record with this calibration: Camera left moved.") < told.index("Gates")
    for gate in account.gates:
        assert gate.sentence in told and gate.remedy in told
    for name in account.cameras.names:
        assert name in told
    assert verdict(replace(account, gates=(BAD,), accepted=True))[1].startswith("Accepted by the operator")
    assert verdict(replace(account, gates=(replace(BAD, verdict="pass"),)))[0] == "good"


def test_the_drawn_residuals_are_those_of_the_rig_and_the_scale_is_stated(account):
    middle = account.seen[0]
    error = middle.offsets.norm(dim=-1)
    assert 0.05 < float(error.median()) < 0.3  # the scene's noise is 0.1 px along each axis
    foretold = middle.places + middle.offsets
    assert float((foretold - middle.places).norm(dim=-1).quantile(0.9)) < 0.5
    times = enlargement(account.seen, 640.0)
    assert f"drawn {times:g} times as long" in text_of(page(account, None))
    drawn = times * float(torch.cat([s.offsets.norm(dim=-1) for s in account.seen]).quantile(0.9))
    assert 0.01 * 640 < drawn <= 0.05 * 640


def test_ten_times_the_error_is_drawn_a_tenth_as_enlarged():
    places, offsets = torch.rand(50, 2) * 400, torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    small = Seen("a", "corners", places, 0.1 * offsets, torch.zeros(1), 1, 1)
    assert enlargement([small], 640.0) == 10 * enlargement([replace(small, offsets=offsets)], 640.0)


def test_a_report_in_another_world_keeps_boards_before_the_cameras(account):
    R = torch.from_numpy(Rotation.random(random_state=1).as_matrix())
    there = account.placed(moved(account.cameras, R, torch.tensor([1.0, -2, 3]), 2.0))
    before, after = (a.cameras.project(a.boards.reshape(-1, 3)) for a in (account, there))
    torch.testing.assert_close(before, after, atol=1e-6, rtol=0, equal_nan=True)
    assert there.rows[1].place_sd == pytest.approx(2 * account.rows[1].place_sd)


def test_the_page_says_as_much_of_the_image_as_the_lens_was_judged_by():
    random = np.random.default_rng(3)
    views = seen([ARC] * 40, boards(40, random), random)
    lens = steps.lens_of(views, 0)
    assert not isinstance(lens, str) and bool(lens.used.any())
    used = views.pixels[0][lens.used]
    places = used[used.isfinite().all(-1)]
    by_page = filled(Seen("a", "corners", places, torch.zeros(len(places), 2), torch.zeros(1), 1, 1), tuple(views.size[0].tolist()))
    assert by_page == float((lens.coverage > 0).double().mean())
    corner = Seen("a", "corners", torch.tensor([[0.0, 0.0], [5.0, 5.0]]), torch.zeros(2, 2), torch.zeros(1), 1, 1)
    assert filled(corner, (640.0, 480.0)) == pytest.approx(1 / 48) and coverage(corner, (640.0, 480.0)).count('class="never"') == 47


def test_views_that_were_left_out_are_told_in_words():
    random = np.random.default_rng(3)
    views = seen([ARC] * 40, boards(40, random), random)
    away = views.pixels.clone()
    away[2, 5] += 60  # at one instant a camera sees the board elsewhere
    found = solve(replace(views, pixels=away), dict(zip(views.cameras, lenses_of(views)))).account
    assert found is not None and found.seen[2].left_out == "1 placed elsewhere by the other cameras"


@pytest.fixture
def take(tmp_path, monkeypatch):
    rig(["left", "right"]).save(tmp_path / "cameras.yaml")
    for name in ("left", "right"):
        film(tmp_path / "videos" / f"{name}.mp4")
    monkeypatch.setattr(pipeline, "step", lambda take, name, config, force=False: take.folder / name)
    return Take.of([tmp_path / "videos"], tmp_path / "cameras.yaml", tmp_path / "out")


def test_a_failed_calibration_stops_a_run_until_it_is_accepted(take):
    assert pipeline.run(take).name == "report"
    save_gates(take.cameras_file, [BAD])
    with pytest.raises(ValueError, match=r"Camera left moved\. Fix it\..*--accept-calibration"):
        pipeline.run(take)
    pipeline.run(take, accept_calibration=True)
    with pytest.raises(ValueError, match="held still"):
        pipeline.run(take)
    assert call(["calibrate", "--accept", "--out", str(take.cameras_file)]) == 0
    pipeline.run(take)
    assert any("accepted by the operator" in w for w in take.checked().warnings)
    assert any("Camera left moved" in w for w in take.notes()["take"]["warnings"])  # so does the report of the take


def test_a_warning_stops_no_run_and_gates_of_other_cameras_neither(take):
    save_gates(take.cameras_file, [replace(BAD, verdict="warn")])
    pipeline.run(take)
    save_gates(take.cameras_file, [BAD])
    rig(["left", "right", "third"]).save(take.cameras_file)
    pipeline.run(take)
    with pytest.raises(FileNotFoundError, match="nothing to accept"):
        accept(take.cameras_file)


def test_a_new_failure_ends_what_was_accepted(tmp_path):
    cameras = tmp_path / "rig.yaml"
    cameras.write_text("the cameras")
    assert save_gates(cameras, [BAD]).name == "rig.quality.yaml"
    accept(cameras)
    add_gates(cameras, [replace(BAD, name="names", verdict="pass")])
    assert gates_of(cameras)[1]["accepted"] and len(gates_of(cameras)[0]) == 2
    add_gates(cameras, [replace(BAD, name="names")])
    assert not gates_of(cameras)[1]["accepted"] and len(doubts(cameras)) == 2


@pytest.fixture(scope="module")
def walk():
    return film_person(60, seed=3)


@pytest.fixture(scope="module")
def level(walk):
    fit = calibrate_people(walk.views, walk.cameras, PeopleConfig(frames=40, rounds=3, delay_sigma=0.0))
    true = torch.from_numpy(walk.points[fit.frames.numpy()])
    lengths = torch.stack([(true[:, a] - true[:, b]).norm(dim=-1).median() for a, b in SPINE])
    return levelled(scaled(fit, SPINE, lengths), STANDING, SPINE)


def test_a_rig_from_a_person_passes_its_gates_and_is_reported(walk, level):
    fit = level.fit
    gates = (*judge_people(fit, walk.views.size, 30.0), *judge_world(level, 1.7, 1.7))
    assert {g.name: g.sentence for g in gates if g.verdict == "fail"} == {}
    account = account_of_people(fit, gates, {"Network": "exact"}, STANDING, "a walk")
    for c, s in enumerate(account.seen):
        assert float(s.offsets.norm(dim=-1).median()) == pytest.approx(float(fit.residual[c].nanmedian()), rel=0.1)
    told = text_of(page(account, None))
    assert "Calibration from a person" in told and "the weakest link" in told


@pytest.mark.parametrize(("height", "grade"), [(1.72, "pass"), (1.3, "warn"), (0.9, "fail"), (178.0, "fail")])
def test_a_height_that_is_not_the_persons_is_told(height, grade):
    assert judge_stature(height, 1.7, (0.15, 0.35), "the network takes the person for").verdict == grade


def test_a_scale_that_is_a_guess_and_a_floor_in_the_wrong_place_are_told(walk, level):
    assert judge_world(level, None, 1.7)[0].verdict == "warn"
    assert judge_ground(ground_of(level.fit.points, STANDING, SPINE)).verdict == "pass"
    lifted = level.fit.points + torch.tensor([0, 0, 0.2], dtype=torch.float64)
    assert judge_ground(ground_of(lifted, STANDING, SPINE)).verdict == "fail"
    lean = torch.from_numpy(Rotation.from_euler("x", 8, degrees=True).as_matrix())
    assert judge_ground(ground_of(level.fit.points @ lean.T, STANDING, SPINE)).verdict == "fail"


def test_a_bumped_camera_and_exchanged_ones_fail_gates_that_name_them(walk):
    cameras, views = walk.cameras, walk.views
    assert {g.verdict for g in judge_watch(watch(views, cameras), cameras.names, cameras.size)} == {"pass"}
    turn = torch.from_numpy(Rotation.from_euler("y", 1.5, degrees=True).as_matrix())
    R = cameras.R_camera_world.clone()
    R[1] = turn @ R[1]
    gates = judge_watch(watch(views, replace(cameras, R_camera_world=R)), cameras.names, cameras.size)
    [bad] = [g for g in gates if g.name == "held still"]
    assert bad.verdict == "fail" and "cam2" in bad.sentence and bad.value == pytest.approx(1.5, abs=0.3)
    swapped = replace(cameras[[0, 2, 1, 3]], names=cameras.names)
    [names] = [g for g in judge_watch(watch(views, swapped), cameras.names, cameras.size) if g.name == "names"]
    assert names.verdict == "fail" and "cam2 and cam3" in names.sentence
    assert not math.isnan(names.value)


def test_the_commands_for_people_keep_gates_and_reports(tmp_path, walk, monkeypatch):
    take_of(tmp_path, walk)
    monkeypatch.setattr("studio.calibrate.probe", lambda path: SimpleNamespace(width=1280, height=720))
    known, better = tmp_path / "cameras.yaml", tmp_path / "refined.yaml"
    walk.cameras.save(known)
    save_gates(known, [Gate("known square", "pass", 0.1, 1.0, "The square measures well."), replace(BAD, verdict="pass")])
    person = ["calibrate", "--from-people", str(tmp_path)]
    assert call([*person, "--refine", str(known), "--out", str(better)]) == 0
    gates = {g.name for g in gates_of(better)[0]}
    assert {"known square", "residual", "connected", "in step", "moved", "stature", "floor"} <= gates and "held still" not in gates
    assert "refined by a person" in text_of((tmp_path / "refined.report.html").read_text())
    # A camera that was turned since fails the check, and so stops a run; nothing else that is known of the cameras is forgotten.
    R = walk.cameras.R_camera_world.clone()
    R[1] = torch.from_numpy(Rotation.from_euler("y", 1.5, degrees=True).as_matrix()) @ R[1]
    replace(walk.cameras, R_camera_world=R).save(known)
    save_gates(known, [Gate("known square", "pass", 0.1, 1.0, "The square measures well."), replace(BAD, verdict="pass")])
    assert call([*person, "--check", str(known)]) == 3
    kept = {g.name: g.verdict for g in gates_of(known)[0]}
    assert kept["held still"] == "fail" and kept["known square"] == "pass"
    with pytest.raises(ValueError, match="cam2"):
        refuse_failed(known)
