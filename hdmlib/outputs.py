"""Predictions as files: a CSV with a row a joint, COCO's results format, and a drawing of each photo."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hdmlib.boxes import PhotoBoxes
from hdmlib.data.intake import id_key
from hdmlib.files import write_atomically
from hdmlib.inference import PhotoPrediction
from hdmlib.metrics.oks import rescore
from hdmlib.paths import resolved

COLUMNS = ("photo", "person", "joint", "x", "y", "confidence")
JointRow = tuple[str, int, str, float, float, float]


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Check that files can be written, before the work whose result they hold.

    Args:
        outputs: The files that will be written.
        inputs: Files that are read, which are never replaced.
        overwrite: Whether earlier files of these names are replaced.

    Raises:
        FileExistsError: A file exists already.
        ValueError: It is one of the inputs, a device, or named twice.
        OSError: A folder cannot be made or written.
    """
    read, writing = {resolved(path) for path in inputs}, set()
    for path in outputs:
        target = resolved(path)
        if target in read:
            raise ValueError(f"{path} is read by this command and would be replaced; choose another name")
        if target in writing:
            raise ValueError(f"{path} would be written twice; choose different names")
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; give the name of a file")
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is a device or a pipe, which cannot be replaced; give the name of a file")
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists; choose another name, or pass --overwrite to replace it")
        writing.add(target)
    for folder in {path.parent for path in writing}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make the folder {folder}: {error.strerror}; choose another") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"cannot write in {folder}; choose another folder")


def check_ending(option: str, path: Path, endings: Sequence[str]) -> None:
    """Check that a file's name has one of the endings: ``--to photo.jpg`` would write a ``photo.png``.

    Raises:
        ValueError: It ends otherwise.
    """
    if path.suffix.lower() not in endings:
        raise ValueError(f"{option}: {path} must end in {' or '.join(endings)}")


def photo_names(photos: Sequence[Path]) -> list[str]:
    """Names that differ: each photo's path below the folder that all of them share, with forward slashes."""
    paths = [photo.absolute() for photo in photos]
    shared = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(shared).as_posix() for path in paths]


def drawing_paths(names: Sequence[str], folder: Path) -> list[Path]:
    """Where the photos of :func:`photo_names` are drawn: ``a/1.jpg`` as ``a/1.png``, or as ``a/1.jpg.png`` beside an
    ``a/1.bmp``."""
    stems = Counter(Path(name).with_suffix("") for name in names)
    return [folder / (f"{name}.png" if stems[Path(name).with_suffix("")] > 1 else Path(name).with_suffix(".png"))
            for name in names]  # fmt: skip


def image_ids(names: Sequence[str]) -> list[int]:
    """Ids of photos that have none: the numbers that all of them are named by, as COCO's are, else 1, 2, ..."""
    numbers = [number for name in names if isinstance(number := id_key(Path(name).stem), int)]
    return numbers if len(set(numbers)) == len(names) else list(range(1, len(names) + 1))


def joint_rows(found: PhotoPrediction, name: str) -> list[JointRow]:
    """A row per joint: photo, number of the person on it, joint, x and y in pixels of ``found.photo``, confidence."""
    return [
        (name, person, joint, x, y, sure)
        for person, (joints, confidence) in enumerate(zip(found.joints, found.confidence, strict=True))
        for joint, (x, y), sure in zip(found.skeleton.joints, joints, confidence, strict=True)
    ]


def coco_records(found: PhotoPrediction, name: str, given: PhotoBoxes) -> list[dict[str, Any]]:
    """A record of COCO's results format per person, with the photo's ``file_name`` beside COCO's own keys.

    A person's score is the box's times the mean of the joints' confidences above 0.2, as for AP; without such a joint
    times the mean of all, so that people are ranked also by networks that are never as sure.

    Args:
        found: N people.
        name: The photo's name.
        given: The N boxes, with the ids of the photo and of their categories.
    """
    keypoints = np.concatenate([found.joints, found.confidence[..., None]], axis=2).round(3)
    keypoints = keypoints.reshape(len(found.joints), 3 * len(found.skeleton))
    photo = {"image_id": given.image_id, "file_name": name}
    scores = rescore(given.scores, found.confidence)
    scores = np.where(scores > 0, scores, given.scores * found.confidence.mean(axis=1))
    return [
        {**photo, "category_id": category, "keypoints": row.tolist(), "score": float(score)}
        for category, row, score in zip(given.categories or [1] * len(scores), keypoints, scores, strict=True)
    ]


def write_csv(rows: Iterable[JointRow], path: Path) -> None:
    """Write rows of :func:`joint_rows`, positions to a thousandth of a pixel, completely or not at all."""
    text = pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False, float_format="%.3f")
    write_atomically(path, text.encode())


def write_coco_results(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Write records of :func:`coco_records` as JSON, completely or not at all."""
    write_atomically(path, json.dumps(records).encode())
