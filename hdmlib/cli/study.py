"""The command ``study``: train the runs of a stage."""

from __future__ import annotations

from traceback import format_exception
from typing import Annotated

import typer

from hdmlib.checks import unknown_name
from hdmlib.cli.messages import one_line_errors, say
from hdmlib.cli.words import given_values
from hdmlib.config import ConfigError
from hdmlib.errors import line_for_user
from hdmlib.experiments.store import ARTEFACTS, REFERENCE_RECORDS
from hdmlib.notebook import epoch_line
from hdmlib.study.execution import train_trials
from hdmlib.study.results import publish as publish_run
from hdmlib.study.stages import RENAMED_STAGES, STAGES


def run_study(
    stage: Annotated[str, typer.Argument(help=f"one of {', '.join(STAGES)}")],
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="parameters that all runs share")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="how many runs at a time")] = 1,
    again: Annotated[
        bool, typer.Option("--again", help="train also the runs with a reference record, unless you have trained them")
    ] = False,
    publish: Annotated[bool, typer.Option(help="add the records to the reference records")] = False,
    keep: Annotated[
        list[str] | None, typer.Option(help="with --publish, what else to add of each run: predictions, model")
    ] = None,
) -> None:
    """Train the runs of a stage of the study that have no record yet."""
    stage = RENAMED_STAGES.get(stage, stage)
    with one_line_errors(resumes=True):
        if stage not in STAGES:
            raise ConfigError(f"stage {unknown_name(stage, STAGES)}")
        if publish and not REFERENCE_RECORDS.is_dir():
            raise ConfigError(f"publish: needs a clone of the repository; there is no folder {REFERENCE_RECORDS}")
        if keep and not publish:
            raise ConfigError("keep: says what to publish beside the records; pass --publish, or leave keep out")
        for artefact in keep or ():
            if artefact not in ARTEFACTS:
                raise ConfigError(f"keep: {unknown_name(artefact, ARTEFACTS)}")
        trials, finished, failed = list(STAGES[stage](**given_values(values or []))), 0, []
        try:
            for trial, found in train_trials(trials, jobs, again=again):
                named = f"{trial.config.loss:14} {trial.label:30}"
                if isinstance(found, Exception):
                    failed.append(trial.label)
                    said = line_for_user(found) or "".join(format_exception(found))  # a bug keeps its traceback
                    typer.echo(f"{named} failed: {said}", err=True)
                    continue
                finished += 1
                say(f"{named} {epoch_line(found.epochs[-1])}")
                if publish:
                    publish_run(stage, trial.config, keep or ())
        finally:
            say(f"{finished} of {len(trials)} runs are finished")
        if failed:
            raise ValueError(f"{len(failed)} of {len(trials)} runs failed: {'; '.join(failed)}")
