"""Annotations as tools write them: what is missing is mended and counted, and nobody is lost in silence."""

import json
import re
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from hdmlib.benchmark import evaluate_coco
from hdmlib.config import make_config
from hdmlib.data.coco import read_coco, read_truth
from hdmlib.data.dataset import DataError
from hdmlib.data.detections import read_detections
from hdmlib.data.intake import DataWarning, id_key, number_ids
from hdmlib.metrics.oks import oks_ap
from hdmlib.models.registry import build_model

NAMES = ["snout", "left_ear", "right_ear", "tail"]
NAN = float("nan")
WIDTH, HEIGHT = 200, 150


def category(**changes) -> dict:
    return {"id": 1, "name": "cow", "keypoints": NAMES, **changes}


def annotation(number: object = 1, **changes) -> dict:
    """A cow whose joints span 40 x 60 pixels from (50, 40); ``...`` as a value leaves the field out."""
    keypoints = [50, 40, 2, 90, 60, 2, 70, 100, 1, 0, 0, 0]
    fields = {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [40, 30, 60, 80], "area": 3000}
    fields = {**fields, "keypoints": keypoints, "num_keypoints": 3, **changes}
    return {key: value for key, value in fields.items() if value is not ...}


def write(root: Path, annotations: list, categories: list | None = None, images: list | None = None) -> Path:
    images = images or [{"id": 1, "file_name": "1.png", "width": WIDTH, "height": HEIGHT}]
    root.mkdir(exist_ok=True)
    cv2.imwrite(str(root / "1.png"), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    parts = {"images": images, "annotations": annotations, "categories": categories or [category()]}
    (root / "train.json").write_text(json.dumps(parts))
    return root


def read_one(root: Path, mend: str | None, **changes):
    """A dataset of one sound cow and a changed one, and the warning that says what was mended."""
    write(root, [annotation(1), annotation(2, **changes)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cows = read_coco(root, "train")
    assert [str(warning.message) for warning in caught] == ([f"COCO train.json: mended: {mend}"] if mend else []), (
        "one warning, one line"
    )
    assert len(cows) == 2
    assert cows.left_out == {}
    return cows


BOX = "1 box missing or empty: that of the joints (first: annotation 2)"
AREA = "1 area missing or 0: that of the box (first: annotation 2)"


@pytest.mark.parametrize("area", [..., None, 0, -3, NAN, "large"])
def test_a_missing_area_is_that_of_the_box(tmp_path, area):
    assert read_one(tmp_path, AREA, area=area).areas.tolist() == [3000, 60 * 80]


NO_BOX = BOX.replace("missing or empty", "that is not x, y and a positive width and height, each up to 1e+06")


@pytest.mark.parametrize(
    ("box", "mend"),
    [
        *[(box, BOX) for box in (..., None, [], [0, 0, 0, 0], [50, 40, 0, 60])],
        *[
            (box, NO_BOX)
            for box in (
                [90, 90, -40, -60],
                [NAN] * 4,
                "box",
                {"x": 1},
                ["50", "40", "40", "60"],
                [4, 4, 0, -2],
                [4, 4, 2e6, 2],
            )
        ],
    ],
)
def test_a_missing_box_is_that_of_the_joints_a_tenth_larger(tmp_path, box, mend):
    cows = read_one(tmp_path, mend, bbox=box)
    np.testing.assert_allclose(cows.boxes[1], [48, 37, 44 - 1, 66 - 1])  # clipping takes a pixel, as of any box
    assert cows.areas[1] == 3000


def test_a_box_outside_the_photo_is_that_of_the_joints(tmp_path):
    mend = "1 box outside the photo: that of the joints (first: annotation 2)"
    np.testing.assert_allclose(read_one(tmp_path, mend, bbox=[900, 30, 60, 80]).boxes[1], [48, 37, 43, 65])


def test_one_labelled_joint_gets_a_tenth_of_the_photo(tmp_path):
    cows = read_one(tmp_path, BOX, bbox=[50, 40, 0, 0], keypoints=[50, 40, 2] + [0] * 9)
    np.testing.assert_allclose(cows.boxes[1], [40, 30, 19, 19])


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ({"iscrowd": ...}, None),
        ({"num_keypoints": ...}, None),
        ({"num_keypoints": 0}, None),  # the flags count
        ({"num_keypoints": None}, None),
        ({"iscrowd": False}, None),
        ({"iscrowd": None}, "1 iscrowd null: 0 (first: annotation 2)"),
        (
            {"head_size": None},
            "1 head size null or no positive number: PCKh does not count the person (first: annotation 2)",
        ),
        (
            {"head_size": 0},
            "1 head size null or no positive number: PCKh does not count the person (first: annotation 2)",
        ),
        ({"head_box": [1, 2]}, "1 malformed head box: no head size (first: annotation 2)"),
    ],
)
def test_fields_that_training_does_not_need(tmp_path, changes, mend):
    cows = read_one(tmp_path, mend, **changes)
    assert np.isnan(cows.head_sizes).all()


def test_fractions_of_the_photo_look_wrong(tmp_path):
    mend = "looks wrong: 1 labelled joints all between 0 and 1: fractions of the photo instead of pixels?"
    write(tmp_path, [annotation(1), annotation(2, keypoints=[0.25, 0.3, 2, 0.45, 0.4, 2, 0.35, 0.7, 1, 0, 0, 0])])
    with pytest.warns(DataWarning, match=re.escape(mend)):
        assert len(read_coco(tmp_path, "train")) == 2


def test_joints_as_triples_are_read_one_after_another(tmp_path):
    mend = "1 keypoints as triples: read one after another (first: annotation 2)"
    cows = read_one(tmp_path, mend, keypoints=[[50, 40, 2], [90, 60, 2], [70, 100, 1], [None, None, 0]])
    np.testing.assert_array_equal(cows.joints[0], cows.joints[1])
    np.testing.assert_array_equal(cows.visibility[0], cows.visibility[1])


@pytest.mark.parametrize(
    ("box", "told"), [([50, 40, 40, 60], False), ([100, 60, 125, 100], True), ([-60, -30, 200, 90], True)]
)
def test_a_box_that_reaches_far_beyond_the_photo_looks_wrong(tmp_path, box, told):
    write(tmp_path, [annotation(1, bbox=box)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_coco(tmp_path, "train")
    wrong = "COCO train.json: looks wrong: 1 box reaches far beyond the photo: two corners instead of x, y, width and"
    assert [str(warning.message).startswith(wrong) for warning in caught] == ([True] if told else [])


@pytest.mark.parametrize("flag", [0, -1, -2])
@pytest.mark.parametrize("place", [(NAN, NAN), (None, None), (-1, -1), (1e300, 0), (0, 0)])
def test_an_unlabelled_joint_may_hold_anything(tmp_path, flag, place):
    cows = read_one(tmp_path, None, keypoints=[50, 40, 2, 90, 60, 2, 70, 100, 1, *place, flag])
    np.testing.assert_array_equal(cows.joints[0], cows.joints[1])
    np.testing.assert_array_equal(cows.visibility[0], cows.visibility[1])


@pytest.mark.parametrize("flag", [3, 4, 7])
def test_an_unknown_flag_is_labelled_and_named(tmp_path, flag):
    mend = f"1 unknown visibility flag {flag}: taken as labelled (first: annotation 2)"
    cows = read_one(tmp_path, mend, keypoints=[50, 40, 2, 90, 60, 2, 70, 100, 1, 60, 50, flag])
    assert cows.visibility[1].tolist() == [2, 2, 1, 2]
    assert cows.joints[1, 3].tolist() == [60, 50]


@pytest.mark.parametrize("place", [(NAN, 60), (None, 60), (1e9, 60)])
def test_an_unusable_joint_costs_that_joint(tmp_path, place):
    mend = "1 joint not finite or absurdly large: taken as unlabelled (first: annotation 2)"
    cows = read_one(tmp_path, mend, keypoints=[50, 40, 2, *place, 2, 70, 100, 1, 0, 0, 0])
    assert cows.visibility[1].tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize(("x", "told"), [(WIDTH + 5.0, False), (5000.0, True), (-900.0, True)])
def test_a_joint_far_outside_the_photo_is_reported_and_kept(tmp_path, x, told):
    write(tmp_path, [annotation(1), annotation(2, keypoints=[x, 40, 2, 90, 40, 2, 50, 100, 2, 90, 100, 2])])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cows = read_coco(tmp_path, "train")
    assert cows.joints[1, 0, 0] == x
    wrong = "COCO train.json: looks wrong: 1 labelled joint far outside the photo"
    assert [str(warning.message).startswith(wrong) for warning in caught] == ([True] if told else [])


def test_mends_are_counted_in_one_line(tmp_path):
    write(tmp_path, [annotation(i, area=0, **({"bbox": None} if i > 3 else {})) for i in range(1, 6)])
    with pytest.warns(DataWarning) as caught:
        cows = read_coco(tmp_path, "train")
    assert [str(w.message) for w in caught] == [
        "COCO train.json: mended: 5 area missing or 0: that of the box (first: annotation 1), "
        "2 box missing or empty: that of the joints (first: annotation 4)"
    ]
    assert sum(cows.mended.values()) == 7


def test_cocos_own_protocol_leaves_out_people_without_area(tmp_path):
    write(tmp_path, [annotation(1), annotation(2, area=0), annotation(3, iscrowd=1), annotation(4, keypoints=[0] * 12)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cows = read_coco(tmp_path, "train", strict=True)
    assert cows.left_out == {"no area": 1, "crowd": 1, "no labelled joint": 1}


# ------------------------------------------------------------------------------------------------------------------ ids


@pytest.mark.parametrize(
    ("photo_id", "image_id", "category_id", "own"),
    [("1", "1", 1, 7), (1, "1", 1, 7), (1.0, 1, 1.0, 7.0), (1, 1, "1", "7"), ("img_1.jpg", "img_1.jpg", 1, 7)],
)
def test_ids_as_text_or_whole_floats(tmp_path, photo_id, image_id, category_id, own):
    photo = {"id": photo_id, "file_name": "1.png", "width": WIDTH, "height": HEIGHT}
    write(tmp_path, [annotation(own, image_id=image_id, category_id=category_id)], images=[photo])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cows = read_coco(tmp_path, "train")
    assert cows.annotation_ids.tolist() == [7]
    [image] = read_truth(tmp_path, "train")["images"]
    assert cows.image_ids.tolist() == [image["id"]]


@pytest.mark.parametrize("own", [None, ..., "two", 2**70, 1.5, [1]])
def test_annotations_without_a_usable_id_are_numbered(tmp_path, own):
    write(tmp_path, [annotation(5), annotation(own)])
    with pytest.warns(DataWarning, match=r"mended: 1 id missing, no integer or already used: numbered"):
        assert read_coco(tmp_path, "train").annotation_ids.tolist() == [5, 6]


def test_another_encoding_is_named(tmp_path):
    write(tmp_path, [annotation()], [category(name="Kühe")])
    path = tmp_path / "train.json"
    path.write_bytes(json.dumps(json.loads(path.read_text()), ensure_ascii=False).encode("latin-1"))
    with pytest.raises(DataError, match=r"train\.json is not UTF-8 .*; save it as UTF-8"):
        read_coco(tmp_path, "train")


def test_one_id_for_all_loses_nobody(tmp_path):
    different = [annotation(1, bbox=[50, 40, 40, 60 + n]) for n in range(3)]
    write(tmp_path, [*different, *different[:2]])
    with pytest.warns(DataWarning) as caught:
        assert read_coco(tmp_path, "train").annotation_ids.tolist() == [1, 2, 3]
    [message] = [str(warning.message) for warning in caught]
    assert "left out 2 of 5 annotations: 2 annotation listed twice (first: annotation 1" in message
    assert "mended: 3 id missing, no integer or already used: numbered (first: annotation 2)" in message
    assert len(read_truth(tmp_path, "train")["annotations"]) == 3


def test_keys_and_numbers_of_ids():
    assert [id_key(v) for v in (7, 7.0, "7", " 7 ", "07x", 7.5, None, True, [7])] == [
        7,
        7,
        7,
        7,
        "07x",
        None,
        None,
        None,
        None,
    ]
    assert number_ids([4, "a", "b", "a", None, None]) == [4, 5, 6, 5, 7, 8]


# ----------------------------------------------------------------------------------------------------------- categories


def test_categories_without_joints_are_ignored(tmp_path):
    others = [{"id": 2, "name": "herd"}, {"id": 3, "name": "ball", "keypoints": [], "skeleton": []}]
    write(
        tmp_path,
        [annotation(1), annotation(2, category_id=2, keypoints=...), annotation(3, category_id=3, keypoints=[0] * 12)],
        [*others, category()],
    )
    cows = read_coco(tmp_path, "train")
    assert (len(cows), cows.left_out) == (1, {"other category": 2})


def test_annotations_of_a_single_category_need_not_name_it(tmp_path):
    write(tmp_path, [annotation(1, category_id=...)])
    assert len(read_coco(tmp_path, "train")) == 1
    write(tmp_path, [annotation(1, category_id=None)])
    assert len(read_coco(tmp_path, "train")) == 1
    write(tmp_path, [annotation(1), annotation(2, category_id=...)], [category(), {"id": 2, "name": "ball"}])
    with pytest.warns(DataWarning, match="left out 1 of 2 annotations: 1 joints of a category that has none"):
        assert len(read_coco(tmp_path, "train")) == 1


def test_categories_with_the_same_joints_are_read_together(tmp_path):
    pairs = category(id=2, name="calf", flip_pairs=[[1, 2]], keypoints=["Snout", "left ear", "right_ear", "tail"])
    write(tmp_path, [annotation(1), annotation(2, category_id=2)], [category(), pairs])
    assert len(read_coco(tmp_path, "train")) == 2
    assert len(read_coco(tmp_path, "train", category="calf")) == 1
    assert len(read_truth(tmp_path, "train")["annotations"]) == 2


def test_categories_with_different_joints_are_chosen_by_name(tmp_path):
    bird = {"id": 2, "name": "bird", "keypoints": ["beak"]}
    write(tmp_path, [annotation(1), annotation(2, category_id=2, keypoints=[9, 9, 2])], [category(), bird])
    with pytest.raises(
        DataError, match=r"train\.json: the categories cow, bird have different joints; .* category=NAME"
    ):
        read_coco(tmp_path, "train")
    assert read_coco(tmp_path, "train", category="bird").skeleton.joints == ("beak",)
    with pytest.raises(DataError, match=r"no category 'fish' with keypoints; category=NAME can be cow, bird"):
        read_coco(tmp_path, "train", category="fish")


def test_a_category_is_chosen_by_its_name_or_else_by_its_id(tmp_path):
    entries = [category(id=number, name=name, keypoints=[name]) for number, name in ((1, "cow"), (2, "3"), (3, "bird"))]
    write(tmp_path, [annotation(n, category_id=n, keypoints=[9, 9, 2]) for n in (1, 2, 3)], entries)
    for wanted, joint in (("cow", "cow"), ("1", "cow"), ("2", "3"), ("3", "3"), ("bird", "bird")):
        assert read_coco(tmp_path, "train", category=wanted).skeleton.joints == (joint,)


def test_joints_that_are_objects_are_called_by_their_names(tmp_path):
    joints = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    write(tmp_path, [annotation()], [category(keypoints=joints)])
    with pytest.warns(DataWarning, match="keypoints of category 'cow' are objects, not names: the name of each is re"):
        skeleton = read_coco(tmp_path, "train").skeleton
    assert (skeleton.joints, skeleton.flip_pairs) == (tuple(NAMES), ((1, 2),))


@pytest.mark.parametrize("joints", [",".join(NAMES), [{"id": 0}], [{"name": None}], ["snout", None], {"0": "snout"}, 4])
def test_joints_without_names_are_refused(tmp_path, joints):
    write(tmp_path, [annotation()], [category(keypoints=joints)])
    with pytest.raises(DataError, match=r"train\.json: bad category 'cow': keypoints must be a list of names, got "):
        read_coco(tmp_path, "train")


@pytest.mark.parametrize(
    ("limbs", "expected"),
    [
        ([[1, 2], [1, 4]], ((0, 1), (0, 3))),
        ([[0, 1], [0, 3]], ((0, 1), (0, 3))),  # counted from 0
        ([], ()),
        (None, ()),
    ],
)
def test_limbs_count_from_1_or_from_0(tmp_path, limbs, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            read_coco(write(tmp_path, [annotation()], [category(skeleton=limbs)]), "train").skeleton.limbs == expected
        )


@pytest.mark.parametrize("limbs", [[[0, 4]], [[1, 9]], [[1, NAN]], [1, 2], [["snout", "tail"]], [[1.5, 2]]])
def test_limbs_are_only_drawn_so_bad_ones_are_dropped_with_a_warning(tmp_path, limbs):
    with pytest.warns(DataWarning, match="no list of pairs of the numbers 1 to 4, so no limbs are drawn"):
        assert read_coco(write(tmp_path, [annotation()], [category(skeleton=limbs)]), "train").skeleton.limbs == ()


def test_flip_pairs_are_numbers_or_names(tmp_path):
    for pairs in ([[0, 3]], [["snout", "Tail"]]):
        skeleton = read_coco(write(tmp_path, [annotation()], [category(flip_pairs=pairs)]), "train").skeleton
        assert skeleton.flip_pairs == ((0, 3),)
    with pytest.raises(DataError, match=r"train\.json: bad category 'cow'.*flip_pairs name a joint 'hoof'"):
        read_coco(write(tmp_path, [annotation()], [category(flip_pairs=[["snout", "hoof"]])]), "train")


# ----------------------------------------------------------------------------------------------------------- evaluation

MENDED = [
    annotation(1, area=0),
    annotation(2, bbox=None, area=None),
    annotation(3, iscrowd=None),
    annotation(4, keypoints=[50, 40, 2, NAN, None, -1, 70, 100, 3, 0, 0, 0]),
    annotation(5, num_keypoints=...),
]


def test_what_the_reader_takes_is_scored(tmp_path):
    """Truth as results has AP 1: nobody is missing from the ground truth, and nobody is in it who was not read."""
    others = [{"id": 9, "image_id": 1, "category_id": 2, "bbox": [1, 1, 20, 20]}, annotation(8, keypoints=...)]
    apart = [
        {**a, "keypoints": [v + 40 * i if v and v == v and k % 3 < 2 else v for k, v in enumerate(a["keypoints"])]}
        for i, a in enumerate(MENDED)
    ]
    write(tmp_path, [*apart, *others], [category(), {"id": 2, "name": "ball"}])
    with pytest.warns(DataWarning):
        cows = read_coco(tmp_path, "train")
    triples = np.dstack([cows.joints, np.ones(cows.visibility.shape)]).reshape(len(cows), -1).tolist()
    results = [{"image_id": 1, "category_id": 1, "keypoints": k, "score": 1.0} for k in triples]
    truth = read_truth(tmp_path, "train")
    assert {a["id"]: a["area"] for a in truth["annotations"] if a["num_keypoints"]} == dict(
        zip(cows.annotation_ids.tolist(), cows.areas.tolist(), strict=True)
    )
    assert oks_ap(truth, results, cows.skeleton.sigmas)["AP"] == pytest.approx(1)
    assert oks_ap(tmp_path / "train.json", results, cows.skeleton.sigmas)["AP"] == pytest.approx(1)


def test_evaluation_goes_through_the_same_mending(tmp_path):
    write(tmp_path, MENDED)
    config = make_config("smoke", dataset="coco", data_root=tmp_path, val_split="train", device="cpu")
    with pytest.warns(DataWarning):
        report = evaluate_coco(config, build_model("hrnet_nano", num_joints=4))
    assert np.isfinite(report.ours.values["AP"])
    assert report.people == 5


def test_detections_of_ids_as_text(tmp_path):
    write(tmp_path, [annotation()])
    (tmp_path / "boxes").write_text(
        json.dumps([{"image_id": "1", "category_id": 1.0, "bbox": [1, 2, 30, 40], "score": 0.5}])
    )
    assert len(read_detections(tmp_path, "train", tmp_path / "boxes").people) == 1
