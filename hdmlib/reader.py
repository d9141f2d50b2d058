"""From images to coordinates: uint8 crops in; raw heatmaps, readout, joints in heatmap cells and confidence out.

    images -> normalise -> network -> readout of the loss (averaged with the mirrored crop's) -> decoder

Validation, the galleries, ``predict`` and the notebooks all read a network through this one class.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hdmlib.checks import one_of
from hdmlib.decoding import METHODS, decode
from hdmlib.losses.base import HeatmapLoss

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """Crops as the networks expect them: scaled to 0 .. 1, less ImageNet's mean, over its standard deviation.

    Args:
        images: (B, 3, H, W) uint8 RGB, on any device.

    Returns:
        (B, 3, H, W) float32, on the same device and in the same memory format.
    """
    scale, shift = _statistics(images.device)
    return images / scale - shift


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # the first caller's mode must not decide whether later ones can differentiate
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """255 std and mean / std, (3, 1, 1); kept on the device, since a copy would make every step wait."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return 255 * std, mean / std


class Reading(NamedTuple):
    """What a network finds on B crops.

    Attributes:
        raw: (B, K, h, w) heatmaps as the network outputs them.
        maps: (B, K, h, w) heatmaps as they are decoded: the loss's readout, with a flip test the mean of both crops'.
        cells: (B, K, 2) joints as (x, y) in heatmap cells.
        confidence: (B, K): the share of the map's mass around the joint for losses that normalise the map, else the
            value of its peak.
    """

    raw: Tensor
    maps: Tensor
    cells: Tensor
    confidence: Tensor


class Decoded(nn.Module):
    """A network, the readout of its loss and a decoder as one module, to be used or exported elsewhere.

    Args:
        network: (B, 3, H, W) normalised crops -> (B, K, h, w) heatmaps.
        loss: The loss that the network was trained with; it defines readout, default decoder and confidence.
        decoder: Method of :func:`hdmlib.decode`; ``None``: the loss's own.

    Raises:
        TypeError: The loss is none of ours, or, when it is called, the network's output is no tensor.
        ValueError: The decoder is unknown.
    """

    def __init__(self, network: nn.Module, loss: HeatmapLoss, decoder: str | None = None) -> None:
        super().__init__()
        if not isinstance(loss, HeatmapLoss):
            raise TypeError(f"loss must be a loss of hdmlib's, such as MatchingLoss(), got {loss!r}")
        self.network = network
        self.loss = copy.deepcopy(loss).eval()  # the training that it comes from may go on
        self.decoder = one_of("decoder", decoder or loss.decoder, tuple(METHODS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Joints (B, K, 2) as (x, y) in heatmap cells and confidence (B, K) of (B, 3, H, W) normalised crops."""
        raw = self.network(images)
        if not isinstance(raw, Tensor):
            raise TypeError(
                f"the network gives {type(raw).__name__}, not heatmaps; wrap it so that it gives one output"
            )
        maps = self.loss.readout(raw if raw.dtype == torch.float64 else raw.float())
        return decode(maps, self.decoder, self.loss.confidence, **self.loss.decoder_options(self.decoder))


@dataclass(frozen=True, eq=False)
class Reader:
    """A network and the way its heatmaps are read.

    Attributes:
        model: (B, 3, H, W) normalised crops -> (B, K, h, w) heatmaps.
        loss: The loss that the network was trained with; it defines readout, default decoder and confidence.
        flip_order: (K,) permutation of the joints under a mirror.
        decoder: Method of :func:`hdmlib.decode`; ``None``: the loss's own.
        flip_test: Whether to average the readout with that of the mirrored crop.
        coordinates: ``center``, ``hrnet`` or ``udp``: how pixels map to heatmap cells.
    """

    model: nn.Module
    loss: HeatmapLoss
    flip_order: Sequence[int]
    decoder: str | None = None
    flip_test: bool = False
    coordinates: str = "center"

    @property
    def method(self) -> str:
        """The decoding method in use."""
        return self.decoder or self.loss.decoder

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Reading:
        """Read (B, 3, H, W) uint8 crops, on the network's device."""
        inputs = normalise(images)
        raw = self.model(inputs).float()
        maps = self.loss.readout(raw)
        if self.flip_test:
            maps = (maps + self._mirrored(inputs)) / 2
        return Reading(raw, maps, *self.decode(maps))

    def decode(self, maps: Tensor, method: str | None = None, confidence: str | None = None) -> tuple[Tensor, Tensor]:
        """Decode maps that have been read already.

        Args:
            maps: (B, K, h, w), as :attr:`Reading.maps`.
            method: Method of :func:`hdmlib.decode`; ``None``: the reader's own.
            confidence: ``peak`` or ``mass``; ``None``: the loss's own.

        Returns:
            Joints (B, K, 2) in heatmap cells and confidence (B, K).
        """
        method = method or self.method
        return decode(maps, method, confidence or self.loss.confidence, **self.loss.decoder_options(method))

    def _mirrored(self, inputs: Tensor) -> Tensor:
        """Readout (B, K, h, w) of the mirrored crops, mirrored back, left and right joints swapped."""
        maps = self.loss.readout(self.model(inputs.flip(-1)).float()).flip(-1)[:, list(self.flip_order)]
        if self.coordinates == "hrnet":  # cell = pixel / 4 does not commute with the mirror; HRNet shifts by one cell
            maps = torch.cat([maps[..., :1], maps[..., :-1]], dim=-1)
        return maps
