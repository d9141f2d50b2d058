"""A reader and people in; joints, confidence, losses and measures of every person out, and their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import concatenate, recursively_apply
from numpy.typing import NDArray
from torch import Tensor, nn

from hdmlib.config import Config
from hdmlib.data.crops import invert, transform
from hdmlib.data.dataset import PoseDataset
from hdmlib.decoding import CONFIDENCES
from hdmlib.experiments.engine import build_losses, build_reader, ending_workers, evaluation_loader, start_engine
from hdmlib.experiments.record import Evaluation
from hdmlib.heatmaps import inside
from hdmlib.losses.base import HeatmapLoss
from hdmlib.losses.controls import GaussianMSE
from hdmlib.metrics.compactness import compactness
from hdmlib.metrics.scores import PCKReference, score
from hdmlib.reader import Reader, Reading
from hdmlib.theory import theorem_terms

# Method -> joints (N, K, 2) in pixels of each person's photo and confidence (N, K).
DecodedPeople = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True)
class Prediction:
    """What a network finds on N people.

    Attributes:
        joints: (N, K, 2) in pixels of each person's photo.
        confidence: (N, K), as :class:`hdmlib.reader.Reading` defines it.
        losses: Mean over the people of every loss of the registry, on the raw heatmaps.
        measures: (N, K) each: compactness of a joint's heatmap (``metrics.compactness``) and the terms of Theorem 1 for
            the Gaussian of the width that is trained, not cut off (``theory``).
        measured: (N, K) bool, the joints that are labelled and inside the heatmap, over which measures are averaged.
        by_decoder: Method -> joints and confidence decoded from the same heatmaps.
        other_confidence: The same with the other kind of confidence (peak or mass) than the loss's own.
    """

    joints: NDArray[np.float64]
    confidence: NDArray[np.float64]
    losses: dict[str, float]
    measures: dict[str, NDArray[np.float64]]
    measured: NDArray[np.bool_]
    by_decoder: DecodedPeople
    other_confidence: DecodedPeople


@torch.no_grad()
def predict_loader(
    reader: Reader,
    losses: Mapping[str, HeatmapLoss],
    loader: Iterable[Mapping[str, torch.Tensor]],
    engine: Accelerator,
    decoders: Sequence[str] = (),
) -> Prediction:
    """Run the network over a loader in the dataset's order, decode, and take every loss and measure.

    Args:
        reader: Its network as the engine prepared it; set to evaluation mode, as are the losses.
        losses: As :func:`build_losses` returns them.
        loader: Batches of all people, prepared likewise.
        engine: Gathers the results of several processes.
        decoders: Methods to decode the heatmaps with besides the reader's own.
    """
    reader.model.eval()
    for loss in losses.values():
        loss.eval()
    [other] = set(CONFIDENCES) - {reader.loss.confidence}
    batches = []
    for batch in loader:
        reading, joints, weights = reader(batch["image"]), batch["joints"], batch["weights"]
        results = {
            "losses": {name: loss.per_person(reading.raw, joints, weights) for name, loss in losses.items()},
            "measures": _measures(reading, joints, losses["gaussian_mse"]),
            "measured": (weights > 0) & inside(joints, (reading.raw.shape[2], reading.raw.shape[3])),
            "decoded": {name: reader.decode(reading.maps, name) for name in decoders}
            | {reader.method: (reading.cells, reading.confidence)},
            "other confidence": {name: reader.decode(reading.maps, name, other) for name in decoders},
            "affine": batch["affine"],
        }
        batches.append(engine.gather_for_metrics(results))
    people: Any = recursively_apply(lambda values: values.cpu().double().numpy(), concatenate(batches))
    to_photo = invert(people["affine"].sum(axis=1))
    by_decoder, other_confidence = (
        {name: (transform(cells, to_photo), sure) for name, (cells, sure) in people.get(kind, {}).items()}
        for kind in ("decoded", "other confidence")
    )
    means = {name: float(values.mean()) for name, values in people["losses"].items()}
    return Prediction(
        *by_decoder[reader.method], means, people["measures"], people["measured"] > 0, by_decoder, other_confidence
    )


def _measures(reading: Reading, joints: Tensor, gaussian: HeatmapLoss) -> dict[str, Tensor]:
    """(B, K) each."""
    assert isinstance(gaussian, GaussianMSE)
    terms = theorem_terms(reading.raw, joints, gaussian.sigma, on_grid=gaussian.rounded)
    return compactness(reading.maps) | vars(terms)


def predict_people(
    config: Config,
    model: nn.Module,
    people: PoseDataset,
    *,
    decoders: Sequence[str] = (),
    progress: Callable[..., Any] | None = None,
) -> Prediction:
    """Predict the people of a dataset with a trained network, on the config's device.

    Args:
        config: Input, loss, decoder, flip test, device.
        model: The network.
        people: N people.
        decoders: Methods to decode the heatmaps with besides the run's own.
        progress: Wraps the loop over batches: ``progress(iterable, total=, desc=)``.
    """
    engine = start_engine(config)
    model, loader = engine.prepare(model), evaluation_loader(config, people, engine)
    batches = progress(loader, total=len(loader), desc="evaluation") if progress else loader
    reader, losses = build_reader(config, model, people.skeleton), build_losses(config)
    with ending_workers(loader):
        return predict_loader(reader, losses, batches, engine, decoders)


def validate(
    config: Config,
    reader: Reader,
    losses: Mapping[str, HeatmapLoss],
    loader: Iterable[Mapping[str, torch.Tensor]],
    people: PoseDataset,
    engine: Accelerator,
) -> Evaluation:
    """Every loss, metric and measure of a network on the people of a loader.

    Args:
        config: Input size and reference length of PCK.
        reader, losses, loader, engine: As for :func:`predict_loader`.
        people: The loader's people.
    """
    prediction = predict_loader(reader, losses, loader, engine)
    reference = PCKReference.of(people, config.pck_reference)
    scores = score(people, prediction.joints, prediction.confidence, config.input_size, reference)
    per_joint = {
        label: [None if math.isnan(v) else v for v in values.tolist()] for label, values in scores.per_joint.items()
    }
    measures = {name: float(values[prediction.measured].mean()) for name, values in prediction.measures.items()}
    return Evaluation(losses=prediction.losses, metrics=scores.known, per_joint=per_joint, measures=measures)
