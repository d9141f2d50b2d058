"""Commands about runs: train one, list them, draw one's people, list what a run may be given."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from hdmlib.cli.messages import FIGURE_ENDINGS, figure_files, one_line_errors, print_written, say
from hdmlib.cli.words import config_from
from hdmlib.config import Config, choices
from hdmlib.data.sources import Data
from hdmlib.experiments.engine import is_main_process, leave_process_group
from hdmlib.experiments.estimate import estimate
from hdmlib.experiments.listing import list_runs
from hdmlib.experiments.runs import Run, run
from hdmlib.experiments.store import Store
from hdmlib.experiments.training import BEST, best_epoch
from hdmlib.losses.registry import LOSSES
from hdmlib.notebook import epoch_line, progress
from hdmlib.outputs import check_ending, check_outputs
from hdmlib.paths import from_caller
from hdmlib.presets import PRESETS


def train(
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="parameters; see `parameters`")
    ] = None,
) -> None:
    """Train one run, resume it, or show it if it is finished."""
    result = _run(values or [])
    if not is_main_process():
        return
    memory = result.record.peak_memory
    say(f"{'trained' if result.trained else 'finished earlier'}: {result.folder}")
    best = best_epoch(result.record.epochs)
    say(f"model.safetensors is the last epoch's network, which is reported and used; {BEST} is epoch {best}'s")
    if result.trained and memory is not None:
        say(f"memory: {memory:.1f} GiB at most")


def runs(
    values: Annotated[list[str] | None, typer.Argument(metavar="[run_dir=FOLDER]", help="where the runs are")] = None,
) -> None:
    """List your runs: what they differ in, and how they ended."""
    with one_line_errors():
        store = Store.of(config_from(values or []))
        found = list_runs(store)
        typer.echo(found.to_string() if len(found) else f"no runs in {store.runs}")


def gallery(
    to: Annotated[Path, typer.Option(help="where to write the PNG and, beside it, the PDF")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="the run, as for `train`")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="how many people")] = 4,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace files that exist")] = False,
) -> None:
    """Draw a run's predictions for the first validation people; trains the run first if need be."""
    from hdmlib.drawings import draw_run

    with one_line_errors(resumes=True):
        to = from_caller(to)
        check_ending("to", to, FIGURE_ENDINGS)
        check_outputs(figure_files(to), [], overwrite=overwrite)
        result = _run(values or [])
        draw_run(result, count, to)
        print_written(figure_files(to))


def _run(values: list[str]) -> Run:
    """The run of these words; an error becomes one line on stderr and exit status 2."""
    with one_line_errors(resumes=True):
        config = config_from(values)

        def print_estimate(data: Data) -> None:
            if config.model != "hrnet_nano":  # hours to days
                try:
                    say(estimate(config, data))
                except Exception as error:  # a courtesy; a network of the user's may need numbers to be built
                    say(f"no estimate of the work of {config.model}: {error}")

        result = run(
            config, weights=True, before=print_estimate, progress=progress,
            report=lambda line: say(epoch_line(line)),
        )  # fmt: skip
        leave_process_group()
        return result


def parameters(
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="whose values to show, such as preset=smoke")
    ] = None,
) -> None:
    """List every parameter with its value in a preset, what it may be and what it means; and every preset."""
    with one_line_errors():
        config = config_from(values or [])
    typer.echo(f"{'parameter':22} in {config.preset:19} what it is\n")
    for name, field in Config.model_fields.items():
        known = f" ({', '.join(choices(name))})" if choices(name) else ""
        typer.echo(f"{name:22} {_short(getattr(config, name)):22} {field.description}{known}")
    options = inspect.signature(LOSSES[config.loss]).parameters.values()
    listed = ", ".join(f"{one.name}={config.loss_options.get(one.name, one.default)}" for one in options)
    typer.echo(f"\nloss_options of {config.loss}: {listed}\n  set one by loss_options.NAME=VALUE")
    typer.echo(f"\npresets: {', '.join(PRESETS)}")


def _short(value: Any) -> str:
    text = "" if value in (None, {}, ()) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 22 else f"{text[:19]}..."
