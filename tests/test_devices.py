"""Apple's GPU has no float64: nothing on the device may need it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from hdmlib.data.coco import read_coco
from hdmlib.data.loader import make_loader
from hdmlib.synthetic.dataset import embedded_dataset

CHECKS = Path(__file__).with_name("device_checks.py")


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch takes no backend written in Python",
)
def test_a_device_without_float64():
    command = [sys.executable, "-m", "pytest", str(CHECKS), "-q", "-n", "0", "-p", "no:cacheprovider"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=CHECKS.parents[1])
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout


def test_batches_hold_no_float64(tmp_path):
    """Accelerate moves every tensor of a batch to the device."""
    people = read_coco(embedded_dataset(tmp_path, format="coco", train=1, val=1, size=128), "val")
    batch = next(iter(make_loader(people, (64, 64))))
    assert torch.float64 not in {values.dtype for values in batch.values() if isinstance(values, torch.Tensor)}
