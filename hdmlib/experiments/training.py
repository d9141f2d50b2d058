"""Fit a network with one of the losses and validate it after every epoch.

Config and people in; a trained network and its curves out, and a folder from which a killed training resumes. The loop
runs on Hugging Face Accelerate, which handles devices, mixed precision and several processes.

On one machine with one CPU thread the same config gives the same numbers, bit for bit, interrupted or not: only the
initial weights are drawn here, and the loader's order and augmentation are functions of (seed, epoch, person). With
other thread counts, machines or GPUs the last digits differ, and training amplifies the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn

from hdmlib.config import Config, ConfigError
from hdmlib.data.sources import Data
from hdmlib.experiments.checkpoint import Checkpoints, TrainingState
from hdmlib.experiments.engine import (
    build_losses,
    build_reader,
    evaluation_loader,
    share_weight,
    start_engine,
    training_loader,
)
from hdmlib.experiments.prediction import validate
from hdmlib.experiments.record import Epoch
from hdmlib.files import remove_leftovers, write_atomically
from hdmlib.losses.base import HeatmapLoss
from hdmlib.models.checkpoints import load_weights, save_weights
from hdmlib.models.hrnet import HRNet
from hdmlib.models.hub import NONE, weights_path
from hdmlib.models.lite import Lite0
from hdmlib.models.registry import build_model
from hdmlib.presets import LEARNING_RATES
from hdmlib.reader import normalise

# The network of the epoch with the best validation score; records describe the last epoch's.
BEST = "best.safetensors"
# The curves as a table, written anew after each epoch.
METRICS = "metrics.csv"

# Steps between two checks that the loss is finite; each check makes the CPU wait for the GPU.
CHECK_EVERY = 20


class TrainingDiverged(RuntimeError):
    """The loss is no longer a finite number. The last finished epoch is on disk."""


def fit(
    config: Config,
    data: Data,
    folder: Path,
    *,
    progress: Callable[..., Any] | None = None,
    report: Callable[[Epoch], None] | None = None,
) -> tuple[HRNet, list[Epoch]]:
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
        TrainingDiverged: The loss became infinite or NaN.
        Interrupted: Ctrl-C or SIGTERM; the step is finished and saved.
        OSError: The folder cannot be written.
        ValueError: No checkpoint in the folder can be read.
    """
    engine = start_engine(config, logging_dir=folder)
    folder.mkdir(parents=True, exist_ok=True)
    if engine.is_main_process:
        remove_leftovers(folder)
    bare = untrained_model(config, len(data.train.skeleton))
    train_loader: Any = training_loader(config, data.train, engine)
    val_loader = evaluation_loader(config, data.val, engine)
    order = train_loader.batch_sampler.sampler
    if config.sync_batchnorm and engine.num_processes > 1:
        bare = nn.SyncBatchNorm.convert_sync_batchnorm(bare)
    model, optimiser = engine.prepare(bare, _optimiser(config, bare))
    bare = engine.unwrap_model(model)
    if config.compile:
        model.compile()
    losses, reader = build_losses(config), build_reader(config, model, data.val.skeleton)
    checkpoints = Checkpoints(config, folder, bare, optimiser, engine)
    state = checkpoints.load()
    if report:
        for line in state.epochs:
            report(line)

    with _tracking(config, engine, folder.name), checkpoints:
        for epoch in range(len(state.epochs), config.epochs + 1):  # epoch 0 only validates the untrained network
            train_loader.set_epoch(epoch)
            train_loss = None
            if epoch > 0:
                order.start = state.steps * config.batch_size
                loss = losses["gaussian_mse" if epoch <= config.warm_start_epochs else config.loss]
                train_loss = _train_epoch(
                    config, model, loss, optimiser, train_loader, state, engine, checkpoints, progress
                )
            validation = validate(config, reader, losses, val_loader, data.val, engine)
            line = Epoch(epoch=epoch, lr=_rate(config, epoch), train_loss=train_loss, validation=validation)
            best = _score(line) > max(map(_score, state.epochs), default=-math.inf)
            state = TrainingState([*state.epochs, line])
            if engine.is_main_process:
                if best:
                    save_weights(bare, folder / BEST)
                checkpoints.save(state)
                write_atomically(folder / METRICS, metrics_table(state.epochs).to_csv(index=False).encode())
                if report:
                    report(line)
            if config.tracker:
                engine.log(metrics_table([line]).iloc[0].dropna().to_dict(), step=epoch)
    return bare, state.epochs


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


def _train_epoch(
    config: Config,
    model: nn.Module,
    loss: HeatmapLoss,
    optimiser: Any,
    loader: Any,
    state: TrainingState,
    engine: Accelerator,
    checkpoints: Checkpoints,
    progress: Callable[..., Any] | None,
) -> float:
    """Train from step ``state.steps`` of the current epoch to its end; returns the mean loss of all its steps.

    Raises:
        TrainingDiverged: The loss became infinite or NaN.
        Interrupted: Ctrl-C or SIGTERM; the finished steps are saved.
    """
    model.train()
    loss.train()
    epoch, steps = len(state.epochs), len(loader)
    batches = progress(loader, total=steps - state.steps, desc=f"epoch {epoch}") if progress else loader
    total = torch.tensor(state.total, device=engine.device)
    for step, batch in enumerate(batches, state.steps):
        time = epoch - 1 + step / steps
        for group in optimiser.param_groups:
            group["lr"] = _rate(config, time)
        loss.set_progress(time / config.epochs)
        people = min(config.batch_size, loader.total_dataset_length - step * config.batch_size)
        value = _backward(engine, model, loss, batch, config.accumulate, share_weight(engine, people))
        if config.clip_norm is not None:
            engine.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        total += value
        looks = step == steps - 1 or step % CHECK_EVERY == 0
        due = checkpoints.due(waited=looks)
        if (looks or due) and not math.isfinite(total.item()):
            raise TrainingDiverged(
                f"the {config.loss} loss is {value.item()} in epoch {epoch}, at or before step {step + 1} of {steps}; "
                f"lower lr (now {config.lr:g}) or set clip_norm; earlier epochs are saved"
            )
        if due:
            mean: Any = engine.reduce(total, reduction="mean")
            state.steps, state.total = step + 1, mean.item()
            checkpoints.save(state)
        if due == "stop":
            raise checkpoints.interrupted(
                f"interrupted after step {step + 1} of {steps} in epoch {epoch}; the same call resumes"
            )
    mean = engine.reduce(total, reduction="mean")
    return mean.item() / steps


def _backward(
    engine: Accelerator, model: nn.Module, loss: HeatmapLoss, batch: Any, parts: int, weight: float
) -> torch.Tensor:
    """Add ``weight`` times the gradient of a batch's mean loss, computed in parts; returns that mean, weighted."""
    pieces = list(zip(*(batch[name].chunk(parts) for name in ("image", "joints", "weights")), strict=True))
    total = batch["weights"].new_zeros(())
    for number, (images, joints, weights) in enumerate(pieces, 1):
        # processes exchange gradients with the last part
        with nullcontext() if number == len(pieces) else engine.no_sync(model):
            share = len(images) / len(batch["image"])
            value = weight * share * loss(model(normalise(images)), joints, weights)
            engine.backward(value)
        total += value.detach()
    return total


def check_start(config: Config) -> None:
    """Check that the network can be built and started as the config asks, before the data is read or drawn.

    Raises:
        ConfigError, FileNotFoundError, CheckpointError: ``initial_bias`` or ``pretrained`` cannot be used.
    """
    if config.initial_bias or config.pretrained not in (None, NONE):
        with torch.random.fork_rng(devices=[]):
            untrained_model(config, joints=3)  # any number: the last layer is not read


def untrained_model(config: Config, joints: int) -> HRNet:
    """The network before training, its weights drawn from the config's seed or, but for the head, pretrained."""
    torch.manual_seed(config.seed)
    model = build_model(config.model, num_joints=joints)
    if isinstance(model, HRNet | Lite0):
        assert model.final_layer.bias is not None
        nn.init.constant_(model.final_layer.bias, config.initial_bias)
    elif config.initial_bias:
        raise ConfigError(f"initial_bias: only HRNet and lite0 have a known last layer; set it in {config.model}")
    if config.pretrained not in (None, NONE):
        load_weights(model, weights_path(config.pretrained), backbone_only=True)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU


def _optimiser(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimiser]
    weight_decay = config.weight_decay if config.apply_weight_decay else 0.0
    # torch chooses foreach on a GPU alone; on a CPU it gives the same bits in three quarters of the time
    return kind(model.parameters(), lr=config.lr, weight_decay=weight_decay, foreach=True)


def _rate(config: Config, time: float) -> float:
    """Learning rate after ``time`` epochs: a linear rise, then half a cosine to zero or tenfold drops at milestones."""
    peak = LEARNING_RATES["gaussian_mse"] if time < config.warm_start_epochs else config.lr
    assert peak is not None  # make_config has set it
    if time < config.warmup_epochs:
        return peak * (time + 0.01) / (config.warmup_epochs + 0.01)
    if config.schedule == "step":
        early = int(config.drop_one_epoch_early)
        return peak * 0.1 ** sum(time >= milestone - early for milestone in config.milestones)
    rest = max(config.epochs - config.warmup_epochs, 1e-9)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (time - config.warmup_epochs) / rest)))


def _score(line: Epoch) -> float:
    """The score that selects the best epoch: PCK at the coarse threshold."""
    return line.validation.metrics[next(iter(line.validation.per_joint))]
