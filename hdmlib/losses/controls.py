"""The losses that matching is compared with: the usual squared error, the paper's dot, and two that the paper lacks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hdmlib.checks import number_between
from hdmlib.heatmaps import demanders, dot_map, flat_cells, gaussian_map, gaussian_reaches
from hdmlib.losses.base import HeatmapLoss
from hdmlib.losses.suppliers import make_suppliers

# A map of peak 1 is made a distribution by the softmax of this many times it: at 1 even a single 1 among the 576 cells
# of a 24 x 24 map would hold half a percent of the mass, at 10 it holds 97 percent.
_SHARPNESS = 10.0


class GaussianMSE(HeatmapLoss):
    """The usual training: half the squared difference from a Gaussian of peak 1, mean over cells and over joints.

    As in HRNet a weight multiplies both maps, so it counts squared, and zero-weight joints stay in the mean.

    Args:
        sigma: Width of the Gaussian in cells.
        rounded: HRNet's form: centred on the nearest cell and cut off at 3 sigma, and joints just outside the map take
            part as long as the Gaussian reaches it. Otherwise it is centred on the joint itself, which must be inside.
        likelihood: Weight lambda of a second term, that of :class:`~hdmlib.losses.matching.MatchingLoss`: the
            cross-entropy of S = softmax(10 h) on the four demanders, sum_m D_m (-log S_m), divided by the number of
            cells, since the squared error is a mean over cells. The joint's squared weight multiplies it, too. 0: none.
            Not with ``rounded``.
        reduction: As for every :class:`~hdmlib.losses.base.HeatmapLoss`.

    Raises:
        ValueError: An argument is out of range.
    """

    lengths = ("sigma",)

    def __init__(
        self, *, sigma: float = 0.75, rounded: bool = False, likelihood: float = 0.0, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        self.sigma = number_between("sigma", sigma, 1e-3, 1e4)
        if not isinstance(rounded, bool):
            raise ValueError(f"rounded: is true or false, got {rounded!r}")
        self.rounded = rounded
        self.likelihood = number_between("likelihood", likelihood, 0, 1e6)
        if self.likelihood and rounded:
            raise ValueError(
                "likelihood: not with rounded, which also trains on joints outside the map; they have no demanders"
            )

    def target(self, joints: Tensor, size: tuple[int, int]) -> Tensor:
        """The map (..., H, W) that joints (..., 2) are trained towards."""
        return gaussian_map(joints, size, self.sigma, rounded=self.rounded)

    def usable(self, joints: Tensor, size: tuple[int, int]) -> Tensor:
        return gaussian_reaches(joints, size, self.sigma) if self.rounded else super().usable(joints, size)

    def per_joint(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        size = (heatmaps.shape[2], heatmaps.shape[3])
        losses = 0.5 * (heatmaps - self.target(joints, size)).square().mean(dim=(2, 3))
        if self.likelihood:
            losses = losses + self.likelihood / (size[0] * size[1]) * _cross_entropy(_SHARPNESS * heatmaps, joints)
        return weights.square() * losses

    def over_joints(self, losses: Tensor) -> Tensor:
        return losses.mean(dim=1)

    def options(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "rounded": self.rounded, "likelihood": self.likelihood}

    def decoder_options(self, method: str) -> dict[str, float]:
        return {"sigma": self.sigma} if method == "dark" else {}


class DotMSE(HeatmapLoss):
    """The same with a single 1 at the annotated cell: the paper's "dot annotation" row of Tab. 1."""

    decoder = "argmax"

    def per_joint(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        difference = heatmaps - dot_map(joints, (heatmaps.shape[2], heatmaps.shape[3]))
        return weights.square() * 0.5 * difference.square().mean(dim=(2, 3))

    def over_joints(self, losses: Tensor) -> Tensor:
        return losses.mean(dim=1)


class CrossEntropy(HeatmapLoss):
    """Softmax over the cells against the four demanders, -sum_m D_m log S_m. A control the paper lacks."""

    decoder = "barycentre"
    confidence = "mass"
    expects_logits = True

    def per_joint(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        return weights * _cross_entropy(heatmaps, joints)

    def readout(self, heatmaps: Tensor) -> Tensor:
        return make_suppliers(heatmaps, "softmax")


class SoftArgmax(HeatmapLoss):
    """Distance in cells of the softmax map's mean from the annotation (integral regression, Sun et al., ECCV 2018).

    The L1 norm of the published loss; the map's shape is left free.
    """

    decoder = "mean"
    confidence = "mass"
    expects_logits = True

    def per_joint(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        supply = self.readout(heatmaps)
        x = torch.arange(supply.shape[-1], dtype=supply.dtype, device=supply.device)
        y = torch.arange(supply.shape[-2], dtype=supply.dtype, device=supply.device)
        mean = torch.stack([supply.sum(dim=-2) @ x, supply.sum(dim=-1) @ y], dim=-1)
        return weights * (mean - joints).abs().sum(dim=-1)

    def readout(self, heatmaps: Tensor) -> Tensor:
        return make_suppliers(heatmaps, "softmax")


def _cross_entropy(logits: Tensor, joints: Tensor) -> Tensor:
    """-sum_m D_m log S_m, (B, K), of S = softmax of the logits (B, K, H, W) and the demanders of joints (B, K, 2)."""
    points, shares = demanders(joints, (logits.shape[2], logits.shape[3]))
    log_supply = logits.flatten(2).log_softmax(dim=-1).gather(2, flat_cells(points, logits.shape[3]))
    return -(shares * log_supply).sum(dim=-1)
