"""Pretrained weights by name: a path, or ``hub:OWNER/NAME`` of the Hugging Face hub, in; the path of a local file out.

``hub:timm/hrnet_w32.ms_in1k``, with ``@REVISION`` and ``/FILE`` behind it where needed. A file is fetched once into the
hub's own cache (``HF_HOME``), verified there and reused without a network.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from hdmlib.models.checkpoints import CheckpointError

NONE = "none"
PREFIX = "hub:"
_NAME = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>[\w./-]+))?")
# Looked for in this order where no file is named.
FILES = ("model.safetensors", "pytorch_model.bin")


def weights_path(pretrained: str | Path) -> Path:
    """The local file of pretrained weights, fetched from the hub if it is named there.

    Args:
        pretrained: A path, or ``hub:OWNER/NAME[@REVISION][/FILE]``.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The name is no hub name, the hub cannot be reached, does not have the file, or the cache cannot
            be written; the message names the file, its origin, and the ways out.
    """
    name = str(pretrained)
    if not name.startswith(PREFIX):
        path = Path(name).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"pretrained: no file {path}; give a path, {PREFIX}OWNER/NAME, or {NONE}")
        return path
    match = _NAME.fullmatch(name)
    if match is None:
        raise CheckpointError(f"pretrained: {name!r} is not {PREFIX}OWNER/NAME[@REVISION][/FILE]")
    files = (match["file"],) if match["file"] else FILES
    return _fetched(match["repo"], match["revision"], files)


def _fetched(repo: str, revision: str | None, files: tuple[str, ...]) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    ways = f"save the file yourself and give its path as pretrained, or train from scratch with pretrained={NONE}"
    for file in files:
        try:
            return Path(hf_hub_download(repo, file, revision=revision, endpoint=endpoint))
        except Exception as error:  # network, proxy, cache, hash: the hub's library raises many kinds
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue  # the repository has no such file
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            message = f"pretrained: cannot fetch {file} of {repo} from {endpoint} ({reason}); {ways}"
            raise CheckpointError(message) from None
    listed = ", ".join(files)
    raise CheckpointError(f"pretrained: {repo} at {endpoint} has none of {listed}; name one: {PREFIX}{repo}/FILE")
