"""The whole run: what is skipped, what is done again, what a killed run leaves, and settings that a person wrote."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from small_footage import film, rig

from studio import pipeline, settings
from studio.take import Take


@dataclass(frozen=True)
class Tiny:
    word: str = "a"
    source: Path | None = None
    workers: int = 0


@dataclass(frozen=True)
class TinyConfig:
    detect: Tiny = field(default_factory=Tiny)
    sync: Tiny = field(default_factory=Tiny)
    track: Tiny = field(default_factory=Tiny)
    fit: Tiny = field(default_factory=Tiny)
    export: Tiny = field(default_factory=Tiny)
    report: Tiny = field(default_factory=Tiny)


@pytest.fixture
def take(tmp_path):
    rig(["left", "right"]).save(tmp_path / "cameras.yaml")
    for name in ("left", "right"):
        film(tmp_path / "videos" / f"{name}.mp4")
    return Take.of([tmp_path / "videos"], tmp_path / "cameras.yaml", tmp_path / "out", actors=("Ann", "Bob"))


@pytest.fixture
def ran(monkeypatch):
    """Names of the stages that ran, in order; each joins its settings and the text of what it reads."""
    log: list[str] = []

    def stage(name):
        def work(take, config):
            log.append(name)
            read = [p for p in pipeline.reads(take, name, config) if p.suffix not in (".mp4", ".yaml")]
            files = [f for p in read for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
            for path in pipeline.makes(take, name):
                target = path if path.suffix else path / "all.txt"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(config.word + "".join(f.read_text() for f in files))
            return pipeline.makes(take, name)[0]

        return work

    monkeypatch.setattr(pipeline, "STAGES", {name: stage(name) for name in pipeline.STAGES})
    return log


ALL = ["detect", "sync", "track", "fit", "export", "report"]


def test_a_second_run_does_nothing_and_force_does_all(take, ran):
    assert pipeline.run(take, TinyConfig()) == take.folder / "report.html"
    assert ran == ALL
    pipeline.run(take, TinyConfig())
    assert ran == ALL
    pipeline.run(take, TinyConfig(), force=True)
    assert ran == ALL * 2


def test_a_take_made_in_python_can_be_opened_again_from_its_folder(take, ran):
    (take.folder / "take.yaml").unlink(missing_ok=True)
    pipeline.run(take, TinyConfig())
    assert Take.open(take.folder).videos.keys() == take.videos.keys()


def test_a_changed_setting_repeats_its_stage_and_what_follows_from_it(take, ran):
    pipeline.run(take, TinyConfig())
    ran.clear()
    pipeline.run(take, TinyConfig(fit=Tiny("b")))
    assert ran == ["fit", "export", "report"]
    ran.clear()
    pipeline.run(take, TinyConfig(fit=Tiny("b", workers=3)))
    assert ran == []  # how many processes work changes no result
    pipeline.run(take, TinyConfig(fit=Tiny("b"), export=Tiny("b")))
    assert ran == ["export"]  # nothing in the report comes from the exported files


def test_another_video_or_another_calibration_starts_over(take, ran):
    pipeline.run(take, TinyConfig())
    ran.clear()
    film(take.videos["left"], frames=7)
    pipeline.run(Take.of([take.videos["left"].parent], take.cameras_file, take.folder, actors=take.actors), TinyConfig())
    assert ran[0] == "detect"
    ran.clear()
    take.cameras_file.write_text(take.cameras_file.read_text() + "# moved\n")
    pipeline.run(take, TinyConfig())
    assert ran == ["sync", "track", "fit", "report"]  # what the networks saw stays, and so do the exported files: the motion is the same


def test_an_edited_or_lost_artefact_is_made_again(take, ran):
    pipeline.run(take, TinyConfig())
    ran.clear()
    take.motion_file("Bob").unlink()
    pipeline.run(take, TinyConfig())
    assert ran == ["fit"]  # the same motion as before, so nothing after it
    ran.clear()
    (take.keypoints_folder / "all.txt").write_text("by hand")
    pipeline.run(take, TinyConfig())
    assert ran == ["detect"]


def test_a_users_own_file_named_in_the_settings_counts_as_input(take, ran, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("one")
    config = TinyConfig(track=Tiny(source=own))
    pipeline.run(take, config)
    ran.clear()
    own.write_text("two")
    pipeline.run(take, config)
    assert ran == ["track", "fit", "export", "report"]


@pytest.mark.parametrize("end", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_run_leaves_no_half_files_and_goes_on_where_it_was(take, ran, monkeypatch, end):
    whole = pipeline.STAGES["fit"]

    def stopped(take, config):
        (take.folder / "motion_Ann.safetensors.partial").write_text("half")
        take.motion_file("Ann").write_text("whole, but Bob is not there")
        raise end

    monkeypatch.setitem(pipeline.STAGES, "fit", stopped)
    with pytest.raises(end):
        pipeline.run(take, TinyConfig())
    assert not list(take.folder.rglob("*.partial*"))
    assert ran == ["detect", "sync", "track"]
    monkeypatch.setitem(pipeline.STAGES, "fit", whole)
    pipeline.run(take, TinyConfig())
    assert ran == ALL


def test_a_run_killed_while_it_repeats_a_stage_does_not_trust_the_old_result(take, ran, monkeypatch):
    pipeline.run(take, TinyConfig())
    whole = pipeline.STAGES["fit"]
    monkeypatch.setitem(pipeline.STAGES, "fit", lambda take, config: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(take, TinyConfig(), force=True)
    monkeypatch.setitem(pipeline.STAGES, "fit", whole)
    ran.clear()
    pipeline.run(take, TinyConfig())
    assert "fit" in ran


def test_a_stage_without_its_input_names_what_is_missing(take, ran):
    with pytest.raises(FileNotFoundError, match=r"tracks3d\.safetensors: the stage `fit` needs it; run `studio run"):
        pipeline.step(take.checked(), "fit", Tiny())


def test_a_stage_that_leaves_nothing_is_not_taken_for_done(take, ran, monkeypatch):
    monkeypatch.setitem(pipeline.STAGES, "track", lambda take, config: take.tracks_file)
    with pytest.raises(FileNotFoundError, match=r"tracks3d\.safetensors: the stage `track` found nothing"):
        pipeline.run(take, TinyConfig())


def test_every_setting_of_every_stage_survives_yaml(tmp_path):
    config = pipeline.Config()
    path = settings.save(config, tmp_path / "settings.yaml", everything=True)
    assert settings.load(path, pipeline.Config) == config


@dataclass(frozen=True)
class Inner:
    sigma: float = 1.0
    formats: tuple[str, ...] = ("bvh",)
    window: tuple[int, int] | None = None
    folder: Path | None = None
    quick: bool = False


@dataclass(frozen=True)
class Outer:
    fit: Inner = field(default_factory=Inner)
    name: str = "x"


def test_settings_are_filled_and_only_differences_are_written(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("fit: {sigma: 2, formats: [glb, c3d], window: [1, 5], folder: a/b}\n")
    config = settings.load(path, Outer)
    assert config == Outer(Inner(2.0, ("glb", "c3d"), (1, 5), Path("a/b")))
    assert isinstance(config.fit.sigma, float)
    settings.save(config, path)
    assert "quick" not in path.read_text() and "name" not in path.read_text()
    assert settings.load(path, Outer) == config


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fitt: {}", r"unknown key 'fitt'; known keys are \['fit', 'name'\]"),
        ("fit: {sigmas: 1}", r"fit: unknown key 'sigmas'; known keys are \['sigma'"),
        ("fit: {sigma: wide}", r"fit: sigma: 'wide' is not a number"),
        ("fit: {quick: 1}", "quick: 1 is not true or false"),
        ("fit: {window: [1]}", "window: .* not a list of 2"),
        ("fit: {formats: bvh}", "formats: 'bvh' is not a list"),
        ("fit: [", "not a YAML file"),
        ("- 1", "key: value"),
    ],
)
def test_a_wrong_setting_is_refused_with_file_and_key(tmp_path, text, told):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as refusal:
        settings.load(path, Outer)
    assert str(path) in str(refusal.value)


def test_an_actor_who_is_not_found_leaves_no_motion_and_stops_nobody_else(take, ran, monkeypatch):
    pipeline.run(take, TinyConfig())
    both = pipeline.STAGES["fit"]

    def only_ann(take, config):
        ran.append("fit")
        take.motion_file("Ann").write_text(config.word)
        return take.motion_file("Ann")

    monkeypatch.setitem(pipeline.STAGES, "fit", only_ann)
    ran.clear()
    pipeline.run(take, TinyConfig(fit=Tiny("b")))
    assert ran == ["fit", "export", "report"]
    assert not take.motion_file("Bob").exists()  # the one of the first run must not pass for the second's
    ran.clear()
    pipeline.run(take, TinyConfig(fit=Tiny("b")))
    assert ran == []
    monkeypatch.setitem(pipeline.STAGES, "fit", both)
    pipeline.run(take, TinyConfig())
    assert take.motion_file("Bob").exists()


def test_what_a_stage_warned_of_reaches_the_report(take, ran, monkeypatch):
    whole = pipeline.STAGES["detect"]

    def warning(take, config):
        take.note("detect", ["nobody in left"], seen=3)
        for i in range(9):
            warnings.warn(f"file {i}: a point is not finite", stacklevel=1)
        return whole(take, config)

    monkeypatch.setitem(pipeline.STAGES, "detect", warning)
    pipeline.run(take, TinyConfig())
    note = take.notes()["detect"]
    assert note["warnings"][:2] == ["nobody in left", "file 0: a point is not finite"]
    assert note["warnings"][-1] == "5 more warnings like these" and note["numbers"] == {"seen": 3}
