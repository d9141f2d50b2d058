"""Values of parameters: a number in a range, a word of a list; anything else is one clear error."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any


def number_between(name: str, value: Any, low: float, high: float) -> float:
    """``value`` as a float.

    Raises:
        ValueError: It is no number from ``low`` to ``high``; the message names the parameter.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and low <= float(value) <= high):
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
    return float(value)


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """``value``, if it is known.

    Raises:
        ValueError: It is not; the message lists the known ones.
    """
    if value not in known:
        raise ValueError(f"{name} {value!r} is not known; known: {', '.join(known)}")
    return value
