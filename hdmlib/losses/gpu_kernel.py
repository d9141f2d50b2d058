"""The matching loss as one GPU kernel: a program per heatmap, on the chip from the one read to the one write.

In: heatmaps (G, H, W) and their four neighbouring demanders. Out: the loss (G,) and its gradient (G, H, W). Newton's
method is that of ``transport/newton.py``: a first launch works at the final epsilon alone, which settles all but a few
maps in ten thousand; a second launch takes these few through stages of epsilon, and its programs for settled maps
return at once. Nothing waits for the device; what is unsettled even then is reported by a warning at a later call.
:func:`is_supported` defines the problems that are solved here.

The module needs Triton and is imported with the first map on a GPU. Tested in Triton's interpreter on a CPU
(``TRITON_INTERPRET=1``). No GPU was at hand: its speed is not measured yet; ``tests/bench_gpu.py`` does it.
"""

# Triton compiles its functions from their source: a launch and an operator have other types than in Python.
# pyright: reportCallIssue=false, reportOperatorIssue=false

from __future__ import annotations

import os
import shutil
import warnings
from functools import cache
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from hdmlib.errors import users_stacklevel
from hdmlib.losses.deferred import DeferredFlags
from hdmlib.transport.problem import TransportWarning
from hdmlib.transport.semidual import SMALLEST_SUPPLY

if TYPE_CHECKING:
    from hdmlib.losses.matching import Matching

# Cells: one program holds a map and the four kernel values of each of its cells on the chip. What does not fit its
# registers is spilt: 250 bytes a thread at 64 x 48 and 970 at 96 x 72, but 2,340 at 128 x 96 (compiled for an H100).
LARGEST_MAP = 96 * 72
MAX_EVALUATIONS = 40
# The second launch starts at 2^(STAGES - 1) epsilon and halves it in each stage.
STAGES = 6
TOLERANCE = 1e-5
_SUPPLIERS = {"softmax": 0, "relu": 1, "relu_plain": 2}
_COSTS = {"euclidean": 0, "sqeuclidean": 1, "saturating": 2}

_unsettled = DeferredFlags()


def is_supported(heatmaps: Tensor, demanders: int, matching: Matching) -> bool:
    """Whether the kernel solves this problem: heatmaps (G, H, W) with so many demanders each."""
    size = (heatmaps.shape[1], heatmaps.shape[2])
    return (
        heatmaps.is_cuda
        and heatmaps.dtype == torch.float32
        and demanders == 4
        and min(size) >= 2
        and matching.suppliers in _SUPPLIERS
        and matching.problem.regulariser in ("kl", "entropy")
        and matching.problem.is_easy(size)
        and _fits(*size)
        and _has_compiler()
    )


@cache
def _fits(height: int, width: int) -> bool:
    """Whether a map is small enough; a warning, once for each size, if not."""
    if height * width > LARGEST_MAP:
        warnings.warn(
            f"heatmaps of {height} x {width} cells are too large for the GPU kernel of the matching loss, which takes "
            f"up to {LARGEST_MAP:,} cells (96 x 72); a slower path is used",
            RuntimeWarning,
            stacklevel=2,
        )
    return height * width <= LARGEST_MAP


@cache
def _has_compiler() -> bool:
    """Whether there is a C compiler, with which Triton builds the launcher of a kernel; a warning, once, if not."""
    found = "CC" in os.environ or any(map(shutil.which, ("gcc", "clang")))
    if not found:
        warnings.warn(
            "no C compiler is found, without which Triton cannot launch the GPU kernel of the matching loss; a slower "
            "path is used: install gcc, or set CC",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


def solve(heatmaps: Tensor, points: Tensor, shares: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    """Value and gradient of the matching loss, map by map.

    Args:
        heatmaps: (G, H, W) float32.
        points: (G, 4, 2) the cells (0, 0), (1, 0), (0, 1), (1, 1) of a block, all on the map, as (x, y).
        shares: (G, 4) what each of them demands, of sum 1; all 0 for a map that is ignored.
        matching: Suppliers, transport and likelihood.

    Returns:
        The loss (G,) and its gradient (G, H, W).

    Warns:
        TransportWarning: Maps of an earlier call did not settle; their gradients were approximate.
    """
    count = _unsettled.arrived()
    if count is not None and count > 0:
        message = f"transport: {int(count)} maps of an earlier batch did not settle"
        warnings.warn(message, TransportWarning, stacklevel=users_stacklevel())
    value, gradient, error = run_kernel(heatmaps, points, shares, matching)
    _unsettled.post((~(error <= TOLERANCE)).sum())
    return value, gradient


def run_kernel(heatmaps: Tensor, points: Tensor, shares: Tensor, matching: Matching) -> tuple[Tensor, Tensor, Tensor]:
    """Value (G,), gradient (G, H, W) and marginal error (G,); arguments as for :func:`solve`."""
    heatmaps, problem = heatmaps.contiguous(), matching.problem
    count, (height, width) = len(heatmaps), heatmaps.shape[1:]
    value, gradient = heatmaps.new_empty(count), torch.empty_like(heatmaps)
    error = torch.full_like(value, torch.inf)
    corners, shares = points[:, 0].int().contiguous(), shares.float().contiguous()
    block = triton.next_power_of_2(height * width)
    with torch.cuda.device_of(heatmaps):  # a launch goes to the current device, not to that of its arguments
        for stages in (1, STAGES) if count else ():
            _kernel[(count,)](
                heatmaps, corners, shares, value, gradient, error,
                problem.epsilon, problem.cost.tau, matching.mass_floor, matching.likelihood,
                torch.finfo(torch.float32).tiny, SMALLEST_SUPPLY, TOLERANCE,
                CELLS=height * width, WIDTH=width, BLOCK=block, SUPPLIERS=_SUPPLIERS[matching.suppliers],
                COST=_COSTS[problem.cost.kind], ENTROPY=problem.regulariser == "entropy", STAGES=stages,
                EVALUATIONS=MAX_EVALUATIONS, num_warps=min(16, max(4, block // 512)),
            )  # fmt: skip
    return value, gradient, error


@triton.jit
def _one_minus_exp(x):
    """1 - exp(-x) for x >= 0, by its series where the difference would cancel."""
    series = x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5))))
    return tl.where(x < 0.1, series, 1 - tl.exp(-x))


@triton.jit
def _distance_cost(distance, tau, COST: tl.constexpr):
    if COST == 1:
        cost = distance * distance
    elif COST == 2:
        cost = tau * _one_minus_exp(distance / tau)
    else:
        cost = distance
    return cost


@triton.jit
def _kernel_value(square, nearest_square, epsilon, tau, COST: tl.constexpr):
    """exp((C_nearest - C) / eps) from squared distances, which are whole numbers and so exact."""
    nearest = tl.sqrt(nearest_square)
    # d - d' = (d^2 - d'^2) / (d + d'), without cancellation; between a cell and itself it is 0
    farther = (square - nearest_square) / tl.maximum(tl.sqrt(square) + nearest, 1e-6)
    if COST == 1:
        gap = square - nearest_square
    elif COST == 2:
        gap = tau * tl.exp(-nearest / tau) * _one_minus_exp(farther / tau)
    else:
        gap = farther
    return tl.exp(-gap / epsilon)


@triton.jit
def _log_ratio(demand, q):
    return tl.where(demand > 0, tl.log(tl.where(demand > 0, demand, 1.0) / tl.maximum(q, 1e-300)), 0.0)


@triton.jit
def _newton_step(d0, d1, d2, d3, q0, q1, q2, q3, m01, m02, m03, m12, m13, m23):
    """The step in b / eps: (diag q - moments) step = q log(D / q), as in ``newton.py``; float64 scalars."""
    r0, r1, r2, r3 = _log_ratio(d0, q0), _log_ratio(d1, q1), _log_ratio(d2, q2), _log_ratio(d3, q3)
    mean = q0 * r0 + q1 * r1 + q2 * r2 + q3 * r3
    s0, s1, s2, s3 = q0 * (r0 - mean), q1 * (r1 - mean), q2 * (r2 - mean), q3 * (r3 - mean)
    error = tl.abs(d0 - q0) + tl.abs(d1 - q1) + tl.abs(d2 - q2) + tl.abs(d3 - q3)
    ridge = 1e-3 * error + 1e-12
    # rows of moments sum to q, so that its diagonal is never needed; q q^T and the ridge make the matrix regular, a
    # demander of weight 0 gets the equation step = 0
    a00 = m01 + m02 + m03 + q0 * (q0 + ridge) + tl.where(d0 > 0, 1e-300, 1.0)
    a11 = m01 + m12 + m13 + q1 * (q1 + ridge) + tl.where(d1 > 0, 1e-300, 1.0)
    a22 = m02 + m12 + m23 + q2 * (q2 + ridge) + tl.where(d2 > 0, 1e-300, 1.0)
    a33 = m03 + m13 + m23 + q3 * (q3 + ridge) + tl.where(d3 > 0, 1e-300, 1.0)
    a01, a02, a03 = q0 * q1 - m01, q0 * q2 - m02, q0 * q3 - m03
    a12, a13, a23 = q1 * q2 - m12, q1 * q3 - m13, q2 * q3 - m23
    # elimination; the matrix is symmetric and positive, so that no pivot is looked for
    f1, f2, f3 = a01 / a00, a02 / a00, a03 / a00
    a11, a12, a13 = a11 - f1 * a01, a12 - f1 * a02, a13 - f1 * a03
    a22, a23, a33 = a22 - f2 * a02, a23 - f2 * a03, a33 - f3 * a03
    s1, s2, s3 = s1 - f1 * s0, s2 - f2 * s0, s3 - f3 * s0
    f2, f3 = a12 / a11, a13 / a11
    a22, a23, a33 = a22 - f2 * a12, a23 - f2 * a13, a33 - f3 * a13
    s2, s3 = s2 - f2 * s1, s3 - f3 * s1
    f3 = a23 / a22
    t3 = (s3 - f3 * s2) / (a33 - f3 * a23)
    t2 = (s2 - a23 * t3) / a22
    t1 = (s1 - a12 * t2 - a13 * t3) / a11
    t0 = (s0 - a01 * t1 - a02 * t2 - a03 * t3) / a00
    gauge = d0 * t0 + d1 * t1 + d2 * t2 + d3 * t3
    t0, t1, t2, t3 = t0 - gauge, t1 - gauge, t2 - gauge, t3 - gauge
    longest = tl.maximum(tl.maximum(tl.abs(t0), tl.abs(t1)), tl.maximum(tl.abs(t2), tl.abs(t3)))
    shrink = 20.0 / tl.maximum(longest, 20.0)  # newton.py's LONGEST_STEP
    return t0 * shrink, t1 * shrink, t2 * shrink, t3 * shrink


@triton.jit
def _kernel(
    heatmaps, corners, shares, values, gradients, errors,
    epsilon, tau, mass_floor, likelihood, tiny, smallest_supply, tolerance,
    CELLS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SUPPLIERS: tl.constexpr, COST: tl.constexpr,
    ENTROPY: tl.constexpr, STAGES: tl.constexpr, EVALUATIONS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    start = row.to(tl.int64) * CELLS
    cell = tl.arange(0, BLOCK)
    cells = tl.where(tl.load(errors + row) <= tolerance, 0, CELLS)  # none if an earlier launch has settled the map
    on_map = cell < cells

    # --- suppliers S
    if SUPPLIERS == 0:
        h = tl.load(heatmaps + start + cell, mask=on_map, other=-float("inf"))
        supply = tl.exp(h - tl.max(h, 0))
        peak = 1.0
    else:
        h = tl.load(heatmaps + start + cell, mask=on_map, other=0.0)
        positive = tl.maximum(h, 0.0)
        peak = tl.max(positive, 0)
        supply = tl.where(peak >= tiny, positive / tl.maximum(peak, tiny), tl.where(on_map, 1.0, 0.0))
    mass = tl.sum(supply, 0)
    supply = supply / mass

    # --- offsets from the block of demanders
    x = (cell % WIDTH - tl.load(corners + 2 * row)).to(tl.float32)
    y = (cell // WIDTH - tl.load(corners + 2 * row + 1)).to(tl.float32)
    left, right, up, down = x * x, (x - 1) * (x - 1), y * y, (y - 1) * (y - 1)
    nearest = tl.minimum(left, right) + tl.minimum(up, down)

    # --- Newton's method for v = b / eps
    d0 = tl.load(shares + 4 * row).to(tl.float64)
    d1 = tl.load(shares + 4 * row + 1).to(tl.float64)
    d2 = tl.load(shares + 4 * row + 2).to(tl.float64)
    d3 = tl.load(shares + 4 * row + 3).to(tl.float64)
    whole = d0 + d1 + d2 + d3
    used = whole > 0  # else the map is ignored
    whole = tl.where(used, whole, 1.0)
    d0, d1, d2, d3 = d0 / whole, d1 / whole, d2 / whole, d3 / whole
    v0, v1, v2, v3 = d0 * 0, d0 * 0, d0 * 0, d0 * 0
    total = supply * 0
    top = d0 * 0
    solving = tl.where(used, cells, 0) > 0
    error = tl.where(solving, 2.0, 0.0).to(tl.float64)
    boost = d0 * 0 + 2.0 ** (STAGES - 1)
    for _ in range(STAGES):
        epsilon_now = epsilon * boost.to(tl.float32)
        # kernel values of the four demanders, each over that of the nearest
        k0 = _kernel_value(left + up, nearest, epsilon_now, tau, COST)
        k1 = _kernel_value(right + up, nearest, epsilon_now, tau, COST)
        k2 = _kernel_value(left + down, nearest, epsilon_now, tau, COST)
        k3 = _kernel_value(right + down, nearest, epsilon_now, tau, COST)
        l0, l1, l2, l3 = v0, v1, v2, v3  # where the current step starts
        t0, t1, t2, t3 = v0 * 0, v0 * 0, v0 * 0, v0 * 0  # the step
        slope, length = d0 * 0 + 1e300, d0 * 0 + 1  # of the semi-dual at its start, and the share of it that is taken
        error = tl.where(solving, 2.0, 0.0).to(tl.float64)
        evaluation = 0
        while (error > tolerance) & (evaluation < EVALUATIONS):
            top = tl.maximum(tl.maximum(v0, v1), tl.maximum(v2, v3))
            w0, w1, w2, w3 = d0 * tl.exp(v0 - top), d1 * tl.exp(v1 - top), d2 * tl.exp(v2 - top), d3 * tl.exp(v3 - top)
            total = w0.to(tl.float32) * k0 + w1.to(tl.float32) * k1 + w2.to(tl.float32) * k2 + w3.to(tl.float32) * k3
            sent = supply / total
            q0 = w0 * tl.sum(sent * k0, 0).to(tl.float64)
            q1 = w1 * tl.sum(sent * k1, 0).to(tl.float64)
            q2 = w2 * tl.sum(sent * k2, 0).to(tl.float64)
            q3 = w3 * tl.sum(sent * k3, 0).to(tl.float64)
            arrived = q0 + q1 + q2 + q3
            q0, q1, q2, q3 = q0 / arrived, q1 / arrived, q2 / arrived, q3 / arrived
            error = tl.abs(d0 - q0) + tl.abs(d1 - q1) + tl.abs(d2 - q2) + tl.abs(d3 - q3)
            slope_here = (d0 - q0) * t0 + (d1 - q1) * t1 + (d2 - q2) * t2 + (d3 - q3) * t3
            if error > tolerance:
                if slope_here < -0.5 * slope:  # past the top: shorten the step to where a straight slope would be zero
                    length *= tl.minimum(tl.maximum(slope / (slope - slope_here), 0.1), 0.5)
                else:
                    twice = sent / total
                    m01 = w0 * w1 * tl.sum(twice * k0 * k1, 0).to(tl.float64)
                    m02 = w0 * w2 * tl.sum(twice * k0 * k2, 0).to(tl.float64)
                    m03 = w0 * w3 * tl.sum(twice * k0 * k3, 0).to(tl.float64)
                    m12 = w1 * w2 * tl.sum(twice * k1 * k2, 0).to(tl.float64)
                    m13 = w1 * w3 * tl.sum(twice * k1 * k3, 0).to(tl.float64)
                    m23 = w2 * w3 * tl.sum(twice * k2 * k3, 0).to(tl.float64)
                    l0, l1, l2, l3 = v0, v1, v2, v3
                    t0, t1, t2, t3 = _newton_step(
                        d0, d1, d2, d3, q0, q1, q2, q3, m01, m02, m03, m12, m13, m23
                    )  # fmt: skip
                    slope = (d0 - q0) * t0 + (d1 - q1) * t1 + (d2 - q2) * t2 + (d3 - q3) * t3
                    slope, length = tl.maximum(slope, 0.0), d0 * 0 + 1
                v0, v1, v2, v3 = l0 + length * t0, l1 + length * t1, l2 + length * t2, l3 + length * t3
            evaluation += 1
        # b hardly moves with epsilon: v = b / eps doubles where epsilon is halved
        boost *= 0.5
        v0, v1, v2, v3 = v0 * 2, v1 * 2, v2 * 2, v3 * 2

    # --- dE/dS, E and dE/dh
    potential = _distance_cost(tl.sqrt(nearest), tau, COST) - epsilon * (tl.log(total) + top.to(tl.float32))
    constant = d0 * 0
    if ENTROPY:
        potential += epsilon * tl.log(tl.maximum(supply, smallest_supply))
        constant += epsilon * (
            d0 * tl.log(tl.maximum(d0, 1e-300)) + d1 * tl.log(tl.maximum(d1, 1e-300))
            + d2 * tl.log(tl.maximum(d2, 1e-300)) + d3 * tl.log(tl.maximum(d3, 1e-300))
        )  # fmt: skip
    mean = tl.sum(supply * potential, 0)
    gradient = potential - mean
    value = mean + constant.to(tl.float32)
    if SUPPLIERS == 0:
        # with the cross-entropy on the demanders, whose gradient with respect to h is S - D
        demand = tl.where(up == 0, tl.where(left == 0, d0, 0.0) + tl.where(right == 0, d1, 0.0), 0.0)
        demand += tl.where(down == 0, tl.where(left == 0, d2, 0.0) + tl.where(right == 0, d3, 0.0), 0.0)
        demand = demand.to(tl.float32)
        wanted = tl.sum(tl.where(demand > 0, demand * h, 0.0), 0)  # sum_m D_m h_m
        gradient = gradient * supply + likelihood * (supply - demand)
        value += likelihood * (tl.max(h, 0) + tl.log(mass) - wanted)
    else:
        gradient = gradient / (mass * tl.where(peak >= tiny, tl.maximum(peak, mass_floor), 1.0))
        if SUPPLIERS == 1:
            gradient = tl.where((h > 0) | (gradient < 0), gradient, 0.0)
        else:
            gradient = tl.where(h > 0, gradient, 0.0)
    tl.store(gradients + start + cell, tl.where(used, gradient, 0.0), mask=on_map)
    tl.store(values + row, tl.where(used, value, 0.0), mask=cells > 0)
    tl.store(errors + row, error.to(tl.float32), mask=cells > 0)
