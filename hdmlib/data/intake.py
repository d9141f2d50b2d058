"""People with annotated joints, whatever file they came from, and what a dataset refuses to contain.

In: one :class:`Person` per annotation, from a reader of some format. Out: a :class:`PoseDataset`, arrays over N people
that are finite, labelled and have a photo that opens. A bad sample is left out and counted, with one warning per
dataset; a bad file is a :class:`DataError` that names it and the remedy.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from hdmlib.data.dataset import DataError, Person, PoseDataset
from hdmlib.skeletons import Skeleton

# What a benchmark's own protocol drops. It is counted like the rest but nothing to warn of.
PROTOCOL_REASONS = ("crowd", "no labelled joint", "no area", "other category")

# Formats of photos by their file's ending.
PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# Coordinates beyond this are damage, not a large photo; without a bound they overflow further on.
FARTHEST = 1e6

# OpenCV's warps index pixels with 16-bit integers.
LONGEST_SIDE = 2**15 - 2

# MPII's rule: a head's size is this part of the diagonal of its box.
HEAD_BOX_FACTOR = 0.6


class NoAnnotations(DataError):
    """No file of the dataset's folder is the annotation of a split."""


class DataWarning(UserWarning):
    """Some samples of a dataset were left out; the message counts them by reason."""


class LeaveOut(Exception):
    """Raised by a reader for one person who cannot be used; the message is the reason that is counted."""


def numbers(value: object, shape: tuple[int, ...], what: str, limit: float = FARTHEST) -> np.ndarray:
    """``value`` as finite float64 numbers of ``shape``, all within ``limit`` of zero.

    Raises:
        LeaveOut: If it is something else; ``what`` names it in the reason.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":  # np.asarray(value, float) would also take text and None
            raise ValueError
        array = array.astype(np.float64)
    except (ValueError, TypeError, OverflowError):
        raise LeaveOut(f"malformed {what}") from None
    if array.shape != shape:
        raise LeaveOut(f"malformed {what}")
    if not (np.abs(array) <= limit).all():  # false for NaN, too
        raise LeaveOut(f"{what} not finite or absurdly large")
    return array


def integer_id(value: object) -> int:
    """``value`` as an id that an int64 array can hold.

    Raises:
        LeaveOut: If it is something else.
    """
    if not isinstance(value, int) or abs(value) >= 2**63:
        raise LeaveOut("malformed id")
    return value


def assemble(
    name: str, skeleton: Skeleton, folder: Path, people: Sequence[Person], left_out: Mapping[str, int]
) -> PoseDataset:
    """Join people into a dataset, after a look at each of their photos.

    Args:
        name: What messages call the dataset.
        skeleton: Its joints.
        folder: The photos' folder.
        people: Those whom the reader accepted.
        left_out: How many it did not, by reason.

    Raises:
        DataError: If a photo lies outside ``folder`` or nobody is left.

    Warns:
        DataWarning: Once, if samples were left out for a reason that is not part of the protocol.
    """
    counts = Counter(left_out)
    claims = {p.file_name: p.photo_size for p in people}
    problems = {file: image_problem(_inside(folder, file), size) for file, size in claims.items()}
    counts.update(problems[p.file_name] for p in people if problems[p.file_name])
    people = [p for p in people if not problems[p.file_name]]
    damage = {reason: n for reason, n in counts.items() if reason not in PROTOCOL_REASONS}
    if not people:
        raise DataError(
            f"{name}: no usable person (left out: {_listed(counts) or 'nobody, the list is empty'}; photos looked "
            f"for in {folder}); check the data folder and the split"
        )
    if damage:
        total = len(people) + sum(counts.values())
        bad = next((str(folder / file) for file, problem in problems.items() if problem), None)
        example = f"; first such photo: {bad}" if bad else ""
        warnings.warn(f"{name}: left out of {total} annotations: {_listed(damage)}{example}", DataWarning, stacklevel=3)
    return _stacked(name, skeleton, folder, people, dict(counts))


def _stacked(
    name: str, skeleton: Skeleton, folder: Path, people: Sequence[Person], left_out: Mapping[str, int]
) -> PoseDataset:
    """Accepted people as the arrays of a dataset."""
    files = list(dict.fromkeys(p.file_name for p in people))
    position = {file: i for i, file in enumerate(files)}

    def stack(field: str, dtype: type = np.float64) -> np.ndarray:
        return np.array([getattr(p, field) for p in people], dtype=dtype)

    visibility = stack("visibility", np.int64)
    return PoseDataset(
        name=name,
        skeleton=skeleton,
        images=tuple(folder / file for file in files),
        image_index=np.array([position[p.file_name] for p in people], dtype=np.int64),
        # formats fill unlabelled joints with placeholders of their own
        joints=np.where(visibility[..., None] > 0, stack("joints"), 0.0),
        visibility=visibility,
        boxes=stack("box"),
        centres=stack("centre"),
        sizes=stack("size"),
        areas=stack("area"),
        head_sizes=stack("head_size"),
        annotation_ids=stack("annotation_id", np.int64),
        image_ids=stack("image_id", np.int64),
        left_out=left_out,
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items(), key=lambda item: -item[1]))


def _inside(folder: Path, file_name: str) -> Path:
    """``folder / file_name``, refused if the name leads out of the folder; links inside it are the user's own."""
    parts = file_name.replace("\\", "/").split("/")
    if file_name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in file_name or not file_name:
        raise DataError(
            f"photo name {file_name!r} leads outside {folder}; annotations must name photos below that folder"
        )
    return folder / file_name


def image_problem(path: Path, size: tuple[float, float] | None = None) -> str | None:
    """What is wrong with an image file, from its header and its last bytes, without decoding a sound one.

    Args:
        path: The file.
        size: Width and height that it must have: joints annotated on a photo of another size lie elsewhere on this one.

    Returns:
        A reason to leave it out, or ``None``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with path.open("rb") as file, Image.open(file) as image:
                if max(image.size) > LONGEST_SIDE:
                    return "photo too large"
                if size is not None and image.size != tuple(size):
                    return "photo of another size than annotated"
                file.seek(-2, os.SEEK_END)
                if image.format != "JPEG" or file.read() != b"\xff\xd9":
                    image.load()  # not a JPEG that ends in its end mark: only decoding shows whether it is whole
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return "photo too large"
    except FileNotFoundError:
        return "photo missing"
    except Exception:  # a damaged file can make a decoder raise anything
        return "photo unreadable or truncated"
    return None


def read_image(path: Path) -> np.ndarray:
    """The photo as (H, W, 3) uint8 RGB, its EXIF orientation ignored as annotations do.

    Raises:
        DataError: If it cannot be decoded.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DataError(
            f"cannot decode the photo {path}; restore the file, or remove it: readers leave out missing photos"
        )
    return image


def load_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        DataError: If it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error or 'empty'}); fetch the annotation file again") from None


def find_annotations(root: Path, split: str, patterns: Sequence[str], opening: bytes) -> Path | None:
    """The annotation file of a split: the match of the first pattern that has one.

    Args:
        root: The dataset's folder.
        split: For messages and safety; the patterns already contain it.
        patterns: Globs below ``root``, the most specific first.
        opening: The first character of the format's files, ``{`` or ``[``; it decides between several matches.

    Returns:
        The file, or ``None`` if no pattern matches.

    Raises:
        DataError: If ``root`` is no folder, ``split`` no plain name, or several files match equally well.
    """
    if not root.is_dir():
        raise DataError(f"data_root {root} is not a folder; give the folder that holds the annotations and the photos")
    if not re.fullmatch(r"[\w-]+", split):
        raise DataError(f"split {split!r} is not a plain name such as train or val")
    for pattern in patterns:
        found = sorted(path for path in root.glob(pattern) if path.is_file())
        if len(found) > 1:
            found = [path for path in found if _first_byte(path) == opening] or found
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise DataError(
                f"{root}: several annotation files fit split {split!r}: {names}; name the split more exactly"
            )
        if found:
            return found[0]
    return None


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1]
