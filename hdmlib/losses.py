"""The matching loss and the losses it is compared with, all with one signature: heatmaps and joints in, a number out.

    loss(heatmaps (B, K, H, W), joints (B, K, 2) in cells, weights (B, K)) -> scalar

Targets are made inside, on the heatmaps' device. A joint of weight 0, and one outside the map, is not asked for. Every
loss also says how its heatmaps are to be read: ``readout`` gives the map to decode and to look at, ``decoder`` and
``confidence`` the method that suits it.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hdmlib import transport_triton
from hdmlib.heatmaps import DEMANDERS, demanders, dot_map, gaussian_map, inside
from hdmlib.transport import COSTS, REGULARISERS, maps_at_once, solve_maps


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
        _check(heatmaps, joints, weights)
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


def _check(heatmaps: Tensor, joints: Tensor, weights: Tensor) -> None:
    shapes = f"heatmaps {tuple(heatmaps.shape)}, joints {tuple(joints.shape)}, weights {tuple(weights.shape)}"
    if heatmaps.ndim != 4 or joints.shape != (*heatmaps.shape[:2], 2) or weights.shape != heatmaps.shape[:2]:
        raise ValueError(f"a loss takes heatmaps (B, K, H, W), joints (B, K, 2) and weights (B, K), got {shapes}")


def _positive(name: str, value: float) -> float:
    if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{name} {value!r} is not known; known: {', '.join(known)}")
    return value


# ----------------------------------------------------------------------------------------------------------- matching


# Marginal error that training bears: the gradient's own is smaller still. In float64 the solver's default holds.
_TOLERANCE = {torch.float32: 1e-5}
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


def _pull_back(potential: Tensor, supply: Tensor, heatmaps: Tensor, kind: str, mass_floor: float) -> Tensor:
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
    if transport_triton.takes(heatmaps, points.shape[1], suppliers, epsilon, regulariser, cost, tau):
        options = (suppliers, epsilon, regulariser, cost, tau)
        fused = transport_triton.matching(heatmaps, points, shares, *options, mass_floor=mass_floor)
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
        gradient[now] = _pull_back(solution.gradient, supply, heatmaps[now], suppliers, mass_floor)
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
        self.epsilon = _positive("epsilon", epsilon)
        self.epsilon_start = self.epsilon if epsilon_start is None else _positive("epsilon_start", epsilon_start)
        self.progress = 0.0
        self.regulariser = _one_of("regulariser", regulariser, REGULARISERS)
        self.suppliers = _one_of("suppliers", suppliers, SUPPLIERS)
        self.demanders = _one_of("demanders", demanders, DEMANDERS)
        self.cost = _one_of("cost", cost, COSTS)
        self.tau = _positive("tau", tau)
        self.mass_floor = _positive("mass_floor", mass_floor)

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


# ----------------------------------------------------------------------------------------------------------- controls


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
        self.sigma = _positive("sigma", sigma)
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


LOSSES: dict[str, type[HeatmapLoss]] = {
    "matching": MatchingLoss,
    "gaussian_mse": GaussianMSE,
    "dot_mse": DotMSE,
    "cross_entropy": CrossEntropy,
    "soft_argmax": SoftArgmax,
}


def build_loss(name: str, **options: Any) -> HeatmapLoss:
    """A loss by name, with its options.

    Args:
        name: ``matching``, ``gaussian_mse``, ``dot_mse``, ``cross_entropy`` or ``soft_argmax``.
        **options: Arguments of the class.

    Raises:
        ValueError: If the name or an option is unknown (the message lists the known ones) or a value is out of range.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    known = list(inspect.signature(LOSSES[name]).parameters)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"loss {name!r} has no option {unknown[0]!r}; it has: {', '.join(known) or 'none'}")
    return LOSSES[name](**options)
