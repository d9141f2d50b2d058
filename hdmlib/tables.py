"""Configs and records as tables to be looked at."""

from __future__ import annotations

import pandas as pd

from hdmlib.config import MACHINE_FIELDS, Config
from hdmlib.records import Record


def config_table(config: Config) -> pd.DataFrame:
    """What the run is, a row per parameter with its meaning; where it is computed is left out."""
    values = config.model_dump(mode="json", exclude=set(MACHINE_FIELDS))
    shown = {name: value for name, value in values.items() if value not in (None, {}, [])}
    rows = {name: (str(value), Config.model_fields[name].description or "") for name, value in shown.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "meaning"]).rename_axis("parameter")


def joint_table(record: Record) -> pd.DataFrame:
    """PCK of each joint in percent, untrained beside trained, the label-weighted mean in the last row."""
    columns = {}
    for label in record.final.per_joint:
        for state, evaluation in (("untrained", record.untrained), ("trained", record.final)):
            columns[label, state] = [*evaluation.per_joint[label], evaluation.metrics[label]]
    index = pd.Index([*(joint.replace("_", " ") for joint in record.joints), "mean"], name="joint")
    return pd.DataFrame(columns, index=index, dtype=float).round(1)
