"""What works where only torch and numpy are installed, and the error for the rest."""

import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def closure(name, known=None):
    """Names of the distributions that installing ``name`` brings on this platform, itself included."""
    known = set() if known is None else known
    if name not in known:
        known.add(name)
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                closure(requirement.name, known)
    return known


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """Runs Python on an import path that holds torch, numpy, what these require, and hdmlib."""
    folder = tmp_path_factory.mktemp("core")
    installed = map(distribution, closure("torch") | closure("numpy"))
    tops = {here.locate_file(file.parts[0]) for here in installed for file in here.files or ()}
    for top in tops:
        if top.name not in ("..", "__pycache__"):
            (folder / top.name).symlink_to(top)
    (folder / "hdmlib").symlink_to(ROOT / "hdmlib")

    def python(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        command = [sys.executable, "-S", *arguments]  # without site-packages
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return python


def test_every_loss_and_decoder_works_on_torch_and_numpy(core):
    program = """
import sys, torch
from hdmlib import MatchingLoss, build_loss, decode
from hdmlib.decoding import METHODS
from hdmlib.losses import LOSSES
maps, joints, weights = torch.rand(2, 3, 12, 10, requires_grad=True), torch.rand(2, 3, 2) * 9, torch.ones(2, 3)
for name in LOSSES:
    build_loss(name)(maps, joints, weights).backward()
for method in METHODS:
    assert decode(maps.detach(), method)[0].shape == (2, 3, 2), method
MatchingLoss()(maps, joints, weights)
print(sorted({"numba", "pydantic", "cv2", "triton", "torch._dynamo"} & sys.modules.keys()))
"""
    done = core("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", ["predict", "load_weights"])
def test_a_name_of_the_training_extra_is_refused_in_one_line(core, name):
    done = core("-c", f"from hdmlib import {name}")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        rf"ImportError: hdmlib\.{name} needs \w+, .*: pip install '\.\[train\]' in the clone of hdmlib", last
    ), done.stderr


def test_the_command_line_names_its_extra_without_a_traceback(core):
    done = core("-m", "hdmlib", "parameters")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install '.[train]' in the clone" in done.stderr
