"""COCO keypoints JSON -> :class:`~hdmlib.data.dataset.PoseDataset`, for any skeleton that its ``categories`` name.

People are framed as HRNet does it for COCO: the box is clipped to the photo and padded by a quarter. Crowds and people
without a labelled joint are left out. Coordinates are taken as they are, 0-based. For evaluation the people may instead
be those that a detector found: :func:`~hdmlib.data.detections.read_detections`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hdmlib.data.annotation import MendedAnnotation, box_region, clip_box, far_outside, head_size_of, joint_box, mended
from hdmlib.data.assembly import assemble
from hdmlib.data.coco_content import Content, annotated_size, read_content
from hdmlib.data.coco_files import find_coco
from hdmlib.data.dataset import Person, PoseDataset
from hdmlib.data.intake import IntakeLog, LeaveOut
from hdmlib.data.photos import PhotoFolder


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
        category: Name or id of the category to read, where several have joints of their own; categories with the same
            joints are read together.
        strict: Leave out people without area or with an empty box, as HRNet does on COCO itself; else both are taken
            from the box or the joints.

    Raises:
        DataError: If files are missing, are not COCO keypoints, or hold no usable person.

    Warns:
        DataWarning: Once, with what was mended or left out.
    """
    files = find_coco(root, split)
    content = read_content(files, split, category)
    photos = PhotoFolder(Path(root), files.photos, files.annotations.parent, None if files.divided else split)
    log, people, seen = content.log, [], set()
    for number, annotation in zip(content.ids, content.annotations, strict=True):
        try:
            person = _coco_person(annotation, number, content, photos, strict)
            if number in seen:
                raise LeaveOut("annotation listed twice", "remove one")
            seen.add(number)
            people.append(person)
        except LeaveOut as fault:
            log.leave_out(fault, number)
        except (KeyError, TypeError, AttributeError):
            log.leave_out(_MALFORMED, number)
    return assemble(content.name, content.skeleton, photos, people, log, len(content.annotations))


def read_truth(root: Path | str, split: str, *, category: str | None = None) -> dict[str, Any]:
    """The annotations of a split as ground truth of :func:`~hdmlib.metrics.oks.oks_ap`, through the same mending.

    Crowds and people without a labelled joint are included, as COCO's evaluation needs them. A person whom
    :func:`read_coco` leaves out for another reason counts as missed if the joints can be read. Several categories
    become the first one. Ids are integers, as in :func:`read_coco`; ``given_id`` beside the ``id`` of a photo or a
    category is the one in the file.

    Raises:
        DataError: As :func:`read_coco`.

    Warns:
        DataWarning: Once, of annotations that cannot be read: they do not count as missed.
    """
    content = read_content(find_coco(root, split), split, category)
    truth, seen, unreadable = [], set(), IntakeLog()
    for number, annotation in zip(content.ids, content.annotations, strict=True):
        if number in seen:  # listed twice
            continue
        seen.add(number)
        try:
            photo = content.photo_of(annotation)
            if content.reads(annotation):
                one = mended(annotation, len(content.skeleton), photo_size=annotated_size(photo) or ())
                truth.append(one.as_truth(number, content.image_id(annotation), content.category_id))
        except LeaveOut as fault:
            unreadable.leave_out(fault, number)
        except (KeyError, TypeError, AttributeError):
            unreadable.leave_out(_MALFORMED, number)
    unreadable.warn(f"ground truth {content.name}", len(content.annotations))
    return {
        "images": [
            {"id": content.image_ids[key], "given_id": photo["id"]}
            for key, photo in content.photos.items()
            if photo is not None
        ],
        "categories": [
            {
                "id": content.category_id,
                "given_id": content.first_category,
                "keypoints": list(content.skeleton.joints),
            }
        ],
        "annotations": truth,
    }


_MALFORMED = LeaveOut("malformed annotation", "it needs image_id, category_id and keypoints")
_OUTSIDE = "box outside the photo: that of the joints"
_FAR_BOX = "box reaches far beyond the photo: two corners instead of x, y, width and height?"


def _coco_person(annotation: dict, number: int, content: Content, photos: PhotoFolder, strict: bool) -> Person:
    """One annotation as a person; LeaveOut, KeyError, TypeError or AttributeError if it cannot be one."""
    if not content.reads(annotation):
        raise LeaveOut("other category")
    if annotation.get("iscrowd") == 1:  # most annotations of COCO need no further look
        raise LeaveOut("crowd")
    photo = content.photo_of(annotation)
    given_size = annotated_size(photo)
    one = mended(annotation, len(content.skeleton), photo_size=given_size or ())
    if one.crowd:
        raise LeaveOut("crowd")
    if not one.visibility.any():
        raise LeaveOut("no labelled joint", "the flag, every third number of keypoints, is 0 for unlabelled joints")
    if strict and not one.area_given and annotation.get("area") is not None:
        raise LeaveOut("no area")
    file_name = photo.get("file_name")
    if not isinstance(file_name, str):
        raise LeaveOut("malformed photo name", "file_name must be text")
    photo_size = given_size or content.stored_size(photo, photos, number)
    changes = list(one.changes)
    box = _clipped_box(one, photo_size, strict, changes)
    head_size = head_size_of(annotation, changes)
    for change in changes:
        content.log.mend(change, number)
    if one.box and one.box_given and _OUTSIDE not in changes:
        corners = np.array([one.box[:2], np.add(one.box[:2], one.box[2:])])
        if far_outside(corners, photo_size):
            content.log.notice(_FAR_BOX, number)
    centre, size = box_region(box)
    return Person(
        file_name=file_name,
        photo_size=given_size,
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


def _clipped_box(one: MendedAnnotation, photo_size: Sequence[float], strict: bool, changes: list[str]) -> np.ndarray:
    """The part of its box that lies on the photo, (4,); LeaveOut if there is none."""
    clipped = clip_box(one.box, photo_size) if one.box_given or not strict else None
    if clipped is None and one.box_given and not strict:
        clipped = clip_box(joint_box(one.joints[one.visibility > 0], photo_size), photo_size)
        changes.append(_OUTSIDE)
    if clipped is None:
        raise LeaveOut("box empty or outside the photo", f"the photo is {photo_size[0]:g} x {photo_size[1]:g} pixels")
    return np.array(clipped)
