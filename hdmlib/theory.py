"""The terms of Theorem 1: what the squared error from a Gaussian is made of. Heatmaps and joints in, terms out.

The supplement's theorem, as far as its text is at hand: with H the predicted heatmap, G the Gaussian around the
annotated cell and d the dot on it, norms and products being sums over the cells,

    |H - G|^2 = |H - d|^2 + 2 <H, d - G> + C,    C = |d - G|^2                                                (Eq. 4)

The first term on the right is what localisation is about. The second also falls when H rises anywhere under the
Gaussian's skirt; so the left side can fall while the first term rises. The proof (Eq. 6) expands the square around d:

    |H - G|^2 = |H - d|^2 + 2 <H - d, d - G> + |d - G|^2                          always
    <H - d, d - G> = <H, d - G> + <d, G> - |d|^2                                  always
    <d, G> = |d|^2                                    if the Gaussian is 1 at the dot: the annotation is on a cell

Off the cells the third line fails, and the right side of Eq. 4 lacks the ``gap`` 2 (<d, G> - |d|^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hdmlib.heatmaps import as_float64, dot_map, gaussian_map


@dataclass(frozen=True)
class Terms:
    """Sums over the cells of each map, (...) float64; gaussian_mse = dot_mse + cross + constant + gap.

    Attributes:
        gaussian_mse: |H - G|^2.
        dot_mse: |H - d|^2.
        cross: 2 <H, d - G>.
        constant: |d - G|^2, whatever H is.
        gap: 2 (<d, G> - |d|^2), zero for annotations on a cell.
    """

    gaussian_mse: Tensor
    dot_mse: Tensor
    cross: Tensor
    constant: Tensor
    gap: Tensor


def theorem_terms(heatmaps: Tensor, joints: Tensor, sigma: float, *, on_grid: bool = True) -> Terms:
    """The terms of Theorem 1 for each heatmap.

    Args:
        heatmaps: (..., H, W).
        joints: (..., 2) in cells.
        sigma: Width of the Gaussian in cells.
        on_grid: Whether the Gaussian is centred on the cell nearest to the joint, as the theorem assumes, or on the
            joint itself.
    """
    heatmaps, joints, size = as_float64(heatmaps), as_float64(joints), (heatmaps.shape[-2], heatmaps.shape[-1])
    cells = (joints + 0.5).floor()
    dot, gaussian = dot_map(cells, size), gaussian_map(cells if on_grid else joints, size, sigma)
    return Terms(
        gaussian_mse=_sum((heatmaps - gaussian).square()),
        dot_mse=_sum((heatmaps - dot).square()),
        cross=2 * _sum(heatmaps * (dot - gaussian)),
        constant=_sum((dot - gaussian).square()),
        gap=2 * (_sum(dot * gaussian) - _sum(dot.square())),
    )


def proof_lines(H: Tensor, d: Tensor, G: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Both sides of each line of the proof (Eq. 6), for any dot and any Gaussian.

    Args:
        H: Heatmaps, (..., H, W).
        d, G: The dot and the Gaussian of each, of the same shape; they need not belong together.

    Returns:
        Line -> left and right side, (...) float64.
    """
    H, d, G = as_float64(H), as_float64(d), as_float64(G)
    return {
        "|H - G|² = |H - d|² + 2<H - d, d - G> + |d - G|²": (
            _sum((H - G).square()),
            _sum((H - d).square()) + 2 * _sum((H - d) * (d - G)) + _sum((d - G).square()),
        ),
        "<H - d, d - G> = <H, d - G> + <d, G> - |d|²": (
            _sum((H - d) * (d - G)),
            _sum(H * (d - G)) + _sum(d * G) - _sum(d.square()),
        ),
        "<d, G> = |d|²": (_sum(d * G), _sum(d.square())),
        "|H - G|² = |H - d|² + 2<H, d - G> + C": (
            _sum((H - G).square()),
            _sum((H - d).square()) + 2 * _sum(H * (d - G)) + _sum((d - G).square()),
        ),
    }


def constant_far_from_borders(sigma: float) -> float:
    """C for a Gaussian on a cell of an endless map: (sum_k exp(-k^2 / sigma^2))^2 - 1, so pi sigma^2 - 1 from 1 on.

    Args:
        sigma: Width of the Gaussian in cells.
    """
    reach = math.ceil(8 * sigma) + 1
    line = sum(math.exp(-((k / sigma) ** 2)) for k in range(-reach, reach + 1))
    return line**2 - 1


def _sum(terms: Tensor) -> Tensor:
    return torch.sum(terms, dim=(-2, -1))
