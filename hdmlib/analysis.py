"""From the records of a study to the numbers that a claim is judged by. Records in, tables out; nothing is trained.

Runs of one seed saw the same people in the same order, so losses are compared within a seed: differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr, t

from hdmlib.records import Record

TERMS = ("gaussian_mse", "dot_mse", "cross", "constant")


def curves(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run and epoch.

    Returns:
        Columns ``loss`` and ``seed`` (the run), ``epoch``, ``own loss`` (the validation loss that the run minimises),
        every metric, and every measure of the heatmaps under its name with ``map: `` before it.
    """
    rows = []
    for record in records:
        loss = record.identity["loss"]
        for line in record.epochs:
            seen = line.validation
            measures = {f"map: {name}": value for name, value in seen.measures.items()}
            row = {"loss": loss, "seed": record.identity["seed"], "epoch": line.epoch, "own loss": seen.losses[loss]}
            rows.append({**row, **seen.metrics, **measures})
    return pd.DataFrame(rows)


def final_metrics(records: Iterable[Record], decoder: str | None = None) -> pd.DataFrame:
    """One row per run: its metrics after the last epoch, as its own decoder reads the heatmaps or the one named."""
    rows = []
    for record in records:
        metrics = record.final.metrics if decoder is None else record.by_decoder[decoder]
        measures = {f"map: {name}": value for name, value in record.final.measures.items()}
        rows.append({"loss": record.identity["loss"], "seed": record.identity["seed"], **metrics, **measures})
    return pd.DataFrame(rows)


def by_decoder(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run and decoder: the metrics after the last epoch."""
    return pd.DataFrame(
        {"loss": record.identity["loss"], "seed": record.identity["seed"], "decoder": decoder, **metrics}
        for record in records
        for decoder, metrics in record.by_decoder.items()
    )


def paired_differences(
    table: pd.DataFrame, metrics: Sequence[str], reference: str, level: float = 0.95
) -> pd.DataFrame:
    """What each loss is better or worse by than the reference, seed by seed.

    Args:
        table: As :func:`final_metrics` gives it.
        metrics: Columns to compare.
        reference: A loss.
        level: Of the interval, Student's t over the seeds.

    Returns:
        Index loss and metric; columns ``difference``, ``low``, ``high`` (NaN with one seed) and ``seeds``.
    """
    rows = {}
    against = table[table["loss"] == reference].set_index("seed")
    for loss, group in table[table["loss"] != reference].groupby("loss", sort=False):
        for metric in metrics:
            differences = (group.set_index("seed")[metric] - against[metric]).dropna().to_numpy()
            rows[loss, metric] = dict(
                zip(("difference", "low", "high"), mean_interval(differences, level), strict=True)
            )
            rows[loss, metric]["seeds"] = len(differences)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["loss", "metric"])


def mean_interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of a few independent values and its confidence interval (Student's t; NaN for a single one)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = t.ppf(0.5 + level / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return mean, mean - float(half), mean + float(half)


def agreement(curve: pd.DataFrame, metric: str, first: int = 2, last: int = 15, draws: int = 2000) -> dict[str, float]:
    """How a run's validation loss and its score go together over the epochs ``first`` to ``last`` (Fig. 2).

    Args:
        curve: The rows of one run, as :func:`curves` gives them.
        metric: The score, larger is better.
        first, last: Epochs, both included.
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
    fell = np.diff(loss) < 0
    worse = fell & (np.diff(score) < 0)
    return {"rho": rho, "low": low, "high": high, "loss fell": int(fell.sum()), "of these worse": int(worse.sum())}
