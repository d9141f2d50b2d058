"""The losses that matching is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from hdmlib.heatmaps import demanders, dot_map, gaussian_map
from hdmlib.losses.base import HeatmapLoss, positive
from hdmlib.losses.suppliers import make_suppliers


class GaussianMSE(HeatmapLoss):
    """The usual training: half the squared difference from a Gaussian of peak 1, mean over cells and over joints.

    As in HRNet a weight multiplies both maps, so it counts squared, and joints that are not asked for stay in the mean.

    Args:
        sigma: Width of the Gaussian in cells.
        rounded: Whether it is centred on the nearest cell and cut off at 3 sigma, as in HRNet, or on the annotation
            itself.
    """

    def __init__(self, *, sigma: float = 0.75, rounded: bool = False) -> None:
        super().__init__()
        self.sigma = positive("sigma", sigma)
        self.rounded = bool(rounded)

    def target(self, joints: Tensor, size: tuple[int, int]) -> Tensor:
        return gaussian_map(joints, size, self.sigma, rounded=self.rounded)

    def per_joint(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        difference = heatmaps - self.target(joints, heatmaps.shape[-2:])
        return weights.square() * 0.5 * difference.square().mean(dim=(2, 3))

    def reduce(self, per_joint: Tensor) -> Tensor:
        return per_joint.mean(dim=1)


class DotMSE(GaussianMSE):
    """The same with a single 1 at the annotated cell: the paper's "dot annotation" row of Tab. 1."""

    decoder = "argmax"

    def __init__(self) -> None:
        super().__init__()

    def target(self, joints: Tensor, size: tuple[int, int]) -> Tensor:
        return dot_map(joints, size)


class CrossEntropy(HeatmapLoss):
    """Softmax over the cells against the four demanders, -sum_m D_m log S_m. A control the paper lacks."""

    decoder = "barycentre"
    confidence = "mass"

    def per_joint(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        points, shares = demanders(joints, heatmaps.shape[-2:])
        cells = (points[..., 1] * heatmaps.shape[-1] + points[..., 0]).long()
        log_shares = heatmaps.flatten(2).log_softmax(dim=-1).gather(2, cells)
        return -weights * (shares * log_shares).sum(dim=-1)

    def readout(self, heatmaps: Tensor) -> Tensor:
        return make_suppliers(heatmaps, "softmax")


class SoftArgmax(HeatmapLoss):
    """Distance in cells of the softmax map's mean from the annotation (integral regression, Sun et al., ECCV 2018).

    The L1 norm of the published loss; nothing is asked of the map's shape.
    """

    decoder = "mean"
    confidence = "mass"

    def per_joint(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        share = self.readout(heatmaps)
        x = torch.arange(share.shape[-1], dtype=share.dtype, device=share.device)
        y = torch.arange(share.shape[-2], dtype=share.dtype, device=share.device)
        mean = torch.stack([share.sum(dim=-2) @ x, share.sum(dim=-1) @ y], dim=-1)
        return weights * (mean - joints).abs().sum(dim=-1)

    def readout(self, heatmaps: Tensor) -> Tensor:
        return make_suppliers(heatmaps, "softmax")
