"""What a config asks for, as objects: the Accelerate engine, the losses, the loaders and the reader of a run."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from torch import nn
from torch.utils.data import DataLoader

from hdmlib.config import Config, ConfigError
from hdmlib.data.augmentation import HALF_BODY_UPPER, Augmentation
from hdmlib.data.dataset import PoseDataset
from hdmlib.data.loader import make_loader
from hdmlib.losses.base import HeatmapLoss
from hdmlib.losses.registry import LOSSES, build_loss
from hdmlib.reader import Reader
from hdmlib.skeletons import Skeleton


def start_engine(config: Config) -> Accelerator:
    """The engine on the config's device; every process that torchrun or Accelerate started calls it.

    Raises:
        ConfigError: The device is unknown or not on this machine, it does not support the precision, or the batch
            cannot be split evenly among the processes.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = config.device or next(name for name, usable in there.items() if usable)
    if not there.get(device, False):
        usable = ", ".join(name for name, usable in there.items() if usable)
        raise ConfigError(f"device: {device!r} is not on this machine; usable here: {usable}")
    if config.precision == "bf16" and device == "cpu":
        raise ConfigError("precision: bf16 needs a GPU; set it to float32")
    if device == "cpu" and config.threads:
        torch.set_num_threads(config.threads)
    # Accelerate's state is global to the process, and a notebook may start a second run with another device.
    AcceleratorState._reset_state(reset_partial_state=True)
    engine = Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        # the config's batch is that of all processes together, so a recipe takes the same steps on any number of them
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    if config.batch_size % engine.num_processes:
        raise ConfigError(
            f"batch_size: {config.batch_size} cannot be split evenly among {engine.num_processes} processes"
        )
    return engine


def build_losses(config: Config) -> dict[str, HeatmapLoss]:
    """Every loss of the registry: the trained one with the run's options, the others with their defaults.

    Raises:
        ValueError: An option is unknown to the loss or out of range.
    """
    return {name: build_loss(name, **(config.loss_options if name == config.loss else {})) for name in LOSSES}


def build_reader(config: Config, model: nn.Module, skeleton: Skeleton) -> Reader:
    """The reader of a network that was trained, or is evaluated, with this config."""
    loss = build_loss(config.loss, **config.loss_options).eval()
    return Reader(model, loss, skeleton.flip_order, config.decoder, config.flip_test, config.coordinates)


def augmentation_of(config: Config) -> Augmentation:
    """How training crops vary."""
    return Augmentation(
        scale=config.scale_factor,
        rotation=config.rotation,
        rotation_probability=config.rotation_probability,
        mirror_probability=config.flip_probability,
        half_body_probability=config.half_body_probability,
        half_body_upper=HALF_BODY_UPPER if config.half_body_randn else 0.5,
        colour_jitter=config.colour_jitter,
        blur=config.blur,
        cutout=config.cutout,
    )


def training_loader(config: Config, people: PoseDataset) -> DataLoader:
    """Augmented crops in an order of each epoch's own."""
    return make_loader(
        people, config.input_size, coordinates=config.coordinates, augmentation=augmentation_of(config), shuffle=True,
        batch_size=config.batch_size, seed=config.seed, workers=_workers(config), cache=config.cache_photos,
    )  # fmt: skip


def evaluation_loader(config: Config, people: PoseDataset) -> DataLoader:
    """Crops in the dataset's order, not augmented."""
    return make_loader(
        people, config.input_size, coordinates=config.coordinates, batch_size=config.batch_size,
        workers=_workers(config),
    )  # fmt: skip


def _workers(config: Config) -> int:
    return config.workers if config.workers is not None else min(8, (os.cpu_count() or 1) - 1)
