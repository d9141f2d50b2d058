"""People with annotated joints, independent of the file format: one :class:`Person` per annotation, and N of them as
arrays, a :class:`PoseDataset`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hdmlib.skeletons import KNOWN_REFERENCES, Skeleton


class DataError(ValueError):
    """A dataset cannot be read; the message names the file or the parameter, and the remedy."""


@dataclass(frozen=True, eq=False)
class Person:
    """One annotated person, in pixels of the photo with (0, 0) the centre of its first pixel.

    Attributes:
        file_name: The photo, relative to the dataset's folder of photos.
        photo_size: Its width and height as annotated, ``None`` where the format has none.
        joints: (K, 2) as (x, y).
        visibility: (K,) 0 unlabelled, 1 labelled but hidden, 2 visible.
        box: (4,) x, y, width, height.
        centre: (2,) centre of the part of the photo that is shown to the network, before augmentation.
        size: (2,) its width and height, with the protocol's padding and before it is fitted to the network's aspect
            ratio.
        area: Area of the person in square pixels, for OKS.
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
    """N people with K joints each, in float64 pixels with (0, 0) the centre of a photo's first pixel.

    Attributes:
        name: What messages call this dataset.
        skeleton: The K joints.
        images: The distinct photos.
        image_index: (N,) position of each person's photo in ``images``.
        joints: (N, K, 2); 0 where unlabelled.
        visibility: (N, K), 0, 1 or 2.
        boxes: (N, 4).
        centres: (N, 2).
        sizes: (N, 2).
        areas: (N,).
        head_sizes: (N,), NaN where none is annotated.
        annotation_ids: (N,).
        image_ids: (N,).
        left_out: How many annotations were left out, by reason.
        mended: How many were completed or corrected, by what was.
        upright: The photos that are turned as their EXIF orientation says; the others are read as stored.
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
    mended: Mapping[str, int] = field(default_factory=dict)
    upright: frozenset[Path] = frozenset()

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

    def default_reference(self) -> str:
        """The length that PCK is measured in by default: ``head`` where the data defines one, else ``box``."""
        has_head = self.skeleton.head is not None or np.isfinite(self.head_sizes).any()
        return "head" if has_head else "box"

    def reference_lengths(self, kind: str = "head") -> np.ndarray:
        """The length in pixels that a PCK threshold is a fraction of.

        ``head``: the annotated head size; in a dataset without any, the distance of the skeleton's two head joints,
        which is *longer* than MPII's head size (by about 4/3 there), so scores by the two do not compare. ``torso``:
        the distance of the skeleton's two torso joints. ``box``: the longer side of the person's box. Two joints, such
        as ``left_eye:right_eye``: their distance, as faces and animals are measured.

        Args:
            kind: ``head``, ``torso``, ``box`` or the names of two joints with a colon between them.

        Returns:
            (N,) lengths, NaN where a person has none; such a person cannot be scored.

        Raises:
            DataError: If ``kind`` or a joint is unknown, or nobody in the dataset has such a length.
        """
        if kind == "box":
            lengths = self.boxes[:, 2:].max(axis=1)
        elif kind == "torso":
            lengths = self._joint_distances(self.skeleton.torso)
        elif kind == "head":
            annotated = np.isfinite(self.head_sizes).any()
            lengths = self.head_sizes if annotated else self._joint_distances(self.skeleton.head)
        elif kind.count(":") == 1:
            lengths = self._joint_distances(self._pair(kind))
        else:
            raise DataError(f"pck_reference {kind!r} is not known. Known: {KNOWN_REFERENCES}.")
        lengths = np.where(lengths > 0, lengths, np.nan)  # a box around a single joint has none
        if not np.isfinite(lengths).any():
            raise DataError(
                f"{self.name}: nobody has a {kind} length for PCK; set pck_reference to another of {KNOWN_REFERENCES}"
            )
        return lengths

    def _pair(self, names: str) -> tuple[int, int]:
        try:
            first, second = map(self.skeleton.index, names.split(":"))
        except ValueError as error:
            raise DataError(f"{self.name}: PCK reference {names!r}: {error}") from None
        return first, second

    def _joint_distances(self, pair: tuple[int, int] | None) -> np.ndarray:
        """(N,) distance of two joints, NaN where one of them is unlabelled or the skeleton names none."""
        if pair is None:
            return np.full(len(self), np.nan)
        first, second = pair
        distance = np.linalg.norm(self.joints[:, first] - self.joints[:, second], axis=1)
        labelled = (self.visibility[:, pair] > 0).all(axis=1)
        return np.where(labelled & (distance > 0), distance, np.nan)
