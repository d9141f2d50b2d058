"""The user's runs in a table: a folder of runs in, a row a run out."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from hdmlib.experiments.record import Record
from hdmlib.experiments.store import Store


def list_runs(store: Store) -> pd.DataFrame:
    """What distinguishes the runs of a folder, and how they ended.

    Returns:
        Index: the run's name. Columns: ``state``, the parameters in which the runs differ, and the metrics after the
        last epoch; empty for a run that is not finished.

    Warns:
        UserWarning: A record is damaged; its run counts as unfinished.
    """
    rows: dict[str, dict[str, object]] = {}
    for name in store.names():
        if run := store.own(name):
            rows[name] = {"state": "finished"} | _parameters(run.record) | _metrics(run.record)
        elif store.is_unfinished(name):
            rows[name] = {"state": "unfinished"}
    columns = dict.fromkeys(name for row in rows.values() for name in row)
    metrics = [name for name in columns if _is_shown(name)]
    finished = [row for row in rows.values() if row["state"] == "finished"]
    differing = [name for name in columns if name not in metrics and _differs(name, finished)]
    shown = dict.fromkeys(["state", *differing, *metrics])
    return pd.DataFrame(
        [[row.get(name, "") for name in shown] for row in rows.values()], [*rows], [*shown], dtype=object
    )


def _differs(name: str, rows: Iterable[dict[str, object]]) -> bool:
    return len({str(row.get(name, "")) for row in rows}) > 1


def _parameters(record: Record) -> dict[str, object]:
    options = {f"loss_options.{name}": value for name, value in record.identity["loss_options"].items()}
    return {name: value for name, value in record.identity.items() if name not in ("loss_options", "recipe")} | options


def _metrics(record: Record) -> dict[str, object]:
    return {name: f"{value:.1f}" for name, value in record.final.metrics.items() if _is_shown(name)}


def _is_shown(name: str) -> bool:
    return "@" in name or name == "AP"
