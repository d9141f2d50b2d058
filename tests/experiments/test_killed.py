"""A training that is killed at any moment resumes by the same command and ends as if nothing had happened.

Three kills here; by hand as many as wanted:

    HDMLIB_KILLS=25 python -m pytest tests/experiments/test_killed.py -p no:xdist -o addopts=--import-mode=importlib -s
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hdmlib.experiments.record import load_record

KILLS = int(os.environ.get("HDMLIB_KILLS", "3"))
WORDS = ("train", "preset=smoke", "device=cpu", "epochs=6", "loss=gaussian_mse")


@pytest.fixture(scope="module")
def start(start_command):
    return lambda folder: start_command(*WORDS, f"run_dir={folder}", PYTHONWARNINGS="ignore")


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """The folder of a run that nothing has disturbed, and its seconds."""
    folder = tmp_path_factory.mktemp("whole")
    return finish(start(folder), folder)


def finish(command, folder: Path) -> tuple[Path, float]:
    """The finished run's folder, and the seconds from the first look at the network to the end."""
    command.wait_for("epoch   0")
    began = time.monotonic()
    assert command.finish() == 0, command.printed + command.complained
    [run] = [path for path in folder.iterdir() if path.is_dir()]
    return run, time.monotonic() - began


def test_killed_at_random_moments_it_ends_the_same(start, whole, tmp_path):
    run, seconds = whole
    expected, weights = load_record(run / "record.json"), load_file(run / "model.safetensors")
    draws = random.Random(0)
    for number in range(KILLS):  # another beginning for each kill, so that all moments are as likely
        folder, moment = tmp_path / str(number), draws.uniform(0, 0.7 * seconds)
        killed = start(folder)
        killed.wait_for("epoch   0")
        time.sleep(moment)
        killed.send(signal.SIGKILL)
        assert killed.finish() == -signal.SIGKILL
        left = sorted(path.name for path in folder.rglob("*") if path.is_file())
        print(f"killed after {moment:.2f} of {seconds:.2f} s, having written {', '.join(left)}")
        resumed, _ = finish(start(folder), folder)
        record = load_record(resumed / "record.json")
        assert (record.epochs, record.by_decoder) == (expected.epochs, expected.by_decoder)
        found = load_file(resumed / "model.safetensors")
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_what_is_finished_and_names_the_remedy(start, whole, tmp_path, sent, status):
    stopped = start(tmp_path / "parts")
    stopped.wait_for("epoch   1")
    stopped.send(sent)
    assert stopped.finish(60) == status
    assert "the same command resumes" in stopped.complained
    assert "Traceback" not in stopped.complained
    resumed, _ = finish(start(tmp_path / "parts"), tmp_path / "parts")
    assert load_record(resumed / "record.json").epochs == load_record(whole[0] / "record.json").epochs
