"""Which errors a user can mend, and in which line, for command line and notebooks alike; a bug keeps its traceback.
Warnings name the user's line.

The project's own errors are known by their module. A ``ValueError`` is a message to the user where this package raises
it, and a bug where numpy or torch does.
"""

from __future__ import annotations

import dis
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PACKAGE = __name__.partition(".")[0]
# A torch data worker's error arrives as "Caught DataError in DataLoader worker process 0.", its traceback, and itself.
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process.*\n[\w.]+(?:Error|Exception)[\w.]*: (.*)", re.DOTALL)
_SHARED_MEMORY = re.compile(r"Bus error|shared memory|unable to (?:write to|open|mmap|resize) .*torch_", re.DOTALL)
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory", re.IGNORECASE)


class NotFinite(ValueError):
    """Heatmaps hold NaN or infinity: a training may have diverged."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed, or SIGTERM received.

    Attributes:
        signal: The signal's number.
    """

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message, number)
        self.signal = number

    def __str__(self) -> str:
        return self.args[0]


def line_for_user(error: BaseException) -> str | None:
    """What went wrong and what to do about it; ``None`` for a bug, whose traceback is needed."""
    text = str(error)
    if isinstance(error, RuntimeError | OSError) and _SHARED_MEMORY.search(text):
        return "workers: shared memory is too small for the batches; set workers=0, or enlarge it (docker --shm-size)"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(text)):
        return (
            f"out of memory{f' ({text.splitlines()[0]})' if text else ''}; end other programs, or, where a dataset is "
            "read, lower batch_size and set cache_photos=false"
        )
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker") and "killed by signal" in text:
        return (
            f"workers: one was ended by the system, usually because memory ran out; set fewer ({text.splitlines()[0]})"
        )
    if not (isinstance(error, ImportError | OSError) or _is_own(error)):
        return None
    in_worker = _IN_WORKER.match(text)
    return in_worker[1].strip() if in_worker else text


def _is_own(error: BaseException) -> bool:
    """Whether this package raised the error on purpose."""
    if type(error).__module__.partition(".")[0] == _PACKAGE:
        return True
    trace = error.__traceback__
    if not isinstance(error, ValueError) or trace is None:
        return False
    while trace.tb_next:
        trace = trace.tb_next
    code, module = trace.tb_frame.f_code.co_code, trace.tb_frame.f_globals.get("__name__", "")
    raised_there = dis.opname[code[trace.tb_lasti]] == "RAISE_VARARGS"  # not by numpy's or Python's own C
    return raised_there and module.partition(".")[0] == _PACKAGE


def users_stacklevel() -> int:
    """The ``stacklevel`` of ``warnings.warn`` in the calling function at which the user's own line is."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("torch", _PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """A context in which SIGTERM raises :class:`Interrupted`, as Ctrl-C raises ``KeyboardInterrupt``.

    Outside the main thread, where signals cannot be handled, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted("interrupted", number)
