"""From stages to records, and from records to the tables of ``figures/results``, one row a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hdmlib.config import Config
from hdmlib.experiments.record import Record
from hdmlib.experiments.runs import record_of
from hdmlib.experiments.store import Store
from hdmlib.files import write_atomically
from hdmlib.paths import PROJECT_ROOT
from hdmlib.study.stages import STAGES, Trial

RESULTS = PROJECT_ROOT / "figures" / "results"


def records_of(trials: Iterable[Trial], progress: Callable[..., Any] | None = None) -> dict[str, list[Record]]:
    """Label -> records of the trials of that label, in order; see :func:`record_of`."""
    records: dict[str, list[Record]] = {}
    for trial in trials:
        records.setdefault(trial.label, []).append(record_of(trial.config, progress))
    return records


def published_of(trials: Iterable[Trial]) -> dict[str, list[Record]]:
    """Label -> reference records of the trials of that label, in order; nothing is trained.

    Raises:
        ValueError: A trial has no reference record.
    """
    records: dict[str, list[Record]] = {}
    for trial in trials:
        run = Store.of(trial.config).find_published(trial.config)
        if run is None:
            raise ValueError(f"no published record of {trial.label!r}, seed {trial.config.seed}")
        records.setdefault(trial.label, []).append(run.record)
    return records


def publish(stage: str, config: Config, keep: Sequence[str] = (), results: Path = RESULTS) -> None:
    """Copy the finished run of a config to the reference runs, and write the tables of the stages it belongs to.

    Args:
        stage: The stage that was run.
        config: The run.
        keep: Artefacts to copy with the record: ``model``, ``predictions``.
        results: Folder of the tables.

    Raises:
        ValueError: There is no such run, or as :meth:`Store.publish`.
    """
    store = Store.of(config)
    with store.publishing():
        # data in data_root has to be read for the run's name, which holds its fingerprint
        run = store.find(config) or store.own(record_of(config).name)
        if run is None:
            raise ValueError(f"no finished run of this config in {store.runs}; train it first")
        store.publish(stage, run, keep)
        for name in {stage, *store.stages()}:
            write_table(name, store, results)


def write_table(stage: str, store: Store, results: Path = RESULTS) -> None:
    """Write the table of a stage, unless it is up to date."""
    path, text = results / f"{stage}.csv", stage_table(stage, store).to_csv(index=False, float_format="%.6g")
    if not path.exists() or path.read_text() != text:
        write_atomically(path, text.encode())


def stage_table(stage: str, store: Store) -> pd.DataFrame:
    """The reference runs of a stage: those of its trials, in their order, then any others that were published with it.

    Returns:
        One row per run: ``label`` (empty for a run that is no trial of the stage), ``loss``, ``seed``, ``lr``,
        ``record`` (its name), the metrics after the last epoch as the run's own decoder reads the heatmaps.
    """
    trials = STAGES[stage]() if stage in STAGES else ()
    found = [(trial.label, run.record) for trial in trials if (run := store.find_published(trial.config))]
    named = {record.name for _, record in found}
    others = [("", record) for name, record in store.stages().get(stage, {}).items() if name not in named]
    return pd.DataFrame.from_records([_row(label, record) for label, record in (*found, *others)])


def _row(label: str, record: Record) -> dict[str, Any]:
    run = {name: record.identity[name] for name in ("loss", "seed", "lr")}
    return {"label": label, **run, "record": record.name, **record.final.metrics}
