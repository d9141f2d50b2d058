"""Compactness against heatmaps whose numbers can be worked out by hand."""

import math

import pytest
import torch

from hdmlib.heatmaps import gaussian_map
from hdmlib.metrics.compactness import compactness


def one(heatmap: torch.Tensor) -> dict[str, float]:
    return {name: float(value) for name, value in compactness(heatmap[None, None]).items()}


def test_a_single_cell_is_as_compact_as_can_be():
    heatmap = torch.zeros(12, 9)
    heatmap[4, 7] = 3.0
    assert one(heatmap) == {"mass near peak": 1.0, "entropy": 0.0, "spread": 0.0}


def test_two_cells_that_share_the_mass():
    heatmap = torch.zeros(12, 9)
    heatmap[4, 0] = heatmap[4, 8] = 0.1
    found = one(heatmap)
    assert found["mass near peak"] == pytest.approx(0.5)
    assert found["entropy"] == pytest.approx(math.log(2))
    assert found["spread"] == pytest.approx(4.0)


@pytest.mark.parametrize("value", [0.0, -2.0, 5.0])
def test_a_flat_map_and_one_without_a_positive_cell(value):
    found = one(torch.full((10, 10), value))
    assert found["entropy"] == pytest.approx(math.log(100))
    assert found["spread"] == pytest.approx(math.sqrt(2 * (100 - 1) / 12))
    assert found["mass near peak"] == pytest.approx(6 / 100)  # the first cell is the peak: a quarter of the disc


def test_a_gaussian_spreads_by_its_sigma_and_scale_does_not_matter():
    heatmap = gaussian_map(torch.tensor([[20.3, 18.6]]).double(), (41, 37), 2.0)[0]
    found = one(heatmap)
    assert found["spread"] == pytest.approx(math.sqrt(2) * 2.0, rel=1e-4)
    assert found["entropy"] == pytest.approx(math.log(2 * math.pi * math.e * 4), rel=1e-4)
    assert one(heatmap * 1e30) == pytest.approx(found)
