"""What is made of records: on made-up curves whose answers are known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from hdmlib.config import make_config
from hdmlib.experiments.runs import record_of
from hdmlib.experiments.store import Store
from hdmlib.study.analysis import (
    agreement,
    by_bin,
    by_decoder,
    curves,
    final_scores,
    mean_intervals,
    paired_differences,
)


def run(loss, score):
    return pd.DataFrame({"epoch": np.arange(len(loss)), "own loss": loss, "PCKh@0.5": score})


def test_a_score_that_rises_whenever_the_loss_falls():
    found = agreement(run(np.linspace(5, 1, 16), np.linspace(10, 80, 16)), "PCKh@0.5")
    assert found == pytest.approx({"rho": -1, "low": -1, "high": -1, "loss fell": 13, "of these worse": 0})


def test_a_loss_that_falls_while_the_score_goes_up_and_down():
    score = np.where(np.arange(16) % 2, 50.0, 40.0)
    found = agreement(run(np.linspace(5, 1, 16), score), "PCKh@0.5")
    assert found["loss fell"] == 13
    assert found["of these worse"] == 6  # into epochs 4, 6, ..., 14
    assert found["low"] < found["rho"] < found["high"]
    assert abs(found["rho"]) < 0.3


def test_only_the_epochs_asked_for_count():
    loss, score = np.linspace(5, 1, 16), np.linspace(10, 80, 16)
    score[:2] = 100
    assert agreement(run(loss, score), "PCKh@0.5")["rho"] == pytest.approx(-1)
    assert agreement(run(loss, score), "PCKh@0.5", first=0)["rho"] > -1


def test_only_falls_of_some_size_count():
    loss = np.array([5.0, 4.0, 3.999, 3.0, 2.0])
    score = np.array([10.0, 20.0, 15.0, 30.0, 40.0])
    found = agreement(run(loss, score), "PCKh@0.5", first=0)
    assert (found["loss fell"], found["of these worse"]) == (4, 1)
    found = agreement(run(loss, score), "PCKh@0.5", first=0, least=0.01)
    assert (found["loss fell"], found["of these worse"]) == (3, 0)


def test_differences_are_paired_by_seed():
    table = pd.DataFrame(
        {"label": list("aaabbb"), "seed": [0, 1, 2, 2, 1, 0], "AP": [10.0, 20.0, 30.0, 31.0, 21.5, 12.0]}
    )
    [difference] = paired_differences(table, ["AP"], "a").to_dict("records")
    assert difference["difference"] == pytest.approx(1.5)  # 2, 1.5 and 1, however much the seeds differ
    assert difference["high"] - difference["difference"] == pytest.approx(4.3027 * 0.5 / np.sqrt(3), rel=1e-4)
    assert difference["seeds"] == 3


def test_means_by_bin_leave_out_what_is_unknown():
    values = np.array([[1.0, 2.0, np.nan], [4.0, 8.0, 16.0]])
    bins = np.array([[0, 0, 0], [1, -1, 2]])
    table = by_bin({"a": values, "b": values * np.nan}, bins, ["x", "y", "z", "nobody"])
    assert list(table["a"][:3]) == [1.5, 4.0, 16.0]
    assert np.isnan(table["a"]["nobody"])
    assert table["b"].isna().all()


def test_one_value_has_no_interval():
    found = mean_intervals(pd.DataFrame({"AP": [3.0, np.nan]})).loc["AP"]
    assert found["difference"] == 3
    assert found["seeds"] == 1
    assert found[["low", "high"]].isna().all()


def test_an_interval_is_that_of_students_test():
    values = np.random.default_rng(0).normal(size=(5, 3))
    found = mean_intervals(pd.DataFrame(values, columns=list("abc")), level=0.9)
    low, high = ttest_1samp(values, 0).confidence_interval(0.9)
    assert np.allclose(found["low"], low)
    assert np.allclose(found["high"], high)
    same = mean_intervals(pd.DataFrame({"AP": [2.0, 2.0, 2.0]})).loc["AP"]
    assert (same["low"], same["high"]) == (2, 2)


def test_tables_of_a_real_record(tmp_path):
    config = make_config("smoke", run_dir=tmp_path)
    record = record_of(config)
    records = {"matching": [record]}
    assert record == Store.of(config).published(record.name).record
    table = curves(records)
    assert list(table["epoch"]) == [0, 1, 2]
    assert table["own loss"].iloc[-1] == record.final.losses["matching"]
    assert table["map: entropy"].iloc[-1] == record.final.measures["entropy"]
    [final] = final_scores(records).to_dict("records")
    assert final["AR"] == record.final.metrics["AR"]
    decoders = by_decoder(records).set_index("decoder")
    assert decoders.loc["barycentre", "PCKh@0.5"] == record.final.metrics["PCKh@0.5"]
