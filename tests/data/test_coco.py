import json
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from hdmlib.data.coco import read_coco
from hdmlib.data.coco_files import find_coco
from hdmlib.data.crops import Frame
from hdmlib.data.dataset import DataError
from hdmlib.data.detections import read_detections
from hdmlib.data.intake import DataWarning
from hdmlib.data.photos import read_image
from hdmlib.skeletons import DEFAULT_SIGMA, skeleton_from_names

NAMES = ["head", "left_hand", "right_hand"]


def category(**extra) -> dict:
    return {"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]], **extra}


def annotation(number: int = 1, **changes) -> dict:
    keypoints = [30, 20, 2, 20.5, 40, 1, 0, 0, 0]
    fields = {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [10, 10, 30, 40], "area": 800}
    return {**fields, "keypoints": keypoints, **changes}


def photo(number: int = 1, **changes) -> dict:
    return {"id": number, "file_name": f"{number}.png", "width": 64, "height": 48, **changes}


def write(root: Path, annotations: list, images: list | None = None, **content) -> Path:
    """A dataset of one split ``train`` with a picture for every entry that names an ordinary file."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    images = [photo()] if images is None else images
    for entry in images:
        if "/" not in str(entry.get("file_name", "/")):
            cv2.imwrite(str(root / "images" / entry["file_name"]), np.full((48, 64, 3), 90, np.uint8))
    parts = {"images": images, "annotations": annotations, "categories": [category()], **content}
    (root / "annotations" / "train.json").write_text(json.dumps(parts))
    return root


def test_every_field_of_a_person(tmp_path):
    people = read_coco(write(tmp_path, [annotation(7, head_box=[10, 10, 13, 14])]), "train")
    assert people.skeleton.joints == tuple(NAMES)
    assert people.skeleton.limbs == ((0, 1), (0, 2))
    assert people.skeleton.flip_pairs == ((1, 2),)
    np.testing.assert_array_equal(people.joints, [[[30, 20], [20.5, 40], [0, 0]]])
    np.testing.assert_array_equal(people.visibility, [[2, 1, 0]])
    # HRNet: the box ends at pixel min(47, 10 + 39) below and at 39 on the right
    np.testing.assert_array_equal(people.boxes, [[10, 10, 29, 37]])
    np.testing.assert_array_equal(people.centres, [[24.5, 28.5]])
    np.testing.assert_array_equal(people.sizes, [[29 * 1.25, 37 * 1.25]])
    np.testing.assert_array_equal(people.head_sizes, [3])  # 0.6 x 5
    assert (people.areas, people.annotation_ids, people.image_ids) == ([800], [7], [1])
    assert people.image_path(0) == tmp_path / "images" / "1.png"
    assert people.left_out == {}


def test_category_extras_win_over_what_names_say(tmp_path):
    extras = category(flip_pairs=[[0, 2]], sigmas=[0.1, 0.2, 0.3])
    skeleton = read_coco(write(tmp_path, [annotation()], categories=[extras]), "train").skeleton
    assert skeleton.flip_pairs == ((0, 2),)
    assert skeleton.sigmas == (0.1, 0.2, 0.3)


def test_oks_constants_come_from_a_table_by_name_or_by_the_names_that_are_known():
    joints = ["Left Knee", "right_knee", "tail"]
    assert skeleton_from_names(joints).sigmas == (0.087, 0.087, DEFAULT_SIGMA)
    assert skeleton_from_names(joints, sigmas={"tail": 0.2, "left_knee": 0.1}).sigmas == (0.1, 0.087, 0.2)
    with pytest.raises(ValueError, match=r"'nose'; the joints are left_knee, right_knee, tail"):
        skeleton_from_names(joints, sigmas={"nose": 0.1})
    with pytest.raises(ValueError, match="positive OKS sigmas"):
        skeleton_from_names(joints, sigmas={"tail": -1})


def test_reference_lengths(tmp_path):
    both = [annotation(1, head_size=12.5), annotation(2)]
    people = read_coco(write(tmp_path, both), "train")
    np.testing.assert_array_equal(people.reference_lengths("head"), [12.5, np.nan])
    np.testing.assert_array_equal(people.reference_lengths("box"), [37, 37])
    with pytest.raises(DataError, match="nobody has a torso length"):
        people.reference_lengths("torso")
    with pytest.raises(DataError, match=r"pck_reference 'hip' is not known\. Known: head, torso, box, or two joints"):
        people.reference_lengths("hip")


def test_a_reference_length_is_the_distance_of_any_two_joints_by_their_names(tmp_path):
    people = read_coco(write(tmp_path, [annotation(1), annotation(2)]), "train")
    names, joints = people.skeleton.joints, people.joints
    expected = np.linalg.norm(joints[:, 0] - joints[:, 1], axis=1)
    np.testing.assert_array_equal(people.reference_lengths(f"{names[0]}:{names[1].upper()}"), expected)
    with pytest.raises(DataError, match=f"no joint 'tail'; its joints are {names[0]}"):
        people.reference_lengths(f"{names[0]}:tail")


def test_subset_keeps_what_belongs_together(tmp_path):
    annotations = [annotation(i, image_id=1 + i % 3) for i in range(9)]
    people = read_coco(write(tmp_path, annotations, [photo(i) for i in (1, 2, 3)]), "train")
    some = people.subset([8, 1, 4])
    assert len(some) == 3
    assert some.annotation_ids.tolist() == [8, 1, 4]
    assert [some.image_path(i) for i in range(3)] == [people.image_path(i) for i in (8, 1, 4)]
    assert len(some.images) == 2
    with pytest.raises(IndexError, match=r"0 \.\. 8"):
        people.subset([9])


def test_protocol_drops_silently_and_counts(tmp_path):
    annotations = [
        annotation(1),
        annotation(2, iscrowd=1),
        annotation(3, area=0),
        annotation(4, keypoints=[0] * 9),
        {key: value for key, value in annotation(5, category_id=9).items() if key != "keypoints"},
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        people = read_coco(write(tmp_path, annotations), "train", strict=True)
    assert people.annotation_ids.tolist() == [1]
    assert people.left_out == {"other category": 1, "crowd": 1, "no area": 1, "no labelled joint": 1}


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "reason", "remedy"),
    [
        (
            {"keypoints": [NAN, 20, 2, 20, 40, 0, 0, 0, 0]},
            "joints not finite or absurdly large",
            "correct the keypoints",
        ),
        (
            {"keypoints": [1e300, 20, 2, 2, 4, 0, 0, 0, 0]},
            "joints not finite or absurdly large",
            "correct the keypoints",
        ),
        ({"keypoints": [30, 20, 2]}, "malformed joints", "must be 9 numbers"),
        ({"keypoints": ["30", 20, 2, 20, 40, 1, 0, 0, 0]}, "malformed joints", "must be 9 numbers"),
        ({"keypoints": [900, 20, 2, 0, 0, 0, 0, 0, 0], "bbox": None}, "box empty or outside the photo", "is 64 x 48"),
        ({"image_id": 99}, "annotation of no or an ambiguous photo", "exactly one entry of images"),
        ({"image_id": 3}, "annotation of no or an ambiguous photo", "exactly one entry of images"),
        ({"image_id": [1]}, "annotation of no or an ambiguous photo", "exactly one entry of images"),
        ({"id": 1}, "annotation listed twice", "remove one"),
        ({"image_id": ...}, "malformed annotation", "it needs image_id, category_id and keypoints"),
        ({"category_id": 9}, "joints of a category that has none", "must be that of the joints, 1"),
        ({"category_id": [1]}, "joints of a category that has none", "must be that of the joints, 1"),
        ({"image_id": 4}, "photo missing", "no file '4.png' in "),
        ({"image_id": 6}, "malformed photo name", "file_name must be text"),
        ({"image_id": 7}, "photo of another size than annotated", "1.png is 64 x 48, its annotation has 48 x 64"),
    ],
)
def test_bad_sample_is_left_out_with_one_warning(tmp_path, changes, reason, remedy):
    images = [photo(1), photo(3), photo(3, file_name="other.png"), photo(4)]
    images += [photo(7, file_name="1.png", width=48, height=64), photo(6, file_name="1.png")]
    bad = {key: value for key, value in {**annotation(2), **changes}.items() if value is not ...}
    write(tmp_path, [annotation(1), bad], images)
    (tmp_path / "images" / "4.png").unlink()
    text = (tmp_path / "annotations" / "train.json").read_text()
    head, tail = text.rsplit('"1.png"', 1)  # the name of photo 6 becomes a number
    (tmp_path / "annotations" / "train.json").write_text(f"{head}17{tail}")
    with pytest.warns(DataWarning) as caught:
        people = read_coco(tmp_path, "train")
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith(f"COCO train.json: left out 1 of 2 annotations: 1 {reason} (first: annotation ")
    assert remedy in message
    assert "\n" not in message
    assert people.annotation_ids.tolist() == [1]
    assert people.left_out == {reason: 1}
    assert Path(caught[0].filename) == Path(__file__)  # points at the caller, not into the library


def test_many_bad_samples_are_one_warning_with_counts(tmp_path):
    bad = [annotation(10 + i, keypoints=[NAN] * 9) for i in range(5)] + [annotation(20, bbox=[])]
    expected = (
        r"left out 5 of 7 annotations: 5 visibility flags not finite \(first: annotation 10: .*mended: 1 box missing"
    )
    with pytest.warns(DataWarning, match=expected) as caught:
        read_coco(write(tmp_path, [annotation(1), *bad]), "train")
    assert len(caught) == 1


def corrupt(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("<html>404</html>")
    elif how == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("folder/7", ["images/7.png"]),
        ("7", ["images/7.Png"]),
        ("a/7", ["images/a/7.png", "images/b/7.jpg"]),
        ("7", ["images/7.png", "old/7.jpg"]),
        ("7", ["images/7.jpg", "images/7.txt"]),
    ],
)
def test_a_photo_is_found_without_its_ending(tmp_path, name, stored):
    write(tmp_path, [annotation()], [photo(file_name=f"x/{name}")])
    for path in stored:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes())
    assert read_coco(tmp_path, "train").images == (tmp_path / stored[0],)


def test_two_photos_of_one_name_without_its_ending_are_ambiguous(tmp_path):
    write(tmp_path, [annotation()], [photo(file_name="x/7")])
    for ending in ("png", "jpg"):
        cv2.imwrite(str(tmp_path / "images" / f"7.{ending}"), np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(DataError, match="ambiguous photo name"):
        read_coco(tmp_path, "train")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("how", ["truncated", "empty", "text", "folder"])
def test_unreadable_photo_is_left_out(tmp_path, suffix, how):
    images = [photo(1, file_name="a" + suffix), photo(2, file_name="b" + suffix)]
    write(tmp_path, [annotation(1), annotation(2, image_id=2)], images)
    damaged = tmp_path / "images" / ("b" + suffix)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    cv2.imwrite(str(damaged), noise)
    corrupt(damaged, how)
    with pytest.warns(
        DataWarning,
        match=rf"1 photo unreadable or truncated \(first: annotation 2: .*b{suffix}: restore it, or convert",
    ):
        people = read_coco(tmp_path, "train")
    assert people.annotation_ids.tolist() == [1]


def test_sound_jpeg_with_bytes_behind_its_end_is_kept(tmp_path):
    write(tmp_path, [annotation()], [photo(1, file_name="a.jpg")])
    with (tmp_path / "images" / "a.jpg").open("ab") as file:
        file.write(b"\0" * 100)
    assert len(read_coco(tmp_path, "train")) == 1


def test_bomb_is_left_out_unopened(tmp_path):
    """A PNG of a few kilobytes whose header promises gigabytes."""
    write(tmp_path, [annotation(1), annotation(2, image_id=2)], [photo(1), photo(2)])
    path = tmp_path / "images" / "2.png"
    data = bytearray(path.read_bytes())
    data[16:24] = (30000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.warns(DataWarning, match="1 photo too large"):
        assert len(read_coco(tmp_path, "train")) == 1


def test_photo_that_breaks_after_reading_is_named(tmp_path):
    people = read_coco(write(tmp_path, [annotation()]), "train")
    people.image_path(0).write_bytes(b"gone")
    with pytest.raises(DataError, match=r"cannot decode the photo .*1\.png; restore the file"):
        read_image(people.image_path(0))


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "{root}/../secret.png", "a/../../secret.png", "..\\secret.png", "C:\\secret.png", "", "a\0b"],
)
def test_no_file_outside_the_folder_is_read(tmp_path, name):
    write(tmp_path / "data", [annotation(1), annotation(2, image_id=2)], [photo(1), photo(2)])
    path = tmp_path / "data" / "annotations" / "train.json"
    cv2.imwrite(str(tmp_path / "secret.png"), np.full((48, 64, 3), 90, np.uint8))
    path.write_text(path.read_text().replace('"2.png"', json.dumps(name.format(root=tmp_path / "data"))))
    with pytest.warns(DataWarning, match="1 photo missing"):
        people = read_coco(tmp_path / "data", "train")
    assert people.images == (tmp_path / "data" / "images" / "1.png",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100000, "is not JSON"),
        ("\xff\xfe", "is not JSON"),
        (
            '[{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}]',
            "is a list, not COCO annotations: a detection file, or MPII",
        ),
        ('"people"', "is not a COCO annotation file"),
        ('{"images": [], "annotations": []}', "needs the lists images, annotations, categories"),
        ('{"images": {}, "annotations": [], "categories": []}', "needs the lists"),
        ('{"images": [], "annotations": [], "categories": []}', "no category has 'keypoints'"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "keypoints": ["a", "a"]}]}',
            "names must be unique",
        ),
        ('{"images": [], "annotations": [], "categories": [{"keypoints": ["a"]}]}', "bad category"),
        (
            '{"images": [], "annotations": [], "categories": [{"keypoints": ["a"], "skeleton": [[1, Infinity]]}]}',
            "bad category",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "keypoints": ["a"]}]}', "no usable person"),
        (
            '{"images": [1], "annotations": [2], "categories": [{"id": 1, "keypoints": ["a"]}]}',
            "1 malformed annotation",
        ),
    ],
)
def test_bad_annotation_file_is_named(tmp_path, content, message):
    path = tmp_path / "train.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=message) as caught:
        read_coco(tmp_path, "train")
    assert "train.json" in str(caught.value)


@pytest.mark.parametrize(
    ("files", "split", "found"),
    [
        (["annotations/person_keypoints_train2017.json", "images/train2017/"], "train", (0, 1)),
        (["annotations/person_keypoints_train2017.json", "train2017/"], "train2017", (0, 1)),
        (["annotations/person_keypoints_val2014.json", "val2014/", "train2014/"], "val", (0, 1)),
        (["annotations/person_keypoints_val2017.json", "annotations/instances_val2017.json", "images/"], "val", (0, 2)),
        (["annotations/lspet_val.json", "annotations/lspet_train.json", "images/"], "val", (0, 2)),
        (["annotations/person_keypoints_val.json", "images/val/", "images/train/"], "val", (0, 1)),
        (["my_test.json"], "test", (0, "")),
    ],
)
def test_layouts(tmp_path, files, split, found):
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text("{}")
    places = [tmp_path / (files[i] if isinstance(i, int) else i) for i in found]
    found = find_coco(tmp_path, split)
    assert [found.annotations, found.photos] == places
    assert not found.divided


def test_detections_beside_annotations_are_not_taken_for_them(tmp_path):
    (tmp_path / "test_coco.json").write_text(' {"images": []}')
    (tmp_path / "test_detections.json").write_text("[]")
    assert find_coco(tmp_path, "test").annotations.name == "test_coco.json"


def test_ambiguous_missing_and_hostile_splits(tmp_path):
    for name in ("a_val.json", "b_val.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"several annotation files fit split 'val': a_val\.json, b_val\.json"):
        find_coco(tmp_path, "val")
    with pytest.raises(DataError, match=r"no COCO annotations of split 'test' .*\n  found a_val\.json, b_val\.json: "):
        find_coco(tmp_path, "test")
    with pytest.raises(DataError, match="not a plain name"):
        find_coco(tmp_path, "../val")
    with pytest.raises(DataError, match="is not a folder"):
        find_coco(tmp_path / "nowhere", "val")


def test_region_of_a_coco_person_by_hand(tmp_path):
    """Annotation 198565 of train2017, on a photo of 381 x 500 pixels."""
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((500, 381, 3), np.uint8))
    person = annotation(bbox=[203.39, 260.43, 65.69, 73.04], keypoints=[220, 280, 2, 0, 0, 0, 0, 0, 0])
    people = read_coco(write(tmp_path, [person], [photo(width=381, height=500, file_name="../1.png")]), "train")
    np.testing.assert_allclose(people.boxes, [[203.39, 260.43, 64.69, 72.04]])
    np.testing.assert_allclose(people.centres, [[235.735, 296.45]])
    np.testing.assert_allclose(Frame((192, 256)).extended(people.sizes), [[80.8625, 107.816667]])


# ----------------------------------------------------------------------------------------------------------- detections


def detection(**changes) -> dict:
    return {"image_id": 1, "category_id": 1, "bbox": [-8.5, 10, 30.5, 60], "score": 0.5, **changes}


def write_boxes(root: Path, boxes: object) -> Path:
    path = root / "boxes.json"
    path.write_text(json.dumps(boxes))
    return path


def test_detections_are_people_without_joints_and_are_not_clipped(tmp_path):
    write(tmp_path, [annotation()], [photo(1), photo(2)])
    boxes = write_boxes(tmp_path, [detection(), detection(image_id=2, score=0.25, bbox=[1, 2, 3, 4])])
    found = read_detections(tmp_path, "train", boxes)
    people = found.people
    np.testing.assert_array_equal(found.scores, [0.5, 0.25])
    np.testing.assert_array_equal(people.boxes, [[-8.5, 10, 30.5, 60], [1, 2, 3, 4]])
    np.testing.assert_array_equal(people.centres, [[6.75, 40], [2.5, 4]])
    np.testing.assert_array_equal(people.sizes, [[30.5 * 1.25, 75], [3.75, 5]])
    np.testing.assert_array_equal(people.image_ids, [1, 2])
    assert not people.visibility.any()
    assert np.isnan(people.areas).all()
    assert len(people.skeleton) == 3


def test_what_the_protocol_drops_of_detections_and_what_is_damage(tmp_path):
    write(tmp_path, [annotation()], [photo(1), photo(2)])
    (tmp_path / "images" / "2.png").unlink()
    boxes = [
        detection(category_id=3),
        detection(image_id=9),
        detection(image_id=2),
        detection(bbox=[1, 2, 0, 4]),
        detection(score="high"),
        {"bbox": [1, 2, 3, 4]},
        detection(score=0.75),
    ]
    with pytest.warns(DataWarning, match="1 photo missing") as caught:
        found = read_detections(tmp_path, "train", write_boxes(tmp_path, boxes))
    assert len(caught) == 1
    assert found.scores.tolist() == [0.75]
    assert found.people.annotation_ids.tolist() == [6]
    assert found.people.left_out == {
        "other category": 1,
        "detection on no photo of the split": 1,
        "photo missing": 1,
        "box empty": 1,
        "malformed score": 1,
        "malformed detection": 1,
    }


@pytest.mark.parametrize("content", [{"images": []}, [1, 2], [{"image_id": 1, "keypoints": [], "score": 1}]])
def test_a_file_that_holds_no_detections_is_named(content, tmp_path):
    write(tmp_path, [annotation()])
    with pytest.raises(DataError, match=r"boxes\.json is no detection file: .*image_id, category_id, bbox and score"):
        read_detections(tmp_path, "train", write_boxes(tmp_path, content))


def test_a_detection_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none\.json"):
        read_detections(write(tmp_path, [annotation()]), "train", tmp_path / "none.json")
