"""A dataset of one person a photo as a folder of crops in COCO's format: what the converters have in common."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hdmlib.data.dataset import DataError
from hdmlib.files import write_atomically


class Person(NamedTuple):
    """A person of the new folder.

    Attributes:
        part: ``train`` or ``val``.
        picture: The crop, a JPEG file.
        image: Its entry of COCO's ``images``.
        annotation: Its entry of COCO's ``annotations``.
    """

    part: str
    picture: bytes
    image: dict[str, Any]
    annotation: dict[str, Any]


def write_coco_folder(
    to: Path, people: Iterable[Person], name: str, description: str, category: Mapping[str, Any]
) -> dict[str, int]:
    """Write ``annotations/NAME_{train,val}.json`` and the crops in ``images/``; the folder appears when all is written.

    Returns:
        Number of people by part.

    Raises:
        DataError: Raised by ``people``, or ``to`` is in use.
        OSError: ``to`` cannot be written.
    """
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise DataError(f"to: {to} is not an empty folder; name a new one")
    found: dict[str, list[Person]] = {"train": [], "val": []}
    to.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{to.name}-", dir=to.parent) as temporary:
        unfinished = Path(temporary) / to.name
        for person in people:
            write_atomically(unfinished / "images" / person.image["file_name"], person.picture)
            found[person.part].append(person._replace(picture=b""))
        for part, listed in found.items():
            content = {
                "info": {"description": description},
                "images": [person.image for person in listed],
                "annotations": [person.annotation for person in listed],
                "categories": [category],
            }
            write_atomically(unfinished / "annotations" / f"{name}_{part}.json", json.dumps(content).encode())
        if to.exists():
            to.rmdir()
        unfinished.rename(to)
    return {part: len(listed) for part, listed in found.items()}


def open_photo(photo: Path) -> Image.Image:
    """A photo of the original set, in RGB.

    Raises:
        DataError: It is damaged, or no JPEG.
    """
    try:
        with Image.open(photo, formats=["JPEG"]) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise DataError(f"from: {photo} is damaged ({error}); fetch it again") from None


def cropped(
    picture: Image.Image, box: tuple[int, int, int, int], longest_side: int, places: NDArray[np.float64]
) -> tuple[Image.Image, NDArray[np.float64]]:
    """A part of a photo, shrunk (Lanczos) to a longest side, never enlarged, and places on it.

    Pixel centres map by ``x -> (x + 1/2) s - 1/2``, with s the ratio of the sides.

    Args:
        picture: The photo.
        box: Left, top, right and bottom in its pixels, within it.
        longest_side: In pixels.
        places: (K, 2), in pixels of the photo.

    Returns:
        The crop, and the places in its pixels.
    """
    size = np.array([box[2] - box[0], box[3] - box[1]])
    picture = picture.crop(box)
    if size.max() > longest_side:
        width, height = (max(1, round(side * longest_side / size.max())) for side in size.tolist())
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    ratio = np.array(picture.size) / size
    return picture, (places - box[:2] + 0.5) * ratio - 0.5


def as_jpeg(picture: Image.Image, quality: int) -> bytes:
    """A picture as a JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
