"""The terms of Theorem 1: what the squared error from a Gaussian is made of. Heatmaps and joints in, terms out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hdmlib.heatmaps import dot_map, gaussian_map


@dataclass(frozen=True)
class Terms:
    """Sums over the cells of each map, (...) float64.

    With H the heatmap, G the Gaussian and d the dot at the annotated cell,
    |H - G|^2 = |H - d|^2 + 2 <H, d - G> + C with C = |G|^2 - |d|^2 (Eq. 4).

    Attributes:
        gaussian_mse: |H - G|^2.
        dot_mse: |H - d|^2.
        cross: 2 <H, d - G>.
        constant: C.
    """

    gaussian_mse: Tensor
    dot_mse: Tensor
    cross: Tensor
    constant: Tensor


def theorem_terms(heatmaps: Tensor, joints: Tensor, sigma: float) -> Terms:
    """The terms for heatmaps (..., H, W) and joints (..., 2) in cells, which are moved to the nearest cell."""
    heatmaps, size = heatmaps.double(), heatmaps.shape[-2:]
    gaussian, dot = (
        gaussian_map(joints.double(), size, sigma, rounded=True),
        dot_map((joints.double() + 0.5).floor(), size),
    )
    over_cells = lambda terms: terms.sum(dim=(-2, -1))  # noqa: E731
    return Terms(
        gaussian_mse=over_cells((heatmaps - gaussian).square()),
        dot_mse=over_cells((heatmaps - dot).square()),
        cross=2 * over_cells(heatmaps * (dot - gaussian)),
        constant=over_cells(gaussian.square()) - over_cells(dot.square()),
    )
