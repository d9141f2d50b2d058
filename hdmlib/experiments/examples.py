"""A few people as arrays for figures: training crops with their targets, predictions of a network with the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hdmlib.config import Config
from hdmlib.data.dataset import PoseDataset
from hdmlib.data.loader import make_loader
from hdmlib.experiments.engine import augmentation_of, build_reader, frame_of
from hdmlib.heatmaps import demanders, flat_cells, gaussian_map, inside
from hdmlib.skeletons import Skeleton

# Joints whose own heatmaps are shown: easy, hard, and easily confused with the other side.
CLOSE_UPS = ("nose", "head_top", "left_wrist", "right_knee")


@dataclass(frozen=True)
class Examples:
    """N crops with the targets of the losses.

    Attributes:
        pictures: (N, H, W, 3) uint8.
        joints: (N, K, 2) in pixels of the crops.
        weights: (N, K), 0 for unlabelled joints and those outside the crop.
        targets: Name of a target -> (N, h, w), all joints in one map.
    """

    pictures: NDArray[np.uint8]
    joints: NDArray[np.float64]
    weights: NDArray[np.float32]
    targets: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class PredictedExamples:
    """N crops with the predictions of a network; arrays as in :class:`Examples`.

    Attributes:
        pictures, joints, weights: The crops and their annotation.
        cells: (N, K, 2) the annotated joints in cells of the heatmaps.
        predicted: (N, K, 2) decoded joints in pixels of the crops.
        maps: (N, K, h, w) heatmaps as they are decoded.
        close_ups: Indices of a few joints to be shown one by one.
    """

    pictures: NDArray[np.uint8]
    joints: NDArray[np.float64]
    cells: NDArray[np.float32]
    weights: NDArray[np.float32]
    predicted: NDArray[np.float64]
    maps: NDArray[np.float32]
    close_ups: list[int]


def training_examples(config: Config, people: PoseDataset, count: int, sigma: float = 1.0) -> Examples:
    """Augmented crops of the first people, with the targets of a Gaussian and of the matching loss."""
    batch = _batch(config, people, count, augmented=True)
    joints, weights, size = batch["joints"], batch["weights"], frame_of(config).map_size
    gaussians = gaussian_map(joints, size, sigma) * weights[..., None, None]
    targets = {
        f"Gaussian target, sigma {sigma:g}": gaussians.amax(dim=1),
        "demanders": _drawn(*demanders(joints, size), weights, size),
    }
    pictures, pixels = _pictures(config, batch)
    return Examples(pictures, pixels, weights.numpy(), {name: maps.numpy() for name, maps in targets.items()})


def predict_examples(config: Config, model: nn.Module, people: PoseDataset, count: int) -> PredictedExamples:
    """Predictions for the first ``count`` people, not augmented."""
    batch = _batch(config, people, count, augmented=False)
    reading = build_reader(config, model.eval(), people.skeleton)(batch["image"])
    pictures, pixels = _pictures(config, batch)
    predicted = frame_of(config).input_points(reading.cells.double().numpy())
    return PredictedExamples(
        pictures, pixels, batch["joints"].numpy(), batch["weights"].numpy(), predicted, reading.maps.numpy(),
        _close_ups(people.skeleton),
    )  # fmt: skip


def _batch(config: Config, people: PoseDataset, count: int, *, augmented: bool) -> dict[str, Tensor]:
    loader = make_loader(
        people.subset(range(min(count, len(people)))), frame_of(config),
        augmentation=augmentation_of(config) if augmented else None, batch_size=count, seed=config.seed,
    )  # fmt: skip
    batch = next(iter(loader))
    on_map = inside(batch["joints"], frame_of(config).map_size)
    return {**batch, "weights": batch["weights"] * on_map}  # joints outside the crop are not drawn


def _pictures(config: Config, batch: dict[str, Tensor]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Crops as (N, H, W, 3), and their joints in the crops' pixels."""
    points = frame_of(config).input_points(batch["joints"].double().numpy())
    return batch["image"].permute(0, 2, 3, 1).numpy(), points


def _drawn(points: Tensor, shares: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Demanders of all joints as one map (N, h, w): each cell holds the largest share that any joint demands there."""
    maps = torch.zeros(len(points), size[0] * size[1])
    cells = flat_cells(points, size[1]).flatten(1)
    maps.scatter_reduce_(1, cells, (shares * weights[..., None]).flatten(1), reduce="amax")
    return maps.unflatten(1, size)


def _close_ups(skeleton: Skeleton) -> list[int]:
    named = [skeleton.joints.index(name) for name in CLOSE_UPS if name in skeleton.joints]
    return named[:3] or list(range(min(3, len(skeleton))))
