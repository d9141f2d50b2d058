"""The second study, judged by its rules: the records of its finals in, README's tables and the verdict out.

*own* reads each loss's heatmaps as its tuning chose, *same* all of them by one decoder and one confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import pandas as pd

from hdmlib.experiments.record import Record
from hdmlib.losses.registry import LOSSES
from hdmlib.study.analysis import mean_interval, paired_differences
from hdmlib.study.choice import CHOSEN, read_as_chosen
from hdmlib.study.claims import difference_cell
from hdmlib.study.results import published_of
from hdmlib.study.rules import LEVEL, METRICS, SAME_CONFIDENCE, SAME_DECODER, outcome, sum_is_better
from hdmlib.study.stages import second_finals

VIEWS = ("own", "same")
# The rules' calibration is the expected calibration error.
JUDGED = {**METRICS, "ECE": -1}
SHOWN = ("AP", "PCKh@0.5", "PCKh@0.1", "mean error", "ECE")
# What is compared with what: label -> references.
COMPARED = {
    "the letter": ("gaussian_mse",),
    "matching": ("gaussian_mse", "cross_entropy"),
    "the sum": ("gaussian_mse", "cross_entropy", "matching"),
}


def scores(records: Mapping[str, Sequence[Record]], view: str) -> pd.DataFrame:
    """One row a run: ``label``, ``seed`` and the metrics, read as ``own`` or ``same`` says."""
    rows = []
    for label, runs in records.items():
        for record in runs:
            metrics = read_as_chosen(record, CHOSEN[label]) if view == "own" else _read_as_all(record)
            rows.append({"label": label, "seed": record.identity["seed"], **metrics})
    return pd.DataFrame(rows)


def _read_as_all(record: Record) -> dict[str, float]:
    own = LOSSES[record.identity["loss"]].confidence == SAME_CONFIDENCE
    return (record.by_decoder if own else record.other_confidence)[SAME_DECODER]


def outcomes(records: Mapping[str, Sequence[Record]], label: str) -> pd.DataFrame:
    """Paired differences of one label from each that it is compared with.

    Returns:
        Index (reference, view, metric); columns ``difference``, ``low``, ``high``, ``seeds`` and ``outcome``.
    """
    tables = {}
    for reference, view in product(COMPARED[label], VIEWS):
        table = paired_differences(scores(records, view), list(JUDGED), reference, LEVEL).loc[label]
        table["outcome"] = [
            outcome(low, high, JUDGED[metric])
            for metric, low, high in zip(table.index, table["low"], table["high"], strict=True)
        ]
        tables[reference, view] = table
    return pd.concat(tables, names=["reference", "view"])


def verdict(records: Mapping[str, Sequence[Record]]) -> bool:
    """Whether the sum is better than every other loss, as the rules ask."""
    found = outcomes(records, "the sum")["outcome"].rename({"ECE": "calibration"}, level="metric")
    return sum_is_better(found.to_dict(), COMPARED["the sum"])


def second_text() -> str:
    """README's tables of the second study in Markdown, from the committed records alone."""
    records = published_of(second_finals())
    lines = [
        f"| loss, mean of five seeds | chosen | {' | '.join(SHOWN)} |",
        "| --- | --- |" + " --- |" * len(SHOWN),
        *(_score_line(str(label), part) for label, part in scores(records, "own").groupby("label", sort=False)),
        "",
        f"| less | read | {' | '.join(SHOWN)} |",
        "| --- | --- |" + " --- |" * len(SHOWN),
    ]
    for label in COMPARED:
        table = outcomes(records, label)
        for reference, view in product(COMPARED[label], VIEWS):
            cells = (difference_cell(table.loc[(reference, view, metric)], metric) for metric in SHOWN)
            lines.append(f"| {label}, less {reference} | {view} | {' | '.join(cells)} |")
    better = "it is" if verdict(records) else "it is not"
    lines += ["", f"Whether the sum is better than every other loss by the rule fixed in advance: {better}."]
    return "\n".join(lines)


def _score_line(label: str, part: pd.DataFrame) -> str:
    (_, options, fields), decoder, confidence = CHOSEN[label]
    shown = {name: options[name] for name in ("sigma", "epsilon", "likelihood") if name in options}
    chosen = ", ".join([*(f"{name} {value:g}" for name, value in {**fields, **shown}.items()), decoder])
    chosen += ", other confidence" if confidence == "other" else ""
    means = (f"{mean_interval(part[metric].to_numpy())[0]:.{2 if 'error' in metric else 1}f}" for metric in SHOWN)
    return f"| {label} | {chosen} | {' | '.join(means)} |"
