"""A file of lenses: what was saved comes back, at other sizes too, and tells a lens where the board does not."""

from dataclasses import replace

import pytest
import torch
from people_scene import film
from test_intrinsics import BOARD, CENTRE, SIZE, footage

from calibration.boards import BoardViews
from calibration.cameras import Cameras
from calibration.lens_library import Library, read_library
from studio import board_steps
from studio.cli import call


def filming() -> Cameras:
    """Two cameras of different lenses, 1280 x 720."""
    cameras = film(frames=2).cameras[["cam1", "cam2"]]
    return replace(cameras, distortion=torch.tensor([[-0.1, 0.02, 1e-3, 0, 0, 0, 0, 0], [0.05, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.float64))


def test_lenses_come_back_as_they_were_saved_and_scaled_to_other_sizes(tmp_path):
    cameras, library = filming(), Library.named(tmp_path / "lenses.yaml", ["cam1=Action cam, wide", "cam2=Phone"])
    assert library.keep(cameras) == ["Action cam, wide", "Phone"]
    same = library.cameras({"cam1": (1280, 720), "cam2": (1280, 720)})
    assert torch.allclose(same.focal, cameras.focal, atol=1e-5) and torch.allclose(same.distortion, cameras.distortion, atol=1e-6)
    large = library.cameras({"cam1": (1920, 1080)})
    assert torch.allclose(large.focal[0], 1.5 * cameras.focal[0], atol=1e-4)
    assert torch.allclose(large.centre[0], (cameras.centre[0] + 0.5) * 1.5 - 0.5, atol=1e-4), "the half pixel counts"
    Library.named(library.path, ["Phone"]).keep(replace(cameras["cam1"], size=torch.tensor([[1920.0, 1440.0]], dtype=torch.float64)))
    assert {m: list(s) for m, s in read_library(library.path).items()} == {
        "Action cam, wide": [(1280, 720)], "Phone": [(1280, 720), (1920, 1440)],
    }  # fmt: skip


def test_one_model_serves_all_cameras_and_what_is_missing_is_named(tmp_path):
    file = tmp_path / "lenses.yaml"
    Library.named(file, ["Phone"]).keep(filming()["cam1"])
    both = Library.named(file, ["Phone"]).cameras({"left": (1280, 720), "right": (1280, 720)})
    assert both.names == ("left", "right") and torch.equal(both.focal[0], both.focal[1])
    with pytest.raises(ValueError, match=r"lenses.yaml: no lens 'left' for camera 'left'; it holds \['Phone'\].*--lens-model left=MODEL"):
        Library.named(file, []).cameras({"left": (1280, 720)})
    with pytest.raises(ValueError, match="'Phone' is known at 1280x720, which does not tell 640x480 of camera 'left'"):
        Library.named(file, ["Phone"]).cameras({"left": (640, 480)})
    with pytest.raises(ValueError, match="'cam1' and 'cam2' are both 'Phone' at 1280x720"):
        Library.named(file, ["Phone"]).keep(filming())
    with pytest.raises(ValueError, match="write one MODEL for all"):
        Library.named(file, ["Phone", "Tablet"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1", "needs MODEL"),
        ("Phone: {big: {lens: brown}}", "'Phone' at 'big': write the resolution as WIDTHxHEIGHT"),
        ("Phone: {1280x720: {lens: odd}}", "field 'lens' must be brown or fisheye"),
        ("Phone: {1280x720: {lens: brown, focal: [900]}}", "field 'focal' must be 2 numbers"),
        ("Phone: {1280x720: {lens: brown, focal: [-1, 2], centre: [1, 2], distortion: [0, 0, 0, 0, 0, 0, 0, 0]}}", "above zero"),
    ],
)
def test_a_damaged_library_is_explained(tmp_path, text, said):
    file = tmp_path / "lenses.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_library(file)


def test_the_library_tells_the_focal_length_where_the_board_was_never_tilted(tmp_path):
    flat = footage(3, views=12, tilt=3.0, near=(0.9, 1.0))
    library = Library.named(tmp_path / "lenses.yaml", ["Phone"])
    true = filming()["cam1"]
    centre = torch.tensor([CENTRE], dtype=torch.float64)
    library.keep(replace(true, focal=torch.full((1, 2), 904.0, dtype=torch.float64), centre=centre, distortion=0 * true.distortion))
    views = BoardViews(
        ("cam",), torch.tensor([SIZE], dtype=torch.float64), BOARD, flat[None], torch.full((1, *flat.shape[:2]), 0.2, dtype=torch.float64),
        torch.zeros(1, len(flat), dtype=torch.bool), torch.arange(len(flat))[None],
    )  # fmt: skip
    alone, known = (board_steps.lenses(views, library=given)["cam"] for given in (None, library))
    assert not isinstance(alone, str) and not isinstance(known, str)
    off = [abs(float(fit.focal.mean()) / 900 - 1) for fit in (alone, known)]
    assert off[1] < 0.01 and off[0] > 2 * off[1]
    assert known.focal_sd < 0.5 * alone.focal_sd


def test_the_command_says_what_a_library_is_for(tmp_path, capsys):
    file = str(tmp_path / "lenses.yaml")
    assert call(["calibrate", "--from-people", str(tmp_path), "--out", file, "--save-lenses", file]) == 2
    assert "keeps lenses that a board gave" in capsys.readouterr().err
    assert call(["calibrate", "--from-people", str(tmp_path), "--out", file, "--lens-model", "Phone"]) == 2
    assert "--lens-library" in capsys.readouterr().err
