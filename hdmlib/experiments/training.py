"""Fit a network with one of the losses and validate it after every epoch.

Config and people in; a trained network and its curves out, and a folder from which a killed training resumes. The loop
runs on Hugging Face Accelerate, which handles devices, mixed precision and several processes.

On one machine with one CPU thread the same config gives the same numbers, bit for bit, interrupted or not: the initial
weights are drawn from the seed, what a network draws itself (dropout) from (seed, epoch, step), and the loader's order
and augmentation are functions of (seed, epoch, person). With other thread counts, machines or GPUs the last digits
differ, and training amplifies the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from hdmlib.config import Config, ConfigError
from hdmlib.data.sources import Data
from hdmlib.experiments.checkpoint import Checkpoints, TrainingState
from hdmlib.experiments.engine import (
    build_losses,
    build_reader,
    build_warm_start,
    ending_workers,
    evaluation_loader,
    start_engine,
    training_loader,
)
from hdmlib.experiments.prediction import validate
from hdmlib.experiments.record import Epoch
from hdmlib.experiments.steps import Steps, build_optimiser, divergence_named, learning_rate, loss_of
from hdmlib.files import remove_leftovers, write_atomically
from hdmlib.models.checkpoints import joints_of, load_weights, save_weights
from hdmlib.models.hrnet import HRNet
from hdmlib.models.hub import NONE, weights_path
from hdmlib.models.lite import Lite0
from hdmlib.models.registry import build_model

# The network of the epoch with the best validation score; records describe the last epoch's.
BEST = "best.safetensors"
# The curves as a table, written anew after each epoch.
METRICS = "metrics.csv"


def fit(
    config: Config,
    data: Data,
    folder: Path,
    *,
    progress: Callable[..., Any] | None = None,
    report: Callable[[Epoch], None] | None = None,
) -> tuple[nn.Module, list[Epoch]]:
    """Train, validating before the first epoch and after each; resume from the folder's checkpoint if there is one.

    Args:
        config: The run.
        data: People of both splits.
        folder: Where the checkpoint is kept; created if need be.
        progress: Wraps the loop over an epoch's batches: ``progress(iterable, total=, desc=)``.
        report: Called with the line of each epoch, those from before a resume included.

    Returns:
        The network after the last epoch, on the training device, and the lines of epochs 0, 1, ..., ``config.epochs``.

    Raises:
        ConfigError: The device cannot be used.
        CheckpointError: The pretrained weights cannot be used.
        TrainingDiverged: The loss or the heatmaps became infinite or NaN.
        Interrupted: Ctrl-C or SIGTERM; the step is finished and saved.
        OSError: The folder cannot be written.
        DataError: The training began with other data.
        ValueError: No checkpoint in the folder can be read.
    """
    engine = start_engine(config, logging_dir=folder)
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engine.device)  # the record's is this run's own
    folder.mkdir(parents=True, exist_ok=True)
    if engine.is_main_process:
        remove_leftovers(folder)
    loader, val_loader = training_loader(config, data.train, engine), evaluation_loader(config, data.val, engine)
    bare, model, optimiser = _prepared(config, engine, data.train.skeleton.joints)
    losses, reader = build_losses(config), build_reader(config, model, data.val.skeleton)
    minimised = {"gaussian_mse": build_warm_start(config), config.loss: losses[config.loss]}
    checkpoints = Checkpoints(config, folder, bare, optimiser, engine, data.details)
    steps = Steps(config, engine, model, optimiser, loader, checkpoints, progress)
    state = checkpoints.load()
    if report:
        for line in state.epochs:
            report(line)

    with _tracking(config, engine, folder.name), ending_workers(loader, val_loader), checkpoints:
        for epoch in range(len(state.epochs), config.epochs + 1):  # epoch 0 only validates the untrained network
            train_loss = steps.epoch(minimised[loss_of(config, epoch)], state) if epoch > 0 else None
            with divergence_named(config, epoch, "after its last step"):
                validation = validate(config, reader, losses, val_loader, data.val, engine)
            line = Epoch(epoch=epoch, lr=learning_rate(config, epoch), train_loss=train_loss, validation=validation)
            state = TrainingState([*state.epochs, line])
            if engine.is_main_process:
                if best_epoch(state.epochs) == epoch:
                    save_weights(bare, folder / BEST, data.train.skeleton.joints)
                write_atomically(folder / METRICS, metrics_table(state.epochs).to_csv(index=False).encode())
                checkpoints.save(state)
                if report:
                    report(line)
            if config.tracker:
                engine.log(metrics_table([line]).iloc[0].dropna().to_dict(), step=epoch)
        if checkpoints.due(waited=True) == "stop":  # no step has asked since the last epoch
            raise checkpoints.interrupted("interrupted after the last epoch; the same call evaluates the network")
    return bare, state.epochs


def _prepared(config: Config, engine: Accelerator, joints: Sequence[str]) -> tuple[nn.Module, nn.Module, Optimizer]:
    """The untrained network, bare and as the engine's processes share it, and its optimiser."""
    bare = untrained_model(config, joints)
    if config.sync_batchnorm and engine.num_processes > 1:
        bare = nn.SyncBatchNorm.convert_sync_batchnorm(bare)
    model, optimiser = engine.prepare(bare, build_optimiser(config, bare))
    bare = engine.unwrap_model(model)
    if config.compile:
        model.compile()
    return bare, model, optimiser


@contextmanager
def _tracking(config: Config, engine: Accelerator, name: str) -> Iterator[None]:
    """Log to the config's tracker under the run's name; the tracker is closed when the training fails, too.

    ``Accelerator.end_training`` would also end the process group, in which the trained network is evaluated.
    """
    if config.tracker:
        engine.init_trackers("hdmlib", config={"name": name, "loss": config.loss, "model": config.model})
    try:
        yield
    finally:
        for tracker in engine.trackers:
            tracker.finish()


def metrics_table(epochs: Sequence[Epoch]) -> pd.DataFrame:
    """One row per epoch: ``epoch``, ``lr``, ``train_loss``; of validation every metric and, as ``loss: NAME``, loss."""
    rows = []
    for line in epochs:
        losses = {f"loss: {name}": value for name, value in line.validation.losses.items()}
        rows.append(
            {"epoch": line.epoch, "lr": line.lr, "train_loss": line.train_loss} | losses | line.validation.metrics
        )
    return pd.DataFrame(rows)


def check_start(config: Config) -> None:
    """Check that the network can be built and started as the config asks, before the data is read or drawn.

    Raises:
        ConfigError, FileNotFoundError, CheckpointError: ``initial_bias`` or ``pretrained`` cannot be used.
    """
    if config.initial_bias or config.pretrained not in (None, NONE):
        with torch.random.fork_rng(devices=[]):
            untrained_model(config, joints=("of", "no", "run"))  # any: the last layer is not read


def untrained_model(config: Config, joints: Sequence[str]) -> nn.Module:
    """The network before training, its weights drawn from the config's seed or pretrained.

    Pretrained weights leave the last layer as it is drawn, unless they are those of a run with the same joints.
    """
    torch.manual_seed(config.seed)
    model = build_model(config.model, num_joints=len(joints))
    if isinstance(model, HRNet | Lite0):
        assert model.final_layer.bias is not None
        nn.init.constant_(model.final_layer.bias, config.initial_bias)
    elif config.initial_bias:
        raise ConfigError(f"initial_bias: only HRNet and lite0 have a known last layer; set it in {config.model}")
    if config.pretrained not in (None, NONE):
        path = weights_path(config.pretrained)
        load_weights(model, path, backbone_only=joints_of(path) != tuple(joints))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU


def best_epoch(epochs: Sequence[Epoch]) -> int:
    """The epoch whose network is kept as :data:`BEST`: the first with the best PCK at the coarse threshold."""
    return max(epochs, key=_score).epoch


def _score(line: Epoch) -> float:
    """The score that selects the best epoch: PCK at the coarse threshold."""
    return line.validation.metrics[next(iter(line.validation.per_joint))]
