"""The converter of faces: geometry on made-up frames of known points, the split, and rows of the real table."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from hdmlib.data.coco import read_coco
from hdmlib.data.dataset import DataError
from hdmlib.data.faces import FLIP_PAIRS, POINTS, convert_faces, validation_people

# Rows of the real training table: each frame's name and points.
REAL_ROWS = Path(__file__).with_name("faces_rows.csv").read_text().splitlines()
# The same frames in the study's set: name -> what it has of them.
STUDYS = json.loads(Path(__file__).with_name("faces_expected.json").read_text())


def write_original(folder, rows, *, size=(320, 300), dots=False):
    """``rows``: folder of frames -> lines of its table; black frames, with a white dot at each point if asked."""
    for name, lines in rows.items():
        (folder / "data" / name).mkdir(parents=True)
        header = ",".join(["", *map(str, range(2 * POINTS))])
        (folder / "data" / f"{name}_frames_keypoints.csv").write_text("\n".join([header, *lines]) + "\n")
        for line in lines:
            file, *values = line.split(",")
            picture = np.zeros((size[1], size[0], 3), np.uint8)
            for x, y in np.array(values, float).reshape(-1, 2).astype(int)[:: 1 if dots else POINTS + 1]:
                cv2.circle(picture, (int(x), int(y)), 2, (255, 255, 255), -1)
            cv2.imwrite(str(folder / "data" / name / file), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])


def line_of(file, points):
    return ",".join([file, *(str(int(value)) for value in np.ravel(points))])


@pytest.fixture
def original(tmp_path):
    """Two training frames of a large face and one of another person in which a point lies outside, and a test frame."""
    rng = np.random.default_rng(0)
    faces = rng.integers(60, 240, (3, POINTS, 2))
    outside = faces[2].copy()
    outside[5, 0] = 320
    rows = {
        "training": [line_of("Ann_Lee_00.jpg", faces[0]), line_of("Zoe_Ray_01.jpg", outside)],
        "test": [line_of("Ann_Lee_01.jpg", faces[1])],
    }
    write_original(tmp_path / "clone", rows, dots=True)
    return tmp_path / "clone"


def test_points_lie_on_their_dots_and_the_reader_takes_the_folder(original, tmp_path):
    counts = convert_faces(original, tmp_path / "out", partial=True)
    assert sum(counts.values()) == 2  # a point outside: left out
    people = read_coco(tmp_path / "out", "val")
    assert people.annotation_ids.tolist() == [1, 2]
    content = json.loads((tmp_path / "out" / "annotations" / "ytf_faces_val.json").read_text())
    assert [image["source"] for image in content["images"]] == [
        "data/test/Ann_Lee_01.jpg",
        "data/training/Ann_Lee_00.jpg",
    ]
    for index in range(2):
        picture = cv2.imread(str(people.image_path(index)), cv2.IMREAD_GRAYSCALE)
        assert max(picture.shape) == 128
        for x, y in people.joints[index].round().astype(int):
            assert picture[y, x] > 120


def test_mirroring_exchanges_each_pair_once_and_keeps_the_middle():
    middle = set(range(POINTS)) - {point for pair in FLIP_PAIRS for point in pair}
    assert len({point for pair in FLIP_PAIRS for point in pair}) == 2 * len(FLIP_PAIRS)
    assert middle == {8, 27, 28, 29, 30, 33, 51, 57, 62, 66}


@pytest.mark.parametrize(
    "case", ["no folder", "no table", "short table", "row cut", "frame missing", "frame damaged", "in use"]
)
def test_what_is_wrong_is_named_and_nothing_is_written(case, original, tmp_path):
    source, to, message = original, tmp_path / "out", ""
    table = original / "data" / "training_frames_keypoints.csv"
    if case == "no folder":
        source, message = tmp_path / "nowhere", "from: no folder"
    elif case == "no table":
        table.unlink()
        message = "no training_frames_keypoints.csv below"
    elif case == "short table":
        message = "has 2 frames, the original 3462"
    elif case == "row cut":
        table.write_text(table.read_text().rsplit(",", 3)[0])
        message = "training_frames_keypoints.csv, line 3: not the name of a frame and 136 numbers"
    elif case == "frame missing":
        (original / "data/training/Ann_Lee_00.jpg").unlink()
        message = r"1 frames of .* are missing, such as .*Ann_Lee_00\.jpg"
    elif case == "frame damaged":
        (original / "data/training/Ann_Lee_00.jpg").write_text("<html>")
        message = r"Ann_Lee_00\.jpg is damaged"
    else:
        to.mkdir()
        (to / "mine.txt").touch()
        message = "is not an empty folder"
    with pytest.raises(DataError, match=message):
        convert_faces(source, to, partial=case in ("frame damaged", "in use"))
    assert not to.exists() or [file.name for file in to.iterdir()] == ["mine.txt"]


def _study(folder):
    """Split -> the content of the study's own annotation file."""
    paths = {part: folder / "annotations" / f"ytf_faces_{part}.json" for part in ("train", "val")}
    return {part: json.loads(path.read_text()) for part, path in paths.items()}


def test_the_split_is_the_studys(samples):
    people = {
        part: {one["person"] for one in content["images"]} for part, content in _study(samples("ytf_faces")).items()
    }
    assert validation_people(people["train"] | people["val"]) == people["val"]


def test_real_rows_become_the_studys_faces(tmp_path):
    """Points, boxes, areas and distances of the eyes, digit for digit; the frames are stand-ins."""
    write_original(tmp_path / "clone", {"training": REAL_ROWS[1:], "test": REAL_ROWS[:1]})
    convert_faces(tmp_path / "clone", tmp_path / "out", partial=True)
    content = json.loads((tmp_path / "out" / "annotations" / "ytf_faces_val.json").read_text())
    annotations = {one["image_id"]: one for one in content["annotations"]}
    made = {Path(image["source"]).name: image | annotations[image["id"]] for image in content["images"]}
    assert made.keys() == STUDYS.keys()
    for name, expected in STUDYS.items():
        assert {key: made[name][key] for key in expected} == expected


def test_the_category_is_the_studys(original, samples, tmp_path):
    convert_faces(original, tmp_path / "out", partial=True)
    assert _study(tmp_path / "out")["val"]["categories"] == _study(samples("ytf_faces"))["val"]["categories"]
