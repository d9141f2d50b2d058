"""Inputs that are a mistake: not finite, negative weights, flags as weights, maps that are softmaxed already, joints in
pixels or fractions.

The guard looks at the 1st, 2nd, 4th, 8th, ... call of a loss, so that a long training pays nothing for it. On a CPU it
judges at once, for a GPU's maps at a later call, when the flags have arrived by themselves.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from hdmlib.errors import NotFinite, users_stacklevel
from hdmlib.losses.deferred import DeferredFlags

# A map counts as softmaxed if nothing is negative and its sum is this close to 1.
SUM_TOLERANCE = 1e-3
# Joints of a call below which their places say nothing.
FEWEST_JOINTS = 8
# Joints outside the map for each one inside that still occur: a half-body crop of one person has two.
MOST_OUTSIDE = 3

ERRORS = {
    "heatmaps": "heatmaps hold NaN or infinity: did the training diverge? Lower the learning rate or clip gradients",
    "weights": "weights must be finite and not negative; visibility_weights(flags) converts COCO's flags",
}
WARNINGS = {
    "joints": "joints of positive weight hold NaN or infinity and are ignored; give such joints the weight 0",
    "softmaxed": "the heatmaps are distributions already (not negative, of sum 1), but the loss applies a softmax "
    "itself: hand over the raw output",
    "outside": "most joints lie outside the heatmap and are ignored; joints are (x, y) in heatmap cells, not in "
    "pixels: see hdmlib.cells_from_pixels",
    "fractions": "all joints lie between 0 and 1; joints are (x, y) in heatmap cells, not in fractions of the picture",
    "flags": "the weights are 0, 1 and 2, like COCO's visibility flags, and 2 counts a joint twice, or four times in a "
    "squared error; visibility_weights(flags) converts them",
}


class InputGuard:
    """Watches the inputs of one loss.

    Args:
        loss: Name of the loss, for the messages.
        expects_logits: Whether the loss takes the softmax itself, so that the caller should not.
    """

    def __init__(self, loss: str, expects_logits: bool) -> None:
        self.loss = loss
        self.expects_logits = expects_logits
        self.calls = 0
        self.warned: set[str] = set()
        self.flags = DeferredFlags()

    def inspect(self, heatmaps: Tensor, joints: Tensor, weights: Tensor, takes_part: Tensor) -> None:
        """Judge a call's inputs, now or at a later call.

        Args:
            heatmaps: (B, K, H, W).
            joints: (B, K, 2) in cells.
            weights: (B, K).
            takes_part: (B, K) bool, labelled joints that the loss can use.

        Raises:
            NotFinite: A heatmap that takes part holds NaN or infinity.
            ValueError: A weight is negative or not finite.
        """
        if torch.compiler.is_compiling() or within_functorch() or not heatmaps.numel():
            return  # no numbers to look at
        self._judge()
        self.calls += 1
        if not self.calls & (self.calls - 1):  # a power of two
            self.flags.post(self._flags(heatmaps.detach(), joints, weights, takes_part))
            self._judge()

    def _flags(self, heatmaps: Tensor, joints: Tensor, weights: Tensor, takes_part: Tensor) -> Tensor:
        """(7,) bool on the device, in the order of ERRORS and WARNINGS."""
        labelled = weights > 0
        enough = labelled.sum() >= FEWEST_JOINTS
        finite = torch.isfinite(heatmaps.amax(dim=(2, 3))) & torch.isfinite(heatmaps.amin(dim=(2, 3)))
        flags = [
            (~finite & takes_part).any(),
            (~torch.isfinite(weights) | (weights < 0)).any(),
            (~torch.isfinite(joints).all(dim=2) & labelled).any(),
            self._softmaxed(heatmaps),
            enough & ((labelled & ~takes_part).sum() > MOST_OUTSIDE * takes_part.sum()),
            enough & (((joints >= 0) & (joints <= 1)).all(dim=2) | ~labelled).all() & (min(heatmaps.shape[2:]) > 4),
            ((weights == 0) | (weights == 1) | (weights == 2)).all() & (weights == 2).any(),
        ]
        return torch.stack(flags)

    def _softmaxed(self, heatmaps: Tensor) -> Tensor:
        if not self.expects_logits:
            return torch.zeros((), dtype=torch.bool, device=heatmaps.device)
        mass = heatmaps.sum(dim=(2, 3))
        return (heatmaps.amin() >= 0) & ((mass - 1).abs() < SUM_TOLERANCE).all()

    def _judge(self) -> None:
        flags = self.flags.arrived()
        if flags is None:
            return
        raised = dict(zip((*ERRORS, *WARNINGS), flags.tolist(), strict=True))
        for name, message in ERRORS.items():
            if raised[name]:
                raise (NotFinite if name == "heatmaps" else ValueError)(f"{self.loss}: {message}")
        for name, message in WARNINGS.items():
            if raised[name] and name not in self.warned:
                self.warned.add(name)
                warnings.warn(f"{self.loss}: {message}", UserWarning, stacklevel=users_stacklevel())


def within_functorch() -> bool:
    """Whether torch.func.grad, vmap or the like is at work, whose tensors hide their numbers."""
    return torch._C._functorch.maybe_current_level() is not None  # pyright: ignore[reportAttributeAccessIssue]
