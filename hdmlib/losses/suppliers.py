"""Heatmaps as distributions over their cells, the suppliers S, and the gradient back through that.

Two kinds are the exponential of a score, normalised (softmax: the heatmap itself; softplus: its logarithm), and two cut
off the negative cells and normalise (ReLU, the supplement's).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hdmlib.checks import one_of

SUPPLIERS = ("softmax", "softplus", "relu", "relu_plain")
# Positive on every cell, so that a map has a likelihood.
POSITIVE_SUPPLIERS = ("softmax", "softplus")
# Below this, log(1 + exp h) is exp h up to rounding.
_SMALL = -15.0


def make_suppliers(heatmaps: Tensor, kind: str) -> Tensor:
    """Heatmaps as distributions over their cells.

    Args:
        heatmaps: (..., H, W).
        kind: ``relu_plain``, the supplement's max(h, 0) / sum max(h, 0); ``relu``, the same with a one-sided gradient,
            which can raise cells from below zero; ``softplus`` log(1 + exp h), normalised; ``softmax`` exp h,
            normalised. A map without a positive cell, 0/0 for the first two, counts as flat.

    Returns:
        (..., H, W), not negative, each map of mass 1.

    Raises:
        ValueError: The kind is not known.
    """
    one_of("suppliers", kind, SUPPLIERS)
    if kind in POSITIVE_SUPPLIERS:
        return scores(heatmaps, kind).flatten(-2).softmax(dim=-1).view(heatmaps.shape)
    positive = heatmaps.clamp(min=0)
    peak = positive.amax(dim=(-2, -1), keepdim=True)
    tiny = torch.finfo(peak.dtype).tiny
    scaled = torch.where(peak < tiny, 1.0, positive / peak.clamp(min=tiny))  # no overflow, no 0/0; NaN stays NaN
    return scaled / scaled.sum(dim=(-2, -1), keepdim=True)


def scores(heatmaps: Tensor, kind: str) -> Tensor:
    """The s (..., H, W) of which S = exp s / sum exp s, for the suppliers that are positive."""
    if kind == "softmax":
        return heatmaps
    return torch.where(heatmaps < _SMALL, heatmaps, nn.functional.softplus(heatmaps.clamp(min=_SMALL)).log())


def pull_back(potential: Tensor, supply: Tensor, heatmaps: Tensor, kind: str, mass_floor: float) -> Tensor:
    """dE/dh from dE/dS, which it overwrites: the chain rule through :func:`make_suppliers`.

    With g = dE/dS - <S, dE/dS> it is S g for the softmax, and g / sum max(h, 0) on the positive cells for the plain
    ReLU. There a cell at or below zero gets no gradient, so a map without a positive cell never recovers. *One-sided*,
    g passes unless it would push a cell that is not positive still lower: the projected gradient of the constraint
    h >= 0.

    Args:
        potential: (G, H, W) dE/dS.
        supply: (G, H, W) S.
        heatmaps: (G, H, W) h.
        kind: As for :func:`make_suppliers`.
        mass_floor: For the ReLU kinds the peak of a map below which the gradient, which grows as the map shrinks, stops
            growing.
    """
    potential -= torch.linalg.vecdot(potential.flatten(1), supply.flatten(1))[:, None, None]
    if kind in POSITIVE_SUPPLIERS:
        return through_scores(potential.mul_(supply), heatmaps, kind)
    # S = scaled / sum scaled with scaled = max(h, 0) / peak
    peak = heatmaps.clamp(min=0).amax(dim=(-2, -1), keepdim=True)
    scaled_mass = 1 / supply.amax(dim=(-2, -1), keepdim=True)
    potential /= scaled_mass * torch.where(peak >= torch.finfo(peak.dtype).tiny, peak.clamp(min=mass_floor), 1.0)
    allowed = heatmaps > 0
    if kind == "relu":
        allowed |= potential < 0
    return potential.mul_(allowed)


def through_scores(gradient: Tensor, heatmaps: Tensor, kind: str) -> Tensor:
    """dE/dh from dE/ds, which it overwrites; ``s`` as :func:`scores` gives it."""
    if kind == "softmax":
        return gradient
    growth = heatmaps.sigmoid() / nn.functional.softplus(heatmaps.clamp(min=_SMALL))
    return gradient.mul_(torch.where(heatmaps < _SMALL, 1.0, growth))
