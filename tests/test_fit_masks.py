"""Masks as the fit reads them: the right person's, of the right frame, at a size that fits into memory."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from moving_scene import NAMES, Dancer, Recording, taken

from studio.clock import CameraClock, Sync, footage
from studio.fit.masks import FINEST, masks_of
from studio.fit.stored_take import StoredTake
from studio.track import track
from studio.values import Tracks3D
from studio.video import VideoWriter, probe


def painted(take, camera, frames, size):
    """Labels: person 1 stands at column `frame`, person 2 at the right edge."""
    path = take.folder / "masks" / f"{camera}.mkv"
    path.parent.mkdir(exist_ok=True)
    w, h = size
    with VideoWriter(path, w, h, 30, codec="ffv1 gray") as writer:
        for t in range(frames):
            image = np.zeros((h, w), np.uint8)
            image[:, 4 * t : 4 * t + 4], image[:, -4:] = 1, 2
            writer.write(image)


@pytest.fixture(scope="module")
def take(tmp_path_factory):
    take = taken(tmp_path_factory.mktemp("masks"), Dancer(1), [Recording(0.0, Fraction(30), 20)] * 4)
    track(take)
    return take


def test_the_actors_mask_is_picked_and_nobodys_is_empty(take):
    painted(take, "c0", 20, (160, 90))
    who = torch.tensor([0, 1, -1, 0])
    seen, others = masks_of(take, "c0", who, slice(3, 7))
    columns = [m.any(0).nonzero()[:, 0].tolist() for m in seen]
    assert columns == [[12, 13, 14, 15], [156, 157, 158, 159], [], [24, 25, 26, 27]]
    columns = [m.any(0).nonzero()[:, 0].tolist() for m in others]
    assert columns == [[156, 157, 158, 159], [16, 17, 18, 19], [], [156, 157, 158, 159]]
    assert not any(m.any() for m in masks_of(take, "c3", who, slice(3, 7)))  # the detector wrote none


def test_fine_masks_are_made_coarser_and_stay_in_place(take):
    painted(take, "c1", 20, (1280, 720))
    seen, _ = masks_of(take, "c1", torch.ones(4, dtype=torch.long), slice(0, 4))
    assert seen.shape == (4, 180, FINEST)
    assert seen[0].any(0).nonzero()[:, 0].tolist() == [FINEST - 1]


def test_frames_between_a_cameras_own_have_the_nearer_ones_mask(take):
    painted(take, "c0", 20, (160, 90))
    Sync("c1", 30.0, {n: CameraClock(-2.3 / 30 if n == "c0" else 0.0) for n in NAMES}).save(take.folder / "sync.yaml")
    first = Tracks3D.load(take.tracks_file, slice(0, 1)).first_frame
    seen, _ = masks_of(take, "c0", torch.zeros(3, dtype=torch.long), slice(2, 5))
    (take.folder / "sync.yaml").unlink()
    began = [int(m.any(0).nonzero()[0, 0]) // 4 for m in seen]
    assert began == [round(t + first + 2.3) for t in (2, 3, 4)]


def test_a_stored_take_gives_masks_only_where_they_are_wanted(take):
    painted(take, "c0", probe(take.videos["c0"]).frames, (160, 90))
    source = lambda masks: StoredTake(take.cameras(), footage(take, NAMES), take.tracks_file, 0, 20, masks=masks)  # noqa: E731
    assert source(None)[slice(0, 5)].masks == ()
    some = source(take)[slice(0, 5)]
    assert (
        len(some.others) == 4 and some.others[0].any() and not (some.others[0] & some.masks[0]).any() and some[1:3].others[0].shape[0] == 2
    )
    assert len(some.masks) == 4 and some.masks[0].any() and not some.masks[2].any()
    assert source(take)[torch.tensor([1, 3])].masks == ()
