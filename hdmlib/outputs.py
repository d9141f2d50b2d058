"""Predictions as files, and boxes from files: a CSV with a row a joint, COCO's results format, COCO's boxes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdmlib.data.dataset import DataError
from hdmlib.data.intake import as_floats, id_key, load_json
from hdmlib.files import write_atomically
from hdmlib.inference import PhotoPrediction
from hdmlib.metrics.oks import rescore

COLUMNS = ("photo", "person", "joint", "x", "y", "confidence")


@dataclass(frozen=True, eq=False)
class BoxFile:
    """Boxes of people by photo, from a COCO file.

    Attributes:
        path: The file.
        boxes: Photo's name, or its id where the file has no names -> (N, 4) x, y, width, height.
        scores: The same keys -> (N,) scores of the boxes, 1 for annotations.
        image_ids: Name -> id of each photo.
    """

    path: Path
    boxes: Mapping[str | int, NDArray[np.float64]]
    scores: Mapping[str | int, NDArray[np.float64]]
    image_ids: Mapping[str, int]

    def key_of(self, photo: Path) -> str | int | None:
        """The entry of a photo: by its name, else by the number that its name is; ``None`` if there is none."""
        number = id_key(photo.stem)
        return next((key for key in (photo.name, number) if key is not None and key in self.boxes), None)


def read_boxes(path: Path) -> BoxFile:
    """Read COCO annotations with ``images``, or a detector's list of ``{"image_id", "bbox", "score"}``.

    Raises:
        DataError: The file is neither, or a box is not four numbers; the message names the entry.
    """
    content = load_json(path)
    names: dict[Any, str] = {}
    entries: Any = content
    if isinstance(content, dict):
        entries = content.get("annotations")
        images = [image for image in content.get("images") or () if isinstance(image, dict)]
        names = {id_key(image.get("id")): Path(str(image.get("file_name"))).name for image in images}
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "bbox" in entry for entry in entries):
        raise DataError(f"{path}: no boxes; it needs COCO annotations, or a list of objects with image_id and bbox")
    boxes: dict[Any, list[NDArray[np.float64]]] = {}
    scores: dict[Any, list[float]] = {}
    for number, entry in enumerate(entries):
        box, image = as_floats(entry["bbox"]), id_key(entry.get("image_id"))
        if box is None or box.shape != (4,) or not np.isfinite(box).all():
            raise DataError(f"{path}: entry {number}: bbox must be four numbers x, y, width, height")
        key = names.get(image, entry.get("file_name", image))
        boxes.setdefault(key, []).append(box)
        scores.setdefault(key, []).append(float(entry.get("score", 1.0)))
    ids = {name: number for number, name in names.items() if isinstance(number, int)}
    return BoxFile(path, _stacked(boxes), _stacked(scores), ids)


def _stacked(lists: Mapping[Any, Sequence[Any]]) -> dict[Any, NDArray[np.float64]]:
    return {key: np.array(values, dtype=np.float64) for key, values in lists.items()}


def prediction_table(predictions: Iterable[PhotoPrediction]) -> pd.DataFrame:
    """One row per joint: ``photo`` (its name), ``person`` (its number on the photo), ``joint``, ``x`` and ``y`` in
    pixels of the upright photo, ``confidence``."""
    rows = [
        (photo.path.name if photo.path else "", person, name, x, y, confidence)
        for photo in predictions
        for person, (joints, sure) in enumerate(zip(photo.joints, photo.confidence, strict=True))
        for name, (x, y), confidence in zip(photo.skeleton.joints, joints, sure, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def coco_results_of(predictions: Sequence[PhotoPrediction], boxes: BoxFile | None = None) -> list[dict[str, Any]]:
    """Records of COCO's results format, one per person; photos without an id in ``boxes`` are numbered from 1.

    A person's score is that of the box times the mean of the joints' confidences above 0.2, as for AP. ``file_name``
    is added to COCO's own keys.
    """
    records = []
    for number, photo in enumerate(predictions, start=1):
        name = photo.path.name if photo.path else ""
        key = boxes.key_of(photo.path) if boxes and photo.path else None
        box_scores = boxes.scores[key] if boxes and key is not None else np.ones(len(photo.joints))
        image_id = key if isinstance(key, int) else (boxes.image_ids.get(name, number) if boxes else number)
        keypoints = np.concatenate([photo.joints, photo.confidence[..., None]], axis=2)
        keypoints = keypoints.reshape(len(photo.joints), 3 * len(photo.skeleton))
        for joints, score in zip(keypoints, rescore(box_scores, photo.confidence), strict=True):
            records.append({
                "image_id": image_id, "file_name": name, "category_id": 1,
                "keypoints": np.round(joints, 3).tolist(), "score": float(score),
            })  # fmt: skip
    return records


def write_csv(predictions: Iterable[PhotoPrediction], path: Path) -> None:
    """Write :func:`prediction_table`, positions to a thousandth of a pixel, completely or not at all."""
    text = prediction_table(predictions).to_csv(index=False, float_format="%.3f")
    write_atomically(path, text.encode())


def write_coco_results(predictions: Sequence[PhotoPrediction], path: Path, boxes: BoxFile | None = None) -> None:
    """Write :func:`coco_results_of` as JSON, completely or not at all."""
    write_atomically(path, json.dumps(coco_results_of(predictions, boxes)).encode())
