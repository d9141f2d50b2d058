"""COCO keypoints JSON -> :class:`~hdmlib.data.dataset.PoseDataset`, for any skeleton that its ``categories`` name.

People are framed as HRNet does it for COCO: the box is clipped to the photo and padded by a quarter. Crowds and people
without a labelled joint are left out. Coordinates are taken as they are, 0-based.

Files of annotation tools lack this or that, so both training and evaluation read each annotation through
:func:`mended`. For evaluation the people may instead be those that a detector found: :func:`read_detections`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hdmlib.data.assembly import assemble
from hdmlib.data.dataset import DataError, Person, PoseDataset
from hdmlib.data.intake import (
    FARTHEST,
    HEAD_BOX_FACTOR,
    IntakeLog,
    LeaveOut,
    as_floats,
    id_key,
    load_json,
    number_ids,
    numbers,
    positive,
)
from hdmlib.data.layouts import (
    ONE_IN,
    NoAnnotations,
    check_split,
    find_annotations,
    glob_any_case,
    has_word,
    in_part,
    names_a_split,
    only,
    split_names,
)
from hdmlib.data.photos import PhotoFolder
from hdmlib.skeletons import Skeleton, plain_name, skeleton_from_names

# A crop shows the person's box and a quarter more.
PADDING = 1.25

# A missing box is that of the labelled joints, larger by this; joints in one place get a box of this part of the photo.
JOINT_BOX_GROWTH = 1.1
LEAST_JOINT_BOX = 0.1
_PHOTO_SIDE = 320.0  # where a photo's size is unknown, too

_PATTERNS = (
    "annotations/person_keypoints_{split}.json",
    "annotations/person_keypoints_{split}2017.json",
    "annotations/{split}.json",
    "{split}.json",
    "{split}/_annotations.coco.json",  # Roboflow
    "{split}/annotations.json",
    "{split}/labels.json",  # FiftyOne
    "annotations/*keypoints*{split}*.json",
    "annotations/*{split}*.json",
    "*{split}*.json",
    "{split}/*.json",
    "{split}/annotations/*.json",
)


# --------------------------------------------------------------------------------------------------------------- layout


@dataclass(frozen=True)
class CocoFiles:
    """Where a split is.

    Attributes:
        annotations: The JSON file.
        photos: The folder where its photos are expected.
        divided: Whether the file holds all splits, so that :func:`~hdmlib.data.layouts.in_part` divides its photos.
    """

    annotations: Path
    photos: Path
    divided: bool = False


def find_coco(root: Path | str, split: str) -> CocoFiles:
    """The annotation file and the folder of photos of one split.

    Looks for a file that is named for the split (``annotations/person_keypoints_train2017.json``, ``train.json``), for
    one in a folder of that name (``train/_annotations.coco.json``), and at last for a single file that is named for no
    split at all: ``annotations.json``, ``result.json``, ``annotations/instances_default.json``. ``valid`` and
    ``validation`` are ``val``. An exact name comes before a longer one.

    Args:
        root: The dataset's folder.
        split: ``train``, ``val`` or whatever the file names call it.

    Raises:
        NoAnnotations: If nothing fits.
        DataError: If several files fit equally well.
    """
    root = Path(root)
    check_split(root, split)
    if annotations := find_annotations(root, split, _PATTERNS, opening=b"{"):
        return CocoFiles(annotations, _photo_folder(root, split, annotations))
    if annotations := _unsplit(root, split):
        folders = (root / "images" / "default", root / "images", root / "data")
        return CocoFiles(annotations, next((f for f in folders if f.is_dir()), annotations.parent), divided=True)
    tried = ", ".join(pattern.format(split=split) for pattern in _PATTERNS)
    raise NoAnnotations(f"no COCO annotations of split {split!r} in {root}; looked for {tried}, and for a single file")


def _photo_folder(root: Path, split: str, annotations: Path) -> Path:
    """The first of the usual folders that exists, else the annotation file's own."""
    names, top = split_names(split), annotations.relative_to(root).parts[0]
    folders = [top + "/data", top + "/images", top] if top.lower() in names else []
    for name in names:
        dated = re.search(rf"{re.escape(name)}\d*", annotations.stem)  # train -> train2017, if the file is named so
        dated_name = dated.group() if dated else name
        folders += ["images/" + dated_name, dated_name, "images/" + name, name]
    found = (path for name in [*folders, "images"] for path in glob_any_case(root, name) if path.is_dir())
    return next(found, annotations.parent)


def _unsplit(root: Path, split: str) -> Path | None:
    """The one annotation file of a folder in which none is named for training or validation."""
    files = [path for pattern in ("*.json", "annotations/*.json", "*/*.json") for path in sorted(root.glob(pattern))]
    if not {"train", "val"} & set(split_names(split)) or any(names_a_split(path, root) for path in files):
        return None
    files = [path for path in files if path.parent in (root, root / "annotations") and b'"categories"' in _bytes(path)]
    files = [path for path in files if b'"keypoints"' in _bytes(path)] or files
    files = [path for path in files if "keypoints" in path.stem] or files
    return only(list(dict.fromkeys(files)), root, split, opening=b"{") if files else None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# -------------------------------------------------------------------------------------------------------------- reading


def read_coco(
    root: Path | str, split: str = "train", *, category: str | None = None, strict: bool = False
) -> PoseDataset:
    """Read one split of a dataset in COCO's keypoints layout.

    Besides COCO's own fields an annotation may carry ``head_box`` (x1, y1, x2, y2; head size = 0.6 x its diagonal,
    MPII's rule) or ``head_size`` (pixels), and the category ``flip_pairs`` (0-based numbers or names) and ``sigmas``
    (OKS constants: a list, or a table by joint name).

    Args:
        root: The dataset's folder, see :func:`find_coco`.
        split: Which split.
        category: Name of the category to read, where several have joints of their own; categories with the same joints
            are read together.
        strict: Leave out people without area or with an empty box, as HRNet does on COCO itself; else both are taken
            from the box or the joints.

    Raises:
        DataError: If files are missing, are not COCO keypoints, or hold no usable person.

    Warns:
        DataWarning: Once, with what was mended or left out.
    """
    files = find_coco(root, split)
    content = _read_content(files, split, category)
    photos = PhotoFolder(Path(root), files.photos, files.annotations.parent, split)
    log, people, seen = content.log, [], set()
    for number, annotation in zip(content.ids, content.annotations, strict=True):
        try:
            person = _coco_person(annotation, number, content, photos, strict)
            if number in seen:
                raise LeaveOut("duplicate annotation id", "give every annotation an id of its own")
            seen.add(number)
            people.append(person)
        except LeaveOut as fault:
            log.leave_out(fault, number)
        except (KeyError, TypeError, AttributeError):
            log.leave_out(LeaveOut("malformed annotation", "it needs image_id, category_id and keypoints"), number)
    return assemble(content.name, content.skeleton, photos, people, log, len(content.annotations))


def read_truth(root: Path | str, split: str, *, category: str | None = None) -> dict[str, Any]:
    """The annotations of a split as ground truth of :func:`~hdmlib.metrics.oks.oks_ap`, through the same mending.

    Crowds and people without a labelled joint are included, as COCO's evaluation needs them. A person whom
    :func:`read_coco` leaves out for another reason counts as missed if the joints can be read. Several categories
    become the first one.

    Raises:
        DataError: As :func:`read_coco`.
    """
    content = _read_content(find_coco(root, split), split, category)
    truth = []
    for number, annotation in zip(content.ids, content.annotations, strict=True):
        try:
            photo = content.photo_of(annotation)
            if content.reads(annotation):
                one = mended(annotation, len(content.skeleton), photo_size=_annotated_size(photo) or ())
                truth.append(one.as_truth(number, content.image_id(annotation), content.category_id))
        except (LeaveOut, KeyError, TypeError, AttributeError):
            continue  # read_coco has counted it
    return {
        "images": [{"id": content.image_ids[key]} for key, photo in content.photos.items() if photo is not None],
        "categories": [{"id": content.category_id, "keypoints": list(content.skeleton.joints)}],
        "annotations": truth,
    }


# ----------------------------------------------------------------------------------------------------------------- file


def _annotated_size(photo: dict) -> tuple[float, float] | None:
    width, height = positive(photo.get("width")), positive(photo.get("height"))
    return (width, height) if width and height else None


@dataclass(frozen=True)
class _Content:
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
    category_id: int
    log: IntakeLog

    def reads(self, annotation: dict) -> bool:
        """Whether an annotation is of a category that is read.

        Raises:
            LeaveOut: If it has joints but no category, or one without joints.
        """
        key = id_key(annotation.get("category_id", self.only_category))
        if key not in self.categories | self.other_categories and any(annotation.get("keypoints") or ()):
            raise LeaveOut(
                "joints of a category that has none", f"its category_id must be that of the joints, {self.category_id}"
            )
        return key in self.categories

    def photo_of(self, annotation: dict) -> dict:
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
        """Width and height of a photo that is annotated without them."""
        header = photos.header(photos.find(photo.get("file_name")))
        if header.problem:
            raise LeaveOut(header.problem, f"restore the photo {photo.get('file_name')}")
        self.log.mend("photo without width and height: those of the file", annotation)
        return header.size


def _read_content(files: CocoFiles, split: str, category: str | None) -> _Content:
    """Photos, annotations, joints and categories of an annotation file, or of the split's part of it."""
    path, log = files.annotations, IntakeLog()
    content = load_json(path)
    if isinstance(content, list):
        raise DataError(
            f"{path} is a list, not COCO annotations: a detection file, or MPII in HRNet's format (dataset 'mpii')"
        )
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise DataError(f"{path} is not a COCO annotation file: it needs the lists {', '.join(keys)}")
    categories = _categories(path, content["categories"], category)
    skeleton = _skeleton(path, categories, log)
    photos, annotations = _photos(content["images"]), content["annotations"]
    if files.divided:
        photos, annotations = _part(photos, annotations, split)
        log.note(f"one file for all splits: one photo in {ONE_IN}, by a hash of its name, is kept for validation")
    named = any(has_word(path.stem, name) for name in split_names(split))  # else its folder is
    keys_of = [id_key(a.get("id")) if isinstance(a, dict) else None for a in annotations]
    ids = number_ids(keys_of)
    for key, number in zip(keys_of, ids, strict=True):
        if key != number:
            log.mend("id missing or not an integer: numbered", number)
    return _Content(
        name=f"COCO {path.name if named or files.divided else f'{path.parent.name}/{path.name}'}",
        photos=photos,
        image_ids=dict(zip(photos, number_ids(photos), strict=True)),
        annotations=annotations,
        ids=ids,
        skeleton=skeleton,
        categories=frozenset(id_key(c["id"]) for c in categories),
        other_categories=frozenset(id_key(c.get("id")) for c in _with_joints(content["categories"])) - {None},
        only_category=categories[0]["id"] if len(content["categories"]) == 1 else None,
        category_id=number_ids([id_key(categories[0]["id"])])[0],
        log=log,
    )


def _part(photos: dict, annotations: list, split: str) -> tuple[dict, list]:
    """The photos and annotations of a file without splits that belong to one."""
    photos = {key: photo for key, photo in photos.items() if photo and in_part(str(photo.get("file_name")), split)}
    return photos, [a for a in annotations if isinstance(a, dict) and id_key(a.get("image_id")) in photos]


def _with_joints(categories: list) -> list[dict]:
    return [c for c in categories if isinstance(c, dict) and isinstance(c.get("keypoints"), list) and c["keypoints"]]


def _categories(path: Path, entries: list, wanted: str | None) -> list[dict]:
    """The categories to read: all with the wanted name, else all with joints, which must then be the same."""
    found = _with_joints(entries)
    names = ", ".join(dict.fromkeys(str(c.get("name"))[:40] for c in found))
    if not found:
        raise DataError(f"{path}: no category has 'keypoints'; take the keypoints file, or export the joints' names")
    if wanted is not None and not any(c.get("name") == wanted for c in found):
        raise DataError(f"{path}: no category {wanted!r} with keypoints; category=NAME can be {names}")
    chosen = [c for c in found if wanted in (None, c.get("name"))]
    if len({tuple(plain_name(joint) for joint in c["keypoints"]) for c in chosen}) > 1:
        raise DataError(f"{path}: the categories {names} have different joints; choose one with category=NAME")
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


# --------------------------------------------------------------------------------------------------------------- person


@dataclass(frozen=True)
class MendedAnnotation:
    """What an annotation holds after mending; coordinates in pixels of the photo.

    Attributes:
        crowd: Whether it marks a group.
        joints: (K, 2), 0 where unlabelled.
        visibility: (K,), 0, 1 or 2.
        box: x, y, width, height as given, else around the labelled joints; ``None`` if there are none.
        box_given: Whether it is the annotation's own.
        area: As given, else that of the box.
        area_given: Whether it is the annotation's own.
        changes: What was mended, in words.
    """

    crowd: bool
    joints: np.ndarray
    visibility: np.ndarray
    box: tuple[float, ...] | None
    box_given: bool
    area: float
    area_given: bool
    changes: tuple[str, ...]

    def as_truth(self, annotation_id: int, image_id: int, category_id: int) -> dict[str, Any]:
        """The annotation as pycocotools evaluates it."""
        return {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": category_id,
            "iscrowd": int(self.crowd),
            "bbox": list(self.box or (0.0,) * 4),
            "area": self.area,
            "keypoints": np.column_stack([self.joints, self.visibility]).ravel().tolist(),
            "num_keypoints": int(np.count_nonzero(self.visibility)),
        }


def mended(annotation: Mapping[str, Any], joint_count: int, *, photo_size: Sequence[float] = ()) -> MendedAnnotation:
    """One annotation with what is missing taken from what is there.

    Unlabelled joints may hold anything. Without ``keypoints`` no joint is labelled. A box that is missing, null, not
    four finite numbers or empty becomes that of the labelled joints, a tenth larger; such an area becomes the box's.

    Args:
        annotation: An entry of ``annotations``.
        joint_count: K.
        photo_size: Width and height of the photo, for a box around joints that are all in one place.

    Raises:
        LeaveOut: If ``keypoints`` are not 3 K numbers.
    """
    changes: list[str] = []
    crowd = annotation.get("iscrowd", 0)
    if crowd is None:
        changes.append("iscrowd null: 0")
    joints, visibility = _labelled_joints(annotation.get("keypoints"), joint_count, changes)
    box = _given_box(annotation.get("bbox"))
    area = positive(annotation.get("area"), FARTHEST**2)
    box_given, area_given = box is not None, area is not None
    if box is None and visibility.any():
        box = joint_box(joints[visibility > 0], photo_size)
        changes.append("box missing or empty: that of the joints")
    if area is None:
        area = box[2] * box[3] if box else 0.0
        changes.append("area missing or 0: that of the box")
    crowded = crowd not in (None, 0, "", "0")
    return MendedAnnotation(crowded, joints, visibility, box, box_given, area, area_given, tuple(changes))


def _labelled_joints(value: Any, count: int, changes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Joints (K, 2), 0 where unlabelled, and visibility (K,) in 0, 1, 2."""
    if value is None:
        return np.zeros((count, 2)), np.zeros(count)
    if isinstance(value, list) and len(value) == 3 * count and not any(value):  # most people of COCO
        return np.zeros((count, 2)), np.zeros(count)
    table = as_floats(value)
    if table is None or table.shape != (3 * count,):
        raise LeaveOut("malformed joints", f"keypoints must be {3 * count} numbers, x, y and flag of {count} joints")
    table = table.reshape(count, 3)
    labelled = table[:, 2] > 0  # false for NaN, too
    if np.isnan(table[:, 2]).any():
        if not labelled.any():
            raise LeaveOut("visibility flags not finite", "flags are 0 (unlabelled), 1 (hidden) or 2 (visible)")
        changes.append("visibility flag null: taken as unlabelled")
    sound = np.all(np.abs(table[:, :2]) <= FARTHEST, axis=1)
    if not sound[labelled].all():
        if not (sound & labelled).any():
            raise LeaveOut("joints not finite or absurdly large", "correct the keypoints")
        changes.append("joint not finite or absurdly large: taken as unlabelled")
        labelled &= sound
    flags = np.where(labelled, table[:, 2], 0)
    if unknown := sorted(set(flags.tolist()) - {0.0, 1.0, 2.0}):
        changes.append(f"unknown visibility flag {unknown[-1]:g}: taken as labelled")
        flags = np.clip(np.ceil(flags), 0, 2)
    return np.where(labelled[:, None], table[:, :2], 0.0), flags


def _given_box(value: Any) -> tuple[float, ...] | None:
    if isinstance(value, list | tuple) and len(value) == 4:
        sound = all(type(v) in (int, float) and -FARTHEST <= v <= FARTHEST for v in value)
        if sound and value[2] > 0 and value[3] > 0:
            return tuple(float(v) for v in value)
    return None


def joint_box(joints: np.ndarray, photo_size: Sequence[float] = ()) -> tuple[float, ...]:
    """The box x, y, width, height around joints (N, 2), larger by a tenth, or a small square around a single place."""
    low, high = joints.min(axis=0), joints.max(axis=0)
    size = JOINT_BOX_GROWTH * (high - low)
    if size.max() < 2:  # pixels; clipping takes one
        size = np.full(2, LEAST_JOINT_BOX * max(photo_size, default=_PHOTO_SIDE))
    return tuple(np.concatenate([(low + high - size) / 2, size]).tolist())


def _coco_person(annotation: dict, number: int, content: _Content, photos: PhotoFolder, strict: bool) -> Person:
    """One annotation as a person; LeaveOut, KeyError, TypeError or AttributeError if it cannot be one."""
    if not content.reads(annotation):
        raise LeaveOut("other category")
    if annotation.get("iscrowd") == 1:  # most annotations of COCO need no further look
        raise LeaveOut("crowd")
    photo = content.photo_of(annotation)
    annotated_size = _annotated_size(photo)
    one = mended(annotation, len(content.skeleton), photo_size=annotated_size or ())
    if one.crowd:
        raise LeaveOut("crowd")
    if not one.visibility.any():
        raise LeaveOut("no labelled joint")
    if strict and not one.area_given and annotation.get("area") is not None:
        raise LeaveOut("no area")
    file_name = photo.get("file_name")
    if not isinstance(file_name, str):
        raise LeaveOut("malformed photo name", "file_name must be text")
    photo_size = annotated_size or content.stored_size(photo, photos, number)
    changes = list(one.changes)
    clipped = clip_box(one.box, photo_size) if one.box_given or not strict else None
    if clipped is None and one.box_given and not strict:
        clipped = clip_box(joint_box(one.joints[one.visibility > 0], photo_size), photo_size)
        changes.append("box outside the photo: that of the joints")
    if clipped is None:
        raise LeaveOut("box empty or outside the photo", f"the photo is {photo_size[0]:g} x {photo_size[1]:g} pixels")
    head_size = _head_size(annotation, changes)
    for change in changes:
        content.log.mend(change, number)
    box = np.array(clipped)
    centre, size = box_region(box)
    return Person(
        file_name=file_name,
        photo_size=annotated_size,
        joints=one.joints,
        visibility=one.visibility,
        box=box,
        centre=centre,
        size=size,
        area=one.area,
        head_size=head_size,
        annotation_id=number,
        image_id=content.image_id(annotation),
    )


def box_region(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and padded size of the part of a photo that shows a person's box.

    Args:
        box: (..., 4) x, y, width, height in pixels; a detector's need not be clipped to the photo.

    Returns:
        Centre (..., 2) and size (..., 2), not yet fitted to an aspect ratio.
    """
    return box[..., :2] + box[..., 2:] / 2, box[..., 2:] * PADDING


def clip_box(box: Sequence[float] | None, photo_size: Sequence[float]) -> tuple[float, ...] | None:
    """HRNet's clipping: the last pixel of a box is x + w - 1, that of a photo width - 1. ``None``: nothing is left."""
    if box is None:
        return None
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    width = min(photo_size[0] - 1, left + max(box[2] - 1, 0.0)) - left
    height = min(photo_size[1] - 1, top + max(box[3] - 1, 0.0)) - top
    return (left, top, width, height) if min(width, height) >= 0 and max(width, height) > 0 else None


def _head_size(annotation: dict, changes: list[str]) -> float:
    """Head size in pixels from the optional fields, or NaN: training does not need it, PCKh leaves such people out."""
    length: float | None = None
    if annotation.get("head_box") is not None:
        try:
            x1, y1, x2, y2 = numbers(annotation["head_box"], (4,), "head box")
            length = HEAD_BOX_FACTOR * float(np.hypot(x2 - x1, y2 - y1))
        except LeaveOut as fault:
            changes.append(f"{fault}: no head size")
    else:
        length = positive(annotation.get("head_size"))
        if length is None and "head_size" in annotation:
            changes.append("head size null or no positive number: PCKh does not count the person")
    return length if length else float("nan")


# ----------------------------------------------------------------------------------------------------------- detections


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
    photos = PhotoFolder(Path(root), files.photos, files.annotations.parent, split)
    content, log, boxes = _read_content(files, split, category), IntakeLog(), Path(boxes)
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


def _detection(entry: dict, row: int, content: _Content, photos: PhotoFolder) -> tuple[Person, float]:
    """One detection as a person without joints, and its score; raises as :func:`_coco_person`."""
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
        photo_size=_annotated_size(photo),
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
