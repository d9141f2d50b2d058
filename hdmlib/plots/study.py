"""Figures of a training and of the study: tables of ``study.analysis`` in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hdmlib.metrics.scores import direction
from hdmlib.plots.people import overlay, show_picture
from hdmlib.plots.style import LOSS_LABEL, LOSS_STYLE, Array

# The cost of the supplement is drawn as a lighter matching.
STYLES: dict[str, dict[str, Any]] = {
    **LOSS_STYLE,
    "matching, plain distance": {"color": "#e58a8d", "linestyle": (0, (3, 1)), "marker": "P"},
}
STYLES["the sum"] = {"color": "#7b1fa2", "linestyle": (0, (6, 1)), "marker": "*"}
STYLES["the letter"] = {"color": "#a0616a", "linestyle": (0, (1, 1)), "marker": "X"}
LABELS = {**LOSS_LABEL, **{name: name for name in ("matching, plain distance", "the sum", "the letter")}}
LABELS |= {
    f"gaussian_mse{more}": f"{LOSS_LABEL['gaussian_mse']}{more}" for more in (" + likelihood", ", twice as wide")
}
_TRUTH = {"marker": "+", "color": "#4cc9f0", "markersize": 9, "markeredgewidth": 1.2, "linestyle": "none"}
TERM_NAMES = {
    "map: gaussian_mse": (r"$\|H - G\|^2$: the loss, summed over cells", "black", "-"),
    "map: dot_mse": (r"$\|H - d\|^2$: the dot is missed", "#0b3c5d", "--"),
    "map: cross": (r"$2\langle H, d - G\rangle$: the skirt is filled", "#d9722e", "-."),
}


def loss_against_score(curves: Mapping[str, pd.DataFrame], metric: str, first: int = 2) -> Figure:
    """Fig. 2: over the epochs, the validation loss and the score; a panel for each loss, a line for each seed.

    All panels have one scale of the score, so that what it goes up and down by can be compared.

    Args:
        curves: Label -> rows as ``analysis.curves`` returns them.
        metric: The score, larger is better.
        first: First epoch shown.
    """
    layout = ConstrainedLayoutEngine(wspace=0.04)
    figure, panels = plt.subplots(1, len(curves), figsize=(4.7 * len(curves), 3.3), layout=layout, squeeze=False)
    scores = pd.concat([table.loc[table["epoch"] >= first, metric] for table in curves.values()])
    margin = 0.05 * (scores.max() - scores.min()) or 1.0
    for axes, (label, table) in zip(panels[0], curves.items(), strict=True):
        style = _style(label)
        other = axes.twinx()
        for number, (_, run) in enumerate(table[table["epoch"] >= first].groupby("seed")):
            strength = {"alpha": 1.0 if number == 0 else 0.35}
            axes.plot(run["epoch"], run["own loss"], color="black", linestyle="--", **strength)
            other.plot(run["epoch"], run[metric], color=style["color"], marker=style["marker"], **strength)
        axes.set(title=LABELS.get(label, label), xlabel="epoch", ylabel="validation loss (dashed)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        other.set_ylabel(f"{metric} (%)", color=style["color"])
        other.set_ylim(scores.min() - margin, scores.max() + margin)
        other.spines["right"].set_visible(True)
        other.grid(visible=False)
    return figure


def wobble_by_rate(table: pd.DataFrame, metric: str, least: float) -> Figure:
    """Fig. 2 at several constant rates: how often the score falls while the loss falls, and the score at the end.

    Args:
        table: Index (label, factor of the tuned rate); columns ``fell``, epochs whose loss fell, ``worse``, those of
            them whose score fell, too, and ``score``, after the last epoch in percent.
        metric: The score.
        least: Share of worse epochs that the claim asks of the Gaussian; a line.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.2), layout="constrained")
    for label, part in table.groupby(level=0, sort=False):
        part, name = part.droplevel(0).sort_index(), LABELS.get(str(label), str(label))
        left.plot(part.index, 100 * part["worse"] / part["fell"], **_style(label), label=name)
        right.plot(part.index, part["score"], **_style(label))
    left.axhline(100 * least, color="0.5", linewidth=1)
    left.annotate(
        "what the claim asks of the Gaussian",
        (0, 100 * least),
        (4, 3),
        left.get_yaxis_transform(),
        "offset points",
        color="0.4",
    )
    left.margins(y=0.12)
    left.set_ylabel(f"epochs with a lower {metric},\n% of those with a lower loss")
    right.set_ylabel(f"{metric} after the last epoch (%)")
    factors = sorted(table.index.unique(level=1))
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="constant rate / tuned rate", xticks=factors, xticklabels=[f"{one:g}" for one in factors])
    figure.legend(loc="outside right center")
    return figure


def terms_by_epoch(curve: pd.DataFrame, metric: str, first: int = 1) -> Figure:
    """Theorem 1's terms over the epochs of one run, and the score above them.

    Args:
        curve: Rows of one run, as ``analysis.curves`` returns them.
        metric: The score.
        first: First epoch shown.
    """
    curve = pd.DataFrame(curve[curve["epoch"] >= first])
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(7.4, 4.6), layout="constrained", sharex=True, height_ratios=[1, 1.7]
    )
    upper.plot(curve["epoch"], curve[metric], color=LOSS_STYLE["gaussian_mse"]["color"], marker="s")
    upper.set_ylabel(f"{metric} (%)")
    for name, (label, colour, line) in TERM_NAMES.items():
        lower.plot(curve["epoch"], curve[name], color=colour, linestyle=line, label=label)
    constant = curve["map: constant"].mean()
    lower.axhline(constant, color="#b0b0b0", linewidth=1.2, label=f"$C$ = {constant:.2f}, whatever the network does")
    lower.set(xlabel="epoch", ylabel="mean over joints")
    lower.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def grid_of_scores(tables: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Losses in rows, decoders in columns, a panel for each metric; the best of each panel is framed.

    Args:
        tables: Metric -> frame with losses as index, decoders as columns, mean over the seeds as values.
        title: Title of the whole figure.
    """
    figure, panels = plt.subplots(
        1, len(tables), figsize=(4.4 * len(tables) + 0.8, 3.1), layout="constrained", squeeze=False
    )
    for number, (axes, (metric, table)) in enumerate(zip(panels[0], tables.items(), strict=True)):
        shown = table.rename(index=LABELS)
        sns.heatmap(
            shown, ax=axes, annot=True, fmt=".1f", cmap="viridis", cbar=False, linewidths=1, annot_kws={"size": 9},
            yticklabels=number == 0,
        )  # fmt: skip
        row, column = np.unravel_index(np.nanargmax(table.to_numpy()), table.shape)
        axes.add_patch(Rectangle((float(column), float(row)), 1, 1, fill=False, edgecolor="#c1272d", linewidth=2.5))
        axes.set(title=metric, xlabel="", ylabel="")
        axes.tick_params(axis="x", rotation=35)
    figure.suptitle(title)
    return figure


def scores_with_seeds(table: pd.DataFrame, metrics: Sequence[str], group: str = "label") -> Figure:
    """Each loss's mean and its seeds, a panel for each metric.

    Args:
        table: A row per run with the columns ``group`` and the metrics.
        metrics: Columns to show.
        group: Column that names the loss.
    """
    order = list(dict.fromkeys(table[group]))
    figure, panels = plt.subplots(
        1, len(metrics), figsize=(2.3 * len(metrics) + 2.2, 0.42 * len(order) + 1.1), layout="constrained", sharey=True,
        squeeze=False,
    )  # fmt: skip
    for axes, metric in zip(panels[0], metrics, strict=True):
        for row, label in enumerate(order):
            values = table.loc[table[group] == label, metric].to_numpy()
            style = _style(label)
            axes.plot(values, np.full(len(values), row), "o", color=style["color"], alpha=0.45, markersize=5)
            axes.plot(values.mean(), row, "|", color=style["color"], markersize=17, markeredgewidth=2.5)
        axes.set(xlabel=_with_unit(metric), ylim=(len(order) - 0.5, -0.5))
        axes.locator_params(axis="x", nbins=4)
        axes.grid(visible=False, axis="y")
    panels[0, 0].set_yticks(range(len(order)), [LABELS.get(label, label) for label in order])
    return figure


def _with_unit(metric: str) -> str:
    return f"{metric} ({'px' if metric.endswith('error') else '%'})"


# Outcome of a comparison -> marker and colour; told apart in grey by the marker.
OUTCOMES = {"holds": ("o", "#009e73"), "undecided": ("o", "#8a8a8a"), "fails": ("X", "#c1272d")}


def forest(table: pd.DataFrame, metrics: Sequence[str], apart: str = "") -> Figure:
    """Paired differences with their intervals: a row per comparison, a panel per metric, a line at no difference.

    Args:
        table: Index (comparison, metric); columns ``difference``, ``low``, ``high`` and ``outcome``, which decides the
            marker: filled if it holds, open if undecided, a cross if it fails.
        metrics: Metrics to show, in order.
        apart: Comparisons that begin with it stand above the others, on scales of their own: their differences are
            many times larger. Empty: none.
    """
    order = list(dict.fromkeys(table.index.get_level_values(0)))
    bands = [[name for name in order if bool(apart and name.startswith(apart)) is first] for first in (True, False)]
    bands = [band for band in bands if band]
    figure, panels = plt.subplots(
        len(bands), len(metrics), figsize=(2.3 * len(metrics) + 2.2, 0.36 * len(order) + 0.7 + 0.4 * len(bands)),
        layout="constrained", sharey="row", squeeze=False, height_ratios=[len(band) for band in bands],
    )  # fmt: skip
    for band, line in zip(bands, panels, strict=True):
        for axes, metric in zip(line, metrics, strict=True):
            _intervals(axes, [dict(table.loc[(comparison, metric)]) for comparison in band])
            axes.locator_params(axis="x", nbins=4)
        line[0].set_yticks(range(len(band)), band)
    for top, bottom, metric in zip(panels[0], panels[-1], metrics, strict=True):
        top.set_title(_with_unit(metric))
        bottom.set_xlabel(f"{'more' if direction(metric) > 0 else 'less'} is better")
    return figure


def _intervals(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """One panel of :func:`forest`."""
    for place, found in enumerate(rows):
        marker, colour = OUTCOMES[found["outcome"]]
        fill = "none" if found["outcome"] == "undecided" else "full"
        axes.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2)
        axes.plot(found["difference"], place, marker=marker, color=colour, fillstyle=fill, markersize=7)
    axes.axvline(0, color="#555555", linewidth=1)
    axes.set(ylim=(len(rows) - 0.5, -0.5))
    axes.grid(visible=False, axis="y")


def changes(table: pd.DataFrame, metrics: Sequence[str], reference: str) -> Figure:
    """Effect of each change to a recipe: a row per change, its trials as dots, the best of them filled.

    Args:
        table: A row per trial with the columns ``change`` and the metrics.
        metrics: Columns to show.
        reference: The unchanged recipe; its best trial is drawn as a line through all rows.
    """
    order = list(dict.fromkeys(table["change"]))
    figure, panels = plt.subplots(
        1, len(metrics), figsize=(3.4 * len(metrics) + 2.2, 0.29 * len(order) + 0.9), layout="constrained", sharey=True,
        squeeze=False,
    )  # fmt: skip
    for axes, metric in zip(panels[0], metrics, strict=True):
        best_of = np.max if direction(metric) > 0 else np.min
        for row, change in enumerate(order):
            values = table.loc[table["change"] == change, metric].to_numpy()
            colour = "#555555" if change == reference else LOSS_STYLE["matching"]["color"]
            axes.plot(values, np.full(len(values), row), "o", color=colour, fillstyle="none", markersize=5, alpha=0.6)
            axes.plot(best_of(values), row, "o", color=colour, markersize=6)
        line = best_of(table.loc[table["change"] == reference, metric])
        axes.axvline(line, color="#555555", linewidth=1, linestyle=":")
        axes.set(xlabel=_with_unit(metric), ylim=(len(order) - 0.5, -0.5))
    panels[0, 0].set_yticks(range(len(order)), order)
    return figure


def by_difficulty(tables: Mapping[str, pd.DataFrame], xlabel: str, metric: str) -> Figure:
    """A score against a measure of difficulty, a line for each loss, a panel for each table.

    Args:
        tables: Title -> frame with the bins as index (their labels as strings) and losses as columns.
        xlabel: Name of the binned quantity.
        metric: Name of the values, with their unit.
    """
    figure, panels = plt.subplots(
        1, len(tables), figsize=(4.6 * len(tables) + 1.4, 3.3), layout="constrained", squeeze=False
    )
    for axes, (title, table) in zip(panels[0], tables.items(), strict=True):
        for label in table:
            axes.plot(range(len(table)), table[label], **_style(label), label=LABELS.get(label, label))
        axes.set_xticks(range(len(table)), table.index)
        axes.set(title=title, xlabel=xlabel, ylabel=metric)
    panels[0, -1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def reliability_diagram(tables: Mapping[str, pd.DataFrame], least: int = 20) -> Figure:
    """Share of joints found against their confidence, a line for each loss; on the diagonal it is a probability.

    Args:
        tables: Label -> table as ``metrics.calibration`` returns it.
        least: Smallest number of joints of a bin that is drawn.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.9), layout="constrained")
    axes.plot([0, 1], [0, 1], color="#555555", linewidth=1, linestyle=":")
    for label, table in tables.items():
        full = table[table["joints"] >= least]
        axes.plot(full["confidence"], full["found"], **_style(label), label=LABELS.get(label, label))
    axes.set(xlabel="confidence", ylabel="share of joints found", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def bars(table: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """A panel for each column, a bar for each loss, in its colour, with its value.

    Args:
        table: Labels as index.
        titles: Column -> title of its panel, with the unit.
    """
    figure, panels = plt.subplots(1, len(titles), figsize=(3.7 * len(titles), 3.3), layout="constrained", squeeze=False)
    for axes, (column, title) in zip(panels[0], titles.items(), strict=True):
        for position, (label, value) in enumerate(table[column].items()):
            axes.bar(position, value, color=_style(label)["color"], width=0.7)
            axes.annotate(f"{value:.2f}", (position, value), ha="center", va="bottom", fontsize=9)
        names = [LABELS.get(label, label) for label in table.index]
        axes.set_xticks(range(len(table)), names, rotation=35, ha="right", fontsize=9)
        axes.set_title(title)
        axes.grid(visible=False, axis="x")
    return figure


def error_against_entropy(sharpened: pd.DataFrame, trials: pd.DataFrame) -> Figure:
    """Whether compact heatmaps are exact ones: one network's maps, sharpened, and many trainings side by side.

    Args:
        sharpened: A row per power and decoder with the columns ``decoder``, ``power``, ``entropy``, ``median error``.
        trials: A row per training with the columns ``loss``, ``entropy``, ``median error``.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained")
    styles = zip("osD^v", ("-", "--", "-.", ":", (0, (5, 1, 1, 1))), strict=True)
    left.margins(y=0.1)
    for (decoder, part), (marker, dash) in zip(sharpened.groupby("decoder", sort=False), styles, strict=False):
        left.plot(part["entropy"], part["median error"], marker=marker, linestyle=dash, color="#0072b2", label=decoder)
    for _, row in pd.DataFrame(sharpened[sharpened["decoder"] == sharpened["decoder"].iloc[0]]).iterrows():
        place = {"xycoords": left.get_xaxis_transform(), "ha": "center", "va": "bottom", "fontsize": 9}
        left.annotate(f"$h^{{{row['power']:.0f}}}$", (row["entropy"], 0.01), **place)
    left.set(title="Gaussian MSE, its maps to a power", ylabel="median error (px)")
    left.legend(title="read by")
    for label, part in trials.groupby("loss", sort=False):
        style = {**_style(label), "linestyle": "none"}
        right.plot(part["entropy"], part["median error"], **style, alpha=0.7, label=LABELS.get(str(label), label))
    right.set(title="a training each", ylabel="median error (px)")
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in (left, right):
        axes.set_xlabel("entropy of a heatmap (nats)")
    return figure


def pull_by_share(shares: NDArray[np.floating], pulls: Mapping[str, Sequence[float]]) -> Figure:
    """How strongly each loss pulls mass to the joint, against the share that lies there already; logarithmic axes.

    Args:
        shares: (N,) shares between 0 and 1.
        pulls: Label -> (N,) pulls, relative to that at one half.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for label, values in pulls.items():
        axes.plot(shares, values, **{**_style(label), "marker": ""}, label=LABELS.get(label, label))
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="share of the mass at the joint",
        ylabel="pull, relative to that\nat a share of 0.5",
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def maps_and_profiles(maps: Mapping[str, Array], row: int, marks: Mapping[str, int]) -> Figure:
    """The map of each loss, and below it the values along one of its rows.

    Args:
        maps: Label -> (H, W).
        row: The row.
        marks: Name of a place on the row -> its column.
    """
    figure, panels = plt.subplots(2, len(maps), figsize=(11, 3.9), layout="constrained", height_ratios=[1.1, 1])
    for (upper, lower), (label, values) in zip(panels.T, maps.items(), strict=True):
        upper.imshow(values, cmap="magma")
        upper.set(title=LABELS.get(label, label), xticks=[], yticks=[])
        upper.grid(visible=False)
        lower.plot(values[row] / values.max(), color=_style(label)["color"], marker="o", markersize=3)
        lower.set(xlabel="cell along the row", xticks=[*marks.values()], xticklabels=[*marks])
    panels[1, 0].set_ylabel("value / peak")
    return figure


def _style(label: Any) -> Mapping[str, Any]:
    return STYLES.get(label, {"color": "#555555", "linestyle": "-", "marker": "o"})


def heatmaps_by_loss(
    pictures: NDArray[np.uint8],
    maps: Mapping[str, NDArray[np.floating]],
    predicted: Mapping[str, NDArray[np.floating]],
    truth: NDArray[np.floating],
    titles: Sequence[str],
) -> Figure:
    """Fig. 1 and Fig. 3: one joint of a person in each row, the heatmaps of each loss in a column of their own.

    Args:
        pictures: (N, H, W, 3) uint8 crops.
        maps: Label -> (N, h, w) heatmaps of the joints shown.
        predicted: Label -> (N, 2) decoded joints in pixels of the crops.
        truth: (N, 2) annotation likewise.
        titles: (N,) names of the joints.
    """
    figure, grid = plt.subplots(
        len(pictures), 1 + len(maps), figsize=(2.0 * (1 + len(maps)), 2.12 * len(pictures)), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for i, row in enumerate(grid):
        show_picture(row[0], pictures[i], titles[i])
        row[0].plot(*truth[i], **_TRUTH)
        for axes, label in zip(row[1:], maps, strict=True):
            off = np.linalg.norm(predicted[label][i] - truth[i])
            name = f"{LABELS.get(label, label)}\n" if i == 0 else ""
            overlay(axes, pictures[i], np.maximum(maps[label][i], 0), f"{name}{off:.1f} px off")
            axes.plot(*truth[i], **_TRUTH)
            axes.plot(*predicted[label][i], marker="x", color="white", markersize=5, markeredgewidth=1.1)
    return figure


def maps_as_distributions(
    maps: Mapping[str, Array], entropies: Mapping[str, Sequence[float]], titles: Sequence[str]
) -> Figure:
    """Heatmaps as the distributions that they are measured as: a row for each loss, a column for each joint.

    The colours are logarithmic, so that they show the mass far from the peak; below each map stands its entropy.

    Args:
        maps: Label -> (N, h, w) heatmaps; what is negative counts as 0.
        entropies: Label -> those of its N maps, in nats.
        titles: Of the N columns.
    """
    count = len(titles)
    figure, panels = plt.subplots(
        len(maps), count, figsize=(1.9 * count + 0.9, 2.1 * len(maps) + 0.3), layout="constrained", squeeze=False
    )
    colours = ScalarMappable(LogNorm(1e-5, 1), "inferno")
    for line, (label, heatmaps) in zip(panels, maps.items(), strict=True):
        positive = np.clip(heatmaps, 0, None)
        for axes, mass, entropy in zip(line, positive, entropies[label], strict=True):
            axes.imshow(mass / (mass.sum() or 1.0), norm=colours.norm, cmap=colours.cmap)
            axes.set(xticks=[], yticks=[], facecolor="black", xlabel=f"entropy {entropy:.1f}")
        line[0].set_ylabel(LABELS.get(label, label))
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title)
    figure.colorbar(colours, ax=panels, shrink=0.8, label="share of the mass in a cell")
    return figure


def training_curves(curve: pd.DataFrame, loss: str) -> Figure:
    """Training and validation loss on the left, PCK on the right, by epoch.

    Args:
        curve: The epochs so far of one run, as ``analysis.epoch_rows`` returns them.
        loss: Name of the loss that it trains.
    """
    style, trained = LOSS_STYLE[loss], curve["training loss"].notna()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained")
    training = {**style, "marker": "", "alpha": 0.55}
    left.plot(curve["epoch"][trained], curve["training loss"][trained], **training, label="training")
    left.plot(curve["epoch"], curve["own loss"], **style, label="validation")
    left.set(xlabel="epoch", ylabel="loss", title=f"{LOSS_LABEL[loss]} loss")
    left.legend()
    scores = [name for name in curve if name.startswith("PCK")]
    for label, marker, dash in zip(scores, "os", ("-", "--"), strict=True):
        right.plot(curve["epoch"], curve[label], color=style["color"], marker=marker, linestyle=dash, label=label)
    right.set(xlabel="epoch", ylabel="validation joints found (%)", title="accuracy", ylim=(0, 100))
    right.legend()
    return figure
