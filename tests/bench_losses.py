"""What the guards and the likelihood cost, as ratios of times of one run.

Run by hand, on one thread, on a machine that does nothing else:

    python -m pytest tests/bench_losses.py -p no:xdist -s -o addopts=--import-mode=importlib

Each loss is called, forward and backward, on 68 maps of 64 x 48 (four people of 17 joints). The variants take turns
within each round, so that a slower moment of the machine meets all of them; a time is the least of the rounds.
"""

import time

import pytest
import torch

from hdmlib.losses import build_loss
from hdmlib.losses.guards import InputGuard

PEOPLE, JOINTS, SIZE = 4, 17, (64, 48)
ROUNDS = 60


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch():
    generator = torch.Generator().manual_seed(0)
    heatmaps = torch.randn(PEOPLE, JOINTS, *SIZE, generator=generator).requires_grad_()
    joints = torch.rand(PEOPLE, JOINTS, 2, generator=generator) * torch.tensor([47.0, 63.0])
    return heatmaps, joints, torch.ones(PEOPLE, JOINTS)


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def step(loss, heatmaps, joints, weights):
    """A call that runs the loss forward and backward."""

    def run():
        heatmaps.grad = None
        loss(heatmaps, joints, weights).backward()

    return run


def inspect(loss, heatmaps, joints, weights):
    """A call that does what the guard does in the 1st, 2nd, 4th, 8th, ... call of a loss and leaves out between."""
    takes_part = weights > 0

    def run():
        InputGuard("", loss.expects_logits).inspect(heatmaps, joints, weights, takes_part)

    return run


def interleaved(calls):
    """The least seconds of each call, all of them once in every round."""
    times = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles, allocates
    for _ in range(ROUNDS):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: min(values) for name, values in times.items()}


@pytest.mark.parametrize("name", ["matching", "gaussian_mse", "cross_entropy"])
def test_the_guard(name):
    loss, data = build_loss(name), batch()
    found = interleaved({"step": step(loss, *data), "guard": inspect(loss, *data)})
    share = found["guard"] / found["step"]
    overall = share * 10 / 1000  # it acts in 10 of the first 1,000 calls
    print(f"\n{name}: a call in which the guard acts takes {share:.1%} longer; over 1,000 calls {overall:.2%}")
    assert overall < 0.01


def test_the_likelihood():
    data = batch()
    losses = {"matching": build_loss("matching"), "with likelihood": build_loss("matching", likelihood=0.2)}
    losses |= {"gaussian_mse": build_loss("gaussian_mse"), "cross_entropy": build_loss("cross_entropy")}
    found = interleaved({name: step(loss, *data) for name, loss in losses.items()})
    print()
    for name, value in found.items():
        print(f"{name:16} {1000 * value:7.2f} ms, {value / found['matching']:5.2f} times matching")
    assert found["with likelihood"] < 1.5 * found["matching"]
