"""A run is a config; a finished run is a record, and is not trained again.

``run(config)`` looks for the record of the same identity, first among the user's own runs, then among the committed
reference records, and trains only if there is none. What a run leaves in its folder::

    <run_dir>/<name>/last.pt              everything needed to go on, replaced after each epoch
    <run_dir>/<name>/best.safetensors     the network after the epoch with the best validation PCK
    <run_dir>/<name>/model.safetensors    the network after the last epoch, which the record is about
    <run_dir>/<name>/predictions.npz      what it says of each validation person
    <run_dir>/<name>/record.json          written last: a folder with a record is a finished run
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray
from torch import nn

from hdmlib.config import Config, ConfigError
from hdmlib.data.sources import Data, open_data
from hdmlib.decoding import METHODS
from hdmlib.experiments.checkpoint import CHECKPOINT
from hdmlib.experiments.engine import build_losses
from hdmlib.experiments.launch import train_in_processes
from hdmlib.experiments.prediction import predict_people
from hdmlib.experiments.record import Epoch, Record, load_record, machine, peak_memory, save_record
from hdmlib.experiments.store import (
    _answers,
    _beside,
    _find,
    _put_aside,
    _records,
    find_record,
    runs_folder,
    save_predictions,
)
from hdmlib.experiments.training import fit
from hdmlib.metrics.scores import PCKReference, score
from hdmlib.models.checkpoints import load_weights, save_weights
from hdmlib.models.hrnet import build_model


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        config: What was asked for.
        data: The people.
        record: Its curves and scores.
        folder: Where its weights are, or ``None`` if only the committed record is at hand.
        trained: Whether any epoch of it was trained by this very call.
    """

    config: Config
    data: Data
    record: Record
    folder: Path | None
    trained: bool

    def model(self) -> nn.Module:
        """The trained network, on the CPU, in evaluation mode.

        Raises:
            ValueError: The run was not trained here, so there are no weights.
        """
        if self.folder is None:
            raise ValueError(
                f"{self.record.name} is a committed record without weights; pass weights=True to train it here"
            )
        model = build_model(self.config.model, num_joints=len(self.data.train.skeleton))
        load_weights(model, self.folder / "model.safetensors")
        return model.eval()


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
        weights: Whether the trained network itself is needed; the committed records then do not serve.
        before: Called with the data before anything is trained; not called where nothing needs to be.
        progress: Wraps long loops: ``progress(iterable, total=, desc=)``.
        report: Called with the line of each epoch, past ones included; several processes print their own.

    Raises:
        ConfigError, DataError, TrainingDiverged, OSError, ValueError: As the parts raise them; nothing half-made stays
            that would be taken for a result.
    """
    if (config.processes or 1) > 1 and "LOCAL_RANK" in os.environ:
        raise ConfigError("processes: torchrun has started them already; leave processes out")
    build_losses(config)  # a wrong option must not cost the time that reading or drawing the data takes
    folder_of_runs = runs_folder(config)
    data = open_data(config, progress)
    name = config.run_name(data.fingerprint)
    folder = folder_of_runs / name
    if not config.resume:
        _put_aside(folder)
    finished = _find(folder, weights) if config.resume else None
    if finished is not None:
        record = load_record(finished)
        for line in record.epochs if report else ():
            report(line)
        return Run(config, data, record, folder if finished.parent == folder else None, trained=False)

    if before:
        before(data)
    if (config.processes or 1) > 1:
        train_in_processes(config.model_copy(update={"run_dir": folder_of_runs}), print)
        return Run(config, data, load_record(folder / "record.json"), folder, trained=True)
    started, done_before = time.monotonic(), (folder / CHECKPOINT).exists()
    model, history = fit(config, data, folder, progress=progress, report=report)
    prediction = predict_people(config, model, data.val, decoders=tuple(METHODS))
    ruler = PCKReference.of(data.val, config.pck_reference)
    record = Record(
        name=name,
        identity=config.identity(data.fingerprint),
        joints=list(data.train.skeleton.joints),
        people={"train": len(data.train), "val": len(data.val)},
        left_out={"train": dict(data.train.left_out), "val": dict(data.val.left_out)},
        epochs=history,
        by_decoder={
            name: score(data.val, joints, confidence, config.input_size, ruler).known
            for name, (joints, confidence) in sorted(prediction.by_decoder.items())
        },
        seconds=None if done_before else time.monotonic() - started,
        peak_memory=peak_memory(),
        machine=machine(),
    )
    processes = PartialState()
    if processes.is_main_process:
        save_weights(model, folder / "model.safetensors")
        save_predictions(prediction, folder / "predictions.npz")
        save_record(record, folder / "record.json")
    processes.wait_for_everyone()
    return Run(config, data, load_record(folder / "record.json"), folder, trained=True)


def record_of(config: Config, progress: Callable[..., Any] | None = None) -> Record:
    """The record of a config: found among the user's own runs and the committed ones, or trained.

    Finding it needs no data: the embedded people are not drawn for it, and for a dataset whose ``data_root`` is not
    given any record of the same config will do.

    Raises:
        As :func:`run`, where it must be trained.
    """
    return find_record(config) or run(config, progress=progress).record


def model_of(config: Config, progress: Callable[..., Any] | None = None) -> nn.Module:
    """The trained network of a config: the user's own, or a committed one, or trained.

    Returns:
        On the CPU, in evaluation mode.
    """
    found = next(
        (path for path in _records(config) if _answers(path, config) and _beside(path, "model").exists()), None
    )
    if found is None:
        return run(config, weights=True, progress=progress).model()
    model = build_model(config.model, num_joints=len(load_record(found).joints))
    load_weights(model, _beside(found, "model"))
    return model.eval()


def predictions_of(config: Config, progress: Callable[..., Any] | None = None) -> dict[str, NDArray[np.float32]]:
    """What the trained network of a config says of its validation people, found or trained.

    Returns:
        ``joints`` (N, K, 2) in pixels of the photo, ``confidence`` and ``entropy`` of the map (N, K).
    """
    there = (_beside(path, "predictions") for path in _records(config) if _answers(path, config))
    found = next((path for path in there if path.exists()), None)
    if found is None:
        result = run(config, weights=True, progress=progress)
        found = result.folder / "predictions.npz"
    with np.load(found, allow_pickle=False) as arrays:
        return {name: arrays[name].astype(np.float32) for name in arrays.files}
