"""What a command says when it ends: the files that it wrote, or an error in one line."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from hdmlib.errors import interrupted_by_sigterm, line_for_user

# What `save_figure` writes; either may be given.
FIGURE_ENDINGS = (".png", ".pdf")
_PACKAGE = Path(__file__).parents[1]


@contextmanager
def one_line_errors(*, resumes: bool = False) -> Iterator[None]:
    """One line on stderr and exit status 2 for what a user can mend, 130 for Ctrl-C, 143 for SIGTERM; a bug keeps its
    traceback.

    Args:
        resumes: Whether the command continues where it was interrupted.
    """
    usual = warnings.formatwarning
    warnings.formatwarning = lambda *given: _warning_line(*given) or usual(*given)
    try:
        with interrupted_by_sigterm():
            yield
    except KeyboardInterrupt as error:
        saved = ": finished steps are saved, and the same command resumes" if resumes else ""
        typer.echo(f"interrupted{saved}", err=True)
        raise typer.Exit(128 + getattr(error, "signal", signal.SIGINT)) from None
    except BrokenPipeError:  # whoever read the output has ended, as in `| head`; click ends quietly
        raise
    except Exception as error:
        line = line_for_user(error)
        if line is None:
            raise
        typer.echo(f"error: {line}", err=True)
        raise typer.Exit(2) from None
    finally:
        warnings.formatwarning = usual


def _warning_line(message: Warning | str, category: type[Warning], *place: Any) -> str | None:
    """A warning of this package in one line; ``None`` for others, whose place in the code is needed."""
    ours = category.__module__.partition(".")[0] == "hdmlib" or _PACKAGE in Path(str(place[0])).parents
    return f"warning: {message}\n" if ours else None


def figure_files(to: Path) -> list[Path]:
    """What :func:`save_figure` writes."""
    return [to.with_suffix(ending) for ending in FIGURE_ENDINGS]


def say(text: object) -> None:
    """Print a line of a command that works: where whoever read it has ended, as in ``| head``, the work goes on."""
    try:
        typer.echo(text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_written(files: Sequence[Path]) -> None:
    """Say which files were written, the first three by name."""
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        say(f"written: {', '.join(map(str, files[:3]))}{more}")
