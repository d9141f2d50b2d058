"""COCO keypoints JSON -> :class:`~hdmlib.data.dataset.PoseDataset`, for any skeleton that its ``categories`` name.

People are chosen and framed as HRNet does it for COCO: crowds, people without area and people without a labelled joint
are dropped; the box is clipped to the photo and padded by a quarter. Coordinates are taken as they stand, 0-based.

For evaluation the people may instead be those that a detector found: :func:`read_detections`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hdmlib.data.dataset import DataError, Person, PoseDataset
from hdmlib.data.intake import (
    FARTHEST,
    HEAD_BOX_FACTOR,
    LeaveOut,
    NoAnnotations,
    assemble,
    find_annotations,
    integer_id,
    load_json,
    numbers,
)
from hdmlib.skeletons import Skeleton, skeleton_from_names

# A crop shows the person's box and a quarter more.
PADDING = 1.25


@dataclass(frozen=True, eq=False)
class Detections:
    """People that a detector found: boxes to look into, and no annotation.

    Attributes:
        people: N detections. Nobody's joint is labelled, so that they can be shown to a network but not be learned
            from or scored as they are; ``areas`` and ``head_sizes`` are NaN, ``annotation_ids`` rows of the file.
        scores: (N,) the detector's confidence in each box.
    """

    people: PoseDataset
    scores: np.ndarray


def find_coco(root: Path | str, split: str) -> tuple[Path, Path]:
    """The annotation file and the folder of photos of one split.

    Looks for ``annotations/person_keypoints_{split}2017.json`` (or without the year), then for any JSON in
    ``annotations/`` or in ``root`` whose name contains the split; and for photos in ``images/{split}2017``,
    ``{split}2017``, ``images/{split}``, ``{split}``, ``images`` or beside the JSON.

    Args:
        root: The dataset's folder.
        split: ``train``, ``val`` or whatever the file names call it.

    Raises:
        DataError: If nothing fits, or several files fit equally well.
    """
    root = Path(root)
    patterns = (
        f"annotations/person_keypoints_{split}.json",
        f"annotations/person_keypoints_{split}2017.json",
        f"annotations/*keypoints*{split}*.json",
        f"annotations/*{split}*.json",
        f"*{split}*.json",
    )
    annotations = find_annotations(root, split, patterns, opening=b"{")
    if annotations is None:
        raise NoAnnotations(f"no COCO annotations of split {split!r} in {root}; looked for {', '.join(patterns)}")
    dated = re.search(rf"{re.escape(split)}\d*", annotations.stem).group()  # train -> train2017, if the file says so
    folders = [root / "images" / dated, root / dated, root / "images" / split, root / split, root / "images"]
    return annotations, next((folder for folder in folders if folder.is_dir()), annotations.parent)


def read_coco(root: Path | str, split: str = "train") -> PoseDataset:
    """Read one split of a dataset in COCO's keypoints layout.

    Besides COCO's own fields an annotation may carry ``head_box`` (x1, y1, x2, y2; head size = 0.6 x its diagonal,
    MPII's rule) or ``head_size`` (pixels), and the category ``flip_pairs`` (0-based) and ``sigmas`` (OKS constants: a
    list, or a table by joint name).

    Args:
        root: The dataset's folder, see :func:`find_coco`.
        split: Which split.

    Raises:
        DataError: If files are missing, are not COCO keypoints, or hold nobody usable.
    """
    path, folder = find_coco(root, split)
    images, annotations, skeleton, category = _parts(path)
    people, left_out, seen = [], Counter(), set()
    for annotation in annotations:
        try:
            person = _coco_person(annotation, images, len(skeleton), category)
            if person.annotation_id in seen:
                raise LeaveOut("duplicate annotation id")
            seen.add(person.annotation_id)
            people.append(person)
        except LeaveOut as reason:
            left_out[str(reason)] += 1
        except (KeyError, TypeError, AttributeError):
            left_out["malformed annotation"] += 1
    return assemble(f"COCO {path.name}", skeleton, folder, people, left_out)


def read_detections(root: Path | str, split: str, boxes: Path | str) -> Detections:
    """Read the people whom a detector found on the photos of one split.

    The file is a list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``, COCO's result format.
    As in HRNet's evaluation other categories are dropped, and boxes are not clipped to the photo.

    Args:
        root: The dataset's folder, see :func:`find_coco`; its annotations name the photos and the category.
        split: Which split.
        boxes: The detector's file.

    Raises:
        DataError: If files are missing or of another format, or no box lies on a photo of the split.
    """
    path, folder = find_coco(root, split)
    photos, _, skeleton, category = _parts(path)
    boxes = Path(boxes)
    content = load_json(boxes)
    if not isinstance(content, list) or not all(isinstance(entry, dict) and "bbox" in entry for entry in content):
        raise DataError(
            f"boxes {boxes} is no detection file: it needs a list of objects with image_id, category_id, bbox and score"
        )
    people, scores, left_out = [], [], Counter()
    for number, entry in enumerate(content):
        try:
            person, score = _detection(entry, number, photos, len(skeleton), category)
            people.append(person)
            scores.append(score)
        except LeaveOut as reason:
            left_out[str(reason)] += 1
        except (KeyError, TypeError, AttributeError):
            left_out["malformed detection"] += 1
    found = assemble(f"detections {boxes.name}", skeleton, folder, people, left_out)
    # `assemble` leaves out people without a photo; their rows tell who stayed
    score_of = {person.annotation_id: score for person, score in zip(people, scores, strict=True)}
    return Detections(found, np.array([score_of[row] for row in found.annotation_ids.tolist()]))


def _detection(entry: dict, number: int, photos: dict, joint_count: int, category: int) -> tuple[Person, float]:
    """One detection as a person without joints, and its score; raises as :func:`_coco_person`."""
    if entry["category_id"] != category:
        raise LeaveOut("other category")
    score = float(numbers(entry["score"], (), "score"))
    photo = photos.get(entry["image_id"])
    if photo is None:
        raise LeaveOut("detection on no photo of the split")
    box = numbers(entry["bbox"], (4,), "box")
    if not (box[2:] > 0).all():
        raise LeaveOut("box empty")
    photo_size = numbers([photo["width"], photo["height"]], (2,), "photo size")
    if not isinstance(photo["file_name"], str):
        raise LeaveOut("malformed photo name")
    centre, size = box_region(box)
    nan = float("nan")
    person = Person(
        file_name=photo["file_name"],
        photo_size=(photo_size[0], photo_size[1]),
        joints=np.zeros((joint_count, 2)),
        visibility=np.zeros(joint_count),
        box=box,
        centre=centre,
        size=size,
        area=nan,
        head_size=nan,
        annotation_id=number,
        image_id=integer_id(entry["image_id"]),
    )
    return person, score


def box_region(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and padded size of the part of a photo that shows a person's box.

    Args:
        box: (..., 4) x, y, width, height in pixels; from a detector it goes in unclipped.

    Returns:
        Centre (..., 2) and size (..., 2), not yet fitted to an aspect ratio.
    """
    return box[..., :2] + box[..., 2:] / 2, box[..., 2:] * PADDING


def _parts(path: Path) -> tuple[dict, list, Skeleton, int]:
    """Photos by id, annotations, skeleton and category id of a COCO keypoints file."""
    content = load_json(path)
    if isinstance(content, list):
        raise DataError(
            f"{path} is a list, not COCO annotations: a detection file, or MPII in HRNet's format (dataset 'mpii')"
        )
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise DataError(f"{path} is not a COCO annotation file: it needs the lists {', '.join(keys)}")
    categories = [c for c in content["categories"] if isinstance(c, dict) and isinstance(c.get("keypoints"), list)]
    if len(categories) != 1:
        raise DataError(
            f"{path}: needs exactly one category with 'keypoints', has {len(categories)}; take the keypoints file"
        )
    category = categories[0]
    try:
        skeleton = skeleton_from_names(
            category["keypoints"],
            name=path.stem,
            flip_pairs=category.get("flip_pairs"),
            limbs=[(a - 1, b - 1) for a, b in category.get("skeleton") or ()],  # 1-based in COCO
            sigmas=category.get("sigmas"),
        )
        return _photos(content["images"]), content["annotations"], skeleton, category["id"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: bad category {str(category.get('name'))[:40]!r}: {error}") from None


def _photos(entries: list) -> dict[int, dict | None]:
    """Entries of ``images`` by id; ``None`` for an id that two different photos claim."""
    photos: dict[int, dict | None] = {}
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("id"), int):
            known = photos.get(entry["id"], entry)
            photos[entry["id"]] = entry if known and known.get("file_name") == entry.get("file_name") else None
    return photos


def _coco_person(annotation: dict, photos: dict, joint_count: int, category: int) -> Person:
    """One annotation as a person; LeaveOut, KeyError, TypeError or AttributeError if it cannot be one."""
    if annotation["category_id"] != category:
        raise LeaveOut("other category")
    if annotation.get("iscrowd", 0):
        raise LeaveOut("crowd")
    photo = photos.get(annotation["image_id"])
    if photo is None:
        raise LeaveOut("annotation of no or an ambiguous photo")
    keypoints = numbers(annotation["keypoints"], (3 * joint_count,), "joints").reshape(joint_count, 3)
    visibility = keypoints[:, 2]
    if not np.isin(visibility, (0, 1, 2)).all():
        raise LeaveOut("malformed joints")
    if not visibility.any():
        raise LeaveOut("no labelled joint")
    given = numbers(annotation["bbox"], (4,), "box")
    area = float(numbers(annotation.get("area", given[2] * given[3]), (), "area", FARTHEST**2))
    if area <= 0:
        raise LeaveOut("no area")
    photo_size = numbers([photo["width"], photo["height"]], (2,), "photo size")
    box = _clip(given, photo_size)
    centre, size = box_region(box)
    if not isinstance(photo["file_name"], str):
        raise LeaveOut("malformed photo name")
    return Person(
        file_name=photo["file_name"],
        photo_size=(photo_size[0], photo_size[1]),
        joints=keypoints[:, :2],
        visibility=visibility,
        box=box,
        centre=centre,
        size=size,
        area=area,
        head_size=_head_size(annotation),
        annotation_id=integer_id(annotation["id"]),
        image_id=integer_id(annotation["image_id"]),
    )


def _clip(box: np.ndarray, photo_size: np.ndarray) -> np.ndarray:
    """HRNet's clipping: the last pixel a box reaches is x + w - 1, and a photo's is width - 1."""
    first = np.maximum(box[:2], 0)
    last = np.minimum(photo_size - 1, first + np.maximum(box[2:] - 1, 0))
    extent = last - first
    if not (box[2:] > 0).all() or (extent < 0).any() or not (extent > 0).any():
        raise LeaveOut("box empty or outside the photo")
    return np.concatenate([first, extent])


def _head_size(annotation: dict) -> float:
    """Head size in pixels from the optional fields, or NaN."""
    if annotation.get("head_box") is not None:
        x1, y1, x2, y2 = numbers(annotation["head_box"], (4,), "head box")
        length = HEAD_BOX_FACTOR * float(np.hypot(x2 - x1, y2 - y1))
    else:
        length = float(numbers(annotation.get("head_size", 0), (), "head size"))
    return length if length > 0 else float("nan")
