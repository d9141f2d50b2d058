import pytest

from hdmlib.config import PRESETS, Config, ConfigError, make_config


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_valid_config_with_every_loss(preset):
    for loss in ("matching", "gaussian_mse", "dot_mse", "cross_entropy", "soft_argmax"):
        config = make_config(preset, loss=loss)
        assert config.loss == loss
        assert config.lr is not None


def test_a_value_beside_the_preset_wins_and_none_does_not():
    assert make_config("laptop", epochs=3).epochs == 3
    assert make_config("laptop", epochs=None).epochs == PRESETS["laptop"]["epochs"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"preset": "labtop"}, ["'labtop'", "Did you mean 'laptop'", "coco_w48_384x288"]),
        ({"los": "matching"}, ["parameter 'los'", "Did you mean 'loss'", "batch_size"]),
        ({"loss": "matchng"}, ["loss:", "Did you mean 'matching'", "soft_argmax"]),
        ({"model": "resnet"}, ["model:", "hrnet_nano"]),
        ({"dataset": "lsp"}, ["dataset:", "synthetic"]),
        ({"decoder": "drak"}, ["decoder:", "Did you mean 'dark'"]),
        ({"epochs": 0}, ["epochs:", "greater than or equal to 1"]),
        ({"epochs": "many"}, ["epochs:", "'many'"]),
        ({"lr": float("nan")}, ["lr:"]),
        ({"lr": -1.0}, ["lr:"]),
        ({"input_width": 100}, ["input_width:", "multiple of 32"]),
        ({"resume": "maybe"}, ["resume:", "'maybe'"]),
        ({"milestones": [20, 10]}, ["milestones:", "increase"]),
        ({"loss_options": "epsilon=1"}, ["loss_options:", "JSON"]),
    ],
)
def test_a_wrong_name_or_value_is_refused_with_what_is_known(values, told):
    with pytest.raises(ConfigError) as caught:
        make_config(**values)
    for words in told:
        assert words in str(caught.value)


def test_all_wrong_values_are_told_at_once():
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
    assert name != make_config(seed=2).run_name("data")
    assert name != make_config(seed=1, loss_options={"epsilon": 9.0}).run_name("data")
    assert name != make_config(seed=1).run_name("other data")
    assert "matching" in name


def test_the_same_recipe_reached_from_another_preset_is_the_same_run():
    laptop = make_config("laptop")
    values = {name: getattr(laptop, name) for name in Config.model_fields if name != "preset"}
    assert make_config("smoke", **values).run_name("d") == laptop.run_name("d")
