"""Entropic transport from a heatmap to a few points: its value, and its dual potential, which is the gradient.

Suppliers S_n sit on the cells of a map, demanders D_m on a few points; moving mass from n to m costs C_nm, a function
of their distance in cells. Over plans P with marginals S and D,

    E_kl      = min_P <P, C> + eps KL(P | S x D)                                      ``kl``
    E_entropy = min_P <P, C> + eps sum P log P                                        ``entropy``: POT's and Cuturi's
              = E_kl + eps (sum S log S + sum D log D)
    E_debiased = E_kl(S, D) - E_kl(S, S) / 2 - E_kl(D, D) / 2                         ``debiased``: least at S = D

There are only M demanders, so the problem is solved for their potentials b (the semi-dual: concave, smooth):

    E_kl = max_b <S, a(b)> + <D, b>,    a_n(b) = -eps log sum_m D_m exp((b_m - C_nm) / eps)

With p_nm = D_m exp((a_n + b_m - C_nm) / eps), the share of cell n that goes to m, and q_m = sum_n S_n p_nm, the mass
that arrives at m, its gradient is D - q and its Hessian -(diag q - sum_n S_n p_n p_n^T) / eps: M x M, so Newton's
method is cheap; on a CPU the usual case, four neighbouring demanders and an epsilon that is not tiny, runs in the
compiled loops of ``transport_numba.py``. The gradient of E_kl with respect to S is a, and of E_entropy a + eps log S,
each up to a constant: Eq. 3 of the paper. ``a`` exists on cells without mass, too. ``debiased`` subtracts the potential
of the transport from S to itself, which has as many demanders as cells and is found by Sinkhorn's iteration: right, and
some hundred times slower than the other two.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

REGULARISERS = ("kl", "entropy", "debiased")
COSTS = ("euclidean", "sqeuclidean", "saturating")
# Marginal errors to stop at, with room for their own rounding below the promised 1e-6 and 1e-10.
TOLERANCE = {torch.float32: 5e-7, torch.float64: 5e-11}
MAX_EVALUATIONS = 60
MOST_DEMANDERS = 16
# Longest Newton step in b / eps: e^20 is as far as the shares of the demanders can change in one.
LONGEST_STEP = 20.0
# The faster of two steps is taken while its slope is at least this share of the steeper one's.
UPHILL = 0.1
# log S is cut off here: a cell without mass has an infinite derivative of S log S, and nothing is gained by an infinite
# pull.
SMALLEST_SUPPLY = 1e-16
# Up to this spread of the costs, in units of epsilon, Newton's method needs no stages; 0.07 cells for the distance.
MOST_SPREAD = 20.0
# Cells solved together, so that what belongs to them stays in a core's cache.
CELLS_AT_ONCE = {"cpu": 110_000, "cuda": 5_000_000}
# Where the spread of the costs exceeds so many epsilon, exp(-C / eps) leaves the range of the type.
_RANGE = {torch.float32: 20.0, torch.float64: 300.0}
_BLOCK = ((0, 0), (1, 0), (0, 1), (1, 1))


class TransportWarning(RuntimeWarning):
    """The solver stopped before the marginals were met; the message tells the error that is left."""


@dataclass(frozen=True)
class Solution:
    """An optimal transport and how well it was found.

    Attributes:
        value: (...) E, in the units of the cost.
        gradient: (..., H, W) dE/dS, the potential of the suppliers.
        demand: (..., M) potential b of the demanders, float64.
        error: (...) L1 distance of the arriving mass q from D.
        evaluations: How often the semi-dual was evaluated, at most over the maps.
    """

    value: Tensor
    gradient: Tensor
    demand: Tensor
    error: Tensor
    evaluations: int


def regularised_emd(
    suppliers: Tensor,
    points: Tensor,
    weights: Tensor,
    epsilon: float,
    *,
    regulariser: str = "entropy",
    cost: str = "euclidean",
    tau: float = 2.0,
    tolerance: float | None = None,
) -> Tensor:
    """Regularised earth mover's distance from maps to weighted points, differentiable with respect to the maps.

    Args:
        suppliers: (..., H, W) float32 or float64, not negative, each map of mass 1.
        points: (..., M, 2) as (x, y) in cells, M from 1 to 16, anywhere.
        weights: (..., M), not negative, of sum 1; a point of weight 0 takes no part.
        epsilon: Strength of the regulariser, in the units of the cost.
        regulariser: ``kl``, ``entropy`` or ``debiased``.
        cost: ``euclidean`` d, ``sqeuclidean`` d^2, or ``saturating`` tau (1 - exp(-d / tau)).
        tau: Length in cells of the saturating cost.
        tolerance: Largest L1 error of the marginal D; 1e-6 in float32 and 1e-10 in float64 by default.

    Returns:
        (...) values. Their derivative is the dual potential itself; nothing is differentiated through the iterations.

    Raises:
        ValueError: If a shape, a name or a number is none of the above.

    Warns:
        TransportWarning: If the tolerance was not reached in ``MAX_EVALUATIONS`` evaluations.
    """
    return _Transport.apply(suppliers, points, weights, epsilon, regulariser, cost, tau, tolerance)


class _Transport(torch.autograd.Function):
    @staticmethod
    def forward(ctx, suppliers, points, weights, epsilon, regulariser, cost, tau, tolerance):
        solution = solve(
            suppliers, points, weights, epsilon, regulariser=regulariser, cost=cost, tau=tau, tolerance=tolerance
        )
        ctx.save_for_backward(solution.gradient)
        return solution.value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (potential,) = ctx.saved_tensors
        return grad[..., None, None] * potential, *(None,) * 7


@torch.no_grad()
@torch.compiler.disable
def solve(
    suppliers: Tensor,
    points: Tensor,
    weights: Tensor,
    epsilon: float,
    *,
    regulariser: str = "entropy",
    cost: str = "euclidean",
    tau: float = 2.0,
    tolerance: float | None = None,
) -> Solution:
    """The transport with its potentials; arguments as for :func:`regularised_emd`."""
    _check(suppliers, points, weights, epsilon, regulariser, cost, tau)
    *batch, height, width = suppliers.shape
    count = points.shape[-2]
    solution = solve_maps(
        suppliers.reshape(-1, height, width),
        points.expand(*batch, count, 2).reshape(-1, count, 2),
        weights.expand(*batch, count).reshape(-1, count),
        float(epsilon), regulariser=regulariser, cost=cost, tau=float(tau), tolerance=tolerance,
    )  # fmt: skip
    return Solution(
        solution.value.reshape(batch),
        solution.gradient.reshape(suppliers.shape),
        solution.demand.reshape(*batch, count),
        solution.error.reshape(batch),
        solution.evaluations,
    )


@torch.no_grad()
@torch.compiler.disable
def solve_maps(
    maps: Tensor,
    points: Tensor,
    weights: Tensor,
    epsilon: float,
    *,
    regulariser: str,
    cost: str,
    tau: float,
    tolerance: float | None = None,
) -> Solution:
    """As :func:`solve`, for maps (G, H, W), points (G, M, 2) and weights (G, M) that are known to be in order."""
    size = tuple(maps.shape[-2:])
    points, weights = points.double(), weights.double()
    weights = weights / weights.sum(dim=1, keepdim=True)
    tolerance = TOLERANCE[maps.dtype] if tolerance is None else tolerance
    entropy = regulariser == "entropy"
    corners = _block_corners(points, size)
    if corners is not None and _fits_cpu_loops(maps, size, cost, tau, epsilon):
        table = (size, cost, tau)
        value, gradient, demand, error, evaluations = _solve_in_loops(
            maps.contiguous(), corners, weights, table, epsilon, tolerance, entropy
        )
    else:
        value, gradient = maps.new_empty(len(maps)), torch.empty_like(maps, memory_format=torch.contiguous_format)
        demand, error, evaluations = torch.empty_like(weights), torch.full_like(weights[:, 0], math.inf), 0
    rest = (~(error <= tolerance)).nonzero()[:, 0]
    for now in rest.split(maps_at_once(maps)) if len(rest) else ():
        block = None if corners is None else corners[now]
        costs = _costs(maps[now].flatten(1), points[now], block, size, cost, tau, epsilon)
        demand[now], error[now], used = _maximise(costs, weights[now], epsilon, tolerance)
        evaluations = max(evaluations, used)
        gradient[now] = costs.potential(entropy=entropy).to(maps.dtype).unflatten(1, size)
        value[now] = torch.linalg.vecdot(maps[now].flatten(1), gradient[now].flatten(1))
    if entropy:
        value += epsilon * torch.xlogy(weights, weights).sum(dim=1).to(maps.dtype)
    if regulariser == "debiased":
        own, own_error = _self_potential(maps.flatten(1), size, cost, tau, epsilon, tolerance)
        between = _cost((points[:, :, None] - points[:, None]).square().sum(dim=3), cost, tau) / epsilon
        among = lambda exponents: (exponents[:, None] - between).logsumexp(dim=2)  # noqa: E731
        own_demand, _ = _symmetric_sinkhorn(weights, among, epsilon, tolerance)
        value -= torch.linalg.vecdot(maps.flatten(1), own) + torch.linalg.vecdot(weights, own_demand).to(maps.dtype)
        gradient -= own.unflatten(1, size)
        error = torch.maximum(error, own_error)
    if len(rest) and not error.max() <= tolerance:
        warnings.warn(
            f"transport: {int((~(error <= tolerance)).sum())} of {len(maps)} maps stopped at a marginal error of up to "
            f"{error.max():.1e}, above the tolerance {tolerance:.1e} (epsilon {epsilon:g}, cost {cost})",
            TransportWarning,
            stacklevel=3,
        )
    return Solution(value, gradient, demand, error, evaluations)


# -------------------------------------------------------------------------------------------------- maximising over b


class _Costs(Protocol):
    """A group of G maps and what it costs to reach their demanders; all that Newton's method asks of them."""

    spread: float  # largest difference between the costs from one cell to two demanders

    def at(self, stage: NDArray[np.float64]) -> None:
        """Set the epsilon of each map, (G, 1), for what follows."""

    def arrivals(self, exponents: NDArray[np.float64]) -> NDArray[np.float64]:
        """q (G, M) where the exponents (G, M) are log D + b / epsilon."""

    def moments(self) -> NDArray[np.float64]:
        """sum_n S_n p_n p_n^T (G, M, M) at the exponents last given."""

    def potential(self, *, entropy: bool) -> Tensor:
        """a (G, N) at the exponents last given, at the final epsilon; with ``entropy`` a + eps log S."""


def _check(
    suppliers: Tensor, points: Tensor, weights: Tensor, epsilon: float, regulariser: str, cost: str, tau: float
) -> None:
    for name, value, known in (("regulariser", regulariser, REGULARISERS), ("cost", cost, COSTS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is not known; known: {', '.join(known)}")
    for name, number in (("epsilon", epsilon), ("tau", tau)):
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name} must be a positive number, got {number!r}")
    if suppliers.dtype not in TOLERANCE:
        raise ValueError(f"suppliers must be float32 or float64, got {suppliers.dtype}")
    if suppliers.ndim < 2 or points.ndim < 2 or points.shape[-1] != 2 or weights.shape[-1:] != points.shape[-2:-1]:
        raise ValueError(
            "transport takes suppliers (..., H, W), points (..., M, 2) and weights (..., M), got "
            f"{tuple(suppliers.shape)}, {tuple(points.shape)} and {tuple(weights.shape)}"
        )
    if not 1 <= points.shape[-2] <= MOST_DEMANDERS:
        raise ValueError(f"transport takes 1 to {MOST_DEMANDERS} points a map, got {points.shape[-2]}")
    for name, mass in (("suppliers", suppliers.sum(dim=(-2, -1))), ("weights", weights.sum(dim=-1))):
        if ((mass - 1).abs() > 1e-3).any():
            worst = mass.flatten()[(mass - 1).abs().argmax()]
            raise ValueError(f"{name} must sum to 1 over each map; the furthest sum is {worst:.4g}")


def maps_at_once(maps: Tensor) -> int:
    """How many of the maps (..., H, W) are solved together."""
    return max(1, CELLS_AT_ONCE.get(maps.device.type, 43_000) // (maps.shape[-2] * maps.shape[-1]))


def _maximise(costs: _Costs, weights: Tensor, epsilon: float, tolerance: float) -> tuple[Tensor, Tensor, int]:
    """Maximise the semi-dual by Newton's method, from a large epsilon down to the one asked for.

    At a small epsilon the semi-dual is a staircase on which the method is lost unless it starts near the top, but b
    hardly moves with epsilon: each stage starts from the b of the one before. A step past the top, beyond which the
    semi-dual falls more steeply than it rose at the start, is taken back in part, and the next ones are shorter.

    All that is done here is done to (G, M) and (G, M, M) numbers: in numpy, whose calls cost a fraction of torch's.

    Returns:
        b (G, M) with <D, b> = 0, the marginal errors (G,) and the number of evaluations.
    """
    demand = weights.cpu().numpy()
    log_demand = np.log(demand, out=np.full_like(demand, -np.inf), where=demand > 0)
    largest = epsilon
    while largest < costs.spread / 8:
        largest *= 2
    stage = np.full((len(demand), 1), largest)
    costs.at(stage)
    b = last = step = np.zeros_like(demand)
    slope = np.full_like(stage, np.inf)  # of the semi-dual along the step, at its start
    length, radius = np.ones_like(slope), np.full_like(slope, LONGEST_STEP)
    for evaluations in range(1, MAX_EVALUATIONS + 1):
        q = costs.arrivals(log_demand + b / stage)
        q /= q.sum(axis=1, keepdims=True)  # the mass of a map is 1 only up to rounding
        missing = demand - q
        error = np.abs(missing).sum(axis=1)
        if (error.max() <= tolerance and stage.max() == epsilon) or evaluations == MAX_EVALUATIONS:
            break
        if evaluations == MAX_EVALUATIONS - 1:  # one is left to say how far off it is at the epsilon asked for
            stage[:] = epsilon
            costs.at(stage)
            continue
        slope_here = (missing * step).sum(axis=1, keepdims=True)
        past = slope_here < -slope / 2
        radius = np.where(past, radius / 4, np.minimum(LONGEST_STEP, 2 * radius))
        new_step, in_reach = _newton_step(demand, q, missing, costs.moments(), radius)
        new_step *= stage
        new_slope = np.maximum((missing * new_step).sum(axis=1, keepdims=True), 0)
        if past.any():
            # a step taken back ends where its slope, as a straight line, is zero
            zero = slope / np.where(past, slope - slope_here, 1.0)
            length = np.where(past, length * zero.clip(0.1, 0.5), 1.0)
            last, step = np.where(past, last, b), np.where(past, step, new_step)
            slope = np.where(past, slope, new_slope)
        else:
            last, step, slope, length = b, new_step, new_slope, np.ones_like(slope)
        b = last + length * step
        forward = in_reach & ~past & (stage > epsilon)
        if forward.any():
            stage = np.where(forward, stage / 2, stage)
            costs.at(stage)
            slope[forward] = np.inf  # slopes of two stages do not compare
    return torch.from_numpy(b).to(weights.device), torch.from_numpy(error).to(weights.device), evaluations


def _newton_step(
    demand: NDArray[np.float64],
    q: NDArray[np.float64],
    missing: NDArray[np.float64],
    moments: NDArray[np.float64],
    radius: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The step in b / eps from marginals q = D - missing (G, M), at most ``radius`` long; and where q is near D.

    Newton's step for log q = log D: where all cells divide their mass alike it is Sinkhorn's, exact at once, and near
    the solution it is that for q = D, which takes its place where it leads hardly upwards, or down.
    """
    idle = (demand == 0).astype(q.dtype)  # demanders of weight 0: their equation becomes step = 0
    ratio = np.log((demand + idle) / (q + idle))
    # diag q - moments, with q as the moments' own sums: never indefinite, whatever is rounded. Constants, to which it
    # is blind, are ruled out by q q^T; a ridge that vanishes with the error holds where it is flat.
    ridge = 1e-3 * np.abs(missing).sum(axis=1, keepdims=True) + 1e-12
    matrix = q[:, :, None] * q[:, None, :] - moments
    diagonal = matrix.reshape(len(q), -1)[:, :: q.shape[1] + 1]
    diagonal += moments.sum(axis=2) + (ridge * q + idle + 1e-300)
    sides = np.empty((*q.shape, 2))
    sides[:, :, 0] = q * (ratio - (q * ratio).sum(axis=1, keepdims=True))
    sides[:, :, 1] = missing
    steps = np.linalg.solve(matrix, sides)
    slopes = (missing[:, None, :] @ steps)[:, 0] / (np.abs(steps).max(axis=1) + 1e-300)
    step = np.where(slopes[:, :1] > UPHILL * slopes[:, 1:], steps[:, :, 0], steps[:, :, 1])
    step -= (demand * step).sum(axis=1, keepdims=True)
    longest = np.abs(step).max(axis=1, keepdims=True)
    return step * (radius / np.maximum(longest, radius)), np.abs(ratio).max(axis=1, keepdims=True) < 2


@lru_cache(maxsize=1)
def _loops() -> ModuleType | None:
    """The compiled loops, imported when they are first needed; ``None`` where there is no numba, or no room for it."""
    try:
        return importlib.import_module("hdmlib.transport.cpu_loops")
    except (ImportError, RuntimeError):  # the latter: no folder can be written to keep the compiled code in
        return None


def _fits_cpu_loops(maps: Tensor, size: tuple[int, int], cost: str, tau: float, epsilon: float) -> bool:
    """Whether the compiled loops are made for maps of this kind and have a chance."""
    return (
        maps.device.type == "cpu"
        and _block_costs(size, cost, tau).spread <= MOST_SPREAD * epsilon
        and _loops() is not None
    )


def _solve_in_loops(
    maps: Tensor,
    corners: Tensor,
    weights: Tensor,
    table: tuple[tuple[int, int], str, float],
    epsilon: float,
    tolerance: float,
    entropy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """<S, a>, a, b and the error of each map, and the number of evaluations; with ``entropy`` a + eps log S for a.

    The error is NaN or above the tolerance for maps on which Newton's method was lost without stages.
    """
    loops, like = _loops(), (maps.dtype, maps.device)
    supply, corners = maps.numpy(), corners.numpy()
    value, total = maps.new_empty(len(maps)), torch.empty_like(maps)
    exponent, error = torch.empty_like(weights), torch.empty_like(weights[:, 0])
    out = total.numpy(), exponent.numpy(), error.numpy()
    kernel, nearest = _block_kernel(*table, epsilon, *like), _nearest_costs(*table, *like)
    evaluations = loops.maximise(supply, kernel.numpy(), corners, weights.numpy(), tolerance, *out)
    # logarithms are torch's: a processor takes several at a time
    log = total.div_(maps.clamp(min=SMALLEST_SUPPLY)).log_() if entropy else total.log_()
    loops.finish(log.numpy(), nearest.numpy(), corners, supply, epsilon, value.numpy())
    return value, log, exponent * epsilon, error, evaluations


# ---------------------------------------------------------------------------------------------- costs, in two ways


def _costs(
    maps: Tensor, points: Tensor, corners: Tensor | None, size: tuple[int, int], cost: str, tau: float, epsilon: float
) -> _Costs:
    """The costs of a group of maps: from a table if the demanders are 2 x 2 neighbouring cells, else point by point."""
    if corners is not None:
        reach = _block_costs(size, cost, tau).spread / epsilon
        fits = next((t for t in (maps.dtype, torch.float64) if reach <= _RANGE[t]), None)
        if fits is not None:
            return _BlockCosts(maps.to(fits), corners.tolist(), size, cost, tau, epsilon)
    return _PointCosts(maps.double(), points, size, cost, tau, epsilon)


def _block_corners(points: Tensor, size: tuple[int, int]) -> Tensor | None:
    """Upper left cells (G, 2) as (x, y), if the points (G, M, 2) are 2 x 2 neighbouring cells of each map."""
    corner = points[:, 0]
    block = torch.tensor(_BLOCK, dtype=points.dtype, device=points.device)
    if points.shape[1] != 4 or not (points == corner[:, None] + block).all():
        return None
    last = torch.tensor([size[1] - 1, size[0] - 1], device=points.device)
    on_map = (corner == corner.round()) & (corner >= 0) & (corner <= last)
    return corner.long() if on_map.all() else None


def _cost(squared: Tensor, kind: str, tau: float) -> Tensor:
    """The cost of squared distances in cells."""
    if kind == "sqeuclidean":
        return squared
    distance = squared.sqrt()
    return distance if kind == "euclidean" else -tau * torch.expm1(-distance / tau)


class _PointCosts:
    """Costs to any points, with logarithms and in float64: right everywhere, and several times slower than a table."""

    def __init__(
        self, supply: Tensor, points: Tensor, size: tuple[int, int], cost: str, tau: float, epsilon: float
    ) -> None:
        y = torch.arange(size[0], dtype=points.dtype, device=points.device) - points[..., 1, None]
        x = torch.arange(size[1], dtype=points.dtype, device=points.device) - points[..., 0, None]
        self.costs = _cost(y.square()[..., :, None] + x.square()[..., None, :], cost, tau).flatten(2)  # (G, M, N)
        self.spread = float((self.costs.amax(1) - self.costs.amin(1)).max())
        self.supply, self.epsilon = supply, epsilon

    def at(self, stage: NDArray[np.float64]) -> None:
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


class _BlockCosts:
    """Costs to 2 x 2 neighbouring cells: windows of one table, since they depend only on the offset from the block.

    What is exponentiated is the cost beyond that to the nearest demander, for a metric at most the block's diagonal. So
    exp(-C / eps) is a plain number for every epsilon that matters, computed once for all maps, and an evaluation of the
    semi-dual is a few products.
    """

    def __init__(
        self, supply: Tensor, corners: list[list[int]], size: tuple[int, int], cost: str, tau: float, epsilon: float
    ) -> None:
        self.table = (size, cost, tau)
        self.spread = _block_costs(*self.table).spread
        self.supply, self.corners, self.epsilon = supply[:, None], corners, epsilon

    def at(self, stage: NDArray[np.float64]) -> None:
        like = self.supply.dtype, self.supply.device
        tables = [_block_kernel(*self.table, epsilon, *like) for epsilon in stage[:, 0].tolist()]
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
        nearest = self._windows([_nearest_costs(*self.table, log.dtype, log.device)[None]] * len(self.corners))[:, 0]
        return nearest.sub_(log, alpha=self.epsilon)

    def _windows(self, tables: list[Tensor]) -> Tensor:
        """Of each map's table (T, 2H - 1, 2W - 1) over all offsets the part that it needs: (G, T, N)."""
        height, width = self.table[0]
        return torch.stack(
            [
                table[:, height - 1 - y : 2 * height - 1 - y, width - 1 - x : 2 * width - 1 - x]
                for table, (x, y) in zip(tables, self.corners, strict=True)
            ]
        ).flatten(2)


def block_spread(size: tuple[int, int], cost: str, tau: float) -> float:
    """Largest difference between the costs from a cell of the map to two of 2 x 2 neighbouring cells of it."""
    return _block_costs(size, cost, tau).spread


class _Table(NamedTuple):
    """Costs of a cell by its offset from the block's corner, (2H - 1, 2W - 1) offsets in all.

    Attributes:
        beyond: (4, 2H - 1, 2W - 1) cost to each demander beyond that to the nearest one.
        nearest: (2H - 1, 2W - 1) cost to the nearest one.
        spread: The largest entry of ``beyond``.
    """

    beyond: Tensor
    nearest: Tensor
    spread: float


@lru_cache(maxsize=32)
def _block_costs(size: tuple[int, int], cost: str, tau: float) -> _Table:
    y = torch.arange(1 - size[0], size[0], dtype=torch.float64)[:, None]
    x = torch.arange(1 - size[1], size[1], dtype=torch.float64)
    costs = torch.stack([_cost((x - right) ** 2 + (y - down) ** 2, cost, tau) for right, down in _BLOCK])
    nearest = costs.amin(dim=0)
    return _Table(costs - nearest, nearest, float((costs - nearest).max()))


@lru_cache(maxsize=32)
def _block_kernel(
    size: tuple[int, int], cost: str, tau: float, epsilon: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.exp(-_block_costs(size, cost, tau).beyond / epsilon).to(device, dtype)


@lru_cache(maxsize=32)
def _nearest_costs(size: tuple[int, int], cost: str, tau: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return _block_costs(size, cost, tau).nearest.to(device, dtype)


# ------------------------------------------------------------------------------------------- a distribution to itself


def _self_potential(
    maps: Tensor, size: tuple[int, int], cost: str, tau: float, epsilon: float, tolerance: float
) -> tuple[Tensor, Tensor]:
    """The potential f (B, N) of E_kl(S, S) = 2 <S, f>, half its gradient, and the marginal errors (B,).

    The cost between two cells depends on their rows only through the distance of the rows: H blocks of W x W numbers
    hold all.
    """
    height, width = size
    x = torch.arange(width, dtype=torch.float64, device=maps.device)
    y = torch.arange(height, dtype=torch.float64, device=maps.device)
    blocks = _cost(y[:, None, None] ** 2 + (x[:, None] - x) ** 2, cost, tau) / epsilon  # (row distance, W, W)
    away = (y[:, None] - y).abs().long()
    # where the kernel has no number for the farthest cells, logarithms do, for many times the work
    in_range = bool(blocks.max() < 2 * _RANGE[torch.float64])
    kernel = torch.exp(-blocks) if in_range else blocks

    def log_sum(exponents: Tensor) -> Tensor:
        if in_range:
            top = exponents.amax(dim=1, keepdim=True)
            mass = (exponents - top).exp().T  # (N, B)
            rows = [kernel[away[row]].transpose(0, 1).reshape(width, -1) @ mass for row in range(height)]
            return torch.cat(rows).log().T + top
        costs = (kernel[away[row]].transpose(0, 1).reshape(width, -1) for row in range(height))
        return torch.cat([(exponents[:, None] - rows).logsumexp(dim=2) for rows in costs], dim=1)

    potential, error = torch.empty_like(maps), torch.empty_like(maps[:, 0], dtype=torch.float64)
    group = maps_at_once(maps.unflatten(1, size))
    for start in range(0, len(maps), group):
        now = slice(start, start + group)
        potential[now], error[now] = _symmetric_sinkhorn(maps[now].double(), log_sum, epsilon, tolerance)
    return potential, error


def _symmetric_sinkhorn(
    mass: Tensor, log_sum: Callable[[Tensor], Tensor], epsilon: float, tolerance: float
) -> tuple[Tensor, Tensor]:
    """The f with f_n = -eps log sum_l S_l exp((f_l - C_nl) / eps), for S = ``mass`` (B, N), and the errors (B,).

    Two thirds of the way at a time: with kernels exp(-C / eps) that are positive definite, as ours, what is missing
    shrinks to a third in each iteration, whatever the map. ``log_sum`` gives log sum_l exp(e_l - C_nl / eps) for
    exponents e (B, N).
    """
    f = torch.zeros_like(mass)
    for _ in range(MAX_EVALUATIONS):
        target = -epsilon * log_sum(f / epsilon + mass.log())
        sent = torch.where(mass > 0, mass * torch.exp((f - target) / epsilon), 0.0)
        error = (sent - mass).abs().sum(dim=1)
        if error.max() <= tolerance:
            break
        f = f + (target - f) * 2 / 3
    return target, error
