"""What readers of annotation files have in common: checked numbers, ids, and an account of what was mended or left out.

A faulty annotation never stops a reader. What can be completed from the rest of the file is mended; a person who cannot
be used is left out. Both are counted in an :class:`IntakeLog`, which reports them in one warning per dataset. A file
that is not an annotation file is a :class:`~hdmlib.data.dataset.DataError`.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from hdmlib.data.dataset import DataError

# Reasons that belong to COCO's protocol. They are counted but are nothing to warn of.
PROTOCOL_REASONS = ("crowd", "no labelled joint", "no area", "other category")

# Coordinates beyond this are damage, not a large photo; without a bound they overflow further on.
FARTHEST = 1e6

# MPII's rule: a head's size is this part of the diagonal of its box.
HEAD_BOX_FACTOR = 0.6


class DataWarning(UserWarning):
    """A dataset was read, but not as its files are: the message counts what was mended and left out."""


class LeaveOut(Exception):
    """Raised by a reader for one person who cannot be used.

    Args:
        reason: What is counted, the same words for the same fault.
        remedy: What to change in the data, if anything.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


class IntakeLog:
    """Counts what a reader mends and leaves out, and remembers the first annotation of each kind.

    Attributes:
        left_out: Number of people by reason.
        mended: Number of annotations by what was mended.
        noticed: Number of annotations by what looks wrong and was left as it is.
    """

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self.mended: Counter[str] = Counter()
        self.noticed: Counter[str] = Counter()
        self._notes: list[str] = []
        self._first: dict[str, str] = {}

    def leave_out(self, fault: LeaveOut, annotation: object) -> None:
        """Count a person who is not used; ``annotation`` is the id, or what else finds the person in the file."""
        reason = str(fault)
        self.left_out[reason] += 1
        self._first.setdefault(
            reason, f"annotation {_short(annotation)}" + (f": {fault.remedy}" if fault.remedy else "")
        )

    def mend(self, what: str, annotation: object) -> None:
        """Count an annotation that was completed or corrected."""
        self.mended[what] += 1
        self._first.setdefault(what, f"annotation {_short(annotation)}")

    def notice(self, what: str, annotation: object) -> None:
        """Count an annotation that looks wrong."""
        self.noticed[what] += 1
        self._first.setdefault(what, f"annotation {_short(annotation)}")

    def note(self, text: str) -> None:
        """Add a remark on the whole file to the warning."""
        self._notes.append(text)

    def warn(self, name: str, total: int, stacklevel: int = 2) -> None:
        """One :class:`DataWarning` with all counts, if there is anything to report beyond the protocol.

        Args:
            name: What the message calls the dataset.
            total: Number of annotations in the file.
            stacklevel: Which caller the warning points at, as for :func:`warnings.warn`.
        """
        damage = {reason: n for reason, n in self.left_out.items() if reason not in PROTOCOL_REASONS}
        parts = [f"left out {sum(damage.values())} of {total} annotations: {self._described(damage)}"] if damage else []
        parts += [f"mended: {self._described(self.mended)}"] if self.mended else []
        parts += [f"looks wrong: {self._described(self.noticed)}"] if self.noticed else []
        if parts or self._notes:
            warnings.warn(f"{name}: {'; '.join([*parts, *self._notes])}", DataWarning, stacklevel=stacklevel + 1)

    def described(self) -> str:
        """Who was left out and why, with the first of each reason."""
        return self._described(self.left_out)

    def _described(self, counts: Mapping[str, int]) -> str:
        ordered = sorted(counts.items(), key=lambda item: -item[1])
        return ", ".join(f"{n} {what} (first: {self._first[what]})" for what, n in ordered)


def _short(value: object) -> str:
    return str(value)[:40]


def listed(counts: Mapping[str, int]) -> str:
    """Counts by reason in one line, the most frequent first."""
    return ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items(), key=lambda item: -item[1]))


def numbers(value: object, shape: tuple[int, ...], what: str, limit: float = FARTHEST) -> np.ndarray:
    """``value`` as finite float64 numbers of ``shape``, all within ``limit`` of zero.

    Raises:
        LeaveOut: If it is something else; ``what`` names it in the reason.
    """
    array = as_floats(value)
    if array is None or array.shape != shape:
        expected = f"{int(np.prod(shape))} numbers" if shape else "a number"
        raise LeaveOut(f"malformed {what}", f"{what} must be {expected}")
    if not (np.abs(array) <= limit).all():  # false for NaN, too
        raise LeaveOut(f"{what} not finite or absurdly large", f"correct the {what}")
    return array


def as_floats(value: object) -> np.ndarray | None:
    """``value`` as a float64 array, ``None`` if it is not an array of numbers; null becomes NaN."""
    try:
        array = np.asarray(value)
        if array.dtype == object:
            array = np.array([np.nan if v is None else v for v in value])  # type: ignore[union-attr]
        return array.astype(np.float64) if array.dtype.kind in "iuf" else None  # not text, not truth values
    except (ValueError, TypeError, OverflowError):
        return None


def positive(value: object, limit: float = FARTHEST) -> float | None:
    """``value``, also where it is text, as a positive finite number up to ``limit``, else ``None``."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= limit:
        return float(value)
    return None


def id_key(value: object) -> int | str | None:
    """An id in the form that equal ids share: 7, 7.0 and "7" are 7; other text stays text; ``None`` if it is no id."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        digits = value.strip()
        return int(digits) if digits.isdecimal() and digits.isascii() and len(digits) < 20 else value
    return None


def number_ids(keys: Iterable[int | str | None]) -> list[int]:
    """Each key as an integer for int64 arrays: integers keep their value, other keys get numbers above them all."""
    keys = list(keys)
    fits = [type(key) is int and abs(key) < 2**62 for key in keys]
    following = max((key for key, fit in zip(keys, fits, strict=True) if fit), default=-1) + 1  # type: ignore[type-var]
    numbered: dict[object, int] = {}
    result = []
    for position, (key, fit) in enumerate(zip(keys, fits, strict=True)):
        if fit:
            result.append(key)
        else:  # entries without an id are all different
            result.append(numbered.setdefault(("none", position) if key is None else key, following + len(numbered)))
    return result


def load_json(path: Path) -> object:
    """The content of a JSON file, UTF-8 with or without a byte order mark.

    Raises:
        DataError: If it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not JSON ({error or 'empty'}); it is damaged or no annotation file: export it again"
        ) from None
