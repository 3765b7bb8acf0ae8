"""What a volume tells of the shape, inside the fit."""

import torch
from test_fit_person import performed, scene

from rigs import makehuman
from studio.fit.config import FitConfig
from studio.fit.person import Fitter
from studio.fit.points import Model
from studio.fit.volumes import seen_at, volumes, with_volumes
from studio.nets.shape import heading
from studio.nets.volume import Grid
from studio.train import voxels

FRAMES = [0, 14, 27]


def test_volumes_of_key_frames_tell_how_thick_a_person_is(monkeypatch):
    body, person = makehuman.load(), makehuman.individual(1)
    truth = Model(person, person.skin[voxels.shell()[0]])
    motion = performed(person, 30, 1)[torch.tensor(FRAMES)]
    skin, hips = truth.place(motion, torch.zeros(0)).points, motion.root
    grid = Grid.around(hips, heading(torch.tensor([1.0, 0, 0]), torch.zeros(3)).expand(len(hips), 3, 3))
    exact, moments = voxels.volumes(skin, grid).float(), scene(1)[1][torch.tensor(FRAMES)]
    asked = iter(range(len(FRAMES)))

    def told(*_):
        t = next(asked)
        return exact[t : t + 1], Grid(grid.centre[t : t + 1], grid.R_grid_world[t : t + 1])

    monkeypatch.setattr("studio.fit.volumes.volumes", told)
    rest = lambda s: body.skin.rest - body.joints[0] + (body.skin.shape_basis - body.joint_shape_basis[0]) @ s  # noqa: E731
    error = lambda s: float((rest(s) - person.skin.rest + person.joints[0]).norm(dim=-1).mean())  # noqa: E731
    alone, both = (error(Fitter(body, moments, FitConfig(volume=v)).shape(moments)[0]) for v in (0.0, 0.03))
    assert next(asked, None) is None
    assert both < 0.9 * alone


def test_a_take_without_masks_has_no_volume_and_keeps_its_problem():
    body, moments = makehuman.load(), scene(1)[1][torch.tensor(FRAMES)]
    assert seen_at(body, moments) is None and volumes(body, moments) is None
    fitter = Fitter(body, moments, FitConfig())
    problem = fitter.problem(torch.zeros(len(body.shape_names)), fitter.views(moments), 3.0)
    assert with_volumes(problem, body, [moments[slice(0, 1)]], 0.03, 3.0) is problem
