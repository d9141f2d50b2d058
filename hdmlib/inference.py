"""Photos of your own: a photo, perhaps with boxes of people, and a checkpoint in; joints, confidence and heatmaps out.

A box goes through the same crop and the same :class:`hdmlib.reader.Reader` as a person in validation, so its joints are
those that a run is scored by.
"""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from hdmlib.config import Config, make_config
from hdmlib.data.annotation import box_region, clip_box
from hdmlib.data.crops import Region, invert, transform
from hdmlib.data.intake import FARTHEST, DataWarning, listed
from hdmlib.data.photos import LONGEST_SIDE, PHOTO_ENDINGS, files_below, read_image, remembered_header, rgb_of
from hdmlib.errors import users_stacklevel
from hdmlib.experiments.engine import build_reader, frame_of
from hdmlib.experiments.store import RECORD
from hdmlib.experiments.trained import OF_RUN, TrainedRun, run_of
from hdmlib.models.checkpoints import CheckpointError, load_weights
from hdmlib.models.registry import build_model, warn_if_edited
from hdmlib.paths import expanded, printable
from hdmlib.reader import Reader
from hdmlib.skeletons import Skeleton, skeleton_from_names

# https://..., also after pathlib has joined its slashes; C:/... is a path.
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
# Crops that go through the network together: a limit on the memory that a crowd takes.
CROPS_AT_ONCE = 32
# Characters of a pattern of file names.
_WILD = frozenset("*?[")


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network with everything needed to use it.

    Attributes:
        config: Its input size, coordinate rule, loss, decoder and flip test.
        reader: The network, in evaluation mode, on its device, and the way its heatmaps are read.
        skeleton: Its K joints.
    """

    config: Config
    reader: Reader
    skeleton: Skeleton


@dataclass(frozen=True, eq=False)
class PhotoPrediction:
    """What a network finds on one photo with N people. Pixels; (0, 0) is the centre of the photo's first pixel.

    Attributes:
        path: The photo's file, ``None`` if it came as an array.
        photo: (H, W, 3) uint8 RGB, as it was read: upright, or as stored.
        boxes: (N, 4) x, y, width, height.
        joints: (N, K, 2) as (x, y).
        confidence: (N, K), as :class:`hdmlib.reader.Reading` defines it.
        heatmaps: (N, K, h, w) float32, as they are decoded.
        to_cells: (N, 2, 3) affines from the photo's pixels to each person's heatmap cells.
        skeleton: The K joints; ``skeleton.joints`` are their names.
    """

    path: Path | None
    photo: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    joints: NDArray[np.float64]
    confidence: NDArray[np.float64]
    heatmaps: NDArray[np.float32]
    to_cells: NDArray[np.float64]
    skeleton: Skeleton

    def heat(self) -> NDArray[np.float32]:
        """All heatmaps in their places on the photo, (H, W): the largest of them, each scaled to a peak of 1."""
        height, width = self.photo.shape[:2]
        heat = np.zeros((height, width), np.float32)
        peaks = np.maximum(self.heatmaps.max(axis=(2, 3), keepdims=True), np.finfo(np.float32).tiny)
        for cells, affine in zip((self.heatmaps / peaks).max(axis=1), self.to_cells, strict=True):
            # the affine maps the result to the source, which is what this flag expects
            placed = cv2.warpAffine(cells, affine, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            np.maximum(heat, placed, out=heat)
        return heat


def open_network(
    checkpoint: str | os.PathLike[str],
    *,
    model: str | None = None,
    input_size: tuple[int, int] | None = None,
    loss: str | None = None,
    loss_options: Mapping[str, Any] | None = None,
    coordinates: str | None = None,
    skeleton: Skeleton | None = None,
    decoder: str | None = None,
    flip_test: bool | None = None,
    device: str = "cpu",
) -> Network:
    """A network from the folder of a finished run, or from a file of weights.

    A run's record describes its network, and any weights in its folder, such as the best epoch's. Another file of
    weights is not described: ``model``, ``input_size``, ``loss`` and ``skeleton`` are then required.

    Args:
        checkpoint: A run's folder, or a file of weights: official HRNet, mmpose or our own.
        model: Name of the network, as in ``build_model``. File only, like the next four.
        input_size: Width and height of its input in pixels.
        loss: The loss it was trained with, as in ``build_loss``: ``gaussian_mse`` for HRNet's and mmpose's weights.
        loss_options: Arguments of that loss.
        coordinates: ``hrnet`` (the default, which published weights were trained with), ``center`` or ``udp``.
        skeleton: The joints. For a run they are its own; a run of an earlier version kept their names alone, so pass it
            there if the names do not determine the flip pairs or the limbs.
        decoder: Method of :func:`hdmlib.decode`; by default the run's, or the loss's own.
        flip_test: Whether to average with the mirrored crop; by default as in the run's validation, for a file false.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        FileNotFoundError: There is no such checkpoint, or the run is not finished.
        CheckpointError: The weights cannot be read or do not fit, for instance the number of joints.
        ValueError: A parameter is missing, out of range, or contradicts the run's record.
    """
    path = expanded(checkpoint)
    if not (skeleton is None or isinstance(skeleton, Skeleton)):
        raise ValueError(f"skeleton: a Skeleton is needed, such as hdmlib.skeletons.COCO_17, got {skeleton!r}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {device!r} is not usable here ({str(error).splitlines()[0]}); try 'cpu'") from None
    described = {
        "model": model, "input_size": input_size, "loss": loss, "loss_options": loss_options, "coordinates": coordinates
    }  # fmt: skip
    run = run_of(path, described=any(described.values()))
    if run is not None:
        (fields, joints), weights = _of_run(run, described, skeleton), run.weights
    else:
        (fields, joints), weights = _of_file(path, described, skeleton), path
    overrides = {"decoder": decoder, "flip_test": flip_test}
    config = make_config(**fields | {name: value for name, value in overrides.items() if value is not None})
    network = build_model(config.model, num_joints=len(joints))
    try:
        load_weights(network, weights)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\n  (here: model={config.model!r} and {len(joints)} joints, those of skeleton {joints.name!r})"
        ) from None
    # the memory layout that training validates in
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Network(config, build_reader(config, network, joints), joints)


def run_folder(checkpoint: Path) -> Path:
    """The folder of the finished run that a checkpoint is, or lies in.

    Raises:
        ValueError: The checkpoint is a file that no record describes.
    """
    if not checkpoint.is_file():
        return checkpoint
    if not (checkpoint.parent / RECORD).is_file():
        raise ValueError(
            f"checkpoint: no record describes {checkpoint}; give the folder of a finished run, or "
            f"{' or '.join(OF_RUN)} in it"
        )
    return checkpoint.parent


def _of_run(
    run: TrainedRun, described: Mapping[str, Any], skeleton: Skeleton | None
) -> tuple[dict[str, Any], Skeleton]:
    """The config's fields and the joints of a finished run."""
    repeated = [name for name, value in described.items() if value is not None]
    if repeated:
        raise ValueError(f"{', '.join(repeated)}: given by the record in {run.folder}; leave it out for a run's folder")
    record = run.record
    skeleton = skeleton or skeleton_from_names(record.joints, flip_pairs=record.flip_pairs, limbs=record.limbs or ())
    if not run.predicts(skeleton.joints):
        raise ValueError(
            f"skeleton: {skeleton.name!r} has other joints than the run in {run.folder}, which predicts "
            f"{len(record.joints)}: {', '.join(record.joints)}; leave it out, or name these in this order"
        )
    warn_if_edited(run.fields["model"], record.source, f"{run.folder}, which is used")
    return run.fields, skeleton


def _of_file(path: Path, described: Mapping[str, Any], skeleton: Skeleton | None) -> tuple[dict[str, Any], Skeleton]:
    """The config's fields and the joints of a file of weights, from the caller's arguments."""
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: no run's folder and no weights file {path}")
    given = {**described, "skeleton": skeleton}
    missing = [name for name in ("model", "input_size", "loss", "skeleton") if given[name] is None]
    if missing or skeleton is None:
        raise ValueError(f"{', '.join(missing)}: required, because {path} holds weights and no description of them")
    size, options = described["input_size"], described["loss_options"]
    if not isinstance(options, Mapping | None):
        raise ValueError(f"loss_options: is a dictionary, got {options!r}")
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f"input_size: is (width, height) in pixels, got {size!r}")
    fields = {
        "model": described["model"],
        "input_width": size[0],
        "input_height": size[1],
        "loss": described["loss"],
        "loss_options": dict(options or {}),
        "coordinates": described["coordinates"] or "hrnet",
    }
    return fields, skeleton


def predict(
    image: str | os.PathLike[str] | NDArray[np.uint8] | Image.Image,
    boxes: ArrayLike | None = None,
    *,
    checkpoint: str | os.PathLike[str] | Network,
    upright: bool = True,
    **settings: Any,
) -> list[PhotoPrediction]:
    """Find the joints of people on a photo, or on each photo in and below a folder.

    Boxes and joints are in pixels of the upright photo, or with ``upright=False`` of the photo as it is stored.

    Args:
        image: A file, a folder of photos, an array (H, W, 3) uint8 RGB or (H, W) uint8 grey, or a picture of PIL, which
            is read like a file: white where it is transparent. Web addresses are refused.
        boxes: (N, 4), or (4,) for one person, x, y, width, height in pixels, as annotation files have them; they may
            reach beyond the photo and are clipped to it as HRNet clips a dataset's: right and below to the last pixel,
            x + width - 1; one that begins left of the photo or above it is moved onto it. (Those of a ``PoseDataset``
            are clipped already: add 1 to width and height.) ``None``: the whole photo is one person. For a folder only
            ``None``.
        checkpoint: A run's folder, a file of weights, or the result of :func:`open_network`, which is read once for
            many calls.
        upright: Whether a file or a picture of PIL is turned by its EXIF orientation. COCO's annotations are in stored
            pixels.
        **settings: Arguments of :func:`open_network`: the description of a file of weights, ``flip_test``, ``device``.

    Returns:
        One prediction per photo, those of a folder in the order of their names. Each holds its photo and its heatmaps:
        for a large folder call ``predict`` for each path of :func:`photos_of`.

    Raises:
        FileNotFoundError: There is no such photo, folder or checkpoint.
        CheckpointError: The weights cannot be read or do not fit.
        ValueError: The image cannot be used, a box is empty or lies outside the photo, or as :func:`open_network`.
    """
    photos = _photos(image, upright)
    if boxes is not None and isinstance(image, str | os.PathLike) and expanded(image).is_dir():
        raise ValueError("boxes: belong to one photo; for a folder call predict for each photo with its boxes")
    if isinstance(checkpoint, Network):
        if settings:
            raise ValueError(f"{', '.join(settings)}: the network is open already; pass it to open_network")
        network = checkpoint
    elif isinstance(checkpoint, str | os.PathLike):
        network = open_network(checkpoint, **settings)
    else:
        raise ValueError(
            "checkpoint: a run's folder, a file of weights, or the result of open_network is needed, got "
            f"{type(checkpoint).__name__}"
        )
    return [_predict_photo(network, photo, boxes, upright) for photo in photos]


def photos_of(name: str | os.PathLike[str]) -> list[Path]:
    """The photo files that a path, a folder or a pattern with ``*``, ``?`` or ``[]`` stands for, in the order of names.

    A name that is there is no pattern, nor is the name of a folder in front of one.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: A file is no photo that can be read, its name cannot be written, or the name is a web address.
    """
    path = expanded(name)
    is_pattern = bool(_WILD & set(str(name))) and not path.exists() and not ADDRESS.match(str(name))
    matches = _matches(path) if is_pattern else []
    if is_pattern and not matches:
        hint = "capitals count, ** is any folders, and [78] is 7 or 8"
        raise FileNotFoundError(f"image: nothing fits the pattern {path}; {hint}")
    # a pattern may also match folders without photos
    files = [file for match in matches for file in (_photos_below(match) if match.is_dir() else [match])]
    # `**` matches a folder and also what is in it
    photos = list(dict.fromkeys(photo for file in files or matches or [name] for photo in _photo_files(file)))
    _check_readable(photos)
    for photo in photos:
        if printable(photo) != str(photo):
            raise ValueError(f"image: {printable(photo)}: its name is not UTF-8, so it cannot be written; rename it")
    return photos


def _matches(pattern: Path) -> list[Path]:
    """What fits a pattern, in the order of names; its leading folders that are there are taken as they are written."""
    there = next(folder for folder in pattern.parents if folder.is_dir() or folder == pattern.parents[-1])
    return [there / name for name in sorted(glob.glob(str(pattern.relative_to(there)), root_dir=there, recursive=True))]


def _photos(
    image: str | os.PathLike[str] | NDArray[np.uint8] | Image.Image, upright: bool
) -> Sequence[Path | NDArray[np.uint8]]:
    """The photos as arrays or checked paths: an unusable file is reported before the network runs."""
    if isinstance(image, Image.Image):
        try:
            image = rgb_of(ImageOps.exif_transpose(image) if upright else image)
        except ValueError as error:
            raise ValueError(f"image: {error}") from None
    if isinstance(image, np.ndarray):
        if image.ndim == 2 and image.dtype == np.uint8:
            image = np.repeat(image[..., None], 3, axis=2)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"image: an array must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        if max(image.shape) > LONGEST_SIDE:
            raise ValueError(f"image: {image.shape[1]} x {image.shape[0]} pixels; the longest side is {LONGEST_SIDE}")
        return [image]
    if not isinstance(image, str | os.PathLike):
        given = type(image).__name__
        raise ValueError(f"image: a file, a folder, a numpy array or a picture of PIL is needed, got {given}")
    files = _photo_files(image)
    _check_readable(files)
    return files


def _photo_files(image: str | os.PathLike[str]) -> list[Path]:
    """The file, or the photos of the folder, that a path names."""
    if ADDRESS.match(str(image)):
        raise ValueError(f"image: {image} is a web address; save the photo and pass its path")
    path = expanded(image)
    if path.is_dir():
        files = _photos_below(path)
        if not files:
            raise ValueError(f"image: no photo in or below the folder {path}; looked for {', '.join(PHOTO_ENDINGS)}")
        return files
    if not path.exists():
        hint = "; hdmlib.inference.photos_of expands a pattern" if _WILD & set(str(image)) else ""
        raise FileNotFoundError(f"image: no file {path}{hint}")
    return [path]


def _check_readable(files: Sequence[Path]) -> None:
    unusable = [(file, header) for file in files if (header := remembered_header(file)).problem]
    if unusable:
        first = "; ".join(f"{file}: {header.problem} ({header.remedy})" for file, header in unusable[:3])
        more = f"; and {len(unusable) - 3} more" if len(unusable) > 3 else ""
        raise ValueError(f"image: {first}{more}; or predict without {'them' if len(unusable) > 1 else 'it'}")


def _photos_below(folder: Path) -> list[Path]:
    """The photo files in a folder and those below it, apart from hidden ones; a warning counts the other files."""
    files = sorted(files_below(folder, hidden=False))
    photos = [file for file in files if file.suffix.lower() in PHOTO_ENDINGS]
    others = Counter(file.suffix or "without ending" for file in files if file.suffix.lower() not in PHOTO_ENDINGS)
    if others:
        counts = listed(dict(others.most_common(5))) + (", ..." if len(others) > 5 else "")
        warnings.warn(
            f"{folder}: {others.total()} files are not read: {counts}; convert the photos among them to JPEG or PNG",
            DataWarning,
            stacklevel=users_stacklevel(),
        )
    return photos


def upright_size(photo: Path) -> tuple[int, int]:
    """Width and height of a photo after it is turned by its EXIF orientation, from its header."""
    return remembered_header(photo).upright_size


def check_boxes(boxes: ArrayLike, photo_size: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes of people as an array.

    Args:
        boxes: (N, 4) x, y, width, height in pixels, (4,) for one person, or empty.
        photo_size: Width and height of the photo.

    Returns:
        (N, 4) float64.

    Raises:
        ValueError: They are not (N, 4) finite numbers, one has no area, or one lies outside the photo.
    """
    width, height = photo_size
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"boxes: must be numbers (N, 4), got {boxes!r}") from None
    if array.size == 0:  # a detector that found nobody
        return np.zeros((0, 4))
    if array.shape == (4,):
        array = array[None]
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes: must be (N, 4), one row x, y, width, height per person, got shape {array.shape}")
    problems = {
        "is not finite or absurdly large": ~(np.abs(array) <= FARTHEST).all(axis=1),
        "has no area; it is x, y, width, height": ~(array[:, 2:] > 0).all(axis=1),
        f"lies outside the photo of {width} x {height}": (array[:, :2] > (width - 1, height - 1)).any(axis=1)
        | (array[:, :2] + array[:, 2:] < 0).any(axis=1),
    }
    for problem, wrong in problems.items():
        if wrong.any():
            first = int(wrong.argmax())
            raise ValueError(f"boxes: number {first}, {array[first].tolist()}, {problem}")
    return array


def _regions(boxes: NDArray[np.float64], photo: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres and sizes (N, 2) of the crops: of the boxes clipped to the photo, as readers of datasets clip them."""
    height, width = photo.shape[:2]
    clipped = [clip_box(box, (width, height)) or (box[0], box[1], 1.0, 1.0) for box in boxes.tolist()]
    return box_region(np.array(clipped, np.float64).reshape(-1, 4))


def _predict_photo(
    network: Network, source: Path | NDArray[np.uint8], boxes: ArrayLike | None, upright: bool
) -> PhotoPrediction:
    """Crop each box, read the crops, and map the joints back to the photo."""
    path = source if isinstance(source, Path) else None
    photo = read_image(source, upright=upright) if isinstance(source, Path) else source
    config, (height, width) = network.config, photo.shape[:2]
    checked = check_boxes([[0, 0, width, height]] if boxes is None else boxes, (width, height))
    frame = frame_of(config)
    to_input = [frame.to_input(Region(centre, size)) for centre, size in zip(*_regions(checked, photo), strict=True)]
    crops = np.array([frame.crop(photo, affine) for affine in to_input], np.uint8)
    images = torch.from_numpy(crops.reshape(-1, config.input_height, config.input_width, 3)).permute(0, 3, 1, 2)
    device = next(network.reader.model.parameters()).device
    readings = [network.reader(some.to(device)) for some in images.split(CROPS_AT_ONCE)]
    _, heatmaps, cells, confidence = (torch.cat(parts).cpu().numpy() for parts in zip(*readings, strict=True))
    to_cells = np.array([frame.to_cells(affine) for affine in to_input]).reshape(-1, 2, 3)
    joints = transform(cells, invert(to_cells))
    return PhotoPrediction(
        path, photo, checked, joints, confidence.astype(np.float64), heatmaps, to_cells, network.skeleton
    )
