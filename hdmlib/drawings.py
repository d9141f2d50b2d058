"""The pictures that the command line writes: a run, a prediction or a dataset in, PNG and PDF files out.

Only the commands that draw import this module: matplotlib takes a second to import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt

from hdmlib.experiments.examples import predict_examples
from hdmlib.experiments.runs import Run
from hdmlib.files import write_atomically
from hdmlib.inference import PhotoPrediction
from hdmlib.inspection import Inspection, people_to_show
from hdmlib.plots import figure_png, people, save_figure, use_style


def draw_run(result: Run, count: int, to: Path) -> None:
    """A run's predictions for the first validation people, as PNG and PDF."""
    shown = predict_examples(result.config, result.model(), result.data.val, count)
    with _styled():
        figure = people.prediction_gallery(
            shown.pictures, shown.maps, shown.predicted, shown.joints, shown.cells, shown.weights,
            result.data.val.skeleton, shown.close_ups,
        )  # fmt: skip
        save_figure(figure, to.parent, to.stem)


def draw_prediction(found: PhotoPrediction, png: Path | None, to: Path | None) -> None:
    """The photo with its people, and their heatmaps beside it.

    Args:
        found: What was predicted.
        png: Where to write it as PNG.
        to: Where to write it as PNG and PDF.
    """
    with _styled():
        figure = people.people_on_photo(found.photo, found.boxes, found.joints, found.skeleton, heat=found.heat())
        if png is not None:
            write_atomically(png, figure_png(figure))
        if to is not None:
            save_figure(figure, to.parent, to.stem)


def draw_sheet(found: Inspection, to: Path) -> None:
    """Twelve people of a dataset with their named joints, as PNG."""
    shown = people_to_show(found)
    with _styled():
        figure = people.contact_sheet(shown.pictures, shown.joints, shown.labelled, shown.skeleton, shown.titles)
        write_atomically(to, figure_png(figure))


@contextmanager
def _styled() -> Iterator[None]:
    """The project's style; the figure that is drawn inside is closed, whatever happens."""
    use_style()
    try:
        yield
    finally:
        plt.close()
