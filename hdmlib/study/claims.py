"""The paper's claims, judged by the committed records: records in, a table of differences and outcomes out.

Each claim is judged for two subjects, the supplement's cost and the best variant, and twice: *own*, each loss read by
its own decoder, and *same*, both read by one. An outcome is ``holds``, ``fails`` or ``undecided`` (``rules.outcome``).
The tables of ``notebooks/RESULTS.md`` are :func:`claims_text`, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import pandas as pd
from scipy.stats import fisher_exact

from hdmlib.experiments.record import Record
from hdmlib.metrics.scores import COCO_COLUMNS
from hdmlib.study.analysis import by_decoder, curves, final_scores, paired_differences, wobble
from hdmlib.study.results import records_of
from hdmlib.study.rules import FIG2_RATE_FACTORS, LEVEL, SAME_DECODER, outcome
from hdmlib.study.stages import FIG2_LABELS, at_rate, finals, photos

BASELINE = "gaussian_mse"
SUBJECTS = {"plain distance": "matching, plain distance", "best variant": "matching"}
# Fig. 2: the share of epochs with a lower loss and a lower score from which the two go different ways.
LEAST_SHARE = 0.2
# Metric -> direction in which it is better.
TABLE_1 = dict.fromkeys(COCO_COLUMNS, 1)
LOCALISATION = {"PCKh@0.5": 1, "PCKh@0.1": 1, "mean error": -1}
FIGURE_1 = {"map: entropy": -1, "median error": -1}
NAMES = {
    "map: entropy": "entropy of a heatmap (nats)",
    "mean error": "mean error (px)",
    "median error": "median error (px)",
}


Views = Callable[[Mapping[str, Sequence[Record]]], dict[str, pd.DataFrame]]


def default_views(records: Mapping[str, Sequence[Record]]) -> dict[str, pd.DataFrame]:
    """``own``: scores as each loss's default decoder reads its heatmaps; ``same``: as one decoder reads them all."""
    decoded = by_decoder(records)
    same = pd.DataFrame(decoded[decoded["decoder"] == SAME_DECODER]).reset_index(drop=True)
    return {"own": final_scores(records), "same": same}


def differences(
    records: Mapping[str, Sequence[Record]],
    metrics: Mapping[str, int],
    reference: str = BASELINE,
    views: Views = default_views,
) -> pd.DataFrame:
    """Paired differences of every loss from a reference, over the seeds.

    Args:
        records: Label -> runs that differ in the seed.
        metrics: Metric -> 1 if larger is better, -1 if smaller is.
        reference: Label of the loss to compare with.
        views: Records -> view -> scores, a row a run.

    Returns:
        Index (view, label, metric) with view ``own`` or ``same``; columns ``difference``, ``low``, ``high``, ``seeds``
        and ``outcome``. Measures of the heatmap itself have no ``same`` view.
    """
    tables = {}
    for view, scores in views(records).items():
        table = paired_differences(scores, [name for name in metrics if name in scores], reference, LEVEL)
        table["outcome"] = [
            outcome(low, high, metrics[metric])
            for (_, metric), low, high in zip(table.index, table["low"], table["high"], strict=True)
        ]
        tables[view] = table
    return pd.concat(tables, names=["view"])


def wobbles(
    records: Mapping[str, Sequence[Record]], metric: str = "PCKh@0.5", first: int = 2, last: int = 15
) -> pd.DataFrame:
    """Fig. 2: of the epochs from ``first`` to ``last`` in which a run's validation loss fell, how many scored lower.

    Returns:
        Index label; columns ``fell``, ``worse`` and ``p``, Fisher's exact test against the Gaussian's counts.
    """
    table = curves(records)
    counts = {}
    for label, part in table.groupby("label", sort=False):
        found = [wobble(run, metric, first, last) for _, run in part.groupby("seed")]
        fell, worse = (int(sum(one[name] for one in found)) for name in ("loss fell", "of these worse"))
        counts[label] = {"fell": fell, "worse": worse}
    base = counts[BASELINE]
    for found in counts.values():
        odds = [[found["worse"], found["fell"] - found["worse"]], [base["worse"], base["fell"] - base["worse"]]]
        _, found["p"] = fisher_exact(odds)
    return pd.DataFrame.from_dict(counts, orient="index")


def fig2_by_rate(
    records: Mapping[str, Sequence[Record]], metric: str = "PCKh@0.5", first: int = 2, last: int = 15
) -> pd.DataFrame:
    """Fig. 2 at every constant rate, the tuned one among them.

    Args:
        records: Label of ``second_fig2`` and ``second_fig2_rates`` -> runs of the same seeds.
        metric: The score.
        first, last: Epochs, both included.

    Returns:
        Index label and factor of the tuned rate; columns of :func:`wobbles`, whose test is against
        the Gaussian at the same factor, and ``score``, the mean over the seeds after the last epoch.
    """
    parts = {}
    for factor in sorted((1.0, *FIG2_RATE_FACTORS)):
        at_factor = {label: records[at_rate(label, factor)] for label in FIG2_LABELS}
        score = final_scores(at_factor).groupby("label")[metric].mean()
        parts[factor] = wobbles(at_factor, metric, first, last).assign(score=score)
    table = pd.concat(parts, names=["factor", "label"]).swaplevel()
    return table.loc[[(label, factor) for label in FIG2_LABELS for factor in parts]]


def fig2_outcomes(counts: pd.DataFrame) -> tuple[str, dict[str, str]]:
    """What the counts of :func:`wobbles` say of both halves of Fig. 2.

    Returns:
        Left: the Gaussian's score goes up and down, if it falls in at least one in five of the epochs in which the loss
        falls. Right, for each label: it does so less often than the Gaussian's, by Fisher's exact test.
    """
    found = counts.assign(share=counts["worse"] / counts["fell"].clip(lower=1)).to_dict("index")
    gauss = found[BASELINE]["share"]

    def right(one: Mapping[str, float]) -> str:
        if one["p"] > 1 - LEVEL:
            return "undecided"
        return "holds" if one["share"] < gauss else "fails"

    left = "holds" if gauss >= LEAST_SHARE else "fails"
    return left, {str(label): right(one) for label, one in found.items()}


def claims_text() -> str:
    """The earlier study's tables in Markdown, from the committed records alone: outcomes by claim, every difference."""
    people, on_photos = records_of(finals()), records_of(photos())
    table = differences(people, {**TABLE_1, **LOCALISATION, **FIGURE_1})
    lines = [*claim_lines(table, people, SUBJECTS), "", "Every difference, with its 95 % interval over five seeds:", ""]
    grounds = {"500 embedded people": people, "250 photos (LSP Extended)": on_photos}
    for ground, records in grounds.items():
        lines += [*_subject_lines(f"{ground}, minus the Gaussian", records, {**TABLE_1, **LOCALISATION}), ""]
    return "\n".join([*lines, *_subject_lines("Fig. 1, 500 embedded people, minus the Gaussian", people, FIGURE_1)])


def claim_lines(
    table: pd.DataFrame, trainings: Mapping[str, Sequence[Record]], subjects: Mapping[str, str], folder: str = ""
) -> list[str]:
    """A Markdown table: a row a claim, with its notebook and its outcome for each subject.

    Args:
        table: As :func:`differences` returns it for Tab. 1's columns, PCKh and Fig. 1's measures.
        trainings: Label -> runs that differ in the seed, in whose epochs Fig. 2 is looked for.
        subjects: Name of a subject -> label.
        folder: Of the notebooks, as seen from the page: ``notebooks/``.
    """
    return [
        f"| claim of the paper | notebook | {' | '.join(subjects)} |",
        "| --- | --- |" + " --- |" * len(subjects),
        *(
            f"| {claim} | {notebook} | {' | '.join(found)} |"
            for claim, notebook, found in _claims(table, trainings, subjects, folder)
        ),
    ]


def _claims(
    table: pd.DataFrame, trainings: Mapping[str, Sequence[Record]], subjects: Mapping[str, str], folder: str
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    def of(metrics: Iterable[str], view: str, label: str) -> str:
        found = [table.loc[(view, label, metric), "outcome"] for metric in metrics]
        counts = {kind: found.count(kind) for kind in ("holds", "undecided", "fails") if kind in found}
        return ", ".join(f"{kind} {n} of {len(found)}" if len(found) > 1 else kind for kind, n in counts.items())

    def own_and_same(*metrics: str) -> tuple[str, ...]:
        return tuple(
            f"own: {of(metrics, 'own', label)}; same: {of(metrics, 'same', label)}" for label in subjects.values()
        )

    counts = wobbles(trainings)
    left, rights = fig2_outcomes(counts)
    found = [
        f"{counts.loc[label, 'worse']:.0f} of {counts.loc[label, 'fell']:.0f} epochs" for label in subjects.values()
    ]
    gauss = f"{counts.loc[BASELINE, 'worse']:.0f} of {counts.loc[BASELINE, 'fell']:.0f} epochs"
    figure_2 = f"[03]({folder}03_loss_vs_pckh.ipynb)"
    yield (
        "Fig. 2, left: while the Gaussian's loss falls, PCKh goes up and down", figure_2,
        (f"{left}: PCKh falls in {gauss} with a lower loss",) * len(subjects),
    )  # fmt: skip
    yield (
        "Fig. 2, right: with matching both move together, unlike with the Gaussian", figure_2,
        tuple(
            f"{rights[label]}: in {share} (Fisher's exact test, p = {counts.loc[label, 'p']:.2f})"
            for label, share in zip(subjects.values(), found, strict=True)
        ),
    )  # fmt: skip
    ablation = f"[04]({folder}04_ablation.ipynb)"
    yield "Tab. 1: a higher AP than the Gaussian (paper: +1.7)", ablation, own_and_same("AP")
    if (dot := ("own", "dot_mse", "AP")) in table.index:
        low = {"holds": "fails", "fails": "holds"}.get(table.loc[dot, "outcome"], "undecided")
        lower = f"{low}: lower by {-table.loc[dot, 'difference']:.1f}"
        yield "Tab. 1: the dot far below the Gaussian in AP (paper: 30.5)", ablation, (lower,) * len(subjects)
    yield "Tab. 1: better in all six columns", ablation, own_and_same(*TABLE_1)
    figure_1 = f"[05]({folder}05_qualitative.ipynb)"
    compact = tuple(of(["map: entropy"], "own", label) for label in subjects.values())
    yield "Fig. 1: more compact heatmaps", figure_1, compact
    yield "Fig. 1: closer coordinates (median error)", figure_1, own_and_same("median error")
    yield "finer localisation, `PCKh@0.1` (not claimed)", ablation, own_and_same("PCKh@0.1")
    yield "more joints found, `PCKh@0.5`", ablation, own_and_same("PCKh@0.5")


def _subject_lines(title: str, records: Mapping[str, Sequence[Record]], metrics: Mapping[str, int]) -> list[str]:
    """:func:`difference_lines` of both subjects from the Gaussian, own and, where every metric has it, same."""
    table = differences(records, metrics)
    views = ["own"] if any(metric.startswith("map: ") for metric in metrics) else ["own", "same"]
    columns = {
        f"{subject}, {view}": table.loc[view].loc[label] for subject, label in SUBJECTS.items() for view in views
    }
    return difference_lines(title, columns, metrics)


def difference_lines(title: str, columns: Mapping[str, pd.DataFrame], metrics: Iterable[str]) -> list[str]:
    """A Markdown table: a row a metric, in each column its difference, interval and outcome.

    Args:
        title: Heading of the first column.
        columns: Heading -> index metric, columns as :func:`differences` has them.
        metrics: Those to show.
    """
    lines = [f"| {title} | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for metric in metrics:
        found = (column.loc[metric] for column in columns.values())
        cells = (f"{_difference(one, metric)}: {one['outcome']}" for one in found)
        lines.append(f"| {in_markdown(metric)} | {' | '.join(cells)} |")
    return lines


def in_markdown(metric: str) -> str:
    """A metric's name in a page; as code where GitHub and JupyterLab would take it for an address."""
    return f"`{metric}`" if "PCKh@" in metric else NAMES.get(metric, metric)


def outcome_lines(table: pd.DataFrame, testable: bool = True) -> Iterator[str]:
    """A line a metric, as a notebook prints its verdict: the difference, its interval and the outcome.

    Args:
        table: Index metric, columns as :func:`differences` has them.
        testable: Whether the runs are large enough for an outcome.
    """
    names = [NAMES.get(str(metric), str(metric)) for metric in table.index]
    for (metric, found), name in zip(table.iterrows(), names, strict=True):
        said = found["outcome"] if testable else "not testable at this scale"
        yield f"  {name:{max(map(len, names))}}  measured {_difference(found, str(metric)):28} verdict: {said}"


def _difference(found: pd.Series, metric: str) -> str:
    digits = 2 if "error" in metric or "map" in metric or metric == "NME" else 1
    low, high = (f"{found[name]:+.{digits}f}" for name in ("low", "high"))
    return f"{found['difference']:+.{digits}f} ({low} to {high})"
