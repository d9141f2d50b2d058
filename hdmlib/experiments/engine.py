"""A config in; the Accelerate engine, the losses, the loaders and the reader of its run out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DataLoaderConfiguration, LoggerType
from torch import nn
from torch.utils.data import DataLoader

from hdmlib.config import Config, ConfigError, unknown_name
from hdmlib.data.augmentation import HALF_BODY_UPPER, Augmentation
from hdmlib.data.crops import Frame
from hdmlib.data.dataset import PoseDataset
from hdmlib.data.loader import make_loader, share_of
from hdmlib.losses.base import HeatmapLoss
from hdmlib.losses.registry import LOSSES, build_loss
from hdmlib.models.registry import stride_of
from hdmlib.reader import Reader
from hdmlib.skeletons import Skeleton


def start_engine(config: Config, logging_dir: Path | None = None) -> Accelerator:
    """The engine on the config's device; every process that torchrun or Accelerate started calls it.

    Args:
        config: Device, precision, threads, batch; the tracker, if there is a folder for it.
        logging_dir: Where a tracker writes its files; ``None``: nothing is tracked.

    Raises:
        ConfigError: As :func:`check_engine`, or the loss has a reduction whose parts do not add up.
    """
    device = check_engine(config)
    if device == "cpu" and config.threads:
        torch.set_num_threads(config.threads)
    # Accelerate's state is global to the process, and a notebook may start a second run with another device.
    AcceleratorState._reset_state(reset_partial_state=True)
    tracked = (
        {} if logging_dir is None or not config.tracker else {"log_with": config.tracker, "project_dir": logging_dir}
    )
    with _device_of_accelerate(device):
        engine = Accelerator(
            cpu=device == "cpu",
            mixed_precision="bf16" if config.precision == "bf16" else "no",
            dataloader_config=DataLoaderConfiguration(non_blocking=True),
            **tracked,
        )
    reduction = config.loss_options.get("reduction", "mean")
    if engine.num_processes > 1 and reduction != "mean":
        raise ConfigError(f"loss_options: with several processes the reduction is 'mean', not {reduction!r}")
    return engine


def check_engine(config: Config) -> str:
    """The device that a config runs on, ``cpu``, ``mps``, ``cuda`` or ``cuda:1``; checked before any data is read.

    Raises:
        ConfigError: The device is unknown or not on this machine, it does not support the precision, or the tracker is
            unknown or not installed.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    usable = [*(["cuda"] if gpus else []), *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]
    device = config.device or usable[0]
    if device not in usable and device not in (f"cuda:{index}" for index in range(gpus)):
        numbered = [f"cuda:{index}" for index in range(gpus)] if gpus > 1 else []
        raise ConfigError(f"device: {device!r} is not on this machine; usable here: {', '.join([*usable, *numbered])}")
    if config.precision == "bf16" and device == "cpu":
        raise ConfigError("precision: bf16 needs a GPU; set it to float32")
    if config.tracker:
        known = sorted(str(name) for name in LoggerType if name != LoggerType.ALL)
        if config.tracker not in known:
            raise ConfigError(f"tracker: {unknown_name(config.tracker, known)}")
        if config.tracker not in {str(name) for name in get_available_trackers()}:
            raise ConfigError(f"tracker: {config.tracker} is not installed: pip install {config.tracker}")
    return device


def started_processes() -> int:
    """How many processes torchrun or Accelerate has started for this training, on all machines; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the process that prints and writes; known before the engine is started."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def _device_of_accelerate(device: str) -> Iterator[None]:
    """Accelerate takes the first GPU unless this variable names another."""
    if ":" not in device:
        yield
        return
    os.environ["ACCELERATE_TORCH_DEVICE"] = device
    try:
        yield
    finally:
        del os.environ["ACCELERATE_TORCH_DEVICE"]


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


def frame_of(config: Config) -> Frame:
    """Input and heatmap of the config's network, and how their coordinates correspond."""
    return Frame(config.input_size, config.coordinates, stride_of(config.model, config.input_size))


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


def training_loader(config: Config, people: PoseDataset, engine: Accelerator | None = None) -> DataLoader:
    """Augmented crops in an order of each epoch's own; with an engine its process's share of them, on its device.

    The config's batch is that of all processes together, so that a recipe takes the same steps on any number of them.
    """
    loader = make_loader(
        people, config.input_size, coordinates=config.coordinates, stride=stride_of(config.model, config.input_size),
        augmentation=augmentation_of(config), shuffle=True,
        batch_size=config.batch_size, seed=config.seed, workers=_workers(config), cache=config.cache_photos,
        process=engine.process_index if engine else 0, processes=engine.num_processes if engine else 1,
    )  # fmt: skip
    if engine is None:
        return loader
    # Accelerate's own way of sharing would fill up the last batch with people of the first
    return prepare_data_loader(
        loader, engine.device, num_processes=1, process_index=0, put_on_device=True, non_blocking=True
    )


def share_weight(engine: Accelerator, people: int) -> float:
    """What the mean over a process's share of a batch is multiplied by, so that the processes' mean is the batch's."""
    first, end = share_of(people, engine.process_index, engine.num_processes)
    return (end - first) * engine.num_processes / people


def evaluation_loader(config: Config, people: PoseDataset, engine: Accelerator | None = None) -> DataLoader:
    """Crops in the dataset's order, not augmented; with an engine its process's part of them, on its device.

    The parts may hold people twice; the engine's ``gather_for_metrics`` returns each once.
    """
    loader = make_loader(
        people, config.input_size, coordinates=config.coordinates,
        stride=stride_of(config.model, config.input_size),
        batch_size=math.ceil(config.batch_size / (engine.num_processes if engine else 1)), workers=_workers(config),
    )  # fmt: skip
    return engine.prepare(loader) if engine else loader


def _workers(config: Config) -> int:
    return default_workers(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if config.workers is None else config.workers


def default_workers(trainings: int) -> int:
    """Data-loading processes for each of so many processes that train on this machine: their cores but one, at most 8.

    Counted are the cores that this process may use, which a scheduler may have limited.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(8, cores // trainings - 1))
