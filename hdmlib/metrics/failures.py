"""What went wrong where a joint was not found: predicted and true joints in, a kind of failure for each joint out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FOUND, SWAPPED, OTHER_JOINT, MISSED = "found", "left and right swapped", "another joint", "missed"


def failures(
    predictions: ArrayLike, truth: ArrayLike, lengths: ArrayLike, visible: ArrayLike, twins: ArrayLike,
    threshold: float = 0.5,
) -> NDArray[np.str_]:  # fmt: skip
    """The kind of failure of each joint, after the distinction of Ronchi and Perona (ICCV 2017) in PCK's terms.

    A joint is ``found`` within ``threshold`` lengths of its annotation. Else it is ``left and right swapped`` if it is
    that close to its twin's annotation, ``another joint`` if to that of any other joint of the person, and ``missed``
    if to none.

    Args:
        predictions: (N, K, 2) in pixels.
        truth: (N, K, 2) likewise.
        lengths: (N,) reference length of each person in pixels; a joint of a person without one is not judged.
        visible: (N, K), 0 where a joint is unlabelled.
        twins: (K,) index of each joint's left-right counterpart, its own where there is none.
        threshold: In units of ``lengths``.

    Returns:
        (N, K) of ``FOUND``, ``SWAPPED``, ``OTHER_JOINT`` and ``MISSED``; empty where a joint is unlabelled or not
        judged.
    """
    predictions, truth = np.asarray(predictions, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    lengths, labelled = np.asarray(lengths, dtype=np.float64), np.asarray(visible) > 0
    twins, own = np.asarray(twins), np.arange(predictions.shape[1])
    judged = labelled & (np.isfinite(lengths) & (lengths > 0))[:, None]
    distances = np.linalg.norm(predictions[:, :, None] - truth[:, None], axis=3)  # (N, predicted, annotated)
    near = (distances <= threshold * lengths[:, None, None]) & labelled[:, None]
    at_own, at_twin = near[:, own, own], near[:, own, twins]
    return np.select([~judged, at_own, at_twin, near.any(axis=2)], ["", FOUND, SWAPPED, OTHER_JOINT], MISSED)
