"""What a run leaves behind: a record with its config, its curves, its scores and the machine it ran on.

A record is plain JSON, checked when it is read. Records are named by the hash of the run's identity (``config.py``), so
a record that exists answers the same question again without training.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from hdmlib.files import write_atomically

PACKAGES = ("torch", "numpy", "opencv-python-headless", "accelerate")


class Evaluation(BaseModel):
    """The validation people seen through one state of the network.

    Attributes:
        losses: Every loss of the registry on the raw heatmaps, mean over people; only the trained one is on its own
            ground.
        metrics: As ``metrics.scores`` names them; without those that this data has no ground for.
        per_joint: For each PCK threshold the percentage of each joint, ``None`` where no one has the joint labelled.
        measures: Means over the labelled joints of how compact their heatmaps are and of the terms of Theorem 1, as
            ``metrics.compactness`` and ``theory`` name them.
    """

    model_config = ConfigDict(extra="forbid")

    losses: dict[str, float]
    metrics: dict[str, float]
    per_joint: dict[str, list[float | None]]
    measures: dict[str, float]


class Epoch(BaseModel):
    """One line of the curves; epoch 0 is the network before training."""

    model_config = ConfigDict(extra="forbid")

    epoch: int
    lr: float
    train_loss: float | None
    validation: Evaluation


class Record(BaseModel):
    """A finished run; ``seconds`` is unknown for one that was interrupted.

    ``peak_memory`` in GiB is that of the GPU if one is used, else that of the process so far.
    ``by_decoder`` holds the metrics of the last epoch as each decoder reads the same heatmaps.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    identity: dict[str, Any]
    joints: list[str]
    people: dict[str, int]
    left_out: dict[str, dict[str, int]]
    epochs: list[Epoch]
    by_decoder: dict[str, dict[str, float]]
    seconds: float | None
    peak_memory: float | None = None
    machine: dict[str, str]

    @property
    def untrained(self) -> Evaluation:
        """Scores of the network before the first step."""
        return self.epochs[0].validation

    @property
    def final(self) -> Evaluation:
        """Scores after the last epoch: none is picked by its score, since the same people are reported on."""
        return self.epochs[-1].validation


def machine() -> dict[str, str]:
    """Hardware and versions, for the record."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    facts = {"platform": f"{platform.system()} {platform.machine()}", "python": platform.python_version(), "gpu": gpu}
    return {**facts, "torch_threads": str(torch.get_num_threads()), **{name: version(name) for name in PACKAGES}}


def peak_memory() -> float | None:
    """Most memory in GiB that this process has had, on the GPU if it uses one; ``None`` where nobody counts."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def save_record(record: Record, path: Path) -> None:
    """Write a record as readable JSON, numbers to six significant digits, atomically."""
    text = json.dumps(_rounded(record.model_dump(mode="json")), indent=1)
    write_atomically(path, (text + "\n").encode())


def load_record(path: Path) -> Record:
    """Read a record.

    Raises:
        ValueError: The file is not a record; the message names it and the remedy.
    """
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{path} is not a run's record ({place}: {first['msg']}); delete it and run again") from None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
