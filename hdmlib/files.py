"""Files that exist completely or not at all."""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

# In the names of files that are being written.
_UNFINISHED = "unfinished-"
_HOST = re.sub(r"[^\w-]", "-", platform.node())
# Seconds without a change after which what another machine was writing counts as abandoned.
_ABANDONED = 3600.0


def write_atomically(path: Path, data: bytes, *, earlier: int = 0) -> None:
    """Write a file completely or not at all, even when the process is killed, the disk is full or the power fails.

    Its mode follows the umask, as that of any new file.

    Args:
        path: The file.
        data: Its content.
        earlier: How many earlier versions to keep, under the names of :func:`versions`.

    Raises:
        OSError: The folder cannot be written; the message names it. An earlier file at ``path`` is untouched.
    """
    path = path.resolve() if path.is_symlink() else path  # the link stays, and the file that it names is replaced
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open("xb")
    except OSError as error:
        raise OSError(f"cannot write in {path.parent}: {error.strerror}; choose another folder") from error
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _keep_earlier(path, earlier)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(f"could not finish {path}: {error.strerror}; an earlier file there is untouched") from error
        raise
    _sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    """The name of an unfinished file; the start of a long name suffices, and the whole would be too long."""
    return path.with_name(f".{path.name[:40]}.{_UNFINISHED}{writer()}")


def versions(path: Path) -> list[Path]:
    """The versions of a file that are there, the latest first: ``last.pt``, ``last.1.pt``, ``last.2.pt``, ...

    A process that is killed while it writes may leave a gap in the numbers.
    """
    numbered = re.compile(rf"{re.escape(path.stem)}(?:\.(\d+))?{re.escape(path.suffix)}")
    found = [(match, file) for file in path.parent.glob(f"{path.stem}*") if (match := numbered.fullmatch(file.name))]
    return [file for _, file in sorted(found, key=lambda pair: int(pair[0][1] or 0))]


def _version(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}") if number else path


def _keep_earlier(path: Path, count: int) -> None:
    """Move the earlier versions on by one; the latest gets its number and keeps its name until it is replaced."""
    for number in range(count, 1, -1):
        if (newer := _version(path, number - 1)).exists():
            os.replace(newer, _version(path, number))
    if count and path.exists():
        second_name = _temporary(path)
        try:
            os.link(path, second_name)
        except OSError:  # a file system without links
            shutil.copyfile(path, second_name)
        os.replace(second_name, _version(path, 1))
        second_name.unlink(missing_ok=True)  # left where both are names of one file, after a write that failed here


def _sync_folder(folder: Path) -> None:
    """Bring a folder's entries, new names included, to the disk; Windows does so itself and opens no folders."""
    if os.name == "nt":
        return
    with suppress(OSError):  # some network file systems sync no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def writer() -> str:
    """A new ending for the name of something unfinished, which tells others whether its process still runs."""
    return f"{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"


def is_abandoned(ending: str, changed: float) -> bool:
    """Whether the process that writes something unfinished has ended.

    Args:
        ending: As :func:`writer` gave it.
        changed: When it was changed last, in seconds since the epoch; decides for a process of another machine.

    Returns:
        Whether no process of this machine has its number, or another machine has not changed it for an hour.
    """
    host, _, process = ending.rpartition("-")[0].rpartition("-")
    if os.name == "posix" and host == _HOST and process.isdecimal():
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass  # another user's, which runs
        return False
    return time.time() - changed > _ABANDONED


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of :func:`write_atomically` whose process was killed."""
    for path in folder.glob(f".*.{_UNFINISHED}*"):
        with suppress(FileNotFoundError):  # it has just got its name
            if is_abandoned(path.name.rpartition(_UNFINISHED)[2], path.stat().st_mtime):
                path.unlink()
