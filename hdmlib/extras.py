"""The error for a missing optional dependency: it names the extra to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
        message = f"{feature} needs {missing}, of the extra {extra!r}: pip install 'hdmlib[{extra}]'"
        raise ImportError(message, name=error.name) from None
