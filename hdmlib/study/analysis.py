"""From the records of a study to the numbers that a claim is judged by. Records in, tables out; nothing is trained.

Runs of one seed saw the same people in the same order, so losses are compared within a seed: differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr, t

from hdmlib.data.dataset import PoseDataset
from hdmlib.experiments.record import Evaluation, Record
from hdmlib.metrics.scores import PCKReference


def curves(records: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """One row per run and epoch.

    Args:
        records: Label -> runs that differ in the seed.

    Returns:
        Columns ``label``, ``seed``, ``epoch``, ``own loss`` (the validation loss that the run minimises), every metric,
        and every measure of the heatmaps under its name with ``map: `` before it.
    """
    rows = []
    for label, runs in records.items():
        for record in runs:
            for line in record.epochs:
                own = line.validation.losses[record.identity["loss"]]
                run = {"label": label, "seed": record.identity["seed"], "epoch": line.epoch, "own loss": own}
                rows.append({**run, **line.validation.metrics, **_measures(line.validation)})
    return pd.DataFrame(rows)


def final_scores(records: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """One row per run: metrics and measures after the last epoch, as the run's own decoder reads the heatmaps."""
    table = curves(records)
    return table[table["epoch"] == table.groupby(["label", "seed"])["epoch"].transform("max")].reset_index(drop=True)


def by_decoder(records: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """One row per run and decoder: columns ``label``, ``seed``, ``decoder`` and the metrics after the last epoch."""
    return pd.DataFrame(
        {"label": label, "seed": record.identity["seed"], "decoder": decoder, **metrics}
        for label, runs in records.items()
        for record in runs
        for decoder, metrics in record.by_decoder.items()
    )


def _measures(evaluation: Evaluation) -> dict[str, float]:
    return {f"map: {name}": value for name, value in evaluation.measures.items()}


def joint_errors(people: PoseDataset, joints: NDArray[np.floating], ruler: PCKReference) -> NDArray[np.float64]:
    """Distance of each predicted joint from its annotation in the lengths of the ruler.

    Args:
        people: N people.
        joints: (N, K, 2) predictions in pixels of each person's photo.
        ruler: What PCK is measured with.

    Returns:
        (N, K), NaN where a joint is not labelled or the person has no such length.
    """
    errors = np.linalg.norm(joints - people.joints, axis=2) / ruler.lengths[:, None]
    return np.where(people.visibility > 0, errors, np.nan)


def by_bin(values: Mapping[str, NDArray[np.floating]], bins: NDArray[np.integer], names: Sequence[str]) -> pd.DataFrame:
    """Mean of each label's values in each bin.

    Args:
        values: Label -> array of any shape; NaN is left out.
        bins: Number of the bin of each entry, the same shape; a negative number for none.
        names: Of the bins, in order.
    """
    means: dict[str, list[float]] = {}
    for label, array in values.items():
        known = ~np.isnan(array)
        in_bin = (array[known & (bins == number)] for number in range(len(names)))
        means[label] = [float(found.mean()) if found.size else float("nan") for found in in_bin]
    return pd.DataFrame(means, index=list(names))


def reliability(confidence: NDArray[np.floating], found: NDArray[np.bool_], bins: int = 10) -> pd.DataFrame:
    """How often a joint of a given confidence is found: equal, if the confidence is a probability.

    Args:
        confidence: Any shape; above 1, as the peak of a heatmap may be, counts as 1.
        found: Whether each of them is, the same shape.
        bins: Equal parts of 0 to 1.

    Returns:
        A row per bin that is not empty: mean ``confidence``, share ``found``, number of ``joints``.
    """
    sure = np.clip(np.ravel(confidence), 0, 1)
    table = pd.DataFrame({"confidence": sure, "found": np.ravel(found), "joints": 1})
    number = np.minimum((sure * bins).astype(int), bins - 1)
    return table.groupby(number).agg({"confidence": "mean", "found": "mean", "joints": "sum"})


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error (Guo et al., ICML 2017), from 0 to 1, of a table of :func:`reliability`."""
    return float(np.average((table["confidence"] - table["found"]).abs(), weights=table["joints"]))


def paired_differences(
    table: pd.DataFrame, metrics: Sequence[str], reference: str, level: float = 0.95
) -> pd.DataFrame:
    """What each label is better or worse by than the reference, seed by seed.

    Args:
        table: As :func:`final_scores` gives it.
        metrics: Columns to compare.
        reference: A label.
        level: Of the interval, Student's t over the seeds.

    Returns:
        Index label and metric; columns ``difference``, ``low``, ``high`` (NaN with one seed) and ``seeds``.
    """
    rows = {}
    against = table[table["label"] == reference].set_index("seed")
    for label, group in table[table["label"] != reference].groupby("label", sort=False):
        for metric in metrics:
            differences = (group.set_index("seed")[metric] - against[metric]).dropna().to_numpy()
            rows[label, metric] = dict(
                zip(("difference", "low", "high"), mean_interval(differences, level), strict=True)
            )
            rows[label, metric]["seeds"] = len(differences)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["label", "metric"])


def mean_interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of a few independent values and its confidence interval (Student's t; NaN for a single one)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = t.ppf(0.5 + level / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return mean, mean - float(half), mean + float(half)


def agreement(
    curve: pd.DataFrame, metric: str, first: int = 2, last: int = 15, *, least: float = 0.0, draws: int = 2000
) -> dict[str, float]:
    """How a run's validation loss and its score go together over the epochs ``first`` to ``last`` (Fig. 2).

    Args:
        curve: The rows of one run, as :func:`curves` gives them.
        metric: The score, larger is better.
        first, last: Epochs, both included.
        least: By how much the loss must fall to have fallen, as a share of its range over these epochs.
        draws: Of the bootstrap over epochs, with a fixed seed.

    Returns:
        ``rho``: Spearman's rank correlation of loss and score, -1 if the score rises whenever the loss falls; ``low``
        and ``high``, its 95 % bootstrap interval; ``loss fell``: number of epochs whose loss is below that of the one
        before; ``of these worse``: how many of them have a lower score.
    """
    part = curve[(curve["epoch"] >= first) & (curve["epoch"] <= last)].sort_values("epoch")
    loss, score = part["own loss"].to_numpy(), part[metric].to_numpy()
    rho = spearmanr(loss, score).statistic
    picks = np.random.default_rng(0).integers(len(loss), size=(draws, len(loss)))
    drawn = [spearmanr(loss[p], score[p]).statistic for p in picks if len(set(loss[p])) > 1 and len(set(score[p])) > 1]
    low, high = np.percentile(drawn, [2.5, 97.5])
    fell = np.diff(loss) < -least * np.ptp(loss)
    worse = fell & (np.diff(score) < 0)
    return {"rho": rho, "low": low, "high": high, "loss fell": int(fell.sum()), "of these worse": int(worse.sum())}
