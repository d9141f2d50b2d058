"""Figures of notebook 01: masses, costs, plans and potentials on the cells of a heatmap. Numbers in, figures out.

A map is an (H, W) array or tensor whose cell in row i, column j is centred on (x, y) = (j, i); points are in cells.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb, to_rgba_array
from matplotlib.figure import Figure

from hdmlib.plots.style import LOSS_LABEL, LOSS_STYLE, Array

# Four demanders, told apart by hue and by lightness (Okabe and Ito).
DEMANDER_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
MASS, SIGNED, HEIGHT = "magma", "RdBu_r", "viridis"
ANNOTATION = {"marker": "+", "color": "#4cc9f0", "markersize": 11, "markeredgewidth": 1.8, "linestyle": "none"}
ON_LIGHT = {**ANNOTATION, "color": "black"}


def loss_by_distance(distances: Array, losses: Mapping[str, Array]) -> Figure:
    """The loss of a heatmap whose peak is shifted away from the annotation.

    Args:
        distances: (T,) distances of the peak from the annotation, in cells.
        losses: Name of a loss -> (T,) values, each on its own scale.
    """
    figure, axes = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
    for name, values in losses.items():
        axes.plot(distances, values, **LOSS_STYLE[name], markevery=10, label=LOSS_LABEL[name])
    axes.set(xlabel="distance of the peak from the annotation (cells)", ylabel="loss / its value at the far end")
    axes.legend()
    return figure


def masses(heatmap: Array, suppliers: Array, points: Array, shares: Array, joint: Array) -> Figure:
    """A heatmap, its suppliers, and the demanders of the annotation.

    Args:
        heatmap: (H, W), of both signs.
        suppliers: (H, W), of mass 1.
        points: (M, 2) demanders.
        shares: (M,) their weights.
        joint: (2,) annotation.
    """
    points, shares = np.asarray(points), np.asarray(shares)
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(10.5, 2.9), layout="constrained", width_ratios=[1, 1, 0.7]
    )
    show_map(left, heatmap, "heatmap $h$", signed=True)
    show_map(middle, suppliers, "suppliers $S$")
    left.plot(*joint, **ON_LIGHT)
    middle.plot(*joint, **ANNOTATION)
    centre = points.mean(axis=0)
    right.set(xlim=(centre[0] - 1.6, centre[0] + 1.6), ylim=(centre[1] + 1.6, centre[1] - 1.6), aspect="equal")
    right.set_xticks(np.unique(points[:, 0]))
    right.set_yticks(np.unique(points[:, 1]))
    right.scatter(*points.T, s=2600 * shares, c=DEMANDER_COLOURS[: len(points)], edgecolors="black", linewidths=0.6)
    for (x, y), share in zip(points, shares, strict=True):
        above = -1 if y < centre[1] else 1
        right.text(x, y + 0.52 * above, f"{share:.2f}", ha="center", va="center", fontsize=9)
    right.plot(*joint, **ON_LIGHT)
    right.set_title("demanders $D$, close up", fontsize=10)
    return figure


def costs(to_one: Array, point: Array, distances: Array, curves: Mapping[str, Array]) -> Figure:
    """The cost of moving mass to one demander, over the map, and each kind of cost against the distance.

    Args:
        to_one: (H, W) cost from each cell.
        point: (2,) that demander.
        distances: (T,) in cells.
        curves: Name of a cost -> (T,) values in its units.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.2, 2.9), layout="constrained", width_ratios=[1.25, 1])
    show_map(left, to_one, "cost $C_{n1}$ to one demander (cells)", colours=HEIGHT)
    left.plot(*point, marker="o", color=DEMANDER_COLOURS[0], markeredgecolor="white", markersize=7)
    for (name, values), dash in zip(curves.items(), ("-", "--", ":"), strict=True):
        right.plot(distances, values, linestyle=dash, color="black", label=name)
    right.set(xlabel="distance (cells)", ylabel="cost", ylim=(0, distances.max()))
    right.set_title("costs on offer", fontsize=10)
    right.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plans(suppliers: Array, flows: Mapping[str, Array], points: Array) -> Figure:
    """Transport plans as flows from cells to demanders; the width and opacity of a line show the mass it carries.

    Args:
        suppliers: (H, W).
        flows: Title -> plan (H W, M), of mass 1.
        points: (M, 2) demanders.
    """
    suppliers, points = np.asarray(suppliers), np.asarray(points)
    figure, row = plt.subplots(
        1, len(flows), figsize=(5.1 * len(flows), 3.7), squeeze=False, layout="constrained", sharey=True
    )
    for axes, (title, plan) in zip(row[0], flows.items(), strict=True):
        axes.imshow(suppliers, cmap="Greys", vmin=0, vmax=1.8 * suppliers.max())
        plan = np.asarray(plan)
        sender, receiver = np.nonzero(plan > 1e-4 * plan.max())  # less could not be seen
        mass = plan[sender, receiver]
        order = np.argsort(mass)  # the heaviest on top
        sender, receiver, mass = sender[order], receiver[order], mass[order]
        cells = np.stack([sender % suppliers.shape[1], sender // suppliers.shape[1]], axis=1)
        colours = to_rgba_array(np.array(DEMANDER_COLOURS)[receiver], alpha=np.clip(0.18 + 14 * mass, 0, 0.85))
        lines = np.stack([cells, points[receiver]], axis=1)
        axes.add_collection(LineCollection(list(lines), colors=colours, linewidths=1.2 + 60 * mass))
        axes.scatter(*points.T, s=46, c=DEMANDER_COLOURS[: len(points)], edgecolors="black", linewidths=0.8, zorder=3)
        _frame(axes, title)
    return figure


def signed_maps(panels: Mapping[str, Array], joint: Array, downhill: Collection[str] = ()) -> Figure:
    """Maps of both signs in a row, red above zero and blue below, with the annotation on each.

    Args:
        panels: Title -> (H, W); NaN where there is nothing to show.
        joint: (2,) annotation.
        downhill: Titles of the maps over which arrows show where each cell's steepest way down leads.
    """
    width = min(3.7, 12 / len(panels))
    figure, row = plt.subplots(
        1, len(panels), figsize=(width * len(panels), 0.75 * width), squeeze=False, layout="constrained", sharey=True
    )
    for axes, (title, values) in zip(row[0], panels.items(), strict=True):
        show_map(axes, values, title, signed=True)
        axes.plot(*joint, **ON_LIGHT)
        if title in downhill:
            down, right = np.gradient(-np.asarray(values))
            # in units of the cells: the steepest arrow is as long as a cell is wide
            axes.quiver(right, down, angles="xy", scale_units="xy", scale=np.hypot(right, down).max(), width=0.006)
    return figure


def territories(shares: Mapping[str, Array], minimisers: Mapping[str, Array], points: Array, joint: Array) -> Figure:
    """Effect of epsilon, a column per value: the demander that each cell serves, and the minimiser of the loss.

    Args:
        shares: Title -> (H, W, M) shares of a cell's mass that go to each demander; a colour each, mixed.
        minimisers: Title -> (H, W) minimiser of the loss.
        points: (M, 2) demanders.
        joint: (2,) annotation.
    """
    figure, grid = plt.subplots(
        2, len(shares), figsize=(2.75 * len(shares), 4.3), squeeze=False, layout="constrained", sharex=True, sharey=True
    )
    points = np.asarray(points)
    palette = np.array([to_rgb(colour) for colour in DEMANDER_COLOURS[: len(points)]])
    for (upper, lower), title in zip(grid.T, shares, strict=True):
        upper.imshow(np.clip(np.asarray(shares[title]) @ palette, 0, 1))
        upper.scatter(*points.T, s=26, c=palette, edgecolors="white", linewidths=0.9, zorder=3)
        _frame(upper, title)
        lower.imshow(np.asarray(minimisers[title]), cmap=MASS, vmin=0)
        lower.plot(*joint, **ANNOTATION)
        _frame(lower, "")
    grid[0, 0].set_ylabel("served demander")
    grid[1, 0].set_ylabel("map asked for")
    return figure


def conventions(minimisers: Mapping[tuple[str, str], Array], joint: Array, reach: float = 5.5) -> Figure:
    """Minimisers of the loss, a row per epsilon, a column per convention, each map on its own scale.

    Args:
        minimisers: (row's name, column's name) -> (H, W).
        joint: (2,) annotation.
        reach: Cells shown to each side of it.
    """
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*minimisers, strict=True))
    figure, grid = plt.subplots(
        len(rows), len(columns), figsize=(2.5 * len(columns), 2.4 * len(rows)), squeeze=False, layout="constrained",
        sharex=True, sharey=True,
    )  # fmt: skip
    x, y = (float(coordinate) for coordinate in joint)
    for (row, column), values in minimisers.items():
        axes = grid[rows.index(row), columns.index(column)]
        axes.imshow(np.asarray(values), cmap=MASS, vmin=0)
        axes.plot(x, y, **ANNOTATION)
        _frame(axes, column if row == rows[0] else "")
        axes.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach))
        axes.text(0.04, 0.05, f"peak {values.max():.2f}", color="white", fontsize=8, transform=axes.transAxes)
    for row, axes in zip(rows, grid[:, 0], strict=True):
        axes.set_ylabel(row)
    return figure


def bumps(offsets: Array, profiles: Mapping[str, Array], gaussian: Array, label: str) -> Figure:
    """Cuts through the minimisers of the loss with one demander, by cost, beside a Gaussian.

    Args:
        offsets: (W,) columns from the demander, in cells.
        profiles: Name of a cost -> (W,) masses, scaled to peak 1.
        gaussian: (W,) likewise.
        label: Legend of the Gaussian.
    """
    figure, axes = plt.subplots(figsize=(6.2, 2.9), layout="constrained")
    axes.plot(offsets, gaussian, color="#b5d4e8", linewidth=7, solid_capstyle="round", label=label)
    for (name, values), dash, marker in zip(profiles.items(), ("-", "--", ":"), "os^", strict=False):
        axes.plot(offsets, values, linestyle=dash, marker=marker, color="black", label=name)
    axes.set(xlabel="distance from the demander (cells)", ylabel="mass / mass at the peak")
    axes.legend()
    return figure


def show_map(axes: Axes, values: Array, title: str, *, signed: bool = False, colours: str = MASS) -> None:
    """One (H, W) map in cells with a colour bar."""
    values = np.asarray(values)
    if signed:
        reach = np.nanmax(np.abs(values)) or 1.0
        image = axes.imshow(values, cmap=SIGNED, vmin=-reach, vmax=reach)
    else:
        image = axes.imshow(values, cmap=colours)
    axes.set_facecolor("#d9d9d9")  # cells without a value
    axes.figure.colorbar(image, ax=axes, shrink=0.85, pad=0.02).ax.tick_params(labelsize=7)
    _frame(axes, title)


def _frame(axes: Axes, title: str) -> None:
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=7)
    axes.locator_params(integer=True)
    axes.set_title(title, fontsize=10)
