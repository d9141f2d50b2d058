"""Parameters on their way from papermill, JupyterLab or the command line to a config."""

import re
import subprocess
import sys

import nbformat
import papermill
import pytest
from jupyter_client.manager import run_kernel
from typer.testing import CliRunner

from hdmlib import paths
from hdmlib.cli import app
from hdmlib.cli.words import config_from
from hdmlib.config import ConfigError, make_config
from hdmlib.notebook import is_interactive, notebook_config, progress, recipe, slider_panel
from hdmlib.paths import PROJECT_ROOT, caller_folder, from_caller

NOTEBOOK = PROJECT_ROOT / "notebooks" / "02_train.ipynb"


def test_values_of_the_parameters_cell_become_the_config():
    namespace = {"preset": "smoke", "loss": "dot_mse", "epochs": None, "unrelated": 3, "In": [""]}
    config = notebook_config(namespace)
    assert (config.preset, config.loss, config.epochs) == ("smoke", "dot_mse", 2)


def test_any_field_can_be_injected():
    cells = ["", "# parameters\npreset = 'smoke'", "# Parameters\ninput_width = 96\n"]
    assert notebook_config({"preset": "smoke", "input_width": 96, "In": cells}).input_width == 96


def test_an_unknown_name_in_the_injected_cell_is_refused():
    cells = ["", "# parameters\npreset: str = 'smoke'", "# Parameters\nlos = 'matching'\n"]
    with pytest.raises(ConfigError, match=r"'los' is not known. Did you mean 'loss'"):
        notebook_config({"preset": "smoke", "los": "matching", "In": cells})


def test_a_corrected_cell_is_not_held_to_its_earlier_mistake():
    cells = ["", "# parameters\nlos = 'x'", "# parameters\nloss = 'dot_mse'"]
    assert notebook_config({"preset": "smoke", "loss": "dot_mse", "los": "x", "In": cells}).loss == "dot_mse"


def test_a_later_variable_of_a_parameters_name_is_no_parameter():
    cells = ["", "# parameters\npreset = 'smoke'\nseed = 3", "boxes = found.boxes"]
    config = notebook_config({"preset": "smoke", "seed": 3, "boxes": [[0, 0, 1, 1]], "In": cells})
    assert (config.seed, config.boxes) == (3, None)


def test_relative_paths_start_where_the_command_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # papermill: the kernel starts in the caller's folder
    monkeypatch.setenv("PWD", "/somewhere/else")
    assert caller_folder() == tmp_path
    assert from_caller("data/x") == tmp_path / "data" / "x"


def test_a_notebook_server_starts_the_kernel_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT_ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")  # JupyterLab, nbval: in the notebook's folder
    monkeypatch.setenv("PWD", str(tmp_path))
    assert from_caller("../x") == tmp_path.parent / "x"


def test_progress_is_silent_outside_of_a_notebook(capsys):
    assert not is_interactive()
    assert list(progress(range(3), desc="x")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.fixture(scope="module")
def kernel():
    """A real kernel and its client: every frontend talks to one, and differs in the requests that it sends."""
    with run_kernel(kernel_name="python3") as client:
        yield client


BARS = "from hdmlib.notebook import progress\nfor _ in range(2):\n    list(progress(range(3), desc='x'))"


def _outputs(client, code, **request):
    """The messages that a cell leads to, as a frontend receives them."""
    messages = []
    reply = client.execute_interactive(code, output_hook=messages.append, timeout=60, **request)
    assert reply["content"]["status"] == "ok", reply["content"]
    return [m for m in messages if m["msg_type"] not in ("status", "execute_input")]


def test_a_frontend_with_a_person_shows_bars_in_one_line_and_leaves_nothing(kernel, monkeypatch):
    # JupyterLab, classic Notebook, VS Code and Colab: input() works there. Only the first sets JPY_SESSION_NAME.
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    first, *updates = _outputs(kernel, BARS, allow_stdin=True)
    assert first["msg_type"] == "display_data"
    assert {m["msg_type"] for m in updates} == {"update_display_data"}
    assert any("x:" in m["content"]["data"]["text/plain"] for m in updates)
    assert updates[-1]["content"]["data"]["text/plain"] == ""


def test_a_kernel_that_is_driven_without_a_person_shows_nothing(kernel):
    assert not _outputs(kernel, BARS, allow_stdin=False)


LIVE = """
import matplotlib.pyplot as plt
from hdmlib.experiments.record import Epoch, Evaluation
from hdmlib.notebook import live_figure

none = Evaluation(losses={}, metrics={}, per_joint={}, measures={})
with live_figure(lambda epochs: plt.figure(figsize=(1, len(epochs)))) as report:
    for epoch in range(3):
        report(Epoch(epoch=epoch, lr=0.1, train_loss=None, validation=none))
"""


def test_one_figure_follows_a_training_in_place_and_leaves_nothing(kernel):
    messages = [m for m in _outputs(kernel, LIVE, allow_stdin=True) if m["msg_type"] != "stream"]
    assert [m["msg_type"] for m in messages] == ["display_data"] + 4 * ["update_display_data"]
    assert len({m["content"]["transient"]["display_id"] for m in messages}) == 1
    shown = [m["content"]["data"] for m in messages]
    assert ["image/png" in data for data in shown] == [False, True, True, True, False]
    assert len({data["image/png"] for data in shown[1:4]}) == 3


def test_where_no_person_looks_on_a_training_leaves_its_lines_alone(kernel):
    messages = _outputs(kernel, LIVE, allow_stdin=False)
    assert {m["msg_type"] for m in messages} == {"stream"}
    printed = "".join(m["content"]["text"] for m in messages)
    assert re.findall(r"epoch +(\d+)", printed) == ["0", "1", "2"]


def test_the_recipe_names_what_differs_from_its_preset():
    usual, changed = recipe(make_config("smoke")), recipe(make_config("smoke", epochs=7, loss="dot_mse"))
    assert "unchanged" in usual.data
    before_the_fold = changed.data.split("<details>")[0]
    assert "epochs=7" in before_the_fold
    assert "loss=dot_mse" in before_the_fold
    assert "batch_size" not in before_the_fold
    assert "batch_size" in changed.data


def test_papermill_and_nbval_drive_their_kernels_without_a_person(tmp_path):
    cell = nbformat.v4.new_code_cell("from hdmlib.notebook import is_interactive\nprint(is_interactive())")
    path = tmp_path / "asks.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    papermill.execute_notebook(path, path, progress_bar=False, kernel_name="python3")  # nbconvert's client, nbclient
    assert nbformat.read(path, as_version=4).cells[0].outputs[0].text == "False\n"
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-n0", "-pno:cacheprovider", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout  # nbval compares the output with its own run's


def test_papermill_stops_at_a_mistyped_name(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=r"'epoch' is not known. Did you mean 'epochs'"):
        papermill.execute_notebook(
            NOTEBOOK, tmp_path / "out.ipynb", {"epoch": 1}, progress_bar=False, cwd=tmp_path, kernel_name="python3"
        )


def test_papermill_runs_the_notebook_with_other_parameters(tmp_path, monkeypatch):
    monkeypatch.setenv("HDMLIB_RUNS", str(tmp_path / "runs"))
    done = papermill.execute_notebook(
        NOTEBOOK, tmp_path / "out.ipynb", {"preset": "smoke", "loss": "soft_argmax"}, progress_bar=False, cwd=tmp_path
    )
    text = str(done)
    assert "PCKh@0.5 after training with soft_argmax" in text
    assert text.count("'image/png': 'iVBOR") == 6
    assert len(list((tmp_path / "runs").glob("*soft_argmax*/record.json"))) == 1


# ----------------------------------------------------------------------------------------------------- command line


def test_words_become_a_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_from(["preset=smoke", "loss=dot_mse", "data_root=here", "epochs=3"])
    assert (config.loss, config.epochs, config.data_root) == ("dot_mse", 3, tmp_path / "here")


def test_the_command_line_trains_and_then_shows(tmp_path):
    words = ["train", "preset=smoke", "epochs=1", f"run_dir={tmp_path}"]
    first, again = CliRunner().invoke(app, words), CliRunner().invoke(app, words)
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert "epoch   1" in first.output
    assert "\ntrained: " in first.output
    assert "\nfinished earlier: " in again.output


@pytest.mark.parametrize("word", ["loss", "loss=matchng", "los=matching", "preset=x"])
def test_a_wrong_word_ends_with_a_message_and_no_traceback(word):
    result = CliRunner().invoke(app, ["train", word])
    assert result.exit_code == 2
    assert "error: " in result.output
    assert "Traceback" not in result.output


def test_the_parameters_are_listed():
    output = CliRunner().invoke(app, ["parameters"]).output
    assert "batch_size" in output
    assert "coco_w48_384x288" in output


def test_a_moved_slider_redraws_the_picture_with_all_values():
    seen = []

    def redraw(epsilon, tau):
        seen.append((epsilon, tau))
        return f"{epsilon:g} {tau:g}".encode()

    box = slider_panel(redraw, epsilon=(0.0, 0.5, 2.0), tau=(1.0, 4.0, 5.0))
    grid, picture = box.children
    assert picture.value == b"0.5 4"
    grid.children[0].value = 1.0
    assert picture.value == b"1 4"
    assert seen == [(0.5, 4.0), (1.0, 4.0)]
