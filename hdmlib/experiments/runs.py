"""A run in a straight line: config -> data -> fit -> prediction -> record -> store.

A run is a config; a finished run is a record and is not trained again. ``run(config)`` looks for the record of the same
identity, first among the user's runs, then among the reference records, and trains only if there is none.
"""

from __future__ import annotations

import os
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import nn

from hdmlib.config import Config, ConfigError
from hdmlib.data.dataset import DataError
from hdmlib.data.intake import DataWarning
from hdmlib.data.sources import CHANGED, Data, open_data
from hdmlib.decoding import METHODS
from hdmlib.experiments.engine import (
    build_losses,
    check_agreement,
    check_engine,
    check_lengths,
    is_main_process,
    start_engine,
    started_processes,
)
from hdmlib.experiments.launch import train_in_processes
from hdmlib.experiments.prediction import DecodedPeople, Prediction, predict_people
from hdmlib.experiments.record import Epoch, Record, load_record, machine, peak_memory
from hdmlib.experiments.store import ARTEFACTS, RECORD, Store, StoredRun
from hdmlib.experiments.training import check_start, fit
from hdmlib.metrics.scores import PCKReference, score
from hdmlib.models.checkpoints import load_weights
from hdmlib.models.registry import build_model, source_of, warn_if_edited


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        config: What was run.
        data: The people.
        record: Its curves and scores.
        folder: Where its weights are; ``None`` for a reference record.
        trained: Whether this very call worked on it: trained, or evaluated a network whose last epoch was saved.
    """

    config: Config
    data: Data
    record: Record
    folder: Path | None
    trained: bool

    def model(self) -> nn.Module:
        """The trained network, on the CPU, in evaluation mode.

        Raises:
            ValueError: It is a reference record, without weights.
        """
        if self.folder is None:
            raise ValueError(
                f"{self.record.name} is a reference record without weights; pass weights=True to train it here"
            )
        return _load(self.config, self.record, self.folder / ARTEFACTS["model"])

    def predictions(self) -> dict[str, NDArray[np.float32]]:
        """As :func:`predictions_of`.

        Raises:
            ValueError: It is a reference record, without predictions.
        """
        if self.folder is None:
            raise ValueError(f"{self.record.name} is a reference record; pass weights=True to train it here")
        return _arrays(self.folder / ARTEFACTS["predictions"])


def run(
    config: Config,
    *,
    weights: bool = False,
    before: Callable[[Data], None] | None = None,
    progress: Callable[..., Any] | None = None,
    report: Callable[[Epoch], None] | None = None,
) -> Run:
    """The finished run of a config: found, resumed or trained.

    Args:
        config: What to run.
        weights: Whether the trained network is needed; a reference record is then not enough.
        before: Called with the data before anything is trained; not called if nothing needs to be.
        progress: Wraps long loops: ``progress(iterable, total=, desc=)``.
        report: Called with the line of each epoch, earlier ones included.

    Of the processes that torchrun has started only the main one calls ``before``, ``progress`` and ``report``; the
    parent of ``config.processes`` prints what they print.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingDiverged, OSError, ValueError: As the steps raise them; nothing
            incomplete is left that would be taken for a result.
    """
    several = (config.processes or 1) > 1
    store = Store.of(config)
    _check_without_data(config, store, weights)
    engine = start_engine(config) if started_processes() > 1 else None
    if not is_main_process():  # one process prints
        before = progress = report = None
        warnings.simplefilter("ignore", DataWarning)
    data = open_data(config, progress)
    PCKReference.check(data.val, config.pck_reference)
    name = config.run_name(data.fingerprint)
    if engine:
        check_agreement(engine, store.runs, name)
    if config.resume and (stored := _finished(store, name, weights)):
        _check_same_data(stored, data)
        warn_if_edited(config.model, stored.record.source, f"{stored.folder or name}, which is shown")
        if report:
            for line in stored.record.epochs:
                report(line)
        return Run(config, data, stored.record, stored.folder, trained=False)
    store.check_writable()
    if before:
        before(data)
    with store.writing(name) if is_main_process() else nullcontext():
        if not config.resume:
            if is_main_process():
                store.set_aside(name)
            if engine:
                engine.wait_for_everyone()
        if not several:
            _train(config, data, store, progress, report)
    if several:
        train_in_processes(config.model_copy(update={"run_dir": store.runs}), print)
    folder = store.folder(name)
    return Run(config, data, load_record(folder / RECORD), folder, trained=True)


def _check_without_data(config: Config, store: Store, weights: bool) -> None:
    """Report what is wrong with a config, its device, network or weights before the data is read or drawn."""
    if (config.processes or 1) > 1 and "LOCAL_RANK" in os.environ:
        raise ConfigError("processes: torchrun has started them already; leave processes out")
    _check_use(config)
    check_engine(config)
    build_losses(config)
    check_lengths(config)
    check_start(config)
    on_any_data = config.model_copy(update={"data_root": None})
    if not config.resume or store.find(on_any_data, "model" if weights else None) is None:
        store.check_writable()  # a finished run needs no place


def _finished(store: Store, name: str, weights: bool) -> StoredRun | None:
    """The user's finished run or, where its network is not needed and none is under way, the reference run."""
    own = store.own(name)
    if own is not None and (not weights or "model" in own.artefacts):
        return own
    return None if weights or store.is_unfinished(name) else store.published(name)


def _check_same_data(stored: StoredRun, data: Data) -> None:
    """Whether a finished run was trained on this data in all that its name does not tell.

    Raises:
        DataError: It was not.
    """
    if stored.record.details not in (None, data.details):
        raise DataError(f"{stored.folder or stored.record.name}: trained on this dataset {CHANGED}")


def _train(
    config: Config,
    data: Data,
    store: Store,
    progress: Callable[..., Any] | None,
    report: Callable[[Epoch], None] | None,
) -> None:
    name = config.run_name(data.fingerprint)
    started, resumed = time.monotonic(), store.is_unfinished(name)
    model, epochs = fit(config, data, store.folder(name), progress=progress, report=report)
    prediction = predict_people(config, model, data.val, decoders=tuple(METHODS))
    seconds = None if resumed else time.monotonic() - started
    record = _record(config, data, epochs, prediction, seconds, next(model.parameters()).device)
    if is_main_process():
        store.save(record, model, prediction)
    PartialState().wait_for_everyone()


def _record(
    config: Config,
    data: Data,
    epochs: list[Epoch],
    prediction: Prediction,
    seconds: float | None,
    device: torch.device,
) -> Record:
    reference = PCKReference.of(data.val, config.pck_reference)

    def scores(decoded: DecodedPeople) -> dict[str, dict[str, float]]:
        return {
            method: score(data.val, joints, confidence, config.input_size, reference).known
            for method, (joints, confidence) in sorted(decoded.items())
        }

    return Record(
        name=config.run_name(data.fingerprint),
        identity=config.identity(data.fingerprint),
        joints=list(data.train.skeleton.joints),
        flip_pairs=list(data.val.skeleton.flip_pairs),
        limbs=list(data.val.skeleton.limbs),
        details=data.details,
        source=source_of(config.model),
        people={"train": len(data.train), "val": len(data.val)},
        left_out={"train": dict(data.train.left_out), "val": dict(data.val.left_out)},
        epochs=epochs,
        by_decoder=scores(prediction.by_decoder),
        other_confidence=scores(prediction.other_confidence),
        seconds=seconds,
        peak_memory=peak_memory(device),
        machine=machine(device),
    )


def _check_use(config: Config) -> None:
    """Refuse what a training would not use, and warn where the loss would never be trained with."""
    for name, instead in {"checkpoint": "to start from weights give pretrained=FILE", "boxes": "leave it out"}.items():
        if getattr(config, name) is not None:
            raise ConfigError(f"{name}: is for `evaluate`, and no training uses it; {instead}")
    if config.warm_start_epochs >= config.epochs and config.loss != "gaussian_mse":
        warnings.warn(
            f"warm_start_epochs: all {config.epochs} epochs are trained with gaussian_mse, and none with {config.loss}",
            stacklevel=4,
        )


def record_of(config: Config, progress: Callable[..., Any] | None = None) -> Record:
    """The record of a config: found among the user's runs and the reference records, or trained.

    Finding it reads no data (:meth:`Store.find`): the embedded people are not drawn for it.

    Raises:
        As :func:`run`, where it must be trained.
    """
    stored = Store.of(config).find(config)
    return stored.record if stored else run(config, progress=progress).record


def model_of(config: Config, progress: Callable[..., Any] | None = None) -> nn.Module:
    """The trained network of a config, found or trained; on the CPU, in evaluation mode.

    Raises:
        As :func:`run`, where it must be trained.
    """
    stored = Store.of(config).find(config, "model")
    if stored is None:
        return run(config, weights=True, progress=progress).model()
    return _load(config, stored.record, stored.artefacts["model"])


def predictions_of(config: Config, progress: Callable[..., Any] | None = None) -> dict[str, NDArray[np.float32]]:
    """The predictions of a config's trained network for its validation people, found or trained.

    Returns:
        ``joints`` (N, K, 2) in pixels of the photo, ``confidence`` and ``entropy`` of the map (N, K).

    Raises:
        ValueError: The file of the predictions is damaged; the message names it.
        As :func:`run`, where it must be trained.
    """
    stored = Store.of(config).find(config, "predictions")
    if stored:
        return _arrays(stored.artefacts["predictions"])
    return run(config, weights=True, progress=progress).predictions()


# What numpy's reader of a damaged archive raises.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, AttributeError, NotImplementedError,
)  # fmt: skip


def _arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name].astype(np.float32) for name in arrays.files}
    except _DAMAGED as error:
        raise ValueError(
            f"{path} is damaged ({error}); restore it, or train the run again with resume=false"
        ) from error


def _load(config: Config, record: Record, weights: Path) -> nn.Module:
    model = build_model(config.model, num_joints=len(record.joints))
    load_weights(model, weights)
    return model.eval()
