"""What the second tuning chose: the committed trials choose again, and the grids obey the rules."""

import pytest
import torch

from hdmlib.heatmaps import gaussian_map
from hdmlib.study.choice import (
    CHOSEN,
    CHOSEN_FOR_LARGE,
    CHOSEN_ON_FACES,
    CHOSEN_ON_PHOTOS,
    CHOSEN_PRETRAINED,
    CHOSEN_PRETRAINED_ON_FACES,
    CHOSEN_WHY,
    CHOSEN_WHY_ON_FACES,
    CHOSEN_WHY_ON_PHOTOS,
    Choice,
    choose,
    read_as,
    wider,
)
from hdmlib.study.grounds import GROUNDS, PEOPLE, PRETRAINED, TAKEN_APART
from hdmlib.study.results import published_of
from hdmlib.study.rules import (
    CHOSEN_BY,
    FACES_CHOSEN_BY,
    LENGTHS,
    MOST_TRIALS,
    TEST_PEOPLE,
    TUNING_PEOPLE,
)
from hdmlib.study.stages import (
    second_face_tuning,
    second_face_why_tuning,
    second_finals,
    second_photo_tuning,
    second_photo_why_tuning,
    second_pretrained_face_tuning,
    second_pretrained_tuning,
    second_tuning,
    second_why_tuning,
)
from hdmlib.transport.cost import Cost


def tried(stage, chosen=CHOSEN):
    """Label -> the settings of a stage's trials with their committed records, in order."""
    found = {}
    for trial in stage():
        label = trial.label.partition(":")[0]
        fields = {name: getattr(trial.config, name) for name in chosen[label].setting[2]}
        [record] = published_of([trial])[trial.label]
        found.setdefault(label, []).append(((trial.config.loss, trial.config.loss_options, fields), record))
    return found


@pytest.fixture(scope="module")
def trials():
    return tried(second_tuning)


@pytest.mark.parametrize(
    ("stage", "chosen", "by"),
    [
        (second_tuning, CHOSEN, CHOSEN_BY),
        (second_photo_tuning, CHOSEN_ON_PHOTOS, CHOSEN_BY),
        (second_face_tuning, CHOSEN_ON_FACES, FACES_CHOSEN_BY),
        (second_why_tuning, CHOSEN_WHY, CHOSEN_BY),
        (second_photo_why_tuning, CHOSEN_WHY_ON_PHOTOS, CHOSEN_BY),
        (second_face_why_tuning, CHOSEN_WHY_ON_FACES, FACES_CHOSEN_BY),
        (second_pretrained_tuning, CHOSEN_PRETRAINED, CHOSEN_BY),
        (second_pretrained_face_tuning, CHOSEN_PRETRAINED_ON_FACES, FACES_CHOSEN_BY),
    ],
)
def test_the_committed_trials_choose_what_the_finals_train(stage, chosen, by):
    found = tried(stage, chosen)
    assert {label: choose(settings, by) for label, settings in found.items()} == chosen
    assert all(len(settings) <= MOST_TRIALS for settings in found.values())


def test_a_choice_is_the_best_score_of_any_trial_decoder_and_confidence(trials):
    for label, chosen in CHOSEN.items():
        [record] = [record for setting, record in trials[label] if setting == chosen.setting]
        best = max(
            metrics["AP"]
            for _, each in trials[label]
            for metrics in (*each.by_decoder.values(), *each.other_confidence.values())
        )
        assert read_as(record, chosen.decoder, chosen.confidence)["AP"] == best


def test_ties_go_to_the_finer_localisation(trials):
    setting, record = trials["gaussian_mse"][0]
    tied = record.model_copy(deep=True)
    for metrics in (*tied.by_decoder.values(), *tied.other_confidence.values()):
        metrics["AP"] = 50.0
    tied.by_decoder["quarter"]["PCKh@0.1"] = 99.0
    assert choose([(setting, record), (setting, tied)]) == Choice(setting, "quarter", "own")


@pytest.mark.parametrize(
    ("ground", "label"), [(ground, label) for ground in (PEOPLE, *TAKEN_APART.values()) for label in ground.chosen]
)
def test_a_grid_ends_where_the_score_falls_or_at_the_most_trials(ground, label):
    ends, trials = ground.ends(label), ground.trials()[label]
    assert trials <= MOST_TRIALS
    assert not ends or trials == MOST_TRIALS, f"{label}: {ends} should be extended"


def test_the_ends_of_the_grids_are_those_that_the_tables_mark():
    found = {
        (ground.stage, label): ground.ends(label)
        for ground in (*GROUNDS[:3], PRETRAINED, *TAKEN_APART.values())
        for label in ground.chosen
    }
    assert {key: ends for key, ends in found.items() if ends} == {
        ("second_finals", "the sum"): {"lr"},
        ("second_finals", "the letter"): {"lr", "initial_bias"},
        ("second_faces", "gaussian_mse"): {"sigma"},
        ("second_pretrained", "gaussian_mse"): {"lr"},
        ("second_why", "gaussian_mse + likelihood"): {"lr"},
    }


def test_twice_as_wide_is_as_wide_in_pixels_where_a_cell_is_half_as_wide():
    options = {label: CHOSEN_FOR_LARGE[label].setting[1] for label in CHOSEN_FOR_LARGE}
    joint = torch.tensor([[9.3, 14.6]], dtype=torch.float64)
    narrow, wide = (options[label]["sigma"] for label in ("gaussian_mse", wider("gaussian_mse")))
    fine = gaussian_map(2 * joint, (48, 48), wide)
    assert torch.allclose(fine[..., ::2, ::2], gaussian_map(joint, (24, 24), narrow))
    for label in ("matching", "the sum"):
        narrow, wide = options[label], options[wider(label)]
        fine = Cost(wide["cost"], wide["tau"]).between(2 * joint, (48, 48)).view(1, 48, 48)
        coarse = Cost(narrow["cost"], narrow["tau"]).between(joint, (24, 24)).view(1, 24, 24)
        assert torch.allclose(fine[..., ::2, ::2], 2 * coarse)  # so that what is added to it doubles, too
        changed = {name: wide[name] / narrow[name] for name in wide if wide[name] != narrow[name]}
        assert changed == dict.fromkeys(LENGTHS[label], 2.0)


def test_nobody_is_tested_on_whom_a_trial_has_seen():
    assert {trial.config.data_seed for trial in second_tuning()} == {TUNING_PEOPLE["data_seed"]}
    assert {trial.config.data_seed for trial in second_finals()} == {TEST_PEOPLE["data_seed"]}
    assert TUNING_PEOPLE["data_seed"] != TEST_PEOPLE["data_seed"]
