"""The virtual studio's pictures against projections made with OpenCV."""

import cv2
import numpy as np
import pytest
import torch

from rigs import makehuman
from studio.virtual.looks import dressed
from studio.virtual.maps import maps_of, read_maps, write_maps
from studio.virtual.rig import REACH, ring
from studio.virtual.room import Room
from studio.virtual.scene import Crowd, Figure, View, developed


@pytest.fixture(scope="module")
def stage():
    body = makehuman.load()
    figure = Figure.of(body, dressed(body, 3, 256))
    room = Room.seeded(3, 5.5)
    view = View(ring(3, 320, 180, seed=3)["cam02"], room)
    skins = [body.skin.rest.numpy(), body.skin.rest.numpy() + np.float32([0.9, 0.5, 0])]
    return view, Crowd.posed((figure, figure), skins)


def projected(view, points):
    camera = view.camera
    R, t = camera.R_camera_world[0].numpy(), camera.translation[0].numpy()
    K, k = camera.matrix[0].numpy(), camera.distortion[0].numpy()
    pixels, _ = cv2.projectPoints(points.astype(np.float64), cv2.Rodrigues(R)[0], t, K, k)
    return pixels[:, 0], points @ R[2] + t[2]


def test_the_rendered_mask_is_the_outline_of_the_projected_triangles(stage):
    view, crowd = stage
    person = maps_of(view, crowd, None).person
    scale = 8
    mask = np.zeros((180 * scale, 320 * scale), np.uint8)
    for p, figure in enumerate(crowd.figures):
        pixels, _ = projected(view, crowd.vertices[crowd.offset(p) : crowd.offset(p) + len(figure.rest)])
        corners = np.round((pixels[figure.triangles] + 0.5) * scale - 0.5).astype(np.int32)
        for triangle in corners:
            cv2.fillConvexPoly(mask, triangle, 255)
    outline = cv2.resize(mask, (320, 180), interpolation=cv2.INTER_AREA) > 127
    overlap = (outline & (person > 0)).sum() / (outline | (person > 0)).sum()
    assert overlap > 0.97
    shifted = np.roll(outline, 2, axis=1)
    assert (shifted & (person > 0)).sum() / (shifted | (person > 0)).sum() < 0.93


def test_a_vertex_in_sight_has_its_person_part_and_depth_at_its_pixel(stage):
    view, crowd = stage
    maps = maps_of(view, crowd, None)
    right = []
    for p, figure in enumerate(crowd.figures):
        pixels, depth = projected(view, crowd.vertices[crowd.offset(p) : crowd.offset(p) + len(figure.rest)])
        x, y = np.round(pixels).astype(int).T
        inside = (x >= 0) & (x < 320) & (y >= 0) & (y < 180)
        x, y, depth, parts = x[inside], y[inside], depth[inside], figure.body.parts.numpy()[inside]
        nearest = np.abs(maps.depth[y, x] - depth) < 0.01
        assert nearest.mean() > 0.1
        right += [maps.person[y, x][nearest] == p + 1]
        assert (maps.part[y, x][nearest] == parts[nearest] + 1).mean() > 0.93
        assert (maps.depth[y, x] > depth + 0.03).mean() < 0.1, "only on an outline may a pixel look past a vertex"
    assert np.concatenate(right).mean() > 0.99


def test_flow_is_the_motion_of_the_surface_point_under_each_pixel(stage):
    view, crowd = stage
    step = np.float32([0.05, -0.03, 0.02])
    figure = crowd.figures[0]
    now = Crowd.posed((figure,), [figure.body.skin.rest.numpy()])
    after = Crowd.posed((figure,), [figure.body.skin.rest.numpy() + step])
    maps = maps_of(view, now, after)
    y, x = np.nonzero(maps.person)
    camera = view.camera
    pixels = np.stack([x, y], 1).astype(np.float64)
    plane = cv2.undistortPoints(pixels[:, None], camera.matrix[0].numpy(), camera.distortion[0].numpy(), criteria=(3, 60, 1e-10))[:, 0]
    points = np.column_stack([plane, np.ones(len(x))]) * maps.depth[y, x, None]
    world = (points - camera.translation[0].numpy()) @ camera.R_camera_world[0].numpy()
    moved, _ = projected(view, world + step)
    assert np.abs(moved - pixels - maps.flow[y, x]).max() < 0.05
    assert np.abs(maps.flow[y, x]).mean() > 1


def test_maps_survive_their_files(stage, tmp_path):
    view, crowd = stage
    maps = maps_of(view, crowd, crowd)
    write_maps(maps, tmp_path / "maps" / "cam02", 7)
    back = read_maps(tmp_path, "cam02", 7)
    assert (back.person == maps.person).all() and (back.part == maps.part).all() and back.moving.all()
    assert (
        np.abs(back.depth - maps.depth).max() < 2e-4
        and np.abs(back.uv - maps.uv).max() < 1e-4
        and np.abs(back.flow - maps.flow).max() < 0.01
    )
    with pytest.raises(FileNotFoundError, match="truth_maps"):
        read_maps(tmp_path, "cam02", 8)


def test_people_stand_out_from_the_room_and_throw_shadows_on_it(stage):
    view, crowd = stage
    light = view.radiance(crowd)
    person = maps_of(view, crowd, None).person > 0
    away = cv2.dilate(person.astype(np.uint8), np.ones((5, 5))) == 0
    assert np.abs(light - view.empty)[person].mean() > 0.05
    change = (light - view.empty)[away]
    assert change.max() < 1e-6, "people only take light from the room"
    assert (change.min(-1) < -0.02).sum() > 200, "shadows lie on the floor"
    first, again, other = (developed(light, 2.0, seed) for seed in ((1, 2), (1, 2), (1, 3)))
    assert (first == again).all() and (first != other).any()


def test_every_camera_frames_the_volume():
    cameras = ring(8, 1280, 720, seed=5, volume=0.5)
    turn = torch.linspace(0, 6.28, 30, dtype=torch.float64)
    for z in (0.0, REACH):
        rim = torch.stack([0.5 * turn.cos(), 0.5 * turn.sin(), torch.full_like(turn, z)], -1)
        assert cameras.inside(cameras.project(rim)).all()
    tall = cameras.project(torch.tensor([[0, 0, 0], [0, 0, 1.75]], dtype=torch.float64))
    assert ((tall[:, 0, 1] - tall[:, 1, 1]) / 720 > 0.5).all()
    with pytest.raises(ValueError, match="too tight"):
        ring(4, 64, 64, radius=1.0, volume=0.8)
