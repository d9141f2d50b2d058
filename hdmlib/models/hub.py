"""Pretrained weights by name: a path, ``hub:OWNER/NAME`` of the Hugging Face hub, or those of an installed package in;
the path of a local file out.

``hub:timm/hrnet_w32.ms_in1k``, optionally followed by ``@REVISION`` and ``/FILE``. A file is fetched once into the
hub's own cache (``HF_HOME``), verified there and reused without a network.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from hdmlib.models.checkpoints import CheckpointError
from hdmlib.models.lite import imagenet_weights
from hdmlib.paths import expanded

NONE = "none"
PREFIX = "hub:"
LITE0_WEIGHTS = "pip:efficientnet-lite0"
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>[\w./-]+))?")
# Looked for in this order where no file is named.
FILES = ("model.safetensors", "pytorch_model.bin")


def weights_path(pretrained: str | Path) -> Path:
    """The local file of pretrained weights, fetched from the hub if it is named there.

    Args:
        pretrained: A path, ``hub:OWNER/NAME[@REVISION][/FILE]``, or ``pip:efficientnet-lite0``.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The package with the weights is not installed.
        CheckpointError: The name is no hub name, the hub cannot be reached, does not have the file, or the cache cannot
            be written; the message names the file, its origin, and the ways out.
    """
    name = str(pretrained)
    if name == LITE0_WEIGHTS:
        return imagenet_weights()
    if not name.startswith(PREFIX):
        path = expanded(name)
        if not path.is_file():
            raise FileNotFoundError(f"pretrained: no file {path}; give a path, {PREFIX}OWNER/NAME, or {NONE}")
        return path
    try:
        return hub_file(name.removeprefix(PREFIX), *FILES)
    except CheckpointError as error:
        ways = f"save the file yourself and give its path as pretrained, or train from scratch with pretrained={NONE}"
        raise CheckpointError(f"pretrained: {error}; {ways}") from None


def named_by_content(path: str | Path) -> str:
    """A file of weights by name and content, ``model.pth@sha256:0123456789abcdef``; its path if it is not there."""
    file = expanded(path)
    try:
        state = file.stat()
    except OSError:
        return str(path)
    return f"{file.name}@sha256:{_digest(file, state.st_mtime_ns, state.st_size)[:16]}"


@lru_cache(maxsize=16)
def _digest(file: Path, changed: int, size: int) -> str:
    """SHA-256 of a file, read again when it was changed."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def hub_file(name: str, *files: str) -> Path:
    """The local copy of a file of the hub, fetched unless it is cached.

    Args:
        name: ``OWNER/NAME[@REVISION][/FILE]``.
        *files: Looked for in this order where ``name`` has no file.

    Raises:
        CheckpointError: As for :func:`weights_path`.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise CheckpointError(f"{PREFIX + name!r} is not {PREFIX}OWNER/NAME[@REVISION][/FILE]")
    return _fetched(match["repo"], match["revision"], (match["file"],) if match["file"] else files)


def _fetched(repo: str, revision: str | None, files: tuple[str, ...]) -> Path:
    """The first of ``files`` that is cached; else the first that the repository has."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in files:
        with suppress(LocalEntryNotFoundError):
            return Path(hf_hub_download(repo, file, revision=revision, local_files_only=True))
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    for file in files:
        try:
            return _download(repo, revision, file, endpoint)
        except Exception as error:  # network, proxy, cache, hash: the hub's library raises many kinds
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue  # the repository has no such file
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise CheckpointError(f"cannot fetch {file} of {repo} from {endpoint} ({reason})") from None
    raise CheckpointError(f"{repo} at {endpoint} has none of {', '.join(files)}; name one: {PREFIX}{repo}/FILE")


def _download(repo: str, revision: str | None, file: str, endpoint: str) -> Path:
    """Fetch a file into the cache; its length is checked on the way, its SHA-256 here, where the hub states it.

    The hub is asked for the file's metadata first: without a network that fails at once, while the download itself
    retries for half a minute.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    stated = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision, endpoint=endpoint))
    if stated.commit_hash is None:
        raise OSError("the answer is not the hub's: is there a proxy with a sign-in page?")
    with _without_warnings():
        path = Path(hf_hub_download(repo, file, revision=revision, endpoint=endpoint))
    # Large files are stored by their SHA-256, which is then the ETag; small ones by git's SHA-1.
    if re.fullmatch("[0-9a-f]{64}", stated.etag or ""):
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != stated.etag:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise OSError(f"damaged on the way: its SHA-256 is {found}, the hub states {stated.etag}")
    return path


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The hub's library logs two lines for each of its retries; the error at the end of them is one."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
