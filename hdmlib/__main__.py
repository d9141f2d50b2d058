"""The command line: ``python -m hdmlib train preset=laptop loss=matching``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hdmlib import plots
from hdmlib.config import PATH_FIELDS, PRESETS, Config, ConfigError, make_config
from hdmlib.data.samples import DataError
from hdmlib.experiments import Run, run
from hdmlib.notebook import epoch_line, progress
from hdmlib.paths import from_caller
from hdmlib.showcase import look_at
from hdmlib.training import TrainingDiverged

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Train pose networks with the matching loss and its controls."
)


@app.command()
def train(
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="parameters; see `parameters`")
    ] = None,
) -> None:
    """Train one run, or go on with it, or show it if it is finished."""
    result = _run(values or [])
    typer.echo(f"{'trained' if result.trained else 'finished earlier'}: {result.folder}")


@app.command()
def gallery(
    to: Annotated[Path, typer.Option(help="where to write the PNG and, beside it, the PDF")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="the run, as for `train`")
    ] = None,
    count: Annotated[int, typer.Option(help="how many people")] = 4,
) -> None:
    """Draw what a run makes of the first validation people; trains the run first if need be."""
    result = _run(values or [])
    seen = look_at(result.config, result.model(), result.data.val, count)
    plots.use_style()
    figure = plots.prediction_gallery(
        seen.pictures, seen.maps, seen.predicted, seen.joints, seen.weights, result.data.val.skeleton, seen.close_ups
    )
    plots.save_figure(figure, to.parent, to.stem)


def _run(values: list[str]) -> Run:
    """The run that the words ask for; what is wrong with them becomes one line on stderr and exit status 2."""
    try:
        config = config_from(values)
        return run(config, weights=True, progress=progress, report=lambda line: typer.echo(epoch_line(line)))
    except (ConfigError, DataError, TrainingDiverged, OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def parameters() -> None:
    """List every parameter and every preset."""
    for name, field in Config.model_fields.items():
        typer.echo(f"{name:24} {field.description or ''}")
    typer.echo(f"\npresets: {', '.join(PRESETS)}")


def config_from(values: list[str]) -> Config:
    """A config from ``NAME=VALUE`` words; values are text and converted by the config's types.

    Raises:
        ConfigError: A word without ``=``, an unknown name or a wrong value.
    """
    given: dict[str, Any] = {}
    for word in values:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is not NAME=VALUE")
        given[name] = from_caller(value) if name in PATH_FIELDS else value
    return make_config(**given)


if __name__ == "__main__":
    app()
