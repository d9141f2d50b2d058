"""The matching loss and the losses it is compared with."""

from hdmlib.losses.base import REDUCTIONS, HeatmapLoss, visibility_weights
from hdmlib.losses.controls import CrossEntropy, DotMSE, GaussianMSE, SoftArgmax
from hdmlib.losses.matching import MatchingLoss
from hdmlib.losses.registry import LOSSES, build_loss
from hdmlib.losses.suppliers import SUPPLIERS, make_suppliers

__all__ = [
    "LOSSES",
    "REDUCTIONS",
    "SUPPLIERS",
    "CrossEntropy",
    "DotMSE",
    "GaussianMSE",
    "HeatmapLoss",
    "MatchingLoss",
    "SoftArgmax",
    "build_loss",
    "make_suppliers",
    "visibility_weights",
]
