"""ViTPose of Hugging Face's transformers by name: ``vitpose:NAME`` in, a network from crops to heatmaps out.

NAME is ``OWNER/NAME`` of the hub, such as ``vitpose:usyd-community/vitpose-base-simple``, or a folder with a
``config.json`` and a ``model.safetensors``. transformers runs these networks and does not train them ("Training is not
yet supported"); here they are trained as any other network. Source: Xu, Zhang, Zhang, Tao, *ViTPose: Simple Vision
Transformer Baselines for Human Pose Estimation*, NeurIPS 2022.
"""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor, nn

from hdmlib.extras import requires_extra
from hdmlib.models.checkpoints import CheckpointError
from hdmlib.models.hub import PREFIX as HUB
from hdmlib.models.hub import hub_file
from hdmlib.paths import expanded

PREFIX = "vitpose:"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Names of the published network's joints, which would fix their number.
LABELS = ("id2label", "label2id")


def build_vitpose(name: str, num_joints: int) -> nn.Module:
    """A ViTPose from (B, 3, H, W) normalised crops to (B, num_joints, h, w) heatmaps, freshly initialised.

    H and W are those that the network was made for, 256 and 192 for the published ones.

    Args:
        name: ``vitpose:OWNER/NAME`` or ``vitpose:FOLDER``.
        num_joints: Number of heatmaps.

    Raises:
        ImportError: transformers is not installed.
        CheckpointError: The hub's file cannot be had.
        ValueError: The folder has no such file, or it describes another kind of network, or one with several experts.
    """
    with requires_extra("vitpose", name):
        from transformers import VitPoseConfig, VitPoseForPoseEstimation
    described = _description(name)
    if described.get("backbone_config", {}).get("num_experts", 1) > 1:
        raise ValueError(f"model: {name!r} is a ViTPose+ with several experts, which cannot be trained here")
    fields: dict[str, Any] = {key: value for key, value in described.items() if key not in LABELS} | {
        "num_labels": num_joints
    }
    network: Any = VitPoseForPoseEstimation(VitPoseConfig(**fields))
    # transformers wraps the maps in an output object; a hook keeps the hub's names of the tensors, a module would not
    network.register_forward_hook(_heatmaps)
    return network


def _heatmaps(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Tensor:
    return output.heatmaps


def vitpose_weights(name: str) -> str:
    """Where the weights of a ViTPose are, as ``pretrained`` takes it: ``hub:OWNER/NAME`` or a path."""
    source = name.removeprefix(PREFIX)
    folder = expanded(source)
    return str(folder / WEIGHTS) if folder.is_dir() else HUB + source


def _description(name: str) -> dict[str, Any]:
    """The content of the network's ``config.json``."""
    source = name.removeprefix(PREFIX)
    folder = expanded(source)
    if folder.is_dir():
        path = folder / CONFIG
        if not path.is_file():
            raise ValueError(f"model: {name!r}: {folder} has no {CONFIG}")
    else:
        try:
            path = hub_file(source, CONFIG)
        except CheckpointError as error:
            raise CheckpointError(f"model: {error}; or give a folder: {PREFIX}FOLDER") from None
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model: {path} is no JSON file ({error})") from None
    if not isinstance(described, dict) or described.get("model_type") != "vitpose":
        kind = described.get("model_type") if isinstance(described, dict) else type(described).__name__
        raise ValueError(f"model: {path} describes a network of type {kind!r}, not 'vitpose'")
    return described
