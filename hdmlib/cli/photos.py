"""The command ``predict``: photos and boxes in, people's joints out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from typer.core import TyperCommand

from hdmlib.boxes import PhotoBoxes, as_annotated, boxes_on, check_on_photos, read_boxes
from hdmlib.cli.messages import FIGURE_ENDINGS, figure_files, one_line_errors, print_written, say
from hdmlib.data.dataset import DataError
from hdmlib.experiments.trained import files_of
from hdmlib.inference import (
    Network,
    PhotoPrediction,
    open_network,
    photos_of,
    predict,
    run_folder,
    upright_size,
)
from hdmlib.outputs import (
    JointRow,
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


class SeveralBoxes(TyperCommand):
    """``--box X Y W H`` as one word ``X,Y,W,H``: typer has no option of four words that can be repeated."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words, rest = [], list(args)
        while rest:
            words.append(rest.pop(0))
            if words[-1] == "--box" and rest and len(rest[0].replace(",", " ").split()) == 1:
                numbers = list(takewhile(_is_number, rest[:4]))
                with one_line_errors():
                    _box(" ".join(numbers))  # at once: a number too few, and the next word would be taken for it
                words.append(",".join(numbers))
                rest = rest[4:]
        return super().parse_args(ctx, words)


def predict_photo(
    photo: Annotated[str, typer.Argument(help="a photo, a folder of photos, or a pattern such as 'photos/*.jpg'")],
    checkpoint: Annotated[Path, typer.Option(help="the folder of a finished run, or a weights file in it")],
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="X Y W H", help="a person, in pixels; repeat it for several; without it the whole photo"),
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="a COCO file of boxes, annotations or detections; joints are in its pixels")
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
        outputs = _Outputs(csv, json_file, drawings, to)
        run_folder(expanded(checkpoint))  # refuses weights that no record describes
        read = [*photos, *([boxes] if boxes else []), *files_of(expanded(checkpoint))]
        check_outputs(outputs.files(), read, overwrite=overwrite)
        people = _people_on(photos, image_ids(names), box or (), boxes, category)
        network = open_network(checkpoint)
        say(f"  {'joint':16} {'x':>8} {'y':>8} {'confidence':>10}")
        errors = outputs.fill(network, photos, names, people)
        if len(errors) == len(photos):
            raise errors[0]
        outputs.write_tables()
        if errors:
            typer.echo(f"{len(errors)} of {len(photos)} photos are left out", err=True)
            raise typer.Exit(1)


@dataclass(frozen=True)
class _Outputs:
    """The files of ``predict``: a drawing after each photo, tables at the end.

    Attributes:
        csv, json: The tables.
        drawings: Photo -> its drawing.
        drawing: That of the only photo; beside the PNG its PDF.
        rows, records: What the tables hold so far.
    """

    csv: Path | None
    json: Path | None
    drawings: dict[Path, Path]
    drawing: Path | None
    rows: list[JointRow] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    def files(self) -> list[Path]:
        """All that may be written."""
        single = [] if self.drawing is None else figure_files(self.drawing)
        return [path for path in (self.csv, self.json, *self.drawings.values(), *single) if path is not None]

    def fill(
        self, network: Network, photos: Sequence[Path], names: Sequence[str], people: Sequence[PhotoBoxes]
    ) -> list[DataError]:
        """Predict, print and draw photo by photo; the errors of those that cannot be decoded, which are left out.

        Raises:
            KeyboardInterrupt: The tables hold what was found so far.
        """
        errors = []
        try:
            for photo, name, given in zip(photos, names, people, strict=True):
                try:
                    [found] = predict(photo, given.boxes, checkpoint=network, upright=given.upright)
                except DataError as error:  # its header is sound, the rest is not
                    errors.append(error)
                    typer.echo(f"warning: left out: {error}", err=True)
                else:
                    self._add(found, photo, name, given)
        except KeyboardInterrupt:
            if self.rows:
                self.write_tables()
            raise
        return errors

    def _add(self, found: PhotoPrediction, photo: Path, name: str, given: PhotoBoxes) -> None:
        _print_people(found)
        self.rows.extend(joint_rows(found, name))
        self.records.extend(coco_records(found, name, given))
        if photo in self.drawings or self.drawing is not None:
            from hdmlib.drawings import draw_prediction

            draw_prediction(found, self.drawings.get(photo), self.drawing)

    def write_tables(self) -> None:
        """Write what was found, and print the files that exist by now."""
        if self.csv is not None:
            write_csv(self.rows, self.csv)
        if self.json is not None:
            write_coco_results(self.records, self.json)
        print_written([path for path in self.files() if path.exists()])


def _people_on(
    photos: Sequence[Path], ids: Sequence[int], words: Sequence[str], file: Path | None, category: str | None
) -> list[PhotoBoxes]:
    """The people on each photo: those of a file of boxes, of ``--box``, or one on the whole photo."""
    if file is not None:
        if words:
            raise ValueError("box, boxes: give one of them")
        known = read_boxes(file, category)
        found = as_annotated(photos, boxes_on(photos, known), file)
        used, there = sum(len(one.boxes) for one in found), sum(len(one.boxes) for one in known.photos.values())
        if used < there:
            remedy = "if more should be, write file_name as the photo's path ends"
            typer.echo(f"warning: {used} of the {there} boxes in {file} are on these photos; {remedy}", err=True)
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


def _is_number(word: str) -> bool:
    try:
        float(word.strip(","))
    except ValueError:
        return False
    return True


def _box(word: str) -> list[float]:
    try:
        x, y, width, height = map(float, word.replace(",", " ").split())
    except ValueError:
        raise ValueError(f"box: needs four numbers, as in --box 120 40 210 480, got {word!r}") from None
    return [x, y, width, height]


def _print_people(found: PhotoPrediction) -> None:
    if len(found.joints):
        say(found.path)
    for number, (joints, confidence) in enumerate(zip(found.joints, found.confidence, strict=True)):
        if len(found.joints) > 1:
            say(f"  person {number}")
        for name, (x, y), sure in zip(found.skeleton.joints, joints, confidence, strict=True):
            say(f"  {name:16} {x:8.1f} {y:8.1f} {sure:10.2f}")
