"""An actor's profile: a shape learned once makes later takes better and quicker, and a wrong file is told."""

import time
from dataclasses import replace

import pytest
import torch
import yaml
from test_fit_person import T, fitted, keypoints, scene

from rigs import makehuman
from studio.actor import Profile, profile_file
from studio.fit.config import FitConfig
from studio.fit.person import fit_actor
from studio.take import Session, Take


def poor(observed):
    """A fifth of a second from two cameras."""
    some = observed[slice(T - 6, T)]
    pixels = some.pixels.clone()
    pixels[2:] = torch.nan
    return replace(some, pixels=pixels)


def test_a_known_shape_makes_a_poor_take_better_and_quicker():
    body, (truth, observed) = makehuman.load(), scene(2)
    known = fitted(2).shape
    seconds, errors = [], []
    for shape in (None, known):
        begun = time.process_time()
        found = fit_actor(body, poor(observed), FitConfig(), shape)
        seconds.append(time.process_time() - begun)
        errors.append(float((keypoints(found) - truth[T - 6 :]).norm(dim=-1).mean()))
    assert errors[1] < errors[0]
    assert seconds[1] < seconds[0]


def profile(tmp_path, **changed):
    body = makehuman.load()
    facts = {"actor": "ann", "body": "makehuman", "shape": {body.shape_names[0]: 0.5}, "sigma": {body.shape_names[0]: 0.1}}
    made = Profile(frames=20, takes=("rom",), **{**facts, **changed})
    return made.save(tmp_path / "ann.yaml"), made


def test_a_profile_survives_its_file(tmp_path):
    path, made = profile(tmp_path)
    assert Profile.load(path) == made
    assert Profile.load(path).fits(path, "makehuman", makehuman.load().shape_names)[0] == 0.5


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda d: d.pop("shape"), "lacks `shape:`"),
        (lambda d: d["shape"].update(x=float("nan")), "not a finite number"),
        (lambda d: d.update(shape=[1, 2]), "needs `coefficient: number` lines"),
    ],
)
def test_a_damaged_profile_names_file_and_remedy(tmp_path, change, told):
    path, _ = profile(tmp_path)
    document = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ValueError, match=told) as error:
        Profile.load(path)
    assert str(path) in str(error.value)


def test_a_profile_of_another_body_is_refused(tmp_path):
    path, made = profile(tmp_path, body="smplx")
    with pytest.raises(ValueError, match="is of the body 'smplx'"):
        made.fits(path, "makehuman", makehuman.load().shape_names)
    path, made = profile(tmp_path, shape={"girth": 1.0})
    with pytest.raises(ValueError, match="none of the body's coefficients"):
        made.fits(path, "makehuman", makehuman.load().shape_names)


def test_profiles_lie_with_the_sessions_actors(tmp_path):
    session = Session(tmp_path / "day")
    session.save()
    inside = Take(tmp_path / "day/takes/walk", {}, tmp_path / "cameras.yaml")
    outside = Take(tmp_path / "walk", {}, tmp_path / "cameras.yaml")
    assert profile_file(inside, "ann") == tmp_path / "day/actors/ann.yaml"
    assert profile_file(outside, "ann") == tmp_path / "walk/actors/ann.yaml"
