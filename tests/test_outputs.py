"""Predictions as files and boxes from files, through the command line as a user would."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from hdmlib import predict
from hdmlib.cli import app
from hdmlib.config import make_config
from hdmlib.data.dataset import DataError
from hdmlib.experiments import run
from hdmlib.outputs import read_boxes


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return run(make_config(preset="smoke", epochs=1, run_dir=tmp_path_factory.mktemp("runs")), weights=True)


@pytest.fixture
def photos(smoke, tmp_path):
    """Three photos, of which the first two have boxes in a COCO file: two people and one."""
    folder, people = tmp_path / "photos", smoke.data.val
    folder.mkdir()
    for number in range(3):
        (folder / f"{number + 7:03d}.jpg").write_bytes(people.images[number].read_bytes())
    boxes = {"007.jpg": [[10, 12, 60, 70], [-5, 30, 80, 90]], "008.jpg": [[20, 5, 90, 100]]}
    content = {
        "images": [{"id": 40 + n, "file_name": f"images/{name}"} for n, name in enumerate(boxes)],
        "annotations": [
            {"id": 1, "image_id": 40 + n, "bbox": box, "category_id": 1}
            for n, rows in enumerate(boxes.values())
            for box in rows
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return folder


def call(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    return result.exit_code, result.output


def test_a_folder_with_a_file_of_boxes_becomes_csv_json_and_drawings(smoke, photos, tmp_path):
    words = ["--boxes", tmp_path / "boxes.json", "--csv", tmp_path / "out.csv", "--json", tmp_path / "out.json"]
    code, output = call("predict", photos, "--checkpoint", smoke.folder, *words, "--draw", tmp_path / "drawn")
    assert code == 0, output
    table = pd.read_csv(tmp_path / "out.csv")
    assert table.groupby("photo")["person"].nunique().to_dict() == {"007.jpg": 2, "008.jpg": 1}
    [found] = predict(photos / "007.jpg", [[10, 12, 60, 70], [-5, 30, 80, 90]], checkpoint=smoke.folder)
    second = table[(table.photo == "007.jpg") & (table.person == 1)]
    assert second["joint"].tolist() == list(found.skeleton.joints)
    np.testing.assert_allclose(second[["x", "y"]], found.joints[1], atol=1e-3)
    results = json.loads((tmp_path / "out.json").read_text())
    assert [r["image_id"] for r in results] == [40, 40, 41]
    np.testing.assert_allclose(np.reshape(results[1]["keypoints"], (-1, 3))[:, :2], found.joints[1], atol=1e-3)
    assert sorted(file.name for file in (tmp_path / "drawn").iterdir()) == ["007.png", "008.png", "009.png"]


def test_a_pattern_names_photos(smoke, photos, tmp_path):
    code, output = call("predict", photos / "00[78].jpg", "--checkpoint", smoke.folder, "--csv", tmp_path / "out.csv")
    assert code == 0
    assert "009.jpg" not in output
    assert set(pd.read_csv(tmp_path / "out.csv")["photo"]) == {"007.jpg", "008.jpg"}


def test_detections_are_matched_by_the_number_in_the_name(tmp_path):
    (tmp_path / "found.json").write_text(json.dumps([{"image_id": 139, "bbox": [1, 2, 3, 4], "score": 0.5}]))
    boxes = read_boxes(tmp_path / "found.json")
    key = boxes.key_of(tmp_path / "000000000139.jpg")
    assert boxes.boxes[key].tolist() == [[1, 2, 3, 4]]
    assert boxes.scores[key].tolist() == [0.5]
    assert boxes.key_of(tmp_path / "140.jpg") is None


@pytest.mark.parametrize("content", [{"images": []}, [1], [{"image_id": 1}], [{"image_id": 1, "bbox": [1, 2, "x", 4]}]])
def test_files_without_boxes_are_refused(content, tmp_path):
    (tmp_path / "no.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"no\.json"):
        read_boxes(tmp_path / "no.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--box", 1, 2, 30, 40, "--boxes", "b.json"], "box, boxes: give one of them"),
        (["--to", "one.png"], "to: draws one photo"),
        (["--boxes", "missing.json"], "cannot read missing.json"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(smoke, photos, words, message):
    code, output = call("predict", photos, "--checkpoint", smoke.folder, *words)
    assert code == 2
    assert message in output


def test_a_box_is_cropped_as_an_annotated_one(smoke, tmp_path):
    """Boxes as annotation files have them, also those that reach beyond the photo, give validation's joints."""
    from hdmlib.data.coco import find_coco, read_coco
    from hdmlib.experiments.prediction import predict_people
    from hdmlib.synthetic.dataset import embedded_dataset

    root = embedded_dataset(format="coco", train=64, val=32, size=128)
    content = json.loads(find_coco(root, "val").annotations.read_text())
    for number, annotation in enumerate(content["annotations"]):
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x - 9 * (number % 3), y - 5, w + 30 * (number % 2), h + 12]
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(find_coco(root, "val").photos, target_is_directory=True)
    people = read_coco(tmp_path, "val")
    expected = predict_people(smoke.config, smoke.model(), people).joints
    given = {annotation["id"]: annotation["bbox"] for annotation in content["annotations"]}
    for index in range(0, len(people), 5):
        box = given[int(people.annotation_ids[index])]
        [found] = predict(people.image_path(index), [box], checkpoint=smoke.folder)
        np.testing.assert_allclose(found.joints[0], expected[index], atol=1e-3)
    photo = cv2.imread(str(people.image_path(0)))
    assert any(b[0] < 0 or b[0] + b[2] > photo.shape[1] for b in given.values())
