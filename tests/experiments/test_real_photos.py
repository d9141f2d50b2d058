"""Real photos, read with the numbers that their sources name, and trained on. They are kept beside the project."""

import json
import shutil

import numpy as np
import pytest

from hdmlib.config import make_config
from hdmlib.data.coco import read_coco
from hdmlib.data.detections import read_detections
from hdmlib.data.mpii import read_mpii
from hdmlib.experiments.runs import run

# Folder, parameters, people of both splits, joints, metric.
SETS = [
    ("mpii_halves", {"dataset": "mpii"}, (3, 2), 16, "PCKh@0.5"),
    ("coco_subset", {"dataset": "coco"}, (328, 319), 17, "PCK(box)@0.2"),
    ("lspet_crops", {"dataset": "coco"}, (3318, 500), 14, "PCKh@0.5"),
    ("lspet_crops", {"dataset": "coco", "pck_reference": "torso"}, (3318, 500), 14, "PCK(torso)@0.2"),
    ("lspet_full", {"dataset": "coco"}, (8791, 500), 14, "PCKh@0.5"),
    ("ytf_faces", {"dataset": "coco"}, (3494, 732), 68, "PCK(box)@0.2"),
]


@pytest.mark.filterwarnings("ignore::hdmlib.data.intake.DataWarning")  # 1,826 people of lspet_full have no head size
def test_real_photos_are_read_and_trained_on(samples, tmp_path):
    root = samples("mmpose_fixture").parent
    coco = read_coco(root / "mmpose_fixture" / "coco", "test")
    assert (len(coco), len(coco.images), coco.left_out) == (12, 4, {"no labelled joint": 2})
    detections = root / "mmpose_fixture" / "coco" / "test_coco_det_AP_H_56.json"
    found = read_detections(detections.parent, "test", detections)
    assert (len(found.people), found.scores[0], found.people.left_out) == (118, 0.9999731779098511, {})
    mpii = _halves(root / "mmpose_fixture" / "mpii", tmp_path / "mpii_halves")
    for name, values, counts, joints, metric in SETS:
        folder = mpii if name == mpii.name else root / name
        if not folder.is_dir():  # only the first set can be fetched
            continue
        read = read_mpii if values["dataset"] == "mpii" else read_coco
        assert tuple(len(read(folder, split)) for split in ("train", "val")) == counts, name
        few = {"train_people": 64, "val_people": 32, "epochs": 1}
        result = run(make_config("smoke", data_root=folder, run_dir=tmp_path / "runs", **few, **values))
        assert len(result.record.joints) == joints, name
        assert 0 <= result.record.final.metrics[metric] <= 100, name
        assert result.record.final.losses["matching"] < result.record.untrained.losses["matching"], name
        if joints == 14:  # head sizes are the distance of neck and head top
            val = result.data.val
            distance = np.linalg.norm(val.joints[:, 12] - val.joints[:, 13], axis=1)
            np.testing.assert_allclose(val.reference_lengths("head"), distance, atol=0.02)  # of rounded joints


def _halves(fixture, to):
    """The fixture's one file of five people as two splits, since a person who is trained on is not evaluated on."""
    shutil.copytree(fixture, to)
    people = json.loads((to / "test_mpii.json").read_text())
    (to / "test_mpii.json").unlink()
    for split, half in {"train": people[:3], "val": people[3:]}.items():
        (to / f"{split}.json").write_text(json.dumps(half))
    return to
