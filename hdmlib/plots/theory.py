"""The figures of notebook 06: the terms of Theorem 1. Numbers in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from hdmlib.plots.style import Array
from hdmlib.plots.transport import ON_LIGHT, show_map

# The terms of the right side, dark to light; the last is what no heatmap can change.
TERM_COLOURS = {"dot_mse": "#0b3c5d", "cross": "#d9722e", "constant": "#c9c9c9"}
TERM_LABELS = {
    "dot_mse": r"$\|H - d\|^2$: the dot is missed",
    "cross": r"$2\langle H, d - G\rangle$: the skirt is filled (below 0)",
    "constant": r"$C$: whatever $H$ is",
}


def heatmaps_with_terms(
    heatmaps: Mapping[str, Array], joint: Array, terms: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Heatmaps, and below them the terms that their squared errors consist of.

    Args:
        heatmaps: Title -> (H, W).
        joint: (2,) annotation in cells.
        terms: Title -> name of a term -> value; their sum, ``gaussian_mse``, is marked.
    """
    figure = plt.figure(figsize=(2.5 * len(heatmaps), 4.9), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.1], squeeze=False)[:, 0]
    panels = upper.subplots(1, len(heatmaps), squeeze=False)[0]
    for axes, (title, heatmap) in zip(panels, heatmaps.items(), strict=True):
        show_map(axes, heatmap, title, signed=True)
        axes.plot(*joint, **ON_LIGHT)
    axes = lower.subplots()
    for row, title in enumerate(heatmaps):
        signed = {True: 0.0, False: 0.0}  # where the next piece begins, to the left and to the right of 0
        for name, colour in TERM_COLOURS.items():
            value = terms[title][name]
            label = TERM_LABELS[name] if row == 0 else None
            axes.barh(row, value, left=signed[value < 0], color=colour, height=0.55, label=label)
            signed[value < 0] += value
        total = terms[title]["gaussian_mse"]
        axes.plot([total] * 2, [row - 0.38, row + 0.38], color="black", linewidth=2.2)
        axes.annotate(f"{total:.2f}", (total, row - 0.42), ha="center", va="bottom", fontsize=9)
    axes.plot([], [], color="black", linewidth=2.2, label=r"their sum, $\|H - G\|^2$")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(heatmaps)), [title.split("\n")[0] for title in heatmaps])
    axes.set(xlabel="sum of squares over the cells", ylim=(len(heatmaps) - 0.45, -0.75))
    axes.grid(visible=False, axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def gap_and_constant(
    offsets: Array,
    gaps: Mapping[float, tuple[Array, Array]],
    sigmas: Sequence[float],
    constants: Mapping[str, Array],
) -> Figure:
    """The gap of Theorem 1 off the grid, and its constant C.

    Args:
        offsets: (T,) distance of the annotation from its cell.
        gaps: sigma -> measured (T,) and closed form (T,).
        sigmas: (S,) widths.
        constants: Name -> (S,) values of C.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.2), layout="constrained")
    for shade, (sigma, (measured, closed)) in zip(("#0b3c5d", "#3282b8", "#8fbfdc"), gaps.items(), strict=False):
        left.plot(offsets, closed, color=shade, label=f"$\\sigma$ = {sigma:g}")
        left.plot(np.asarray(offsets)[::4], np.asarray(measured)[::4], "o", color=shade, markersize=4)
    left.set(xlabel="distance of the annotation from its cell (cells)", ylabel=r"gap $2(\langle d, G\rangle - |d|^2)$")
    left.legend(title="dots: measured")
    for (name, values), style in zip(constants.items(), ("o", "-", "--"), strict=False):
        right.plot(sigmas, values, style, color="#0b3c5d" if style == "o" else "#d9722e", label=name, markersize=4)
    right.set(xlabel=r"$\sigma$ (cells)", ylabel="C")
    right.legend()
    return figure
