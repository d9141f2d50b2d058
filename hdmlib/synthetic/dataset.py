"""The dataset that comes with the project: synthetic people, written to disk once as ordinary COCO or MPII files.

Parameters in, a folder out, which the same readers serve as the real datasets:

    coco   annotations/person_keypoints_{train,val}.json, images/{train,val}/000000000001.jpg ...
    mpii   images/*.jpg, annot/{train,valid}.json and annot/gt_valid.mat as HRNet has them, and the release's own
           mpii_human_pose_v1_u12_1.mat

The folder's name carries all that its content depends on, ``dataset.json`` in it repeats that with check sums. It shows
under its name only when it is complete. A picture depends on (seed, split, index, size) alone: neither on the number of
workers nor on how many others are made, and not on the format, so both formats show the same people.

The workers are plain interpreters started on this module rather than ``multiprocessing`` children: a fork of a process
with threads (Jupyter, torch) may hang, and a spawned child would run the caller's script again. So nothing here imports
torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import cv2
import numpy as np

from hdmlib.synthetic.scenes import draw_scene
from hdmlib.synthetic.writers import SPLITS, write_coco, write_mpii

# Raise it whenever a picture or a label comes out differently: it is part of the folder's name.
GENERATOR_VERSION = 1
FORMATS = ("coco", "mpii")
MANIFEST = "dataset.json"
_ABANDONED = 3600.0  # seconds without a new picture after which an unfinished folder's maker is taken for dead

Progress = Callable[..., Iterable[Any]]


class CacheError(OSError):
    """The folder for generated datasets cannot be written."""


@dataclass(frozen=True)
class _Recipe:
    """All that a dataset's content depends on."""

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
    """The folder for generated data: ``$HDMLIB_CACHE``, else ``hdmlib`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("HDMLIB_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hdmlib"


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
    """The folder of a dataset of synthetic people; made on first use, reused afterwards.

    A folder that is there but incomplete or not what its name says is replaced, with a warning that says why.

    Args:
        root: Folder to keep datasets in; ``None`` is ``cache_dir()``.
        format: ``coco`` or ``mpii``.
        train: Number of training pictures, each with a main person and some with more.
        val: Number of validation pictures.
        size: Longer side of the pictures in pixels.
        seed: Seed of the whole set.
        workers: Processes to draw with; ``None`` is one for each core this process may use, at most 8.
        progress: Wraps an iterable as ``tqdm`` does, called with ``total`` and ``desc``; ``None`` is silent.

    Returns:
        The dataset's folder, complete.

    Raises:
        ValueError: If a parameter is out of range.
        CacheError: If the folder cannot be written.
    """
    recipe = _checked(_Recipe(format, train, val, size, seed))
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1 or None, got {workers}")
    root = cache_dir() if root is None else Path(root)
    folder = root / recipe.name
    if folder.exists():
        fault = _fault(folder, recipe)
        if fault is None:
            return folder
        warnings.warn(f"{folder} is not usable ({fault}); it is being generated again", stacklevel=2)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root, recipe)
        partial = root / f".{recipe.name}.{secrets.token_hex(4)}.partial"
        partial.mkdir()
    except OSError as error:
        raise _cannot_write(root, error) from error
    try:
        _generate(partial, recipe, workers or _default_workers(), progress)
        _publish(partial, folder, recipe)
    except OSError as error:
        raise _cannot_write(root, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


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
    return CacheError(
        f"cannot write the embedded people to {root} ({error}); point the environment variable HDMLIB_CACHE, or the "
        "cache parameter, to a folder that you can write to and that has room"
    )


def _default_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)


# The folder -----------------------------------------------------------------------------------------------------------


def _fault(folder: Path, recipe: _Recipe) -> str | None:
    """Why a folder is not the dataset it should be, or ``None`` if it is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        claimed, images, digests = manifest["recipe"], manifest["images"], manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"no readable {MANIFEST}"
    if claimed != asdict(recipe):
        wrong = [
            key for key, value in asdict(recipe).items() if not isinstance(claimed, dict) or claimed.get(key) != value
        ]
        return f"its {MANIFEST} says it was made with another {', '.join(wrong) or 'recipe'}"
    try:
        if _count_images(folder) != images:
            return "pictures are missing or empty"
        for name, digest in digests.items():
            if _sha256(folder / name) != digest:
                return f"{name} was changed"
    except OSError as error:
        return str(error)
    return None


def _count_images(folder: Path) -> int:
    return sum(path.stat().st_size > 0 for path in (folder / "images").rglob("*.jpg"))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remove_abandoned(root: Path, recipe: _Recipe) -> None:
    """Clear what a killed process left unfinished of this dataset; one that still grows is left alone."""
    for partial in root.glob(f".{recipe.name}.*.partial"):
        touched = max(
            (p.stat().st_mtime for p in (partial, *partial.glob("images"), *partial.glob("images/*/"))), default=0
        )
        if time.time() - touched > _ABANDONED:
            shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, folder: Path, recipe: _Recipe) -> None:
    """Give the finished folder its name, unless another process was first."""
    for _ in range(5):
        if folder.exists():
            if _fault(folder, recipe) is None:
                return
            broken = partial.with_suffix(".broken")
            os.replace(folder, broken)
            shutil.rmtree(broken, ignore_errors=True)
        try:
            os.replace(partial, folder)
        except OSError:
            if not folder.exists():
                raise
        else:
            return
    raise CacheError(f"{folder} keeps being replaced by another process")


# Generation -----------------------------------------------------------------------------------------------------------


def _generate(folder: Path, recipe: _Recipe, workers: int, progress: Progress | None) -> None:
    """Write pictures, annotations and, last, the manifest."""
    for split in SPLITS:
        _image_path(folder, recipe.format, split, 0).parent.mkdir(parents=True, exist_ok=True)
    jobs = [(split, i) for split in SPLITS for i in range(getattr(recipe, split))]
    # An interpreter takes about as long to start as a dozen pictures take to draw.
    workers = max(1, min(workers, len(jobs) // 16))
    records: Iterable[dict] = (_draw(folder, recipe, *job) for job in jobs)
    if workers > 1:
        records = _draw_in_processes(folder, recipe, jobs, workers)
    if progress is not None:
        records = progress(records, total=len(jobs), desc=f"drawing people ({recipe.format})")
    by_split: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for record in records:
        by_split[record["split"]].append(record)
    for split in SPLITS:
        by_split[split].sort(key=lambda record: record["index"])
    files = (write_coco if recipe.format == "coco" else write_mpii)(folder, by_split)
    manifest = {
        "recipe": asdict(recipe),
        "images": len(jobs),
        "people": {split: sum(len(record["people"]) for record in by_split[split]) for split in SPLITS},
        "sha256": {str(path.relative_to(folder).as_posix()): _sha256(path) for path in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _image_path(folder: Path, format: str, split: str, index: int) -> Path:
    if format == "coco":
        return folder / "images" / split / f"{index + 1:012d}.jpg"
    # MPII keeps all pictures in one folder.
    return folder / "images" / f"{SPLITS.index(split)}{index + 1:08d}.jpg"


def _draw(folder: Path, recipe: _Recipe, split: str, index: int) -> dict:
    """Draw and write one picture; its record is all that the annotations need, in JSON's types."""
    rng = np.random.default_rng([recipe.version, recipe.seed, SPLITS.index(split), index])
    scene = draw_scene(rng, recipe.size)
    quality = int(rng.integers(78, 96))
    _, jpeg = cv2.imencode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    path = _image_path(folder, recipe.format, split, index)
    path.write_bytes(jpeg.tobytes())
    height, width = scene.image.shape[:2]
    people = [asdict(person) for person in scene.people]
    return {"split": split, "index": index, "file": path.name, "width": width, "height": height, "people": people}


def _draw_in_processes(folder: Path, recipe: _Recipe, jobs: list[tuple[str, int]], workers: int) -> Iterator[dict]:
    """Spread the pictures over interpreters of their own; records come in any order.

    Raises:
        OSError: If a worker fails; with the last line of what it said.
    """
    package_root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (package_root, os.environ.get("PYTHONPATH")) if p)
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # glibc would hand the rasters back to the system after every picture: a fifth of the time goes into page faults.
    environment |= {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**29)}
    command = [sys.executable, "-c", "from hdmlib.synthetic.dataset import _work; _work()"]
    lines: SimpleQueue = SimpleQueue()
    processes: list[subprocess.Popen] = []

    def listen(process: subprocess.Popen) -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(process)

    try:
        for start in range(workers):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                text=True,
            )
            processes.append(process)
            task = {"folder": str(folder.resolve()), "recipe": asdict(recipe), "jobs": jobs[start::workers]}
            process.stdin.write(json.dumps(task))
            process.stdin.close()
            threading.Thread(target=listen, args=(process,), daemon=True).start()
        running = workers
        while running:
            line = lines.get()
            if isinstance(line, str):
                yield json.loads(line)
                continue
            running -= 1
            if line.wait() != 0:
                said = line.stderr.read().strip().splitlines() or [f"it ended with status {line.returncode}"]
                raise OSError(f"a process that draws people failed: {said[-1]}")
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()


def _work() -> None:
    """A worker's main: the task as JSON on standard input, a record a line on standard output."""
    task = json.load(sys.stdin)
    cv2.setNumThreads(1)
    recipe = _Recipe(**task["recipe"])
    try:
        for split, index in task["jobs"]:
            print(json.dumps(_draw(Path(task["folder"]), recipe, split, index)), flush=True)
    except BrokenPipeError:  # the parent was killed
        os._exit(1)
