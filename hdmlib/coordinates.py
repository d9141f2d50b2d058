"""How pixels of the network's input correspond to heatmap cells, by three rules; pixels and cells are named by their
centres.

With W the input's width, s the stride and w = W / s the heatmap's width (likewise for heights):

======== ========================== =====================================================================
rule     cell of input pixel x      property
======== ========================== =====================================================================
center   (x + 1/2) / s - 1/2        cell centres; a mirrored photo gives the mirrored heatmap
hrnet    x / s                      HRNet's; a mirrored heatmap is off by (s - 1) / s of a cell
udp      x (w - 1) / (W - 1)        UDP's, which measures between the outer pixels' centres; mirrors exactly
======== ========================== =====================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from hdmlib.checks import one_of

Rule = Literal["center", "hrnet", "udp"]
RULES: tuple[str, ...] = get_args(Rule)
# (..., 2) array or tensor of (x, y)
Points = TypeVar("Points", np.ndarray, Tensor)


def ratio_and_offset(side: int, stride: int, rule: str = "center") -> tuple[float, float]:
    """The a and b of cell = a x + b along one axis, for an input of ``side`` pixels.

    Raises:
        ValueError: The rule is unknown, or the side is no multiple of the stride.
    """
    one_of("coordinates rule", rule, RULES)
    if stride < 1 or side % stride or side < 2 * stride:
        raise ValueError(
            f"an input of {side} pixels and a stride of {stride} give no whole number of cells, at least 2"
        )
    if rule == "udp":
        return (side / stride - 1) / (side - 1), 0.0
    return 1 / stride, 0.5 / stride - 0.5 if rule == "center" else 0.0


def cells_from_pixels(points: Points, input_size: tuple[int, int], *, stride: int = 4, rule: str = "center") -> Points:
    """Heatmap cells of points given in pixels of the network's input.

    Args:
        points: (..., 2) array or tensor of (x, y).
        input_size: Width and height of the input in pixels.
        stride: Input pixels per heatmap cell.
        rule: ``center``, ``hrnet`` or ``udp``: the one that the training uses.

    Returns:
        (..., 2), of the same kind; whole numbers become floating point.

    Raises:
        TypeError: The points are no array or tensor, or the size is no pair.
        ValueError: The points are not (..., 2), the rule is unknown, or the input is no multiple of the stride.
    """
    points, ratio, offset = _axes(points, input_size, stride, rule)
    return points * ratio + offset


def pixels_from_cells(points: Points, input_size: tuple[int, int], *, stride: int = 4, rule: str = "center") -> Points:
    """The inverse of :func:`cells_from_pixels`: decoded joints in pixels of the network's input."""
    points, ratio, offset = _axes(points, input_size, stride, rule)
    return (points - offset) / ratio


def _axes(points: Points, input_size: tuple[int, int], stride: int, rule: str) -> tuple[Points, Points, Points]:
    """The points as floating point, and ratios (2,) and offsets (2,) of both axes, of their kind."""
    if not isinstance(points, Tensor | np.ndarray):
        raise TypeError(f"points must be an array or a tensor (..., 2), got {type(points).__name__}")
    if points.ndim == 0 or points.shape[-1] != 2:
        raise ValueError(f"points must be (..., 2), as (x, y), got shape {tuple(points.shape)}")
    if not isinstance(input_size, Sequence) or len(input_size) != 2:
        raise TypeError(f"input_size must be the input's width and height in pixels, got {input_size!r}")
    pairs = [ratio_and_offset(side, stride, rule) for side in input_size]
    ratios, offsets = zip(*pairs, strict=True)
    if isinstance(points, Tensor):
        points = points if points.is_floating_point() else points.to(torch.get_default_dtype())
        return points, points.new_tensor(ratios), points.new_tensor(offsets)
    return points, np.array(ratios), np.array(offsets)
