"""Values of parameters: a number in a range, a word of a list; anything else is one clear error."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable
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


def one_of(name: str, value: str, known: Collection[str]) -> str:
    """``value``, if it is known.

    Raises:
        ValueError: It is not; the message lists the known ones.
    """
    if value not in known:
        raise ValueError(f"{name} {unknown_name(value, known)}")
    return value


def unknown_name(name: Any, known: Collection[str]) -> str:
    """``'matchng' is not known. Did you mean 'matching'? Known: matching, gaussian_mse.``"""
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{name!r} is not known.{hint} Known: {', '.join(known)}."


def check_options(name: str, function: Callable[..., Any], options: Iterable[str], *, first: int = 0) -> None:
    """Check that a function takes the options.

    Args:
        name: What the function is to the user: ``loss 'matching'``.
        function: The function or class.
        options: Names of arguments.
        first: The first of its arguments that is an option.

    Raises:
        ValueError: It has no such argument; the message lists those that it has.
    """
    known = list(inspect.signature(function).parameters)[first:]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; it has: {', '.join(known) or 'none'}")
