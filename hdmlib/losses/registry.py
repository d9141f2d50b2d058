"""Losses by name. A new loss is a class in a file of this folder and a line in :data:`LOSSES`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hdmlib.checks import check_options, one_of
from hdmlib.losses.base import HeatmapLoss
from hdmlib.losses.controls import CrossEntropy, DotMSE, GaussianMSE, SoftArgmax
from hdmlib.losses.matching import MatchingLoss
from hdmlib.transport.cost import Cost

LOSSES: dict[str, type[HeatmapLoss]] = {
    "matching": MatchingLoss,
    "gaussian_mse": GaussianMSE,
    "dot_mse": DotMSE,
    "cross_entropy": CrossEntropy,
    "soft_argmax": SoftArgmax,
}


def with_lengths(name: str, options: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    """A loss's options, with those lengths that are not given as :meth:`HeatmapLoss.lengths_on` has them for its maps.

    With another cost than the default none is added: they were tuned for that one.
    """
    if options.get("cost", Cost.kind) != Cost.kind:
        return dict(options)
    return {**LOSSES[name].lengths_on(height, width), **options}


def build_loss(name: str, **options: Any) -> HeatmapLoss:
    """A loss by name, with its options.

    Args:
        name: A key of :data:`LOSSES`.
        **options: Arguments of the class.

    Raises:
        ValueError: The name or an option is unknown (the message lists the known ones) or a value is out of range.
    """
    one_of("loss", name, LOSSES)
    check_options(f"loss {name!r}", LOSSES[name], options)
    return LOSSES[name](**options)
