"""The paper's loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hdmlib.heatmaps import DEMANDERS, demanders
from hdmlib.losses import gpu_kernel
from hdmlib.losses.base import HeatmapLoss, one_of, positive
from hdmlib.losses.suppliers import SUPPLIERS, make_suppliers, pull_back
from hdmlib.transport.problem import COSTS, REGULARISERS, maps_at_once, solve_maps

# Marginal error that training bears: the gradient's own is smaller still. In float64 the solver's default holds.
_TOLERANCE = {torch.float32: 1e-5}


@torch.library.custom_op("hdmlib::matching", mutates_args=())
def _matching(
    heatmaps: Tensor,
    points: Tensor,
    shares: Tensor,
    suppliers: str,
    epsilon: float,
    regulariser: str,
    cost: str,
    tau: float,
    mass_floor: float,
) -> tuple[Tensor, Tensor]:
    """E (G,) of heatmaps (G, H, W) and their demanders, and dE/dh (G, H, W): in one kernel, or a few maps at a time.

    An operator of its own, so that ``torch.compile`` takes it as it is.
    """
    if gpu_kernel.is_supported(heatmaps, points.shape[1], suppliers, epsilon, regulariser, cost, tau):
        options = (suppliers, epsilon, regulariser, cost, tau)
        fused = gpu_kernel.matching(heatmaps, points, shares, *options, mass_floor=mass_floor)
        if fused is not None:
            return fused
    value = heatmaps.new_empty(len(heatmaps))
    gradient = torch.empty_like(heatmaps, memory_format=torch.contiguous_format)
    group = maps_at_once(heatmaps)
    for start in range(0, len(heatmaps), group):
        now = slice(start, start + group)
        supply = make_suppliers(heatmaps[now], suppliers)
        solution = solve_maps(
            supply, points[now], shares[now], epsilon,
            regulariser=regulariser, cost=cost, tau=tau, tolerance=_TOLERANCE.get(heatmaps.dtype),
        )  # fmt: skip
        value[now] = solution.value
        gradient[now] = pull_back(solution.gradient, supply, heatmaps[now], suppliers, mass_floor)
    return value, gradient


@_matching.register_fake
def _(heatmaps, points, shares, suppliers, epsilon, regulariser, cost, tau, mass_floor):
    return heatmaps.new_empty(len(heatmaps)), torch.empty_like(heatmaps, memory_format=torch.contiguous_format)


class _Matching(torch.autograd.Function):
    """:func:`_matching` with its gradient for autograd; a second derivative is refused."""

    @staticmethod
    def forward(ctx, heatmaps, points, shares, *options):
        value, gradient = _matching(heatmaps, points, shares, *options)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad[:, None, None] * ctx.saved_tensors[0], *[None] * 8


class MatchingLoss(HeatmapLoss):
    """The paper's loss (Eq. 1-3): a regularised earth mover's distance from each heatmap to its annotation.

    The heatmap becomes suppliers, the annotation demanders, and the loss of a joint is the transport between them, in
    cells; see ``transport.py``. It does not change when a heatmap is scaled (``relu``) or shifted (``softmax``).

    Args:
        epsilon: Strength of the regulariser in units of the cost, cells; it plays the part of the Gaussian's sigma.
            Where the cost saturates keep it well below ``tau``: far cells hold exp(-tau / epsilon) of the best cell's
            mass.
        regulariser: ``entropy``, ``kl`` or ``debiased`` (slow: some hundred times the others).
        suppliers: ``softmax``, ``softplus``, ``relu`` or ``relu_plain``; see :func:`make_suppliers`.
        demanders: ``subpixel``, the four cells around the annotation, or ``naive``, the nearest one.
        cost: ``saturating``, tau (1 - exp(-d / tau)) at a distance of d cells; ``euclidean``, d, the paper's cost to
            the letter (with epsilon 0.25 it trains best); or ``sqeuclidean``, d^2.
        tau: Length in cells at which the saturating cost levels off.
        epsilon_start: Where epsilon starts, to fall geometrically to ``epsilon`` over the first half of the training
            (which says so with :meth:`at`); ``None``: it is constant. In evaluation mode the loss has ``epsilon``.
        mass_floor: ``relu`` and ``relu_plain``: peak of a heatmap below which its gradient, which grows as the map
            shrinks, stops growing. Well above the heatmaps' peaks every map is pulled with the same strength.

    Raises:
        ValueError: If an argument is out of range.
    """

    decoder = "barycentre"
    confidence = "mass"

    def __init__(
        self,
        *,
        epsilon: float = 0.05,
        regulariser: str = "entropy",
        suppliers: str = "softmax",
        demanders: str = "subpixel",
        cost: str = "saturating",
        tau: float = 1.0,
        epsilon_start: float | None = None,
        mass_floor: float = 1e-4,
    ) -> None:
        super().__init__()
        self.epsilon = positive("epsilon", epsilon)
        self.epsilon_start = self.epsilon if epsilon_start is None else positive("epsilon_start", epsilon_start)
        self.progress = 0.0
        self.regulariser = one_of("regulariser", regulariser, REGULARISERS)
        self.suppliers = one_of("suppliers", suppliers, SUPPLIERS)
        self.demanders = one_of("demanders", demanders, DEMANDERS)
        self.cost = one_of("cost", cost, COSTS)
        self.tau = positive("tau", tau)
        self.mass_floor = positive("mass_floor", mass_floor)

    def at(self, progress: float) -> None:
        self.progress = progress

    def epsilon_now(self) -> float:
        """The epsilon of this moment of the training; in evaluation mode that of its end."""
        rest = max(0.0, 1 - 2 * self.progress) if self.training else 0.0
        return self.epsilon * (self.epsilon_start / self.epsilon) ** rest

    def per_joint(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        points, shares = demanders(joints, heatmaps.shape[-2:], self.demanders)
        distance = _Matching.apply(
            heatmaps.flatten(0, 1), points.flatten(0, 1), shares.flatten(0, 1),
            self.suppliers, self.epsilon_now(), self.regulariser, self.cost, self.tau, self.mass_floor,
        ).unflatten(0, weights.shape)  # fmt: skip
        return weights * distance

    def readout(self, heatmaps: Tensor) -> Tensor:
        return make_suppliers(heatmaps, self.suppliers)

    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon}, regulariser={self.regulariser!r}, suppliers={self.suppliers!r}"
