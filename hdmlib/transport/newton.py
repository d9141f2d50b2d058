"""Newton's method on the semi-dual, for a group of maps at a time, from a large epsilon down to the one asked for.

With p_nm the share of cell n that goes to demander m and q_m = sum_n S_n p_nm the mass that arrives there, the gradient
of the semi-dual is D - q and its Hessian -(diag q - sum_n S_n p_n p_n^T) / eps. In: a :class:`SemiDual`, which
evaluates q and the moments of p. Out: the demanders' potential b. Only (G, M) and (G, M, M) numbers are touched here,
in numpy, whose calls cost a fraction of torch's.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_EVALUATIONS = 60
# Longest Newton step in b / eps: e^20 is as far as the shares of the demanders can change in one step.
LONGEST_STEP = 20.0
# The faster of two candidate steps is taken while its slope is at least this share of the steeper one's.
UPHILL = 0.1


class SemiDual(Protocol):
    """The semi-dual of G maps, with all that Newton's method needs of them."""

    spread: float  # largest difference between the costs from one cell to two demanders

    def set_epsilon(self, stage: NDArray[np.float64]) -> None:
        """Set the epsilon of each map, (G, 1), for what follows."""

    def arrivals(self, exponents: NDArray[np.float64]) -> NDArray[np.float64]:
        """q (G, M) where the exponents (G, M) are log D + b / epsilon."""
        ...

    def moments(self) -> NDArray[np.float64]:
        """sum_n S_n p_n p_n^T (G, M, M) at the exponents last given."""
        ...

    def potential(self, *, entropy: bool) -> Tensor:
        """a (G, N) at the exponents last given, at the final epsilon; with ``entropy`` a + eps log S."""
        ...


def maximise(dual: SemiDual, weights: Tensor, epsilon: float, tolerance: float) -> tuple[Tensor, Tensor, int]:
    """Maximise the semi-dual by Newton's method, from a large epsilon down to the one asked for.

    At a small epsilon the semi-dual is a staircase on which the method is lost unless it starts near the top, but b
    hardly moves with epsilon: each stage starts from the b of the one before. A step past the top, beyond which the
    semi-dual falls more than half as steeply as it rose at the start, is shortened, and so are the next ones.

    Args:
        dual: The maps.
        weights: (G, M) demanders D, each row of sum 1.
        epsilon: Strength of the regulariser to end at.
        tolerance: L1 error of the marginal D to stop at.

    Returns:
        b (G, M) with <D, b> = 0, the marginal errors (G,) and the number of evaluations.
    """
    demand = weights.cpu().numpy()
    log_demand = np.log(demand, out=np.full_like(demand, -np.inf), where=demand > 0)
    largest = epsilon
    while largest < dual.spread / 8:
        largest *= 2
    stage = np.full((len(demand), 1), largest)
    dual.set_epsilon(stage)
    b = last = step = np.zeros_like(demand)
    slope = np.full_like(stage, np.inf)  # of the semi-dual along the step, at its start
    length, radius = np.ones_like(slope), np.full_like(slope, LONGEST_STEP)
    for evaluations in range(1, MAX_EVALUATIONS + 1):
        q = dual.arrivals(log_demand + b / stage)
        q /= q.sum(axis=1, keepdims=True)  # the mass of a map is 1 only up to rounding
        missing = demand - q
        error = np.abs(missing).sum(axis=1)
        if (error.max() <= tolerance and stage.max() == epsilon) or evaluations == MAX_EVALUATIONS:
            break
        if evaluations == MAX_EVALUATIONS - 1:  # the last one measures the error at the final epsilon
            stage[:] = epsilon
            dual.set_epsilon(stage)
            continue
        slope_here = (missing * step).sum(axis=1, keepdims=True)
        past = slope_here < -slope / 2
        radius = np.where(past, radius / 4, np.minimum(LONGEST_STEP, 2 * radius))
        new_step, in_reach = _newton_step(demand, q, missing, dual.moments(), radius)
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
            dual.set_epsilon(stage)
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
