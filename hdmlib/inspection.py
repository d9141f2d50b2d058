"""What a folder of annotated photos holds, before anything is trained: a folder in, a report and twelve people out.

The report lists the files, people, joints, left-right pairs and box sizes of each split, and what was mended or left
out and why. The twelve people are to be looked at with their joints drawn by name: a wrong order of the joints or a
wrong left and right is seen at once, and by no program.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hdmlib.config import Config, ConfigError
from hdmlib.data.coco_files import find_coco
from hdmlib.data.crops import Frame, Region, transform
from hdmlib.data.dataset import DataError, PoseDataset
from hdmlib.data.intake import PROTOCOL_REASONS, listed
from hdmlib.data.layouts import NoAnnotations
from hdmlib.data.mpii import find_mpii
from hdmlib.data.photos import read_image
from hdmlib.data.sources import check_folder, embedded_folder, open_data, read_split
from hdmlib.experiments.engine import training_loader
from hdmlib.metrics.scores import PCKReference
from hdmlib.paths import printable
from hdmlib.skeletons import Skeleton

SHOWN = 12
# By exit status.
VERDICTS = ("ready to train", "usable; see the remarks above", "not usable")
# Side of a drawn crop in pixels.
CROP = 320


@dataclass(frozen=True)
class SplitReport:
    """One split of a dataset.

    Attributes:
        split: Its name.
        annotations: The annotation file, from the dataset's folder.
        photos: The folder where its photos are expected, likewise.
        people: Those who can be used; ``None`` if the split cannot be read.
        remarks: Warnings of the reader, one line each: what was mended or left out, and why.
        error: Why the split cannot be read; empty if it can.
    """

    split: str
    annotations: Path | None
    photos: Path | None
    people: PoseDataset | None
    remarks: tuple[str, ...]
    error: str = ""

    def lines(self) -> list[str]:
        """The report as text."""
        lines = [f"split {self.split}: {self.annotations or 'no annotation file'}"]
        if self.people is None:
            return [*lines, *f"  error: {self.error}".splitlines()]
        people = self.people
        lines += [f"  photos in {self.photos}", f"  {len(people)} people on {len(people.images)} photos"]
        sides = np.sort(people.boxes[:, 2:].max(axis=1))
        low, middle, high = np.quantile(sides, [0.05, 0.5, 0.95])
        lines.append(f"  longer side of the boxes: {low:.0f}, {middle:.0f}, {high:.0f} pixels (5 %, median, 95 %)")
        protocol = {reason: n for reason, n in people.left_out.items() if reason in PROTOCOL_REASONS}
        lines += [f"  not used, as in COCO's protocol: {listed(protocol)}"] if protocol else []
        return [*lines, *(f"  {remark}" for remark in self.remarks)]


@dataclass(frozen=True)
class Inspection:
    """A dataset's splits, and whether they can be trained on.

    Attributes:
        splits: Reports of the splits.
        problem: Why the splits do not fit together; empty if they do, or were not read together.
        remarks: Warnings that concern both splits, one line each.
    """

    splits: tuple[SplitReport, ...]
    problem: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def readable(self) -> list[SplitReport]:
        """The splits that can be read."""
        return [report for report in self.splits if report.people is not None]

    @property
    def status(self) -> int:
        """0: ready; 1: usable, with remarks; 2: not usable."""
        if self.problem or len(self.readable) < len(self.splits):
            return 2
        return int(bool(self.remarks) or any(report.remarks for report in self.splits))

    def __str__(self) -> str:
        lines: list[str] = []
        for report in self.splits:  # what is wrong with the folder is said once
            lines += [line for line in report.lines() if report.people is not None or line not in lines]
        if self.readable:
            lines += _joint_lines(self.readable)
        lines += self.remarks
        if self.problem:
            lines.append(f"error: {self.problem}")
        return "\n".join([*lines, VERDICTS[self.status]])


def dataset_format(root: Path, split: str) -> Literal["coco", "mpii"]:
    """``mpii`` if the folder has annotations of the split in MPII's format and none in COCO's, else ``coco``."""
    try:
        find_coco(root, split)
    except NoAnnotations:
        with suppress(DataError):
            find_mpii(root, split)
            return "mpii"
    except DataError:
        pass  # reported when the split is read
    return "coco"


def inspect_dataset(config: Config, splits: Sequence[str] = ()) -> Inspection:
    """Read splits of a config's dataset as a training would, and report instead of raising.

    Args:
        config: ``dataset``, ``data_root``, ``train_split``, ``val_split``, ``category``.
        splits: The splits to read; by default those of the config, which are also checked against each other.

    Raises:
        ConfigError: ``data_root`` is missing.
    """
    if config.dataset == "synthetic":
        config = config.model_copy(update={"dataset": "coco", "data_root": embedded_folder(config)})
    reports = tuple(_inspect(config, split) for split in splits or (config.train_split, config.val_split))
    if splits or any(report.people is None for report in reports):
        return Inspection(reports)
    problem = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = open_data(config)
            training_loader(config, data.train)  # warns where mirrored crops would teach left as right
            PCKReference.check(data.val, config.pck_reference)
        except (DataError, ConfigError) as error:
            problem = str(error)
    of_splits = {remark for report in reports for remark in report.remarks}
    together = dict.fromkeys(str(one.message) for one in caught)
    return Inspection(reports, problem, tuple(remark for remark in together if remark not in of_splits))


def _inspect(config: Config, split: str) -> SplitReport:
    annotations = photos = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_folder(config, (split,))
            if config.dataset == "coco":
                files = find_coco(config.data_root or Path(), split)
                annotations, photos = files.annotations, files.photos
            else:
                annotations, photos = find_mpii(config.data_root or Path(), split)
            people, error = read_split(config, split), ""
        except (DataError, OSError) as fault:
            people, error = None, str(fault)
    remarks = tuple(str(one.message) for one in caught)
    return SplitReport(split, _within(config, annotations), _within(config, photos), people, remarks, error)


def _within(config: Config, path: Path | None) -> Path | None:
    """A path as seen from the dataset's folder, if it lies there."""
    root = config.data_root or Path()
    return path.relative_to(root) if path is not None and path.is_relative_to(root) else path


def _joint_lines(reports: Sequence[SplitReport]) -> list[str]:
    """A line per joint: how often it is labelled and visible in each split, and its partner on the other side."""
    first = reports[0].people
    assert first is not None
    skeleton = first.skeleton
    partners = dict(pair for a, b in skeleton.flip_pairs for pair in ((a, b), (b, a)))
    lines = [f"{len(skeleton)} joints: labelled (visible) in " + ", ".join(report.split for report in reports)]
    for k, name in enumerate(skeleton.joints):
        counts = []
        for report in reports:
            flags = report.people.visibility[:, k] if report.people is not None else np.zeros(0)
            counts.append(f"{(flags > 0).sum()} ({(flags == 2).sum()})")
        partner = f"  <-> {skeleton.joints[partners[k]]}" if k in partners else ""
        lines.append(f"  {k:3d} {name:20} {'  '.join(f'{count:>16}' for count in counts)}{partner}")
    return lines


@dataclass(frozen=True, eq=False)
class ShownPeople:
    """N crops with their annotation, for a contact sheet.

    Attributes:
        pictures: (N, S, S, 3) uint8.
        joints: (N, K, 2) in pixels of the crops.
        labelled: (N, K) bool.
        titles: Each person's split, photo and annotation.
        skeleton: The K joints.
    """

    pictures: NDArray[np.uint8]
    joints: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    titles: tuple[str, ...]
    skeleton: Skeleton


def people_to_show(found: Inspection, count: int = SHOWN) -> ShownPeople:
    """People of all readable splits in equal numbers, spread evenly over each, cropped as for training.

    The same in every call. Splits with other joints than the first are left out.

    Raises:
        DataError: No split can be read, or a photo cannot be decoded.
    """
    first = next((report.people for report in found.readable), None)
    if first is None:
        raise DataError("no split can be read, so nobody can be drawn")
    groups = [
        (report.split, report.people)
        for report in found.readable
        if report.people is not None and report.people.skeleton.joints == first.skeleton.joints
    ]
    shown = [person for split, people in groups for person in _crops(split, people, count // len(groups))]
    pictures, joints, visibility, titles = zip(*shown, strict=True)
    return ShownPeople(np.array(pictures), np.array(joints), np.array(visibility) > 0, titles, first.skeleton)


def _crops(split: str, people: PoseDataset, count: int) -> Iterator[tuple[NDArray, NDArray, NDArray, str]]:
    """Picture, joints, flags and title of people spread evenly over a split."""
    frame = Frame((CROP, CROP))
    for index in np.unique(np.linspace(0, len(people) - 1, min(count, len(people))).round().astype(int)):
        path = people.image_path(index)
        to_input = frame.to_input(Region(people.centres[index], people.sizes[index]))
        picture = frame.crop(read_image(path, upright=path in people.upright), to_input)
        title = f"{split}: {printable(path.name)}, annotation {people.annotation_ids[index]}"
        yield picture, transform(people.joints[index], to_input), people.visibility[index], title
