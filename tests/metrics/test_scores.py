"""Scores of a dataset's people: how the confidence is judged."""

from dataclasses import replace

import numpy as np
import pytest

from hdmlib.config import make_config
from hdmlib.data.dataset import DataError
from hdmlib.data.sources import open_data
from hdmlib.metrics.scores import PCKReference, score
from hdmlib.skeletons import MPII_16


@pytest.fixture(scope="module")
def people():
    return open_data(make_config("smoke")).val


def judged(people, confidence, missed):
    joints = people.joints + np.where(missed, 1e4, 0.0)[..., None]
    return score(people, joints, confidence, (64, 64), PCKReference.of(people)).known


def test_auroc_of_a_confidence_that_knows_of_one_that_guesses_and_of_one_that_errs(people):
    draws = np.random.default_rng(0)
    missed = draws.random(people.visibility.shape) < 0.3
    assert judged(people, 1.0 - missed, missed)["AUROC"] == 100
    assert judged(people, missed * 1.0, missed)["AUROC"] == 0
    assert judged(people, np.ones(missed.shape), missed)["AUROC"] == 50  # equals count half
    assert judged(people, draws.random(missed.shape), missed)["AUROC"] == pytest.approx(50, abs=8)


def test_auroc_has_no_ground_where_everything_is_found(people):
    assert "AUROC" not in judged(people, np.ones(people.visibility.shape), np.zeros(people.visibility.shape, bool))


def test_ece_is_the_distance_of_the_confidence_from_the_share_found(people):
    missed = np.random.default_rng(0).random(people.visibility.shape) < 0.3
    labelled = people.visibility > 0
    share = 1 - missed[labelled].mean()
    assert judged(people, np.full(missed.shape, 0.95), missed)["ECE"] == pytest.approx(100 * (0.95 - share), abs=1e-9)
    assert judged(people, np.where(missed, 0.0, 1.0), missed)["ECE"] == 0


def test_nme_is_the_mean_error_in_distances_of_two_joints(people):
    reference = PCKReference.of(people, "left_shoulder:right_shoulder")
    off = reference.lengths[:, None] * [0.07, 0.0]  # 7 % to the right, wherever the length is known
    scores = score(people, people.joints + off[:, None], people.visibility * 1.0, (64, 64), reference).known
    assert scores["NME"] == pytest.approx(7)
    assert scores["PCK(left_shoulder:right_shoulder)@0.1"] == 100
    assert scores["PCK(left_shoulder:right_shoulder)@0.05"] == 0


def test_labels_that_pck_does_not_count_are_refused_before_a_training(people):
    joints = len(MPII_16)
    mpii = replace(people, skeleton=MPII_16, joints=people.joints[:, :joints], visibility=people.visibility[:, :joints])
    PCKReference.check(mpii)
    centre = np.isin(MPII_16.joints, ["pelvis", "thorax"])
    with pytest.raises(DataError, match="nobody who has a head length has a labelled joint that PCK counts"):
        PCKReference.check(replace(mpii, visibility=mpii.visibility * centre))


@pytest.mark.filterwarnings("error")
def test_a_box_of_one_pixel_is_measured_by_its_height(people):
    sizes = np.stack([np.zeros(len(people)), people.sizes[:, 1]], axis=1)
    narrow = replace(people, sizes=sizes)
    found = judged(narrow, people.visibility * 1.0, np.zeros(people.visibility.shape, bool))
    assert found["mean error"] == 0
