"""Heatmap -> coordinates and confidence.

In: heatmaps (B, K, H, W), the ``readout`` of a loss. Out: joints (B, K, 2) as (x, y) in heatmap cells, the
centre of cell (0, 0) being the point (0, 0), and a confidence (B, K).

Six methods:

========== ==========================================================================================
argmax     the highest cell
quarter    the highest cell, moved 0.25 cell toward its higher neighbour (HRNet)
barycentre the centre of mass of a small window round the highest cell
mean       the centre of mass of the whole map
dark       one Newton step on the logarithm of the smoothed map (DarkPose)
transport  the point to which the whole map is moved at least cost: its geometric median
========== ==========================================================================================

A map without a positive cell shows no joint: every method puts it at (0, 0) with confidence 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hdmlib.checks import check_options, number_between, one_of
from hdmlib.errors import NotFinite
from hdmlib.heatmaps import as_float64

# Half width of the window that the confidence "mass" counts: 5 x 5 cells.
MASS_RADIUS = 2
# The search for the geometric median ends with a step shorter than this many cells; a dozen steps are usual.
MEDIAN_TOLERANCE = 1e-6
MEDIAN_STEPS = 100
# Cells that share the highest value of a Gaussian at most, if its centre is a corner of four; more are a flat top.
MOST_HIGHEST = 4


def _grid(size: int, like: Tensor) -> Tensor:
    """The cell centres 0, 1, ..., size - 1 in ``like``'s dtype and device."""
    return torch.arange(size, dtype=like.dtype, device=like.device)


def _peak(heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column and row (B, K) int64 of the highest cell, the first in reading order among equals, and its value."""
    value, index = heatmaps.flatten(2).max(dim=2)
    width = heatmaps.shape[3]
    return index % width, index // width, value


def _cell(heatmaps: Tensor, px: Tensor, py: Tensor) -> Tensor:
    """Values (B, K) at the cells (px, py), the nearest border cell where a cell lies outside the map."""
    height, width = heatmaps.shape[2:]
    index = py.clamp(0, height - 1) * width + px.clamp(0, width - 1)
    return heatmaps.flatten(2).gather(2, index.unsqueeze(2)).squeeze(2)


def _window(heatmaps: Tensor, centre: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Column mask (B, K, W) and row mask (B, K, H) of the square window round the cell nearest to ``centre``."""
    near = centre.round()
    height, width = heatmaps.shape[2:]
    columns = (_grid(width, heatmaps) - near[..., :1]).abs() <= radius
    rows = (_grid(height, heatmaps) - near[..., 1:]).abs() <= radius
    return columns.to(heatmaps.dtype), rows.to(heatmaps.dtype)


def argmax(heatmaps: Tensor) -> Tensor:
    """The highest cell.

    Args:
        heatmaps: (B, K, H, W) floating point.

    Returns:
        (B, K, 2) joints in cells; the first cell in reading order among equals.
    """
    px, py, _ = _peak(heatmaps)
    return torch.stack((px, py), dim=2).to(heatmaps.dtype)


def quarter(heatmaps: Tensor) -> Tensor:
    """The highest cell, moved by 0.25 cell toward the higher neighbour in x and in y (HRNet's rule).

    The move is made where 1 < x < W - 1 and 1 < y < H - 1, exactly as the official evaluation does: on the second
    column and row the peak stays, although it has neighbours there.

    Args:
        heatmaps: (B, K, H, W) floating point.

    Returns:
        (B, K, 2) joints in cells.
    """
    px, py, _ = _peak(heatmaps)
    height, width = heatmaps.shape[2:]
    slope = torch.stack(
        (
            _cell(heatmaps, px + 1, py) - _cell(heatmaps, px - 1, py),
            _cell(heatmaps, px, py + 1) - _cell(heatmaps, px, py - 1),
        ),
        dim=2,
    )
    inner = (px > 1) & (px < width - 1) & (py > 1) & (py < height - 1)
    return torch.stack((px, py), dim=2) + 0.25 * slope.sign() * inner.unsqueeze(2)


def barycentre(heatmaps: Tensor, radius: int = 2) -> Tensor:
    """Centre of mass of the window of ``2 radius + 1`` cells a side round the highest cell, negative values counting 0.

    A window at the border is cut off by it.

    Args:
        heatmaps: (B, K, H, W) floating point.
        radius: Half width of the window in cells.

    Returns:
        (B, K, 2) joints in cells.

    Raises:
        ValueError: If ``radius`` is no whole number from 1 to a million.
    """
    if number_between("barycentre: radius", radius, 1, 1e6) != int(radius):
        raise ValueError(f"barycentre: radius must be a whole number of cells, got {radius!r}")
    return _centre_of_window(heatmaps, radius)


def _centre_of_window(heatmaps: Tensor, radius: int) -> Tensor:
    mass = _over_peak(heatmaps)
    columns, rows = _window(mass, argmax(heatmaps), radius)
    over_x = torch.einsum("bkhw,bkh->bkw", mass, rows) * columns  # the window's mass, summed over its rows
    over_y = torch.einsum("bkhw,bkw->bkh", mass, columns) * rows
    total = over_x.sum(2).clamp(min=torch.finfo(mass.dtype).tiny)
    height, width = mass.shape[2:]
    return torch.stack(((over_x @ _grid(width, mass)) / total, (over_y @ _grid(height, mass)) / total), dim=2)


def mean(heatmaps: Tensor) -> Tensor:
    """Centre of mass of the whole map, negative values counting 0: what ``soft_argmax`` is trained for.

    Args:
        heatmaps: (B, K, H, W) floating point.

    Returns:
        (B, K, 2) joints in cells.
    """
    return _centre_of_window(heatmaps, radius=max(heatmaps.shape[2:]))


def dark(heatmaps: Tensor, sigma: float = 2.0) -> Tensor:
    """One Newton step from the highest cell on the logarithm of the smoothed map (Zhang et al., CVPR 2020, Eq. 3-11).

    If the map is a Gaussian, its logarithm is a parabola, and from any cell the step ends on its centre:
    ``x = m - H^-1 g`` with the gradient g and the Hessian H of ``log(G * h)`` at the peak m. As in the published code
    the map is first smoothed with the kernel of the target, G, and no step is taken within two cells of the border,
    where there are no cells to read H from. Unlike it, none is taken either where H is not negative definite, for
    then no maximum lies ahead, and none is longer than the two cells that H was read from.

    Args:
        heatmaps: (B, K, H, W) floating point.
        sigma: Deviation in cells of the Gaussian targets the model was trained on. It sets the kernel: 11 cells wide
            for 2 and 17 for 3, the published sizes.

    Returns:
        (B, K, 2) joints in cells.

    Raises:
        ValueError: If ``sigma`` is no number from 0.001 to 10000.
    """
    number_between("dark: sigma", sigma, 1e-3, 1e4)
    px, py, peak = _peak(heatmaps)
    height, width = heatmaps.shape[2:]
    scaled = heatmaps / peak.clamp(min=torch.finfo(peak.dtype).tiny)[..., None, None]
    log = _smooth(scaled, sigma).clamp(min=1e-10).log()

    def at(dx: int, dy: int) -> Tensor:
        return _cell(log, px + dx, py + dy)

    gx, gy = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    hxx = (at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4
    hyy = (at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4
    hxy = (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1)) / 4
    determinant = hxx * hyy - hxy**2
    inner = (px > 1) & (px < width - 2) & (py > 1) & (py < height - 2)
    valid = inner & (hxx < 0) & (determinant > 0)
    determinant = torch.where(valid, determinant, 1)
    step = torch.stack((hyy * gx - hxy * gy, hxx * gy - hxy * gx), dim=2) / -determinant.unsqueeze(2)
    return torch.stack((px, py), dim=2) + torch.where(valid.unsqueeze(2), step.clamp(-2, 2), 0)


def _smooth(heatmaps: Tensor, sigma: float) -> Tensor:
    """Convolution with a Gaussian, zeros outside the map; OpenCV's rule ties radius and deviation, as in DARK."""
    radius = max(1, round((sigma - 0.8) / 0.3 + 1))
    kernel = torch.exp(-0.5 * ((_grid(2 * radius + 1, heatmaps) - radius) / (0.3 * (radius - 1) + 0.8)) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    batch, joints, height, width = heatmaps.shape
    maps = heatmaps.reshape(batch * joints, 1, height, width)
    maps = F.conv2d(F.conv2d(maps, kernel, padding=(0, radius)), kernel.mT, padding=(radius, 0))
    return maps.view(batch, joints, height, width)


def _over_peak(heatmaps: Tensor) -> Tensor:
    """A map's positive values over the largest, so that sums of them stay finite; 0 for an empty map."""
    mass = heatmaps.clamp(min=0)
    return mass / mass.amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)


def geometric_median(heatmaps: Tensor) -> Tensor:
    """The point to which the map's mass travels at least cost: its geometric median.

    With suppliers S (the map, negatives cut off, total 1) and a single demander at x there is no plan to choose, and
    the earth mover's distance is ``E(x) = sum_n S_n |x - c_n|``, which is convex. One convolution finds E's best
    cell. Either that cell is the answer, or the answer lies between the cells and Newton's steps lead there, halved
    until they descend.

    The median is robust: mass far away moves it no more than mass nearby. The price is paid below a cell: where mass
    lies on few cells, the heaviest one holds the median, while the barycentre of four bilinear demanders is the
    annotation.

    Args:
        heatmaps: (B, K, H, W) floating point. Computed in float64, since E is flat at its minimum.

    Returns:
        (B, K, 2) joints in cells. If the minimum is not unique, as for two equal cells, one of its points.
    """
    mass = _over_peak(as_float64(heatmaps).flatten(0, 1))
    mass = mass / mass.sum(dim=(1, 2), keepdim=True).clamp(min=1)  # the peak is 1 now, so only an empty map has less
    best = _cost_of_cells(mass).flatten(1).argmin(1)
    width = mass.shape[2]
    point = torch.stack((best % width, best // width), dim=1).to(mass.dtype)

    cost, step = _descent(mass, point)
    todo = torch.arange(len(point), device=point.device)
    for _ in range(MEDIAN_STEPS):
        todo = todo[step[todo].norm(dim=1) > MEDIAN_TOLERANCE]
        if not len(todo):
            break
        trial = point[todo] + step[todo]
        trial_cost, next_step = _descent(mass[todo], trial)
        better = trial_cost <= cost[todo]
        cost[todo] = torch.where(better, trial_cost, cost[todo])
        better = better.unsqueeze(1)
        point[todo] = torch.where(better, trial, point[todo])
        step[todo] = torch.where(better, next_step, step[todo] / 2)
    return point.view(*heatmaps.shape[:2], 2).to(heatmaps)


def _cost_of_cells(mass: Tensor) -> Tensor:
    """E at every cell of maps (N, H, W): the mass convolved with the distance, by FFT on twice the size."""
    height, width = mass.shape[1:]
    rows, columns = _grid(2 * height, mass), _grid(2 * width, mass)
    rows, columns = torch.minimum(rows, 2 * height - rows), torch.minimum(columns, 2 * width - columns)
    distance = torch.hypot(rows.unsqueeze(1), columns)
    spectrum = torch.fft.rfft2(mass, s=distance.shape) * torch.fft.rfft2(distance)
    return torch.fft.irfft2(spectrum, s=distance.shape)[:, :height, :width]


def _descent(mass: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """E at one point per map, and a step that leads down from there.

    With distances d_n and unit vectors u_n toward the cells,
    ``-grad E = R = sum_n S_n u_n`` and ``H = sum_n S_n / d_n (I - u_n u_n^T)``. Newton's step is ``H^-1 R``.

    Exactly on a cell E has a kink: R and the sums leave that cell out, and its mass s holds the point there. The step
    is then the one of Vardi & Zhang (*The multivariate L1-median and associated data depth*, PNAS 2000), Weiszfeld's
    step ``R / sum_n (S_n / d_n)`` times ``(1 - s / |R|)+``: zero if and only if the cell is the median.

    Args:
        mass: (N, H, W) suppliers, each map of total 1.
        point: (N, 2) in cells.

    Returns:
        E (N,) and the step (N, 2) in cells.
    """
    tiny = torch.finfo(mass.dtype).tiny
    dx = (_grid(mass.shape[2], mass) - point[:, :1]).unsqueeze(1)  # (N, 1, W)
    dy = (_grid(mass.shape[1], mass) - point[:, 1:]).unsqueeze(2)  # (N, H, 1)
    distance = torch.hypot(dx, dy)
    hit = distance == 0
    inverse = torch.where(hit, 0, 1 / distance)
    pull = mass * inverse
    rx, ry = (pull * dx).sum((1, 2)), (pull * dy).sum((1, 2))

    held = (mass * hit).sum((1, 2))
    slack = (1 - held / torch.hypot(rx, ry).clamp(min=tiny)).clamp(min=0)
    off_cell = torch.stack((rx, ry), dim=1) * (slack / pull.sum((1, 2)).clamp(min=tiny)).unsqueeze(1)

    bend = pull * inverse**2
    hxx, hyy, hxy = (bend * dy**2).sum((1, 2)), (bend * dx**2).sum((1, 2)), -(bend * dx * dy).sum((1, 2))
    determinant = hxx * hyy - hxy**2
    on_a_line = determinant <= 1e-12 * (hxx + hyy) ** 2  # H is singular where all mass is on one line
    smooth = ~hit.any(2).any(1) & ~on_a_line
    newton = torch.stack((hyy * rx - hxy * ry, hxx * ry - hxy * rx), dim=1)
    newton = newton / torch.where(smooth, determinant, 1).unsqueeze(1)
    return (mass * distance).sum((1, 2)), torch.where(smooth.unsqueeze(1), newton, off_cell)


def _mass_near(heatmaps: Tensor, joints: Tensor) -> Tensor:
    """Share (B, K) of a map's positive mass in the 5 x 5 cells round the decoded joint; 0 for an empty map."""
    mass = _over_peak(heatmaps)
    columns, rows = _window(mass, joints, MASS_RADIUS)
    near = torch.einsum("bkhw,bkh,bkw->bk", mass, rows, columns)
    return (near / mass.sum((2, 3)).clamp(min=1)).clamp(max=1)


def joints_from_heatmaps(targets: Tensor) -> tuple[Tensor, Tensor]:
    """The joints that drawn targets were made from, for frameworks that hand over heatmaps instead of joints.

    The logarithm of a Gaussian is a parabola, so three cells along each axis hold its centre exactly:
    x = m + (log t[m+1] - log t[m-1]) / (2 (2 log t[m] - log t[m+1] - log t[m-1])). Targets whose centre was rounded to
    a cell (HRNet's, mmpose's MSRAHeatmap) have lost the sub-pixel part, and no reader can bring it back. A target that
    three cells do not hold, narrow or cut off at a threshold, is its highest cell, and one with a flat top, such as a
    disc, the middle of its highest cells; a centre more than a cell outside of the map is read as one cell outside.

    Args:
        targets: (B, K, H, W) Gaussians of any width and height, or discs, at least 3 x 3 cells. For an unlabelled joint
            all cells are equal: 0, or Lightning Pose's uniform map.

    Returns:
        Joints (B, K, 2) as (x, y) in heatmap cells and weights (B, K), 1 where a target has a peak, else 0; NaN, which
        a loss notices, where it holds NaN or infinity.

    Raises:
        ValueError: The targets are no (B, K, H, W) tensor of at least 3 x 3 cells.
    """
    if not isinstance(targets, Tensor) or targets.ndim != 4 or min(targets.shape[2:]) < 3:
        raise ValueError(f"targets must be a (B, K, H, W) tensor of at least 3 x 3 cells, got {_described(targets)}")
    targets = targets if targets.dtype == torch.float64 else targets.float()
    px, py, peak = _peak(targets)
    height, width = targets.shape[2:]
    highest = (targets == peak[..., None, None]).to(targets)
    count = highest.sum(dim=(2, 3)).clamp(min=1)  # a NaN equals nothing
    top_x = (highest.sum(dim=2) @ _grid(width, targets)) / count
    top_y = (highest.sum(dim=3) @ _grid(height, targets)) / count
    column, row = px.clamp(1, width - 2), py.clamp(1, height - 2)  # at the border the parabola is extrapolated
    x = column + _vertex(*(_cell(targets, column + step, py) for step in (-1, 0, 1)), peak=top_x - column)
    y = row + _vertex(*(_cell(targets, px, row + step) for step in (-1, 0, 1)), peak=top_y - row)
    flat = count > MOST_HIGHEST
    x, y = torch.where(flat, top_x, x), torch.where(flat, top_y, y)
    labelled = (peak > 0) & (peak > targets.amin(dim=(2, 3)))
    weights = torch.where(targets.isfinite().all(dim=3).all(dim=2), labelled.to(targets.dtype), torch.nan)
    return torch.where(labelled[..., None], torch.stack([x, y], dim=-1), 0.0), weights


def _vertex(before: Tensor, here: Tensor, after: Tensor, peak: Tensor) -> Tensor:
    """Where the parabola through three logarithms at -1, 0 and 1 has its top; the peak's place where there is none."""
    usable = (before > 0) & (here > 0) & (after > 0)
    left, middle, right = (torch.where(usable, value, 1.0).log() for value in (before, here, after))
    bend = 2 * middle - left - right
    usable &= bend > 0
    return torch.where(usable, (right - left) / (2 * torch.where(usable, bend, 1.0)), peak.to(here)).clamp(-2, 2)


def _described(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


METHODS: dict[str, Callable[..., Tensor]] = {
    "argmax": argmax,
    "quarter": quarter,
    "barycentre": barycentre,
    "mean": mean,
    "dark": dark,
    "transport": geometric_median,
}
CONFIDENCES = ("peak", "mass")


@torch.no_grad()
def decode(
    heatmaps: Tensor, method: str = "quarter", confidence: str = "peak", **options: float
) -> tuple[Tensor, Tensor]:
    """Coordinates and confidence of every joint.

    Args:
        heatmaps: (B, K, H, W), any dtype, device and memory layout; half precision is computed in float32, also under
            autocast.
        method: ``argmax``, ``quarter``, ``barycentre``, ``mean``, ``dark`` or ``transport``; see the functions of these
            names.
        confidence: ``peak``, the value of the highest cell: right where training fixes the heatmap's scale, as the
            squared error does. ``mass``, the share of the map's positive mass within two cells (5 x 5) of the decoded
            joint, in [0, 1]: right for losses that ignore the scale, as the matching loss does.
        **options: Options of the method: ``radius`` of ``barycentre``, ``sigma`` of ``dark``.

    Returns:
        Joints (B, K, 2) as (x, y) in cells and confidence (B, K), both float32 or float64.
        A map without a positive cell gives (0, 0) and 0.

    Raises:
        ValueError: If the heatmaps are no (B, K, H, W) tensor with at least one cell or hold NaN or infinity, or for an
            unknown method, confidence or option.
    """
    one_of("decoding method", method, METHODS)
    one_of("confidence", confidence, CONFIDENCES)
    check_options(f"decoding method {method!r}", METHODS[method], options, first=1)
    if not isinstance(heatmaps, Tensor) or heatmaps.ndim != 4 or 0 in heatmaps.shape[2:]:
        raise ValueError(f"heatmaps must be a (B, K, H, W) tensor with H, W > 0, got {_described(heatmaps)}")
    heatmaps = heatmaps if heatmaps.dtype == torch.float64 else heatmaps.float()
    # a traced or exported graph cannot raise
    exporting = torch.jit.is_tracing() or torch.compiler.is_compiling()  # pyright: ignore[reportPrivateImportUsage]
    if not exporting and not heatmaps.isfinite().all():
        image, joint = (~heatmaps.isfinite()).flatten(2).any(2).nonzero()[0].tolist()
        raise NotFinite(f"heatmaps hold NaN or infinity, first in image {image}, joint {joint}: did training diverge?")
    if not heatmaps.numel():  # no image or no joint; neither a maximum nor an FFT is defined
        return heatmaps.new_zeros(*heatmaps.shape[:2], 2), heatmaps.new_zeros(heatmaps.shape[:2])
    peak = heatmaps.amax(dim=(2, 3))
    with torch.autocast(heatmaps.device.type, enabled=False):
        joints = METHODS[method](heatmaps, **options)
        score = peak if confidence == "peak" else _mass_near(heatmaps, joints)
    visible = peak > 0
    return torch.where(visible.unsqueeze(2), joints, 0), torch.where(visible, score, 0)
