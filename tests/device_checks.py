"""Losses, decoders, reading and reports on a device that has no float64, as on the CPU.

Not collected by itself, since the stand-in stays in its process: ``test_devices.py`` starts one for it.
"""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from hdmlib.decoding import METHODS, decode, joints_from_heatmaps
from hdmlib.losses import LOSSES, build_loss
from hdmlib.metrics.compactness import compactness
from hdmlib.reader import Reader

_SPEC = spec_from_file_location("device_without_float64", Path(__file__).with_name("device_without_float64.py"))
stand_in = module_from_spec(_SPEC)
_SPEC.loader.exec_module(stand_in)


@pytest.fixture
def device():
    with stand_in.device_without_float64() as made:
        yield made


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 16, 12, generator=generator)
    joints = torch.rand(2, 3, 2, generator=generator) * 11
    return maps, joints, torch.tensor([[1.0, 1, 0], [1, 1, 1]])


def test_the_stand_in_refuses_what_the_device_does(device):
    values = torch.ones(2, 2).to(device)
    assert values.device == device
    assert (values + 1).sum().cpu() == 8
    with pytest.raises(TypeError, match="float64"):
        values.double()
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(3, dtype=torch.float64, device=device)
    with pytest.raises(TypeError, match="float64"):
        torch.ones(2, dtype=torch.float64).to(device)
    with pytest.raises(RuntimeError, match="same device"):
        values + torch.ones(2, 2)


OPTIONS = [(name, {}) for name in LOSSES] + [
    ("matching", {"regulariser": "entropy", "suppliers": "relu"}),
    ("matching", {"regulariser": "debiased"}),
    ("matching", {"likelihood": 0.2, "cost": "sqeuclidean", "demanders": "naive"}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_losses(name, options, batch, device):
    """The value; matching's gradient is made with it, in its operator."""
    loss, there = build_loss(name, **options), [part.to(device) for part in batch]
    value = loss(*there)
    assert value.device == device
    torch.testing.assert_close(value.cpu(), loss(*batch), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(loss.readout(there[0]).cpu(), loss.readout(batch[0]), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("method", METHODS)
def test_decoders(method, batch, device):
    expected, found = decode(batch[0], method), decode(batch[0].to(device), method)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_crops_are_read(name, device):
    """By a network of one layer, without a flip test: the stand-in cannot be indexed by a list."""
    generator, loss = torch.Generator().manual_seed(1), build_loss(name).eval()
    images = torch.randint(256, (2, 3, 64, 48), dtype=torch.uint8, generator=generator)
    weight = torch.randn(3, 3, 4, 4, generator=generator) / 7
    expected, found = (
        Reader(lambda inputs, there=there: functional.conv2d(inputs, weight.to(there), stride=4), loss, (1, 0, 2))(
            images.to(there)
        )
        for there in ("cpu", device)
    )
    assert found.raw.device == device
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-3)


def test_reports(batch, device):
    maps = batch[0].to(device)
    for name, values in compactness(batch[0]).items():
        torch.testing.assert_close(compactness(maps)[name].cpu(), values)
    for ours, theirs in zip(joints_from_heatmaps(maps), joints_from_heatmaps(batch[0]), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs)
