"""Predictions as files and boxes from files, through the command line as a user would."""

import json
import os
import shutil
import subprocess
import sys
import unicodedata
import warnings
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from hdmlib import predict
from hdmlib.boxes import PhotoBoxes, as_annotated, boxes_on, read_boxes
from hdmlib.cli import app
from hdmlib.cli.photos import _box
from hdmlib.config import make_config
from hdmlib.data.dataset import DataError
from hdmlib.data.intake import DataWarning
from hdmlib.data.photos import PhotoFolder, read_image
from hdmlib.experiments import run
from hdmlib.inference import photos_of
from hdmlib.metrics.oks import oks_ap
from hdmlib.outputs import coco_records, drawing_paths, photo_names
from hdmlib.skeletons import COCO_17


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


def test_photos_in_folders_below_are_found_and_boxes_elsewhere_are_counted(smoke, photos, tmp_path):
    (photos / "below").mkdir()
    (photos / "008.jpg").rename(photos / "below" / "008.jpg")
    words = ["--boxes", tmp_path / "boxes.json", "--json", tmp_path / "out.json"]
    code, output = call("predict", photos, "--checkpoint", smoke.folder, *words)
    assert code == 0, output
    assert len(json.loads((tmp_path / "out.json").read_text())) == 3
    assert f"written: {tmp_path / 'out.json'}" in output
    assert "1 of 3 photos have no box" in output
    (photos / "007.jpg").unlink()
    _, output = call("predict", photos, "--checkpoint", smoke.folder, *words[:2])
    assert "warning: 1 of the 3 boxes in" in output
    assert "write file_name as the photo's path ends" in " ".join(output.split())


@pytest.mark.parametrize(
    ("photo_id", "category_id", "own"),
    [(1, 7, {"category_id": 7}), ("val-1", "cow", {"category_id": "cow"}), ("7", 3.0, {"category_id": 3}), (5, 9, {})],
)
def test_results_have_the_ids_of_the_file_of_boxes(smoke, photos, tmp_path, photo_id, category_id, own):
    file = {
        "images": [{"id": photo_id, "file_name": "008.jpg"}],
        "annotations": [{"id": 1, "image_id": photo_id, "bbox": [20, 5, 60, 70], **own}],
        "categories": [{"id": category_id, "name": "cow"}],
    }
    words = ["--boxes", written_boxes(tmp_path, file), "--json", tmp_path / "out.json"]
    code, output = call("predict", photos / "008.jpg", "--checkpoint", smoke.folder, *words)
    assert code == 0, output
    [record] = json.loads((tmp_path / "out.json").read_text())
    assert (record["image_id"], record["category_id"]) == (photo_id, category_id)
    truth = [{**a, "keypoints": [v if n % 3 < 2 else 2 for n, v in enumerate(record["keypoints"])]}
             for a in file["annotations"]]  # fmt: skip
    assert oks_ap({**file, "annotations": truth}, [record], COCO_17.sigmas)["AP"] == pytest.approx(1)


def test_results_of_a_detectors_list_keep_its_categories(tmp_path):
    entries = [{"image_id": "a", "category_id": 3, "bbox": [1, 2, 3, 4]}, {"file_name": "b.jpg", "bbox": [1, 2, 3, 4]}]
    with pytest.raises(DataError, match="has boxes of 3, None; choose one"):
        read_boxes(written_boxes(tmp_path, entries))
    assert read_boxes(written_boxes(tmp_path, entries[:1])).photos["a"].categories == (3,)
    [found] = read_boxes(written_boxes(tmp_path, entries[1:])).photos.values()
    assert (found.image_id, found.categories) == ("b.jpg", (1,))


def test_people_whose_joints_are_all_unsure_are_ranked_all_the_same(smoke, photos):
    [found] = predict(photos / "007.jpg", [[10, 12, 60, 70], [-5, 30, 80, 90]], checkpoint=smoke.folder)
    unsure = replace(found, confidence=np.array([[0.1] * 17, [0.05] * 17]))
    given = PhotoBoxes(found.boxes, np.ones(2), 7)
    assert [record["score"] for record in coco_records(unsure, "007.jpg", given)] == pytest.approx([0.1, 0.05])


def test_a_pattern_names_photos(smoke, photos, tmp_path):
    code, output = call("predict", photos / "00[78].jpg", "--checkpoint", smoke.folder, "--csv", tmp_path / "out.csv")
    assert code == 0
    assert "009.jpg" not in output
    assert set(pd.read_csv(tmp_path / "out.csv")["photo"]) == {"007.jpg", "008.jpg"}


def test_a_pattern_that_nothing_fits_is_told_from_a_name(photos):
    with pytest.raises(FileNotFoundError, match=r"nothing fits the pattern .*\*\.JPEG; capitals count.* \[78\] is"):
        photos_of(str(photos / "*.JPEG"))


def test_a_folder_in_front_of_a_pattern_may_have_brackets_in_its_name(photos, monkeypatch):
    trip = photos.rename(photos.with_name("trip [2024]"))
    monkeypatch.chdir(trip.parent)
    for folder in (trip, trip.relative_to(trip.parent)):
        assert photos_of(folder / "00[78].jpg") == [folder / "007.jpg", folder / "008.jpg"]


def test_a_pattern_with_two_stars_names_each_photo_once(photos):
    (photos / "below").mkdir()
    (photos / "008.jpg").rename(photos / "below" / "008.jpg")
    found = photos_of(str(photos / "**"))
    assert sorted(path.name for path in found) == ["007.jpg", "008.jpg", "009.jpg"]
    assert len(found) == len(photos_of(str(photos)))


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_linked_folders_are_followed_and_a_dead_link_is_told(photos, tmp_path):
    (photos / "back").symlink_to(photos, target_is_directory=True)
    (tmp_path / "more").mkdir()
    (photos / "008.jpg").rename(tmp_path / "more" / "008.jpg")
    for name in ("a", "z", ".hidden"):
        (photos / name).symlink_to(tmp_path / "more", target_is_directory=True)
    assert photo_names(photos_of(photos)) == ["007.jpg", "009.jpg", "a/008.jpg"]
    (photos / "010.jpg").symlink_to("nothing.jpg")
    with pytest.raises(ValueError, match=r"010\.jpg: photo missing \(restore it\)"):
        photos_of(photos)


def test_files_of_other_endings_are_counted(photos):
    for name in ("a.heic", "b.heic", "c.gif", ".DS_Store", "plain"):
        (photos / name).touch()
    told = r"4 files are not read: 2 \.heic, 1 \.gif, 1 without ending; convert the photos among them to JPEG"
    with pytest.warns(DataWarning, match=told) as warned:
        assert len(photos_of(photos)) == 3
    assert len(warned) == 1


def test_a_box_in_quotes_is_four_numbers(smoke, photos, tmp_path):
    assert _box("10 20 30 40") == _box("10,20,30,40") == [10, 20, 30, 40]
    words = ["--box", "10 12 60 70", "--csv", tmp_path / "out.csv"]
    code, output = call("predict", photos / "007.jpg", "--checkpoint", smoke.folder, *words)
    assert code == 0, output
    assert (tmp_path / "out.csv").exists()


def test_several_boxes_on_the_command_line_in_either_spelling(smoke, photos, tmp_path):
    expected = predict(photos / "007.jpg", [[10, 12, 60, 70], [-5, 30, 80, 90]], checkpoint=smoke.folder)[0].joints
    first, second = ["--box", 10, 12, 60, 70], ["--box", -5, 30, 80, 90]
    joined, spaced = ["--box", "10,12,60,70", "--box=-5,30,80,90"], [*first, "--box", "-5,", "30,", "80,", "90"]
    for number, words in enumerate([[*first, *second], joined, spaced]):
        out = tmp_path / f"{number}.csv"
        code, output = call("predict", photos / "007.jpg", "--checkpoint", smoke.folder, *words, "--csv", out)
        assert code == 0, output
        joints = pd.read_csv(out)[["x", "y"]].to_numpy().reshape(expected.shape)
        np.testing.assert_allclose(joints, expected, atol=1e-3)


def test_photos_without_boxes_are_one_person_and_ids_are_their_numbers(smoke, photos, tmp_path):
    call("predict", photos, "--checkpoint", smoke.folder, "--json", tmp_path / "out.json")
    results = json.loads((tmp_path / "out.json").read_text())
    assert [r["image_id"] for r in results] == [7, 8, 9]
    [found] = predict(photos / "008.jpg", checkpoint=smoke.folder)
    np.testing.assert_allclose(np.reshape(results[1]["keypoints"], (-1, 3))[:, :2], found.joints[0], atol=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="file names of Linux")
def test_a_name_that_is_not_utf8_is_refused_before_anything_is_predicted(smoke, photos, tmp_path):
    (photos / "008.jpg").rename(photos / "photo\udce9.jpg")
    words = ["--csv", tmp_path / "out.csv", "--json", tmp_path / "out.json"]
    code, output = call("predict", photos, "--checkpoint", smoke.folder, *words)
    assert code == 2
    assert r"photo\udce9.jpg: its name is not UTF-8, so it cannot be written; rename it" in output.replace("\n", " ")
    assert "joint" not in output
    assert not (tmp_path / "out.csv").exists()


def written_boxes(folder, content):
    (folder / "found.json").write_text(json.dumps(content))
    return folder / "found.json"


def test_detections_are_matched_by_the_number_in_the_name(tmp_path):
    entry = {"image_id": 139, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    boxes = read_boxes(written_boxes(tmp_path, [entry]))
    found = boxes.of(tmp_path / "000000000139.jpg")
    assert found.boxes.tolist() == [[1, 2, 3, 4]]
    assert found.scores.tolist() == [0.5]
    assert boxes.of(tmp_path / "140.jpg") is None
    images = [{"id": 139, "file_name": "cat.jpg"}]
    boxes = read_boxes(written_boxes(tmp_path, {"images": images, "annotations": [entry]}))
    assert boxes.of(tmp_path / "139.jpg") is None  # the file's 139 is another photo
    assert boxes.of(tmp_path / "cat.jpg") is not None


def test_an_id_may_be_the_photos_name_with_its_ending(tmp_path):
    boxes = read_boxes(written_boxes(tmp_path, [{"image_id": "b.jpg", "bbox": [1, 2, 3, 4]}]))
    assert boxes.of(tmp_path / "b.jpg").boxes.tolist() == [[1, 2, 3, 4]]


def test_two_photos_of_one_id_are_refused(tmp_path):
    images = [{"id": 1, "file_name": name} for name in ("a.jpg", "b.jpg")]
    content = {"images": images, "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}
    with pytest.raises(DataError, match=r"a\.jpg and b\.jpg have the id 1; give each photo an id of its own"):
        read_boxes(written_boxes(tmp_path, content))


def test_a_photo_that_is_listed_for_each_person_keeps_them_all(tmp_path):
    images = [{"id": n, "file_name": "a.jpg"} for n in (5, 6)]
    entries = [{"image_id": n, "bbox": [n, 2, 3, 4]} for n in (6, 5)]
    with pytest.warns(DataWarning, match="1 images are listed again under another id"):
        boxes = read_boxes(written_boxes(tmp_path, {"images": images, "annotations": entries}))
    assert boxes.of(tmp_path / "a.jpg").boxes.tolist() == [[6, 2, 3, 4], [5, 2, 3, 4]]
    assert boxes.of(tmp_path / "a.jpg").image_id == 5


def test_a_photo_that_is_listed_twice_keeps_the_boxes_that_name_it(tmp_path):
    images = [{"id": n, "file_name": "a.jpg"} for n in (1, 2)]
    entries = [{"image_id": n, "file_name": "a.jpg", "bbox": [n, 0, 5, 5]} for n in (1, 2)]
    with pytest.warns(DataWarning, match="listed again"):
        boxes = read_boxes(written_boxes(tmp_path, {"images": images, "annotations": entries}))
    assert boxes.of(tmp_path / "a.jpg").boxes[:, 0].tolist() == [1, 2]


def test_boxes_name_their_photo_without_its_ending(tmp_path):
    entries = [{"file_name": name, "bbox": [n, 0, 5, 5]} for n, name in enumerate(("a/1", "b/1"), start=1)]
    photos = [tmp_path / "b" / "1.PNG", tmp_path / "a" / "1.jpg"]
    found = boxes_on(photos, read_boxes(written_boxes(tmp_path, entries)))
    assert [one.boxes[0, 0] for one in found] == [2, 1]


def test_of_two_photos_of_one_name_the_nearer_has_the_boxes(tmp_path):
    entry = {"image_id": 5, "file_name": "a/1.jpg", "category_id": 1, "bbox": [1, 1, 20, 20], "score": 0.9}
    boxes = read_boxes(written_boxes(tmp_path, [entry]))  # nobody was found on b/1.jpg
    found = boxes_on([tmp_path / folder / "1.jpg" for folder in "ab"], boxes)
    assert [len(one.boxes) for one in found] == [1, 0]
    assert found[1].image_id is None


def test_photos_of_one_name_are_told_apart_by_their_folders(tmp_path):
    names = ["cam1/1.jpg", "D:\\data\\cam2\\1.jpg"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]  # 0 is an id
    entries = [{"image_id": n, "bbox": [n, 0, 5, 5]} for n in range(2)]
    boxes = read_boxes(written_boxes(tmp_path, {"images": images, "annotations": entries}))
    assert [boxes.of(tmp_path / f"cam{n + 1}" / "1.jpg").boxes[0, 0] for n in range(2)] == [0, 1]
    assert boxes.of(tmp_path / "cam3" / "1.jpg") is None  # neither is it


def test_a_photo_in_another_folder_than_its_name_says_may_have_been_moved(tmp_path):
    entries = [{"image_id": name, "bbox": [x, 0, 5, 5]} for name, x in (("raw/a/1.jpg", 1), ("raw/b/2", 2))]
    boxes = read_boxes(written_boxes(tmp_path, entries))
    for name in ("a/1.jpg", "1.jpg", "elsewhere/1.jpg", "elsewhere/2.png"):
        assert boxes.of(tmp_path / name) is not None


@pytest.mark.parametrize("name", ["a/1.jpg", "raw/a/1.jpg", "a/1"])
def test_boxes_of_a_photo_that_lies_in_another_folder_are_not_used(tmp_path, name):
    boxes = read_boxes(written_boxes(tmp_path, [{"image_id": 1, "file_name": name, "bbox": [1, 1, 20, 20]}]))
    for folder in "abc":
        (tmp_path / "raw" / folder).mkdir(parents=True)
        (tmp_path / "raw" / folder / "1.jpg").write_text("b" if folder == "b" else "a")
    found = [boxes.of(tmp_path / "raw" / folder / "1.jpg") for folder in "abc"]
    assert [one is not None for one in found] == [True, False, True]  # the last is a copy of the first


@pytest.mark.parametrize(
    "name",
    [
        "https://store.org/x%20y.jpg?sig=1",
        "s3://bucket/x%20y%2Ejpg",
        "/data/upload/1/1a2b3c4d-x y.jpg",
        "/data/local-files/?d=photos/x%20y.jpg",
        "..\\photos\\x y.jpg",
        unicodedata.normalize("NFD", "é/x y.jpg"),
    ],
)
def test_a_photo_is_found_by_the_names_that_the_reader_of_datasets_knows(tmp_path, name):
    boxes = read_boxes(written_boxes(tmp_path, [{"file_name": name, "bbox": [1, 1, 20, 20]}]))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x y.jpg").touch()
    assert PhotoFolder(tmp_path, tmp_path, tmp_path, "train").find(name) == tmp_path / "photos" / "x y.jpg"
    assert boxes.of(tmp_path / "photos" / "x y.jpg") is not None


def test_several_photos_of_one_name_are_refused(tmp_path):
    entries = [{"image_id": n, "file_name": "a.jpg", "bbox": [n, 0, 5, 5]} for n in (1, 2)]
    boxes = read_boxes(written_boxes(tmp_path, entries))
    with pytest.raises(DataError, match=r"2 of its photos have the name of .*a\.jpg; give each its own"):
        boxes.of(tmp_path / "a.jpg")


def test_boxes_of_many_videos_are_found_without_comparing_each_with_all(tmp_path, monkeypatch):
    names = [f"video{video}/{frame}.jpg" for video in range(40) for frame in range(5)]
    entries = [{"image_id": name, "file_name": name, "bbox": [n, 0, 5, 5]} for n, name in enumerate(names)]
    file = read_boxes(written_boxes(tmp_path, entries))
    calls, normalize = [], unicodedata.normalize
    monkeypatch.setattr("unicodedata.normalize", lambda *given: calls.append(1) or normalize(*given))
    found = boxes_on([tmp_path / name for name in names], file)
    assert [entry.boxes[0, 0] for entry in found] == list(range(len(names)))
    assert len(calls) < 50 * len(names)


def test_crowds_are_left_out_and_a_photo_without_people_stays_empty(tmp_path):
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(2)]
    entries = [{"image_id": 0, "bbox": [1, 1, 5, 5]}, {"image_id": 0, "bbox": [0, 0, 90, 90], "iscrowd": 1}]
    boxes = read_boxes(written_boxes(tmp_path, {"images": images, "annotations": entries}))
    found = boxes_on([tmp_path / "0.jpg", tmp_path / "1.jpg"], boxes)
    assert [len(entry.boxes) for entry in found] == [1, 0]


@pytest.mark.parametrize(
    ("flag", "people"), [("0", 1), ("", 1), (None, 1), (0.0, 1), ("false", 1), ("No", 1), ("1", 0), (1, 0), (True, 0)]
)
def test_a_crowd_is_what_the_reader_of_annotations_takes_for_one(tmp_path, flag, people):
    entries = [{"image_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": flag}]
    file = written_boxes(tmp_path, {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": entries})
    assert len(read_boxes(file).photos[1].boxes) == people


@pytest.mark.parametrize("entry", [{"file_name": "1.jpg"}, {"image_id": 1}])
def test_an_entry_that_fits_several_photos_is_refused(tmp_path, entry):
    file = read_boxes(written_boxes(tmp_path, [{"bbox": [1, 1, 5, 5], **entry}]))
    both = [tmp_path / "a" / "1.jpg", tmp_path / "b" / "1.jpg"]
    with pytest.raises(DataError, match=r"fits .*1\.jpg and .*1\.jpg; write file_name with its folder"):
        boxes_on(both, file)
    assert [len(boxes_on([photo], file)[0].boxes) for photo in both] == [1, 1]


def test_of_several_categories_one_is_read(tmp_path):
    entries = [{"image_id": 1, "category_id": c, "bbox": [c, 0, 5, 5]} for c in (1, 3)]
    people, cars = {"id": 1, "name": "person"}, {"id": 3, "name": "car"}
    with pytest.raises(DataError, match=r"category: .* has boxes of 1, 3; choose one of them"):
        read_boxes(written_boxes(tmp_path, entries))
    file = written_boxes(tmp_path, {"annotations": entries, "categories": [people, cars]})
    with pytest.raises(DataError, match="has boxes of car, person; choose"):
        read_boxes(file)
    assert read_boxes(file, "person").photos[1].boxes.tolist() == [[1, 0, 5, 5]]
    assert read_boxes(file, "3").photos[1].boxes.tolist() == [[3, 0, 5, 5]]
    with pytest.raises(DataError, match="category"):
        read_boxes(file, "dog")
    named_3 = written_boxes(tmp_path, {"annotations": entries, "categories": [people | {"name": "3"}, cars]})
    assert read_boxes(named_3, "3").photos[1].boxes.tolist() == [[1, 0, 5, 5]]  # a name comes before an id
    file = written_boxes(tmp_path, {"annotations": entries, "categories": [people | {"keypoints": ["nose"]}, cars]})
    assert read_boxes(file).photos[1].boxes.tolist() == [[1, 0, 5, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "no boxes"),
        ([1], "no boxes"),
        ({"annotations": {"a": 1}}, "no boxes"),
        ([{"image_id": 1}], "entry 0: bbox must be"),
        ([{"image_id": 1, "bbox": [1, 2, "x", 4]}], "entry 0: bbox must be"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4]}, {"image_id": 1, "bbox": [1, 2, 0, 4]}], "entry 1: bbox .* an area"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": "high"}], "entry 0: score must be a number"),
        ([{"bbox": [1, 2, 3, 4]}], "entry 0 has neither image_id nor file_name"),
    ],
)
def test_files_without_boxes_are_refused(content, message, tmp_path):
    with pytest.raises(DataError, match=rf"found\.json.*{message}"):
        read_boxes(written_boxes(tmp_path, content))


@pytest.mark.parametrize("content", [[], {"images": [{"id": 1, "file_name": "007.jpg"}], "annotations": []}])
def test_a_detector_may_have_found_nobody(smoke, photos, tmp_path, content):
    code, output = call(
        "predict", photos, "--checkpoint", smoke.folder, "--boxes", written_boxes(tmp_path, content),
        "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0
    assert "3 of 3 photos have no box" in output
    assert json.loads((tmp_path / "out.json").read_text()) == []


def test_an_id_may_be_the_photos_path(tmp_path):
    entries = [{"image_id": f"{folder}/1.jpg", "bbox": [x, 0, 5, 5]} for folder, x in (("a", 1), ("b", 2))]
    file = read_boxes(written_boxes(tmp_path, entries))
    found = boxes_on([tmp_path / folder / "1.jpg" for folder in ("b", "a")], file)
    assert [one.boxes[0, 0] for one in found] == [2, 1]
    assert [one.image_id for one in found] == ["b/1.jpg", "a/1.jpg"]


def without_pixels(photo):
    """A JPEG with its header and end mark, and nothing between: what no header shows."""
    content = photo.read_bytes()
    return content[: content.index(b"\xff\xda")] + b"\xff\xd9"


def test_a_photo_that_cannot_be_decoded_costs_no_other_its_result(smoke, photos, tmp_path):
    (photos / "008.jpg").write_bytes(without_pixels(photos / "008.jpg"))
    words = ["--checkpoint", smoke.folder, "--csv", tmp_path / "out.csv"]
    code, output = call("predict", photos, *words)
    assert code == 1
    assert "warning: left out: " in output
    assert "1 of 3 photos are left out" in output
    assert set(pd.read_csv(tmp_path / "out.csv")["photo"]) == {"007.jpg", "009.jpg"}
    code, output = call("predict", photos / "008.jpg", *words[:2], "--csv", tmp_path / "none.csv")
    assert (code, (tmp_path / "none.csv").exists()) == (2, False)
    assert "error: " in output


def test_names_and_drawings_of_photos_differ(tmp_path):
    photos = [tmp_path / name for name in ("a/1.jpg", "b/1.jpg", "b/1.png", "b/2.jpg")]
    names = photo_names(photos)
    assert names == ["a/1.jpg", "b/1.jpg", "b/1.png", "b/2.jpg"]
    drawn = [path.relative_to(tmp_path).as_posix() for path in drawing_paths(names, tmp_path)]
    assert drawn == ["a/1.png", "b/1.jpg.png", "b/1.png.png", "b/2.png"]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_no_file_is_replaced_unless_asked(smoke, photos, tmp_path):
    words = ["predict", photos, "--checkpoint", smoke.folder, "--csv", tmp_path / "out.csv"]
    (tmp_path / "out.csv").write_text("mine")
    code, output = call(*words)
    assert (code, (tmp_path / "out.csv").read_text()) == (2, "mine")
    assert "exists; choose another name, or pass --overwrite" in output.replace("\n", " ")
    code, _ = call(*words, "--overwrite")
    assert code == 0
    assert len(pd.read_csv(tmp_path / "out.csv")) == 3 * len(smoke.data.val.skeleton)


@pytest.mark.skipif(sys.platform == "win32", reason="devices of POSIX")
def test_a_device_is_never_replaced(smoke, photos):
    code, output = call("predict", photos, "--checkpoint", smoke.folder, "--csv", "/dev/null", "--overwrite")
    assert code == 2
    assert "is a device or a pipe" in output.replace("\n", " ")


def test_a_home_folder_is_expanded(smoke, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    code, _ = call("predict", photos, "--checkpoint", smoke.folder, "--csv=~/out.csv")
    assert code == 0
    assert (tmp_path / "home" / "out.csv").is_file()


def test_a_pattern_passes_over_folders_without_photos_beside_photos(photos):
    (photos / "notes").mkdir()
    assert [photo.name for photo in photos_of(str(photos / "*"))] == ["007.jpg", "008.jpg", "009.jpg"]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_where_nobody_reads_what_is_printed_the_tables_are_written(smoke, photos, tmp_path):
    words = ["predict", str(photos), f"--checkpoint={smoke.folder}", f"--csv={tmp_path / 'out.csv'}"]
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does once it has its lines
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "hdmlib", *words],
        env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert pd.read_csv(tmp_path / "out.csv")["photo"].nunique() == 3


def test_a_terminal_that_cannot_show_a_name_loses_no_result(smoke, photos, tmp_path):
    (photos / "007.jpg").rename(photos / "字.jpg")
    words = [sys.executable, "-m", "hdmlib", "predict", photos / "字.jpg", "--checkpoint", smoke.folder]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([*words, "--csv", tmp_path / "out.csv"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.csv").is_file()


def test_a_photo_is_never_replaced_by_its_drawing(smoke, photos):
    photo = photos / "007.png"
    cv2.imwrite(str(photo), cv2.imread(str(photos / "007.jpg")))
    (photos / "007.jpg").unlink()
    before = contents(photos)
    for words in (["--draw", photos], ["--draw", photos, "--overwrite"]):
        code, output = call("predict", photos, "--checkpoint", smoke.folder, *words)
        assert code == 2
        assert "is read by this command" in output
    for to, reason in ((photo, "is read by this command"), (photos / "007.jpg", "must end in .png or .pdf")):
        code, output = call("predict", photo, "--checkpoint", smoke.folder, "--to", to, "--overwrite")
        assert code == 2
        assert reason in output
    assert contents(photos) == before


def test_the_run_that_is_read_is_never_replaced(smoke, photos):
    before = contents(smoke.folder)
    for option, name in (("--json", "record.json"), ("--csv", "model.safetensors")):
        words = ["--checkpoint", smoke.folder, option, smoke.folder / name, "--overwrite"]
        code, output = call("predict", photos / "007.jpg", *words)
        assert code == 2
        assert "is read by this command" in output
    assert contents(smoke.folder) == before


def test_weights_without_a_record_are_refused_by_name(smoke, photos, tmp_path):
    shutil.copy(smoke.folder / "model.safetensors", tmp_path / "lone.safetensors")
    code, output = call("predict", photos / "007.jpg", "--checkpoint", tmp_path / "lone.safetensors")
    assert code == 2
    assert "lone.safetensors; give the folder of a finished run" in " ".join(output.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--box", 1, 2, 30, 40, "--boxes", "b.json"], "box, boxes: give one of them"),
        (["--to", "one.png"], "to: draws one photo"),
        (["--boxes", "missing.json"], "cannot read missing.json"),
        (["--box", 1, 2, 30], "box: needs four numbers, as in --box 120 40 210 480"),
        (["--box", 1, 2, 30, "--csv", "o.csv"], "box: needs four numbers, as in --box 120 40 210 480, got '1 2 30'"),
        (["--box", 1, "two", 30, 40], "box: needs four numbers, as in --box 120 40 210 480, got '1'"),
        (["--box", 1, 2, 30, 0], "has no area"),
        (["--box", 9000, 2, 30, 40], "lies outside the photo"),
        (["--category", "dog"], "category: is one of the file of boxes"),
        (["--csv", "/proc/nowhere/out.csv"], "cannot make the folder /proc/nowhere"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(smoke, photos, words, message):
    code, output = call("predict", photos, "--checkpoint", smoke.folder, *words)
    assert code == 2
    assert message in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("image", "bbox", "message"),
    [
        ({"id": 1, "file_name": "7.jpg"}, [1, 2, 30, 40], "none of its photos (the first: 7.jpg) is"),
        ({"id": 1, "file_name": "008.jpg"}, [1, 900, 30, 40], "008.jpg: boxes: number 0"),
        ({"id": 1, "file_name": "008.jpg", "width": 640, "height": 480}, [1, 2, 30, 40], "its boxes are for 640 x 480"),
    ],
)
def test_boxes_of_other_photos_are_refused_before_anything_is_predicted(smoke, photos, tmp_path, image, bbox, message):
    file = written_boxes(tmp_path, {"images": [image], "annotations": [{"image_id": 1, "bbox": bbox}]})
    code, output = call("predict", photos, "--checkpoint", smoke.folder, "--boxes", file)
    assert code == 2
    assert message in output
    assert "007.jpg\n" not in output  # the first photo's joints


@pytest.mark.parametrize(
    ("orientation", "size", "upright"),
    [(3, (128, 96), False), (2, (128, 96), False), (6, None, False), (6, (128, 96), False), (6, (96, 128), True)],
)
def test_boxes_of_a_file_are_on_the_photo_as_its_dataset_is_read(smoke, photos, tmp_path, orientation, size, upright):
    exif, photo = Image.Exif(), photos / "007.jpg"
    exif[0x0112] = orientation
    Image.open(photo).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    (tmp_path / "turned.jpg").replace(photo)
    image = {"id": 1, "file_name": "007.jpg"} | ({"width": size[0], "height": size[1]} if size else {})
    file = written_boxes(tmp_path, {"images": [image], "annotations": [{"image_id": 1, "bbox": [10, 12, 60, 70]}]})
    words = ["--boxes", file, "--csv", tmp_path / "out.csv"]
    code, output = call("predict", photo, "--checkpoint", smoke.folder, *words)
    assert code == 0, output
    assert read_image(photo).shape == (96, 128, 3)
    [expected] = predict(read_image(photo, upright=upright), [10, 12, 60, 70], checkpoint=smoke.folder)
    np.testing.assert_allclose(pd.read_csv(tmp_path / "out.csv")[["x", "y"]], expected.joints[0], atol=1e-3)


def test_an_orientation_that_the_file_of_boxes_does_not_settle_is_reported(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (64, 48)).save(tmp_path / "1.jpg", exif=exif)
    given = PhotoBoxes(np.array([[1.0, 2, 3, 4]]), np.ones(1), photo_size=(64, 48))
    with pytest.warns(DataWarning, match=r"b\.json: .* of 1 photos \(the first: .*1\.jpg\): read as stored"):
        [found] = as_annotated([tmp_path / "1.jpg"], [given], tmp_path / "b.json")
    assert not found.upright
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_annotated([tmp_path / "1.jpg"], [replace(given, boxes=np.zeros((0, 4)))], tmp_path / "b.json")


def test_a_box_is_cropped_as_an_annotated_one(smoke, tmp_path):
    """Boxes as annotation files have them, also those that reach beyond the photo, give validation's joints."""
    from hdmlib.data.coco import read_coco
    from hdmlib.data.coco_files import find_coco
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
        np.testing.assert_allclose(found.joints[0], expected[index], atol=1e-4)
    photo = cv2.imread(str(people.image_path(0)))
    assert any(b[0] < 0 or b[0] + b[2] > photo.shape[1] for b in given.values())
