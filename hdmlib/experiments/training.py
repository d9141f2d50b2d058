"""Fit a network with one of the losses and measure it after every epoch.

Config and people in; a trained network, its curves and a folder that survives being killed out. The loop runs on
Hugging Face Accelerate, which brings devices, mixed precision and several processes.

On one machine with one CPU thread the same config gives the same numbers, bit for bit, interrupted or not: only the
initial weights are drawn here, and the loader's order and augmentation are functions of (seed, epoch, person). With
other thread counts, machines or GPUs the last digits differ, and training amplifies that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from hdmlib.config import Config
from hdmlib.data.sources import Data
from hdmlib.experiments.checkpoint import Interruption, Stopped, TrainingState, load_checkpoint, save_checkpoint
from hdmlib.experiments.engine import build_losses, evaluation_loader, start_engine, training_loader
from hdmlib.experiments.prediction import validate
from hdmlib.experiments.record import Epoch
from hdmlib.files import remove_leftovers
from hdmlib.metrics.scores import PCKReference
from hdmlib.models.checkpoints import load_weights, save_weights
from hdmlib.models.hrnet import build_model
from hdmlib.presets import LEARNING_RATES
from hdmlib.reader import normalise

# The network of the epoch with the best validation score, for use; what is reported is the last.
BEST = "best.safetensors"

# Steps between two looks at whether the loss is finite; each look makes the CPU wait for the GPU.
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
) -> tuple[nn.Module, list[Epoch]]:
    """Train, evaluating before the first epoch and after each; go on from the folder's checkpoint if there is one.

    Args:
        config: The run.
        data: People of both splits.
        folder: Where the checkpoint is kept; created if need be.
        progress: Wraps the loop over an epoch's batches: ``progress(iterable, total=, desc=)``.
        report: Called with each epoch's line, also with those that were trained before.

    Returns:
        The network after the last epoch, on the training device, and the lines of epochs 0, 1, ..., ``config.epochs``.

    Raises:
        ConfigError: A device or weights that cannot be used.
        TrainingDiverged: The loss became infinite or NaN.
        Stopped: Ctrl-C; the step is finished and saved (several processes keep their finished epochs).
        OSError: The folder cannot be written.
        ValueError: The checkpoint in the folder cannot be read.
    """
    engine = start_engine(config)
    folder.mkdir(parents=True, exist_ok=True)
    if engine.is_main_process:
        remove_leftovers(folder)
    torch.manual_seed(config.seed)
    model = build_model(config.model, num_joints=len(data.train.skeleton))
    nn.init.constant_(model.final_layer.bias, config.initial_bias)
    if config.pretrained is not None:
        load_weights(model, config.pretrained, backbone_only=True)
    train_loader, val_loader = training_loader(config, data.train), evaluation_loader(config, data.val)
    order = train_loader.sampler
    model = model.to(memory_format=torch.channels_last)  # a fifth faster on a CPU, more on a GPU
    optimiser = _optimiser(config, model)
    model, optimiser, train_loader, val_loader = engine.prepare(model, optimiser, train_loader, val_loader)
    if config.compile:
        model.compile()
    losses = build_losses(config)
    ruler = PCKReference.of(data.val, config.pck_reference)
    bare = engine.unwrap_model(model)
    done = load_checkpoint(folder, bare, optimiser, engine.device)
    for line in done.epochs if report else ():
        report(line)

    with Interruption() if engine.num_processes == 1 else nullcontext() as interruption:
        for epoch in range(len(done.epochs), config.epochs + 1):  # epoch 0 only looks at the untrained network
            train_loader.set_epoch(epoch)
            mean_loss = None
            if epoch > 0:
                order.start = done.steps * config.batch_size
                loss = losses["gaussian_mse" if epoch <= config.warm_start_epochs else config.loss]
                try:
                    mean_loss = _train_epoch(
                        config, model, loss, optimiser, train_loader, done, engine, interruption, progress
                    )
                except Stopped:
                    save_checkpoint(folder, bare, optimiser, done)
                    raise
            evaluation = validate(config, model, losses, val_loader, data.val, ruler, engine)
            line = Epoch(epoch=epoch, lr=_rate(config, epoch), train_loss=mean_loss, validation=evaluation)
            best = _score(line) > max(map(_score, done.epochs), default=-math.inf)
            done = TrainingState([*done.epochs, line])
            if engine.is_main_process:
                if best:
                    save_weights(bare, folder / BEST)
                save_checkpoint(folder, bare, optimiser, done)
                if report:
                    report(line)
    return bare, done.epochs


def _train_epoch(
    config: Config,
    model: nn.Module,
    loss: nn.Module,
    optimiser: Any,
    loader: Any,
    done: TrainingState,
    engine: Accelerator,
    interruption: Interruption | None,
    progress: Callable[..., Any] | None,
) -> float:
    """The rest of an epoch, whose first ``done.steps`` steps are behind; returns the mean loss of all its steps.

    Raises:
        Stopped: ``interruption`` was asked for; ``done`` counts the finished steps.
    """
    model.train()
    loss.train()
    epoch, steps = len(done.epochs), len(loader)
    batches = progress(loader, total=steps - done.steps, desc=f"epoch {epoch}") if progress else loader
    total = torch.tensor(done.total, device=engine.device)
    for step, batch in enumerate(batches, done.steps):
        for group in optimiser.param_groups:
            group["lr"] = _rate(config, epoch - 1 + step / steps)
        loss.set_progress((epoch - 1 + step / steps) / config.epochs)
        heatmaps = model(normalise(batch["image"]))
        value = loss(heatmaps, batch["joints"], batch["weights"])
        engine.backward(value)
        if config.clip_norm is not None:
            engine.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        total += value.detach()
        last = step == steps - 1
        stop = interruption is not None and interruption.asked and not last
        if (last or stop or step % CHECK_EVERY == 0) and not math.isfinite(total.item()):
            raise TrainingDiverged(
                f"the {config.loss} loss is {value.item()} in epoch {epoch}, at or before step {step + 1} of {steps}; "
                f"lower lr (now {config.lr:g}) or set clip_norm; earlier epochs are saved"
            )
        if stop:
            done.steps, done.total = step + 1, total.item()
            raise Stopped(
                f"stopped after step {step + 1} of {steps} in epoch {epoch}; the same call goes on from there"
            )
    return engine.reduce(total, reduction="mean").item() / steps


def _optimiser(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimiser]
    weight_decay = config.weight_decay if config.apply_weight_decay else 0.0
    return kind(model.parameters(), lr=config.lr, weight_decay=weight_decay)


def _rate(config: Config, time: float) -> float:
    """Learning rate after ``time`` epochs: a linear rise, then half a cosine to zero or tenfold drops at milestones."""
    peak = LEARNING_RATES["gaussian_mse"] if time < config.warm_start_epochs else config.lr
    if time < config.warmup_epochs:
        return peak * (time + 0.01) / (config.warmup_epochs + 0.01)
    if config.schedule == "step":
        early = int(config.drop_one_epoch_early)
        return peak * 0.1 ** sum(time >= milestone - early for milestone in config.milestones)
    rest = max(config.epochs - config.warmup_epochs, 1e-9)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (time - config.warmup_epochs) / rest)))


def _score(line: Epoch) -> float:
    """What the best epoch is chosen by: the share of joints found at the coarse threshold."""
    return line.validation.metrics[next(iter(line.validation.per_joint))]
