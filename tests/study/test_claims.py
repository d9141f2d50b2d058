"""The results on the pages are those of the committed records, recomputed here; and the counting behind them."""

import itertools

import pandas as pd
import pytest

from hdmlib.paths import PROJECT_ROOT
from hdmlib.study import records_of
from hdmlib.study.claims import claims_text, differences, wobbles
from hdmlib.study.rules import GRIDS, TRIALS, outcome
from hdmlib.study.stages import finals

RESULTS = PROJECT_ROOT / "notebooks" / "RESULTS.md"


def test_the_earlier_tables_are_those_of_the_records():
    stated = RESULTS.read_text().partition("<!-- claims -->\n")[2].partition("<!-- /claims -->")[0]
    assert stated.rstrip() == claims_text().rstrip(), "python notebooks/refresh.py README writes them anew"


def test_differences_are_paired_by_seed():
    records = records_of(finals())
    found = differences(records, {"AP": 1}).loc[("own", "matching", "AP")]
    by_seed = {
        label: pd.Series({r.identity["seed"]: r.final.metrics["AP"] for r in records[label]})
        for label in ("matching", "gaussian_mse")
    }
    paired = by_seed["matching"] - by_seed["gaussian_mse"]
    assert found["difference"] == pytest.approx(paired.mean())
    assert found["low"] < paired.mean() < found["high"]
    assert found["seeds"] == len(paired) == 5


def test_wobbles_count_epochs_whose_loss_fell_and_whose_score_fell_too():
    records = records_of(finals())
    fell = worse = 0
    for record in records["gaussian_mse"]:
        epochs = record.epochs[2:16]
        for before, after in itertools.pairwise(epochs):
            if after.validation.losses["gaussian_mse"] < before.validation.losses["gaussian_mse"]:
                fell += 1
                worse += after.validation.metrics["PCKh@0.5"] < before.validation.metrics["PCKh@0.5"]
    counted = wobbles(records).loc["gaussian_mse"]
    assert (counted["fell"], counted["worse"]) == (fell, worse)
    assert counted["p"] == 1


@pytest.mark.parametrize(
    ("low", "high", "direction", "expected"),
    [
        (0.1, 2.0, 1, "holds"), (-2.0, -0.1, 1, "fails"), (-0.1, 0.1, 1, "undecided"),
        (0.1, 2.0, -1, "fails"), (-2.0, -0.1, -1, "holds"), (-1.0, 0.0, 1, "undecided"),
    ],
)  # fmt: skip
def test_outcomes(low, high, direction, expected):
    assert outcome(low, high, direction) == expected


def test_every_loss_starts_with_the_same_number_of_trials():
    assert {label: len(grid) for label, grid in GRIDS.items()} == dict.fromkeys(GRIDS, TRIALS)
