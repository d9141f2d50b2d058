"""Files that exist completely or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# In the names of files that are being written.
_UNFINISHED = "unfinished-"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, even when the process is killed or the disk is full.

    Raises:
        OSError: The folder cannot be written; the message names it. An earlier file at ``path`` is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{_UNFINISHED}")
    except OSError as error:
        raise OSError(f"cannot write in {path.parent}: {error.strerror}; choose another folder") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(f"could not finish {path}: {error.strerror}; an earlier file there is untouched") from error
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of :func:`write_atomically` whose process was killed."""
    for path in folder.glob(f".*.{_UNFINISHED}*"):
        path.unlink(missing_ok=True)
