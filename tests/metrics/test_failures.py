"""Each kind of failure, made on purpose."""

import numpy as np

from hdmlib.metrics.failures import FOUND, MISSED, OTHER_JOINT, SWAPPED, failures

TWINS = [0, 2, 1]  # nose, left hand, right hand
TRUTH = np.array([[[50.0, 10.0], [20.0, 60.0], [80.0, 60.0]]])


def kinds(predictions, visible=((1, 1, 1),), lengths=(20.0,), **options):
    return failures(np.asarray([predictions]), TRUTH, lengths, visible, TWINS, **options)[0].tolist()


def test_each_kind():
    assert kinds([[55, 10], [25, 60], [80, 51]]) == [FOUND, FOUND, FOUND]
    assert kinds([[50, 10], [80, 60], [20, 60]]) == [FOUND, SWAPPED, SWAPPED]
    assert kinds([[20, 60], [50, 12], [50, 90]]) == [OTHER_JOINT, OTHER_JOINT, MISSED]


def test_the_threshold_is_inclusive_and_in_lengths():
    assert kinds([[60, 10], [20, 60], [80, 60]])[0] == FOUND
    assert kinds([[60.01, 10], [20, 60], [80, 60]])[0] == MISSED
    assert kinds([[54, 10], [20, 60], [80, 60]], threshold=0.1)[0] == MISSED


def test_a_joint_at_both_twins_counts_as_found():
    assert kinds([[50, 10], [50, 60], [50, 60]], lengths=[60.0])[1:] == [FOUND, FOUND]


def test_unlabelled_joints_are_neither_judged_nor_mistaken_for():
    assert kinds([[50, 10], [80, 60], [80, 60]], visible=[[1, 1, 0]]) == [FOUND, MISSED, ""]


def test_people_without_a_length_are_not_judged():
    assert kinds([[50, 10], [20, 60], [80, 60]], lengths=[np.nan]) == ["", "", ""]


def test_no_warning_and_a_miss_for_predictions_that_are_not_finite():
    assert kinds([[np.nan, 10], [20, 60], [np.inf, 60]]) == [MISSED, FOUND, MISSED]
