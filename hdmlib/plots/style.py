"""The style of every figure: one colour per loss, readable in grey. Figures in, files out."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from hdmlib.files import write_atomically
from hdmlib.paths import from_caller

# A numpy array, or a torch tensor on the CPU: figures take both, and import no torch.
Array = Any

# Each has its own dash and marker, so that grey prints stay readable.
LOSS_STYLE: dict[str, dict[str, Any]] = {
    "matching": {"color": "#c1272d", "linestyle": "-", "marker": "o"},
    "gaussian_mse": {"color": "#0072b2", "linestyle": "--", "marker": "s"},
    "cross_entropy": {"color": "#009e73", "linestyle": "-.", "marker": "^"},
    "soft_argmax": {"color": "#e69f00", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "D"},
    "dot_mse": {"color": "#8a8a8a", "linestyle": ":", "marker": "v"},
}

LOSS_LABEL = {
    "matching": "matching", "gaussian_mse": "Gaussian MSE", "cross_entropy": "cross-entropy",
    "soft_argmax": "soft-argmax", "dot_mse": "dot MSE",
}  # fmt: skip

STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "image.cmap": "magma",
    "svg.hashsalt": "hdmlib",
    "pdf.fonttype": 42,
}


def use_style() -> None:
    """Set the project's style for all later figures."""
    plt.rcParams.update(STYLE)


def figure_png(figure: Figure) -> bytes:
    """A figure as a PNG file; without dates inside, so that the same figure is the same file."""
    return _encoded(figure, "png", {"Software": None})


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as PNG and PDF, each completely or not at all."""
    write_atomically(folder / f"{name}.png", figure_png(figure))
    write_atomically(folder / f"{name}.pdf", _encoded(figure, "pdf", {"CreationDate": None}))


def _encoded(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, bbox_inches="tight", metadata=metadata)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def figures_folder() -> Path | None:
    """Where a notebook keeps its figures: ``$HDMLIB_FIGURES``."""
    folder = os.environ.get("HDMLIB_FIGURES")
    return from_caller(folder) if folder else None


def present(figure: Figure, name: str = "", alt: str = "") -> None:
    """Show a notebook's figure, and save it as PNG and PDF where it keeps its figures.

    Args:
        figure: Closed afterwards.
        name: Its name in :func:`figures_folder`; empty: it is not saved.
        alt: What it shows, for readers who cannot see it, kept in the metadata of the cell's output. Empty: the name,
            which ``notebooks/book.py`` replaces by its description in ``figures/README.md``.
    """
    from IPython.display import display  # figures are also drawn where there is no IPython

    if name and (folder := figures_folder()):
        save_figure(figure, folder, name)
    display(figure, metadata={"image/png": {"alt": alt or name}})
    plt.close(figure)
