"""Two processes on a CPU (gloo) do what one does: each person once, the same gradient, the same scores."""

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hdmlib.cli.words import config_from
from hdmlib.config import ConfigError, make_config
from hdmlib.errors import Interrupted
from hdmlib.experiments.launch import train_in_processes, warnings_in, words_of
from hdmlib.experiments.record import load_record
from hdmlib.experiments.runs import run
from hdmlib.experiments.store import Store
from hdmlib.presets import PRESETS

PROBE = Path(__file__).with_name("distributed_probe.py")
# People to train on, batch, people to validate on, parts: nothing divides anything. In the second case the last batch
# is one person, so that one of two processes has none; in the third no batch can be halved; in the fourth each process
# computes its share in two parts and exchanges gradients once.
CASES = ("7-4-21-1", "9-4-5-1", "8-3-1-1", "7-4-3-2")


def start(*command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def launched(processes: int, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *arguments)


@pytest.fixture(scope="session")
def finished(start_ranks):
    """Runs a command in several processes, without torchrun, and gives what all of them have printed."""

    def finished(count: int, *words: str, script: Path | None = None) -> str:
        ranks = start_ranks(count, *words, script=script)
        for rank in ranks:
            assert rank.finish(300) == 0, rank.printed[-3000:] + rank.complained[-3000:]
        return "".join(rank.printed for rank in ranks)

    return finished


@pytest.fixture(scope="module")
def found_by_case(start_command, finished):
    def probe(printed: str) -> dict[str, dict]:
        lines = [line for line in printed.splitlines() if line.startswith("FOUND")]
        return dict(zip(CASES, (json.loads(line.removeprefix("FOUND")) for line in lines), strict=True))

    alone = start_command(*CASES, script=PROBE)
    assert alone.finish(300) == 0, alone.complained
    return probe(alone.printed), probe(finished(2, *CASES, script=PROBE))


@pytest.fixture(params=CASES)
def one_and_two(request, found_by_case):
    return [found[request.param] for found in found_by_case]


def test_each_person_is_seen_once_and_in_the_same_steps(one_and_two):
    one, two = one_and_two
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["seen"] == two["seen"]
    everyone = list(itertools.chain(*two["seen"]))
    assert sorted(everyone) == list(range(len(everyone)))


def test_the_gradient_of_each_batch_is_the_same(one_and_two):
    for one, two in zip(*(map(np.array, found["gradients"]) for found in one_and_two), strict=True):
        assert np.abs(one).max() > 0
        assert np.linalg.norm(two - one) <= 1e-6 * np.linalg.norm(one)


def test_the_scores_are_the_same_with_an_uneven_last_batch(one_and_two):
    one, two = (found["scores"] for found in one_and_two)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-5)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["measures"] == pytest.approx(one["measures"], rel=1e-4)


def test_a_run_of_two_processes_is_written_and_printed_once(tmp_path, finished):
    words = ("train", "preset=smoke", "device=cpu", "epochs=1", f"run_dir={tmp_path}", "train_people=21")
    for number, (resume, last) in enumerate([("false", "trained"), ("true", "finished earlier"), ("false", "trained")]):
        again = (*words, f"resume={resume}")
        printed = finished(2, *again) if number else start(*launched(2, "-m", "hdmlib", *again)).stdout
        assert printed.count("epoch   1") == 1, number
        assert printed.count(f"{last}: ") == 1, number
    earlier, folder = sorted(filter(Path.is_dir, tmp_path.iterdir()), key=lambda path: path.suffix, reverse=True)
    assert earlier.name == f"{folder.name}.1"
    kept = {"last.pt", "last.1.pt", "best.safetensors", "metrics.csv", "model.safetensors", "predictions.npz"}
    kept.add("record.json")
    assert {path.name for path in folder.iterdir()} == {path.name for path in earlier.iterdir()} == kept
    assert json.loads((folder / "record.json").read_text())["people"] == {"train": 21, "val": 32}


def test_a_finished_command_has_left_the_process_group(tmp_path, finished):
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch\n"
        "from hdmlib.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print('member' if torch.distributed.is_initialized() else 'left')\n"
    )
    words = ("train", "preset=smoke", "device=cpu", "epochs=1", f"run_dir={tmp_path}", "train_people=8", "val_people=4")
    assert finished(2, *words, script=script).splitlines().count("left") == 2


@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_survives_the_command_line(preset):
    for values in ({}, {"loss_options": {"epsilon": 0.5}, "milestones": (3, 5), "dataset": "coco", "resume": False}):
        config = make_config(preset, **values)
        assert config_from(words_of(config)) == config


def test_warnings_of_the_processes_are_found_once(tmp_path):
    script = tmp_path / "a folder" / "warns.py"
    script.parent.mkdir()
    script.write_text("import warnings\nwarnings.warn('3 people: left out', RuntimeWarning)\nprint('done')\n")
    command = [sys.executable, "-W", "default", script]
    both = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    written = "W1129 10:00:00 run.py:766] Setting OMP_NUM_THREADS\n" + "".join(process.stderr for process in both)
    written += "warning: COCO train.json: mended: 2\nwarning: COCO train.json: mended: 2\n"
    assert warnings_in(written) == ["warning: 3 people: left out", "warning: COCO train.json: mended: 2"]


def test_a_notebook_trains_in_two_processes(tmp_path, capfd):
    config = make_config("smoke", device="cpu", epochs=1, run_dir=tmp_path, processes=2, resume=False)
    result = run(config, weights=True)
    assert result.trained
    assert capfd.readouterr().out.count("epoch   1") == 1
    alone = run(config.model_copy(update={"processes": None, "run_dir": tmp_path / "alone"}), weights=True).record
    assert result.record.identity == alone.identity
    # sums in another order: a learning rate 1e-7 higher moves these losses by 2e-4, too
    assert result.record.final.losses == pytest.approx(alone.final.losses, rel=2e-3)
    assert result.model()(torch.zeros(1, 3, 64, 64)).shape[-1] == 16


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_notebook_that_is_ended_ends_when_the_processes_have_saved_their_step(tmp_path):
    config = make_config("smoke", device="cpu", epochs=200, run_dir=tmp_path, processes=2, resume=False)

    def pressed(line):
        printed.append(line)
        if "epoch   1" in line:
            os.kill(os.getpid(), signal.SIGTERM)

    printed = []
    with pytest.raises(Interrupted):  # a KeyboardInterrupt, as Ctrl-C is
        train_in_processes(config, pressed)
    [path] = tmp_path.glob("*/last.pt")
    assert len(printed) < 50  # of 200 epochs
    assert not path.with_name("record.json").exists()
    state = torch.load(path)
    assert len(json.loads(state["history"])) > 2 or state["steps"]  # the step is saved, unless it was an epoch's last
    with Store.of(config).writing(path.parent.name):  # nobody holds it any more
        pass


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, finished):
    """The record of a run in two processes."""
    folder = tmp_path_factory.mktemp("whole")
    finished(2, *LONG, f"run_dir={folder}")
    return record_below(folder)


LONG = ("train", "preset=smoke", "device=cpu", "epochs=3", "loss=gaussian_mse", "train_people=160", "batch_size=8")


def record_below(folder):
    [path] = folder.glob("*/record.json")
    return load_record(path)


# torchrun passes the signal on; `hdmlib train processes=2` passes SIGINT to torchrun
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("launcher", ["torchrun", "hdmlib"])
def test_sigterm_saves_the_step_of_all_processes_and_the_rest_comes_out_the_same(
    tmp_path, finished, uninterrupted, launcher
):
    words = [*LONG, f"run_dir={tmp_path}"]
    hdmlib = ("-m", "hdmlib", *words)
    command = launched(2, *hdmlib) if launcher == "torchrun" else (sys.executable, *hdmlib, "processes=2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in process.stdout:
        if "epoch   1" in line:
            break
    process.terminate()
    _, complaint = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "the same command resumes" in complaint
    [path] = tmp_path.glob("*/last.pt")
    saved = torch.load(path)
    assert saved["steps"] > 0
    finished(2, *words)
    again = record_below(tmp_path)
    losses, expected = ([line.train_loss for line in record.epochs[1:]] for record in (again, uninterrupted))
    assert losses == pytest.approx(expected, rel=1e-5)
    assert again.final.metrics == pytest.approx(uninterrupted.final.metrics, rel=1e-5)


def test_processes_that_torchrun_has_started_start_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="torchrun has started them already"):
        run(make_config("smoke", device="cpu", run_dir=tmp_path, processes=2))


def test_what_is_wrong_in_the_processes_is_reported(tmp_path):
    options = {"reduction": "joint_mean"}
    config = make_config("smoke", device="cpu", loss_options=options, run_dir=tmp_path, processes=2, resume=False)
    with pytest.raises(ChildProcessError, match="reduction 'joint_mean' of a batch is not the mean"):
        run(config)


# Two processes, as on two machines that share nothing, or whose commands differ.
DIFFERENT = """
import os, sys
from hdmlib.cli import app
app(["train", "preset=smoke", "device=cpu", *(word.replace("RANK", os.environ["RANK"]) for word in sys.argv[1:])])
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run_dir={}/RANK",), "is not seen by the processes 1; machines that train together need a run_dir"),
        (("run_dir={}", "seed=RANK"), "the processes would train different runs"),
    ],
)
def test_processes_that_do_not_mean_the_same_run_are_refused_at_once(tmp_path, start_ranks, words, told):
    script, runs = tmp_path / "different.py", tmp_path / "runs"
    script.write_text(DIFFERENT)
    for rank in start_ranks(2, *(word.format(runs) for word in words), script=script):
        assert rank.finish(300) != 0
        assert f"error: {'run_dir: ' if '{}/RANK' in words[0] else ''}" in rank.complained
        assert told in rank.complained
    assert not [path for path in runs.rglob("*") if path.is_file()]
