"""What is kept of the skin that a network saw: the way from crop to image."""

import numpy as np
import pytest
import torch

from studio.fit.dense import Sightings
from studio.fit.skin import NOT_SEEN, SeenSkin, _crop, _kept


def dot(x: float, y: float) -> np.ndarray:
    rows, columns = np.mgrid[:240, :320]
    blob = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4**2))
    return np.repeat(blob[..., None], 3, 2).astype(np.uint8)


def empty(points: int) -> SeenSkin:
    return SeenSkin(
        torch.arange(points), 64, torch.full((1, 1, 3), torch.nan), torch.full((1, 1, points, 2), NOT_SEEN, dtype=torch.uint8),
        torch.zeros((1, 1, points), dtype=torch.uint8),
    )  # fmt: skip


@pytest.mark.parametrize("corner", [(40, 30), (-20, -35), (200, 150)])
def test_a_point_of_the_crop_is_kept_where_it_is_in_the_image(corner):
    x, y, side = *corner, 173
    at = np.clip([x + 90.3, y + 60.8], 20, [300, 220])
    crop = _crop(dot(*at), [x, y, side], 64)[..., 0].astype(float)
    rows, columns = np.mgrid[:64, :64]
    seen = torch.tensor([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum()
    part = empty(3)
    part.box[0, 0] = torch.tensor([x, y, side], dtype=torch.float32)
    points = torch.stack([seen.float(), torch.full((2,), torch.nan), torch.tensor([70.0, 3.0])])
    _kept(part, [(0, 0)], points[None], torch.tensor([[0.0314, torch.nan, 0.02]]))
    pixels, sigma = part.pixels(0)
    assert np.abs(pixels[0, 0].numpy() - at).max() < 0.5  # a step of what is kept is 0.7 px here
    assert abs(float(sigma[0, 0]) - 0.0314) < 0.001
    assert pixels[0, 1:].isnan().all()  # not seen, and beyond the crop


def test_a_box_beside_the_image_is_an_empty_crop():
    assert not _crop(dot(50, 50), [400, 10, 80], 64).any()


def test_stretches_are_put_together_in_order():
    parts = [Sightings(torch.arange(2), torch.full((3, n, 2, 2), float(n)), torch.ones(3, n, 2)) for n in (1, 2)]
    joined = Sightings.joined(parts)
    assert joined is not None and joined.pixels[0, :, 0, 0].tolist() == [1, 2, 2]
    assert Sightings.joined([]) is None
