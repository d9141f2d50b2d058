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
method is cheap. The gradient of E_kl with respect to S is a, and of E_entropy a + eps log S, each up to a constant:
Eq. 3 of the paper. ``a`` is defined on cells without mass, too.

Three ways lead to b: the compiled loops of ``cpu_loops.py`` for blocks of four neighbouring demanders on a CPU, the
GPU kernel of the loss (``losses/gpu_kernel.py``), and ``newton.py`` for everything else and for the few maps that the
other two leave unsettled. ``debiased.py`` adds the transport of S to itself.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hdmlib.checks import one_of
from hdmlib.errors import users_stacklevel
from hdmlib.extras import accelerator
from hdmlib.heatmaps import FLOAT64_DEVICES
from hdmlib.transport.cost import Cost, block_corners
from hdmlib.transport.debiased import self_potential, self_value
from hdmlib.transport.newton import maximise
from hdmlib.transport.semidual import SMALLEST_SUPPLY, semi_dual

REGULARISERS = ("kl", "entropy", "debiased")
# Marginal errors to stop at, with room for their own rounding below the promised 1e-6 and 1e-10.
TOLERANCE = {torch.float32: 5e-7, torch.float64: 5e-11}
MOST_DEMANDERS = 16
# Up to this spread of the costs, in units of epsilon, Newton's method needs no stages; 0.07 cells for the distance.
MOST_SPREAD = 20.0
# Up to this one most maps need none: it pays to try them in the compiled loops and to stage the rest.
MOST_SPREAD_WORTH_A_TRY = 80.0
# Cells solved together, so that what belongs to them stays in a core's cache.
CELLS_AT_ONCE = {"cpu": 110_000, "cuda": 5_000_000}
CPU_LOOPS = "hdmlib.transport.cpu_loops"


class TransportWarning(RuntimeWarning):
    """The solver stopped before the marginals were met; the message states the remaining error."""


@dataclass(frozen=True)
class Problem:
    """What is minimised over the plans.

    Attributes:
        epsilon: Strength of the regulariser, in units of the cost.
        regulariser: ``entropy``, ``kl`` or ``debiased``.
        cost: The cost of moving mass.

    Raises:
        ValueError: The regulariser is unknown or epsilon is not a positive number.
    """

    epsilon: float = 0.05
    regulariser: str = "entropy"
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        one_of("regulariser", self.regulariser, REGULARISERS)
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ValueError(f"epsilon must be a positive number, got {self.epsilon!r}")

    def is_easy(self, size: tuple[int, int]) -> bool:
        """Whether Newton's method needs no stages of epsilon for blocks of demanders on an H x W map."""
        return self.cost.spread(size) <= MOST_SPREAD * self.epsilon


@dataclass(frozen=True)
class Solution:
    """An optimal transport and how well it was found.

    Attributes:
        value: (...) E, in the units of the cost.
        gradient: (..., H, W) dE/dS, the potential of the suppliers.
        demand: (..., M) potential b of the demanders, float64; on the CPU where the maps' device has no float64.
        error: (...) L1 distance of the arriving mass q from D, likewise.
        evaluations: Evaluations of the semi-dual, at most over the maps.
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
    regulariser: str = Problem.regulariser,
    cost: str = Cost.kind,
    tau: float = Cost.tau,
    tolerance: float | None = None,
) -> Tensor:
    """Regularised earth mover's distance from maps to weighted points, differentiable with respect to the maps.

    Args:
        suppliers: (..., H, W) float32 or float64, not negative, each map of mass 1.
        points: (..., M, 2) as (x, y) in cells, M from 1 to 16, anywhere.
        weights: (..., M), not negative, of sum 1; a point of weight 0 takes no part.
        epsilon: Strength of the regulariser, in the units of the cost.
        regulariser: ``entropy``, ``kl`` or ``debiased``.
        cost: ``saturating`` tau (1 - exp(-d / tau)) for a distance of d cells, ``euclidean`` d, or ``sqeuclidean`` d^2.
        tau: Length in cells of the saturating cost.
        tolerance: Largest L1 error of the marginal D; 1e-6 in float32 and 1e-10 in float64 by default.

    Returns:
        (...) values. Their derivative is the dual potential itself; nothing is differentiated through the iterations.

    Raises:
        ValueError: If a shape, a name or a number is none of the above.

    Warns:
        TransportWarning: If the tolerance was not reached.
    """
    problem = Problem(float(epsilon), regulariser, Cost(cost, float(tau)))
    return _RegularisedEMD.apply(suppliers, points, weights, problem, tolerance)


class _RegularisedEMD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, suppliers: Tensor, points: Tensor, weights: Tensor, problem: Problem, tolerance: float | None
    ):
        solution = _solve(suppliers, points, weights, problem, tolerance)
        ctx.save_for_backward(solution.gradient)
        return solution.value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):
        (potential,) = ctx.saved_tensors
        return grad[..., None, None] * potential, None, None, None, None


def solve(
    suppliers: Tensor,
    points: Tensor,
    weights: Tensor,
    epsilon: float,
    *,
    regulariser: str = Problem.regulariser,
    cost: str = Cost.kind,
    tau: float = Cost.tau,
    tolerance: float | None = None,
) -> Solution:
    """The transport with its potentials; arguments and errors as for :func:`regularised_emd`."""
    return _solve(suppliers, points, weights, Problem(float(epsilon), regulariser, Cost(cost, float(tau))), tolerance)


def _solve(suppliers: Tensor, points: Tensor, weights: Tensor, problem: Problem, tolerance: float | None) -> Solution:
    """The solver as ``torch.compile`` finds it: a call that is not traced.

    As a decorator, ``torch.compiler.disable`` would import the compiler, for a second, whether or not it is in use.
    """
    solver: Any = torch.compiler.disable(_solve_batch) if torch.compiler.is_compiling() else _solve_batch
    return solver(suppliers, points, weights, problem, tolerance)


@torch.no_grad()
def _solve_batch(
    suppliers: Tensor, points: Tensor, weights: Tensor, problem: Problem, tolerance: float | None
) -> Solution:
    _check(suppliers, points, weights)
    *batch, height, width = suppliers.shape
    count = points.shape[-2]
    solution = solve_maps(
        suppliers.reshape(-1, height, width),
        points.expand(*batch, count, 2).reshape(-1, count, 2),
        weights.expand(*batch, count).reshape(-1, count),
        problem,
        tolerance,
    )
    return Solution(
        solution.value.reshape(batch),
        solution.gradient.reshape(suppliers.shape),
        solution.demand.reshape(*batch, count),
        solution.error.reshape(batch),
        solution.evaluations,
    )


def _check(suppliers: Tensor, points: Tensor, weights: Tensor) -> None:
    if suppliers.dtype not in TOLERANCE:
        raise ValueError(f"suppliers must be float32 or float64, got {suppliers.dtype}")
    batch = suppliers.shape[:-2]
    if (
        suppliers.ndim < 2 or points.ndim < 2 or points.shape[-1] != 2 or weights.shape[-1:] != points.shape[-2:-1]
        or not (_spreads_to(points.shape[:-2], batch) and _spreads_to(weights.shape[:-1], batch))
    ):  # fmt: skip
        raise ValueError(
            "transport takes suppliers (..., H, W), points (..., M, 2) and weights (..., M), got "
            f"{tuple(suppliers.shape)}, {tuple(points.shape)} and {tuple(weights.shape)}"
        )
    if not 1 <= points.shape[-2] <= MOST_DEMANDERS:
        raise ValueError(f"transport takes 1 to {MOST_DEMANDERS} points a map, got {points.shape[-2]}")
    for name, shares, mass in (
        ("suppliers", suppliers, suppliers.sum(dim=(-2, -1))), ("weights", weights, weights.sum(dim=-1)),
    ):  # fmt: skip
        if (shares < 0).any():
            raise ValueError(f"{name} must not be negative; the least is {shares.min():.4g}")
        if not ((mass - 1).abs() <= 1e-3).all():
            worst = mass.flatten()[(mass - 1).abs().argmax()]
            raise ValueError(f"{name} must sum to 1 over each map; the furthest sum is {worst:.4g}")


def _spreads_to(shape: torch.Size, batch: torch.Size) -> bool:
    """Whether one leading shape expands to the other."""
    return len(shape) <= len(batch) and all(a in (1, b) for a, b in zip(shape[::-1], batch[::-1], strict=False))


@torch.no_grad()
def solve_maps(
    maps: Tensor, points: Tensor, weights: Tensor, problem: Problem, tolerance: float | None = None
) -> Solution:
    """As :func:`solve`, for maps (G, H, W), points (G, M, 2) and weights (G, M), which are not checked."""
    if maps.device.type not in FLOAT64_DEVICES:
        found = solve_maps(maps.cpu(), points.cpu(), weights.cpu(), problem, tolerance)
        value, gradient = found.value.to(maps.device), found.gradient.to(maps.device)
        return Solution(value, gradient, found.demand, found.error, found.evaluations)
    tolerance = TOLERANCE[maps.dtype] if tolerance is None else tolerance
    points, weights = points.to(torch.float64), weights.to(torch.float64)
    weights = weights / weights.sum(dim=1, keepdim=True)
    with torch.autocast(maps.device.type, enabled=False):
        solution = _solve_kl_or_entropy(maps, points, weights, problem, tolerance)
        if problem.regulariser == "debiased":
            solution = _debiased(solution, maps, points, weights, problem, tolerance)
    if not (solution.error <= tolerance).all():
        wrong = solution.error.isnan()
        left = solution.error[~wrong & (solution.error > tolerance)]
        parts = [f"{int(wrong.sum())} of {len(maps)} maps have no finite solution"] if wrong.any() else []
        if len(left):
            parts.append(
                f"{len(left)} of {len(maps)} maps stopped at a marginal error of up to {left.max():.1e}, above the "
                f"tolerance {tolerance:.1e} ({problem})"
            )
        warnings.warn(
            f"transport: {'; '.join(parts)}",
            TransportWarning,
            stacklevel=users_stacklevel(),
        )
    return solution


def _solve_kl_or_entropy(maps: Tensor, points: Tensor, weights: Tensor, problem: Problem, tolerance: float) -> Solution:
    """E_kl or E_entropy of all maps: in the compiled loops where they serve, by ``newton.py`` for the rest.

    Maps that do not settle in float32, where the last digits of sums may miss the tolerance, are solved in float64.
    """
    size, entropy = (maps.shape[1], maps.shape[2]), problem.regulariser == "entropy"
    corners = block_corners(points, size)
    if corners is not None and _fits_cpu_loops(maps, problem):
        solution = _solve_in_loops(maps.contiguous(), corners, weights, problem, tolerance)
    else:
        empty = maps.new_empty(len(maps)), torch.empty_like(maps, memory_format=torch.contiguous_format)
        solution = Solution(*empty, torch.empty_like(weights), torch.full_like(weights[:, 0], math.inf), 0)
    value, gradient, demand, error = solution.value, solution.gradient, solution.demand, solution.error
    evaluations = solution.evaluations
    for dtype in dict.fromkeys((maps.dtype, torch.float64)):
        unsettled = (~(error <= tolerance)).nonzero()[:, 0]
        for group in unsettled.split(maps_at_once(maps)) if len(unsettled) else ():
            dual = semi_dual(maps[group].to(dtype), points[group], None if corners is None else corners[group],
                             problem.cost, problem.epsilon)  # fmt: skip
            demand[group], error[group], used = maximise(dual, weights[group], problem.epsilon, tolerance)
            evaluations = max(evaluations, used)
            gradient[group] = dual.potential(entropy=entropy).to(maps.dtype).unflatten(1, size)
            value[group] = torch.linalg.vecdot(maps[group].flatten(1), gradient[group].flatten(1))
    if entropy:
        value += problem.epsilon * torch.xlogy(weights, weights).sum(dim=1).to(maps.dtype)
    return Solution(value, gradient, demand, error, evaluations)


def _debiased(
    solution: Solution, maps: Tensor, points: Tensor, weights: Tensor, problem: Problem, tolerance: float
) -> Solution:
    """E_debiased from E_kl: less half the transports of S and of D to themselves."""
    own, own_error = self_potential(maps, problem.cost, problem.epsilon, tolerance)
    half, half_error = self_value(points, weights, problem.cost, problem.epsilon, tolerance)
    halves = torch.linalg.vecdot(maps.flatten(1), own.flatten(1)) + half.to(maps.dtype)
    return Solution(
        solution.value - halves,
        solution.gradient - own,
        solution.demand,
        solution.error.maximum(own_error).maximum(half_error),
        solution.evaluations,
    )


def maps_at_once(maps: Tensor) -> int:
    """How many of the maps (..., H, W) are solved together."""
    return max(1, CELLS_AT_ONCE.get(maps.device.type, CELLS_AT_ONCE["cpu"]) // (maps.shape[-2] * maps.shape[-1]))


# ------------------------------------------------------------------------------------------------- compiled loops


def _fits_cpu_loops(maps: Tensor, problem: Problem) -> bool:
    """Whether the compiled loops serve blocks of demanders on these maps."""
    size = maps.shape[-2], maps.shape[-1]
    worth_a_try = problem.cost.spread(size) <= MOST_SPREAD_WORTH_A_TRY * problem.epsilon
    return maps.device.type == "cpu" and worth_a_try and accelerator(CPU_LOOPS) is not None


def _solve_in_loops(maps: Tensor, corners: Tensor, weights: Tensor, problem: Problem, tolerance: float) -> Solution:
    """<S, a>, a (with the entropy's eps log S), b and the error of each map.

    The error is NaN or above the tolerance for maps on which Newton's method did not settle without stages, and
    infinite where total / S is beyond the range of the maps' type.
    """
    loops = accelerator(CPU_LOOPS)
    assert loops is not None
    cost, epsilon, size, like = problem.cost, problem.epsilon, (maps.shape[1], maps.shape[2]), (maps.dtype, maps.device)
    supply, block = maps.numpy(), corners.numpy()
    value, total = maps.new_empty(len(maps)), torch.empty_like(maps)
    exponent, error = torch.empty_like(weights), torch.empty_like(weights[:, 0])
    kernel, nearest = cost.block_kernel(size, epsilon, *like), cost.block_nearest(size, *like)
    evaluations = loops.maximise(
        supply, kernel.numpy(), block, weights.numpy(), tolerance, total.numpy(), exponent.numpy(), error.numpy()
    )
    # logarithms are torch's, which takes several at a time
    entropy = problem.regulariser == "entropy"
    log = total.div_(maps.clamp(min=SMALLEST_SUPPLY)).log_() if entropy else total.log_()
    loops.finish(log.numpy(), nearest.numpy(), block, supply, epsilon, value.numpy())
    error.masked_fill_(~value.isfinite(), math.inf)
    return Solution(value, log, exponent * epsilon, error, evaluations)
