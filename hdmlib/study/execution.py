"""Train the trials of a stage in processes of their own: trials in, their records or the reasons of failure out."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress

from hdmlib.experiments.record import Record
from hdmlib.experiments.runs import record_of
from hdmlib.experiments.store import Store
from hdmlib.study.stages import Trial


def train_trials(trials: Sequence[Trial], jobs: int = 1) -> Iterator[tuple[Trial, Record | Exception]]:
    """The record of each trial, in their order, found or trained; a failed trial does not stop the others.

    Args:
        trials: What to train.
        jobs: How many at a time, each in a process of its own.

    Yields:
        A trial with its record, or with the error that ended it.

    Raises:
        KeyboardInterrupt: The running trials have saved their step, and no other was started.
    """
    stored = [Store.of(trial.config).find(trial.config) for trial in trials]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_terminal, max_tasks_per_child=1) as pool:
        futures = [
            None if found else pool.submit(record_of, trial.config) for trial, found in zip(trials, stored, strict=True)
        ]
        try:
            for trial, found, future in zip(trials, stored, futures, strict=True):
                yield trial, found.record if found else _outcome(future)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                with suppress(ProcessLookupError):
                    os.kill(process.pid or 0, signal.SIGINT)  # saves its step and ends
            raise


def _outcome(future: Future[Record] | None) -> Record | Exception:
    assert future is not None
    try:
        return future.result()
    except Exception as error:
        return error


def _leave_terminal() -> None:
    """Take a worker out of the terminal's process group: Ctrl-C reaches it once, through the parent."""
    if hasattr(os, "setsid"):
        with suppress(OSError):
            os.setsid()
