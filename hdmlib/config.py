"""What a run is: every number of a recipe in one checked, frozen object.

In: the name of a preset and the values that the user sets (notebook parameters, ``NAME=VALUE`` on the command line).
Out: a :class:`Config`. Nothing is read from disk here but, for a run's name, a file of pretrained weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hdmlib.checks import unknown_name
from hdmlib.coordinates import Rule
from hdmlib.decoding import METHODS
from hdmlib.losses.registry import LOSSES, with_lengths
from hdmlib.models.hrnet import MODELS
from hdmlib.models.hub import LITE0_WEIGHTS, NONE, PREFIX, named_by_content
from hdmlib.models.lite import NAME as LITE0
from hdmlib.models.registry import OTHERS, STRIDES, is_known
from hdmlib.models.vitpose import PREFIX as VITPOSE
from hdmlib.models.vitpose import vitpose_weights
from hdmlib.presets import IMAGENET, LEARNING_RATES, PRESETS
from hdmlib.skeletons import KNOWN_REFERENCES, REFERENCES

if TYPE_CHECKING:  # which cannot know what stands in a registry
    LossName = DecoderName = str
else:
    LossName, DecoderName = Literal[*LOSSES], Literal[*METHODS]
DatasetName = Literal["synthetic", "coco", "mpii"]

# Increased whenever the same config would give other numbers, so that old records are not found for new runs.
RECIPE_VERSION = 1

# Where a run is computed and kept, not what it computes: these do not enter its name.
MACHINE_FIELDS = frozenset(
    {
        "data_root",
        "device",
        "processes",
        "compile",
        "workers",
        "cache_photos",
        "threads",
        "run_dir",
        "resume",
        "tracker",
        "keep_checkpoints",
        "checkpoint_minutes",
    }
)
# Used by `hdmlib.benchmark` alone, for a network that is trained already.
EVALUATION_FIELDS = frozenset({"boxes", "checkpoint"})
# Added after the first records were committed: left out of a run's identity while they have their default, so that a
# new field does not rename earlier runs.
ADDED_FIELDS = frozenset(
    {"category", "colour_jitter", "blur", "cutout", "accumulate", "sync_batchnorm", "warm_start_lr"}
)
PATH_FIELDS = frozenset({"data_root", "run_dir", "pretrained"}) | EVALUATION_FIELDS


# Largest counts, which no dataset and no training reaches, and the largest seed that torch takes.
MOST, LARGEST_SEED = 10**9, 2**63 - 1


class ConfigError(ValueError):
    """A parameter that is unknown or out of range; the message lists the known ones."""


class Config(BaseModel):
    """One complete training run: loss, model, data, optimisation, evaluation and machine.

    Lengths are in pixels of the network's input unless stated otherwise. ``None`` means "decided by the loss" (``lr``,
    ``decoder``) or "by the machine" (``device``, ``threads``, ``workers``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), validate_default=True)

    preset: str = Field("laptop", description="the recipe that supplies the other values")

    # --- loss and model
    loss: LossName = Field("matching", description="the loss that is minimised")
    loss_options: dict[str, Any] = Field(default_factory=dict, description="arguments of the loss, as for build_loss")
    model: str = Field(
        "hrnet_nano",
        description="the network: hrnet_nano, hrnet_w32, hrnet_w48, lite0, vitpose:NAME, or package.module:function",
    )
    pretrained: str | None = Field(
        None,
        description="weights of the backbone to start from: a file, hub:OWNER/NAME, pip:efficientnet-lite0, or none, "
        "from scratch",
    )

    # --- data
    dataset: DatasetName = Field("synthetic", description="synthetic: the embedded people; coco, mpii: by format")
    data_root: Path | None = Field(None, description="folder of the dataset; not needed for synthetic")
    category: str | None = Field(None, description="coco: name or id of the category, if several have joints")
    train_split: str = Field("train", min_length=1, description="name of the training split")
    val_split: str = Field("val", min_length=1, description="name of the validation split")
    train_people: int | None = Field(None, ge=1, le=MOST, description="how many to train on, the first ones; None: all")
    val_people: int | None = Field(
        None, ge=1, le=MOST, description="how many to validate on, the first ones; None: all"
    )
    val_offset: int = Field(0, ge=0, le=MOST, description="how many to skip at the start: those of a tuning")
    label_noise: float = Field(
        0.0,
        ge=0,
        le=10,
        description="standard deviation of noise on the training joints, drawn once, in PCK's reference lengths",
    )
    image_size: int = Field(256, ge=64, le=1024, description="synthetic: side of a picture in pixels")
    data_seed: int = Field(0, ge=0, le=LARGEST_SEED, description="synthetic: seed of the generator")
    pck_reference: str | None = Field(
        None,
        description=f"reference length of PCK: {KNOWN_REFERENCES}; None: head where the data has one, else box",
    )

    # --- crop and augmentation
    input_width: int = Field(128, ge=32, le=8192, multiple_of=32, description="of the crop, in pixels")
    input_height: int = Field(128, ge=32, le=8192, multiple_of=32, description="likewise")
    coordinates: Rule = Field("center", description="how pixels map to heatmap cells")
    scale_factor: float = Field(0.25, ge=0, lt=1, description="random scaling, HRNet's f")
    rotation: float = Field(30.0, ge=0, le=180, description="random rotation in degrees, HRNet's f")
    rotation_probability: float = Field(0.6, ge=0, le=1, description="how often a crop is turned")
    flip_probability: float = Field(0.5, ge=0, le=1, description="how often a crop is mirrored")
    half_body_probability: float = Field(0.0, ge=0, le=1, description="how often a crop shows half a body")
    half_body_randn: bool = Field(
        True, description="half body as in HRNet: the upper half if randn() < 0.5, P = 0.69; false: P = 0.5"
    )

    colour_jitter: float = Field(0.0, ge=0, le=1, description="random brightness, contrast and saturation, up to +- it")
    blur: float = Field(0.0, ge=0, le=8, description="random Gaussian blur, its deviation up to this")
    cutout: float = Field(0.0, ge=0, le=1, description="side of a grey square at a random place, in widths of the crop")

    # --- optimisation
    epochs: int = Field(12, ge=1, le=MOST, description="how often the training people are gone through")
    batch_size: int = Field(32, ge=1, le=MOST, description="people per step, in all processes together")
    accumulate: int = Field(
        1,
        ge=1,
        le=MOST,
        description="parts of a step's batch that are computed one after another: less memory, the same step, except "
        "that batch norm sees a part",
    )
    sync_batchnorm: bool = Field(
        False, description="batch norm over the batch of all GPUs; false: over that of each, as in HRNet"
    )
    optimiser: Literal["adam", "adamw"] = Field("adamw", description="adamw, or adam as in HRNet")
    lr: float | None = Field(None, gt=0, lt=1, description="peak learning rate; None: the loss's own in this preset")
    weight_decay: float = Field(1e-4, ge=0, description="of the optimiser")
    apply_weight_decay: bool = Field(
        True, description="false: as in HRNet's published runs, which configure 1e-4 but never pass it to Adam"
    )
    schedule: Literal["cosine", "step"] = Field("cosine", description="how the rate falls: half a cosine, or steps")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs over which the rate rises linearly")
    milestones: tuple[int, ...] = Field((), description="step schedule: epochs after which the rate falls tenfold")
    drop_one_epoch_early: bool = Field(
        False, description="true: as HRNet's code behaves since torch 1.1, where 170 and 200 become 169 and 199"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    warm_start_epochs: int = Field(
        0, ge=0, le=MOST, description="number of first epochs that are trained with the Gaussian MSE"
    )
    warm_start_lr: float | None = Field(
        None, gt=0, lt=1, description="peak learning rate of these epochs; None: the Gaussian's for a small network"
    )
    initial_bias: float = Field(0.0, ge=-100, le=100, description="value of every heatmap before training")
    precision: Literal["float32", "bf16"] = Field("float32", description="bf16: autocast, on a GPU only")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="of initial weights, order and augmentation")

    # --- evaluation
    decoder: DecoderName | None = Field(None, description="heatmap to coordinates; None: the loss's own")
    flip_test: bool = Field(False, description="average the heatmaps with those of the mirrored crop")
    boxes: Path | None = Field(
        None, description="`evaluate` on COCO: a detector's boxes, json in COCO's result format; None: ground truth"
    )
    checkpoint: Path | None = Field(
        None, description="`evaluate`: a run's folder, or weights of the network, ours, HRNet's or mmpose's"
    )

    # --- machine
    device: str | None = Field(None, description="cpu, cuda, cuda:1, mps; None: a GPU where there is one")
    processes: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="processes to train in on this machine, one a GPU; None: as many as torchrun started",
    )
    compile: bool = Field(False, description="torch.compile the network: a slow start, then faster steps on a GPU")
    workers: int | None = Field(
        None, ge=0, le=1024, description="data-loading processes of each process; None: its cores but one, at most 8"
    )
    cache_photos: bool = Field(
        False, description="decode every photo once and keep it in the memory of each process, 3 bytes per pixel"
    )
    tracker: str | None = Field(
        None, description="where to log the curves, too: tensorboard, wandb, mlflow, ..., as Accelerate names them"
    )
    threads: int | None = Field(None, ge=1, le=1024, description="torch threads on a CPU; None: as torch chooses")
    run_dir: Path | None = Field(None, description="where runs are kept; None: $HDMLIB_RUNS, else runs/")
    keep_checkpoints: int = Field(
        1, ge=0, le=100, description="earlier checkpoints that are kept beside the last one, each after an epoch"
    )
    checkpoint_minutes: float | None = Field(
        None, gt=0, description="also save within an epoch, after the step at which this time is over"
    )
    resume: bool = Field(
        True, description="resume this run where it stopped; false: start again, the earlier run is renamed"
    )

    @field_validator("milestones", mode="before")
    @classmethod
    def _a_list(cls, value: Any) -> Any:  # called after _from_text: pydantic begins with the last
        if not isinstance(value, list | tuple):
            raise ValueError(f"needs a list of epochs, such as [170, 200], got {value!r}")
        return value

    @field_validator("loss_options", "milestones", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        # papermill and the command line pass lists and dictionaries as text
        if isinstance(value, str):
            try:
                return json.loads(value)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"is not valid JSON: {error}") from None
        return value

    @field_validator("loss_options")
    @classmethod
    def _numbers_as_one_type(cls, value: dict[str, Any]) -> dict[str, Any]:
        # 1 and 1.0 are one run, and JSON, of which its name is the hash, tells them apart
        return {name: float(given) if type(given) is int else given for name, given in value.items()}

    @field_validator("pretrained", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        if not is_known(value):
            raise ValueError(unknown_name(value, [*MODELS, *OTHERS]))
        return value

    @field_validator("pck_reference")
    @classmethod
    def _known_reference(cls, value: str | None) -> str | None:
        if value is not None and value not in REFERENCES and value.count(":") != 1:
            raise ValueError(f"is not known. Known: {KNOWN_REFERENCES}")
        return value

    @field_validator("lr", "weight_decay", "rotation", "warmup_epochs", mode="after")
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
        """Everything that the numbers of a run depend on: this config's fields of training and validation, the data,
        the recipe.

        Args:
            data: Fingerprint of the dataset: it stays the same when a folder moves, and changes with a joint; see
                ``data.sources.Data``.

        Pretrained weights of a file enter by its name and content, for the same reason.
        """
        fields = self.model_dump(mode="json", exclude={*MACHINE_FIELDS, *EVALUATION_FIELDS, "preset"})
        defaults = Config.model_construct().model_dump(mode="json")
        fields = {name: value for name, value in fields.items() if name not in ADDED_FIELDS or value != defaults[name]}
        if not self.warm_start_epochs:  # a rate that is not used names no run
            fields.pop("warm_start_lr", None)
        if self.pretrained is not None and is_path(self.pretrained):
            fields["pretrained"] = named_by_content(self.pretrained)
        return {**fields, "data": data, "recipe": RECIPE_VERSION}

    def run_name(self, data: str) -> str:
        """Readable name of the run with the hash of its identity: ``synthetic-hrnet_nano-matching-s0-1a2b3c4d``."""
        text = json.dumps(self.identity(data), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        model = re.sub(r"[^\w.-]+", "-", self.model)  # a folder's name; other systems forbid a colon
        return f"{self.dataset}-{model}-{self.loss}-s{self.seed}-{digest}"


# Before the name of a single option of the loss: ``loss_options.sigma=2``.
OPTION = "loss_options."


def make_config(preset: str = "laptop", **values: Any) -> Config:
    """A preset, with the given values replacing its own.

    Args:
        preset: A name of :data:`PRESETS`.
        **values: Fields of :class:`Config`; ``None`` keeps the preset's value. A name like ``loss_options.sigma`` sets
            one option of the loss beside the others.

    Raises:
        ConfigError: Unknown preset, unknown field, or a value of the wrong type or out of range; all of them at once.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError(f"preset: {unknown_name(str(preset), PRESETS)}")
    options = {name.removeprefix(OPTION): value for name, value in values.items() if name.startswith(OPTION)}
    given = {name: value for name, value in values.items() if value is not None and not name.startswith(OPTION)}
    unknown = [name for name in given if name not in Config.model_fields]
    if unknown:
        raise ConfigError("\n".join(f"parameter {unknown_name(name, Config.model_fields)}" for name in unknown))
    fields = {**PRESETS[preset], "preset": preset, **given}
    if fields.get("dataset", "synthetic") != "synthetic":  # a preset's counts are of people to draw
        fields |= {name: given.get(name) for name in ("train_people", "val_people")}
        fields["val_offset"] = given.get("val_offset", 0)
    loss = str(fields.get("loss", Config.model_fields["loss"].default))
    if "lr" not in given:  # a preset holds one rate, rates by the loss, or none
        rate = fields.get("lr", LEARNING_RATES)
        fields["lr"] = rate.get(loss) if isinstance(rate, dict) else rate
        if loss in LOSSES and fields["lr"] is None:
            raise ConfigError(f"lr: give one; no rate is known for the loss {loss!r}")
    weights = PRESETS[preset].get("pretrained")
    if fields.get("model") != PRESETS[preset].get("model"):
        weights = _weights_for(fields.get("model"), weights)
    if (weights is None and fields.get("pretrained") == NONE) or "pretrained" not in given:
        fields["pretrained"] = weights  # `none` and None are two words for from scratch, and should name one run
    if "loss_options" not in given:  # a preset holds the options of several losses, by name
        by_loss = fields.get("loss_options", {})
        fields["loss_options"] = by_loss.get(loss, {})
    if options:
        if not isinstance(fields["loss_options"], dict):
            raise ConfigError(f"loss_options: give it whole, or single options as {OPTION}NAME=VALUE, not both")
        fields["loss_options"] = {**fields["loss_options"], **options}
    try:
        return _lengthened(Config(**fields))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(detail) for detail in error.errors())) from None


def _lengthened(config: Config) -> Config:
    """The config with the lengths of its loss for maps larger than those they were tuned on, unless they are given."""
    stride = STRIDES.get(config.model)
    if stride is None:  # only a run measures the stride of another's network, and warns
        return config
    width, height = (side // stride for side in config.input_size)
    return config.model_copy(update={"loss_options": with_lengths(config.loss, config.loss_options, height, width)})


def _weights_for(model: Any, of_preset: str | None) -> str | None:
    """What a network other than the preset's starts from: ViTPose from its own weights, Lite0 from ImageNet's, HRNet
    from ImageNet's where the preset does, else ``None``, from scratch."""
    if model == LITE0:
        return LITE0_WEIGHTS
    if isinstance(model, str) and model.startswith(VITPOSE):
        return vitpose_weights(model)
    return IMAGENET.get(model) if of_preset else None


def choices(name: str) -> list[str]:
    """What a parameter may be, where it is one of a few words."""
    annotation = Config.model_fields[name].annotation
    options = [known for option in get_args(annotation) for known in (get_args(option) or (option,))]
    return [known for known in options if isinstance(known, str)]


def is_path(value: object) -> bool:
    """Whether a value of a field of :data:`PATH_FIELDS` is a path, and no name of weights."""
    return not str(value).startswith(PREFIX) and str(value) not in (NONE, LITE0_WEIGHTS)


def _explain(detail: Any) -> str:
    """One line for one pydantic error: the parameter, the problem and the given value."""
    name = str(detail["loc"][0])
    if detail["type"] == "literal_error":
        return f"{name}: {unknown_name(str(detail['input']), choices(name))}"
    return f"{name}: {detail['msg'].removeprefix('Value error, ')} (given: {reprlib.repr(detail['input'])})"
