"""Networks by name: HRNet's, EfficientNet-Lite0, ViTPose from the Hugging Face hub, or any function that builds one.

A new HRNet is a line in ``MODELS`` of ``hrnet.py``, a network of yours no line at all.
"""

from __future__ import annotations

import hashlib
import re
import sys
import warnings
from functools import lru_cache
from importlib import import_module
from inspect import getsourcefile, signature
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from hdmlib.checks import unknown_name
from hdmlib.models.hrnet import MODELS, HRNet
from hdmlib.models.lite import NAME as LITE0
from hdmlib.models.lite import STRIDE as LITE0_STRIDE
from hdmlib.models.lite import Lite0
from hdmlib.models.vitpose import PREFIX as VITPOSE
from hdmlib.models.vitpose import build_vitpose

# package.module:function
OF_YOURS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
# How networks are named that are not HRNets.
OTHERS = (LITE0, "vitpose:NAME", "package.module:function")
STRIDES = {**dict.fromkeys(MODELS, 4), LITE0: LITE0_STRIDE}


def build_model(name: str, num_joints: int = 17) -> nn.Module:
    """A network by name, freshly initialised from torch's current random state.

    Args:
        name: ``hrnet_w32``, ``hrnet_w48`` (the published networks), ``hrnet_nano`` (for a CPU),
            ``lite0`` (see :mod:`hdmlib.models.lite`),
            ``vitpose:OWNER/NAME`` or ``vitpose:FOLDER`` (see :mod:`hdmlib.models.vitpose`), or
            ``package.module:function``, a function that is called with ``num_joints`` and returns a module from
            (B, 3, H, W) normalised crops to (B, K, h, w) heatmaps. The current folder is searched for the module, too.
        num_joints: Number ``K`` of heatmaps, at least 1.

    Raises:
        ValueError: The name is unknown, the function cannot be imported or returns no module, or ``num_joints`` is not
            positive.
        ImportError, CheckpointError: As :class:`~hdmlib.models.lite.Lite0` and
            :func:`~hdmlib.models.vitpose.build_vitpose`.
    """
    if num_joints < 1:
        raise ValueError(f"num_joints must be at least 1, got {num_joints}")
    if name == LITE0:
        return Lite0(num_joints)
    if name.startswith(VITPOSE):
        return build_vitpose(name, num_joints)
    if OF_YOURS.fullmatch(name):
        return _built_by_function(name, num_joints)
    if name not in MODELS:
        raise ValueError(f"model {unknown_name(name, [*MODELS, *OTHERS])}")
    return HRNet(MODELS[name], num_joints)


def _built_by_function(name: str, num_joints: int) -> nn.Module:
    source_of(name)  # remembered as it is imported
    try:
        build = getattr(_module(name), name.partition(":")[2])
    except (ImportError, AttributeError) as error:
        raise ValueError(f"model: {name!r} cannot be imported ({error})") from error
    if not callable(build):
        raise ValueError(f"model: {name!r} is {type(build).__name__}, not a function that returns a network")
    known = signature(build).parameters.values()
    by_name = any(one.name == "num_joints" or one.kind == one.VAR_KEYWORD for one in known)
    given = {"num_joints": num_joints} if by_name else {}
    try:
        signature(build).bind(*([] if by_name else [num_joints]), **given)
    except TypeError as error:
        raise ValueError(f"model: {name!r} must take the number of joints as its one argument ({error})") from None
    model = build(**given) if by_name else build(num_joints)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: {name!r} returned {type(model).__name__}, not a torch.nn.Module")
    return model


@lru_cache(maxsize=32)
def source_of(name: str) -> str | None:
    """A digest of the file that a network of yours is written in, as it was when this process first asked for it: what
    is edited later is not what has been imported. ``None`` for other networks, and where there is no such file.
    """
    if not OF_YOURS.fullmatch(name) or name.startswith(VITPOSE):
        return None
    try:
        file = getsourcefile(_module(name))
    except (ImportError, TypeError):  # build_model says what is wrong; a module may have no file
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else None


def warn_if_edited(name: str, source: str | None, what: str) -> None:
    """Warn if a network of yours has been edited since a run was trained, which is named by the function's name alone.

    Args:
        name: As for :func:`build_model`.
        source: :func:`source_of` the name at that time; ``None`` if it is not known.
        what: The run, and what is done with it: ``runs/NAME, which is shown``.
    """
    found = source_of(name)
    if None not in (source, found) and source != found:
        warnings.warn(
            f"model: {name!r} has been edited since the training of {what}; resume=false trains it anew and keeps "
            "that run",
            stacklevel=3,
        )


def _module(name: str) -> ModuleType:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    return import_module(name.partition(":")[0])


@lru_cache(maxsize=32)
def stride_of(name: str, input_size: tuple[int, int]) -> int:
    """Input pixels per heatmap cell of a network: 4 for HRNet and Lite0, which check their crops themselves, else
    measured on an empty crop.

    Args:
        name: As for :func:`build_model`.
        input_size: Width and height of the crops.

    Raises:
        ValueError: The network does not take crops of this size, or its output is no (B, K, h, w) tensor of which the
            input is a whole multiple.
        ImportError, CheckpointError: As :func:`build_model`.
    """
    if name in STRIDES:
        return STRIDES[name]
    width, height = input_size
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = build_model(name, num_joints=3).eval()
        try:
            maps = model(torch.zeros(1, 3, height, width))
        except Exception as error:  # a network of any origin
            raise ValueError(
                f"model: {name!r} does not take crops of {width} x {height} pixels ({error}); choose another "
                "input_width and input_height"
            ) from error
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


def is_known(name: str) -> bool:
    """Whether a name is of one of the forms that :func:`build_model` takes."""
    return name in STRIDES or name.startswith(VITPOSE) or bool(OF_YOURS.fullmatch(name))
