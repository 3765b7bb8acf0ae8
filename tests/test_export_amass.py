"""AMASS files: played by the smplx package itself, compared with the studio's own posed body."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from export_scene import motion, person
from test_smpl import synthetic, theirs

from rigs import smpl
from studio.export import ExportConfig, amass, export
from studio.take import Take

KINDS = {"SMPL": (24, "smpl"), "SMPL-H": (52, "smplh"), "SMPL-X": (55, "smplx")}


@pytest.fixture(scope="module", params=list(KINDS))
def performed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("amass")
    path = synthetic(folder / "MODEL_FEMALE.npz", request.param)
    body = smpl.load(path)
    base = motion(body, frames=5)
    if request.param == "SMPL":  # its fingers do not bend
        fingers = [j for j, name in enumerate(body.skeleton.names) if "Hand" in name and name[-1].isdigit()]
        base.rotation[:, fingers] = 0
    lacking = [j for j, name in enumerate(body.skeleton.names) if name not in smpl.JOINTS[request.param]]
    base.rotation[:, lacking] = 0
    expression = 0.5 * torch.randn(5, len(body.expression_names), generator=torch.Generator().manual_seed(4)).double()
    moved = replace(base, expression=expression, fps=60.0)
    return request.param, path, body, moved, np.load(amass.write(folder / "ann.npz", moved, body, path))


def test_the_smplx_package_plays_the_file_to_the_same_vertices(performed):
    kind, path, body, moved, file = performed
    count, _ = KINDS[kind]
    pose = torch.tensor(file["poses"]).float().reshape(5, -1, 3)
    assert pose.shape[1] == count
    betas = torch.tensor(file["betas"]).float()[None].expand(5, -1)
    vertices, _ = theirs(kind, path, betas, pose, torch.tensor(file["trans"]).float())
    ours = body.shaped(moved.shape.float()).posed(moved.rotation.float(), moved.translation.float())
    assert (vertices - ours.vertices()).abs().max() < 2e-5  # z up as the world, no turn in between
    if kind == "SMPL-X":
        assert np.array_equal(file["expression"], moved.expression.numpy())


def test_the_archives_keys_are_there(performed):
    kind, _, body, _, file = performed
    assert {"poses", "trans", "betas", "gender", "mocap_framerate"} <= set(file.files)
    assert file["mocap_framerate"] == 60.0 and str(file["gender"]) == "female" and str(file["surface_model_type"]) == KINDS[kind][1]
    assert file["betas"].shape == (len(body.shape_names),) and file["trans"].shape == (5, 3)


@pytest.mark.parametrize(("stem", "gender"), [("SMPLX_NEUTRAL", "neutral"), ("SMPLX_FEMALE", "female"), ("basicmodel_m", "male")])
def test_gender_is_read_off_the_file_name(tmp_path, stem, gender):
    assert amass.gender(tmp_path / f"{stem}.npz") == gender


def test_other_bodies_are_refused_with_a_way_out(tmp_path, monkeypatch):
    body = person()
    monkeypatch.setattr("rigs.catalogue.open_body", lambda name: body)
    motion(body).save(tmp_path / "motion_ann.safetensors")
    take = Take(tmp_path, {}, tmp_path / "cameras.yaml", actors=("ann",), body=body.name)
    with pytest.raises(ValueError, match=r"SMPL-family bodies and 'ann' was fitted with 'stick'; fit again with `--body MODEL.npz`"):
        export(take, ExportConfig(formats=("npz",)))


def test_a_take_finds_its_smpl_file_again(performed, tmp_path):
    _, path, _, moved, file = performed
    moved.save(tmp_path / "motion_ann.safetensors")
    take = Take(tmp_path, {}, tmp_path / "cameras.yaml", actors=("ann",), body=str(path))
    export(take, ExportConfig(formats=("npz",)))
    assert np.array_equal(np.load(tmp_path / "export" / "ann.npz")["trans"], file["trans"])
