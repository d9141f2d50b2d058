"""Boxes of people for photos: a COCO file of annotations or of a detector's results in, the boxes of each photo out."""

from __future__ import annotations

import filecmp
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hdmlib.data.annotation import categories_called, category_key, is_crowd
from hdmlib.data.coco_content import annotated_size
from hdmlib.data.dataset import DataError
from hdmlib.data.intake import DataWarning, as_floats, id_key, load_json
from hdmlib.data.photos import PathEnds, last_parts, remembered_header
from hdmlib.inference import check_boxes

ImageId = int | str
_Box = tuple[NDArray[np.float64], float, ImageId]  # the box, its score and its category


@dataclass(frozen=True, eq=False)
class PhotoBoxes:
    """N boxes on one photo.

    Attributes:
        boxes: (N, 4) x, y, width, height in pixels of the photo.
        scores: (N,) the detector's confidence in each box, 1 for annotations.
        image_id: The photo's id as the file has it, ``None`` if it has none.
        photo_size: Its width and height as the file has them, ``None`` if it has none.
        categories: The category id of each box as the file has it; empty for boxes of no file, whose category is 1.
        upright: Whether the pixels are those of the photo turned by its EXIF orientation, not those that it stores.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    image_id: ImageId | None = None
    photo_size: tuple[float, float] | None = None
    categories: tuple[ImageId, ...] = ()
    upright: bool = True


@dataclass(frozen=True, eq=False)
class BoxFile:
    """The boxes of a COCO file.

    Attributes:
        path: The file.
        photos: Id -> boxes of that photo.
        names: The parts of each photo's name, in each reading of :func:`hdmlib.data.photos.last_parts`, and its id.
        nameless: The ids of photos whose name is not in the file.
    """

    path: Path
    photos: Mapping[ImageId, PhotoBoxes]
    names: Sequence[tuple[Sequence[str], ImageId]]
    nameless: frozenset[ImageId]

    @cached_property
    def _ends(self) -> PathEnds[tuple[Sequence[str], ImageId]]:
        return PathEnds((parts, (parts, key)) for parts, key in self.names)

    def of(self, photo: Path) -> PhotoBoxes | None:
        """The entry of a photo: the one whose name shares the most with the end of its path, at least the file's name,
        else the nameless one whose id is that, with or without its ending; ``None`` if there is none.

        A name with a folder that the path lacks is taken for that of a photo that was moved, unless it shares no more
        than another name does, or another photo lies where the name leads from the photo's own folders.

        Raises:
            DataError: Several photos of the file have the photo's name.
        """
        return self.fit(photo)[1]

    def fit(self, photo: Path) -> tuple[int, PhotoBoxes | None]:
        """How many folders and files of its name a photo's entry shares with the photo's path, and :meth:`of`."""
        shared, key = self._named(photo)
        if key is None:
            key = next((key for name in (photo.stem, photo.name) if (key := id_key(name)) in self.nameless), None)
        return shared, None if key is None else self.photos.get(key)

    def _named(self, photo: Path) -> tuple[int, ImageId | None]:
        """How many parts a photo's path shares with the name that fits it, and that name's id."""
        shared, best = 0, []
        for path in (photo, photo.with_suffix("")):  # some tools leave the ending out
            shared, best = next(self._ends.sharing(path.absolute().parts), (0, []))
            if best:
                break
        whole = {key for parts, key in best if len(parts) == shared}
        if len(whole) > 1:
            raise DataError(f"{self.path}: {len(whole)} of its photos have the name of {photo}; give each its own")
        if not whole and any(_leads_elsewhere(parts, shared, photo) for parts, _ in best):
            return 0, None
        fitting = whole or {key for _, key in best}
        return shared, fitting.pop() if len(fitting) == 1 else None


def read_boxes(path: Path, category: str | None = None) -> BoxFile:
    """Read COCO annotations, or a detector's list of ``{"image_id", "category_id", "bbox", "score"}``.

    Crowds (``iscrowd``) are no person and are left out. Of several categories those with keypoints are read.

    Args:
        path: The file.
        category: Name or id of the category to read.

    Raises:
        DataError: The file is neither, an entry is malformed, or it is open which category shows people; the message
            names the entry, or the categories.
    """
    content: Any = load_json(path)
    images, categories, entries = [], [], content
    if isinstance(content, dict):
        images, categories, entries = (content.get(key) or [] for key in ("images", "categories", "annotations"))
    lists = [images, categories, entries]
    is_either = isinstance(content, list) or (isinstance(content, dict) and "annotations" in content)
    if not is_either or not all(isinstance(one, list) and all(isinstance(e, dict) for e in one) for one in lists):
        raise DataError(f"{path}: no boxes; it needs COCO annotations, or a list of objects with image_id and bbox")
    only = categories[0].get("id") if len(categories) == 1 else None
    kinds = [category_key(entry, only) for entry in entries]
    known = {key: one for one in categories if (key := id_key(one.get("id"))) is not None}
    read = _read_categories(path, set(kinds), known, category) if entries else set()
    by_id = _by_id(path, images)
    first = _first_of_name(path, by_id)
    found: dict[ImageId, list[_Box]] = {key: [] for key in first.values()}
    given_ids = {key: image["id"] for key, image in by_id.items()}
    for number, (entry, kind) in enumerate(zip(entries, kinds, strict=True)):
        if is_crowd(entry) or kind not in read:
            continue
        key = _image_of(entry)
        if key is None:
            raise DataError(f"{path}: entry {number} has neither image_id nor file_name")
        given_kind = known[kind]["id"] if kind in known else 1 if kind is None else entry["category_id"]
        key = first.get(key, key)
        found.setdefault(key, []).append((*_checked(path, number, entry), given_kind))
        given_ids.setdefault(key, key if entry.get("image_id") is None else entry["image_id"])
    photos = {
        key: PhotoBoxes(
            np.array([box for box, _, _ in rows]).reshape(-1, 4),
            np.array([score for _, score, _ in rows]),
            given_ids[key],
            annotated_size(by_id.get(key, {})),
            tuple(given_kind for _, _, given_kind in rows),
        )
        for key, rows in found.items()
    }
    named = [(key, by_id[key]) for key in found if key in by_id]
    ids = ((key if (key := _image_of(entry)) is None else first.get(key, key), entry) for entry in entries)
    names = _names([*named, *ids])
    nameless = photos.keys() - {key for _, key in names}
    return BoxFile(path, photos, names, frozenset(nameless))


def _by_id(path: Path, images: Sequence[Mapping[str, Any]]) -> dict[ImageId, Mapping[str, Any]]:
    """Id -> entry of ``images``.

    Raises:
        DataError: Two photos have one id.
    """
    by_id: dict[ImageId, Mapping[str, Any]] = {}
    for image in images:
        key = id_key(image.get("id"))
        if key is not None and by_id.setdefault(key, image).get("file_name") != image.get("file_name"):
            both = f"{by_id[key].get('file_name')} and {image.get('file_name')}"
            raise DataError(f"{path}: {both} have the id {key!r}; give each photo an id of its own")
    return by_id


def _first_of_name(path: Path, by_id: Mapping[ImageId, Mapping[str, Any]]) -> dict[ImageId, ImageId]:
    """Id -> the first id with its file name: some files list a photo once for each person on it."""
    first: dict[Any, ImageId] = {}
    names = {key: image.get("file_name") for key, image in by_id.items()}
    found = {key: first.setdefault(name, key) if isinstance(name, str) else key for key, name in names.items()}
    if several := [key for key, one in found.items() if key != one]:
        warnings.warn(
            f"{path}: {len(several)} images are listed again under another id (the first: {several[0]!r}); results "
            "have the first id of each",
            DataWarning,
            stacklevel=3,
        )
    return found


def _checked(path: Path, number: int, entry: Mapping[str, Any]) -> tuple[NDArray[np.float64], float]:
    """Box and score of an entry."""
    box, score = as_floats(entry.get("bbox")), as_floats(entry.get("score", 1.0))
    if box is None or box.shape != (4,) or not np.isfinite(box).all() or not (box[2:] > 0).all():
        raise DataError(
            f"{path}: entry {number}: bbox must be x, y, width, height with an area, got {entry.get('bbox')}"
        )
    if score is None or score.shape or not np.isfinite(score):
        raise DataError(f"{path}: entry {number}: score must be a number, got {entry['score']!r}")
    return box, float(score)


def _read_categories(path: Path, present: set[Any], known: Mapping[Any, dict], wanted: str | None) -> set[Any]:
    """The ids of the categories to read, of those that are present."""
    labels = {key: str(known.get(key, {}).get("name", key)) for key in present}
    if wanted is not None:
        entries = [known.get(key, {"id": key}) for key in present]
        chosen = {id_key(one["id"]) for one in categories_called(entries, wanted)}
    else:
        chosen = {key for key in present if known.get(key, {}).get("keypoints")} or present
    if not chosen or (wanted is None and chosen == present and len(present) > 1):
        raise DataError(f"category: {path} has boxes of {', '.join(sorted(labels.values()))}; choose one of them")
    return chosen


def _image_of(entry: Mapping[str, Any]) -> ImageId | None:
    """The id of an entry's photo, or its name where a detector gives that alone."""
    key = id_key(entry.get("image_id"))
    return id_key(entry.get("file_name")) if key is None else key


def _names(entries: Iterable[tuple[ImageId | None, Mapping[str, Any]]]) -> list[tuple[list[str], ImageId]]:
    """The parts of each photo's name, or of an id that is a path, and its id."""
    named = dict.fromkeys((name, key) for key, entry in entries if isinstance(name := _name_of(entry), str))
    return [(parts, key) for name, key in named if key is not None for parts in last_parts(name)]


def _name_of(entry: Mapping[str, Any]) -> object:
    name, key = entry.get("file_name"), entry.get("image_id")
    return key if name is None and isinstance(key, str) and re.search(r"[/\\]", key) else name


def _leads_elsewhere(name: Sequence[str], shared: int, photo: Path) -> bool:
    """Whether another photo lies where a name leads from a folder of the photo above those that the two share."""
    folders = photo.absolute().parents[shared : len(name)]
    places = (folder.joinpath(*name[-count:-1], photo.name) for count, folder in enumerate(folders, shared + 1))
    return any(os.path.isfile(place) and not filecmp.cmp(place, photo, shallow=False) for place in places)


def boxes_on(photos: Sequence[Path], file: BoxFile) -> list[PhotoBoxes]:
    """The boxes of each photo; none where the file has no entry for it, or another photo is nearer to that by its name.

    Raises:
        DataError: The file has no entry for any of the photos, several of one name, or one that fits several.
    """
    fits = [file.fit(photo) for photo in photos]
    nearest: dict[int, int] = {}
    for shared, entry in fits:
        nearest[id(entry)] = max(shared, nearest.get(id(entry), 0))
    found = [entry if shared == nearest[id(entry)] else None for shared, entry in fits]
    first: dict[int, Path] = {}
    for photo, entry in zip(photos, found, strict=True):
        if entry is not None and first.setdefault(id(entry), photo) != photo:
            raise DataError(
                f"{file.path}: its photo {entry.image_id!r} fits {first[id(entry)]} and {photo}; write file_name with "
                "its folder, or predict them apart"
            )
    if file.photos and all(entry is None for entry in found):  # a detector may have found nobody
        named = next(("/".join(parts) for parts, _ in file.names), None) or next(iter(file.photos), "none")
        raise DataError(
            f"{file.path}: none of its photos (the first: {named}) is among the {len(photos)} given (the first: "
            f"{photos[0]}); write file_name as the photo's path ends"
        )
    nobody = PhotoBoxes(np.zeros((0, 4)), np.zeros(0))
    return [nobody if entry is None else entry for entry in found]


def as_annotated(photos: Sequence[Path], given: Sequence[PhotoBoxes], file: Path) -> list[PhotoBoxes]:
    """The boxes of a file, each photo's in upright or in stored pixels by the rule of datasets' readers:
    :meth:`hdmlib.data.photos.PhotoHeader.turned_for`.

    Raises:
        ValueError: Boxes were made for a photo of another size; the message names it.

    Warns:
        DataWarning: Once, if the file does not settle it for some photos.
    """
    found, unsettled = [], []
    for photo, entry in zip(photos, given, strict=True):
        header, annotated = remembered_header(photo), entry.photo_size
        if annotated is not None and annotated not in (header.size, header.upright_size):
            raise ValueError(
                f"{photo}: is {header.size[0]} x {header.size[1]} pixels, but its boxes are for "
                f"{annotated[0]:g} x {annotated[1]:g}; use the photo that was annotated"
            )
        turned = header.turned_for(annotated)
        if turned is None and len(entry.boxes):
            unsettled.append(photo)
        found.append(replace(entry, upright=bool(turned)))
    if unsettled:
        warnings.warn(
            f"{file}: width and height do not settle the EXIF orientation of {len(unsettled)} photos (the first: "
            f"{unsettled[0]}): read as stored, not turned; if the boxes are on the upright photos, save these turned",
            DataWarning,
            stacklevel=2,
        )
    return found


def check_on_photos(photos: Sequence[Path], given: Sequence[PhotoBoxes]) -> None:
    """Check boxes against the headers of their photos, before a network runs.

    Raises:
        ValueError: A box lies outside of its photo; the message names it.
    """
    for photo, entry in zip(photos, given, strict=True):
        header = remembered_header(photo)
        try:
            check_boxes(entry.boxes, header.upright_size if entry.upright else header.size)
        except ValueError as error:
            raise ValueError(f"{photo}: {error}") from None
