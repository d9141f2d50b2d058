"""``hdmlib check``: the report, its exit status, and the twelve people that it draws."""

import json

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from hdmlib.cli import app
from hdmlib.config import make_config
from hdmlib.inspection import inspect_dataset, people_to_show

HAND = ["wrist", "thumb_left", "thumb_right", "tip_left", "tip_right"]


def write(root, split, count, **changes):
    """A hand dataset with one person a photo."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(split))
    images, annotations = [], []
    for number in range(count):
        name = f"{split}{number}.png"
        cv2.imwrite(str(root / "images" / name), rng.integers(0, 255, (80, 96, 3), np.uint8))
        images.append({"id": number, "file_name": name, "width": 96, "height": 80})
        joints = [c for k in range(5) for c in (20 + 10 * k, 30 + 3 * k, 1 + k % 2)]
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "bbox": [10, 20, 60, 40], "area": 2400,
             "iscrowd": 0, "keypoints": joints, "num_keypoints": 5, **changes}
        )  # fmt: skip
    categories = [{"id": 1, "name": "hand", "keypoints": HAND}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"{split}.json").write_text(json.dumps(content))


def check(root, *words):
    result = CliRunner().invoke(app, ["check", str(root), *map(str, words)], catch_exceptions=False)
    return result.exit_code, result.output


def test_a_sound_dataset_is_ready(tmp_path):
    write(tmp_path, "train", 14)
    write(tmp_path, "val", 3)
    code, output = check(tmp_path, "--to", tmp_path / "sheet.png")
    assert code == 0, output
    assert "14 people on 14 photos" in output
    assert "3 people on 3 photos" in output
    assert "thumb_left" in output
    assert "<-> thumb_right" in output
    assert output.rstrip().splitlines()[-2] == "ready to train"
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    assert picture.shape[0] > 900  # three rows of four
    assert picture.std() > 20


def test_mended_annotations_are_remarks_and_status_1(tmp_path):
    write(tmp_path, "train", 4, area=0)
    write(tmp_path, "val", 3)
    code, output = check(tmp_path)
    assert code == 1, output
    assert "area" in output
    assert "usable; see the remarks above" in output


@pytest.mark.parametrize("case", ["no val", "other joints", "no json"])
def test_what_cannot_be_trained_is_status_2(tmp_path, case):
    write(tmp_path, "train", 4)
    if case == "other joints":
        write(tmp_path, "val", 2)
        content = json.loads((tmp_path / "val.json").read_text())
        content["categories"][0]["keypoints"][0] = "palm"
        (tmp_path / "val.json").write_text(json.dumps(content))
    elif case == "no json":
        (tmp_path / "val.json").write_text("{")
    code, output = check(tmp_path)
    assert code == 2, output
    assert "not usable" in output
    assert "Traceback" not in output


def test_a_missing_folder_is_one_line(tmp_path):
    code, output = check(tmp_path / "nowhere")
    assert code == 2
    assert "no folder" in output


def test_the_same_people_are_shown_in_every_call(tmp_path):
    write(tmp_path, "train", 30)
    write(tmp_path, "val", 3)
    people = inspect_dataset(make_config(dataset="coco", data_root=tmp_path)).splits[0].people
    first, second = people_to_show(people), people_to_show(people)
    assert len(first.titles) == 12
    assert first.titles == second.titles
    np.testing.assert_array_equal(first.pictures, second.pictures)
    assert (first.joints[first.labelled] > 0).all()
