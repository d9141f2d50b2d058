"""Where records lie, and how they are found."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from hdmlib.config import Config, ConfigError
from hdmlib.data.sources import embedded_fingerprint
from hdmlib.experiments.checkpoint import CHECKPOINT
from hdmlib.experiments.prediction import Prediction
from hdmlib.experiments.record import Record, load_record, save_record
from hdmlib.files import write_atomically
from hdmlib.paths import PROJECT_ROOT, caller_folder

REFERENCE_RECORDS = PROJECT_ROOT / "figures" / "records"


def find_record(config: Config) -> Record | None:
    """The record of a config if there is one; ``None`` as well where the data has to be read to tell."""
    if config.data_root is not None:
        return None
    found = next((path for path in _records(config) if _answers(path, config)), None)
    return None if found is None else load_record(found)


def publish_record(config: Config, record: Record, keep: Sequence[str] = ()) -> None:
    """Copy a run's record to the reference records, with its ``predictions`` or its ``model`` if asked for."""
    target = REFERENCE_RECORDS / f"{record.name}.json"
    save_record(record, target)
    for what in keep:
        source = _beside(_runs_root(config) / record.name / "record.json", what)
        write_atomically(_beside(target, what), source.read_bytes())


def _beside(record: Path, what: str) -> Path:
    """Weights or predictions of the run that a record is of: in a run's folder, or beside a committed record."""
    name = {"model": "model.safetensors", "predictions": "predictions.npz"}[what]
    return record.with_name(name) if record.name == "record.json" else record.with_name(f"{record.stem}.{name}")


def _records(config: Config) -> Iterator[Path]:
    """Where the record of a config may be: in the user's runs and among the reference records."""
    pattern = f"{config.dataset}-{config.model}-{config.loss}-s{config.seed}-*"
    yield from sorted(_runs_root(config).glob(f"{pattern}/record.json"))
    yield from sorted(REFERENCE_RECORDS.glob(f"{pattern}.json"))


def _answers(path: Path, config: Config) -> bool:
    """Whether a record is of this config, on the data that it names or, where it names none, on any."""
    identity = json.loads(path.read_bytes()).get("identity", {})
    data = embedded_fingerprint(config) if config.dataset == "synthetic" else identity.get("data")
    return identity == json.loads(json.dumps(config.identity(data)))


def save_predictions(prediction: Prediction, path: Path) -> None:
    """Write joints (N, K, 2) in pixels of the photo, confidence and entropy of the map (N, K), rounded, atomically."""
    buffer = io.BytesIO()
    arrays = {
        "joints": prediction.joints.astype(np.float32),
        "confidence": prediction.confidence.astype(np.float16),
        "entropy": prediction.measures["entropy"].astype(np.float16),
    }
    np.savez_compressed(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def runs_folder(config: Config) -> Path:
    """Where the runs are kept, checked to be writable before anything long begins.

    Raises:
        ConfigError: It cannot be created or written.
    """
    folder = _runs_root(config)
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"run_dir: cannot write in {folder} ({error.strerror}); choose another folder") from None
    return folder


def _runs_root(config: Config) -> Path:
    return config.run_dir or Path(os.environ.get("HDMLIB_RUNS", caller_folder() / "runs"))


def _find(folder: Path, weights: bool) -> Path | None:
    own, reference = folder / "record.json", REFERENCE_RECORDS / f"{folder.name}.json"
    if own.exists():
        return own
    return reference if reference.exists() and not weights and not (folder / CHECKPOINT).exists() else None


def _put_aside(folder: Path) -> None:
    """Rename an earlier run of the same name, so that a new beginning loses nothing."""
    if folder.exists():
        number = 1
        while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
            number += 1
        with suppress(FileNotFoundError):  # another process of this training has done it
            folder.rename(kept)
