"""People with annotated joints, whatever file they came from, and what a dataset refuses to contain.

In: one :class:`Person` per annotation, from a reader of some format. Out: a :class:`PoseDataset`, arrays over N people
that are finite, labelled and have a photo that opens. A bad sample is left out and counted, with one warning per
dataset; a bad file is a :class:`DataError` that names it and the remedy.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from hdmlib.skeletons import Skeleton

# What a benchmark's own protocol drops. It is counted like the rest but nothing to warn of.
PROTOCOL_REASONS = ("crowd", "no labelled joint", "no area", "other category", "not selected", "low score")
# Coordinates beyond this are damage, not a large photo; without a bound they overflow further on.
FARTHEST = 1e6
# OpenCV's warps index pixels with 16-bit integers.
LONGEST_SIDE = 2**15 - 2
# MPII's rule: a head's size is this part of the diagonal of its box.
HEAD_BOX_FACTOR = 0.6


class DataError(ValueError):
    """A dataset cannot be read; the message names the file or the parameter, and the remedy."""


class NoAnnotations(DataError):
    """No file of the dataset's folder is the annotation of a split."""


class DataWarning(UserWarning):
    """Some samples of a dataset were left out; the message counts them by reason."""


class LeaveOut(Exception):
    """Raised by a reader for one person who cannot be used; the message is the reason that is counted."""


@dataclass(frozen=True, eq=False)
class Person:
    """One annotated person, in pixels of the photo with (0, 0) the centre of its first pixel.

    Attributes:
        file_name: The photo, relative to the dataset's folder of photos.
        photo_size: Its width and height as the annotations have them, ``None`` where they say nothing.
        joints: (K, 2) as (x, y).
        visibility: (K,) 0 not labelled, 1 labelled but hidden, 2 visible.
        box: (4,) x, y, width, height.
        centre: (2,) centre of the part of the photo that is shown to the network, before augmentation.
        size: (2,) its width and height, with the protocol's padding and before it is fitted to the network's aspect
            ratio.
        area: Area of the person in square pixels, as OKS takes it.
        head_size: The length that PCKh divides by, NaN where none is annotated.
        annotation_id: The annotation's id (COCO) or its row in the file (MPII).
        image_id: The photo's id (COCO) or its position among the file's photos (MPII).
    """

    file_name: str
    photo_size: tuple[float, float] | None
    joints: np.ndarray
    visibility: np.ndarray
    box: np.ndarray
    centre: np.ndarray
    size: np.ndarray
    area: float
    head_size: float
    annotation_id: int
    image_id: int


@dataclass(frozen=True, eq=False)
class PoseDataset:
    """N people with K joints each. Pixels, float64, with (0, 0) the centre of a photo's first pixel; see
    :class:`Person`.

    Attributes:
        name: What messages call this dataset.
        skeleton: The K joints.
        images: The distinct photos.
        image_index: (N,) position of each person's photo in ``images``.
        joints: (N, K, 2); 0 where not labelled.
        visibility: (N, K), 0, 1 or 2.
        boxes: (N, 4).
        centres: (N, 2).
        sizes: (N, 2).
        areas: (N,).
        head_sizes: (N,), NaN where none is annotated.
        annotation_ids: (N,).
        image_ids: (N,).
        left_out: How many annotations were left out, by reason.
    """

    name: str
    skeleton: Skeleton
    images: tuple[Path, ...]
    image_index: np.ndarray
    joints: np.ndarray
    visibility: np.ndarray
    boxes: np.ndarray
    centres: np.ndarray
    sizes: np.ndarray
    areas: np.ndarray
    head_sizes: np.ndarray
    annotation_ids: np.ndarray
    image_ids: np.ndarray
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.image_index)

    def image_path(self, index: int) -> Path:
        """The photo of person ``index``."""
        return self.images[self.image_index[index]]

    def subset(self, indices: Sequence[int] | np.ndarray) -> PoseDataset:
        """The people at ``indices``, in that order.

        Raises:
            IndexError: If an index is outside 0 .. N - 1.
        """
        people = np.asarray(indices, dtype=np.int64)
        if people.size and not (people.min() >= 0 and people.max() < len(self)):
            raise IndexError(
                f"{self.name}: people are numbered 0 .. {len(self) - 1}, got {people.min()} .. {people.max()}"
            )
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        picked = {name: value[people] for name, value in arrays.items() if isinstance(value, np.ndarray)}
        kept, picked["image_index"] = np.unique(picked["image_index"], return_inverse=True)
        return dataclasses.replace(self, images=tuple(self.images[i] for i in kept), **picked)

    def reference_lengths(self, kind: str = "head") -> np.ndarray:
        """The length in pixels that a PCK threshold is a fraction of.

        ``head``: the annotated head size; in a dataset that has none at all, the distance of the skeleton's two head
        joints, which is *longer* than MPII's head size (by about 4/3 there), so numbers of the two kinds do not
        compare. ``torso``: the distance of the skeleton's two torso joints. ``box``: the longer side of the person's
        box.

        Args:
            kind: ``head``, ``torso`` or ``box``.

        Returns:
            (N,) lengths, NaN where a person has none; such a person cannot be scored.

        Raises:
            DataError: If ``kind`` is unknown or nobody in the dataset has such a length.
        """
        if kind == "box":
            lengths = self.boxes[:, 2:].max(axis=1)
        elif kind == "torso":
            lengths = self._joint_distances(self.skeleton.torso)
        elif kind == "head":
            annotated = np.isfinite(self.head_sizes).any()
            lengths = self.head_sizes if annotated else self._joint_distances(self.skeleton.head)
        else:
            raise DataError(f"unknown PCK reference {kind!r}; known: head, torso, box")
        if not np.isfinite(lengths).any():
            raise DataError(
                f"{self.name}: nobody has a {kind} length to normalise PCK by; take another of head, torso, box"
            )
        return lengths

    def _joint_distances(self, pair: tuple[int, int] | None) -> np.ndarray:
        """(N,) distance of two joints, NaN where one of them is not labelled or the skeleton names none."""
        if pair is None:
            return np.full(len(self), np.nan)
        first, second = pair
        distance = np.linalg.norm(self.joints[:, first] - self.joints[:, second], axis=1)
        labelled = (self.visibility[:, pair] > 0).all(axis=1)
        return np.where(labelled & (distance > 0), distance, np.nan)


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


def identity(value: object) -> int:
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
