"""What an annotated joint turns into on the heatmap: a Gaussian, a dot, or four demanders. Joints in, targets out.

A joint is (x, y) in heatmap cells: cell (i, j) of the map, row i and column j, is centred on (x, y) = (j, i) and
reaches half a cell to each side. So a map of W columns covers -1/2 <= x <= W - 1/2; a joint beyond that is *outside*
and is ignored by the losses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hdmlib.checks import one_of

DEMANDERS = ("subpixel", "naive")
# Devices that compute in float64; what needs it moves to the CPU from any other.
FLOAT64_DEVICES = ("cpu", "cuda")


def as_float64(values: Tensor) -> Tensor:
    """``values`` in float64; on the CPU if their device may have none, such as Apple's."""
    return (values if values.device.type in FLOAT64_DEVICES else values.cpu()).to(torch.float64)


def inside(joints: Tensor, size: tuple[int, int]) -> Tensor:
    """Which joints lie on the map, up to the outer edge of its border cells.

    Args:
        joints: (..., 2) in cells.
        size: Height and width of the map.

    Returns:
        (...) bool; a coordinate that is not finite is not inside.
    """
    height, width = size
    x, y = joints.unbind(dim=-1)
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def gaussian_map(joints: Tensor, size: tuple[int, int], sigma: float, *, rounded: bool = False) -> Tensor:
    """The usual regression target: exp(-|n - joint|^2 / (2 sigma^2)) at cell n, with peak 1.

    Args:
        joints: (..., K, 2) in cells.
        size: Height and width of the map.
        sigma: Width of the bump in cells.
        rounded: HRNet's form: centred on the nearest cell, which its ``int(x + 0.5)`` finds, and cut off at 3 sigma in
            x and in y.

    Returns:
        (..., K, H, W) on the joints' device.
    """
    height, width = size
    if rounded:
        joints = _hrnets_cell(joints)
    x = torch.arange(width, dtype=joints.dtype, device=joints.device) - joints[..., 0, None]
    y = torch.arange(height, dtype=joints.dtype, device=joints.device) - joints[..., 1, None]
    # exp(-(x^2 + y^2)) is a product: H + W exponentials instead of H W
    rows, columns = torch.exp(-y.square() / (2 * sigma**2)), torch.exp(-x.square() / (2 * sigma**2))
    if rounded:
        rows, columns = rows * (y.abs() <= 3 * sigma), columns * (x.abs() <= 3 * sigma)
    return rows[..., :, None] * columns[..., None, :]


def gaussian_reaches(joints: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Which joints HRNet trains on: those whose patch, 3 sigma around the rounded joint, meets the map or its edge.

    Args:
        joints: (..., 2) in cells.
        size: Height and width of the map.
        sigma: Width of the Gaussian in cells.

    Returns:
        (...) bool; a coordinate that is not finite does not reach.
    """
    height, width = size
    # the patch goes from int(mu - 3 sigma) to int(mu + 3 sigma + 1), not negative; int truncates towards 0
    x, y = _hrnets_cell(joints).unbind(dim=-1)
    reach = 3 * sigma
    return (x - reach < width) & (x + reach + 1 > -1) & (y - reach < height) & (y + reach + 1 > -1)


def dot_map(joints: Tensor, size: tuple[int, int]) -> Tensor:
    """The dot annotation: 1 at the cell that contains the joint, 0 elsewhere; nothing for a joint outside.

    Args:
        joints: (..., K, 2) in cells.
        size: Height and width of the map.

    Returns:
        (..., K, H, W) on the joints' device.
    """
    height, width = size
    nearest = _nearest_cell(_on_map(joints, size))
    x = torch.arange(width, device=joints.device) == nearest[..., 0, None]
    y = torch.arange(height, device=joints.device) == nearest[..., 1, None]
    dots = y[..., :, None] & x[..., None, :] & inside(joints, size)[..., None, None]
    return dots.to(joints.dtype)


def demanders(joints: Tensor, size: tuple[int, int], kind: str = "subpixel") -> tuple[Tensor, Tensor]:
    """The annotation as a distribution over cells: where the heatmap's mass is wanted, and how much of it.

    ``subpixel``: the four cells around the joint with bilinear weights, so that their mean is the joint itself. A joint
    on a cell's centre puts all its weight on that cell; the other three stay, with weight 0. ``naive``: the nearest
    cell. A joint in the outer half of a border cell has no four cells around it and is moved to the line of centres
    first; one outside the map likewise, though losses give it no weight.

    Args:
        joints: (..., 2) in cells.
        size: Height and width of the map.
        kind: ``subpixel`` or ``naive``.

    Returns:
        Cells (..., M, 2) as integral (x, y), all on the map, and weights (..., M) that sum to 1; M is 4 or 1.

    Raises:
        ValueError: If ``kind`` is unknown.
    """
    one_of("demanders", kind, DEMANDERS)
    joints = _on_map(joints, size)
    if kind == "naive":
        return _nearest_cell(joints)[..., None, :], torch.ones_like(joints[..., :1])
    height, width = size
    x, y = joints.unbind(dim=-1)
    # the block's upper left cell, one short of the border so that the whole block is on the map
    left, top = x.floor().clamp(max=max(width - 2, 0)), y.floor().clamp(max=max(height - 2, 0))
    right, down = x - left, y - top
    weights = torch.stack([(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], dim=-1)
    next_x, next_y = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    cells = torch.stack([left, top, next_x, top, left, next_y, next_x, next_y], dim=-1)
    return cells.unflatten(-1, (4, 2)), weights


def flat_cells(cells: Tensor, width: int) -> Tensor:
    """Cells (..., 2), integral (x, y), as indices (...) into a flattened map of that width."""
    return (cells[..., 1] * width + cells[..., 0]).long()


def _nearest_cell(joints: Tensor) -> Tensor:
    """The cell that contains each joint; halves go up."""
    return (joints + 0.5).floor()


def _hrnets_cell(joints: Tensor) -> Tensor:
    """HRNet's ``int(x + 0.5)``: the same on the map; left of it and above it truncates towards the map."""
    return (joints + 0.5).trunc()


def _on_map(joints: Tensor, size: tuple[int, int]) -> Tensor:
    """Joints moved onto the rectangle of cell centres; a coordinate that is not finite to 0."""
    x, y = joints.nan_to_num(0.0, 0.0, 0.0).unbind(dim=-1)
    return torch.stack([x.clamp(0, size[1] - 1), y.clamp(0, size[0] - 1)], dim=-1)
