"""Real photos, read with the numbers that their sources name, and trained on. They are kept beside the project."""

import numpy as np
import pytest

from hdmlib.config import make_config
from hdmlib.data.coco import read_coco
from hdmlib.data.detections import read_detections
from hdmlib.data.mpii import read_mpii
from hdmlib.experiments.runs import run

# Folder, parameters, people of both splits, joints, metric.
SETS = [
    ("mmpose_fixture/mpii", {"dataset": "mpii", "train_split": "test", "val_split": "test"}, (5, 5), 16, "PCKh@0.5"),
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
    for folder, values, counts, joints, metric in SETS:
        if not (root / folder).is_dir():  # only the first set can be fetched
            continue
        read = read_mpii if values["dataset"] == "mpii" else read_coco
        splits = values.get("train_split", "train"), values.get("val_split", "val")
        assert tuple(len(read(root / folder, split)) for split in splits) == counts, folder
        few = {"train_people": 64, "val_people": 32, "epochs": 1}
        result = run(make_config("smoke", data_root=root / folder, run_dir=tmp_path, **few, **values))
        assert len(result.record.joints) == joints, folder
        assert 0 <= result.record.final.metrics[metric] <= 100, folder
        assert result.record.final.losses["matching"] < result.record.untrained.losses["matching"], folder
        if joints == 14:  # head sizes are the distance of neck and head top
            val = result.data.val
            distance = np.linalg.norm(val.joints[:, 12] - val.joints[:, 13], axis=1)
            np.testing.assert_allclose(val.reference_lengths("head"), distance, atol=0.02)  # of rounded joints
