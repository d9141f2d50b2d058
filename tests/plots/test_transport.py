"""The figures of notebook 01 show the numbers they are given: arrays or tensors, gaps, signs, widths."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.quiver import Quiver

from hdmlib.plots import transport as draw

JOINT = torch.tensor([2.3, 1.6])
POINTS = torch.tensor([[2.0, 1.0], [3.0, 1.0], [2.0, 2.0], [3.0, 2.0]])


@pytest.fixture(autouse=True)
def _no_window():
    with mpl.rc_context({"backend": "Agg"}):
        yield
    plt.close("all")


def test_a_plans_lines_run_from_cell_to_demander_as_wide_as_their_mass():
    plan = torch.zeros(20, 4)
    plan[0, 0], plan[13, 0], plan[7, 2] = 0.2, 0.5, 0.3
    figure = draw.plans(plan.sum(dim=1).reshape(4, 5), {"a plan": plan}, POINTS)
    (flows,) = (c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    np.testing.assert_array_equal(flows.get_segments(), [[[0, 0], [2, 1]], [[2, 1], [2, 2]], [[3, 2], [2, 1]]])
    assert (np.diff(flows.get_linewidths()) > 0).all()
    colours = [to_rgb(draw.DEMANDER_COLOURS[m]) for m in (0, 2, 0)]
    np.testing.assert_allclose(flows.get_colors()[:, :3], colours)
    assert (flows.get_colors()[:, 3] < 1).all()


def test_signed_maps_are_white_at_zero_and_grey_without_a_value():
    values = torch.tensor([[-1.0, 3.0], [torch.nan, 0.0]])
    figure = draw.signed_maps({"one": values, "two": torch.zeros(2, 2)}, JOINT)
    one, two = (axes.images[0] for axes in figure.axes[:2])
    assert (one.norm.vmin, one.norm.vmax) == (-3, 3)
    assert two.norm.vmin < 0 < two.norm.vmax  # an empty map is no division by zero
    shade = one.cmap(one.norm(np.ma.masked_invalid(one.get_array())))
    assert min(shade[1, 1, :3]) > 0.95
    assert shade[1, 0, 3] == 0  # so that the axes' grey shows


def test_a_territorys_colour_is_that_of_the_demander_it_serves():
    shares = torch.zeros(4, 5, 4)
    shares[..., 0] = 1
    shares[3, 4] = torch.tensor([0.0, 0.0, 0.5, 0.5])
    figure = draw.territories({"title": shares}, {"title": torch.rand(4, 5)}, POINTS, JOINT)
    picture = figure.axes[0].images[0].get_array()
    colours = np.array([to_rgb(colour) for colour in draw.DEMANDER_COLOURS])
    np.testing.assert_allclose(picture[0, 0], colours[0])
    np.testing.assert_allclose(picture[3, 4], colours[2:].mean(axis=0))
    assert len({tuple(colour) for colour in colours}) == 4


def test_conventions_stand_in_a_grid_each_in_its_place():
    maps = {(row, column): np.full((9, 9), i / 10) for i, (row, column) in enumerate(np.ndindex(2, 3), start=1)}
    maps = {(f"row {row}", f"column {column}"): values for (row, column), values in maps.items()}
    figure = draw.conventions(maps, JOINT)
    assert [axes.get_title() for axes in figure.axes] == ["column 0", "column 1", "column 2", "", "", ""]
    assert [axes.texts[0].get_text() for axes in figure.axes] == [f"peak 0.{i}0" for i in range(1, 7)]


def test_the_demanders_in_the_close_up_are_labelled_with_their_shares():
    shares = torch.tensor([0.28, 0.12, 0.42, 0.18])
    figure = draw.masses(torch.randn(4, 5), torch.rand(4, 5), POINTS, shares, JOINT)
    labels = {
        tuple(np.round([float(v) for v in t.get_position()], 2)): t.get_text()
        for axes in figure.axes
        for t in axes.texts
    }
    assert list(labels.values()) == ["0.28", "0.12", "0.42", "0.18"]
    # upper demanders are labelled above themselves; rows count downwards
    assert [y < 1.5 for _, y in labels] == [True, True, False, False]


def test_arrows_lead_down_the_maps_that_are_named():
    x, y = np.meshgrid(np.arange(8.0), np.arange(6.0))
    bowl = np.hypot(x - 3, y - 2)
    figure = draw.signed_maps({"bowl": bowl, "plain": bowl}, np.array([3.0, 2.0]), downhill=["bowl"])
    named, other = (axes for axes in figure.axes if axes.get_title())
    [arrows] = [found for found in named.collections if isinstance(found, Quiver)]
    assert not [found for found in other.collections if isinstance(found, Quiver)]
    towards = (3 - x.ravel()) * arrows.U + (2 - y.ravel()) * arrows.V
    assert (towards[np.hypot(x - 3, y - 2).ravel() > 1] > 0).all()
    assert np.hypot(arrows.U, arrows.V).max() == pytest.approx(arrows.scale)
