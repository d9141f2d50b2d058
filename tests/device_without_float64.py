"""A stand-in for a device without float64, such as Apple's GPU: its tensors compute on the CPU, and refuse float64.

Its name is ``privateuseone``, torch's for a backend written in Python; it stays registered while the process lives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from hdmlib.losses import matching


class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend(backend_module=_Backend())
DEVICE = torch.device("privateuseone:0")


class OnDevice(Tensor):
    """A tensor on the stand-in; ``content`` is its CPU tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, content: Tensor):
        if content.dtype == torch.float64:
            raise TypeError("the device has no float64")
        made = Tensor._make_wrapper_subclass(
            cls, content.size(), strides=content.stride(), dtype=content.dtype, device=DEVICE
        )
        made.content = content
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.content!r})"

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


class _Operations(TorchDispatchMode):
    """Tensors that torch itself makes on the device, such as a number beside a tensor."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


class _Factory(TorchFunctionMode):
    """``torch.tensor(..., device=)``, which asks a backend's own code for memory before any dispatch mode sees it."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.tensor and _is_device(kwargs.get("device")):
            return OnDevice(function(*args, **{**kwargs, "device": "cpu"}))
        return function(*args, **kwargs)


@contextmanager
def device_without_float64() -> Iterator[torch.device]:
    """Within it the device exists: tensors can be made there and moved there and back."""
    with _Operations(), _Factory():
        yield DEVICE


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation, with its result where the device would have it.

    The device takes no CPU tensors, except single numbers and to copy.
    """
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = any(map(_is_here, tensors))
    copies = operation in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    if here and not copies and any(tensor.dim() for tensor in tensors if not _is_here(tensor)):
        raise RuntimeError(f"{operation}: expected all tensors to be on the same device")
    if here and operation is matching._matching:  # CPU tensors would take the CPU's way
        with device_without_float64():
            return matching._loss_and_gradient(*args, **kwargs)
    device = kwargs.get("device")
    stays = here if device is None else _is_device(device)
    args_inside, kwargs_inside = tree_map(_content, (args, kwargs))
    result = operation(*args_inside, **kwargs_inside)
    if operation._schema.name.endswith("_"):  # in place
        return args[0]
    return tree_map(_on_device, result) if stays else result


def _is_here(leaf: Any) -> bool:
    return isinstance(leaf, OnDevice)


def _is_device(leaf: Any) -> bool:
    return isinstance(leaf, torch.device) and leaf.type == DEVICE.type


def _content(leaf: Any) -> Any:
    """What the CPU computes with."""
    if _is_here(leaf):
        return leaf.content
    return torch.device("cpu") if _is_device(leaf) else leaf


def _on_device(leaf: Any) -> Any:
    return OnDevice(leaf) if isinstance(leaf, Tensor) else leaf
