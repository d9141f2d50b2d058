"""Published rows: complete, consistent with one another, and found by their setting."""

import math
import re
from pathlib import Path

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

PROTOCOL = Path(__file__).resolve().parents[1] / ".." / "shared" / "PROTOCOL.md"


@pytest.mark.skipif(not PROTOCOL.is_file(), reason="the project's notes (../shared/PROTOCOL.md) are not at hand")
def test_every_number_stands_in_the_notes():
    """And every decimal number of the notes' results stands here, so that neither has one that the other lacks."""
    text = PROTOCOL.read_text().split("## 3. Published results")[1].split("\n## 4.")[0]
    noted = {float(number) for number in re.findall(r"\d+\.\d+", text)}
    ours = {value for row in RESULTS for value in row.values.values()}
    ours |= {c for joint in FIGURE_JOINTS for point in (joint.baseline, joint.matching, joint.truth) for c in point}
    thresholds_and_boxes = {0.1, 0.11, 56.4, 65.1}
    assert noted - thresholds_and_boxes == ours - thresholds_and_boxes


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
