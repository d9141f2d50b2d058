"""The paper's loss (Eq. 1-3): a regularised earth mover's distance from each heatmap to its annotation.

The heatmap h becomes suppliers S, the joint demanders D on the cells around it, and the loss of a joint is

    E_reg(S, D) + likelihood * sum_m D_m (-log S_m)

The first term is the transport of ``hdmlib.transport``; its derivative with respect to S is the dual potential. Without
the second, optional term the gradient with respect to a logit is S_n (a_n - <a, S>): it vanishes where S has no mass,
so a map whose mass lies elsewhere learns slowly. The second term is the cross-entropy on the demanders, whose gradient
S - D never vanishes there.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hdmlib.checks import number_between, one_of
from hdmlib.errors import users_stacklevel
from hdmlib.extras import accelerator
from hdmlib.heatmaps import DEMANDERS, demanders, flat_cells
from hdmlib.losses.base import HeatmapLoss
from hdmlib.losses.guards import within_functorch
from hdmlib.losses.suppliers import POSITIVE_SUPPLIERS, SUPPLIERS, make_suppliers, pull_back, scores, through_scores
from hdmlib.transport.cost import Cost
from hdmlib.transport.problem import Problem, maps_at_once, solve_maps

# Marginal error that suffices for training: the gradient's own is smaller still. In float64 the solver's default holds.
_TOLERANCE = {torch.float32: 1e-5}
# Beyond these the solver or the exponentials of float32 lose their meaning.
EPSILONS = (1e-4, 1e4)


@dataclass(frozen=True)
class Matching:
    """What the loss of one heatmap is, apart from the heatmap and its demanders.

    Attributes:
        problem: The regularised transport.
        suppliers: How a heatmap becomes a distribution; see :func:`~hdmlib.losses.suppliers.make_suppliers`.
        mass_floor: Peak of a heatmap below which the gradient through a ReLU stops growing.
        likelihood: Weight of the cross-entropy on the demanders, in units of the cost.
    """

    problem: Problem = field(default_factory=Problem)
    suppliers: str = "softmax"
    mass_floor: float = 1e-4
    likelihood: float = 0.0


def _loss_and_gradient(
    heatmaps: Tensor,
    points: Tensor,
    shares: Tensor,
    suppliers: str,
    epsilon: float,
    regulariser: str,
    cost: str,
    tau: float,
    mass_floor: float,
    likelihood: float,
) -> tuple[Tensor, Tensor]:
    """The loss (G,) of heatmaps (G, H, W) and its gradient (G, H, W), in one kernel or a few maps at a time.

    Demanders are the cells ``points`` (G, M, 2) with their ``shares`` (G, M) of sum 1. A map whose shares are all 0 is
    ignored: its loss and its gradient are 0, whatever it holds.
    """
    matching = Matching(Problem(epsilon, regulariser, Cost(cost, tau)), suppliers, mass_floor, likelihood)
    kernel = accelerator("hdmlib.losses.gpu_kernel") if heatmaps.is_cuda else None
    if kernel is not None and kernel.is_supported(heatmaps, points.shape[1], matching):
        return kernel.solve(heatmaps, points, shares, matching)
    return _solve(heatmaps, points, shares, matching)


def _shapes(heatmaps: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return heatmaps.new_empty(len(heatmaps)), torch.empty_like(heatmaps, memory_format=torch.contiguous_format)


# An operator of its own, so that torch.compile takes it as it is. torch.library.custom_op would define it in one line,
# but its first call imports the compiler, for a second or two, whether or not it is in use.
# The solver may look at numbers on the host, which a CUDA graph cannot record.
_TAGS = [getattr(torch.Tag, name) for name in ("pt2_compliant_tag", "cudagraph_unsafe") if hasattr(torch.Tag, name)]
_SCHEMA = torch.library.infer_schema(_loss_and_gradient, mutates_args=())
torch.library.define("hdmlib::matching", _SCHEMA, tags=tuple(_TAGS))
torch.library.impl("hdmlib::matching", "default", _loss_and_gradient)
torch.library.register_fake("hdmlib::matching", _shapes)
_matching = torch.ops.hdmlib.matching.default


def _solve(heatmaps: Tensor, points: Tensor, shares: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    """Value (G,) and gradient (G, H, W) without the kernel; as many maps at a time as a core's cache holds."""
    value = heatmaps.new_zeros(len(heatmaps))
    used = (shares.sum(dim=1) > 0).nonzero()[:, 0]
    everyone = len(used) == len(heatmaps)
    gradient = torch.empty_like(heatmaps, memory_format=torch.contiguous_format)
    if not everyone:
        gradient.zero_()
    at_once = maps_at_once(heatmaps)
    for start in range(0, len(used), at_once):
        group = slice(start, start + at_once) if everyone else used[start : start + at_once]
        value[group], gradient[group] = _solve_group(heatmaps[group], points[group], shares[group], matching)
    return value, gradient


def _solve_group(heatmaps: Tensor, points: Tensor, shares: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    kind, weight = matching.suppliers, matching.likelihood
    supply = make_suppliers(heatmaps, kind)
    solution = solve_maps(supply, points, shares, matching.problem, _TOLERANCE.get(heatmaps.dtype))
    value, gradient = solution.value, pull_back(solution.gradient, supply, heatmaps, kind, matching.mass_floor)
    if weight:
        cells = flat_cells(points, heatmaps.shape[2])
        value = value + weight * _cross_entropy(heatmaps, supply, cells, shares, kind)
        # d/ds of -sum_m D_m log S_m is S - D
        to_scores = supply.mul_(weight)
        to_scores.flatten(1).scatter_add_(1, cells, -weight * shares)
        gradient = gradient.add_(through_scores(to_scores, heatmaps, kind))
    return value, gradient


def _cross_entropy(heatmaps: Tensor, supply: Tensor, cells: Tensor, shares: Tensor, kind: str) -> Tensor:
    """-sum_m D_m log S_m (G,) with log S_m = s_m - max s + log max S, which stays finite where S_m underflows."""
    logits = scores(heatmaps, kind).flatten(1)
    log_supply = logits.gather(1, cells) - logits.amax(dim=1, keepdim=True)
    log_supply += supply.flatten(1).amax(dim=1, keepdim=True).log()
    return -(shares * log_supply).sum(dim=1)


_NO_SECOND_DERIVATIVE = (
    "the matching loss has no second derivative: its gradient is the dual potential, found by a solver that is not "
    "differentiated; use torch.autograd.grad without create_graph"
)
_NO_FUNCTORCH = (
    "the matching loss does not work under torch.func (grad, vmap, jvp): its solver looks at numbers; call it on the "
    "whole batch, per_person or with reduction='none' for a value each"
)
# Steps of a training after which a schedule that still stands at its start has been forgotten.
_STEPS_AT_START = 64


class _MatchingFunction(torch.autograd.Function):
    """:func:`_matching` with its gradient for autograd; a second derivative is refused."""

    @staticmethod
    def forward(ctx: Any, heatmaps: Tensor, points: Tensor, shares: Tensor, *options: Any) -> Tensor:
        value, gradient = _matching(heatmaps, points, shares, *options)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        scaled = grad[:, None, None] * ctx.saved_tensors[0]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph
            scaled = _Refusal.apply(scaled, torch.ones((), requires_grad=True))
        return scaled, *[None] * 9


class _Refusal(torch.autograd.Function):
    """The identity; its derivative is refused. The second argument makes autograd ask for it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, anchor: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        raise RuntimeError(_NO_SECOND_DERIVATIVE)


class MatchingLoss(HeatmapLoss):
    """A regularised earth mover's distance from each heatmap to its annotation, in heatmap cells.

    It does not change when a heatmap is scaled (``relu``) or shifted (``softmax``). Joints get no gradient.

    Args:
        epsilon: Strength of the regulariser in units of the cost: cells, or squared cells with ``sqeuclidean``. It
            plays the part of the Gaussian's sigma. Where the cost saturates keep it well below ``tau``: far cells hold
            exp(-tau / epsilon) of the best cell's mass.
        regulariser: ``entropy``, ``kl`` or ``debiased`` (slow: some hundred times the others).
        suppliers: ``softmax``, ``softplus``, ``relu`` (whose gradient is one-sided below 0, and so not that of the
            value) or ``relu_plain``; see :func:`~hdmlib.losses.suppliers.make_suppliers`.
        demanders: ``subpixel``, the four cells around the annotation, or ``naive``, the nearest one.
        cost: ``saturating``, tau (1 - exp(-d / tau)) at a distance of d cells; ``euclidean``, d, the supplement's cost
            (with epsilon 0.25 it trains best); or ``sqeuclidean``, d^2.
        tau: Length in cells at which the saturating cost levels off. On maps much larger than 24 x 24 cells take tau
            and epsilon from :meth:`lengths_on`, else mass far from the joint is hardly pulled.
        epsilon_start: Initial epsilon, which falls geometrically to ``epsilon`` over the first half of the training;
            ``None``: constant. Your loop calls :meth:`set_progress` before each step, also after a checkpoint, which
            does not hold the progress. In evaluation mode the loss has ``epsilon``. Such a loss breaks torch.compile's
            graph.
        mass_floor: ``relu`` and ``relu_plain``: peak of a heatmap below which its gradient, which grows as the map
            shrinks, stops growing. Well above the heatmaps' peaks every map is pulled with the same strength.
        likelihood: Weight lambda, in units of the cost, of the cross-entropy on the demanders, sum_m D_m (-log S_m),
            which is added to the distance; 0: none. Needs suppliers that are positive everywhere, ``softmax`` or
            ``softplus``.
        likelihood_start: Initial lambda, which changes linearly to ``likelihood`` over the first half of the training;
            ``None``: constant. Otherwise as ``epsilon_start``.
        reduction: As for every :class:`~hdmlib.losses.base.HeatmapLoss`.

    Raises:
        ValueError: An argument is unknown or out of range.
        RuntimeError: When it is called: under torch.func, or for a second derivative.
    """

    decoder = "barycentre"
    confidence = "mass"
    skips_ignored_joints = True
    lengths = ("tau", "epsilon")

    def __init__(
        self,
        *,
        epsilon: float = Problem.epsilon,
        regulariser: str = Problem.regulariser,
        suppliers: str = Matching.suppliers,
        demanders: str = "subpixel",
        cost: str = Cost.kind,
        tau: float = Cost.tau,
        epsilon_start: float | None = None,
        mass_floor: float = Matching.mass_floor,
        likelihood: float = Matching.likelihood,
        likelihood_start: float | None = None,
        reduction: str = "mean",
    ) -> None:
        self.expects_logits = suppliers in POSITIVE_SUPPLIERS
        super().__init__(reduction=reduction)
        self.epsilon = number_between("epsilon", epsilon, *EPSILONS)
        start = self.epsilon if epsilon_start is None else epsilon_start
        self.epsilon_start = number_between("epsilon_start", start, *EPSILONS)
        self.problem = Problem(self.epsilon, regulariser, Cost(cost, number_between("tau", tau, 1e-3, 1e6)))
        self.suppliers = one_of("suppliers", suppliers, SUPPLIERS)
        self.demanders = one_of("demanders", demanders, DEMANDERS)
        self.mass_floor = number_between("mass_floor", mass_floor, 1e-30, 1e30)
        self.likelihood = number_between("likelihood", likelihood, 0, 1e6)
        start = self.likelihood if likelihood_start is None else likelihood_start
        self.likelihood_start = number_between("likelihood_start", start, 0, 1e6)
        if (self.likelihood or self.likelihood_start) and not self.expects_logits:
            raise ValueError(
                f"likelihood: suppliers {suppliers!r} may be 0 at the joint, where the likelihood is infinitely bad; "
                f"choose one of {', '.join(POSITIVE_SUPPLIERS)}"
            )
        self.progress = 0.0
        self._steps_at_start = 0

    def set_progress(self, progress: float) -> None:
        self.progress = number_between("progress", progress, 0, 1)
        self._steps_at_start = 0

    @property
    def _has_schedule(self) -> bool:
        return (self.epsilon_start, self.likelihood_start) != (self.epsilon, self.likelihood)

    def epsilon_now(self) -> float:
        """The epsilon at this point of the training; in evaluation mode the final one."""
        return self.epsilon * (self.epsilon_start / self.epsilon) ** self._rest()

    def likelihood_now(self) -> float:
        """The lambda at this point of the training; in evaluation mode the final one."""
        return self.likelihood + (self.likelihood_start - self.likelihood) * self._rest()

    def _rest(self) -> float:
        """How much of the schedule is left: 1 at the start of a training, 0 from its middle on and in evaluation mode.

        Without a schedule 0, and the progress is not read: traced, it would be a new constant in every step.
        """
        return max(0.0, 1 - 2 * self.progress) if self._has_schedule and self.training else 0.0

    def per_joint(self, heatmaps: Tensor, joints: Tensor, weights: Tensor) -> Tensor:
        if within_functorch():
            raise RuntimeError(_NO_FUNCTORCH)
        points, shares = demanders(joints.detach(), (heatmaps.shape[2], heatmaps.shape[3]), self.demanders)
        shares = shares * (weights > 0)[..., None]
        # traced, a number that changes would be a new constant, and a new compilation, in every step
        untraced = self._has_schedule and torch.compiler.is_compiling()
        if self._has_schedule and not untraced:
            self._notice_standstill()
        transport: Any = torch.compiler.disable(self._transport) if untraced else self._transport
        distance = transport(heatmaps.flatten(0, 1), points.flatten(0, 1), shares.flatten(0, 1))
        return weights * distance.unflatten(0, weights.shape)

    def _notice_standstill(self) -> None:
        """Warn once of a schedule that no training moves on."""
        if not self.training or self.progress > 0:
            return
        self._steps_at_start += 1
        if self._steps_at_start == _STEPS_AT_START:
            warnings.warn(
                f"{type(self).__name__}: epsilon_start and likelihood_start still hold after {_STEPS_AT_START} steps; "
                "call set_progress(step / steps) before each step",
                UserWarning,
                stacklevel=users_stacklevel(),
            )

    def _transport(self, heatmaps: Tensor, points: Tensor, shares: Tensor) -> Tensor:
        """The loss (G,) of heatmaps (G, H, W) with demanders (G, M, 2) and their shares (G, M)."""
        return _MatchingFunction.apply(
            heatmaps, points, shares, self.suppliers, self.epsilon_now(), self.problem.regulariser,
            self.problem.cost.kind, self.problem.cost.tau, self.mass_floor, self.likelihood_now(),
        )  # fmt: skip

    def readout(self, heatmaps: Tensor) -> Tensor:
        return make_suppliers(heatmaps, self.suppliers)

    def options(self) -> dict[str, Any]:
        return {
            "epsilon": self.epsilon, "regulariser": self.problem.regulariser, "suppliers": self.suppliers,
            "demanders": self.demanders, "cost": self.problem.cost.kind, "tau": self.problem.cost.tau,
            "epsilon_start": self.epsilon_start if self.epsilon_start != self.epsilon else None,
            "mass_floor": self.mass_floor, "likelihood": self.likelihood,
            "likelihood_start": self.likelihood_start if self.likelihood_start != self.likelihood else None,
        }  # fmt: skip
