"""Which errors are one line: those of the user's input and machine; a bug keeps its traceback."""

import os
import signal
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from jupyter_client.manager import run_kernel
from typer.testing import CliRunner

from hdmlib import MatchingLoss
from hdmlib.cli import app
from hdmlib.config import make_config
from hdmlib.data.crops import Frame, transform
from hdmlib.data.dataset import DataError
from hdmlib.data.loader import make_loader
from hdmlib.data.sources import open_data
from hdmlib.errors import Interrupted, interrupted_by_sigterm, line_for_user


def raised(action):
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        action()
    return caught.value


def test_what_the_package_refuses_and_what_the_system_refuses_is_a_line(tmp_path):
    assert line_for_user(raised(lambda: make_config(epochs=0))).startswith("epochs: ")
    assert line_for_user(raised(lambda: MatchingLoss(epsilon=-1))).startswith("epsilon ")
    assert "missing" in line_for_user(raised((tmp_path / "missing").read_bytes))


@pytest.mark.parametrize(
    "bug",
    [
        lambda: np.zeros(3).reshape(2, 2),  # a ValueError, but of numpy
        lambda: int("x"),
        lambda: {}["x"],
        lambda: transform(np.zeros((5, 3)), np.zeros((2, 3))),  # of numpy, in a line of this package
        lambda: torch.zeros(2) @ torch.zeros(3),
    ],
)
def test_a_bug_is_no_line(bug):
    assert line_for_user(raised(bug)) is None


def test_the_error_of_a_data_worker_is_its_own_line(tmp_path):
    people = open_data(make_config("smoke")).val
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(people.images[0].read_bytes()[:500])
    people = replace(people, images=(torn, *people.images[1:]))
    error = raised(lambda: list(make_loader(people, Frame((64, 64)), workers=1)))
    assert isinstance(error, DataError)
    assert "Traceback" in str(error)
    line = line_for_user(error)
    assert "\n" not in line
    assert line.startswith(f"cannot decode the photo {torn}; ")


@pytest.mark.parametrize("allocate", [lambda: torch.empty(10**15), lambda: np.empty(10**15)])
def test_too_little_memory_is_a_line_with_the_remedy(allocate):
    line = line_for_user(raised(allocate))
    assert line.startswith("out of memory (")
    assert "batch_size" in line


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_too_little_shared_memory_is_a_line_with_the_remedy():
    resource = pytest.importorskip("resource", reason="not on Windows")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # a file of /dev/shm may not be larger
        error = raised(torch.zeros(10**6).share_memory_)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "set workers=0" in line_for_user(error)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_sigterm_interrupts():
    usual = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as interrupted, interrupted_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert interrupted.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is usual


def shown(kernel, code):
    """The status of a cell and the traceback that it shows."""
    lines = []

    def hook(message):
        if message["msg_type"] == "error":
            lines.extend(message["content"]["traceback"])

    reply = kernel.execute_interactive(code, output_hook=hook, timeout=120)
    return reply["content"]["status"], lines


def test_a_notebook_shows_a_line_for_what_a_user_can_mend_and_a_traceback_for_a_bug():
    with run_kernel() as kernel:
        start = "from hdmlib.notebook import notebook_config; from hdmlib import MatchingLoss"
        assert shown(kernel, f"{start}; notebook_config({{}})") == ("ok", [])
        status, lines = shown(kernel, "notebook_config({'epochs': 0})")
        assert status == "error"
        assert lines == ["ConfigError: epochs: Input should be greater than or equal to 1 (given: 0)"]
        status, lines = shown(kernel, "open('/missing')")
        assert (status, len(lines)) == ("error", 1)
        status, lines = shown(kernel, "1 / 0")
        assert status == "error"
        assert "Traceback" in "".join(lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", f"seed={10**23}"], "seed: "),
        (["train", f"batch_size={10**30}"], "batch_size: "),
        (["train", "loss_options=" + "[" * 50000], "loss_options: "),
        (["train", "dataset=coco", "data_root=~nosuch/x"], "~nosuch/x: there is no such user"),
        (["check", "loop"], "cannot be followed"),
        (["train", "device=cuda:9"], "device: "),
        (["train", "preset=gpu_demo", "device=cpu"], "precision: bf16 needs a GPU"),
        (["train", "pretrained=damaged.pth"], "damaged.pth: no readable checkpoint"),
        (["train", "pretrained=missing.pth"], "missing.pth"),
        (["evaluate", "preset=coco_w32_256x192", "device=cuda:9", "data_root=.", "checkpoint=damaged.pth"], "device: "),
    ],
)
def test_it_is_refused_before_a_picture_is_drawn(words, message, tmp_path, monkeypatch):
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, value in {"HDMLIB_CACHE": "cache", "HDMLIB_RUNS": "runs", "PWD": "."}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "cache").exists()


def test_outside_the_main_thread_signals_are_left_alone():
    before, failures = signal.getsignal(signal.SIGTERM), []

    def enter():
        try:
            with interrupted_by_sigterm():
                pass
        except ValueError as error:
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not failures
    assert signal.getsignal(signal.SIGTERM) is before
