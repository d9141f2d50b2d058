"""Inputs that are a mistake: not finite, negative weights, flags as weights, maps that went through a softmax or a
sigmoid already, joints in pixels or fractions.

The guard looks at the 1st, 2nd, 4th, 8th, ... call of a loss, so that a long training pays nothing for it. On a CPU it
judges at once, for a GPU's maps at a later call, when the flags have arrived by themselves.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from hdmlib.errors import NotFinite, users_stacklevel
from hdmlib.losses.deferred import DeferredFlags

# A map counts as softmaxed if nothing is negative and its sum is this close to 1, in bfloat16 too.
SUM_TOLERANCE = 1e-2
# Maps that lie between 0 and 1 in so many inspected calls in a row are no raw output: the first five end with call 16.
BOUNDED_CALLS = 5
# Joints below which their places say nothing; smaller batches are added up.
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
    "bounded": "all values of the heatmaps lie between 0 and 1, as after a sigmoid, but the loss applies a softmax "
    "itself, which makes no peak of such values: hand over the raw output",
    "outside": "most joints lie outside the heatmap and are ignored; joints are (x, y) in heatmap cells, not in "
    "pixels: see hdmlib.cells_from_pixels",
    "fractions": "all joints lie between -1 and 1; joints are (x, y) in heatmap cells, not in fractions of the picture",
    "flags": "the weights are 0, 1 and 2, like COCO's visibility flags, and 2 counts a joint twice, or four times in a "
    "squared error; visibility_weights(flags) converts them",
}
# What is counted of inspected calls: those with an error or one of three mistakes, where their labelled joints lie, and
# those whose maps lie between 0 and 1.
PLACES = ("labelled", "inside", "within the first cell")
COUNTS = (*ERRORS, "joints", "softmaxed", "flags", *PLACES, "calls", "bounded")


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
        self.places = dict.fromkeys(PLACES, 0)
        self.bounded = 0

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
            self.flags.post(self._counts(heatmaps.detach(), joints, weights, takes_part))
            self._judge()

    def _counts(self, heatmaps: Tensor, joints: Tensor, weights: Tensor, takes_part: Tensor) -> Tensor:
        """What COUNTS names of one call, on the device."""
        labelled = weights > 0
        low, high = heatmaps.amin(dim=(2, 3)), heatmaps.amax(dim=(2, 3))
        finite = torch.isfinite(low) & torch.isfinite(high)
        near = labelled & (joints.abs() <= 1).all(dim=2) & (min(heatmaps.shape[2:]) > 4)
        positive = (low >= 0).all() & self.expects_logits
        softmaxed = positive & ((heatmaps.sum(dim=(2, 3)) - 1).abs() < SUM_TOLERANCE).all()
        counts = [
            (~finite & takes_part).any(),
            (~torch.isfinite(weights) | (weights < 0)).any(),
            (~torch.isfinite(joints).all(dim=2) & labelled).any(),
            softmaxed,
            ((weights == 0) | (weights == 1) | (weights == 2)).all() & (weights == 2).any(),
            labelled.sum(),
            takes_part.sum(),
            near.sum(),
            torch.ones_like(softmaxed),
            positive & (high <= 1).all() & ~softmaxed,
        ]
        return torch.stack([count.long() for count in counts])

    def _judge(self) -> None:
        counts = self.flags.arrived()
        if counts is None:
            return
        found = dict(zip(COUNTS, counts.tolist(), strict=True))
        for name, message in ERRORS.items():
            if found[name]:
                raise (NotFinite if name == "heatmaps" else ValueError)(f"{self.loss}: {message}")
        for name in sorted(self._mistakes(found) - self.warned):
            self.warned.add(name)
            warnings.warn(f"{self.loss}: {WARNINGS[name]}", UserWarning, stacklevel=users_stacklevel())

    def _mistakes(self, found: dict[str, int]) -> set[str]:
        """The keys of WARNINGS that these counts, added to the earlier ones, give reason for."""
        mistakes = {name for name in ("joints", "softmaxed", "flags") if found[name]}
        self.bounded = self.bounded + found["bounded"] if found["bounded"] == found["calls"] else 0
        if self.bounded >= BOUNDED_CALLS:
            mistakes.add("bounded")
        self.places = {name: count + found[name] for name, count in self.places.items()}
        labelled, inside, near = self.places.values()
        if labelled >= FEWEST_JOINTS:
            if labelled - inside > MOST_OUTSIDE * inside:
                mistakes.add("outside")
            if near == labelled:
                mistakes.add("fractions")
            self.places = dict.fromkeys(PLACES, 0)
        return mistakes


def within_functorch() -> bool:
    """Whether torch.func.grad, vmap or the like is at work, whose tensors hide their numbers."""
    return torch._C._functorch.maybe_current_level() is not None  # pyright: ignore[reportAttributeAccessIssue]
