"""A trained run as an ONNX file, which is used without hdmlib, and a model card that describes it."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from hdmlib.coordinates import ratio_and_offset
from hdmlib.data.annotation import PADDING
from hdmlib.data.crops import Frame, Region
from hdmlib.experiments.engine import frame_of
from hdmlib.experiments.record import Record, load_record
from hdmlib.experiments.store import RECORD
from hdmlib.experiments.trained import OF_RUN
from hdmlib.experiments.training import BEST, best_epoch
from hdmlib.files import write_atomically
from hdmlib.inference import Network, open_network, run_folder
from hdmlib.models.hub import NONE
from hdmlib.paths import expanded
from hdmlib.reader import IMAGENET_MEAN, IMAGENET_STD, Decoded

# Decoders whose operations ONNX has; the geometric median is an iteration that ends when it has converged.
EXPORTABLE = ("argmax", "quarter", "barycentre", "mean", "dark")
OPSET = 17


def export_onnx(checkpoint: str | os.PathLike[str], to: str | os.PathLike[str], decoder: str | None = None) -> None:
    """Write network, readout and decoder of a finished run as ONNX.

    Input ``images`` (B, 3, H, W) float32, normalised crops; outputs ``joints`` (B, K, 2), (x, y) in heatmap cells, and
    ``confidence`` (B, K). B is free.

    Args:
        checkpoint: Folder of a finished run, or a weights file in it.
        to: The file.
        decoder: Method of :func:`hdmlib.decode`; ``None``: the run's own.

    Raises:
        ValueError: The decoder cannot be exported, or the checkpoint is a file that no record describes.
        FileNotFoundError, CheckpointError: As :func:`hdmlib.inference.open_network`.
        ImportError: The package ``onnx`` is missing.
        OSError: The file cannot be written.
    """
    import onnx  # noqa: F401  # torch needs it to write the file, and its own message is less clear

    network, _ = _open(expanded(checkpoint))
    module = Decoded(network.reader.model, network.reader.loss, _decoder(network, decoder)).eval()
    width, height = network.config.input_size
    buffer, crops = io.BytesIO(), torch.zeros(2, 3, height, width)
    free = {"images": {0: "B"}, "joints": {0: "B"}, "confidence": {0: "B"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about checks that no input of the exported graph can fail
        torch.onnx.export(
            module, (crops,), buffer,  # pyright: ignore[reportArgumentType]
            input_names=["images"], output_names=["joints", "confidence"], dynamic_axes=free, opset_version=OPSET,
            dynamo=False,
        )  # fmt: skip
    write_atomically(expanded(to), buffer.getvalue())


def model_card(checkpoint: str | os.PathLike[str], file: str, decoder: str | None = None) -> str:
    """A model card in Markdown: data, recipe, scores, joints, and how the exported file is called.

    Args:
        checkpoint: As for :func:`export_onnx`.
        file: Name of the exported file.
        decoder: As for :func:`export_onnx`.

    Raises:
        ValueError, FileNotFoundError, CheckpointError: As :func:`export_onnx`.
    """
    network, record = _open(checkpoint := expanded(checkpoint))
    decoder = _decoder(network, decoder)
    if checkpoint.name != BEST:
        return _card(network, record, file, decoder, "the last epoch", record.by_decoder[decoder])
    best = record.epochs[best_epoch(record.epochs)]
    scored = f"epoch {best.epoch}, the best, decoded by `{network.reader.method}`"
    return _card(network, record, file, decoder, scored, best.validation.metrics)


def _open(checkpoint: Path) -> tuple[Network, Record]:
    """The network and the record of its run.

    Raises:
        ValueError: The checkpoint is a file that no record describes.
    """
    folder = run_folder(checkpoint)
    if checkpoint.is_file() and checkpoint.name not in OF_RUN:
        raise ValueError(f"checkpoint: no record describes {checkpoint}; that beside it is of {' and '.join(OF_RUN)}")
    return open_network(checkpoint), load_record(folder / RECORD)


def _decoder(network: Network, wanted: str | None) -> str:
    """The decoder to export."""
    decoder = wanted or network.reader.method
    if decoder not in EXPORTABLE:
        raise ValueError(f"decoder: {decoder!r} cannot be exported; choose one of {', '.join(EXPORTABLE)}")
    return decoder


def _card(network: Network, record: Record, file: str, decoder: str, scored: str, metrics: Mapping[str, float]) -> str:
    config, (width, height) = network.config, network.config.input_size
    weights = None if config.pretrained in (None, NONE) else Path(config.pretrained).name
    recipe = f"{config.epochs} epochs, batches of {config.batch_size}, {config.optimiser}, learning rate {config.lr:g}"
    scores = "\n".join(f"| {name} | {value:.1f} |" for name, value in metrics.items())
    joints = "\n".join(f"{number}. {name}" for number, name in enumerate(record.joints))
    pairs = ", ".join(f"{record.joints[a]} and {record.joints[b]}" for a, b in network.skeleton.flip_pairs) or "none"
    flip = "; with a flip test, which the exported file does not do" if config.flip_test else ""
    return f"""# {record.name}

A pose network, `{config.model}`, trained by hdmlib with `{config.loss}` (options: {config.loss_options or "defaults"}):
{recipe}, seed {config.seed}{f", from the weights `{weights}`" if weights else ""}.

* **Data**: {config.dataset}, fingerprint `{record.identity["data"]}`; {record.people["train"]} people to train on,
  {record.people["val"]} to validate on. The data's licence decides what the weights may be used for.
* **Input** `images`: (B, 3, {height}, {width}) float32, RGB crops of one person each, scaled to 0 .. 1, less
  {IMAGENET_MEAN}, over {IMAGENET_STD}. A crop shows the person's box and a quarter more.
* **Output** `joints`: (B, {len(record.joints)}, 2), (x, y) in heatmap cells, decoded by `{decoder}`.
  `confidence`: (B, {len(record.joints)}).
* **Left and right**: {pairs}.

{_example(frame_of(config), file)}

Validation after {scored}, in percent, errors in pixels of the crop{flip}; not comparable with benchmark numbers:

| metric | value |
| --- | --- |
{scores}

Joints, in the order of the outputs:

{joints}
"""


def _example(frame: Frame, file: str) -> str:
    """From a photo and a box to joints on the photo, in Markdown, for readers who do not have this package."""
    width, height = frame.input_size
    whole = frame.to_input(Region(np.zeros(2), np.array(frame.input_size, float)))
    extent, middle = (np.diag(whole) * frame.input_size).tolist(), whole[:, 2].tolist()
    ratio, offset = np.transpose([ratio_and_offset(side, frame.stride, frame.coordinates) for side in (width, height)])
    shrunk = "\nWhere a photo is shrunk to less than half, average it first, as hdmlib does (`cv2.INTER_AREA`).\n"
    return f"""```python
import cv2, numpy as np, onnxruntime

photo = cv2.cvtColor(cv2.imread("photo.jpg"), cv2.COLOR_BGR2RGB)
x, y, w, h = 0, 0, photo.shape[1], photo.shape[0]  # a person's box in pixels, on the photo

# the crop: from the box's first pixel to its last and a quarter more, in the network's proportions; black elsewhere
side = {PADDING} * max(w - 1, (h - 1) * {width} / {height}) * np.array([1, {height} / {width}])
scale = np.array({extent}) / side
shift = np.array({middle}) - scale * np.array([x + (w - 1) / 2, y + (h - 1) / 2])
crop = cv2.warpAffine(photo, np.column_stack([np.diag(scale), shift]), ({width}, {height}))
images = (crop / 255 - np.array({list(IMAGENET_MEAN)})) / np.array({list(IMAGENET_STD)})
images = images.transpose(2, 0, 1)[None].astype(np.float32)

session = onnxruntime.InferenceSession("{file}")
joints, confidence = session.run(None, {{"images": images}})
on_crop = (joints - np.array({offset.tolist()})) / np.array({ratio.tolist()})
on_photo = (on_crop - shift) / scale
```
{shrunk if frame.coordinates == "center" else ""}"""
