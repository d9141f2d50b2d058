"""What makes a training go on where it stopped: the checkpoint, and Ctrl-C that waits for the end of a step.

A checkpoint is one file, replaced whole, read as data only (no pickled code). After an epoch it holds what the next one
depends on; after Ctrl-C also how far into its epoch the training is.
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
    """What of a training is behind.

    Attributes:
        epochs: Lines of the finished epochs.
        steps: Steps of the epoch after them.
        total: Sum of the losses of these steps.
    """

    epochs: list[Epoch] = field(default_factory=list)
    steps: int = 0
    total: float = 0.0


class Stopped(KeyboardInterrupt):
    """Ctrl-C was pressed, and the step is finished and saved."""


class Interruption:
    """While it is open, Ctrl-C only sets ``asked``; a second one interrupts at once, as usual.

    Where signals cannot be handled, outside the main thread, nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False
        self._usual = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> Interruption:
        self._handle(self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        self._handle(self._usual)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._handle(self._usual)

    def _handle(self, handler: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def save_checkpoint(folder: Path, model: nn.Module, optimiser: Any, done: TrainingState) -> None:
    """Write everything that the rest of the training depends on, in one file that is replaced whole.

    Raises:
        OSError: The folder cannot be written; the checkpoint before is untouched.
    """
    state = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "history": json.dumps([line.model_dump() for line in done.epochs]),
        "steps": done.steps,
        "total": done.total,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / CHECKPOINT, buffer.getvalue())


def load_checkpoint(folder: Path, model: nn.Module, optimiser: Any, device: torch.device) -> TrainingState:
    """Bring model and optimiser to where the folder's checkpoint left them; without one nothing is done yet.

    Raises:
        ValueError: The file is torn, of another network, or holds more than data; the message names it and the remedy.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return TrainingState()
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        return TrainingState([Epoch(**line) for line in json.loads(state["history"])], state["steps"], state["total"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"cannot resume from {path}: {reason}; pass resume=false to begin again beside it") from error
