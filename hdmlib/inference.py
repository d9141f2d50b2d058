"""Photos of one's own: a photo, perhaps with people's boxes, and a checkpoint in; joints, confidence and heatmaps out.

What happens to a box here is what happens to a validation person in ``training.predict``: the same crop, the same
readout of the heatmaps, the same decoder, so that the joints are those which the scores of a run are taken from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from hdmlib.config import Config, make_config
from hdmlib.data.coco import box_region
from hdmlib.data.crops import Frame, Region, invert, transform
from hdmlib.data.intake import FARTHEST, LONGEST_SIDE, PHOTO_ENDINGS, image_problem
from hdmlib.decoding import decode
from hdmlib.experiments.record import load_record
from hdmlib.losses.base import HeatmapLoss
from hdmlib.losses.registry import build_loss
from hdmlib.models.checkpoints import CheckpointError, load_weights
from hdmlib.models.hrnet import build_model
from hdmlib.reader import heatmaps_of
from hdmlib.skeletons import Skeleton, skeleton_from_names

# https://..., also after pathlib has joined its slashes; C:/... is a path.
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
# Crops that go through the network together; bounds the memory that a crowd takes.
CROPS_AT_ONCE = 32
# In a run's identity, but no part of its config.
NOT_CONFIG = ("data", "recipe")


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network with all that is needed to use it.

    Attributes:
        config: Its input size and coordinate rule, its loss with options, its decoder, and whether to test flipped.
        model: The weights, in evaluation mode, on the device where they are used.
        loss: What it was trained with, which knows how its heatmaps are read.
        skeleton: Its K joints.
    """

    config: Config
    model: nn.Module
    loss: HeatmapLoss
    skeleton: Skeleton


@dataclass(frozen=True, eq=False)
class PhotoPrediction:
    """What a network says of the N people on one photo. Pixels, with (0, 0) the centre of the photo's first pixel.

    Attributes:
        path: The photo's file, ``None`` if it came as an array.
        photo: (H, W, 3) uint8 RGB, upright.
        boxes: (N, 4) x, y, width, height.
        joints: (N, K, 2) as (x, y).
        confidence: (N, K): the share of the map's mass around the joint for losses that normalise it, else the peak.
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
            # the affine leads from the result to the source, as this flag wants it
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

    A run's record tells what its network is. A file of weights does not: ``model``, ``input_size``, ``loss`` and
    ``skeleton`` are then needed.

    Args:
        checkpoint: A run's folder, or a file of weights: official HRNet, mmpose or our own.
        model: Name of the network, as in ``build_model``. File only, like the next four.
        input_size: Width and height of its input in pixels.
        loss: What it was trained with, as in ``build_loss``: ``gaussian_mse`` for HRNet's and mmpose's weights.
        loss_options: Arguments of that loss.
        coordinates: ``hrnet`` (the default: published weights know no other), ``center`` or ``udp``.
        skeleton: The joints. For a run its joints' names tell them; give it where they do not tell the flip pairs or
            the limbs.
        decoder: Method of :func:`hdmlib.decode`; by default the run's, or the loss's own.
        flip_test: Whether to average with the mirrored crop; by default as the run was evaluated, for a file false.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        FileNotFoundError: There is no such checkpoint, or the run is not finished.
        CheckpointError: The weights cannot be read or do not fit, for instance the number of joints.
        ValueError: A parameter is missing, out of range, or contradicts the run's record.
    """
    path = Path(checkpoint).expanduser()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {device!r} is not usable here ({str(error).splitlines()[0]}); try 'cpu'") from None
    described = {
        "model": model, "input_size": input_size, "loss": loss, "loss_options": loss_options, "coordinates": coordinates
    }  # fmt: skip
    if path.is_dir():
        fields, skeleton = _of_run(path, described, skeleton)
        weights = path / "model.safetensors"
    else:
        fields, weights = _of_file(path, described, skeleton), path
    overrides = {"decoder": decoder, "flip_test": flip_test}
    config = make_config(**fields | {name: value for name, value in overrides.items() if value is not None})
    trained = build_loss(config.loss, **config.loss_options)
    network = build_model(config.model, num_joints=len(skeleton))
    try:
        load_weights(network, weights)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\n  (here: model={config.model!r} and {len(skeleton)} joints, those of skeleton {skeleton.name!r})"
        ) from None
    # the memory layout that training evaluates in
    network = network.to(device, memory_format=torch.channels_last).eval()
    return Network(config, network, trained, skeleton)


def _of_run(folder: Path, described: Mapping[str, Any], skeleton: Skeleton | None) -> tuple[dict[str, Any], Skeleton]:
    """The config's fields and the joints of a finished run."""
    told_twice = [name for name, value in described.items() if value is not None]
    if told_twice:
        raise ValueError(f"{', '.join(told_twice)}: the record in {folder} tells; leave it out for a run's folder")
    for needed in ("record.json", "model.safetensors"):
        if not (folder / needed).is_file():
            raise FileNotFoundError(
                f"{folder}: no {needed} in it; give the folder of a finished run, or a weights file"
            )
    record = load_record(folder / "record.json")
    skeleton = skeleton or skeleton_from_names(record.joints)
    if len(skeleton) != len(record.joints):
        raise ValueError(
            f"skeleton: {skeleton.name!r} has {len(skeleton)} joints, the run in {folder} predicts "
            f"{len(record.joints)}: {', '.join(record.joints)}"
        )
    return {name: value for name, value in record.identity.items() if name not in NOT_CONFIG}, skeleton


def _of_file(path: Path, described: Mapping[str, Any], skeleton: Skeleton | None) -> dict[str, Any]:
    """The config's fields for a file of weights, from what its user says."""
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: no run's folder and no weights file {path}")
    told = {**described, "skeleton": skeleton}
    missing = [name for name in ("model", "input_size", "loss", "skeleton") if told[name] is None]
    if missing:
        raise ValueError(f"{', '.join(missing)}: needed, too; {path} holds weights, and not how they are used")
    size = described["input_size"]
    if len(size) != 2:
        raise ValueError(f"input_size: is (width, height) in pixels, got {size!r}")
    return {
        "model": described["model"],
        "input_width": size[0],
        "input_height": size[1],
        "loss": described["loss"],
        "loss_options": dict(described["loss_options"] or {}),
        "coordinates": described["coordinates"] or "hrnet",
    }


def predict(
    image: str | os.PathLike[str] | NDArray[np.uint8],
    boxes: ArrayLike | None = None,
    *,
    checkpoint: str | os.PathLike[str] | Network,
    **settings: Any,
) -> list[PhotoPrediction]:
    """Find the joints of people on a photo, or on each photo of a folder.

    A file's photo is turned upright as its EXIF tag says, which readers of datasets do not do; boxes and joints are in
    the pixels of the upright photo.

    Args:
        image: A file, a folder of photos, or (H, W, 3) uint8 RGB. No address on the network.
        boxes: (N, 4) x, y, width, height in pixels, one per person; they may reach beyond the photo. ``None``: the
            whole photo is one person. For a folder only ``None``.
        checkpoint: A run's folder, a file of weights, or what :func:`open_network` made of it: to be read once for
            many calls.
        **settings: Arguments of :func:`open_network`: what a file of weights does not tell, ``flip_test``, ``device``.

    Returns:
        One prediction per photo, a folder's in the order of their names.

    Raises:
        FileNotFoundError: There is no such photo, folder or checkpoint.
        CheckpointError: The weights cannot be read or do not fit.
        ValueError: The image is none, a box is empty or lies outside the photo, or as :func:`open_network`.
    """
    photos = _photos(image)
    if boxes is not None and not isinstance(image, np.ndarray) and Path(image).expanduser().is_dir():
        raise ValueError("boxes: belong to one photo; for a folder call predict for each photo with its boxes")
    if isinstance(checkpoint, Network):
        if settings:
            raise ValueError(f"{', '.join(settings)}: the network is open already; say so to open_network")
        network = checkpoint
    else:
        network = open_network(checkpoint, **settings)
    return [_predict_photo(network, photo, boxes) for photo in photos]


def _photos(image: str | os.PathLike[str] | NDArray[np.uint8]) -> Sequence[Path | NDArray[np.uint8]]:
    """The photos that are meant, files still unread but looked at: what is wrong with one is told before long work."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"image: an array must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
        if max(image.shape) > LONGEST_SIDE:
            raise ValueError(f"image: {image.shape[1]} x {image.shape[0]} pixels; the longest side is {LONGEST_SIDE}")
        return [image]
    if not isinstance(image, str | os.PathLike):
        raise ValueError(f"image: a file, a folder or a numpy array is needed, got {type(image).__name__}")
    if ADDRESS.match(str(image)):
        raise ValueError(f"image: {image} is an address on the network; save the photo and give its path")
    path = Path(image).expanduser()
    files = [path]
    if path.is_dir():
        named = (file for file in path.iterdir() if file.suffix.lower() in PHOTO_ENDINGS)
        files = sorted(file for file in named if file.is_file() and not file.name.startswith("."))
        if not files:
            raise ValueError(f"image: no photo in the folder {path}; looked for {', '.join(PHOTO_ENDINGS)}")
    elif not path.exists():
        raise FileNotFoundError(f"image: no file {path}")
    for file in files:
        if problem := image_problem(file):
            raise ValueError(f"image: {file}: {problem}")
    return files


def _read_upright(path: Path) -> NDArray[np.uint8]:
    photo = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if photo is None:
        raise ValueError(f"image: {path}: cannot be decoded; save it as JPEG or PNG")
    return cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)


def _boxes(boxes: ArrayLike | None, photo: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Checked boxes (N, 4) on a photo."""
    height, width = photo.shape[:2]
    if boxes is None:  # from the first pixel's centre to the last one's, as readers of datasets clip
        return np.array([[0, 0, max(width - 1, 1), max(height - 1, 1)]], np.float64)
    try:
        array = np.asarray(boxes, dtype=np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"boxes: must be numbers (N, 4), got {boxes!r}") from None
    if array.size == 0:  # a detector that found nobody
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes: must be (N, 4), one row x, y, width, height per person, got shape {array.shape}")
    problems = {
        "is not finite or absurdly large": ~(np.abs(array) <= FARTHEST).all(axis=1),
        "has no area; it is x, y, width, height": ~(array[:, 2:] > 0).all(axis=1),
        f"lies outside the photo of {width} x {height}": (array[:, :2] > (width - 1, height - 1)).any(axis=1)
        | (array[:, :2] + array[:, 2:] < 0).any(axis=1),
    }
    for problem, found in problems.items():
        if found.any():
            first = int(found.argmax())
            raise ValueError(f"boxes: number {first}, {array[first].tolist()}, {problem}")
    return array


@torch.no_grad()
def _predict_photo(network: Network, source: Path | NDArray[np.uint8], boxes: ArrayLike | None) -> PhotoPrediction:
    """Crop each box, run the network, decode, and bring the joints back to the photo."""
    path = source if isinstance(source, Path) else None
    photo = _read_upright(source) if isinstance(source, Path) else source
    config, checked = network.config, _boxes(boxes, photo)
    frame = Frame(config.input_size, config.coordinates)
    to_input = [frame.to_input(Region(centre, size)) for centre, size in zip(*box_region(checked), strict=True)]
    crops = np.array([frame.crop(photo, affine) for affine in to_input], np.uint8)
    images = torch.from_numpy(crops.reshape(-1, config.input_height, config.input_width, 3)).permute(0, 3, 1, 2)
    parts = [_read_heatmaps(network, some) for some in images.split(CROPS_AT_ONCE)]
    heatmaps, cells, confidence = (torch.cat(tensors).cpu().numpy() for tensors in zip(*parts, strict=True))
    to_cells = np.array([frame.to_cells(affine) for affine in to_input]).reshape(-1, 2, 3)
    joints = transform(cells, invert(to_cells))
    return PhotoPrediction(
        path, photo, checked, joints, confidence.astype(np.float64), heatmaps, to_cells, network.skeleton
    )


def _read_heatmaps(network: Network, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of crops (B, 3, H, W): heatmaps to be read (B, K, h, w), joints (B, K, 2) in cells, confidence (B, K)."""
    config, loss = network.config, network.loss
    images = images.to(next(network.model.parameters()).device)
    _, maps = heatmaps_of(config, network.model, loss, images, network.skeleton.flip_order)
    return maps, *decode(maps, method=config.decoder or loss.decoder, confidence=loss.confidence)
