"""The matching loss and the losses it is compared with, all with one signature: heatmaps and joints in, a number out.

    loss(heatmaps (B, K, H, W), joints (B, K, 2) in cells, weights (B, K)) -> scalar

Targets are made inside, on the heatmaps' device. A joint of weight 0, and one outside the map, is not asked for. Every
loss also says how its heatmaps are to be read: ``readout`` gives the map to decode and to look at, ``decoder`` and
``confidence`` the method that suits it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hdmlib.heatmaps import inside


class HeatmapLoss(nn.Module):
    """What all losses share: checked shapes, float32 under autocast, weights, sums.

    A loss defines ``per_joint``. The value of a person is the weighted sum over joints, that of a batch the mean over
    people.
    """

    decoder = "quarter"
    confidence = "peak"

    def at(self, progress: float) -> None:
        """Tell the loss how much of the training is behind, from 0 to 1; most do not care."""

    def forward(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            heatmaps: (B, K, H, W), as the network puts them out.
            joints: (B, K, 2) as (x, y) in heatmap cells.
            weights: (B, K), 0 for joints that are not asked for.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return self.per_person(heatmaps, joints, weights).mean()

    def per_person(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        """The loss of each person, (B,); arguments as for :meth:`forward`."""
        check_shapes(heatmaps, joints, weights)
        if heatmaps.dtype != torch.float64:
            heatmaps = heatmaps.float()
        joints = joints.to(heatmaps.dtype)
        weights = weights.to(heatmaps.dtype) * inside(joints, heatmaps.shape[-2:])
        joints = torch.where(weights[..., None] > 0, joints, 0.0)  # what is not asked for may be anywhere, even NaN
        with torch.autocast(heatmaps.device.type, enabled=False):
            return self.reduce(self.per_joint(heatmaps, joints, weights))

    def per_joint(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        """The weighted loss of each joint, (B, K); joints outside the map have weight 0 here."""
        raise NotImplementedError

    def reduce(self, per_joint: Tensor) -> Tensor:
        """From (B, K) joints to (B,) people."""
        return per_joint.sum(dim=1)

    def readout(self, heatmaps: Tensor) -> Tensor:
        """The map (B, K, H, W) that a decoder and an eye should be given."""
        return heatmaps


def check_shapes(heatmaps: Tensor, joints: Tensor, weights: Tensor) -> None:
    shapes = f"heatmaps {tuple(heatmaps.shape)}, joints {tuple(joints.shape)}, weights {tuple(weights.shape)}"
    if heatmaps.ndim != 4 or joints.shape != (*heatmaps.shape[:2], 2) or weights.shape != heatmaps.shape[:2]:
        raise ValueError(f"a loss takes heatmaps (B, K, H, W), joints (B, K, 2) and weights (B, K), got {shapes}")


def positive(name: str, value: float) -> float:
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{name} {value!r} is not known; known: {', '.join(known)}")
    return value
