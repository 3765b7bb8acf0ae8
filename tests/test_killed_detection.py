"""A detection that is killed outright, with the studio's own networks: what was finished is not seen again."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
from small_footage import rig

from studio.detect import DetectConfig, detect
from studio.detect.mediapipe import Mediapipe
from studio.take import Take
from studio.values import Keypoints2D
from studio.video import VideoWriter, probe

PIECE = 4
FRAMES = 12
CODE = """
import sys
from pathlib import Path
from studio.detect import DetectConfig, detect
from studio.take import Take
detect(Take.open(Path(sys.argv[1])), DetectConfig(piece=int(sys.argv[2]), workers=1, runtime="litert", sparing=False))
"""


def test_a_killed_detection_goes_on_in_every_camera_and_repeats_no_finished_piece(tmp_path, monkeypatch):
    rig(("a", "b"), 192, 144).save(tmp_path / "cameras.yaml")
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        with VideoWriter(tmp_path / "videos" / f"{name}.mp4", 192, 144, 30) as writer:
            for _ in range(FRAMES):
                writer.write(random.integers(0, 255, (144, 192, 3), dtype=np.uint8))
    take = Take.of([tmp_path / "videos"], tmp_path / "cameras.yaml", tmp_path / "take")
    take.save()
    parts = take.folder / "parts" / "detect"
    with subprocess.Popen([sys.executable, "-c", CODE, str(take.folder), str(PIECE)], start_new_session=True) as run:
        until = time.monotonic() + 60
        while len(list(parts.rglob("*.safetensors"))) < 4 and run.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    finished = list(parts.rglob("*.safetensors"))
    assert 4 <= len(finished) < 2 * FRAMES // PIECE and {p.parent.name for p in finished} == {"a", "b"}
    calls, see = [], Mediapipe.see
    monkeypatch.setattr(Mediapipe, "see", lambda self, image, passed=1: calls.append(image.shape) or see(self, image, passed))
    detect(take, DetectConfig(piece=PIECE, workers=1, runtime="litert", sparing=False))
    left = 2 * FRAMES // PIECE - len(finished)
    assert left * PIECE <= len(calls) <= left * FRAMES < 4 * FRAMES  # of all six pieces, with what each warms up on
    for name in ("a", "b"):
        assert Keypoints2D.load(take.keypoints_folder / f"{name}.safetensors").pixels.shape[1] == FRAMES
        assert probe(take.folder / "masks" / f"{name}.mkv").frames == FRAMES
    assert not parts.exists()
