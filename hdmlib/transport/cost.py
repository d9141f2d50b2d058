"""What it costs to move a unit of mass: a function of the squared distance in heatmap cells.

For the four neighbouring demanders of a sub-pixel joint, the costs depend only on a cell's offset from the block of
four. :meth:`Cost.block_table` holds them for every offset; a map's own costs are a window of that table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from hdmlib.checks import one_of

COSTS = ("euclidean", "sqeuclidean", "saturating")
# The demanders of a block as (x, y) offsets from its upper left cell.
BLOCK = ((0, 0), (1, 0), (0, 1), (1, 1))


class BlockTable(NamedTuple):
    """Costs from a cell to the demanders of a block, by the cell's offset from the block's upper left corner.

    Attributes:
        beyond: (4, 2H - 1, 2W - 1) float64, cost to each demander less that to the nearest one.
        nearest: (2H - 1, 2W - 1) float64, cost to the nearest one.
        spread: Largest entry of ``beyond``.
    """

    beyond: Tensor
    nearest: Tensor
    spread: float


@dataclass(frozen=True)
class Cost:
    """The cost of moving a unit of mass over a distance of d cells.

    Attributes:
        kind: ``saturating``, tau (1 - exp(-d / tau)); ``euclidean``, d, the paper's; or ``sqeuclidean``, d^2.
        tau: Length in cells at which the saturating cost levels off; the other kinds ignore it.

    Raises:
        ValueError: The kind is unknown or tau is not a positive number.
    """

    kind: str = "saturating"
    tau: float = 1.0

    def __post_init__(self) -> None:
        one_of("cost", self.kind, COSTS)
        if not (math.isfinite(self.tau) and self.tau > 0):
            raise ValueError(f"tau must be a positive number, got {self.tau!r}")

    def of_squared(self, squared: Tensor) -> Tensor:
        """Costs of squared distances in cells, of any shape."""
        if self.kind == "sqeuclidean":
            return squared
        distance = squared.sqrt()
        return distance if self.kind == "euclidean" else -self.tau * torch.expm1(-distance / self.tau)

    def between(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """Costs (..., M, H * W) from every cell of an H x W map to points (..., M, 2) given as (x, y) in cells."""
        y = torch.arange(size[0], dtype=points.dtype, device=points.device) - points[..., 1, None]
        x = torch.arange(size[1], dtype=points.dtype, device=points.device) - points[..., 0, None]
        return self.of_squared(y.square()[..., :, None] + x.square()[..., None, :]).flatten(-2)

    def block_table(self, size: tuple[int, int]) -> BlockTable:
        """The costs to a block of 2 x 2 demanders, for every offset that occurs on an H x W map."""
        return _block_table(size, self)

    def spread(self, size: tuple[int, int]) -> float:
        """Largest difference between the costs from one cell of an H x W map to two demanders of a block on it."""
        return self.block_table(size).spread

    def block_kernel(self, size: tuple[int, int], epsilon: float, dtype: torch.dtype, device: torch.device) -> Tensor:
        """exp((min_m C_nm - C_nm) / epsilon) for the block's demanders m, (4, 2H - 1, 2W - 1)."""
        return _block_kernel(size, self, epsilon, dtype, device)

    def block_nearest(self, size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """min_m C_nm over the block's demanders m, (2H - 1, 2W - 1)."""
        return _block_nearest(size, self, dtype, device)


def block_corners(points: Tensor, size: tuple[int, int]) -> Tensor | None:
    """Upper left cells (G, 2) as (x, y), if the points (G, M, 2) are 2 x 2 neighbouring cells of each map."""
    corner = points[:, 0]
    block = torch.tensor(BLOCK, dtype=points.dtype, device=points.device)
    if points.shape[1] != len(BLOCK) or not (points == corner[:, None] + block).all():
        return None
    last = torch.tensor([size[1] - 1, size[0] - 1], device=points.device)
    on_map = (corner == corner.round()) & (corner >= 0) & (corner <= last)
    return corner.long() if on_map.all() else None


@lru_cache(maxsize=32)
def _block_table(size: tuple[int, int], cost: Cost) -> BlockTable:
    y = torch.arange(1 - size[0], size[0], dtype=torch.float64)[:, None]
    x = torch.arange(1 - size[1], size[1], dtype=torch.float64)
    costs = torch.stack([cost.of_squared((x - right) ** 2 + (y - down) ** 2) for right, down in BLOCK])
    nearest = costs.amin(dim=0)
    return BlockTable(costs - nearest, nearest, float((costs - nearest).max()))


@lru_cache(maxsize=32)
def _block_kernel(
    size: tuple[int, int], cost: Cost, epsilon: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.exp(-_block_table(size, cost).beyond / epsilon).to(device, dtype)


@lru_cache(maxsize=32)
def _block_nearest(size: tuple[int, int], cost: Cost, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _block_table(size, cost).nearest.to(device, dtype)
