"""The figures of notebook 06 show the numbers that they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from hdmlib.plots import theory as plots_theory


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_the_terms_of_a_heatmap_add_up_to_the_mark():
    terms = {"one": {"gaussian_mse": 3.0, "dot_mse": 4.0, "cross": -6.0, "constant": 5.0}}
    figure = plots_theory.heatmaps_with_terms({"one": np.eye(8)}, (3, 3), terms)
    lower = next(axes for axes in figure.axes if axes.get_xlabel().startswith("sum"))
    bars = lower.patches
    assert [bar.get_width() for bar in bars] == [4.0, -6.0, 5.0]
    assert [bar.get_x() for bar in bars] == [0.0, 0.0, 4.0]  # what is below 0 goes to the left
    assert "3.00" in [text.get_text() for text in lower.texts]


def test_gap_and_constant_are_drawn_as_measured():
    offsets = np.linspace(0, 0.4, 9)
    gaps = {1.0: (-offsets, -offsets), 2.0: (-2 * offsets, -2 * offsets)}
    figure = plots_theory.gap_and_constant(offsets, gaps, [1, 2, 3], {"measured": [2, 11, 27]})
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[2].get_ydata(), -2 * offsets)
    np.testing.assert_allclose(right.lines[0].get_ydata(), [2, 11, 27])
