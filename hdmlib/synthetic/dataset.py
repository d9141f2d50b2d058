"""The dataset that comes with the project: synthetic people, written to disk once as ordinary COCO or MPII files.

Parameters in, a folder out, which the readers of the real datasets read:

    coco   annotations/person_keypoints_{train,val}.json, images/{train,val}/000000000001.jpg ...
    mpii   images/*.jpg, annot/{train,valid}.json and annot/gt_valid.mat as HRNet has them, and the original release's
           mpii_human_pose_v1_u12_1.mat

The folder's name lists every parameter that its content depends on; ``dataset.json`` in it repeats them with the
SHA-256 of every other file. The folder gets its name only when it is complete. All files are hashed at each use (0.2 s
for 2,500 pictures), and a picture that is missing or damaged is drawn again. A picture depends on (seed, split, index,
size) alone, neither on the number of workers nor on the number of pictures nor on the format, so both formats show the
same people.

The worker processes import this module, so neither it nor its imports may import torch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock
from joblib import Parallel, delayed, parallel_config
from platformdirs import user_cache_path

from hdmlib.files import is_abandoned, write_atomically, writer
from hdmlib.paths import expanded
from hdmlib.processes import end_with
from hdmlib.synthetic.scenes import draw_scene
from hdmlib.synthetic.writers import SPLITS, write_coco, write_mpii

# Raise it whenever a picture or a label comes out differently: it is part of the folder's name.
GENERATOR_VERSION = 1
FORMATS = ("coco", "mpii")
MANIFEST = "dataset.json"

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

Progress = Callable[..., Iterable[Any]]


class CacheError(OSError):
    """The embedded dataset cannot be generated; the message names the folder and the remedy."""


@dataclass(frozen=True)
class _Recipe:
    """Every parameter that a dataset's content depends on."""

    format: str
    train: int
    val: int
    size: int
    seed: int
    version: int = GENERATOR_VERSION

    @property
    def name(self) -> str:
        return f"people-v{self.version}-{self.format}-{self.train}-{self.val}-{self.size}px-seed{self.seed}"


def cache_dir() -> Path:
    """The folder for generated data: ``$HDMLIB_CACHE``, else the system's place for caches (``~/.cache/hdmlib``)."""
    if own := os.environ.get("HDMLIB_CACHE"):
        return expanded(own)
    return user_cache_path("hdmlib", appauthor=False)


def embedded_dataset(
    root: str | os.PathLike[str] | None = None,
    *,
    format: str,
    train: int,
    val: int,
    size: int = 256,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a dataset of synthetic people; generated on first use, reused afterwards.

    In an existing folder damaged and missing pictures are drawn again. A folder whose annotations or manifest are
    damaged, or that does not match its name, is replaced. A warning gives the reason for either.

    Args:
        root: Folder to keep datasets in; ``None`` is ``cache_dir()``.
        format: ``coco`` or ``mpii``.
        train: Number of training pictures, each with a main person and some with more.
        val: Number of validation pictures.
        size: Longer side of the pictures in pixels.
        seed: Seed of the dataset.
        workers: Processes to draw with; ``None`` is one for each core this process may use, at most 8.
        progress: Wraps an iterable as ``tqdm`` does, called with ``total`` and ``desc``; ``None`` is silent.

    Returns:
        The dataset's folder, complete.

    Raises:
        ValueError: If a parameter is out of range.
        CacheError: If the folder cannot be written, or the system ends a drawing process.
    """
    recipe = _checked(_Recipe(format, train, val, size, seed))
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1 or None, got {workers}")
    root = cache_dir() if root is None else Path(root)
    folder, workers = root / recipe.name, workers or _default_workers()
    if folder.exists() and _is_intact(folder, recipe):
        return folder
    with _lock(root, recipe):  # whoever asks for the same people meanwhile waits, and finds them
        _make(folder, recipe, workers, progress)
    return folder


def _make(folder: Path, recipe: _Recipe, workers: int, progress: Progress | None) -> None:
    """Draw what is missing of a dataset: all, some pictures, or nothing."""
    root = folder.parent
    if folder.exists():
        fault = _fault(folder, recipe)
        if fault is None and (pictures := _damaged_pictures(folder, recipe)):
            warnings.warn(
                f"{folder}: {len(pictures)} pictures are missing, damaged or without a checksum; they are drawn again",
                stacklevel=3,
            )
            with _partial_folder(root, recipe) as partial:
                fault = _mend(folder, partial, recipe, pictures, workers, progress)
        if fault is None:
            return
        warnings.warn(f"{folder} is not usable ({fault}); it is being generated again", stacklevel=3)
    with _partial_folder(root, recipe) as partial:
        _generate(partial, recipe, workers, progress)
        _publish(partial, folder, recipe)


def _lock(root: Path, recipe: _Recipe) -> AbstractContextManager[object]:
    """Waits for the right to draw these people, and holds it; the system releases it when its process ends."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        return FileLock(root / f".{recipe.name}.lock").acquire()
    except OSError as error:
        raise _cannot_write(root, error) from error


@contextmanager
def _partial_folder(root: Path, recipe: _Recipe) -> Iterator[Path]:
    """A folder to draw in, removed at the end; raises a ``CacheError`` with the remedy where drawing fails."""
    try:
        _remove_abandoned(root)
        partial = _partial_path(root, recipe)
        partial.mkdir()
    except OSError as error:
        raise _cannot_write(root, error) from error
    try:
        yield partial
    except OSError as error:
        raise _cannot_write(root, error) from error
    except BrokenProcessPool as error:
        raise CacheError(
            "a process that drew people was killed, usually because memory ran out; free some and try again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial_path(root: Path, recipe: _Recipe) -> Path:
    """A new name for a folder that is not used as a dataset; it names the process that owns it."""
    return root / f".{recipe.name}.{writer()}.partial"


def _checked(recipe: _Recipe) -> _Recipe:
    if recipe.format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {recipe.format!r}")
    for name, least in (("train", 0), ("val", 0), ("size", 32), ("seed", 0)):
        value = getattr(recipe, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if recipe.train + recipe.val == 0:
        raise ValueError("train and val are both 0: nothing to generate")
    return recipe


def _cannot_write(root: Path, error: OSError) -> CacheError:
    place = "the environment variable HDMLIB_CACHE" if root == cache_dir() else "root (--to)"
    return CacheError(
        f"cannot write the embedded people to {root} ({error}); point {place} to a folder that you can write to and "
        "that has room"
    )


def _default_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)


# The folder -----------------------------------------------------------------------------------------------------------


def _fault(folder: Path, recipe: _Recipe) -> str | None:
    """What is wrong with a dataset's manifest or annotations, ``None`` if they are intact."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        claimed, digests = manifest["recipe"], dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"no readable {MANIFEST}"
    if claimed != asdict(recipe):
        wrong = [
            key for key, value in asdict(recipe).items() if not isinstance(claimed, dict) or claimed.get(key) != value
        ]
        return f"its {MANIFEST} names another {', '.join(wrong) or 'recipe'}"
    pictures = {_image_path(folder, recipe.format, *picture) for picture in _pictures(recipe)}
    for name, digest in digests.items():
        if folder / name not in pictures and _digest(folder / name) != digest:
            return f"{name} has changed"
    return None


def _is_intact(folder: Path, recipe: _Recipe) -> bool:
    return _fault(folder, recipe) is None and not _damaged_pictures(folder, recipe)


def _damaged_pictures(folder: Path, recipe: _Recipe) -> list[tuple[str, int]]:
    """Split and index of each picture that is missing, is not as its checksum, or has none, as in an old folder."""
    digests = json.loads((folder / MANIFEST).read_text())["sha256"]

    def intact(picture: tuple[str, int]) -> bool:
        path = _image_path(folder, recipe.format, *picture)
        digest = _digest(path)
        return digest is not None and digest == digests.get(_key(folder, path))

    return [picture for picture in _pictures(recipe) if not intact(picture)]


def _mend(
    folder: Path,
    partial: Path,
    recipe: _Recipe,
    pictures: list[tuple[str, int]],
    workers: int,
    progress: Progress | None,
) -> str | None:
    """Draw pictures again and put each in its place, since others may be reading the folder.

    Returns:
        Why the folder cannot be mended, or ``None``.
    """
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    for record in _drawn(partial, recipe, pictures, workers, progress):
        picture = _image_path(partial, recipe.format, record["split"], record["index"])
        name = _key(partial, picture)
        if manifest["sha256"].setdefault(name, record["sha256"]) != record["sha256"]:
            return "its pictures are those of another version of OpenCV"
        os.replace(picture, folder / name)
    write_atomically(path, _json(manifest))
    return None


def _key(folder: Path, path: Path) -> str:
    """A file's name in the manifest."""
    return path.relative_to(folder).as_posix()


def _digest(path: Path) -> str | None:
    """A file's SHA-256; ``None`` if it cannot be read."""
    try:
        return _sha256(path.read_bytes())
    except OSError:
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _remove_abandoned(root: Path) -> None:
    """Remove the unfinished folders whose process was killed; those of running processes are kept."""
    for partial in root.glob(".people-*.partial"):
        with suppress(FileNotFoundError):  # it has just got its name
            folders = (partial, *partial.glob("images"), *partial.glob("images/*/"))
            if is_abandoned(partial.stem.rpartition(".")[2], max(folder.stat().st_mtime for folder in folders)):
                shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, folder: Path, recipe: _Recipe) -> None:
    """Give the finished folder its name, unless another process was first."""
    for _ in range(5):
        broken = None
        if folder.exists():
            if _is_intact(folder, recipe):
                return
            broken = _partial_path(folder.parent, recipe)
            os.replace(folder, broken)
        try:
            os.replace(partial, folder)
        except OSError:
            if not folder.exists():
                raise
        else:
            return
        finally:
            if broken:
                shutil.rmtree(broken, ignore_errors=True)
    raise CacheError(f"{folder} keeps being replaced by another process")


# Generation -----------------------------------------------------------------------------------------------------------


def _generate(folder: Path, recipe: _Recipe, workers: int, progress: Progress | None) -> None:
    """Write pictures, annotations and, last, the manifest."""
    by_split: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for record in _drawn(folder, recipe, _pictures(recipe), workers, progress):
        by_split[record["split"]].append(record)
    for split in SPLITS:
        by_split[split].sort(key=lambda record: record["index"])
    files = (write_coco if recipe.format == "coco" else write_mpii)(folder, by_split)
    drawn = {
        _key(folder, _image_path(folder, recipe.format, split, record["index"])): record["sha256"]
        for split in SPLITS
        for record in by_split[split]
    }
    manifest = {
        "recipe": asdict(recipe),
        "images": len(drawn),
        "people": {split: sum(len(record["people"]) for record in by_split[split]) for split in SPLITS},
        "sha256": {**{_key(folder, path): _digest(path) for path in files}, **drawn},
    }
    (folder / MANIFEST).write_bytes(_json(manifest))


def _json(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1) + "\n").encode()


def _pictures(recipe: _Recipe) -> list[tuple[str, int]]:
    """Split and index of every picture."""
    return [(split, index) for split in SPLITS for index in range(getattr(recipe, split))]


def _image_path(folder: Path, format: str, split: str, index: int) -> Path:
    if format == "coco":
        return folder / "images" / split / f"{index + 1:012d}.jpg"
    # MPII keeps all pictures in one folder.
    return folder / "images" / f"{SPLITS.index(split)}{index + 1:08d}.jpg"


def _drawn(
    folder: Path, recipe: _Recipe, pictures: list[tuple[str, int]], workers: int, progress: Progress | None
) -> list[dict]:
    """Draw pictures, watched by ``progress``; their records in any order."""
    for split in SPLITS:
        _image_path(folder, recipe.format, split, 0).parent.mkdir(parents=True, exist_ok=True)
    # Starting a process takes about as long as drawing a dozen pictures.
    workers = max(1, min(workers, len(pictures) // 16))
    # The drawing ends here, also when this process is interrupted: the caller then removes the folder.
    with closing(_draw_all(folder, recipe, pictures, workers)) as records:
        watched: Iterable[dict] = records
        if progress is not None:
            watched = progress(records, total=len(pictures), desc=f"drawing people ({recipe.format})")
        return list(watched)


def _draw_all(folder: Path, recipe: _Recipe, jobs: list[tuple[str, int]], workers: int) -> Generator[dict]:
    """Draw every picture, with several workers in any order; yields the records of :func:`_draw`.

    The workers are joblib's loky processes: a fork of a process with threads (Jupyter, torch) may hang, and a child of
    ``multiprocessing``'s spawn would run the caller's script again.
    """
    if workers == 1:
        yield from (_draw(folder, recipe, *job) for job in jobs)
        return
    with parallel_config("loky", inner_max_num_threads=1, idle_worker_timeout=10):
        pool: Any = Parallel(workers, return_as="generator_unordered")
    yield from pool(delayed(_draw_in_worker)(os.getpid(), folder.resolve(), recipe, *job) for job in jobs)


def _draw_in_worker(parent: int, folder: Path, recipe: _Recipe, split: str, index: int) -> dict:
    _prepare_worker(parent)
    return _draw(folder, recipe, split, index)


@functools.cache
def _prepare_worker(parent: int) -> None:
    """Settings of a worker process, which uses one core and ends with its parent."""
    end_with(parent)
    cv2.setNumThreads(1)
    # By default glibc returns the rasters to the system after each picture: a fifth of the time goes into page faults.
    with suppress(OSError, AttributeError, TypeError):  # no glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**28)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**29)


def _draw(folder: Path, recipe: _Recipe, split: str, index: int) -> dict:
    """Draw and write one picture; returns what the annotation files need, in JSON's types."""
    rng = np.random.default_rng([recipe.version, recipe.seed, SPLITS.index(split), index])
    scene = draw_scene(rng, recipe.size)
    quality = int(rng.integers(78, 96))
    _, jpeg = cv2.imencode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    path = _image_path(folder, recipe.format, split, index)
    path.write_bytes(jpeg.tobytes())
    height, width = scene.image.shape[:2]
    return {
        "split": split, "index": index, "file": path.name, "sha256": _sha256(jpeg.tobytes()),
        "width": width, "height": height, "people": [asdict(person) for person in scene.people],
    }  # fmt: skip
