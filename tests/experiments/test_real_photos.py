"""The same training on real photos, in both formats. They are kept beside the project, not in it."""

import pytest

from hdmlib.config import make_config
from hdmlib.experiments.runs import run


@pytest.mark.parametrize(
    ("folder", "values", "joints", "metric"),
    [
        ("coco_subset", {"dataset": "coco"}, 17, "PCK(box)@0.2"),
        ("lspet_crops", {"dataset": "coco"}, 14, "PCKh@0.5"),
        ("lspet_crops", {"dataset": "coco", "pck_reference": "torso"}, 14, "PCK(torso)@0.2"),
        ("mmpose_fixture/mpii", {"dataset": "mpii", "train_split": "test", "val_split": "test"}, 16, "PCKh@0.5"),
    ],
)
def test_a_short_training(folder, values, joints, metric, samples, tmp_path):
    few = {"train_people": 64, "val_people": 32, "epochs": 1}
    config = make_config("smoke", data_root=samples / folder, run_dir=tmp_path, **few, **values)
    result = run(config, weights=True)
    assert len(result.record.joints) == joints
    assert 0 <= result.record.final.metrics[metric] <= 100
    assert result.record.final.losses["matching"] < result.record.untrained.losses["matching"]


def test_a_full_recipe_takes_its_steps(samples, tmp_path):
    """HRNet's COCO preset on four photos, smaller: its crops, its coordinates, its flip test, its schedule."""
    config = make_config(
        "coco_w32_256x192", data_root=samples / "mmpose_fixture" / "coco", train_split="test", val_split="test",
        run_dir=tmp_path, model="hrnet_nano", epochs=1, batch_size=4, workers=0,
    )  # fmt: skip
    assert config.coordinates == "hrnet"
    assert config.flip_test
    record = run(config, weights=True).record
    assert record.people["train"] == 12
    assert record.final.losses["matching"] < record.untrained.losses["matching"]
