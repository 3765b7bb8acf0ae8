"""The command line: what it prints, what it refuses, and how it ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small_footage import film, rig

from studio import cli, doctor
from studio.take import Session, Take


@pytest.fixture
def footage(tmp_path):
    rig(["left", "right"]).save(tmp_path / "cameras.yaml")
    for name in ("left", "right"):
        film(tmp_path / "videos" / f"{name}.mp4")
    return tmp_path


def call(*words):
    return cli.call([str(w) for w in words])


def test_help_is_quick_because_it_loads_no_networks():
    begun = time.perf_counter()
    code = "import sys; from studio import cli; cli.call(['--help']); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - begun < 5  # loose: the machine may be busy; torch alone takes two seconds
    assert all(verb in done.stdout for verb in (*cli.VERBS, *cli.STAGES))


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as end:
        call(verb, "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: studio {verb}" in text and "{None}" not in text


def test_our_errors_are_one_line_and_two(footage, capsys):
    assert call("run", footage / "videos", "--cameras", footage / "nowhere.yaml", "--out", footage / "out") == 2
    told = capsys.readouterr().err.strip()
    assert "nowhere.yaml: no such camera file" in told and "\n" not in told and "Traceback" not in told


def test_a_fault_of_the_studio_is_told_apart_and_shown_in_full_with_debug(monkeypatch, capsys):
    def broken() -> None:
        """Break."""
        raise RuntimeError("wheel came off")

    monkeypatch.setitem(cli.VERBS, "doctor", broken)
    assert call("doctor") == 1
    assert "RuntimeError: wheel came off" in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        call("doctor", "--debug")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "a.mkv"), RuntimeError("I/O error: No space left on device")])
def test_a_full_disk_is_no_fault_of_the_studio_and_tells_what_to_do(monkeypatch, capsys, error):
    def full() -> None:
        """Fill."""
        raise error

    monkeypatch.setitem(cli.VERBS, "doctor", full)
    assert call("doctor") == 2
    assert "make room" in capsys.readouterr().err


def test_run_without_anything_asks_for_videos_and_a_take_is_no_session(footage, capsys):
    assert call("run") == 2
    assert "needs VIDEO" in capsys.readouterr().err
    (footage / "take.yaml").write_text("")
    assert call("new", footage) == 2
    assert "is a take" in capsys.readouterr().err and not (footage / "session.yaml").exists()


@pytest.mark.parametrize("verb", ["run", "calibrate", "doctor", "inspect", "board", "cameras"])
def test_ctrl_c_ends_with_one_line_and_promises_nothing_that_is_not_kept(monkeypatch, capsys, verb):
    def stopped() -> None:
        """Stop."""
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, verb, stopped)
    assert call(verb) == 130
    told = capsys.readouterr().err.strip()
    assert told == ("stopped; what is finished is kept, the same command goes on from there" if verb in ("run", "calibrate") else "stopped")


def test_what_cannot_be_written_is_told_in_a_sentence_with_a_remedy(footage, capsys):
    (footage / "file").write_text("")
    (footage / "folder.toml").mkdir()
    camera = ["--device", "cam01=lavfi:testsrc=size=160x120:rate=20,realtime", "--seconds", "1"]
    for words, told in (
        (
            ["cameras", "convert", footage / "cameras.yaml", footage / "none/x.toml"],
            "none/x.toml: no such file or folder; correct the path",
        ),
        (["cameras", "convert", footage / "cameras.yaml", footage / "folder.toml"], "folder.toml: is a folder; name a file"),
        (["cameras", "convert", footage / "cameras.yaml", footage / "file/x.yaml"], "file/x.yaml: a file stands where a folder is needed"),
        (["record", *camera, "--out", footage / "file"], "file: exists already and is no folder; choose another path"),
        (["record", *camera, "--out", "/proc/clips"], "/proc/clips: no such file or folder; correct the path"),
    ):
        assert call(*words) == 2
        said = capsys.readouterr().err
        assert told in said and "Errno" not in said and ".partial" not in said


@pytest.mark.parametrize(("verb", "flag", "says"), [("inspect", "--no-tree", "summary alone"), ("wizard", "--no-browser", "only print")])
def test_a_flag_that_switches_off_says_what_it_does(capsys, verb, flag, says):
    with pytest.raises(SystemExit):
        call(verb, "--help")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip("│ ").startswith(flag) and "[" not in line)
    assert says in line and "default" not in line


def test_an_unknown_verb_lists_the_known(capsys):
    assert call("runn") == 2
    assert "no verb 'runn'" in capsys.readouterr().err


def test_a_session_is_made_filled_and_not_overwritten(footage, capsys):
    assert call("new", footage / "day") == 0
    assert call("add-take", footage / "day", "walk", footage / "videos") == 0
    assert Session.open(footage / "day").takes() == ("walk",)
    (footage / "day/calibration/cameras.yaml").write_text((footage / "cameras.yaml").read_text())
    assert sorted(Session.open(footage / "day").take("walk").videos) == ["left", "right"]
    assert call("new", footage / "day") == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out", "x"], "needs --cameras FILE"),
        (["--cameras", "cameras.yaml"], "needs --out DIR"),
        (["--cameras", "cameras.yaml", "--out", "x", "--frames", "9:3"], "FIRST:LAST"),
        (["--cameras", "cameras.yaml", "--out", "x", "--frames", "3"], "FIRST:LAST"),
        (["--cameras", "cameras.yaml", "--out", "x", "--keypoints", "none"], "none: --keypoints needs a folder"),
        (["--cameras", "cameras.yaml", "--out", "x", "--detector", "eagle"], "detector 'eagle': choose mediapipe"),
        (["--cameras", "cameras.yaml", "--out", "x", "--timecode", "10"], "HH:MM:SS:FF"),
        (["--cameras", "cameras.yaml", "--out", "x", "--body", "smplx"], "no body 'smplx'; give 'makehuman'"),
        (["--cameras", "cameras.yaml", "--out", "x", "--settings", "none.yaml"], "none.yaml: no such settings file"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(footage, monkeypatch, capsys, words, told):
    monkeypatch.chdir(footage)
    assert call("run", "videos", *words) == 2
    assert told in capsys.readouterr().err
    assert not (footage / "x").exists()


def test_run_hands_the_pipeline_what_was_asked_and_writes_it_down(footage, monkeypatch):
    from studio import pipeline

    asked = []
    monkeypatch.setattr(pipeline, "run", lambda take, config, force, accept: asked.append((take, config, force)))
    (footage / "op").mkdir()
    words = ["--frames", "1:5", "--actors", "2", "--keypoints", footage / "op", "--force"]
    assert call("run", footage / "videos", "--cameras", footage / "cameras.yaml", "--out", footage / "out", *words) == 0
    take, config, force = asked[0]
    assert (take.frames, take.actors, force) == ((1, 5), ("actor1", "actor2"), True)
    assert config.detect.keypoints == footage / "op"
    assert yaml.safe_load((footage / "out/settings.yaml").read_text()) == {"detect": {"keypoints": str(footage / "op")}}
    assert Take.open(footage / "out") == take
    assert call("run", footage / "out") == 0  # by its folder alone
    assert asked[1] == (take, config, False)


def test_a_stage_offers_its_settings_as_flags_and_takes_the_takes_own(footage, monkeypatch):
    from studio import pipeline

    Take.of([footage / "videos"], footage / "cameras.yaml", footage / "out").save()
    (footage / "out/settings.yaml").write_text("fit: {kernel: 2.5}\n")
    asked = []
    monkeypatch.setattr(pipeline, "step", lambda take, name, config, force: asked.append((take.folder, name, config, force)))
    assert call("fit", footage / "out", "--window", "99", "--force") == 0
    folder, name, config, force = asked[0]
    assert (folder, name, config.kernel, config.window, force) == (footage / "out", "fit", 2.5, 99, True)
    assert yaml.safe_load((footage / "out/settings.yaml").read_text()) == {"fit": {"kernel": 2.5, "window": 99}}  # a later run agrees


@pytest.fixture
def exporting(footage, monkeypatch):
    """A take's folder, and the settings that `studio export` was last called with; those of --formats csv fail."""
    from studio import pipeline

    Take.of([footage / "videos"], footage / "cameras.yaml", footage / "out").save()
    asked = []

    def step(take, name, config, force):
        asked.append(config)
        if config.formats == ("csv",):
            raise ValueError("bad.fbx: is cut short")

    monkeypatch.setattr(pipeline, "step", step)
    return footage / "out", asked


def test_settings_that_failed_are_not_kept(exporting):
    take, asked = exporting
    assert call("export", take, "--formats", "csv", "--to-character", "bad.fbx") == 2
    assert not (take / "settings.yaml").exists()
    assert call("export", take, "--formats", "fbx") == 0
    assert asked[-1].to_character is None
    assert yaml.safe_load((take / "settings.yaml").read_text()) == {"export": {"formats": ["fbx"]}}


def test_a_setting_that_somebody_edits_while_a_stage_runs_is_not_lost(exporting, monkeypatch):
    from studio import pipeline

    take, _ = exporting
    monkeypatch.setattr(pipeline, "step", lambda *_: (take / "settings.yaml").write_text("fit: {window: 99}\n"))
    assert call("export", take, "--formats", "fbx") == 0
    assert yaml.safe_load((take / "settings.yaml").read_text()) == {"fit": {"window": 99}, "export": {"formats": ["fbx"]}}


def test_a_preset_takes_the_place_of_a_kept_character_and_the_other_way_round(exporting):
    take, asked = exporting
    for words, wanted in (
        (["--to-character", "hero.fbx"], (Path("hero.fbx"), None)),
        (["--preset", "mixamo"], (None, "mixamo")),
        ([], (None, "mixamo")),
        (["--to_character=hero.glb"], (Path("hero.glb"), None)),
        (["--to-character", "None"], (None, None)),
    ):
        assert call("export", take, *words) == 0
        assert (asked[-1].to_character, asked[-1].preset) == wanted
    assert yaml.safe_load((take / "settings.yaml").read_text()) == {}


def test_cameras_are_converted_to_the_format_of_the_name(footage, capsys):
    from calibration.formats import read_cameras

    assert call("cameras", "convert", footage / "cameras.yaml", footage / "cameras.toml") == 0
    there, back = read_cameras(footage / "cameras.yaml"), read_cameras(footage / "cameras.toml")
    assert back.names == there.names
    assert (back.position - there.position).norm(dim=-1).max() < 1e-6
    assert call("cameras", "convert", footage / "cameras.yaml", footage / "cameras.docx") == 2
    assert "docx" in capsys.readouterr().err


def test_cameras_are_converted_to_a_kind_and_from_a_unit(footage, capsys):
    from calibration.formats import read_cameras

    there = read_cameras(footage / "cameras.yaml")
    assert call("cameras", "convert", footage / "cameras.yaml", footage / "model", "--kind", "colmap") == 0
    assert call("cameras", "convert", footage / "model", footage / "half.yaml", "--unit", "0.5") == 0
    assert (read_cameras(footage / "half.yaml").position - there.position / 2).abs().max() < 1e-9
    assert call("cameras", "convert", footage / "model", footage / "out", "--kind", "maya") == 2
    assert "--kind maya: these are written: studio, pose2sim" in capsys.readouterr().err
    assert call("cameras", "convert", footage / "model", footage / "out.yaml", "--unit", "0") == 2
    assert "--unit 0: needs the length" in capsys.readouterr().err


def test_a_missing_system_library_is_named_with_its_package():
    message = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
    assert doctor.remedy_for(message, "cv2") == "apt-get install -y libgl1"
    assert "libfoo.so.3" in doctor.remedy_for("libfoo.so.3: cannot open shared object file", "x")
    assert "pip install" in doctor.remedy_for("ModuleNotFoundError: No module named 'av'", "av")


def test_the_doctor_fails_a_machine_whose_module_does_not_import(tmp_path, monkeypatch):
    (tmp_path / "limping.py").write_text("raise ImportError('libEGL.so.1: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(cli.__file__).parents[2])]))
    finding = doctor._import("Limping", "limping")
    assert (finding.state, finding.remedy) == ("fail", "apt-get install -y libegl1")


def test_the_doctor_survives_a_module_that_takes_its_process_down(tmp_path, monkeypatch):
    (tmp_path / "dying.py").write_text("import os; os._exit(9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor._import("Dying", "dying").state == "fail"


def test_the_doctor_warns_of_a_folder_it_may_not_write(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STUDIO_CACHE", str(tmp_path / "file" / "cache"))
    finding = doctor._cache()
    assert finding.state == "fail" and "STUDIO_CACHE" in finding.remedy


def test_the_doctors_exit_code_tells_whether_something_fails(monkeypatch, capsys):
    findings = [doctor.Finding("a", "pass", "well"), doctor.Finding("b", "warn", "so so", "look")]
    monkeypatch.setattr(doctor, "found", lambda: iter(findings))
    assert doctor.examine() == 0
    findings.append(doctor.Finding("c", "fail", "gone", "bring it back"))
    assert doctor.examine() == 1
    assert "bring it back" in capsys.readouterr().out
