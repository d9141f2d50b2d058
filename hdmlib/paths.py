"""The project's folder, and the folder that a user's relative paths start from."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[1]


def caller_folder() -> Path:
    """The folder that relative paths start from: where the user typed the command.

    papermill starts the kernel there. JupyterLab and nbval start it in the notebook's folder; then the shell's ``PWD``,
    which the kernel inherits, is the folder where they were called.
    """
    here = Path.cwd()
    shell = Path(os.environ.get("PWD", here))
    in_notebooks = here == PROJECT_ROOT / "notebooks"
    return shell if in_notebooks and shell.is_dir() else here


def from_caller(path: str | Path) -> Path:
    """A user's path as an absolute one: ``~`` is expanded, a relative path starts from :func:`caller_folder`.

    Raises:
        ValueError: There is no such user, or the path has a loop of symbolic links.
    """
    return resolved(caller_folder() / expanded(path))


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with ``~`` and ``~user`` expanded.

    Raises:
        ValueError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: there is no such user's folder; write the path in full") from None


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text that can be written: a byte of its name that is not UTF-8 as ``\\udce9``."""
    return os.fspath(path).encode(errors="backslashreplace").decode()


def resolved(path: Path) -> Path:
    """A path as an absolute one without symbolic links.

    Raises:
        ValueError: It has a loop of symbolic links.
    """
    try:
        return path.resolve()
    except (RuntimeError, OSError) as error:  # Python 3.13 raises the latter
        raise ValueError(f"{path}: cannot be followed ({error})") from None
