"""Files that are written completely or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hdmlib.files import is_abandoned, remove_leftovers, versions, write_atomically, writer

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


KILLED = """
import os, sys
from pathlib import Path
from hdmlib import files
os.replace = lambda *_: os._exit(0)
files.write_atomically(Path(sys.argv[1]), b"half")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="processes of POSIX")
def test_only_what_a_killed_process_left_is_removed(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a.json"], check=True)
    [left] = tmp_path.iterdir()
    host, process, _ = left.name.rpartition("unfinished-")[2].rsplit("-", 2)
    mine = tmp_path / left.name.replace(process, str(os.getpid()))
    elsewhere, long_ago = (tmp_path / left.name.replace(host, name) for name in ("elsewhere", "long-ago"))
    for path in (mine, elsewhere, long_ago):
        path.write_bytes(b"half")
    os.utime(long_ago, (0, 0))
    remove_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == {mine, elsewhere}


def test_earlier_versions_are_kept_in_order(tmp_path):
    path = tmp_path / "last.pt"
    for number in range(13):
        write_atomically(path, b"%d" % number, earlier=11)
    (tmp_path / "last.x.pt").write_bytes(b"another file")
    assert [file.read_bytes() for file in versions(path)] == [b"%d" % number for number in range(12, 0, -1)]
    assert versions(path)[11].name == "last.11.pt"
    write_atomically(path, b"13")
    assert [file.read_bytes() for file in versions(path)][:2] == [b"13", b"11"]


def test_a_name_that_is_a_folder_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match=r"could not finish .*taken"):
        write_atomically(tmp_path / "taken", b"new")
    assert os.listdir(tmp_path) == ["taken"]


@pytest.mark.parametrize("links", [True, False])
def test_a_write_that_fails_leaves_the_latest_version_where_it_was(links, tmp_path, monkeypatch):
    path, rename = tmp_path / "last.pt", os.replace
    for content in (b"1", b"2"):
        write_atomically(path, content, earlier=2)

    def full(source, to):
        if to == path:
            raise OSError(28, "No space left on device")
        rename(source, to)

    def unsupported(*_):
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", unsupported)
    monkeypatch.setattr(os, "replace", full)
    for _ in range(2):
        with pytest.raises(OSError, match=r"could not finish .*last\.pt.*an earlier file there is untouched"):
            write_atomically(path, b"3", earlier=2)
    monkeypatch.setattr(os, "replace", rename)
    assert path.read_bytes() == b"2"
    write_atomically(path, b"4", earlier=2)
    assert [file.read_bytes() for file in versions(path)][:2] == [b"4", b"2"]
    assert all(file.name.startswith("last") for file in tmp_path.iterdir())  # nothing unfinished


@pytest.mark.skipif(sys.platform == "win32", reason="processes of POSIX")
def test_what_a_running_process_writes_is_never_abandoned():
    assert not is_abandoned(writer(), changed=0.0)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_a_link_stays_and_the_file_that_it_names_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real.csv").write_bytes(b"old")
    (tmp_path / "link.csv").symlink_to(Path("there") / "real.csv")
    write_atomically(tmp_path / "link.csv", b"new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "there" / "real.csv").read_bytes() == b"new"


def test_a_long_name_is_no_longer_while_it_is_written(tmp_path):
    path = tmp_path / ("字" * 83 + ".csv")  # 253 of 255 bytes
    write_atomically(path, b"1", earlier=1)
    assert path.read_bytes() == b"1"
