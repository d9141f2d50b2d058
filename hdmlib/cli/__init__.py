"""The command line: ``hdmlib train preset=laptop loss=matching``, likewise with ``python -m hdmlib``.

words      NAME=VALUE words of a command in, a config out
messages   what a command says when it ends; errors as one line
training   train, runs, gallery, parameters
photos     predict
networks   evaluate, export
datasets   check, data
study      study
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from hdmlib import __version__
from hdmlib.cli.datasets import check_dataset, get_samples, make_faces, make_lspet, make_people
from hdmlib.cli.networks import evaluate_checkpoint, export_run
from hdmlib.cli.photos import SeveralBoxes, predict_photo
from hdmlib.cli.study import run_study
from hdmlib.cli.training import gallery, parameters, runs, train
from hdmlib.cli.words import WithWords

app = typer.Typer(add_completion=False, no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hdmlib {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="show the version and leave")
    ] = False,
) -> None:
    """Train pose networks with the matching loss and its controls."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show loses no result


app.command(cls=WithWords)(train)
app.command(cls=WithWords)(runs)
app.command(cls=WithWords)(gallery)
app.command("predict", cls=SeveralBoxes)(predict_photo)
app.command("evaluate", cls=WithWords)(evaluate_checkpoint)
app.command("export")(export_run)
app.command("check", cls=WithWords)(check_dataset)
app.command("study", cls=WithWords)(run_study)
app.command(cls=WithWords)(parameters)
data_commands = typer.Typer(no_args_is_help=True, help="Make or fetch data that is not part of the project.")
data_commands.command("people")(make_people)
data_commands.command("lspet")(make_lspet)
data_commands.command("faces")(make_faces)
data_commands.command("samples")(get_samples)
app.add_typer(data_commands, name="data")
