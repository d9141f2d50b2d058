"""The stages of the study: which runs they ask for."""

from collections import Counter

import pytest
from typer.testing import CliRunner

from hdmlib.cli import app
from hdmlib.cli import study as command
from hdmlib.losses.registry import build_loss
from hdmlib.presets import LEARNING_RATES, PRESETS
from hdmlib.study import stages as study


@pytest.mark.parametrize("stage", study.STAGES)
def test_every_run_of_a_stage_can_be_made_and_is_another_one(stage):
    trials = list(study.STAGES[stage]())
    names = Counter(trial.config.run_name("data") for trial in trials)
    repeated = names.total() - len(names)
    assert repeated == (1 if stage == "photo_tuning" else 0)  # matching as tuned is in both halves of that stage
    for trial in trials:
        build_loss(trial.config.loss, **trial.config.loss_options)


@pytest.mark.parametrize("stage", study.STAGES)
def test_a_stage_takes_values_for_all_its_runs(stage):
    assert {trial.config.batch_size for trial in study.STAGES[stage](batch_size=24)} == {24}


def test_every_loss_has_as_many_trials():
    counts = Counter(trial.config.loss for trial in study.tuning())
    assert counts == dict.fromkeys(LEARNING_RATES, 9)
    rates = [trial for trial in study.photo_tuning() if ", lr" in trial.label]
    assert Counter(trial.label.split(", lr")[0] for trial in rates) == dict.fromkeys(study.FINALISTS, 3)


def test_nobody_is_reported_on_who_was_tuned_on():
    people = PRESETS["study"]["val_offset"]
    for trial in (*study.formulation(), *study.cost(), *study.tuning(), *study.photo_tuning()):
        assert trial.config.val_offset == 0
        assert trial.config.val_people <= people
    for trial in (*study.finals(), *study.photos(), *study.conditions(), *study.larger()):
        assert trial.config.val_offset == people


def test_the_finalists_are_the_defaults():
    for label in ("matching", "gaussian_mse", "cross_entropy"):
        loss, options, lr = study.FINALISTS[label]
        assert lr == LEARNING_RATES[loss]
        plain, said = build_loss(loss), build_loss(loss, **options)
        assert {n: v for n, v in vars(plain).items() if n[0] != "_"} == {
            n: v for n, v in vars(said).items() if n[0] != "_"
        }


def test_an_installed_package_refuses_to_publish_before_it_trains(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "REFERENCE_RECORDS", tmp_path / "figures" / "records")
    result = CliRunner().invoke(app, ["study", "finals", "--publish"])
    assert result.exit_code == 2
    assert "publish: needs a clone of the repository" in result.output
