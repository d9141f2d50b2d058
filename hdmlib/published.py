"""Published results of others that this project is compared with, each with its setting and source.

Out flow rows, selected (``select``) or as a table (``as_frame``). No published result is repeated elsewhere in code or
notebooks. All scores are in percent.

Rows are comparable only if their boxes agree: AP with ground-truth boxes is about two points higher than with the
detections of AP 56.4 that most papers use. "Mean@0.1" on MPII exists at two thresholds, see ``PCKh@0.11`` below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from math import dist

import pandas as pd

COCO = "COCO val2017"
MPII = "MPII val"
# Sources of the person boxes. The numbers are the detectors' AP for the class person.
BOXES_56 = "detector, AP 56.4"
BOXES_65 = "detector, AP 65.1"
BOXES_TRUTH = "ground truth"

_HRNET = "HRNet: README of leoxiaobin/deep-high-resolution-net.pytorch"
_HRNET_174 = "HRNet: issue 174 of leoxiaobin/deep-high-resolution-net.pytorch"
_UDP = "UDP-Pose: README"
_DARK = "DarkPose: README"
_SIMCC = "SimCC: README"
_MMPOSE = "mmpose 1.3.2: model zoo"
_MMPOSE_618 = "mmpose: issue 618"
_SUPPLEMENT = "Heatmap Distribution Matching, supplement"


@dataclass(frozen=True)
class Result:
    """One row of a published table.

    Attributes:
        method: Training method and decoding.
        model: The network.
        dataset: Data of the evaluation, which is with flip test.
        boxes: Source of the person boxes.
        input_size: Width and height of the network's input in pixels.
        values: Scores in percent. On COCO AP, AP50, AP75, APM, APL, AR; on MPII the columns and the means over joints
            weighted by labels, named by threshold. What HRNet, DARK and UDP print as "Mean@0.1" is ``PCKh@0.11``.
        source: Where the numbers are published.
        note: What must be known before comparing.
    """

    method: str
    model: str
    dataset: str
    boxes: str
    input_size: tuple[int, int]
    values: Mapping[str, float]
    source: str
    note: str = ""


@dataclass(frozen=True)
class FigureJoint:
    """One joint whose coordinates a figure of the supplement prints, (x, y) in pixels of its photo."""

    figure: int
    joint: str
    baseline: tuple[float, float]
    matching: tuple[float, float]
    truth: tuple[float, float]
    baseline_error: float = field(init=False)
    matching_error: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "baseline_error", dist(self.baseline, self.truth))
        object.__setattr__(self, "matching_error", dist(self.matching, self.truth))


@dataclass(frozen=True)
class TrainingCost:
    """Wall time of a published training, a range in hours."""

    model: str
    dataset: str
    hardware: str
    hours: tuple[float, float]
    source: str


def _coco(*values: float) -> dict[str, float]:
    return dict(zip(("AP", "AP50", "AP75", "APM", "APL", "AR"), values, strict=True))


_INFERRED = "the setting is not named; the Gaussian row equals UDP-Pose's HRNet-W48 baseline digit for digit"


def _supplement(method: str, *values: float) -> Result:
    return Result(method, "HRNet-W48", COCO, BOXES_65, (288, 384), _coco(*values), f"{_SUPPLEMENT}, Tab. 1", _INFERRED)


# Tab. 1 of the supplement, by the name of the loss in this project.
TABLE_1: Mapping[str, Result] = {
    "gaussian_mse": _supplement("Gaussian MSE", 77.1, 91.8, 83.8, 73.5, 83.5, 81.8),
    "dot_mse": _supplement("Dot MSE", 46.6, 86.0, 45.1, 42.9, 52.9, 58.5),
    "matching": _supplement("Distribution matching", 78.8, 92.5, 85.1, 75.0, 85.3, 83.1),
}

_MPII_W32 = {
    "Head": 97.1,
    "Shoulder": 95.9,
    "Elbow": 90.3,
    "Wrist": 86.4,
    "Hip": 89.1,
    "Knee": 87.1,
    "Ankle": 83.3,
    "PCKh@0.5": 90.3,
    "PCKh@0.11": 37.7,
}
_PRINTED_AS_01 = "the source prints PCKh@0.11 as Mean@0.1"

RESULTS: tuple[Result, ...] = (
    Result("HRNet", "HRNet-W32", COCO, BOXES_56, (192, 256), _coco(74.4, 90.5, 81.9, 70.8, 81.0, 79.8), _HRNET),
    Result("HRNet", "HRNet-W32", COCO, BOXES_56, (288, 384), _coco(75.8, 90.6, 82.5, 72.0, 82.7, 80.9), _HRNET),
    Result("HRNet", "HRNet-W48", COCO, BOXES_56, (192, 256), _coco(75.1, 90.6, 82.2, 71.5, 81.8, 80.4), _HRNET),
    Result("HRNet", "HRNet-W48", COCO, BOXES_56, (288, 384), _coco(76.3, 90.8, 82.9, 72.3, 83.4, 81.2), _HRNET),
    Result("HRNet", "HRNet-W32", COCO, BOXES_65, (192, 256), {"AP": 75.6, "AR": 80.5}, _UDP),
    Result("HRNet", "HRNet-W32", COCO, BOXES_65, (288, 384), {"AP": 76.7, "AR": 81.6}, _UDP),
    Result("HRNet", "HRNet-W48", COCO, BOXES_65, (192, 256), {"AP": 75.9, "AR": 80.9}, _UDP),
    Result("HRNet", "HRNet-W48", COCO, BOXES_65, (288, 384), {"AP": 77.1, "AR": 81.8}, _UDP),
    Result("HRNet", "HRNet-W32", COCO, BOXES_TRUTH, (192, 256), {"AP": 76.5}, _HRNET_174),
    Result("HRNet", "HRNet-W48", COCO, BOXES_TRUTH, (192, 256), {"AP": 77.6}, _MMPOSE_618, "weights of mmpose"),
    Result("mmpose", "HRNet-W32", COCO, BOXES_56, (192, 256), {"AP": 74.9}, _MMPOSE),
    Result("mmpose", "HRNet-W32", COCO, BOXES_56, (288, 384), {"AP": 76.1}, _MMPOSE),
    Result("mmpose", "HRNet-W48", COCO, BOXES_56, (192, 256), {"AP": 75.6}, _MMPOSE),
    Result("mmpose", "HRNet-W48", COCO, BOXES_56, (288, 384), {"AP": 76.7}, _MMPOSE),
    Result("HRNet + DARK", "HRNet-W48", COCO, BOXES_56, (288, 384), {"AP": 76.8}, _DARK),
    Result("HRNet + UDP", "HRNet-W48", COCO, BOXES_65, (192, 256), {"AP": 77.2}, _UDP),
    Result("HRNet + UDP", "HRNet-W48", COCO, BOXES_65, (288, 384), {"AP": 77.8}, _UDP),
    *TABLE_1.values(),
    Result("HRNet", "HRNet-W32", MPII, BOXES_TRUTH, (256, 256), _MPII_W32, _HRNET, _PRINTED_AS_01),
    Result("HRNet", "HRNet-W32", MPII, BOXES_TRUTH, (256, 256), {"PCKh@0.1": 33.1}, _SIMCC),
    Result(
        "HRNet + DARK", "HRNet-W32", MPII, BOXES_TRUTH, (256, 256), {"PCKh@0.5": 90.6, "PCKh@0.11": 42.0}, _DARK,
        _PRINTED_AS_01,
    ),
    Result(
        "HRNet + UDP", "HRNet-W32", MPII, BOXES_TRUTH, (256, 256), {"PCKh@0.5": 90.4, "PCKh@0.11": 42.1}, _UDP,
        _PRINTED_AS_01,
    ),
    Result("mmpose", "HRNet-W32", MPII, BOXES_TRUTH, (256, 256), {"PCKh@0.5": 90.0, "PCKh@0.1": 33.4}, _MMPOSE),
    Result("mmpose", "HRNet-W48", MPII, BOXES_TRUTH, (256, 256), {"PCKh@0.5": 90.1, "PCKh@0.1": 33.7}, _MMPOSE),
)  # fmt: skip

# In Fig. 1 the matching loss is closer to the truth than the Gaussian baseline, in Fig. 3 both fail under occlusion.
FIGURE_JOINTS: tuple[FigureJoint, ...] = (
    FigureJoint(1, "upper neck", (764.4, 315.3), (755.9, 313.7), (750.5, 297.7)),
    FigureJoint(1, "left wrist", (335.0, 77.6), (335.8, 76.1), (337.0, 74.0)),
    FigureJoint(1, "left knee", (780.7, 331.3), (777.2, 335.9), (777.0, 342.0)),
    FigureJoint(1, "right knee", (651.8, 889.1), (655.7, 877.5), (658.0, 865.0)),
    FigureJoint(3, "right elbow", (240.1, 209.5), (233.1, 213.7), (192.0, 217.0)),
    FigureJoint(3, "left knee", (543.3, 550.0), (549.4, 552.9), (554.0, 600.0)),
)

TRAINING_COST = TrainingCost(
    "HRNet-W32", "COCO train2017", "4 P100", (50, 60), "HRNet: issue 3 of leoxiaobin/deep-high-resolution-net.pytorch"
)


def select(**where: object) -> tuple[Result, ...]:
    """The published rows whose attributes have the given values, e.g. ``select(model="HRNet-W48", boxes=BOXES_65)``.

    Args:
        **where: Attributes of ``Result`` and their values.

    Raises:
        ValueError: If ``Result`` has no such attribute, or no row has such a value; the message lists what there is.
    """
    rows = RESULTS
    for name, value in where.items():
        if name not in (known := [f.name for f in fields(Result)]):
            raise ValueError(f"published rows have no {name!r}; they have: {', '.join(known)}")
        selected = tuple(row for row in rows if getattr(row, name) == value)
        if not selected:
            present = dict.fromkeys(repr(getattr(row, name)) for row in rows)
            raise ValueError(f"no published row with {name} = {value!r} here; there are: {', '.join(present)}")
        rows = selected
    return rows


def as_frame(rows: Iterable[Result] = RESULTS) -> pd.DataFrame:
    """Published rows as a table: the setting, one column per score (NaN where the source gives none), source and
    note."""
    records = [
        {
            "method": row.method,
            "model": row.model,
            "dataset": row.dataset,
            "boxes": row.boxes,
            "input": "{}x{}".format(*row.input_size),
            **row.values,
            "source": row.source,
            "note": row.note,
        }
        for row in rows
    ]
    frame = pd.DataFrame.from_records(records)
    last = ["source", "note"]
    return frame.reindex(columns=[column for column in frame.columns if column not in last] + last)
