"""A config's dataset as people to train on and people to validate on.

A folder is checked before anything is read: the error lists everything that is missing, and for the published recipes
also the commands that fetch the dataset, and its licence.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hdmlib.config import Config, ConfigError
from hdmlib.data.coco import read_coco
from hdmlib.data.coco_files import find_coco
from hdmlib.data.dataset import DataError, PoseDataset
from hdmlib.data.intake import DataWarning
from hdmlib.data.layouts import NoAnnotations
from hdmlib.data.mpii import RELEASE_FILE, ROW_TOLERANCE, find_mpii, read_mpii, truth_beside
from hdmlib.data.origins import ORIGINS
from hdmlib.data.photos import PHOTO_ENDINGS
from hdmlib.presets import PUBLISHED_PRESETS
from hdmlib.synthetic.dataset import GENERATOR_VERSION, embedded_dataset


@dataclass(frozen=True)
class Data:
    """The people of a run.

    Attributes:
        train: People to learn from.
        val: People to evaluate on.
        fingerprint: Identifies the data in a run's identity; depends on the photos' names, the joints and the parts of
            the photos that are shown, not on the folder.
        details: Digest of the rest that a run depends on: left-right pairs, OKS constants, areas, boxes, head sizes,
            and which photos there are, by their size as files; ``None`` for embedded people. It is no part of a run's
            name, but a run is not shown or resumed where it differs.
    """

    train: PoseDataset
    val: PoseDataset
    fingerprint: str
    details: str | None = None


# What is said of a run on other data of the same fingerprint.
CHANGED = (
    "before its left-right pairs, OKS constants, areas, boxes, head sizes or photos were changed; resume=false trains "
    "it again and keeps the earlier run"
)


def open_data(config: Config, progress: Callable[..., Any] | None = None) -> Data:
    """Read both splits of a config's dataset; the embedded people are drawn first where they do not exist yet.

    Args:
        config: Names the dataset, its folder, its splits, and how many people of each to take.
        progress: Wraps the loop over the pictures that are drawn: ``progress(iterable, total=, desc=)``.

    Raises:
        DataError: The folder, a file or a split is missing or wrong, the splits have different joints, or they share
            people or, in COCO's format, photos.
        ConfigError: ``data_root`` is missing, or given for synthetic people.
    """
    if config.dataset == "synthetic":
        if config.data_root is not None:
            raise ConfigError(
                "data_root: the synthetic people need none; set dataset to coco or mpii for a folder of yours"
            )
        counts, root = _embedded_counts(config), embedded_folder(config, progress)
        # a picture may show more than one person
        train, val = (_some(read_coco(root, split), 0, count) for split, count in counts.items())
        return Data(_noisy(train, config), _some(val, config.val_offset, None), embedded_fingerprint(config))
    check_folder(config, (config.train_split, config.val_split))
    train, val = (read_split(config, split) for split in (config.train_split, config.val_split))
    val = _same_joints(train, val)
    _check_shared_photos(train, val, by_person=config.dataset == "mpii")
    train, val = _some(train, 0, config.train_people), _some(val, config.val_offset, config.val_people)
    return Data(_noisy(train, config), val, _fingerprint(train, val), _details(train, val))


def open_validation(config: Config, progress: Callable[..., Any] | None = None) -> PoseDataset:
    """The validation people of a config alone; otherwise as :func:`open_data`."""
    if config.dataset == "synthetic":
        return open_data(config.model_copy(update={"train_people": 1}), progress).val
    check_folder(config, (config.val_split,))
    return _some(read_split(config, config.val_split), config.val_offset, config.val_people)


def read_split(config: Config, split: str) -> PoseDataset:
    """All people of one split of a config's dataset, a folder that :func:`check_folder` accepts."""
    root = _root(config)
    if config.dataset == "mpii":
        return read_mpii(root, split)
    return read_coco(root, split, category=config.category, strict=config.preset in PUBLISHED_PRESETS)


def _same_joints(train: PoseDataset, val: PoseDataset) -> PoseDataset:
    """The validation people, whose joints must be the training people's, with left and right paired as there.

    Limbs, OKS constants and file names may differ.

    Raises:
        DataError: The joints' names or their order differ, or both files pair left and right, but differently.
    """
    ours, theirs = train.skeleton, val.skeleton
    if ours.joints != theirs.joints:
        first = next((pair for pair in zip(ours.joints, theirs.joints, strict=False) if pair[0] != pair[1]), None)
        what = f"the first difference is {first[0]} and {first[1]}" if first else f"{len(ours)} and {len(theirs)}"
        raise DataError(f"{train.name} and {val.name} have different joints ({what}); take two splits of one dataset")
    if ours.flip_order == theirs.flip_order:
        return val
    if ours.flip_pairs and theirs.flip_pairs:
        raise DataError(f"{train.name} and {val.name} pair left and right differently; give both the same flip_pairs")
    return replace(val, skeleton=replace(theirs, flip_pairs=ours.flip_pairs or theirs.flip_pairs))


def _check_shared_photos(train: PoseDataset, val: PoseDataset, *, by_person: bool) -> None:
    """Whether the network would be evaluated on photos that it has learned.

    Args:
        train, val: The splits.
        by_person: Whether the splits divide people, who may share a photo, as in MPII's format.

    Raises:
        DataError: If a photo, or ``by_person`` a person, is in both splits.

    Warns:
        DataWarning: If a validation photo has the name and the content of a training photo, or ``by_person`` is one.
    """
    trained_on, places = set(_places(train)), dict(zip(val.images, _places(val), strict=True))
    shared = [path for path, place in places.items() if place in trained_on]
    others = [path for path, place in places.items() if place not in trained_on]
    fresh = "validation needs photos that are not trained on"
    remedy = f"{fresh}: remove them from one of the splits, or set train_split and val_split"
    if shared and not by_person:
        raise DataError(f"{train.name} and {val.name} share {len(shared)} photos, such as {shared[0]}; {remedy}")
    if shared:
        if twice := _people_in_both(train, val):
            first = val.image_path(twice[0])
            raise DataError(f"{train.name} and {val.name} share {len(twice)} people, such as one on {first}; {remedy}")
        _warn(
            f"{train.name} and {val.name} show different people of {len(shared)} photos, such as {shared[0]}; {fresh}"
        )
    if copies := _copies(train, others):
        _warn(
            f"{val.name}: {len(copies)} photos are copies of training photos, such as {copies[0]}; {fresh}: remove "
            "them from one of the splits"
        )


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)


def _places(people: PoseDataset) -> list[tuple[str, str]]:
    """Folder, without symbolic links, and name of each photo."""
    folders = {folder: os.path.realpath(folder) for folder in {path.parent for path in people.images}}
    return [(folders[path.parent], path.name) for path in people.images]


def _people_in_both(train: PoseDataset, val: PoseDataset) -> list[int]:
    """The validation people whose joints a training person on the same photo has, too."""
    places, on_photo = _places(train), defaultdict(list)
    for person, photo in enumerate(train.image_index):
        on_photo[places[photo]].append(person)
    places = _places(val)

    def is_trained_on(person: int) -> bool:
        others = on_photo.get(places[val.image_index[person]], [])
        both = (val.visibility[person] > 0) & (train.visibility[others] > 0)
        distances = np.linalg.norm(val.joints[person] - train.joints[others], axis=2)
        return any(
            shared.any() and np.median(far[shared]) <= ROW_TOLERANCE
            for shared, far in zip(both, distances, strict=True)
        )

    return [person for person in range(len(val)) if is_trained_on(person)]


def _copies(train: PoseDataset, photos: Sequence[Path]) -> list[Path]:
    """Those photos that have the name and the content of a training photo."""
    names, alike = {path.name for path in photos}, defaultdict(list)
    for path in train.images:
        if path.name in names:
            alike[path.name, path.stat().st_size].append(path)
    return [
        path
        for path in photos
        if any(filecmp.cmp(path, other, shallow=False) for other in alike.get((path.name, path.stat().st_size), ()))
    ]


def embedded_folder(config: Config, progress: Callable[..., Any] | None = None) -> Path:
    """The folder of a config's embedded people, in COCO's format; they are drawn first where it does not exist yet."""
    counts = _embedded_counts(config)
    return embedded_dataset(
        format="coco", train=counts["train"], val=counts["val"], size=config.image_size, seed=config.data_seed,
        progress=progress,
    )  # fmt: skip


def embedded_fingerprint(config: Config) -> str:
    """The fingerprint of the embedded people of a config, also before they are drawn."""
    name = f"embedded-v{GENERATOR_VERSION}-{config.image_size}px-seed{config.data_seed}"
    return "-".join([name, *map(str, _embedded_counts(config).values())])


def _embedded_counts(config: Config) -> dict[str, int]:
    return {"train": config.train_people or 2000, "val": config.val_offset + (config.val_people or 300)}


def check_folder(config: Config, splits: Sequence[str]) -> None:
    """Check that a dataset's folder holds all that a run needs, before anything is read.

    Args:
        config: Names the dataset, its folder and the preset. For a published recipe the folder must also hold photos
            where they belong and, for MPII, the head sizes that PCKh is measured by.
        splits: The splits that are needed.

    Raises:
        ConfigError: ``data_root`` is missing.
        DataError: The folder is missing, or files in it: the message lists each of them, and the dataset's origin.
    """
    root = _root(config)
    if root.is_file():
        raise DataError(f"data_root: {root} is a file; give the folder that holds it and its photos")
    if not root.is_dir():
        raise DataError(
            f"data_root: no folder {root}; relative paths start where you typed the command{_origin_of(config)}"
        )
    missing = list(dict.fromkeys(file for split in splits for file in _missing(config, split)))
    if missing:
        listed = "".join(f"\n  {file}" for file in missing)
        raise DataError(f"data_root: {root} lacks{listed}{_origin_of(config)}")


def _root(config: Config) -> Path:
    if config.data_root is None:
        raise ConfigError(f"data_root: dataset {config.dataset!r} needs the folder that holds it{_origin_of(config)}")
    return config.data_root


def _missing(config: Config, split: str) -> list[str]:
    """The missing files of one split, by their published names."""
    root, origin = _root(config), ORIGINS[config.dataset]
    published = config.preset in PUBLISHED_PRESETS
    annotations, photos = (text.format(split=split) for text in (origin.annotations, origin.photos))
    path, missing = root / annotations, []
    folders = [root / photos, root / "images" / photos]
    try:
        if config.dataset == "mpii":
            path, folder = find_mpii(root, split)
        else:
            files = find_coco(root, split)
            path, folder = files.annotations, files.photos
        folders = [folder]
    except NoAnnotations:
        if not published:
            raise  # the message has the names that were tried
        missing.append(f"{annotations} (annotations of split {split!r})")
    if not published:
        return []  # the photos of other datasets may lie anywhere below the folder
    if path.suffix == ".mat":  # MPII's release does not say who the validation people are
        path = root / annotations
        missing.append(f"{annotations} (annotations of split {split!r}; {RELEASE_FILE} has no such split)")
    if not any(_has_photos(folder) for folder in folders):
        missing.append(f"{photos} (photos)")
    heads = truth_beside(path)
    if config.dataset == "mpii" and split == config.val_split and not heads.is_file():
        missing.append(f"{heads.relative_to(root)} (head sizes, the length that PCKh is measured in)")
    return missing


def _has_photos(folder: Path) -> bool:
    return folder.is_dir() and any(file.suffix.lower() in PHOTO_ENDINGS for file in folder.iterdir())


def _origin_of(config: Config) -> str:
    """Where to get the dataset, for the recipes of a published one."""
    if config.preset not in PUBLISHED_PRESETS:
        return ""
    return "\n" + ORIGINS[config.dataset].instructions(str(config.data_root or "FOLDER"))


def _some(people: PoseDataset, start: int, count: int | None) -> PoseDataset:
    """``count`` people from ``start`` on, or as many as there are."""
    stop = len(people) if count is None else min(start + count, len(people))
    if start >= len(people):
        raise ConfigError(f"val_offset: {start} leaves nobody of the {len(people)} people of {people.name}")
    return people if (start, stop) == (0, len(people)) else people.subset(range(start, stop))


def _noisy(people: PoseDataset, config: Config) -> PoseDataset:
    """The people with noisy annotations: a normal draw is added to x and y of each joint, the same in every epoch."""
    if not config.label_noise:
        return people
    lengths = people.reference_lengths(config.pck_reference or people.default_reference())
    lengths = np.where(np.isfinite(lengths), lengths, np.nanmedian(lengths))
    draws = np.random.default_rng(config.seed).standard_normal(people.joints.shape)
    draws *= (people.visibility > 0)[..., None]
    return replace(people, joints=people.joints + config.label_noise * lengths[:, None, None] * draws)


def _details(*splits: PoseDataset) -> str:
    digest = hashlib.sha256()
    for people in splits:
        sizes = [path.stat().st_size for path in people.images]
        turned = [path in people.upright for path in people.images]
        digest.update(repr((people.skeleton.flip_order, people.skeleton.sigmas, sizes, turned)).encode())
        for array in (people.areas, people.boxes, people.head_sizes):
            digest.update(array.tobytes())
    return digest.hexdigest()[:12]


def _fingerprint(*splits: PoseDataset) -> str:
    digest = hashlib.sha256()
    for people in splits:
        names = "\n".join([*people.skeleton.joints, *(path.name for path in people.images)])
        digest.update(names.encode(errors="surrogatepass"))  # what is not UTF-8 in a file's name is a surrogate
        for array in (people.image_index, people.joints, people.visibility, people.centres, people.sizes):
            digest.update(array.tobytes())
    return digest.hexdigest()[:12]
