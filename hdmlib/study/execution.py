"""Train the trials of a stage in processes of their own: trials in, their records or the reasons of failure out."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress

from hdmlib.experiments.record import Record
from hdmlib.experiments.runs import record_of
from hdmlib.experiments.store import Store
from hdmlib.study.stages import Trial


def train_trials(trials: Sequence[Trial], jobs: int = 1) -> Iterator[tuple[Trial, Record | Exception]]:
    """The record of each trial, found or trained, as they finish; a failed trial does not stop the others.

    Args:
        trials: What to train.
        jobs: How many at a time, each in a process of its own.

    Yields:
        A trial with its record, or with the error that ended it.

    Raises:
        KeyboardInterrupt: The running trials have saved their step, and no other was started.
    """
    waiting = []
    for trial in trials:
        if found := Store.of(trial.config).find(trial.config):
            yield trial, found.record
        else:
            waiting.append(trial)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_terminal, max_tasks_per_child=1) as pool:
        running: dict[Future[Record], Trial] = {}
        try:
            while waiting or running:
                while waiting and len(running) < jobs:  # no more: the pool would start what it has queued
                    trial = waiting.pop(0)
                    running[pool.submit(record_of, trial.config)] = trial
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    error = future.exception()
                    if error is not None and not isinstance(error, Exception):
                        raise error
                    yield running.pop(future), error or future.result()
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                with suppress(ProcessLookupError):
                    os.kill(process.pid or 0, signal.SIGINT)  # saves its step and ends
            raise


def _leave_terminal() -> None:
    """Take a worker out of the terminal's process group: Ctrl-C reaches it once, through the parent."""
    if hasattr(os, "setsid"):
        with suppress(OSError):
            os.setsid()
