import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from people_scene import FEET, MIRROR, NAMES, SPINE, figure, film

from calibration.cameras import Cameras
from calibration.gates import Gate, load_gates
from calibration.people import PeopleConfig, calibrate_people
from calibration.people_watch import refine_people, watch
from calibration.people_world import lengths_of, levelled, scaled
from rigs.keypoints import COCO_WHOLEBODY
from studio.calibrate_check import told_of as check_verdict
from studio.cli import call
from studio.values import Keypoints2D

CONFIG = PeopleConfig(frames=40, rounds=3)
IN_STEP = replace(CONFIG, delay_sigma=0.0)


def against(found, true):
    """Largest distance of a camera centre (m), largest turn (rad), after the best similarity between the centres; and its scale."""
    a, b = found.position.numpy(), true.position.numpy()
    A, B = a - a.mean(0), b - b.mean(0)
    U, S, Vt = np.linalg.svd(B.T @ A)
    D = np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))])
    R = U @ D @ Vt
    scale = (S * np.diag(D)).sum() / (A**2).sum()
    off = np.linalg.norm(scale * A @ R.T - B, axis=1).max()
    turns = [cv2.Rodrigues(f.numpy() @ R.T @ t.numpy().T)[0] for f, t in zip(found.R_camera_world, true.R_camera_world)]
    return off, max(np.linalg.norm(v) for v in turns), scale


@pytest.fixture(scope="module")
def walk():
    return film(60, seed=3)


@pytest.fixture(scope="module")
def found(walk):
    return calibrate_people(walk.views, walk.cameras, IN_STEP)


def test_a_walking_person_gives_the_rig(walk, found):
    off, turn, _ = against(found.cameras, walk.cameras)
    assert off < 0.015 and turn < math.radians(0.3)


@pytest.mark.parametrize("seed", [1, 2])
def test_focal_lengths_need_not_be_known(seed):
    seen = film(90, noise=0.7, seed=seed, distortion=-0.05)
    fit = calibrate_people(seen.views, None, IN_STEP)
    off, turn, _ = against(fit.cameras, seen.cameras)
    assert off < 0.06 and turn < math.radians(0.8)
    assert (fit.cameras.focal / seen.cameras.focal - 1).abs().max() < 0.025
    assert (fit.cameras.distortion[:, 0] + 0.05).abs().max() < 0.03


def test_the_first_guess_alone_is_far_worse_than_the_result(walk, found):
    rough = found.start.R @ walk.cameras.R_camera_world[0]
    turns = [np.linalg.norm(cv2.Rodrigues((a @ b.T).numpy())[0]) for a, b in zip(rough, walk.cameras.R_camera_world)]
    assert max(turns) > 10 * against(found.cameras, walk.cameras)[1]


def test_the_covariance_tells_the_error(walk, found):
    """Relative to the first camera, which holds the world."""
    R, scale = walk.cameras.R_camera_world[0], None
    scale = (lengths_of(torch.from_numpy(walk.points), SPINE) / lengths_of(found.points, SPINE)).mean()
    here = scale * found.cameras.position @ R + walk.cameras.position[0]
    error = (here - walk.cameras.position)[1:].norm(dim=-1)
    sigma = scale * found.covariance[1:, 3:, 3:].diagonal(dim1=1, dim2=2).sum(-1).sqrt()
    assert (error < 4 * sigma).all() and (sigma < 0.05).all()


def test_left_and_right_are_put_back(walk):
    wrong = torch.zeros(4, 60, dtype=torch.bool)
    wrong[2, 10:28] = True
    views = walk.views.relabelled(wrong)
    fit = calibrate_people(views, walk.cameras, IN_STEP)
    assert torch.equal(fit.exchanged, wrong)
    assert against(fit.cameras, walk.cameras)[0] < 0.015


def test_cameras_out_of_step_are_told_to_a_fraction_of_a_frame():
    late = [0.0, 1.5, -0.75, 0.25]
    seen = film(60, noise=0.5, seed=5, delay=late)
    fit = calibrate_people(seen.views, seen.cameras, CONFIG)
    assert np.abs(fit.delay.numpy() - late).max() < 0.15
    assert against(fit.cameras, seen.cameras)[0] < 0.02


def test_somebody_who_stands_still_gives_no_rig():
    seen = film(40, seed=2, travel=0.0, swing=0.0)
    with pytest.raises(ValueError, match=r"stands still.*walk through"):
        calibrate_people(seen.views, seen.cameras, IN_STEP)


def test_a_mirrored_video_is_named(walk):
    views = walk.views
    pixels, skeleton = views.pixels.clone(), views.skeleton.clone()
    pixels[1] = torch.tensor([1279.0, 0]) + pixels[1][:, list(MIRROR)] * torch.tensor([-1.0, 1])
    skeleton[1] = skeleton[1][:, list(MIRROR)] * torch.tensor([-1.0, 1, 1])
    with pytest.raises(ValueError, match=r"'cam2'.*mirror image"):
        calibrate_people(replace(views, pixels=pixels, skeleton=skeleton), walk.cameras, IN_STEP)


def test_videos_of_another_take_give_no_rig(walk):
    other = film(60, seed=77)
    pixels, skeleton = walk.views.pixels.clone(), walk.views.skeleton.clone()
    pixels[2], skeleton[2] = other.views.pixels[2], other.views.skeleton[2]
    with pytest.raises(ValueError, match=r"no rig explains what camera 'cam3' saw"):
        calibrate_people(replace(walk.views, pixels=pixels, skeleton=skeleton), walk.cameras, IN_STEP)


def test_a_camera_that_sees_nobody_is_named(walk):
    pixels = walk.views.pixels.clone()
    pixels[3] = torch.nan
    with pytest.raises(ValueError, match="'cam4' shares no frame"):
        calibrate_people(replace(walk.views, pixels=pixels), walk.cameras, IN_STEP)


def test_a_wrong_height_changes_only_the_scale(walk, found):
    length = lengths_of(torch.from_numpy(walk.points), SPINE)
    right, wrong = (scaled(found, SPINE, k * length) for k in (1.0, 1.1))
    assert against(right.cameras, walk.cameras)[2] == pytest.approx(1, abs=0.01)
    assert against(wrong.cameras, walk.cameras)[2] == pytest.approx(1 / 1.1, abs=0.01)
    assert torch.equal(right.cameras.R_camera_world, wrong.cameras.R_camera_world)
    assert torch.allclose(1.1 * right.cameras.position, wrong.cameras.position)


def test_the_floor_is_where_the_feet_are_and_up_is_up(walk, found):
    world = levelled(scaled(found, SPINE, lengths_of(torch.from_numpy(walk.points), SPINE)), FEET, SPINE)
    fit = world.fit
    A, B = fit.points.reshape(-1, 3).numpy(), walk.points[fit.frames].reshape(-1, 3)
    assert np.abs(A[:, 2] - B[:, 2]).mean() < 0.02  # heights above the floor are those of the truth
    up = np.linalg.lstsq(np.c_[A, np.ones(len(A))], B[:, 2], rcond=None)[0][:3]
    assert math.degrees(math.acos(up[2] / np.linalg.norm(up))) < 1
    assert np.abs(fit.points[:, list({i for p in SPINE for i in p}), :2].mean((0, 1))).max() < 0.01


def test_cameras_that_stand_raise_no_alarm():
    for seed in range(3):
        seen = film(120, noise=1.5, seed=seed)
        assert watch(seen.views, seen.cameras).alarms == ()


@pytest.mark.parametrize(("camera", "frame", "degrees"), [(1, 73, 0.6), (3, 40, 1.5)])
def test_a_bumped_camera_is_named_with_moment_and_size(camera, frame, degrees):
    seen = film(120, noise=1.5, seed=camera)
    turn = np.deg2rad(degrees) * np.array([0.6, 0.8, 0])
    X, c = seen.points[frame:], seen.cameras
    R = cv2.Rodrigues(turn)[0] @ c.R_camera_world[camera].numpy()
    image, _ = cv2.projectPoints(
        X.reshape(-1, 3), cv2.Rodrigues(R)[0], -R @ c.position[camera].numpy(), c.matrix[camera].numpy(), np.zeros(5)
    )
    pixels = seen.views.pixels.clone()
    still, _ = cv2.projectPoints(
        X.reshape(-1, 3),
        cv2.Rodrigues(c.R_camera_world[camera].numpy())[0],
        c.translation[camera].numpy(),
        c.matrix[camera].numpy(),
        np.zeros(5),
    )
    pixels[camera, frame:] += torch.from_numpy((image - still).reshape(*X.shape[:2], 2))
    result = watch(replace(seen.views, pixels=pixels), c)
    assert [b.camera for b in result.bumps] == [c.names[camera]]
    bump = result.bumps[0]
    assert bump.frame is not None and abs(bump.frame - frame) <= 3
    assert math.degrees(bump.turn) == pytest.approx(degrees, rel=0.2)
    assert f"at frame {bump.frame}" in result.alarms[0]


def test_a_camera_bumped_before_the_take_is_named(walk):
    c = walk.cameras
    R = c.R_camera_world.clone()
    R[2] = torch.from_numpy(cv2.Rodrigues(np.deg2rad([1.0, 0, 0]))[0]) @ R[2]
    result = watch(walk.views, replace(c, R_camera_world=R))
    assert [(b.camera, b.frame) for b in result.bumps] == [("cam3", None)]


def test_exchanged_cameras_are_named_and_no_refinement_hides_them(walk):
    wrong = walk.cameras[[0, 2, 1, 3]]
    wrong = replace(wrong, names=walk.cameras.names)
    assert watch(walk.views, wrong).exchanged == ("cam2", "cam3")
    with pytest.raises(ValueError, match="'cam2' and 'cam3' are exchanged"):
        refine_people(walk.views, wrong, torch.eye(6).expand(4, 6, 6) * 1e-4)


def test_a_take_refines_cameras_that_were_slightly_off(walk):
    rng = np.random.default_rng(0)
    c = walk.cameras
    turns = torch.from_numpy(np.stack([cv2.Rodrigues(rng.normal(0, 0.006, 3))[0] for _ in range(4)]))
    off = replace(c, R_camera_world=turns @ c.R_camera_world, position=c.position + torch.from_numpy(rng.normal(0, 0.01, (4, 3))))
    covariance = torch.diag(torch.tensor([0.006**2] * 3 + [0.01**2] * 3)).double().expand(4, 6, 6)
    better = refine_people(walk.views, off, covariance, IN_STEP)
    before, after = against(off, c), against(better.cameras, c)
    assert after[1] < before[1] / 2 and after[0] < before[0]
    assert np.linalg.norm((better.cameras.position - c.position).numpy().mean(0)) < 0.02  # the world stays where it was


def test_the_figure_keeps_its_bones():
    points = figure(30)
    legs = [np.linalg.norm(points[:, a] - points[:, b], axis=-1) for a, b in SPINE]
    assert max(x.std() for x in legs) < 1e-9


def take_of(folder, seen):
    """A take's folder as the stages leave it: small videos of the right size, keypoints of the figure under body names."""
    names = tuple(COCO_WHOLEBODY)
    C, T, _ = seen.views.sigma.shape
    pixels, skeleton = torch.full((C, T, 1, len(names), 2), torch.nan), torch.full((C, T, 1, len(names), 3), torch.nan)
    for k, own in enumerate(NAMES):
        name = {"l": "left_", "r": "right_"}.get(own[0], "") + own[1:] if own != "head" else "nose"
        name = {"left_hand": "left_hand_root", "right_hand": "right_hand_root"}.get(name, name.replace("toe", "big_toe"))
        pixels[:, :, 0, names.index(name)] = seen.views.pixels[:, :, k].float()
        skeleton[:, :, 0, names.index(name)] = seen.views.skeleton[:, :, k].float()
    there = torch.isfinite(pixels[..., 0])
    sigma = torch.where(there, 1.0, torch.inf)
    for c, camera in enumerate(seen.cameras.names):
        part = slice(c, c + 1)
        Keypoints2D((camera,), names, "exact", 30.0, 0, pixels[part], sigma[part], there[part].float(), skeleton[part]).save(
            folder / "keypoints2d" / f"{camera}.safetensors"
        )
    videos = {c: f"{c}.mp4" for c in seen.cameras.names}
    (folder / "take.yaml").write_text(json.dumps({"cameras": "none_yet.yaml", "videos": videos}))


def test_the_command_writes_cameras_in_metres_on_the_floor(tmp_path, walk, monkeypatch, capsys):
    take_of(tmp_path, walk)
    size = SimpleNamespace(width=1280, height=720)
    monkeypatch.setattr("studio.calibrate.probe", lambda path: size)
    out, lens = tmp_path / "rig.yaml", tmp_path / "lenses.yaml"
    walk.cameras.save(lens)
    assert call(["calibrate", "--from-people", str(tmp_path), "--out", str(out), "--height", "1.7", "--lenses", str(lens)]) == 0
    rig, notes = Cameras.load(out), json.loads(out.with_suffix(".json").read_text())
    off, turn, scale = against(rig, walk.cameras)
    assert off < 0.03 and turn < math.radians(0.4)
    assert scale == pytest.approx(1, abs=0.12)  # the figure's legs are not the average person's
    assert (rig.position[:, 2] / scale - walk.cameras.position[:, 2]).abs().max() < 0.4 and notes["scale"] == "height"
    assert call(["calibrate", "--from-people", str(tmp_path), "--check", str(out)]) == 0
    assert call(["calibrate", "--from-people", str(tmp_path), "--out", str(out), "--height", "178"]) == 2
    assert "in metres" in capsys.readouterr().err


@pytest.fixture
def clips(tmp_path, walk, monkeypatch):
    """Clips of the walk in a folder of somebody else's, whose detection is counted and gives the keypoints that are known."""
    from studio.video import VideoWriter

    take_of(tmp_path / "known", walk)
    folder, detected = tmp_path / "theirs", []
    folder.mkdir()
    for camera in walk.cameras.names:
        with VideoWriter(folder / f"{camera}.mp4", 1280, 720, 30.0) as video:
            for _ in range(2):
                video.write(np.zeros((720, 1280, 3), np.uint8))

    def detect(take, config):
        if not take.keypoints_folder.is_dir():
            shutil.copytree(tmp_path / "known/keypoints2d", take.keypoints_folder)
            detected.append(take.folder)

    monkeypatch.setattr("studio.detect.detect", detect)
    monkeypatch.setenv("STUDIO_CACHE", str(tmp_path / "cache"))
    return folder, detected


def test_clips_are_looked_at_once_and_nothing_is_written_among_them(clips, tmp_path, walk, capsys):
    folder, detected = clips
    walk.cameras.save(folder / "theirs.yaml")
    held = sorted(folder.iterdir())
    words = ["calibrate", "--from-people", str(folder)]
    assert call([*words, "--check", str(folder / "theirs.yaml")]) == 0
    assert sorted(folder.iterdir()) == held and "nothing is kept beside" in " ".join(capsys.readouterr().out.split())
    assert call([*words, "--check", str(folder / "theirs.yaml"), "--out", str(tmp_path / "checked")]) == 0
    gates, facts = load_gates(tmp_path / "checked/quality.yaml")
    assert {g.name for g in gates} >= {"residual", "held still"} and facts["checked"] == str(folder / "theirs.yaml")
    call([*words, "--refine", str(folder / "theirs.yaml"), "--out", str(tmp_path / "refined")])
    assert (tmp_path / "refined/cameras.yaml").is_file()
    assert len(detected) == 1 and detected[0].is_relative_to(tmp_path / "cache") and sorted(folder.iterdir()) == held


def test_wrong_words_are_told_before_anything_is_detected(clips, tmp_path, walk, capsys):
    folder, detected = clips
    walk.cameras.save(tmp_path / "all.yaml")
    walk.cameras[list(walk.cameras.names[:2])].save(tmp_path / "two.yaml")
    (tmp_path / "file").touch()
    for wrong, said in [
        (["--check", "nofile.yaml"], "nofile.yaml: no such"),
        (["--lenses", "nofile.yaml", "--out", "x"], "nofile.yaml: no such"),
        (["--refine", "nofile.yaml", "--out", "x"], "nofile.yaml: no such"),
        (["--check", str(tmp_path / "two.yaml")], f"no camera {walk.cameras.names[2]!r}"),
        (["--check", str(tmp_path / "two.yaml"), "--out", str(tmp_path / "all.yaml")], "another calibration"),
        (["--out", str(tmp_path / "file/x")], "--out"),
        (["--out", "/proc/foo"], "cannot be written"),
    ]:
        assert call(["calibrate", "--from-people", str(folder), *wrong]) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert said in told and "Errno" not in told, told
    assert not detected


def test_what_a_check_says_last_agrees_with_its_gates():
    still, shaky = Gate("held still", "pass", 0, 1, "No camera was bumped."), Gate("residual", "warn", 9, 1, "They disagree.", "Look.")
    assert check_verdict([still]) == "no camera was bumped and none are exchanged"
    assert "no camera was bumped" not in check_verdict([still, shaky]) and "residual" in check_verdict([still, shaky])
    assert "do not stand" in check_verdict([replace(shaky, verdict="fail")])


def test_the_command_says_what_it_needs(tmp_path, capsys):
    assert call(["calibrate", "--out", str(tmp_path / "x.yaml")]) == 2
    assert "--from-people" in capsys.readouterr().err
    assert call(["calibrate", "--from-people", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err
