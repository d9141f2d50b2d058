"""HRNet: the published parameter counts and key names, shapes, and errors."""

import re

import pytest
import torch

from hdmlib.models.hrnet import MODELS, HRNet, HRNetSpec
from hdmlib.models.registry import build_model

PARAMETERS = {
    ("hrnet_w32", 17): 28_536_113,
    ("hrnet_w48", 17): 63_595_745,
    ("hrnet_w32", 16): 28_536_080,
    ("hrnet_w48", 16): 63_595_696,
}
# The official names, one pattern per part of the network.
BN = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
LAYER = rf"(0\.weight|1\.{BN})"  # a convolution and its batch norm in a Sequential
NAMES = [
    rf"(conv[12]\.weight|bn[12]\.{BN})",
    rf"layer1\.[0-3]\.(conv[1-3]\.weight|bn[1-3]\.{BN})",
    rf"layer1\.0\.downsample\.{LAYER}",
    rf"transition1\.(0|1\.0)\.{LAYER}",
    rf"transition(2\.2|3\.3)\.0\.{LAYER}",
    rf"stage(2\.0\.branches\.[01]|3\.[0-3]\.branches\.[0-2]|4\.[0-2]\.branches\.[0-3])"
    rf"\.[0-3]\.(conv[12]\.weight|bn[12]\.{BN})",
    rf"stage[2-4]\.\d\.fuse_layers\.\d\.\d\.(\d\.)?{LAYER}",
    r"final_layer\.(weight|bias)",
]


@pytest.fixture(scope="module", params=PARAMETERS, ids=lambda key: f"{key[0]}-{key[1]}")
def published(request):
    with torch.device("meta"):
        return request.param, build_model(*request.param)


def test_published_parameter_counts(published):
    key, model = published
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[key]


def test_official_names(published):
    names = list(published[1].state_dict())
    assert len(names) == 1754
    assert sum(name.endswith("num_batches_tracked") for name in names) == 292
    assert [name for name in names if not any(re.fullmatch(pattern, name) for pattern in NAMES)] == []
    for pattern in NAMES:
        assert any(re.fullmatch(pattern, name) for name in names), pattern


def test_fusion_paths_are_the_official_ones(published):
    """From branch j to i: nothing if i = j, up by one 1x1, down by i - j strided 3x3; the last fuses to 0 only."""
    names = published[1].state_dict()
    for stage, module, branches in ((2, 0, 2), (3, 0, 3), (3, 3, 3), (4, 1, 4), (4, 2, 4)):
        last = (stage, module) == (4, 2)
        for i in range(branches):
            for j in range(branches):
                prefix = f"stage{stage}.{module}.fuse_layers.{i}.{j}."
                convolutions = {
                    name.removeprefix(prefix): tuple(tensor.shape[2:])
                    for name, tensor in names.items()
                    if name.startswith(prefix) and tensor.ndim == 4
                }
                expected = {f"{k}.0.weight": (3, 3) for k in range(i - j)} if i > j else {"0.weight": (1, 1)}
                assert convolutions == ({} if i == j or (last and i > 0) else expected)


def test_initialisation_is_the_published_one_but_for_nano():
    torch.manual_seed(0)
    published = HRNet(HRNetSpec(width=16, stem=8, layer1=1, planes=4, modules=(1,), blocks=1), 17)
    nano = build_model("hrnet_nano")
    for model, published_std in ((published, True), (nano, False)):
        weight = model.stage2[0].branches[1][0].conv1.weight
        assert (weight.std().item() == pytest.approx(1e-3, rel=0.05)) == published_std
        assert model.final_layer.weight.std().item() == pytest.approx(1e-3, rel=0.2)
        assert model.final_layer.bias.abs().max() == 0


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_nano_puts_out_a_quarter_of_the_input_and_learns(memory_format):
    torch.manual_seed(0)
    model = build_model("hrnet_nano", num_joints=5).to(memory_format=memory_format)
    assert (model.num_joints, model.stride) == (5, 4)
    heatmaps = model(torch.randn(2, 3, 64, 96).to(memory_format=memory_format))
    assert heatmaps.shape == (2, 5, 16, 24)
    heatmaps.square().sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A constant before a batch norm is taken out again; everything else must receive a gradient.
    assert [name for name in still if not name.endswith("bias")] == []


def test_w32_at_the_recipe_size():
    model = build_model("hrnet_w32").eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 256, 192)).shape == (1, 17, 64, 48)


def test_a_batch_equals_its_singles():
    torch.manual_seed(0)
    model = build_model("hrnet_nano").eval()
    images = torch.randn(3, 3, 96, 64)
    with torch.inference_mode():
        singles = torch.cat([model(image[None]) for image in images])
        assert torch.allclose(model(images), singles, atol=1e-6)


def test_same_seed_same_network():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_model("hrnet_nano").state_dict())
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


@pytest.mark.parametrize("modules", [(1,), (2, 1), (1, 1, 1)])
def test_any_number_of_stages(modules):
    spec = HRNetSpec(width=4, stem=4, layer1=2, planes=2, modules=modules, blocks=1)
    size = spec.divisor
    assert HRNet(spec, 3)(torch.zeros(2, 3, size, 2 * size)).shape == (2, 3, size // 4, size // 2)


def test_sizes_that_do_not_divide_are_named():
    assert MODELS["hrnet_w32"].divisor == MODELS["hrnet_w48"].divisor == 32
    with pytest.raises(ValueError, match=r"100 x 96 pixels \(width x height\): both must be multiples of 16"):
        build_model("hrnet_nano")(torch.zeros(1, 3, 96, 100))


def test_unknown_names_are_answered_with_the_known():
    with pytest.raises(
        ValueError,
        match=r"model 'hrnet_w18' is not known\. Did you mean 'hrnet_w\d+'\? Known: hrnet_w32",
    ):
        build_model("hrnet_w18")
    with pytest.raises(ValueError, match="num_joints must be at least 1, got 0"):
        build_model("hrnet_nano", num_joints=0)
