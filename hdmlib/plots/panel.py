"""One panel of the matching loss that is redrawn in place, and the descent of heatmaps as a strip and as an animation.

Numbers in, pictures out; maps, points and colours as in ``plots.transport``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from PIL import Image

from hdmlib.files import write_atomically
from hdmlib.plots.style import Array, figures_folder
from hdmlib.plots.transport import ANNOTATION, DEMANDER_COLOURS, MASS, ON_LIGHT, SIGNED

# The heaviest flows of a plan that are drawn: more cannot be told apart, and drawing them takes most of a redraw.
FLOWS = 160


class LossPanel:
    """Suppliers, plan, potential and direction of descent side by side; a redraw changes the artists, not the axes.

    Args:
        size: (H, W) of the heatmap.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        blank = np.zeros(size)
        self.figure, self.axes = plt.subplots(1, 4, figsize=(12.4, 2.65), dpi=80)
        self.figure.subplots_adjust(left=0.02, right=0.995, top=0.87, bottom=0.09, wspace=0.08)
        titles = ("suppliers $S$", "plan $P$", "potential", "direction of descent")
        maps = (MASS, "Greys", SIGNED, SIGNED)
        self.images = [axes.imshow(blank, cmap=colours) for axes, colours in zip(self.axes, maps, strict=True)]
        self.crosses = [axes.plot([0], [0], **mark)[0] for axes, mark in zip(self.axes, self._marks(), strict=True)]
        self.flows = self.axes[1].add_collection(LineCollection([]))
        self.demanders = self.axes[1].scatter([], [], s=40, edgecolors="black", linewidths=0.8, zorder=3)
        for axes, title in zip(self.axes, titles, strict=True):
            axes.set_title(title, fontsize=10)
            axes.set(xticks=[], yticks=[], xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5), autoscale_on=False)
            axes.grid(False)
            axes.spines[:].set_visible(False)

    @staticmethod
    def _marks() -> list[dict[str, Any]]:
        return [ANNOTATION, {**ON_LIGHT, "alpha": 0}, ON_LIGHT, ON_LIGHT]

    def update(
        self, suppliers: Array, plan: Array, points: Array, potential: Array, descent: Array, joint: Array
    ) -> None:
        """Show another state.

        Args:
            suppliers: (H, W), of mass 1.
            plan: (H W, M), of mass 1.
            points: (M, 2) demanders.
            potential: (H, W), up to a constant.
            descent: (H, W), the negative derivative of the loss with respect to the heatmap.
            joint: (2,) annotation.
        """
        suppliers, plan, points = np.asarray(suppliers), np.asarray(plan), np.asarray(points)
        for image, values in zip(self.images[:2], (suppliers, suppliers), strict=True):
            image.set_data(values)
        self.images[0].set_clim(0, suppliers.max())
        self.images[1].set_clim(0, 1.8 * suppliers.max())
        for image, values in zip(self.images[2:], (np.asarray(potential), np.asarray(descent)), strict=True):
            reach = np.abs(values).max() or 1.0
            image.set_data(values)
            image.set_clim(-reach, reach)
        for cross in self.crosses:
            cross.set_data([float(joint[0])], [float(joint[1])])
        self._draw_flows(plan, points, suppliers.shape[1])

    def _draw_flows(self, plan: np.ndarray, points: np.ndarray, width: int) -> None:
        heaviest = np.sort(np.argsort(plan, axis=None)[-FLOWS:])
        sender, receiver = np.unravel_index(heaviest, plan.shape)
        mass = plan[sender, receiver]
        cells = np.stack([sender % width, sender // width], axis=1)
        colours = np.array(DEMANDER_COLOURS)[receiver]
        self.flows.set_segments(list(np.stack([cells, points[receiver]], axis=1)))
        self.flows.set_color(to_rgba_array(colours, alpha=np.clip(0.12 + 14 * mass, 0, 0.85)))
        self.flows.set_linewidth(0.6 + 50 * mass)
        self.demanders.set_offsets(points)
        self.demanders.set_facecolor(DEMANDER_COLOURS[: len(points)])

    def png(self) -> bytes:
        """The panel as it is, as fast as possible."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=self.figure.dpi, pil_kwargs={"compress_level": 1})
        return buffer.getvalue()


def descent_strip(paths: Mapping[str, Array], steps: Sequence[int], joint: Array) -> Figure:
    """Heatmaps on their way down, a row per loss, a column per step.

    Args:
        paths: Title -> (T, H, W) readouts, one each step.
        steps: The steps shown.
        joint: (2,) annotation.
    """
    figure, grid = plt.subplots(
        len(paths), len(steps), figsize=(1.7 * len(steps) + 0.9, 1.3 * len(paths) + 0.2), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, (title, path) in zip(grid, paths.items(), strict=True):
        row[0].set_ylabel(title, fontsize=9)
        for axes, step in zip(row, steps, strict=True):
            _show_step(axes, np.asarray(path[step]), joint)
    for axes, step in zip(grid[0], steps, strict=True):
        axes.set_title(f"step {step}" if step else "start", fontsize=9)
    return figure


def _show_step(axes: Axes, values: np.ndarray, joint: Array) -> None:
    axes.imshow(values, cmap=MASS, vmin=0, vmax=values.max())
    axes.plot(*(float(c) for c in joint), **{**ANNOTATION, "markersize": 8})
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


def save_descent(paths: Mapping[str, Array], steps: Sequence[int], joint: Array, name: str, seconds: float = 8) -> None:
    """Save the descent, the losses side by side, as an animated GIF where a notebook keeps its figures, if it does.

    Args:
        paths, joint: As for :func:`descent_strip`.
        steps: A frame each; the last one is held for two seconds.
        name: Of the file, without its ending.
        seconds: Length of the descent.
    """
    folder = figures_folder()
    if folder is None:
        return
    frames = []
    for step in steps:
        figure, row = plt.subplots(1, len(paths), figsize=(2.2 * len(paths), 2.1), dpi=80, squeeze=False)
        figure.subplots_adjust(left=0.01, right=0.99, top=0.84, bottom=0.02, wspace=0.04)
        for axes, (title, path) in zip(row[0], paths.items(), strict=True):
            _show_step(axes, np.asarray(path[step]), joint)
            axes.set_title(title, fontsize=10)
        figure.text(0.99, 0.03, f"step {step}", ha="right", fontsize=9, color="white")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=80)
        plt.close(figure)
        frames.append(Image.open(buffer).convert("RGB"))
    palette = frames[-1].quantize(128, dither=Image.Dither.NONE)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    lasts = [round(1000 * seconds / len(small))] * (len(small) - 1) + [2000]
    buffer = io.BytesIO()
    small[0].save(buffer, "GIF", save_all=True, append_images=small[1:], duration=lasts, loop=0, optimize=True)
    write_atomically(folder / f"{name}.gif", buffer.getvalue())
