"""Joint sets: names, left-right pairs, limbs and OKS constants of a dataset's joints.

Everything that depends on *which* joints are predicted is here; the rest of the library only sees ``K`` joints.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# OKS constant of a joint for which none is known: the mean of COCO's seventeen, rounded.
DEFAULT_SIGMA = 0.062
# Lengths that PCK's thresholds are fractions of, besides the distance of two joints, "left_eye:right_eye".
REFERENCES = ("head", "torso", "box")
KNOWN_REFERENCES = f"{', '.join(REFERENCES)}, or two joints such as left_hip:right_shoulder"


@dataclass(frozen=True)
class Skeleton:
    """An ordered set of ``K`` joints.

    Attributes:
        name: Short name, printed in tables.
        joints: The ``K`` joint names, in the order of the arrays.
        flip_pairs: Index pairs (left, right) that are exchanged when the picture is mirrored.
        limbs: Index pairs to be drawn as bones.
        sigmas: ``K`` OKS constants (COCO's per-joint standard deviation in units of the object's scale).
        upper: Indices of the upper body, for the half-body augmentation; empty where it does not apply.
        head: Two joints whose distance replaces the head size where no head box is annotated, or ``None``.
        torso: Two diagonal joints of the torso (shoulder and opposite hip), for PCK by torso, or ``None``.
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    upper: tuple[int, ...] = ()
    head: tuple[int, int] | None = None
    torso: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        count = len(self.joints)
        if len(set(self.joints)) != count or count == 0:
            raise ValueError(f"skeleton {self.name!r}: joint names must be unique and at least one, got {self.joints}")
        if len(self.sigmas) != count or not all(0 < s < float("inf") for s in self.sigmas):
            raise ValueError(f"skeleton {self.name!r}: needs {count} positive OKS sigmas, got {self.sigmas}")
        if wrong := [pair for pair in (*self.flip_pairs, *self.limbs) if len(pair) != 2]:
            raise ValueError(f"skeleton {self.name!r}: flip_pairs and limbs are pairs of joints, got {wrong[0]}")
        flipped = [i for pair in self.flip_pairs for i in pair]
        if len(set(flipped)) != len(flipped):
            raise ValueError(f"skeleton {self.name!r}: a joint is in two flip pairs: {self.flip_pairs}")
        pairs = [*self.flip_pairs, *self.limbs, self.upper, self.head or (), self.torso or ()]
        outside = [pair for pair in pairs if any(not 0 <= i < count for i in pair)]
        if outside:
            raise ValueError(f"skeleton {self.name!r}: joint index outside 0..{count - 1} in {outside[0]}")

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def flip_order(self) -> tuple[int, ...]:
        """The permutation of the ``K`` joints under a mirror: ``mirrored[k] = original[flip_order[k]]``."""
        order = list(range(len(self)))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)

    def index(self, joint: str) -> int:
        """The place of a joint by its name, in any case and with blanks for underscores.

        Raises:
            ValueError: No joint has this name.
        """
        names = [plain_name(name) for name in self.joints]
        if plain_name(joint) not in names:
            raise ValueError(f"{self.name} has no joint {joint!r}; its joints are {', '.join(self.joints)}")
        return names.index(plain_name(joint))


COCO_17 = Skeleton(
    name="coco-17",
    joints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    limbs=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
        0.089, 0.089,
    ),
    upper=tuple(range(11)),
    torso=(6, 11),
)  # fmt: skip

MPII_16 = Skeleton(
    name="mpii-16",
    joints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
        "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
        "left_wrist",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    limbs=(
        (0, 1), (1, 2), (2, 6), (3, 6), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (10, 11), (11, 12), (12, 7), (13, 7),
        (13, 14), (14, 15),
    ),
    sigmas=(
        0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.107, 0.079, 0.026, 0.026, 0.062, 0.072, 0.079, 0.079, 0.072,
        0.062,
    ),
    upper=tuple(range(7, 16)),
    head=(8, 9),
    torso=(12, 3),
)  # fmt: skip

LSP_14 = Skeleton(
    name="lsp-14",
    joints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
        "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)),
    limbs=(
        (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 12), (9, 12), (9, 10), (10, 11), (12, 13), (2, 8),
        (3, 9),
    ),
    sigmas=(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062, 0.026, 0.026),
    upper=tuple(range(6, 14)),
    head=(12, 13),
    torso=(8, 3),
)  # fmt: skip

_KNOWN = (COCO_17, MPII_16, LSP_14)
# OKS constant by the name of a joint, COCO's where it has that joint.
SIGMAS = {joint: sigma for known in reversed(_KNOWN) for joint, sigma in zip(known.joints, known.sigmas, strict=True)}
_SIDES = {"left": "left", "right": "right", "l": "left", "r": "right"}
_OTHER = {"left": "right", "right": "left"}
# Parts of the body that all known sets have on both sides; `lknee` is read as a side and a part, `lip` is not.
_PARTS = {joint.removeprefix("left_") for known in _KNOWN for joint in known.joints if joint.startswith("left_")}

# Between the words of kneeLeft, LKnee and thumbL1.
_BORDER = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")


def plain_name(joint: object) -> str:
    """A joint's name as it is compared: lower case, blanks as underscores."""
    return str(joint).strip().lower().replace(" ", "_")


def _pairs_by_name(joints: Sequence[object]) -> tuple[tuple[int, int], ...]:
    """(left, right) pairs read from the names: ``left_knee``, ``Knee-Right``, ``kneeL``, ``r_knee``, ``leftknee``.

    Names are compared as words in which every side is exchanged, so ``left_eye_right_corner`` is the twin of
    ``right_eye_left_corner``. Sides that are words of their own come first: ``rear_left_paw`` has no ``r`` in it.
    """
    pairs: list[tuple[int, int]] = []
    paired: set[int] = set()
    for split in (lambda word: [word], _split_word):
        index = {tuple(part for word in _words(joint) for part in split(word)): i for i, joint in enumerate(joints)}
        for words, i in index.items():
            sides = [word for word in words if word in _OTHER]
            twin = index.get(tuple(_OTHER.get(word, word) for word in words))
            if sides and sides[0] == "left" and twin is not None and not {i, twin} & paired:
                pairs.append((i, twin))
                paired |= {i, twin}
    return tuple(pairs)


def side_of(joint: object) -> str | None:
    """``left`` or ``right``, as a joint's name has it in any of the spellings that are paired; ``None`` without one."""
    for split in (lambda word: [word], _split_word):
        sides = [part for word in _words(joint) for part in split(word) if part in _OTHER]
        if sides:
            return sides[0]
    return None


def _words(joint: object) -> list[str]:
    """The words of a name in lower case, ``l`` and ``r`` beside other words written out."""
    spaced = _BORDER.sub(" ", str(joint)).lower()
    words: list[str] = re.findall(r"[^\W_]+", spaced)
    return [_SIDES.get(word, word) for word in words] if len(words) > 1 else words


def _split_word(word: str) -> list[str]:
    """A word as side and rest where one is glued to the other: ``leftear``, ``earleft``, ``lknee``, ``kneel``."""
    for side, name in _SIDES.items():
        before, after = word.removesuffix(side), word.removeprefix(side)
        for rest, parts in ((after, [name, after]), (before, [before, name])):
            if rest != word and (rest in _PARTS or (len(side) > 1 and len(rest) > 1)):
                return parts
    return [word]


def _given_pairs(
    pairs: Sequence[Sequence[int | str]], joints: tuple[str, ...], name: str
) -> tuple[tuple[int, int], ...]:
    """Pairs of indices for pairs of indices or names."""
    unknown = [j for pair in pairs for j in pair if isinstance(j, str) and plain_name(j) not in joints]
    if unknown:
        raise ValueError(
            f"skeleton {name!r}: flip_pairs name a joint {unknown[0]!r}; the joints are {', '.join(joints)}"
        )
    wrong = next((pair for pair in pairs if len(pair) != 2), None)
    if wrong is not None:
        raise ValueError(f"skeleton {name!r}: flip_pairs must be pairs, got {list(wrong)}")
    first, second = (
        [joints.index(plain_name(pair[i])) if isinstance(pair[i], str) else int(pair[i]) for pair in pairs]
        for i in (0, 1)
    )
    return tuple(zip(first, second, strict=True))


def skeleton_from_names(
    joints: Sequence[str],
    *,
    name: str = "custom",
    flip_pairs: Sequence[Sequence[int | str]] | None = None,
    limbs: Sequence[Sequence[int]] = (),
    sigmas: Sequence[float] | Mapping[str, float] | None = None,
) -> Skeleton:
    """The skeleton of a dataset that lists its joints, as COCO's ``categories`` do.

    A list that equals one of the known sets by name (any case, blanks for underscores) brings that set's constants;
    otherwise flip pairs are read from the sides in the names, and each joint has the OKS constant that a joint of its
    name has in those sets, or ``DEFAULT_SIGMA``. What is given explicitly always wins.

    Args:
        joints: The ``K`` joint names.
        name: Name for a set that is not known.
        flip_pairs: Pairs of 0-based indices or of names, or ``None`` to derive them.
        limbs: 0-based index pairs to draw.
        sigmas: ``K`` OKS constants, or a table from joint names to them that need not name every joint, or ``None``.

    Raises:
        ValueError: If names repeat, an index lies outside the set, the number of sigmas is wrong, or their table names
            a joint that is not in the set.
    """
    plain = tuple(plain_name(joint) for joint in joints)
    known = next((skeleton for skeleton in _KNOWN if skeleton.joints == plain), None)
    if known is not None:
        derived, default_limbs, default_sigmas = known.flip_pairs, known.limbs, known.sigmas
    else:
        derived, default_limbs = _pairs_by_name(joints), ()
        default_sigmas = tuple(SIGMAS.get(joint, DEFAULT_SIGMA) for joint in plain)
    if isinstance(sigmas, Mapping):
        table = {plain_name(joint): sigma for joint, sigma in sigmas.items()}
        unknown = [joint for joint in table if joint not in plain]
        if unknown:
            raise ValueError(
                f"skeleton {name!r}: sigmas name a joint {unknown[0]!r}; the joints are {', '.join(plain)}"
            )
        sigmas = [table.get(joint, default) for joint, default in zip(plain, default_sigmas, strict=True)]
    return Skeleton(
        name=known.name if known else name,
        joints=plain,
        flip_pairs=derived if flip_pairs is None else _given_pairs(flip_pairs, plain, name),
        limbs=tuple((int(a), int(b)) for a, b in limbs) or default_limbs,
        sigmas=tuple(float(s) for s in sigmas) if sigmas is not None else default_sigmas,
        upper=known.upper if known else (),
        head=known.head if known else None,
        torso=known.torso if known else None,
    )
