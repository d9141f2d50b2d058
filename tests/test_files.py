"""Files that are written completely or not at all."""

import os
import stat
import subprocess
import sys

import pytest

from hdmlib.files import write_atomically

WRITE = """
import os, sys
from pathlib import Path
from hdmlib.files import write_atomically
os.umask(int(sys.argv[2], 8))
write_atomically(Path(sys.argv[1]), b"new")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [("022", 0o644), ("002", 0o664), ("077", 0o600)])
def test_modes_follow_the_umask(umask, mode, tmp_path):
    path = tmp_path / "folder" / "file.json"
    subprocess.run([sys.executable, "-c", WRITE, path, umask], check=True)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]


def test_a_name_that_is_a_folder_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match=r"could not finish .*taken"):
        write_atomically(tmp_path / "taken", b"new")
    assert os.listdir(tmp_path) == ["taken"]
