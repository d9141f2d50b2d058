import inspect

import pytest

import hdmlib.config
from hdmlib.config import RECIPE_VERSION, Config, ConfigError, make_config
from hdmlib.losses.matching import MatchingLoss
from hdmlib.losses.registry import LOSSES
from hdmlib.presets import PRESETS, PUBLISHED_PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_valid_config_with_every_loss(preset):
    for loss in ("matching", "gaussian_mse", "dot_mse", "cross_entropy", "soft_argmax"):
        config = make_config(preset, loss=loss)
        assert config.loss == loss
        assert config.lr is not None


# The values of HRNet's configuration files (experiments/*/hrnet/w*_adam_lr1e-3.yaml of its repository) and, for what no
# file configures, of its code: ROT_FACTOR, SCALE_FACTOR, PROB_HALF_BODY, IMAGE_SIZE, SIGMA, BATCH_SIZE_PER_GPU x 4, ...
_BOTH = {
    "coordinates": "hrnet", "rotation_probability": 0.6, "flip_probability": 0.5, "epochs": 210, "optimiser": "adam",
    "lr": 1e-3, "weight_decay": 1e-4, "apply_weight_decay": False, "schedule": "step", "milestones": (170, 200),
    "drop_one_epoch_early": False, "warmup_epochs": 0.0, "clip_norm": None, "precision": "float32", "flip_test": True,
    "half_body_randn": True, "decoder": None, "train_people": None, "val_people": None,
}  # fmt: skip
_COCO = {"dataset": "coco", "scale_factor": 0.35, "rotation": 45.0, "half_body_probability": 0.3, "val_split": "val"}
_MPII = {"dataset": "mpii", "scale_factor": 0.25, "rotation": 30.0, "half_body_probability": 0.0, "val_split": "valid"}
PUBLISHED = {  # dataset, model, width, height, sigma, batch on 4 GPUs
    "coco_w32_256x192": (_COCO, "hrnet_w32", 192, 256, 2.0, 32 * 4),
    "coco_w32_384x288": (_COCO, "hrnet_w32", 288, 384, 3.0, 32 * 4),
    "coco_w48_256x192": (_COCO, "hrnet_w48", 192, 256, 2.0, 32 * 4),
    "coco_w48_384x288": (_COCO, "hrnet_w48", 288, 384, 3.0, 24 * 4),
    "mpii_w32_256x256": (_MPII, "hrnet_w32", 256, 256, 2.0, 32 * 4),
    "mpii_w48_256x256": (_MPII, "hrnet_w48", 256, 256, 2.0, 32 * 4),
}


def test_every_published_recipe_is_in_the_table():
    assert PUBLISHED.keys() == PUBLISHED_PRESETS


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_published_recipe_number_by_number(preset):
    dataset, model, width, height, sigma, batch_size = PUBLISHED[preset]
    expected = {
        **_BOTH, **dataset, "model": model, "input_width": width, "input_height": height, "batch_size": batch_size,
        "loss_options": {"sigma": sigma, "rounded": True},
    }  # fmt: skip
    config = make_config(preset, loss="gaussian_mse")
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_value_beside_the_preset_wins_and_none_does_not():
    assert make_config("laptop", epochs=3).epochs == 3
    assert make_config("laptop", epochs=None).epochs == PRESETS["laptop"]["epochs"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"preset": "labtop"}, ["'labtop'", "Did you mean 'laptop'", "coco_w48_384x288"]),
        ({"los": "matching"}, ["parameter 'los'", "Did you mean 'loss'", "batch_size"]),
        ({"loss": "matchng"}, ["loss:", "Did you mean 'matching'", "soft_argmax"]),
        ({"model": "resnet"}, ["model:", "hrnet_nano"]),
        ({"dataset": "lsp"}, ["dataset:", "synthetic"]),
        ({"pck_reference": "hed"}, ["pck_reference:", "Known: head, torso, box, or two joints"]),
        ({"decoder": "drak"}, ["decoder:", "Did you mean 'dark'"]),
        ({"epochs": 0}, ["epochs:", "greater than or equal to 1"]),
        ({"epochs": "many"}, ["epochs:", "'many'"]),
        ({"lr": float("nan")}, ["lr:"]),
        ({"lr": -1.0}, ["lr:"]),
        ({"lr": 0}, ["lr:", "greater than 0"]),
        ({"input_width": 100}, ["input_width:", "multiple of 32"]),
        ({"resume": "maybe"}, ["resume:", "'maybe'"]),
        ({"milestones": [20, 10]}, ["milestones: must increase"]),
        ({"milestones": "5"}, ["milestones: needs a list of epochs, such as [170, 200], got 5"]),
        ({"warmup_epochs": float("inf")}, ["warmup_epochs: must be a finite number"]),
        ({"loss": ["matching"]}, ["loss:", "soft_argmax"]),
        ({"preset": ["laptop"]}, ["preset:", "smoke"]),
        ({"loss_options": "epsilon=1"}, ["loss_options:", "JSON"]),
    ],
)
def test_a_wrong_name_or_value_is_refused_with_the_known_ones(values, words):
    with pytest.raises(ConfigError) as caught:
        make_config(**values)
    for part in words:
        assert part in str(caught.value)


def test_all_wrong_values_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        make_config(epochs=-1, loss="x")
    assert "epochs:" in str(caught.value)
    assert "loss:" in str(caught.value)


def test_text_from_the_command_line_becomes_the_right_type():
    config = make_config(epochs="3", lr="1e-3", resume="false", milestones="[1, 2]", loss_options='{"epsilon": 0.5}')
    assert (config.epochs, config.lr, config.resume, config.milestones) == (3, 1e-3, False, (1, 2))
    assert config.loss_options == {"epsilon": 0.5}


def test_data_of_ones_own_is_not_cut_to_the_number_of_people_a_preset_draws():
    assert make_config("laptop", dataset="coco").train_people is None
    assert make_config("laptop", dataset="coco", train_people=5).train_people == 5
    assert make_config("laptop").train_people == PRESETS["laptop"]["train_people"]


def test_a_run_is_named_by_what_its_numbers_depend_on():
    name = make_config(seed=1).run_name("data")
    assert name == make_config(seed=1, workers=3, threads=2, resume=False, run_dir="x", device="cpu").run_name("data")
    assert name == make_config(seed=1, boxes="boxes.json", checkpoint="x.pth").run_name("data")
    assert name != make_config(seed=2).run_name("data")
    assert name != make_config(seed=1, loss_options={"epsilon": 9.0}).run_name("data")
    assert name != make_config(seed=1).run_name("other data")
    assert "matching" in name


def test_weights_of_a_file_name_a_run_by_their_content(tmp_path):
    def named(path):
        return make_config(pretrained=str(path)).run_name("data")

    path, elsewhere = tmp_path / "a" / "w.pth", tmp_path / "b" / "w.pth"
    for file in (path, elsewhere):
        file.parent.mkdir()
        file.write_bytes(b"weights")
    first = named(path)
    assert named(elsewhere) == first
    path.write_bytes(b"others, longer")
    assert named(path) != first
    assert make_config(pretrained=str(path)).identity("x")["pretrained"].startswith("w.pth@sha256:")


def test_the_rate_of_a_warm_start_names_only_runs_that_have_one():
    for preset in ("coco_w32_256x192", "gpu_demo"):
        assert "warm_start_lr" not in make_config(preset).identity("data")
    assert make_config("gpu_demo", warm_start_epochs=2).identity("data")["warm_start_lr"] == 1e-3


def test_from_scratch_is_one_run_however_it_is_said():
    assert make_config(pretrained="none").run_name("data") == make_config().run_name("data")
    published = make_config("coco_w32_256x192", pretrained="none")
    assert published.pretrained == "none"
    assert make_config("coco_w32_256x192", model="hrnet_nano", pretrained="none").pretrained is None


def test_a_field_that_was_added_later_does_not_rename_earlier_runs(monkeypatch):
    before = make_config().identity("data")
    monkeypatch.setattr(hdmlib.config, "ADDED_FIELDS", hdmlib.config.ADDED_FIELDS | {"clip_norm"})
    assert make_config().identity("data") == {name: value for name, value in before.items() if name != "clip_norm"}
    assert make_config(clip_norm=1.0).identity("data")["clip_norm"] == 1.0


def test_the_same_recipe_reached_from_another_preset_is_the_same_run():
    laptop = make_config("laptop")
    values = {name: getattr(laptop, name) for name in Config.model_fields if name != "preset"}
    assert make_config("smoke", **values).run_name("d") == laptop.run_name("d")


# The options that the losses had when the first records were made. A run's name does not hold options left at their
# defaults, so another default needs another RECIPE_VERSION; an option that was added later leaves the loss as it was.
FIRST_DEFAULTS = {
    "matching": {
        "epsilon": 0.05, "regulariser": "entropy", "suppliers": "softmax", "demanders": "subpixel",
        "cost": "saturating", "tau": 1.0, "epsilon_start": None, "mass_floor": 1e-4,
    },
    "gaussian_mse": {"sigma": 0.75, "rounded": False}, "dot_mse": {}, "cross_entropy": {}, "soft_argmax": {},
}  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_a_default_of_a_loss_does_not_change_unnoticed(loss):
    assert RECIPE_VERSION == 1
    defaults = {name: option.default for name, option in inspect.signature(LOSSES[loss]).parameters.items()}
    assert {name: defaults.get(name) for name in FIRST_DEFAULTS[loss]} == FIRST_DEFAULTS[loss]


def test_lengths_of_a_loss_grow_with_the_crops_unless_they_are_given():
    assert make_config("study").loss_options == {}  # as they were tuned
    assert make_config("smoke").loss_options == {}  # a smaller crop keeps them
    assert make_config(input_width=192, input_height=192).loss_options == {"tau": 2.0, "epsilon": 0.1}
    assert make_config(input_width=192, input_height=192, loss="gaussian_mse").loss_options == {"sigma": 1.5}
    assert make_config(input_width=192, input_height=192, loss="cross_entropy").loss_options == {}
    tall = make_config("coco_w32_256x192").loss_options
    assert tall["tau"] == pytest.approx((64 * 48) ** 0.5 / 24, abs=1e-3)
    assert tall["epsilon"] / tall["tau"] == pytest.approx(0.05, rel=0.01)
    given = make_config(input_width=192, input_height=192, **{"loss_options.tau": 1.0, "loss_options.likelihood": 0.2})
    assert given.loss_options == {"tau": 1.0, "epsilon": 0.1, "likelihood": 0.2}
    other_unit = make_config(input_width=192, input_height=192, loss_options={"cost": "sqeuclidean"})
    assert other_unit.loss_options == {"cost": "sqeuclidean"}
    stated = make_config(input_width=192, input_height=192, loss_options={"cost": "saturating"})
    assert stated.loss_options == {"tau": 2.0, "epsilon": 0.1, "cost": "saturating"}
    assert make_config("coco_w32_256x192", loss="gaussian_mse").loss_options["sigma"] == 2.0  # HRNet's
    assert make_config("coco_w32_256x192").loss_options == MatchingLoss.lengths_on(64, 48)  # for a loop of one's own
    again = make_config(**{name: value for name, value in given if value is not None})
    assert again == given  # as the processes of a training are told


def test_a_whole_number_and_its_float_are_one_run():
    whole, point = (make_config(loss_options={"epsilon": value, "cost": "euclidean"}) for value in (1, 1.0))
    assert whole.run_name("data") == point.run_name("data")
    assert make_config(loss="gaussian_mse", loss_options={"rounded": True}).loss_options == {"rounded": True}
