"""A folder is looked through before it is read: each missing file is named, and where the dataset is published."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from hdmlib.config import ConfigError, make_config
from hdmlib.data.coco_files import find_coco
from hdmlib.data.dataset import DataError
from hdmlib.data.origins import ORIGINS
from hdmlib.data.sources import open_data
from hdmlib.inspection import inspect_dataset, people_to_show
from hdmlib.synthetic.dataset import embedded_dataset


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def refusal(preset: str, root: Path | None, **values) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        open_data(make_config(preset, data_root=root, **values))
    return str(caught.value)


def missing(message: str) -> list[str]:
    return [line.split(" (")[0].strip() for line in message.splitlines() if re.match(r"  \S", line)]


COCO_FILES = (
    "annotations/person_keypoints_train2017.json",
    "train2017/000000000001.jpg",
    "annotations/person_keypoints_val2017.json",
    "val2017/000000000002.jpg",
)
MPII_FILES = ("annot/train.json", "annot/valid.json", "annot/gt_valid.mat", "images/1.jpg")


def test_an_empty_folder_lacks_all_of_coco(tmp_path):
    message = refusal("coco_w48_384x288", tmp_path)
    assert missing(message) == [
        "annotations/person_keypoints_train2017.json",
        "train2017/",
        "annotations/person_keypoints_val2017.json",
        "val2017/",
    ]
    for told in ("cocodataset.org", "18 GB", "241 MB", "CC BY 4.0", str(tmp_path)):
        assert told in message


def test_an_empty_folder_lacks_all_of_mpii(tmp_path):
    message = refusal("mpii_w32_256x256", tmp_path)
    assert missing(message) == ["annot/train.json", "images/", "annot/valid.json", "annot/gt_valid.mat"]
    for told in ("human-pose.mpi-inf.mpg.de", "12.9 GB", "no commercial use"):
        assert told in message


@pytest.mark.skipif(not all(map(shutil.which, ("wget", "unzip", "tar", "md5sum"))), reason="the commands are Linux's")
@pytest.mark.parametrize(("dataset", "preset"), [("coco", "coco_w32_256x192"), ("mpii", "mpii_w32_256x256")])
def test_the_printed_commands_fetch_what_is_missing(dataset, preset, tmp_path):
    """Run as printed, but for small archives from a server of our own."""
    origin, offered, root = ORIGINS[dataset], tmp_path / "offered", tmp_path / "data root"
    packed = {
        "annotations_trainval2017.zip": [file for file in COCO_FILES if file.endswith("json")],
        "train2017.zip": ["train2017/000000000001.jpg"],
        "val2017.zip": ["val2017/000000000002.jpg"],
        "mpii_annotations.tar": ["mpii_train.json", "mpii_val.json", "mpii_gt_val.mat"],
        "mpii_human_pose_v1.tar.gz": ["images/1.jpg"],
    }
    offered.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=offered)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    commands = "\n".join(line for line in refusal(preset, root).splitlines() if line.startswith("    "))
    for archive in origin.archives:
        name = archive.url.rpartition("/")[2]
        kind = {"zip": "zip", "tar": "tar", "gz": "gztar"}[name.rpartition(".")[2]]
        touch(tmp_path / name, *packed[name])
        made = Path(shutil.make_archive(str(tmp_path / "made" / name), kind, tmp_path / name))
        made.rename(offered / name)
        commands = commands.replace(archive.url, f"http://127.0.0.1:{server.server_port}/{name}")
        commands = commands.replace(archive.md5 or "none", hashlib.md5((offered / name).read_bytes()).hexdigest())
    subprocess.run(["bash", "-e", "-c", commands], check=True, capture_output=True)
    server.shutdown()
    server.server_close()
    assert "is not JSON" in refusal(preset, root)  # the files are there, and empty


@pytest.mark.parametrize("gone", COCO_FILES)
def test_one_missing_file_of_coco_is_named_alone(gone, tmp_path):
    touch(tmp_path, *(file for file in COCO_FILES if file != gone))
    named = gone if gone.endswith("json") else f"{gone.split('/')[0]}/"
    assert missing(refusal("coco_w32_256x192", tmp_path)) == [named]


@pytest.mark.parametrize("folder", ["", "images/"])
def test_photos_may_lie_in_either_place(folder, tmp_path):
    touch(tmp_path, *(file if "json" in file else folder + file for file in COCO_FILES))
    assert "is not JSON" in refusal("coco_w32_256x192", tmp_path)  # the files are there, and empty


@pytest.mark.parametrize("gone", ["annot/train.json", "annot/valid.json", "annot/gt_valid.mat"])
def test_one_missing_file_of_mpii_is_named_alone(gone, tmp_path):
    touch(tmp_path, *(file for file in MPII_FILES if file != gone))
    assert missing(refusal("mpii_w48_256x256", tmp_path)) == [gone]


def test_the_original_release_does_not_say_who_the_validation_people_are(tmp_path):
    touch(tmp_path, "mpii_human_pose_v1_u12_1.mat", "images/1.jpg")
    expected = ["annot/train.json", "annot/valid.json", "annot/gt_valid.mat"]
    assert missing(refusal("mpii_w32_256x256", tmp_path)) == expected


def test_data_of_ones_own_is_told_how_to_name_its_files_and_nothing_of_coco(tmp_path):
    message = refusal("laptop", tmp_path, dataset="coco")
    assert "found no JSON file: name the file of each split annotations/SPLIT.json" in message
    assert "cocodataset.org" not in message


def test_no_folder(tmp_path):
    assert "cocodataset.org" in refusal("coco_w32_256x192", None)
    assert "no folder" in refusal("coco_w32_256x192", tmp_path / "nowhere")
    assert "cocodataset.org" not in refusal("laptop", tmp_path / "nowhere", dataset="coco")


def test_synthetic_people_need_no_folder(tmp_path):
    assert "the synthetic people need none" in refusal("laptop", tmp_path)


def test_validation_people_before_the_offset_are_left_out():
    whole, rest = (open_data(make_config("smoke", val_people=n, val_offset=k)).val for n, k in ((32, 0), (22, 10)))
    assert len(rest) == 22
    np.testing.assert_array_equal(rest.joints, whole.joints[10:])


def test_an_offset_that_leaves_nobody_is_refused(tmp_path):
    root = embedded_dataset(tmp_path, format="coco", train=2, val=2, size=64)
    with pytest.raises(ConfigError, match=r"val_offset: 50 leaves nobody"):
        open_data(make_config("smoke", dataset="coco", data_root=root, val_offset=50))


@pytest.mark.skipif(sys.platform != "linux", reason="file names of Linux")
def test_photos_may_have_names_that_are_not_utf8(tmp_path):
    root = embedded_dataset(tmp_path / "plain", format="coco", train=2, val=2, size=64)
    config = make_config("smoke", dataset="coco", data_root=root)
    before = open_data(config).fingerprint
    annotations = find_coco(root, "val").annotations
    name = json.loads(annotations.read_text())["images"][0]["file_name"]
    photo = find_coco(root, "val").photos / name
    photo.rename(photo.with_name("photo\udce9.jpg"))
    annotations.write_text(annotations.read_text().replace(name, "photo\\udce9.jpg"))
    data = open_data(config)
    assert "photo\udce9.jpg" in [path.name for path in data.val.images]
    assert data.fingerprint != before
    titles = people_to_show(inspect_dataset(config)).titles
    assert any(r"photo\udce9.jpg" in title for title in titles)


def test_label_noise_moves_the_training_joints_by_so_many_head_sizes_and_nothing_else():
    clean, noisy, again, other = (
        open_data(make_config("smoke", label_noise=noise, seed=seed))
        for noise, seed in ((0.0, 0), (0.2, 0), (0.2, 0), (0.2, 1))
    )
    labelled = clean.train.visibility > 0
    assert not noisy.train.joints[~labelled].any()
    moved = ((noisy.train.joints - clean.train.joints) / clean.train.head_sizes[:, None, None])[labelled]
    assert moved.std() == pytest.approx(0.2, rel=0.05)
    assert abs(moved.mean()) < 0.02
    np.testing.assert_array_equal(noisy.train.joints, again.train.joints)
    assert (noisy.train.joints != other.train.joints).any()
    np.testing.assert_array_equal(noisy.val.joints, clean.val.joints)
