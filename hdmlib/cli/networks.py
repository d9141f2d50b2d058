"""Commands that use a trained network: evaluate a checkpoint, export a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hdmlib.benchmark import evaluate, evaluation_config
from hdmlib.cli.messages import one_line_errors, print_written, say
from hdmlib.cli.words import given_values
from hdmlib.experiments.trained import files_of
from hdmlib.export import export_onnx, model_card
from hdmlib.extras import requires_extra
from hdmlib.files import write_atomically
from hdmlib.notebook import progress
from hdmlib.outputs import (
    check_ending,
    check_outputs,
)
from hdmlib.paths import from_caller


def evaluate_checkpoint(
    values: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE...", help="preset, checkpoint, data_root, loss, boxes, ...")
    ],
    to: Annotated[Path | None, typer.Option(help="COCO: write the results here, in COCO's submission format")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a file that exists")] = False,
) -> None:
    """Evaluate a checkpoint as COCO or MPII does, beside the published row of its setting.

    A run of yours, its folder or weights in it, is read as its record says; decoder and flip_test may be given. Give
    loss=gaussian_mse for the checkpoints of HRNet and mmpose: the loss decides how heatmaps are read.
    """
    with one_line_errors():
        config = evaluation_config(**given_values(values))
        if to is not None:
            to = from_caller(to)
            read = [*(files_of(config.checkpoint) if config.checkpoint else ()), *filter(None, [config.boxes])]
            check_outputs([to], read, overwrite=overwrite)
        report = evaluate(config, to=to, progress=progress)
    say(report)


def export_run(
    checkpoint: Annotated[Path, typer.Argument(help="the folder of a finished run, or a weights file in it")],
    to: Annotated[Path, typer.Option(help="the ONNX file, *.onnx; its model card is written beside it, *.md")],
    decoder: Annotated[str | None, typer.Option(help="how joints are decoded; by default as the run does")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace files that exist")] = False,
) -> None:
    """Write a run as ONNX, network, readout and decoder in one, and a model card as Markdown."""
    with one_line_errors():
        to = from_caller(to)
        check_ending("to", to, [".onnx"])
        card = to.with_suffix(".md")
        check_outputs([to, card], [], overwrite=overwrite)
        text = model_card(checkpoint, to.name, decoder)  # first, for it needs the record, and writes nothing
        with requires_extra("export", "hdmlib export"):
            export_onnx(checkpoint, to, decoder)
        write_atomically(card, text.encode())
        print_written([to, card])
