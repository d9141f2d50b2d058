"""Golden values: crops, targets, losses, decoders and scores of embedded people, as numbers in ``values.json``.

    python tests/golden/make.py

writes them anew; ``tests/test_golden.py`` compares. A change that is meant to move them says so in its commit.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hdmlib.data.coco import read_coco
from hdmlib.data.coco_files import find_coco
from hdmlib.data.crops import Frame
from hdmlib.data.dataset import PoseDataset
from hdmlib.data.loader import make_loader
from hdmlib.decoding import METHODS, decode
from hdmlib.heatmaps import demanders, dot_map, gaussian_map
from hdmlib.losses import LOSSES, build_loss
from hdmlib.metrics.oks import oks_ap
from hdmlib.metrics.pck import pck_report
from hdmlib.synthetic.dataset import embedded_dataset

PATH = Path(__file__).parent / "values.json"
INPUT = (96, 128)
SIZE = (32, 24)  # height and width of the maps
SHOWN = slice(0, 5)  # joints whose numbers are listed: nose, eyes, ears


def golden_values(folder: Path) -> dict[str, Any]:
    """Everything, from people drawn into ``folder``."""
    root = embedded_dataset(folder, format="coco", train=1, val=4)
    people = read_coco(root, "val")
    batch = next(iter(make_loader(people, Frame(INPUT))))
    joints, weights = batch["joints"][:2], batch["weights"][:2]
    maps = noisy_maps(joints)
    return {
        "crops": {rule: crops(people, rule) for rule in ("center", "hrnet", "udp")},
        "joints": rounded(joints[:, SHOWN]),
        "targets": targets(joints),
        "losses": {name: loss_and_gradient(name, maps, joints, weights) for name in LOSSES},
        "matching": {
            f"{regulariser} {cost}": loss_and_gradient(
                "matching", maps, joints, weights, regulariser=regulariser, cost=cost, epsilon=0.5
            )
            for regulariser in ("kl", "entropy", "debiased")
            for cost in ("euclidean", "sqeuclidean")
        },
        "decoders": {method: [rounded(part[0, SHOWN]) for part in decode(maps, method)] for method in METHODS},
        "scores": scores(people, json.loads(find_coco(root, "val").annotations.read_text())),
    }


def crops(people: PoseDataset, rule: Any) -> dict[str, Any]:
    """The affines to cells, and the pictures averaged over blocks of 32 pixels."""
    batch = next(iter(make_loader(people, Frame(INPUT, rule))))
    blocks = batch["image"].double().unflatten(3, (3, 32)).unflatten(2, (4, 32)).mean(dim=(1, 3, 5))
    return {"affines": rounded(batch["affine"].double().sum(dim=1)), "pictures": rounded(blocks)}


def noisy_maps(joints: Tensor) -> Tensor:
    """A bump 0.7 cells beside each joint, on positive noise."""
    noise = torch.tensor(np.random.default_rng(0).random((*joints.shape[:2], *SIZE)), dtype=torch.float32)
    return gaussian_map(joints + 0.7, SIZE, 1.5) + 0.05 * noise


def targets(joints: Tensor) -> dict[str, Any]:
    """Sum, centre of mass and sum of squares of every kind of map, and the demanders."""
    x, y = torch.arange(SIZE[1], dtype=torch.float32), torch.arange(SIZE[0], dtype=torch.float32)

    def moments(maps: Tensor) -> list[Any]:
        shown = maps[0, SHOWN]
        parts = (shown, shown * x, shown * y[:, None], shown.square())
        return rounded(torch.stack([part.sum(dim=(1, 2)) for part in parts], dim=1))

    cells, mass = demanders(joints[0, SHOWN], SIZE)
    return {
        "gaussian": moments(gaussian_map(joints, SIZE, 2.0)),
        "gaussian, rounded": moments(gaussian_map(joints, SIZE, 2.0, rounded=True)),
        "dot": moments(dot_map(joints, SIZE)),
        "demanders": [rounded(cells), rounded(mass)],
    }


def loss_and_gradient(name: str, maps: Tensor, joints: Tensor, weights: Tensor, **options: Any) -> dict[str, Any]:
    """The value, the norm of the gradient by joint, and the gradient in the three cells around the first joint."""
    maps = maps.clone().requires_grad_()
    value = build_loss(name, **options)(maps, joints, weights)
    (gradient,) = torch.autograd.grad(value, maps)
    column, row = joints[0, 0].round().int().tolist()
    return {
        "value": rounded(value.detach()),
        "gradient": rounded(gradient[0, SHOWN].norm(dim=(1, 2))),
        "cells": rounded(gradient[0, 0, row, column - 1 : column + 2]),
    }


def scores(people: PoseDataset, truth: dict[str, Any]) -> dict[str, Any]:
    """PCKh and OKS-AP of the truth with errors of two pixels and, for a tenth of the joints, of twenty."""
    rng = np.random.default_rng(1)
    far = np.where(rng.random(people.joints.shape[:2]) < 0.1, 20.0, 2.0)[..., None]
    found = people.joints + far * rng.standard_normal(people.joints.shape)
    results = [
        {
            "image_id": int(image), "category_id": 1, "score": score,
            "keypoints": np.column_stack([pose, np.ones(len(pose))]).ravel().tolist(),
        }
        for image, pose, score in zip(people.image_ids, found, rng.random(len(people)).tolist(), strict=True)
    ]  # fmt: skip
    report = pck_report(found, people.joints, people.head_sizes, people.visibility, people.skeleton)
    average_precision = oks_ap(truth, results, people.skeleton.sigmas)
    return {
        "PCKh@0.5": {name: rounded(value) for name, value in {"Mean": report.mean, **report.columns}.items()},
        "OKS": {name: rounded(value) for name, value in average_precision.items() if value == value},
    }


def rounded(values: Any) -> Any:
    """As nested lists of numbers of six digits."""
    array = np.asarray(values, dtype=np.float64)
    return [rounded(row) for row in array] if array.ndim else float(f"{array:.6g}") + 0.0


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        PATH.write_text(json.dumps(golden_values(Path(made))) + "\n")
