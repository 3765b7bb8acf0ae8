"""The wheel's networks in torch are those that Google's interpreter runs; they learn, and they take many crops at once."""

import os
import threading
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from studio.detect import DetectConfig, crews, detect
from studio.detect import mediapipe as detectors
from studio.detect.mediapipe import Mediapipe
from studio.detect.networks import Networks
from studio.detect.regions import Region, crop, halvings, to_image
from studio.detect.runtimes import LiteRT, Rounds, Torch, chosen
from studio.detect.tflite import FILES, MORE_FILES, PARTS, network_file, read_graph
from studio.detect.torch_network import load
from studio.take import Take
from studio.values import Keypoints2D
from studio.video import VideoWriter, frames

DATA = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data")) / "pose2sim_single"
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real footage in {DATA}; set STUDIO_DATA")
PORTRAIT = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
LOW = {"pose detection": -1.0, "face detection": -1.0, "face detection, far": -1.0}
IRISES = "face with irises"


@pytest.fixture(scope="module")
def litert():
    return LiteRT()


def same_as_litert(litert: LiteRT, name: str, crops: np.ndarray) -> float:
    """Largest difference of an output, as a share of that output's range."""
    low = LOW.get(name, 0.0)
    ours, theirs = Torch("cpu").run(name, crops, low), litert.run(name, crops, low)
    assert len(ours) == len(theirs) and all(a.shape == b.shape for a, b in zip(ours, theirs, strict=True))
    # Presence and handedness are probabilities: their range is 1.
    return max(float(np.abs(a - b).max()) / max(float(np.ptp(b)), 1.0) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", [n for n in FILES | MORE_FILES | PARTS if n != IRISES])
def test_a_network_in_torch_answers_as_in_litert_on_noise_and_on_a_portrait(litert, name):
    side = litert.side(name)
    noise = np.random.default_rng(0).uniform(0, 255, (1, side, side, 3)).astype(np.float32)
    portrait = np.asarray(Image.open(PORTRAIT).crop((100, 40, 420, 360)).resize((side, side)), np.float32)[None]
    assert same_as_litert(litert, name, np.concatenate([noise, portrait])) < 1e-3


@real
@pytest.mark.parametrize("name", list(FILES))
def test_a_network_in_torch_answers_as_in_litert_on_crops_of_real_footage(litert, name):
    _, image = next(iter(frames(DATA / "videos" / "cam01.mp4", 40, 41)))
    ((_, person),) = Networks().people(halvings(image), Region(540, 960, 1920, 0), 0.5)[:1]
    body = Networks().pose(halvings(image), Region(*person[2], 2.5 * float(np.hypot(*(person[3] - person[2]))), 0.1))
    places = {"hand": (15, 0.12), "hand region": (16, 0.2), "palm detection": (16, 0.3), "face": (0, 0.12), "face detection": (0, 0.3)}
    landmark, share = places.get(name, (23, 1.0))
    at, size = body.points[landmark], share * body.region.size
    regions = [Region(*at, size, 0.0), Region(*(at + 5), 1.2 * size, -0.4)]
    crops = np.stack([crop(halvings(image), region, litert.side(name)) for region in regions])
    assert same_as_litert(litert, name, crops) < 1e-3


def test_a_part_of_a_network_answers_as_the_whole_does(litert):
    crops = np.random.default_rng(1).uniform(0, 255, (2, 256, 256, 3)).astype(np.float32)
    for name, (whole, outputs) in PARTS.items():
        everything = litert.run(whole, crops, 0.0)
        for own, i in zip(litert.run(name, crops, 0.0), outputs, strict=True):
            assert np.array_equal(own, everything[i]), (name, i)


def test_another_networks_weights_are_noticed(litert):
    """The comparison above can fail."""
    crops = np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3)).astype(np.float32)
    light, full = (Torch("cpu").run(name, crops, 0.0)[0] for name in ("hand, light", "hand"))
    assert np.abs(light - full).max() / np.ptp(full) > 1e-2


def test_irises_lie_where_mediapipes_own_solution_sees_them():
    """LiteRT lacks this network's operations; MediaPipe's program has them, and finds the face by itself."""
    face_mesh = pytest.importorskip("mediapipe.python.solutions.face_mesh")
    image = np.asarray(Image.open(PORTRAIT))
    height, width = image.shape[:2]
    with face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as solution:
        seen = solution.process(image).multi_face_landmarks[0].landmark
    theirs = np.array([(p.x * width, p.y * height) for p in seen])
    whole = Region((width - 1) / 2, (height - 1) / 2, float(max(width, height)), 0.0)
    ((_, found),) = Networks().faces([image], whole, 0.5)[:1]
    tilt = found[3] - found[2]
    region = Region(*found[:2].mean(0), 1.5 * float(np.ptp(found[:2], axis=0).max()), float(np.arctan2(tilt[1], tilt[0])))
    with torch.inference_mode():
        mesh, _, _, _, left, right, _ = load(IRISES)(torch.from_numpy(crop([image], region, 192)).permute(2, 0, 1)[None] / 255)
    ours = {n: to_image(v.reshape(-1, k).numpy(), region, 192)[:, :2] for n, v, k in (("mesh", mesh, 3), ("l", left, 2), ("r", right, 2))}
    # Of the mesh those points that eyes and lips do not replace: forehead, nose, cheeks and chin.
    kept = [10, 1, 5, 195, 4, 205, 425, 152, 234, 454]
    assert np.abs(ours["mesh"][kept] - theirs[kept]).max() < 1.5
    assert np.abs(ours["l"] - theirs[468:473]).max() < 1.0 and np.abs(ours["r"] - theirs[473:478]).max() < 1.0


def test_a_crop_is_answered_alike_alone_and_in_a_batch():
    crops = np.random.default_rng(1).uniform(0, 255, (3, 224, 224, 3)).astype(np.float32)
    runtime = Torch("cpu")
    for whole, alone in zip(runtime.run("hand", crops, 0.0), runtime.run("hand", crops[2:], 0.0), strict=True):
        assert np.abs(whole[2] - alone[0]).max() < 1e-3


def test_half_precision_moves_a_hand_by_less_than_a_pixel_of_the_crop():
    image = Image.open(PORTRAIT).crop((100, 40, 420, 360)).resize((192, 192))
    crops = np.asarray(image, np.float32)[None]
    exact = Torch("cpu").run("face", crops, 0.0)[0].reshape(468, 3)[:, :2]
    for precision, limit in (("float16", 0.3), ("bfloat16", 1.5)):
        rough = Torch("cpu", precision).run("face", crops, 0.0)[0].reshape(468, 3)[:, :2]
        assert 0 < np.abs(rough - exact).mean() < limit


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", list(FILES))
def test_a_gpu_answers_as_the_cpu_does(name):
    side = Torch("cpu").side(name)
    crops = np.random.default_rng(0).uniform(0, 255, (5, side, side, 3)).astype(np.float32)
    for a, b in zip(Torch("cuda").run(name, crops, 0.0), Torch("cpu").run(name, crops, 0.0), strict=True):
        assert np.abs(a - b).max() / max(float(np.ptp(b)), 1.0) < 1e-3


@pytest.mark.parametrize(("name", "output"), [("hand", 0), ("pose", 0), ("pose", 4), ("pose", 3), (IRISES, 4)])
def test_a_step_of_training_lowers_the_loss(name, output):
    torch.manual_seed(0)
    network = load(name, [output])
    images = torch.rand(2, 3, network.side, network.side)
    with torch.no_grad():
        before = network(images)[0]
        target = before + 0.1 * before.std()
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    loss = torch.nn.functional.mse_loss(network(images)[0], target)
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(gradients) > 40 and sum(float(g.norm()) > 0 for g in gradients) > 0.8 * len(gradients)
    # A step that would take 2 % off the loss if it were a plane.
    optimiser.param_groups[0]["lr"] = 0.02 * loss.item() / sum(g.square().sum().item() for g in gradients)
    optimiser.step()
    with torch.no_grad():
        after = torch.nn.functional.mse_loss(network(images)[0], target).item()
    assert after < 0.995 * loss.item()


def test_trained_weights_are_saved_and_come_back(tmp_path):
    network, other = load("hand region"), load("hand region")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.01)
    torch.save(network.state_dict(), tmp_path / "trained.pt")
    images = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        assert not torch.equal(other(images)[0], network(images)[0])
        other.load_state_dict(torch.load(tmp_path / "trained.pt", weights_only=True))
        assert torch.equal(other(images)[0], network(images)[0])


def test_what_is_no_network_is_named(tmp_path):
    (tmp_path / "a.tflite").write_bytes(b"hello, this is not a network")
    with pytest.raises(ValueError, match=r"a\.tflite.*not a \.tflite"):
        read_graph(tmp_path / "a.tflite")
    with pytest.raises(ValueError, match="no network 'pose, heavy'"):
        network_file("pose, heavy")


# --- runtimes


def test_auto_means_litert_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen("auto") == "litert" and chosen("torch") == "torch"
    with pytest.raises(ValueError, match="CPU only"):
        chosen("litert", "cuda")
    if not torch.cuda.device_count():
        with pytest.raises(ValueError, match="cannot be used"):
            Torch("cuda")


class Echo:
    """Answers with the mean of every crop; a crop of 13s is its misfortune."""

    def side(self, name):
        return 4

    def run(self, name, crops, low):
        if (crops == 13).all((1, 2, 3)).any():
            raise RuntimeError("thirteen")
        return [crops.mean((1, 2, 3))]


def test_threads_get_their_own_answers_from_common_batches():
    rounds, wrong = Rounds(Echo()), []
    ready = threading.Barrier(5)

    def follow(who):
        with rounds.at_work():
            ready.wait()
            for i in range(20 + who):  # some end earlier: nobody must wait for them
                value = 20 + who * 40 + i
                (answer,) = rounds.run("a" if i % 2 else "b", np.full((1 + who % 2, 4, 4, 3), value, np.uint8), 0.0)
                if answer.tolist() != [value] * (1 + who % 2):
                    wrong.append((who, i))

    threads = [threading.Thread(target=follow, args=(who,), daemon=True) for who in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong and not any(thread.is_alive() for thread in threads)
    assert rounds.batches[7] >= 20  # three threads ask one, two ask two


def test_a_failure_reaches_those_who_asked_and_nobody_hangs():
    rounds = Rounds(Echo())
    with rounds.at_work(), pytest.raises(RuntimeError, match="thirteen"):
        rounds.run("a", np.full((1, 4, 4, 3), 13, np.uint8), 0.0)
    with rounds.at_work():
        assert rounds.run("a", np.full((1, 4, 4, 3), 14, np.uint8), 0.0)[0].tolist() == [14]


@real
def test_both_runtimes_see_the_same_people():
    torch.set_num_threads(1)
    ours, theirs = Mediapipe(runtime=Torch("cpu")), Mediapipe()
    for _, image in frames(DATA / "videos" / "cam02.mp4", 40, 43):
        a, b = ours.see(image), theirs.see(image)
        assert a.keys() == b.keys() == {0}
        assert (np.isnan(a[0].pixels) == np.isnan(b[0].pixels)).all()
        assert np.nanmax(np.abs(a[0].pixels - b[0].pixels)) < 0.1


@real
def test_cameras_in_common_batches_see_what_processes_of_their_own_see(tmp_path, monkeypatch):
    sizes: dict[int, int] = {}

    class Watched(Rounds):
        def __init__(self, runtime):
            super().__init__(runtime)
            self.batches = sizes

    monkeypatch.setattr(crews, "Rounds", Watched)
    videos = {c: DATA / "videos" / f"{c}.mp4" for c in ("cam01", "cam02")}
    found = {}
    for runtime in ("torch", "litert"):
        take = Take(tmp_path / runtime, videos, tmp_path / "none", frames=(40, 44))
        detect(take, DetectConfig(runtime=runtime, device="cpu", workers=2 if runtime == "torch" else 1))
        found[runtime] = [Keypoints2D.load(take.keypoints_folder / f"{c}.safetensors") for c in videos]
        found[runtime + " masks"] = [m for c in videos for _, m in frames(take.folder / "masks" / f"{c}.mkv", gray=True)]
    for ours, theirs in zip(found["torch"], found["litert"], strict=True):
        assert (ours.confidence > 0).equal(theirs.confidence > 0) and int((ours.confidence > 0).sum()) > 200
        assert (ours.pixels - theirs.pixels).nan_to_num().abs().max() < 0.1
        assert torch.allclose(ours.sigma, theirs.sigma, rtol=0.01, equal_nan=True)
    assert np.mean(np.stack(found["torch masks"]) != np.stack(found["litert masks"])) < 1e-4
    assert sizes[2] >= 8  # crops of the two cameras went together
    detect(take, DetectConfig(runtime="torch", device="cpu"))  # the other runtime's result is as good
    assert max(sizes) == 2


class Slow:
    """Sees nobody; the second camera's video is a misfortune."""

    def __init__(self, runtime, **settings):
        self.runtime = runtime

    def see(self, image, passed=1):
        self.runtime.run("hand region", np.full((1, 256, 256, 3), image.mean(), np.float32), 0.0)
        if image.mean() > 150:
            raise ValueError("too bright")
        return {}

    def remembered(self):
        return lambda: None


def test_one_threads_failure_ends_the_stage_and_keeps_what_was_finished(tmp_path, monkeypatch):
    monkeypatch.setitem(detectors.DETECTORS, "mediapipe", Slow)
    for camera, grey in (("a", 100), ("b", 200)):
        with VideoWriter(tmp_path / f"{camera}.mp4", 64, 48, 30) as writer:
            for i in range(40):
                writer.write(np.full((48, 64, 3), grey if i >= 20 else 100, np.uint8))
    take = Take(tmp_path / "take", {c: tmp_path / f"{c}.mp4" for c in ("a", "b")}, tmp_path / "none")
    with pytest.raises(ValueError, match="too bright"):
        detect(take, DetectConfig(runtime="torch", device="cpu", workers=2, piece=10, masks=False))
    assert not list(tmp_path.rglob("*.partial*"))
    done = sorted(p.parent.name + p.stem for p in (take.folder / "parts").rglob("*.safetensors"))
    assert {"a0000000", "b0000000"} <= set(done) and "b0000020" not in done
