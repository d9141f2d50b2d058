"""Crops, targets, losses, decoders and scores of embedded people are the committed numbers."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

VALUES = Path(__file__).parent / "golden" / "values.json"
# Of the largest number of each array: what float32 may differ by between machines, and crops between OpenCV's releases.
TOLERANCE, PICTURES = 1e-4, 5e-3


def leaves(value, path=""):
    """Names and arrays of a nested dictionary."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}/{key}")
    elif isinstance(value, list) and value and isinstance(value[0], list) and len({np.shape(v) for v in value}) > 1:
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{number}")
    else:
        yield path, np.asarray(value, dtype=np.float64)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    spec = spec_from_file_location("make_golden_values", VALUES.with_name("make.py"))
    make = module_from_spec(spec)
    spec.loader.exec_module(make)
    return make.golden_values(tmp_path_factory.mktemp("people"))


@pytest.mark.parametrize("part", json.loads(VALUES.read_text()))
def test_golden_values(made, part):
    committed, now = (dict(leaves(values[part])) for values in (json.loads(VALUES.read_text()), made))
    assert list(now) == list(committed)
    for name, values in now.items():
        expected = committed[name]
        allowed = (PICTURES if name.endswith("pictures") else TOLERANCE) * np.abs(expected).max()
        np.testing.assert_allclose(values, expected, atol=allowed, rtol=0, err_msg=part + name)
