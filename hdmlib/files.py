"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# In the names of files that are being written.
_UNFINISHED = "unfinished-"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also when the process is killed or the disk is full.

    Raises:
        OSError: The folder cannot be written; the message names it. What stood at ``path`` is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{_UNFINISHED}")
    except OSError as error:
        raise OSError(f"cannot write in {path.parent}: {error.strerror}; choose another run_dir") from error
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
            raise OSError(f"could not finish {path}: {error.strerror}; the file before it is untouched") from error
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove what :func:`write_atomically` could not finish in a folder because its process was killed."""
    for path in folder.glob(f".*.{_UNFINISHED}*"):
        path.unlink(missing_ok=True)
