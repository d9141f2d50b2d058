"""Pixels to cells and back: the rules of the crops, on arrays and tensors alike."""

import numpy as np
import pytest
import torch

from hdmlib.coordinates import RULES, cells_from_pixels, pixels_from_cells
from hdmlib.data.crops import Frame, transform

SIZE = (96, 64)
PIXELS = np.array([[0.0, 0.0], [95.0, 63.0], [47.5, 31.5], [3.25, 60.0]])


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_are_those_of_the_crops(rule):
    affine = Frame(SIZE, rule).to_cells(np.eye(2, 3))
    np.testing.assert_allclose(cells_from_pixels(PIXELS, SIZE, rule=rule), transform(PIXELS, affine), atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stride", [2, 4, 8])
def test_back_and_forth(rule, stride):
    cells = cells_from_pixels(PIXELS, SIZE, stride=stride, rule=rule)
    np.testing.assert_allclose(pixels_from_cells(cells, SIZE, stride=stride, rule=rule), PIXELS, atol=1e-12)


@pytest.mark.parametrize("rule", ["center", "udp"])
def test_a_mirrored_photo_gives_the_mirrored_heatmap(rule):
    mirrored = PIXELS.copy()
    mirrored[:, 0] = SIZE[0] - 1 - mirrored[:, 0]
    cells, flipped = cells_from_pixels(PIXELS, SIZE, rule=rule), cells_from_pixels(mirrored, SIZE, rule=rule)
    np.testing.assert_allclose(SIZE[0] / 4 - 1 - cells[:, 0], flipped[:, 0], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_keep_their_type(dtype):
    cells = cells_from_pixels(torch.tensor(PIXELS, dtype=dtype), SIZE)
    assert cells.dtype == dtype
    np.testing.assert_allclose(cells.numpy(), cells_from_pixels(PIXELS, SIZE), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (SIZE, {"rule": "pixel"}, "coordinates rule 'pixel' is not known. Known: center, hrnet, udp"),
        ((97, 64), {}, "an input of 97 pixels and a stride of 4 give no whole number of cells"),
        (SIZE, {"stride": 0}, "a stride of 0"),
    ],
)
def test_what_is_wrong_is_named(size, options, message):
    with pytest.raises(ValueError, match=message):
        cells_from_pixels(PIXELS, size, **options)


@pytest.mark.parametrize(
    ("points", "size", "error"),
    [
        (np.ones((1, 17, 3)), SIZE, "points must be \\(..., 2\\), as \\(x, y\\), got shape \\(1, 17, 3\\)"),
        ([[1.0, 2.0]], SIZE, "points must be an array or a tensor"),
        (PIXELS, 96, "input_size must be the input's width and height in pixels, got 96"),
    ],
)
def test_points_and_sizes_of_another_form_are_named(points, size, error):
    with pytest.raises((TypeError, ValueError), match=error):
        cells_from_pixels(points, size)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_whole_numbers_of_pixels_are_not_rounded(kind):
    pixels = kind([[31, 47], [13, 22]])
    cells = cells_from_pixels(pixels, (64, 48))
    assert cells.tolist() == [[7.375, 11.375], [2.875, 5.125]]
    assert pixels_from_cells(kind([[3, 5]]), (64, 48)).tolist() == [[13.5, 21.5]]


def test_a_float64_tensor_keeps_its_precision():
    cells = cells_from_pixels(torch.tensor(PIXELS, dtype=torch.float64), SIZE, rule="udp")
    np.testing.assert_allclose(cells.numpy(), cells_from_pixels(PIXELS, SIZE, rule="udp"), atol=1e-12)
