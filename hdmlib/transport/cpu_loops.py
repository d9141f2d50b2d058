"""The semi-dual on a CPU, map by map, in compiled loops: ``newton.py`` without its stages, ten times as fast.

In: maps, the tables of what it costs to reach 2 x 2 neighbouring demanders, and their shares. Out: the potentials.
Steps past the top are shortened as in ``newton.py``, but epsilon has no stages; a map on which Newton's method does not
settle without them is reported by its error, and ``problem.py`` solves it again.

Importing this module imports numba (half a second) and its first call compiles (some seconds, kept on disk).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from hdmlib.transport.newton import LONGEST_STEP

# More evaluations than this are a sign of being lost.
MAX_EVALUATIONS = 40


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, and keep the result on disk: beside this file or in the user's cache folder.

    Sums may be taken in any order, which fits them to a processor's vectors. NaN and infinity keep their meaning.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "arcp", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written
        warnings.warn(
            "no folder for compiled code can be written, so that each process spends some seconds on compiling the "
            "transport loops: set NUMBA_CACHE_DIR to one that can",
            RuntimeWarning,
            stacklevel=1,  # one place for all functions, so that it is shown once
        )
        return numba.njit(**options)(function)


@_compiled
def maximise(
    supply: NDArray[np.floating],
    kernel: NDArray[np.floating],
    corners: NDArray[np.int64],
    demand: NDArray[np.float64],
    tolerance: float,
    total: NDArray[np.floating],
    potential: NDArray[np.float64],
    error: NDArray[np.float64],
) -> int:
    """Maximise the semi-dual of each map by Newton's method.

    Args:
        supply: (G, H, W) suppliers S.
        kernel: (4, 2H - 1, 2W - 1) exp((min_m C_nm - C_nm) / eps) by the offset of the cell n from the block's corner.
        corners: (G, 2) corner of each block, as (x, y).
        demand: (G, 4) demanders D, each row of sum 1.
        tolerance: L1 error of the marginal D to stop at.
        total: (G, H, W), filled with sum_m D_m exp(b_m / eps) K_nm.
        potential: (G, 4), filled with b / eps.
        error: (G,), filled with the L1 errors.

    Returns:
        The largest number of evaluations of a map.
    """
    most = 0
    weights, step, last = np.empty(4), np.empty(4), np.empty(4)
    q, pairs = np.empty(4), np.empty((4, 4))
    for g in range(len(supply)):
        b = potential[g]
        b[:] = 0.0
        step[:] = 0.0
        slope, length = np.inf, 1.0  # of the semi-dual along the step, at its start; and the share of it that is taken
        for evaluation in range(1, MAX_EVALUATIONS + 1):
            most = max(most, evaluation)
            for m in range(4):
                weights[m] = demand[g, m] * np.exp(b[m])
            _evaluate(supply[g], kernel, corners[g], weights, total[g], q, pairs)
            error[g] = slope_here = 0.0
            for m in range(4):
                error[g] += abs(demand[g, m] - q[m])
                slope_here += (demand[g, m] - q[m]) * step[m]
            if error[g] <= tolerance:
                break
            if slope_here < -0.5 * slope:  # past the top: shorten the step to where a straight slope would be zero
                length *= min(max(slope / (slope - slope_here), 0.1), 0.5)
            else:
                last[:] = b
                _newton_step(demand[g], q, pairs, error[g], step)
                slope, length = 0.0, 1.0
                for m in range(4):
                    slope += (demand[g, m] - q[m]) * step[m]
                slope = max(slope, 0.0)
            for m in range(4):
                b[m] = last[m] + length * step[m]
    return most


@_compiled
def finish(
    log: NDArray[np.floating],
    nearest: NDArray[np.floating],
    corners: NDArray[np.int64],
    supply: NDArray[np.floating],
    epsilon: float,
    value: NDArray[np.floating],
) -> None:
    """Turn ``log`` (G, H, W) into the potential of the suppliers, min_m C_nm - eps log, and take its mean over S.

    Args:
        log: log of what :func:`maximise` left in ``total``, or of total / S.
        nearest: (2H - 1, 2W - 1) min_m C_nm by the offset of the cell n from the block's corner.
        corners, supply: As for :func:`maximise`.
        epsilon: Strength of the regulariser.
        value: (G,), filled with sum_n S_n a_n.
    """
    height, width = supply.shape[1:]
    eps = supply.dtype.type(epsilon)
    for g in range(len(supply)):
        top, left = height - 1 - corners[g, 1], width - 1 - corners[g, 0]
        mean = 0.0
        for row in range(height):
            costs, here, a = nearest[top + row, left : left + width], supply[g, row], log[g, row]
            part = supply.dtype.type(0)
            for n in range(width):
                a[n] = costs[n] - eps * a[n]
                part += here[n] * a[n]
            mean += part
        value[g] = mean


@_compiled
def _evaluate(supply, kernel, corner, weights, total, q, pairs):
    """One pass over the cells: what arrives, q_m = sum_n S_n p_nm, and how often two demanders share a cell.

    With u_m = D_m exp(b_m / eps), the weights, p_nm = u_m K_nm / sum_l u_l K_nl; ``pairs`` (4, 4) is sum_n S_n p_nl
    p_nm off the diagonal. Cells are added up in the maps' own type along a row and in float64 from row to row.
    """
    height, width = supply.shape
    top, left = height - 1 - corner[1], width - 1 - corner[0]
    u0, u1, u2, u3 = (supply.dtype.type(weights[0]), supply.dtype.type(weights[1]),
                      supply.dtype.type(weights[2]), supply.dtype.type(weights[3]))  # fmt: skip
    zero = supply.dtype.type(0)
    q[:] = 0.0
    pairs[:] = 0.0
    for row in range(height):
        k0, k1 = kernel[0, top + row, left : left + width], kernel[1, top + row, left : left + width]
        k2, k3 = kernel[2, top + row, left : left + width], kernel[3, top + row, left : left + width]
        here, sums = supply[row], total[row]
        s0 = s1 = s2 = s3 = m01 = m02 = m03 = m12 = m13 = m23 = zero
        for n in range(width):
            v0, v1, v2, v3 = u0 * k0[n], u1 * k1[n], u2 * k2[n], u3 * k3[n]
            every = (v0 + v1) + (v2 + v3)
            sums[n] = every
            one = here[n] / every
            two = one / every
            s0 += one * v0
            s1 += one * v1
            s2 += one * v2
            s3 += one * v3
            m01 += two * v0 * v1
            m02 += two * v0 * v2
            m03 += two * v0 * v3
            m12 += two * v1 * v2
            m13 += two * v1 * v3
            m23 += two * v2 * v3
        q[0] += s0
        q[1] += s1
        q[2] += s2
        q[3] += s3
        pairs[0, 1] += m01
        pairs[0, 2] += m02
        pairs[0, 3] += m03
        pairs[1, 2] += m12
        pairs[1, 3] += m13
        pairs[2, 3] += m23
    mass = q.sum()  # 1 only up to rounding
    for m in range(4):
        q[m] /= mass
        for other in range(m):
            pairs[m, other] = pairs[other, m]


@_compiled
def _newton_step(demand, q, pairs, error, step):
    """The step in b / eps: (diag q - moments) step = q log(D / q), as in ``newton.py``; arrays of 4 entries."""
    matrix = np.empty((4, 4))
    mean = 0.0
    for m in range(4):
        step[m] = np.log(demand[m] / max(q[m], 1e-300)) if demand[m] > 0 else 0.0
        mean += q[m] * step[m]
    ridge = 1e-3 * error + 1e-12
    for m in range(4):
        step[m] = q[m] * (step[m] - mean)
        # a row of the moments sums to q, so their diagonal is not needed; q q^T rules out constants, the ridge holds
        # where the semi-dual is flat, and a demander of weight 0 gets the equation step = 0
        matrix[m, m] = q[m] * (q[m] + ridge) + (1e-300 if demand[m] > 0 else 1.0)
        for other in range(4):
            if other != m:
                matrix[m, m] += pairs[m, other]
                matrix[m, other] = q[m] * q[other] - pairs[m, other]
    # elimination; the matrix is symmetric and positive, so no pivot is looked for
    for m in range(4):
        for below in range(m + 1, 4):
            factor = matrix[below, m] / matrix[m, m]
            step[below] -= factor * step[m]
            for column in range(m + 1, 4):
                matrix[below, column] -= factor * matrix[m, column]
    for m in range(3, -1, -1):
        for column in range(m + 1, 4):
            step[m] -= matrix[m, column] * step[column]
        step[m] /= matrix[m, m]
    gauge = (demand * step).sum()
    longest = 0.0
    for m in range(4):
        step[m] -= gauge
        longest = max(longest, abs(step[m]))
    for m in range(4):
        step[m] *= LONGEST_STEP / max(longest, LONGEST_STEP)
