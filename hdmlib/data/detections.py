"""People whom a detector found, for evaluation as published: its file of boxes in, people without joints out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hdmlib.data.annotation import box_region
from hdmlib.data.assembly import assemble
from hdmlib.data.coco_content import Content, annotated_size, read_content
from hdmlib.data.coco_files import find_coco
from hdmlib.data.dataset import DataError, Person, PoseDataset
from hdmlib.data.intake import IntakeLog, LeaveOut, id_key, load_json, numbers
from hdmlib.data.photos import PhotoFolder


@dataclass(frozen=True, eq=False)
class Detections:
    """People that a detector found: boxes without annotation.

    Attributes:
        people: N detections. No joint is labelled, so they can be shown to a network but not be learned from or scored
            as they are; ``areas`` and ``head_sizes`` are NaN, ``annotation_ids`` rows of the file.
        scores: (N,) the detector's confidence in each box.
    """

    people: PoseDataset
    scores: np.ndarray


def read_detections(root: Path | str, split: str, boxes: Path | str, *, category: str | None = None) -> Detections:
    """Read the people whom a detector found on the photos of one split.

    The file is a list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``, COCO's result format.
    As in HRNet's evaluation other categories are dropped, and boxes are not clipped to the photo.

    Args:
        root: The dataset's folder, see :func:`find_coco`; its annotations name the photos and the category.
        split: Which split.
        boxes: The detector's file.
        category: As for :func:`read_coco`.

    Raises:
        DataError: If files are missing or of another format, or no box lies on a photo of the split.
    """
    files = find_coco(root, split)
    photos = PhotoFolder(Path(root), files.photos, files.annotations.parent, None if files.divided else split)
    content, log, boxes = read_content(files, split, category), IntakeLog(), Path(boxes)
    entries = load_json(boxes)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "bbox" in entry for entry in entries):
        raise DataError(
            f"boxes {boxes} is no detection file: it needs a list of objects with image_id, category_id, bbox and score"
        )
    people, scores = [], {}
    for row, entry in enumerate(entries):
        try:
            person, scores[row] = _detection(entry, row, content, photos)
            people.append(person)
        except LeaveOut as fault:
            log.leave_out(fault, f"in row {row}")
        except (KeyError, TypeError, AttributeError):
            log.leave_out(LeaveOut("malformed detection", "it needs image_id, category_id and score"), f"in row {row}")
    found = assemble(f"detections {boxes.name}", content.skeleton, photos, people, log, len(entries))
    # `assemble` leaves out people without a photo; their rows show who is left
    return Detections(found, np.array([scores[row] for row in found.annotation_ids.tolist()]))


def _detection(entry: dict, row: int, content: Content, photos: PhotoFolder) -> tuple[Person, float]:
    """One detection as a person without joints, and its score; fails as an annotation does in ``read_coco``."""
    if not content.reads(entry):
        raise LeaveOut("other category")
    score = float(numbers(entry["score"], (), "score"))
    photo = content.photos.get(id_key(entry["image_id"]))
    if photo is None:
        raise LeaveOut("detection on no photo of the split", "use the boxes of this split")
    box = numbers(entry["bbox"], (4,), "box")
    if not (box[2:] > 0).all():
        raise LeaveOut("box empty", "width and height must be positive")
    if not isinstance(photo.get("file_name"), str):
        raise LeaveOut("malformed photo name", "file_name must be text")
    centre, size = box_region(box)
    count, nan = len(content.skeleton), float("nan")
    person = Person(
        file_name=photo["file_name"],
        photo_size=annotated_size(photo),
        joints=np.zeros((count, 2)),
        visibility=np.zeros(count),
        box=box,
        centre=centre,
        size=size,
        area=nan,
        head_size=nan,
        annotation_id=row,
        image_id=content.image_id(entry),
    )
    return person, score
