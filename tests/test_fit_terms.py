"""Every data term of the surface alone: it lowers the error it is made for, and what is corrupted is rejected by its kernel."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from test_fit_solver import ring

from rigs import makehuman, rotation
from rigs.anatomy import anatomy
from studio.fit import clouds, flow, order, outlines, pulls, solid
from studio.fit.points import Model
from studio.fit.priors import ExpressionPrior, JointPrior, Priors
from studio.fit.robust import padded
from studio.fit.solve import Problem, settle
from studio.fit.state import Pull, State
from studio.fit.surface import sampled

FRAMES = 3
CENTRE = torch.tensor([[0.0, 0.0, 1.0]] * FRAMES)
REDUCTION = 4


@pytest.fixture(scope="module")
def scene():
    """A person unlike the average, in motion, with the body's surface as the solver sees it."""
    body = makehuman.individual(5)
    surface = sampled(body, 500)
    g = torch.Generator().manual_seed(0)
    turn = 0.12 * torch.randn(FRAMES, len(body.skeleton), 3, generator=g)
    for side, sign in (("Left", -1), ("Right", 1)):
        turn[:, body.skeleton.index(f"{side}Arm"), 1] += 0.3 * sign
    root = body.joints[0] + torch.tensor([[0.02 * t, 0.01 * t, 0.0] for t in range(FRAMES)])
    truth = State(rotation.exp(turn), root, torch.zeros(FRAMES, len(body.expression_names)))
    return body, surface, Model(body, surface.skin), truth, ring(6)


def mesh(body, state):
    shaped = body.shaped(torch.zeros(0))
    return shaped.posed(rotation.log(state.R), state.root, state.expression).vertices()


def disturbed(body, truth, joints, size, seed=1):
    """The truth with some joints turned by about `size` rad each way."""
    g = torch.Generator().manual_seed(seed)
    step = torch.zeros(FRAMES, 3 + 3 * len(body.skeleton) + len(body.expression_names))
    for joint in joints:
        j = 3 + 3 * body.skeleton.index(joint)
        step[:, j : j + 3] = size * torch.randn(FRAMES, 3, generator=g)
    return truth.moved(step)


def solved(body, model, state, evidence, free=(), iterations=15, root=True):
    """The state that evidence leads to, from a start; only some joints (all without names) may move. Priors hold almost nothing."""
    a = anatomy(body)
    priors = Priors(JointPrior(replace(a, low=a.low - 2, high=a.high + 2), spread=20.0), ExpressionPrior())
    which = torch.zeros(model.unknowns, dtype=torch.bool)
    which[:3] = root
    for joint in free:
        j = 3 + 3 * body.skeleton.index(joint)
        which[j : j + 3] = True
    problem = Problem(model, torch.zeros(0), evidence, priors, which)
    return settle(problem, state, iterations)[0]


def error(body, a, b):
    """Mean distance of the meshes' vertices, hands (whose wrists no term sees) left out, mm."""
    kept = ~torch.isin(body.parts, torch.tensor([body.part_names.index(n) for n in ("left_hand", "right_hand")]))
    return 1000 * float((mesh(body, a) - mesh(body, b))[:, kept].norm(dim=-1).mean())


def drawn(body, state, cameras):
    """Masks of the true mesh, drawn triangle by triangle."""
    vertices = mesh(body, state)
    w, h = (int(x) // REDUCTION for x in cameras.size[0].tolist())
    masks = np.zeros((len(cameras), FRAMES, h, w), np.uint8)
    for c, name in enumerate(cameras.names):
        pixels = (cameras[name].project(vertices.double())[0] + 0.5) / REDUCTION - 0.5
        for t in range(FRAMES):
            corners = (pixels[t][body.triangles].numpy() * 256).round().astype(np.int32)
            for triangle in corners:
                cv2.fillConvexPoly(masks[c, t], triangle, 1, cv2.LINE_8, 8)
    return torch.from_numpy(masks > 0)


TRUNK = ("Hips", "Spine1", "LeftUpLeg", "RightUpLeg", "LeftLeg", "RightLeg", "LeftArm", "RightArm", "LeftForeArm", "RightForeArm")
FREE = (*TRUNK, "LeftHand", "RightHand", "LeftFoot", "RightFoot")


@pytest.fixture(scope="module")
def masks(scene):
    body, _, _, truth, cameras = scene
    return drawn(body, truth, cameras)


def annealed(body, model, state, evidence, free, iterations=15, kernels=(12.0, 3.0), **more):
    """`solved` under a wide kernel first, as the fit does."""
    for kernel in kernels:
        state = solved(body, model, state, evidence(kernel), free, iterations, **more)
    return state


def silhouettes(surface, cameras, masks, others=()):
    seen = outlines.outlines(cameras, masks, CENTRE, others=others)
    return lambda kernel: lambda x, f: outlines.silhouette(x, surface.normals(x), seen[f], 0.023, kernel)


def scanned(surface, seen):
    return lambda kernel: lambda x, f: clouds.cloud(x, surface.normals(x), seen[f], 0.01, kernel)


def test_silhouettes_of_all_views_bring_body_and_limbs_back(scene, masks):
    body, surface, model, truth, cameras = scene
    start = disturbed(body, truth, TRUNK, 0.08)
    start = replace(start, root=start.root + torch.tensor([0.03, -0.02, 0.0]))
    found = annealed(body, model, start, silhouettes(surface, cameras, masks), FREE)
    assert error(body, start, truth) > 30
    assert error(body, found, truth) < 14


def test_furniture_before_the_body_and_a_wrong_mask_are_rejected(scene, masks):
    body, surface, model, truth, cameras = scene
    bad = masks.clone()
    bad[0] = bad[0].roll(40, -1)  # one camera's masks are of somebody else
    bad[2, :, 90:, :150] = True  # a table is taken for the person
    found = annealed(body, model, truth, silhouettes(surface, cameras, bad), FREE, kernels=(3.0,))
    clean = annealed(body, model, truth, silhouettes(surface, cameras, masks), FREE, kernels=(3.0,))
    assert error(body, found, truth) < error(body, clean, truth) + 8


def test_who_stands_before_a_body_does_not_squeeze_it_into_what_is_seen_of_it(scene, masks):
    body, surface, model, truth, cameras = scene
    others = torch.zeros_like(masks)
    for c in (0, 2, 3, 5):
        columns = masks[c].flatten(0, 1).any(0).nonzero()
        others[c, :, :, int(columns.float().mean()) : int(columns.max())] = True  # of four cameras each sees half of the body
    after = lambda shown, others: error(  # noqa: E731
        body, annealed(body, model, truth, silhouettes(surface, cameras, shown, others), FREE, kernels=(3.0,)), truth
    )
    clean, squeezed, told = after(masks, ()), after(masks & ~others, ()), after(masks & ~others, others)
    assert told < clean + 6 < clean + 15 < squeezed
    nobody = outlines.outlines(cameras, masks, CENTRE, others=torch.zeros_like(masks))
    assert all(
        torch.equal(getattr(nobody, f).nan_to_num(), getattr(outlines.outlines(cameras, masks, CENTRE), f).nan_to_num())
        for f in ("field", "edge", "outward")
    )


def test_one_direction_of_the_silhouette_is_not_enough_for_size(scene, masks):
    """A body shrunk inside its masks is content with the inward term; the outline draws it out."""
    _, surface, _, truth, cameras = scene
    seen = outlines.outlines(cameras, masks, CENTRE)
    points = scene[2].place(truth, torch.zeros(0)).points
    centre = points.mean(1, keepdim=True)
    small = centre + 0.9 * (points - centre)
    pull = outlines.silhouette(small, surface.normals(small), seen, 0.023, 10.0)
    outward = (-pull.gradient * (points - small)).sum((1, 2))
    assert bool((outward > 0).all())
    right = outlines.silhouette(points, surface.normals(points), seen, 0.023, 10.0)
    assert bool((right.cost < 0.35 * pull.cost).all())


def scan(body, state, count=1500, seed=0):
    """A point cloud of the true mesh with 3 mm of noise, and its normals."""
    g = torch.Generator().manual_seed(seed)
    vertices = mesh(body, state)
    face = torch.randint(len(body.triangles), (FRAMES, count), generator=g)
    corner = torch.gather(vertices, 1, body.triangles[face].flatten(1)[..., None].expand(-1, -1, 3)).unflatten(1, (count, 3))
    mix = torch.rand(FRAMES, count, 3, generator=g)
    points = (corner * (mix / mix.sum(-1, keepdim=True))[..., None]).sum(2)
    normal = torch.linalg.cross(corner[:, :, 1] - corner[:, :, 0], corner[:, :, 2] - corner[:, :, 0])
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return clouds.Cloud(points + 0.003 * torch.randn(points.shape, generator=g), normal)


def test_a_point_cloud_places_the_body_and_strangers_in_it_do_not_move_it(scene):
    body, surface, model, truth, _ = scene
    start = disturbed(body, truth, TRUNK, 0.08)
    seen = scan(body, truth)
    found = annealed(body, model, start, scanned(surface, seen), FREE)
    assert error(body, start, truth) > 30 and error(body, found, truth) < 10
    g = torch.Generator().manual_seed(3)
    strangers = torch.rand(FRAMES, 700, 3, generator=g) * torch.tensor([1.6, 1.6, 1.8]) - torch.tensor([0.8, 0.8, 0.0])
    turned = torch.nn.functional.normalize(torch.randn(FRAMES, 700, 3, generator=g), dim=-1)
    crowded = clouds.Cloud(torch.cat([seen.points, strangers], 1), torch.cat([seen.normals, turned], 1))
    again = annealed(body, model, start, scanned(surface, crowded), FREE)
    assert error(body, again, truth) < error(body, found, truth) + 3


def test_the_hull_of_masks_contains_the_body_and_pulls_like_a_cloud(scene, masks):
    body, surface, model, truth, cameras = scene
    points, normals = zip(
        *(
            clouds.visual_hull(
                cameras, masks[:, t], mesh(body, truth)[t].amin(0).double() - 0.1, mesh(body, truth)[t].amax(0).double() + 0.1
            )
            for t in range(FRAMES)
        )
    )
    hull = clouds.Cloud(torch.stack(points).float(), torch.stack(normals).float())
    start = disturbed(body, truth, ("Hips",), 0.1)
    start = replace(start, root=start.root + torch.tensor([0.05, 0.03, 0.0]))
    found = solved(body, model, start, lambda x, f: clouds.cloud(x, surface.normals(x), hull[f], 0.02, 3.0), ("Hips",), 20)
    assert error(body, found, truth) < 0.4 * error(body, start, truth)


def test_dense_correspondences_find_the_twist_that_joints_do_not_show(scene):
    """A forearm turned about its own axis leaves elbow and wrist where they are; points of the skin tell."""
    body, surface, model, truth, cameras = scene
    j = body.skeleton.index("LeftForeArm")
    along = torch.nn.functional.normalize(body.joints[body.skeleton.index("LeftHand")] - body.joints[j], dim=0)
    twist = rotation.exp((0.6 * along).expand(FRAMES, 3))
    start = replace(truth, R=truth.R.index_put((torch.arange(FRAMES), torch.tensor(j)), truth.R[:, j] @ twist))
    g = torch.Generator().manual_seed(0)
    place = model.place(truth, torch.zeros(0)).points
    pixels = cameras.project(place) + 4.0 * torch.randn(len(cameras), FRAMES, len(surface), 2, generator=g)
    wrong = torch.rand(pixels.shape[:-1], generator=g) < 0.2
    pixels[wrong] += 150 * torch.randn(int(wrong.sum()), 2, generator=g)
    views = pulls.Views.undistorted(cameras, pixels, torch.full(pixels.shape[:-1], 5.0))
    told = lambda kernel: lambda x, f: pulls.keypoints(x, views[f], kernel)  # noqa: E731
    found = annealed(body, model, start, told, ("LeftForeArm", "LeftArm"), root=False)
    turned = rotation.log(found.R[:, j].mT @ truth.R[:, j]).norm(dim=-1)
    assert float(turned.max()) < math.radians(6)


def test_ordinal_depth_turns_a_mirrored_forearm_back(scene):
    body, _, _, truth, cameras = scene
    skin = body.keypoint_skin(("left_shoulder", "left_elbow", "left_wrist"))
    model = Model(body, skin)
    bones = model.place(truth, torch.zeros(0)).points.diff(dim=1)[:, 1].double()
    cosine = (cameras.R_camera_world[:, 2] @ bones.T).abs() / bones.norm(dim=1)
    fair = (cosine > 0.4) & (cosine < 0.85)  # clearly slanted, and not so close to the line of sight that no torque turns it
    chosen = int(fair.sum(1).argmax())
    one, fair = cameras[cameras.names[chosen]], fair[chosen]
    j = body.skeleton.index("LeftForeArm")
    place = model.place(truth, torch.zeros(0)).points
    towards = one.R_camera_world[0, 2].float()
    bone = place[:, 2] - place[:, 1]
    ray = torch.nn.functional.normalize(place[:, 2] - one.position[0].float(), dim=-1)
    flat = bone - 2 * (bone * ray).sum(-1, keepdim=True) * ray  # the same picture: where the line of sight leaves the sphere of the bone
    across = torch.linalg.cross(bone, flat)
    angle = torch.atan2(across.norm(dim=-1, keepdim=True), (bone * flat).sum(-1, keepdim=True))
    swing = rotation.exp(across / across.norm(dim=-1, keepdim=True) * angle)
    parent = model.place(truth, torch.zeros(0)).R_world[:, body.skeleton.parents[j]]
    mirrored = replace(truth, R=truth.R.index_put((torch.arange(FRAMES), torch.tensor(j)), parent.mT @ swing @ parent @ truth.R[:, j]))
    views = pulls.Views.undistorted(one, one.project(place), torch.full((1, FRAMES, 3), 2.0))
    depth = place @ towards
    nearer, farther = (1, 2) if bool((depth[fair, 1] < depth[fair, 2]).all()) else (2, 1)
    said = order.Order(towards[None], torch.tensor([nearer]), torch.tensor([farther]), torch.ones(FRAMES, 1, dtype=torch.bool))

    def turned(told):
        """The limb must leave the picture on its way: the order speaks first, the keypoints with a narrow kernel, then they again."""
        state = mirrored
        for seen, ordered in ((3.0, 40.0), (30.0, 6.0)):
            evidence = lambda x, f, a=seen, b=ordered: pulls.keypoints(x, views[f], a) + order.ordinal(x, told[f], 0.05, 0.03, b)  # noqa: E731
            state = solved(body, model, state, evidence, ("LeftForeArm",), 30, root=False)
        return state

    wrist = lambda s: model.place(s, torch.zeros(0)).points[:, 2]  # noqa: E731
    before = (wrist(mirrored) - wrist(truth)).norm(dim=1)
    after = (wrist(turned(said)) - wrist(truth)).norm(dim=1)
    wrong = (wrist(turned(replace(said, nearer=said.farther, farther=said.nearer))) - wrist(truth)).norm(dim=1)
    assert int(fair.sum()) > 1 and bool((before[fair] > 0.2).all())
    assert bool((after[fair] < 0.03).all())
    assert bool((wrong[fair] > 0.8 * before[fair]).all())


def test_a_surface_without_a_rim_is_drawn_by_no_outline(scene, masks):
    _, surface, model, truth, cameras = scene
    points = model.place(truth, torch.zeros(0)).points
    towards = torch.nn.functional.normalize(cameras.position[0].float() - points, dim=-1)  # every normal looks into the first camera
    seen = outlines.outlines(cameras[[0]], masks[:1], CENTRE)
    inside = outlines.silhouette(points, towards, seen, 0.02, 6.0)
    whole = outlines.silhouette(points, surface.normals(points), seen, 0.02, 6.0)
    assert bool(torch.isfinite(inside.gradient).all()) and int((inside.gradient != 0).sum()) < int((whole.gradient != 0).sum())


def test_an_arm_does_not_stay_inside_the_trunk(scene):
    body, surface, model, truth, _ = scene
    state = replace(truth, R=truth.R.clone())
    state.R[:, body.skeleton.index("LeftArm")] = rotation.exp(torch.tensor([0.0, 0.7, 0.0])).expand(FRAMES, 3, 3)
    may = solid.apart(surface.skin.rest)
    start = model.place(state, torch.zeros(0)).points
    deep = lambda x: solid._nearest(x, surface.normals(x), may)[1]  # noqa: E731
    assert float(deep(start).max()) > 0.01
    held = lambda x, f: pulls.targets(x, start[f], torch.full(x.shape[:2], 0.3), 100.0)  # noqa: E731
    evidence = lambda x, f: held(x, f) + solid.interpenetration(x, surface.normals(x), may, 0.005, 10.0)  # noqa: E731
    found = solved(body, model, state, evidence, ("LeftArm", "LeftForeArm"), 25, root=False)
    after = model.place(found, torch.zeros(0)).points
    assert float(deep(after).sum()) < 0.4 * float(deep(start).sum())
    free = model.place(truth, torch.zeros(0)).points
    still = solid.interpenetration(free, surface.normals(free), may, 0.005, 10.0)
    assert float(still.cost.max()) < 0.02 * float(evidence(start, slice(0, FRAMES)).cost.min())


def test_feet_do_not_sink_and_free_points_feel_no_floor(scene):
    body, _, model, truth, _ = scene
    sunk = replace(truth, root=truth.root - torch.tensor([0.0, 0.0, 0.06]))
    low = model.place(truth, torch.zeros(0)).points[..., 2].min()
    found = solved(body, model, sunk, lambda x, f: solid.floor(x, float(low), 0.005, 30.0))
    assert float(model.place(found, torch.zeros(0)).points[..., 2].min() - low) > -0.006
    above = solid.floor(model.place(truth, torch.zeros(0)).points, float(low) - 0.01, 0.005, 30.0)
    assert float(above.cost.max()) == 0 and float(above.gradient.abs().max()) == 0


def test_flow_carries_the_surface_from_frame_to_frame_and_wild_flow_is_ignored(scene):
    """One frame is held at the truth; true flow (of the mesh, in pixels) brings the next ones with it."""
    body, surface, model, truth, cameras = scene
    place = model.place(truth, torch.zeros(0)).points
    seen = flow.visible(place, surface.normals(place), cameras)
    h, w = (int(x) // REDUCTION for x in cameras.size[0].flip(0).tolist())
    field = torch.full((len(cameras), FRAMES, h, w, 2), torch.nan)
    for c, name in enumerate(cameras.names):
        dense = cameras[name].project(mesh(body, truth).double())[0]
        for t in range(1, FRAMES):
            at = ((dense[t - 1] + 0.5) / REDUCTION - 0.5).round().long()
            ok = ((at >= 0) & (at < torch.tensor([w, h]))).all(-1)
            field[c, t, at[ok, 1], at[ok, 0]] = (dense[t] - dense[t - 1])[ok].float()
    g = torch.Generator().manual_seed(0)
    wild = torch.rand(field.shape[:-1], generator=g) < 0.1
    field[wild] += 80 * torch.randn(int(wild.sum()), 2, generator=g)
    start = disturbed(body, truth, TRUNK, 0.08)
    start = start.where(torch.tensor([True, False, False]).logical_not(), truth)
    for _ in range(FRAMES):
        now = model.place(start, torch.zeros(0)).points
        views = flow.carried(now, seen, field, cameras, 2.0)
        moved = solved(body, model, start, lambda x, f, v=views: pulls.keypoints(x, v[f], 3.0), TRUNK, 8)
        start = moved.where(torch.tensor([False, True, True]), truth)
    assert error(body, start[2:], truth[2:]) < 0.3 * error(body, disturbed(body, truth, TRUNK, 0.08)[2:], truth[2:])


def test_seams_close():
    points = torch.tensor([[[0.0, 0, 0], [0.02, 0, 0], [1, 0, 0], [3.0, 0, 0]]])
    pairs = torch.tensor([[0, 1], [2, 3]])
    pull = solid.seams(points, pairs, 0.005, 10.0)
    step = -torch.linalg.solve(pull.information + 1e-9 * torch.eye(3), pull.gradient)
    assert torch.allclose(points[0, 0] + step[0, 0], points[0, 1] + step[0, 1], atol=3e-3)
    assert float(pull.gradient[0, 2].abs().max()) < 0.01 * float(pull.gradient[0, 0].abs().max())  # torn by metres: not a seam


@pytest.mark.parametrize("term", ["silhouette", "cloud", "interpenetration", "floor", "ordinal", "seams"])
def test_the_gradient_of_every_term_equals_finite_differences(scene, masks, term):
    body, surface, model, truth, cameras = scene
    x = model.place(disturbed(body, truth, TRUNK, 0.15), torch.zeros(0)).points.double()
    normals = surface.normals(x)  # a term holds normals and matches while it is linearised
    seen, cloud = outlines.outlines(cameras, masks, CENTRE), scan(body, truth)
    seen = replace(seen, **{f: getattr(seen, f).double() for f in seen.__dataclass_fields__})
    cloud = clouds.Cloud(cloud.points.double(), cloud.normals.double())
    g = torch.Generator().manual_seed(2)
    pick = torch.randint(len(surface), (2, 20), generator=g)
    said = order.Order(
        torch.nn.functional.normalize(torch.randn(20, 3, generator=g, dtype=torch.float64), dim=-1),
        pick[0],
        pick[1],
        torch.rand(FRAMES, 20, generator=g) < 0.7,
    )
    terms = {
        "silhouette": lambda y: outlines.silhouette(y, normals, seen, 0.023, 3.0),
        "cloud": lambda y: clouds.cloud(y, normals, cloud, 0.01, 3.0),
        "interpenetration": lambda y: solid.interpenetration(y, normals, torch.cdist(x[0], x[0]) > 0.02, 0.01, 5.0),
        "floor": lambda y: solid.floor(y, 0.5, 0.1, 3.0),
        "ordinal": lambda y: order.ordinal(y, said, 0.1, 0.1, 3.0),
        "seams": lambda y: solid.seams(y, pick.T, 0.1, 3.0),
    }
    f = terms[term]
    pull = f(x)
    assert float(pull.gradient.abs().max()) > 0
    for _ in range(3):
        d = torch.randn(x.shape, generator=g, dtype=torch.float64)
        slope = float((f(x + 1e-7 * d).cost - f(x - 1e-7 * d).cost).sum() / 2e-7)
        exact = 0.03 if term == "silhouette" else 2e-4  # which way the rim faces is held while the silhouette is linearised
        assert slope == pytest.approx(float((pull.gradient * d).sum()), rel=exact, abs=1e-3)


def test_a_pull_on_some_points_says_nothing_of_others():
    pull = Pull(torch.ones(2, 3, 3, 3), torch.ones(2, 3, 3), torch.ones(2))
    wide = padded(pull, 2, 1)
    assert (
        wide.gradient.shape == (2, 6, 3) and float(wide.gradient[:, :2].abs().max()) == 0 and float(wide.information[:, 5].abs().max()) == 0
    )
