"""Optional distributions: a clear error where one is required, ``None`` where it only makes things fast."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType


@contextmanager
def requires_extra(extra: str, feature: str) -> Iterator[None]:
    """Turn a failed import of another distribution into one line that names the extra.

    Args:
        extra: Name of the extra in pyproject.toml.
        feature: What needs it, for the message.

    Raises:
        ImportError: A module outside of hdmlib was not found.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "hdmlib":
            raise
        message = f"{feature} needs {missing}, of the extra {extra!r}: pip install '.[{extra}]' in the clone of hdmlib"
        raise ImportError(message, name=error.name) from None


@cache
def accelerator(module: str) -> ModuleType | None:
    """A module of compiled code, imported when first needed, since numba and Triton take up to a second to import.

    Args:
        module: Full name of the module.

    Returns:
        The module; ``None`` without its compiler.

    Warns:
        RuntimeWarning: Once, if the compiler is installed and cannot be imported.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError:
        return None
    except ImportError as error:
        warnings.warn(f"{module} cannot be used ({error}); a slower path is taken", RuntimeWarning, stacklevel=2)
        return None
