"""The figures of the study show the numbers that they are given, under the right names."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hdmlib.plots import study as draw


@pytest.fixture(autouse=True)
def _no_window():
    with mpl.rc_context({"backend": "Agg"}):
        yield
    plt.close("all")


def curves(label, seeds=(0, 1)):
    rows = [
        {"label": label, "seed": seed, "epoch": epoch, "own loss": 5.0 - epoch, "PCKh@0.5": 10.0 * epoch + seed}
        for seed in seeds
        for epoch in range(6)
    ]
    return pd.DataFrame(rows)


def test_loss_and_score_of_every_seed_from_the_first_epoch_on():
    figure = draw.loss_against_score(
        {"matching": curves("matching"), "gaussian_mse": curves("gaussian_mse")}, "PCKh@0.5"
    )
    left, right = figure.axes[0], figure.axes[2]
    np.testing.assert_array_equal(left.lines[0].get_xdata(), [2, 3, 4, 5])
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [3, 2, 1, 0])
    np.testing.assert_array_equal(right.lines[1].get_ydata(), [21, 31, 41, 51])
    assert left.get_title() == "matching"


def test_the_share_of_worse_epochs_and_the_score_stand_by_the_rate():
    index = pd.MultiIndex.from_product([["gaussian_mse", "the letter"], [0.5, 1.0]])
    table = pd.DataFrame({"fell": [10, 20, 10, 10], "worse": [1, 5, 0, 3], "score": [60.0, 70.0, 50.0, 55.0]}, index)
    figure = draw.wobble_by_rate(table, "PCKh@0.5", least=0.2)
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [10, 25])
    np.testing.assert_allclose(right.lines[1].get_ydata(), [50, 55])
    np.testing.assert_allclose(right.lines[1].get_xdata(), [0.5, 1])


def test_the_best_of_a_grid_is_framed():
    table = pd.DataFrame([[1.0, 2.0], [np.nan, 3.5]], index=["matching", "dot_mse"], columns=["argmax", "dark"])
    figure = draw.grid_of_scores({"AP": table})
    [frame] = figure.axes[0].patches
    assert (frame.get_x(), frame.get_y()) == (1, 1)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.0", "2.0", "3.5"]


def test_means_stand_among_their_seeds():
    table = pd.DataFrame({"label": ["matching"] * 3 + ["dot_mse"], "AP": [1.0, 2.0, 6.0, 5.0]})
    figure = draw.scores_with_seeds(table, ["AP"])
    dots, mean = figure.axes[0].lines[:2]
    np.testing.assert_array_equal(dots.get_xdata(), [1, 2, 6])
    assert float(np.ravel(mean.get_xdata())[0]) == 3
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["matching", "dot MSE"]


def test_panels_of_fig_2_have_one_scale_of_the_score():
    low = curves("gaussian_mse").assign(**{"PCKh@0.5": 3.0})
    figure = draw.loss_against_score({"matching": curves("matching"), "gaussian_mse": low}, "PCKh@0.5", first=2)
    limits = [axes.get_ylim() for axes in figure.axes if axes.get_ylabel() == "PCKh@0.5 (%)"]
    assert len(limits) == 2
    assert limits[0] == limits[1]
    assert limits[0][0] < 3
    assert limits[0][1] > 51


@pytest.mark.parametrize(("apart", "bands"), [("", [3]), ("minus a", [2, 1])])
def test_comparisons_apart_have_scales_of_their_own(apart, bands):
    index = pd.MultiIndex.from_product([["minus a, own", "minus b, own", "minus a, same"], ["AP", "mean error"]])
    outcomes = ["holds", "fails", "undecided", "holds", "holds", "holds"]
    table = pd.DataFrame({"difference": [50.0, 1, 0.1, 2, 60, 3], "outcome": outcomes}, index)
    table = table.assign(low=table["difference"] - 1, high=table["difference"] + 1)
    figure = draw.forest(table, ["AP", "mean error"], apart)
    first = figure.axes[::2]
    assert [len(axes.get_yticks()) for axes in first] == bands
    names = [label.get_text() for axes in first for label in axes.get_yticklabels()]
    expected = (
        ["minus a, own", "minus a, same", "minus b, own"] if apart else list(dict.fromkeys(index.get_level_values(0)))
    )
    assert names == expected
    assert [axes.get_title() for axes in figure.axes[:2]] == ["AP (%)", "mean error (px)"]
    assert [axes.get_xlabel() for axes in figure.axes[-2:]] == ["more is better", "less is better"]


@pytest.mark.parametrize(("metric", "best"), [("AP", 7.0), ("mean error", 2.0)])
def test_the_best_trial_of_a_change_is_filled_and_the_start_is_a_line(metric, best):
    table = pd.DataFrame({"change": ["none", "none", "more", "more"], metric: [3.0, 4.0, 2.0, 7.0]})
    axes = draw.changes(table, [metric], "none").axes[0]
    filled = [float(np.ravel(line.get_xdata())[0]) for line in axes.lines if line.get_fillstyle() == "full"]
    start = 3.0 if metric == "mean error" else 4.0
    assert filled[:2] == [start, best]
    assert axes.lines[-1].get_xdata()[0] == start


def test_bars_carry_the_names_of_the_losses():
    table = pd.DataFrame({"entropy": [1.5, 2.5]}, index=["matching", "matching, plain distance"])
    axes = draw.bars(table, {"entropy": "entropy (nats)"}).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["matching", "matching, plain distance"]
    assert [bar.get_height() for bar in axes.patches] == [1.5, 2.5]
    assert [text.get_text() for text in axes.texts] == ["1.50", "2.50"]


def test_every_loss_has_a_line_over_the_bins():
    table = pd.DataFrame({"matching": [1.0, 2.0], "gaussian_mse": [3.0, np.nan]}, index=["few", "many"])
    axes = draw.by_difficulty({"people": table}, "bins", "PCKh").axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [1, 2])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["matching", "Gaussian MSE"]


def test_heatmaps_are_told_how_far_off_they_are():
    pictures, maps = np.zeros((1, 16, 16, 3), np.uint8), {"matching": np.eye(4)[None], "dot_mse": -np.eye(4)[None]}
    predicted = {"matching": np.array([[3.0, 4.0]]), "dot_mse": np.array([[0.0, 1.0]])}
    figure = draw.heatmaps_by_loss(pictures, maps, predicted, np.zeros((1, 2)), ["nose"])
    assert [axes.get_title() for axes in figure.axes] == ["nose", "matching\n5.0 px off", "dot MSE\n1.0 px off"]


def test_a_reliability_diagram_leaves_out_bins_with_few_joints():
    table = pd.DataFrame({"confidence": [0.1, 0.5, 0.9], "found": [0.2, 0.4, 0.8], "joints": [100, 3, 50]})
    [axes] = draw.reliability_diagram({"matching": table}).axes
    diagonal, line = axes.lines
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_array_equal(line.get_xdata(), [0.1, 0.9])
    np.testing.assert_array_equal(line.get_ydata(), [0.2, 0.8])


def test_error_against_entropy_draws_a_line_a_decoder_and_the_trainings_of_each_loss():
    sharpened = pd.DataFrame(
        {
            "decoder": ["dark"] * 2 + ["mean"] * 2,
            "power": [1, 2] * 2,
            "entropy": [3.0, 2.0] * 2,
            "median error": range(4),
        }
    ).assign(**{"median error": range(4)})
    trials = pd.DataFrame({"loss": ["matching", "the sum"], "entropy": [2.0, 2.5], "median error": [2.4, 2.2]})
    left, right = draw.error_against_entropy(sharpened, trials).axes
    assert [line.get_label() for line in left.lines] == ["dark", "mean"]
    assert {tuple(line.get_xydata()[0]) for line in right.lines} == {(2.0, 2.4), (2.5, 2.2)}


def test_maps_as_distributions_have_their_mass_and_state_their_entropy():
    flat, dot = np.ones((1, 4, 4)), np.zeros((1, 4, 4))
    dot[0, 1, 2], dot[0, 0, 0] = 3.0, -5.0  # what is negative has no mass
    maps = np.concatenate([flat, dot, np.zeros((1, 4, 4))])
    titles = ["nose", "left wrist", "right knee"]
    figure = draw.maps_as_distributions({"gaussian_mse": maps}, {"gaussian_mse": [2.77, 0.0, 0.0]}, titles)
    left, middle, right = figure.axes[:3]
    assert (left.get_xlabel(), middle.get_xlabel()) == ("entropy 2.8", "entropy 0.0")
    assert (left.get_ylabel(), middle.get_title()) == ("Gaussian MSE", "left wrist")
    np.testing.assert_allclose(left.images[0].get_array(), 1 / 16)
    assert middle.images[0].get_array()[1, 2] == 1
    assert not np.any(right.images[0].get_array())
