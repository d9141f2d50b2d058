"""From stages to records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hdmlib.experiments.record import Record
from hdmlib.experiments.runs import record_of
from hdmlib.study.stages import Trial


def records_of(trials: Iterable[Trial], progress: Callable[..., Any] | None = None) -> dict[str, list[Record]]:
    """Label -> records of the trials of that label, in order; see :func:`record_of`."""
    records: dict[str, list[Record]] = {}
    for trial in trials:
        records.setdefault(trial.label, []).append(record_of(trial.config, progress))
    return records
