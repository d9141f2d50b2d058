"""A config's dataset as people to train on and people to validate on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hdmlib.config import Config, ConfigError
from hdmlib.data.coco import read_coco
from hdmlib.data.embedded import GENERATOR_VERSION, embedded_dataset
from hdmlib.data.mpii import read_mpii
from hdmlib.data.samples import DataError, PoseDataset


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
        counts = {"train": config.train_people or 2000, "val": config.val_people or 300}
        root = embedded_dataset(
            format="coco", size=config.image_size, seed=config.data_seed, progress=progress, **counts
        )
        name = f"embedded-v{GENERATOR_VERSION}-{config.image_size}px-seed{config.data_seed}"
        name += f"-{counts['train']}-{counts['val']}"
        # a picture may show more than one person
        return Data(*(_first(read_coco(root, split), count) for split, count in counts.items()), name)
    if config.data_root is None:
        raise ConfigError(f"data_root: dataset {config.dataset!r} needs the folder that holds it")
    if not config.data_root.is_dir():
        raise DataError(f"data_root: no folder {config.data_root}; relative paths start where you typed the command")
    read = {"coco": read_coco, "mpii": read_mpii}[config.dataset]
    train, val = read(config.data_root, config.train_split), read(config.data_root, config.val_split)
    if train.skeleton != val.skeleton:
        raise DataError(f"{train.name} and {val.name} have different joints; take two splits of one dataset")
    train, val = _first(train, config.train_people), _first(val, config.val_people)
    return Data(train, val, _fingerprint(train, val))


def _first(people: PoseDataset, count: int | None) -> PoseDataset:
    return people if count is None or count >= len(people) else people.subset(range(count))


def _fingerprint(*splits: PoseDataset) -> str:
    digest = hashlib.sha256()
    for people in splits:
        digest.update("\n".join([*people.skeleton.joints, *(path.name for path in people.images)]).encode())
        for array in (people.image_index, people.joints, people.visibility, people.centres, people.sizes):
            digest.update(array.tobytes())
    return digest.hexdigest()[:12]
