"""The result of a run: a record of its config, curves, scores and machine. Records in, JSON out, and back.

JSON is validated when it is read. A record is named by the hash of the run's identity (``config.py``), so that the same
run is found again instead of being trained again.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hdmlib.files import write_atomically

# In a file of its own a record has a checksum under this name; the committed lines are git's to check.
CHECKSUM = "sha256"
PACKAGES = ("torch", "numpy", "opencv-python-headless", "accelerate")


class Evaluation(BaseModel):
    """What one state of the network achieves on the validation people.

    Attributes:
        losses: Every loss of the registry on the raw heatmaps, mean over people.
        metrics: As ``metrics.scores`` names them, without those that are undefined for this data.
        per_joint: For each PCK threshold the percentage of each joint, ``None`` where the joint is never labelled;
            empty for the middle epochs of a published record.
        measures: Means over the labelled joints of the heatmaps' compactness (``metrics.compactness``) and of the terms
            of Theorem 1 (``theory``).
    """

    model_config = ConfigDict(extra="forbid")

    losses: dict[str, float]
    metrics: dict[str, float]
    per_joint: dict[str, list[float | None]]
    measures: dict[str, float]


class Epoch(BaseModel):
    """One line of the curves; epoch 0 is the network before training.

    Attributes:
        epoch: Its number.
        lr: The learning rate after it, with which the next one begins.
        train_loss: Mean over its steps; ``None`` for epoch 0.
        validation: After it.
    """

    model_config = ConfigDict(extra="forbid")

    epoch: int
    lr: float
    train_loss: float | None
    validation: Evaluation


class Record(BaseModel):
    """A finished run.

    Attributes:
        name: Readable name with the hash of the identity.
        identity: Everything that the numbers depend on (``Config.identity``).
        joints: Names of the K joints.
        flip_pairs: Their left-right pairs, by index; ``None`` in records from before they were kept.
        limbs: Their bones, likewise.
        details: ``Data.details``, likewise, and for embedded people.
        source: ``models.registry.source_of`` its network, likewise.
        people: Number of people by split, ``train`` and ``val``.
        left_out: People or annotations that were left out, by split and reason.
        epochs: One line per epoch, epoch 0 first.
        by_decoder: Method -> metrics of the last epoch as this method decodes the heatmaps.
        other_confidence: The same with the other kind of confidence (peak or mass) than the loss's own; empty in
            records from before it was measured.
        seconds: Wall time of the training; ``None`` if it was interrupted.
        peak_memory: Largest memory in GiB, of the GPU if one is used, else of the process.
        machine: Hardware and versions.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    identity: dict[str, Any]
    joints: list[str]
    flip_pairs: list[tuple[int, int]] | None = None
    limbs: list[tuple[int, int]] | None = None
    details: str | None = None
    source: str | None = None
    people: dict[str, int]
    left_out: dict[str, dict[str, int]]
    epochs: list[Epoch] = Field(min_length=1)
    by_decoder: dict[str, dict[str, float]]
    other_confidence: dict[str, dict[str, float]] = {}
    seconds: float | None
    peak_memory: float | None = None
    machine: dict[str, str]

    @property
    def untrained(self) -> Evaluation:
        """Scores of the network before the first step."""
        return self.epochs[0].validation

    @property
    def final(self) -> Evaluation:
        """Scores after the last epoch; no epoch is selected by its score, since the same people are reported on."""
        return self.epochs[-1].validation


def machine(device: torch.device) -> dict[str, str]:
    """Hardware and versions of a run on a device, for the record."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    facts = {"platform": f"{platform.system()} {platform.machine()}", "python": platform.python_version(), "gpu": gpu}
    return {**facts, "torch_threads": str(torch.get_num_threads()), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # its module may come from another package: cv2 from opencv-python or conda's opencv
        return "unknown"


def peak_memory(device: torch.device) -> float | None:
    """Largest memory in GiB of this process on a GPU since its run began, else in all; ``None`` if not counted."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def save_record(record: Record, path: Path) -> None:
    """Write a record as readable JSON with a checksum, numbers to six significant digits, atomically."""
    content = _rounded(record.model_dump(mode="json"))
    text = json.dumps({**content, CHECKSUM: _digest(content)}, indent=1)
    write_atomically(path, (text + "\n").encode())


def load_record(path: Path) -> Record:
    """Read what :func:`save_record` wrote; earlier versions wrote no checksum.

    Raises:
        ValueError: The file is not a record, or is damaged; the message names it and the remedy.
        OSError: The file cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
        expected = content.pop(CHECKSUM, None) if isinstance(content, dict) else None
        if expected is not None and expected != _digest(content):
            raise ValueError("it does not have the checksum that it was saved with")
        return parse_record(json.dumps(content))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a run's record ({error}); delete it and run again") from None


def parse_record(text: bytes | str) -> Record:
    """A record from its JSON.

    Raises:
        ValueError: It is not a record; the message says which part is wrong.
    """
    try:
        return Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{place}: {first['msg']}") from None


def _digest(content: dict[str, Any]) -> str:
    """SHA-256 of a record's JSON, whatever its layout."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def record_line(record: Record) -> str:
    """A record as one line of compact JSON, ``per_joint`` kept for the first and the last epoch only."""
    content = _rounded(record.model_dump(mode="json"))
    for epoch in content["epochs"][1:-1]:
        epoch["validation"]["per_joint"] = {}
    for name in ("other_confidence", "flip_pairs", "limbs", "details"):  # added after the first records, whose lines
        if name not in record.model_fields_set:  # stay as they are
            del content[name]
    if record.source is None:
        del content["source"]
    return json.dumps(content, separators=(",", ":"))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
