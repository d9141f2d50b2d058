"""What lets a training resume: one checkpoint file, and Ctrl-C that waits for the end of a step.

The file is replaced as a whole and read as data only (no pickled code). After an epoch it holds what the next one
depends on; after Ctrl-C also the position within the epoch.
"""

from __future__ import annotations

import io
import json
import pickle
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from hdmlib.experiments.record import Epoch
from hdmlib.files import write_atomically

CHECKPOINT = "last.pt"


@dataclass
class TrainingState:
    """How far a training has come.

    Attributes:
        epochs: Lines of the finished epochs; epoch 0 is the untrained network.
        steps: Finished steps of the current epoch.
        total: Sum of the losses of these steps.
    """

    epochs: list[Epoch] = field(default_factory=list)
    steps: int = 0
    total: float = 0.0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; the step was finished and saved."""


class Interruption:
    """A context in which the first Ctrl-C only sets ``requested``; the second one interrupts at once, as usual.

    Outside the main thread, where signals cannot be handled, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._usual = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> Interruption:
        self._handle(self._request)
        return self

    def __exit__(self, *error: object) -> None:
        self._handle(self._usual)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._handle(self._usual)

    def _handle(self, handler: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def save_checkpoint(folder: Path, model: nn.Module, optimiser: Any, state: TrainingState) -> None:
    """Write everything that the rest of the training depends on.

    Raises:
        OSError: The folder cannot be written; the previous checkpoint is untouched.
    """
    content = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "history": json.dumps([line.model_dump() for line in state.epochs]),
        "steps": state.steps,
        "total": state.total,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(folder / CHECKPOINT, buffer.getvalue())


def load_checkpoint(folder: Path, model: nn.Module, optimiser: Any, device: torch.device) -> TrainingState:
    """Restore model and optimiser from the folder's checkpoint; without one the training starts at the beginning.

    Raises:
        ValueError: The file is damaged, belongs to another network, or holds more than data; the message names the file
            and the remedy.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return TrainingState()
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(content["model"])
        optimiser.load_state_dict(content["optimiser"])
        epochs = [Epoch(**line) for line in json.loads(content["history"])]
        return TrainingState(epochs, content["steps"], content["total"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"cannot resume from {path}: {reason}; resume=false starts again and keeps this run"
        ) from error
