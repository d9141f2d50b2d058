"""Train the trials of a stage in processes of their own: trials in, their records or the reasons of failure out."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from typing import Any

import torch

from hdmlib.config import Config
from hdmlib.experiments.engine import default_workers
from hdmlib.experiments.record import Record
from hdmlib.experiments.runs import record_of
from hdmlib.experiments.store import Store
from hdmlib.study.stages import Trial


def train_trials(trials: Sequence[Trial], jobs: int = 1) -> Iterator[tuple[Trial, Record | Exception]]:
    """The record of each trial, found or trained, as they finish; a failed trial does not stop the others.

    Args:
        trials: What to train.
        jobs: How many at a time, each in a process of its own, with a GPU of its own while there are enough.

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
        running: dict[Future[Record], tuple[Trial, int]] = {}
        free = list(range(jobs))
        try:
            while waiting or running:
                while free and (
                    trial := _next(waiting, running.values())
                ):  # no more: the pool would start what it queues
                    place = free.pop(0)
                    running[pool.submit(record_of, _at_place(trial.config, place, jobs))] = trial, place
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    error = future.exception()
                    if error is not None and not isinstance(error, Exception):
                        raise error
                    trial, place = running.pop(future)
                    free.append(place)
                    yield trial, error or future.result()
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                with suppress(ProcessLookupError):
                    os.kill(process.pid or 0, signal.SIGINT)  # saves its step and ends
            raise


def _next(waiting: list[Trial], running: Iterable[tuple[Trial, int]]) -> Trial | None:
    """Takes the first trial that is not under way already: two labels may share a run."""
    busy = [trial.config for trial, _ in running]
    place = next((i for i, trial in enumerate(waiting) if trial.config not in busy), None)
    return None if place is None else waiting.pop(place)


def _at_place(config: Config, place: int, jobs: int) -> Config:
    """The config on its share of the machine: one GPU of several, in turn, and a part of the cores.

    A device or a number of workers that is set stays; neither enters the name of a run.
    """
    values: dict[str, Any] = {}
    gpus = torch.cuda.device_count()
    if config.device is None and gpus > 1:
        values["device"] = f"cuda:{place % gpus}"
    if config.workers is None and jobs > 1:
        values["workers"] = default_workers(jobs)
    return config.model_copy(update=values)


def _leave_terminal() -> None:
    """Take a worker out of the terminal's process group: Ctrl-C reaches it once, through the parent."""
    if hasattr(os, "setsid"):
        with suppress(OSError):
            os.setsid()
