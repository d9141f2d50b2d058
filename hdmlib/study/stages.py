"""The study behind notebooks 03, 04, 05, 07 and 09: which runs it consists of. Stages in, configs out.

    formulation   matching with one thing changed at a time, on the tuning people
    cost          the saturating cost that won there: its length, epsilon and the other choices, changed together
    tuning        every loss, nine trials each, on the tuning people: the learning rate and, where it has one, a width
    finals        every loss as tuned, five seeds, on the reported people
    photo_tuning  every loss at half, the same and twice its rate on one half of the validation people of real photos;
                  for matching also the length of the cost and epsilon
    photos        the finals on the other half (both need data_root: a folder in COCO's format)
    conditions    few people, noisy annotations, small pictures: which loss suffers more
    larger        three times the people, three times the epochs: does a loss that learns slowly end higher?
    second_tuning the study again by rules fixed in advance (rules.py): twelve to eighteen trials a loss, new people
    second_finals what that tuning chose (choice.py), five seeds, on people that nobody has looked at
    second_fig2   Fig. 2 in the paper's regime: a constant rate, ten seeds
    second_fig2_rates
                  the same at lower and higher rates, three seeds
    second_fig2_mpii
                  the same at the tuned rate in MPII's format, ten seeds (data_root: from ``data people``)
    second_long, second_large
                  its finalists with three times the training, and at 192 x 192 pixels; three seeds
    second_photo_tuning, second_face_tuning
                  its finalists around those settings on photos of people and on faces (both need data_root)
    second_photos, second_faces
                  what that chose, five seeds, on the other half of the validation people
    second_why_tuning, second_why
                  the Gaussian with the sum's second term, the sum with a weight that changes: tuned, then five seeds
    second_photo_why_tuning, second_photo_why, second_face_why_tuning, second_face_why
                  the former on photos of people and on faces, likewise (all need data_root)
    second_pretrained_tuning, second_pretrained
                  a network that starts from ImageNet weights on photos of people: the rate, then three seeds
    second_pretrained_long
                  the same with twice the training, one seed
    second_pretrained_face_tuning, second_pretrained_faces
                  the same network on faces, likewise
    gpu_demo      HRNet-W32 with each loss, for one large GPU; on photos with dataset=coco data_root=DIR epochs=25

Nothing runs here: ``python -m hdmlib study STAGE`` trains the runs that have no record yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hdmlib.config import Config, make_config
from hdmlib.presets import LEARNING_RATES
from hdmlib.study import rules
from hdmlib.study.choice import (
    CHOSEN,
    CHOSEN_FOR_LARGE,
    CHOSEN_ON_FACES,
    CHOSEN_ON_PHOTOS,
    CHOSEN_PRETRAINED,
    CHOSEN_PRETRAINED_ON_FACES,
    CHOSEN_WHY,
    CHOSEN_WHY_ON_FACES,
    CHOSEN_WHY_ON_PHOTOS,
    Choice,
)

SEEDS = (0, 1, 2, 3, 4)
# Tuning and formulation: half the epochs, and people that are not reported on.
TUNING = {"epochs": 8, "val_offset": 0, "val_people": 250}
# The formulation's starting point, every option given, so that a new default does not rename a run.
MATCHING = {
    "suppliers": "softmax", "regulariser": "entropy", "epsilon": 0.25, "cost": "euclidean", "demanders": "subpixel",
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One run of the study.

    Attributes:
        label: What distinguishes it, in the words of a figure.
        config: The run.
    """

    label: str
    config: Config


# One change each: label -> (options of the loss, fields of the config).
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the start": ({}, {}),
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
    "relu, gradient of the same size for every mass": ({"suppliers": "relu", "mass_floor": 1.0}, {}),
    "plain relu, initial bias 1, gradient of the same size for every mass": (
        {"suppliers": "relu_plain", "mass_floor": 1.0}, {"initial_bias": 1.0}
    ),
    "relu, saturating, tau 2": ({"suppliers": "relu", "cost": "saturating", "tau": 2.0}, {}),
    "relu, saturating, tau 2, 2 epochs of Gaussian first": (
        {"suppliers": "relu", "cost": "saturating", "tau": 2.0}, {"warm_start_epochs": 2}
    ),
}  # fmt: skip


def formulation(**values: Any) -> Iterator[Trial]:
    """Matching with one change, each at three learning rates."""
    for label, (options, fields) in VARIANTS.items():
        for lr in (6e-3, 1.2e-2, 2.4e-2):
            yield _trial(f"{label}, lr {lr:g}", "matching", {**MATCHING, **options}, lr, **fields, **values)


def cost(**values: Any) -> Iterator[Trial]:
    """The saturating cost: its length and epsilon together, then the other choices again."""
    rate = 1.2e-2
    for tau, epsilon in product((0.5, 1.0, 2.0, 4.0), (0.05, 0.1, 0.25, 0.5)):
        options = {**MATCHING, "cost": "saturating", "tau": tau, "epsilon": epsilon}
        yield _trial(f"tau {tau:g}, epsilon {epsilon:g}", "matching", options, rate, **values)
    for label, (changed, fields) in {
        "regulariser kl": ({"regulariser": "kl"}, {}),
        "demanders naive": ({"demanders": "naive"}, {}),
        "suppliers softplus": ({"suppliers": "softplus"}, {}),
        "suppliers relu, initial bias 0.1": ({"suppliers": "relu"}, {"initial_bias": 0.1}),
        "suppliers plain relu, initial bias 1": ({"suppliers": "relu_plain"}, {"initial_bias": 1.0}),
        "relu, gradient of the same size for every mass": ({"suppliers": "relu", "mass_floor": 1.0}, {}),
        "plain relu, initial bias 1, gradient of the same size for every mass": (
            {"suppliers": "relu_plain", "mass_floor": 1.0},
            {"initial_bias": 1.0},
        ),
        "epsilon 1 falling to 0.1": ({"epsilon_start": 1.0}, {}),
        "2 epochs of Gaussian first": ({}, {"warm_start_epochs": 2}),
    }.items():
        options = {**MATCHING, "cost": "saturating", "tau": 1.0, "epsilon": 0.1, **changed}
        yield _trial(f"tau 1, epsilon 0.1, {label}", "matching", options, rate, **fields, **values)


def tuning(**values: Any) -> Iterator[Trial]:
    """Nine trials a loss: three rates and three widths, or nine rates where a loss has no width."""
    for lr, epsilon in product((6e-3, 1.2e-2, 2.4e-2), (0.03, 0.05, 0.1)):
        options = {**MATCHING, "cost": "saturating", "tau": 1.0, "epsilon": epsilon}
        yield _trial(f"lr {lr:g}, epsilon {epsilon:g}", "matching", options, lr, **values)
    for lr, sigma in product((2e-3, 4e-3, 8e-3), (0.75, 1.0, 1.5)):
        yield _trial(f"lr {lr:g}, sigma {sigma:g}", "gaussian_mse", {"sigma": sigma}, lr, **values)
    for loss in ("cross_entropy", "soft_argmax", "dot_mse"):
        for lr in (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.2e-2, 1.6e-2, 3.2e-2):
            yield _trial(f"lr {lr:g}", loss, {}, lr, **values)


# The finals, by their label in figures: loss, options, rate. All as tuned, every option given, so that a new default
# does not rename a run. "matching, plain distance" has the cost of the supplement, at its own best rate.
FINALISTS: dict[str, tuple[str, dict[str, Any], float]] = {
    "matching": ("matching", {**MATCHING, "cost": "saturating", "tau": 1.0, "epsilon": 0.05}, 6e-3),
    "matching, plain distance": ("matching", MATCHING, 1.2e-2),
    "gaussian_mse": ("gaussian_mse", {"sigma": 0.75}, 4e-3),
    "cross_entropy": ("cross_entropy", {}, 1.2e-2),
    "soft_argmax": ("soft_argmax", {}, 1.2e-2),
    "dot_mse": ("dot_mse", {}, 1.6e-2),
}


def finals(seeds: Sequence[int] = SEEDS, **values: Any) -> Iterator[Trial]:
    """Every loss as tuned, on people that no tuning has seen."""
    for seed, (label, (loss, options, lr)) in product(seeds, FINALISTS.items()):
        fields = {"preset": "study", **values, "loss": loss, "loss_options": options, "lr": lr, "seed": seed}
        yield Trial(label, make_config(**fields))


# Photos in COCO's format, such as crops of LSP Extended: 250 validation people to tune on, 250 to report on.
PHOTOS = {"dataset": "coco", "val_people": 250}


def photo_tuning(**values: Any) -> Iterator[Trial]:
    """Whether the values tuned on drawn people suit photos: half and twice each rate, other lengths and epsilons.

    Every loss has the same number of trials, except matching, whose cost has two more parameters.
    """
    for label, (loss, options, lr) in FINALISTS.items():
        for factor in (0.5, 1.0, 2.0):
            yield _trial(f"{label}, lr {factor * lr:g}", loss, options, factor * lr, **PHOTOS, **values)
    loss, options, lr = FINALISTS["matching"]
    for tau, epsilon in product((1.0, 2.0, 4.0), (0.05, 0.1, 0.25)):
        changed = {**options, "tau": tau, "epsilon": epsilon}
        yield _trial(f"tau {tau:g}, epsilon {epsilon:g}", loss, changed, lr, **PHOTOS, **values)


def photos(seeds: Sequence[int] = SEEDS, **values: Any) -> Iterator[Trial]:
    """The finalists on the photos of a folder in COCO's format."""
    yield from finals(seeds, **{**PHOTOS, "val_offset": 250, **values})


# Conditions that may harm one loss more than another.
CONDITIONS: dict[str, dict[str, Any]] = {
    "300 people": {"train_people": 300, "epochs": 40},
    "noisy annotations": {"label_noise": 0.25},
    "64 x 64 pixels": {"input_width": 64, "input_height": 64},
}
# Conditions in which a loss that learns slowly may catch up.
LARGER: dict[str, dict[str, Any]] = {"6,000 people": {"train_people": 6000}, "45 epochs": {"epochs": 45}}


def conditions(seeds: Sequence[int] = SEEDS[:3], **values: Any) -> Iterator[Trial]:
    """Matching and its two rivals, trained under each condition."""
    yield from _under(CONDITIONS, ("matching", "gaussian_mse", "cross_entropy"), seeds, **values)


def larger(seeds: Sequence[int] = SEEDS[:1], **values: Any) -> Iterator[Trial]:
    """Matching, with both costs, and its two rivals, with more people or more epochs."""
    yield from _under(
        LARGER, ("matching", "matching, plain distance", "gaussian_mse", "cross_entropy"), seeds, **values
    )


def gpu_demo(**values: Any) -> Iterator[Trial]:
    """Every loss once, at the preset's rate for it."""
    for loss in LEARNING_RATES:
        yield Trial(loss, make_config(**{"preset": "gpu_demo", **values, "loss": loss}))


def second_tuning(**values: Any) -> Iterator[Trial]:
    """The grids of the second study's rules, and what they grew by."""
    yield from _grown(rules.GRIDS, rules.EXTENSIONS, rules.TUNING_PEOPLE, **values)


def second_finals(seeds: Sequence[int] = rules.SEEDS, **values: Any) -> Iterator[Trial]:
    """What the second tuning chose, on the people that are reported."""
    yield from _as_chosen(CHOSEN, rules.TEST_PEOPLE, seeds, **values)


def _as_chosen(
    choices: Mapping[str, Choice], people: dict[str, Any], seeds: Sequence[int], **values: Any
) -> Iterator[Trial]:
    for seed, (label, chosen) in product(seeds, choices.items()):
        loss, options, fields = chosen.setting
        yield _trial(label, loss, options, people=people, **{**fields, "seed": seed, **values})


# Fig. 2's regime: a constant rate from the first step, no warm-up and no annealing.
CONSTANT_RATE = {"schedule": "step", "milestones": (), "warmup_epochs": 0.0}
FIG2_LABELS = ("gaussian_mse", "matching", "the letter")


def second_fig2(seeds: Sequence[int] = rules.FIG2_SEEDS, **values: Any) -> Iterator[Trial]:
    """What the second tuning chose, at the rate that it chose, which stays constant."""
    shown = {label: CHOSEN[label] for label in FIG2_LABELS}
    yield from _as_chosen(shown, rules.TEST_PEOPLE, seeds, **{**CONSTANT_RATE, **values})


def second_fig2_mpii(seeds: Sequence[int] = rules.FIG2_SEEDS, **values: Any) -> Iterator[Trial]:
    """The same in MPII's format: other joints and crops of the same pictures."""
    shown = {label: CHOSEN[label] for label in FIG2_LABELS}
    yield from _as_chosen(shown, rules.MPII_TEST, seeds, **{**CONSTANT_RATE, **values})


def second_fig2_rates(seeds: Sequence[int] = rules.FIG2_RATE_SEEDS, **values: Any) -> Iterator[Trial]:
    """The same at lower and higher constant rates, at which either curve may wobble less or more."""
    for seed, label, factor in product(seeds, FIG2_LABELS, rules.FIG2_RATE_FACTORS):
        loss, options, fields = CHOSEN[label].setting
        changed = {**fields, **CONSTANT_RATE, "lr": factor * fields["lr"], "seed": seed, **values}
        yield _trial(at_rate(label, factor), loss, options, people=rules.TEST_PEOPLE, **changed)


def at_rate(label: str, factor: float) -> str:
    """The label of Fig. 2's training at ``factor`` times the tuned rate."""
    return label if factor == 1 else f"{label}, {factor:g} x the rate"


def second_long(seeds: Sequence[int] = rules.COSTLY_SEEDS, **values: Any) -> Iterator[Trial]:
    """The finalists with three times the training."""
    chosen = {label: CHOSEN[label] for label in rules.FINALISTS}
    yield from _as_chosen(chosen, rules.LONG_TEST, seeds, **values)


def second_large(seeds: Sequence[int] = rules.COSTLY_SEEDS, **values: Any) -> Iterator[Trial]:
    """The better of them with four times the cells, in the tuned widths and twice as wide."""
    yield from _as_chosen(CHOSEN_FOR_LARGE, rules.LARGE_TEST, seeds, **values)


def second_why_tuning(**values: Any) -> Iterator[Trial]:
    """What the sum is taken apart into: the grids, and what they grew by."""
    yield from _grown(rules.WHY_GRIDS, rules.WHY_EXTENSIONS, rules.TUNING_PEOPLE, **values)


def second_why(seeds: Sequence[int] = rules.SEEDS, **values: Any) -> Iterator[Trial]:
    """What that chose, beside the finals, on the people that are reported."""
    yield from _as_chosen(CHOSEN_WHY, rules.TEST_PEOPLE, seeds, **values)


def second_photo_why_tuning(**values: Any) -> Iterator[Trial]:
    """The Gaussian with the sum's second term on photos of people."""
    yield from _grown(rules.WHY_PHOTOS_GRIDS, rules.WHY_PHOTOS_EXTENSIONS, rules.PHOTOS_TUNING, **values)


def second_photo_why(seeds: Sequence[int] = rules.SEEDS, **values: Any) -> Iterator[Trial]:
    """What that chose, beside the finals on photos."""
    yield from _as_chosen(CHOSEN_WHY_ON_PHOTOS, rules.PHOTOS_TEST, seeds, **values)


def second_face_why_tuning(**values: Any) -> Iterator[Trial]:
    """The same on faces."""
    yield from _grown(rules.WHY_FACES_GRIDS, {}, rules.FACES_TUNING, **values)


def second_face_why(seeds: Sequence[int] = rules.SEEDS, **values: Any) -> Iterator[Trial]:
    """What that chose, beside the finals on faces."""
    yield from _as_chosen(CHOSEN_WHY_ON_FACES, rules.FACES_TEST, seeds, **values)


def second_photo_tuning(**values: Any) -> Iterator[Trial]:
    """The finalists on photos of people, around what the embedded people chose."""
    yield from _around_chosen(rules.PHOTOS_TUNING, rules.PHOTOS_EXTENSIONS, **values)


def second_face_tuning(**values: Any) -> Iterator[Trial]:
    """The finalists on faces, likewise."""
    yield from _around_chosen(rules.FACES_TUNING, rules.FACES_EXTENSIONS, **values)


def second_photos(seeds: Sequence[int] = rules.SEEDS, **values: Any) -> Iterator[Trial]:
    """What the tuning on photos chose, on the other half of their validation people."""
    yield from _as_chosen(CHOSEN_ON_PHOTOS, rules.PHOTOS_TEST, seeds, **values)


def second_faces(seeds: Sequence[int] = rules.SEEDS, **values: Any) -> Iterator[Trial]:
    """What the tuning on faces chose, likewise."""
    yield from _as_chosen(CHOSEN_ON_FACES, rules.FACES_TEST, seeds, **values)


def second_pretrained_tuning(**values: Any) -> Iterator[Trial]:
    """A network that starts from ImageNet weights, on photos of people, at lower rates than those chosen there."""
    for label in rules.LARGE_FINALISTS:
        factors = (*rules.PRETRAINED_RATE_FACTORS, *rules.PRETRAINED_EXTENSIONS.get(label, ()))
        yield from _tried(label, _at_rates(CHOSEN_ON_PHOTOS[label], factors), rules.PRETRAINED_TUNING, **values)


def second_pretrained(seeds: Sequence[int] = rules.COSTLY_SEEDS, **values: Any) -> Iterator[Trial]:
    """What that chose, on the other half of the validation people."""
    yield from _as_chosen(CHOSEN_PRETRAINED, rules.PRETRAINED_TEST, seeds, **values)


def second_pretrained_long(seeds: Sequence[int] = rules.PRETRAINED_LONG_SEEDS, **values: Any) -> Iterator[Trial]:
    """The same with twice the training."""
    yield from _as_chosen(CHOSEN_PRETRAINED, rules.PRETRAINED_LONG_TEST, seeds, **values)


def second_pretrained_face_tuning(**values: Any) -> Iterator[Trial]:
    """The same network on faces, around the rates that photos of people chose."""
    for label, factors in rules.PRETRAINED_FACES_RATE_FACTORS.items():
        factors = (*factors, *rules.PRETRAINED_FACES_EXTENSIONS.get(label, ()))
        yield from _tried(label, _at_rates(CHOSEN_ON_FACES[label], factors), rules.PRETRAINED_FACES_TUNING, **values)


def second_pretrained_faces(seeds: Sequence[int] = rules.COSTLY_SEEDS, **values: Any) -> Iterator[Trial]:
    """What that chose, on the other half of the validation faces."""
    yield from _as_chosen(CHOSEN_PRETRAINED_ON_FACES, rules.PRETRAINED_FACES_TEST, seeds, **values)


def _at_rates(choice: Choice, factors: Sequence[float]) -> list[rules.Setting]:
    loss, options, fields = choice.setting
    return [(loss, options, {**fields, "lr": factor * fields["lr"]}) for factor in factors]


def _around_chosen(
    people: dict[str, Any], extensions: Mapping[str, list[rules.Setting]], **values: Any
) -> Iterator[Trial]:
    for label in rules.FINALISTS:
        loss, options, fields = CHOSEN[label].setting
        grid = [
            (loss, {**options, **width}, {**fields, "lr": factor * fields["lr"]})
            for width, factor in product(rules.WIDTHS.get(label, [{}]), rules.RATE_FACTORS)
        ]
        yield from _tried(label, [*grid, *extensions.get(label, ())], people, **values)


def _grown(
    grids: Mapping[str, list[rules.Setting]],
    extensions: Mapping[str, list[rules.Setting]],
    people: dict[str, Any],
    **values: Any,
) -> Iterator[Trial]:
    """The trials of each label's grid, then what that grew by."""
    for label, grid in grids.items():
        yield from _tried(label, [*grid, *extensions.get(label, ())], people, **values)


def _tried(label: str, settings: list[rules.Setting], people: dict[str, Any], **values: Any) -> Iterator[Trial]:
    """A trial of each setting, labelled by what the grids vary."""
    for loss, options, fields in settings:
        words = ", ".join(f"{name} {value:g}" for name, value in rules.axes_of((loss, options, fields)).items())
        yield _trial(f"{label}: {words}", loss, options, people=people, **{**fields, **values})


def _under(
    cases: dict[str, dict[str, Any]], labels: Sequence[str], seeds: Sequence[int], **values: Any
) -> Iterator[Trial]:
    for case, fields in cases.items():
        for trial in finals(seeds, **{**fields, **values}):
            if trial.label in labels:
                yield Trial(f"{case}: {trial.label}", trial.config)


STAGES = {
    "formulation": formulation, "cost": cost, "tuning": tuning, "finals": finals, "photo_tuning": photo_tuning,
    "photos": photos, "conditions": conditions, "larger": larger, "gpu_demo": gpu_demo,
    "second_tuning": second_tuning, "second_finals": second_finals, "second_fig2": second_fig2,
    "second_fig2_mpii": second_fig2_mpii,
    "second_photo_tuning": second_photo_tuning, "second_face_tuning": second_face_tuning,
    "second_photos": second_photos, "second_faces": second_faces, "second_fig2_rates": second_fig2_rates,
    "second_long": second_long, "second_large": second_large, "second_why_tuning": second_why_tuning,
    "second_why": second_why, "second_photo_why_tuning": second_photo_why_tuning,
    "second_photo_why": second_photo_why, "second_face_why_tuning": second_face_why_tuning,
    "second_face_why": second_face_why, "second_pretrained_tuning": second_pretrained_tuning,
    "second_pretrained": second_pretrained, "second_pretrained_long": second_pretrained_long,
    "second_pretrained_face_tuning": second_pretrained_face_tuning,
    "second_pretrained_faces": second_pretrained_faces,
}  # fmt: skip
RENAMED_STAGES = {"joint": "cost"}  # earlier name -> name


def _trial(
    label: str, loss: str, options: dict[str, Any], lr: float, people: dict[str, Any] = TUNING, **values: Any
) -> Trial:
    fields = {"preset": "study", **values}
    if fields["preset"] == "study":  # any other preset has its own people and epochs
        fields = {**people, **fields}
    return Trial(label, make_config(**{"lr": lr, **fields}, loss=loss, loss_options=options))
