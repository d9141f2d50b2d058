"""The second study, judged by its rules: the records of its finals in, README's tables and the verdict out.

*own* reads each loss's heatmaps as its tuning chose, *same* all of them by one decoder and one confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import pandas as pd

from hdmlib.experiments.record import Record
from hdmlib.losses.registry import LOSSES
from hdmlib.study.choice import CHOSEN, Choice, read_as_chosen
from hdmlib.study.claims import FIGURE_1, claim_lines, difference_cell, differences
from hdmlib.study.results import published_of
from hdmlib.study.rules import AXES, METRICS, SAME_CONFIDENCE, SAME_DECODER, SUBJECTS, sum_is_better
from hdmlib.study.stages import second_fig2, second_finals

# The rules' calibration is the expected calibration error.
JUDGED = {**METRICS, "ECE": -1}
SHOWN = ("AP", "PCKh@0.5", "PCKh@0.1", "mean error", "ECE")
# What is compared with what: label -> references.
COMPARED = {
    "the letter": ("gaussian_mse",),
    "matching": ("gaussian_mse", "cross_entropy"),
    "the sum": ("gaussian_mse", "cross_entropy", "matching"),
}


def views(records: Mapping[str, Sequence[Record]]) -> dict[str, pd.DataFrame]:
    """The scores of each run as it is read ``own`` and ``same``.

    Args:
        records: Label of :data:`~hdmlib.study.choice.CHOSEN` -> runs that differ in the seed.

    Returns:
        View -> one row a run: ``label``, ``seed``, the metrics and, for ``own`` alone, the measures of the heatmaps.
    """
    rows = {"own": [], "same": []}
    for label, runs in records.items():
        for record in runs:
            run = {"label": label, "seed": record.identity["seed"]}
            measures = {f"map: {name}": value for name, value in record.final.measures.items()}
            rows["own"].append(run | read_as_chosen(record, CHOSEN[label]) | measures)
            rows["same"].append(run | _read_as_all(record))
    return {view: pd.DataFrame(found) for view, found in rows.items()}


def _read_as_all(record: Record) -> dict[str, float]:
    own = LOSSES[record.identity["loss"]].confidence == SAME_CONFIDENCE
    return (record.by_decoder if own else record.other_confidence)[SAME_DECODER]


def verdict(records: Mapping[str, Sequence[Record]]) -> tuple[bool, list[str]]:
    """Whether the sum is better than every other loss, as the rules ask.

    Returns:
        The verdict, and each comparison on the bad side: ``calibration against cross_entropy (own)``.
    """
    label, others = "the sum", COMPARED["the sum"]
    found: dict[tuple[str, str, str], str] = {}
    for other in others:
        judged = differences(records, JUDGED, other, views).xs(label, level="label").reset_index()
        for row in judged.to_dict("records"):
            name = "calibration" if row["metric"] == "ECE" else row["metric"]
            found[other, row["view"], name] = row["outcome"]
    bad = [f"{metric} against {other} ({view})" for (other, view, metric), one in found.items() if one == "fails"]
    return sum_is_better(found, others), bad


def second_text() -> str:
    """README's tables of the second study in Markdown, from the committed records alone."""
    records = published_of(second_finals())
    judged = differences(records, {**METRICS, **FIGURE_1}, views=views)
    lines = [*claim_lines(judged, published_of(second_fig2()), SUBJECTS), ""]
    lines += [f"| loss, mean over {_seeds(records)} seeds | chosen | {' | '.join(SHOWN)} |"]
    lines += ["| --- | --- |" + " --- |" * len(SHOWN)]
    lines += [_score_line(str(label), part) for label, part in views(records)["own"].groupby("label", sort=False)]
    better, bad = verdict(records)
    why = f"; on the bad side: {', '.join(bad)}" if bad else ""
    lines += [
        "",
        f"Is the sum better than each, by the rule fixed in advance? **{'Yes' if better else 'No'}**{why}.",
        "",
    ]
    lines += [f"<details><summary>Every difference, with its 95 % interval over {_seeds(records)} seeds</summary>", ""]
    for label, references in COMPARED.items():
        lines += [*_difference_lines(records, label, references), ""]
    return "\n".join([*lines, "</details>"])


def _seeds(records: Mapping[str, Sequence[Record]]) -> int:
    return min(map(len, records.values()))


def chosen_words(choice: Choice) -> str:
    """``lr 0.004, sigma 0.75, dark``: what a tuning chose, in words for a table."""
    (_, options, fields), decoder, confidence = choice
    values = {**fields, **{name: options[name] for name in AXES if name in options}}
    words = [*(f"{name} {value:g}" for name, value in values.items()), decoder]
    return ", ".join(words if confidence == "own" else [*words, "other confidence"])


def _score_line(label: str, part: pd.DataFrame) -> str:
    means = (f"{part[metric].mean():.{2 if 'error' in metric else 1}f}" for metric in SHOWN)
    return f"| {label} | {chosen_words(CHOSEN[label])} | {' | '.join(means)} |"


def _difference_lines(records: Mapping[str, Sequence[Record]], label: str, references: Sequence[str]) -> list[str]:
    """A Markdown table of one label: a row a metric, for each reference own and same."""
    tables = {reference: differences(records, JUDGED, reference, views) for reference in references}
    columns = list(product(references, ("own", "same")))
    lines = [f"| {label}, less | {' | '.join(f'{reference}, {view}' for reference, view in columns)} |"]
    lines.append("| --- |" + " --- |" * len(columns))
    for metric in JUDGED:
        cells = (difference_cell(tables[reference].loc[(view, label, metric)], metric) for reference, view in columns)
        lines.append(f"| {metric} | {' | '.join(cells)} |")
    return lines
