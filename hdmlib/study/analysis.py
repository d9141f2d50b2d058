"""Records of a study in, tables out: the numbers that a claim is judged by. Nothing is trained here.

Runs of one seed see the same people in the same order, so losses are compared within a seed: differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap, rankdata, t

from hdmlib.experiments.record import Epoch, Evaluation, Record


def curves(records: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """One row per run and epoch.

    Args:
        records: Label -> runs that differ in the seed.

    Returns:
        Columns ``label``, ``seed``, ``epoch``, ``training loss`` (NaN for epoch 0), ``own loss`` (the trained loss on
        the validation people), every metric, and every measure of the heatmaps, its name prefixed with ``map: ``.
    """
    return pd.DataFrame(
        {"label": label, "seed": record.identity["seed"], **row}
        for label, runs in records.items()
        for record in runs
        for row in epoch_rows(record.epochs, record.identity["loss"])
    )


def epoch_rows(epochs: Iterable[Epoch], loss: str) -> Iterator[dict[str, float]]:
    """The columns of :func:`curves` from ``epoch`` on, for the epochs so far of a run that trains ``loss``."""
    for line in epochs:
        training = float("nan") if line.train_loss is None else line.train_loss
        losses = {"training loss": training, "own loss": line.validation.losses[loss]}
        yield {"epoch": line.epoch, **losses, **line.validation.metrics, **_measures(line.validation)}


def final_scores(records: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """One row per run: metrics and measures after the last epoch, as the run's own decoder reads the heatmaps."""
    table = curves(records)
    last = table.groupby(["label", "seed"])["epoch"].transform("max")
    return pd.DataFrame(table[table["epoch"] == last]).reset_index(drop=True)


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


def by_bin(values: Mapping[str, NDArray[np.floating]], bins: NDArray[np.integer], names: Sequence[str]) -> pd.DataFrame:
    """Mean of each label's values in each bin.

    Args:
        values: Label -> array of any shape; NaN is ignored.
        bins: Number of each entry's bin, the same shape; entries with a negative number are ignored.
        names: Names of the bins, in order.

    Returns:
        A row per bin, a column per label; NaN for an empty bin.
    """
    means: dict[str, list[float]] = {}
    for label, array in values.items():
        known = ~np.isnan(array)
        in_bin = (array[known & (bins == number)] for number in range(len(names)))
        means[label] = [float(found.mean()) if found.size else float("nan") for found in in_bin]
    return pd.DataFrame(means, index=list(names))


def paired_differences(
    table: pd.DataFrame, metrics: Sequence[str], reference: str, level: float = 0.95
) -> pd.DataFrame:
    """Difference of each label from a reference label, paired by seed.

    Args:
        table: As :func:`final_scores` returns it.
        metrics: Columns to compare.
        reference: The label to compare with.
        level: Confidence level of the interval, Student's t over the seeds.

    Returns:
        Index label and metric; columns ``difference``, ``low``, ``high`` (NaN with one seed) and ``seeds``.
    """
    names = list(metrics)
    by_label = {
        label: pd.DataFrame(part.set_index("seed")[names]) for label, part in table.groupby("label", sort=False)
    }
    against = by_label.pop(reference)
    parts = {label: mean_intervals(scores - against, level) for label, scores in by_label.items()}
    return pd.concat(parts, names=["label", "metric"])


def mean_intervals(values: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Mean of each column's independent values and its confidence interval.

    The interval is mean +- t s / sqrt(n), with Student's t of n - 1 degrees of freedom.

    Args:
        values: A row a value; NaN is left out.
        level: Confidence level.

    Returns:
        A row a column of ``values``: ``difference``, ``low``, ``high`` (NaN for a single value) and ``seeds``, how many
        values there were.
    """
    mean, count = values.mean(), values.count()
    half = t.ppf((1 + level) / 2, count - 1) * values.sem()
    return pd.DataFrame({"difference": mean, "low": mean - half, "high": mean + half, "seeds": count})


def agreement(
    curve: pd.DataFrame, metric: str, first: int = 2, last: int = 15, *, least: float = 0.0, draws: int = 2000
) -> dict[str, float]:
    """How closely a run's validation loss and its score move together over the epochs ``first`` to ``last`` (Fig. 2).

    Args:
        curve: The rows of one run, as :func:`curves` returns them.
        metric: The score, larger is better.
        first, last: Epochs, both included.
        least: The smallest decrease of the loss that counts, as a share of its range over these epochs.
        draws: Resamples of the bootstrap over epochs, drawn with a fixed seed.

    Returns:
        ``rho``: Spearman's rank correlation of loss and score, -1 if the score rises whenever the loss falls; ``low``
        and ``high``, its 95 % percentile bootstrap interval; ``loss fell``: number of epochs whose loss is below that
        of the previous epoch; ``of these worse``: how many of them have a lower score.
    """
    loss, score = _between(curve, metric, first, last)
    low, high = bootstrap(
        (loss, score), _rank_correlation, paired=True, vectorized=True, n_resamples=draws, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    found = {"rho": float(_rank_correlation(loss, score)), "low": float(low), "high": float(high)}
    return found | wobble(curve, metric, first, last, least=least)


def wobble(curve: pd.DataFrame, metric: str, first: int = 2, last: int = 15, *, least: float = 0.0) -> dict[str, float]:
    """The counts of :func:`agreement` alone: ``loss fell`` and ``of these worse``."""
    loss, score = _between(curve, metric, first, last)
    fell = np.diff(loss) < -least * np.ptp(loss)
    worse = fell & (np.diff(score) < 0)
    return {"loss fell": int(fell.sum()), "of these worse": int(worse.sum())}


def _between(
    curve: pd.DataFrame, metric: str, first: int, last: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Loss and score of the epochs from the first to the last, in order."""
    part = curve.query("@first <= epoch <= @last").sort_values("epoch")
    return part["own loss"].to_numpy(), part[metric].to_numpy()


def _rank_correlation(loss: NDArray[np.floating], score: NDArray[np.floating], axis: int = -1) -> NDArray[np.floating]:
    """Spearman's rho along an axis; 0 where either is constant, as in some resamples of a few epochs."""
    ranks = (rankdata(values, axis=axis) for values in (loss, score))
    x, y = (found - found.mean(axis=axis, keepdims=True) for found in ranks)
    spread = np.sqrt((x**2).sum(axis=axis) * (y**2).sum(axis=axis))
    return np.where(spread > 0, (x * y).sum(axis=axis) / np.where(spread > 0, spread, 1), 0.0)
