"""What all losses share: one signature, checked inputs, weights and reductions.

    loss(heatmaps (B, K, H, W), joints (B, K, 2) in heatmap cells, weights (B, K)) -> scalar

Targets are made inside, on the heatmaps' device. A joint takes part if its weight is positive and it is usable: inside
the map, unless a loss states otherwise. Each loss also defines how its heatmaps are read: ``readout`` gives the map to
decode and to look at, ``decoder`` and ``confidence`` the method that suits it.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from hdmlib.checks import number_between, one_of
from hdmlib.heatmaps import inside
from hdmlib.losses.guards import InputGuard

REDUCTIONS = ("mean", "joint_mean", "per_joint", "none")
# Cells along each side of the maps on which the losses were tuned (notebook 09).
TUNED_CELLS = 24


class HeatmapLoss(nn.Module):
    """A loss of heatmaps against joints. Subclasses define :meth:`per_joint`.

    Args:
        reduction: ``mean``, the mean over people of the sum over their joints (for squared errors of the mean over
            joints, as in HRNet); ``joint_mean``, the mean over all joints that take part, which does not grow with K,
            so that 17 and 133 joints share a learning rate; ``per_joint``, (K,), for each joint the mean over the
            people in whom it takes part; ``none``, (B, K), weighted and unreduced.

    Raises:
        ValueError: The reduction is unknown.
    """

    decoder = "quarter"
    confidence = "peak"
    # Whether per_joint itself keeps zero-weight joints out, whatever their heatmaps hold.
    skips_ignored_joints = False
    # Whether the loss takes the softmax of heatmaps, so that maps which are softmaxed already would be so twice.
    expects_logits = False
    # Options that are lengths in heatmap cells.
    lengths: tuple[str, ...] = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = one_of("reduction", reduction, REDUCTIONS)
        self._guard = InputGuard(type(self).__name__, self.expects_logits)

    @classmethod
    def lengths_on(cls, height: int, width: int) -> dict[str, float]:
        """What to give for those of its options that are lengths in cells, on maps larger than 24 x 24 cells.

        The defaults were tuned on maps of 24 x 24 cells; on a larger one a person covers more cells, and the lengths
        grow in proportion: ``MatchingLoss(**MatchingLoss.lengths_on(64, 48))``. On a smaller one the defaults stay.
        """
        times = math.sqrt(height * width) / TUNED_CELLS
        defaults = inspect.signature(cls).parameters
        return {name: round(times * defaults[name].default, 3) for name in cls.lengths} if times > 1 else {}

    def set_progress(self, progress: float) -> None:
        """Set the position in the training; losses without a schedule ignore it.

        Args:
            progress: 0 at its start, 1 at its end.

        Raises:
            ValueError: It is no number from 0 to 1.
        """
        number_between("progress", progress, 0, 1)

    def forward(self, heatmaps: Tensor, joints: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss of a batch, reduced as ``reduction`` names it; 0, with a gradient, for an empty batch.

        Args:
            heatmaps: (B, K, H, W), raw network output.
            joints: (B, K, 2) as (x, y) in heatmap cells. The coordinates of zero-weight joints are ignored.
            weights: (B, K), a positive number where the joint is labelled, 0 elsewhere; ``None``: all are labelled.
                They are factors, not flags: COCO's visibility 2 would double the loss and quadruple a squared error,
                so convert flags with :func:`visibility_weights`.

        Raises:
            TypeError: One of them is no tensor.
            ValueError: The shapes do not fit, there is no joint or no cell, a weight is negative or not finite, or the
                heatmap of a joint that takes part holds NaN or infinity. Numbers are inspected at the 1st, 2nd, 4th,
                8th, ... call; on a GPU the error comes at a later call, so that none waits for the device. Under
                torch.compile and torch.func no number is inspected, only shapes: try a new loop without them first.

        Warns:
            UserWarning: Once, if the inputs look like a mistake: maps that went through a softmax or a sigmoid for a
                loss that takes raw output, labelled joints that are not finite, joints that are mostly outside the map,
                as pixels would be, or all within its first cell, as fractions of a picture would be, or weights that
                are flags.
        """
        losses, takes_part = self._losses(heatmaps, joints, weights)
        if self.reduction == "none":
            return losses
        if self.reduction == "per_joint":
            return losses.sum(dim=0) / takes_part.sum(dim=0).clamp(min=1)
        if self.reduction == "joint_mean":
            return losses.sum() / takes_part.sum().clamp(min=1)
        return self.over_joints(losses).sum() / max(len(losses), 1)

    def per_person(self, heatmaps: Tensor, joints: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss of each person, (B,), whatever the reduction; arguments as for :meth:`forward`."""
        return self.over_joints(self._losses(heatmaps, joints, weights)[0])

    def per_joint(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        """The weighted loss of each joint, (B, K); joints that do not take part have weight 0 and lie at (0, 0)."""
        raise NotImplementedError

    def usable(self, joints: Tensor, size: tuple[int, int]) -> Tensor:
        """Which joints (B, K, 2) an H x W map can be trained towards, (B, K) bool: those inside it."""
        return inside(joints, size)

    def over_joints(self, losses: Tensor) -> Tensor:
        """From (B, K) joints to (B,) people."""
        return losses.sum(dim=1)

    def readout(self, heatmaps: Tensor) -> Tensor:
        """The map (B, K, H, W) to decode and to look at."""
        return heatmaps

    def decoder_options(self, method: str) -> dict[str, float]:
        """Options of a decoding method that follow from the loss, such as the width of its target."""
        return {}

    def options(self) -> dict[str, Any]:
        """The arguments with which this loss was made, apart from the reduction."""
        return {}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in {**self.options(), "reduction": self.reduction}.items())

    def _losses(self, heatmaps: Tensor, joints: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weighted loss of each joint, (B, K), and which of them take part, (B, K) bool."""
        check_shapes(heatmaps, joints, weights)
        if heatmaps.dtype != torch.float64:
            heatmaps = heatmaps.float()
        if weights is None:
            weights = heatmaps.new_ones(heatmaps.shape[:2])
        size = (heatmaps.shape[2], heatmaps.shape[3])
        joints, weights = joints.to(heatmaps), weights.to(heatmaps)
        takes_part = (weights > 0) & self.usable(joints, size)
        self._guard.inspect(heatmaps, joints, weights, takes_part)
        # ignored joints may be anywhere, even NaN, and their heatmaps hold anything
        joints = torch.where(takes_part[..., None], joints, 0.0)
        weights = torch.where(takes_part, weights, 0.0)
        if not self.skips_ignored_joints:
            heatmaps = heatmaps.masked_fill(~takes_part[..., None, None], 0.0)
        with torch.autocast(heatmaps.device.type, enabled=False):
            return self.per_joint(heatmaps, joints, weights), takes_part


def visibility_weights(flags: Tensor | ArrayLike) -> Tensor:
    """Weights from COCO's visibility flags: 1 where a joint is labelled (flag above 0), else 0; float32.

    Raises:
        TypeError: The flags are no tensor, array or nested list of numbers.
    """
    try:
        flags = flags > 0 if isinstance(flags, np.ndarray) else flags  # torch lacks some of numpy's types
        return (torch.as_tensor(flags) > 0).float()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            "flags must be a tensor, an array or a nested list of numbers (B, K); torch's default collate makes K "
            "tensors of a list, so let the dataset give an array or a tensor"
        ) from None


def check_shapes(heatmaps: Tensor, joints: Tensor, weights: Tensor | None) -> None:
    """Raise TypeError or ValueError unless these are tensors of the shapes of :meth:`HeatmapLoss.forward`."""
    for name, value in {"heatmaps": heatmaps, "joints": joints, "weights": weights}.items():
        if not (isinstance(value, Tensor) or (value is None and name == "weights")):
            several = {"heatmaps": "call the loss for each output of a network with several"}
            remedy = several.get(name, "torch.as_tensor makes one of numbers")
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}; {remedy}")
    people_and_joints = heatmaps.shape[:2]
    if (
        heatmaps.ndim != 4
        or joints.shape != (*people_and_joints, 2)
        or (weights is not None and weights.shape != people_and_joints)
    ):
        given = {"heatmaps": heatmaps, "joints": joints, "weights": weights}
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in given.items() if value is not None)
        raise ValueError(
            f"a loss takes heatmaps (B, K, H, W), joints (B, K, 2) and weights (B, K), got {shapes}"
            f"{_remedy(heatmaps, joints, weights)}"
        )
    if 0 in heatmaps.shape[1:]:
        raise ValueError(f"heatmaps {tuple(heatmaps.shape)} have no joint or no cell")


def _remedy(heatmaps: Tensor, joints: Tensor, weights: Tensor | None) -> str:
    """What to do about shapes that other frameworks use; empty where they are not known."""
    if joints.shape == heatmaps.shape and joints.ndim == 4:
        return "; drawn targets become joints and weights by hdmlib.joints_from_heatmaps"
    if joints.ndim == 3 and joints.shape[2] == 3:
        return "; take joints[..., :2], and COCO's flags as weights: hdmlib.visibility_weights(joints[..., 2])"
    if weights is not None and weights.ndim == 3 and weights.shape[2] == 1:
        return "; take weights.squeeze(2)"
    if heatmaps.ndim == 4 and joints.ndim == 3 and heatmaps.shape[3] == joints.shape[1]:
        return "; take heatmaps.permute(0, 3, 1, 2)"
    return ""
