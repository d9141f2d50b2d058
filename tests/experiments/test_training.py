"""The training loop on a few embedded people: deterministic, resumable, and clear about what stops it."""

import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import hdmlib
from hdmlib import reader
from hdmlib.config import ConfigError, make_config
from hdmlib.data.dataset import DataError
from hdmlib.data.sources import open_data
from hdmlib.decoding import METHODS
from hdmlib.errors import Interrupted, NotFinite
from hdmlib.experiments import steps
from hdmlib.experiments.checkpoint import Checkpoints
from hdmlib.experiments.engine import (
    _check_parts,
    augmentation_of,
    build_losses,
    build_reader,
    evaluation_loader,
    start_engine,
    training_loader,
)
from hdmlib.experiments.prediction import predict_loader, predict_people, validate
from hdmlib.experiments.record import load_record
from hdmlib.experiments.runs import run
from hdmlib.experiments.steps import Steps, TrainingDiverged, backward, build_optimiser, learning_rate
from hdmlib.experiments.store import REFERENCE_RECORDS, Store
from hdmlib.experiments.training import fit, untrained_model
from hdmlib.files import versions, write_atomically
from hdmlib.losses.matching import MatchingLoss
from hdmlib.losses.registry import LOSSES
from hdmlib.metrics.scores import PCKReference, score
from hdmlib.models.checkpoints import load_weights
from hdmlib.models.registry import build_model
from hdmlib.presets import LEARNING_RATES


def smoke(tmp_path: Path, **values):
    return make_config("smoke", run_dir=tmp_path / "runs", device="cpu", **values)


@pytest.fixture(scope="module")
def data():
    return open_data(make_config("smoke"))


@pytest.mark.parametrize("loss", ["matching", "gaussian_mse", "dot_mse", "cross_entropy", "soft_argmax"])
def test_every_loss_falls_in_training(loss, data, tmp_path):
    config = smoke(tmp_path, loss=loss, epochs=3)
    _, history = fit(config, data, tmp_path)
    losses = [line.train_loss for line in history[1:]]
    assert losses[-1] < losses[0]
    assert [line.epoch for line in history] == [0, 1, 2, 3]
    assert history[-1].validation.losses.keys() == build_losses(config).keys()
    assert np.isfinite(list(history[-1].validation.losses.values())).all()


def test_the_same_config_gives_the_same_numbers(data, tmp_path):
    config = smoke(tmp_path)
    first, again = (fit(config, data, tmp_path / name)[1] for name in ("a", "b"))
    assert first == again
    other = fit(smoke(tmp_path, seed=1), data, tmp_path / "c")[1]
    assert other[-1] != first[-1]


@pytest.mark.parametrize(("cores", "processes", "workers"), [(16, 1, 8), (16, 8, 1), (4, 1, 3), (4, 8, 0), (1, 1, 0)])
def test_processes_share_the_cores_that_a_scheduler_leaves(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    people = open_data(make_config("smoke")).val
    assert evaluation_loader(make_config("laptop"), people).num_workers == workers
    assert evaluation_loader(make_config("laptop", workers=2), people).num_workers == 2


def test_workers_do_not_change_the_numbers(data, tmp_path):
    alone = fit(smoke(tmp_path, workers=0), data, tmp_path / "a")[1]
    helped = fit(smoke(tmp_path, workers=2), data, tmp_path / "b")[1]
    assert alone == helped


def test_an_interrupted_run_ends_where_the_uninterrupted_one_does(data, tmp_path):
    config = smoke(tmp_path, epochs=3)
    whole, history = fit(config, data, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill_after_epoch_1(line):
        if line.epoch == 1:
            raise Killed

    with pytest.raises(Killed):
        fit(config, data, tmp_path / "parts", report=kill_after_epoch_1)
    seen = []
    resumed, resumed_history = fit(config, data, tmp_path / "parts", report=seen.append)
    assert resumed_history == history == seen
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


class Signals:
    """Sends a signal while the network looks at the batch of that number, counted over training and evaluation."""

    def __init__(self, number, sent):
        self.left = number
        self.sent = sent

    def __call__(self, *_):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.sent)


# smoke: 2 batches of validation and 4 of training an epoch
@pytest.mark.parametrize(("batch", "epochs", "step"), [(3, 1, 1), (5, 1, 3), (6, 1, 4), (8, 2, 1), (1, 1, 1)])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_the_rest_comes_out_the_same(
    data, tmp_path, monkeypatch, batch, epochs, step, sent
):
    config = smoke(tmp_path, epochs=3, workers=1)
    usual = signal.getsignal(sent)  # a shell's background jobs ignore it
    others = set(multiprocessing.active_children())
    whole, history = fit(config, data, tmp_path / "whole")
    with monkeypatch.context() as pressed:
        signals = Signals(batch, sent)
        for module in (steps, reader):
            pressed.setattr(module, "normalise", lambda images, real=reader.normalise: signals() or real(images))
        with pytest.raises(Interrupted, match=f"after step {step} of 4 in epoch {epochs}") as interrupted:
            fit(config, data, tmp_path / "parts")
    assert set(multiprocessing.active_children()) <= others  # the data workers have ended, too
    assert interrupted.value.signal == sent
    assert signal.getsignal(sent) is usual
    resumed, resumed_history = fit(config, data, tmp_path / "parts")
    assert resumed_history == history
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_signal_in_the_last_validation_is_no_longer_lost(data, tmp_path, monkeypatch):
    config = smoke(tmp_path, epochs=1)
    signals = Signals(2 + 4 + 2, signal.SIGTERM)
    with monkeypatch.context() as pressed:
        for module in (steps, reader):
            pressed.setattr(module, "normalise", lambda images, real=reader.normalise: signals() or real(images))
        with pytest.raises(Interrupted, match="after the last epoch"):
            fit(config, data, tmp_path / "parts")
    assert fit(config, data, tmp_path / "parts")[1] == fit(config, data, tmp_path / "whole")[1]


def test_ctrl_c_does_not_save_a_network_that_is_lost(data, tmp_path, monkeypatch):
    config = smoke(tmp_path, epochs=2)
    _, history = fit(config, data, tmp_path / "whole")
    real, seen = reader.normalise, []

    def spoilt(images):
        seen.append(1)
        if len(seen) == 10:  # the second step of epoch 2, at which nobody would look
            signal.raise_signal(signal.SIGINT)
            return torch.full(images.shape, torch.nan)
        return real(images)

    with monkeypatch.context() as lost:
        for module in (steps, reader):
            lost.setattr(module, "normalise", spoilt)
        with pytest.raises(TrainingDiverged, match="in epoch 2"):
            fit(config, data, tmp_path / "parts")
    assert fit(config, data, tmp_path / "parts")[1] == history


def test_what_a_killed_run_could_not_finish_writing_is_removed(data, tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", lambda *_: os._exit(0))
        child = os.fork()
        if child == 0:
            write_atomically(tmp_path / "last.pt", b"half")
        os.waitpid(child, 0)
    [left] = tmp_path.iterdir()
    fit(smoke(tmp_path, epochs=1), data, tmp_path)
    assert not left.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "last.1.pt", "best.safetensors", "metrics.csv"}


def test_a_compiled_network_learns_the_same(data, tmp_path, monkeypatch):
    """The compiler without its code generator, on a small network: what it is given and what is saved."""
    (tmp_path / "two_layers.py").write_text(
        "from torch import nn\n"
        "def build(num_joints):\n"
        "    layers = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, num_joints, 1)\n"
        "    return nn.Sequential(*layers)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    values = {"epochs": 1, "model": "two_layers:build"}
    plain = fit(smoke(tmp_path, **values), data, tmp_path / "a")[1]
    compiled = fit(smoke(tmp_path, **values, compile=True), data, tmp_path / "b")[1]
    assert compiled[-1].validation.losses == pytest.approx(plain[-1].validation.losses, rel=1e-4)
    assert (tmp_path / "b" / "best.safetensors").exists()


@pytest.mark.parametrize(
    ("batch", "where"),
    [(1, "step 1 of 4"), (3, "step 4 of 4"), (4, "step 4 of 4"), (5, "after its last step"), (0, "epoch 0")],
)
def test_maps_that_are_not_finite_are_a_diverged_training(data, tmp_path, monkeypatch, batch, where):
    config = smoke(tmp_path, epochs=2)
    seen = [-2]  # two batches of validation before the first step

    def spoilt(images, real=reader.normalise):
        seen.append(seen[-1] + 1)
        return torch.full(images.shape, torch.nan) if seen[-1] == batch or not batch else real(images)

    for module in (steps, reader):
        monkeypatch.setattr(module, "normalise", spoilt)
    if batch:
        with pytest.raises(TrainingDiverged, match=f"in epoch 1, .*{where}; lower lr"):
            fit(config, data, tmp_path / "run")
    else:
        with pytest.raises(NotFinite, match="heatmaps hold NaN"):
            fit(config, data, tmp_path / "run")


def test_a_number_of_threads_is_that_of_its_run_alone(tmp_path):
    def threads_of(number):
        start_engine(smoke(tmp_path).model_copy(update={"threads": number}))
        return torch.get_num_threads()

    before = threads_of(None)
    assert [threads_of(n) for n in (before + 1, before + 2, None, None)] == [before + 1, before + 2, before, before]
    threads_of(before + 1)
    torch.set_num_threads(before + 2)  # the user's own
    assert threads_of(None) == before + 2
    torch.set_num_threads(before)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_epoch(data, tmp_path, monkeypatch):
    config = smoke(tmp_path, epochs=3)
    real = Steps.epoch

    def poisoned(self, loss, state):
        if len(state.epochs) == 2:
            with torch.no_grad():
                self.model.final_layer.weight.fill_(float("inf"))
        return real(self, loss, state)

    monkeypatch.setattr(Steps, "epoch", poisoned)
    with pytest.raises(TrainingDiverged, match=r"matching loss is .* in epoch 2.*lower lr"):
        fit(config, data, tmp_path / "run")
    monkeypatch.undo()
    _, history = fit(config, data, tmp_path / "run")  # goes on from epoch 1
    assert history == fit(config, data, tmp_path / "whole")[1]


def test_the_ground_truth_as_heatmaps_scores_perfectly(data, tmp_path):
    """From crop to cells, through decoding, back to the photo: the targets themselves would find every joint."""
    options = {"loss": "gaussian_mse", "loss_options": {"sigma": 2.0}, "decoder": "dark"}
    config = smoke(tmp_path, input_width=128, input_height=128, **options)
    loader = evaluation_loader(config, data.val)
    batches = list(loader)

    class Oracle(torch.nn.Module):
        calls = 0

        def forward(self, images):
            batch = batches[self.calls]
            self.calls += 1
            size = (images.shape[-2] // 4, images.shape[-1] // 4)
            return build_losses(config)["gaussian_mse"].target(batch["joints"], size)

    engine, losses = start_engine(config), build_losses(config)
    prediction = predict_loader(build_reader(config, Oracle(), data.val.skeleton), losses, loader, engine)
    labelled = torch.cat([batch["weights"] for batch in batches]).numpy() > 0
    error = np.linalg.norm(prediction.joints - data.val.joints, axis=2)[labelled]
    assert np.median(error) < 0.05
    scores = validate(config, build_reader(config, Oracle(), data.val.skeleton), losses, loader, data.val, engine)
    assert scores.metrics["PCKh@0.5"] > 97  # joints beyond the crop's border cannot be found
    assert scores.metrics["AP"] > 90


@pytest.mark.parametrize(("early", "last"), [(False, (170, 200)), (True, (169, 199))])
def test_the_rate_of_the_published_recipes_falls_tenfold(early, last):
    config = make_config("coco_w32_256x192", drop_one_epoch_early=early)
    rates = [learning_rate(config, epoch) for epoch in range(210)]  # of the epochs counted from 0
    falls = tuple(epoch for epoch in range(1, 210) if rates[epoch] < rates[epoch - 1])
    assert falls == last
    assert (rates[0], rates[-1]) == pytest.approx((1e-3, 1e-5))


@pytest.mark.parametrize(("applied", "decay"), [(None, 0.0), (True, 1e-4)])
def test_the_published_recipes_never_give_their_weight_decay_to_adam(applied, decay):
    config = make_config("mpii_w32_256x256", apply_weight_decay=applied)
    optimiser = build_optimiser(config, torch.nn.Linear(1, 1))
    assert type(optimiser) is torch.optim.Adam
    assert {group["weight_decay"] for group in optimiser.param_groups} == {decay}


@pytest.mark.parametrize(("randn", "upper"), [(None, 0.6915), (False, 0.5)])
def test_how_often_half_a_body_is_the_upper_half(randn, upper):
    config = make_config("coco_w32_256x192", half_body_randn=randn)
    assert augmentation_of(config).half_body_upper == pytest.approx(upper, abs=1e-4)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"device": "cdua"}, "usable here: cpu|usable here: .*cpu"),
        ({"device": "cpu", "precision": "bf16"}, "needs a GPU"),
    ],
)
def test_a_device_that_is_not_there(values, told):
    with pytest.raises(ConfigError, match=told):
        start_engine(make_config("smoke", **values))


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_in_parts_is_the_step_of_the_whole_batch(name, data, tmp_path):
    """With a network without batch norm, whose statistics would be those of a part."""
    config = smoke(tmp_path, batch_size=7)
    engine, loss = start_engine(config), build_losses(config)[name]
    batch = next(iter(training_loader(config, data.train, engine)))
    assert len(batch["image"]) == 7  # neither 2 nor 3 divides it
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, batch["joints"].shape[1], 4, stride=4)
    found = []
    for parts in (1, 2, 3, 7):
        network.zero_grad()
        value = backward(engine, network, loss, batch, parts, weight=1.0)
        found.append((value.item(), network.weight.grad.clone()))
    for value, gradient in found[1:]:
        assert value == pytest.approx(found[0][0], rel=1e-5)
        assert (gradient - found[0][1]).norm() <= 1e-5 * found[0][1].norm()


def test_a_training_in_parts_resumes_and_has_a_name_of_its_own(data, tmp_path):
    config = smoke(tmp_path, epochs=1, accumulate=3)
    assert fit(config, data, tmp_path / "a")[1][1].train_loss > 0
    whole = smoke(tmp_path, epochs=1)
    assert config.run_name("data") != whole.run_name("data")
    assert "accumulate" not in whole.identity("data")


@pytest.mark.parametrize(
    ("values", "processes", "told"),
    [
        ({"accumulate": 17}, 1, "accumulate: a batch of 16 people has no 17 parts"),
        ({"accumulate": 3}, 8, "accumulate: a batch of 16 people has no 24 parts"),
        ({"accumulate": 2, "loss_options": {"reduction": "joint_mean"}}, 1, "must be 'mean'"),
        ({"loss_options": {"reduction": "joint_mean"}}, 2, "must be 'mean'"),
        ({"sync_batchnorm": True}, 2, "sync_batchnorm: torch has it for CUDA alone"),
    ],
)
def test_a_batch_that_has_no_such_parts_is_refused(values, processes, told):
    engine = SimpleNamespace(num_processes=processes, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match=told):
        _check_parts(make_config("smoke", **values), engine)
    _check_parts(make_config("smoke", accumulate=16), SimpleNamespace(num_processes=1, device=torch.device("cpu")))


def test_batch_norm_across_gpus_keeps_weights_and_their_names():
    network = build_model("hrnet_nano", num_joints=3)
    before = {name: id(value) for name, value in network.named_parameters()}
    names = list(network.state_dict())
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert {name: id(value) for name, value in converted.named_parameters()} == before
    assert list(converted.state_dict()) == names


@pytest.mark.parametrize("side", [64, 128])  # maps of 16 and of 32 cells, for which the Gaussian is wider
def test_a_warm_start_is_a_gaussian_training_at_its_own_rate(data, tmp_path, side):
    size = {"input_width": side, "input_height": side}
    warm = fit(smoke(tmp_path, warm_start_epochs=1, lr=1e-4, **size), data, tmp_path / "warm")[1]
    rate = LEARNING_RATES["gaussian_mse"]
    gaussian = fit(smoke(tmp_path, loss="gaussian_mse", lr=rate, **size), data, tmp_path / "g")[1]
    assert learning_rate(make_config("coco_w32_256x192", warm_start_epochs=2), 1) == 1e-3  # HRNet's
    assert warm[1].train_loss == gaussian[1].train_loss  # of the first epoch
    assert warm[2].train_loss > 10 * gaussian[2].train_loss  # then it is a transport, in cells


def test_heatmaps_begin_at_the_initial_bias(data, tmp_path):
    plain, raised = (
        fit(smoke(tmp_path, loss="gaussian_mse", initial_bias=bias, epochs=1), data, tmp_path / str(bias))[1][0]
        for bias in (0.0, 3.0)
    )
    assert raised.validation.losses["gaussian_mse"] > plain.validation.losses["gaussian_mse"] + 3


def test_epsilon_falls_over_the_first_half_of_the_training(data, tmp_path, monkeypatch):
    seen = []
    real = MatchingLoss.epsilon_now
    monkeypatch.setattr(MatchingLoss, "epsilon_now", lambda loss: seen.append(real(loss)) or seen[-1])
    fit(smoke(tmp_path, loss_options={"epsilon": 0.5, "epsilon_start": 4.0}), data, tmp_path)
    steps = [e for e in seen if e != 0.5]  # evaluations have the last one throughout
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == 4.0
    assert len(steps) == 4  # the 4 steps of the first of 2 epochs


def test_measures_and_every_decoder_are_in_the_record(tmp_path):
    result = run(smoke(tmp_path))
    record = result.record
    assert set(record.by_decoder) == set(METHODS)
    final = record.final
    assert record.by_decoder["barycentre"] == final.metrics
    terms = final.measures
    assert terms["gaussian_mse"] == pytest.approx(terms["dot_mse"] + terms["cross"] + terms["constant"], rel=1e-4)


def test_predictions_are_kept_with_the_run(tmp_path):
    result = run(smoke(tmp_path), weights=True)
    kept = np.load(result.folder / "predictions.npz")
    scores = score(result.data.val, kept["joints"], kept["confidence"], (64, 64), PCKReference.of(result.data.val))
    assert scores.metrics["PCKh@0.5"] == pytest.approx(result.record.final.metrics["PCKh@0.5"])
    assert kept["entropy"].mean() == pytest.approx(result.record.final.measures["entropy"], rel=0.05)


# --------------------------------------------------------------------------------------------------------------- runs


def test_a_finished_run_is_not_trained_again(tmp_path):
    config = smoke(tmp_path)
    told = []
    first = run(config, weights=True, before=told.append)
    weights = first.folder / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = run(config, weights=True, before=told.append)
    assert len(told) == 1
    assert told[0] is first.data
    assert first.trained
    assert not again.trained
    assert again.record == first.record
    assert weights.stat().st_mtime_ns == before
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(first.model()(images), again.model()(images))


def test_beginning_again_keeps_the_earlier_run(tmp_path):
    first = run(smoke(tmp_path), weights=True)
    again = run(smoke(tmp_path, resume=False), weights=True)
    kept = first.folder.with_name(first.folder.name + ".1")
    assert again.trained
    assert load_record(kept / "record.json").epochs == again.record.epochs


def test_beginning_again_trains_even_where_a_committed_record_would_serve(tmp_path):
    assert not run(smoke(tmp_path)).trained
    assert run(smoke(tmp_path, resume=False)).trained


def empty(data):
    return b""


def half(data):
    return data[: len(data) // 2]


def another(data):
    """A sound file, but no checkpoint."""
    buffer = io.BytesIO()
    torch.save({"model": {}}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("damage", [empty, half, another])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_the_rest_comes_out_the_same(data, tmp_path, damage):
    config = smoke(tmp_path, epochs=3, keep_checkpoints=2)
    whole, history = fit(config, data, tmp_path / "run")
    names = ["last.pt", "last.1.pt", "last.2.pt"]
    assert [path.name for path in versions(tmp_path / "run" / "last.pt")] == names
    for count in (1, 2):
        for name in names[:count]:
            path = tmp_path / "run" / name
            path.write_bytes(damage(path.read_bytes()))
        with pytest.warns(UserWarning, match=rf"cannot resume from .*last\.pt.*; resuming from .*{names[count]}"):
            resumed, resumed_history = fit(config, data, tmp_path / "run")
        assert resumed_history == history
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    for path in versions(tmp_path / "run" / "last.pt"):
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot resume from .*last\.pt.*last\.2\.pt.*resume=false"):
        fit(config, data, tmp_path / "run")


def test_a_flipped_bit_of_a_checkpoint_is_found_or_without_effect(data, tmp_path):
    """A bit of the padding between entries of the zip archive may be without effect."""
    config, path = smoke(tmp_path, epochs=1, keep_checkpoints=0), tmp_path / "last.pt"
    model, _ = fit(config, data, tmp_path)
    optimiser = build_optimiser(config, model)
    engine = start_engine(config)
    checkpoints = Checkpoints(config, tmp_path, model, optimiser, engine)
    state, whole, draws = checkpoints.load(), path.read_bytes(), np.random.default_rng(0)
    expected, found = content(model, optimiser, state), 0
    for place in [*draws.integers(len(whole), size=40), *range(len(whole) - 40, len(whole))]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draws.integers(8)
        path.write_bytes(flipped)
        try:
            assert content(model, optimiser, checkpoints.load()) == expected
        except ValueError:
            found += 1
    assert found > 40


def content(model, optimiser, state):
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimiser.state_dict(), state.total, state.steps], buffer)
    return buffer.getvalue(), state.epochs


def test_the_state_of_adam_is_restored_on_the_cpu(data, tmp_path, monkeypatch):
    """On a GPU its counts of steps then stay on the CPU: on the GPU each of them would be waited for."""
    real, places = torch.load, []
    monkeypatch.setattr(
        torch, "load", lambda *a, **options: places.append(options["map_location"]) or real(*a, **options)
    )
    for _ in range(2):
        fit(smoke(tmp_path, epochs=1), data, tmp_path)
    assert places == ["cpu"]


def test_a_long_epoch_is_saved_in_time(data, tmp_path, monkeypatch):
    whole, history = fit(smoke(tmp_path), data, tmp_path / "whole")
    config, seen = smoke(tmp_path, checkpoint_minutes=1e-9), []

    class Killed(Exception):
        pass

    def killed_in_step_7(images):
        seen.append(1)
        if len(seen) == 2 + 4 + 2 + 3:  # validation, an epoch, validation, and the third step of the next
            raise Killed
        return real(images)

    real = reader.normalise
    with monkeypatch.context() as context:
        for module in (steps, reader):
            context.setattr(module, "normalise", killed_in_step_7)
        with pytest.raises(Killed):
            fit(config, data, tmp_path / "parts")
    assert torch.load(tmp_path / "parts" / "last.pt")["steps"] == 2
    resumed, resumed_history = fit(config, data, tmp_path / "parts")
    assert resumed_history == history
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_how_checkpoints_are_kept_does_not_name_a_run():
    plain, kept = make_config("smoke"), make_config("smoke", keep_checkpoints=3, checkpoint_minutes=10)
    assert plain.run_name("data") == kept.run_name("data")


def test_best_and_last_are_kept_apart(data, tmp_path):
    """The best network is that of the best epoch, also where a resumed training begins after it."""
    config = smoke(tmp_path, epochs=3, lr=0.5, clip_norm=1e9)  # so large a rate that later epochs are worse

    def stop_after_the_first(line):
        if line.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, data, tmp_path / "run", report=stop_after_the_first)
    history = fit(config, data, tmp_path / "run")[1]
    scores = [line.validation.metrics["PCKh@0.5"] for line in history]
    best = load_file(tmp_path / "run" / "best.safetensors")
    again = fit(smoke(tmp_path, epochs=3, lr=0.5, clip_norm=1e9), data, tmp_path / "whole")[1]
    assert again == history
    expected = load_file(tmp_path / "whole" / "best.safetensors")
    assert all(torch.equal(best[name], expected[name]) for name in expected)
    model = build_model(config.model, num_joints=len(data.train.skeleton))
    load_weights(model, tmp_path / "run" / "best.safetensors")
    prediction = predict_people(config, model, data.val)
    hits = score(data.val, prediction.joints, prediction.confidence, config.input_size, PCKReference.of(data.val))
    assert hits.metrics["PCKh@0.5"] == pytest.approx(max(scores))


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(data, tmp_path):
    config = smoke(tmp_path, epochs=3)
    whole = fit(config, data, tmp_path / "whole")[1]
    resource = pytest.importorskip("resource", reason="not on Windows")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up(line):
        if line.epoch == 1:  # from now on no file may grow beyond two megabytes; a checkpoint needs three
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, before[1]))

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError, match=r"could not finish .*last\.pt.*an earlier file there is untouched"):
            fit(config, data, tmp_path / "run", report=fill_up)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    kept = {"last.pt", "last.1.pt", "best.safetensors", "metrics.csv"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == kept
    seen = []
    assert fit(config, data, tmp_path / "run", report=lambda line: seen.append(line.epoch))[1] == whole
    assert seen == [0, 1, 2, 3]


def test_a_run_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match=r"run_dir: cannot write in .*runs"):
        run(smoke(tmp_path), weights=True)
    assert not run(smoke(tmp_path)).trained  # a reference record needs no folder


def test_a_length_of_a_joint_that_is_not_there_stops_before_the_training(tmp_path):
    with pytest.raises(DataError, match=r"'left_eye:tail': .*no joint 'tail'"):
        run(make_config("smoke", run_dir=tmp_path, pck_reference="left_eye:tail"))
    assert not list(tmp_path.iterdir())


def test_a_wrong_loss_option_stops_before_the_data_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"no option 'epsilom'.*epsilon"):
        run(smoke(tmp_path, dataset="coco", data_root=tmp_path / "nothing", loss_options={"epsilom": 1}))


def test_a_record_that_is_none_is_named(tmp_path):
    result = run(smoke(tmp_path))
    (result.folder or tmp_path).mkdir(exist_ok=True)
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"name": 3}))
    with pytest.raises(ValueError, match=r"record\.json is not a run's record"):
        load_record(path)


def test_a_reference_record_comes_out_again(tmp_path):
    """The committed smoke record, retrained here: records cannot drift away from the code unseen."""
    trained = run(smoke(tmp_path), weights=True).record
    reference = Store(tmp_path, REFERENCE_RECORDS).published(trained.name).record
    for ours, theirs in zip(trained.epochs, reference.epochs, strict=True):
        for name, value in theirs.validation.losses.items():
            assert ours.validation.losses[name] == pytest.approx(value, rel=2e-2), name
        assert ours.validation.metrics["mean error"] == pytest.approx(theirs.validation.metrics["mean error"], rel=5e-2)


WRITES = """
import os, runpy, sys
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
def hook(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING and isinstance(arguments[0], str):
        print("WRITES", os.path.realpath(arguments[0]), flush=True)
sys.addaudithook(hook)
sys.argv = ["hdmlib", "train", "preset=smoke", "device=cpu", "epochs=1", "resume=false"]
runpy.run_module("hdmlib", run_name="__main__")
"""


def test_a_run_writes_only_into_its_folder_and_the_cache(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    folders = {"HDMLIB_RUNS": tmp_path / "runs", "HDMLIB_CACHE": tmp_path / "cache", "TMPDIR": temporary}
    environment = os.environ | {name: str(folder) for name, folder in folders.items()}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WRITES], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    written = {Path(line.split(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("WRITES ")}
    assert any(path.is_relative_to(folders["HDMLIB_RUNS"]) for path in written)
    assert any(path.is_relative_to(folders["HDMLIB_CACHE"]) for path in written)
    # what libraries keep for themselves: torch's shared memory, numba's compiled code
    compiled = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(hdmlib.__file__).parent / "transport/__pycache__")
    allowed = (*folders.values(), Path("/dev"), Path("/proc"), compiled)
    assert [path for path in written if not any(path.is_relative_to(folder) for folder in allowed)] == []


def tracked(folder, name):
    """Step -> value of a curve in TensorBoard's files, which must have each step once."""
    found = []
    for file in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        if name in events.Tags()["scalars"]:
            found += [(event.step, event.value) for event in events.Scalars(name)]
    assert len(found) == len(dict(found))
    return dict(found)


def test_the_curves_are_a_table_and_are_tracked(tmp_path):
    config = make_config(preset="smoke", tracker="tensorboard", run_dir=tmp_path)
    result = run(config, weights=True)
    table = pd.read_csv(result.folder / "metrics.csv")
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["PCKh@0.5"].iloc[-1] == pytest.approx(result.record.final.metrics["PCKh@0.5"], rel=1e-5)
    assert table["loss: matching"].iloc[-1] == pytest.approx(result.record.final.losses["matching"], rel=1e-5)
    expected = dict(zip(table["epoch"], table["PCKh@0.5"], strict=True))
    assert tracked(result.folder, "PCKh@0.5") == pytest.approx(expected, rel=1e-5)
    assert "tracker" not in result.record.identity


def test_curves_are_on_disk_after_an_interruption_and_complete_after_the_rest(tmp_path):
    config = make_config(preset="smoke", tracker="tensorboard")
    data = open_data(config)

    def ctrl_c(batches, total, desc):
        if desc == "epoch 2":
            signal.raise_signal(signal.SIGINT)
        return batches

    with pytest.raises(Interrupted):
        fit(config, data, tmp_path, progress=ctrl_c)
    assert pd.read_csv(tmp_path / "metrics.csv")["epoch"].tolist() == [0, 1]
    assert set(tracked(tmp_path, "PCKh@0.5")) == {0, 1}  # the tracker was closed: it writes every two minutes
    fit(config, data, tmp_path)
    assert pd.read_csv(tmp_path / "metrics.csv")["epoch"].tolist() == [0, 1, 2]
    assert set(tracked(tmp_path, "PCKh@0.5")) == {0, 1, 2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tracker": "tensorbord"}, r"tracker: 'tensorbord' is not known\. Did you mean 'tensorboard'"),
        ({"tracker": "clearml"}, "tracker: clearml is not installed: pip install clearml"),
        ({"device": "cuda:7"}, "device: 'cuda:7' is not on this machine; usable here: .*cpu"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_picture_is_drawn(values, message, tmp_path, monkeypatch):
    monkeypatch.setenv("HDMLIB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=message):
        run(make_config(preset="smoke", run_dir=tmp_path, **values))
    assert not (tmp_path / "cache").exists()


def test_a_run_that_another_process_trains_is_left_alone(data, tmp_path):
    config = smoke(tmp_path, epochs=1)
    store, name = Store.of(config), config.run_name(data.fingerprint)
    store.check_writable()
    for resume in (True, False):
        with store.writing(name), pytest.raises(ConfigError, match="is being trained by another process; wait for it"):
            run(config.model_copy(update={"resume": resume}))
    assert run(config).trained
    with store.writing(name):
        assert not run(config).trained  # a finished run is shown all the same


class Killed(Exception):
    pass


DROPOUT = """
from torch import nn

def build(num_joints):
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(8, num_joints, 3, padding=1))
"""


def test_a_network_that_draws_resumes_bit_for_bit(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dropping.py").write_text(DROPOUT)
    config = smoke(tmp_path, model="dropping:build")
    _, whole = fit(config, data, tmp_path / "whole")

    def leave_after_epoch_1(line):
        if line.epoch == 1:
            torch.rand(5)
            raise Killed

    with pytest.raises(Killed):
        fit(config, data, tmp_path / "parts", report=leave_after_epoch_1)
    assert fit(config, data, tmp_path / "parts")[1] == whole


def test_a_finished_run_goes_on_from_its_last_layer(data, tmp_path):
    first = run(smoke(tmp_path), weights=True)
    further = smoke(tmp_path, pretrained=first.folder / "model.safetensors", lr=1e-5, epochs=1)
    _, epochs = fit(further, data, tmp_path / "further")
    assert epochs[0].validation.metrics == pytest.approx(first.record.final.metrics, rel=1e-4)
    joints = data.train.skeleton.joints
    kept, fresh = untrained_model(further, joints), untrained_model(further, joints[::-1])  # others: a layer of theirs
    last = first.model().final_layer.weight
    assert torch.equal(kept.final_layer.weight, last.to(kept.final_layer.weight))
    assert not torch.equal(fresh.final_layer.weight, last)
    # the file alone says so, wherever it lies: its content is what names the run
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.copy(first.folder / "model.safetensors", tmp_path / "elsewhere"))
    elsewhere = smoke(tmp_path, pretrained=moved, lr=1e-5, epochs=1)
    assert elsewhere.run_name("data") == further.run_name("data")
    assert torch.equal(untrained_model(elsewhere, joints).final_layer.weight, kept.final_layer.weight)


@pytest.mark.parametrize("reduction", ["per_joint", "none"])
def test_a_loss_of_several_numbers_is_refused(reduction, tmp_path):
    with pytest.raises(ConfigError, match=f"reduction '{reduction}' gives several numbers"):
        run(smoke(tmp_path, loss_options={"reduction": reduction}))


def test_a_finished_run_is_shown_where_nothing_can_be_written(tmp_path, monkeypatch):
    first = run(smoke(tmp_path), weights=True)

    def refuse(store):
        raise ConfigError("run_dir: cannot write")

    monkeypatch.setattr(Store, "check_writable", refuse)
    assert run(smoke(tmp_path), weights=True).folder == first.folder
    with pytest.raises(ConfigError, match="cannot write"):
        run(smoke(tmp_path, seed=1), weights=True)


def test_the_table_of_the_curves_is_there_before_the_checkpoint(data, tmp_path, monkeypatch):
    def stop(checkpoints, state):
        raise Killed

    monkeypatch.setattr(Checkpoints, "save", stop)
    with pytest.raises(Killed):
        fit(smoke(tmp_path), data, tmp_path / "run")
    assert pd.read_csv(tmp_path / "run" / "metrics.csv")["epoch"].tolist() == [0]
