"""What a network says of the people of a dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn

from hdmlib.config import Config
from hdmlib.data.crops import invert, transform
from hdmlib.data.dataset import PoseDataset
from hdmlib.decoding import decode
from hdmlib.experiments.engine import build_losses, evaluation_loader, start_engine
from hdmlib.experiments.record import Evaluation
from hdmlib.metrics.compactness import compactness
from hdmlib.metrics.scores import PCKReference, score
from hdmlib.reader import heatmaps_of
from hdmlib.theory import theorem_terms


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


@torch.no_grad()
def predict_loader(
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
    return predict_loader(config, model, losses, batches, people, engine, decoders)


def _joined(parts: list[Any]) -> Any:
    """Batches of one structure, of dictionaries and tuples, as that structure of whole float64 arrays."""
    first = parts[0]
    if isinstance(first, dict):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return tuple(_joined(list(part)) for part in zip(*parts, strict=True))
    return torch.cat(parts).double().cpu().numpy()


def validate(
    config: Config,
    model: nn.Module,
    losses: dict[str, nn.Module],
    loader: Any,
    people: PoseDataset,
    ruler: PCKReference,
    engine: Accelerator,
) -> Evaluation:
    """Every loss and every metric on a dataset; arguments as for :func:`predict_loader`, and the ruler of PCK."""
    prediction = predict_loader(config, model, losses, loader, people, engine)
    scores = score(people, prediction.joints, prediction.confidence, config.input_size, ruler)
    per_joint = {
        label: [None if math.isnan(v) else v for v in values.tolist()] for label, values in scores.per_joint.items()
    }
    labelled = people.visibility > 0
    measures = {name: float(values[labelled].mean()) for name, values in prediction.measures.items()}
    return Evaluation(losses=prediction.losses, metrics=scores.known, per_joint=per_joint, measures=measures)
