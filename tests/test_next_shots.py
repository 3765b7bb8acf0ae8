"""Words on what to film next name the camera, edge or pair that is short of views: board corners are placed by hand."""

import math
from dataclasses import replace

import numpy as np
import torch
from test_quality import ARC, boards, seen

from calibration.boards import Board, BoardViews
from calibration.intrinsics import calibrate_lens
from calibration.next_shots import camera_shots, pair_shots, shared_views

BOARD = Board("charuco", 4, 4, 0.1, 0.07)


def views(seen_at: dict[str, range]) -> BoardViews:
    """Cameras that see the board, all of it in one place, at the instants given, of 40."""
    pixels = torch.full((len(seen_at), 40, 9, 2), math.nan, dtype=torch.float64)
    for c, instants in enumerate(seen_at.values()):
        pixels[c, list(instants)] = 100 + 20 * torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0)).double()
    C = len(seen_at)
    size, none = torch.tensor([[640.0, 480.0]], dtype=torch.float64).repeat(C, 1), torch.zeros(C, 40, dtype=torch.bool)
    return BoardViews(tuple(seen_at), size, BOARD, pixels, pixels[..., 0] * 0 + 0.1, none, torch.arange(40).repeat(C, 1))


def test_a_pair_that_shares_too_few_views_is_named_and_a_firm_one_is_not():
    found = views({"left": range(0, 20), "middle": range(5, 30), "right": range(27, 40)})
    assert shared_views(found).tolist() == [[20, 15, 0], [15, 25, 3], [0, 3, 13]]
    [words] = pair_shots(found)
    assert words.startswith("middle and right share 3 views") and "13 more" in words


def test_a_camera_that_no_other_shares_a_view_with_is_named():
    words = pair_shots(views({"left": range(0, 20), "middle": range(0, 20), "far": range(30, 40)}))
    assert len(words) == 1 and "far share 0 views" in words[0]


def test_a_camera_without_views_and_one_with_few_are_told():
    found = views({"left": range(0, 20), "blind": range(0), "few": range(3)})
    words = camera_shots(found, {"left": "left: 20 views show nothing new", "blind": "blind: none", "few": "few: none"})
    assert "never sees the board" in words["blind"][0]
    assert "sees the board 3 times: about 13 more" in words["few"][0]
    assert words["left"] == ("20 views show nothing new.",)


def test_the_edge_that_no_corner_reached_is_named():
    random = np.random.default_rng(5)
    found = seen([ARC] * 60, boards(60, random), random)
    whole = calibrate_lens(found.pixels[0], found.points()[0], found.size[0], found.sigma[0])
    left_half = found.pixels[0, ..., :1] < 380
    cut = replace(found, pixels=torch.where(left_half, found.pixels, math.nan))
    half = calibrate_lens(cut.pixels[0], cut.points()[0], cut.size[0], cut.sigma[0])
    assert not any("right edge" in w for w in camera_shots(found, {"left": whole})["left"])
    assert any("right edge" in w for w in camera_shots(cut, {"left": half})["left"])
