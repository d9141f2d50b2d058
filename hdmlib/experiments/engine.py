"""A config in; the Accelerate engine, the losses, the loaders and the reader of its run out."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DataLoaderConfiguration,
    InitProcessGroupKwargs,
    LoggerType,
    broadcast_object_list,
    gather_object,
)
from torch import nn
from torch.utils.data import DataLoader

from hdmlib.checks import unknown_name
from hdmlib.config import OPTION, Config, ConfigError
from hdmlib.data.augmentation import HALF_BODY_UPPER, Augmentation
from hdmlib.data.crops import Frame
from hdmlib.data.dataset import PoseDataset
from hdmlib.data.loader import make_loader, share_of
from hdmlib.errors import users_stacklevel
from hdmlib.losses.base import HeatmapLoss
from hdmlib.losses.registry import LOSSES, build_loss, with_lengths
from hdmlib.models.registry import stride_of
from hdmlib.reader import Reader
from hdmlib.skeletons import Skeleton

# How long processes wait for one another: longer than the main one takes to score a large validation set.
PATIENCE = timedelta(hours=2)


def start_engine(config: Config, logging_dir: Path | None = None) -> Accelerator:
    """The engine on the config's device; every process that torchrun or Accelerate started calls it.

    Args:
        config: Device, precision, threads, batch; the tracker, if there is a folder for it.
        logging_dir: Where a tracker writes its files; ``None``: nothing is tracked.

    Raises:
        ConfigError: As :func:`check_engine`, or the batch has no such parts.
    """
    device = check_engine(config)
    _use_threads(config.threads if device == "cpu" else None)
    # Crops are all of one size, for which cuDNN then finds its fastest algorithms; a CPU is not concerned.
    torch.backends.cudnn.benchmark = True
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
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
            **tracked,
        )
    _check_parts(config, engine)
    return engine


# The number of CPU threads that a config named last, and the one before it.
_threads: tuple[int, int] | None = None


def _use_threads(wanted: int | None) -> None:
    """Compute with so many CPU threads; ``None``: with as many as before a config named a number, or as set since."""
    global _threads
    now = torch.get_num_threads()
    before = _threads[1] if _threads and _threads[0] == now else now
    torch.set_num_threads(wanted or before)
    _threads = (wanted, before) if wanted else None


def _check_parts(config: Config, engine: Accelerator) -> None:
    """Refuse what cannot be computed in parts of a batch."""
    parts = engine.num_processes * config.accumulate
    reduction = config.loss_options.get("reduction", "mean")
    if parts > 1 and reduction != "mean":
        raise ConfigError(
            f"loss_options: reduction {reduction!r} of a batch is not the mean of that of its parts; with several "
            "processes or accumulate it must be 'mean'"
        )
    if config.accumulate > 1 and parts > config.batch_size:
        raise ConfigError(f"accumulate: a batch of {config.batch_size} people has no {parts} parts; lower accumulate")
    if config.sync_batchnorm and engine.num_processes > 1 and engine.device.type != "cuda":
        raise ConfigError("sync_batchnorm: torch has it for CUDA alone; leave it out on other devices")


def check_engine(config: Config) -> str:
    """The device that a config runs on, ``cpu``, ``mps``, ``cuda`` or ``cuda:1``; checked before any data is read.

    Raises:
        ConfigError: The device is unknown, not on this machine, or one GPU for several processes; it does not support
            the precision; or the tracker is unknown or not installed.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    usable = [*(["cuda"] if gpus else []), *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]
    device = config.device or usable[0]
    if device not in usable and device not in (f"cuda:{index}" for index in range(gpus)):
        numbered = [f"cuda:{index}" for index in range(gpus)] if gpus > 1 else []
        raise ConfigError(f"device: {device!r} is not on this machine; usable here: {', '.join([*usable, *numbered])}")
    if ":" in device and max(started_processes(), config.processes or 1) > 1:
        raise ConfigError(f"device: {device!r} is one GPU, but each of several processes takes its own; leave it out")
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


def leave_process_group() -> None:
    """Leave the process group that torchrun's processes form; called once by each of them, when all is done.

    A process that ends while it is a member may abort, since gloo's threads outlive the interpreter.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def check_agreement(engine: Accelerator, runs: Path, name: str) -> None:
    """Refuse a training whose processes, perhaps on several machines, do not mean the same run in the same folder.

    Only the main process writes, and the others read what it wrote: the checkpoint, and whether the run is finished.

    Args:
        engine: Of this process; every process of the training calls this.
        runs: The folder of the runs, which exists.
        name: The run's name, with the hash of parameters and data.

    Raises:
        ConfigError: In every process, if one has another name for the run or does not see the main process's folder.
    """
    names = gather_object([name])
    if len(set(names)) > 1:
        raise ConfigError(
            f"the processes would train different runs ({', '.join(sorted(set(names)))}): give every machine the same "
            "parameters, and the same data in data_root"
        )
    [mark] = broadcast_object_list([f".shared-{uuid4().hex}"])
    marker = runs / mark
    if engine.is_main_process:
        marker.touch()
    engine.wait_for_everyone()
    blind = [str(process) for process, sees in enumerate(gather_object([marker.exists()])) if not sees]
    if engine.is_main_process:
        marker.unlink()
    if blind:
        raise ConfigError(
            f"run_dir: what the main process writes to {runs} is not seen by the processes {', '.join(blind)}; "
            "machines that train together need a run_dir on a disk that they share"
        )


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
        ConfigError: The loss would not be a single number.
        ValueError: An option is unknown to the loss or out of range.
    """
    reduction = config.loss_options.get("reduction", "mean")
    if reduction in ("per_joint", "none"):
        raise ConfigError(
            f"loss_options: reduction {reduction!r} gives several numbers, and a training lowers one; take 'mean' or "
            "'joint_mean'"
        )
    return {name: build_loss(name, **(config.loss_options if name == config.loss else {})) for name in LOSSES}


def build_warm_start(config: Config) -> HeatmapLoss:
    """The Gaussian that a warm start minimises, as wide as the network's maps ask."""
    return build_loss("gaussian_mse", **with_lengths("gaussian_mse", {}, *frame_of(config).map_size))


def build_reader(config: Config, model: nn.Module, skeleton: Skeleton) -> Reader:
    """The reader of a network that was trained, or is evaluated, with this config."""
    loss = build_loss(config.loss, **config.loss_options).eval()
    return Reader(model, loss, skeleton.flip_order, config.decoder, config.flip_test, config.coordinates)


def frame_of(config: Config) -> Frame:
    """Input and heatmap of the config's network, and how their coordinates correspond."""
    return Frame(config.input_size, config.coordinates, stride_of(config.model, config.input_size))


def check_lengths(config: Config) -> None:
    """Warn if a network of the user's own, whose stride no config knows, gives maps too large for the loss's lengths.

    Raises:
        ValueError, ImportError, CheckpointError: As :func:`~hdmlib.models.registry.stride_of`.
    """
    height, width = frame_of(config).map_size
    wanted = with_lengths(config.loss, config.loss_options, height, width)
    remedy = " ".join(f"{OPTION}{name}={wanted[name]:g}" for name in wanted if name not in config.loss_options)
    if not remedy:
        return
    warnings.warn(
        f"{config.model} gives maps of {width} x {height} cells, for which the lengths of {config.loss}, tuned on "
        f"24 x 24, are short; give {remedy}",
        UserWarning,
        stacklevel=users_stacklevel(),
    )


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
        people, frame_of(config), augmentation=augmentation_of(config), shuffle=True,
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
        people, frame_of(config),
        batch_size=math.ceil(config.batch_size / (engine.num_processes if engine else 1)), workers=_workers(config),
    )  # fmt: skip
    return engine.prepare(loader) if engine else loader


@contextmanager
def ending_workers(*loaders: DataLoader) -> Iterator[None]:
    """End the loaders' worker processes on the way out, also of an interrupted epoch.

    Left to the garbage collector they may never be told to end: torch then waits 5 s for each before it kills it.
    """
    try:
        yield
    finally:
        for loader in loaders:
            inner: Any = getattr(loader, "base_dataloader", loader)  # of one that Accelerate has prepared
            if inner._iterator is not None:  # torch has no public name for it; Lightning ends them so, too
                inner._iterator._shutdown_workers()
                inner._iterator = None


def _workers(config: Config) -> int:
    return default_workers(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if config.workers is None else config.workers


def default_workers(trainings: int) -> int:
    """Data-loading processes for each of so many processes that train on this machine: their cores but one, at most 8.

    Counted are the cores that this process may use, which a scheduler may have limited.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(8, cores // trainings - 1))
