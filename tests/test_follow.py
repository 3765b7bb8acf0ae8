"""`studio stream --causal`: stored detections fitted as they play, against exact truth, as a receiver hears them."""

import json
import socket
from fractions import Fraction

import pytest
import torch
from moving_scene import Dancer, Recording, taken

from rigs import makehuman
from rigs.rotation import log, matrix
from studio import stream as live
from studio.cli import call
from studio.fit import learn_profile
from studio.fit.causal import CausalConfig
from studio.follow import Pace, sightings
from studio.take import Take
from studio.track import track
from studio.values import Tracks3D

FRAMES, LAG = 24, 4
SOLID = ("Spine2", "Head", "LeftArm", "RightForeArm", "LeftLeg", "RightFoot")


@pytest.fixture(scope="module")
def danced(tmp_path_factory):
    """A tracked take with a profile, and its dancer."""
    dancer = Dancer(1, pitch=0.6)
    take = taken(tmp_path_factory.mktemp("danced"), dancer, [Recording(0.0, Fraction(30), FRAMES)] * 4, noise=1.0)
    track(take)
    learn_profile(take, "actor")
    return dancer, take


def heard(take, **options):
    """What a receiver gets, and the frame that had come when each was sent, by a clock that only waiting moves."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        ear.setblocking(False)
        now, data = [0.0], []

        def hear():
            while True:
                try:
                    data.append((round(now[0] * 30), json.loads(ear.recv(65536))))
                except BlockingIOError:
                    return

        def wait(seconds):
            hear()
            now[0] += seconds

        count = live.stream(take, port=ear.getsockname()[1], clock=lambda: now[0], wait=wait, **options)
        hear()
        return count, data


def test_what_is_sent_is_the_dance_as_late_as_the_lag_says(danced, capsys):
    dancer, take = danced
    count, data = heard(take, causal=CausalConfig(lag=LAG))
    frames = [(came, d) for came, d in data if "joints" in d]
    assert count == FRAMES and [d["frame"] for _, d in frames] == list(range(FRAMES))
    assert all(came == min(d["frame"] + LAG, FRAMES) for came, d in frames[:-LAG])
    assert "rest" in data[0][1] and "latency 4 frames (133 ms)" in capsys.readouterr().out
    body = makehuman.load()
    rest = torch.tensor([data[0][1]["rest"][n][1:] for n in body.skeleton.names])
    truth, which = dancer.joints(torch.arange(FRAMES) / 30), [body.skeleton.names.index(n) for n in SOLID]
    off = []
    for _, told in frames:
        R = matrix(torch.tensor([told["joints"][n] for n in body.skeleton.names]))
        _, at = body.skeleton.forward(R[None], rest, torch.tensor(told["hips"])[None])
        off.append((at[0, which] - truth[told["frame"], which]).norm(dim=-1))
        assert torch.isfinite(log(R)).all()
    assert float(torch.stack(off).mean()) < 0.015


def test_points_are_found_from_each_frame_alone(danced):
    _, take = danced
    seen = list(sightings(take, 0))
    tracks = Tracks3D.load(take.tracks_file)
    points = torch.cat([x.points for x in seen])
    both = torch.isfinite(points).all(-1) & torch.isfinite(tracks.points[:, 0]).all(-1)
    assert both.float().mean() > 0.95 and len(seen) == FRAMES
    assert float((points - tracks.points[:, 0])[both].norm(dim=-1).median()) < 0.002


def test_an_actor_without_a_profile_is_sent_once_the_shape_is_known(danced, capsys):
    _, take = danced
    profile = take.folder / "actors" / "actor.yaml"
    kept = profile.read_text()
    profile.unlink()
    try:
        count, data = heard(take, causal=CausalConfig(lag=0, learn=0.4))
    finally:
        profile.write_text(kept)
    frames = [(came, d["frame"]) for came, d in data if "joints" in d]
    assert count == FRAMES and [n for _, n in frames] == list(range(FRAMES))
    assert all(came >= 11 for came, _ in frames) and "for the shape" in capsys.readouterr().out


@pytest.mark.parametrize("words, told", [(["--lag", "-2"], "lag -2: needs at least 0"), ([], "no tracks yet")])
def test_a_wrong_wish_is_a_sentence(words, told, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("studio.take.Take.open", lambda folder: Take(tmp_path, {}, tmp_path / "cameras.yaml"))
    assert call(["stream", str(tmp_path), "--causal", *words]) == 2
    assert told in capsys.readouterr().err


def test_the_rate_that_could_be_followed_is_the_mean_of_all_frames():
    pace = Pace(3, 30.0)
    for seconds in (0.01, 0.03):
        pace.add(seconds)
    assert "20 ms to solve one (at most 30); could follow 50 frames/s" in pace.said()
