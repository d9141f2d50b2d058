"""Generated people as annotation files: records in, COCO's and MPII's own files out.

A record is one picture: its split, index, file name, size and, under ``people``, the fields of ``PersonLabel``. Their
pixels are 0-based. The files follow the formats exactly, so that the readers of the real datasets read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hdmlib.skeletons import COCO_17, MPII_16

SPLITS = ("train", "val")

# COCO -----------------------------------------------------------------------------------------------------------------


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 2) for value in values]


def write_coco(folder: Path, records: dict[str, list[dict]]) -> list[Path]:
    """The annotation files of both splits; joints outside the picture are 0, 0, 0 as in COCO's own."""
    category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(COCO_17.joints),
        "skeleton": [[a + 1, b + 1] for a, b in COCO_17.limbs],
    }
    (folder / "annotations").mkdir()
    files = []
    for split in SPLITS:
        images, annotations = [], []
        for record in records[split]:
            image_id = record["index"] + 1
            size = {"width": record["width"], "height": record["height"]}
            images.append({"id": image_id, "file_name": record["file"], **size})
            for number, person in enumerate(record["people"]):
                joints = [person["joints"][name] for name in COCO_17.joints]
                keypoints = [c for x, y, v in joints for c in ((*_rounded((x, y)), v) if v else (0, 0, 0))]
                annotations.append(
                    {
                        "id": image_id * 10 + number,
                        "image_id": image_id,
                        "category_id": 1,
                        "bbox": _rounded(person["box"]),
                        "area": round(person["area"], 2),
                        "iscrowd": 0,
                        "num_keypoints": sum(v > 0 for _, _, v in joints),
                        "keypoints": keypoints,
                        "head_box": _rounded(person["head_box"]),
                    }
                )
        info = {"description": "hdmlib's embedded people", "version": "1.0"}
        path = folder / "annotations" / f"person_keypoints_{split}.json"
        content = {"info": info, "images": images, "annotations": annotations, "categories": [category]}
        path.write_text(json.dumps(content))
        files.append(path)
    return files


# MPII -----------------------------------------------------------------------------------------------------------------
# Pixels are 1-based. A person's position is the middle of the labelled joints, the scale the height in units of 200
# pixels; as for the real files, readers enlarge the scale and move the position down.


@dataclass(frozen=True)
class _MpiiPerson:
    """One person in MPII's terms, 1-based pixels: joints (16, 2), seen 2 / hidden 1 / unlabelled 0 (16,)."""

    joints: np.ndarray
    visible: np.ndarray
    centre: list[float]
    scale: float
    head_box: list[float]


def _as_mpii(person: dict) -> _MpiiPerson:
    table = np.array([person["joints"][name] for name in MPII_16.joints], dtype=float)
    visible = table[:, 2].astype(int)
    joints = np.round(np.round(table[:, :2], 2) + 1, 2)  # first to COCO's digits
    labelled = joints[visible > 0] if visible.any() else joints
    return _MpiiPerson(
        joints=joints,
        visible=visible,
        centre=_rounded((labelled.min(0) + labelled.max(0)) / 2),
        scale=round(person["stature"] / 200, 6),
        head_box=[round(edge + 1, 2) for edge in _rounded(person["head_box"])],
    )


def write_mpii(folder: Path, records: dict[str, list[dict]]) -> list[Path]:
    """HRNet's JSON files and head boxes, and the original release with both splits in one file."""
    from scipy.io import savemat  # takes a while to import, and people are drawn once

    annot = folder / "annot"
    annot.mkdir()
    people = {
        split: [(record["file"], [_as_mpii(person) for person in record["people"]]) for record in records[split]]
        for split in SPLITS
    }
    files = [
        annot / "train.json",
        annot / "valid.json",
        annot / "gt_valid.mat",
        folder / "mpii_human_pose_v1_u12_1.mat",
    ]
    for split, path in zip(SPLITS, files[:2], strict=True):
        path.write_text(json.dumps([_hrnet_entry(name, person) for name, group in people[split] for person in group]))
    savemat(files[2], _hrnet_ground_truth([person for _, group in people["val"] for person in group]))
    savemat(files[3], {"RELEASE": _release(people["train"] + people["val"])}, do_compression=True)
    return files


def _hrnet_entry(name: str, person: _MpiiPerson) -> dict:
    labelled = person.visible > 0
    joints = np.where(labelled[:, None], person.joints, -1)
    return {
        "joints_vis": labelled.astype(int).tolist(),
        "joints": [_rounded(joint) for joint in joints],
        "image": name,
        "scale": person.scale,
        "center": person.centre,
    }


def _hrnet_ground_truth(people: list[_MpiiPerson]) -> dict[str, np.ndarray]:
    """HRNet's ``gt_valid.mat``: joints (16, 2, N), missing (16, N), head boxes (2, 2, N) with the corners as rows."""
    shorts = [
        "rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor", "neck", "head", "rwri", "relb", "rsho", "lsho",
        "lelb", "lwri",
    ]  # fmt: skip
    names = np.empty((1, len(shorts)), object)
    names[0] = shorts
    count = len(people)
    labelled = np.array([person.visible > 0 for person in people]).reshape(count, 16)
    joints = np.array([person.joints for person in people]).reshape(count, 16, 2) * labelled[..., None]
    boxes = np.array([person.head_box for person in people]).reshape(count, 2, 2)
    return {
        "dataset_joints": names,
        "jnt_missing": (~labelled).astype(np.uint8).T,
        "pos_gt_src": joints.transpose(1, 2, 0),
        "headboxes_src": boxes.transpose(1, 2, 0),
    }


def _structs(rows: list[dict]) -> np.ndarray:
    """A MATLAB struct array (1, N); all rows have the keys of the first."""
    array = np.empty((1, len(rows)), dtype=[(key, object) for key in rows[0]])
    for i, row in enumerate(rows):
        array[0, i] = tuple(row.values())
    return array


def _release(pictures: list[tuple[str, list[_MpiiPerson]]]) -> dict:
    """The release's struct: it marks all pictures as training; HRNet's ``valid.json`` lists the validation people."""
    nothing = np.zeros((0, 0))
    single = np.empty((len(pictures), 1), object)
    annolist = []
    for i, (name, people) in enumerate(pictures):
        rects = [_annorect(person) for person in people]
        rects = _structs(rects) if rects else nothing
        annolist.append({"image": {"name": name}, "annorect": rects, "frame_sec": nothing, "vididx": nothing})
        # One person alone is "sufficiently separated"; indices are 1-based.
        single[i, 0] = np.array([[1.0]]) if len(people) == 1 else nothing
    return {
        "annolist": _structs(annolist),
        "img_train": np.ones((1, len(pictures)), np.uint8),
        "version": "12",
        "single_person": single,
        "act": _structs([{"act_name": nothing, "cat_name": nothing, "act_id": -1.0}] * len(pictures)).T,
        "video_list": np.empty((1, 0), object),
    }


def _annorect(person: _MpiiPerson) -> dict:
    """One person: head box, labelled joints, scale, position. Neck and head top have no visibility, as released."""
    nothing = np.zeros((0, 0))
    points = [
        {"x": float(x), "y": float(y), "id": float(k), "is_visible": nothing if k in (8, 9) else np.uint8(v == 2)}
        for k, ((x, y), v) in enumerate(zip(person.joints, person.visible, strict=True))
        if v
    ]
    x1, y1, x2, y2 = person.head_box
    return {
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "annopoints": {"point": _structs(points)} if points else nothing,
        "scale": person.scale,
        "objpos": {"x": person.centre[0], "y": person.centre[1]},
    }
