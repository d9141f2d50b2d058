"""MPII Human Pose -> :class:`~hdmlib.data.dataset.PoseDataset`, from HRNet's json or from the original ``.mat``.

Both files have pixels counted from 1, a person's position, and a person's height in units of 200 px. As in HRNet the
position is moved down by 15 x that scale and the scale is enlarged by a quarter, so that no limb is cut; then all
coordinates are changed to count from 0. Both files give identical people: only the ``.mat`` marks hidden joints, and
only some of them, so a labelled joint has visibility 2 in both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hdmlib.data.assembly import assemble
from hdmlib.data.dataset import DataError, Person, PoseDataset
from hdmlib.data.intake import FARTHEST, HEAD_BOX_FACTOR, IntakeLog, LeaveOut, as_floats, load_json, numbers
from hdmlib.data.layouts import NoAnnotations, check_split, find_annotations, json_files, json_files_in_words
from hdmlib.data.photos import PhotoFolder
from hdmlib.skeletons import MPII_16

RELEASE_FILE = "mpii_human_pose_v1_u12_1.mat"
# Scale 1 is a person 200 px high; the region is a square of the enlarged scale.
PIXELS_PER_SCALE = 200
GROWTH = 1.25
SHIFT_DOWN = 15

# Ground-truth rows and json rows are the same people if their joints agree this well, in pixels.
ROW_TOLERANCE = 1.0


def find_mpii(root: Path | str, split: str) -> tuple[Path, Path]:
    """The annotation file and the folder of photos of one split.

    Looks for HRNet's ``annot/{split}.json``, then for a JSON in ``annot/`` or ``root`` whose name contains the split,
    then for the original ``mpii_human_pose_v1_u12_1.mat`` in ``root`` or one folder below; and for photos in ``images``
    or beside the file.

    Args:
        root: The dataset's folder.
        split: ``train``, ``valid`` (``val`` is the same) or ``trainval``.

    Raises:
        DataError: If nothing fits, or several files fit equally well.
    """
    root = Path(root)
    check_split(root, split)
    patterns = ("annot/{split}.json", "{split}.json", "annot/*{split}*.json", "*{split}*.json")
    annotations = find_annotations(root, split, patterns, opening=b"[")
    releases = sorted(path for pattern in (RELEASE_FILE, f"*/{RELEASE_FILE}") for path in root.glob(pattern))
    if annotations is None and not releases:
        tried = ", ".join([*(pattern.format(split=split) for pattern in patterns), RELEASE_FILE])
        found = json_files_in_words(json_files(root))
        raise NoAnnotations(f"no MPII annotations of split {split!r} in {root}\n  {found}; looked for {tried}")
    annotations = annotations or releases[0]
    images = root / "images"
    return annotations, images if images.is_dir() else annotations.parent


def read_mpii(
    root: Path | str, split: str = "train", *, valid_people: Collection[tuple[str, int]] | None = None
) -> PoseDataset:
    """Read one split of MPII. HRNet's json is taken where it is there, else the original ``.mat``.

    Head sizes (0.6 x the diagonal of the head box) come from ``gt_{split}.mat`` beside the json, whose rows are the
    json's, or from the original ``.mat``. Without either they are NaN.

    Args:
        root: The dataset's folder, see :func:`find_mpii`.
        split: ``train``, ``valid`` (``val`` is the same) or ``trainval``.
        valid_people: For the ``.mat`` only, which defines no validation split: its people as (photo's file name,
            0-based position among the photo's ``annorect``). ``train`` is then everyone else; without it ``train`` is
            everyone.

    Raises:
        DataError: If files are missing, are not MPII annotations, or hold no usable person.
    """
    path, folder = find_mpii(root, split)
    if path.suffix == ".mat":
        rows = _release_rows(path, split, valid_people)
    elif valid_people is not None:
        raise DataError(f"valid_people splits the original .mat, but {path} already is one split; leave it out")
    else:
        rows = _json_rows(path)
    people, log, image_ids = [], IntakeLog(), {}
    for number, row in enumerate(rows):
        try:
            people.append(_mpii_person(row, number, image_ids, log))
        except LeaveOut as fault:
            log.leave_out(fault, number)
    photos = PhotoFolder(Path(root), folder, path.parent, split)
    return assemble(f"MPII {path.name} {split}", MPII_16, photos, people, log, len(rows))


class _Row(NamedTuple):
    """A person as both files have one, pixels counted from 1; all but the head size may be anything."""

    photo: object
    position: object  # (2,)
    scale: object
    joints: object  # (16, 2)
    labelled: object  # (16,)
    head_size: float


def _as_numbers(flags: object) -> object:
    """Flags with true and false as 1 and 0."""
    return [int(flag) if isinstance(flag, bool) else flag for flag in flags] if isinstance(flags, list) else flags


def _mpii_person(row: _Row, number: int, image_ids: dict[str, int], log: IntakeLog) -> Person:
    """One row as a person; ``image_ids`` numbers the photos as they come."""
    if not isinstance(row.photo, str):
        raise LeaveOut("malformed photo name", "image must be text")
    image_id = image_ids.setdefault(row.photo, len(image_ids))
    marks = numbers(_as_numbers(row.labelled), (len(MPII_16),), "joint flags")
    if not np.isin(marks, (0, 1)).all():
        raise LeaveOut("malformed joint flags", "joints_vis must be 0 or 1")
    shown = marks > 0
    if not shown.any():
        raise LeaveOut("no labelled joint")
    points = as_floats(row.joints)
    if points is None or points.shape != (len(MPII_16), 2):
        raise LeaveOut("malformed joints", f"joints must be {len(MPII_16)} pairs x, y")
    sound = np.all(np.abs(points) <= FARTHEST, axis=1)
    if not sound[shown].any():
        raise LeaveOut("joints not finite or absurdly large", "correct the joints")
    if not sound[shown].all():
        log.mend("joint not finite or absurdly large: taken as unlabelled", number)
    shown &= sound
    points = np.where(shown[:, None], points, 0) - 1  # placeholders of unlabelled joints may be anything
    centre = numbers(row.position, (2,), "position")
    factor = float(numbers(row.scale, (), "scale"))
    if factor <= 0 or centre[0] == -1:  # -1 is the format's "not annotated"
        raise LeaveOut("no position or scale", "center and scale must be positive")
    low, high = points[shown].min(axis=0), points[shown].max(axis=0)
    return Person(
        file_name=row.photo,
        photo_size=None,
        joints=points,
        visibility=np.where(shown, 2, 0),
        box=np.concatenate([low, high - low]),  # the format has no person box: that of the joints
        centre=centre + np.array([0, SHIFT_DOWN * factor]) - 1,
        size=np.full(2, PIXELS_PER_SCALE * GROWTH * factor),
        area=float(np.prod(high - low)),
        head_size=row.head_size,
        annotation_id=number,
        image_id=image_id,
    )


def _json_rows(path: Path) -> list[_Row]:
    """People of HRNet's json."""
    content = load_json(path)
    fields = ("image", "center", "scale", "joints", "joints_vis")
    if isinstance(content, dict):
        raise DataError(
            f"{path} is an object, MPII annotations are a list; COCO annotations are read as dataset 'coco'"
        )
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise DataError(f"{path} is not a list of people with {', '.join(fields)}, as HRNet's MPII annotations are")
    if content and not any("joints" in entry for entry in content):
        raise DataError(f"{path} has no joints: it is a test split, whose joints are not public, or a detection file")
    heads = _head_sizes(path, content)
    return [
        _Row._make([*(entry.get(field) for field in fields), head]) for entry, head in zip(content, heads, strict=True)
    ]


def truth_beside(path: Path) -> Path:
    """Where the head sizes of HRNet's json are, there or not: ``gt_valid.mat`` beside ``valid.json``."""
    return path.with_name(f"gt_{path.stem}.mat")


def _head_sizes(path: Path, content: Sequence[dict]) -> Sequence[float]:
    """Head sizes of the json's rows from the ground-truth file beside it, NaN without one."""
    truth_path = truth_beside(path)
    if not truth_path.is_file():
        return [float("nan")] * len(content)
    truth = _load_mat(truth_path)
    try:
        boxes, joints, missing = (np.asarray(truth[key]) for key in ("headboxes_src", "pos_gt_src", "jnt_missing"))
        boxes, joints = boxes.reshape(2, 2, -1), joints.reshape(len(MPII_16), 2, -1)
        missing = missing.reshape(len(MPII_16), -1)
    except (KeyError, ValueError):
        raise DataError(
            f"{truth_path} lacks headboxes_src, pos_gt_src or jnt_missing of 16 joints; fetch it again"
        ) from None
    if boxes.shape[2] != len(content):
        raise DataError(
            f"{truth_path} has {boxes.shape[2]} rows, {path.name} has {len(content)}: they are not of one split"
        )
    errors = [_row_error(entry, joints[:, :, i], missing[:, i]) for i, entry in enumerate(content)]
    if np.isfinite(errors).any() and np.nanmedian(errors) > ROW_TOLERANCE:
        raise DataError(
            f"{truth_path} and {path.name} list different people, or in another order: they are not of one split"
        )
    diagonals = HEAD_BOX_FACTOR * np.linalg.norm(boxes[1] - boxes[0], axis=0)
    return np.where(diagonals > 0, diagonals, np.nan).tolist()


def _row_error(entry: dict, joints: np.ndarray, missing: np.ndarray) -> float:
    """Median distance of the joints that both files label, NaN if there are none."""
    try:
        points = numbers(entry.get("joints"), (len(MPII_16), 2), "joints")
        both = (numbers(entry.get("joints_vis"), (len(MPII_16),), "joint flags") > 0) & (missing == 0)
    except LeaveOut:
        return np.nan
    return float(np.median(np.linalg.norm(points - joints, axis=1)[both])) if both.any() else np.nan


def _release_rows(path: Path, split: str, valid_people: Collection[tuple[str, int]] | None) -> list[_Row]:
    """People of the original release who are annotated in full (joints, position, scale), for one split."""
    if split not in ("train", "valid", "val", "trainval"):
        raise DataError(f"{path} has the splits train, valid and trainval, not {split!r}")
    if split in ("valid", "val") and valid_people is None:
        raise DataError(
            f"{path} names no validation people; put HRNet's annot/valid.json beside it, or list them in valid_people"
        )
    release = _load_mat(path).get("RELEASE")
    if not isinstance(release, dict) or not {"annolist", "img_train"} <= release.keys():
        raise DataError(f"{path} is not the MPII release: it holds no RELEASE with annolist and img_train")
    try:
        people = {
            (photo["image"]["name"], person): _rectangle_row(photo["image"]["name"], rectangle)
            for photo, training in zip(_structs(release["annolist"]), np.atleast_1d(release["img_train"]), strict=True)
            for person, rectangle in enumerate(_structs(photo.get("annorect")) if training else ())
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is damaged ({error!r}); fetch it again") from None
    listed = {(str(name), int(person)) for name, person in valid_people or ()}
    if unknown := listed - people.keys():
        raise DataError(f"valid_people names {len(unknown)} people that {path} lacks, such as {min(unknown)}")
    chosen = {"trainval": people.keys(), "train": people.keys() - listed}.get(split, listed)
    return [row for person, row in people.items() if person in chosen and row is not None]


def _rectangle_row(name: object, rectangle: dict) -> _Row | None:
    """One ``annorect``, or ``None`` for one of the many people without joints, position or scale."""
    points = [p for annotation in _structs(rectangle.get("annopoints")) for p in _structs(annotation.get("point"))]
    position = next(_structs(rectangle.get("objpos")), None)
    if not points or position is None or np.size(rectangle.get("scale", ())) != 1:
        return None
    found = {int(point["id"]): (point["x"], point["y"]) for point in points}
    joints = [found.get(joint, (0, 0)) for joint in range(len(MPII_16))]
    labelled = [int(joint in found) for joint in range(len(MPII_16))]
    head_size = np.nan
    if all(np.size(rectangle.get(side, ())) == 1 for side in ("x1", "y1", "x2", "y2")):
        head_size = HEAD_BOX_FACTOR * np.hypot(rectangle["x2"] - rectangle["x1"], rectangle["y2"] - rectangle["y1"])
    place = [position.get("x"), position.get("y")]
    return _Row(name, place, rectangle["scale"], joints, labelled, float(head_size) if head_size > 0 else np.nan)


def _structs(value: object) -> Iterator[dict]:
    """A MATLAB struct array as scipy simplifies it: one struct is a dict, several a list, none an empty array."""
    items: Any = [value] if isinstance(value, dict) else np.atleast_1d(np.asarray(value, dtype=object))
    yield from (item for item in items if isinstance(item, dict))


def _load_mat(path: Path) -> dict:
    from scipy.io import loadmat  # no other format needs it, and it takes a while to import

    try:
        return loadmat(path, simplify_cells=True)
    except Exception as error:  # scipy raises whatever its parser meets in a damaged file
        raise DataError(f"cannot read {path} as a MATLAB file ({error}); fetch it again") from None
