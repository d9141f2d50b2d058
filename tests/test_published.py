"""Published rows: complete, consistent with one another, and found by their setting."""

import math

import pytest

from hdmlib.published import (
    BOXES_56,
    BOXES_65,
    COCO,
    FIGURE_JOINTS,
    MPII,
    RESULTS,
    TABLE_1,
    TRAINING_COST,
    as_frame,
    select,
)


def test_rows_obey_what_holds_of_every_evaluation():
    """A mistyped digit seldom does: orders between columns, between boxes, between sizes of network and input."""
    for row in RESULTS:
        v = row.values
        if "APM" in v:
            assert v["AP75"] < v["AP50"]
            assert v["AP"] < v["AR"]
            assert v["APM"] < v["AP"] < v["APL"]
            assert v["AP50"] / 3 < v["AP"] < v["AP50"]
        columns = [v[name] for name in ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle") if name in v]
        if columns:
            assert min(columns) < v["PCKh@0.5"] < max(columns)
            assert v["PCKh@0.5"] == pytest.approx(sum(columns) / len(columns), abs=1)
    ap = {
        (r.model, r.boxes, r.input_size): r.values["AP"] for r in RESULTS if r.method == "HRNet" and r.dataset == COCO
    }
    for boxes in (BOXES_56, BOXES_65):
        for size in ((192, 256), (288, 384)):
            assert 0 < ap["HRNet-W48", boxes, size] - ap["HRNet-W32", boxes, size] < 1
        for model in ("HRNet-W32", "HRNet-W48"):
            assert 0 < ap[model, boxes, (288, 384)] - ap[model, boxes, (192, 256)] < 2
    for (model, boxes, size), value in ap.items():
        if boxes == BOXES_65:  # better boxes
            assert 0.5 < value - ap[model, BOXES_56, size] < 1.5


def test_rows_are_complete_and_distinct():
    settings = [(row.method, row.model, row.dataset, row.boxes, row.input_size, row.source) for row in RESULTS]
    assert len(set(settings)) == len(settings) == 26
    for row in RESULTS:
        assert row.source
        assert all(0 < value < 100 for value in row.values.values())
        assert ("AP" if row.dataset == COCO else "PCKh@0.5") in row.values or row.source.startswith("SimCC")


def test_the_supplement_in_the_names_of_the_losses():
    assert [row.values["AP"] for row in TABLE_1.values()] == [77.1, 46.6, 78.8]
    assert list(TABLE_1) == ["gaussian_mse", "dot_mse", "matching"]
    (baseline,) = select(method="HRNet", model="HRNet-W48", boxes=BOXES_65, input_size=(288, 384))
    assert {key: TABLE_1["gaussian_mse"].values[key] for key in ("AP", "AR")} == baseline.values


def test_figure_errors_say_what_the_figures_claim():
    for joint in FIGURE_JOINTS:
        assert joint.matching_error < joint.baseline_error
        assert math.isclose(joint.baseline_error, math.dist(joint.baseline, joint.truth))
    assert min(joint.matching_error for joint in FIGURE_JOINTS if joint.figure == 3) > 40


def test_cost():
    assert TRAINING_COST.hours == (50, 60)


def test_select():
    assert {row.dataset for row in select(dataset=MPII)} == {MPII}
    (row,) = select(method="HRNet", model="HRNet-W32", boxes=BOXES_56, input_size=(192, 256))
    assert row.values["AP"] == 74.4
    with pytest.raises(ValueError, match="have no 'modell'; they have: method, model"):
        select(modell="HRNet-W32")
    with pytest.raises(ValueError, match="no published row with model = 'HRNet-W18' here; there are: 'HRNet-W32'"):
        select(model="HRNet-W18")


def test_frame():
    frame = as_frame()
    assert len(frame) == len(RESULTS)
    assert list(frame.columns)[-2:] == ["source", "note"]
    assert frame.loc[frame["method"] == "Distribution matching", "APL"].tolist() == [85.3]
    assert list(as_frame(TABLE_1.values())["AP"]) == [77.1, 46.6, 78.8]
