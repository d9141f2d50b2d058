"""Photos: a name in an annotation file to a file below the data folder, and that file to pixels.

Every photo of the project is opened here, and only in the formats of :data:`FORMATS`: PIL would otherwise hand a
PostScript file to an external program.
"""

from __future__ import annotations

import io
import os
import re
import unicodedata
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import cv2
import numpy as np
from PIL import Image

from hdmlib.data.dataset import DataError
from hdmlib.data.intake import LeaveOut
from hdmlib.data.layouts import SYNONYMS, split_names

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# OpenCV's warps index pixels with 16-bit integers.
LONGEST_SIDE = 2**15 - 2

_ORIENTATION = 0x0112  # EXIF's tag
_REMEDIES = {
    "photo missing": "restore it",
    "photo too large": "make it smaller",
    "photo unreadable or truncated": "restore it, or convert it to JPEG or PNG",
}
T = TypeVar("T")


@dataclass(frozen=True)
class PhotoHeader:
    """What a photo's header shows.

    Attributes:
        problem: Why the file cannot be used, ``None`` if it can.
        size: Width and height of the stored pixels.
        orientation: EXIF's code, 1 (upright) to 8.
    """

    problem: str | None
    size: tuple[int, int] = (0, 0)
    orientation: int = 1

    @property
    def remedy(self) -> str:
        """What to do about the problem, if there is one."""
        return _REMEDIES.get(self.problem or "", "")

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height after the photo is turned as EXIF says; the codes 5 to 8 lie on their side."""
        width, height = self.size
        return (height, width) if self.orientation >= 5 else (width, height)

    def turned_for(self, annotated: tuple[float, float] | None) -> bool | None:
        """Whether annotations that give the photo this width and height are in pixels of the upright photo, not in
        stored ones; ``None`` where the size does not settle it: the photo is then read as stored."""
        if self.orientation == 1:
            return False
        if annotated is None or self.upright_size == self.size:
            return None
        return annotated == self.upright_size


def remembered_header(path: Path) -> PhotoHeader:
    """:func:`inspect_photo`, once for a file that stays as it is: but for JPEG it decodes the whole photo."""
    try:
        status = path.stat()
    except OSError:
        return inspect_photo(path)
    return _inspected(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2**16)  # more than the photos of a folder: those are passed in turn, several times
def _inspected(path: Path, size: int, time: int) -> PhotoHeader:
    return inspect_photo(path)


def inspect_photo(path: Path) -> PhotoHeader:
    """Check an image file by its header and its last bytes, without decoding a sound JPEG."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                if max(image.size) > LONGEST_SIDE:
                    return PhotoHeader("photo too large")
                orientation = _orientation(image)
                file.seek(-2, os.SEEK_END)
                if image.format not in ("JPEG", "MPO") or file.read() != b"\xff\xd9":
                    image.load()  # not a JPEG that ends in its end mark: only decoding shows whether it is complete
                if image.format not in ("JPEG", "MPO", "PNG"):
                    read_image(path)  # rare variants that PIL decodes and OpenCV does not
                return PhotoHeader(None, image.size, orientation)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return PhotoHeader("photo too large")
    except FileNotFoundError:
        return PhotoHeader("photo missing")
    except Exception:  # a damaged file can make a decoder raise anything
        return PhotoHeader("photo unreadable or truncated")


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # PIL and OpenCV turn these themselves
        return 1
    code = image.getexif().get(_ORIENTATION, 1)
    return code if code in _TURNS else 1


def read_image(path: Path, *, upright: bool = False) -> np.ndarray:
    """The photo as (H, W, 3) uint8 RGB; transparent parts are white, 16 bits are reduced to the upper 8.

    Args:
        path: The file.
        upright: Whether to turn it as its EXIF orientation says. COCO's annotations refer to the stored pixels.

    Raises:
        DataError: If it cannot be decoded.
    """
    try:
        data = path.read_bytes()
        orientation, transparent = 1, False
        if upright or not data.startswith(b"\xff\xd8"):  # JPEG has no transparency
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                orientation, transparent = _orientation(image), image.has_transparency_data
                if transparent:
                    pixels = rgb_of(image)
        if not transparent:
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if decoded is None:
                raise ValueError("OpenCV cannot decode it")
            pixels = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise DataError(
            f"cannot decode the photo {path}; restore the file, or remove it: readers leave out missing photos"
        ) from error
    photo = np.asarray(pixels)
    return np.ascontiguousarray(_TURNS[orientation](photo)) if upright else photo


def rgb_of(image: Image.Image) -> np.ndarray:
    """A picture of PIL as (H, W, 3) uint8 RGB; transparent parts are white, grey of 16 bits is reduced to the upper 8.

    Raises:
        ValueError: Its mode says nothing about the range of its values.
    """
    if image.mode in ("I", "F"):
        raise ValueError(f"a picture of mode {image.mode!r} has no known range; convert it to grey of 8 bits or to RGB")
    if image.mode.startswith("I;16"):  # PIL would make all above 255 white
        deep = np.asarray(image)
        grey = np.where(deep == image.info.get("transparency", -1), 255, deep >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return np.array(image.convert("RGB"))


# EXIF's codes: from the stored pixels to the upright photo.
_TURNS = {
    1: lambda photo: photo,
    2: np.fliplr,
    3: lambda photo: np.rot90(photo, 2),
    4: np.flipud,
    5: lambda photo: photo.swapaxes(0, 1),
    6: lambda photo: np.rot90(photo, -1),
    7: lambda photo: np.rot90(photo, 2).swapaxes(0, 1),
    8: np.rot90,
}


# -------------------------------------------------------------------------------------------------------------- finding


class PhotoFolder:
    """The photos of one annotation file, found by the names in it.

    Args:
        root: The dataset's folder; no file outside it is ever opened, except through links that lie in it.
        folder: Where the photos of this file are expected.
        beside: The folder of the annotation file.
        split: The split that they belong to: a folder of another split is never searched for a missing photo. ``None``
            for a file that holds all splits.
    """

    def __init__(self, root: Path, folder: Path, beside: Path, split: str | None) -> None:
        self._split = split
        self.folder = folder
        self._root = root
        self._places = tuple(dict.fromkeys((folder, root, beside)))
        self._headers: dict[Path, PhotoHeader] = {}
        self._paths: dict[str, Path] = {}

    def find(self, name: object) -> Path:
        """The file that an annotation calls ``name``.

        A plain relative name, its folders divided by slashes or backslashes, is looked up in the expected folder, in
        the data folder and beside the annotations. Any other name (an address, an absolute path of another machine,
        ``..``, %20) is found by its last parts: the file below the data folder whose path ends in most of them. So is
        a name without the ending of a photo.

        Raises:
            LeaveOut: If there is no such file, or several fit equally well.
        """
        if not isinstance(name, str):
            raise LeaveOut("malformed photo name", "file_name must be text")
        if name not in self._paths:
            self._paths[name] = self._find(name)
        return self._paths[name]

    def header(self, path: Path) -> PhotoHeader:
        """:func:`inspect_photo`, once for each file."""
        if path not in self._headers:
            self._headers[path] = inspect_photo(path)
        return self._headers[path]

    def _find(self, name: str) -> Path:
        relative = name.replace("\\", "/")
        if _is_plain(relative):
            for place in self._places:
                if os.path.exists(path := place / relative):
                    return path
        readings = last_parts(name)
        best = next((found for parts in readings if (found := self._ending_in(self._files, parts))), [])
        if not best and not name.lower().endswith(PHOTO_ENDINGS):
            best = next((found for parts in readings if (found := self._ending_in(self._without_endings, parts))), [])
        if len(best) > 1:  # a split's own folder decides
            best = [path for path in best if path.is_relative_to(self.folder)] or best
        if not best:
            raise LeaveOut("photo missing", f"no file {name[:200]!r} in {self.folder} or elsewhere below {self._root}")
        if len(best) > 1:
            listed = ", ".join(str(path.relative_to(self._root)) for path in sorted(best)[:3])
            raise LeaveOut("ambiguous photo name", f"{name[:200]!r} fits {listed}; write file_name with its folder")
        return best[0]

    def _ending_in(self, files: PathEnds[Path], parts: Sequence[str]) -> list[Path]:
        """The files whose paths end in most of the last parts, without those of another split."""
        for known, paths in files.sharing(parts):
            if own := [path for path in paths if not self._of_another_split(path, known)]:
                return own
        return []

    @cached_property
    def _other_splits(self) -> frozenset[str]:
        if self._split is None:
            return frozenset()
        return frozenset(name for group in SYNONYMS for name in group) - set(split_names(self._split))

    def _of_another_split(self, path: Path, known: int) -> bool:
        """Whether a folder of another split holds the file, apart from its last ``known`` parts, which were named."""
        folders = path.relative_to(self._root).parts[:-known]
        return any(re.sub(r"\d+$", "", folder).lower() in self._other_splits for folder in folders)

    @cached_property
    def _files(self) -> PathEnds[Path]:
        """All files below the data folder."""
        return PathEnds((path.parts, path) for path in self._walked)

    @cached_property
    def _without_endings(self) -> PathEnds[Path]:
        """The photos among them, by their names without the ending."""
        photos = (path for path in self._walked if path.suffix.lower() in PHOTO_ENDINGS)
        return PathEnds((path.with_suffix("").parts, path) for path in photos)

    @cached_property
    def _walked(self) -> list[Path]:
        """The files below the data folder, which is walked once, when a photo is not in its place."""
        return files_below(self._root)


def files_below(root: Path, *, hidden: bool = True) -> list[Path]:
    """The files in a folder and those below it, perhaps without hidden ones; links to folders are followed, each folder
    once."""
    found: list[Path] = []
    visited = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link back up
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        folders.sort(key=lambda name: os.path.islink(os.path.join(folder, name)))  # a file has its own path first
        found += (Path(folder, name) for name in files if hidden or not name.startswith("."))
    return found


def _is_plain(name: str) -> bool:
    return bool(name) and name[0] != "/" and not re.search(r"\0|^[A-Za-z]+:|(^|/)\.\.(/|$)", name)


def last_parts(name: str) -> list[list[str]]:
    """The path parts that identify a photo, in the readings to try: as written, decoded, without an upload's prefix."""
    address = name.replace("\\", "/")
    readings = [address, unquote(address)]
    if "?d=" in address:  # Label Studio: /data/local-files/?d=folder/name.jpg
        readings.insert(0, parse_qs(address.partition("?")[2]).get("d", [""])[0].replace("\\", "/"))
    elif re.match(r"[a-z][a-z0-9+.-]+://", address, re.IGNORECASE):
        readings = [unquote(_path_of_url(address)), *readings]
    if "/upload/" in f"/{address}":  # Label Studio: /data/upload/1/1a2b3c4d-name.jpg
        readings += [re.sub(r"(^|/)[0-9a-f]{6,}-([^/]+)$", r"\1\2", reading) for reading in readings]
    split = [
        [part for part in PurePosixPath(reading.replace("\0", "")).parts if part not in "/"] for reading in readings
    ]
    cut = [parts[max((i + 1 for i, part in enumerate(parts) if part == ".."), default=0) :] for parts in split]
    return [parts for i, parts in enumerate(cut) if parts and parts not in cut[:i]]


def _path_of_url(address: str) -> str:
    try:
        return urlsplit(address).path
    except ValueError:  # brackets that are no address of IPv6
        return address.partition("://")[2].partition("?")[0].partition("/")[2]


class PathEnds(Generic[T]):
    """Paths, found by their last parts; accents count as the same however they are written.

    Args:
        paths: The parts of each path, and what it stands for.
    """

    def __init__(self, paths: Iterable[tuple[Sequence[str], T]]) -> None:
        entries = sorted(((_from_the_end(parts), value) for parts, value in paths), key=itemgetter(0))
        self._ends = [end for end, _ in entries]  # in order, so that those with the same last parts are neighbours
        self._values = [value for _, value in entries]

    def sharing(self, parts: Sequence[str]) -> Iterator[tuple[int, list[T]]]:
        """What shares the last parts of a path: how many they are, the most first, and all that share just so many."""
        wanted, inner = _from_the_end(parts), None
        for count in range(len(wanted), 0, -1):
            first, last = (
                side(self._ends, wanted[:count], key=lambda end, count=count: end[:count])
                for side in (bisect_left, bisect_right)
            )
            start, stop = inner or (last, last)
            if found := self._values[first:start] + self._values[stop:last]:
                yield count, found
                inner = first, last


def _from_the_end(parts: Sequence[str]) -> tuple[str, ...]:
    """The parts of a path, last part first, in Unicode's composed form: macOS writes accents as characters of their
    own."""
    return tuple(unicodedata.normalize("NFC", part) for part in reversed(parts))
