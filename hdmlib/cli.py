"""The command line: ``hdmlib train preset=laptop loss=matching``, likewise with ``python -m hdmlib``."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from hdmlib.benchmark import evaluate
from hdmlib.config import PATH_FIELDS, Config, ConfigError, make_config, unknown_name
from hdmlib.data.dataset import DataError
from hdmlib.data.sources import Data
from hdmlib.experiments.estimate import estimate
from hdmlib.experiments.examples import predict_examples
from hdmlib.experiments.runs import Run, record_of, run
from hdmlib.experiments.store import ARTEFACTS, REFERENCE_RECORDS, Store
from hdmlib.experiments.training import TrainingDiverged
from hdmlib.inference import predict
from hdmlib.notebook import epoch_line, progress
from hdmlib.paths import from_caller
from hdmlib.plots import people, save_figure, use_style
from hdmlib.presets import PRESETS
from hdmlib.study.results import publish as publish_run
from hdmlib.study.stages import RENAMED_STAGES, STAGES

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Train pose networks with the matching loss and its controls."
)


@app.command()
def train(
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="parameters; see `parameters`")
    ] = None,
) -> None:
    """Train one run, resume it, or show it if it is finished."""
    result = _run(values or [])
    memory = result.record.peak_memory
    typer.echo(f"{'trained' if result.trained else 'finished earlier'}: {result.folder}")
    if result.trained and memory is not None:
        typer.echo(f"memory: {memory:.1f} GiB at most")


@app.command()
def gallery(
    to: Annotated[Path, typer.Option(help="where to write the PNG and, beside it, the PDF")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="the run, as for `train`")
    ] = None,
    count: Annotated[int, typer.Option(help="how many people")] = 4,
) -> None:
    """Draw a run's predictions for the first validation people; trains the run first if need be."""
    result = _run(values or [])
    shown = predict_examples(result.config, result.model(), result.data.val, count)
    use_style()
    figure = people.prediction_gallery(
        shown.pictures, shown.maps, shown.predicted, shown.joints, shown.weights, result.data.val.skeleton,
        shown.close_ups,
    )  # fmt: skip
    save_figure(figure, to.parent, to.stem)


@app.command("predict")
def predict_photo(
    photo: Annotated[Path, typer.Argument(help="a photo, or a folder of photos")],
    checkpoint: Annotated[Path, typer.Option(help="the folder of a finished run")],
    box: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(metavar="X Y W H", help="the person, in pixels; without it the whole photo"),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="where to draw it: a PNG and, beside it, the PDF")] = None,
) -> None:
    """Find a person's joints on a photo: prints the position of each in pixels and its confidence."""
    try:
        if to is not None and photo.is_dir():
            raise ValueError("to: draws one photo; pass the photo instead of the folder")
        for found in predict(photo, None if box is None else [box], checkpoint=checkpoint):
            typer.echo(found.path)
            for name, (x, y), confidence in zip(
                found.skeleton.joints, found.joints[0], found.confidence[0], strict=True
            ):
                typer.echo(f"  {name:16} {x:8.1f} {y:8.1f} {confidence:6.2f}")
            if to is not None:
                use_style()
                figure = people.people_on_photo(
                    found.photo, found.boxes, found.joints, found.skeleton, heat=found.heat()
                )
                save_figure(figure, to.parent, to.stem)
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


@app.command("evaluate")
def evaluate_checkpoint(
    values: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE...", help="preset, checkpoint, data_root, loss, boxes, ...")
    ],
    to: Annotated[Path | None, typer.Option(help="COCO: write the results here, in COCO's submission format")] = None,
) -> None:
    """Evaluate a checkpoint as COCO or MPII does, beside the published row of its setting.

    Give loss=gaussian_mse for the checkpoints of HRNet and mmpose: the loss decides how heatmaps are read.
    """
    try:
        report = evaluate(config_from(values), to=None if to is None else from_caller(to), progress=progress)
    except (ConfigError, DataError, OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(report)


def _run(values: list[str]) -> Run:
    """The run of these words; an error becomes one line on stderr and exit status 2."""
    try:
        config = config_from(values)

        def print_estimate(data: Data) -> None:
            if config.model != "hrnet_nano":  # hours to days
                typer.echo(estimate(config, data))

        return run(
            config, weights=True, before=print_estimate, progress=progress,
            report=lambda line: typer.echo(epoch_line(line)),
        )  # fmt: skip
    except (ConfigError, DataError, TrainingDiverged, OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted: finished steps are saved, and the same command resumes", err=True)
        raise typer.Exit(130) from None


@app.command("study")
def run_study(
    stage: Annotated[str, typer.Argument(help=f"one of {', '.join(STAGES)}")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="parameters that all runs share")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="how many runs at a time")] = 1,
    publish: Annotated[bool, typer.Option(help="add the records to the reference records")] = False,
    keep: Annotated[
        list[str] | None, typer.Option(help="with --publish, what else to add of each run: predictions, model")
    ] = None,
) -> None:
    """Train the runs of a stage of the study that have no record yet."""
    stage = RENAMED_STAGES.get(stage, stage)
    try:
        if stage not in STAGES:
            raise ConfigError(f"stage {unknown_name(stage, STAGES)}")
        if publish and not REFERENCE_RECORDS.is_dir():
            raise ConfigError(f"publish: needs a clone of the repository; there is no folder {REFERENCE_RECORDS}")
        for artefact in keep or ():
            if artefact not in ARTEFACTS:
                raise ConfigError(f"keep: {unknown_name(artefact, ARTEFACTS)}")
        trials = list(STAGES[stage](**given_values(values or [])))
        stored = [Store.of(trial.config).find(trial.config) for trial in trials]
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs_of = {
            number: pool.submit(record_of, trial.config)
            for number, trial in enumerate(trials)
            if stored[number] is None
        }
        for number, (trial, found) in enumerate(zip(trials, stored, strict=True)):
            record = found.record if found else jobs_of[number].result()
            typer.echo(f"{trial.config.loss:14} {trial.label:30} {epoch_line(record.epochs[-1])}")
            if publish:
                publish_run(stage, trial.config, keep or ())


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
    return make_config(**given_values(values))


def given_values(values: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` words as a dictionary.

    Raises:
        ConfigError: A word without ``=``.
    """
    given: dict[str, Any] = {}
    for word in values:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is not NAME=VALUE")
        given[name] = from_caller(value) if name in PATH_FIELDS else value
    return given
