"""Heatmaps as distributions over their cells, and the gradient back through that."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SUPPLIERS = ("softmax", "softplus", "relu", "relu_plain")


def make_suppliers(heatmaps: Tensor, kind: str) -> Tensor:
    """Heatmaps as distributions over their cells.

    Args:
        heatmaps: (..., H, W).
        kind: ``relu_plain``, the supplement's max(h, 0) / sum max(h, 0); ``relu``, the same with a one-sided gradient,
            which can raise cells from below zero; ``softplus`` log(1 + exp h), normalised; ``softmax`` exp h,
            normalised. A map without a positive cell, 0/0 for the first two, counts as flat.

    Returns:
        (..., H, W), not negative, each map of mass 1.
    """
    if kind in ("relu", "relu_plain"):
        positive = heatmaps.clamp(min=0)
        peak = positive.amax(dim=(-2, -1), keepdim=True)
        tiny = torch.finfo(peak.dtype).tiny
        scaled = torch.where(peak >= tiny, positive / peak.clamp(min=tiny), 1.0)  # no overflow, no 0/0
        return scaled / scaled.sum(dim=(-2, -1), keepdim=True)
    if kind == "softplus":
        # the logarithm of softplus, which is h itself from where exp h is below the rounding
        heatmaps = torch.where(heatmaps < -15, heatmaps, nn.functional.softplus(heatmaps.clamp(min=-15)).log())
    return heatmaps.flatten(-2).softmax(dim=-1).view(heatmaps.shape)


def pull_back(potential: Tensor, supply: Tensor, heatmaps: Tensor, kind: str, mass_floor: float) -> Tensor:
    """dE/dh from dE/dS, which it overwrites: the chain rule through :func:`make_suppliers`.

    With g = dE/dS - <S, dE/dS> it is S g for the softmax and g / sum max(h, 0) on the positive cells for the plain
    ReLU. A cell at or below zero gets none from that, and a map without a positive cell is never heard of again.
    *One-sided*, g passes unless it would push a cell that is not positive still lower: the projected gradient of the
    constraint h >= 0.
    """
    potential -= torch.linalg.vecdot(potential.flatten(1), supply.flatten(1))[:, None, None]
    if kind == "softmax":
        return potential.mul_(supply)
    if kind == "softplus":
        growth = torch.where(heatmaps < -15, 1.0, heatmaps.sigmoid() / nn.functional.softplus(heatmaps.clamp(min=-15)))
        return potential.mul_(supply).mul_(growth)
    # S = scaled / sum scaled with scaled = max(h, 0) / peak. The gradient grows as the mass sum max(h, 0) shrinks,
    # without end; below a peak of mass_floor it no longer does.
    peak = heatmaps.clamp(min=0).amax(dim=(-2, -1), keepdim=True)
    scaled_mass = 1 / supply.amax(dim=(-2, -1), keepdim=True)
    potential /= scaled_mass * torch.where(peak >= torch.finfo(peak.dtype).tiny, peak.clamp(min=mass_floor), 1.0)
    allowed = heatmaps > 0
    if kind == "relu":
        allowed |= potential < 0
    return potential.mul_(allowed)
