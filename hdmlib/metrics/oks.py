"""OKS, COCO's similarity of two poses: AP and AR from results, similarity, suppression and scores.

In: ground truth in COCO's keypoint format and result records as COCO's server takes them, one per detected person:
``{"image_id", "category_id", "keypoints": [x1, y1, c1, ...], "score"}``, pixels of the photo. Out: AP and AR.

The object keypoint similarity of a detection d and a person g is ``mean over g's labelled joints of exp(-|d_k -
g_k|^2 / (2 area (2 sigma_k)^2))``, with ``area`` that of the person in squared pixels and sigma_k from the skeleton.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hdmlib.data.annotation import mended
from hdmlib.data.intake import LeaveOut, as_floats, load_json

OKS_METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


def _similarity(squared: NDArray[np.float64], area: NDArray[np.float64], sigmas: ArrayLike) -> NDArray[np.float64]:
    """``exp(-d^2 / (2 area (2 sigma)^2))`` for squared distances (..., K) and areas (...)."""
    sigmas = np.asarray(sigmas, dtype=np.float64)
    if sigmas.shape != squared.shape[-1:]:
        raise ValueError(f"sigmas must hold one value per joint, {squared.shape[-1]}, got shape {sigmas.shape}")
    return np.exp(-squared / (2 * (2 * sigmas) ** 2 * (area[..., None] + np.spacing(1))))


def _squared_distances(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """(N, M, K) squared distances of the joints of N poses (N, K, 2) to those of M poses (M, K, 2)."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:] or a.shape[2] != 2:
        raise ValueError(f"poses must be (people, joints, 2) with equal joints, got {a.shape} and {b.shape}")
    return ((a[:, None] - b[None]) ** 2).sum(axis=3)


def oks(
    predictions: ArrayLike, truth: ArrayLike, area: ArrayLike, sigmas: ArrayLike, visible: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Similarity of every prediction with every person.

    Args:
        predictions: (N, K, 2) in pixels.
        truth: (M, K, 2) in pixels.
        area: (M,) area of each person in squared pixels.
        sigmas: (K,) OKS constants of the joints.
        visible: (M, K), 0 where a joint is unlabelled; ``None`` counts all.

    Returns:
        (N, M) similarities in [0, 1]; 0 for a person without any labelled joint.

    Raises:
        ValueError: If shapes do not fit.
    """
    squared = _squared_distances(predictions, truth)
    labelled = np.ones(squared.shape[1:], dtype=bool) if visible is None else np.asarray(visible) > 0
    area = np.asarray(area, dtype=np.float64)
    if labelled.shape != squared.shape[1:] or area.shape != squared.shape[1:2]:
        raise ValueError(
            f"area must be ({squared.shape[1]},) and visible {squared.shape[1:]}, got {area.shape} and {labelled.shape}"
        )
    similarity = np.where(labelled, _similarity(np.where(labelled, squared, 0), area[None], sigmas), 0)
    return similarity.sum(axis=2) / np.maximum(labelled.sum(axis=1), 1)


def oks_nms(
    joints: ArrayLike, scores: ArrayLike, areas: ArrayLike, sigmas: ArrayLike, threshold: float = 0.9
) -> NDArray[np.int64]:
    """Greedy suppression of detections of the same person within one photo, by OKS.

    The similarity of two detections is the OKS over all joints with the mean of their areas. As in HRNet's evaluation
    the area is that of the padded crop box.

    Args:
        joints: (N, K, 2) in pixels.
        scores: (N,) the higher, the better.
        areas: (N,) area of each detection in squared pixels.
        sigmas: (K,) OKS constants.
        threshold: A detection is dropped if it is more similar than this to a better one that is kept.

    Returns:
        Indices of the detections that are kept, best first; equal scores in their given order.

    Raises:
        ValueError: If shapes do not fit.
    """
    joints, scores, areas = (np.asarray(values, dtype=np.float64) for values in (joints, scores, areas))
    if not (len(joints) == len(scores) == len(areas)):
        raise ValueError(f"joints, scores and areas differ in length: {len(joints)}, {len(scores)}, {len(areas)}")
    if not len(joints):
        return np.empty(0, dtype=np.int64)
    mean_area = (areas[:, None] + areas[None]) / 2
    too_similar = _similarity(_squared_distances(joints, joints), mean_area, sigmas).mean(axis=2) > threshold
    alive = np.ones(len(joints), dtype=bool)
    kept = []
    for best in np.argsort(-scores, kind="stable"):
        if alive[best]:
            kept.append(best)
            alive &= ~too_similar[best]
    return np.array(kept, dtype=np.int64)


def rescore(box_scores: ArrayLike, joint_scores: ArrayLike, threshold: float = 0.2) -> NDArray[np.float64]:
    """Score of each person for AP: box score times the mean score of the joints above the threshold (HRNet's rule).

    Args:
        box_scores: (N,) scores of the person boxes, 1 for ground-truth boxes.
        joint_scores: (N, K) confidences of the joints.
        threshold: Joints at or below it are ignored.

    Returns:
        (N,) scores; 0 for a person without a joint above the threshold.
    """
    joint_scores = np.asarray(joint_scores, dtype=np.float64)
    above = joint_scores > threshold
    mean = np.where(above, joint_scores, 0).sum(axis=1) / np.maximum(above.sum(axis=1), 1)
    return np.asarray(box_scores, dtype=np.float64) * mean


def oks_ap(
    truth: Mapping[str, Any] | str | Path, results: Sequence[Mapping[str, Any]], sigmas: ArrayLike
) -> dict[str, float]:
    """COCO's AP and AR of pose results, by the official code (pycocotools), without its printing.

    Every photo of the ground truth counts, also those without a result; only ``image_id``, ``category_id``,
    ``keypoints`` and ``score`` of a result are read. Neither argument is changed.

    Args:
        truth: Ground truth in COCO's keypoint format, or the path of such a file. Only categories with ``keypoints``
            count, all where none has them. What an annotation lacks is mended as when it is read for training:
            :func:`hdmlib.data.annotation.mended`.
        results: One record per detected person; may be empty.
        sigmas: (K,) OKS constants of the joints.

    Returns:
        AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL in [0, 1]. NaN (-1 in pycocotools) where the ground truth
        holds no person of that size with labelled joints.

    Raises:
        ValueError: If the truth is no COCO keypoint annotation or has another number of joints, or a result has an
            unknown photo or category, another number of joints, or a coordinate or score that is not finite.
    """
    sigmas = np.asarray(sigmas, dtype=np.float64)
    dataset = _read_truth(truth)
    images, categories = ({one["id"] for one in dataset[key]} for key in ("images", "categories"))
    categories = {one["id"] for one in dataset["categories"] if one.get("keypoints")} or categories
    only = dataset["categories"][0]["id"] if len(dataset["categories"]) == 1 else None
    known = {one["id"] for one in dataset["categories"]}
    kinds = [_category_of(annotation, only, known) for annotation in dataset["annotations"]]
    # Numbered anew from 1: of two annotations with one id pycocotools loses one, and it takes the id 0 for a miss.
    annotations = [
        _truth_record(number, annotation, images, kind, len(sigmas))
        for number, (annotation, kind) in enumerate(zip(dataset["annotations"], kinds, strict=True), start=1)
        if kind in categories
    ]
    detections = [
        _result_record(i, result, images, categories, len(sigmas)) for i, result in enumerate(results, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(dataset, annotations), _coco(dataset, detections), "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: float(value) if value >= 0 else float("nan")
        for name, value in zip(OKS_METRICS, evaluation.stats, strict=True)
    }


def _coco(dataset: Mapping[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    """pycocotools' index over ``dataset``'s photos and categories with these annotations."""
    coco: Any = COCO()
    coco.dataset = {**dataset, "annotations": annotations}
    coco.createIndex()
    return coco


def _read_truth(truth: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    """The ground truth as a dictionary, checked to have the three lists of COCO's format, and their ids."""
    name = "ground truth" if isinstance(truth, Mapping) else str(truth)
    content: Any = truth if isinstance(truth, Mapping) else load_json(Path(truth))
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(content, Mapping) or not isinstance(content.get(key), list)]
    if missing:
        raise ValueError(f"{name}: no COCO keypoint annotation, it has no {', '.join(missing)}")
    for key in ("images", "categories"):
        for number, one in enumerate(content[key]):
            if not isinstance(one, Mapping) or one.get("id") is None or not isinstance(one["id"], Hashable):
                raise ValueError(f"{name}: entry {number} of {key} has no id")
    return content


def _category_of(annotation: Mapping[str, Any], only: Any, known: set[Any]) -> Any:
    """The category of an annotation, which need not name it where there is only one."""
    category = annotation.get("category_id")
    category = only if category is None else category
    if category is None:
        raise ValueError(f"annotation {annotation.get('id')}: no category_id; add the id of its category")
    if not isinstance(category, Hashable) or category not in known:
        raise ValueError(f"annotation {annotation.get('id')}: category_id {category!r} is not the id of a category")
    return category


def _truth_record(
    number: int, annotation: Mapping[str, Any], images: set[Any], category: Any, joints: int
) -> dict[str, Any]:
    """One annotation as pycocotools reads it, mended and numbered."""
    image = annotation.get("image_id")
    if not isinstance(image, Hashable) or image not in images:
        raise ValueError(f"annotation {annotation.get('id')}: image_id {image!r} is not the id of an image")
    try:
        one = mended(annotation, joints)
    except LeaveOut as fault:
        raise ValueError(f"annotation {annotation.get('id')}: {fault}: {fault.remedy}") from None
    return one.as_truth(number, image, category)


def _result_record(
    number: int, result: Mapping[str, Any], images: set[int], categories: set[int], joints: int
) -> dict[str, Any]:
    """One detection as pycocotools keeps it; its area, that of the joints' bounding box, sorts false alarms by size."""
    name = f"result {number}"
    missing = [key for key in ("image_id", "category_id", "keypoints", "score") if key not in result]
    if missing:
        raise ValueError(f"{name}: no {', '.join(missing)}")
    if result["image_id"] not in images:
        raise ValueError(f"{name}: image_id {result['image_id']!r} is not in the ground truth; is it another split?")
    if result["category_id"] not in categories:
        raise ValueError(f"{name}: category_id {result['category_id']!r} is unknown; known: {sorted(categories)}")
    given = as_floats(result["keypoints"])
    if given is None:
        raise ValueError(f"{name}: keypoints must be numbers, got {result['keypoints']!r:.60}")
    keypoints = given.reshape(-1)
    if len(keypoints) != 3 * joints:
        raise ValueError(f"{name}: {len(keypoints)} keypoint values, expected x, y and score of {joints} joints")
    if not (np.isfinite(keypoints).all() and isinstance(result["score"], Real) and math.isfinite(result["score"])):
        raise ValueError(f"{name} (image {result['image_id']}): a coordinate or score is not finite")
    x, y = keypoints[0::3], keypoints[1::3]
    width, height = float(np.ptp(x)), float(np.ptp(y))
    return {
        "id": number,
        "image_id": result["image_id"],
        "category_id": result["category_id"],
        "keypoints": keypoints.tolist(),
        "score": float(result["score"]),
        "bbox": [float(x.min()), float(y.min()), width, height],
        "area": width * height,
    }
