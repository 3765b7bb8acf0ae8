"""Motions over UDP: what arrives is the motion, in time."""

import json
import socket

import pytest
import torch

from rigs import makehuman
from rigs.rotation import log, matrix
from studio import stream as live
from studio.cli import call
from studio.take import Take
from studio.values import Motion

FRAMES = 8


@pytest.fixture
def take(tmp_path):
    body, g = makehuman.load(), torch.Generator().manual_seed(0)
    made = Take(tmp_path, {}, tmp_path / "cameras.yaml", actors=("ann", "bob"))
    for n, actor in enumerate(made.actors):
        rotation = 0.3 * torch.randn(FRAMES - n, 55, 3, generator=g)
        face = torch.rand(FRAMES - n, len(body.expression_names), generator=g)
        zero = torch.zeros(FRAMES - n, 4)
        Motion(
            "makehuman", actor, body.skeleton.names, 30.0, 10, "01:00:00:00", 0.5 * torch.randn(31, generator=g),
            torch.randn(FRAMES - n, 3, generator=g), rotation, face, torch.ones(FRAMES - n, 55), zero,
        ).save(made.motion_file(actor))  # fmt: skip
    return made


def heard(take, **options):
    """What a receiver gets, and when it was sent by a clock that only waiting moves."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        ear.settimeout(2)
        now = [0.0]
        moments = []

        def wait(seconds):
            now[0] += seconds
            moments.append(now[0])

        count = live.stream(take, port=ear.getsockname()[1], clock=lambda: now[0], wait=wait, **options)
        ear.setblocking(False)
        data = []
        while True:
            try:
                data.append(json.loads(ear.recv(65536)))
            except BlockingIOError:
                return count, data, moments


def test_what_arrives_puts_the_joints_where_the_motion_has_them(take):
    count, data, _ = heard(take)
    assert count == FRAMES
    rest = next(d["rest"] for d in data if d["actor"] == "ann" and "rest" in d)
    frames = [d for d in data if d["actor"] == "ann" and "joints" in d]
    motion = Motion.load(take.motion_file("ann"))
    exact = makehuman.load().shaped(motion.shape).posed(motion.rotation, motion.translation).joints
    for t, told in enumerate(frames):
        world, place = {}, {}
        for name, (parent, *at) in rest.items():  # a receiver's own forward kinematics
            R = matrix(torch.tensor(told["joints"][name]))
            here = torch.tensor(at)
            if parent is None:
                world[name], place[name] = R, torch.tensor(told["hips"])
            else:
                place[name] = place[parent] + world[parent] @ (here - torch.tensor(rest[parent][1:]))
                world[name] = world[parent] @ R
        found = torch.stack([place[n] for n in motion.joints])
        assert float((found - exact[t]).norm(dim=-1).max()) < 1e-4
    assert log(world["Hips"]).isfinite().all()
    assert [d["timecode"] for d in frames[:2]] == ["01:00:00:10", "01:00:00:11"]
    assert set(frames[0]["face"]) <= set(makehuman.load().expression_names) and len(frames[0]["face"]) > 40


def test_frames_come_at_the_takes_rate_times_the_speed(take):
    _, _, moments = heard(take, speed=0.5)
    assert moments == pytest.approx([n / 15 for n in range(1, FRAMES)])


def test_an_actor_whose_motion_is_over_is_silent_and_the_others_go_on(take):
    _, data, _ = heard(take)
    assert [sum(d["actor"] == a and "joints" in d for d in data) for a in ("ann", "bob")] == [FRAMES, FRAMES - 1]


@pytest.mark.parametrize(
    "words, told", [(["--port", "0"], "port 0"), (["--speed", "0"], "speed 0"), (["--to", "no.such.host.invalid"], "no such computer")]
)
def test_a_wrong_wish_is_a_sentence(take, words, told, capsys, monkeypatch):
    monkeypatch.setattr("studio.take.Take.open", lambda folder: take)
    assert call(["stream", str(take.folder), *words]) == 2
    assert told in capsys.readouterr().err


def test_a_take_without_motion_says_what_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="studio run"):
        live.stream(Take(tmp_path, {}, tmp_path / "cameras.yaml"))
