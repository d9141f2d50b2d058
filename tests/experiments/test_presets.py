"""Every published recipe from end to end on a handful of people: twenty steps, an evaluation, a resume.

With the small network, so that it takes seconds; by hand, with the recipe's own (minutes each on a CPU):

    HDMLIB_FULL_PRESETS=1 python -m pytest tests/experiments/test_presets.py -o addopts=--import-mode=importlib -s
"""

import itertools
import os

import pytest
import torch

from hdmlib.config import make_config
from hdmlib.data.coco_files import find_coco
from hdmlib.experiments.runs import run
from hdmlib.losses.registry import LOSSES
from hdmlib.presets import LEARNING_RATES, PUBLISHED_PRESETS
from hdmlib.study.stages import STAGES
from hdmlib.synthetic.dataset import embedded_dataset

FULL = "HDMLIB_FULL_PRESETS" in os.environ


@pytest.fixture(scope="module")
def mpii(tmp_path_factory):
    """Embedded people in the layout that MPII is published in."""
    return embedded_dataset(tmp_path_factory.mktemp("mpii"), format="mpii", train=24, val=4, size=256)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Embedded people in the layout that COCO is published in."""
    root = tmp_path_factory.mktemp("coco")
    made = embedded_dataset(root / "made", format="coco", train=24, val=4, size=256)
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        annotations = find_coco(made, split).annotations
        (root / "annotations" / f"person_keypoints_{split}2017.json").symlink_to(annotations)
        (root / f"{split}2017").symlink_to(find_coco(made, split).photos)
    return root


class Stopped(Exception):
    pass


# With a small network in their place both widths are one recipe: each is trained with one of the two losses.
RUNS = [
    (preset, loss)
    for preset, loss in itertools.product(sorted(PUBLISHED_PRESETS), ("matching", "gaussian_mse"))
    if FULL or ("w48" in preset) == (loss == "gaussian_mse")
]


@pytest.mark.parametrize(("preset", "loss"), RUNS)
def test_a_published_recipe_runs_stops_and_goes_on(preset, loss, request, tmp_path):
    dataset = preset.split("_")[0]
    values = {"pretrained": "none"} if FULL else {"model": "hrnet_nano", "threads": 1, "pretrained": "none"}
    config = make_config(
        preset, loss=loss, data_root=request.getfixturevalue(dataset), run_dir=tmp_path, device="cpu", workers=0,
        batch_size=2, train_people=20, val_people=4, epochs=2, **values,
    )  # fmt: skip
    seen = []

    def stop_after_the_first(line):
        seen.append(line.epoch)
        if line.epoch == 1:
            raise Stopped

    with pytest.raises(Stopped):
        run(config, report=stop_after_the_first)
    result = run(config, weights=True, report=lambda line: seen.append(line.epoch))
    assert seen == [0, 1, 0, 1, 2]  # told again of what was there, trained only what was not
    assert result.trained
    final = result.record.final
    assert set(final.losses) == set(LOSSES)
    assert final.metrics["AP" if dataset == "coco" else "PCKh@0.5"] >= 0
    heatmaps = result.model()(torch.zeros(1, 3, config.input_height, config.input_width))
    assert heatmaps.shape == (1, 17 if dataset == "coco" else 16, config.input_height // 4, config.input_width // 4)
    if FULL:
        print(f"{preset} {loss}: {result.record.people}")


@pytest.mark.parametrize("loss", LEARNING_RATES)
def test_the_study_and_the_preset_mean_the_same_run(loss):
    [trial] = [trial for trial in STAGES["gpu_demo"]() if trial.label == loss]
    assert trial.config == make_config("gpu_demo", loss=loss)
    assert trial.config.lr == LEARNING_RATES[loss] / 4
    assert make_config("gpu_demo", loss=loss, lr=0.5).lr == 0.5
