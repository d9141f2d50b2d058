"""Commands about data: check a dataset, make or fetch what is not part of the project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from hdmlib.cli.messages import one_line_errors, say
from hdmlib.cli.words import given_values
from hdmlib.config import make_config
from hdmlib.data.faces import convert_faces
from hdmlib.data.lspet import convert_lspet
from hdmlib.data.samples import fetch_samples
from hdmlib.extras import requires_extra
from hdmlib.inspection import dataset_format, inspect_dataset
from hdmlib.notebook import progress
from hdmlib.outputs import check_ending, check_outputs
from hdmlib.paths import from_caller
from hdmlib.synthetic.dataset import embedded_dataset


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
        say(found)
        if to is not None and found.readable:
            from hdmlib.drawings import draw_sheet

            draw_sheet(found, to)
            say(f"drawn: {to}")
    raise typer.Exit(found.status)


def make_people(
    format: Annotated[Literal["coco", "mpii"], typer.Option(help="of the files, as the original release has them")],
    train: Annotated[int, typer.Option(help="number of training pictures")] = 2000,
    val: Annotated[int, typer.Option(help="number of validation pictures")] = 500,
    size: Annotated[int, typer.Option(help="side of a picture in pixels")] = 256,
    seed: Annotated[int, typer.Option(help="other people for another seed")] = 0,
    to: Annotated[
        Path | None, typer.Option(help="make a folder for them in this one; by default where runs keep theirs")
    ] = None,
) -> None:
    """Draw the embedded people as files in COCO's or MPII's format, 2,500 in about two minutes on two cores."""
    with one_line_errors():
        place = None if to is None else from_caller(to)
        folder = embedded_dataset(place, format=format, train=train, val=val, size=size, seed=seed, progress=progress)
        say(f"{train} training and {val} validation pictures in {folder}")


def make_lspet(
    source: Annotated[Path, typer.Option("--from", help="a copy of the original LSP Extended, 10,000 photos")],
    to: Annotated[Path, typer.Option(help="the new folder, in COCO's format")],
    partial: Annotated[bool, typer.Option(help="convert the photos that are there, even if some are missing")] = False,
) -> None:
    """Make the photo study's people from LSP Extended; a public clone is github.com/axelcarlier/lsp."""
    _converted(convert_lspet, "people", source, to, partial)


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
        say(", ".join(f"{count} {part} {what}" for part, count in counts.items()) + f" in {to}")


def get_samples(to: Annotated[Path, typer.Option(help="the folder to fetch into, 4 MB")]) -> None:
    """Fetch the published files that some tests compare with; HDMLIB_SAMPLES=FOLDER makes the tests use them."""
    with one_line_errors():
        folder = from_caller(to)
        with requires_extra("test", "hdmlib data samples"):
            count = fetch_samples(folder, progress=progress)
        say(f"{count} files in {folder}; set HDMLIB_SAMPLES={folder} to test with them")
