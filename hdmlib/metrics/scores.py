"""Predicted joints of a dataset's people in, all the metrics of a run out.

Records, notebooks and the command line show the metrics that this module chooses.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdmlib.data.dataset import DataError, PoseDataset
from hdmlib.data.intake import DataWarning
from hdmlib.metrics.calibration import calibration_error, reliability
from hdmlib.metrics.oks import oks_ap, rescore
from hdmlib.metrics.pck import counted_joints, localisation_error, pck_report

# Tab. 1's columns of COCO's evaluation.
COCO_COLUMNS = ("AP", "AP50", "AP75", "APM", "APL", "AR")
# A coarse and a fine threshold for each length; MPII's for the head, the usual ones for torso and box, and for the
# distance of two joints those at which faces are counted as found.
THRESHOLDS = {"head": (0.5, 0.1), "torso": (0.2, 0.05), "box": (0.2, 0.05)}
OF_JOINTS = (0.1, 0.05)


def direction(metric: str) -> int:
    """1 if larger values of a metric are better, -1 if smaller ones are."""
    return -1 if metric.endswith("error") or metric in ("NME", "ECE") else 1


@dataclass(frozen=True)
class PCKReference:
    """The length that PCK's thresholds are fractions of.

    Attributes:
        kind: ``head``, ``torso``, ``box`` or two joints, as :meth:`PoseDataset.reference_lengths` takes it.
        lengths: (N,) pixels of the photo, NaN for people without one.
    """

    kind: str
    lengths: NDArray[np.float64]

    @classmethod
    def of(cls, people: PoseDataset, kind: str | None = None) -> PCKReference:
        """The reference lengths of a dataset; ``None`` is :meth:`PoseDataset.default_reference`.

        Raises:
            DataError: The dataset has no such length or joint.
        """
        kind = kind or people.default_reference()
        return cls(kind, people.reference_lengths(kind))

    @classmethod
    def check(cls, people: PoseDataset, kind: str | None = None) -> None:
        """Check that PCK can be measured, before anything is trained.

        Raises:
            DataError: The dataset has no such length or joint, or nobody with a length has a joint that counts.

        Warns:
            DataWarning: Fewer than half of the people have one.
        """
        reference = cls.of(people, kind)
        measured = people.visibility[np.isfinite(reference.lengths)] > 0
        if not measured[:, counted_joints(people.skeleton)].any():
            raise DataError(
                f"{people.name}: nobody who has a {reference.kind} length has a labelled joint that PCK counts; pass "
                "another pck_reference, or label more of the validation people"
            )
        known, all_people = int(np.isfinite(reference.lengths).sum()), len(people)
        if known < all_people / 2:
            warnings.warn(
                f"{people.name}: PCK is measured on {known} of {all_people} people, since the others have no "
                f"{reference.kind} length; pck_reference=box needs none",
                DataWarning,
                stacklevel=3,
            )

    @cached_property
    def labels(self) -> dict[str, float]:
        """Name of each metric and its threshold, coarse first: ``PCKh@0.5``, or ``PCK(box)@0.2``."""
        metric = "PCKh" if self.kind == "head" else f"PCK({self.kind})"
        return {f"{metric}@{threshold:g}": threshold for threshold in THRESHOLDS.get(self.kind, OF_JOINTS)}


@dataclass(frozen=True)
class Scores:
    """How well predictions match the annotation.

    Attributes:
        metrics: PCK at both thresholds in percent (joints weighted by how often they are labelled); ``mean error`` and
            ``median error`` in pixels of the network's input; ``AP``, ``AP50``, ``AP75``, ``APM``, ``APL`` and ``AR``
            in percent with ground-truth boxes; ``AUROC`` in percent, how well the confidence separates joints found at
            the coarse threshold from missed ones; ``ECE`` in percent, how far it is from the share found; where the
            reference is the distance of two joints, ``NME``: the mean error in percent of it.
        per_joint: PCK of each joint at both thresholds in percent, (K,), NaN where it is never labelled.
    """

    metrics: dict[str, float]
    per_joint: dict[str, NDArray[np.float64]]

    @property
    def known(self) -> dict[str, float]:
        """The metrics that this data defines, those that are not NaN."""
        return {name: value for name, value in self.metrics.items() if not np.isnan(value)}


def score(
    people: PoseDataset,
    joints: NDArray[np.float64],
    confidence: NDArray[np.float64],
    input_size: tuple[int, int],
    reference: PCKReference,
) -> Scores:
    """Compare predictions with the annotation.

    Args:
        people: N annotated people.
        joints: (N, K, 2) predictions in pixels of each person's photo.
        confidence: (N, K), not negative.
        input_size: Width and height of the network's input; errors are given in its pixels, so that people who are
            large in their photo do not count more.
        reference: The length that PCK is measured in.
    """
    truth, labelled = people.joints, people.visibility > 0
    reports = {
        label: pck_report(joints, truth, reference.lengths, labelled, people.skeleton, threshold)
        for label, threshold in reference.labels.items()
    }
    # input pixels per pixel of the photo: the region is fitted into the input's width and height
    with np.errstate(divide="ignore"):  # a box of one pixel is 0 wide, and its height counts
        magnification = np.min(np.array(input_size) / people.sizes, axis=1)[:, None, None]
    error = localisation_error(joints * magnification, truth * magnification, labelled)
    metrics = {label: report.mean for label, report in reports.items()}
    metrics |= {
        "mean error": error.mean,
        "median error": error.median,
        **_average_precision(people, joints, confidence),
        **_of_confidence(confidence, joints, people, reference),
    }
    if reference.kind not in THRESHOLDS:
        metrics["NME"] = 100 * _normalised_error(joints, people, reference)
    return Scores(metrics, {label: report.values for label, report in reports.items()})


def _normalised_error(joints: NDArray[np.float64], people: PoseDataset, reference: PCKReference) -> float:
    """Mean over people of their joints' mean error in reference lengths, as face alignment states it."""
    errors = joint_errors(people, joints, reference)
    scored = np.isfinite(errors)
    counted = scored.any(axis=1)
    return float(np.mean(errors[counted], axis=1, where=scored[counted]).mean())


def joint_errors(people: PoseDataset, joints: NDArray[np.floating], reference: PCKReference) -> NDArray[np.float64]:
    """Distance of each predicted joint from its annotation, in the person's reference lengths.

    Args:
        people: N people.
        joints: (N, K, 2) predictions in pixels of each person's photo.
        reference: The reference length of each person.

    Returns:
        (N, K), NaN where a joint is unlabelled or the person has no such length.
    """
    errors = np.linalg.norm(joints - people.joints, axis=2) / reference.lengths[:, None]
    return np.where(people.visibility > 0, errors, np.nan)


def _of_confidence(
    confidence: NDArray[np.float64], joints: NDArray[np.float64], people: PoseDataset, reference: PCKReference
) -> dict[str, float]:
    """What the confidence says of which joints are found, in percent: ``AUROC`` and ``ECE``."""
    errors = joint_errors(people, joints, reference)
    scored = np.isfinite(errors)
    found = errors[scored] <= next(iter(reference.labels.values()))
    if not found.size:
        return {}
    calibration = 100 * calibration_error(reliability(confidence[scored], found))
    return {"AUROC": 100 * _auroc(confidence[scored], found), "ECE": calibration}


def _auroc(confidence: NDArray[np.float64], found: NDArray[np.bool_]) -> float:
    """Chance that a joint that was found has more confidence than one that was missed; NaN without both kinds."""
    if found.all() or not found.any():
        return float("nan")
    ranks = pd.Series(confidence).rank().to_numpy()  # scipy.stats has ranks, too, and takes a second to import
    return float((ranks[found].mean() - (found.sum() + 1) / 2) / (~found).sum())


def _average_precision(
    people: PoseDataset, joints: NDArray[np.float64], confidence: NDArray[np.float64]
) -> dict[str, float]:
    """The columns of the paper's Tab. 1 in percent, boxes as annotated; none where nobody has an area."""
    scored = people.areas > 0
    if not scored.any():
        return {}
    truth = {
        "images": [{"id": int(i)} for i in np.unique(people.image_ids)],
        "categories": [{"id": 1}],
        "annotations": [
            {"id": n, "image_id": int(people.image_ids[i]), "category_id": 1, "area": float(people.areas[i]),
             "bbox": people.boxes[i].tolist(), "keypoints": _triples(people.joints[i], people.visibility[i])}
            for n, i in enumerate(np.flatnonzero(scored), start=1)
        ],
    }  # fmt: skip
    scores = rescore(np.ones(len(people)), confidence)
    results = [
        {"image_id": int(people.image_ids[i]), "category_id": 1, "score": float(scores[i]),
         "keypoints": _triples(joints[i], confidence[i])}
        for i in np.flatnonzero(scored)
    ]  # fmt: skip
    scores = oks_ap(truth, results, people.skeleton.sigmas)
    return {name: 100 * scores[name] for name in COCO_COLUMNS}


def _triples(joints: NDArray[np.float64], third: NDArray[np.float64]) -> list[float]:
    """(K, 2) and (K,) as COCO's flat list x, y, v, x, y, v, ..."""
    return np.column_stack([joints, third]).ravel().tolist()
