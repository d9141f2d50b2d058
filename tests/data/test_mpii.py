import json
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import loadmat, savemat

from hdmlib.config import make_config
from hdmlib.data.dataset import DataError, PoseDataset
from hdmlib.data.intake import DataWarning
from hdmlib.data.mpii import RELEASE_FILE, read_mpii
from hdmlib.data.sources import open_data

ARRAYS = ("joints", "visibility", "boxes", "centres", "sizes", "areas", "annotation_ids", "image_ids", "image_index")


def rows(count: int = 4) -> list[dict]:
    """People of HRNet's json, two to a photo; number 1 lacks two joints."""
    rng = np.random.default_rng(0)
    people = []
    for i in range(count):
        joints, labelled = rng.uniform(10, 90, (16, 2)), np.ones(16, int)
        if i == 1:
            joints[[0, 5]], labelled[[0, 5]] = -1, 0
        people.append(
            {
                "image": f"{i // 2}.jpg",
                "center": [50.0 + i, 40.0],
                "scale": 0.4 + i / 10,
                "joints": joints.tolist(),
                "joints_vis": labelled.tolist(),
            }
        )
    return people


def write_json(root: Path, people: list, split: str = "valid") -> Path:
    (root / "annot").mkdir(parents=True, exist_ok=True)
    (root / "annot" / f"{split}.json").write_text(json.dumps(people))
    return write_photos(root, people)


def write_photos(root: Path, people: list) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for person in people:
        cv2.imwrite(str(root / "images" / person["image"]), np.full((100, 120, 3), 80, np.uint8))
    return root


def write_truth(root: Path, people: list, boxes: np.ndarray, split: str = "valid") -> None:
    joints = np.array([p["joints"] for p in people]).transpose(1, 2, 0)
    missing = 1 - np.array([p["joints_vis"] for p in people]).T
    truth = {"headboxes_src": boxes, "pos_gt_src": joints, "jnt_missing": missing}
    savemat(root / "annot" / f"gt_{split}.mat", truth)


def struct(**fields) -> np.ndarray:
    """A 1 x 1 MATLAB struct."""
    out = np.empty((1, 1), dtype=[(name, object) for name in fields])
    for name, value in fields.items():
        out[0, 0][name] = value
    return out


def row_of(structs: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(structs, axis=1) if structs else np.zeros((0, 0))


def rectangle(person: dict, head: tuple[float, ...]) -> np.ndarray:
    """An ``annorect`` as the release has them: ids out of order, no flag for head and neck, flags as text."""
    order = [i for i in (9, 8, *range(8), *range(10, 16)) if person["joints_vis"][i]]
    points = [
        struct(
            x=person["joints"][i][0],
            y=person["joints"][i][1],
            id=i,
            is_visible=np.zeros((0, 0)) if i in (8, 9) else "1",
        )
        for i in order
    ]
    x1, y1, x2, y2 = head
    place = struct(x=person["center"][0], y=person["center"][1])
    points = struct(point=row_of(points))
    return struct(x1=x1, y1=y1, x2=x2, y2=y2, annopoints=points, scale=person["scale"], objpos=place)


def bystander() -> np.ndarray:
    """A person of whom the release says nothing but that there is one."""
    empty = np.zeros((0, 0))
    return struct(x1=1, y1=2, x2=3, y2=4, annopoints=empty, scale=empty, objpos=empty)


def write_release(root: Path, people: list[dict], heads: list[tuple[float, ...]]) -> Path:
    """The original ``.mat``, with a photo of the test set, one with nobody in it, and a bystander in every other."""
    photos = [("test.jpg", [rectangle(people[0], heads[0])], 0), ("nobody.jpg", [], 1)]
    for name in dict.fromkeys(p["image"] for p in people):
        here = [rectangle(p, h) for p, h in zip(people, heads, strict=True) if p["image"] == name]
        photos.append((name, [bystander(), *here], 1))
    annolist = row_of([struct(image=struct(name=name), annorect=row_of(here)) for name, here, _ in photos])
    train = np.array([[flag for *_, flag in photos]], dtype=np.uint8)
    root.mkdir(parents=True, exist_ok=True)
    savemat(root / RELEASE_FILE, {"RELEASE": struct(annolist=annolist, img_train=train)})
    return write_photos(root, people)


def assert_same_people(first: PoseDataset, second: PoseDataset) -> None:
    assert first.skeleton == second.skeleton
    assert [p.name for p in first.images] == [p.name for p in second.images]
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=1e-9, err_msg=name)


HEADS = [(10.0, 10.0, 13.0, 14.0), (1.0, 1.0, 7.0, 9.0), (0.0, 0.0, 30.0, 40.0), (5.0, 5.0, 8.0, 9.0)]


def test_json_and_release_give_identical_people(tmp_path):
    from_json = read_mpii(write_json(tmp_path / "json", rows(), "trainval"), "trainval")
    from_mat = read_mpii(write_release(tmp_path / "mat", rows(), HEADS), "trainval")
    assert len(from_json) == 4
    assert_same_people(from_json, from_mat)
    np.testing.assert_allclose(from_mat.head_sizes, [3, 6, 30, 3])


def test_counts_from_zero_and_regions_as_hrnet(tmp_path):
    people = read_mpii(write_json(tmp_path, rows()), "val")  # val and valid are the same
    first = rows()[0]
    np.testing.assert_allclose(people.joints[0], np.array(first["joints"]) - 1)
    np.testing.assert_allclose(people.centres[0], [49, 40 + 15 * 0.4 - 1])
    np.testing.assert_allclose(people.sizes[0], 0.4 * 200 * 1.25)
    np.testing.assert_array_equal(people.visibility[1], [0, 2, 2, 2, 2, 0] + [2] * 10)
    np.testing.assert_array_equal(people.joints[1, [0, 5]], 0)
    low, high = people.joints[0].min(axis=0), people.joints[0].max(axis=0)
    np.testing.assert_allclose(people.boxes[0], [*low, *(high - low)])
    assert people.annotation_ids.tolist() == [0, 1, 2, 3]
    assert people.image_ids.tolist() == [0, 0, 1, 1]


def test_release_is_split_by_a_list(tmp_path):
    root = write_release(tmp_path, rows(), HEADS)
    listed = [("0.jpg", 2), ("1.jpg", 1)]  # the bystander is number 0 of each photo
    valid = read_mpii(root, "valid", valid_people=listed)
    train = read_mpii(root, "train", valid_people=listed)
    everyone = read_mpii(root, "train")
    np.testing.assert_allclose(valid.joints, everyone.joints[[1, 2]])
    np.testing.assert_allclose(train.joints, everyone.joints[[0, 3]])
    with pytest.raises(
        DataError, match=r"names no validation people; put HRNet's annot/valid\.json beside it, or list them"
    ):
        read_mpii(root, "valid")
    with pytest.raises(DataError, match=r"valid_people names 1 people that .* lacks, such as \('0\.jpg', 7\)"):
        read_mpii(root, "train", valid_people=[("0.jpg", 7)])
    with pytest.raises(DataError, match="splits train, valid and trainval, not 'test'"):
        read_mpii(root, "test")


def test_json_comes_before_the_release(tmp_path):
    root = write_release(tmp_path, rows(), HEADS)
    write_json(root, rows(2), "train")
    assert len(read_mpii(root, "train")) == 2
    with pytest.raises(DataError, match="already is one split; leave it out"):
        read_mpii(root, "train", valid_people=[("0.jpg", 1)])


def test_head_sizes_come_from_the_truth_beside_the_json(tmp_path):
    root = write_json(tmp_path, rows())
    assert np.isnan(read_mpii(root, "valid").head_sizes).all()
    boxes = np.array(HEADS).reshape(4, 2, 2).transpose(1, 2, 0)
    write_truth(root, rows(), boxes)
    people = read_mpii(root, "valid")
    np.testing.assert_allclose(people.head_sizes, [3, 6, 30, 3])
    np.testing.assert_allclose(people.reference_lengths("head"), [3, 6, 30, 3])


def test_truth_of_other_people_is_refused(tmp_path):
    root, boxes = write_json(tmp_path, rows()), np.ones((2, 2, 4))
    write_truth(root, rows()[::-1], boxes)
    with pytest.raises(DataError, match=r"gt_valid\.mat and valid\.json list different people"):
        read_mpii(root, "valid")
    write_truth(root, rows(3), boxes[..., :3])
    with pytest.raises(DataError, match=r"has 3 rows, valid\.json has 4"):
        read_mpii(root, "valid")
    savemat(root / "annot" / "gt_valid.mat", {"headboxes_src": boxes})
    with pytest.raises(DataError, match="lacks headboxes_src, pos_gt_src or jnt_missing"):
        read_mpii(root, "valid")
    (root / "annot" / "gt_valid.mat").write_bytes(b"not matlab")
    with pytest.raises(DataError, match=r"cannot read .*gt_valid\.mat as a MATLAB file"):
        read_mpii(root, "valid")


def test_without_head_boxes_the_head_joints_stand_in(tmp_path):
    people = read_mpii(write_json(tmp_path, rows()), "valid")
    expected = np.linalg.norm(people.joints[:, 8] - people.joints[:, 9], axis=1)
    np.testing.assert_allclose(people.reference_lengths("head"), expected)


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"joints": [[NAN, 1]] * 16}, "joints not finite or absurdly large"),
        ({"joints": [[1, 1]] * 14}, "malformed joints"),
        ({"joints": None}, "malformed joints"),
        ({"joints_vis": [0] * 16}, "no labelled joint"),
        ({"joints_vis": [1] * 3}, "malformed joint flags"),
        ({"joints_vis": [3] * 16}, "malformed joint flags"),
        ({"center": [-1, -1]}, "no position or scale"),
        ({"center": "here"}, "malformed position"),
        ({"scale": 0}, "no position or scale"),
        ({"scale": NAN}, "scale not finite or absurdly large"),
        ({"image": None}, "malformed photo name"),
        ({"image": "absent.jpg"}, "photo missing"),
    ],
)
def test_bad_sample_is_left_out_and_rows_keep_their_numbers(tmp_path, changes, reason):
    people = rows()
    root = write_json(tmp_path, people)
    people[1].update(changes)
    (root / "annot" / "valid.json").write_text(json.dumps(people))
    write_truth(root, rows(), np.array(HEADS).reshape(4, 2, 2).transpose(1, 2, 0))
    expected = DataWarning if reason != "no labelled joint" else None
    if expected:
        with pytest.warns(
            DataWarning, match=f"MPII valid.json valid: left out 1 of 4 annotations: 1 {reason}"
        ) as caught:
            left = read_mpii(root, "valid")
        assert len(caught) == 1
    else:
        left = read_mpii(root, "valid")
    assert left.left_out == {reason: 1}
    assert left.annotation_ids.tolist() == [0, 2, 3]
    np.testing.assert_allclose(left.head_sizes, [3, 30, 3])


def test_flags_may_be_true_and_false(tmp_path):
    people = rows()
    root = write_json(tmp_path, people)
    expected = read_mpii(root, "valid").visibility
    for person in people:
        person["joints_vis"] = [flag > 0 for flag in person["joints_vis"]]
    (root / "annot" / "valid.json").write_text(json.dumps(people))
    np.testing.assert_array_equal(read_mpii(root, "valid").visibility, expected)


def test_no_photo_outside_the_folder_is_read(tmp_path):
    people = rows()
    root = write_json(tmp_path / "data", people)
    people[2]["image"] = "../../secret.jpg"
    shutil.copy(root / "images" / people[0]["image"], tmp_path / "secret.jpg")
    (root / "annot" / "valid.json").write_text(json.dumps(people))
    with pytest.warns(DataWarning, match="1 photo missing"):
        assert len(read_mpii(root, "valid")) == 3


def test_an_unusable_joint_costs_that_joint(tmp_path):
    people = rows()
    root = write_json(tmp_path, people)
    people[0]["joints"][0] = [NAN, 4]
    (root / "annot" / "valid.json").write_text(json.dumps(people))
    with pytest.warns(DataWarning, match="mended: 1 joint not finite or absurdly large: taken as unlabelled"):
        left = read_mpii(root, "valid")
    assert (len(left), left.visibility[0, 0]) == (4, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ('{"images": [], "annotations": []}', "COCO annotations are read as dataset 'coco'"),
        ("[1, 2]", "is not a list of people"),
        ("3", "is not a list of people"),
        ('[{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]', "has no joints: it is a test split"),
        ("[]", "no usable person"),
    ],
)
def test_bad_annotation_file_is_named(tmp_path, content, message):
    (tmp_path / "valid.json").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_mpii(tmp_path, "valid")
    assert "valid.json" in str(caught.value)


def test_bad_release_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"(?s)no MPII annotations of split 'train' .*{RELEASE_FILE}"):
        read_mpii(tmp_path, "train")
    savemat(tmp_path / RELEASE_FILE, {"other": 1})
    with pytest.raises(DataError, match="holds no RELEASE with annolist and img_train"):
        read_mpii(tmp_path, "train")
    unnamed = struct(image=struct(other=1), annorect=rectangle(rows()[0], HEADS[0]))
    savemat(tmp_path / RELEASE_FILE, {"RELEASE": struct(annolist=unnamed, img_train=1)})
    with pytest.raises(DataError, match=r"is damaged \(KeyError\('name'\)\); fetch it again"):
        read_mpii(tmp_path, "train")
    content = (tmp_path / RELEASE_FILE).read_bytes()
    (tmp_path / RELEASE_FILE).write_bytes(content[:-20])
    with pytest.raises(DataError, match="as a MATLAB file"):
        read_mpii(tmp_path, "train")


def test_real_people_from_both_formats(samples, tmp_path):
    fixture = samples("mmpose_fixture/mpii")
    from_json = read_mpii(fixture, "test")
    assert len(from_json) == 5
    np.testing.assert_allclose(from_json.centres[0], [965, 340 + 15 * 4.718488 - 1])
    np.testing.assert_allclose(from_json.sizes[0], 1179.622)
    assert (from_json.visibility == 0).sum(axis=1).tolist() == [0, 0, 2, 2, 0]

    truth = loadmat(samples("mpii_val_pckh_oracle") / "detections_our_format.mat")
    boxes = truth["headboxes_src"][..., :5]
    people = json.loads((fixture / "test_mpii.json").read_text())
    release = write_release(tmp_path / "mat", people, [tuple(boxes[..., i].ravel()) for i in range(5)])
    for photo in fixture.glob("*.jpg"):
        shutil.copy(photo, release / "images")
    from_mat = read_mpii(release, "trainval")
    assert_same_people(from_json, from_mat)

    hrnet = tmp_path / "hrnet"
    (hrnet / "annot").mkdir(parents=True)
    shutil.copytree(release / "images", hrnet / "images")
    shutil.copy(fixture / "test_mpii.json", hrnet / "annot" / "valid.json")
    fields = {key: truth[key][..., :5] for key in ("headboxes_src", "pos_gt_src", "jnt_missing")}
    savemat(hrnet / "annot" / "gt_valid.mat", fields)
    from_hrnet = read_mpii(hrnet, "valid")
    assert_same_people(from_json, from_hrnet)
    expected = 0.6 * np.hypot(*(boxes[1] - boxes[0]))
    np.testing.assert_allclose(from_hrnet.head_sizes, expected)
    np.testing.assert_allclose(from_mat.head_sizes, expected)
    assert expected[0] == pytest.approx(117.96, abs=0.01)


def test_a_person_in_both_splits_is_refused_and_a_photo_of_different_people_is_reported(tmp_path):
    people = rows(6)  # 0 and 1 share a photo, 2 and 3, 4 and 5
    config = make_config("smoke", dataset="mpii", data_root=tmp_path, val_split="valid")
    write_json(tmp_path, people[:3], "train")
    write_json(tmp_path, people[3:])
    with pytest.warns(DataWarning, match=r"show different people of 1 photos, such as .*1\.jpg") as caught:
        open_data(config)
    assert len(caught) == 1
    write_json(tmp_path, people[:4], "train")
    with pytest.raises(DataError, match=r"train and MPII valid.json valid share 1 people, such as one on .*1\.jpg"):
        open_data(config)
    write_json(tmp_path, [*people[4:], *people[:2]], "train")
    write_json(tmp_path, people[2:4])
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        open_data(config)
