"""Weights in and out: a file flows in and fills a model, a model flows out as a file.

Read are the official HRNet files, those of mmpose (both generations), ImageNet backbones and our own. They all hold the
same tensors under the official names, wrapped differently:

================================ ==========================================================================
official, ``model_best.pth``     the tensors
official, ``checkpoint.pth``     under ``state_dict``, beside the optimiser; every name begins with ``module.``
mmpose 0.x                       under ``state_dict``; ``backbone.`` and ``keypoint_head.final_layer.``
mmpose 1.x                       under ``state_dict``; ``backbone.`` and ``head.final_layer.``
ImageNet (HRNet, timm, mmpose)   a backbone, a classifier, and outputs of the last module that poses do not need
EfficientNet-Lite0               a backbone under its own names, ``backbone.`` in :class:`~hdmlib.models.lite.Lite0`
hdmlib                           the tensors, ``.safetensors`` or ``.pt``
other training code              under a name of ``WRAPPERS``; all names may share prefixes (``module._orig_mod.``)
================================ ==========================================================================

Loading is strict, and nothing is written into the model unless everything fits. Files are read as tensors only: no
code in them is ever run.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hdmlib.files import write_atomically
from hdmlib.models.hrnet import HRNet

HEAD = "final_layer."
# What ImageNet classifiers have and a pose network has not; skipped only with backbone_only.
CLASSIFIER = re.compile(
    r"(incre_modules|downsamp_modules|final_layer|classifier|neck|head|fc|backbone\._(conv_head|bn1|fc))\.|"
    r"stage4\.2\.fuse_layers\.[1-3]\."
)


# Names under which training code keeps the tensors.
WRAPPERS = (
    "state_dict", "model_state_dict", "model", "module", "params_ema", "params", "ema", "ema_state_dict", "ema_model",
    "model_ema", "network", "net", "weights", "checkpoint",
)  # fmt: skip
# Wrappers within wrappers that are looked into; a file's content may even contain itself.
DEPTH = 3
# torch's AveragedModel counts its updates among the tensors.
AVERAGED = "n_averaged"
# The entry of our safetensors files' metadata, and in it the SHA-256 of what is saved and the names of the joints.
ABOUT, CHECKSUM, JOINTS = "hdmlib", "sha256", "joints"
# How many times its own size a file may unpack to.
MOST_UNPACKED = 8
# The layers that give one map per joint: those of HRNet and Lite0, and ViTPose's.
HEADS = (HEAD, "head.conv.")
# With backbone_only a model keeps these where the file lacks them: an ImageNet classifier has no pyramid.
FRESH = (*HEADS, "pyramid.")


class CheckpointError(ValueError):
    """A weights file that cannot be read, or does not fit the model; the message names the cause and the remedy."""


class _Ignored:
    """Stands in for the logs that training code pickles beside its tensors: takes anything, keeps and does nothing."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# mmpose 1.x keeps its training log (mmengine's HistoryBuffer, full of numpy arrays) and HRNet its best score (a numpy
# scalar) in the file. torch's tensors-only reader refuses these names; it is given the inert class for them.
LOGS: list[Any] = [
    (_Ignored, name)
    for name in (
        "mmengine.logging.history_buffer.HistoryBuffer",
        "builtins.getattr",
        "numpy.ndarray",
        "numpy.dtype",
        "numpy.dtypes.Float64DType",
        "numpy.dtypes.Int64DType",
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    )
]


def load_weights(model: nn.Module, path: str | Path, *, backbone_only: bool = False) -> None:
    """Fill a model with the weights of a file, in any of the layouts named at the top of this module.

    Args:
        model: Receives the weights, on whatever device it is. Counters of seen batches that the file lacks keep their
            value.
        path: ``.safetensors``, or a PyTorch file (any other ending).
        backbone_only: Leave the last layer (one of ``HEADS``) as it is and take the rest, from an ImageNet classifier
            or from a pose network with other joints.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged (for a file of :func:`save_weights` also by a single bit), holds more
            than tensors and known logs, or does not fit the model: the message lists what is missing, unknown or of
            another shape. The model is then unchanged.
    """
    path = Path(path)
    weights, target = _tensors(_read(path), path), model.state_dict()
    # a network of one's own may have a common prefix itself: the names that it knows best are taken
    weights = max(_namings(weights), key=lambda named: len(named.keys() & target.keys()), default=weights)
    _check_finite(weights, target, path)
    if backbone_only:
        weights = {key: value for key, value in weights.items() if key in target or not CLASSIFIER.match(key)}
        weights = {key: value for key, value in weights.items() if not key.startswith(HEADS)}
    kept = [key for key in target if key not in weights and _may_stay(key, backbone_only)]
    _check_fit(weights, {key: value for key, value in target.items() if key not in kept}, model, path)
    model.load_state_dict(weights | {key: target[key] for key in kept})


def _may_stay(key: str, backbone_only: bool) -> bool:
    """Whether the model may keep its own value of an entry that the file lacks."""
    return key.endswith(".num_batches_tracked") or (backbone_only and key.startswith(FRESH))


def _read(path: Path) -> Any:
    """The content of a file, tensors on the CPU, without running anything that it holds."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    damaged = f"{path}: no readable checkpoint ({path.stat().st_size} bytes); a broken download, or a web page?"
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        _check_unpacked_size(path)
        with torch.serialization.safe_globals(LOGS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not refused:
            raise CheckpointError(damaged) from error
        raise CheckpointError(
            f"{path}: refused, because it holds more than tensors ({refused[1]}) and reading it could run code. "
            f"If you trust its source, save its state_dict alone with the software that wrote it"
        ) from error
    except (
        SafetensorError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError
    ) as error:  # fmt: skip
        raise CheckpointError(damaged) from error


def _check_unpacked_size(path: Path) -> None:
    """Refuse an archive that unpacks to far more than it holds; torch stores its entries without compression."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > MOST_UNPACKED * path.stat().st_size:
        raise CheckpointError(f"{path}: refused, its {path.stat().st_size} bytes unpack to {unpacked}; a zip bomb?")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    weights = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as file:
        said = _said(file.metadata())
    if CHECKSUM in said and said[CHECKSUM] != _digest(weights, said.get(JOINTS, ())):
        raise CheckpointError(f"{path}: damaged, its tensors do not have the checksum that it was saved with")
    return weights


def _digest(weights: dict[str, Tensor], joints: Sequence[str] = ()) -> str:
    """SHA-256 of the tensors with their names, types and shapes, in the order of their names, and of the joints."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    digest.update(json.dumps(list(joints)).encode() if joints else b"")
    return digest.hexdigest()


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors in a file's content, which may lie in wrappers within wrappers."""
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: no weights in it, but a {type(content).__name__}; save a state_dict")
    state = _find_state(content)
    if state is None:
        raise CheckpointError(
            f"{path}: no weights in it; expected named tensors, alone or under one of {', '.join(WRAPPERS)}; "
            f"found {_described(content)}"
        )
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(f"{path}: tensor {name!r} is sparse, quantised or without values; save it dense")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: tensor {name!r} repeats its values; save it dense, with contiguous()")
        if tensor.is_complex():
            raise CheckpointError(f"{path}: tensor {name!r} is complex; the networks here are real")
    return state


def _check_finite(weights: dict[str, Tensor], target: dict[str, Tensor], path: Path) -> None:
    """Raise unless all numbers are finite, apart from those that are not in the model either, as a mask of -inf."""
    for name, tensor in weights.items():
        # as float32, which the networks compute in: a larger number is infinite there, and float8 has no such test
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            own = target.get(name)
            if own is None or not torch.equal(own.detach().cpu().float().isfinite(), tensor.float().isfinite()):
                raise CheckpointError(f"{path}: tensor {name!r} holds NaN or infinity: a diverged training or damage")


def _find_state(content: Any, depth: int = DEPTH) -> dict[str, Tensor] | None:
    """The first named tensors under ``WRAPPERS``, in their order."""
    if not isinstance(content, dict) or _is_state(content):
        return content if isinstance(content, dict) else None
    inner = (_find_state(content[key], depth - 1) for key in WRAPPERS if key in content) if depth else ()
    return next((state for state in inner if state is not None), None)


def _described(content: dict[Any, Any], depth: int = 1) -> str:
    """The first entries that are no named tensors, each with its type or entries, and the number of the others."""
    strange = {key: value for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))}
    entries = [
        f"{key!r} ({_described(value, 0) if depth and isinstance(value, dict) else type(value).__name__})"
        for key, value in list(strange.items())[:6]
    ]
    entries += [f"named tensors: {len(content) - len(strange)}"] if len(strange) < len(content) else []
    return ", ".join(entries) or "nothing"


def _is_state(content: dict[Any, Any]) -> bool:
    return bool(content) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _namings(weights: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors under their names, with each common prefix of all names taken off in turn, and as a backbone's."""
    weights = {key: value for key, value in weights.items() if key.rpartition(".")[2] != AVERAGED}
    while weights:
        yield weights
        yield _official_names(weights)
        prefixes = {key[: key.find(".") + 1] for key in weights}
        if len(prefixes) > 1 or "" in prefixes:
            yield {f"backbone.{key}": value for key, value in weights.items()}
            return
        weights = {key.removeprefix(*prefixes): value for key, value in weights.items()}


def _official_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the official code has them, backbone and head side by side, from those of mmpose."""
    heads = re.compile(r"^(keypoint_head|head)\.(?=final_layer\.)")
    if not any(key.startswith("backbone.") for key in weights):
        return weights
    return {heads.sub("", key.removeprefix("backbone.")): value for key, value in weights.items()}


def _check_fit(weights: dict[str, Tensor], target: dict[str, Tensor], model: nn.Module, path: Path) -> None:
    """Raise a ``CheckpointError`` that explains every difference between file and model, unless there is none."""
    missing = [key for key in target if key not in weights]
    unknown = [key for key in weights if key not in target]
    shapes = [key for key in target if key in weights and weights[key].shape != target[key].shape]
    kinds = [
        key for key in target if key in weights and target[key].is_floating_point() > weights[key].is_floating_point()
    ]
    if not (missing or unknown or shapes or kinds):
        return
    lines = [f"{path}: the weights do not fit the model"]
    lines += [f"  {advice}" for advice in (*_beside(weights, target), *_advice(weights, model))]
    lines += _listed("missing in the file", missing, lambda key: key)
    lines += _listed("unknown to the model", unknown, lambda key: key)
    lines += _listed(
        "of another shape", shapes, lambda key: f"{key}: {_sides(weights[key])} in the file, {_sides(target[key])} here"
    )
    lines += _listed(
        "whole numbers in the file", kinds, lambda key: f"{key}: {weights[key].dtype}".replace("torch.", "")
    )
    raise CheckpointError("\n".join(lines))


def _beside(weights: dict[str, Tensor], target: dict[str, Tensor]) -> list[str]:
    """Advice for a file in which the network is one part among others."""
    first = next(iter(target), "")
    prefixes = [key.removesuffix(first) for key in weights if key.endswith(f".{first}")]
    parts = [prefix for prefix in prefixes if all(prefix + name in weights for name in target)]
    found = " and ".join(map(repr, parts))
    return [f"it has all of the model's tensors under {found}, beside others: save one of them alone"] if parts else []


def _advice(weights: dict[str, Tensor], model: nn.Module) -> list[str]:
    """In plain words, the usual reasons and what to do about them."""
    if not isinstance(model, HRNet):
        return []
    advice = []
    finest = weights.get("stage2.0.branches.0.0.conv1.weight")
    if finest is not None and len(finest) != model.spec.width:
        advice.append(f"it is an HRNet of width {len(finest)}, the model has {model.spec.width}: build the other one")
    head = weights.get(HEAD + "weight")
    if head is not None and head.ndim == 4 and len(head) != model.num_joints:
        advice.append(
            f"it predicts {len(head)} joints, the model {model.num_joints}: is it of another dataset? Build "
            f"the model with num_joints={len(head)}, or give backbone_only=True to take all but the head"
        )
    if head is None and finest is not None:
        advice.append("it has no head for joints, only a backbone: give backbone_only=True to start with a fresh head")
    return advice


def _listed(title: str, keys: list[str], describe: Callable[[str], str]) -> list[str]:
    """A title with the keys' counts by part of the network, then a few keys in full."""
    if not keys:
        return []
    parts = Counter(key.split(".")[0] for key in keys)
    counts = ", ".join(f"{part} {count}" for part, count in parts.items())
    more = [f"    and {len(keys) - 4} more"] if len(keys) > 4 else []
    return [f"  {title}: {len(keys)} ({counts})", *(f"    {describe(key)}" for key in keys[:4]), *more]


def _sides(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def save_weights(model: nn.Module, path: str | Path, joints: Sequence[str] = ()) -> None:
    """Write a model's weights as safetensors with a checksum: at no time is there half a file under that name.

    Args:
        model: Source of the weights.
        path: Ends in ``.safetensors``; its folder is made if need be.
        joints: Names of the joints that its last layer has been trained to find, for :func:`joints_of`.

    Raises:
        ValueError: If the ending is another one.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights are saved as .safetensors; export_hrnet writes PyTorch files")
    weights = _plain(model)
    # one entry: the order of several, and with it the file, would differ from one process to the next
    said = json.dumps({CHECKSUM: _digest(weights, joints), JOINTS: list(joints)})
    write_atomically(path, safetensors.torch.save(weights, {ABOUT: said}))


def _said(metadata: dict[str, str] | None) -> dict[str, Any]:
    """What :func:`save_weights` wrote beside the tensors; files of earlier versions have the checksum alone."""
    metadata = metadata or {}
    return json.loads(metadata[ABOUT]) if ABOUT in metadata else dict(metadata)


def joints_of(path: str | Path) -> tuple[str, ...]:
    """The joints that a file of :func:`save_weights` says its last layer finds; empty for any other file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return tuple(_said(file.metadata()).get(JOINTS, ()))
    except (SafetensorError, OSError, ValueError, TypeError):
        return ()  # of PyTorch, or damaged, which load_weights reports


def export_hrnet(model: nn.Module, path: str | Path) -> None:
    """Write a model's weights as the official HRNet code reads them: the bare tensors under the official names.

    What was loaded from an official file comes out bit for bit.

    Args:
        model: Source of the weights.
        path: The file, ``.pth`` by custom; its folder is made if need be.
    """
    buffer = io.BytesIO()
    torch.save(_plain(model), buffer)
    write_atomically(Path(path), buffer.getvalue())


def _plain(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors on the CPU in the plain memory layout, whatever the model was trained in.

    A tensor under two names, as tied weights are, becomes two tensors.
    """
    plain = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    owners: dict[int, str] = {}
    first = {key: owners.setdefault(value.untyped_storage().data_ptr(), key) for key, value in plain.items()}
    return {key: value if first[key] == key else value.clone() for key, value in plain.items()}
