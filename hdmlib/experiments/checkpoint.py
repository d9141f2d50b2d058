"""What lets a training resume: checkpoint files, and signals that wait for the end of a step.

A file is replaced as a whole, keeps its predecessor beside it, and is read as data only (no pickled code). After an
epoch it holds what the next one depends on; after a signal, or ``checkpoint_minutes``, also the position within the
epoch. A damaged file is found by the CRC-32 that its zip archive has for each entry; the one before it is then used.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import signal
import threading
import time
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import nn

from hdmlib.config import Config
from hdmlib.data.dataset import DataError
from hdmlib.data.sources import CHANGED
from hdmlib.errors import Interrupted
from hdmlib.experiments.record import Epoch
from hdmlib.files import versions, write_atomically
from hdmlib.models.registry import source_of, warn_if_edited

CHECKPOINT = "last.pt"


@dataclass
class TrainingState:
    """How far a training has come.

    Attributes:
        epochs: Lines of the finished epochs; epoch 0 is the untrained network.
        steps: Finished steps of the current epoch.
        total: Sum of the losses of these steps, mean over processes.
    """

    epochs: list[Epoch] = field(default_factory=list)
    steps: int = 0
    total: float = 0.0


class Interruption:
    """A context in which SIGINT (Ctrl-C) and SIGTERM (Slurm, Docker) are noted and end nothing.

    A second Ctrl-C interrupts at once, as usual; not in a training in several processes, because torchrun repeats each
    signal.
    Outside the main thread, where signals cannot be handled, the context does nothing.

    Attributes:
        signal: Number of the signal that was received, 0 before.
    """

    def __init__(self, *, repeated: bool) -> None:
        self.signal = 0
        self._repeated = repeated
        self._usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> Interruption:
        for number in self._usual:
            self._handle(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._usual.items():
            self._handle(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if number == signal.SIGINT and not self._repeated:
            self._handle(number, self._usual[signal.SIGINT])

    def _handle(self, number: int, handler: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(number, handler)


class Checkpoints:
    """The checkpoints of one training, and when to write one; as a context it handles signals.

    Every process of the training has one, and calls its methods at the same steps; the first one writes.

    Args:
        config: ``model``, ``keep_checkpoints`` and ``checkpoint_minutes``.
        folder: Where they lie.
        model: The network, not wrapped for several processes.
        optimiser: Its optimiser.
        engine: The processes.
        details: ``Data.details``: a training goes on with the data that it began with.
    """

    def __init__(
        self, config: Config, folder: Path, model: nn.Module, optimiser: Any, engine: Accelerator,
        details: str | None = None,
    ) -> None:  # fmt: skip
        self.path = folder / CHECKPOINT
        self.model = model
        self.optimiser = optimiser
        self.engine = engine
        self.details = details
        self.network = config.model
        self.earlier = config.keep_checkpoints
        self.seconds = math.inf if config.checkpoint_minutes is None else 60 * config.checkpoint_minutes
        self._saved_at = time.monotonic()
        self._interruption = Interruption(repeated=engine.num_processes > 1)

    def __enter__(self) -> Checkpoints:
        self._interruption.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._interruption.__exit__(*error)

    def due(self, *, waited: bool) -> Literal["save", "stop"] | None:
        """What to do after the step that was just finished, the same in all processes.

        Args:
            waited: Whether the caller waits for the device after this step anyway: several GPUs agree at these alone.
        """
        stop, save = self._interruption.signal, time.monotonic() - self._saved_at > self.seconds
        if self.engine.num_processes > 1:
            if not waited and self.engine.device.type != "cpu":
                return None
            mine = torch.tensor([[stop, int(save)]], device=self.engine.device)
            stop, save = torch.as_tensor(self.engine.gather(mine)).amax(dim=0).tolist()
            self._interruption.signal = stop
        return "stop" if stop else "save" if save else None

    def interrupted(self, message: str) -> Interrupted:
        """The exception that ends this process when all are ready to end."""
        self.engine.wait_for_everyone()
        return Interrupted(message, self._interruption.signal)

    def save(self, state: TrainingState) -> None:
        """Write everything that the rest of the training depends on.

        Raises:
            OSError: The folder cannot be written; the previous checkpoint is untouched.
        """
        self._saved_at = time.monotonic()
        if not self.engine.is_main_process:
            return
        content = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": json.dumps([line.model_dump() for line in state.epochs]),
            "steps": state.steps,
            "total": state.total,
            "details": self.details,
            "source": source_of(self.network),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_atomically(self.path, buffer.getvalue(), earlier=self.earlier)

    def load(self) -> TrainingState:
        """Restore model and optimiser from the latest checkpoint; without one the training starts at the beginning.

        Raises:
            DataError: The training began with other data.
            ValueError: No checkpoint can be read, or they belong to another network, or hold more than data; the
                message names the file and the remedy.

        Warns:
            UserWarning: An earlier checkpoint is used, since the latest cannot be.
        """
        reasons: list[str] = []
        for path in versions(self.path):
            try:
                state = self._restored(path)
            except DataError:
                raise
            except _UNREADABLE as error:
                reasons.append(f"{path}: {(str(error) or type(error).__name__).splitlines()[0]}")
                continue
            if reasons:
                warnings.warn(f"cannot resume from {'; '.join(reasons)}; resuming from {path}", stacklevel=2)
            return state
        if reasons:
            raise ValueError(
                f"cannot resume from {'; '.join(reasons)}; resume=false starts again and keeps this run"
            ) from None
        return TrainingState()

    def _restored(self, path: Path) -> TrainingState:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"damaged ({damaged})")
        # on the CPU: the optimiser puts its state beside the parameters, but keeps its count of steps where it lies,
        # and waits for each on a GPU
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content.get("details") not in (None, self.details):
            raise DataError(f"{path}: begun on this dataset {CHANGED}")
        warn_if_edited(self.network, content.get("source"), f"{path}, which is resumed")
        epochs = [Epoch(**line) for line in json.loads(content["history"])]
        self.model.load_state_dict(content["model"])
        self.optimiser.load_state_dict(content["optimiser"])
        return TrainingState(epochs, content["steps"], content["total"])


# What the readers of a damaged or foreign file raise.
_UNREADABLE = (
    zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, LookupError, ValueError, TypeError, AttributeError,
    EOFError, OSError,
)  # fmt: skip
