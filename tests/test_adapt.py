"""Networks learn from takes what all cameras together say, and only what a camera left out confirms is kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from calibration.cameras import Cameras
from rigs import rotation
from studio.detect import adapted
from studio.detect.networks import _refined
from studio.detect.runtimes import LiteRT, Torch
from studio.detect.torch_network import load
from studio.nets import checkpoint
from studio.nets.checkpoint import Card
from studio.nets.hourglass import Hourglass
from studio.train import adapt as module
from studio.train.adapt import Adapting, adapt, judged, lesson_of, taught, turned
from studio.train.moments import Moments, labels_of, points_of
from studio.train.pupils import Own, Pose, refined

K, CODES = 9, 6
NAMES = tuple(f"point{k}" for k in range(K))


class Tiny:
    """Sees points where they are, plus a mistake that follows linearly from how the crop looks; its last part can learn that mistake."""

    keypoints, side = NAMES, 64

    def __init__(self) -> None:
        self.tail = nn.Linear(CODES, 2 * K)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)

    def look(self, tail, features):
        offsets = tail(features["look"].float()).unflatten(1, (K, 2))
        return features["seen"] + offsets, offsets[..., None]

    def apart(self, maps, first):
        return (maps - first).square().mean()

    def write(self, path, tail, card):
        return checkpoint.write(path, tail, replace(card, network="tiny"))


def tiny() -> Any:
    return Tiny()


def ring() -> Cameras:
    angles = torch.arange(4) * torch.pi / 2 + 0.3
    position = torch.stack([4 * angles.cos(), 4 * angles.sin(), torch.full((4,), 1.5)], -1).double()
    z = torch.nn.functional.normalize(torch.tensor([0.0, 0, 1]).double() - position, dim=-1)
    x = torch.nn.functional.normalize(torch.linalg.cross(z, torch.tensor([0.0, 0, 1]).double().expand_as(z)), dim=-1)
    full = lambda *v: torch.tensor(v).double().expand(4, -1).clone()  # noqa: E731
    R = torch.stack([x, torch.linalg.cross(z, x), z], -2)
    return Cameras(
        ("a", "b", "c", "d"), full(1280.0, 720.0), full(1100.0, 1100.0), full(640.0, 360.0), full(*[0.0] * 8), ("brown",) * 4, R, position
    )


def watched(mistakes: float = 4.0, n: int = 60, late: tuple[int, ...] = (0, 0, 0, 0)) -> tuple[Moments, torch.Tensor]:
    """Moments of a walking cloud of points, and its exact pixels. Cameras may run `late` by some moments."""
    g, cameras = torch.Generator().manual_seed(3), ring()
    way = torch.stack([(torch.arange(n + 40) / 6).sin(), (torch.arange(n + 40) / 9).cos(), torch.ones(n + 40)], -1)
    points = way[:, None] * torch.tensor([1.0, 1.0, 1.0]) + 0.4 * torch.randn(1, K, 3, generator=g)
    exact = torch.stack([cameras[c].project(points[lag : lag + n].double())[0] for c, lag in enumerate(late)]).float()
    code = torch.randn(4, n, CODES, generator=g)
    off = mistakes * torch.einsum("cnf,fkd->cnkd", code, torch.randn(CODES, K, 2, generator=g)) / CODES**0.5
    seen = exact + 2 * off + 0.5 * torch.randn(exact.shape, generator=g)
    matrix = torch.cat([2 * torch.eye(2), torch.zeros(2, 1)], 1).expand(4, n, 1, 2, 3).clone()
    features = {"seen": (seen / 2).flatten(0, 1), "look": code.flatten(0, 1)}
    sigma = torch.full((4, n, K), 12.0)
    return Moments("walk", cameras, torch.arange(n), sigma, torch.arange(4 * n).view(4, n, 1), matrix, features), exact


QUICK = Adapting(steps=150, rate=0.02, stay=0.01)


def test_views_teach_each_other_and_a_camera_that_had_no_say_confirms_it_against_the_truth():
    pupil, (moments, exact) = tiny(), watched()
    lesson = lesson_of(moments, pupil)
    tail = taught(pupil, [lesson], QUICK)
    result = judged(pupil, tail, [lesson])
    off = lambda t: float((points_of(moments, pupil, t)[3, lesson.late] - exact[3, lesson.late]).norm(dim=-1).median())  # noqa: E731
    assert result.accepted, result
    assert off(tail) < 0.7 * off(pupil.tail)


def test_nothing_is_learned_from_the_camera_left_out_nor_from_moments_kept_back():
    pupil, (moments, _) = tiny(), watched()
    lesson = lesson_of(moments, pupil, "b")
    blind = {k: v.clone() for k, v in moments.features.items()}
    blind["look"].view(4, -1, CODES)[1] = torch.nan
    blind["look"].view(4, -1, CODES)[:, lesson.late] = torch.nan
    one = taught(pupil, [lesson], replace(QUICK, steps=10))
    blinded = replace(lesson.moments, features=blind)
    kept = lesson_of(moments, pupil, "b")
    kept.moments = blinded
    two = taught(pupil, [kept], replace(QUICK, steps=10))
    torch.testing.assert_close(one.weight, two.weight, rtol=0, atol=0)


def turned_by(degrees: tuple[float, float, float]) -> Moments:
    moments, _ = watched()
    return replace(moments, cameras=turned(moments.cameras, 1, rotation.exp(torch.deg2rad(torch.tensor(degrees)))))


def test_a_camera_tilted_by_five_degrees_is_named():
    with pytest.raises(ValueError, match=r"camera '\w' agrees with the others in .* calibration"):
        lesson_of(turned_by((5, 0, 0)), tiny())


def test_a_camera_turned_by_five_degrees_that_its_teachers_cannot_notice_is_refused_by_the_camera_left_out():
    # Between two cameras that face each other a third may turn sideways: rays still meet, elsewhere.
    pupil, wrong = tiny(), turned_by((0, 5, 0))
    lesson = lesson_of(wrong, pupil)
    assert not judged(pupil, taught(pupil, [lesson], QUICK), [lesson]).accepted


def test_cameras_out_of_step_are_named():
    moments, _ = watched(late=(0, 10, 20, 0))
    with pytest.raises(ValueError, match="clock"):
        lesson_of(moments, tiny())


def test_a_network_that_runs_away_is_refused():
    pupil, (moments, _) = tiny(), watched()
    lesson = lesson_of(moments, pupil)
    gone = taught(pupil, [lesson], replace(QUICK, rate=30.0, stay=0.0, steps=20))
    assert not judged(pupil, gone, [lesson]).accepted


def test_a_network_without_mistakes_is_not_replaced():
    pupil, (moments, _) = tiny(), watched(mistakes=0.0)
    lesson = lesson_of(moments, pupil)
    assert not judged(pupil, taught(pupil, [lesson], QUICK), [lesson]).accepted


def test_what_one_view_misplaces_does_not_enter_the_labels():
    moments, exact = watched(mistakes=0.0)
    pupil = tiny()
    points = points_of(moments, pupil, pupil.tail)
    points[0, :, 2] += 150
    labels = labels_of(moments, points, torch.tensor([True, True, True, False]))
    assert float((labels.pixels[0, :, 2] - exact[0, :, 2]).norm(dim=-1).median()) < 3


@pytest.mark.parametrize(("mistakes", "written"), [(4.0, True), (0.0, False)])
def test_a_network_is_written_only_when_it_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistakes: float, written: bool):
    class Folder:
        folder, videos = tmp_path, ("a", "b", "c", "d")

    monkeypatch.setattr(module, "takes_of", lambda path: ([Folder()], tmp_path))
    monkeypatch.setattr(module, "moments_of", lambda *_: watched(mistakes)[0])
    monkeypatch.setitem(module.PUPILS, "pose", tiny)
    found = adapt(tmp_path, QUICK)
    assert (found is not None) == written == (tmp_path / "networks" / "pose.safetensors").is_file()


def test_two_cameras_or_an_unknown_one_are_told():
    moments, _ = watched()
    two = replace(moments, cameras=moments.cameras[[0, 1]])
    with pytest.raises(ValueError, match="three are needed"):
        lesson_of(two, tiny())
    with pytest.raises(ValueError, match="no camera 'z'"):
        lesson_of(moments, tiny(), "z")


@pytest.fixture(scope="module")
def pose() -> Pose:
    return Pose()


def crops(n: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (n, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_trunk_and_last_part_are_the_wheels_network(pose: Pose):
    given = crops()
    with torch.no_grad():
        landmarks, heat = load("pose", (0, 3))(given.movedim(-1, 1).float() / 255)
        features = pose.remembered(given)
        _, maps = pose.look(pose.tail, features)
    torch.testing.assert_close(features["coarse"], landmarks.unflatten(1, (39, 5))[:, pose._which, :2])
    assert float((maps - torch.sigmoid(heat[:, pose._which])).abs().max()) < 5e-3  # features are kept in half precision


def test_landmarks_are_refined_as_the_detector_refines_them():
    g = torch.Generator().manual_seed(0)
    points, logits = torch.rand(3, 21, 2, generator=g), 6 * torch.randn(3, 21, 64, 64, generator=g) - 4
    ours = refined(points, torch.sigmoid(logits), 4)
    for i in range(3):
        theirs = _refined(points[i].double().numpy(), logits[i].permute(1, 2, 0).numpy())
        np.testing.assert_allclose(ours[i].numpy(), theirs, atol=1e-5)


def test_both_runtimes_run_the_adapted_network_alike(pose: Pose, tmp_path: Path):
    torch.manual_seed(0)
    tail = Pose().tail
    with torch.no_grad():
        for p in tail.parameters():
            p.add_(0.02 * torch.randn_like(p) * p.abs().mean())
    file = pose.write(tmp_path / "pose.safetensors", tail, Card("pose"))
    given = crops(1).numpy().astype(np.float32)
    first, lite, ours = (r.run("pose", given, 0.0) for r in (LiteRT(), LiteRT(file), Torch("cpu", adapted=file)))
    spread = np.abs(first[3]).max()
    assert np.abs(lite[3] - first[3]).max() > 0.01 * spread
    assert np.abs(lite[3] - ours[3]).max() < 2e-3 * spread
    np.testing.assert_array_equal(lite[0], first[0])  # where to look next is as it was
    np.testing.assert_array_equal(LiteRT(file).run("pose, no mask", given, 0.0)[2], lite[3])  # the part of it that makes no mask, too
    with torch.no_grad():
        _, maps = pose.look(tail, pose.remembered(crops(1)))
    assert np.abs(1 / (1 + np.exp(-lite[3][0][..., pose._which])) - maps[0].permute(1, 2, 0).numpy()).max() < 0.02


def test_only_the_change_is_stored_and_another_wheel_is_refused(pose: Pose, tmp_path: Path):
    file = pose.write(tmp_path / "pose.safetensors", pose.tail, Card("pose"))
    assert file.stat().st_size < 0.2e6  # the wheel's network has 6 MB
    card = yaml.safe_load(file.with_suffix(".yaml").read_text())
    card["architecture"]["sha256"] = "0" * 64
    file.with_suffix(".yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ValueError, match="Install the version it was made with"):
        adapted.read(file)
    with pytest.raises(FileNotFoundError, match="studio adapt"):
        adapted.find("pose", (tmp_path / "elsewhere",))


def test_our_hourglass_learns_by_the_same_lessons(tmp_path: Path):
    torch.manual_seed(0)
    names = ("nose", "left_eye", "right_eye")
    network = Hourglass(len(names), 2, 16, 2)
    card = Card("h", "hourglass", {"keypoints": 3, "stacks": 2, "width": 16, "levels": 2}, names, (64, 64))
    pupil = Own(checkpoint.write(tmp_path / "first.safetensors", network, card))
    given = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    features = pupil.remembered(given)
    with torch.no_grad():
        whole = pupil._network((given.movedim(-1, 1).float() / 255 - 0.5) / 0.25)[-1].flatten(2).softmax(-1)
        points, maps = pupil.look(pupil.tail, features)
    torch.testing.assert_close(maps.flatten(2), whole, atol=2e-3, rtol=0.05)
    assert points.shape == (2, 3, 2) and float(pupil.apart(maps, maps)) == pytest.approx(0, abs=1e-6)
    file = pupil.write(tmp_path / "second.safetensors", pupil.tail, Card("mine", data="own takes"))
    again, told = checkpoint.read(file, Hourglass, "hourglass")
    assert told.keypoints == names and "own takes" in told.data and isinstance(again, Hourglass)


def test_a_detector_follows_people_with_the_adapted_network_it_is_told(pose: Pose, tmp_path: Path):
    from studio.detect.chunks import Piece, detector_of

    file = pose.write(tmp_path / "pose.safetensors", pose.tail, Card("pose"))
    piece = Piece("a", tmp_path, 0, 1, 0, 30.0, "mediapipe", "mediapipe", {"adapted": str(file)}, 1, 0, tmp_path, {})
    assert detector_of(piece)._networks.pose_network._runtime._changed.base == "pose"
    assert detector_of(replace(piece, settings={}))._networks.pose_network._runtime._changed is None


def test_the_command_tells_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from studio.cli import call

    assert call(["adapt", str(tmp_path / "none")]) == 2 and "no such folder" in capsys.readouterr().err
    assert call(["adapt", str(tmp_path)]) == 2 and "take.yaml" in capsys.readouterr().err
    (tmp_path / "session.yaml").write_text("actors: [actor]\n")
    assert call(["adapt", str(tmp_path)]) == 2 and "studio run" in capsys.readouterr().err
