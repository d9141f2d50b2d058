"""The second study's tables in Markdown, for README and RESULTS.md: the committed records in, text out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from hdmlib.experiments.record import Record
from hdmlib.study.analysis import final_scores
from hdmlib.study.choice import wider
from hdmlib.study.claims import (
    FIGURE_1,
    claim_lines,
    difference_lines,
    differences,
    fig2_by_rate,
    in_markdown,
    wobbles,
)
from hdmlib.study.grounds import COMPARED, GROUNDS, PEOPLE, PRETRAINED_LONG, TAKEN_APART, Ground, taken_apart, verdict
from hdmlib.study.results import published_of
from hdmlib.study.rules import FIG2_RATE_SEEDS, FIG2_SEEDS, METRICS, SEEDS, SUBJECTS, WHY_COMPARED, axes_of
from hdmlib.study.stages import second_fig2, second_fig2_mpii, second_fig2_rates


def second_text() -> str:
    """README's tables of the second study in Markdown, from the committed records alone."""
    people = PEOPLE.finals()
    judged = differences(people, {**METRICS, **FIGURE_1}, views=PEOPLE.views)
    lines = [*claim_lines(judged, published_of(second_fig2()), SUBJECTS, "notebooks/"), ""]
    for ground in GROUNDS:
        lines += [*score_lines(ground, ground.finals()), ""]
    for ground in (PRETRAINED_LONG, *TAKEN_APART.values()):
        lines += _score_table(ground, ground.finals())
    return "\n".join(lines)


def every_difference_text() -> str:
    """The tables behind :func:`second_text`: on every ground each difference with its interval and outcome."""
    lines = []
    for ground in GROUNDS:
        records = ground.finals()
        seeds = min(map(len, records.values()), default=0)
        if seeds < len(ground.seeds):
            continue
        lines += [f"## On {ground.name}", "", f"With the 95 % interval over {seeds} seeds.", ""]
        for label, references in COMPARED.items():
            lines += [*_difference_lines(ground, records, label, references), ""] if label in records else []
    for ground in TAKEN_APART:
        both, records = taken_apart(ground)
        lines += [
            f"## On {ground.name}: the sum taken apart",
            "",
            f"With the 95 % interval over {len(SEEDS)} seeds.",
            "",
        ]
        for label, reference in WHY_COMPARED.items():
            lines += [*_difference_lines(both, records, label, [reference]), ""] if label in records else []
    return "\n".join([*lines, *_rate_lines(), "", *_mpii_lines()])


def _rate_lines() -> list[str]:
    """:func:`fig2_by_rate` in Markdown, from the committed records."""
    runs = {**published_of(second_fig2(FIG2_RATE_SEEDS)), **published_of(second_fig2_rates())}
    table = fig2_by_rate(runs)
    return [
        "## Fig. 2 at other constant rates",
        "",
        f"`PCKh@0.5` and validation loss from epoch 2 to 15, {len(FIG2_RATE_SEEDS)} seeds; p is that of Fisher's exact "
        "test against the Gaussian at the same factor.",
        "",
        "| loss | times the tuned rate | epochs with a lower loss | of these with a lower PCKh | p | PCKh at the end |",
        "| --- |" + " --- |" * 5,
        *(
            f"| {row['label']} | {row['factor']:g} | {row['fell']} | {row['worse']} | {row['p']:.3f} | "
            f"{row['score']:.1f} |"
            for row in table.reset_index().to_dict("records")
        ),
    ]


def _mpii_lines() -> list[str]:
    """Fig. 2 in MPII's format in Markdown, from the committed records."""
    runs, score = published_of(second_fig2_mpii()), "PCKh@0.5"
    ends = final_scores(runs).groupby("label")[score].mean()
    table = wobbles(runs, score).assign(end=ends).rename_axis("label")
    return [
        "## Fig. 2 in MPII's format",
        "",
        f"`{score}` and validation loss from epoch 2 to 15, {len(FIG2_SEEDS)} seeds, the tuned constant rate; p is "
        "that of Fisher's exact test against the Gaussian.",
        "",
        "| loss | epochs with a lower loss | of these with a lower PCKh | p | PCKh at the end |",
        "| --- |" + " --- |" * 4,
        *(
            f"| {row['label']} | {row['fell']} | {row['worse']} | {row['p']:.3f} | {row['end']:.1f} |"
            for row in table.reset_index().to_dict("records")
        ),
    ]


def score_lines(ground: Ground, records: Mapping[str, Sequence[Record]]) -> list[str]:
    """The scores on one ground in Markdown and, with all seeds, the verdict about the sum."""
    if not records:
        return [f"On {ground.name}: prepared, with what was chosen above; not run."]
    table, seeds = _score_table(ground, records), min(map(len, records.values()))
    if seeds < len(ground.seeds):
        asked = len(ground.seeds)
        return [*table, f"Seeds run: {seeds} of the {asked} that the rules ask for; there is no verdict yet."]
    judged = [_verdict_line(ground, records, "the sum", "Is the sum better than each, by the rule fixed in advance?")]
    if wider("the sum") in records:
        judged += ["", _verdict_line(ground, records, wider("the sum"), "And twice as wide, than each twice as wide?")]
    return [*table, *judged]


def _verdict_line(ground: Ground, records: Mapping[str, Sequence[Record]], label: str, question: str) -> str:
    better, against = verdict(records, ground, label)
    why = "".join(f"; {reason}: {', '.join(which)}" for reason, which in against.items() if which)
    why = re.sub(r"PCKh@[\d.]+", lambda found: in_markdown(found[0]), why)
    return f"{question} **{'Yes' if better else 'No'}**{why}."


def _score_table(ground: Ground, records: Mapping[str, Sequence[Record]]) -> list[str]:
    seeds, shown = min(map(len, records.values())), list(ground.sum_metrics)
    scores = ground.views(records)["own"].groupby("label", sort=False)
    means = "one seed" if seeds == 1 else f"mean over {seeds} seeds"
    return [
        f"| {ground.name}, {means} | trials | chosen | {' | '.join(map(in_markdown, shown))} |",
        "| --- | --- | --- |" + " --- |" * len(shown),
        *(_score_line(str(label), ground, part[shown].mean().to_dict()) for label, part in scores),
        "",
    ]


def chosen_words(ground: Ground, label: str) -> str:
    """``lr 0.048*, epsilon 0.05, dark``: what a tuning chose, in words for a table; * marks the end of a grid."""
    setting, decoder, confidence = ground.chosen[label]
    values, ends = axes_of(setting), ground.ends(label)
    words = [*(f"{name} {value:g}{'*' * (name in ends)}" for name, value in values.items()), decoder]
    return ", ".join(words if confidence == "own" else [*words, "other confidence"])


def _score_line(label: str, ground: Ground, means: Mapping[Any, float]) -> str:
    trials = ground.trials().get(label, 0)
    cells = (f"{value:.{2 if metric in ('mean error', 'NME') else 1}f}" for metric, value in means.items())
    return f"| {label} | {trials} | {chosen_words(ground, label)} | {' | '.join(cells)} |"


def _difference_lines(
    ground: Ground, records: Mapping[str, Sequence[Record]], label: str, references: Sequence[str]
) -> list[str]:
    """:func:`difference_lines` of one label from each reference, own and same."""
    tables = {reference: ground.minus(records, reference) for reference in references}
    columns = {
        f"{reference}, {view}": tables[reference].loc[view].loc[label]
        for reference, view in product(references, ("own", "same"))
    }
    return difference_lines(f"{label} minus", columns, ground.metrics)
