"""The transport of a distribution to itself, which ``debiased`` subtracts.

A map has as many demanders as cells then, and the semi-dual of ``newton.py`` does not help: the potential is found by
Sinkhorn's iteration, some hundred times slower than the other regularisers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hdmlib.transport.cost import Cost

MAX_ITERATIONS = 60
# Where the costs exceed so many epsilon, exp(-C / eps) leaves float64's range and the sums go through logarithms.
_RANGE = 600.0
# Cells of maps solved together.
_CELLS_AT_ONCE = 110_000


def self_potential(maps: Tensor, cost: Cost, epsilon: float, tolerance: float) -> tuple[Tensor, Tensor]:
    """The potential f of E_kl(S, S) = 2 <S, f>, half its gradient.

    The cost between two cells depends on their rows only through the distance of the rows, so H blocks of W x W numbers
    hold all costs.

    Args:
        maps: (G, H, W) distributions S.
        cost: The cost of moving mass.
        epsilon: Strength of the regulariser.
        tolerance: Largest L1 error of the marginal.

    Returns:
        f (G, H, W) in the type of the maps, and the errors (G,) float64.
    """
    height, width = maps.shape[1:]
    x = torch.arange(width, dtype=torch.float64, device=maps.device)
    y = torch.arange(height, dtype=torch.float64, device=maps.device)
    blocks = cost.of_squared(y[:, None, None] ** 2 + (x[:, None] - x) ** 2) / epsilon  # (row distance, W, W)
    away = (y[:, None] - y).abs().long()
    in_range = bool(blocks.max() < _RANGE)
    kernel = torch.exp(-blocks) if in_range else blocks

    def log_sum(exponents: Tensor) -> Tensor:
        if in_range:
            top = exponents.amax(dim=1, keepdim=True)
            mass = (exponents - top).exp().T  # (N, B)
            rows = [kernel[away[row]].transpose(0, 1).reshape(width, -1) @ mass for row in range(height)]
            return torch.cat(rows).log().T + top
        costs = (kernel[away[row]].transpose(0, 1).reshape(width, -1) for row in range(height))
        return torch.cat([(exponents[:, None] - rows).logsumexp(dim=2) for rows in costs], dim=1)

    potential, error = torch.empty_like(maps), torch.empty_like(maps[:, 0, 0], dtype=torch.float64)
    at_once = max(1, _CELLS_AT_ONCE // (height * width))
    for start in range(0, len(maps), at_once):
        group = slice(start, start + at_once)
        found, error[group] = _symmetric_sinkhorn(maps[group].flatten(1).double(), log_sum, epsilon, tolerance)
        potential[group] = found.unflatten(1, (height, width))
    return potential, error


def self_value(points: Tensor, weights: Tensor, cost: Cost, epsilon: float, tolerance: float) -> tuple[Tensor, Tensor]:
    """E_kl(D, D) / 2 (G,) of weights D (G, M) on points (G, M, 2), and the marginal errors (G,), float64."""
    between = cost.of_squared((points[:, :, None] - points[:, None]).square().sum(dim=3)) / epsilon

    def log_sum(exponents: Tensor) -> Tensor:
        return (exponents[:, None] - between).logsumexp(dim=2)

    potential, error = _symmetric_sinkhorn(weights, log_sum, epsilon, tolerance)
    return torch.linalg.vecdot(weights, potential), error


def _symmetric_sinkhorn(
    mass: Tensor, log_sum: Callable[[Tensor], Tensor], epsilon: float, tolerance: float
) -> tuple[Tensor, Tensor]:
    """The f with f_n = -eps log sum_l S_l exp((f_l - C_nl) / eps), for S = ``mass`` (B, N), and the errors (B,).

    Each iteration goes two thirds of the way: with kernels exp(-C / eps) that are positive definite, as ours, the error
    shrinks to a third each time, whatever the map. ``log_sum`` gives log sum_l exp(e_l - C_nl / eps) for exponents e
    (B, N).
    """
    f = target = torch.zeros_like(mass)
    error = torch.full_like(mass[:, 0], torch.inf)
    for _ in range(MAX_ITERATIONS):
        target = -epsilon * log_sum(f / epsilon + mass.log())
        sent = torch.where(mass > 0, mass * torch.exp((f - target) / epsilon), 0.0)
        error = (sent - mass).abs().sum(dim=1)
        if (error <= tolerance).all():
            break
        f = f + (target - f) * 2 / 3
    return target, error
