"""The training loop, checkpoints and the verbs of learning."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from studio.cli import call
from studio.nets.checkpoint import Card, read, read_card, write
from studio.nets.monocular import Monocular
from studio.train import consistency, pool, recovery, sampled, shape
from studio.train.jobs import Gate, Report
from studio.train.loop import Loop, Player, Progressed, learn, moved
from studio.train.poses import TRAINED

SLOPE = torch.tensor([[1.0, -2.0, 0.5]])


def network(width: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.1), nn.Linear(width, 1))


def batches(step: int) -> dict[str, torch.Tensor]:
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(step))
    return {"x": x, "y": x @ SLOPE.T}


def player(**settings) -> Player:
    torch.manual_seed(5)
    made = network()
    return Player(made, lambda b: {"off": (made(b["x"]) - b["y"]).square().mean()}, **{"rate": 1e-2, "average": 0.9, **settings})


def test_a_stopped_training_ends_where_an_uninterrupted_one_does(tmp_path):
    whole, parts = player(), player()
    assert learn(whole, batches, Loop(steps=30, seed=3)).done
    state = tmp_path / "state.safetensors"
    seen = []

    def broken(step):
        if step == 17 and not seen:
            seen.append(step)
            raise KeyboardInterrupt
        return batches(step)

    with pytest.raises(KeyboardInterrupt):
        learn(parts, broken, Loop(steps=30, seed=3), state)
    again = player()
    end = learn(again, broken, Loop(steps=30, seed=3), state)
    assert end.step == 30
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    assert not list(tmp_path.glob("*.partial"))


def test_training_stops_when_its_time_is_up_and_goes_on(tmp_path):
    state, steps = tmp_path / "s.safetensors", []
    for _ in range(3):
        steps.append(learn(player(), batches, Loop(steps=1000, minutes=1e-6), state).step)
    assert steps == [1, 2, 3]


def consistency_lesson():
    data = consistency.moments(range(41_000, 41_001), 4, TRAINED, 0)
    consistency._taught(Monocular(), data, "consistency", Loop(1), torch.arange(4), 1e-3)


def shape_lesson():
    shape._learned(shape.made(0), pool.Pool(6, 0), Loop(1), "vertices")


def recovery_lesson():
    recovery.learned(recovery.made(0), pool.Pool(6, 0), Loop(1), recovery.SHIPPED)


@pytest.mark.parametrize(("trainer", "lesson"), [(consistency, consistency_lesson), (shape, shape_lesson), (recovery, recovery_lesson)])
def test_a_loss_is_computed_on_whatever_device_the_networks_learn(monkeypatch, trainer, lesson):
    """torch's device `meta` stands for a GPU: it computes nothing, but as strictly refuses tensors that lie elsewhere."""
    seen = []

    def learn_elsewhere(players, batches, loop, state=None):
        meta, players = torch.device("meta"), players if isinstance(players, list) else [players]
        for one in players:
            one.network.to(meta)
        batch = moved(batches(0), meta)
        seen.extend(value.device.type for one in players for value in one.loss(batch).values())
        return Progressed(1, True, {}, 0.0)

    monkeypatch.setattr(pool, "_last", {(6, 0): sampled.people(6, pool.VIEWS, 3, sampled.poses([0], 20))})
    monkeypatch.setattr(trainer, "learn", learn_elsewhere)
    lesson()
    assert seen and set(seen) == {"meta"}


def test_a_state_of_another_seed_is_refused(tmp_path):
    state = tmp_path / "s.safetensors"
    learn(player(), batches, Loop(steps=3, seed=1), state)
    with pytest.raises(ValueError, match=r"s\.safetensors: is of another training"):
        learn(player(), batches, Loop(steps=3, seed=2), state)


def test_learning_finds_the_line_and_leaves_other_random_numbers_alone():
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    made = nn.Linear(3, 1)
    torch.manual_seed(9)
    learn(Player(made, lambda b: {"off": (made(b["x"]) - b["y"]).square().mean()}, 0.1, 0.0), batches, Loop(steps=150))
    assert torch.rand(1) == expected
    assert (made.weight - SLOPE).abs().max() < 0.01  # the line is known, the loop is not


def test_two_players_learn_against_each_other():
    value, bid = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    one = torch.ones(1, 1)
    follow = Player(value, lambda _: {"value": (value(one) - 3).square().mean()}, 0.1, 0.0)
    chase = Player(bid, lambda _: {"bid": (bid(one) - value(one)).square().mean()}, 0.1, 0.0)
    learn([follow, chase], lambda _: {}, Loop(steps=200))
    # The chaser's loss would pull the value down as well, were its gradients not dropped.
    assert abs(float(value.weight.detach()) - 3) < 0.02
    assert abs(float(bid.weight.detach()) - 3) < 0.1


def test_a_loss_that_is_no_number_ends_the_training_in_words():
    made = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="at step 1; train with a lower rate"):
        learn(Player(made, lambda _: {"off": made(torch.ones(1, 1)).sum() * torch.nan}), lambda _: {}, Loop(steps=2))


def test_events_are_written_where_they_are_wanted(tmp_path):
    pytest.importorskip("tensorboardX")
    learn(player(), batches, Loop(steps=2, events=tmp_path / "events"))
    assert next((tmp_path / "events").iterdir()).stat().st_size > 100


def test_a_checkpoint_comes_back_with_its_card(tmp_path):
    made = network(5).eval()
    card = Card("line", "network", {"width": 5}, ("nose",), (32, 32), {"mean": 0.5}, seeds=(1, 2), steps=7, metrics={"mm": 1.5})
    path = write(tmp_path / "line.safetensors", made, card)
    back, told = read(path, network, "network")
    assert replace(told, sha256="") == card
    assert len(told.sha256) == 64
    x = torch.randn(4, 3)
    assert torch.allclose(back(x), made(x), atol=2e-3)  # float16 has eleven bits


def test_wrong_checkpoints_are_told_by_file_and_remedy(tmp_path):
    path = write(tmp_path / "line.safetensors", network(), Card("line", "network"))
    with pytest.raises(ValueError, match=r"line\.yaml: network is 'network', wanted is 'other'"):
        read(path, network, "other")
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors: no such checkpoint; train one"):
        read(tmp_path / "nothing.safetensors", network, "network")
    with pytest.raises(ValueError, match="do not fit the architecture"):
        read(path, lambda: network(9), "network")
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    with pytest.raises(ValueError, match="its sha256 is"):
        read(path, network, "network")
    path.with_suffix(".yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"the card of line\.safetensors is missing"):
        read_card(path)


def test_a_gate_is_not_passed_by_what_is_no_number(tmp_path):
    assert not Gate("pck", float("nan"), 0.9).passed
    assert not Gate("mm", float("nan"), 15, at_least=False).passed
    assert Gate("mm", 14.0, 15, at_least=False).passed
    file = Report("n", "synthetic", {"arm": {"mm": 14.0}}, (Gate("mm", 14.0, 15, False),)).save(tmp_path / "r.json")
    assert '"passed": true' in file.read_text()


def test_the_verbs_tell_what_they_know(capsys, tmp_path):
    for argv, words in (
        (["train", "nothing"], "'nothing' is unknown; use `studio train NAME`"),
        (["train", "landmarks"], "needs CAPTURE"),
        (["evaluate", "nothing"], "or a take's folder"),
        (["evaluate", str(tmp_path)], "take.yaml"),
    ):
        assert call(argv) == 2
        assert words in " ".join(capsys.readouterr().err.split())
