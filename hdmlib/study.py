"""The study behind notebooks 03, 04, 05 and 07: which runs it is made of. Stages in, configs out; nothing runs here.

    tuning        every loss, six trials each, on the tuning people: the learning rate and, where it has one, a width
    formulation   matching with one thing changed at a time, on the tuning people
    finals        every loss as tuned, three seeds, on the people that are reported on
    conditions    few people, noisy annotations, small heatmaps: where does which loss suffer
    photos        the finals on real photos (needs data_root: a folder in COCO's format)

``python -m hdmlib study STAGE`` trains what has no record yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from hdmlib.config import Config, make_config

LOSSES = ("matching", "gaussian_mse", "cross_entropy", "soft_argmax", "dot_mse")
SEEDS = (0, 1, 2)
# Tuning and formulation: half the epochs, other people than those reported on.
TUNING = {"epochs": 8, "val_offset": 0, "val_people": 250}
# What the formulation starts from, every option said, so that a new default does not rename a run.
MATCHING = {
    "suppliers": "softmax", "regulariser": "entropy", "epsilon": 0.25, "cost": "euclidean", "demanders": "subpixel",
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One run of the study.

    Attributes:
        label: What is special about it, in the words of a figure.
        config: The run.
    """

    label: str
    config: Config


def tuning(**values: Any) -> Iterator[Trial]:
    """Six trials a loss: three rates and two widths, or six rates where a loss has no width."""
    for lr, epsilon in product((6e-3, 1.2e-2, 2.4e-2), (0.25, 0.5)):
        yield _trial(f"lr {lr:g}, epsilon {epsilon:g}", "matching", {**MATCHING, "epsilon": epsilon}, lr, **values)
    for lr, sigma in product((2e-3, 4e-3, 8e-3), (1.0, 1.5)):
        yield _trial(f"lr {lr:g}, sigma {sigma:g}", "gaussian_mse", {"sigma": sigma}, lr, **values)
    for loss in ("cross_entropy", "soft_argmax", "dot_mse"):
        for lr in (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2):
            yield _trial(f"lr {lr:g}", loss, {}, lr, **values)


# What is changed, one thing at a time: label -> (options of the loss, fields of the config).
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as above": ({}, {}),
    "suppliers relu": ({"suppliers": "relu"}, {}),
    "suppliers relu, initial bias 0.1": ({"suppliers": "relu"}, {"initial_bias": 0.1}),
    "suppliers plain relu": ({"suppliers": "relu_plain"}, {}),
    "suppliers plain relu, initial bias 1": ({"suppliers": "relu_plain"}, {"initial_bias": 1.0}),
    "suppliers softplus": ({"suppliers": "softplus"}, {}),
    "regulariser kl": ({"regulariser": "kl"}, {}),
    "epsilon 0.1": ({"epsilon": 0.1}, {}),
    "epsilon 0.5": ({"epsilon": 0.5}, {}),
    "epsilon 1": ({"epsilon": 1.0}, {}),
    "epsilon 4 falling to 0.25": ({"epsilon_start": 4.0}, {}),
    "cost squared": ({"cost": "sqeuclidean"}, {}),
    "cost saturating, tau 1": ({"cost": "saturating", "tau": 1.0}, {}),
    "cost saturating, tau 2": ({"cost": "saturating", "tau": 2.0}, {}),
    "cost saturating, tau 4": ({"cost": "saturating", "tau": 4.0}, {}),
    "demanders naive": ({"demanders": "naive"}, {}),
    "2 epochs of Gaussian first": ({}, {"warm_start_epochs": 2}),
    "gradient clipped at 1": ({}, {"clip_norm": 1.0}),
    "relu, saturating, tau 2": ({"suppliers": "relu", "cost": "saturating", "tau": 2.0}, {}),
    "relu, saturating, tau 2, 2 epochs of Gaussian first": (
        {"suppliers": "relu", "cost": "saturating", "tau": 2.0}, {"warm_start_epochs": 2}
    ),
}  # fmt: skip


def formulation(**values: Any) -> Iterator[Trial]:
    """Matching with one thing changed, each change at three learning rates."""
    for label, (options, fields) in VARIANTS.items():
        for lr in (6e-3, 1.2e-2, 2.4e-2):
            yield _trial(f"{label}, lr {lr:g}", "matching", {**MATCHING, **options}, lr, **fields, **values)


STAGES = {"tuning": tuning, "formulation": formulation}


def _trial(label: str, loss: str, options: dict[str, Any], lr: float, **values: Any) -> Trial:
    return Trial(label, make_config(**{"preset": "study", **TUNING, **values}, loss=loss, loss_options=options, lr=lr))
