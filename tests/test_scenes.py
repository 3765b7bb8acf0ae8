"""Training scenes: their truth against other computations, their seeds, and what is held out."""

from dataclasses import replace
from math import pi

import numpy as np
import pytest
import torch

from rigs import makehuman
from rigs.body import Skin
from studio.train import drawing, shards
from studio.train.drawing import sample
from studio.train.performers import KEYPOINTS, dual_skinned, model_person, other_person
from studio.train.scenes import GRID, SceneConfig, Scenes, held_out, voxels
from studio.train.sheets import sheet

CONFIG = SceneConfig(size=48, cameras=2, moments=2, maps=("mask", "part", "uv", "surface", "depth", "flow"), occluded=0.0, seed=3)


@pytest.fixture(scope="module")
def scene() -> Scenes:
    return sample(CONFIG, 2)


def by_the_model(scene: Scenes):
    """The person through the fitted body's own parameters, which the drawing does not use."""
    body = makehuman.load()
    shaped = body.shaped(scene.shape[0])
    return body, shaped.posed(scene.rotation[0], scene.translation[0])


def test_keypoints_lie_where_the_models_parameters_and_the_cameras_put_them(scene):
    body, posed = by_the_model(scene)
    points = posed.points(body.keypoint_skin(KEYPOINTS))
    assert (points - scene.points[0]).norm(dim=-1).max() < 1e-5
    assert (posed.joints - scene.joints[0]).norm(dim=-1).max() < 1e-5
    pixels = scene.cameras(0).project(points.double()).movedim(0, 1)
    assert (pixels - scene.keypoints[0]).norm(dim=-1).max() < 1e-3
    nose, z = KEYPOINTS.index("nose"), scene.in_camera()[0, ..., 2]
    assert torch.allclose(z[0, :, nose], scene.cameras(0).to_camera(points[0, nose].double())[:, 2].float(), atol=1e-4)


def test_every_pixel_of_the_person_shows_the_surface_point_that_it_says(scene):
    body, posed = by_the_model(scene)
    skin, triangles = posed.vertices(), body.triangles
    cameras = scene.cameras(0)
    for t in range(2):
        for c in range(2):
            rows, columns = torch.nonzero(scene.mask[0, t, c], as_tuple=True)
            corner = scene.corner[0, t, c, rows, columns]
            index = triangles[scene.triangle[0, t, c, rows, columns].long()]
            there = torch.einsum("nk,nkc->nc", corner, skin[t][index])
            camera = cameras[c]
            pixel = camera.project(there.double())[0]
            # Cloth and hair stand off the skin by up to 25 mm, which is about a third of a pixel seen from the side.
            off = (pixel - torch.stack([columns, rows], -1)).norm(dim=-1)
            reach = 0.03 * float(camera.focal[0, 0]) / camera.to_camera(there.double())[0, :, 2]
            assert (off <= reach).all()
            depth = camera.to_camera(there.double())[0, :, 2] - camera.to_camera(posed.joints[t, 0].double())[0, 2]
            assert (depth.float() - scene.depth[0, t, c, rows, columns]).abs().max() < 0.03
            parts = body.parts[index[torch.arange(len(index)), corner.argmax(1)]] + 1
            assert torch.equal(parts.to(torch.uint8), scene.part[0, t, c, rows, columns])
            uv = torch.einsum("nk,nkc->nc", corner, body.uv[scene.triangle[0, t, c, rows, columns].long()])
            assert torch.allclose(uv, scene.uv[0, t, c, rows, columns], atol=1e-5)


def test_the_mask_is_the_silhouette_of_the_mesh(scene):
    _, posed = by_the_model(scene)
    pixels = scene.cameras(0).project(posed.vertices()[0].double()).round().long()
    for c in range(2):
        mask = scene.mask[0, 0, c] > 0
        inside = ((pixels[c] >= 0) & (pixels[c] < 48)).all(-1)
        x, y = pixels[c][inside].T
        near = torch.nn.functional.max_pool2d(mask[None, None].float(), 3, 1, 1)[0, 0] > 0
        assert near[y, x].all()
        covered = torch.zeros(48, 48, dtype=torch.bool)
        covered[y, x] = True
        grown = torch.nn.functional.max_pool2d(covered[None, None].float(), 5, 1, 2)[0, 0] > 0
        assert (mask & ~grown).sum() == 0


def test_the_flow_leads_to_the_same_surface_in_the_next_moment():
    # The second moment is drawn from a mesh of its own: what it shows where the flow leads must be what the first showed.
    shown, apart, still = 0, [], []
    for number in (1, 9, 17):
        scene = sample(replace(CONFIG, cameras=1, size=96, fps=8.0), number)
        now, after, flow = scene.uv[0, 0, 0], scene.uv[0, 1, 0], scene.flow[0, 0, 0]
        rows, columns = torch.nonzero(torch.isfinite(flow[..., 0]) & (flow.norm(dim=-1) > 1.0), as_tuple=True)
        to = (torch.stack([columns, rows], -1) + flow[rows, columns]).round().long().clamp(0, 95)
        gap = (after[to[:, 1], to[:, 0]] - now[rows, columns]).norm(dim=-1)
        apart.append(gap[torch.isfinite(gap)])
        stay = (after[rows, columns] - now[rows, columns]).norm(dim=-1)
        still.append(stay[torch.isfinite(stay)])
        shown += len(rows)
    assert shown > 50
    assert torch.cat(apart).median() < 0.5 * torch.cat(still).median()


def test_hidden_keypoints_lie_behind_the_surface_and_seen_ones_on_it(scene):
    root = scene.cameras(0).to_camera(scene.joints[0, 0, 0].double())[:, None, 2].float()
    z = (scene.in_camera()[0, 0, ..., 2] - root)[:, :17]
    surface = scene.depth[0, 0].nan_to_num(9.0)
    nearest = -torch.nn.functional.max_pool2d(-surface, 3, 1, 1)  # a pixel here is 5 cm: what is seen may be beside it
    for c in range(2):
        at = scene.keypoints[0, 0, c, :17].round().long().clamp(0, 47)
        behind = z[c] - nearest[c, at[:, 1], at[:, 0]]
        seen = scene.visible[0, 0, c, :17]
        assert 3 < int(seen.sum()) < 17
        assert behind[~seen].min() > 0.015
        assert behind[seen].median() < 0.09 < behind[~seen].median()


def test_depth_order_names_the_nearer_of_two_keypoints(scene):
    order, z = scene.depth_order()[0, 0, 0], scene.in_camera()[0, 0, 0, :, 2]
    i, j = int(z.argmin()), int(z.argmax())
    assert order[i, j] == 1 and order[j, i] == -1 and order[i, i] == 0


def test_the_same_settings_and_number_give_the_same_bytes_and_others_do_not(scene):
    drawing._act.cache_clear()
    again, other = sample(CONFIG, 2), sample(CONFIG, 3)
    for name in ("image", "keypoints", "triangle", "flow", "points", "visible"):
        a, b = getattr(scene, name), getattr(again, name)
        assert a.numpy().tobytes() == b.numpy().tobytes(), name
    assert not torch.equal(scene.image, other.image)
    assert not torch.equal(scene.image, sample(replace(CONFIG, seed=4), 2).image)


def test_training_and_tests_share_no_person_action_outfit_or_camera_distance():
    few = replace(CONFIG, size=16, cameras=1, moments=1, maps=())
    train, test = (Scenes.stacked([sample(c, n) for n in range(0, 48, 6)]) for c in (few, held_out(few)))
    for name in ("person", "action", "outfit"):
        assert not set(getattr(train, name).tolist()) & set(getattr(test, name).tolist()), name
    far = [s.position[..., :2].norm(dim=-1) for s in (train, test)]
    assert ((far[1] > 3.3) & (far[1] < 3.9)).all() and not ((far[0] > 3.3) & (far[0] < 3.9)).any()


def test_people_of_the_other_kind_are_not_in_the_models_space():
    person, body = other_person(900_123), makehuman.load()
    nearest = body.shaped(person.shape).rest()
    assert float((nearest - person.body.skin.rest).norm(dim=-1).mean()) > 0.001
    assert 0.008 < float(person.loose.max()) < 0.03 and person.dual
    same = model_person(np.random.default_rng(1))
    assert float((body.shaped(same.shape).rest() - same.body.skin.rest).norm(dim=-1).max()) < 1e-6


def test_dual_quaternions_keep_the_girth_of_a_twisted_limb_where_linear_blending_loses_it():
    body = model_person(np.random.default_rng(0)).body
    elbow, hand = body.skeleton.index("LeftForeArm"), body.skeleton.index("LeftHand")
    weights = torch.zeros(1, len(body.skeleton))
    weights[0, [elbow, hand]] = 0.5
    axis = torch.nn.functional.normalize(body.joints[hand] - body.joints[elbow], dim=0)
    out = torch.linalg.cross(axis, torch.tensor([0.0, 0.0, 1.0]))
    point = body.joints[hand] + 0.03 * out / out.norm()
    skin = Skin(point[None], torch.zeros(1, 3, 0), torch.zeros(1, 3, 0), weights)
    turned = torch.zeros(1, len(body.skeleton), 3)
    turned[0, hand] = axis * 0.9 * pi
    posed = body.shaped(torch.zeros(0)).posed(turned, body.joints[:1], torch.zeros(1, 0))
    girth = lambda p: float(torch.linalg.cross(axis, p[0, 0] - body.joints[hand]).norm())  # noqa: E731
    assert girth(dual_skinned(posed, skin)) == pytest.approx(0.03, abs=1e-5)
    assert girth(posed.points(skin)) < 0.006


def test_voxels_are_full_where_the_mesh_winds_around_them():
    scene = sample(SceneConfig(size=16, cameras=1, maps=(), occupancy=40, seed=3), 4)
    body, posed = by_the_model(scene)
    full, where = scene.occupancy[0, 0], torch.from_numpy(voxels(40)) + scene.joints[0, 0, 0]
    near = torch.nn.functional.max_pool3d(full[None, None].float(), 3, 1, 1)[0, 0] > 0
    some = torch.nonzero(near)[:: max(1, int(near.sum()) // 70)]
    points, told = where[tuple(some.T)].double(), full[tuple(some.T)]
    # Solid angle of every triangle (van Oosterom & Strackee 1983), summed: 4 pi inside, 0 outside.
    a, b, c = (posed.vertices()[0][body.triangles[:, i]].double() - points[:, None] for i in range(3))
    la, lb, lc = (v.norm(dim=-1) for v in (a, b, c))
    above = (a * torch.linalg.cross(b, c)).sum(-1)
    below = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    inside = 2 * torch.atan2(above, below).sum(-1) > 2 * pi
    assert 0.15 < float(told.double().mean()) < 0.85
    assert float((inside == told).double().mean()) > 0.98
    assert int(full.sum()) * (GRID / 40) ** 3 == pytest.approx(0.065, abs=0.035)  # m^3 of an adult


def test_a_hands_crop_is_around_the_hand():
    scene = sample(SceneConfig(size=32, cameras=2, focus="right_hand", maps=(), occluded=0.0), 5)
    names = [n.startswith("right_") and any(p in n for p in ("hand_root", "thumb", "finger")) for n in KEYPOINTS]
    inside = scene.keypoints[0, 0][:, torch.tensor(names)]
    assert sum(names) == 21
    assert ((inside > 0) & (inside < 31)).all()
    assert (inside.amax(1) - inside.amin(1)).amax(-1).min() > 12


def test_a_stopped_drawing_goes_on_and_keeps_what_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(shards, "SHARD", 2)
    config = SceneConfig(size=16, cameras=1, maps=())
    real, asked = shards.sample, []

    def stopped(config, number):
        asked.append(number)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return real(config, number)

    monkeypatch.setattr(shards, "sample", stopped)
    with pytest.raises(KeyboardInterrupt):
        shards.cached(config, 4)
    assert shards.drawn(config) == 2
    data = shards.cached(config, 4)
    assert asked == [0, 1, 2, 3, 2, 3]
    assert torch.equal(data.image[3], real(config, 3).image[0]) and data.mask is None
    (shards.folder_of(config) / "00000.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="delete it, it is drawn again"):
        shards.cached(config, 4)


def test_wrong_settings_are_told():
    with pytest.raises(ValueError, match="unknown map 'normals'; there are"):
        SceneConfig(maps=("normals",))
    with pytest.raises(ValueError, match="size is 8; it must be 16 to 1024"):
        SceneConfig(size=8)


def test_a_contact_sheet_shows_every_sample(scene, tmp_path):
    import cv2

    picture = cv2.imread(str(sheet(scene, tmp_path / "sheet.png", 1)))
    assert picture.shape[:2] == (52, 48 * 2 * 2 * (2 + 5))
    assert (picture[:48, :48, ::-1] == scene.image[0, 0, 0].numpy()).all()
