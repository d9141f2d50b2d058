"""The semi-dual of a group of maps, in two ways: any demanders, or blocks of four neighbouring cells.

Both implement :class:`~hdmlib.transport.newton.SemiDual`: exponents log D + b / epsilon in; the arriving mass q, the
moments of the shares p and, at the end, the suppliers' potential a out.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hdmlib.transport.cost import Cost
from hdmlib.transport.newton import SemiDual

# log S is cut off here: a cell without mass has an infinite derivative of S log S, and nothing is gained by an infinite
# pull.
SMALLEST_SUPPLY = 1e-16
# Where the spread of the costs exceeds so many epsilon, exp(-C / eps) leaves the range of the type.
_RANGE = {torch.float32: 20.0, torch.float64: 300.0}


def semi_dual(maps: Tensor, points: Tensor, corners: Tensor | None, cost: Cost, epsilon: float) -> SemiDual:
    """The semi-dual of maps (G, H, W): from a table if the demanders are blocks, else from the costs to each point.

    Args:
        maps: (G, H, W) suppliers.
        points: (G, M, 2) demanders as (x, y) in cells.
        corners: (G, 2) upper left cells of the blocks, or ``None`` if the points are no blocks.
        cost: The cost of moving mass.
        epsilon: Strength of the regulariser.
    """
    if corners is not None:
        spread = cost.spread((maps.shape[1], maps.shape[2])) / epsilon
        dtype = next((t for t in (maps.dtype, torch.float64) if spread <= _RANGE[t]), None)
        if dtype is not None:
            return _BlockSemiDual(maps.to(dtype), corners.tolist(), cost, epsilon)
    return _PointSemiDual(maps.double(), points, cost, epsilon)


class _PointSemiDual:
    """Demanders anywhere, with logarithms and in float64: always right, and several times slower than a table."""

    def __init__(self, maps: Tensor, points: Tensor, cost: Cost, epsilon: float) -> None:
        self.costs = cost.between(points.to(maps), (maps.shape[1], maps.shape[2]))  # C (G, M, N)
        self.spread = float((self.costs.amax(1) - self.costs.amin(1)).max())
        self.supply, self.epsilon = maps.flatten(1), epsilon

    def set_epsilon(self, stage: NDArray[np.float64]) -> None:
        self.stage = torch.from_numpy(stage).to(self.costs.device)[..., None]

    def arrivals(self, exponents: NDArray[np.float64]) -> NDArray[np.float64]:
        self.exponents = torch.from_numpy(exponents).to(self.costs.device)[..., None] - self.costs / self.stage
        self.share = self.exponents.softmax(dim=1)  # p
        return (self.share @ self.supply[..., None])[..., 0].cpu().numpy()

    def moments(self) -> NDArray[np.float64]:
        return ((self.share * self.supply[:, None]) @ self.share.mT).cpu().numpy()

    def potential(self, *, entropy: bool) -> Tensor:
        log = self.exponents.logsumexp(dim=1)
        if entropy:
            log -= self.supply.clamp(min=SMALLEST_SUPPLY).log()
        return log.mul_(-self.epsilon)


class _BlockSemiDual:
    """Demanders on 2 x 2 neighbouring cells: the costs are windows of one table of offsets from the block.

    Exponentiated is the cost beyond that to the nearest demander, for a metric at most the block's diagonal. So
    exp(-C / eps) is a plain number for every epsilon that matters, computed once for all maps, and an evaluation of the
    semi-dual is a few products.
    """

    def __init__(self, maps: Tensor, corners: list[list[int]], cost: Cost, epsilon: float) -> None:
        self.size, self.cost = (maps.shape[1], maps.shape[2]), cost
        self.spread = cost.spread(self.size)
        self.supply, self.corners, self.epsilon = maps.flatten(1)[:, None], corners, epsilon

    def set_epsilon(self, stage: NDArray[np.float64]) -> None:
        like = self.supply.dtype, self.supply.device
        tables = [self.cost.block_kernel(self.size, epsilon, *like) for epsilon in stage[:, 0].tolist()]
        self.kernel = self._windows(tables)  # exp((min_m C_nm - C_nm) / eps), (G, 4, N)

    def arrivals(self, exponents: NDArray[np.float64]) -> NDArray[np.float64]:
        # u_m = D_m exp(b_m / eps) divided by the largest; p_nm = u_m K_nm / sum_m u_m K_nm
        self.top = exponents.max(axis=1, keepdims=True)
        self.factors = np.exp(exponents - self.top)
        self.total = torch.bmm(torch.from_numpy(self.factors[:, None]).to(self.supply), self.kernel)  # (G, 1, N)
        self.sent = self.supply / self.total
        return self.factors * torch.bmm(self.sent, self.kernel.mT)[:, 0].double().cpu().numpy()

    def moments(self) -> NDArray[np.float64]:
        # four maps at a time: what the products need besides the kernel stays small
        parts = zip(self.kernel.split(4), self.sent.div_(self.total).split(4), strict=True)
        products = torch.cat([torch.bmm(kernel * sent, kernel.mT) for kernel, sent in parts]).double().cpu().numpy()
        return products * self.factors[:, :, None] * self.factors[:, None, :]

    def potential(self, *, entropy: bool) -> Tensor:
        if entropy:
            self.total /= self.supply.clamp(min=SMALLEST_SUPPLY)  # one logarithm for both: that of total / S
        log = self.total[:, 0].log_().add_(torch.from_numpy(self.top).to(self.total))
        table = self.cost.block_nearest(self.size, log.dtype, log.device)[None]
        return self._windows([table] * len(self.corners))[:, 0].sub_(log, alpha=self.epsilon)

    def _windows(self, tables: list[Tensor]) -> Tensor:
        """The window (T, H, W) of each map's table (T, 2H - 1, 2W - 1) of offsets, as (G, T, N)."""
        height, width = self.size
        return torch.stack(
            [
                table[:, height - 1 - y : 2 * height - 1 - y, width - 1 - x : 2 * width - 1 - x]
                for table, (x, y) in zip(tables, self.corners, strict=True)
            ]
        ).flatten(2)
