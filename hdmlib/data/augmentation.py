"""Random regions around a person, in the order of HRNet. A region and a random generator in, a region out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hdmlib.data.crops import Region

# Half of a person, grown by this, is the region of the half-body augmentation.
HALF_BODY_PADDING = 1.5

# HRNet takes the upper half where a *normal* number is below 0.5, so not in one half of the cases: P(N < 0.5) = 0.69.
HALF_BODY_UPPER = 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))


@dataclass(frozen=True)
class Augmentation:
    """Random regions around a person, in HRNet's order: half body, scale, rotation, mirror. No shift, no colour change.

    The defaults change nothing; the recipes' settings are in ``presets``.

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
