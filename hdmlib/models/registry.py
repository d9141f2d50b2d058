"""Networks by name: HRNet's, or any function of yours that builds one. A new network is a line in ``MODELS`` of
``hrnet.py``, or no line at all."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from hdmlib.models.hrnet import MODELS, HRNet

# package.module:function
OF_YOURS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
HRNET_STRIDE = 4


def build_model(name: str, num_joints: int = 17) -> nn.Module:
    """A network by name, freshly initialised from torch's current random state.

    Args:
        name: ``hrnet_w32``, ``hrnet_w48`` (the published networks), ``hrnet_nano`` (for a CPU), or
            ``package.module:function``, a function that is called with ``num_joints`` and returns a module from
            (B, 3, H, W) normalised crops to (B, K, h, w) heatmaps. The current folder is searched for the module, too.
        num_joints: Number ``K`` of heatmaps, at least 1.

    Raises:
        ValueError: The name is unknown, the function cannot be imported or returns no module, or ``num_joints`` is not
            positive.
    """
    if num_joints < 1:
        raise ValueError(f"num_joints must be at least 1, got {num_joints}")
    if OF_YOURS.fullmatch(name):
        return _built_by_function(name, num_joints)
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}, or package.module:function")
    return HRNet(MODELS[name], num_joints)


def _built_by_function(name: str, num_joints: int) -> nn.Module:
    module, _, function = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        build = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"model: {name!r} cannot be imported ({error})") from error
    model = build(num_joints=num_joints)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: {name!r} returned {type(model).__name__}, not a torch.nn.Module")
    return model


@lru_cache(maxsize=32)
def stride_of(name: str, input_size: tuple[int, int]) -> int:
    """Input pixels per heatmap cell of a network: 4 for HRNet, else measured on an empty crop.

    Args:
        name: As for :func:`build_model`.
        input_size: Width and height of the crops.

    Raises:
        ValueError: The output is no (B, K, h, w) tensor of which the input is a whole multiple.
    """
    if not OF_YOURS.fullmatch(name):
        return HRNET_STRIDE
    width, height = input_size
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        maps = build_model(name, num_joints=3).eval()(torch.zeros(1, 3, height, width))
    if not isinstance(maps, torch.Tensor) or maps.ndim != 4 or maps.shape[:2] != (1, 3):
        shape = tuple(maps.shape) if isinstance(maps, torch.Tensor) else type(maps).__name__
        raise ValueError(f"model: {name!r} must give heatmaps (B, num_joints, h, w); for (1, 3 joints) it gave {shape}")
    cells = (maps.shape[3], maps.shape[2])
    stride = width // cells[0]
    if (cells[0] * stride, cells[1] * stride) != (width, height):
        raise ValueError(
            f"model: {name!r} gives {cells[0]} x {cells[1]} cells for {width} x {height} pixels, which is no whole "
            "stride; choose another input_width and input_height"
        )
    return stride
