"""Whether a confidence is a probability: confidence and found joints in, a reliability table and its error out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def reliability(confidence: NDArray[np.floating], found: NDArray[np.bool_], bins: int = 10) -> pd.DataFrame:
    """How often joints of a given confidence are found; both are equal if the confidence is a probability.

    Args:
        confidence: Any shape; values above 1, as the peak of a heatmap may have, are clipped.
        found: Whether each joint is found, the same shape.
        bins: Number of equal intervals from 0 to 1.

    Returns:
        A row per bin that is not empty: mean ``confidence``, share ``found``, number of ``joints``.
    """
    clipped = np.clip(np.ravel(confidence), 0, 1)
    table = pd.DataFrame({"confidence": clipped, "found": np.ravel(found), "joints": 1})
    number = np.minimum((clipped * bins).astype(int), bins - 1)
    return table.groupby(number).agg({"confidence": "mean", "found": "mean", "joints": "sum"})


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error (Guo et al., ICML 2017), from 0 to 1, of a table of :func:`reliability`."""
    return float(np.average((table["confidence"] - table["found"]).abs(), weights=table["joints"]))
