"""A finished run as a checkpoint: its folder, or weights in it, in; the weights and the record of the run out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdmlib.experiments.record import Record, load_record
from hdmlib.experiments.store import ARTEFACTS, RECORD
from hdmlib.experiments.training import BEST
from hdmlib.skeletons import plain_name

# In a run's identity, but not in its config.
NOT_CONFIG = ("data", "recipe")
# Weights that a run's record describes.
OF_RUN = (ARTEFACTS["model"], BEST)


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """A finished run whose network is used.

    Attributes:
        folder: Its folder.
        weights: The file to load.
        record: Its record.
    """

    folder: Path
    weights: Path
    record: Record

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of its config, of training and validation."""
        return {name: value for name, value in self.record.identity.items() if name not in NOT_CONFIG}

    def predicts(self, joints: Sequence[str]) -> bool:
        """Whether its network's heatmaps are of these joints, in this order."""
        return [plain_name(joint) for joint in joints] == [plain_name(joint) for joint in self.record.joints]


def run_of(checkpoint: Path, *, described: bool = False) -> TrainedRun | None:
    """The finished run that a checkpoint is or lies in; ``None`` for a file that no record describes.

    Args:
        checkpoint: A folder, or a file of weights.
        described: Whether the caller describes the network: a file in a run's folder that is not of :data:`OF_RUN` is
            then not taken for the run's.

    Raises:
        FileNotFoundError: A folder holds no record or no weights.
        ValueError: The record is damaged.
    """
    if checkpoint.is_dir():
        for needed in (RECORD, ARTEFACTS["model"]):
            if not (checkpoint / needed).is_file():
                raise FileNotFoundError(
                    f"{checkpoint}: no {needed} in it; give the folder of a finished run, or a weights file"
                )
        return TrainedRun(checkpoint, checkpoint / ARTEFACTS["model"], load_record(checkpoint / RECORD))
    folder = checkpoint.parent
    if not checkpoint.is_file() or not (folder / RECORD).is_file() or (described and checkpoint.name not in OF_RUN):
        return None
    return TrainedRun(folder, checkpoint, load_record(folder / RECORD))


def files_of(checkpoint: Path) -> list[Path]:
    """What may be read of a checkpoint: itself and, where it is or lies in a run's folder, its record and weights."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    return [checkpoint, *(folder / name for name in (RECORD, *OF_RUN))]
