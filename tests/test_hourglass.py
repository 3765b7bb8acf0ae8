"""The stacked hourglass: decoding, learning, calibration, and its place among the detectors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rigs.keypoints import COCO_WHOLEBODY
from studio.cli import call
from studio.detect.own import Own, files_of, is_own, square
from studio.nets.checkpoint import Card, write
from studio.nets.hourglass import BODY, CELL, HAND, Eye, Hourglass, decoded, looked
from studio.train.drawing import sample
from studio.train.hourglass import PLANS, Plan, build, fitted, looked_at
from studio.train.keypoint_crops import Crops, target
from studio.train.keypoint_errors import intersected, nees, pck
from studio.train.loop import Loop
from studio.train.scenes import SceneConfig, Scenes


def blob(x: float, y: float, covariance: torch.Tensor, cells: int = 24) -> torch.Tensor:
    """A Gaussian on the plane of the crop's pixels, read at the cells' middles; px."""
    at = torch.arange(cells) * CELL + (CELL - 1) / 2
    off = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1) - torch.tensor([x, y])
    maps = torch.exp(-0.5 * torch.einsum("hwi,ij,hwj->hw", off, torch.linalg.inv(covariance), off))
    return (maps / maps.sum())[None, None]


def test_decoding_finds_a_blob_to_a_hundredth_of_a_pixel_wherever_it_lies():
    for x, y in ((40.0, 51.3), (41.7, 33.33), (20.01, 60.5), (55.5, 48.9)):
        seen = decoded(blob(x, y, torch.eye(2) * 12.0))
        assert torch.allclose(seen.points[0, 0], torch.tensor([x, y]), atol=0.02)


def test_decoding_tells_a_slanted_blobs_covariance():
    covariance = torch.tensor([[30.0, 12.0], [12.0, 20.0]])
    seen = decoded(blob(47.0, 45.2, covariance))
    assert torch.allclose(seen.covariance[0, 0], covariance, rtol=0.02)


def test_a_second_guess_widens_the_covariance_but_moves_the_point_not_at_all():
    one = blob(30.0, 40.0, torch.eye(2) * 12)
    both = 0.7 * one + 0.3 * blob(80.0, 40.0, torch.eye(2) * 12)
    seen = decoded(both)
    assert torch.allclose(seen.points[0, 0], torch.tensor([30.0, 40.0]), atol=0.05)
    assert float(seen.covariance[0, 0, 0, 0]) == pytest.approx(12 + 0.3 * 50**2, rel=0.02)


def test_what_training_wants_decodes_to_the_keypoints():
    points = torch.rand(5, 23, 2) * 40 + 12
    assert (decoded(target(points, 16)).points - points).abs().max() < 0.1


def test_a_mirror_image_is_seen_mirrored_and_with_flip_exactly_so():
    torch.manual_seed(0)
    network = Hourglass(width=16).eval()
    images = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)
    straight, turned = (looked(network, i, BODY, True, 1.0).points for i in (images, images.flip(2)))
    other = [BODY.index(n.replace("left", "x").replace("right", "left").replace("x", "right")) for n in BODY]
    assert torch.allclose(turned[:, other, 0], 63 - straight[..., 0], atol=1e-3)
    assert torch.allclose(turned[:, other, 1], straight[..., 1], atol=1e-3)


@pytest.fixture(scope="module")
def crops() -> tuple[Scenes, Crops]:
    scenes = Scenes.stacked([sample(SceneConfig(size=64, cameras=4, maps=(), occluded=0.0, jitter=0.2), n) for n in range(0, 32, 8)])
    return scenes, Crops.of(scenes, BODY)


def test_it_learns_sixteen_images_by_heart(crops):
    _, few = crops
    plan = Plan(batch=16, width=32, rate=4e-3)
    still = replace(few)
    object.__setattr__(still, "batch", lambda *_: whole)
    from studio.nets.hourglass import normalised

    whole = {"images": normalised(few.images), "points": few.keypoints, "weight": few.weight}
    network, done = fitted(plan, still, Loop(130, 0))
    seen = looked_at(network, few, BODY, flip=False)
    error = (seen.points - few.keypoints).norm(dim=-1)
    assert done and pck(error, few.side, few.visible) == 1.0
    # Of images it has not learned it knows next to nothing: it is the images that it learned.
    other = looked_at(network, replace(few, images=few.images.roll(5, 0)), BODY, flip=False)
    assert pck((other.points - few.keypoints).norm(dim=-1), few.side, few.visible) < 0.6


def test_a_training_goes_on_with_another_number_of_steps_but_not_with_another_network(crops, tmp_path):
    _, few = crops
    plan, state = Plan(batch=4, width=16), tmp_path / "state.safetensors"
    assert fitted(plan, few, Loop(2, 0), state)[1]
    assert fitted(plan, few, Loop(3, 0), state)[1]
    with pytest.raises(ValueError, match="of another training"):
        fitted(replace(plan, stacks=3), few, Loop(4, 0), state)


def test_batches_move_keypoints_with_the_image(crops):
    _, few = crops
    drawn = few.images.clone().zero_()
    at = few.keypoints[:, BODY.index("left_wrist")].round().long().clamp(2, 61)
    for n, (x, y) in enumerate(at.tolist()):
        drawn[n, y - 1 : y + 2, x - 1 : x + 2] = 255
    batch = replace(few, images=drawn).batch(5, 32, BODY, 0)
    light = (batch["images"] * 0.25 + 0.5).mean(1)
    light = (light - light.flatten(1).median(1).values[:, None, None]).clamp_min(0.2)
    light = light - 0.2
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    total = light.sum((1, 2))
    middle = torch.stack([(light * columns).sum((1, 2)), (light * rows).sum((1, 2))], -1) / total[:, None]
    # A mirrored image has its left wrist where the right one is told.
    gap = torch.stack([(batch["points"][:, BODY.index(f"{s}_wrist")] - middle).norm(dim=-1) for s in ("left", "right")])
    good = (total > 3) & ((batch["weight"][:, 9:11] > 0).all(1))
    assert good.sum() > 12
    assert gap.amin(0)[good].max() < 1.2
    assert (gap.argmin(0)[good] == 0).any() and (gap.argmin(0)[good] == 1).any()


def test_squared_errors_of_true_covariances_are_two_on_average():
    g = torch.Generator().manual_seed(1)
    L = torch.tril(torch.rand(40_000, 2, 2, generator=g)) + 0.3 * torch.eye(2)
    error = (L @ torch.randn(40_000, 2, 1, generator=g))[..., 0]
    assert float(nees(error, L @ L.mT).mean()) == pytest.approx(2, abs=0.05)
    assert float(nees(error, 4 * L @ L.mT).mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("hands", [False, True])
def test_calibration_makes_wrong_covariances_true(monkeypatch, hands):
    from studio.nets.hourglass import Seen, calibrated
    from studio.train import hourglass

    g, plan = torch.Generator().manual_seed(2), Plan(hands=hands)
    K = len(plan.names)
    truth = torch.rand(600, K, 2, generator=g) * 60
    true = (0.5 + torch.rand(600, K, generator=g))[..., None, None] * torch.eye(2)
    noise = torch.randn(600, K, 2, generator=g) * true[..., 0, :1].sqrt()
    ones = torch.ones(600, K)
    crops = Crops(torch.zeros(600, 64, 64, 3, dtype=torch.uint8), truth, ones, ones > 0, torch.full((600,), 50.0))
    monkeypatch.setattr(hourglass, "cached", lambda *_: None)
    monkeypatch.setattr(hourglass.Crops, "of", lambda *_: crops)
    monkeypatch.setattr(hourglass, "looked_at", lambda *_: Seen(truth + noise, true / 9))  # three times too sure
    reading, _ = hourglass.calibration(Hourglass(K, width=16), plan)
    assert reading["flip"] is not hands  # the mirror image of a right hand is a left one
    told = calibrated(Seen(truth + noise, true / 9), Card(decoding=reading)).covariance
    assert float(nees(noise, told).mean()) == pytest.approx(2, abs=0.05)
    assert float((told / true)[..., 0, 0].median()) == pytest.approx(1, abs=0.1)


def test_views_meet_where_the_point_is_and_a_doubted_view_counts_less(crops):
    scenes, few = crops
    pixels = few.keypoints.unflatten(0, (4, 4)).double()
    equal = torch.eye(2, dtype=torch.float64).expand(4, 4, 23, 2, 2).clone()
    truth = scenes.points[:, 0, :23].double()
    assert (intersected(scenes, pixels, equal) - truth).norm(dim=-1).max() < 1e-4
    pixels[:, 2] += 5.0
    doubted = equal.clone()
    doubted[:, 2] *= 1e-4
    even, weighed = ((intersected(scenes, pixels, W) - truth).norm(dim=-1).mean() for W in (equal, doubted))
    assert weighed < 0.01 * even


def test_the_way_of_hands_has_twenty_one_keypoints_of_one_hand():
    plan = replace(PLANS["small"], hands=True)
    crops = Crops.of(sample(plan.scenes, 3), plan.names)
    assert plan.names == HAND and crops.keypoints.shape == (4, 21, 2)
    network = Hourglass(**build(plan)).eval()
    assert looked_at(network, crops, plan.names).points.shape == (4, 21, 2)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    reading = {"temperature": 1.0, "floor": 0.1, "scale": [1.0] * 23, "flip": True}
    card = Card("mine", "hourglass", {"width": 16}, BODY, (64, 64), decoding=reading)
    return write(tmp_path / "mine.safetensors", Hourglass(width=16), card)


def test_a_checkpoint_is_a_detector_like_any_other(checkpoint):
    assert is_own("hourglass") and is_own(str(checkpoint)) and not is_own("mediapipe") and not is_own("rtmw.onnx")
    assert files_of(str(checkpoint)) == [checkpoint, checkpoint.with_suffix(".yaml")]
    assert Own(str(checkpoint)).see(np.full((96, 128, 3), 90, np.uint8)) == {}  # nobody is there


def test_a_detector_puts_keypoints_where_the_image_has_them(checkpoint, monkeypatch):
    from types import SimpleNamespace

    from studio.detect.landmarks import Sight
    from studio.detect.mediapipe import Mediapipe
    from studio.detect.regions import halvings
    from studio.nets.hourglass import Seen

    image = np.full((400, 600, 3), 20, np.uint8)
    image[208:213, 340:345] = 255  # a light with its middle at (342, 210)
    empty = Sight(*(np.full(shape, np.nan) for shape in ((133, 2), (133,), (133,), (133, 3))), None)
    monkeypatch.setattr(Mediapipe, "_whole", lambda *_: empty)
    body = SimpleNamespace(points=np.array([[300.0, 120.0], [360.0, 320.0]]), world=np.zeros((33, 3)))
    detector = Own(str(checkpoint))

    def brightest(crops):
        light = crops[0].double().mean(-1) - crops.min()
        rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        middle = torch.stack([(light * columns).sum(), (light * rows).sum()]).float() / float(light.sum())
        return Seen(middle.expand(1, 23, 2), torch.eye(2).expand(1, 23, 2, 2))

    monkeypatch.setattr(detector._eye, "see", brightest)
    sight = detector._whole(halvings(image), SimpleNamespace(body=body))
    wrist, face = COCO_WHOLEBODY.index("left_wrist"), COCO_WHOLEBODY.index("face-3")
    assert np.allclose(sight.pixels[wrist], [342, 210], atol=0.3)
    assert sight.sigma[wrist] == pytest.approx(1.4 * 200 / 64)  # a pixel of the crop
    assert 0 < sight.confidence[wrist] < 1 and np.isnan(sight.pixels[face]).all()


def test_a_square_around_a_person_maps_crop_to_image():
    matrix, extent = square(np.array([[100.0, 50.0], [140.0, 250.0]]), 64)
    assert extent == 200
    assert np.allclose(matrix[:, :2] @ [31.5, 31.5] + matrix[:, 2], [120, 150])


def test_wrong_checkpoints_for_detection_are_told(checkpoint, capsys, tmp_path):
    other = write(tmp_path / "hands.safetensors", Hourglass(21, width=16), Card("hands", "hourglass", {"keypoints": 21, "width": 16}, HAND))
    with pytest.raises(ValueError, match="name a hourglass of bodies"):
        files_of(str(other))
    clip, cameras = tmp_path / "cam.mp4", tmp_path / "cameras.yaml"
    clip.write_bytes(b"")
    cameras.write_text("")
    assert (
        call(["run", str(clip), "--cameras", str(cameras), "--out", str(tmp_path / "o"), "--detector", str(tmp_path / "no.safetensors")])
        == 2
    )
    assert capsys.readouterr().err
    broken = write(tmp_path / "b.safetensors", Hourglass(width=16), Card("b", "hourglass", {"width": 16}, BODY))
    with pytest.raises(ValueError, match="decoding has no temperature; train again"):
        Eye(broken)
    with pytest.raises(ValueError, match="must be multiples of 32"):
        Hourglass(width=16)(torch.zeros(1, 3, 48, 48))
    assert "left_wrist" in COCO_WHOLEBODY
