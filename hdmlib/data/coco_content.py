"""A COCO annotation file as a whole: its photos, categories and joints; single annotations stay as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hdmlib.data.annotation import categories_called, category_key
from hdmlib.data.coco_files import CocoFiles
from hdmlib.data.dataset import DataError
from hdmlib.data.intake import IntakeLog, LeaveOut, as_floats, id_key, load_json, number_ids, positive
from hdmlib.data.layouts import ONE_IN, has_word, in_part, split_names
from hdmlib.data.photos import PhotoFolder
from hdmlib.skeletons import Skeleton, plain_name, skeleton_from_names


def annotated_size(photo: Mapping[str, Any]) -> tuple[float, float] | None:
    """Width and height in pixels that an entry of ``images`` gives, if both are positive numbers."""
    width, height = positive(photo.get("width")), positive(photo.get("height"))
    return (width, height) if width and height else None


@dataclass(frozen=True)
class Content:
    """An annotation file: photos by id (``None``: several claim it), annotations with their ids, and the joints."""

    name: str
    photos: dict[int | str | None, dict | None]
    image_ids: dict[int | str | None, int]
    annotations: list
    ids: list[int]
    skeleton: Skeleton
    categories: frozenset[int | str | None]
    other_categories: frozenset[int | str | None]
    only_category: object
    first_category: Any
    log: IntakeLog

    @property
    def category_id(self) -> int:
        """The id of the first category that is read, as an integer."""
        return number_ids([id_key(self.first_category)])[0]

    def reads(self, annotation: dict) -> bool:
        """Whether an annotation is of a category that is read.

        Raises:
            LeaveOut: If it has joints but no category, or one without joints.
        """
        key = category_key(annotation, self.only_category)
        if key not in self.categories | self.other_categories and any(annotation.get("keypoints") or ()):
            raise LeaveOut(
                "joints of a category that has none", f"its category_id must be that of the joints, {self.category_id}"
            )
        return key in self.categories

    def photo_of(self, annotation: dict) -> dict:
        """The entry of ``images`` that an annotation belongs to.

        Raises:
            LeaveOut: If there is none, or several claim its id.
        """
        photo = self.photos.get(id_key(annotation["image_id"]))
        if photo is None:
            raise LeaveOut(
                "annotation of no or an ambiguous photo", "its image_id must be the id of exactly one entry of images"
            )
        return photo

    def image_id(self, annotation: dict) -> int:
        """The id of its photo as an integer."""
        return self.image_ids[id_key(annotation["image_id"])]

    def stored_size(self, photo: dict, photos: PhotoFolder, annotation: int) -> tuple[float, float]:
        """Width and height of a photo that is annotated without them.

        Raises:
            LeaveOut: If its file cannot be read.
        """
        header = photos.header(path := photos.find(photo.get("file_name")))
        if header.problem:
            raise LeaveOut(header.problem, f"{path}: {header.remedy}")
        self.log.mend("photo without width and height: those of the file", annotation)
        return header.size


def read_content(files: CocoFiles, split: str, category: str | None) -> Content:
    """Photos, annotations, joints and categories of an annotation file, or of the split's part of it.

    Raises:
        DataError: The file cannot be read, is of another format, or has no joints or several kinds to choose from.
    """
    path, log = files.annotations, IntakeLog()
    content = load_json(path)
    if isinstance(content, list):
        raise DataError(
            f"{path} is a list, not COCO annotations: a detection file, or MPII in HRNet's format (dataset 'mpii')"
        )
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise DataError(f"{path} is not a COCO annotation file: it needs the lists {', '.join(keys)}")
    categories = _categories(path, content["categories"], category, log)
    skeleton = _skeleton(path, categories, log)
    photos, annotations = _photos(content["images"]), content["annotations"]
    if files.divided:
        everyone, (photos, annotations) = len(photos), _part(photos, annotations, split)
        if everyone and not photos:
            raise DataError(
                f"{path}: none of its {everyone} photos belongs to {split!r}; of a file for all splits one photo in "
                f"{ONE_IN} is kept for validation, by a hash of its name; write a file for each split"
            )
        log.note(f"one file for all splits: one photo in {ONE_IN}, by a hash of its name, is kept for validation")
    named = any(has_word(path.stem, name) for name in split_names(split))  # else its folder is
    keys_of = _annotation_keys(annotations)
    ids = number_ids(keys_of)
    for key, number in zip(keys_of, ids, strict=True):
        if key != number:
            log.mend("id missing, no integer or already used: numbered", number)
    return Content(
        name=f"COCO {path.name if named or files.divided else f'{path.parent.name}/{path.name}'}",
        photos=photos,
        image_ids=dict(zip(photos, number_ids(photos), strict=True)),
        annotations=annotations,
        ids=ids,
        skeleton=skeleton,
        categories=frozenset(id_key(c["id"]) for c in categories),
        other_categories=frozenset(id_key(c.get("id")) for c in _with_joints(content["categories"])) - {None},
        only_category=categories[0]["id"] if len(content["categories"]) == 1 else None,
        first_category=categories[0]["id"],
        log=log,
    )


def _annotation_keys(annotations: list) -> list[int | str | None]:
    """The id of each annotation, ``None`` where there is none; others of the same id have keys of their own.

    One that is listed twice has the same key twice.
    """
    first: dict[int | str, object] = {}
    others: dict[tuple[int | str, str], str] = {}
    keys = []
    for annotation in annotations:
        key = id_key(annotation.get("id")) if isinstance(annotation, dict) else None
        if key is not None and first.setdefault(key, annotation) != annotation:
            content = json.dumps(annotation, sort_keys=True)
            key = others.setdefault((key, content), f"another {len(others)} of id {key}")
        keys.append(key)
    return keys


def _part(photos: dict, annotations: list, split: str) -> tuple[dict, list]:
    """The photos and annotations of a file without splits that belong to one.

    An annotation of no photo, or of an ambiguous one, is the training split's, whose intake names and counts it.
    """
    part = {key: photo for key, photo in photos.items() if photo and in_part(str(photo.get("file_name")), split)}
    sound = {key for key, photo in photos.items() if photo}
    trains = "val" not in split_names(split)

    def belongs(annotation: object) -> bool:
        key = id_key(annotation.get("image_id")) if isinstance(annotation, dict) else None
        return key in part or (trains and key not in sound)

    return part, [annotation for annotation in annotations if belongs(annotation)]


def _with_joints(categories: list) -> list[dict]:
    return [c for c in categories if isinstance(c, dict) and c.get("keypoints")]


def _joint_names(path: Path, category: dict, log: IntakeLog) -> list[Any]:
    """The names of a category's joints; of joints that are objects, the ``name`` of each."""
    joints = category["keypoints"] if isinstance(category["keypoints"], list) else [None]
    names = [joint.get("name") if isinstance(joint, dict) else joint for joint in joints]
    label = str(category.get("name"))[:40]
    if not all(type(name) in (str, int) for name in names):
        found = json.dumps(category["keypoints"])[:40]
        raise DataError(f"{path}: bad category {label!r}: keypoints must be a list of names, got {found}")
    if names != joints:
        log.note(f"keypoints of category {label!r} are objects, not names: the name of each is read")
    return names


def _categories(path: Path, entries: list, wanted: str | None, log: IntakeLog) -> list[dict]:
    """The categories to read: those of the wanted name or id, else all with joints, which must then be the same."""
    found = _with_joints(entries)
    names = ", ".join(dict.fromkeys(str(c.get("name"))[:40] for c in found))
    if not found:
        raise DataError(f"{path}: no category has 'keypoints'; take the keypoints file, or export the joints' names")
    chosen = found if wanted is None else categories_called(found, wanted)
    if not chosen:
        raise DataError(f"{path}: no category {wanted!r} with keypoints; category=NAME can be {names}")
    chosen = [{**c, "keypoints": _joint_names(path, c, log)} for c in chosen]
    if len({tuple(plain_name(joint) for joint in c["keypoints"]) for c in chosen}) > 1:
        raise DataError(
            f"{path}: the categories {names} have different joints; choose one with category=NAME or its id"
        )
    if unnumbered := [c for c in chosen if id_key(c.get("id")) is None]:
        raise DataError(f"{path}: bad category {str(unnumbered[0].get('name'))[:40]!r}: it needs an id")
    return chosen


def _skeleton(path: Path, categories: list[dict], log: IntakeLog) -> Skeleton:
    """The joints of the categories, with the pairs, constants and limbs of the first that has them."""

    def first(key: str) -> Any:
        return next((c[key] for c in categories if c.get(key) is not None), None)

    joints = categories[0]["keypoints"]
    try:
        return skeleton_from_names(
            joints,
            name=path.stem,
            flip_pairs=first("flip_pairs"),
            limbs=_limbs(first("skeleton"), len(joints), log),
            sigmas=first("sigmas"),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: bad category {str(categories[0].get('name'))[:40]!r}: {error}") from None


def _limbs(value: Any, count: int, log: IntakeLog) -> list[tuple[int, int]]:
    """0-based limbs; the list counts from 1 in COCO, and from 0 where a 0 is in it. Limbs are only drawn."""
    pairs = as_floats(value or [])
    if pairs is not None and not pairs.size:
        return []
    if pairs is not None and pairs.ndim == 2 and pairs.shape[1] == 2:
        pairs = pairs - (0 if (pairs == 0).any() else 1)
        if ((pairs >= 0) & (pairs < count) & (pairs == np.floor(pairs))).all():
            return [(int(a), int(b)) for a, b in pairs]
    log.note(f"the category's skeleton is no list of pairs of the numbers 1 to {count}, so no limbs are drawn")
    return []


def _photos(entries: list) -> dict[int | str | None, dict | None]:
    """Entries of ``images`` by id; ``None`` for an id that two different photos claim."""
    photos: dict[int | str | None, dict | None] = {}
    for entry in entries:
        key = id_key(entry.get("id")) if isinstance(entry, dict) else None
        if key is not None:
            known = photos.get(key, entry)
            photos[key] = entry if known and known.get("file_name") == entry.get("file_name") else None
    return photos
