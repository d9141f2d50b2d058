"""PCK, the percentage of correct keypoints: predicted and true joints in, percentages per joint out.

A joint is correct if its prediction lies within ``threshold`` times a length of the person. For MPII's PCKh that length
is 0.6 times the diagonal of the head box; other datasets use the torso or the box. All coordinates are pixels of the
photo, and predictions and annotations must have the same origin.

On published tables: *Mean* here is the mean over joints weighted by how often each is labelled, as HRNet and its
successors report it; the hourglass papers average the joints without weights. HRNet, DARK and UDP print as "Mean@0.1"
what is measured at 0.11, the eleventh entry of a table in steps of 0.01.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hdmlib.skeletons import MPII_16, Skeleton

# MPII's thresholds. HRNet, DARK and UDP print the third as "Mean@0.1".
PCKH_THRESHOLDS = {"PCKh@0.5": 0.5, "PCKh@0.1": 0.1, "PCKh@0.11": 0.11}

# MPII's evaluation excludes these from the means; the neck enters the means but has no column.
NOT_COUNTED = ("pelvis", "thorax")
NO_COLUMN = (*NOT_COUNTED, "upper_neck", "neck")
COLUMNS = ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle")
HEAD = ("head_top", "head", "nose", "eye", "ear")


@dataclass(frozen=True)
class PCKReport:
    """PCK of a set of people at one threshold, all values in percent.

    Attributes:
        threshold: In units of the person's length.
        joints: ``K`` joint names.
        values: (K,) percent of the labelled joints that are correct; NaN where the joint is never labelled.
        counts: (K,) number of labelled joints of each value.
        columns: The table's columns by name: left and right averaged, *Head* the head top (the face where there is
            none).
        mean: Mean over the joints that count, weighted by ``counts``: HRNet's "Mean".
        left_out: Number of people excluded because their length is not positive and finite.
    """

    threshold: float
    joints: tuple[str, ...]
    values: NDArray[np.float64]
    counts: NDArray[np.int64]
    columns: dict[str, float]
    mean: float
    left_out: int


class LocalisationError(NamedTuple):
    """Distances in pixels between predicted and true joints, over the labelled ones.

    Attributes:
        mean: Their mean, NaN if there are none.
        median: Their median.
        count: Number of labelled joints whose prediction is finite; both figures are over these.
    """

    mean: float
    median: float
    count: int


def _distances(
    predictions: ArrayLike, truth: ArrayLike, visible: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Distance (N, K) of every joint, infinite where the prediction is not finite, and which joints are labelled."""
    predictions, truth = np.asarray(predictions, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    labelled = np.asarray(visible) > 0
    if predictions.ndim != 3 or predictions.shape[2] != 2 or predictions.shape != truth.shape:
        raise ValueError(
            f"predictions and truth must both be (people, joints, 2), got {predictions.shape} and {truth.shape}"
        )
    if labelled.shape != truth.shape[:2]:
        raise ValueError(f"visible must be (people, joints) = {truth.shape[:2]}, got {labelled.shape}")
    broken = labelled & ~np.isfinite(truth).all(axis=2)
    if broken.any():
        person, joint = np.argwhere(broken)[0]
        raise ValueError(f"truth of person {person}, joint {joint} is labelled but not finite; set its visibility to 0")
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.linalg.norm(predictions - np.where(labelled[..., None], truth, 0), axis=2)
    return np.where(np.isfinite(distance), distance, np.inf), labelled


def pck(
    predictions: ArrayLike, truth: ArrayLike, sizes: ArrayLike, visible: ArrayLike, threshold: float = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Share of labelled joints whose error is at most ``threshold`` times the person's length.

    Args:
        predictions: (N, K, 2) in pixels. Values that are not finite count as misses.
        truth: (N, K, 2) in pixels.
        sizes: (N,) length of each person in pixels, for PCKh 0.6 times the head box's diagonal. People whose length is
            not finite and positive are left out.
        visible: (N, K); joints with a value of 0 or less are unlabelled and ignored.
        threshold: In units of ``sizes``.

    Returns:
        (K,) shares in [0, 1], NaN for a joint that is never labelled, and (K,) the numbers of labelled joints.

    Raises:
        ValueError: If shapes do not fit, the threshold is not positive, or a labelled joint's truth is not finite.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")
    distance, labelled = _distances(predictions, truth, visible)
    sizes = np.asarray(sizes, dtype=np.float64)
    if sizes.shape != labelled.shape[:1]:
        raise ValueError(f"sizes must hold one length per person, {labelled.shape[0]}, got shape {sizes.shape}")
    usable = _usable(sizes)
    labelled = labelled & usable[:, None]
    found = labelled & (distance <= threshold * np.where(usable, sizes, 0)[:, None])
    counts = labelled.sum(axis=0)
    return np.where(counts > 0, found.sum(axis=0) / np.maximum(counts, 1), np.nan), counts


def _usable(sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isfinite(sizes) & (sizes > 0)


def pck_report(
    predictions: ArrayLike,
    truth: ArrayLike,
    sizes: ArrayLike,
    visible: ArrayLike,
    skeleton: Skeleton,
    threshold: float = 0.5,
) -> PCKReport:
    """The row of a PCK table: per joint, per column and their mean, in percent.

    Args:
        predictions: (N, K, 2) in pixels.
        truth: (N, K, 2) in pixels.
        sizes: (N,) length of each person in pixels.
        visible: (N, K), 0 where a joint is unlabelled.
        skeleton: Names the ``K`` joints; :func:`counted_joints` of them enter the mean.
        threshold: In units of ``sizes``; MPII's are in ``PCKH_THRESHOLDS``.

    Raises:
        ValueError: As ``pck``, and if the skeleton has another number of joints.
    """
    values, counts = pck(predictions, truth, sizes, visible, threshold)
    if len(skeleton) != len(values):
        raise ValueError(f"skeleton {skeleton.name!r} has {len(skeleton)} joints, the predictions have {len(values)}")
    values = 100 * values
    counted = counted_joints(skeleton) & (counts > 0)
    weights = np.where(counted, counts, 0)
    some = bool(counted.any())
    return PCKReport(
        threshold=threshold,
        joints=skeleton.joints,
        values=values,
        counts=counts,
        columns={name: _mean(values[members]) for name, members in _columns(skeleton).items()},
        mean=float(np.where(counted, values, 0) @ weights / weights.sum()) if some else float("nan"),
        left_out=int((~_usable(np.asarray(sizes, dtype=np.float64))).sum()),
    )


def counted_joints(skeleton: Skeleton) -> NDArray[np.bool_]:
    """(K,), which joints enter the mean: all but *pelvis* and *thorax* of MPII's sixteen, as in its evaluation."""
    left_out = NOT_COUNTED if skeleton.name == MPII_16.name else ()
    return np.array([joint not in left_out for joint in skeleton.joints])


def _columns(skeleton: Skeleton) -> dict[str, list[int]]:
    """Joint indices of each column, left and right joints together; MPII's columns first, in its order."""
    columns: dict[str, list[int]] = {name: [] for name in COLUMNS}
    for index, joint in enumerate(skeleton.joints):
        part = "_".join(word for word in joint.split("_") if word not in ("left", "right", "l", "r"))
        if part not in NO_COLUMN:
            columns.setdefault("Head" if part in HEAD else part.replace("_", " ").capitalize(), []).append(index)
    return {name: members for name, members in columns.items() if members}


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the numbers among ``values``; NaN, without numpy's warning, if there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def localisation_error(predictions: ArrayLike, truth: ArrayLike, visible: ArrayLike) -> LocalisationError:
    """Mean and median distance of the labelled joints in pixels.

    PCK rewards the mode of a joint's possible positions, the mean error their median, so a report needs both.

    Args:
        predictions: (N, K, 2) in pixels.
        truth: (N, K, 2) in pixels.
        visible: (N, K), 0 where a joint is unlabelled.

    Raises:
        ValueError: If shapes do not fit or a labelled joint's truth is not finite.
    """
    distance, labelled = _distances(predictions, truth, visible)
    known = distance[labelled & np.isfinite(distance)]
    mean, median = (float(known.mean()), float(np.median(known))) if len(known) else (float("nan"),) * 2
    return LocalisationError(mean, median, len(known))
