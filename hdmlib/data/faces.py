"""The study's faces from ``udacity/P1_Facial_Keypoints``: its frames and tables of 68 points in, a COCO folder out.

The frames are of the YouTube Faces Database (Wolf, Hassner and Maoz, CVPR 2011; for research only); a landmark network
placed the points, in whole pixels. The set of this project is made from them by fixed rules:

* kept is every frame with points of which none lies outside it: 4,226 of 4,232, numbered in the order of person, folder
  and name;
* 60 of the 347 people validate, drawn with seed 0 (the original's own folders share all people);
* a crop is the box of the points grown by 0.25 of its longer side on each side, clipped to the frame;
* a crop whose longer side exceeds 128 pixels is shrunk to that (:func:`~hdmlib.data.conversion.cropped`).

Annotations are COCO's keypoint JSON, with the distance of the outer corners of the eyes, p36 and p45, as
``interocular``.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hdmlib.data.conversion import Person, as_jpeg, cropped, open_photo, write_coco_folder
from hdmlib.data.dataset import DataError

# Folder of frames -> rows in its table, ``<folder>_frames_keypoints.csv``.
FRAMES = {"training": 3462, "test": 770}
POINTS = 68
VALIDATION_PEOPLE = 60
GROWTH = 0.25
LONGEST_SIDE = 128
QUALITY = 80
EYES = (36, 45)
# Points from 1 that a line joins in turn; the outlines of eyes and lips are closed.
LINES = ((1, 17), (18, 22), (23, 27), (28, 31), (32, 36))
OUTLINES = ((37, 42), (43, 48), (49, 60), (61, 68))
# Left and right of the face, points from 0.
FLIP_PAIRS = (
    *((i, 16 - i) for i in range(8)), *((i, 43 - i) for i in range(17, 22)), (31, 35), (32, 34), (36, 45), (37, 44),
    (38, 43), (39, 42), (40, 47), (41, 46), (48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63),
    (65, 67),
)  # fmt: skip


def convert_faces(
    source: Path, to: Path, *, progress: Callable[..., Iterable[Any]] | None = None, partial: bool = False
) -> dict[str, int]:
    """Write the set into a new folder: ``annotations/ytf_faces_{train,val}.json`` and ``images/00001.jpg``, ...

    Args:
        source: A folder that contains the two tables, with the frames in ``training/`` and ``test/`` beside them, at
            any depth.
        to: The folder to write; it must not exist or be empty. It appears when all is written.
        progress: Wraps the loop over the frames: ``progress(iterable, total=, desc=)``.
        partial: Convert the frames that are there, instead of refusing an incomplete set; numbers and split are then
            not the study's.

    Returns:
        Number of faces by split.

    Raises:
        DataError: Files of the original are missing or damaged, or ``to`` is in use.
        OSError: ``to`` cannot be written.
    """
    faces = _original(source, partial)
    kept = sorted((path for path, points in faces.items() if _within(path, points)), key=_place)
    validating = validation_people({_person_of(path) for path in kept})
    numbered = list(enumerate(kept, start=1))
    loop = progress(numbered, total=len(numbered), desc="frames") if progress else numbered
    people = (
        _face("val" if _person_of(path) in validating else "train", number, path, faces[path]) for number, path in loop
    )
    return write_coco_folder(
        to, people, "ytf_faces", "YouTube Faces, crops with 68 points, made by hdmlib", _category()
    )


def validation_people(people: Iterable[str]) -> set[str]:
    """Those of the people who validate."""
    names = sorted(people)
    drawn = np.random.RandomState(0).permutation(len(names))[:VALIDATION_PEOPLE]
    return {names[index] for index in drawn}


def _original(source: Path, partial: bool) -> dict[Path, NDArray[np.float64]]:
    """Frame -> its points (68, 2), in pixels of the frame."""
    if not source.is_dir():
        raise DataError(f"from: no folder {source}; give a clone of udacity/P1_Facial_Keypoints")
    faces: dict[Path, NDArray[np.float64]] = {}
    for folder, expected in FRAMES.items():
        table = next(iter(sorted(source.rglob(f"{folder}_frames_keypoints.csv"))), None)
        if table is None:
            raise DataError(f"from: no {folder}_frames_keypoints.csv below {source}")
        found = {table.parent / folder / name: points for name, points in _read(table).items()}
        missing = [path for path in found if not path.is_file()]
        if missing and not (partial and len(missing) < len(found)):
            raise DataError(f"from: {len(missing)} frames of {table} are missing, such as {missing[0]}")
        if len(found) != expected and not partial:
            raise DataError(f"from: {table} has {len(found)} frames, the original {expected}")
        faces |= {path: points for path, points in found.items() if path not in missing}
    return faces


def _read(table: Path) -> dict[str, NDArray[np.float64]]:
    """Name of a frame -> its points; the first row names the columns."""
    found = {}
    with table.open(newline="") as opened:
        for number, row in enumerate(csv.reader(opened), start=1):
            if number == 1:
                continue
            try:
                found[row[0]] = np.array(row[1:], dtype=np.float64).reshape(POINTS, 2)
            except (ValueError, IndexError):
                raise DataError(
                    f"from: {table}, line {number}: not the name of a frame and {2 * POINTS} numbers"
                ) from None
    return found


def _within(path: Path, points: NDArray[np.float64]) -> bool:
    try:
        with Image.open(path) as frame:
            size = frame.size
    except OSError as error:
        raise DataError(f"from: {path} is damaged ({error}); fetch it again") from None
    return bool(((points >= 0) & (points < size)).all())


def _person_of(path: Path) -> str:
    """``Ahmad_Masood`` of ``Ahmad_Masood_01.jpg``."""
    return re.sub(r"_\d+$", "", path.stem)


def _place(path: Path) -> tuple[str, str, str]:
    """Where a frame stands among all: by person, folder and name."""
    return _person_of(path), path.parent.name, path.name


def _face(part: str, number: int, path: Path, points: NDArray[np.float64]) -> Person:
    """The crop and its entries."""
    picture = open_photo(path)
    first, last = points.min(axis=0), points.max(axis=0)
    margin = GROWTH * (last - first).max()
    left, top = (max(0, math.floor(value)) for value in first - margin)
    right, bottom = (min(side, math.floor(value) + 1) for side, value in zip(picture.size, last + margin, strict=True))
    picture, places = cropped(picture, (left, top, right, bottom), LONGEST_SIDE, points)
    low, high = places.min(axis=0), places.max(axis=0)
    image = {
        "id": number, "file_name": f"{number:05d}.jpg", "width": picture.width, "height": picture.height,
        "source": f"data/{path.parent.name}/{path.name}", "person": _person_of(path),
    }  # fmt: skip
    annotation = {
        "id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "num_keypoints": POINTS,
        "bbox": [round(float(value), 1) for value in (*low, *(high - low))],
        "area": round(float(np.prod(high - low)), 1),
        "interocular": round(float(np.linalg.norm(places[EYES[0]] - places[EYES[1]])), 2),
        "keypoints": [value for x, y in places for value in (round(float(x), 1), round(float(y), 1), 2)],
    }  # fmt: skip
    return Person(part, as_jpeg(picture, QUALITY), image, annotation)


def _category() -> Mapping[str, Any]:
    open_lines = chain.from_iterable(pairwise(range(first, last + 1)) for first, last in LINES)
    closed = chain.from_iterable(pairwise([*range(first, last + 1), first]) for first, last in OUTLINES)
    return {
        "id": 1, "name": "face", "supercategory": "face", "keypoints": [f"p{point:02d}" for point in range(POINTS)],
        "skeleton": [list(pair) for pair in (*open_lines, *closed)], "flip_pairs": [list(pair) for pair in FLIP_PAIRS],
    }  # fmt: skip
