"""``NAME=VALUE`` words of a command in, a config out."""

from __future__ import annotations

import json
from typing import Any

from typer.core import TyperCommand

from hdmlib.config import OPTION, PATH_FIELDS, Config, ConfigError, is_path, make_config
from hdmlib.paths import from_caller


class WithWords(TyperCommand):
    """A command with ``NAME=VALUE`` words, which says so where an option is none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # click's, of which newer versions of typer have a copy of their own
            if type(error).__name__ == "NoSuchOption" and not error.possibilities:  # pyright: ignore
                error.message += "; parameters have no dashes: epochs=3"  # pyright: ignore
            raise


def config_from(values: list[str]) -> Config:
    """A config from ``NAME=VALUE`` words; values are text and converted by the config's types.

    Raises:
        ConfigError: A word without ``=``, an unknown name or a wrong value.
    """
    return make_config(**given_values(values))


def given_values(values: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` words as a dictionary.

    Raises:
        ConfigError: A word without ``=``.
    """
    given: dict[str, Any] = {}
    for word in values:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is not NAME=VALUE")
        if name.startswith(OPTION):
            given[name] = _number_or_text(value)
        else:
            given[name] = from_caller(value) if name in PATH_FIELDS and is_path(value) else value
    return given


def _number_or_text(text: str) -> Any:
    """``0.1``, ``true`` or ``null`` as JSON has them, ``True`` or ``None`` as Python has, else the text."""
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        pass
    try:
        return float(text)  # .05, which JSON does not know
    except ValueError:
        return text
