"""Floor, origin and metre from points that a person clicked, by the command line. OpenCV projects; the true world is `test_world`'s."""

import cv2
import numpy as np
import pytest
import torch
import yaml
from test_world import astray, lost, rig

from calibration.cameras import Cameras
from calibration.gates import Gate, gates_of, save_gates
from calibration.world_gates import floors_agree, rests
from studio.cli import call
from studio.world_points import clicked, world_of

FULL = torch.float64
FLOOR = {"mark": [0.3, -0.2, 0], "door": [1.4, 0.5, 0], "edge": [-0.7, 1.1, 0], "stain": [-1.0, -0.9, 0]}
MEASURED = {**FLOOR, "shelf": [0.4, 1.2, 1.3]}


def seen(cameras: Cameras, points: dict[str, list[float]], noise: float = 0.0) -> dict[str, dict[str, list[float]]]:
    """Point -> camera -> pixel by OpenCV, where it is in the picture."""
    random, found = np.random.default_rng(0), {n: {} for n in points}
    for c, name in enumerate(cameras.names):
        K, R, t = (v[c].numpy() for v in (cameras.matrix, cameras.R_camera_world, cameras.translation))
        for point, xyz in points.items():
            pixel = cv2.projectPoints(np.array([xyz], float), cv2.Rodrigues(R)[0], t, K, None)[0].ravel() + random.normal(0, noise, 2)
            if (pixel > 0).all() and (pixel < cameras.size[c].numpy()).all():
                found[point][name] = [round(float(v), 3) for v in pixel]
    return found


@pytest.fixture
def files(tmp_path):
    """The true rig; its cameras in another world and scale, as a file; the points, as files."""
    true = rig()
    lost(true, torch.zeros(1, 3, dtype=FULL), seed=2)[0].save(tmp_path / "cameras.yaml")
    (tmp_path / "floor.yaml").write_text(yaml.safe_dump(seen(true, FLOOR)))
    known = {n: {"pixels": p, "xyz": MEASURED[n]} for n, p in seen(true, MEASURED).items()}
    (tmp_path / "known.yaml").write_text(yaml.safe_dump(known))
    return tmp_path, true


def place(folder, *words):
    code = call(["calibrate", "--out", str(folder / "cameras.yaml"), *map(str, words)])
    return code, Cameras.load(folder / "cameras.yaml")


def test_points_on_the_floor_level_the_rig(files):
    folder, true = files
    code, found = place(folder, "--floor-points", folder / "floor.yaml")
    scale = astray(2)[2]
    assert code == 0
    torch.testing.assert_close(found.position[:, 2] / scale, true.position[:, 2], atol=1e-3, rtol=0)
    up = found.R_camera_world[:, :, 2]  # where z points, in each camera
    torch.testing.assert_close(up, true.R_camera_world[:, :, 2], atol=1e-3, rtol=0)
    gates = {g.name: g.verdict for g in gates_of(folder / "cameras.yaml")[0]}
    assert gates["floor"] == gates["clicks"] == gates["floor points"] == "pass"
    assert (folder / "report.html").is_file()


def test_words_do_as_well_as_a_file(files):
    folder, true = files
    words = ["/".join(f"{c}:{x},{y}" for c, (x, y) in p.items()) for p in seen(true, FLOOR).values()]
    _, by_file = place(folder, "--floor-points", folder / "floor.yaml")
    _, by_words = place(folder, "--floor-points", *words)
    torch.testing.assert_close(by_words.position, by_file.position, atol=1e-6, rtol=0)


def test_two_named_points_give_origin_and_x(files):
    folder, true = files
    _, found = place(folder, "--floor-points", folder / "floor.yaml", "--origin", "mark:door")
    mark, door = (torch.tensor(FLOOR[n], dtype=FULL) for n in ("mark", "door"))
    x = (door - mark) / (door - mark).norm()
    R = torch.stack([x, torch.tensor([-x[1], x[0], 0.0]), torch.tensor([0, 0, 1.0], dtype=FULL)])
    torch.testing.assert_close(found.position / astray(2)[2], (true.position - mark) @ R.T, atol=2e-3, rtol=0)


def test_a_plumb_line_gives_up_where_no_floor_is_seen(files):
    folder, true = files
    upright = {"foot": [0.5, 0.2, 0], "top": [0.5, 0.2, 1.4]}
    (folder / "up.yaml").write_text(yaml.safe_dump(seen(true, upright)))
    code, found = place(folder, "--floor-points", folder / "up.yaml", "--up", "foot:top")
    assert code == 0
    torch.testing.assert_close(found.position[:, 2] / astray(2)[2], true.position[:, 2], atol=1e-3, rtol=0)


def test_known_points_give_world_and_metre(files):
    folder, true = files
    code, found = place(folder, "--known-points", folder / "known.yaml")
    assert code == 0
    torch.testing.assert_close(found.position, true.position, atol=1e-3, rtol=0)
    gates = {g.name: g for g in gates_of(folder / "cameras.yaml")[0]}
    assert gates["known points"].value < 1 and "5 known points" in gates["scale"].sentence


def test_known_points_check_the_metre_that_a_board_gave(files):
    folder, true = files
    cameras = folder / "cameras.yaml"
    board = Gate("known square", "pass", 0, 1, "The square is right.")
    lost(true, torch.zeros(1, 3, dtype=FULL), seed=2, scale=False)[0].save(cameras)
    save_gates(cameras, [board])
    assert place(folder, "--known-points", folder / "known.yaml")[0] == 0
    larger = {n: {**p, "xyz": [1.1 * v for v in p["xyz"]]} for n, p in yaml.safe_load((folder / "known.yaml").read_text()).items()}
    (folder / "larger.yaml").write_text(yaml.safe_dump(larger))
    code, found = place(folder, "--known-points", folder / "larger.yaml")
    gate = next(g for g in gates_of(cameras.with_name("cameras.refused.yaml"))[0] if g.name == "measured points")
    assert code == 2 and gate.verdict == "fail" and gate.value == pytest.approx(0.1, abs=1e-3)
    torch.testing.assert_close(torch.pdist(found.position), torch.pdist(true.position), atol=1e-3, rtol=0)  # the board's metre stays


def test_another_spot_clicked_in_one_picture_is_named_and_spoils_no_calibration(files, capsys):
    folder, true = files
    points = seen(true, FLOOR)
    points["door"]["b"] = [points["door"]["b"][0] + 40, points["door"]["b"][1]]
    (folder / "floor.yaml").write_text(yaml.safe_dump(points))
    before = (folder / "cameras.yaml").read_bytes()
    code, _ = place(folder, "--floor-points", folder / "floor.yaml")
    refused = folder / "cameras.refused.yaml"
    gate = next(g for g in gates_of(refused)[0] if g.name == "clicks")
    assert code == 2 and gate.verdict == "fail" and "'door'" in gate.sentence
    # The calibration that was there stays, and the words say where the other one is; accepted, it is replaced.
    assert (folder / "cameras.yaml").read_bytes() == before and "cameras.refused.yaml" in " ".join(capsys.readouterr().out.split())
    assert place(folder, "--floor-points", folder / "floor.yaml", "--accept")[0] == 0
    assert (folder / "cameras.yaml").read_bytes() != before and gates_of(folder / "cameras.yaml")[1]["accepted"] is True


def test_a_calibration_that_failed_itself_is_replaced(files):
    folder, true = files
    points = seen(true, FLOOR)
    points["door"]["b"] = [points["door"]["b"][0] + 40, points["door"]["b"][1]]
    (folder / "floor.yaml").write_text(yaml.safe_dump(points))
    save_gates(folder / "cameras.yaml", [Gate("clicks", "fail", 9, 1, "A click is off.")])
    assert place(folder, "--floor-points", folder / "floor.yaml")[0] == 2
    assert not (folder / "cameras.refused.yaml").exists()
    assert "'door'" in next(g for g in gates_of(folder / "cameras.yaml")[0] if g.name == "clicks").sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: {x1: [1, 2], a: [3, 4]}", "no camera 'x1'"),
        ("a: {a: [1, 2]}", "two cameras or more"),
        ("a: [1, 2]", "point 'a'"),
        ("a: {a: [1, 2, 3], b: [1, 2]}", "2 numbers"),
        ("{", "not a YAML file"),
        ("", "no points"),
    ],
)
def test_a_wrong_file_of_points_is_told_in_words(files, capsys, text, words):
    folder, _ = files
    before = (folder / "cameras.yaml").read_bytes()
    (folder / "wrong.yaml").write_text(text)
    assert place(folder, "--floor-points", folder / "wrong.yaml")[0] == 2
    told = " ".join(capsys.readouterr().err.split())
    assert words in told and "Traceback" not in told
    assert (folder / "cameras.yaml").read_bytes() == before


def test_wrong_words_are_told():
    with pytest.raises(ValueError, match="CAMERA:X,Y"):
        clicked(["a:1"])
    with pytest.raises(ValueError, match="no point 'c'"):
        world_of(["a:1,2/b:3,4"], None, "c", None)
    with pytest.raises(ValueError, match="--floor-points"):
        world_of([], None, "c", None)
    assert not world_of([], None, None, None)


def test_a_second_board_that_lies_elsewhere_fails_the_floor():
    square = torch.cartesian_prod(torch.linspace(0, 0.6, 4, dtype=FULL), torch.linspace(0, 0.4, 3, dtype=FULL), torch.zeros(1, dtype=FULL))
    gate = Gate("floor", "pass", 1.2, 0, "The cameras stand high.")
    even = square + torch.tensor([2.0, 1, 0.002])
    assert floors_agree(gate, [even]).verdict == "pass"
    high = floors_agree(gate, [even, even + torch.tensor([0, 0, 0.06])])
    assert high.verdict == "fail" and "+62 mm" in high.sentence and high.remedy
    lean = square @ torch.linalg.matrix_exp(torch.tensor([[0, 0, 0.08], [0, 0, 0], [-0.08, 0, 0]], dtype=FULL)).T
    assert floors_agree(gate, [lean - lean.mean(0)]).verdict == "fail"


def flat_board() -> torch.Tensor:
    return torch.cartesian_prod(torch.linspace(0, 0.4, 4, dtype=FULL), torch.linspace(0, 0.3, 3, dtype=FULL), torch.zeros(1, dtype=FULL))


HIGH = Gate("floor", "pass", 1.2, 0, "The cameras stand high.")


def course(*places: tuple[float, float, float], noise: float = 0.0) -> torch.Tensor:
    """The board's corners at these places, B N 3."""
    shift = torch.tensor(places, dtype=FULL) + noise * torch.randn(len(places), 3, generator=torch.Generator().manual_seed(0), dtype=FULL)
    return flat_board() + shift[:, None]


def test_a_floor_that_the_board_dives_below_fails():
    waved, lies = [(0.1 * n, 0.3 * (-1) ** n, -0.5) for n in range(8)], [(0, 0, 0)] * 3
    gate = rests(HIGH, course(*waved, *lies), 9)
    assert gate.verdict == "fail" and "500 mm below" in gate.sentence and "held in the air" in gate.remedy
    above = [(x, y, -z) for x, y, z in waved]
    assert rests(HIGH, course(*above, *lies), 9) == HIGH
    assert rests(HIGH, course(*waved[:2], *above, *lies), 11) == HIGH  # two mistaken poses are no floor
    unknown = course(*above, *lies)
    unknown[:3] = torch.nan
    assert rests(HIGH, unknown, 9) == HIGH


def test_a_board_that_moves_lies_on_no_floor():
    passing = course(*[(0.02 * n, 0, 0.3 * (n != 5)) for n in range(11)])
    assert rests(HIGH, passing, 5).verdict == "fail"
    slow = rests(HIGH, course(*[(0.008 * n, 0, 0) for n in range(11)]), 5)
    assert slow.verdict == "fail" and "moves at that instant, by 8 mm" in slow.sentence
    assert rests(HIGH, course(*[(0.1, 0.2, 0.5)] * 3, *[(0, 0, 0)] * 2), 3) == HIGH  # laid down, and still from then on
    assert rests(HIGH, course(*[(0, 0, 0.01)] * 9, noise=0.004), 5) == HIGH  # a pose that is not known so well does not move
