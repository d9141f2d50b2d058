"""One reader from images to coordinates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hdmlib.config import Config

IMAGENET_MEAN = (0.485, 0.456, 0.406)

IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Crops as the networks take them: scaled to 0 .. 1, less ImageNet's mean, over its deviation.

    Args:
        images: (B, 3, H, W) uint8 RGB, on any device.

    Returns:
        (B, 3, H, W) float32, on the same device and in the same memory format.
    """
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return images / (255 * std) - mean / std


def heatmaps_of(config: Config, model: nn.Module, loss: nn.Module, images: Tensor, flip_order: tuple[int, ...]):
    """Heatmaps of a batch as the network puts them out, and as they are to be read.

    Args:
        config: For the flip test and the coordinate rule.
        model: The network.
        loss: The loss it was trained with, which knows how its heatmaps are read.
        images: (B, 3, H, W) uint8 crops.
        flip_order: The joints' permutation under a mirror.

    Returns:
        Raw heatmaps (B, K, H/4, W/4), and their readout, in a flip test averaged with that of the mirrored crops.
    """
    inputs = normalise(images)
    raw = model(inputs).float()
    maps = loss.readout(raw)
    if config.flip_test:
        mirrored = loss.readout(model(inputs.flip(-1)).float()).flip(-1)[:, list(flip_order)]
        if config.coordinates == "hrnet":  # cell = pixel / 4 does not commute with the mirror; HRNet shifts by one cell
            mirrored = torch.cat([mirrored[..., :1], mirrored[..., :-1]], dim=-1)
        maps = (maps + mirrored) / 2
    return raw, maps
