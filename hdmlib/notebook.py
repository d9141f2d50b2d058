"""Helpers of the notebooks: parameters in, a checked config, progress, live figures and tables out.

JupyterLab, VS Code, Colab, papermill and nbval run the same notebooks; the differences between them are handled here.
"""

from __future__ import annotations

import ast
import io
import sys
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm import tqdm

from hdmlib.checks import unknown_name
from hdmlib.config import MACHINE_FIELDS, PATH_FIELDS, Config, ConfigError, is_path, make_config
from hdmlib.errors import Interrupted, line_for_user
from hdmlib.experiments.record import Epoch, Record
from hdmlib.paths import from_caller

if TYPE_CHECKING:  # the command line needs neither
    from IPython.display import HTML
    from matplotlib.figure import Figure


def check_parameters(namespace: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse a parameter that the notebook does not have; from here on errors a user can mend are shown in one line.

    papermill only warns of an unknown ``-p`` name, so a mistyped one would run the defaults. The cell that it injects
    begins with ``# Parameters``, as the notebook's own does with ``# parameters``: every name assigned in the last such
    cell must be known.

    Args:
        namespace: The notebook's ``globals()``.
        known: Names of its parameters.

    Raises:
        ConfigError: A name is not known; the message lists those that are.
    """
    _show_errors_as_lines()
    cells = _parameter_cells(namespace)
    for name in _assigned_names(cells[-1]) if cells else ():
        if name not in known:
            raise ConfigError(f"parameter {unknown_name(name, known)}")


def _show_errors_as_lines() -> None:
    """In a notebook, as on the command line: one line for what a user can mend, a traceback for a bug."""
    shell = _shell()
    if shell is not None:
        shell.set_custom_exc((Exception, Interrupted), _show_error)


def _show_error(shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: int | None = None) -> None:
    line = line_for_user(error)
    if line is not None:  # IPython asks the error itself for the lines to show
        error._render_traceback_ = lambda: [f"{kind.__name__}: {line}"]  # type: ignore[attr-defined]
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


def _shell() -> Any:
    """IPython's shell, or ``None`` outside of IPython."""
    try:
        from IPython import get_ipython  # the command line also runs where there is no IPython
    except ImportError:
        return None
    return get_ipython()


def notebook_config(namespace: Mapping[str, Any]) -> Config:
    """The config of a notebook's parameters cell; ``None`` there keeps the preset's value.

    Relative paths start in the folder where the user typed the command.

    Args:
        namespace: The notebook's ``globals()``; only names that a parameters cell assigns are taken, all where there is
            no such cell.

    Raises:
        ConfigError: A name or a value is wrong; the message lists what is known.
    """
    check_parameters(namespace, Config.model_fields)
    # a later cell may use a parameter's name for a variable of its own
    cells = _parameter_cells(namespace)
    names = {name for cell in cells for name in _assigned_names(cell)} if cells else namespace
    values = {name: namespace[name] for name in Config.model_fields if name in names and namespace[name] is not None}
    paths = {name: from_caller(values[name]) for name in PATH_FIELDS & values.keys() if is_path(values[name])}
    return make_config(**{**values, **paths})


def _parameter_cells(namespace: Mapping[str, Any]) -> list[str]:
    """The sources of the parameters cells that were run: the notebook's own and, last, the one that was injected."""
    return [source for source in namespace.get("In", []) if source.lstrip().lower().startswith("# parameters")]


def _assigned_names(source: str) -> list[str]:
    names = []
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def is_interactive() -> bool:
    """Whether this code runs in a notebook that a person has open: JupyterLab, classic Notebook, VS Code, Colab.

    Every frontend that can ask its user for input allows the kernel to request it (``allow_stdin`` of Jupyter's execute
    request), or ``input()`` would not work there. papermill, nbval and nbconvert, which run a notebook without a
    person, do not allow it. No frontend's environment variable is as reliable: VS Code sets none.
    """
    kernel = getattr(_shell(), "kernel", None)  # a terminal's IPython has no kernel
    return kernel is not None and bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin"))


def progress(iterable: Iterable[Any], *, total: int | None = None, desc: str = "") -> Iterable[Any]:
    """A progress bar in a notebook that a person has open and on a terminal, nothing elsewhere.

    Under papermill and nbval a bar would end up in the saved notebook.
    """
    if is_interactive():
        return tqdm(iterable, total=total, desc=desc, leave=False, file=_one_line_of_the_cell(), ncols=80)
    return tqdm(iterable, total=total, desc=desc, leave=False, disable=not sys.stderr.isatty())


class _CellLine:
    """A file whose last line is shown in one line of a cell's output; unlike a widget it leaves nothing there."""

    def __init__(self) -> None:
        from IPython.display import display

        self.handle: Any = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        self.handle.update({"text/plain": text.strip()}, raw=True)

    def flush(self) -> None:
        """Updates are shown at once."""


def _one_line_of_the_cell() -> _CellLine:
    """The line of the running cell, which all its bars share."""
    from IPython import get_ipython

    return _line(get_ipython().execution_count)


@lru_cache(maxsize=1)
def _line(execution_count: int) -> _CellLine:
    return _CellLine()


# Left out of an epoch's line, which then fits a page of JupyterLab: they are in metrics.csv and in the record.
_LESSER_METRICS = frozenset({"median error", "AP50", "AP75", "APM", "APL", "AR", "AUROC", "ECE"})


def epoch_line(line: Epoch) -> str:
    """One epoch in one line of text: the training loss and, of the validation people, PCK, mean error and AP."""
    metrics = line.validation.metrics
    scores = "  ".join(f"{name} {value:5.1f}" for name, value in metrics.items() if name not in _LESSER_METRICS)
    loss = " " * 8 if line.train_loss is None else f"{line.train_loss:8.4f}"
    return f"epoch {line.epoch:3d}  loss {loss}  validation: {scores}"


@contextmanager
def live_figure(draw: Callable[[list[Epoch]], Figure]) -> Iterator[Callable[[Epoch], None]]:
    """A callback that prints each epoch's line and, where a person looks on, redraws one figure in place.

    The figure is updated in the cell's output by its display id, which JupyterLab, VS Code and Colab support, and is
    removed at the end. Elsewhere only the lines are left, so that a saved notebook holds no picture of a half-done
    training.

    Args:
        draw: The epochs so far -> figure; it is closed here.
    """
    epochs: list[Epoch] = []
    show = _place_for_a_figure() if is_interactive() else None

    def report(epoch: Epoch) -> None:
        epochs.append(epoch)
        print(epoch_line(epoch))
        if show:
            show(draw(epochs))

    try:
        yield report
    finally:
        if show:
            show(None)


def _place_for_a_figure() -> Callable[[Figure | None], None]:
    """A place in the running cell's output that holds one figure, or nothing."""
    import matplotlib.pyplot as plt
    from IPython.display import display

    handle: Any = display({"text/plain": ""}, raw=True, display_id=True)

    def show(figure: Figure | None) -> None:
        data = {"text/plain": ""}
        if figure is not None:
            picture = io.BytesIO()
            figure.savefig(picture, format="png", bbox_inches="tight", dpi=figure.dpi)
            plt.close(figure)  # else it would be shown once more at the end of the cell
            data["image/png"] = b64encode(picture.getvalue()).decode()
        handle.update(data, raw=True)

    return show


def slider_panel(redraw: Callable[..., bytes], **ranges: tuple[float, float, float]) -> Any:
    """A picture under sliders, redrawn while one of them moves.

    Args:
        redraw: Called with a value for each name in ``ranges``; returns a PNG.
        **ranges: Name of a slider -> its least, first and greatest value.

    Returns:
        An ``ipywidgets`` box.
    """
    import ipywidgets

    sliders = {
        name: ipywidgets.FloatSlider(
            value=first, min=least, max=greatest, step=(greatest - least) / 40, description=name.replace("_", " "),
            readout_format=".2f", style={"description_width": "90px"},
        )
        for name, (least, first, greatest) in ranges.items()
    }  # fmt: skip
    picture = ipywidgets.Image(format="png")

    def update(_: Any = None) -> None:
        picture.value = redraw(**{name: slider.value for name, slider in sliders.items()})

    for slider in sliders.values():
        slider.observe(update, names="value")
    update()
    return ipywidgets.VBox(
        [ipywidgets.GridBox([*sliders.values()], layout={"grid_template_columns": "1fr " * 3}), picture]
    )


def recipe(config: Config) -> HTML:
    """What differs from the preset, and folded below it every parameter with its meaning."""
    from IPython.display import HTML

    shown = _parameters(config)
    usual = _parameters(make_config(config.preset))
    differs = [f"<code>{name}={value}</code>" for name, value in shown.items() if value != usual.get(name)]
    rows = "".join(
        f"<tr><td><code>{name}</code></td><td>{escape(value)}</td>"
        f'<td style="text-align:left">{escape(Config.model_fields[name].description or "")}</td></tr>'
        for name, value in shown.items()
    )
    return HTML(
        f"<p>Preset <code>{config.preset}</code>, {'with ' + ', '.join(differs) if differs else 'unchanged'}.</p>"
        f"<details><summary>All {len(shown)} parameters</summary><table>{rows}</table></details>"
    )


def _parameters(config: Config) -> dict[str, str]:
    """A run's parameters as text, without those of the machine and those that are not set."""
    values = config.model_dump(mode="json", exclude=set(MACHINE_FIELDS))
    return {name: str(value) for name, value in values.items() if value not in (None, {}, [])}


def joint_table(record: Record) -> pd.DataFrame:
    """PCK of each joint in percent, untrained beside trained, the label-weighted mean in the last row."""
    columns = {}
    for label in record.final.per_joint:
        for state, evaluation in (("untrained", record.untrained), ("trained", record.final)):
            columns[label, state] = [*evaluation.per_joint[label], evaluation.metrics[label]]
    index = pd.Index([*(joint.replace("_", " ") for joint in record.joints), "mean"], name="joint")
    return pd.DataFrame(columns, index=index, dtype=float).round(1)
