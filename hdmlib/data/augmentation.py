"""Random variations of training crops: HRNet's regions, and options for colour, blur and cutout.

A region or a crop and a random generator in, another region or crop out. The colour options are a few lines of our own:
Albumentations is no longer developed and its successor has another licence, and torchvision is not needed otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from hdmlib.data.crops import Region

# The half-body augmentation shows the box of half of the joints, enlarged by this.
HALF_BODY_PADDING = 1.5

# HRNet takes the upper half where a *normal* number is below 0.5, so in more than half of the cases: P(N < 0.5) = 0.69.
HALF_BODY_UPPER = 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))


@dataclass(frozen=True)
class Augmentation:
    """How training crops vary: half body, scale, rotation and mirror in HRNet's order; then colour, blur and cutout.

    The defaults change nothing; the recipes' settings are in ``presets``.

    Attributes:
        scale: f of the factor 1 + f clip(N, -1, 1) on the region's size, N standard normal.
        rotation: f in degrees of the angle f clip(N, -2, 2).
        rotation_probability: How often there is a rotation at all.
        mirror_probability: How often the crop is mirrored.
        half_body_probability: How often only the upper or the lower body is shown.
        half_body_joints: Only of people with more labelled joints than this.
        half_body_upper: How often it is then the upper one.
        colour_jitter: c of the factors on brightness, contrast and saturation, each uniform in 1 - c .. 1 + c.
        blur: Largest standard deviation of a Gaussian blur in pixels of the crop; drawn uniformly from 0.
        cutout: Side of a grey square at a random place, in widths of the crop.
    """

    scale: float = 0.0
    rotation: float = 0.0
    rotation_probability: float = 0.6
    mirror_probability: float = 0.0
    half_body_probability: float = 0.0
    half_body_joints: int = 8
    half_body_upper: float = HALF_BODY_UPPER
    colour_jitter: float = 0.0
    blur: float = 0.0
    cutout: float = 0.0

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

    @property
    def alters_pixels(self) -> bool:
        """Whether :meth:`alter` changes anything."""
        return bool(self.colour_jitter or self.blur or self.cutout)

    def alter(self, crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A crop (H, W, 3) uint8 RGB with random colour, blur and cutout; the argument is unchanged."""
        if self.colour_jitter:
            brightness, contrast, saturation = rng.uniform(1 - self.colour_jitter, 1 + self.colour_jitter, 3)
            values = crop.astype(np.float32) * np.float32(brightness)
            values = (values - values.mean()) * np.float32(contrast) + values.mean()
            grey = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)[..., None]
            crop = np.clip(np.rint(grey + (values - grey) * np.float32(saturation)), 0, 255).astype(np.uint8)
        if self.blur:
            deviation = rng.uniform(0, self.blur)
            crop = cv2.GaussianBlur(crop, (0, 0), deviation) if deviation > 0.1 else crop
        if self.cutout:
            height, width = crop.shape[:2]
            side = round(self.cutout * width)
            left, top = (int(rng.integers(-side // 2, extent - side // 2 + 1)) for extent in (width, height))
            crop = crop.copy()
            crop[max(top, 0) : top + side, max(left, 0) : left + side] = 127
        return crop

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
