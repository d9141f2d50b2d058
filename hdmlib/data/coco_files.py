"""Where a dataset in COCO's format keeps its files: a folder and a split in, annotation file and photo folder out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hdmlib.data.layouts import (
    ONE_IN,
    NoAnnotations,
    check_split,
    find_annotations,
    first_byte,
    glob_any_case,
    has_word,
    json_files,
    json_files_in_words,
    names_a_split,
    only,
    split_names,
)

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
    files = json_files(root)
    what = f"{json_files_in_words(files)}: {_remedy(root, split, files)}"
    raise NoAnnotations(f"no COCO annotations of split {split!r} in {root}\n  {what}")


def _remedy(root: Path, split: str, files: list[Path]) -> str:
    """What to do with the JSON files of a folder of which none is the annotation of a split."""
    if any(file.suffix == ".gz" for file in files):
        return "unpack the .gz files (gunzip)"
    deeper = [file.parts for file in files if len(file.parts) == 3 and "annotations" in "/".join(file.parts[1:])]
    if roots := [root / parts[0] for parts in deeper if not names_a_split(root / parts[0], root)]:
        return f"give {roots[0]} as the dataset's folder"
    named = [file for file in files if names_a_split(root / file, root)]
    part = next((part for part in ("train", "val") if part in split_names(split)), None)
    if part and len(named) == 1 and first_byte(root / named[0]) == b"{":
        return f"rename {named[0]} to annotations.json, and one photo in {ONE_IN} is kept for validation"
    place = "name the file of each split annotations/SPLIT.json"
    if part and any(has_word(str(file), name) for file in named for name in split_names("test")):
        return f"{place}, or pass {part}_split=test"
    return place


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
    """The content of a file, that of UTF-16 without the zeros between ASCII letters."""
    try:
        return path.read_bytes().replace(b"\0", b"")
    except OSError:
        return b""
