"""C3D: read back by ezc3d, and its layout checked on a laboratory's own file."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export_scene import motion, person, truth

from studio.export import c3d, points

ezc3d = pytest.importorskip("ezc3d", reason="ezc3d is not installed")
SAMPLE = Path(os.environ.get("STUDIO_DATA", Path(__file__).parents[2] / "shared" / "data")) / "c3d_sample" / "kinematics_tennis_serve.c3d"


@pytest.fixture(scope="module")
def scene():
    body = person()
    return body, motion(body)


@pytest.fixture(scope="module")
def document(scene, tmp_path_factory):
    body, moved = scene
    return ezc3d.c3d(str(c3d.write(tmp_path_factory.mktemp("c3d") / "ann.c3d", [points.fitted(moved, body), points.joints(moved, body)])))


def named(document, name):
    return list(document["parameters"]["POINT"]["LABELS"]["value"]).index(name)


def test_joint_centres_come_back_within_a_thousandth_of_a_millimetre(scene, document):
    body, moved = scene
    found = np.stack([document["data"]["points"][:3, named(document, n)].T for n in body.skeleton.names], 1)
    assert np.abs(found - 1000 * truth(body, moved).joints.numpy()).max() < 1e-3


def test_keypoints_lie_where_the_body_has_them(scene, document):
    body, moved = scene
    posed = truth(body, moved)
    for name in body.keypoint_names:
        skin = body.keypoint_skin([name]).to(dtype=torch.float64)
        assert np.abs(document["data"]["points"][:3, named(document, name)].T - 1000 * posed.points(skin)[:, 0].numpy()).max() < 1e-3


def test_rate_unit_axes_and_frame_numbers_stand_in_the_file(scene, document):
    body, moved = scene
    point = document["parameters"]["POINT"]
    assert abs(point["RATE"]["value"][0] - moved.fps) < 1e-5 and point["UNITS"]["value"] == ["mm"]
    assert point["X_SCREEN"]["value"] == ["+X"] and point["Y_SCREEN"]["value"] == ["+Z"]
    assert document["header"]["points"]["first_frame"] == 120 and point["USED"]["value"][0] == 55 + len(body.keypoint_names)


def test_residuals_are_the_standard_deviation_to_a_quarter_of_a_millimetre(scene, document):
    body, moved = scene
    j = body.skeleton.index("LeftHand")
    found = document["data"]["meta_points"]["residuals"][0, named(document, "LeftHand")]
    assert np.abs(found - 1000 * moved.sigma[:, j].numpy()).max() <= 0.2501
    assert found.std() > 0


def test_missing_markers_are_invalid_and_unknown_or_huge_sigmas_do_not_wrap_round(tmp_path):
    position, sigma = torch.ones(3, 2, 3).double(), torch.full((3, 2), 0.002).double()
    position[1, 0] = torch.nan
    sigma[0, 1], sigma[1, 1], sigma[2, 1] = torch.nan, 5.0, torch.inf
    found = ezc3d.c3d(str(c3d.write(tmp_path / "a.c3d", [points.Points(("a", "b"), position, sigma, 50.0, 0)])))
    residuals = found["data"]["meta_points"]["residuals"][0]
    assert np.isnan(found["data"]["points"][:3, 0, 1]).all() and residuals[0, 1] < 0
    assert residuals[0, [0, 2]].tolist() == [2.0, 2.0] and residuals[1].tolist() == [0.0, 127.5, 0.0]


@pytest.mark.skipif(not SAMPLE.is_file(), reason=f"no laboratory's file at {SAMPLE}")
def test_a_laboratorys_file_has_the_parameters_that_this_one_has(document):
    theirs = ezc3d.c3d(str(SAMPLE))["parameters"]["POINT"].keys() - {"__METADATA__"}
    assert theirs <= document["parameters"]["POINT"].keys()


def test_takes_beyond_the_formats_count_of_frames_are_refused_with_a_way_out(scene, tmp_path):
    still = points.Points(("a",), torch.zeros(65536, 1, 3), torch.zeros(65536, 1), 50.0, 0)
    with pytest.raises(ValueError, match="C3D holds 65535 frames and this take has 65536; export fewer"):
        c3d.write(tmp_path / "a.c3d", [still])
    late = replace(still, position=still.position[:10], sigma=still.sigma[:10], first_frame=10**6)
    assert ezc3d.c3d(str(c3d.write(tmp_path / "a.c3d", [late])))["header"]["points"]["first_frame"] == 0


def test_a_missing_library_is_named_with_its_extra(scene, tmp_path, monkeypatch):
    body, moved = scene
    monkeypatch.setitem(__import__("sys").modules, "ezc3d", None)
    with pytest.raises(ModuleNotFoundError, match=r"C3D needs the ezc3d package: pip install 'mocap-studio\[c3d\]'"):
        c3d.write(tmp_path / "ann.c3d", [points.joints(moved, body)])
