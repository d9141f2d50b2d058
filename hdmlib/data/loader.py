"""People -> batches of crops, the same for any number of workers and from any epoch on.

A sample's order and augmentation depend on (seed, epoch, index) alone. The sampler passes (epoch, index) pairs to the
workers, which therefore need no state: persistent workers follow the epoch, and a resumed run repeats the batches of
the run that it continues.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from hdmlib.data.augmentation import Augmentation
from hdmlib.data.crops import Frame, Region, float32_parts, transform
from hdmlib.data.dataset import PoseDataset
from hdmlib.data.intake import DataWarning
from hdmlib.data.photos import read_image
from hdmlib.skeletons import Skeleton, side_of


class CropDataset(Dataset):
    """One crop per person. An item is a dict of

    - ``image`` (3, H, W) uint8 RGB,
    - ``joints`` (K, 2) float32, heatmap cells, also outside the heatmap: a loss decides whether it can use them,
    - ``weights`` (K,) float32, 1 where a joint is labelled, else 0; ``joints`` is 0 there,
    - ``index`` of the person in ``people``, and
    - ``affine`` (3, 2, 3) float32, whose sum in float64 is the affine from pixels of the photo to cells, exactly:
      Apple's GPU has no float64. ``crops.invert`` of the sum brings predictions back. In a mirrored crop the joints'
      order is mirrored, too.

    Args:
        people: The dataset.
        frame: Input size and coordinates rule.
        augmentation: How regions are drawn.
        seed: Of the augmentation, 0 or more.
        cache: Whether to decode every photo now and keep it, 3 bytes a pixel.
    """

    def __init__(
        self, people: PoseDataset, frame: Frame, augmentation: Augmentation, *, seed: int = 0, cache: bool = False
    ) -> None:
        self.people = people
        self.frame = frame
        self.augmentation = augmentation
        self.seed = seed
        self.photos = [self._photo(path) for path in people.images] if cache else []

    def __len__(self) -> int:
        return len(self.people)

    def _photo(self, path: Path) -> np.ndarray:
        return read_image(path, upright=path in self.people.upright)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor | int]:
        """The crop of person ``index`` in ``epoch``, for ``key = (epoch, index)``."""
        epoch, index = key
        people, frame = self.people, self.frame
        joints, labelled = people.joints[index], people.visibility[index] > 0
        whole = Region(people.centres[index], people.sizes[index])
        # numpy pads a short key with zeros, so that index 0 would share the numbers of the epoch's order
        rng = np.random.default_rng([self.seed, epoch, index + 1])
        region = self.augmentation.draw(whole, joints, labelled, people.skeleton.upper, rng)
        photo = self.photos[people.image_index[index]] if self.photos else self._photo(people.image_path(index))
        to_input = frame.to_input(region)
        image = frame.crop(photo, to_input)
        if self.augmentation.alters_pixels:  # draws of their own, so that the regions are those without these options
            image = self.augmentation.alter(image, np.random.default_rng([self.seed, epoch, index + 1, 1]))
        affine = frame.to_cells(to_input)
        cells = transform(joints, affine)
        cells[~labelled] = 0
        if region.mirrored:
            order = list(people.skeleton.flip_order)
            cells, labelled = cells[order], labelled[order]
        return {
            "image": torch.from_numpy(np.stack(cv2.split(image))),
            "joints": torch.from_numpy(cells.astype(np.float32)),
            "weights": torch.from_numpy(labelled.astype(np.float32)),
            "index": index,
            "affine": torch.from_numpy(float32_parts(affine)),
        }


class EpochSampler(Sampler[tuple[int, int]]):
    """Every person once an epoch, as (epoch, index).

    Attributes:
        start: Where in its order the next iterator begins; the one after that begins at 0 again.
    """

    def __init__(self, count: int, *, shuffle: bool, seed: int) -> None:
        self.count = count
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the iterators made from now on; 0 until then."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.count)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        start, self.start = self.start, 0
        return iter([(self.epoch, index) for index in order[start:].tolist()])


class BatchShares(BatchSampler):
    """One process's share of each batch; the shares of all processes are the batch.

    Args:
        sampler: The order of an epoch, the same in every process.
        batch_size: People per batch; the last batch holds the rest.
        process: Number of this process.
        processes: How many share a batch.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, process: int = 0, processes: int = 1) -> None:
        indices: Any = sampler  # pairs of epoch and index, which torch's annotations do not foresee
        super().__init__(indices, batch_size, drop_last=False)
        self.process = process
        self.processes = processes

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            first, end = share_of(len(batch), self.process, self.processes)
            # every process takes part in every step: one without a share runs the first person, at the weight 0
            yield batch[first:end] or batch[:1]


def share_of(people: int, process: int, processes: int) -> tuple[int, int]:
    """The first and the end of a process's share of a batch: shares differ by at most one person.

    The first process has one whenever there is anybody.
    """
    return -(-people * process // processes), -(-people * (process + 1) // processes)


class CropLoader(DataLoader):
    """A DataLoader whose epoch is set by the name that Accelerate's prepared loaders use, too."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the iterators made from now on.

        On a loader that Accelerate has prepared call the prepared one's method: it counts epochs itself and sets its
        sampler's epoch at the start of each.
        """
        batches: Any = self.batch_sampler
        batches.sampler.set_epoch(epoch)


def make_loader(
    people: PoseDataset,
    frame: Frame | tuple[int, int],
    *,
    augmentation: Augmentation | None = None,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    cache: bool = False,
    process: int = 0,
    processes: int = 1,
) -> CropLoader:
    """Batches of crops; call ``loader.set_epoch(epoch)`` before each epoch.

    Args:
        people: The dataset.
        frame: Input and heatmap of the network; width and height alone stand for a :class:`Frame` of that input.
        augmentation: How crops vary; ``None``: not at all.
        batch_size: People per batch; the last batch holds the rest.
        shuffle: Whether the order is a new random one each epoch.
        seed: Of order and augmentation, 0 or more.
        workers: Processes that make crops; 0 makes them in this one.
        cache: Whether to decode every photo once and keep it: 3 bytes a pixel, shared by workers where they are forked.
            Decoding is most of the work on a small crop.
        process: Number of the process that makes its share of each batch; see :class:`BatchShares`.
        processes: How many processes share a batch.

    Returns:
        A loader of dicts of :class:`CropDataset`'s items, stacked.

    Raises:
        ValueError: A parameter has no such value.

    Warns:
        DataWarning: If crops are mirrored although no joints are paired as left and right, or one has no partner.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0), ("workers", workers, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 0 <= process < processes:
        raise ValueError(f"process must be from 0 to processes - 1, got {process} of {processes}")
    if augmentation and augmentation.mirror_probability and (unpaired := _unpaired(people.skeleton)):
        warnings.warn(
            f"{people.name}: {unpaired}, so mirrored crops teach left as right; name them left_* and right_*, or give "
            "flip_pairs (pairs of 0-based numbers or of names) in the category, or set flip_probability=0",
            DataWarning,
            stacklevel=2,
        )
    frame = frame if isinstance(frame, Frame) else Frame(frame)
    return CropLoader(
        CropDataset(people, frame, augmentation or Augmentation(), seed=seed, cache=cache),
        batch_sampler=BatchShares(
            EpochSampler(len(people), shuffle=shuffle, seed=seed), batch_size, process, processes
        ),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=partial(_start_worker, trainer=os.getpid()),
        # torch draws a seed for its workers, which do not use it; this keeps the caller's global generator unchanged
        generator=torch.Generator().manual_seed(seed),
    )


def _unpaired(skeleton: Skeleton) -> str:
    """Why a mirrored crop would teach left as right; empty if it would not."""
    if len(skeleton) > 1 and not skeleton.flip_pairs:
        return "no left and right joints are known"
    paired = {joint for pair in skeleton.flip_pairs for joint in pair}
    alone = [name for number, name in enumerate(skeleton.joints) if number not in paired and side_of(name)]
    return f"no partner on the other side is known for {', '.join(alone)}" if alone else ""


def _start_worker(worker: int, trainer: int) -> None:
    """Use one core per worker, since OpenCV's thread pool does not survive a fork.

    The trainer handles the signals that a terminal and Slurm send to every process, and ends its workers itself. They
    know it by its process number: their parent may be a fork server.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by, args=(trainer,), daemon=True).start()


def _end_by(trainer: int) -> None:
    """End this process at the first SIGTERM that comes from the trainer."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(0)
