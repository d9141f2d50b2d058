"""What a run is: every number of a recipe in one checked, frozen object, and the named presets.

In: a preset's name and whatever the user sets beside it (notebook parameters, ``NAME=VALUE`` on the command line).
Out: a :class:`Config`. Nothing is read from disk here; two equal configs mean the same experiment.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

LossName = Literal["matching", "gaussian_mse", "dot_mse", "cross_entropy", "soft_argmax"]
ModelName = Literal["hrnet_nano", "hrnet_w32", "hrnet_w48"]
DatasetName = Literal["synthetic", "coco", "mpii"]
DecoderName = Literal["argmax", "quarter", "barycentre", "mean", "dark", "transport"]

# Raised whenever the same config would give other numbers, so that old records are not taken for new ones.
RECIPE_VERSION = 1

# Where a run is computed and kept, not what it computes: these do not enter its name.
MACHINE_FIELDS = frozenset({"data_root", "device", "workers", "cache_photos", "threads", "run_dir", "resume"})
PATH_FIELDS = frozenset({"data_root", "run_dir", "pretrained"})


class ConfigError(ValueError):
    """A parameter that is unknown or has a value out of range; the message lists what is known."""


class Config(BaseModel):
    """One training run, complete: what is learned from what, how, and where it is computed.

    Lengths are pixels of the network's input unless said otherwise; ``None`` means "decided by the loss" (``lr``,
    ``decoder``) or "by the machine" (``device``, ``threads``, ``workers``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), validate_default=True)

    preset: str = Field("laptop", description="the recipe that the other values start from")

    # --- loss and model
    loss: LossName = Field("matching", description="what is minimised")
    loss_options: dict[str, Any] = Field(default_factory=dict, description="arguments of the loss, as build_loss takes")
    model: ModelName = Field("hrnet_nano", description="the network")
    pretrained: Path | None = Field(None, description="ImageNet weights of the backbone, by path")

    # --- data
    dataset: DatasetName = Field("synthetic", description="synthetic: the embedded people; coco, mpii: by format")
    data_root: Path | None = Field(None, description="folder of the dataset; not needed for synthetic")
    train_split: str = Field("train", min_length=1, description="name of the training split")
    val_split: str = Field("val", min_length=1, description="name of the validation split")
    train_people: int | None = Field(None, ge=1, description="use only the first so many training people")
    val_people: int | None = Field(None, ge=1, description="use only the first so many validation people")
    image_size: int = Field(256, ge=64, le=1024, description="synthetic: side of a picture in pixels")
    data_seed: int = Field(0, ge=0, description="synthetic: seed of the generator")
    pck_reference: Literal["head", "torso", "box"] | None = Field(
        None, description="the length that PCK is measured in; None: head where the data has one, else box"
    )

    # --- crop and augmentation
    input_width: int = Field(128, ge=32, multiple_of=32)
    input_height: int = Field(128, ge=32, multiple_of=32)
    coordinates: Literal["center", "hrnet", "udp"] = Field("center", description="how pixels map to heatmap cells")
    scale_factor: float = Field(0.25, ge=0, lt=1, description="random scaling, HRNet's f")
    rotation: float = Field(30.0, ge=0, le=180, description="random rotation in degrees, HRNet's f")
    rotation_probability: float = Field(0.6, ge=0, le=1)
    flip_probability: float = Field(0.5, ge=0, le=1)
    half_body_probability: float = Field(0.0, ge=0, le=1)

    # --- optimisation
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(32, ge=1)
    optimiser: Literal["adam", "adamw"] = "adamw"
    lr: float | None = Field(None, gt=0, lt=1, description="peak learning rate; None: the loss's own in this preset")
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_epochs: float = Field(1.0, ge=0, description="linear rise of the rate, in epochs")
    milestones: tuple[int, ...] = Field((), description="step schedule: the rate falls tenfold after these epochs")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    precision: Literal["float32", "bf16"] = Field("float32", description="bf16: autocast, on a GPU only")
    seed: int = Field(0, ge=0)

    # --- evaluation
    decoder: DecoderName | None = Field(None, description="heatmap to coordinates; None: the loss's own")
    flip_test: bool = Field(False, description="average the heatmaps with those of the mirrored crop")

    # --- machine
    device: str | None = Field(None, description="cpu, cuda, cuda:1, mps; None: a GPU where there is one")
    workers: int | None = Field(None, ge=0, description="data-loading processes; None: one core is left for training")
    cache_photos: bool = Field(False, description="decode every photo once and keep it, 3 bytes a pixel")
    threads: int | None = Field(None, ge=1, description="torch threads on a CPU; None: as torch chooses")
    run_dir: Path | None = Field(None, description="where runs are kept; None: $HDMLIB_RUNS, else runs/")
    resume: bool = Field(
        True, description="go on where this run stopped; false: begin again, the old one is kept aside"
    )

    @field_validator("loss_options", "milestones", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        # papermill and the command line hand lists and dictionaries over as text
        if isinstance(value, str):
            try:
                return json.loads(value)
            except json.JSONDecodeError as error:
                raise ValueError(f"is not valid JSON: {error}") from None
        return value

    @field_validator("lr", "weight_decay", "rotation", mode="after")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value

    @field_validator("milestones", mode="after")
    @classmethod
    def _increasing(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("must increase")
        return value

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the network's input in pixels."""
        return self.input_width, self.input_height

    def identity(self, data: str) -> dict[str, Any]:
        """What the numbers of a run depend on: this config without the machine, the data's fingerprint, the recipe.

        Args:
            data: Fingerprint of the dataset, so that a folder can move and an edited file is noticed.
        """
        fields = self.model_dump(mode="json", exclude=set(MACHINE_FIELDS) | {"preset"})
        return {**fields, "data": data, "recipe": RECIPE_VERSION}

    def run_name(self, data: str) -> str:
        """Readable name of the run with the hash of its identity: ``synthetic-hrnet_nano-matching-s0-1a2b3c4d``."""
        text = json.dumps(self.identity(data), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.dataset}-{self.model}-{self.loss}-s{self.seed}-{digest}"


# --------------------------------------------------------------------------------------------------------------------
# Presets: whole recipes. A value that depends on the loss stands in LEARNING_RATES.

_COCO = {
    "dataset": "coco", "coordinates": "hrnet", "scale_factor": 0.35, "rotation": 45.0, "half_body_probability": 0.3,
    "optimiser": "adam", "weight_decay": 0.0, "schedule": "step", "milestones": (170, 200), "warmup_epochs": 0.0,
    "epochs": 210, "flip_test": True,
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    # Two cores, two minutes, the drawing of the people included. So short a training is better off with little
    # augmentation and small batches.
    "laptop": {
        "train_people": 2000, "val_people": 300, "input_width": 96, "input_height": 96, "scale_factor": 0.15,
        "rotation": 15.0, "epochs": 10, "batch_size": 16, "threads": 1,
    },
    # Every line of the code in seconds; its numbers mean nothing, but its small rate makes them nearly the same on
    # every machine.
    "smoke": {
        "train_people": 64, "val_people": 32, "input_width": 64, "input_height": 64, "image_size": 128, "epochs": 2,
        "batch_size": 16, "lr": 1e-3, "threads": 1, "workers": 0,
    },
    # One large GPU, some minutes a loss.
    "gpu_demo": {
        "model": "hrnet_w32", "train_people": 20000, "val_people": 1000, "input_width": 256, "input_height": 256,
        "epochs": 20, "batch_size": 128, "precision": "bf16",
    },
    # The published recipes (shared facts in PROTOCOL: HRNet on COCO and MPII).
    "coco_w32_256x192": {
        **_COCO, "model": "hrnet_w32", "input_width": 192, "input_height": 256, "batch_size": 128,
        "loss_options": {"gaussian_mse": {"sigma": 2.0, "rounded": True}},
    },
    "coco_w48_384x288": {
        **_COCO, "model": "hrnet_w48", "input_width": 288, "input_height": 384, "batch_size": 96,
        "loss_options": {"gaussian_mse": {"sigma": 3.0, "rounded": True}},
    },
    "mpii_w32_256x256": {
        **_COCO, "dataset": "mpii", "model": "hrnet_w32", "input_width": 256, "input_height": 256, "batch_size": 128,
        "val_split": "valid", "scale_factor": 0.25, "rotation": 30.0, "half_body_probability": 0.0,
        "loss_options": {"gaussian_mse": {"sigma": 2.0, "rounded": True}},
    },
}  # fmt: skip

# Peak learning rate by loss for training from scratch; the published recipes use Adam's 1e-3.
LEARNING_RATES: dict[str, float] = {
    "matching": 1.2e-2, "gaussian_mse": 3e-3, "dot_mse": 3e-3, "cross_entropy": 2e-3, "soft_argmax": 2e-3,
}  # fmt: skip


def make_config(preset: str = "laptop", **values: Any) -> Config:
    """A preset with the given values in place of its own.

    Args:
        preset: A name of :data:`PRESETS`.
        **values: Fields of :class:`Config`; ``None`` keeps the preset's value.

    Raises:
        ConfigError: Unknown preset, unknown field, or a value of the wrong type or out of range; all of them at once.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset: {_unknown(str(preset), PRESETS)}")
    given = {name: value for name, value in values.items() if value is not None}
    unknown = [name for name in given if name not in Config.model_fields]
    if unknown:
        raise ConfigError("\n".join(f"parameter {_unknown(name, Config.model_fields)}" for name in unknown))
    fields = {**PRESETS[preset], "preset": preset, **given}
    if fields.get("dataset", "synthetic") != "synthetic":  # a preset says how many people to draw, not to leave out
        fields |= {name: given.get(name) for name in ("train_people", "val_people")}
    fields["lr"] = fields.get("lr") or _default_lr(preset, fields.get("loss", "matching"))
    if "loss_options" not in given:  # a preset may hold options for each loss, keyed by its name
        by_loss = fields.get("loss_options", {})
        fields["loss_options"] = by_loss.get(fields.get("loss", "matching"), {})
    try:
        return Config(**fields)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(detail) for detail in error.errors())) from None


def _default_lr(preset: str, loss: Any) -> float | None:
    if PRESETS[preset].get("schedule") == "step":
        return 1e-3
    return LEARNING_RATES.get(loss)


def _unknown(name: str, known: Any) -> str:
    """``'matchng' is not known; did you mean 'matching'? Known: ...``"""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{name!r} is not known.{hint} Known: {', '.join(known)}."


def _explain(detail: Any) -> str:
    """One line for one pydantic error: the parameter, what was given, what is allowed."""
    name = str(detail["loc"][0])
    if detail["type"] == "literal_error":
        field = Config.model_fields[name].annotation
        known = [
            str(k) for option in (get_args(field) or ()) for k in (get_args(option) or (option,)) if isinstance(k, str)
        ]
        return f"{name}: {_unknown(str(detail['input']), known)}"
    return f"{name}: {detail['msg']} (given: {detail['input']!r})"
