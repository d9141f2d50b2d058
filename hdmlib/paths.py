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
    """A user's path as an absolute one: ``~`` is expanded, a relative path starts from :func:`caller_folder`."""
    return (caller_folder() / Path(path).expanduser()).resolve()
