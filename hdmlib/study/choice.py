"""What the second tuning chose: each label's trials in, the setting, decoder and confidence with the best score out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from hdmlib.experiments.record import Record
from hdmlib.study.rules import BEST, CHOSEN_BY, LARGE_FINALISTS, LENGTHS, LETTER, PLAIN, Setting


class Choice(NamedTuple):
    """How a loss is trained and its heatmaps are read.

    Attributes:
        setting: The loss, its options and fields of the config.
        decoder: Name of the decoder.
        confidence: ``own``, the kind that the loss uses, or ``other``: the peak or the mass around it.
    """

    setting: Setting
    decoder: str
    confidence: str


def choose(trials: Iterable[tuple[Setting, Record]], by: Mapping[str, int] = CHOSEN_BY) -> Choice:
    """The best of one label's trials.

    Args:
        trials: Settings with their records.
        by: What decides, then what ties go to -> 1 if larger is better, -1 if smaller is.
    """
    return max(_scored(trials, by), key=lambda scored: scored[0])[1]


def _scored(
    trials: Iterable[tuple[Setting, Record]], by: Mapping[str, int]
) -> Iterator[tuple[tuple[float, ...], Choice]]:
    for setting, record in trials:
        for confidence, scores in {"own": record.by_decoder, "other": record.other_confidence}.items():
            for decoder, metrics in scores.items():
                score = tuple(sign * metrics[name] for name, sign in by.items())
                yield score, Choice(setting, decoder, confidence)


def read_as(record: Record, decoder: str, confidence: str) -> dict[str, float]:
    """The metrics of a run read by a decoder, with the ``own`` or the ``other`` confidence."""
    return (record.by_decoder if confidence == "own" else record.other_confidence)[decoder]


def wider(label: str) -> str:
    """The label of a loss whose lengths are twice as many cells."""
    return f"{label}, twice as wide"


def _lengthened(choice: Choice, lengths: Iterable[str]) -> Choice:
    loss, options, fields = choice.setting
    return choice._replace(setting=(loss, {**options, **{name: 2 * options[name] for name in lengths}}, fields))


# As the committed trials of stage second_tuning have it; a test chooses again.
CHOSEN = {
    "gaussian_mse": Choice(("gaussian_mse", {"sigma": 0.75}, {"lr": 4e-3}), "dark", "own"),
    "cross_entropy": Choice(("cross_entropy", {}, {"lr": 1.2e-2}), "barycentre", "own"),
    "matching": Choice(("matching", {**BEST, "epsilon": 0.05}, {"lr": 1.2e-2}), "barycentre", "own"),
    "the sum": Choice(("matching", {**BEST, "epsilon": 0.05, "likelihood": 0.1}, {"lr": 4.8e-2}), "barycentre", "own"),
    "the letter": Choice(("matching", {**LETTER, "epsilon": 1.0}, {"initial_bias": 0.01, "lr": 1.2e-2}), "dark", "own"),
    "matching, plain distance": Choice(("matching", {**PLAIN, "epsilon": 0.25}, {"lr": 1.2e-2}), "dark", "own"),
    "soft_argmax": Choice(("soft_argmax", {}, {"lr": 3e-3}), "mean", "other"),
    "dot_mse": Choice(("dot_mse", {}, {"lr": 1.2e-2}), "dark", "other"),
}
# Likewise of stage second_why_tuning, which takes the sum apart.
CHOSEN_WHY = {
    "gaussian_mse + likelihood": Choice(
        ("gaussian_mse", {"sigma": 0.75, "likelihood": 0.3}, {"lr": 1.6e-2}), "dark", "own"
    ),
    "the sum, lambda changing": Choice(
        ("matching", {**BEST, "epsilon": 0.05, "likelihood": 0.05, "likelihood_start": 0.5}, {"lr": 2.4e-2}),
        "dark",
        "own",
    ),
}
# Likewise of stage second_photo_why_tuning.
CHOSEN_WHY_ON_PHOTOS = {
    "gaussian_mse + likelihood": Choice(
        ("gaussian_mse", {"sigma": 1.0, "likelihood": 3.0}, {"lr": 8e-3}), "dark", "own"
    ),
}
# Likewise of stage second_face_why_tuning.
CHOSEN_WHY_ON_FACES = {
    "gaussian_mse + likelihood": Choice(
        ("gaussian_mse", {"sigma": 3.0, "likelihood": 3.0}, {"lr": 8e-3}), "dark", "own"
    ),
}
# Likewise of stage second_pretrained_tuning.
CHOSEN_PRETRAINED = {
    "gaussian_mse": Choice(("gaussian_mse", {"sigma": 1.0}, {"lr": 1.6e-2}), "dark", "other"),
    "cross_entropy": Choice(("cross_entropy", {}, {"lr": 3e-3}), "dark", "own"),
    "matching": Choice(("matching", {**BEST, "epsilon": 0.03}, {"lr": 1.5e-3}), "dark", "own"),
    "the sum": Choice(("matching", {**BEST, "epsilon": 0.05, "likelihood": 0.2}, {"lr": 3e-3}), "dark", "own"),
}
# Likewise of stage second_pretrained_face_tuning.
CHOSEN_PRETRAINED_ON_FACES = {
    "gaussian_mse": Choice(("gaussian_mse", {"sigma": 3.0}, {"lr": 1.6e-2}), "dark", "own"),
    "cross_entropy": Choice(("cross_entropy", {}, {"lr": 6e-3}), "mean", "own"),
    "matching": Choice(("matching", {**BEST, "epsilon": 0.05}, {"lr": 6e-3}), "barycentre", "own"),
    "the sum": Choice(("matching", {**BEST, "epsilon": 0.05, "likelihood": 0.1}, {"lr": 2.4e-2}), "mean", "own"),
}
# For rules.LARGE_TEST nothing was tuned: the same again and, where a loss has lengths, twice as many of the cells.
CHOSEN_FOR_LARGE = {label: CHOSEN[label] for label in LARGE_FINALISTS} | {
    wider(label): _lengthened(CHOSEN[label], LENGTHS[label]) for label in LENGTHS
}
# Likewise of stages second_photo_tuning and second_face_tuning.
CHOSEN_ON_PHOTOS = {
    "gaussian_mse": Choice(("gaussian_mse", {"sigma": 1.0}, {"lr": 4e-3}), "dark", "other"),
    "cross_entropy": Choice(("cross_entropy", {}, {"lr": 6e-3}), "dark", "own"),
    "matching": Choice(("matching", {**BEST, "epsilon": 0.03}, {"lr": 3e-3}), "dark", "own"),
    "the sum": Choice(("matching", {**BEST, "epsilon": 0.05, "likelihood": 0.2}, {"lr": 1.2e-2}), "dark", "own"),
    "the letter": Choice(("matching", {**LETTER, "epsilon": 0.5}, {"initial_bias": 0.01, "lr": 1.2e-2}), "mean", "own"),
}
CHOSEN_ON_FACES = {
    "gaussian_mse": Choice(("gaussian_mse", {"sigma": 3.0}, {"lr": 4e-3}), "dark", "other"),
    "cross_entropy": Choice(("cross_entropy", {}, {"lr": 2.4e-2}), "mean", "own"),
    "matching": Choice(("matching", {**BEST, "epsilon": 0.05}, {"lr": 1.2e-2}), "mean", "own"),
    "the sum": Choice(("matching", {**BEST, "epsilon": 0.05, "likelihood": 0.1}, {"lr": 9.6e-2}), "mean", "own"),
    "the letter": Choice(("matching", {**LETTER, "epsilon": 0.5}, {"initial_bias": 0.01, "lr": 6e-3}), "mean", "own"),
}
