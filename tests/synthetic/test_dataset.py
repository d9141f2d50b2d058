"""The embedded people on disk: true formats, reproducible, and never half there."""

import json
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.io import loadmat

from hdmlib.files import writer
from hdmlib.skeletons import COCO_17, MPII_16
from hdmlib.synthetic.dataset import GENERATOR_VERSION, CacheError, cache_dir, embedded_dataset

SMALL = {"train": 5, "val": 3, "size": 64, "seed": 3, "workers": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def coco(root):
    return embedded_dataset(root, format="coco", **SMALL | {"train": 12, "val": 6, "size": 96})


@pytest.fixture(scope="module")
def mpii(root):
    return embedded_dataset(root, format="mpii", **SMALL | {"train": 12, "val": 6, "size": 96})


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def kept(root: Path) -> list[Path]:
    """What a cache holds, but for the locks."""
    return [path for path in root.iterdir() if path.suffix != ".lock"]


# Formats --------------------------------------------------------------------------------------------------------------


def test_coco_loads_and_truth_scores_one(coco, capsys):
    truth = COCO(str(coco / "annotations" / "person_keypoints_val.json"))
    category = truth.loadCats(1)[0]
    assert tuple(category["keypoints"]) == COCO_17.joints
    assert min(min(limb) for limb in category["skeleton"]) == 1
    assert len(truth.imgs) == 6
    people = truth.loadAnns(truth.getAnnIds())
    assert len(people) >= 6
    for image in truth.imgs.values():
        picture = cv2.imread(str(coco / "images" / "val" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3)
    for person in people:
        v = np.array(person["keypoints"]).reshape(17, 3)
        assert person["area"] > 0
        assert person["iscrowd"] == 0
        assert person["num_keypoints"] == (v[:, 2] > 0).sum()
        assert set(v[:, 2]) <= {0, 1, 2}
        assert (v[v[:, 2] == 0] == 0).all()
        x1, y1, x2, y2 = person["head_box"]
        assert x1 < x2
        assert y1 < y2
    found = truth.loadRes(
        [{k: person[k] for k in ("image_id", "category_id", "keypoints")} | {"score": 1.0} for person in people]
    )
    scores = COCOeval(truth, found, "keypoints")
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    assert scores.stats[0] == pytest.approx(1.0)


def test_both_formats_show_the_same_people(coco, mpii):
    for split, name, first in (("train", "train.json", "0"), ("val", "valid.json", "1")):
        truth = json.loads((coco / "annotations" / f"person_keypoints_{split}.json").read_text())
        entries = json.loads((mpii / "annot" / name).read_text())
        assert len(entries) == len(truth["annotations"])
        for person, entry in zip(truth["annotations"], entries, strict=True):
            assert entry["image"] == f"{first}{person['image_id']:08d}.jpg"
            picture = (mpii / "images" / entry["image"]).read_bytes()
            assert picture == (coco / "images" / split / f"{person['image_id']:012d}.jpg").read_bytes()
            keypoints = np.array(person["keypoints"]).reshape(17, 3)
            for k, joint in enumerate(MPII_16.joints):
                assert entry["joints_vis"][k] in (0, 1)
                if not entry["joints_vis"][k]:
                    assert entry["joints"][k] == [-1, -1]
                if joint in COCO_17.joints:
                    x, y, v = keypoints[COCO_17.joints.index(joint)]
                    assert entry["joints_vis"][k] == (v > 0)
                    if v:  # MPII counts pixels from 1
                        assert entry["joints"][k] == pytest.approx([x + 1, y + 1])


def test_hrnet_ground_truth_goes_with_valid_json(mpii, coco):
    truth = loadmat(mpii / "annot" / "gt_valid.mat")
    entries = json.loads((mpii / "annot" / "valid.json").read_text())
    count = len(entries)
    assert truth["pos_gt_src"].shape == (16, 2, count)
    assert truth["jnt_missing"].shape == (16, count)
    assert truth["headboxes_src"].shape == (2, 2, count)
    shorts = [str(name[0]) for name in truth["dataset_joints"][0]]
    assert shorts[:2] == ["rank", "rkne"]
    assert [shorts.index("head"), shorts.index("lsho"), shorts.index("lwri")] == [9, 13, 15]
    annotations = json.loads((coco / "annotations" / "person_keypoints_val.json").read_text())["annotations"]
    for i, entry in enumerate(entries):
        labelled = np.array(entry["joints_vis"]) > 0
        np.testing.assert_array_equal(truth["jnt_missing"][:, i], ~labelled)
        np.testing.assert_allclose(truth["pos_gt_src"][labelled, :, i], np.array(entry["joints"])[labelled])
        np.testing.assert_allclose(truth["headboxes_src"][:, :, i].ravel(), np.array(annotations[i]["head_box"]) + 1)


def test_original_release_goes_with_the_json_files(mpii):
    release = loadmat(mpii / "mpii_human_pose_v1_u12_1.mat", struct_as_record=False)["RELEASE"][0, 0]
    annolist = release.annolist[0]
    assert len(annolist) == release.img_train.size == 18
    assert release.single_person.shape == (18, 1)
    assert release.act.shape == (18, 1)
    entries = [e for name in ("train", "valid") for e in json.loads((mpii / "annot" / f"{name}.json").read_text())]
    found = []
    for picture in annolist:
        for rect in picture.annorect[0]:
            points = {int(p.id[0, 0]): p for p in rect.annopoints[0, 0].point[0]}
            position = rect.objpos[0, 0]
            assert rect.x1[0, 0] < rect.x2[0, 0]
            assert all((p.is_visible.size == 0) == (k in (8, 9)) for k, p in points.items())
            found.append(
                {
                    "joints_vis": [int(k in points) for k in range(16)],
                    "joints": [[points[k].x[0, 0], points[k].y[0, 0]] if k in points else [-1, -1] for k in range(16)],
                    "image": str(picture.image[0, 0].name[0]),
                    "scale": rect.scale[0, 0],
                    "center": [position.x[0, 0], position.y[0, 0]],
                }
            )
    assert found == entries


# Reproducible ---------------------------------------------------------------------------------------------------------


def test_workers_and_counts_change_nothing(tmp_path):
    few = embedded_dataset(tmp_path / "a", format="coco", train=4, val=30, size=48, seed=1, workers=1)
    many = embedded_dataset(tmp_path / "b", format="coco", train=9, val=30, size=48, seed=1, workers=2)
    one, two = content(few), content(many)
    assert one["annotations/person_keypoints_val.json"] == two["annotations/person_keypoints_val.json"]
    pictures = [name for name in one if name.endswith(".jpg")]
    assert len(pictures) == 34
    assert all(one[name] == two[name] for name in pictures)


def test_seeds_and_splits_differ(tmp_path):
    a = embedded_dataset(tmp_path, format="coco", **SMALL)
    b = embedded_dataset(tmp_path, format="coco", **SMALL | {"seed": 4})
    first = "images/{}/000000000001.jpg"
    pictures = {(a / first.format("train")).read_bytes(), (a / first.format("val")).read_bytes()}
    assert len(pictures | {(b / first.format("train")).read_bytes()}) == 3


def test_progress_counts_the_pictures(tmp_path):
    seen = []

    def progress(records, total, desc):
        assert total == 8
        assert "people" in desc
        for record in records:
            seen.append(record)
            yield record

    embedded_dataset(tmp_path, format="mpii", **SMALL, progress=progress)
    assert len(seen) == 8


def test_a_complete_folder_is_reused(tmp_path):
    folder = embedded_dataset(tmp_path, format="coco", **SMALL)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert embedded_dataset(tmp_path, format="coco", **SMALL) == folder
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


# Never half there -----------------------------------------------------------------------------------------------------


def break_manifest(folder):
    (folder / "dataset.json").write_text('{"recipe": ')


def drop_manifest(folder):
    (folder / "dataset.json").unlink()


def edit_annotations(folder):
    path = next(folder.rglob("person_keypoints_train.json"))
    path.write_text(path.read_text().replace("person", "dog", 1))


def other_version(folder):
    path = folder / "dataset.json"
    manifest = json.loads(path.read_text())
    manifest["recipe"]["version"] += 1
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (break_manifest, "no readable dataset.json"),
        (drop_manifest, "no readable dataset.json"),
        (edit_annotations, "person_keypoints_train.json has changed"),
        (other_version, "names another version"),
    ],
)
def test_a_broken_folder_is_made_again(tmp_path, damage, reason):
    folder = embedded_dataset(tmp_path, format="coco", **SMALL)
    whole = content(folder)
    damage(folder)
    assert content(folder) != whole
    with pytest.warns(UserWarning, match=reason):
        assert embedded_dataset(tmp_path, format="coco", **SMALL) == folder
    assert content(folder) == whole
    assert kept(tmp_path) == [folder]


def drop(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def flip_bits(path):
    """One bit at each of twenty random places; size and time stay, as with a failing disk."""
    status, data, draws = path.stat(), bytearray(path.read_bytes()), np.random.default_rng(0)
    for place in draws.choice(len(data), 20, replace=False):
        data[place] ^= 1 << draws.integers(8)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("format", ["coco", "mpii"])
@pytest.mark.parametrize("damage", [drop, truncate, empty, flip_bits])
def test_a_damaged_picture_is_drawn_again_and_no_other(tmp_path, damage, format):
    folder = embedded_dataset(tmp_path, format=format, **SMALL)
    whole = content(folder)
    pictures = sorted(folder.rglob("*.jpg"))
    times = {path: path.stat().st_mtime_ns for path in pictures[1:]}
    damage(pictures[0])
    with pytest.warns(UserWarning, match="1 pictures are missing, damaged"):
        assert embedded_dataset(tmp_path, format=format, **SMALL) == folder
    assert content(folder) == whole
    assert {path: path.stat().st_mtime_ns for path in pictures[1:]} == times
    assert kept(tmp_path) == [folder]


def test_one_flipped_bit_anywhere_is_mended(tmp_path):
    folder = embedded_dataset(tmp_path, format="coco", **SMALL)
    whole, draws = content(folder), np.random.default_rng(1)
    for _ in range(40):
        path = folder / str(draws.choice(sorted(whole.keys() - {"dataset.json"})))
        data = bytearray(path.read_bytes())
        data[draws.integers(len(data))] ^= 1 << draws.integers(8)
        path.write_bytes(data)
        with pytest.warns(UserWarning, match="again"):
            embedded_dataset(tmp_path, format="coco", **SMALL)
        assert content(folder) == whole


def forget_pictures(folder, digest=None):
    """The manifest as earlier versions wrote it, without the pictures, or with another checksum for each."""
    path = folder / "dataset.json"
    manifest = json.loads(path.read_text())
    pictures = [name for name in manifest["sha256"] if name.endswith(".jpg")]
    for name in pictures:
        del manifest["sha256"][name]
    manifest["sha256"] |= dict.fromkeys(pictures, digest) if digest else {}
    path.write_text(json.dumps(manifest))


def test_a_folder_of_an_earlier_version_gets_its_checksums_from_pictures_drawn_again(tmp_path):
    folder = embedded_dataset(tmp_path, format="coco", **SMALL)
    whole = content(folder)
    forget_pictures(folder)
    flip_bits(next(folder.rglob("*.jpg")))
    with pytest.warns(UserWarning, match="8 pictures are missing, damaged or without a checksum"):
        embedded_dataset(tmp_path, format="coco", **SMALL)
    assert content(folder) == whole


def test_pictures_that_another_opencv_has_encoded_are_all_replaced(tmp_path):
    folder = embedded_dataset(tmp_path, format="coco", **SMALL)
    whole = content(folder)
    forget_pictures(folder, digest="0" * 64)
    with pytest.warns(UserWarning, match="without a checksum"), pytest.warns(UserWarning, match="version of OpenCV"):
        embedded_dataset(tmp_path, format="coco", **SMALL)
    assert content(folder) == whole


def test_the_name_carries_the_version_and_every_parameter(tmp_path):
    names = [
        embedded_dataset(tmp_path, format=format, train=train, val=1, size=size, seed=seed, workers=1).name
        for format, train, size, seed in [
            ("coco", 1, 48, 0),
            ("mpii", 1, 48, 0),
            ("coco", 2, 48, 0),
            ("coco", 1, 56, 0),
        ]
    ]
    assert len(set(names)) == 4
    assert all(f"-v{GENERATOR_VERSION}-" in name for name in names)


def test_an_exception_leaves_nothing(tmp_path):
    def stop_at_four(records, total, desc):
        for i, record in enumerate(records):
            if i == 4:
                raise KeyboardInterrupt
            yield record

    with pytest.raises(KeyboardInterrupt):
        embedded_dataset(tmp_path, format="coco", **SMALL, progress=stop_at_four)
    assert kept(tmp_path) == []


def start(root: Path, train: int, workers: int) -> subprocess.Popen:
    code = (
        "import sys; from hdmlib.synthetic.dataset import embedded_dataset as e;"
        "print(e(sys.argv[1], format='coco', train=int(sys.argv[2]), val=1, size=48, workers=int(sys.argv[3])))"
    )
    command = [sys.executable, "-c", code, str(root), str(train), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_leaves_no_dataset_and_its_remains_are_cleared(tmp_path):
    process = start(tmp_path, train=2000, workers=1)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("*.jpg"))) < 5:
        assert time.monotonic() < deadline, "nothing was drawn"
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.stdout.close()
    (remains,) = kept(tmp_path)
    assert remains.name.startswith(".")
    host = writer().rsplit("-", 2)[0]
    another, old = tmp_path / remains.name.replace(host, "elsewhere"), time.time() - 2 * 3600
    for folder in (another, tmp_path / remains.name.replace(host, "away")):
        folder.mkdir()  # of another machine, whose processes cannot be seen
    os.utime(another, (old, old))

    def give_up(records, total, desc):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embedded_dataset(tmp_path, format="coco", train=2000, val=1, size=48, workers=1, progress=give_up)
    assert kept(tmp_path) == [folder]


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX")
def test_workers_end_with_their_killed_parent_and_never_run_its_script(tmp_path):
    """A script without the usual ``if __name__ == "__main__"``, as people write them."""
    runs, script = tmp_path / "runs", tmp_path / "script.py"
    script.write_text(
        "import sys; from hdmlib.synthetic.dataset import embedded_dataset\n"
        "open(sys.argv[1], 'a').write('run ')\n"
        "embedded_dataset(sys.argv[2], format='coco', train=5000, val=1, size=48, workers=2)\n"
    )
    process = subprocess.Popen([sys.executable, str(script), str(runs), str(tmp_path)], start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("*.jpg"))) < 20:
        assert time.monotonic() < deadline, "nothing was drawn"
        time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while group_exists(process.pid):
        assert time.monotonic() < deadline, "processes outlived their parent"
        time.sleep(0.1)
    assert runs.read_text() == "run "


def test_workers_do_not_import_torch(tmp_path):
    """A module named torch comes first on the path and leaves a mark when any of the processes imports it."""
    mark = tmp_path / "imported"
    (tmp_path / "torch.py").write_text(f"open({str(mark)!r}, 'w')")
    code = (
        "import sys; from hdmlib.synthetic.dataset import embedded_dataset\n"
        "embedded_dataset(sys.argv[1], format='coco', train=40, val=1, size=48, workers=2)"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=os.environ | {"PYTHONPATH": path})
    assert not mark.exists()


def test_two_processes_at_once_end_with_one_whole_dataset(tmp_path):
    processes = [start(tmp_path, train=20, workers=1) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    (folder,) = folders
    assert [str(path) for path in kept(tmp_path)] == [folder]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedded_dataset(tmp_path, format="coco", train=20, val=1, size=48, workers=1)


def test_threads_at_once_draw_once(tmp_path):
    folders, drawn = [], []

    def progress(records, total, desc):
        drawn.append(total)
        return records

    threads = [
        threading.Thread(
            target=lambda: folders.append(embedded_dataset(tmp_path, format="coco", **SMALL, progress=progress))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 3
    assert len(set(folders)) == 1
    assert len(drawn) == 1
    assert kept(tmp_path) == folders[:1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fails_midway_leaves_nothing(tmp_path, workers):
    """The pictures' folder vanishes while the pictures are drawn: the error names the cache and the remedy."""

    def sabotage(records, total, desc):
        (partial,) = kept(tmp_path)
        os.rename(partial / "images", partial / "gone")
        yield from records

    with pytest.raises(CacheError, match="cannot write"):
        embedded_dataset(tmp_path, format="coco", train=40, val=1, size=48, workers=workers, progress=sabotage)
    assert kept(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named_with_what_chose_it(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    for place in (blocked, blocked / "below"):
        with pytest.raises(CacheError, match=r"file.*; point root \(--to\) to a folder"):
            embedded_dataset(place, format="coco", **SMALL)
        monkeypatch.setenv("HDMLIB_CACHE", str(place))
        with pytest.raises(CacheError, match=r"file.*; point the environment variable HDMLIB_CACHE to a folder"):
            embedded_dataset(format="coco", **SMALL)


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HDMLIB_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    assert embedded_dataset(format="coco", **SMALL).parent == tmp_path / "own"
    monkeypatch.delenv("HDMLIB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "hdmlib"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "hdmlib"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"format": "lsp"}, "format"),
        ({"train": -1}, "train"),
        ({"val": 1.5}, "val"),
        ({"size": 8}, "size"),
        ({"seed": -3}, "seed"),
        ({"workers": 0}, "workers"),
        ({"train": 0, "val": 0}, "nothing"),
    ],
)
def test_a_bad_parameter_is_named_before_anything_is_written(tmp_path, change, name):
    with pytest.raises(ValueError, match=name):
        embedded_dataset(tmp_path, **{"format": "coco", **SMALL, **change})
    assert kept(tmp_path) == []


def test_drawing_people_needs_no_torch():
    code = "import sys, hdmlib.synthetic.dataset; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
