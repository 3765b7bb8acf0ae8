"""A stopped export leaves every file as it was before: whole, and old."""

import os
from dataclasses import replace

import pytest
from export_scene import motion, person

from studio.export import EXPORTERS, ExportConfig, export
from studio.take import Take

NEEDS = {"usd": "pxr", "c3d": "ezc3d"}
FORMATS = sorted(set(EXPORTERS) - {"npz", "arkit"})
"""AMASS and ARKit files need bodies that are not at hand here; they are written by the same two lines."""


class Killed(BaseException):
    """As hard as a signal: no `except Exception` sees it."""


@pytest.fixture
def take(tmp_path, monkeypatch):
    body = person()
    monkeypatch.setattr("rigs.catalogue.open_body", lambda name: body)
    motion(body).save(tmp_path / "motion_ann.safetensors")
    return Take(tmp_path, {}, tmp_path / "cameras.yaml", actors=("ann",), body=body.name)


def stopped(take, config, monkeypatch, at):
    """What the folder holds under final names after an export that was killed when it gave its `at`-th file its name."""
    count, real = 0, os.replace

    def replace_(source, target, **more):
        nonlocal count
        if "export" in str(target):
            count += 1
            if count > at:
                raise Killed
        return real(source, target, **more)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(os, "replace", replace_)
        export(take, config)
    return {p.name: p.read_bytes() for p in (take.folder / "export").iterdir() if ".partial" not in p.name}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("other", [None, "humanik"])
def test_a_killed_export_leaves_no_half_file_and_the_old_one_whole(take, monkeypatch, form, other):
    if form in NEEDS:
        pytest.importorskip(NEEDS[form])
    if other and form not in ("fbx", "bvh", "glb"):
        pytest.skip("written on the studio's own skeleton alone")
    config = ExportConfig((form,), preset=other)
    assert stopped(take, config, monkeypatch, 0) == {}
    export(take, config)
    folder = take.folder / "export"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert before and not [name for name in before if ".partial" in name]  # what was left over is taken up again
    assert stopped(take, replace(config, frames=(120, 150)), monkeypatch, 0) == before
    export(take, replace(config, frames=(120, 150)))
    after = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert after.keys() == before.keys() and all(after[name] != before[name] for name in after)
