"""Heatmap distribution matching for human pose estimation, reproduced.

The public names are imported on first use. So drawing the embedded people loads no torch, and the losses and decoders
work where only torch and numpy are installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hdmlib.extras import requires_extra

if TYPE_CHECKING:
    from hdmlib.decoding import decode
    from hdmlib.inference import predict
    from hdmlib.losses.matching import MatchingLoss
    from hdmlib.losses.registry import build_loss
    from hdmlib.models.checkpoints import load_weights
    from hdmlib.models.hrnet import build_model

__all__ = ["MatchingLoss", "build_loss", "build_model", "decode", "load_weights", "predict"]
__version__ = "0.1.0"

_MODULES = {
    "MatchingLoss": "losses",
    "build_loss": "losses",
    "build_model": "models",
    "decode": "decoding",
    "load_weights": "models",
    "predict": "inference",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hdmlib' has no attribute {name!r}; it has: {', '.join(__all__)}")
    with requires_extra("train", f"hdmlib.{name}"):
        return getattr(import_module(f"hdmlib.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
