"""A trained run as an ONNX file, which is used without hdmlib, and a model card that describes it."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from hdmlib.experiments.engine import frame_of
from hdmlib.experiments.record import Record, load_record
from hdmlib.experiments.store import RECORD
from hdmlib.experiments.training import BEST, best_epoch
from hdmlib.files import write_atomically
from hdmlib.inference import OF_RUN, Network, open_network, run_folder
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
    stride = frame_of(config).stride
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

```python
import hdmlib, onnxruntime
session = onnxruntime.InferenceSession("{file}")
joints, confidence = session.run(None, {{"images": images}})
# pixels of the crop
pixels = hdmlib.pixels_from_cells(joints, ({width}, {height}), stride={stride}, rule="{config.coordinates}")
```

Validation after {scored}, in percent, errors in pixels of the crop{flip}; not comparable with benchmark numbers:

| metric | value |
| --- | --- |
{scores}

Joints, in the order of the outputs:

{joints}
"""
