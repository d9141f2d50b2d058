"""Folders as annotation tools write them: which file is which split, and which photo a name means."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from hdmlib.config import make_config
from hdmlib.data.coco import read_coco
from hdmlib.data.coco_files import find_coco
from hdmlib.data.dataset import DataError
from hdmlib.data.intake import DataWarning
from hdmlib.data.layouts import has_word, in_part
from hdmlib.data.sources import open_data
from hdmlib.inspection import inspect_dataset

NAMES = ["tip", "left_wing", "right_wing"]
CATEGORY = {"id": 1, "name": "kite", "keypoints": NAMES}


def write_photo(path: Path, shade: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((48, 64, 3), shade, np.uint8))


def write(path: Path, files: list[str], **extra) -> None:
    """An annotation file with one kite on each of the named photos."""
    images = [{"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(files)]
    kite = {"category_id": 1, "iscrowd": 0, "bbox": [5, 5, 40, 30], "area": 900}
    keypoints = [10, 10, 2, 20, 20, 2, 30, 12, 2]
    annotations = [{"id": i, "image_id": i, "keypoints": keypoints, **kite} for i in range(len(files))]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": [CATEGORY], **extra}
    path.write_text(json.dumps(content))


def data(root: Path, **values):
    return open_data(make_config("smoke", dataset="coco", data_root=root, **values))


@pytest.mark.parametrize(
    ("annotations", "photos", "split"),
    [
        ("{}/_annotations.coco.json", "{}", "valid"),  # Roboflow
        ("{}/annotations.json", "{}/images", "val"),
        ("{}/labels.json", "{}/data", "validation"),  # FiftyOne
        ("annotations/instances_{}.json", "images/{}", "val"),
        ("{}/annotations/person_keypoints_default.json", "{}/images/default", "val"),  # a CVAT task each
        ("{}/export.json", "{}", "val"),
        ("{}/annotations.json", "{}", "Val"),
        ("Annotations/instances_{}.json", "Images/{}", "VALID"),
    ],
)
def test_layouts_by_folder(tmp_path, annotations, photos, split):
    for name, file in (("train", "a.png"), (split, "b.png")):
        write(tmp_path / annotations.format(name), [file])
        write_photo(tmp_path / photos.format(name) / file)
    both = data(tmp_path)  # asks for train and val
    assert [people.images for people in (both.train, both.val)] == [
        (tmp_path / photos.format("train") / "a.png",),
        (tmp_path / photos.format(split) / "b.png",),
    ]


@pytest.mark.parametrize(
    "file",
    ["result.json", "annotations/person_keypoints_default.json", "annotations/instances_default.json", "all.json"],
)
def test_one_file_for_all_splits_is_divided_by_the_photo(tmp_path, file):
    names = [f"frame{i:03}.png" for i in range(40)]
    write(tmp_path / file, [*names, *names])  # two entries a photo, so two kites
    for name in names:
        write_photo(tmp_path / "images" / name)
    with pytest.warns(DataWarning, match="one file for all splits: one photo in 5, by a hash of its name, is kept"):
        both = data(tmp_path)
    train, val = ({path.name for path in people.images} for people in (both.train, both.val))
    assert train | val == set(names)
    assert not train & val
    assert 2 <= len(val) <= 16
    assert (len(both.train), len(both.val)) == (2 * len(train), 2 * len(val))
    more = [f"new{i}.png" for i in range(10)]
    write(tmp_path / file, [*more, *names])
    for name in more:
        write_photo(tmp_path / "images" / name)
    with pytest.warns(DataWarning, match="one file for all splits"):
        assert {path.name for path in data(tmp_path).val.images} & set(names) == val  # added photos move none


def test_of_one_file_for_all_splits_no_annotation_vanishes_uncounted(tmp_path):
    names = [f"frame{i:03}.png" for i in range(20)]
    write(tmp_path / "all.json", names)
    content = json.loads((tmp_path / "all.json").read_text())
    for name in names:
        write_photo(tmp_path / "images" / name)
    content["images"][3]["id"] = content["images"][2]["id"]  # two photos claim one id
    for entry in content["annotations"][10:14]:
        entry["image_id"] += 900
    content["annotations"][15] = "no object"
    (tmp_path / "all.json").write_text(json.dumps(content))
    with pytest.warns(DataWarning, match="7 of"):
        both = data(tmp_path)
    assert both.val.left_out == {}
    assert len(both.train) + len(both.val) + sum(both.train.left_out.values()) == len(content["annotations"])


@pytest.mark.parametrize(
    "name", ["//[nas/0.png?d=x", "https://[x/0.png", "https://b[1]/", "/data/local-files/?d=%00", "http://[::1"]
)
def test_an_odd_address_costs_that_person_alone(tmp_path, name):
    write(tmp_path / "train.json", [name, "heron.png"])
    write_photo(tmp_path / "images" / "heron.png")
    with pytest.warns(DataWarning, match="left out 1 of 2"):
        assert len(read_coco(tmp_path, "train")) == 1


def test_the_division_depends_on_the_last_part_of_the_name_alone():
    assert all(
        in_part(f"{place}/7.png", s) == in_part("7.png", s) for place in ("a", r"C:\b", "/c") for s in ("val", "train")
    )
    assert in_part("7.png", "train") != in_part("7.png", "valid")


def test_roboflows_copies_of_one_photo_stay_together():
    copies = [f"kite_{number}_jpg.rf.{number}{letter}0f9.jpg" for number in range(40) for letter in "abc"]
    parts = [in_part(name, "val") for name in copies]
    assert all(len(set(parts[first : first + 3])) == 1 for first in range(0, len(parts), 3))
    assert 0 < sum(parts) < len(parts)


def test_a_file_with_too_few_photos_to_divide_says_so(tmp_path):
    [name] = [name for name in map("{}.png".format, range(20)) if in_part(name, "train")][:1]
    write(tmp_path / "result.json", [name])
    write_photo(tmp_path / "images" / name)
    with pytest.raises(DataError, match=r"none of its 1 photos belongs to 'val'; .* write a file for each split"):
        data(tmp_path)


def test_a_single_file_is_divided_into_training_and_validation_only(tmp_path):
    write(tmp_path / "result.json", ["1.png"])
    with pytest.raises(DataError, match="no COCO annotations of split 'test'"):
        find_coco(tmp_path, "test")


def test_a_file_of_one_split_is_not_divided(tmp_path):
    write(tmp_path / "train.json", ["1.png"])
    with pytest.raises(DataError, match="no COCO annotations of split 'val'"):
        find_coco(tmp_path, "val")
    write(tmp_path / "notes.json", ["1.png"])
    with pytest.raises(DataError, match="no COCO annotations of split 'val'"):
        find_coco(tmp_path, "val")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["annotations/train.json"], "rename annotations/train.json to annotations.json, and one photo in 5 is kept"),
        (["train.json", "test.json"], "found test.json, train.json: name the file of each .*, or pass val_split=test"),
        (["train.json.gz", "val.json.gz"], r"found train.json.gz, val.json.gz: unpack the .gz files"),
        (["ds0/annotations/all.json"], "found ds0/annotations/all.json: give .*/ds0 as the dataset's folder"),
        (["v1/train/_annotations.coco.json", "v1/valid/_annotations.coco.json"], "give .*/v1 as the dataset's folder"),
        (["labels/train.json", "labels/val.json"], "name the file of each split annotations/SPLIT.json"),
        ([], "found no JSON file: name the file of each split annotations/SPLIT.json"),
        ([f"train/{i}.json" for i in range(6)], "found train/0.json, .*, train/3.json and 2 more"),
    ],
)  # fmt: skip
def test_what_lies_there_in_place_of_a_split_is_named_with_what_to_do(tmp_path, files, told):
    for name in files:
        write(tmp_path / name, ["1.png"])
    with pytest.raises(DataError, match=rf"no COCO annotations of split 'val' in .*\n  .*{told}"):
        find_coco(tmp_path, "val")


def test_a_lone_split_renamed_as_advised_is_divided(tmp_path):
    names = [f"{i}.png" for i in range(20)]
    write(tmp_path / "train" / "_annotations.coco.json", names)
    for name in names:
        write_photo(tmp_path / "train" / name)
    with pytest.raises(DataError, match=r"rename train/_annotations\.coco\.json to annotations\.json"):
        data(tmp_path)
    (tmp_path / "train" / "_annotations.coco.json").rename(tmp_path / "annotations.json")
    with pytest.warns(DataWarning, match="one file for all splits"):
        both = data(tmp_path)
    assert len(both.train) + len(both.val) == 20


def test_what_a_folder_lacks_for_both_splits_is_said_once(tmp_path):
    write(tmp_path / "annotations" / "train.json.gz", ["1.png"])
    found = str(inspect_dataset(make_config("smoke", dataset="coco", data_root=tmp_path)))
    assert (found.count("no COCO annotations of split"), found.count("unpack")) == (2, 1)


def test_one_file_in_utf16_is_found_and_read(tmp_path):
    names = [f"{i}.png" for i in range(20)]
    write(tmp_path / "result.json", names)
    (tmp_path / "predictions.json").write_text("[]", encoding="utf-16")
    (tmp_path / "result.json").write_text((tmp_path / "result.json").read_text(), encoding="utf-16")
    for name in names:
        write_photo(tmp_path / "images" / name)
    with pytest.warns(DataWarning, match=r"COCO result\.json: one file for all splits"):
        data(tmp_path)


def test_of_several_files_in_utf16_the_annotations_are_taken(tmp_path):
    for name, text in {"val_a": " {}", "val_results": "[]"}.items():
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-16")
    assert find_coco(tmp_path, "val").annotations.stem == "val_a"


@pytest.mark.parametrize(
    "other", ["train_small", "person_keypoints_train2017_half", "retrain", "trainval", "training_old"]
)
def test_an_exact_name_comes_before_a_longer_one(tmp_path, other):
    for name in ("train", other):
        write(tmp_path / "annotations" / f"{name}.json", ["1.png"])
    assert find_coco(tmp_path, "train").annotations.stem == "train"


@pytest.mark.parametrize(
    ("name", "word", "found"),
    [
        ("person_keypoints_train2017_subset", "train", True),
        ("train-2", "train", True),
        ("trainval", "train", False),
        ("trainval", "val", False),
        ("retrain", "train", False),
        ("interval", "val", False),
        ("evaluation", "val", False),
        ("val2017", "val2017", True),
        ("val20171", "val2017", False),
    ],
)
def test_a_split_is_a_word(name, word, found):
    assert has_word(name, word) is found


def test_splits_that_share_photos_are_refused(tmp_path):
    write(tmp_path / "train.json", ["1.png", "2.png"])
    write(tmp_path / "val.json", ["2.png", "3.png"])
    for name in "123":
        write_photo(tmp_path / "images" / f"{name}.png")
    with pytest.raises(
        DataError, match=r"share 1 photos, such as .*2\.png; validation needs photos that are not trained"
    ):
        data(tmp_path)
    with pytest.raises(DataError, match="share 2 photos"):
        data(tmp_path, val_split="train")


def test_copies_of_one_photo_in_two_folders_are_reported(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split / "annotations.json", ["1.png", f"{split}.png"])
        for name in ("1.png", f"{split}.png"):
            write_photo(tmp_path / split / name)
    with pytest.warns(
        DataWarning, match=r"COCO val/annotations\.json: 1 photos are copies of training photos, such as .*val/1\.png"
    ):
        data(tmp_path)


def test_copies_are_found_where_names_repeat_in_folders(tmp_path):
    for split, folders in {"train": "abcd", "val": "a"}.items():
        names = [f"{folder}/1.png" for folder in folders]
        write(tmp_path / split / "annotations.json", names)
        for name in names:
            write_photo(tmp_path / split / name, shade=ord(name[0]))
    with pytest.warns(DataWarning, match="1 photos are copies of training photos"):
        data(tmp_path)


def test_photos_of_one_name_in_two_folders_are_not_shared(tmp_path):
    for split, shade in (("train", 10), ("val", 200)):
        write(tmp_path / f"{split}.json", ["1.png"])
        write_photo(tmp_path / "images" / split / "1.png", shade)
    both = data(tmp_path)
    assert both.train.images != both.val.images


def test_a_photo_is_never_taken_from_another_split(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / f"{split}.json", ["1.png", "2.png"])
        write_photo(tmp_path / split / "1.png")
    write_photo(tmp_path / "train" / "2.png")
    with pytest.warns(DataWarning, match="1 photo missing"):
        assert len(read_coco(tmp_path, "val")) == 1


@pytest.mark.parametrize(
    "name",
    [
        "images/birds/a b.png",
        "birds/a b.png",
        r"birds\a b.png",
        r"D:\work\project\birds\a b.png",
        "/home/somebody/project/images/birds/a b.png",
        "birds/a%20b.png",
        "/data/local-files/?d=project/birds/a%20b.png",
        "https://storage.example.org/bucket/birds/a%20b.png?token=1",
        "s3://bucket/birds/a b.png",
        "https://bucket[1]/birds/a b.png?token=1",
        "../birds/a b.png",
        "./birds/a b.png",
    ],
)
def test_names_as_tools_write_them(tmp_path, name):
    write(tmp_path / "train.json", [name])
    write_photo(tmp_path / "images" / "birds" / "a b.png")
    write_photo(tmp_path / "images" / "fish" / "a b.png")
    assert read_coco(tmp_path, "train").images == (tmp_path / "images" / "birds" / "a b.png",)


@pytest.mark.parametrize("name", ["/data/upload/1/3f2a1b9c-heron.png", "upload/1/3f2a1b9c-heron.png"])
def test_uploads_are_found_with_and_without_their_prefix(tmp_path, name):
    write(tmp_path / "train.json", [name])
    write_photo(tmp_path / "images" / "heron.png")
    assert read_coco(tmp_path, "train").images[0].name == "heron.png"
    write_photo(tmp_path / "images" / "3f2a1b9c-heron.png")
    assert read_coco(tmp_path, "train").images[0].name == "3f2a1b9c-heron.png"


def test_a_name_that_fits_two_photos_is_refused_for_that_person(tmp_path):
    write(tmp_path / "train.json", ["1.png", "/home/somebody/2.png"])
    for path in ("images/1.png", "images/a/2.png", "images/b/2.png"):
        write_photo(tmp_path / path)
    with pytest.warns(
        DataWarning, match=r"1 ambiguous photo name .*fits images/a/2\.png, images/b/2\.png; write file_name"
    ):
        people = read_coco(tmp_path, "train")
    assert people.left_out == {"ambiguous photo name": 1}


def test_photos_behind_a_link_are_the_users_own(tmp_path):
    write_photo(tmp_path / "disk" / "sub" / "1.png")
    root = tmp_path / "root"
    write(root / "train.json", ["elsewhere/1.png"])
    (root / "images").symlink_to(tmp_path / "disk")
    (root / "back").symlink_to(root)  # a circle
    assert read_coco(root, "train").images == (root / "images" / "sub" / "1.png",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_text_is_utf8_with_or_without_a_mark(tmp_path, encoding):
    write(tmp_path / "train.json", ["Kühe.png"])
    text = (tmp_path / "train.json").read_text().encode().decode("unicode_escape")
    (tmp_path / "train.json").write_text(text, encoding=encoding)
    write_photo(tmp_path / "images" / "Kühe.png")
    assert len(read_coco(tmp_path, "train")) == 1


def test_accents_as_macos_writes_them(tmp_path):
    write(tmp_path / "train.json", ["\u00e9t\u00e9.png"])
    write_photo(tmp_path / "images" / "e\u0301te\u0301.png")
    assert len(read_coco(tmp_path, "train")) == 1


def test_several_unnamed_files_are_refused(tmp_path):
    for name in ("first", "second"):
        write(tmp_path / f"{name}.json", ["1.png"])
    with pytest.raises(
        DataError, match=r"several annotation files fit split 'val': first\.json, second\.json; keep one"
    ):
        find_coco(tmp_path, "val")


def test_a_presets_place_in_its_own_validation_people_is_not_that_of_a_folder(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / f"{split}.json", [f"{split}{number}.png" for number in range(3)])
        for number in range(3):
            write_photo(tmp_path / "images" / f"{split}{number}.png", shade=number + (100 if split == "val" else 0))
    assert len(open_data(make_config("study", dataset="coco", data_root=tmp_path)).val) == 3
    assert len(open_data(make_config("study", dataset="coco", data_root=tmp_path, val_offset=1)).val) == 2
