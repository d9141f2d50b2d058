"""Which part of a photo the network sees, and where the joints fall in it.

A :class:`Region` is a rectangle of a photo, rotated and perhaps mirrored; a :class:`Frame` is the network's input of W
x H pixels with its heatmap of W/4 x H/4 cells, and a rule that says how their coordinates correspond. Together they
give one affine map from photo to input and one from photo to cells, and the crop itself. :class:`Augmentation` draws a
random region around a person.

Every affine is a (2, 3) matrix A acting on (x, y, 1); every coordinate names pixel and cell *centres* by integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch

# Input pixels per heatmap cell, in every network here.
STRIDE = 4
# Half of a person, grown by this, is the region of the half-body augmentation.
HALF_BODY_PADDING = 1.5
# HRNet takes the upper half where a *normal* number is below 0.5, so not in one half of the cases: P(N < 0.5) = 0.69.
HALF_BODY_UPPER = 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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

    The rules (W the input's width, w = W / 4 the heatmap's, likewise for heights):

    ======== =============================== ============================ =========================================
    rule     a region of width L at centre c cell of input pixel x        property
    ======== =============================== ============================ =========================================
    center   x = (u - c) W / L + (W - 1) / 2 (x + 1/2) / 4 - 1/2          a mirrored photo gives the mirrored heatmap
    hrnet    x = (u - c) W / L + W / 2       x / 4                        HRNet's; a mirrored heatmap is off by 3/4 cell
    udp      x = (u - c) (W - 1) / L +       x (w - 1) / (W - 1)          UDP's, which measures between pixel centres;
             (W - 1) / 2                                                  mirrors exactly
    ======== =============================== ============================ =========================================

    ``hrnet`` and ``udp`` sample the photo bilinearly as their authors do. ``center``, which owes nobody parity,
    averages first where a photo is shrunk to less than half, since bilinear samples would skip pixels and alias.

    Attributes:
        input_size: Width and height of the input, multiples of 4.
        coordinates: The rule.
    """

    input_size: tuple[int, int]
    coordinates: Literal["center", "hrnet", "udp"] = "center"

    def __post_init__(self) -> None:
        if self.coordinates not in ("center", "hrnet", "udp"):
            raise ValueError(f"unknown coordinates rule {self.coordinates!r}; known: center, hrnet, udp")
        if len(self.input_size) != 2 or not all(side >= 2 * STRIDE and side % STRIDE == 0 for side in self.input_size):
            raise ValueError(
                f"input_size is (width, height), multiples of {STRIDE} from {2 * STRIDE}, got {self.input_size}"
            )

    @property
    def cells(self) -> tuple[int, int]:
        """Width and height of the heatmap."""
        return self.input_size[0] // STRIDE, self.input_size[1] // STRIDE

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
        offset = 0.5 if self.coordinates == "center" else 0.0
        side = np.array(self.input_size, dtype=np.float64)
        ratio = (side / STRIDE - 1) / (side - 1) if self.coordinates == "udp" else np.full(2, 1 / STRIDE)
        affine = to_input * ratio[:, None]
        affine[:, 2] += offset * ratio - offset  # cell = (x + offset) ratio - offset
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


def invert(affine: np.ndarray) -> np.ndarray:
    """The inverse affines of (..., 2, 3): ``transform(cells, invert(affine))`` brings cells back to the photo."""
    affine = np.asarray(affine, dtype=np.float64)
    linear = np.linalg.inv(affine[..., :2])
    return np.concatenate([linear, -linear @ affine[..., 2:]], axis=-1)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Crops as the networks take them: scaled to 0 .. 1, less ImageNet's mean, over its deviation.

    Args:
        images: (B, 3, H, W) uint8 RGB, on any device.

    Returns:
        (B, 3, H, W) float32, on the same device and in the same memory format.
    """
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return images / (255 * std) - mean / std


@dataclass(frozen=True)
class Augmentation:
    """Random regions around a person, in HRNet's order: half body, scale, rotation, mirror. No shift, no colour change.

    The defaults change nothing; ``AUGMENTATIONS`` holds the published settings.

    Attributes:
        scale: f of the factor 1 + f clip(N, -1, 1) on the region's size, N standard normal.
        rotation: f in degrees of the angle f clip(N, -2, 2).
        rotation_probability: How often there is a rotation at all.
        mirror_probability: How often the crop is mirrored.
        half_body_probability: How often only the upper or the lower body is shown.
        half_body_joints: Only of people with more labelled joints than this.
        half_body_upper: How often it is then the upper one.
    """

    scale: float = 0.0
    rotation: float = 0.0
    rotation_probability: float = 0.6
    mirror_probability: float = 0.0
    half_body_probability: float = 0.0
    half_body_joints: int = 8
    half_body_upper: float = HALF_BODY_UPPER

    def draw(
        self, region: Region, joints: np.ndarray, labelled: np.ndarray, upper: tuple[int, ...], rng: np.random.Generator
    ) -> Region:
        """A random region around one person.

        Args:
            region: The region without augmentation.
            joints: (K, 2) pixels of the photo.
            labelled: (K,) bool.
            upper: Indices of the upper body; where empty, there is no half body.
            rng: The only source of chance.
        """
        half = rng.random() < self.half_body_probability
        if half and upper and labelled.sum() > self.half_body_joints:
            region = self._half_body(region, joints, labelled, upper, rng)
        factor = 1 + self.scale * min(max(rng.standard_normal(), -1), 1)
        angle = self.rotation * min(max(rng.standard_normal(), -2), 2)
        rotation = angle if rng.random() < self.rotation_probability else 0.0
        mirrored = rng.random() < self.mirror_probability
        return Region(region.centre, region.size * factor, rotation, mirrored)

    def _half_body(
        self, region: Region, joints: np.ndarray, labelled: np.ndarray, upper: tuple[int, ...], rng: np.random.Generator
    ) -> Region:
        """The box of the upper or lower joints, padded, around their mean; the region itself if they span no box."""
        is_upper = np.zeros(len(joints), dtype=bool)
        is_upper[list(upper)] = True
        above, below = joints[labelled & is_upper], joints[labelled & ~is_upper]
        lower = rng.random() >= self.half_body_upper or len(above) <= 2
        chosen = below if lower and len(below) > 2 else above
        if len(chosen) < 2:
            return region
        extent = np.ptp(chosen, axis=0)
        return Region(chosen.mean(axis=0), extent * HALF_BODY_PADDING) if extent.any() else region


# By recipe: none for validation, the others as HRNet trains on COCO and on MPII.
AUGMENTATIONS = {
    "none": Augmentation(),
    "coco": Augmentation(scale=0.35, rotation=45, mirror_probability=0.5, half_body_probability=0.3),
    "mpii": Augmentation(scale=0.25, rotation=30, mirror_probability=0.5),
}
