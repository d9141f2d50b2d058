"""Apple's GPU has no float64: nothing on the device may need it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from hdmlib.config import ConfigError, make_config
from hdmlib.data.coco import read_coco
from hdmlib.data.crops import Frame
from hdmlib.data.loader import make_loader
from hdmlib.experiments.engine import check_engine, start_engine
from hdmlib.heatmaps import demanders
from hdmlib.losses import build_loss
from hdmlib.reader import normalise
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
    batch = next(iter(make_loader(people, Frame((64, 64)))))
    assert torch.float64 not in {values.dtype for values in batch.values() if isinstance(values, torch.Tensor)}


@pytest.mark.parametrize("name", ["gaussian_mse", "dot_mse", "cross_entropy", "soft_argmax"])
def test_a_step_brings_no_numbers_from_the_host(name, monkeypatch):
    """A copy would make the host wait for the device. What matching's kernel is given are its demanders."""
    loss, maps, joints = build_loss(name), torch.rand(2, 3, 16, 12), torch.rand(2, 3, 2) * 11
    images = torch.zeros(2, 3, 64, 48, dtype=torch.uint8)
    normalise(images)  # keeps its statistics on the device

    def refuse(*_args, **_options):
        raise AssertionError("a tensor is made on the host")

    for maker in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, maker, refuse)
    normalise(images)
    loss(maps.requires_grad_(), joints, torch.ones(2, 3)).backward()
    demanders(joints, (16, 12))
    assert maps.grad is not None


def test_cudnn_looks_for_its_fastest_algorithms(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    start_engine(make_config("smoke", device="cpu"))
    assert torch.backends.cudnn.benchmark


def test_one_of_several_gpus_is_for_one_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_engine(make_config("smoke", device="cuda:1")) == "cuda:1"
    assert check_engine(make_config("smoke", processes=2)) == "cuda"
    with pytest.raises(ConfigError, match="'cuda:2' is not on this machine; usable here: cuda, cpu, cuda:0, cuda:1"):
        check_engine(make_config("smoke", device="cuda:2"))
    for values, started in (({"processes": 2}, "1"), ({}, "2")):
        monkeypatch.setenv("WORLD_SIZE", started)
        with pytest.raises(ConfigError, match="each of several processes takes its own"):
            check_engine(make_config("smoke", device="cuda:1", **values))
