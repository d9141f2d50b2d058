"""A stage's trials in processes: a failed run hides nothing, Ctrl-C stops at once and saves."""

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hdmlib.cli import app
from hdmlib.config import make_config
from hdmlib.experiments import Record, Store, run
from hdmlib.study import execution
from hdmlib.study.execution import _at_place, train_trials
from hdmlib.study.stages import Trial

TINY = {"preset": "smoke", "epochs": 1}


def test_a_failed_run_neither_stops_nor_hides_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("HDMLIB_RUNS", str(tmp_path))
    trials = [
        Trial("fails", make_config(**TINY, run_dir=tmp_path, loss="dot_mse", pretrained=tmp_path / "missing.pth")),
        Trial("sound", make_config(**TINY, run_dir=tmp_path, loss="cross_entropy")),
    ]
    found = {trial.label: result for trial, result in train_trials(trials)}
    assert isinstance(found["fails"], FileNotFoundError)
    assert isinstance(found["sound"], Record)


def test_two_labels_of_one_run_train_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HDMLIB_RUNS", str(tmp_path))
    trials = [Trial(label, make_config(**TINY, run_dir=tmp_path)) for label in ("as tuned", "half the rate")]
    (first, one), (second, other) = train_trials(trials, jobs=2)
    assert {first.label, second.label} == {"as tuned", "half the rate"}
    assert one == other


def test_a_reference_record_is_shown_or_trained_again(tmp_path, monkeypatch):
    config = make_config(**TINY, run_dir=tmp_path / "first")
    published = Store(tmp_path / "first", tmp_path / "records")
    published.publish("stage", published.own(run(config, weights=True).record.name))
    monkeypatch.setattr(Store, "of", lambda config: Store(tmp_path / "second", tmp_path / "records"))
    [(_, shown)] = train_trials([Trial("tiny", config)])
    assert not (tmp_path / "second").exists()
    trained = execution._record_of(config, again=True)
    assert [path.name for path in (tmp_path / "second").glob("*/record.json")]
    assert trained.final.metrics == pytest.approx(shown.final.metrics, rel=1e-5)
    once = (tmp_path / "second" / trained.name / "record.json").stat().st_mtime_ns
    assert execution._record_of(config, again=True) == trained
    assert (tmp_path / "second" / trained.name / "record.json").stat().st_mtime_ns == once


@pytest.mark.skipif(torch.cuda.is_available(), reason="the trials would train on this machine's GPUs")
def test_jobs_have_a_gpu_of_their_own_while_there_are_enough(tmp_path, monkeypatch):
    """Two GPUs that only this process sees: the trials, which look again, name the one that they were given."""
    monkeypatch.setenv("HDMLIB_RUNS", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    devices = [None, None, "cuda:7"]
    trials = [Trial(str(seed), make_config(**TINY, seed=seed, device=device)) for seed, device in enumerate(devices)]
    failures = [str(error) for _, error in train_trials(trials, jobs=2)]
    assert sorted(message.split("'")[1] for message in failures) == ["cuda:0", "cuda:1", "cuda:7"]
    assert all("is not on this machine" in message for message in failures)


# What stands for a trial's work, in a module that the processes of a study can import.
WORK = """
import os, signal, time
from hdmlib.experiments.engine import build_losses

def killed(config, again):
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory runs out

def mistaken(config, again=False):
    return {}["oops"]

def refused(config):
    build_losses(config.model_copy(update={"loss_options": {"epsilon": -1}}))

def slow(config, again):
    with open(f"{config.seed}.started", "w") as mark:
        mark.write(str(os.getpid()))
    time.sleep(600)

def mistaken_or_slow(config, again):
    return mistaken(config) if config.seed == 0 else time.sleep(600)
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "work_of_trials.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield importlib.import_module("work_of_trials")
    del sys.modules["work_of_trials"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_process_ends_its_own_trial_alone(work, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "_record_of", work.killed)
    trials = [Trial(str(seed), make_config(**TINY, run_dir=tmp_path, seed=seed)) for seed in range(3)]
    found = [error for _, error in train_trials(trials)]
    assert [type(error) for error in found] == [ChildProcessError] * 3
    assert "memory ran out; set fewer --jobs" in str(found[0])


def test_a_bug_in_a_trial_keeps_its_traceback_and_a_mistake_is_a_line(work, tmp_path, monkeypatch):
    monkeypatch.setenv("HDMLIB_RUNS", str(tmp_path))
    monkeypatch.setattr(execution, "record_of", work.mistaken)
    with pytest.raises(KeyError):
        execution._record_of(make_config(**TINY))
    monkeypatch.setattr(execution, "record_of", work.refused)
    with pytest.raises(execution.TrialError, match="epsilon must be a number"):
        execution._record_of(make_config(**TINY, loss="matching"))
    monkeypatch.setattr(execution, "_record_of", work.mistaken)
    shown = CliRunner().invoke(app, ["study", "gpu_demo", "preset=smoke"])
    assert shown.exit_code == 2
    assert 'return {}["oops"]' in shown.stderr
    assert "of 5 runs failed: " in shown.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_loop_that_ends_early_ends_the_running_trials(work, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "_record_of", work.mistaken_or_slow)
    trials = [Trial(str(seed), make_config(**TINY, run_dir=tmp_path, seed=seed)) for seed in range(2)]
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
    stranger = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    stranger.start()  # a process of the caller's own
    for _ in train_trials(trials, jobs=2):
        start = time.monotonic()
        break  # a failure of the caller
    signal.signal(signal.SIGINT, usual)
    assert time.monotonic() - start < 300
    stranger.join(1)
    assert stranger.is_alive()
    stranger.kill()


STUDY = """
import os
from hdmlib.study import execution
from work_of_trials import slow
from test_execution import TINY, Trial, make_config

if __name__ == "__main__":
    execution._record_of = slow
    list(execution.train_trials([Trial(str(seed), make_config(**TINY, seed=seed)) for seed in range(2)], jobs=2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_trials_end_with_their_killed_parent(sent, work, tmp_path):
    """SIGTERM as well: a script of the user's, unlike the command line, does not handle it."""
    (tmp_path / "code" / "study.py").write_text(STUDY)
    path = os.pathsep.join([str(tmp_path / "code"), str(Path(__file__).parent)])
    environment = os.environ | {"PYTHONPATH": path, "HDMLIB_RUNS": str(tmp_path / "runs")}
    parent = subprocess.Popen([sys.executable, "study.py"], cwd=tmp_path / "code", env=environment)
    marks = [tmp_path / "code" / f"{seed}.started" for seed in range(2)]
    _until(lambda: all(mark.exists() and mark.read_text() for mark in marks))
    workers = [int(mark.read_text()) for mark in marks]
    parent.send_signal(sent)
    parent.wait(30)
    _until(lambda: not any(map(_is_running, workers)))


def _until(condition, patience=120.0):
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")  # on Linux an ended orphan may wait for its new parent's look
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_jobs_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(16), raising=False)
    config = make_config(**TINY, workers=None)
    assert _at_place(make_config("laptop"), 0, 4).workers == 3
    assert _at_place(make_config("laptop"), 0, 1).workers is None
    assert _at_place(config, 1, 4).workers == config.workers  # set by the preset


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_stops_a_study_at_once(tmp_path):
    environment = os.environ | {"HDMLIB_RUNS": str(tmp_path)}
    words = ["study", "finals", "preset=smoke", "epochs=40", "--jobs", "1"]
    # what a shell has started in the background ignores the signal, and so would its children
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "hdmlib", *words], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, usual)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "of 30 runs are finished" in output
    assert "resumes" in errors
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) <= 2  # no other run was started


def test_an_unknown_stage_is_one_line():
    result = CliRunner().invoke(app, ["study", "finale"])
    assert result.exit_code == 2
    assert "Did you mean 'finals'?" in result.output
