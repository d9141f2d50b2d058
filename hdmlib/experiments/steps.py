"""The steps of a training: the optimiser, the rate over time, and an epoch of forward, backward and update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from hdmlib.config import Config
from hdmlib.errors import NotFinite
from hdmlib.experiments.checkpoint import Checkpoints, TrainingState
from hdmlib.experiments.engine import share_weight
from hdmlib.losses.base import HeatmapLoss
from hdmlib.presets import LEARNING_RATES
from hdmlib.reader import normalise

# Steps between two checks that the loss is finite; each check makes the CPU wait for the GPU.
CHECK_EVERY = 20


class TrainingDiverged(RuntimeError):
    """The loss or the heatmaps are no longer finite numbers. The last finished epoch is on disk."""


@dataclass(frozen=True)
class Steps:
    """What takes the steps of a training.

    Attributes:
        config: The run.
        engine: The processes.
        model: The network, wrapped for several processes.
        optimiser: Its optimiser.
        loader: The training batches of this process, whose sampler starts where the training stands.
        checkpoints: Where a step is saved, and when.
        progress: Wraps the loop over an epoch's batches: ``progress(iterable, total=, desc=)``.
    """

    config: Config
    engine: Accelerator
    model: nn.Module
    optimiser: Any
    loader: Any
    checkpoints: Checkpoints
    progress: Callable[..., Any] | None = None

    def epoch(self, loss: HeatmapLoss, state: TrainingState) -> float:
        """Train from step ``state.steps`` of the current epoch to its end; returns the mean loss of all its steps.

        Raises:
            TrainingDiverged: The loss or the heatmaps became infinite or NaN.
            Interrupted: Ctrl-C or SIGTERM; the finished steps are saved.
        """
        self.model.train()
        loss.train()
        epoch, steps = len(state.epochs), len(self.loader)
        self.loader.set_epoch(epoch)
        self.loader.batch_sampler.sampler.start = state.steps * self.config.batch_size
        batches = self.loader
        if self.progress:
            batches = self.progress(batches, total=steps - state.steps, desc=f"epoch {epoch}")
        total = torch.tensor(state.total, device=self.engine.device)
        for step, batch in enumerate(batches, state.steps):
            self._seed(epoch, step)
            where = f"at or before step {step + 1} of {steps}"
            with divergence_named(self.config, epoch, where):
                value = self._step(loss, batch, step, time=epoch - 1 + step / steps)
            total += value
            looks = step == steps - 1 or step % CHECK_EVERY == 0
            due = self.checkpoints.due(waited=looks)
            if (looks or due) and not math.isfinite(total.item()):
                what = f"the {loss_of(self.config, epoch)} loss is {value.item()}"
                raise _diverged(self.config, epoch, what, where)
            if due:
                state.steps, state.total = step + 1, self._mean(total)
                self.checkpoints.save(state)
            if due == "stop":
                raise self.checkpoints.interrupted(
                    f"interrupted after step {step + 1} of {steps} in epoch {epoch}; the same call resumes"
                )
        return self._mean(total) / steps

    def _seed(self, epoch: int, step: int) -> None:
        """What the network draws in this step, such as dropout, depends on nothing else, however often it resumed."""
        words = np.random.SeedSequence([self.config.seed, epoch, step, self.engine.process_index]).generate_state(2)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))

    def _step(self, loss: HeatmapLoss, batch: Any, step: int, time: float) -> torch.Tensor:
        """One update after ``time`` epochs; returns this process's share of the mean loss of the batch."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, time)
        loss.set_progress(time / self.config.epochs)
        size = self.config.batch_size
        people = min(size, self.loader.total_dataset_length - step * size)
        value = backward(
            self.engine, self.model, loss, batch, self.config.accumulate, share_weight(self.engine, people)
        )
        if self.config.clip_norm is not None:
            self.engine.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return value

    def _mean(self, total: torch.Tensor) -> float:
        """Mean over the processes."""
        mean: Any = self.engine.reduce(total, reduction="mean")
        return mean.item()


@contextmanager
def divergence_named(config: Config, epoch: int, where: str) -> Iterator[None]:
    """Heatmaps that are not finite, found inside, as :class:`TrainingDiverged`; in epoch 0 nothing was trained."""
    try:
        yield
    except NotFinite as error:
        if epoch == 0:
            raise
        raise _diverged(config, epoch, "the heatmaps hold NaN or infinity", where) from error


def _diverged(config: Config, epoch: int, what: str, where: str) -> TrainingDiverged:
    rate = "warm_start_lr" if epoch <= config.warm_start_epochs else "lr"
    return TrainingDiverged(
        f"{what} in epoch {epoch}, {where}; lower {rate} (now {peak_rate(config, epoch - 1):g}) or set clip_norm; "
        "earlier epochs are saved"
    )


def backward(
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


def build_optimiser(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """Adam or AdamW at the config's peak rate."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimiser]
    weight_decay = config.weight_decay if config.apply_weight_decay else 0.0
    # torch chooses foreach on a GPU alone; on a CPU it gives the same bits in three quarters of the time
    return kind(model.parameters(), lr=config.lr, weight_decay=weight_decay, foreach=True)


def loss_of(config: Config, epoch: int) -> str:
    """Name of the loss that epoch 1, 2, ... minimises."""
    return "gaussian_mse" if epoch <= config.warm_start_epochs else config.loss


def peak_rate(config: Config, time: float) -> float:
    """The rate that warm-up leads to, of the warm start or of what follows."""
    rate = (config.warm_start_lr or LEARNING_RATES["gaussian_mse"]) if time < config.warm_start_epochs else config.lr
    assert rate is not None  # make_config has set it
    return rate


def learning_rate(config: Config, time: float) -> float:
    """Rate after ``time`` epochs: a linear rise, then half a cosine to zero or tenfold drops at milestones."""
    peak = peak_rate(config, time)
    if time < config.warmup_epochs:
        return peak * (time + 0.01) / (config.warmup_epochs + 0.01)
    if config.schedule == "step":
        early = int(config.drop_one_epoch_early)
        return peak * 0.1 ** sum(time >= milestone - early for milestone in config.milestones)
    rest = max(config.epochs - config.warmup_epochs, 1e-9)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (time - config.warmup_epochs) / rest)))
