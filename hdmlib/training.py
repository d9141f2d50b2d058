"""Fit a network with one of the losses and measure it after every epoch.

Config and people in; a trained network, its curves and a folder that survives being killed out. The loop runs on
Hugging Face Accelerate, which brings devices, mixed precision and several processes.

On one machine with one CPU thread the same config gives the same numbers, bit for bit, interrupted or not: only the
initial weights are drawn here, and the loader's order and augmentation are functions of (seed, epoch, person). With
other thread counts, machines or GPUs the last digits differ, and training amplifies that.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hdmlib.config import LEARNING_RATES, Config, ConfigError
from hdmlib.data.crops import HALF_BODY_UPPER, Augmentation, invert, normalise, transform
from hdmlib.data.loader import make_loader
from hdmlib.data.samples import PoseDataset
from hdmlib.data.sources import Data
from hdmlib.decoding import decode
from hdmlib.losses import LOSSES, build_loss
from hdmlib.metrics.compactness import compactness
from hdmlib.metrics.scores import Ruler, score
from hdmlib.models import build_model, load_weights, save_weights
from hdmlib.records import Epoch, Evaluation, remove_leftovers
from hdmlib.resume import Done, Interruption, Stopped, load_checkpoint, save_checkpoint
from hdmlib.theory import theorem_terms

# The network of the epoch with the best validation score, for use; what is reported is the last.
BEST = "best.safetensors"
# Steps between two looks at whether the loss is finite; each look makes the CPU wait for the GPU.
CHECK_EVERY = 20


class TrainingDiverged(RuntimeError):
    """The loss is no longer a finite number. The last finished epoch is on disk."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of N people.

    Attributes:
        joints: (N, K, 2) in pixels of each person's photo.
        confidence: (N, K): the share of the map's mass around the joint for losses that normalise it, else the peak.
        losses: Mean over the people of every loss of the registry, on the raw heatmaps.
        measures: (N, K) each: how compact a joint's heatmap is, as ``metrics.compactness`` names it, and the terms of
            Theorem 1, as ``theory`` names them.
        by_decoder: Joints and confidence as other decoders read them from the same heatmaps.
    """

    joints: NDArray[np.float64]
    confidence: NDArray[np.float64]
    losses: dict[str, float]
    measures: dict[str, NDArray[np.float64]]
    by_decoder: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


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
    train_loader, val_loader = _train_loader(config, data.train), evaluation_loader(config, data.val)
    order = train_loader.sampler
    model = model.to(memory_format=torch.channels_last)  # a fifth faster on a CPU, more on a GPU
    optimiser = _optimiser(config, model)
    model, optimiser, train_loader, val_loader = engine.prepare(model, optimiser, train_loader, val_loader)
    if config.compile:
        model.compile()
    losses = build_losses(config)
    ruler = Ruler.of(data.val, config.pck_reference)
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
            evaluation = evaluate(config, model, losses, val_loader, data.val, ruler, engine)
            line = Epoch(epoch=epoch, lr=_rate(config, epoch), train_loss=mean_loss, validation=evaluation)
            best = _score(line) > max(map(_score, done.epochs), default=-math.inf)
            done = Done([*done.epochs, line])
            if engine.is_main_process:
                if best:
                    save_weights(bare, folder / BEST)
                save_checkpoint(folder, bare, optimiser, done)
                if report:
                    report(line)
    return bare, done.epochs


def start_engine(config: Config) -> Accelerator:
    """The engine on the device that the config names; in each of several processes that torchrun or Accelerate started.

    Raises:
        ConfigError: The device is unknown or not on this machine, the precision does not fit it, or the batch cannot be
            shared by the processes.
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
        # the batch of the config is that of all processes together, so a recipe has the same steps on any number
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    if config.batch_size % engine.num_processes:
        raise ConfigError(f"batch_size: {config.batch_size} cannot be shared by {engine.num_processes} processes alike")
    return engine


def build_losses(config: Config) -> dict[str, nn.Module]:
    """Every loss of the registry: the trained one with the run's options, the others with their defaults.

    Raises:
        ValueError: An option that the loss does not know or that is out of range.
    """
    return {name: build_loss(name, **(config.loss_options if name == config.loss else {})) for name in LOSSES}


def augmentation_of(config: Config) -> Augmentation:
    """How training crops vary."""
    return Augmentation(
        scale=config.scale_factor,
        rotation=config.rotation,
        rotation_probability=config.rotation_probability,
        mirror_probability=config.flip_probability,
        half_body_probability=config.half_body_probability,
        half_body_upper=HALF_BODY_UPPER if config.half_body_randn else 0.5,
    )


def _train_loader(config: Config, people: PoseDataset) -> DataLoader:
    return make_loader(
        people, config.input_size, coordinates=config.coordinates, augmentation=augmentation_of(config), shuffle=True,
        batch_size=config.batch_size, seed=config.seed, workers=_workers(config),
        cache=config.cache_photos,
    )  # fmt: skip


def evaluation_loader(config: Config, people: PoseDataset) -> DataLoader:
    """The people in their order, not augmented."""
    return make_loader(
        people,
        config.input_size,
        coordinates=config.coordinates,
        batch_size=config.batch_size,
        workers=_workers(config),
    )


def _workers(config: Config) -> int:
    return config.workers if config.workers is not None else min(8, (os.cpu_count() or 1) - 1)


# ------------------------------------------------------------------------------------------------ one epoch of training


def _train_epoch(
    config: Config,
    model: nn.Module,
    loss: nn.Module,
    optimiser: Any,
    loader: Any,
    done: Done,
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
        loss.at((epoch - 1 + step / steps) / config.epochs)
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


# ----------------------------------------------------------------------------------------------------------- evaluation


def heatmaps_of(config: Config, model: nn.Module, loss: nn.Module, images: Tensor, flip_order: tuple[int, ...]):
    """Heatmaps of a batch as the network puts them out, and as they are to be read.

    Args:
        config: For the flip test and the coordinate rule.
        model: The network.
        loss: The loss it was trained with, which knows how its heatmaps are read.
        images: (B, 3, H, W) uint8 crops.
        flip_order: The joints' permutation under a mirror.

    Returns:
        Raw heatmaps (B, K, H/4, W/4), and their readout, in a flip test averaged with that of the mirrored crops.
    """
    inputs = normalise(images)
    raw = model(inputs).float()
    maps = loss.readout(raw)
    if config.flip_test:
        mirrored = loss.readout(model(inputs.flip(-1)).float()).flip(-1)[:, list(flip_order)]
        if config.coordinates == "hrnet":  # cell = pixel / 4 does not commute with the mirror; HRNet shifts by one cell
            mirrored = torch.cat([mirrored[..., :1], mirrored[..., :-1]], dim=-1)
        maps = (maps + mirrored) / 2
    return raw, maps


@torch.no_grad()
def predict(
    config: Config,
    model: nn.Module,
    losses: dict[str, nn.Module],
    loader: Any,
    people: PoseDataset,
    engine: Accelerator,
    decoders: Sequence[str] = (),
) -> Prediction:
    """Run the network over a loader in the dataset's order, decode, and take every loss and measure.

    Args:
        config: The run.
        model: The network, as the engine prepared it.
        losses: As :func:`build_losses` gives them.
        loader: Batches of all people, prepared likewise.
        people: Whom the loader shows.
        engine: Gathers what several processes saw.
        decoders: Those to read the heatmaps with besides the run's own.
    """
    model.eval()
    trained, gaussian = losses[config.loss].eval(), losses["gaussian_mse"]
    own = config.decoder or trained.decoder
    batches = []
    for batch in loader:
        raw, maps = heatmaps_of(config, model, trained, batch["image"], people.skeleton.flip_order)
        joints, weights = batch["joints"], batch["weights"]
        decoded = {name: decode(maps, method=name, confidence=trained.confidence) for name in {own, *decoders}}
        seen = {
            "losses": {name: loss.per_person(raw, joints, weights) for name, loss in losses.items()},
            "measures": compactness(maps) | vars(theorem_terms(raw, joints, gaussian.sigma)),
            "decoded": decoded,
            "affine": batch["affine"],
        }
        batches.append(engine.gather_for_metrics(seen))
    joined = _joined(batches)
    to_photo = invert(joined["affine"])
    by_decoder = {name: (transform(cells, to_photo), score) for name, (cells, score) in joined["decoded"].items()}
    means = {name: float(values.mean()) for name, values in joined["losses"].items()}
    return Prediction(*by_decoder[own], means, joined["measures"], by_decoder)


def predict_people(
    config: Config,
    model: nn.Module,
    people: PoseDataset,
    *,
    decoders: Sequence[str] = (),
    progress: Callable[..., Any] | None = None,
) -> Prediction:
    """The same of a network that is trained already, on the device that the config names."""
    engine = start_engine(config)
    model, loader = engine.prepare(model, evaluation_loader(config, people))
    losses = build_losses(config)
    batches = progress(loader, total=len(loader), desc="evaluation") if progress else loader
    return predict(config, model, losses, batches, people, engine, decoders)


def _joined(parts: list[Any]) -> Any:
    """Batches of one structure, of dictionaries and tuples, as that structure of whole float64 arrays."""
    first = parts[0]
    if isinstance(first, dict):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return tuple(_joined(list(part)) for part in zip(*parts, strict=True))
    return torch.cat(parts).double().cpu().numpy()


def evaluate(
    config: Config,
    model: nn.Module,
    losses: dict[str, nn.Module],
    loader: Any,
    people: PoseDataset,
    ruler: Ruler,
    engine: Accelerator,
) -> Evaluation:
    """Every loss and every metric on a dataset; arguments as for :func:`predict`, and the ruler of PCK."""
    prediction = predict(config, model, losses, loader, people, engine)
    scores = score(people, prediction.joints, prediction.confidence, config.input_size, ruler)
    per_joint = {
        label: [None if math.isnan(v) else v for v in values.tolist()] for label, values in scores.per_joint.items()
    }
    labelled = people.visibility > 0
    measures = {name: float(values[labelled].mean()) for name, values in prediction.measures.items()}
    return Evaluation(losses=prediction.losses, metrics=scores.known, per_joint=per_joint, measures=measures)


def _score(line: Epoch) -> float:
    """What the best epoch is chosen by: the share of joints found at the coarse threshold."""
    return line.validation.metrics[next(iter(line.validation.per_joint))]
