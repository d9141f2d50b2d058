"""Where a dataset's folder keeps the annotations of a split: a split's name in, a file out.

A split is a word of a file's or a folder's name, never a part of a word: ``train`` is in ``instances_train2017.json``
and in ``train/_annotations.coco.json``, but not in ``trainval.json`` or ``retrain.json``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from hdmlib.data.dataset import DataError

# Names that mean the same split.
SYNONYMS = (("train", "training"), ("val", "valid", "validation"), ("test", "testing"))

# Of a file that is not split, the share of the photos that validates.
ONE_IN = 5


class NoAnnotations(DataError):
    """No file of the dataset's folder is the annotation of a split."""


def split_names(split: str) -> tuple[str, ...]:
    """The names that a split may have in a folder, its own first."""
    group = next((group for group in SYNONYMS if split in group), (split,))
    return (split, *(name for name in group if name != split))


def check_split(root: Path, split: str) -> None:
    """Raise :class:`DataError` unless ``root`` is a folder and ``split`` a plain name."""
    if not root.is_dir():
        raise DataError(f"data_root {root} is not a folder; give the folder that holds the annotations and the photos")
    if not re.fullmatch(r"[\w-]+", split):
        raise DataError(f"split {split!r} is not a plain name such as train or val")


def has_word(text: str, word: str) -> bool:
    """Whether ``word`` is a word of a name; other letters are part of the word, digits and punctuation are not."""
    after = r"(?![A-Za-z\d])" if word[-1].isdigit() else r"(?![A-Za-z])"
    return bool(re.search(rf"(?<![A-Za-z]){re.escape(word)}{after}", text, re.IGNORECASE))


def names_a_split(path: Path, root: Path) -> bool:
    """Whether a file, or a folder that it lies in, is named for a split."""
    parts = path.relative_to(root).with_suffix("").parts
    return any(has_word(part, name) for part in parts for group in SYNONYMS for name in group)


def find_annotations(root: Path, split: str, patterns: Sequence[str], opening: bytes) -> Path | None:
    """The annotation file of a split: the match of the first pattern that has one.

    Args:
        root: The dataset's folder.
        split: For the message.
        patterns: Globs below ``root``, the most specific first; ``{split}`` in one stands for the split, as a word.
        opening: The first character of the format's files, ``{`` or ``[``; it decides between several matches.

    Raises:
        DataError: If several files match equally well.
    """
    for pattern in patterns:
        for name in split_names(split):
            matches = (path for path in glob_any_case(root, pattern.format(split=name)) if path.is_file())
            found = sorted(p for p in matches if any(has_word(part, name) for part in p.relative_to(root).parts))
            if found:
                return only(found, root, split, opening)
    return None


def glob_any_case(root: Path, pattern: str) -> list[Path]:
    """The files below a folder that fit a pattern, written with large or small letters; an exact match comes first."""
    either = re.sub(r"[A-Za-z]", lambda letter: f"[{letter.group().lower()}{letter.group().upper()}]", pattern)
    return sorted(root.glob(either), key=lambda path: (not path.match(pattern), path))


def only(found: list[Path], root: Path, split: str, opening: bytes) -> Path:
    """The one file among several that can be an annotation file.

    Raises:
        DataError: If several can.
    """
    if len(found) > 1:
        found = [path for path in found if first_byte(path) == opening] or found
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in found)
        raise DataError(
            f"{root}: several annotation files fit split {split!r}: {names}; keep one, or name it {split}.json"
        )
    return found[0]


def first_byte(path: Path) -> bytes:
    """The first character of a JSON file, behind its byte order mark; in UTF-16 zeros are around it."""
    with path.open("rb") as file:
        return file.read(64).replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")[:1]


def json_files(root: Path) -> list[Path]:
    """The JSON files, packed ones too, in a folder and up to two folders below, as seen from it."""
    patterns = (folder + name for folder in ("", "*/", "*/*/") for name in ("*.json", "*.json.gz"))
    return [path.relative_to(root) for pattern in patterns for path in sorted(root.glob(pattern))]


def json_files_in_words(files: Sequence[Path]) -> str:
    """What :func:`json_files` has found, the first four by name."""
    more = f" and {len(files) - 4} more" if len(files) > 4 else ""
    return f"found {', '.join(map(str, files[:4])) or 'no JSON file'}{more}"


def in_part(photo: str, split: str) -> bool:
    """Whether a photo of a file that is not split belongs to a split: by a hash of its name, so added photos move none.

    Args:
        photo: Its name as annotated; only the last part counts, and of Roboflow's copies of one photo,
            ``a_jpg.rf.HASH.jpg``, what they share: they stay together.
        split: A name of the training or the validation split.
    """
    name = re.sub(r"\.rf\.\w+(?=\.)", "", re.split(r"[/\\]", photo)[-1])
    # what is not UTF-8 in a file's name is a surrogate
    validates = int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:8], "big") % ONE_IN == 0
    return validates == ("val" in split_names(split))
