"""The command line: ``hdmlib train preset=laptop loss=matching``, likewise with ``python -m hdmlib``."""

from __future__ import annotations

import inspect
import io
import json
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import format_exception
from typing import Annotated, Any, Literal

import numpy as np
import typer
from typer.core import TyperCommand

from hdmlib import __version__
from hdmlib.benchmark import evaluate
from hdmlib.boxes import PhotoBoxes, boxes_on, check_on_photos, read_boxes
from hdmlib.checks import unknown_name
from hdmlib.config import OPTION, PATH_FIELDS, Config, ConfigError, choices, is_path, make_config
from hdmlib.data.dataset import DataError
from hdmlib.data.faces import convert_faces
from hdmlib.data.lspet import convert_lspet
from hdmlib.data.samples import fetch_samples
from hdmlib.data.sources import Data
from hdmlib.errors import interrupted_by_sigterm, line_for_user
from hdmlib.experiments.engine import is_main_process, leave_process_group
from hdmlib.experiments.estimate import estimate
from hdmlib.experiments.listing import list_runs
from hdmlib.experiments.runs import Run, run
from hdmlib.experiments.store import ARTEFACTS, RECORD, REFERENCE_RECORDS, Store
from hdmlib.experiments.training import BEST, best_epoch
from hdmlib.export import export_onnx, model_card
from hdmlib.extras import requires_extra
from hdmlib.files import write_atomically
from hdmlib.inference import OF_RUN, PhotoPrediction, open_network, photos_of, predict, run_folder, upright_size
from hdmlib.inspection import dataset_format, inspect_dataset
from hdmlib.losses.registry import LOSSES
from hdmlib.notebook import epoch_line, progress
from hdmlib.outputs import (
    check_ending,
    check_outputs,
    coco_records,
    drawing_paths,
    image_ids,
    joint_rows,
    photo_names,
    write_coco_results,
    write_csv,
)
from hdmlib.paths import expanded, from_caller
from hdmlib.presets import PRESETS
from hdmlib.study.execution import train_trials
from hdmlib.study.results import publish as publish_run
from hdmlib.study.stages import RENAMED_STAGES, STAGES

# What `save_figure` writes; either may be given.
FIGURE_ENDINGS = (".png", ".pdf")

app = typer.Typer(add_completion=False, no_args_is_help=True)


class _WithWords(TyperCommand):
    """A command with ``NAME=VALUE`` words, which says so where an option is none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # click's, of which newer versions of typer have a copy of their own
            if type(error).__name__ == "NoSuchOption" and not error.possibilities:  # pyright: ignore
                error.message += "; parameters have no dashes: epochs=3"  # pyright: ignore
            raise


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hdmlib {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="show the version and leave")
    ] = False,
) -> None:
    """Train pose networks with the matching loss and its controls."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show loses no result


@app.command(cls=_WithWords)
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
    typer.echo(f"{'trained' if result.trained else 'finished earlier'}: {result.folder}")
    best = best_epoch(result.record.epochs)
    typer.echo(f"model.safetensors is the last epoch's network, which is reported and used; {BEST} is epoch {best}'s")
    if result.trained and memory is not None:
        typer.echo(f"memory: {memory:.1f} GiB at most")


@app.command(cls=_WithWords)
def runs(
    values: Annotated[list[str] | None, typer.Argument(metavar="[run_dir=FOLDER]", help="where the runs are")] = None,
) -> None:
    """List your runs: what they differ in, and how they ended."""
    with one_line_errors():
        store = Store.of(config_from(values or []))
        found = list_runs(store)
        typer.echo(found.to_string() if len(found) else f"no runs in {store.runs}")


@app.command(cls=_WithWords)
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
        check_outputs(_figure_files(to), [], overwrite=overwrite)
        result = _run(values or [])
        draw_run(result, count, to)
        _print_written(_figure_files(to))


def _figure_files(to: Path) -> list[Path]:
    """What :func:`save_figure` writes."""
    return [to.with_suffix(ending) for ending in FIGURE_ENDINGS]


class _SeveralBoxes(TyperCommand):
    """``--box X Y W H`` as one word ``X,Y,W,H``: typer has no option of four words that can be repeated."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words, rest = [], list(args)
        while rest:
            words.append(rest.pop(0))
            if words[-1] == "--box" and rest and len(rest[0].replace(",", " ").split()) == 1:
                words.append(",".join(rest[:4]))
                rest = rest[4:]
        return super().parse_args(ctx, words)


@app.command("predict", cls=_SeveralBoxes)
def predict_photo(
    photo: Annotated[str, typer.Argument(help="a photo, a folder of photos, or a pattern such as 'photos/*.jpg'")],
    checkpoint: Annotated[Path, typer.Option(help="the folder of a finished run, or a weights file in it")],
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="X Y W H", help="a person, in pixels; repeat it for several; without it the whole photo"),
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="a COCO file of boxes, annotations or detections, for all people and photos")
    ] = None,
    category: Annotated[str | None, typer.Option(help="name or id of the category of the file to read")] = None,
    csv: Annotated[Path | None, typer.Option(help="write a row a joint here")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write COCO's results format here")] = None,
    draw: Annotated[Path | None, typer.Option(help="folder for a drawing of each photo, as PNG")] = None,
    to: Annotated[Path | None, typer.Option(help="where to draw one photo: a PNG and, beside it, the PDF")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace files that exist")] = False,
) -> None:
    """Find people's joints on photos: prints the position of each in pixels and its confidence, and writes files."""
    with one_line_errors():
        csv, json_file, draw, to = (path and from_caller(path) for path in (csv, json_file, draw, to))
        photos = photos_of(photo)
        if to is not None and len(photos) > 1:
            raise ValueError("to: draws one photo; pass --draw FOLDER for several")
        if to is not None:
            check_ending("to", to, FIGURE_ENDINGS)
        names = photo_names(photos)
        drawings = {} if draw is None else dict(zip(photos, drawing_paths(names, draw), strict=True))
        figure_files = [] if to is None else _figure_files(to)
        written = [path for path in (csv, json_file, *drawings.values(), *figure_files) if path is not None]
        folder = run_folder(expanded(checkpoint))
        read = [*photos, *([boxes] if boxes else []), checkpoint, *(folder / name for name in (RECORD, *OF_RUN))]
        check_outputs(written, read, overwrite=overwrite)
        people_of = _people_on(photos, image_ids(names), box or (), boxes, category)
        network, rows, records, errors = open_network(checkpoint), [], [], []

        def write_tables() -> None:
            if csv is not None:
                write_csv(rows, csv)
            if json_file is not None:
                write_coco_results(records, json_file)
            _print_written([path for path in written if path.exists()])

        typer.echo(f"  {'joint':16} {'x':>8} {'y':>8} {'confidence':>10}")
        try:
            for path, name, given in zip(photos, names, people_of, strict=True):
                try:
                    [found] = predict(path, given.boxes, checkpoint=network)
                except DataError as error:  # its header is sound, the rest is not
                    errors.append(error)
                    typer.echo(f"warning: left out: {error}", err=True)
                    continue
                _print_people(found)
                rows += joint_rows(found, name)
                records += coco_records(found, name, given)
                if path in drawings or to is not None:
                    from hdmlib.drawings import draw_prediction

                    draw_prediction(found, drawings.get(path), to)
        except KeyboardInterrupt:
            if rows:
                write_tables()
            raise
        if len(errors) == len(photos):
            raise errors[0]
        write_tables()
        if errors:
            typer.echo(f"{len(errors)} of {len(photos)} photos are left out", err=True)
            raise typer.Exit(1)


def _print_written(files: Sequence[Path]) -> None:
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        typer.echo(f"written: {', '.join(map(str, files[:3]))}{more}")


def _people_on(
    photos: Sequence[Path], ids: Sequence[int], words: Sequence[str], file: Path | None, category: str | None
) -> list[PhotoBoxes]:
    """The people on each photo: those of a file of boxes, of ``--box``, or one on the whole photo."""
    if file is not None:
        if words:
            raise ValueError("box, boxes: give one of them")
        known = read_boxes(file, category)
        found = boxes_on(photos, known)
        used, there = sum(len(one.boxes) for one in found), sum(len(one.boxes) for one in known.photos.values())
        if used < there:
            typer.echo(f"warning: {used} of the {there} boxes in {file} are on these photos", err=True)
        if without := sum(not len(one.boxes) for one in found):
            typer.echo(f"{without} of {len(photos)} photos have no box, so nobody is looked for there", err=True)
    else:
        if category is not None:
            raise ValueError("category: is one of the file of boxes; pass --boxes FILE, or leave category out")
        boxes = [_box(word) for word in words]
        found = [
            PhotoBoxes(np.array(boxes or [(0, 0, *upright_size(photo))], float), np.ones(len(boxes) or 1), number)
            for photo, number in zip(photos, ids, strict=True)
        ]
    check_on_photos(photos, found)
    return found


def _box(word: str) -> list[float]:
    try:
        x, y, width, height = map(float, word.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"box: needs four numbers, as in --box 120 40 210 480, got {word!r}") from None
    return [x, y, width, height]


def _print_people(found: PhotoPrediction) -> None:
    if len(found.joints):
        typer.echo(found.path)
    for number, (joints, confidence) in enumerate(zip(found.joints, found.confidence, strict=True)):
        if len(found.joints) > 1:
            typer.echo(f"  person {number}")
        for name, (x, y), sure in zip(found.skeleton.joints, joints, confidence, strict=True):
            typer.echo(f"  {name:16} {x:8.1f} {y:8.1f} {sure:10.2f}")


@app.command("evaluate", cls=_WithWords)
def evaluate_checkpoint(
    values: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE...", help="preset, checkpoint, data_root, loss, boxes, ...")
    ],
    to: Annotated[Path | None, typer.Option(help="COCO: write the results here, in COCO's submission format")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a file that exists")] = False,
) -> None:
    """Evaluate a checkpoint as COCO or MPII does, beside the published row of its setting.

    Give loss=gaussian_mse for the checkpoints of HRNet and mmpose: the loss decides how heatmaps are read.
    """
    with one_line_errors():
        config = config_from(values)
        if to is not None:
            to = from_caller(to)
            check_outputs([to], [path for path in (config.boxes, config.checkpoint) if path], overwrite=overwrite)
        report = evaluate(config, to=to, progress=progress)
    typer.echo(report)


data_commands = typer.Typer(no_args_is_help=True, help="Make or fetch data that is not part of the project.")
app.add_typer(data_commands, name="data")


@data_commands.command("lspet")
def make_lspet(
    source: Annotated[Path, typer.Option("--from", help="a copy of the original LSP Extended, 10,000 photos")],
    to: Annotated[Path, typer.Option(help="the new folder, in COCO's format")],
    partial: Annotated[bool, typer.Option(help="convert the photos that are there, even if some are missing")] = False,
) -> None:
    """Make the photo study's people from LSP Extended; a public clone is github.com/axelcarlier/lsp."""
    _converted(convert_lspet, "people", source, to, partial)


@data_commands.command("faces")
def make_faces(
    source: Annotated[Path, typer.Option("--from", help="a clone of github.com/udacity/P1_Facial_Keypoints")],
    to: Annotated[Path, typer.Option(help="the new folder, in COCO's format")],
    partial: Annotated[bool, typer.Option(help="convert the frames that are there, even if some are missing")] = False,
) -> None:
    """Make the study's faces, with 68 points each, from frames of YouTube Faces."""
    _converted(convert_faces, "faces", source, to, partial)


def _converted(convert: Callable[..., dict[str, int]], what: str, source: Path, to: Path, partial: bool) -> None:
    with one_line_errors():
        counts = convert(from_caller(source), from_caller(to), progress=progress, partial=partial)
        typer.echo(", ".join(f"{count} {part} {what}" for part, count in counts.items()) + f" in {to}")


@data_commands.command("samples")
def get_samples(to: Annotated[Path, typer.Option(help="the folder to fetch into, 4 MB")]) -> None:
    """Fetch the published files that some tests compare with; HDMLIB_SAMPLES=FOLDER makes the tests use them."""
    with one_line_errors():
        folder = from_caller(to)
        with requires_extra("test", "hdmlib data samples"):
            count = fetch_samples(folder, progress=progress)
        typer.echo(f"{count} files in {folder}; set HDMLIB_SAMPLES={folder} to test with them")


@app.command("export")
def export_run(
    checkpoint: Annotated[Path, typer.Argument(help="the folder of a finished run, or a weights file in it")],
    to: Annotated[Path, typer.Option(help="the ONNX file, *.onnx; its model card is written beside it, *.md")],
    decoder: Annotated[str | None, typer.Option(help="how joints are decoded; by default as the run does")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace files that exist")] = False,
) -> None:
    """Write a run as ONNX, network, readout and decoder in one, and a model card as Markdown."""
    with one_line_errors():
        to = from_caller(to)
        check_ending("to", to, [".onnx"])
        card = to.with_suffix(".md")
        check_outputs([to, card], [], overwrite=overwrite)
        text = model_card(checkpoint, to.name, decoder)  # first, for it needs the record, and writes nothing
        with requires_extra("export", "hdmlib export"):
            export_onnx(checkpoint, to, decoder)
        write_atomically(card, text.encode())
        _print_written([to, card])


@app.command("check", cls=_WithWords)
def check_dataset(
    folder: Annotated[Path, typer.Argument(help="the dataset's folder")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="category, train_split, val_split, ...")
    ] = None,
    format: Annotated[Literal["coco", "mpii"] | None, typer.Option(help="by default the one that is found")] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="a split to check alone; repeat it for several; by default both, together")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="draw twelve people with their named joints here, as PNG")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a file that exists")] = False,
) -> None:
    """Report what a dataset holds; exit status 0: ready, 1: usable with remarks, 2: not usable."""
    with one_line_errors():
        given = {"data_root": from_caller(folder), **given_values(values or [])}
        first = (split or [given.get("train_split", "train")])[0]
        config = make_config(**{"dataset": format or dataset_format(given["data_root"], first), **given})
        if to is not None:
            to = from_caller(to)
            check_ending("to", to, [".png"])
            check_outputs([to], [], overwrite=overwrite)
        found = inspect_dataset(config, split or ())
        typer.echo(found)
        if to is not None and found.readable:
            from hdmlib.drawings import draw_sheet

            draw_sheet(found, to)
            typer.echo(f"drawn: {to}")
    raise typer.Exit(found.status)


@contextmanager
def one_line_errors(*, resumes: bool = False) -> Iterator[None]:
    """One line on stderr and exit status 2 for what a user can mend, 130 for Ctrl-C, 143 for SIGTERM; a bug keeps its
    traceback.

    Args:
        resumes: Whether the command continues where it was interrupted.
    """
    usual = warnings.formatwarning
    warnings.formatwarning = lambda *given: _warning_line(*given) or usual(*given)
    try:
        with interrupted_by_sigterm():
            yield
    except KeyboardInterrupt as error:
        saved = ": finished steps are saved, and the same command resumes" if resumes else ""
        typer.echo(f"interrupted{saved}", err=True)
        raise typer.Exit(128 + getattr(error, "signal", signal.SIGINT)) from None
    except Exception as error:
        line = line_for_user(error)
        if line is None:
            raise
        typer.echo(f"error: {line}", err=True)
        raise typer.Exit(2) from None
    finally:
        warnings.formatwarning = usual


_PACKAGE = Path(__file__).parent


def _warning_line(message: Warning | str, category: type[Warning], *place: Any) -> str | None:
    """A warning of this package in one line; ``None`` for others, whose place in the code is needed."""
    ours = category.__module__.partition(".")[0] == "hdmlib" or _PACKAGE in Path(str(place[0])).parents
    return f"warning: {message}\n" if ours else None


def _run(values: list[str]) -> Run:
    """The run of these words; an error becomes one line on stderr and exit status 2."""
    with one_line_errors(resumes=True):
        config = config_from(values)

        def print_estimate(data: Data) -> None:
            if config.model != "hrnet_nano":  # hours to days
                try:
                    typer.echo(estimate(config, data))
                except Exception as error:  # a courtesy; a network of the user's may need numbers to be built
                    typer.echo(f"no estimate of the work of {config.model}: {error}")

        result = run(
            config, weights=True, before=print_estimate, progress=progress,
            report=lambda line: typer.echo(epoch_line(line)),
        )  # fmt: skip
        leave_process_group()
        return result


@app.command("study", cls=_WithWords)
def run_study(
    stage: Annotated[str, typer.Argument(help=f"one of {', '.join(STAGES)}")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="parameters that all runs share")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="how many runs at a time")] = 1,
    again: Annotated[
        bool, typer.Option("--again", help="train also the runs with a reference record, unless you have trained them")
    ] = False,
    publish: Annotated[bool, typer.Option(help="add the records to the reference records")] = False,
    keep: Annotated[
        list[str] | None, typer.Option(help="with --publish, what else to add of each run: predictions, model")
    ] = None,
) -> None:
    """Train the runs of a stage of the study that have no record yet."""
    stage = RENAMED_STAGES.get(stage, stage)
    with one_line_errors(resumes=True):
        if stage not in STAGES:
            raise ConfigError(f"stage {unknown_name(stage, STAGES)}")
        if publish and not REFERENCE_RECORDS.is_dir():
            raise ConfigError(f"publish: needs a clone of the repository; there is no folder {REFERENCE_RECORDS}")
        if keep and not publish:
            raise ConfigError("keep: says what to publish beside the records; pass --publish, or leave keep out")
        for artefact in keep or ():
            if artefact not in ARTEFACTS:
                raise ConfigError(f"keep: {unknown_name(artefact, ARTEFACTS)}")
        trials, finished, failed = list(STAGES[stage](**given_values(values or []))), 0, []
        try:
            for trial, found in train_trials(trials, jobs, again=again):
                named = f"{trial.config.loss:14} {trial.label:30}"
                if isinstance(found, Exception):
                    failed.append(trial.label)
                    said = line_for_user(found) or "".join(format_exception(found))  # a bug keeps its traceback
                    typer.echo(f"{named} failed: {said}", err=True)
                    continue
                finished += 1
                typer.echo(f"{named} {epoch_line(found.epochs[-1])}")
                if publish:
                    publish_run(stage, trial.config, keep or ())
        finally:
            typer.echo(f"{finished} of {len(trials)} runs are finished")
        if failed:
            raise ValueError(f"{len(failed)} of {len(trials)} runs failed: {'; '.join(failed)}")


@app.command(cls=_WithWords)
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
        if name.startswith(OPTION):
            given[name] = _number_or_text(value)
        else:
            given[name] = from_caller(value) if name in PATH_FIELDS and is_path(value) else value
    return given


def _number_or_text(text: str) -> Any:
    """``0.1``, ``true`` or ``null`` as JSON has them, ``True`` or ``None`` as Python has, else the text."""
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        pass
    try:
        return float(text)  # .05, which JSON does not know
    except ValueError:
        return text
