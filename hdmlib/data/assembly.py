"""People of one annotation file and their photos, joined into a :class:`~hdmlib.data.dataset.PoseDataset`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hdmlib.data.annotation import far_outside
from hdmlib.data.dataset import DataError, Person, PoseDataset
from hdmlib.data.intake import IntakeLog, LeaveOut
from hdmlib.data.photos import PhotoFolder
from hdmlib.skeletons import Skeleton

_UPRIGHT = "photo turned upright by its EXIF orientation, as its annotated size requires"
_AMBIGUOUS = "photo with an EXIF orientation that its annotated size does not settle: read as stored, not turned"

_FRACTIONS = "labelled joints all between 0 and 1: fractions of the photo instead of pixels?"
_FAR_OUTSIDE = "labelled joint far outside the photo: pixels of another size of the photo, or x and y exchanged?"


def assemble(
    name: str, skeleton: Skeleton, photos: PhotoFolder, people: Sequence[Person], log: IntakeLog, total: int
) -> PoseDataset:
    """Join people into a dataset, after a check of each of their photos.

    Args:
        name: What messages call the dataset.
        skeleton: Its joints.
        photos: Finds their photos.
        people: Those whom the reader accepted.
        log: What the reader mended and left out.
        total: Number of annotations in the file.

    Raises:
        DataError: If nobody is left.

    Warns:
        DataWarning: Once, if something was mended, or left out for a reason that is not part of the protocol.
    """
    upright: set[Path] = set()
    checked: dict[object, Path | LeaveOut] = {}
    kept, paths = [], []
    for person in people:
        claim = person.file_name, person.photo_size
        if claim not in checked:
            checked[claim] = _check(person, photos, upright, log)
        found = checked[claim]
        if isinstance(found, LeaveOut):
            log.leave_out(found, person.annotation_id)
        else:
            kept.append(person)
            paths.append(found)
            labelled = person.joints[person.visibility > 0]
            if far_outside(labelled, person.photo_size or photos.header(found).size):
                log.notice(_FAR_OUTSIDE, person.annotation_id)
            if len(labelled) > 1 and ((labelled >= 0) & (labelled <= 1)).all():
                log.notice(_FRACTIONS, person.annotation_id)
    if not kept:
        raise DataError(
            f"{name}: no usable person (left out: {log.described() or 'nobody, the list is empty'}; photos looked "
            f"for in {photos.folder}); check the data folder and the split"
        )
    log.warn(name, total, stacklevel=3)
    return _stacked(name, skeleton, kept, paths, frozenset(upright), log)


def _check(person: Person, photos: PhotoFolder, upright: set[Path], log: IntakeLog) -> Path | LeaveOut:
    """The photo of a person, or why it cannot be used; notes how it is to be turned."""
    try:
        path = photos.find(person.file_name)
        header, annotated = photos.header(path), person.photo_size
        if header.problem:
            raise LeaveOut(header.problem, f"{path}: {header.remedy}")
        if annotated is not None and annotated not in (header.size, header.upright_size):
            found, stated = (f"{width:g} x {height:g}" for width, height in (header.size, annotated))
            raise LeaveOut("photo of another size than annotated", f"{path} is {found}, its annotation has {stated}")
    except LeaveOut as fault:
        return fault
    turned = header.turned_for(annotated)
    if turned is None:
        log.mend(_AMBIGUOUS, person.annotation_id)
    elif turned:
        upright.add(path)
        log.mend(_UPRIGHT, person.annotation_id)
    return path


def _stacked(
    name: str, skeleton: Skeleton, people: list[Person], paths: list[Path], upright: frozenset[Path], log: IntakeLog
) -> PoseDataset:
    """Accepted people as the arrays of a dataset."""
    position = {path: i for i, path in enumerate(dict.fromkeys(paths))}

    def stack(field: str, dtype: type = np.float64) -> np.ndarray:
        return np.array([getattr(p, field) for p in people], dtype=dtype)

    visibility = stack("visibility", np.int64)
    return PoseDataset(
        name=name,
        skeleton=skeleton,
        images=tuple(position),
        image_index=np.array([position[path] for path in paths], dtype=np.int64),
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
        left_out=dict(log.left_out),
        mended=dict(log.mended),
        upright=upright,
    )
