"""The grounds of the second study: on whom the losses are compared, their finals, and the verdict about the sum.

*own* reads each loss's heatmaps as its tuning chose, *same* all of them by one decoder and one confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, product
from typing import Any

import pandas as pd

from hdmlib.experiments.record import Record
from hdmlib.experiments.store import Store
from hdmlib.losses.registry import LOSSES
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
from hdmlib.study.claims import differences
from hdmlib.study.rules import (
    COSTLY_SEEDS,
    FACES_METRICS,
    FACES_SUM_METRICS,
    FINALISTS,
    METRICS,
    MUST_HOLD,
    PRETRAINED_LONG_SEEDS,
    SAME_CONFIDENCE,
    SAME_DECODER,
    SEEDS,
    SUM_METRICS,
    axes_of,
    sum_is_better,
)
from hdmlib.study.stages import STAGES, Trial

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
