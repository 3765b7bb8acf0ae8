"""Limbs that one view alone sees: a word on who is nearer turns a mirrored one, and its neighbours in time."""

from dataclasses import replace

import pytest
import torch
from test_fit_solver import ring

from rigs import makehuman, rotation
from rigs.anatomy import anatomy
from rigs.keypoints import COCO_17
from studio.fit import mirrored, pulls
from studio.fit.mirrored import Nearer
from studio.fit.points import Model
from studio.fit.priors import ExpressionPrior, JointPrior, Priors
from studio.fit.solve import Problem
from studio.fit.state import State

FRAMES = 12
NAMES = ("left_shoulder", "left_elbow", "left_wrist", "right_hip")


def arm(body, forward):
    """A person whose stretched left arm points sideways and, by an angle, forward."""
    skeleton, joints = body.skeleton, body.joints
    across = joints[skeleton.index("LeftArm")] - joints[skeleton.index("RightArm")]
    across = across / across.norm()
    ahead = torch.linalg.cross(across, torch.tensor([0.0, 0.0, 1.0]))
    R = torch.eye(3).repeat(FRAMES, len(skeleton), 1, 1)
    j = skeleton.index("LeftArm")
    rest = joints[skeleton.index("LeftHand")] - joints[j]
    rest = rest / rest.norm()
    for t, angle in enumerate(forward):
        to = torch.cos(angle) * across + torch.sin(angle) * ahead
        axis = torch.linalg.cross(rest, to)
        R[t, j] = rotation.exp(axis / axis.norm() * torch.atan2(axis.norm(), rest @ to))
    state = State(R, joints[0].repeat(FRAMES, 1), torch.zeros(FRAMES, len(body.expression_names)))
    return state, ahead


@pytest.fixture(scope="module")
def scene():
    """The truth, the same arms as a single view cannot tell from it, and the problem of the view that looks straight at the person."""
    body = makehuman.individual(5)
    angle = torch.linspace(0.5, 0.8, FRAMES)
    truth, ahead = arm(body, angle)
    model = Model(body, body.keypoint_skin(NAMES))
    cameras = ring(8)
    facing = int((cameras.R_camera_world[:, 2].float() @ ahead).argmin())
    one = cameras[cameras.names[facing]]
    seen = one.project(model.place(truth, torch.zeros(0)).points.double())
    views = pulls.Views.undistorted(one, seen, torch.full((1, FRAMES, len(NAMES)), 1.5))
    free = torch.zeros(model.unknowns, dtype=torch.bool)
    free[3 + 3 * body.skeleton.index("LeftArm") :][:3] = True  # a free elbow would have a mirror image of its own
    a = anatomy(body)
    priors = Priors(JointPrior(replace(a, low=a.low - 2, high=a.high + 2), spread=20.0), ExpressionPrior())
    problem = lambda kernel: Problem(model, torch.zeros(0), lambda x, f: pulls.keypoints(x, views[f], kernel), priors, free)  # noqa: E731
    return model, one, truth, arm(body, -angle)[0], problem


def said(cameras, nearer, farther, when):
    order = mirrored.order_of([Nearer.at(0, nearer, farther, when, FRAMES)], NAMES, cameras, torch.device("cpu"))
    assert order is not None
    return order


def wrist(model, state):
    return model.place(state, torch.zeros(0)).points[:, 2]


def test_a_word_on_one_frame_turns_the_arm_in_all_frames(scene):
    model, camera, truth, wrong, problem = scene
    away = (wrist(model, wrong) - wrist(model, truth)).norm(dim=-1)
    assert float(away.min()) > 0.3
    turned = mirrored.turned_back(problem, wrong, said(camera, "left_wrist", "left_shoulder", slice(6, 7)), 3.0)
    assert float((wrist(model, turned) - wrist(model, truth)).norm(dim=-1).max()) < 0.06


def test_a_word_that_agrees_changes_nothing(scene):
    _, camera, truth, _, problem = scene
    turned = mirrored.turned_back(problem, truth, said(camera, "left_wrist", "left_shoulder", slice(0, FRAMES)), 3.0)
    assert torch.equal(turned.R, truth.R)


def test_frames_from_which_the_picture_differs_do_not_follow(scene):
    model, camera, truth, wrong, problem = scene
    R = wrong.R.clone()
    R[8:] = truth.R[8:]  # these are right already
    turned = mirrored.turned_back(problem, replace(wrong, R=R), said(camera, "left_wrist", "left_shoulder", slice(2, 3)), 3.0)
    assert float((wrist(model, turned) - wrist(model, truth)).norm(dim=-1).max()) < 0.06
    assert torch.equal(turned.R[9:], truth.R[9:])


def test_words_on_keypoints_that_the_body_lacks_are_no_order(scene):
    _, camera, *_ = scene
    assert mirrored.order_of([Nearer.at(0, "left_ear", "left_wrist", slice(0, 1), FRAMES)], NAMES, camera, torch.device("cpu")) is None


def test_the_network_speaks_only_of_limbs_that_one_view_sees_and_mostly_rightly():
    body = makehuman.individual(29_500)
    state, ahead = arm(body, torch.linspace(0.6, 1.2, FRAMES))
    points = Model(body, body.keypoint_skin(COCO_17)).place(state, torch.zeros(0)).points
    cameras = ring(8)
    facing = int((cameras.R_camera_world[:, 2].float() @ ahead).argmin())
    pair = cameras[[facing, (facing + 2) % 8]]
    pixels = pair.project(points.double()).float()
    assert mirrored.opinions(pair, COCO_17, pixels, 0.8) == ()  # both views see everything
    pixels[1, :, COCO_17.index("left_wrist")] = torch.nan
    pixels[1, :, COCO_17.index("left_elbow")] = torch.nan
    thought = mirrored.opinions(pair, COCO_17, pixels, 0.8)
    assert thought and {(o.camera, *sorted((o.nearer, o.farther))) for o in thought} <= {
        (0, "left_elbow", "left_shoulder"),
        (0, "left_elbow", "left_wrist"),
    }
    right = [o for o in thought if COCO_17.index(o.nearer) > COCO_17.index(o.farther)]  # the arm comes towards the camera
    assert sum(int(o.said.sum()) for o in right) > 3 * sum(int(o.said.sum()) for o in thought if o not in right)
