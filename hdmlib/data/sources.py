"""A config's dataset as people to train on and people to validate on.

A folder is looked through before anything is read: what is missing is named all at once, and for the published recipes
also where the dataset is published, how large it is and under which licence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hdmlib.config import Config, ConfigError
from hdmlib.data.coco import find_coco, read_coco
from hdmlib.data.dataset import DataError, PoseDataset
from hdmlib.data.intake import PHOTO_ENDINGS, NoAnnotations
from hdmlib.data.mpii import RELEASE_FILE, find_mpii, read_mpii
from hdmlib.presets import PUBLISHED_PRESETS
from hdmlib.synthetic.dataset import GENERATOR_VERSION, embedded_dataset


@dataclass(frozen=True)
class Data:
    """What a run learns from and is measured on.

    Attributes:
        train: People to learn from.
        val: People to be measured on.
        fingerprint: Names the data in a run's identity: changes when an annotation does, not when the folder moves.
    """

    train: PoseDataset
    val: PoseDataset
    fingerprint: str


def open_data(config: Config, progress: Callable[..., Any] | None = None) -> Data:
    """Read both splits; draw the embedded people first if that is what the config asks for and they are not there.

    Args:
        config: Names the dataset, its folder, its splits, and how many people of each to take.
        progress: Wraps the loop over the pictures that are drawn: ``progress(iterable, total=, desc=)``.

    Raises:
        DataError: The folder, a file or a split is missing or wrong; the message says what was looked for.
        ConfigError: ``data_root`` is missing, or given where it has no meaning.
    """
    if config.dataset == "synthetic":
        if config.data_root is not None:
            raise ConfigError(
                "data_root: the synthetic people need none; set dataset to coco or mpii for a folder of yours"
            )
        counts = _embedded_counts(config)
        root = embedded_dataset(
            format="coco", size=config.image_size, seed=config.data_seed, progress=progress, **counts
        )
        # a picture may show more than one person
        train, val = (_some(read_coco(root, split), 0, count) for split, count in counts.items())
        return Data(_noisy(train, config), _some(val, config.val_offset, None), embedded_fingerprint(config))
    check_folder(config, (config.train_split, config.val_split))
    read = {"coco": read_coco, "mpii": read_mpii}[config.dataset]
    train, val = read(config.data_root, config.train_split), read(config.data_root, config.val_split)
    if train.skeleton != val.skeleton:
        raise DataError(f"{train.name} and {val.name} have different joints; take two splits of one dataset")
    train, val = _some(train, 0, config.train_people), _some(val, config.val_offset, config.val_people)
    return Data(_noisy(train, config), val, _fingerprint(train, val))


def open_validation(config: Config, progress: Callable[..., Any] | None = None) -> PoseDataset:
    """The people that a config is measured on, without those it learns from; as :func:`open_data` otherwise."""
    if config.dataset == "synthetic":
        return open_data(config.model_copy(update={"train_people": 1}), progress).val
    check_folder(config, (config.val_split,))
    people = {"coco": read_coco, "mpii": read_mpii}[config.dataset](config.data_root, config.val_split)
    return _some(people, config.val_offset, config.val_people)


def embedded_fingerprint(config: Config) -> str:
    """The fingerprint of the embedded people that the config asks for; they need not have been drawn."""
    name = f"embedded-v{GENERATOR_VERSION}-{config.image_size}px-seed{config.data_seed}"
    return "-".join([name, *map(str, _embedded_counts(config).values())])


def _embedded_counts(config: Config) -> dict[str, int]:
    return {"train": config.train_people or 2000, "val": config.val_offset + (config.val_people or 300)}


@dataclass(frozen=True)
class Origin:
    """Where a published dataset comes from; nothing is ever downloaded here.

    Attributes:
        name: The dataset's name.
        site: The site that publishes it.
        download: What to fetch there, with sizes.
        licence: Under which terms.
        annotations: The annotation file of a split as published, below the dataset's folder.
        photos: The folder of its photos.
    """

    name: str
    site: str
    download: str
    licence: str
    annotations: str
    photos: str


ORIGINS = {
    "coco": Origin(
        "COCO 2017",
        "cocodataset.org",
        "2017 Train images (118,287 photos, 18 GB), 2017 Val images (5,000 photos, 1 GB) and 2017 Train/Val "
        "annotations (241 MB)",
        "annotations CC BY 4.0; each photo under the Flickr licence that the annotations name",
        "annotations/person_keypoints_{split}2017.json",
        "{split}2017/",
    ),
    "mpii": Origin(
        "MPII Human Pose",
        "human-pose.mpi-inf.mpg.de",
        "Images (about 25,000 photos, 12.9 GB); the split into train.json and valid.json with gt_valid.mat is part of "
        "the HRNet project (its README, data preparation)",
        "research use only, no commercial use",
        "annot/{split}.json",
        "images/",
    ),
}


def check_folder(config: Config, splits: Sequence[str]) -> None:
    """See that a dataset's folder holds all that a run will ask it for, before anything is read.

    Args:
        config: Names the dataset, its folder and the preset. For a published recipe the folder must also hold photos
            where they belong and, for MPII, the head sizes that PCKh is measured by.
        splits: The splits that are needed.

    Raises:
        ConfigError: ``data_root`` is missing.
        DataError: The folder is missing, or files in it: the message lists each of them, and the dataset's origin.
    """
    if config.data_root is None:
        raise ConfigError(f"data_root: dataset {config.dataset!r} needs the folder that holds it{_origin_of(config)}")
    if not config.data_root.is_dir():
        raise DataError(
            f"data_root: no folder {config.data_root}; relative paths start where you typed the command"
            f"{_origin_of(config)}"
        )
    missing = list(dict.fromkeys(file for split in splits for file in _missing(config, split)))
    if missing:
        listed = "".join(f"\n  {file}" for file in missing)
        raise DataError(f"data_root: {config.data_root} lacks{listed}{_origin_of(config)}")


def _missing(config: Config, split: str) -> list[str]:
    """What the folder lacks of one split, by the names it is published under."""
    origin = ORIGINS[config.dataset]
    published = config.preset in PUBLISHED_PRESETS
    annotations, photos = (text.format(split=split) for text in (origin.annotations, origin.photos))
    path, missing = config.data_root / annotations, []
    folders = [config.data_root / photos, config.data_root / "images" / photos]
    try:
        path, folder = {"coco": find_coco, "mpii": find_mpii}[config.dataset](config.data_root, split)
        folders = [folder]
    except NoAnnotations:
        if not published:
            raise  # with the names that were tried
        missing.append(f"{annotations} (annotations of split {split!r})")
    if not published:
        return []  # data of one's own may keep its photos anywhere
    if path.suffix == ".mat":  # MPII's release does not say who the validation people are
        path = config.data_root / annotations
        missing.append(f"{annotations} (annotations of split {split!r}; {RELEASE_FILE} has no such split)")
    if not any(_has_photos(folder) for folder in folders):
        missing.append(f"{photos} (photos)")
    heads = path.with_name(f"gt_{path.stem}.mat")
    if config.dataset == "mpii" and split == config.val_split and not heads.is_file():
        missing.append(f"{heads.relative_to(config.data_root)} (head sizes, the length that PCKh is measured in)")
    return missing


def _has_photos(folder: Path) -> bool:
    return folder.is_dir() and any(file.suffix.lower() in PHOTO_ENDINGS for file in folder.iterdir())


def _origin_of(config: Config) -> str:
    """Where to get the dataset, for the recipes that mean a published one."""
    if config.preset not in PUBLISHED_PRESETS:
        return ""
    origin = ORIGINS[config.dataset]
    return f"\n{origin.name} is published at {origin.site}: {origin.download}.\nLicence: {origin.licence}."


def _some(people: PoseDataset, start: int, count: int | None) -> PoseDataset:
    """``count`` people from ``start`` on, or as many as there are."""
    stop = len(people) if count is None else min(start + count, len(people))
    if start >= len(people):
        raise ConfigError(f"val_offset: {start} leaves nobody of the {len(people)} people of {people.name}")
    return people if (start, stop) == (0, len(people)) else people.subset(range(start, stop))


def _noisy(people: PoseDataset, config: Config) -> PoseDataset:
    """The people with worse annotations: each joint off by a normal draw in x and in y, the same in every epoch."""
    if not config.label_noise:
        return people
    lengths = people.reference_lengths(config.pck_reference or people.default_reference())
    lengths = np.where(np.isfinite(lengths), lengths, np.nanmedian(lengths))
    draws = np.random.default_rng(config.seed).standard_normal(people.joints.shape)
    return replace(people, joints=people.joints + config.label_noise * lengths[:, None, None] * draws)


def _fingerprint(*splits: PoseDataset) -> str:
    digest = hashlib.sha256()
    for people in splits:
        digest.update("\n".join([*people.skeleton.joints, *(path.name for path in people.images)]).encode())
        for array in (people.image_index, people.joints, people.visibility, people.centres, people.sizes):
            digest.update(array.tobytes())
    return digest.hexdigest()[:12]
