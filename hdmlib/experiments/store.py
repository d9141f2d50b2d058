"""Where runs lie: names and configs in, records and the files beside them out. No other module knows the layout.

A user's runs, below ``run_dir``::

    <name>/last.pt              checkpoint to resume from, replaced after each epoch (experiments.checkpoint)
    <name>/last.1.pt            the one before it, and as many more as ``keep_checkpoints``
    <name>/best.safetensors     the network after the epoch with the best validation PCK (experiments.training)
    <name>/metrics.csv          the curves, a row an epoch (experiments.training)
    <name>/model.safetensors    the network after the last epoch, which the record describes
    <name>/predictions.npz      its joints, confidence and entropy for each validation person
    <name>/record.json          written last: a folder with a record is a finished run

The reference runs of this project, below ``figures/records``::

    <stage>.jsonl               one record a line, sorted by name; a record of several stages stands in one of them
    <name>.model.safetensors, <name>.predictions.npz    of a few of them
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock, Timeout
from torch import nn

from hdmlib.config import Config, ConfigError
from hdmlib.data.sources import embedded_fingerprint
from hdmlib.experiments.checkpoint import CHECKPOINT
from hdmlib.experiments.prediction import Prediction
from hdmlib.experiments.record import Record, load_record, parse_record, record_line, save_record
from hdmlib.files import versions, write_atomically, writer
from hdmlib.models.checkpoints import save_weights
from hdmlib.paths import PROJECT_ROOT, from_caller

REFERENCE_RECORDS = PROJECT_ROOT / "figures" / "records"
RECORD = "record.json"
# Files that may lie beside a record.
ARTEFACTS = {"model": "model.safetensors", "predictions": "predictions.npz"}
T = TypeVar("T")


@dataclass(frozen=True)
class StoredRun:
    """A finished run on disk.

    Attributes:
        record: Its record.
        folder: Its folder among the user's runs; ``None`` for a reference run.
        artefacts: Those of :data:`ARTEFACTS` that are there, by name.
    """

    record: Record
    folder: Path | None
    artefacts: Mapping[str, Path]


@dataclass(frozen=True)
class Store:
    """The user's runs and the reference runs.

    Attributes:
        runs: Folder of the user's runs.
        reference: Folder of the reference records.
    """

    runs: Path
    reference: Path = REFERENCE_RECORDS

    @classmethod
    def of(cls, config: Config) -> Store:
        """The store of a config: its ``run_dir``, else ``$HDMLIB_RUNS``, else ``runs/``.

        Raises:
            ConfigError: ``$HDMLIB_RUNS`` is empty.
        """
        named = os.environ.get("HDMLIB_RUNS")
        if config.run_dir is None and named == "":
            raise ConfigError("HDMLIB_RUNS is set to nothing; unset it or name a folder")
        return cls(config.run_dir or from_caller(named or "runs"))

    def check_writable(self) -> None:
        """Create the folder of the runs and write into it, before anything long begins.

        Raises:
            ConfigError: It cannot be created or written.
        """
        probe = self.runs / f".writable-{writer()}"
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"run_dir: cannot write in {self.runs} ({error.strerror}); choose another folder"
            ) from None

    # ------------------------------------------------------------------------------------------------- the user's runs

    def folder(self, name: str) -> Path:
        """The folder of a run of the user's, there or not."""
        return self.runs / name

    def own(self, name: str) -> StoredRun | None:
        """A finished run of the user's; a damaged record is reported by a warning and counts as none."""
        folder = self.folder(name)
        record = _read(folder / RECORD, _own_record)
        return None if record is None else StoredRun(record, folder, _existing(folder, ""))

    def names(self) -> list[str]:
        """Names of the user's folders of runs, those that were set aside included."""
        return sorted(path.name for path in self.runs.glob("*") if path.is_dir())

    def is_unfinished(self, name: str) -> bool:
        """Whether the user has begun this run and may resume it."""
        return bool(versions(self.folder(name) / CHECKPOINT))

    def save(self, record: Record, model: nn.Module, prediction: Prediction) -> None:
        """Finish a run of the user's: network, predictions and, last, the record."""
        folder = self.folder(record.name)
        save_weights(model, folder / ARTEFACTS["model"], record.joints)
        write_atomically(folder / ARTEFACTS["predictions"], _packed(prediction))
        save_record(record, folder / RECORD)

    def set_aside(self, name: str) -> None:
        """Rename an earlier run of this name to ``<name>.1``, ``.2``, ..., so that a new start loses nothing."""
        folder = self.folder(name)
        if folder.exists():
            number = 1
            while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
                number += 1
            folder.rename(kept)

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Held by the one process that trains a run, from its first step to its record.

        Raises:
            ConfigError: Another process holds it.
        """
        lock = FileLock(self.runs / f".{name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(
                f"{self.folder(name)} is being trained by another process; wait for it, or choose another seed or "
                "run_dir"
            ) from None
        except NotImplementedError:  # a file system without locks
            pass
        try:
            yield
        finally:
            lock.release()

    # -------------------------------------------------------------------------------------------------- reference runs

    def published(self, name: str) -> StoredRun | None:
        """A reference run."""
        record = next((found[name] for found in self.stages().values() if name in found), None)
        return None if record is None else StoredRun(record, None, _existing(self.reference, f"{name}."))

    def stages(self) -> dict[str, dict[str, Record]]:
        """Stage -> name -> reference record, from files that are read once and again only when they change."""
        return {path.stem: _read(path, _stage_records) or {} for path in sorted(self.reference.glob("*.jsonl"))}

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Held by one process at a time while it changes the reference records."""
        self.reference.mkdir(parents=True, exist_ok=True)
        with FileLock(self.reference / ".lock"):
            yield

    def publish(self, stage: str, run: StoredRun, keep: Sequence[str] = ()) -> None:
        """Copy a finished run to the reference runs: its record and the artefacts named in ``keep``.

        A record that another stage has published already stays in that stage's file. Call it within
        :meth:`publishing`.

        Raises:
            ValueError: A line of the stage's file is damaged, or an artefact to keep is not there.
        """
        name = run.record.name
        if missing := [artefact for artefact in keep if artefact not in run.artefacts]:
            raise ValueError(f"{name}: no {', '.join(missing)} to keep; it was not trained here")
        home = next((other for other, records in self.stages().items() if name in records), stage)
        path = self.reference / f"{home}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        try:
            records = {record.name: record for record in map(parse_record, lines)}
        except ValueError as error:
            raise ValueError(f"{path} has a damaged line ({error}); mend or remove it before publishing") from None
        records[name] = run.record
        text = "".join(record_line(records[each]) + "\n" for each in sorted(records))
        for artefact in keep:
            target = self.reference / f"{name}.{ARTEFACTS[artefact]}"
            write_atomically(target, run.artefacts[artefact].read_bytes())
        write_atomically(path, text.encode())

    # ------------------------------------------------------------------------------------------------------ by config

    def find(self, config: Config, artefact: str | None = None) -> StoredRun | None:
        """The finished run of a config that has a certain artefact, the user's before the reference run.

        The data is not read. For a dataset whose ``data_root`` is not given, a run on any data of this format will do;
        where it is given, only reading it would show whether a run is on the same data, and ``None`` is returned.
        """
        if config.data_root is not None:
            return None
        names = self._names(config)
        runs = filter(None, chain(map(self.own, names), map(self.published, names)))
        return next((run for run in runs if artefact is None or artefact in run.artefacts), None)

    def find_published(self, config: Config) -> StoredRun | None:
        """The reference run of a config, on any data of this format."""
        return next(filter(None, map(self.published, self._names(config))), None)

    def _names(self, config: Config) -> list[str]:
        """Names that a run of this config may have, one for each fingerprint of its data."""
        return [config.run_name(data) for data in self._fingerprints(config)]

    def _fingerprints(self, config: Config) -> list[str]:
        """Fingerprints of the data that a run of this config may have been trained on."""
        if config.dataset == "synthetic":
            return [embedded_fingerprint(config)]
        own = (_read(path, _own_record) for path in self.runs.glob(f"{config.dataset}-*/{RECORD}"))
        records = [*own, *(record for stage in self.stages().values() for record in stage.values())]
        identities = [record.identity for record in records if record is not None]
        return sorted({found["data"] for found in identities if found["dataset"] == config.dataset})


def _existing(folder: Path, prefix: str) -> dict[str, Path]:
    paths = {name: folder / f"{prefix}{file}" for name, file in ARTEFACTS.items()}
    return {name: path for name, path in paths.items() if path.exists()}


def _read(path: Path, load: Callable[[Path, int, int], T]) -> T | None:
    """The result of ``load``, which is cached by the file's size and time; ``None`` without a file."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return load(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _own_record(path: Path, size: int, time: int) -> Record | None:
    try:
        return load_record(path)
    except ValueError as error:
        warnings.warn(f"skipped: {error}", stacklevel=2)
        return None


@lru_cache(maxsize=64)
def _stage_records(path: Path, size: int, time: int) -> dict[str, Record]:
    records = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            record = parse_record(line)
            records[record.name] = record
        except ValueError as error:
            warnings.warn(f"skipped: {path}, line {number}, is not a run's record ({error})", stacklevel=2)
    return records


def _packed(prediction: Prediction) -> bytes:
    """An npz of joints (N, K, 2) in pixels of the photo, confidence and entropy (N, K), the last two as float16."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        joints=prediction.joints.astype(np.float32),
        confidence=prediction.confidence.astype(np.float16),
        entropy=prediction.measures["entropy"].astype(np.float16),
    )
    return buffer.getvalue()
