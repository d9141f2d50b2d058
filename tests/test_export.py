"""The exported file gives what torch gives, without torch; the card describes it."""

import re

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from hdmlib import Decoded, MatchingLoss
from hdmlib.cli import app
from hdmlib.config import make_config
from hdmlib.experiments import run
from hdmlib.experiments.training import best_epoch
from hdmlib.export import EXPORTABLE, export_onnx, model_card
from hdmlib.inference import open_network, predict


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return run(make_config(preset="smoke", epochs=1, run_dir=tmp_path_factory.mktemp("runs")), weights=True)


@pytest.mark.parametrize("decoder", EXPORTABLE)
def test_onnx_gives_torchs_joints(smoke, decoder, tmp_path):
    export_onnx(smoke.folder, tmp_path / "pose.onnx", decoder)
    network = open_network(smoke.folder).reader
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))  # another batch than was traced
    with torch.no_grad():
        joints, confidence = Decoded(network.model, network.loss, decoder)(images)
    session = onnxruntime.InferenceSession(str(tmp_path / "pose.onnx"))
    found, sure = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(found, joints.numpy(), atol=2e-3)
    np.testing.assert_allclose(sure, confidence.numpy(), atol=1e-5)


def test_the_command_writes_the_file_and_its_card(smoke, tmp_path):
    result = CliRunner().invoke(app, ["export", str(smoke.folder), "--to", str(tmp_path / "pose.onnx")])
    assert result.exit_code == 0, result.output
    card = (tmp_path / "pose.md").read_text()
    assert smoke.record.name in card
    assert "16. right_ankle" in card
    assert f"| AP | {smoke.record.final.metrics['AP']:.1f} |" in card
    assert "(B, 3, 64, 64)" in card


def test_the_cards_scores_are_those_of_the_exported_decoder(smoke):
    cards = {name: model_card(smoke.folder, "pose.onnx", name) for name in ("argmax", "mean")}
    for name, card in cards.items():
        assert f"decoded by `{name}`" in card
        assert f"| mean error | {smoke.record.by_decoder[name]['mean error']:.1f} |" in card
    assert cards["argmax"].partition("| metric |")[2] != cards["mean"].partition("| metric |")[2]


def test_a_weights_file_of_a_run_is_exported_with_its_own_scores(smoke, tmp_path):
    for name in ("best", "model"):
        words = ["export", str(smoke.folder / f"{name}.safetensors"), "--to", str(tmp_path / f"{name}.onnx")]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    best, last = ((tmp_path / f"{name}.md").read_text().partition("Validation ")[2] for name in ("best", "model"))
    epoch = smoke.record.epochs[best_epoch(smoke.record.epochs)]
    assert best.startswith(f"after epoch {epoch.epoch}, the best, decoded by `barycentre`, in percent")
    assert last.startswith("after the last epoch")
    for name, value in epoch.validation.metrics.items():
        assert f"| {name} | {value:.1f} |" in best
    assert last == model_card(smoke.folder, "model.onnx").partition("Validation ")[2]


def test_weights_that_no_record_describes_are_refused_before_anything_is_written(smoke, tmp_path):
    elsewhere = tmp_path / "best.safetensors"
    elsewhere.write_bytes((smoke.folder / "best.safetensors").read_bytes())
    for checkpoint, words, told in [
        (elsewhere, [], "no record describes"),
        (smoke.folder / "record.json", [], "no record describes"),
        (smoke.folder / "best.safetensors", ["--decoder", "transport"], "'transport' cannot be exported"),
        (smoke.folder / "nothing.safetensors", [], "no run's folder and no weights file"),
    ]:
        words = ["export", str(checkpoint), "--to", str(tmp_path / "pose.onnx"), *words]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2
        assert told in result.output
        assert list(tmp_path.iterdir()) == [elsewhere]


def test_paths_are_text_and_a_home_folder_is_expanded(smoke, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(smoke.folder.parent))
    assert model_card(f"~/{smoke.folder.name}", "pose.onnx") == model_card(smoke.folder, "pose.onnx")
    export_onnx(f"~/{smoke.folder.name}", "~/pose.onnx")
    assert (smoke.folder.parent / "pose.onnx").stat().st_size


NETWORK = """
from torch import nn

def build(num_joints):
    return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Conv2d(8, num_joints, 3, padding=1))
"""


@pytest.mark.parametrize("coordinates", ["center", "hrnet", "udp"])
def test_the_cards_example_finds_the_joints_on_a_photo(tmp_path, monkeypatch, coordinates):
    """A network of another stride, an input that is no square: as ``predict`` finds them without a flip test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eighth.py").write_text(NETWORK)
    values = {"model": "eighth:build", "input_width": 64, "input_height": 96, "coordinates": coordinates}
    trained = run(make_config(preset="smoke", epochs=1, run_dir=tmp_path, flip_test=True, **values))
    export_onnx(trained.folder, tmp_path / "pose.onnx")
    card = model_card(trained.folder, "pose.onnx")
    photo = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    Image.fromarray(photo).save("photo.jpg", quality=95)
    [example] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "hdmlib" not in example
    box = (10, 5, 60, 50)
    before, after = example.split("x, y, w, h = ")
    names = {}
    exec(f"{before}x, y, w, h = {box}\n{after.partition(chr(10))[2]}", names)
    [found] = predict("photo.jpg", [box], checkpoint=open_network(trained.folder, flip_test=False))
    assert np.ptp(found.joints, axis=1).min() > 5  # not all in one place
    np.testing.assert_allclose(names["on_photo"], found.joints, atol=0.01)
    assert "with a flip test, which the exported file does not do" in card


@pytest.mark.parametrize(("to", "message"), [("pose", "must end in .onnx"), ("old.onnx", "--overwrite")])
def test_no_file_is_replaced_by_an_export(smoke, to, message, tmp_path):
    (tmp_path / "old.md").write_text("notes of mine")
    result = CliRunner().invoke(app, ["export", str(smoke.folder), "--to", str(tmp_path / to)])
    assert result.exit_code == 2
    assert message in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["old.md"]


def test_a_decoder_that_cannot_be_exported_is_refused_by_name(smoke, tmp_path):
    words = ["export", str(smoke.folder), "--to", str(tmp_path / "pose.onnx"), "--decoder", "transport"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "'transport' cannot be exported; choose one of argmax" in result.output
    assert not list(tmp_path.iterdir())


def test_a_training_goes_on_while_its_network_is_decoded():
    loss = MatchingLoss(epsilon=0.05, epsilon_start=4.0)
    loss.set_progress(0.1)
    before = loss.epsilon_now
    decoded = Decoded(nn.Identity(), loss)
    assert loss.training
    assert loss.epsilon_now == before
    assert not decoded.loss.training
