"""Networks from photo to heatmaps, and their weights."""

from hdmlib.models.checkpoints import CheckpointError, export_hrnet, load_weights, save_weights
from hdmlib.models.hrnet import MODELS, HRNet, HRNetSpec
from hdmlib.models.registry import build_model, stride_of

__all__ = [
    "MODELS",
    "CheckpointError",
    "HRNet",
    "HRNetSpec",
    "build_model",
    "export_hrnet",
    "load_weights",
    "save_weights",
    "stride_of",
]
