"""Joints of any kind: names, pairs and files of one's own, from the annotation file to a trained network."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from hdmlib.config import ConfigError, make_config
from hdmlib.data.augmentation import Augmentation
from hdmlib.data.crops import Frame
from hdmlib.data.dataset import DataError
from hdmlib.data.intake import DataWarning
from hdmlib.data.loader import make_loader
from hdmlib.data.sources import open_data
from hdmlib.experiments.runs import run
from hdmlib.experiments.store import Store
from hdmlib.experiments.training import fit
from hdmlib.inference import open_network
from hdmlib.skeletons import COCO_17, LSP_14, MPII_16, skeleton_from_names

HAND = ["thumb", "index", "middle", "ring", "little"]
FACE = [f"p{i:02}" for i in range(68)]
ANIMAL = [
    "Nose",
    "EyeL",
    "EyeR",
    "ear.L",
    "ear.R",
    "left-front-paw",
    "right-front-paw",
    "rear left paw",
    "rear right paw",
]


def write_split(root: Path, split: str, joints: list[str], count: int = 6, **category) -> None:
    """Noisy photos with one object each, whose joints lie on a spiral."""
    rng = np.random.default_rng(len(split))
    spiral = np.linspace(0, 5, len(joints))
    shape = np.column_stack([np.cos(spiral), np.sin(spiral)]) * (8 + 4 * spiral[:, None])
    (root / split).mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        noise = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (96, 96))
        cv2.imwrite(str(root / split / f"{split}{i}.png"), noise)
        places = shape + rng.uniform(40, 56, 2)
        images.append({"id": i, "file_name": f"{split}{i}.png", "width": 96, "height": 96})
        keypoints = np.column_stack([places, np.full(len(joints), 2)]).round(2).ravel().tolist()
        annotations.append({"id": i, "image_id": i, "category_id": 0, "keypoints": keypoints, "bbox": [5, 5, 85, 85]})
    categories = [{"id": 0, "name": "thing", "keypoints": joints, **category}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / split / "annotations.json").write_text(json.dumps(content))


def dataset(root: Path, joints: list[str], train: dict | None = None, val: dict | None = None) -> Path:
    write_split(root, "train", joints, **train or {})
    write_split(root, "val", joints, **val or {})
    return root


def tiny(root: Path, **values):
    return make_config(
        "smoke", dataset="coco", data_root=root, epochs=1, batch_size=3, train_people=6, val_people=4, device="cpu",
        run_dir=root / "runs", **values,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("joints", "category", "pairs"),
    [
        (HAND, {}, 0),
        (FACE, {"flip_pairs": [[i, 16 - i] for i in range(8)]}, 8),
        (ANIMAL, {}, 4),
    ],
    ids=["hand", "face", "animal"],
)
@pytest.mark.filterwarnings("ignore::hdmlib.data.intake.DataWarning")
def test_a_network_is_trained_and_evaluated(tmp_path, joints, category, pairs):
    root = dataset(tmp_path, joints, category, category)
    result = run(tiny(root))
    assert len(result.data.train.skeleton.flip_pairs) == pairs
    assert result.record.joints == list(result.data.train.skeleton.joints)
    final = result.record.final.metrics
    assert np.isfinite(final["PCK(box)@0.2"])
    assert np.isfinite(final["AP"])


# ------------------------------------------------------------------------------------------------------------ splits


def test_limbs_sigmas_and_file_names_may_differ_between_splits(tmp_path):
    train = {"skeleton": [[1, 2]], "sigmas": [0.1] * 9}
    both = open_data(tiny(dataset(tmp_path, ANIMAL, train)))
    assert both.train.skeleton.limbs == ((0, 1),)
    assert both.val.skeleton.limbs == ()
    assert both.val.skeleton.joints == both.train.skeleton.joints


def test_other_joints_are_refused_with_the_first_difference(tmp_path):
    write_split(tmp_path, "train", HAND)
    write_split(tmp_path, "val", HAND[::-1])
    with pytest.raises(DataError, match=r"different joints \(the first difference is thumb and little\)"):
        open_data(tiny(tmp_path))


def test_other_numbers_of_joints_are_refused(tmp_path):
    write_split(tmp_path, "train", HAND)
    write_split(tmp_path, "val", HAND[:3])
    with pytest.raises(DataError, match=r"different joints \(5 and 3\)"):
        open_data(tiny(tmp_path))


def test_pairs_given_for_one_split_hold_for_both(tmp_path):
    both = open_data(tiny(dataset(tmp_path, HAND, train={"flip_pairs": [[0, 4]]})))
    assert both.val.skeleton.flip_pairs == ((0, 4),)


def test_pairs_that_contradict_are_refused(tmp_path):
    root = dataset(tmp_path, HAND, train={"flip_pairs": [[0, 4]]}, val={"flip_pairs": [[1, 3]]})
    with pytest.raises(DataError, match="pair left and right differently"):
        open_data(tiny(root))


# ------------------------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize(
    "names",
    [
        "left_eye right_eye", "left-eye right-eye", "LeftEye RightEye", "eyeL eyeR", "eye.L eye.R", "l_eye r_eye",
        "leftear rightear", "earleft earright", "L_Eye R_Eye", "eye_l eye_r", "EyeLeft EyeRight", "LEye REye",
        "LEFT_EYE RIGHT_EYE", "lKnee rKnee", "lknee rknee", "kneel kneer", "LKNEE RKNEE", "thumbL1 thumbR1",
        "left1 right1", "pawFrontLeft pawFrontRight", "rear_left_paw rear_right_paw", "l.ear right.ear",
    ],
)  # fmt: skip
def test_sides_in_every_common_spelling(names):
    assert skeleton_from_names(["nose", *names.split()]).flip_pairs == ((1, 2),)
    assert skeleton_from_names(["nose", *names.split()[::-1]]).flip_pairs == ((2, 1),)


def test_sides_in_names_of_several_words():
    assert skeleton_from_names(["eye left", "eye right"]).flip_pairs == ((0, 1),)
    corners = ["left_eye_left_corner", "left_eye_right_corner", "right_eye_left_corner", "right_eye_right_corner"]
    assert skeleton_from_names(corners).flip_pairs == ((0, 3), (1, 2))


@pytest.mark.parametrize(
    "names",
    [
        "lip rip",
        "lower rower",
        "lock rock",
        "label rabel",
        "l r",
        "1 2",
        "p00 p01",
        "left_eye right_ear",
        "bright blight",
    ],
)
def test_names_that_are_no_sides(names):
    assert skeleton_from_names(names.split()).flip_pairs == ()


@pytest.mark.parametrize("known", [COCO_17, MPII_16, LSP_14])
@pytest.mark.parametrize("spelling", ["{} extra", "{}-1", "my.{}"])
def test_pairs_of_the_known_sets_are_found_by_name(known, spelling):
    skeleton = skeleton_from_names([spelling.format(joint) for joint in known.joints])
    assert skeleton.flip_order == known.flip_order


def test_mirrored_crops_without_pairs_warn_once(tmp_path):
    people = open_data(tiny(dataset(tmp_path, HAND))).train
    with pytest.warns(
        DataWarning, match=r"mirrored crops teach left as right; .*flip_pairs .* in the category"
    ) as caught:
        make_loader(people, Frame((32, 32)), augmentation=Augmentation(mirror_probability=0.5))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_loader(people, Frame((32, 32)), augmentation=Augmentation(rotation=30))


def test_a_run_is_not_shown_for_other_pairs_or_photos_of_the_same_names(tmp_path):
    data_of = [dataset(tmp_path / name, HAND, **dict.fromkeys(("train", "val"), pairs)) for name, pairs in (
        ("first", {}), ("paired", {"flip_pairs": [[0, 4]]}))]  # fmt: skip
    runs = {"run_dir": tmp_path / "runs"}
    first = run(tiny(data_of[0]).model_copy(update=runs), weights=True)
    with pytest.raises(DataError, match=r"before its left-right pairs.*resume=false"):
        run(tiny(data_of[1]).model_copy(update=runs), weights=True)
    again = run(tiny(data_of[1], resume=False).model_copy(update=runs), weights=True)
    assert again.trained
    assert first.record.name == again.record.name
    photo = next((data_of[1] / "val").glob("*.png"))
    cv2.imwrite(str(photo), np.zeros((96, 96, 3), np.uint8))
    with pytest.raises(DataError, match="or photos were changed"):
        run(tiny(data_of[1]).model_copy(update=runs), weights=True)


def test_a_training_goes_on_with_the_data_that_it_began_with(tmp_path):
    root = dataset(tmp_path, HAND)
    config = tiny(root)

    class Killed(Exception):
        pass

    def leave(line):
        raise Killed

    with pytest.raises(Killed):
        fit(config, open_data(config), tmp_path / "run", report=leave)
    for split in ("train", "val"):
        file = root / split / "annotations.json"
        file.write_text(
            file.read_text().replace('"keypoints": ["thumb"', '"flip_pairs": [[0, 4]], "keypoints": ["thumb"')
        )
    changed = open_data(config)
    assert changed.val.skeleton.flip_pairs == ((0, 4),)
    with pytest.raises(DataError, match=r"last\.pt: begun on this dataset before its left-right pairs"):
        fit(config, changed, tmp_path / "run")


def test_a_run_keeps_its_pairs_for_the_mirrored_photo(tmp_path):
    pairs = {"flip_pairs": [[0, 4]], "skeleton": [[1, 2]]}
    root = dataset(tmp_path, HAND, train=pairs, val=pairs)
    trained = run(tiny(root, flip_test=True), weights=True)
    opened = open_network(trained.folder)
    assert opened.skeleton.flip_pairs == ((0, 4),)
    assert opened.skeleton.limbs == trained.data.val.skeleton.limbs != ()


def test_a_finished_run_on_a_folder_is_shown_where_nothing_can_be_written(tmp_path, monkeypatch):
    root = dataset(tmp_path, HAND)
    first = run(tiny(root), weights=True)

    def refuse(store):
        raise ConfigError("run_dir: cannot write")

    monkeypatch.setattr(Store, "check_writable", refuse)
    assert run(tiny(root), weights=True).folder == first.folder
    for changed in (tiny(root, seed=1), tiny(dataset(tmp_path / "other", HAND[:4]), seed=0)):
        with pytest.raises(ConfigError, match="cannot write"):
            run(changed.model_copy(update={"run_dir": root / "runs"}), weights=True)


def test_a_joint_is_found_by_its_name_however_it_is_written():
    skeleton = replace(LSP_14, joints=("L Ankle", *LSP_14.joints[1:]))
    assert skeleton.index("L Ankle") == skeleton.index("l_ankle") == 0


@pytest.mark.parametrize("pairs", [{"flip_pairs": ((0, 1, 2),)}, {"limbs": ((0,),)}])
def test_pairs_are_two_joints(pairs):
    with pytest.raises(ValueError, match="flip_pairs and limbs are pairs of joints"):
        replace(LSP_14, **pairs)
