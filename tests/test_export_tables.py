"""TRC, CSV and the export stage: what the files say in numbers, and what must never be written."""

import csv
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from export_scene import motion, person, truth, y_up

from rigs.keypoints import COCO_WHOLEBODY
from studio.export import EXPORTERS, ExportConfig, export, points, trc
from studio.export import csv as writer
from studio.export.animation import character
from studio.take import Take
from studio.values import Tracks3D


@pytest.fixture(scope="module")
def scene():
    body = person()
    return body, motion(body)


@pytest.fixture
def take(scene, tmp_path, monkeypatch):
    """A fitted take of two actors with triangulated points, and a catalogue that knows its body."""
    body, moved = scene
    monkeypatch.setattr("rigs.catalogue.open_body", lambda name: {body.name: body}[name])
    moved.save(tmp_path / "motion_ann.safetensors")
    replace(moved, actor="bob").save(tmp_path / "motion_bob.safetensors")
    T, K = len(moved.translation), 3
    places = torch.arange(T * 2 * K * 3, dtype=torch.float32).reshape(T, 2, K, 3) / 1000
    places[4, 0, 1] = torch.nan
    covariance = torch.eye(3).repeat(T, 2, K, 1, 1) * 0.003**2
    none = torch.zeros(2, T, 2)
    tracks = Tracks3D(COCO_WHOLEBODY[:K], ("ann", "bob"), moved.fps, moved.first_frame, places, covariance, none.long(), none.bool(),
                      torch.zeros(2, T, 2, K).bool())  # fmt: skip
    tracks.save(tmp_path / "tracks3d.safetensors")
    return Take(tmp_path, {}, tmp_path / "cameras.yaml", actors=("ann", "bob"), body=body.name)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_csv_rows_are_world_positions_in_metres_at_video_frames(scene, tmp_path):
    body, moved = scene
    path = writer.write(tmp_path / "joints.csv", [points.joints(moved, body)])
    assert path.read_text().splitlines()[0] == "frame,time,name,x,y,z,sigma"
    table, posed = rows(path), truth(body, moved)
    assert len(table) == len(moved.translation) * 55
    for t, name in ((0, "Hips"), (33, "LeftHandIndex3")):
        row = next(r for r in table if r["frame"] == str(120 + t) and r["name"] == name)
        j = body.skeleton.index(name)
        assert torch.allclose(torch.tensor([float(row[a]) for a in "xyz"]).double(), posed.joints[t, j], atol=6e-7)
        assert abs(float(row["time"]) - (120 + t) * 1001 / 30000) < 1e-6
        assert abs(float(row["sigma"]) - float(moved.sigma[t, j])) < 6e-7


def test_fitted_points_carry_coco_names_and_the_sigma_of_their_joint(scene):
    body, moved = scene
    found = points.fitted(moved, body)
    assert found.names == tuple(n for n in COCO_WHOLEBODY if n in body.keypoint_names) and found.names[0] == "nose"
    posed = truth(body, moved)
    wrist, hand = found.names.index("left_wrist"), body.skeleton.index("LeftHand")
    rest = body.keypoints.rest[body.keypoint_names.index("left_wrist")] - posed.shaped.joints[hand]
    assert torch.allclose(found.position[:, wrist], posed.joints[:, hand] + posed.R_world_joint[:, hand] @ rest, atol=1e-9)
    assert torch.equal(found.sigma[:, wrist], moved.sigma[:, hand])


def test_a_missing_point_has_no_row_and_an_unknown_sigma_an_empty_cell(tmp_path):
    position = torch.ones(2, 2, 3)
    position[1, 0, 2] = torch.nan
    sigma = torch.tensor([[0.5, torch.nan], [0.1, torch.inf]])
    path = writer.write(tmp_path / "few.csv", [points.Points(("a", "b"), position, sigma, 50.0, 0)])
    lines = [
        "0,0.000000,a,1.000000,1.000000,1.000000,0.500000",
        "0,0.000000,b,1.000000,1.000000,1.000000,",
        "1,0.020000,b,1.000000,1.000000,1.000000,",
    ]
    assert path.read_text().splitlines()[1:] == lines


@pytest.mark.parametrize("up", ["y", "z"])
def test_trc_has_opensims_header_and_the_chosen_up_axis(scene, tmp_path, up):
    body, moved = scene
    found = points.fitted(moved, body)
    lines = [line.split("\t") for line in trc.write(tmp_path / "ann.trc", [found], len(moved.translation), up).read_text().splitlines()]
    T, N = found.position.shape[:2]
    assert lines[0] == ["PathFileType", "4", "(X/Y/Z)", "ann.trc"]
    assert dict(zip(lines[1], lines[2])) | {"NumFrames": str(T), "NumMarkers": str(N), "Units": "m", "OrigDataStartFrame": "120"} == dict(
        zip(lines[1], lines[2])
    )
    assert lines[3][:2] == ["Frame#", "Time"] and tuple(lines[3][2::3]) == found.names
    assert lines[4][2:5] == ["X1", "Y1", "Z1"] and lines[4][-1] == f"Z{N}" and lines[5] == [""]
    assert len(lines) == 6 + T and all(len(line) == 2 + 3 * N for line in lines[6:])
    values = torch.tensor([[float(cell) for cell in line[2:]] for line in lines[6:]]).double().reshape(T, N, 3)
    assert (values - (y_up(found.position) if up == "y" else found.position)).abs().max() < 1e-6
    assert lines[6][0] == "120" and abs(float(lines[7][1]) - 121 * 1001 / 30000) < 1e-6


def test_export_writes_every_format_for_every_actor_and_leaves_no_temporary_file(take):
    formats = tuple(name for name in EXPORTERS if name != "npz")  # which is for SMPL bodies
    folder = export(take, ExportConfig(formats))
    wanted = {f"{a}.{s}" for a in ("ann", "bob") for s in ("fbx", "bvh", "glb", "usdc", "c3d", "trc")}
    wanted |= {f"{k}_{a}.csv" for a in ("ann", "bob") for k in ("points", "joints", "triangulated", "face", "arkit")}
    assert folder == take.folder / "export" and {p.name for p in folder.iterdir()} == wanted
    raw = rows(folder / "triangulated_ann.csv")
    assert len(raw) == 61 * 3 - 1 and not any(r["frame"] == "124" and r["name"] == COCO_WHOLEBODY[1] for r in raw)
    assert abs(float(raw[0]["sigma"]) - 0.003) < 1e-6
    assert "nan" not in "".join(p.read_text().lower() for p in folder.iterdir() if p.suffix in (".bvh", ".trc", ".csv"))


def test_actors_of_a_take_can_share_a_file(take):
    folder = export(take, ExportConfig(("fbx", "glb", "usd", "bvh"), actors="one"))
    assert {p.name for p in folder.iterdir()} == {"together.fbx", "together.glb", "together.usdc", "ann.bvh", "bob.bvh"}


def test_a_range_of_frames_is_cut_out_of_every_file(take):
    folder = export(take, ExportConfig(("bvh", "csv", "arkit", "trc"), frames=(130, 140)))
    assert "Frames: 10\n" in (folder / "ann.bvh").read_text()
    for kind in ("points", "joints", "triangulated", "face"):
        table = rows(folder / f"{kind}_ann.csv")
        assert {int(r["frame"]) for r in table} == set(range(130, 140)), kind
    assert rows(folder / "arkit_bob.csv")[0]["Timecode"] == "01:00:04:10.000"
    with pytest.raises(ValueError, match=r"frames \[100, 140\] of 'ann' must lie within \[120, 181\]"):
        export(take, ExportConfig(frames=(100, 140)))


def test_filters_and_mirrors_leave_the_tables_alone(take):
    def written(**settings):
        folder = export(take, ExportConfig(("bvh", "csv"), **settings))
        return {p.name: p.read_bytes() for p in folder.iterdir()}

    plain = written()
    for settings in ({"smooth": "butterworth"}, {"mirror": True}, {"loop": 0.5}, {"root": "floor"}, {"fps": 12.0}):
        other = written(**settings)
        assert {name for name in plain if plain[name] != other[name]} == {"ann.bvh", "bob.bvh"}, settings


def test_the_face_table_has_one_row_per_frame_and_a_column_per_shape(scene, tmp_path):
    body, moved = scene
    table = rows(writer.write_face(tmp_path / "face.csv", moved, body.expression_names))
    assert list(table[0]) == ["frame", "time", "jawOpen", "tongueOut", "mouthSmileLeft"] and len(table) == 61
    assert table[30]["frame"] == "150" and abs(float(table[30]["jawOpen"]) - float(moved.expression[30, 0])) < 1e-6


def test_a_body_without_keypoints_gives_empty_point_tables_and_says_so(scene, take, capsys, monkeypatch):
    body, _ = scene
    monkeypatch.setattr("rigs.catalogue.open_body", lambda name: replace(body, keypoints=None, keypoint_names=()))
    folder = export(take, ExportConfig(formats=("trc", "csv")))
    assert len(rows(folder / "points_ann.csv")) == 0 and len(rows(folder / "joints_ann.csv")) == 61 * 55
    assert "has no keypoints" in " ".join(capsys.readouterr().out.split())


def test_pose_correctives_that_files_cannot_hold_are_told(scene, take, monkeypatch):
    body, _ = scene
    corrected = replace(body, skin=replace(body.skin, pose_basis=torch.zeros(len(body.skin), 3, 54 * 9).double()))
    monkeypatch.setattr("rigs.catalogue.open_body", lambda name: corrected)
    export(take, ExportConfig(formats=("glb",)))
    assert any("ann: FBX, GLB and USD leave out the pose correctives" in w for w in take.notes()["export"]["warnings"])
    export(take, ExportConfig(formats=("bvh",)))
    assert not take.notes()["export"]["warnings"]


def test_long_takes_are_written_in_pieces_to_the_same_bytes(take, monkeypatch):
    whole = {p.name: p.read_bytes() for p in export(take, ExportConfig(fps=50)).iterdir()}
    monkeypatch.setattr("studio.export.points.BATCH", 7)
    monkeypatch.setattr("studio.export.animation.PIECE", 13)
    monkeypatch.setattr("studio.export.bvh.PIECE", 13)
    assert whole == {p.name: p.read_bytes() for p in export(take, ExportConfig(fps=50)).iterdir()}


def test_exporting_twice_gives_the_same_bytes(take):
    config = ExportConfig(tuple(name for name in EXPORTERS if name != "npz"))
    first = {p.name: p.read_bytes() for p in export(take, config).iterdir()}
    assert first == {p.name: p.read_bytes() for p in export(take, config).iterdir()}


@pytest.mark.parametrize(
    ("field", "index", "word"),
    [
        ("rotation", (7, 12, 1), "rotation of {joint} at frame 127"),
        ("translation", (3, 0), "translation of Hips at frame 123"),
        ("expression", (60, 2), "expression of mouthSmileLeft at frame 180"),
        ("sigma", (0, 12), "sigma of {joint} at frame 120"),
    ],
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_reaches_no_file(scene, take, field, index, word, bad):
    body, moved = scene
    values = getattr(moved, field).clone()
    values[index] = bad
    replace(moved, actor="bob", **{field: values}).save(take.folder / "motion_bob.safetensors")
    with pytest.raises(ValueError, match=word.format(joint=body.skeleton.names[12])):
        export(take, ExportConfig())
    assert not (take.folder / "export").exists()


def test_an_unknown_format_and_a_missing_motion_say_what_to_do(take):
    with pytest.raises(ValueError, match="unknown \\['abc'\\]; known are"):
        export(take, ExportConfig(formats=("bvh", "abc")))
    (take.folder / "motion_bob.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="actor 'bob' has no motion; run the fit first"):
        export(take, ExportConfig())


def test_a_motion_of_another_skeleton_is_refused(scene):
    body, moved = scene
    with pytest.raises(ValueError, match="its joints are not those of body"):
        character(replace(moved, joints=moved.joints[::-1]), body)
    with pytest.raises(ValueError, match="expression has 2 values, body 'stick' needs 3"):
        character(replace(moved, expression=moved.expression[:, :2]), body)


@pytest.mark.parametrize(("form", "package"), [("usd", "pxr"), ("c3d", "ezc3d")])
def test_a_missing_extra_is_told_before_any_file_is_written(take, monkeypatch, form, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'mocap-studio\[{form}\]'"):
        export(take, ExportConfig(("bvh", form)))
    assert not (take.folder / "export").exists()
