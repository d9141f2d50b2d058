"""LSP Extended's converter: geometry on made-up photos of known joints, the committed split, and the real sample."""

import json

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from hdmlib.data.coco import read_coco
from hdmlib.data.dataset import DataError
from hdmlib.data.lspet import PHOTOS, convert_lspet, lspet_split


@pytest.fixture
def original(tmp_path):
    """Photos 1 and 2, who are trained on, 4, who validates, and 3, who is left out; each joint is a white dot."""
    rng = np.random.default_rng(0)
    joints = np.zeros((14, 3, PHOTOS))
    (tmp_path / "lspet" / "images").mkdir(parents=True)
    for number in (1, 2, 3, 4):
        picture = np.zeros((300, 260, 3), np.uint8)
        places = rng.integers(40, 220, (14, 2))
        labelled = np.arange(14) < (10 if number == 2 else 14)
        for x, y in places[labelled]:
            cv2.circle(picture, (int(x), int(y)), 3, (255, 255, 255), -1)
        cv2.imwrite(str(tmp_path / "lspet" / "images" / f"im{number:05d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])
        joints[labelled, :2, number - 1], joints[:, 2, number - 1] = places[labelled], labelled
    savemat(tmp_path / "lspet" / "joints.mat", {"joints": joints})
    return tmp_path


def test_joints_lie_on_their_dots_and_the_reader_takes_the_folder(original, tmp_path):
    assert convert_lspet(original, tmp_path / "out", partial=True) == {"train": 2, "val": 1}
    people = read_coco(tmp_path / "out", "train")
    assert people.annotation_ids.tolist() == [1, 2]
    assert read_coco(tmp_path / "out", "val").annotation_ids.tolist() == [4]
    assert (people.visibility > 0).sum(axis=1).tolist() == [14, 10]
    assert np.isfinite(people.head_sizes).tolist() == [True, False]  # neck and head top of the second are unlabelled
    for index in range(len(people)):
        picture = cv2.imread(str(people.image_path(index)), cv2.IMREAD_GRAYSCALE)
        assert max(picture.shape) == 200
        for x, y in people.joints[index][people.visibility[index] > 0].round().astype(int):
            assert picture[y, x] > 180


def test_the_split_is_the_studys():
    split = lspet_split()
    assert len(split["val"]) == 500
    assert PHOTOS - len(split["excluded"]) - len(split["val"]) == 8791
    assert not split["val"] & split["excluded"]


@pytest.mark.parametrize("case", ["no folder", "no joints", "LSP", "photos missing", "photo cut", "in use"])
def test_what_is_wrong_is_named_and_nothing_is_written(case, original, tmp_path):
    source, to, message = original, tmp_path / "out", ""
    if case == "no folder":
        source, message = tmp_path / "nowhere", "from: no folder"
    elif case == "no joints":
        (original / "lspet" / "joints.mat").write_text("<html>")
        message = "is not the original joints.mat"
    elif case == "LSP":
        savemat(original / "lspet" / "joints.mat", {"joints": np.zeros((3, 14, 2000))})
        message = "no joints.mat of 10,000 people"
    elif case == "photos missing":
        message = "9996 photos are missing beside .*such as im00005"
    elif case == "photo cut":
        photo = original / "lspet" / "images" / "im00002.jpg"
        photo.write_bytes(photo.read_bytes()[:-500])
        message = r"im00002\.jpg is damaged \(.*\); fetch it again"
    else:
        to.mkdir()
        (to / "mine.txt").touch()
        message = "is not an empty folder"
    with pytest.raises(DataError, match=message):
        convert_lspet(source, to, partial=case in ("in use", "photo cut"))
    assert not to.exists() or [file.name for file in to.iterdir()] == ["mine.txt"]
    assert {file.name for file in tmp_path.iterdir()} <= {"lspet", "out"}


GEOMETRY = ("keypoints", "bbox", "area", "num_keypoints", "head_size")


def test_the_real_sample_becomes_the_studys_people(samples, tmp_path):
    """The first 300 photos: the people, split, crops, joints and boxes of ``lspet_full``, digit for digit."""
    original, studied = samples("lspet_original_sample"), samples("lspet_full")
    convert_lspet(original, tmp_path / "out", partial=True)
    for part in ("train", "val"):
        ours, theirs = (
            json.loads(path.read_text())
            for path in (
                tmp_path / "out" / "annotations" / f"lspet_{part}.json",
                studied / "annotations" / f"lspet_full_{part}.json",
            )
        )
        expected = {one["id"]: one for one in theirs["annotations"] if one["id"] <= 300}
        sizes = {one["id"]: one for one in theirs["images"]}
        assert [one["id"] for one in ours["annotations"]] == sorted(expected)
        for annotation, image in zip(ours["annotations"], ours["images"], strict=True):
            known = expected[annotation["id"]]
            assert [annotation[key] for key in GEOMETRY] == [known[key] for key in GEOMETRY]
            same = ("width", "height", "crop_in_original")
            assert [image[key] for key in same] == [sizes[image["id"]][key] for key in same]
