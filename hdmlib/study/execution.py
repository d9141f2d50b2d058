"""Train the trials of a stage in processes of their own: trials in, their records or the reasons of failure out."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from hdmlib.config import Config
from hdmlib.errors import line_for_user
from hdmlib.experiments.engine import default_workers
from hdmlib.experiments.record import Record
from hdmlib.experiments.runs import record_of, run
from hdmlib.experiments.store import Store
from hdmlib.processes import end_with
from hdmlib.study.stages import Trial


def train_trials(
    trials: Sequence[Trial], jobs: int = 1, *, again: bool = False
) -> Iterator[tuple[Trial, Record | Exception]]:
    """The record of each trial, found or trained, as they finish; a failed trial does not stop the others.

    Args:
        trials: What to train.
        jobs: How many at a time, each in a process of its own, with a GPU of its own while there are enough.
        again: Train also what has a reference record, unless it has been trained here.

    Yields:
        A trial with its record, or with the error that ended it.

    Raises:
        KeyboardInterrupt: The running trials have saved their step, and no other was started. A loop over this that
            ends early stops them likewise.
    """
    waiting = []
    for trial in trials:
        if not again and (found := Store.of(trial.config).find(trial.config)):
            yield trial, found.record
        else:
            waiting.append(trial)
    running: dict[Future[Record], tuple[Trial, int]] = {}
    processes: list[BaseProcess] = []
    free = list(range(jobs))
    try:
        while waiting or running:
            while free and (trial := _next(waiting, running.values())):
                place = free.pop(0)
                running[_started(_at_place(trial.config, place, jobs), again, processes)] = trial, place
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                error = future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                trial, place = running.pop(future)
                free.append(place)
                yield trial, _why_killed(error) or error or future.result()
    except (KeyboardInterrupt, GeneratorExit):  # the latter where the caller's loop ends early
        for process in processes:
            if process.is_alive() and process.pid:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)  # saves its step and ends
        wait(running)
        raise


def _started(config: Config, again: bool, processes: list[BaseProcess]) -> Future[Record]:
    """A run, begun in a process and a pool of its own: a process that the system kills breaks its pool.

    The process is added to ``processes``, also if Ctrl-C comes meanwhile.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=_prepare_worker, initargs=(os.getpid(),))
    others = set(multiprocessing.active_children())
    try:
        future = pool.submit(_record_of, config, again)
    finally:
        processes += set(multiprocessing.active_children()) - others
    pool.shutdown(wait=False)
    return future


class TrialError(ValueError):
    """What a user can mend in a trial."""


def _record_of(config: Config, again: bool = False) -> Record:
    """The record of a config, found or trained; with ``again`` one that was trained here.

    A plain ValueError is told from a bug here, where it still knows where it was raised.
    """
    try:
        return run(config, weights=True).record if again else record_of(config)
    except ValueError as error:
        if type(error) is not ValueError or (line := line_for_user(error)) is None:
            raise
        raise TrialError(line) from None


def _why_killed(error: BaseException | None) -> ChildProcessError | None:
    """What to do about a process that ended without a word; ``None`` for any other error."""
    if not isinstance(error, BrokenProcessPool):
        return None
    return ChildProcessError("the system ended its process, usually because memory ran out; set fewer --jobs")


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


def _prepare_worker(parent: int) -> None:
    """Make a worker end with its parent, and take it out of the terminal's process group: Ctrl-C reaches it once,
    through the parent."""
    end_with(parent)
    if hasattr(os, "setsid"):
        with suppress(OSError):
            os.setsid()
