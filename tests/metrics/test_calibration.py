"""Whether a confidence is a probability."""

import numpy as np
import pytest

from hdmlib.metrics.calibration import calibration_error, reliability


def test_a_confidence_that_is_a_probability_is_calibrated():
    draws = np.random.default_rng(0)
    confidence = draws.random((200, 100))
    table = reliability(confidence, draws.random(confidence.shape) < confidence)
    assert list(table.index) == list(range(10))
    assert table["joints"].sum() == confidence.size
    assert calibration_error(table) < 0.02


def test_a_confidence_that_is_always_too_high():
    table = reliability(np.array([0.9, 0.95, 1.3, 0.05]), np.array([True, False, False, False]))
    assert table["joints"].tolist() == [1, 3]
    assert table["confidence"].tolist() == pytest.approx([0.05, (0.9 + 0.95 + 1) / 3])
    assert calibration_error(table) == pytest.approx((1 * 0.05 + 3 * (0.95 - 1 / 3)) / 4)
