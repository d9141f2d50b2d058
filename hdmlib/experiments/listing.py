"""The user's runs in a table: a folder of runs in, a row a run out."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from hdmlib.experiments.record import Record, load_record
from hdmlib.experiments.store import RECORD, Store


def list_runs(store: Store) -> pd.DataFrame:
    """What distinguishes the runs of a folder, and how they ended.

    Returns:
        Index: the run's name. Columns: ``state``, the parameters in which the runs differ, and the metrics after the
        last epoch; empty for a run that is not finished.
    """
    rows: dict[str, dict[str, object]] = {}
    for folder in sorted(path for path in store.runs.glob("*") if path.is_dir()):
        if (folder / RECORD).is_file():
            record = load_record(folder / RECORD)
            rows[folder.name] = {"state": "finished"} | _parameters(record) | _metrics(record)
        elif store.is_unfinished(folder.name):
            rows[folder.name] = {"state": "unfinished"}
    columns = dict.fromkeys(name for row in rows.values() for name in row)
    metrics = [name for name in columns if _is_shown(name)]
    differing = [name for name in columns if name not in metrics and _differs(name, rows.values())]
    shown = dict.fromkeys(["state", *differing, *metrics])
    return pd.DataFrame(
        [[row.get(name, "") for name in shown] for row in rows.values()], [*rows], [*shown], dtype=object
    )


def _differs(name: str, rows: Iterable[dict[str, object]]) -> bool:
    return len({str(row[name]) for row in rows if name in row}) > 1


def _parameters(record: Record) -> dict[str, object]:
    options = {f"loss_options.{name}": value for name, value in record.identity["loss_options"].items()}
    return {name: value for name, value in record.identity.items() if name not in ("loss_options", "recipe")} | options


def _metrics(record: Record) -> dict[str, object]:
    return {name: f"{value:.1f}" for name, value in record.final.metrics.items() if _is_shown(name)}


def _is_shown(name: str) -> bool:
    return "@" in name or name == "AP"
