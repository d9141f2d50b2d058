"""Heatmap distribution matching for human pose estimation, reproduced.

The names below are what other code relies on; they are imported when first used, so that drawing the embedded people,
say, does not load torch in each of its processes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hdmlib.decoding import decode
    from hdmlib.inference import predict
    from hdmlib.losses.matching import MatchingLoss
    from hdmlib.losses.registry import build_loss
    from hdmlib.models.checkpoints import load_weights
    from hdmlib.models.hrnet import build_model

__all__ = ["MatchingLoss", "build_loss", "build_model", "decode", "load_weights", "predict"]
__version__ = "0.1.0"

_HOME = {
    "MatchingLoss": "losses",
    "build_loss": "losses",
    "build_model": "models",
    "decode": "decoding",
    "load_weights": "models",
    "predict": "inference",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hdmlib' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(f"hdmlib.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
