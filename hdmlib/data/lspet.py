"""The photo study's people from the original LSP Extended: 10,000 photos and ``joints.mat`` in, a COCO folder out.

LSP Extended (Johnson and Everingham, CVPR 2011) holds photos of gymnastics, parkour and athletics with 14 joints each,
placed by many annotators. The set of this project is made from it by fixed rules:

* kept are 9,291 people; ``lspet_split.json`` lists the photo numbers of the 709 others by reason (few labelled joints,
  joints outside the photo, impossible lengths, near a validation photo), and those of the 500 validation people;
* a crop is the box of the labelled joints grown by 0.3 of its longer side on each side, clipped to the photo;
* a crop whose longer side exceeds 200 pixels is shrunk to that (:func:`~hdmlib.data.conversion.cropped`).

Annotations are COCO's keypoint JSON, with the distance of neck and head top as ``head_size``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hdmlib.data.conversion import Person, as_jpeg, cropped, open_photo, write_coco_folder
from hdmlib.data.dataset import DataError
from hdmlib.skeletons import LSP_14

PHOTOS = 10_000
GROWTH = 0.3
LONGEST_SIDE = 200
QUALITY = 74
NECK, HEAD_TOP = LSP_14.joints.index("neck"), LSP_14.joints.index("head_top")


def lspet_split() -> dict[str, set[int]]:
    """Photo numbers, from 1: those of the validation people (``val``) and of the people left out (``excluded``)."""
    listed = json.loads(files("hdmlib.data").joinpath("lspet_split.json").read_text())
    excluded = {number for numbers in listed["excluded"].values() for number in numbers}
    return {"val": set(listed["val"]), "excluded": excluded - set(listed["val"])}


def convert_lspet(
    source: Path, to: Path, *, progress: Callable[..., Iterable[Any]] | None = None, partial: bool = False
) -> dict[str, int]:
    """Write the set into a new folder: ``annotations/lspet_{train,val}.json`` and ``images/im00001.jpg``, ...

    Args:
        source: A folder that contains ``joints.mat`` and ``im00001.jpg`` to ``im10000.jpg``, at any depth.
        to: The folder to write; it must not exist or be empty. It appears when all is written.
        progress: Wraps the loop over the photos: ``progress(iterable, total=, desc=)``.
        partial: Convert the photos that are there, instead of refusing an incomplete set.

    Returns:
        Number of people by split.

    Raises:
        DataError: Files of the original are missing or damaged, or ``to`` is in use.
        OSError: ``to`` cannot be written.
    """
    joints, photos = _original(source, partial)
    split = lspet_split()
    wanted = [number for number in photos if number not in split["excluded"]]
    numbers = progress(wanted, total=len(wanted), desc="photos") if progress else wanted
    people = (
        _person("val" if number in split["val"] else "train", number, photos[number], joints[:, :, number - 1])
        for number in numbers
    )
    return write_coco_folder(to, people, "lspet", "LSP Extended, crops of single people, made by hdmlib", _category())


def _original(source: Path, partial: bool) -> tuple[NDArray[np.float64], dict[int, Path]]:
    """Joints (14, 3, 10000) and photos by number.

    Several folders of a clone may hold files of these names (the smaller LSP has an ``im0001.jpg``): those beside
    a ``joints.mat`` of 10,000 people count.
    """
    from scipy.io import loadmat  # as in mpii.py

    if not source.is_dir():
        raise DataError(f"from: no folder {source}; give a copy of LSP Extended")
    for path in sorted(source.rglob("joints.mat")):
        try:
            joints = loadmat(path)["joints"]
        except Exception as error:  # a damaged file makes the reader raise anything
            raise DataError(f"from: {path} is not the original joints.mat ({error})") from None
        if joints.shape == (14, 3, PHOTOS):
            found = {number: file for file in path.parent.rglob("im*.jpg") if (number := _number(file)) is not None}
            missing = sorted(set(range(1, PHOTOS + 1)) - set(found))
            if missing and not (partial and found):
                raise DataError(
                    f"from: {len(missing)} photos are missing beside {path}, such as im{missing[0]:05d}.jpg"
                )
            return joints.astype(np.float64), dict(sorted(found.items()))
    raise DataError(f"from: no joints.mat of {PHOTOS:,} people below {source}; it belongs to LSP Extended, not to LSP")


def _number(file: Path) -> int | None:
    digits = file.stem.removeprefix("im")
    return int(digits) if len(digits) == 5 and digits.isdecimal() and 1 <= int(digits) <= PHOTOS else None


def _person(part: str, number: int, photo: Path, annotated: NDArray[np.float64]) -> Person:
    """The crop and its entries."""
    labelled, places = annotated[:, 2] > 0, annotated[:, :2]
    picture = open_photo(photo)
    first, last = places[labelled].min(axis=0), places[labelled].max(axis=0)
    margin = GROWTH * (last - first).max()
    left, top = (max(0, math.floor(value)) for value in first - margin)
    right, bottom = (min(side, math.ceil(value) + 1) for side, value in zip(picture.size, last + margin, strict=True))
    picture, mapped = cropped(picture, (left, top, right, bottom), LONGEST_SIDE, places)
    joints = np.where(labelled[:, None], mapped, 0)
    low, high = joints[labelled].min(axis=0), joints[labelled].max(axis=0)
    box = _rounded([*low, *(high - low)])
    keypoints = [
        value for joint, flag in zip(joints, labelled, strict=True) for value in (*_rounded(joint), 2 * int(flag))
    ]
    head = float(np.linalg.norm(joints[NECK] - joints[HEAD_TOP])) if labelled[[NECK, HEAD_TOP]].all() else None
    image = {
        "id": number, "file_name": f"im{number:05d}.jpg", "width": picture.width, "height": picture.height,
        "crop_in_original": [left, top, right, bottom],
    }  # fmt: skip
    annotation = {
        "id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "bbox": box,
        "area": round(box[2] * box[3], 2), "num_keypoints": int(labelled.sum()), "keypoints": keypoints,
        "head_size": None if head is None else round(head, 3),
    }  # fmt: skip
    return Person(part, as_jpeg(picture, QUALITY), image, annotation)


def _rounded(values: Iterable[float]) -> list[float]:
    """To hundredths by Python's ``round``, which sees the exact binary value: it rounds 77.395 down, numpy up."""
    return [round(float(value), 2) for value in values]


def _category() -> dict[str, Any]:
    return {
        "id": 1, "name": "person", "supercategory": "person", "keypoints": list(LSP_14.joints),
        "skeleton": [[a + 1, b + 1] for a, b in LSP_14.limbs], "flip_pairs": [list(pair) for pair in LSP_14.flip_pairs],
    }  # fmt: skip
