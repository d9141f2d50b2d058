"""Which part of a photo the network sees, and where the joints fall in it.

A :class:`Region` is a rectangle of a photo, rotated and perhaps mirrored; a :class:`Frame` is the network's input of W
x H pixels with its heatmap, a cell for every ``stride`` pixels, and a rule that says how their coordinates correspond.
Together they give one affine map from photo to input and one from photo to cells, and the crop itself.

Every affine is a (2, 3) matrix A acting on (x, y, 1); every coordinate names pixel and cell *centres* by integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from hdmlib.coordinates import Rule, ratio_and_offset

# Input pixels per heatmap cell of HRNet.
STRIDE = 4


@dataclass(frozen=True, eq=False)
class Region:
    """A rectangle of a photo.

    Attributes:
        centre: (2,) pixels.
        size: (2,) width and height in pixels; the shorter one is extended to the input's aspect ratio.
        rotation: Degrees by which the rectangle is turned clockwise (as seen, y down).
        mirrored: Whether its content is shown mirrored left to right.
    """

    centre: np.ndarray
    size: np.ndarray
    rotation: float = 0.0
    mirrored: bool = False


@dataclass(frozen=True)
class Frame:
    """The network's input and heatmap, and how pixels and cells correspond.

    The rules say which input pixel x shows the point u of a region of width L with centre c, for an input of width W;
    ``coordinates.py`` has the cell of that pixel.

    ======== ===================================
    rule     x
    ======== ===================================
    center   (u - c) W / L + (W - 1) / 2
    hrnet    (u - c) W / L + W / 2
    udp      (u - c) (W - 1) / L + (W - 1) / 2
    ======== ===================================

    ``hrnet`` and ``udp`` sample the photo bilinearly as their authors do. ``center`` averages first where a photo is
    shrunk to less than half, since bilinear samples would skip pixels and alias.

    Attributes:
        input_size: Width and height of the input, multiples of the stride.
        coordinates: The rule.
        stride: Input pixels per heatmap cell.
    """

    input_size: tuple[int, int]
    coordinates: Rule = "center"
    stride: int = STRIDE

    def __post_init__(self) -> None:
        stride = self.stride
        if len(self.input_size) != 2 or not all(side >= 2 * stride and side % stride == 0 for side in self.input_size):
            raise ValueError(
                f"input_size is (width, height), multiples of {stride} from {2 * stride}, got {self.input_size}"
            )
        ratio_and_offset(self.input_size[0], stride, self.coordinates)  # knows the rules

    @property
    def cells(self) -> tuple[int, int]:
        """Width and height of the heatmap."""
        return self.input_size[0] // self.stride, self.input_size[1] // self.stride

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the heatmap, as tensors have them."""
        return self.cells[1], self.cells[0]

    def extended(self, size: np.ndarray) -> np.ndarray:
        """A region's size (..., 2) with its shorter side extended to the input's aspect ratio."""
        aspect = self.input_size[0] / self.input_size[1]
        width = np.maximum(size[..., 0], size[..., 1] * aspect)
        return width[..., None] * np.array([1, 1 / aspect])

    def to_input(self, region: Region) -> np.ndarray:
        """The affine (2, 3) from the photo's pixels to the input's."""
        side = np.array(self.input_size, dtype=np.float64)
        extent = side - 1 if self.coordinates == "udp" else side
        middle = side / 2 if self.coordinates == "hrnet" else (side - 1) / 2
        angle = math.radians(region.rotation)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        mirror = np.array([-1.0 if region.mirrored else 1.0, 1.0])
        # HRNet mirrors the photo and then turns it: the mirror acts first
        linear = (extent / self.extended(region.size))[:, None] * turn * mirror
        return np.column_stack([linear, middle - linear @ region.centre])

    def to_cells(self, to_input: np.ndarray) -> np.ndarray:
        """The affine (2, 3) from the photo's pixels to heatmap cells, for the one to the input's pixels."""
        axes = np.array([ratio_and_offset(side, self.stride, self.coordinates) for side in self.input_size])
        affine = to_input * axes[:, :1]  # cell = ratio x + offset
        affine[:, 2] += axes[:, 1]
        return affine

    def input_points(self, cells: np.ndarray) -> np.ndarray:
        """Heatmap cells (..., 2) as pixels of the input, for drawing on a crop."""
        return transform(cells, invert(self.to_cells(np.eye(2, 3))))

    def crop(self, photo: np.ndarray, to_input: np.ndarray) -> np.ndarray:
        """The part of a photo that the network sees: bilinear, black outside the photo.

        Args:
            photo: (H, W, 3) uint8.
            to_input: The affine (2, 3) of :meth:`to_input`.

        Returns:
            (input height, input width, 3) uint8.
        """
        if self.coordinates == "center":
            photo, to_input = _shrunk(photo, to_input)
        # OpenCV warps four channels twice as fast as three, to the same numbers
        padded = cv2.cvtColor(photo, cv2.COLOR_RGB2RGBA)
        crop = cv2.warpAffine(padded, to_input, self.input_size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        return cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB)


def _shrunk(photo: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The photo averaged over 2, 4, 8, ... pixels until less than a halving is left to ``affine``, and what is left.

    Whole pixels are averaged several times faster than parts of them. A remainder at the photo's right and lower edge,
    less than a pixel of the input, is dropped.
    """
    scale = math.sqrt(abs(np.linalg.det(affine[:, :2])))
    height, width = photo.shape[:2]
    factor = min(2 ** int(max(0, -math.log2(scale))), height, width)
    if factor == 1:
        return photo, affine
    rows, columns = height // factor, width // factor
    small = cv2.resize(photo[: rows * factor, : columns * factor], (columns, rows), interpolation=cv2.INTER_AREA)
    # pixel u of the small photo is pixel (u + 1/2) factor - 1/2 of the large one
    shift = affine[:, :2].sum(axis=1) * (factor / 2 - 0.5)
    return small, np.column_stack([affine[:, :2] * factor, affine[:, 2] + shift])


def transform(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Apply affines to points.

    Args:
        points: (..., K, 2), an array or a tensor on the CPU, like the affines.
        affine: (..., 2, 3), one for each group of K points, or one for all.

    Returns:
        (..., K, 2) float64.
    """
    points, affine = np.asarray(points, dtype=np.float64), np.asarray(affine, dtype=np.float64)
    return points @ np.swapaxes(affine[..., :2], -1, -2) + affine[..., None, :, 2]


def float32_parts(values: np.ndarray) -> np.ndarray:
    """float64 values (...) as (3, ...) float32 whose sum in float64 is exactly them."""
    parts, rest = [], np.asarray(values, dtype=np.float64)
    for _ in range(3):
        parts.append(rest.astype(np.float32))
        rest = rest - parts[-1]
    return np.stack(parts)


def invert(affine: np.ndarray) -> np.ndarray:
    """The inverse affines of (..., 2, 3): ``transform(cells, invert(affine))`` brings cells back to the photo."""
    affine = np.asarray(affine, dtype=np.float64)
    linear = np.linalg.inv(affine[..., :2])
    return np.concatenate([linear, -linear @ affine[..., 2:]], axis=-1)
