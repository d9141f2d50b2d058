"""How compact a heatmap is, the paper's Fig. 1 as numbers: heatmaps in, three measures per joint out."""

from __future__ import annotations

import torch
from torch import Tensor

from hdmlib.heatmaps import as_float64

# Radius around the peak within which mass is counted, in cells.
NEAR = 2.0


def compactness(heatmaps: Tensor) -> dict[str, Tensor]:
    """Three measures of how concentrated the mass of each heatmap is.

    A heatmap is read as the distribution p = max(h, 0) / sum max(h, 0) over its cells; one without a positive cell
    counts as flat.

    Args:
        heatmaps: (B, K, H, W), as a loss's ``readout`` gives them.

    Returns:
        (B, K) each: ``mass near peak``, the share within two cells of the highest one; ``entropy``, -sum p log p in
        nats; ``spread``, the root of the mean squared distance from the map's mean, in cells.
    """
    height, width = heatmaps.shape[-2:]
    mass = as_float64(heatmaps).clamp(min=0)
    peak = mass.amax(dim=(2, 3), keepdim=True)
    mass = torch.where(peak > 0, mass / peak.clamp(min=torch.finfo(mass.dtype).tiny), 1.0)
    mass = mass / mass.sum(dim=(2, 3), keepdim=True)
    y = torch.arange(height, dtype=mass.dtype, device=mass.device)[:, None]
    x = torch.arange(width, dtype=mass.dtype, device=mass.device)
    highest = mass.flatten(2).argmax(dim=2)[..., None, None]
    from_peak = (x - highest % width) ** 2 + (y - highest // width) ** 2
    mean_x, mean_y = (mass.sum(dim=2) @ x)[..., None, None], (mass.sum(dim=3) @ y[:, 0])[..., None, None]
    from_mean = (x - mean_x) ** 2 + (y - mean_y) ** 2
    return {
        "mass near peak": (mass * (from_peak <= NEAR**2)).sum(dim=(2, 3)),
        "entropy": -torch.xlogy(mass, mass).sum(dim=(2, 3)),
        "spread": (mass * from_mean).sum(dim=(2, 3)).sqrt(),
    }
