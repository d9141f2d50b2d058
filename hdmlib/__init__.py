"""Heatmap distribution matching for human pose estimation, reproduced.

The public names are imported on first use. So drawing the embedded people loads no torch, and the losses and decoders
work where only torch and numpy are installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hdmlib.extras import requires_extra

if TYPE_CHECKING:
    from hdmlib.coordinates import cells_from_pixels, pixels_from_cells
    from hdmlib.decoding import decode, joints_from_heatmaps
    from hdmlib.inference import predict
    from hdmlib.losses.base import visibility_weights
    from hdmlib.losses.matching import MatchingLoss
    from hdmlib.losses.registry import build_loss
    from hdmlib.models.checkpoints import load_weights
    from hdmlib.models.registry import build_model
    from hdmlib.reader import Decoded

__all__ = [
    "Decoded",
    "MatchingLoss",
    "build_loss",
    "build_model",
    "cells_from_pixels",
    "decode",
    "joints_from_heatmaps",
    "load_weights",
    "pixels_from_cells",
    "predict",
    "visibility_weights",
]
__version__ = "0.1.0"

_MODULES = {
    "Decoded": "reader",
    "MatchingLoss": "losses",
    "build_loss": "losses",
    "build_model": "models",
    "cells_from_pixels": "coordinates",
    "decode": "decoding",
    "joints_from_heatmaps": "decoding",
    "load_weights": "models",
    "pixels_from_cells": "coordinates",
    "predict": "inference",
    "visibility_weights": "losses",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hdmlib' has no attribute {name!r}; it has: {', '.join(__all__)}")
    with requires_extra("train", f"hdmlib.{name}"):
        return getattr(import_module(f"hdmlib.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
