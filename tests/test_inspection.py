"""``hdmlib check``: the report, its exit status, and the twelve people that it draws."""

import itertools
import json

import cv2
import numpy as np
import pytest
from matplotlib.text import Text
from typer.testing import CliRunner

from hdmlib.cli import app
from hdmlib.config import make_config
from hdmlib.inspection import inspect_dataset, people_to_show
from hdmlib.plots.people import contact_sheet
from hdmlib.skeletons import skeleton_from_names
from hdmlib.synthetic.dataset import embedded_dataset

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


def rename_joints(root, names):
    """Give the joints of both splits other names."""
    for split in ("train", "val"):
        write(root, split, 4)
        content = json.loads((root / f"{split}.json").read_text())
        content["categories"][0]["keypoints"] = names
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


def test_the_same_people_of_both_splits_are_shown_in_every_call(tmp_path):
    write(tmp_path, "train", 30)
    write(tmp_path, "val", 8)
    found = inspect_dataset(make_config(dataset="coco", data_root=tmp_path))
    first, second = people_to_show(found), people_to_show(found)
    assert len(first.titles) == 12
    assert [title.split(":")[0] for title in first.titles] == ["train"] * 6 + ["val"] * 6
    assert first.titles[5] == "train: train29.png, annotation 29"  # spread to the last
    assert first.titles == second.titles
    np.testing.assert_array_equal(first.pictures, second.pictures)
    # the crop shows the box and a quarter more: the annotated pixel is where the joint is drawn
    assert (first.joints[first.labelled] > 0).all()
    assert (first.joints[first.labelled] < first.pictures.shape[1]).all()


@pytest.mark.parametrize(
    ("joints", "legend"),
    [
        (HAND, "orange: the person's left, blue: right"),
        (["wrist", "a", "b"], "orange and blue: the two joints of a pair"),
        (["wrist", "palm"], ""),
        ([f"p{k}" for k in range(40)], "numbers: positions of the joints in the list, from 0"),
    ],
)
def test_the_sheet_says_what_its_colours_mean(joints, legend):
    pairs = [(1, 2)] if joints[1] == "a" else None
    skeleton, count = skeleton_from_names(joints, flip_pairs=pairs), len(joints)
    picture, places = np.zeros((1, 64, 64, 3), np.uint8), np.full((1, count, 2), 30.0)
    figure = contact_sheet(picture, places, np.ones((1, count)), skeleton, ["one"])
    assert figure.get_supxlabel() == legend
    names = [text.get_text() for text in figure.axes[0].texts]
    assert names == ([name.replace("_", " ") for name in joints] if count < 40 else [str(k) for k in range(40)])


def test_names_of_joints_close_together_cover_no_other():
    names = ["nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_wrist"]
    joints = np.array([[[160, 160], [166, 156], [154, 156], [170, 158], [150, 158], [317, 3]]], float)
    figure = contact_sheet(
        np.zeros((1, 320, 320, 3), np.uint8), joints, np.ones((1, 6)), skeleton_from_names(names), [""]
    )
    figure.canvas.draw()
    axes = figure.axes[0]
    # annotations' own extents include the lines that lead to their joints
    places = [Text.get_window_extent(text) for text in axes.texts]
    assert not any(first.overlaps(second) for first, second in itertools.combinations(places, 2))
    assert all(axes.bbox.contains(*corner) for place in places for corner in place.corners())


def test_remarks_of_both_splits_together_are_reported(tmp_path):
    write(tmp_path, "train", 4)
    write(tmp_path, "val", 3)
    (tmp_path / "val").mkdir()
    for name in ("val1.png", "val2.png"):
        (tmp_path / "val" / name).write_bytes((tmp_path / "images" / name).read_bytes())
    content = json.loads((tmp_path / "val.json").read_text())
    content["images"][0]["file_name"] = "train0.png"
    (tmp_path / "val" / "train0.png").write_bytes((tmp_path / "images" / "train0.png").read_bytes())
    (tmp_path / "val.json").write_text(json.dumps(content))
    code, output = check(tmp_path)
    assert code == 1, output
    assert "copies of training photos" in output


def test_joints_that_no_mirror_fits_are_a_remark(tmp_path):
    rename_joints(tmp_path, ["wrist", "thumb", "index", "ring", "little"])
    code, output = check(tmp_path)
    assert code == 1, output
    assert "mirrored crops teach left as right" in output


def test_people_left_out_by_the_protocol_are_counted_and_no_remark(tmp_path):
    write(tmp_path, "train", 4)
    write(tmp_path, "val", 3)
    content = json.loads((tmp_path / "train.json").read_text())
    content["annotations"][1]["iscrowd"] = 1
    (tmp_path / "train.json").write_text(json.dumps(content))
    code, output = check(tmp_path)
    assert code == 0, output
    assert "1 crowd" in output


def test_one_split_alone(tmp_path):
    write(tmp_path, "train", 4)
    code, output = check(tmp_path, "--split", "train")
    assert code == 0, output
    assert "split val" not in output


def test_mpii_is_recognised(tmp_path):
    root = embedded_dataset(format="mpii", train=64, val=32, size=128)
    code, output = check(root, "--to", tmp_path / "sheet.png")
    assert code == 0, output
    assert "right_ankle" in output
    assert "<-> left_ankle" in output
    assert check(root, "--format", "coco")[0] == 2


def test_an_earlier_picture_is_kept(tmp_path):
    write(tmp_path, "train", 4)
    write(tmp_path, "val", 3)
    (tmp_path / "mine.png").write_bytes(b"mine")
    code, output = check(tmp_path, "--to", tmp_path / "mine.png")
    assert code == 2
    assert "--overwrite" in output
    assert (tmp_path / "mine.png").read_bytes() == b"mine"
    assert check(tmp_path, "--to", tmp_path / "mine.png", "--overwrite")[0] == 0
    code, output = check(tmp_path, "--to", tmp_path / "sheet.jpg")
    assert code == 2
    assert "sheet.jpg must end in .png" in output


def test_a_length_that_nobody_has_is_reported(tmp_path):
    write(tmp_path, "train", 4)
    write(tmp_path, "val", 3)
    for reference, why in {"wrist:tail": "has no joint 'tail'", "head": "nobody has a head length"}.items():
        code, output = check(tmp_path, f"pck_reference={reference}")
        assert code == 2, output
        assert why in output.replace("\n", " ")
    code, output = check(tmp_path, "val_offset=100")
    assert code == 2
    assert "3 people on 3 photos" in output  # the report is there all the same
    assert "val_offset: 100 leaves nobody" in output


def test_pck_that_rests_on_few_is_a_remark(tmp_path):
    write(tmp_path, "train", 4)
    write(tmp_path, "val", 3)
    content = json.loads((tmp_path / "val.json").read_text())
    content["annotations"][0]["head_size"] = 20
    (tmp_path / "val.json").write_text(json.dumps(content))
    code, output = check(tmp_path)
    assert code == 1, output
    assert "PCK is measured on 1 of 3 people, since the others have no head length" in output


def test_a_side_without_a_partner_is_a_remark(tmp_path):
    rename_joints(tmp_path, [*HAND[:4], "tip_rigth"])
    code, output = check(tmp_path)
    assert code == 1, output
    assert "no partner on the other side is known for tip_left" in output
