"""Networks of one's own: any function that builds one, with the stride taken from its output."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hdmlib import predict
from hdmlib.config import ConfigError, make_config
from hdmlib.experiments import run
from hdmlib.experiments.engine import check_lengths
from hdmlib.models import build_model, load_weights, save_weights, stride_of
from hdmlib.models.registry import source_of


class Tiny(nn.Module):
    """Heatmaps at an eighth of the input."""

    def __init__(self, num_joints: int, stride: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, stride, stride), nn.ReLU(), nn.Conv2d(8, num_joints, 3, padding=1))

    def forward(self, images):
        return self.body(images)


class Wrapped(nn.Module):
    """Its tensors are named as if training code had put a prefix before the names of another network's."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 1), "head": nn.Conv2d(4, 2, 1)})


def tiny(num_joints):
    return Tiny(num_joints)


def wrong_shape(num_joints):
    return nn.Sequential(nn.Conv2d(3, num_joints, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def no_whole_stride(num_joints):
    return nn.Conv2d(3, num_joints, 3, stride=2)


def no_module(num_joints):
    return num_joints


def fine(num_joints):
    return Tiny(num_joints, stride=2)


def of_k(k):
    return Tiny(k)


def with_more(width=4, *, num_joints):
    return Tiny(num_joints)


def two_numbers(width, height):
    return Tiny(width)


number = 3


class Tied(Tiny):
    """Two names for one tensor, and a mask of -inf, as attention has it."""

    def __init__(self, num_joints):
        super().__init__(num_joints)
        self.again = next(layer for layer in self.modules() if isinstance(layer, nn.Conv2d))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


def tied(num_joints):
    return Tied(num_joints)


@pytest.fixture
def name(tmp_path, monkeypatch):
    """A module of the user's, in the folder that the command is typed in."""
    source = Path(__file__).read_text()
    (tmp_path / "my_networks.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    return "my_networks:{}".format


def test_it_is_built_and_its_stride_measured(name):
    model = build_model(name("tiny"), num_joints=5)
    assert model(torch.zeros(2, 3, 64, 96)).shape == (2, 5, 8, 12)
    state = torch.random.get_rng_state()
    assert stride_of(name("tiny"), (96, 64)) == 8
    assert torch.equal(torch.random.get_rng_state(), state)  # measuring draws no number of the training's
    assert stride_of("hrnet_nano", (96, 64)) == 4


@pytest.mark.parametrize("function", ["of_k", "with_more"])
def test_it_is_given_the_number_of_joints_whatever_it_calls_it(name, function):
    assert build_model(name(function), num_joints=5)(torch.zeros(1, 3, 64, 96)).shape[1] == 5


@pytest.mark.parametrize("function", ["tiny", "tied"])
def test_it_is_trained_resumed_and_used(name, function, tmp_path):
    config = make_config(preset="smoke", model=name(function), epochs=2, run_dir=tmp_path)
    result = run(config)
    assert len(result.record.epochs) == 3
    assert not run(config).trained
    [found] = predict(result.data.val.images[0], checkpoint=result.folder)
    assert found.joints.shape == (1, 17, 2)
    assert found.heatmaps.shape == (1, 17, 8, 8)
    assert np.isfinite(found.joints).all()


def test_lengths_too_short_for_its_maps_are_noticed_and_the_remedy_is_right(name, tmp_path):
    values = {"preset": "smoke", "model": name("fine"), "epochs": 1, "run_dir": tmp_path}
    with pytest.warns(UserWarning, match=r"my_networks:fine gives maps of 32 x 32 cells, .* short") as said:
        run(make_config(**values))
    words = str(said[0].message).partition("give ")[2].split()
    assert words == ["loss_options.tau=1.333", "loss_options.epsilon=0.067"]
    given = {name: float(value) for name, value in (word.split("=") for word in words)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_lengths(make_config(**values, **given))
        check_lengths(make_config(**values, loss="cross_entropy"))
        check_lengths(make_config(**{**values, "model": name("tiny")}))
        check_lengths(make_config(input_width=192, input_height=192))  # the config holds them


def test_who_edits_it_is_told_that_a_run_was_another_network(name, tmp_path):
    source = (tmp_path / "my_networks.py").rename(tmp_path / "edited_networks.py")  # no other test has imported it
    values = {"preset": "smoke", "model": "edited_networks:tiny", "run_dir": tmp_path / "runs"}
    result = run(make_config(**values, epochs=1))
    with source.open("a") as file:
        file.write("# edited\n")
    assert run(make_config(**values, epochs=2)).record.source == result.record.source  # what this process has imported
    source_of.cache_clear()  # as in another process
    with pytest.warns(
        UserWarning, match=r"'edited_networks:tiny' has been edited since .* which is shown; resume=false"
    ):
        assert not run(make_config(**values, epochs=1)).trained
    with pytest.warns(UserWarning, match=r"edited since .* which is used"):
        predict(result.data.val.images[0], checkpoint=result.folder)
    (result.folder / "record.json").unlink()
    with pytest.warns(UserWarning, match=r"edited since .*last\.pt, which is resumed"):
        assert run(make_config(**values, epochs=1)).trained


def test_a_run_whose_network_is_missing_says_so(name, tmp_path):
    (tmp_path / "my_networks.py").rename(tmp_path / "removed_networks.py")
    result = run(make_config(preset="smoke", model="removed_networks:tiny", epochs=1, run_dir=tmp_path / "runs"))
    (tmp_path / "removed_networks.py").unlink()
    del sys.modules["removed_networks"]
    source_of.cache_clear()
    with pytest.raises(ValueError, match="'removed_networks:tiny' cannot be imported"):
        predict(result.data.val.images[0], checkpoint=result.folder)


def test_names_that_begin_as_those_of_a_wrapper_are_kept(tmp_path):
    source, target = Wrapped(), Wrapped()
    save_weights(source, tmp_path / "own.safetensors")
    load_weights(target, tmp_path / "own.safetensors")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in target.state_dict().items())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wrong_shape", "must give heatmaps"),
        ("no_whole_stride", "which is no whole stride"),
        ("no_module", "returned int, not a torch.nn.Module"),
        ("missing", "cannot be imported"),
        ("number", "is int, not a function"),
        ("two_numbers", "must take the number of joints as its one argument"),
    ],
)
def test_what_is_wrong_is_named_before_any_picture_is_drawn(name, function, message, tmp_path, monkeypatch):
    monkeypatch.setenv("HDMLIB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=message):
        run(make_config(preset="smoke", model=name(function), run_dir=tmp_path))
    assert not (tmp_path / "cache").exists()


def test_a_bias_of_an_unknown_last_layer_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="initial_bias: only HRNet and lite0"):
        run(make_config(preset="smoke", model=name("tiny"), initial_bias=1.0, run_dir=tmp_path))


def test_a_mistyped_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="Did you mean 'hrnet_nano'"):
        make_config(model="hrnet_nono")
