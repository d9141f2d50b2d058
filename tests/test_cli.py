"""The command line beside training and prediction: what it lists, how options are given, how it warns."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hdmlib
from hdmlib import __version__
from hdmlib.cli import app
from hdmlib.cli.messages import one_line_errors
from hdmlib.cli.words import config_from
from hdmlib.config import ConfigError, make_config
from hdmlib.data.intake import DataWarning
from hdmlib.errors import Interrupted
from hdmlib.experiments import run


def call(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    return result.exit_code, result.output


def test_the_version():
    assert call("--version") == (0, f"hdmlib {__version__}\n")


def test_parameters_shows_the_values_of_a_preset_the_choices_and_the_options_of_the_loss():
    code, output = call("parameters", "preset=smoke", "loss=gaussian_mse")
    assert code == 0
    lines = {line.split()[0]: line for line in output.splitlines() if line}
    assert lines["epochs"].split()[1] == "2"
    assert "(argmax, quarter, barycentre, mean, dark, transport)" in lines["decoder"]
    assert "loss_options of gaussian_mse: sigma=0.75" in output
    larger = call("parameters", "input_width=192", "input_height=192", "loss=gaussian_mse")[1]
    assert "loss_options of gaussian_mse: sigma=1.5, rounded=False" in larger
    assert call("parameters", "preset=smok")[0] == 2


@pytest.mark.parametrize("text", [".05", "0.05", "5e-2"])
def test_a_number_of_an_option_may_be_written_as_python_writes_it(text):
    assert config_from(["loss=matching", f"loss_options.epsilon={text}"]).loss_options == {"epsilon": 0.05}


def test_a_single_option_of_the_loss_is_set_beside_those_of_the_preset():
    config = config_from(["preset=coco_w32_384x288", "loss=gaussian_mse", "loss_options.sigma=2.5"])
    assert config.loss_options == {"sigma": 2.5, "rounded": True}
    assert config_from(["loss_options.likelihood=0.1", "loss_options.cost=euclidean"]).loss_options == {
        "likelihood": 0.1,
        "cost": "euclidean",
    }
    with pytest.raises(ConfigError, match="not both"):
        config_from(['loss_options={"sigma": 2}', "loss_options.sigma=3"])


@pytest.mark.parametrize(("name", "original"), [("lspet", "LSP Extended"), ("faces", "udacity/P1_Facial_Keypoints")])
def test_a_missing_original_is_an_error_of_one_line(name, original, tmp_path):
    code, said = call("data", name, "--from", tmp_path / "none", "--to", tmp_path / "out")
    assert code == 2
    assert said.startswith("error: from: no folder")
    assert said.count("\n") == 1
    assert original in said


@pytest.mark.parametrize("format", ["coco", "mpii"])
def test_embedded_people_are_drawn_as_a_folder_that_trains(format, tmp_path):
    code, said = call("data", "people", "--format", format, "--train", 4, "--val", 2, "--size", 64, "--to", tmp_path)
    assert code == 0
    folder = said.splitlines()[-1].removeprefix("4 training and 2 validation pictures in ")
    assert call("check", folder, "--format", format)[0] == 0


def test_runs_are_listed_by_what_they_differ_in(tmp_path):
    assert "no runs in" in call("runs", f"run_dir={tmp_path}")[1]
    shared = {"preset": "smoke", "epochs": 1, "run_dir": tmp_path}
    first = run(make_config(**shared, loss="dot_mse"))
    second = run(make_config(**shared, loss="gaussian_mse", loss_options={"sigma": 1.0}))
    third = tmp_path / f"{first.folder.name}-unfinished"
    shutil.copytree(second.folder, third)
    (third / "record.json").unlink()
    code, output = call("runs", f"run_dir={tmp_path}")
    assert code == 0
    heading, *rows = output.splitlines()
    assert {"state", "loss", "PCKh@0.5", "AP"} <= set(heading.split())
    assert "epochs" not in heading  # the same for all
    told = {row.split()[0]: row.split()[1:] for row in rows}
    assert told[first.folder.name][:2] == ["finished", "dot_mse"]
    assert told[third.name] == ["unfinished"]


def test_a_warning_of_ours_is_one_line_without_code(tmp_path):
    with one_line_errors():
        ours = warnings.formatwarning("3 left out", DataWarning, "sources.py", 91)
        other = warnings.formatwarning("old", DeprecationWarning, "x.py", 3)
    assert ours == "warning: 3 left out\n"
    assert "x.py:3" in other
    assert "sources.py:91" in warnings.formatwarning("3 left out", DataWarning, "sources.py", 91)


@pytest.mark.parametrize(
    ("words", "work", "resumes"),
    [
        (["train", "preset=smoke"], "training.run", True),
        (["gallery", "--to", "out.png", "preset=smoke"], "training.run", True),
        (["study", "cost"], "study.train_trials", True),
        (["predict", "1.jpg", "--checkpoint", "run"], "photos.photos_of", False),
        (["check", "."], "datasets.dataset_format", False),
        (["evaluate", "preset=smoke"], "networks.evaluate", False),
        (["export", "run", "--to", "out.onnx"], "networks.model_card", False),
    ],
)
@pytest.mark.parametrize(("interruption", "status"), [(KeyboardInterrupt(), 130), (Interrupted("", 15), 143)])
def test_an_interruption_promises_to_resume_where_it_does(words, work, resumes, interruption, status, monkeypatch):
    def interrupted(*args, **kwargs):
        raise interruption

    monkeypatch.setattr(f"hdmlib.cli.{work}", interrupted)
    code, output = call(*words)
    assert code == status
    assert "interrupted" in output
    assert ("the same command resumes" in output) == resumes


def test_training_says_which_network_is_which(tmp_path):
    code, output = call("train", "preset=smoke", "epochs=1", f"run_dir={tmp_path}")
    assert code == 0
    record = json.loads(next(tmp_path.glob("*/record.json")).read_text())
    scores = [line["validation"]["metrics"]["PCKh@0.5"] for line in record["epochs"]]
    assert f"best.safetensors is epoch {scores.index(max(scores))}'s" in output


NEEDS_VALUES = """
import torch
from torch import nn

def build(num_joints):
    assert [share.item() for share in torch.linspace(0, 1, 2)] == [0, 1]  # as stochastic depth is often written
    return nn.Conv2d(3, num_joints, 4, 4)
"""


def test_a_network_whose_work_cannot_be_estimated_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "needing.py").write_text(NEEDS_VALUES)
    words = ["train", "preset=smoke", "epochs=1", "model=needing:build", f"run_dir={tmp_path / 'runs'}"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "no estimate of the work of needing:build: " in result.output
    assert "trained: " in result.output


@pytest.mark.parametrize(("word", "value"), [("True", True), ("false", False), ("None", None), ("0.5", 0.5)])
def test_words_of_python_and_of_json(word, value):
    options = config_from(["preset=smoke", "loss=gaussian_mse", f"loss_options.rounded={word}"]).loss_options
    assert options["rounded"] is value or options["rounded"] == value


def test_a_warning_from_this_package_is_one_line_whatever_its_kind():
    with one_line_errors():
        said = warnings.formatwarning("damaged", UserWarning, str(Path(hdmlib.__file__).parent / "store.py"), 253)
    assert said == "warning: damaged\n"


@pytest.mark.parametrize(
    ("word", "remedy"), [("checkpoint=x.pth", "give pretrained=FILE"), ("boxes=x.json", "no training uses it")]
)
def test_what_a_training_would_not_use_is_refused(word, remedy, tmp_path):
    code, output = call("train", "preset=smoke", word, f"run_dir={tmp_path}")
    assert code == 2
    assert remedy in output.replace("\n", " ")


def test_a_training_that_never_leaves_its_warm_start_says_so(tmp_path):
    with pytest.warns(UserWarning, match="all 1 epochs are trained with gaussian_mse, and none with matching"):
        run(make_config(preset="smoke", epochs=1, warm_start_epochs=1, run_dir=tmp_path))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "--epochs", "3"], "No such option: --epochs; parameters have no dashes: epochs=3"),
        (["check", "--epochs", "3", "somewhere"], "; parameters have no dashes: epochs=3"),
        (["study", "finals", "--job", "2"], "Possible options: --jobs"),
        (["check", "--formt", "coco", "somewhere"], "Possible options: --format"),
    ],
)
def test_an_option_that_is_a_parameter_is_told_how_it_is_written(words, told):
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())
