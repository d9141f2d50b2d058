"""One COCO annotation, mended: what a tool left out is taken from what is there, and the box becomes a crop's region.

Both training and evaluation read each annotation through :func:`mended`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from hdmlib.data.intake import FARTHEST, HEAD_BOX_FACTOR, LeaveOut, as_floats, id_key, numbers, positive

# A crop shows the person's box and a quarter more.
PADDING = 1.25
# What lies this far beyond the photo, in its longer side, is a mistake: of 18,000 people of four datasets nobody has
# such a joint.
FAR = 0.1

# A missing box is that of the labelled joints, larger by this; joints in one place get a box of this part of the photo.
JOINT_BOX_GROWTH = 1.1
LEAST_JOINT_BOX = 0.1
_PHOTO_SIDE = 320.0  # where a photo's size is unknown, too


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

    def as_truth(self, annotation_id: int, image_id: Hashable, category_id: int) -> dict[str, Any]:
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


def category_key(annotation: Mapping[str, Any], only: object) -> int | str | None:
    """The key of an annotation's category; of the only one where it names none, or null."""
    category = annotation.get("category_id")
    return id_key(only if category is None else category)


def categories_called(categories: Sequence[dict[str, Any]], wanted: str) -> list[dict[str, Any]]:
    """The entries of ``categories`` whose name is ``wanted``; where none has that name, those whose id it is."""
    named = [one for one in categories if str(one.get("name")) == wanted]
    return named or [one for one in categories if id_key(one.get("id")) == id_key(wanted)]


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
    if annotation.get("iscrowd", 0) is None:
        changes.append("iscrowd null: 0")
    joints, visibility = _labelled_joints(annotation.get("keypoints"), joint_count, changes)
    box = _given_box(annotation.get("bbox"))
    area = positive(annotation.get("area"), FARTHEST**2)
    box_given, area_given = box is not None, area is not None
    if box is None and visibility.any():
        box = joint_box(joints[visibility > 0], photo_size)
        changes.append(f"{_box_fault(annotation.get('bbox'))}: that of the joints")
    if area is None:
        area = box[2] * box[3] if box else 0.0
        changes.append("area missing or 0: that of the box")
    return MendedAnnotation(is_crowd(annotation), joints, visibility, box, box_given, area, area_given, tuple(changes))


_NO = (None, 0, "", "0", "0.0", "f", "false", "n", "no", "none", "null")


def is_crowd(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation marks a group; some tools write its ``iscrowd`` as text."""
    value = annotation.get("iscrowd")
    return (value.strip().lower() if isinstance(value, str) else value) not in _NO


def _labelled_joints(value: Any, count: int, changes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Joints (K, 2), 0 where unlabelled, and visibility (K,) in 0, 1, 2."""
    if value is None:
        return np.zeros((count, 2)), np.zeros(count)
    if isinstance(value, list) and len(value) == 3 * count and not any(value):  # most people of COCO
        return np.zeros((count, 2)), np.zeros(count)
    if isinstance(value, list) and len(value) == count and all(isinstance(v, list) and len(v) == 3 for v in value):
        changes.append("keypoints as triples: read one after another")
        value = list(chain.from_iterable(value))
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


def _box_fault(value: Any) -> str:
    """Why :func:`_given_box` finds none."""
    sides = value[2:] if isinstance(value, list | tuple) and len(value) == 4 else ()
    if not value or (0 in sides and all(type(side) in (int, float) and side >= 0 for side in sides)):
        return "box missing or empty"
    return f"box that is not x, y and a positive width and height, each up to {FARTHEST:g}"


def joint_box(joints: np.ndarray, photo_size: Sequence[float] = ()) -> tuple[float, ...]:
    """The box x, y, width, height around joints (N, 2), larger by a tenth, or a small square around a single place."""
    low, high = joints.min(axis=0), joints.max(axis=0)
    size = JOINT_BOX_GROWTH * (high - low)
    if size.max() < 2:  # pixels; clipping takes one
        size = np.full(2, LEAST_JOINT_BOX * max(photo_size, default=_PHOTO_SIDE))
    return tuple(np.concatenate([(low + high - size) / 2, size]).tolist())


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


def far_outside(points: np.ndarray, photo_size: Sequence[float]) -> bool:
    """Whether one of the points (N, 2) lies more than :data:`FAR` of the photo's longer side beyond it."""
    beyond = np.maximum(-points, points - np.array(photo_size))
    return bool((beyond > FAR * max(photo_size)).any())


def head_size_of(annotation: dict, changes: list[str]) -> float:
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
