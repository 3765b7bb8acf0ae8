"""Networks from elsewhere: a tiny ONNX network, written here byte by byte, whose right answer is known."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from rigs.keypoints import COCO_WHOLEBODY, mirrored
from studio.detect import DetectConfig, detect
from studio.detect.cards import Card, opened, shipped
from studio.detect.networks import PoseSight
from studio.detect.regions import Region, halvings, sampled
from studio.take import Take
from studio.values import Keypoints2D
from studio.video import VideoWriter

onnx = pytest.importorskip("studio.detect.onnx")
pytest.importorskip("onnxruntime")

K = {name: k for k, name in enumerate(COCO_WHOLEBODY)}
WIDTH, HEIGHT = 48, 64
RED, GREEN, BLUE = np.eye(3)
COLOURS = np.stack([RED if n.startswith("left_") else BLUE if n.startswith("right_") else GREEN for n in COCO_WHOLEBODY]).astype(np.float32)
"""The network's keypoints: left ones lie on the brightest red, right ones on blue, others on green."""


# --- protocol buffers, as far as an ONNX file needs them (onnx/onnx.proto)


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number: int, value) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def node(kind: str, inputs: list[str], output: str, **attributes) -> bytes:
    parts = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    for name, value in attributes.items():
        listed = b"".join(field(8, v) for v in value) if isinstance(value, list) else field(3, value)
        parts += field(5, field(1, name) + listed + field(20, 7 if isinstance(value, list) else 2))
    return field(1, parts)


def tensor(name: str, values: np.ndarray) -> bytes:
    dims = b"".join(field(1, n) for n in values.shape)
    return field(5, dims + field(2, 1) + field(8, name) + field(9, values.astype("<f4").tobytes()))


def port(number: int, name: str, shape: list) -> bytes:
    dims = b"".join(field(1, field(1, n) if isinstance(n, int) else field(2, n)) for n in shape)
    return field(number, field(1, name) + field(2, field(1, field(1, 1) + field(2, dims))))


def network(nodes: list[bytes], tensors: list[bytes], ports: list[bytes]) -> bytes:
    graph = b"".join(nodes) + field(2, "toy") + b"".join(tensors) + b"".join(ports)
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


def stretched(n: int, split: int) -> np.ndarray:
    """From n pixels to n * split bins, bin b at pixel b / split; smooth curves (Whittaker's) between."""
    return np.sinc(np.arange(n * split) / split - np.arange(n)[:, None])


def simcc(path: Path, split: int = 2, **card) -> Path:
    """Every keypoint's score along an axis is its colour's largest value there."""
    nodes = [
        node("ReduceMax", ["image"], "columns", axes=[2], keepdims=0),
        node("ReduceMax", ["image"], "rows", axes=[3], keepdims=0),
        node("MatMul", ["colours", "columns"], "kx"),
        node("MatMul", ["colours", "rows"], "ky"),
        node("MatMul", ["kx", "across"], "simcc_x"),
        node("MatMul", ["ky", "down"], "simcc_y"),
    ]
    tensors = [tensor("colours", COLOURS), tensor("across", stretched(WIDTH, split)), tensor("down", stretched(HEIGHT, split))]
    ports = [port(11, "image", ["n", 3, HEIGHT, WIDTH]), port(12, "simcc_x", ["n", 133, WIDTH * split])]
    path.write_bytes(network(nodes, tensors, [*ports, port(12, "simcc_y", ["n", 133, HEIGHT * split])]))
    return carded(path, split=float(split), **card)


def carded(path: Path, **card) -> Path:
    """Numbers as in the picture: 0 to 1."""
    facts = {"name": "toy", "size": [WIDTH, HEIGHT], "mean": [0.0] * 3, "deviation": [255.0] * 3, "seen": 0.2, "sure": 0.8}
    path.with_suffix(".yaml").write_text(yaml.safe_dump({**facts, **card}))
    return path


def blobs(at: dict[str, tuple[float, float]], width: int, height: int, spread: float) -> np.ndarray:
    """Gaussian spots by colour, centres in px, on black; float32."""
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3), np.float32)
    for c, colour in enumerate(("red", "green", "blue")):
        u, v = at[colour]
        image[..., c] = 230 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * spread**2))
    return image


# --- decoding


def test_a_peak_between_bins_is_found_to_a_hundredth_of_a_pixel():
    rng = np.random.default_rng(0)
    truth = rng.uniform((5, 5), (WIDTH - 5, HEIGHT - 5), (133, 2))
    # Along an axis a trained network's logits are those of a Gaussian (SimCC's labels): a parabola.
    x, y = (1 - ((np.arange(n * 2) / 2 - truth[:, i : i + 1]) / 6) ** 2 for i, n in enumerate((WIDTH, HEIGHT)))
    points, scores = onnx.from_simcc(x, 0.7 * y, 2.0)
    assert np.abs(points - truth).max() < 0.01
    assert np.allclose(scores, 0.7, atol=0.01)  # the lower of the two axes


@pytest.mark.parametrize("corners", [False, True])
def test_a_heat_maps_cell_is_put_where_its_grid_says(corners):
    truth = np.random.default_rng(1).uniform((6, 6), (WIDTH - 7, HEIGHT - 7), (133, 2))
    w, h = WIDTH // 4, HEIGHT // 4
    cell = np.stack([truth[:, 0] * (w - 1) / (WIDTH - 1), truth[:, 1] * (h - 1) / (HEIGHT - 1)], 1) if corners else (truth + 0.5) / 4 - 0.5
    y, x = np.mgrid[:h, :w]
    maps = 0.8 * np.exp(-((x - cell[:, 0, None, None]) ** 2 + (y - cell[:, 1, None, None]) ** 2) / 8)
    points, _ = onnx.from_heatmap(maps, (WIDTH, HEIGHT), corners)
    assert np.abs(points - truth).max() < 0.02
    wrong, _ = onnx.from_heatmap(maps, (WIDTH, HEIGHT), not corners)
    assert np.abs(wrong - truth).max() > 0.5


def test_a_peak_on_the_border_stays_there():
    falling = np.linspace(1, 0, WIDTH * 2)[None].repeat(3, 0)
    points, _ = onnx.from_simcc(falling, falling[:, ::-1], 2.0)
    assert (points[:, 0] == 0).all() and (points[:, 1] == WIDTH - 0.5).all()


# --- the network on a crop


AT = {"red": (30.3, 20.6), "green": (20.8, 40.2), "blue": (12.4, 25.9)}


def expected(name: str) -> tuple[float, float]:
    return AT["red" if name.startswith("left_") else "blue" if name.startswith("right_") else "green"]


@pytest.mark.parametrize("split", [1, 2])
def test_the_toy_network_says_where_its_colours_are(tmp_path, split):
    points, scores, apart = onnx.OnnxNetwork(str(simcc(tmp_path / "toy.onnx", split)))(blobs(AT, WIDTH, HEIGHT, 5.0))
    assert np.abs(points - [expected(n) for n in COCO_WHOLEBODY]).max() < 0.1
    assert np.allclose(scores, 230 / 255, atol=0.02) and not apart.any()


def test_channels_go_in_the_order_that_the_card_says(tmp_path):
    points, _, _ = onnx.OnnxNetwork(str(simcc(tmp_path / "toy.onnx", order="bgr")))(blobs(AT, WIDTH, HEIGHT, 5.0))
    assert np.abs(points[K["left_wrist"]] - AT["blue"]).max() < 0.1


def test_the_mirror_image_agrees_and_says_so(tmp_path):
    """One white spot, which is left and right alike, and lies where it lies also seen in the mirror: half pixels would show."""
    network = onnx.OnnxNetwork(str(simcc(tmp_path / "toy.onnx", flip=True)))
    points, _, apart = network(blobs(dict.fromkeys(AT, (17.3, 41.8)), WIDTH, HEIGHT, 5.0))
    assert np.abs(points - (17.3, 41.8)).max() < 0.1 and apart.max() < 0.05


def test_in_the_mirror_left_is_right(tmp_path):
    """The toy knows sides by colour, which a mirror does not change: its two answers must lie as far apart as its left and right."""
    network = onnx.OnnxNetwork(str(simcc(tmp_path / "toy.onnx", flip=True)))
    points, _, apart = network(blobs(AT, WIDTH, HEIGHT, 5.0))
    half = np.linalg.norm(np.subtract(AT["red"], AT["blue"])) / 2
    left, right = K["left_knee"], K["right_knee"]
    assert mirrored(COCO_WHOLEBODY)[left] == right
    assert np.allclose(apart[[left, right]], half, atol=0.1) and np.allclose(points[left], points[right], atol=0.1)
    assert apart[K["nose"]] < 0.05


# --- crops of an image


@pytest.mark.parametrize("height", [60.0, 300.0, 1100.0])
def test_a_spot_in_the_image_is_found_through_the_crop(tmp_path, height):
    """Enlarged, reduced, and reduced much: the half pixel is honoured at each."""
    network = onnx.OnnxNetwork(str(simcc(tmp_path / "toy.onnx")))
    box = onnx.Box(603.3, 641.7, height * WIDTH / HEIGHT, height)
    matrix = box.matrix((WIDTH, HEIGHT))
    spots = {
        c: (box.x + box.width * dx, box.y + box.height * dy) for c, dx, dy in (("red", 0.2, -0.3), ("green", 0, 0.2), ("blue", -0.15, 0.1))
    }
    image = np.rint(blobs(spots, 1300, 1300, height / 12)).astype(np.uint8)
    points, _, _ = network(sampled(halvings(image), matrix, (WIDTH, HEIGHT)))
    found = points * (box.width / WIDTH) + matrix[:, 2]
    pixel = max(box.width / WIDTH, 1.0)
    for name, colour in (("left_hip", "red"), ("nose", "green"), ("right_heel", "blue")):
        assert np.abs(found[K[name]] - spots[colour]).max() < 0.15 * pixel, name


def test_the_box_has_the_networks_shape_and_holds_the_person():
    points = np.random.default_rng(0).uniform((300, 200), (380, 520), (33, 2))
    box = onnx.around(points, Card(size=(288, 384), padding=1.25))
    assert box.width / box.height == pytest.approx(0.75)
    assert box.height >= 1.25 * np.ptp(points[:, 1]) - 1e-6 and box.width >= 1.25 * np.ptp(points[:, 0]) - 1e-6
    matrix = box.matrix((288, 384))
    corner = matrix[:, :2] @ (-0.5, -0.5) + matrix[:, 2]  # of the first pixel, not its centre
    assert np.allclose(corner, (box.x - box.width / 2, box.y - box.height / 2))


# --- what becomes of a person


def body(scale: float) -> PoseSight:
    world = np.random.default_rng(3).uniform(-0.6, 0.6, (33, 3))
    points = world[:, :2] * scale + (200.0, 200.0)
    return PoseSight(Region(200, 200, 400, 0), 1.0, points, np.ones(33), world, points[23:25], np.zeros((256, 256)))


def test_sigma_grows_with_doubt_with_the_person_and_with_the_mirrors_disagreement():
    points, card = np.full((133, 2), 200.0), Card(name="toy", seen=0.2, sure=0.8)

    def sigma(score=0.9, scale=300.0, apart=0.0):
        sight = onnx._sight(points, np.full(133, score), np.full(133, apart), 1.0, body(scale), card, (400, 400), None)
        return sight.sigma[K["left_knee"]]

    assert sigma(score=0.4) == pytest.approx(2 * sigma(), rel=0.02)
    assert sigma(scale=600.0) == pytest.approx(2 * sigma(), rel=0.02)
    assert sigma(apart=30.0) == pytest.approx(np.hypot(sigma(), 30.0), rel=1e-6)
    assert np.isnan(sigma(score=0.1))


def test_what_lies_outside_the_image_is_not_seen():
    points = np.tile([[100.0, 100.0]], (133, 1))
    points[K["left_ankle"]], points[K["nose"]] = (100.0, 400.6), (-0.4, 10.0)
    sight = onnx._sight(points, np.ones(133), np.zeros(133), 1.0, body(300.0), Card(name="toy"), (400, 400), None)
    assert np.isnan(sight.pixels[K["left_ankle"]]).all() and sight.confidence[K["left_ankle"]] == 0
    assert sight.confidence[K["nose"]] == 1 and np.allclose(sight.skeleton[K["left_hip"]], body(300.0).world[23])


# --- cards


def test_shipped_cards_are_whole_and_pinned():
    cards = shipped()
    assert {"dwpose-l", "rtmw-l"} <= set(cards)
    for card in cards.values():
        assert card.name and card.licence and card.address.startswith("https://") and len(card.sha256) == 64 and card.split == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.with_suffix(".yaml").unlink(), r"needs a card beside it, toy\.yaml"),
        (lambda p: carded(p, sha256="0" * 64), "its sha256 is"),
        (lambda p: carded(p, name=""), "name is missing"),
        (lambda p: carded(p, keypoints="coco"), "keypoints 'coco' is unknown"),
        (lambda p: carded(p, colour="rgb"), "unknown key 'colour'"),
        (lambda p: carded(p, keypoints="coco_17"), "sees 133 keypoints, but its card says coco_17 with 17"),
        (lambda p: p.write_bytes(b"no network"), "onnxruntime cannot load it"),
        (lambda p: p.unlink(), "no such network file.*huggingface"),
    ],
)
def test_what_is_wrong_with_a_network_is_said(tmp_path, change, message):
    path = simcc(tmp_path / "toy.onnx")
    change(path)
    opened.cache_clear()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        onnx.OnnxNetwork(str(path))(np.zeros((HEIGHT, WIDTH, 3), np.float32))
    opened.cache_clear()


def test_an_unknown_detector_is_named(tmp_path):
    take = Take(tmp_path, {"a": clip(tmp_path / "a.mp4")}, tmp_path / "none")
    with pytest.raises(ValueError, match="detector 'openpose': choose mediapipe"):
        detect(take, DetectConfig(detector="openpose"))


# --- the stage


def clip(path: Path, count: int = 3) -> Path:
    with VideoWriter(path, 320, 240, 30, crf=4) as writer:
        for i in range(count):
            writer.write(np.full((240, 320, 3), 40 * i, np.uint8))
    return path


def test_the_stage_runs_the_network_on_the_people_it_finds(tmp_path, monkeypatch):
    """People are found by another network; here by a stand-in, since spots of colour are no people."""
    person = body(110.0)
    spots = {"red": (180.0, 150.0), "green": (200.0, 220.0), "blue": (230.0, 180.0)}
    monkeypatch.setattr(onnx.Onnx, "_follow", lambda self, pyramid: self._persons.update({0: onnx.Person(person)}))
    monkeypatch.setattr(onnx.Onnx, "_search", lambda self, pyramid: None)
    with VideoWriter(tmp_path / "a.mp4", 400, 400, 30, crf=4) as writer:
        for _ in range(4):
            writer.write(np.rint(blobs(spots, 400, 400, 16.0)).astype(np.uint8))
    path = simcc(tmp_path / "toy.onnx", mean=[0.0] * 3)
    take = Take(tmp_path / "take", {"a": tmp_path / "a.mp4"}, tmp_path / "none")
    config = DetectConfig(detector=str(path), workers=1)
    file = detect(take, config) / "a.safetensors"
    seen = Keypoints2D.load(file)
    assert seen.network == "toy" and seen.frames == 4 and (tmp_path / "take" / "masks" / "a.mkv").is_file()
    for name, colour in (("left_wrist", "red"), ("face-30", "green"), ("right_pinky_finger4", "blue")):
        assert seen.pixels[0, :, 0, K[name]].numpy() - spots[colour] == pytest.approx(np.zeros((4, 2)), abs=1.0), name
    before = file.stat().st_mtime_ns
    detect(take, config)
    assert file.stat().st_mtime_ns == before
    carded(path, padding=1.5)
    opened.cache_clear()
    detect(take, config)
    assert file.stat().st_mtime_ns > before  # another card is another detector
