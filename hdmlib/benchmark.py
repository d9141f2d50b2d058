"""A trained network under the official evaluation of COCO or MPII, beside the published rows of the same setting.

In: a config with data, boxes, input and decoder, and a network. Out: a :class:`Report`, and for COCO a file of results
in the format of COCO's server.

    COCO   flip test, decoding, back to the photo; score = box score x mean of the joint scores above 0.2; suppression
           of people found twice by OKS above 0.9, with the area of the padded box that is fitted to the input; AP and
           AR by pycocotools against the unchanged annotation file: people who are left out count as missed if
           their joints can be read
    MPII   PCKh at 0.5, 0.1 and 0.11 (what HRNet, DARK and UDP print as "Mean@0.1"), columns, and Mean by labels

**Confidence.** COCO's score needs a confidence for each joint. A map trained towards a Gaussian of peak 1 carries one:
its peak. One trained by the matching loss does not: the loss ignores the map's scale (ReLU) or an added constant
(softmax), so the raw peak has no scale. The peak of the *normalised* map only measures how narrow it is: a certain map
that is spread over a few cells stays below the 0.2 that a joint must exceed to be counted. The certainty of such a map
is the ``mass`` within 5 x 5 cells of the decoded joint: near 1 for a single bump, a half for two equal ones. Compared
on the 319 people of a validation subset of COCO, with their true boxes and synthetic maps: bumps as wide as their own
error is large, some of them split in two, each person's maps on an arbitrary scale (ReLU suppliers; AP as mean and
range over 5 draws):

====================== ========================== ================
confidence             AP                         joints above 0.2
====================== ========================== ================
none (1 everywhere)    58.5 (55.7 to 62.1)        100 %
raw peak               58.6 (56.4 to 61.7)         87 %
peak of normalised map 66.2 (62.4 to 69.3)         52 %
**mass**               67.2 (64.4 to 69.9)         99 %
the true OKS           70.1 (67.9 to 72.7)        100 %
====================== ========================== ================

The width of these maps equals their error by construction; for trained networks see notebook 05. The test
``test_mass_ranks_people_where_the_raw_peak_cannot`` repeats the comparison.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from hdmlib import published
from hdmlib.config import OPTION, Config, ConfigError, make_config
from hdmlib.data.coco import read_coco, read_truth
from hdmlib.data.coco_files import find_coco
from hdmlib.data.crops import Frame
from hdmlib.data.dataset import DataError, PoseDataset
from hdmlib.data.detections import read_detections
from hdmlib.data.mpii import find_mpii, read_mpii, truth_beside
from hdmlib.data.sources import check_folder
from hdmlib.experiments.engine import build_losses, check_engine
from hdmlib.experiments.prediction import predict_people
from hdmlib.experiments.trained import TrainedRun, run_of
from hdmlib.files import write_atomically
from hdmlib.losses.registry import LOSSES
from hdmlib.metrics import OKS_METRICS
from hdmlib.metrics.oks import oks_ap, oks_nms, rescore
from hdmlib.metrics.pck import PCKH_THRESHOLDS, PCKReport, pck_report
from hdmlib.models.checkpoints import load_weights
from hdmlib.models.registry import build_model, warn_if_edited
from hdmlib.presets import PUBLISHED_PRESETS

# OKS above which two predictions are one person found twice.
SAME_PERSON = 0.9
# Published rows are on all of these: photos of COCO's val2017, people of MPII's validation split.
VAL2017_PHOTOS = 5000
MPII_VAL_PEOPLE = 2958
# Published detectors are named by their AP to one digit.
BOX_AP_TOLERANCE = 0.1
DETECTORS = {56.4: published.BOXES_56, 65.1: published.BOXES_65}
# What a network was trained with, and cannot be changed afterwards; and how its maps are read, which can.
TRAINED_WITH = ("model", "input_width", "input_height", "loss", "loss_options", "coordinates")
READ_BY = ("decoder", "flip_test")
MODEL_NAMES = {"hrnet_w32": "HRNet-W32", "hrnet_w48": "HRNet-W48"}


@dataclass(frozen=True)
class Report:
    """Result of an official evaluation.

    Attributes:
        ours: The scores in percent, in the form of a published row, with the setting they were measured in.
        rows: The published rows of the same setting, perhaps none.
        remark: Why there are none; empty if there are.
        people: Number of evaluated people.
        left_out: Number of people left out, by reason.
    """

    ours: published.Result
    rows: tuple[published.Result, ...]
    remark: str
    people: int
    left_out: Mapping[str, int]

    def __str__(self) -> str:
        """The setting, a line for each score with ours first, and the sources of the published ones."""
        left_out = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items()) or "nobody"
        width, height = self.ours.input_size
        lines = [
            f"{self.ours.model}, input {width} x {height} (width x height); {self.ours.note}",
            f"{self.people} people of {self.ours.dataset}; boxes: {self.ours.boxes}; left out: {left_out}",
            f"{'':14}{'this one':>10}" + "".join(f"{f'[{n}]':>10}" for n, _ in enumerate(self.rows, start=1)),
        ]
        for name in self.ours.values:
            values = [row.values.get(name) for row in (self.ours, *self.rows)]
            lines.append(f"{name:14}" + "".join(f"{'-' if v is None else f'{v:.1f}':>10}" for v in values))
        for number, row in enumerate(self.rows, start=1):
            lines.append(f"[{number}] {row.method}: {row.source}{f' ({row.note})' if row.note else ''}")
        return "\n".join([*lines, self.remark] if self.remark else lines)

    def table(self) -> pd.DataFrame:
        """Ours first, then the published rows; NaN where a source gives no value."""
        return published.as_frame((self.ours, *self.rows))


def evaluation_config(preset: str = "laptop", **values: Any) -> Config:
    """As :func:`hdmlib.config.make_config`, with model, input, loss, decoder and flip test from a run's record.

    Where ``checkpoint`` is a run's folder or weights in it, its record replaces what the preset says of the network.
    ``decoder`` and ``flip_test`` may be given; what the network was trained with may be repeated, not changed, which
    :func:`evaluate` checks.

    Raises:
        ConfigError: As ``make_config``.
        FileNotFoundError, ValueError: ``checkpoint`` is a folder without a finished run, or the record is damaged.
    """
    given = {name: value for name, value in values.items() if value is not None}
    described = any(name in TRAINED_WITH or name.startswith(OPTION) for name in given)
    run = run_of(Path(given["checkpoint"]), described=described) if "checkpoint" in given else None
    fields = {} if run is None else {name: run.fields[name] for name in (*TRAINED_WITH, *READ_BY)}
    return make_config(preset, **fields | given)


def evaluate(config: Config, *, to: Path | None = None, progress: Callable[..., Any] | None = None) -> Report:
    """Evaluate ``config.checkpoint`` on the validation split of ``config.data_root``.

    Args:
        config: Data, boxes, checkpoint, and the network, which :func:`evaluation_config` takes from the record of a
            run; for other weights ``loss`` decides how the network's maps are read: ``gaussian_mse`` for the
            checkpoints of HRNet and mmpose.
        to: COCO: where to write the results in COCO's submission format.
        progress: Wraps the loop over batches: ``progress(iterable, total=, desc=)``.

    Raises:
        ConfigError: A parameter is missing, has no meaning here, or contradicts the record of the run.
        DataError, CheckpointError, FileNotFoundError, OSError: As the parts raise them, before the network runs where
            possible.
    """
    check_engine(config)
    checkpoint = _required(config, "checkpoint")
    if _run(config) is None and not checkpoint.is_file():
        raise FileNotFoundError(f"checkpoint: no file {checkpoint}")
    build_losses(config)
    _required(config, "data_root")
    if config.dataset == "synthetic":
        raise ConfigError("dataset: set it to coco or mpii; the scores of synthetic people are in the records of runs")
    if config.val_people is not None or config.val_offset:
        raise ConfigError("val_people, val_offset: the official evaluation is on the whole split; leave them out")
    if config.dataset == "mpii" and (config.boxes is not None or to is not None):
        raise ConfigError("boxes, to: MPII's evaluation uses the annotated positions and writes no results")
    check_folder(config, [config.val_split])
    if to is not None and not os.access(to.parent, os.W_OK):
        raise ConfigError(f"to: cannot write in {to.parent}; choose an existing folder")
    if config.dataset == "mpii":
        return evaluate_mpii(config, progress=progress)
    return evaluate_coco(config, to=to, progress=progress)


def evaluate_coco(
    config: Config,
    model: nn.Module | None = None,
    *,
    to: Path | None = None,
    progress: Callable[..., Any] | None = None,
) -> Report:
    """AP and AR of a network, as HRNet's evaluation computes them.

    Args:
        config: Data, boxes, input, loss (how maps are read), decoder, flip test.
        model: The network; ``None`` builds it from ``config.checkpoint``.
        to: Where to write the results in COCO's submission format; nowhere if ``None``.
        progress: Wraps the loop over batches.

    Raises:
        DataError: Annotations, photos or boxes are missing or not COCO's.
        CheckpointError, FileNotFoundError: The checkpoint does not fit or is not there.
        OSError: ``to`` cannot be written.
    """
    root, split, category_name = _required(config, "data_root"), config.val_split, config.category
    if config.boxes is None:
        people = read_coco(root, split, category=category_name, strict=config.preset in PUBLISHED_PRESETS)
        box_scores = np.ones(len(people))
    else:
        detections = read_detections(root, split, config.boxes, category=category_name)
        people, box_scores = detections.people, detections.scores
    truth = read_truth(root, split, category=category_name)  # before the network runs: it may be unusable
    category = truth["categories"][0]["id"]
    model = _network(config, people) if model is None else model
    prediction = predict_people(config, model, people, progress=progress)
    results = coco_results(
        people, box_scores, prediction.joints, prediction.confidence, config.input_size, category=category
    )
    if to is not None:
        write_atomically(to, json.dumps(_with_given_ids(results, truth)).encode())
    scores = oks_ap(truth, results, people.skeleton.sigmas)
    boxes = published.BOXES_TRUTH if config.boxes is None else _detector(truth, people, box_scores, category)
    whole = len(truth["images"]) == VAL2017_PHOTOS
    dataset = published.COCO if whole else f"{find_coco(root, split).annotations.name}, {len(truth['images'])} photos"
    return _report(config, people, dataset, boxes, {name: 100 * scores[name] for name in OKS_METRICS}, whole)


def evaluate_mpii(
    config: Config, model: nn.Module | None = None, *, progress: Callable[..., Any] | None = None
) -> Report:
    """PCKh of a network, as HRNet's evaluation computes it; arguments as for :func:`evaluate_coco`.

    Raises:
        DataError: Annotations, photos or head sizes are missing.
        CheckpointError, FileNotFoundError: The checkpoint does not fit or is not there.
    """
    root = _required(config, "data_root")
    people = read_mpii(root, config.val_split)
    if not np.isfinite(people.head_sizes).any():
        annotations, _ = find_mpii(root, config.val_split)
        raise DataError(
            f"{annotations}: nobody has a head size; put {truth_beside(annotations).name}, which holds them, beside it"
        )
    model = _network(config, people) if model is None else model
    prediction = predict_people(config, model, people, progress=progress)
    whole = len(people) == MPII_VAL_PEOPLE
    dataset = published.MPII if whole else f"{people.name}, {len(people)} people"
    return _report(config, people, dataset, published.BOXES_TRUTH, mpii_scores(people, prediction.joints), whole)


def coco_results(
    people: PoseDataset,
    box_scores: ArrayLike,
    joints: ArrayLike,
    confidence: ArrayLike,
    input_size: tuple[int, int],
    *,
    category: int = 1,
) -> list[dict[str, Any]]:
    """Predictions in COCO's submission format, rescored and without people found twice.

    Args:
        people: N people, for their photos and regions.
        box_scores: (N,) scores of their boxes, 1 for ground truth.
        joints: (N, K, 2) in pixels of each person's photo.
        confidence: (N, K) scores of the joints.
        input_size: Width and height of the network's input, whose aspect ratio the regions are fitted to.
        category: COCO's id of the person category.

    Returns:
        Photo by photo, best person first: ``image_id``, ``category_id``, ``keypoints`` (x, y, confidence), ``score``.
    """
    joints, confidence = np.asarray(joints, dtype=np.float64), np.asarray(confidence, dtype=np.float64)
    scores = rescore(box_scores, confidence)
    areas = Frame(input_size).extended(people.sizes).prod(axis=1)
    keypoints = np.concatenate([joints, confidence[..., None]], axis=2).reshape(len(people), -1)
    results = []
    for photo in np.unique(people.image_ids):
        here = np.flatnonzero(people.image_ids == photo)
        kept = here[oks_nms(joints[here], scores[here], areas[here], people.skeleton.sigmas, SAME_PERSON)]
        results += [
            {"image_id": int(photo), "category_id": category, "keypoints": keypoints[i].tolist(),
             "score": float(scores[i])}
            for i in kept
        ]  # fmt: skip
    return results


def _with_given_ids(results: list[dict[str, Any]], truth: dict[str, Any]) -> list[dict[str, Any]]:
    """Results with the ids of photos and category that the annotation file has, which need not be integers."""
    photos = {photo["id"]: photo["given_id"] for photo in truth["images"]}
    category = truth["categories"][0]["given_id"]
    return [{**result, "image_id": photos[result["image_id"]], "category_id": category} for result in results]


def mpii_scores(people: PoseDataset, joints: ArrayLike) -> dict[str, float]:
    """All columns of an MPII table, in percent.

    Args:
        people: N annotated people with head sizes.
        joints: (N, 16, 2) predictions in pixels.

    Returns:
        The columns (Head, ..., Ankle) and ``PCKh@0.5``, then ``PCKh@0.1`` and ``PCKh@0.11`` with their columns as
        ``Head@0.1`` and so on. Means are over joints, weighted by how often each is labelled.
    """

    def at(threshold: float) -> PCKReport:
        return pck_report(joints, people.joints, people.head_sizes, people.visibility, people.skeleton, threshold)

    scores: dict[str, float] = {}
    for label, threshold in PCKH_THRESHOLDS.items():
        report = at(threshold)
        suffix = "" if threshold == 0.5 else f"@{threshold:g}"
        scores[label] = report.mean
        scores |= {f"{column}{suffix}": value for column, value in report.columns.items()}
    return scores


# ------------------------------------------------------------------------------------------------------------ the parts


def _run(config: Config) -> TrainedRun | None:
    """The run whose network a config evaluates; ``None`` for weights that no record describes.

    Raises:
        ConfigError: The config contradicts its record.
    """
    run = run_of(_required(config, "checkpoint"), described=True)
    if run is None:
        return None
    trained = make_config(**run.fields)
    wrong = [name for name in TRAINED_WITH if getattr(config, name) != getattr(trained, name)]
    if wrong:
        listed = ", ".join(f"{name}={getattr(trained, name)}" for name in wrong)
        raise ConfigError(f"{', '.join(wrong)}: the run in {run.folder} was trained with {listed}; leave it out")
    return run


def _network(config: Config, people: PoseDataset) -> nn.Module:
    run, weights = _run(config), _required(config, "checkpoint")
    if run is not None:
        weights = run.weights
        if not run.predicts(people.skeleton.joints):
            raise DataError(
                f"data_root: {people.name} has other joints than the run in {run.folder}, which predicts "
                f"{len(run.record.joints)}: {', '.join(run.record.joints)}"
            )
        warn_if_edited(config.model, run.record.source, f"{run.folder}, which is used")
    model = build_model(config.model, num_joints=len(people.skeleton))
    load_weights(model, weights)
    return model


def _required(config: Config, name: str) -> Path:
    """A path that the config must have.

    Raises:
        ConfigError: It is ``None``.
    """
    path = getattr(config, name)
    if path is None:
        raise ConfigError(f"{name}: required by an evaluation")
    return path


def _detector(truth: dict[str, Any], people: PoseDataset, scores: NDArray[np.float64], category: int) -> str:
    """Name of the boxes: a published detector, recognised by its AP for people, or just that AP."""
    boxes: Any = [
        {"image_id": photo, "category_id": category, "bbox": box, "score": score}
        for photo, box, score in zip(people.image_ids.tolist(), people.boxes.tolist(), scores.tolist(), strict=True)
    ]
    ground_truth: Any = COCO()
    ground_truth.dataset = {**truth, "annotations": [{**a, "id": n} for n, a in enumerate(truth["annotations"], 1)]}
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(boxes), "bbox")
        evaluation.params.catIds = [category]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = 100 * float(evaluation.stats[0])
    known = (name for value, name in DETECTORS.items() if abs(precision - value) <= BOX_AP_TOLERANCE)
    return next(known, f"detector, AP {precision:.1f}")


def _report(
    config: Config, people: PoseDataset, dataset: str, boxes: str, values: dict[str, float], whole: bool
) -> Report:
    """Our scores as a row, and the published rows of the same setting."""
    decoder = config.decoder or LOSSES[config.loss].decoder
    read = f"maps of {config.loss}, {decoder} decoding, {'with' if config.flip_test else 'without'} flip test"
    model = MODEL_NAMES.get(config.model, config.model)
    ours = published.Result("this network", model, dataset, boxes, config.input_size, values, "measured here", read)
    methods = _methods(config, decoder)
    rows: tuple[published.Result, ...] = ()
    if not whole:
        benchmark = published.COCO if config.dataset == "coco" else published.MPII
        remark = f"no published row: this is not all of {benchmark}, and scores on a part of it are not comparable"
    elif not config.flip_test:
        remark = "no published row: all of them are with flip test"
    else:
        setting = {"model": model, "dataset": dataset, "boxes": boxes, "input_size": config.input_size}
        rows = tuple(
            row
            for row in published.RESULTS
            if row.method in methods and all(getattr(row, name) == value for name, value in setting.items())
        )
        wanted = ", ".join(f"{name} {value}" for name, value in setting.items())
        remark = "" if rows else f"no published row for {wanted}, {read}"
    return Report(ours, rows, remark, len(people), people.left_out)


def _methods(config: Config, decoder: str) -> tuple[str, ...]:
    """The published methods with this loss, these coordinates and this decoder; none for other combinations."""
    if config.loss != "gaussian_mse":
        row = published.TABLE_1.get(config.loss)
        return (row.method,) if row else ()
    known = {
        ("hrnet", "quarter"): ("HRNet", "mmpose", published.TABLE_1["gaussian_mse"].method),
        ("hrnet", "dark"): ("HRNet + DARK",),
        ("udp", "dark"): ("HRNet + UDP",),
    }
    return known.get((config.coordinates, decoder), ())
