"""Damaged annotation files and photos, by seed: each ends in a clear error or in people counted as left out.

Never in a traceback from deep inside, a read outside the folder, or a hang. By hand, as many as wanted:

    HDMLIB_MUTATIONS=50000 python -m pytest tests/data/test_fuzz.py -p no:xdist -o addopts=--import-mode=importlib
"""

import copy
import json
import os
import random
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from hdmlib.data.coco import read_coco
from hdmlib.data.dataset import DataError
from hdmlib.data.intake import DataWarning
from hdmlib.data.mpii import read_mpii
from hdmlib.synthetic.dataset import embedded_dataset

MUTATIONS = int(os.environ.get("HDMLIB_MUTATIONS", "2000"))
MEMORY = Path("/proc/self/status")
WRONG = (
    None, True, "", "x", "../../../etc/passwd", "/etc/passwd", "a\0b", -1, 0, 3.5, 10**9, 10**30, -1e308, float("nan"),
    float("inf"), [], {}, [[]], [None, None], {"x": {"y": []}}, "9" * 5000, [1e9] * 51,
)  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    return {name: embedded_dataset(root, format=name, train=3, val=2, size=64) for name in ("coco", "mpii")}


@pytest.fixture
def less_than_a_gibibyte():
    """The process never grows by more, not even for a moment."""

    def kibibytes(name):
        [line] = [line for line in MEMORY.read_text().splitlines() if line.startswith(name)]
        return int(line.split()[1])

    if not MEMORY.exists():
        yield  # only Linux tells
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kibibytes("VmRSS")
    yield
    assert kibibytes("VmHWM") - before < 1 << 20


def places(value, path=()):
    """Every path into a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def mutated(content, draws):
    """The content with one to three of its places made wrong, left out or doubled."""
    content = copy.deepcopy(content)
    for _ in range(draws.randint(1, 3)):
        path = draws.choice([p for p in places(content) if p])
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        action = draws.random()
        if action < 0.6:
            parent[path[-1]] = draws.choice(WRONG)
        elif action < 0.8 or not isinstance(parent, list):
            del parent[path[-1]]
        else:
            parent.insert(0, copy.deepcopy(parent[path[-1]]))  # the same id twice
    return content


def damaged(text, draws):
    """The file's bytes cut off, or with some of them changed."""
    if draws.random() < 0.5:
        return text[: draws.randrange(len(text))]
    changed = bytearray(text)
    for _ in range(draws.randint(1, 20)):
        changed[draws.randrange(len(changed))] = draws.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize(
    ("read", "split", "file"),
    [(read_coco, "val", "annotations/person_keypoints_val.json"), (read_mpii, "valid", "annot/valid.json")],
)
@pytest.mark.usefixtures("less_than_a_gibibyte")
def test_annotations(read, split, file, sound, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(sound[read.__name__.removeprefix("read_")], folder)
    original = (folder / file).read_bytes()
    content, draws = json.loads(original), random.Random(0)
    messages, accepted = [], 0
    for number in range(MUTATIONS // 2):
        bad = damaged(original, draws) if number % 5 == 0 else json.dumps(mutated(content, draws)).encode()
        (folder / file).write_bytes(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            try:
                people = read(folder, split)
            except DataError as error:
                messages.append(str(error))
                continue
        accepted += 1
        assert all(path.is_relative_to(folder) and ".." not in path.parts for path in people.images), number
        for array in (people.joints, people.boxes, people.centres, people.sizes, people.areas):
            assert np.isfinite(array).all(), f"mutation {number}"
    assert [message for message in messages if str(folder) not in message] == []
    assert min(len(messages), accepted) > MUTATIONS // 20  # both ends were tried


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes that claims to be ``side`` pixels wide and high."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.usefixtures("less_than_a_gibibyte")
def test_photos(sound, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(sound["coco"], folder)
    photos = sorted((folder / "images" / "val").iterdir())
    original, draws = photos[0].read_bytes(), random.Random(0)
    for number in range(MUTATIONS // 10):
        kinds = (damaged(original, draws), b"", bomb(30_000), bomb(2**31 - 1), b"not a picture", original[:-2])
        photos[0].write_bytes(kinds[number % len(kinds)] if number % 2 else damaged(original, draws))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            people = read_coco(folder, "val")  # the other photos are sound
        assert sum(people.left_out.values()) + len(people) >= 2, number


def test_a_photo_that_is_a_folder_or_a_link_to_nowhere(sound, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(sound["coco"], folder)
    first, second = sorted((folder / "images" / "val").iterdir())[:2]
    first.unlink()
    first.mkdir()
    with pytest.warns(DataWarning, match=r"photo (unreadable|missing)"):
        assert len(read_coco(folder, "val")) >= 1
    second.unlink()
    second.symlink_to(Path("nowhere"))
    with pytest.raises(DataError, match="no usable person"):
        read_coco(folder, "val")
