"""The second study, judged by its rules: the records of its finals in, tables and the verdict out.

*own* reads each loss's heatmaps as its tuning chose, *same* all of them by one decoder and one confidence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, product
from typing import Any

import pandas as pd

from hdmlib.experiments.record import Record
from hdmlib.experiments.store import Store
from hdmlib.losses.registry import LOSSES
from hdmlib.study.analysis import final_scores
from hdmlib.study.choice import (
    CHOSEN,
    CHOSEN_FOR_LARGE,
    CHOSEN_ON_FACES,
    CHOSEN_ON_PHOTOS,
    CHOSEN_PRETRAINED,
    CHOSEN_WHY,
    CHOSEN_WHY_ON_FACES,
    CHOSEN_WHY_ON_PHOTOS,
    Choice,
    read_as,
    wider,
)
from hdmlib.study.claims import FIGURE_1, claim_lines, difference_lines, differences, in_markdown, wobbles
from hdmlib.study.results import published_of
from hdmlib.study.rules import (
    COSTLY_SEEDS,
    FACES_METRICS,
    FACES_SUM_METRICS,
    FIG2_RATE_FACTORS,
    FIG2_RATE_SEEDS,
    FIG2_SEEDS,
    FINALISTS,
    METRICS,
    MUST_HOLD,
    PRETRAINED_LONG_SEEDS,
    SAME_CONFIDENCE,
    SAME_DECODER,
    SEEDS,
    SUBJECTS,
    SUM_METRICS,
    WHY_COMPARED,
    axes_of,
    sum_is_better,
)
from hdmlib.study.stages import (
    FIG2_LABELS,
    STAGES,
    Trial,
    at_rate,
    second_fig2,
    second_fig2_mpii,
    second_fig2_rates,
)

# What is compared with what: label -> references.
COMPARED = {
    "the letter": ("gaussian_mse",),
    "matching": ("gaussian_mse", "cross_entropy"),
    "the sum": ("gaussian_mse", "cross_entropy", "matching"),
    wider("matching"): (wider("gaussian_mse"), "cross_entropy"),
    wider("the sum"): (wider("gaussian_mse"), "cross_entropy", wider("matching")),
}


@dataclass(frozen=True, eq=False)
class Ground:
    """People on whom the losses are compared.

    Attributes:
        name: Who they are, for a heading.
        tuning: The stages of its tuning.
        stage: The stage of its finals.
        chosen: Label -> what its tuning chose.
        metrics: What is judged -> 1 if larger is better, -1 if smaller is; the rules' calibration is ``ECE``.
        sum_metrics: What is judged -> what it is to the rule about the sum.
        seeds: Of its finals.
    """

    name: str
    tuning: tuple[str, ...]
    stage: str
    chosen: Mapping[str, Choice]
    metrics: Mapping[str, int]
    sum_metrics: Mapping[str, str]
    seeds: Sequence[int] = SEEDS

    @cached_property
    def tried(self) -> dict[str, list[Trial]]:
        """Label -> the trials of its tuning."""
        found: dict[str, list[Trial]] = {}
        for trial in chain.from_iterable(STAGES[stage]() for stage in self.tuning):
            found.setdefault(trial.label.partition(":")[0], []).append(trial)
        return found

    def trials(self) -> dict[str, int]:
        """Label -> how many trials its tuning had."""
        return {label: len(trials) for label, trials in self.tried.items()}

    def ends(self, label: str) -> set[str]:
        """What was tuned of a label and chosen at the end of its grid: a value beyond it may be better."""
        chosen = axes_of(self.chosen[label].setting)
        settings = [{**dict(trial.config), **trial.config.loss_options} for trial in self.tried.get(label, ())]
        tried = {name: {setting[name] for setting in settings} for name in chosen}
        found = {name: (min(values), max(values)) for name, values in tried.items() if len(values) > 1}
        return {name for name, ends in found.items() if chosen[name] in ends}

    def finals(self) -> dict[str, list[Record]]:
        """Label -> its published finals, of the seeds that every label has; empty before the first such seed."""
        complete: dict[str, list[Record]] = {}
        for seed in self.seeds:
            trials = list(STAGES[self.stage]([seed]))
            runs = [Store.of(trial.config).find_published(trial.config) for trial in trials]
            found = {trial.label: run.record for trial, run in zip(trials, runs, strict=True) if run is not None}
            if len(found) == len(trials):
                for label, record in found.items():
                    complete.setdefault(label, []).append(record)
        return complete

    def views(self, records: Mapping[str, Sequence[Record]]) -> dict[str, pd.DataFrame]:
        """The scores of each run as it is read ``own`` and ``same``.

        Args:
            records: Label of ``chosen`` -> runs that differ in the seed.

        Returns:
            View -> one row a run: ``label``, ``seed``, the metrics and, for ``own`` alone, the heatmaps' measures.
        """
        rows: dict[str, list[dict[str, Any]]] = {"own": [], "same": []}
        for label, runs in records.items():
            for record in runs:
                run = {"label": label, "seed": record.identity["seed"]}
                measures = {f"map: {name}": value for name, value in record.final.measures.items()}
                rows["own"].append(run | read_as(record, *self.chosen[label][1:]) | measures)
                rows["same"].append(run | _read_as_all(record))
        return {view: pd.DataFrame(found) for view, found in rows.items()}

    def minus(self, records: Mapping[str, Sequence[Record]], reference: str) -> pd.DataFrame:
        """:func:`~hdmlib.study.claims.differences` of every label from a reference, in what is judged here."""
        return differences(records, self.metrics, reference, self.views)


CALIBRATION = {"ECE": -1}
PEOPLE = Ground("500 embedded people", ("second_tuning",), "second_finals", CHOSEN, METRICS | CALIBRATION, SUM_METRICS)
PHOTOS = Ground(
    "250 photos of people (LSP Extended)", ("second_photo_tuning",), "second_photos", CHOSEN_ON_PHOTOS,
    METRICS | CALIBRATION, SUM_METRICS,
)  # fmt: skip
FACES = Ground(
    "482 faces (68 automatic points)", ("second_face_tuning",), "second_faces", CHOSEN_ON_FACES,
    FACES_METRICS | CALIBRATION, FACES_SUM_METRICS,
)  # fmt: skip
# What the tuning on embedded people chose, as it is: trained three times as long, and with four times the cells. There
# the losses that have lengths stand a second time, twice as wide; the rule about the sum does not speak of them.
LONG = Ground(
    "500 embedded people, three times the training", ("second_tuning",), "second_long",
    {label: CHOSEN[label] for label in FINALISTS}, METRICS | CALIBRATION, SUM_METRICS, COSTLY_SEEDS,
)  # fmt: skip
LARGE = Ground(
    "500 embedded people, 192 x 192 pixels", ("second_tuning",), "second_large",
    CHOSEN_FOR_LARGE, METRICS | CALIBRATION, SUM_METRICS, COSTLY_SEEDS,
)  # fmt: skip
# A network that starts from ImageNet weights, on the photos.
PRETRAINED = Ground(
    "250 photos of people, EfficientNet-Lite0 from ImageNet weights", ("second_pretrained_tuning",),
    "second_pretrained", CHOSEN_PRETRAINED, METRICS | CALIBRATION, SUM_METRICS, COSTLY_SEEDS,
)  # fmt: skip
# The same with twice the training: one seed, which decides nothing.
PRETRAINED_LONG = replace(
    PRETRAINED, name="250 photos of people, EfficientNet-Lite0, twice the training", stage="second_pretrained_long",
    seeds=PRETRAINED_LONG_SEEDS,
)  # fmt: skip
# What the sum is taken apart into, on people that had been looked at.
WHY = Ground(
    "500 embedded people, two losses added later", ("second_why_tuning",), "second_why", CHOSEN_WHY,
    METRICS | CALIBRATION, SUM_METRICS,
)  # fmt: skip
WHY_PHOTOS = Ground(
    "250 photos of people, a loss added later", ("second_photo_why_tuning",), "second_photo_why", CHOSEN_WHY_ON_PHOTOS,
    METRICS | CALIBRATION, SUM_METRICS,
)  # fmt: skip
WHY_FACES = Ground(
    "482 faces, a loss added later", ("second_face_why_tuning",), "second_face_why", CHOSEN_WHY_ON_FACES,
    FACES_METRICS | CALIBRATION, FACES_SUM_METRICS,
)  # fmt: skip
# Where it is taken apart -> into what; no rule asks for a verdict.
TAKEN_APART = {PEOPLE: WHY, PHOTOS: WHY_PHOTOS, FACES: WHY_FACES}
GROUNDS = (PEOPLE, PHOTOS, FACES, LONG, LARGE, PRETRAINED)


def _read_as_all(record: Record) -> dict[str, float]:
    own = LOSSES[record.identity["loss"]].confidence == SAME_CONFIDENCE
    return read_as(record, SAME_DECODER, "own" if own else "other")


def verdict(
    records: Mapping[str, Sequence[Record]], ground: Ground = PEOPLE, label: str = "the sum"
) -> tuple[bool, dict[str, list[str]]]:
    """Whether the sum is better than every other loss, as the rules ask.

    Args:
        records: Label -> finals on the ground.
        ground: Where.
        label: The sum, or another key of :data:`COMPARED` that is judged by the same rule.

    Returns:
        The verdict, and what speaks against it, each comparison with its views: ``undecided`` of what must hold and
        ``on the bad side`` of all that is judged -> ``ECE against cross_entropy (own, same)``.
    """
    others = COMPARED[label]
    tables = {other: ground.minus(records, other)["outcome"] for other in others}
    found, against = {}, {"undecided": [], "on the bad side": []}
    for other, (metric, role) in product(others, ground.sum_metrics.items()):
        outcomes = {view: str(tables[other][view, label, metric]) for view in ("own", "same")}
        found |= {(other, view, role): outcome for view, outcome in outcomes.items()}
        for reason, word in (("undecided", "undecided"), ("on the bad side", "fails")):
            views = [view for view, outcome in outcomes.items() if outcome == word]
            if views and (word == "fails" or role in MUST_HOLD):
                against[reason].append(f"{metric} against {other} ({', '.join(views)})")
    return sum_is_better(found, others), against


def taken_apart(ground: Ground) -> tuple[Ground, dict[str, list[Record]]]:
    """A ground with what the sum is taken apart into there beside its own losses, and the published finals of all."""
    parts = TAKEN_APART[ground]
    both = replace(ground, tuning=ground.tuning + parts.tuning, chosen={**ground.chosen, **parts.chosen})
    return both, {**ground.finals(), **parts.finals()}


def fig2_by_rate(
    records: Mapping[str, Sequence[Record]], metric: str = "PCKh@0.5", first: int = 2, last: int = 15
) -> pd.DataFrame:
    """Fig. 2 at every constant rate, the tuned one among them.

    Args:
        records: Label of ``second_fig2`` and ``second_fig2_rates`` -> runs of the same seeds.
        metric: The score.
        first, last: Epochs, both included.

    Returns:
        Index label and factor of the tuned rate; columns of :func:`~hdmlib.study.claims.wobbles`, whose test is against
        the Gaussian at the same factor, and ``score``, the mean over the seeds after the last epoch.
    """
    parts = {}
    for factor in sorted((1.0, *FIG2_RATE_FACTORS)):
        at_factor = {label: records[at_rate(label, factor)] for label in FIG2_LABELS}
        score = final_scores(at_factor).groupby("label")[metric].mean()
        parts[factor] = wobbles(at_factor, metric, first, last).assign(score=score)
    table = pd.concat(parts, names=["factor", "label"]).swaplevel()
    return table.loc[[(label, factor) for label in FIG2_LABELS for factor in parts]]


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
    return [
        "## Fig. 2 in MPII's format",
        "",
        f"`{score}` and validation loss from epoch 2 to 15, {len(FIG2_SEEDS)} seeds, the tuned constant rate; p is "
        "that of Fisher's exact test against the Gaussian.",
        "",
        "| loss | epochs with a lower loss | of these with a lower PCKh | p | PCKh at the end |",
        "| --- |" + " --- |" * 4,
        *(
            f"| {label} | {row['fell']:.0f} | {row['worse']:.0f} | {row['p']:.3f} | {ends[label]:.1f} |"
            for label, row in wobbles(runs, score).iterrows()
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
