"""OKS-AP against published COCO evaluations; similarity, suppression and scores on hand-made poses."""

import copy
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from hdmlib.metrics import OKS_METRICS
from hdmlib.metrics.oks import oks, oks_ap, oks_nms, rescore
from hdmlib.skeletons import COCO_17

GOLDEN = Path(__file__).parents[1] / "golden"
# AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL as printed: by cocoapi (results/val2014_fake_eval_res.txt) for its
# made-up results on the first 100 photos of val2014, and by faster_coco_eval (tests/test_keypoints.py) for one photo.
PUBLISHED = {
    "val2014": (3, [0.372, 0.636, 0.348, 0.384, 0.386, 0.514, 0.734, 0.504, 0.508, 0.522]),
    "photo139099": (
        12,
        [0.5048844884488449, 0.7227722772277227, 0.6336633663366337, 0.46633663366336636, 0.7504950495049505,
         0.5181818181818182, 0.7272727272727273, 0.6363636363636364, 0.4666666666666666, 0.75],
    ),
}  # fmt: skip


def published(case) -> tuple[dict, list]:
    """Ground truth and results of a published evaluation; origins and licences are in ``golden/README.md``."""
    content = json.loads(gzip.decompress((GOLDEN / f"coco_{case}.json.gz").read_bytes()))
    return content["truth"], content["results"]


def of_pycocotools(truth, results):
    """pycocotools' evaluation of the same, run."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    reference = COCO()
    reference.dataset = truth
    reference.createIndex()
    evaluation = COCOeval(reference, reference.loadRes(copy.deepcopy(results)), "keypoints")
    evaluation.evaluate()
    return evaluation


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_evaluations_to_the_printed_digit(case, capfd):
    digits, printed = PUBLISHED[case]
    scores = oks_ap(*published(case), COCO_17.sigmas)
    assert capfd.readouterr().out == ""
    assert tuple(scores) == OKS_METRICS
    assert [round(value, digits) for value in scores.values()] == [round(value, digits) for value in printed]
    evaluation = of_pycocotools(*published(case))
    evaluation.accumulate()
    evaluation.summarize()
    assert list(scores.values()) == pytest.approx(evaluation.stats, abs=1e-12)


def test_results_of_top_down_code_are_scored_as_pycocotools_does(samples):
    """Records that also hold centre and scale, on mmpose's four photos."""
    truth = json.loads((samples("mmpose_fixture/coco") / "test_coco.json").read_text())
    results = json.loads((samples("coco_oks_oracle") / "c_dt_example_coco_preds.json").read_text())
    evaluation = of_pycocotools(truth, results)
    evaluation.accumulate()
    evaluation.summarize()
    assert list(oks_ap(truth, results, COCO_17.sigmas).values()) == pytest.approx(evaluation.stats, abs=1e-12)


def test_similarity_matrix_is_that_of_pycocotools():
    evaluation = of_pycocotools(*published("photo139099"))
    (expected,) = evaluation.ious.values()
    truth, found = evaluation._gts[139099, 1], evaluation._dts[139099, 1]
    found = sorted(found, key=lambda record: -record["score"])[: len(expected)]
    labelled = [i for i, record in enumerate(truth) if record["num_keypoints"]]
    poses = np.array([truth[i]["keypoints"] for i in labelled]).reshape(-1, 17, 3)
    predictions = np.array([record["keypoints"] for record in found]).reshape(-1, 17, 3)[..., :2]
    area = [truth[i]["area"] for i in labelled]
    similarity = oks(predictions, poses[..., :2], area, COCO_17.sigmas, poses[..., 2])
    assert labelled
    assert np.abs(similarity - expected[:, labelled]).max() < 1e-12


def dataset(people=2, joints=2):
    """One photo per person, all joints labelled, persons 100 px square (large by COCO's measure)."""
    keypoints = np.zeros((people, joints, 3))
    keypoints[..., :2] = np.arange(joints)[:, None] * 100
    keypoints[..., 2] = 2
    truth = {
        "images": [{"id": i} for i in range(people)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "area": 1e4, "bbox": [0, 0, 100, 100], "keypoints": k}
            for i, k in enumerate(keypoints.reshape(people, -1).tolist())
        ],
    }
    results = [
        {"image_id": i, "category_id": 1, "keypoints": k, "score": 0.5}
        for i, k in enumerate(keypoints.reshape(people, -1).tolist())
    ]
    return truth, results


def test_perfect_results_any_number_of_joints_and_untouched_arguments():
    truth, results = dataset()
    before = copy.deepcopy((truth, results))
    scores = oks_ap(truth, results, [0.1, 0.1])
    assert scores["AP"] == scores["AR75"] == scores["APL"] == pytest.approx(1)
    assert np.isnan(scores["APM"])  # nobody of medium size
    assert (truth, results) == before


@pytest.mark.parametrize("ids", [(5, 5), (0, 1), (None, None)])
def test_ids_of_annotations_do_not_matter(ids):
    """pycocotools keeps one of two equal ids, and takes the id 0 for a person who was not found."""
    truth, results = dataset()
    for annotation, number in zip(truth["annotations"], ids, strict=True):
        annotation["id"] = number
    assert oks_ap(truth, results, [0.1, 0.1])["AP"] == pytest.approx(1)


def test_half_found_and_nothing_found():
    truth, results = dataset()
    assert oks_ap(truth, results[:1], [0.1, 0.1])["AR"] == pytest.approx(0.5)
    empty = oks_ap(truth, [], [0.1, 0.1])
    assert empty["AP"] == empty["AR"] == 0


def test_boxes_in_the_results_change_nothing():
    truth, results = dataset()
    boxed = [result | {"bbox": [0, 0, 1, 1], "area": 5} for result in results]
    assert oks_ap(truth, boxed, [0.1, 0.1])["AP"] == oks_ap(truth, results, [0.1, 0.1])["AP"]


def test_sigmas_decide():
    truth, results = dataset()
    for result in results:
        result["keypoints"][0] += 10
    assert oks_ap(truth, results, [0.01, 0.01])["AP"] < 0.5 < oks_ap(truth, results, [0.2, 0.2])["AP"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, "result 1: image_id 77 is not in the ground truth"),
        ({"category_id": 9}, "category_id 9 is unknown"),
        ({"keypoints": [1, 2, 3]}, "3 keypoint values, expected x, y and score of 2 joints"),
        ({"keypoints": [1, 2, 3, float("nan"), 5, 6]}, "not finite"),
        ({"score": float("inf")}, "not finite"),
        ({"score": None}, "not finite"),
        ({"keypoints": ["x", 1, 1] * 2}, "result 1: keypoints must be numbers"),
    ],
)
def test_bad_results_are_named(change, message):
    truth, results = dataset()
    results[0] |= change
    with pytest.raises(ValueError, match=message):
        oks_ap(truth, results, [0.1, 0.1])


def test_incomplete_records_are_named():
    truth, results = dataset()
    del results[1]["score"]
    with pytest.raises(ValueError, match="result 2: no score"):
        oks_ap(truth, results, [0.1, 0.1])
    with pytest.raises(ValueError, match="annotation 1: malformed joints: keypoints must be 9 numbers"):
        oks_ap(dataset()[0], [], [0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    "changes", [{"area": None}, {"area": 0, "bbox": None}, {"iscrowd": None}, {"num_keypoints": 0}]
)
def test_what_the_reader_mends_is_scored(changes):
    truth, results = dataset()
    truth["annotations"][0] |= changes
    assert oks_ap(truth, results, [0.1, 0.1])["AP"] == pytest.approx(1)


def test_people_without_joints_and_other_categories_are_ignored():
    truth, results = dataset()
    truth["categories"] = [{"id": 1, "keypoints": ["a", "b"]}, {"id": 2, "name": "ball"}]
    truth["annotations"] += [
        {"id": 8, "image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9]},
        {"id": 9, "image_id": 0, "category_id": 2, "bbox": [0, 0, 9, 9]},
    ]
    assert oks_ap(truth, results, [0.1, 0.1])["AP"] == pytest.approx(1)


def test_annotations_of_a_single_category_need_not_name_it():
    truth, results = dataset()
    for annotation in truth["annotations"]:
        del annotation["category_id"]
    assert oks_ap(truth, results, [0.1, 0.1])["AP"] == pytest.approx(1)
    truth["categories"].append({"id": 2, "name": "ball"})
    with pytest.raises(ValueError, match="annotation 1: no category_id; add the id of its category"):
        oks_ap(truth, results, [0.1, 0.1])


@pytest.mark.parametrize("category", ["1", 3, [1]])
def test_truth_of_an_unknown_category_is_refused(category):
    truth, results = dataset()
    truth["annotations"][0]["category_id"] = category
    with pytest.raises(ValueError, match=r"annotation 1: category_id .* is not the id of a category"):
        oks_ap(truth, results, [0.1, 0.1])


def test_truth_that_is_no_annotation(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"truth\.json is not JSON"):
        oks_ap(path, [], [0.1])
    path.write_text("[]")
    with pytest.raises(ValueError, match="no COCO keypoint annotation"):
        oks_ap(path, [], [0.1])
    with pytest.raises(ValueError, match=r"cannot read .*absent\.json"):
        oks_ap(tmp_path / "absent.json", [], [0.1])


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("images", {"id": None}, "entry 0 of images has no id"),
        ("categories", {"id": None}, "entry 0 of categories has no id"),
        ("annotations", {"image_id": None}, "annotation 1: image_id None is not the id of an image"),
        ("annotations", {"image_id": [1]}, r"annotation 1: image_id \[1\] is not the id of an image"),
        ("annotations", {"image_id": 77}, "annotation 1: image_id 77 is not the id of an image"),
    ],
)
def test_truth_with_a_wrong_id(table, change, message):
    truth, results = dataset()
    truth[table][0] |= change
    with pytest.raises(ValueError, match=message):
        oks_ap(truth, results, [0.1, 0.1])


def test_similarity_by_hand():
    truth = np.zeros((2, 2, 2))
    predictions = np.array([[[3.0, 4.0], [0.0, 0.0]]])
    expected = np.exp(-25 / (2 * 100 * 0.2**2))
    matrix = oks(predictions, truth, [100, 100], [0.1, 0.1], [[1, 0], [2, 1]])
    assert matrix == pytest.approx(np.array([[expected, (expected + 1) / 2]]))
    assert oks(predictions, truth[:1], [100], [0.1, 0.1], [[0, 0]]).tolist() == [[0]]


def test_suppression_keeps_the_best_of_each_person():
    pose = np.random.default_rng(0).uniform(0, 100, (17, 2))
    joints = np.stack((pose, pose + 0.5, pose + 200, pose + 200.5, pose + 40))
    kept = oks_nms(joints, [0.5, 0.9, 0.8, 0.1, 0.3], np.full(5, 1e4), COCO_17.sigmas)
    assert kept.tolist() == [1, 2, 4]
    assert oks_nms(joints, np.ones(5), np.full(5, 1e4), COCO_17.sigmas, threshold=1).tolist() == [0, 1, 2, 3, 4]
    assert oks_nms(np.empty((0, 17, 2)), [], [], COCO_17.sigmas).tolist() == []


def test_what_is_suppressed_suppresses_nobody():
    """B is like A and C is like B, but not like A: A removes B, so C stays."""
    poses = np.zeros((3, 1, 2))
    poses[:, 0, 0] = [0, 4, 8]
    similarity = oks(poses, poses, np.full(3, 100.0), [0.5])
    assert similarity[0, 1] > 0.9 > similarity[0, 2]
    assert oks_nms(poses, [3, 2, 1], np.full(3, 100.0), [0.5]).tolist() == [0, 2]


def test_suppression_uses_the_mean_area():
    poses = np.zeros((2, 1, 2))
    poses[1, 0, 0] = 10
    alike = np.exp(-100 / (2 * 250 * 1))
    for threshold, count in ((alike - 1e-6, 1), (alike + 1e-6, 2)):
        assert len(oks_nms(poses, [2, 1], [100, 400], [0.5], threshold)) == count


def test_rescore_by_hand():
    scores = rescore([0.5, 1.0, 1.0], [[0.4, 0.8, 0.1], [0.2, 0.2, 0.2], [0.3, 0, 0]])
    assert scores == pytest.approx([0.3, 0, 0.3])


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="equal joints"):
        oks(np.zeros((1, 3, 2)), np.zeros((1, 4, 2)), [1], [0.1] * 4)
    with pytest.raises(ValueError, match="one value per joint"):
        oks(np.zeros((1, 3, 2)), np.zeros((1, 3, 2)), [1], [0.1])
    with pytest.raises(ValueError, match="area must be"):
        oks(np.zeros((1, 3, 2)), np.zeros((1, 3, 2)), [1, 2], [0.1] * 3)
    with pytest.raises(ValueError, match="differ in length"):
        oks_nms(np.zeros((1, 3, 2)), [1, 2], [1], [0.1] * 3)
