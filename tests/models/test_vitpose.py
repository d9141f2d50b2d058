"""ViTPose of Hugging Face's transformers, from a folder as the hub's repositories are: built, loaded, trained, used."""

import json

import numpy as np
import pytest
import torch
from transformers import VitPoseConfig, VitPoseForPoseEstimation

from hdmlib import MatchingLoss, build_model, load_weights, predict
from hdmlib.config import ConfigError, make_config
from hdmlib.experiments import run
from hdmlib.models import CheckpointError, stride_of

BACKBONE = {
    "model_type": "vitpose_backbone",
    "image_size": [64, 64],
    "patch_size": [16, 16],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "out_indices": [2],
}


@pytest.fixture(scope="module", params=[True, False], ids=["simple head", "classic head"])
def published(request, tmp_path_factory):
    """A network of 17 joints with its folder, as ``save_pretrained`` writes what is published on the hub."""
    torch.manual_seed(0)
    config = VitPoseConfig(backbone_config=dict(BACKBONE), num_labels=17, use_simple_decoder=request.param)
    network = VitPoseForPoseEstimation(config)
    folder = tmp_path_factory.mktemp("vitpose")
    network.save_pretrained(folder)
    return network.eval(), folder


def test_the_hubs_weights_give_the_maps_of_transformers(published):
    network, folder = published
    ours = build_model(f"vitpose:{folder}", num_joints=17).eval()
    load_weights(ours, folder / "model.safetensors")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), network(pixel_values=images).heatmaps)
    assert stride_of(f"vitpose:{folder}", (64, 64)) == 4


def test_other_joints_keep_all_but_the_last_layer(published):
    network, folder = published
    ours = build_model(f"vitpose:{folder}", num_joints=5)
    load_weights(ours, folder / "model.safetensors", backbone_only=True)
    theirs, state = network.state_dict(), ours.state_dict()
    assert state["head.conv.weight"].shape[0] == 5
    assert all(torch.equal(value, theirs[key]) for key, value in state.items() if not key.startswith("head.conv."))
    with pytest.raises(CheckpointError, match=r"head\.conv\.weight: 17x"):
        load_weights(ours, folder / "model.safetensors")


def test_it_learns_with_the_loss(published):
    _, folder = published
    torch.manual_seed(0)
    model, criterion = build_model(f"vitpose:{folder}", num_joints=3), MatchingLoss()
    images, joints = torch.randn(4, 3, 64, 64), torch.rand(4, 3, 2) * 13 + 1
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = criterion(model(images), joints)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_it_is_trained_from_its_weights_resumed_and_used(published, tmp_path):
    _, folder = published
    config = make_config(preset="smoke", model=f"vitpose:{folder}", epochs=1, run_dir=tmp_path)
    assert config.pretrained == str(folder / "model.safetensors")
    result = run(config)
    assert result.record.identity["pretrained"].startswith("model.safetensors@sha256:")
    assert not run(config).trained
    [found] = predict(result.data.val.images[0], checkpoint=result.folder)
    assert found.joints.shape == (1, 17, 2)
    assert np.isfinite(found.joints).all()
    assert not set(":/\\") & set(result.record.name)


def test_a_name_of_the_hub_is_its_weights_name_and_a_preset_gives_its_own_networks():
    config = make_config(preset="coco_w32_256x192", data_root=".", model="vitpose:usyd-community/vitpose-base-simple")
    assert config.pretrained == "hub:usyd-community/vitpose-base-simple"
    assert make_config(preset="coco_w32_256x192", model="hrnet_w48").pretrained == "hub:timm/hrnet_w48.ms_in1k"
    assert make_config(preset="coco_w32_256x192", model="mine:network").pretrained is None
    assert make_config(preset="laptop", model="hrnet_w32").pretrained is None


def test_crops_of_another_size_are_refused_before_any_picture_is_drawn(published, tmp_path, monkeypatch):
    monkeypatch.setenv("HDMLIB_CACHE", str(tmp_path / "cache"))
    name = f"vitpose:{published[1]}"
    with pytest.raises(ValueError, match=r"does not take crops of 96 x 64 pixels.*choose another input_width"):
        run(make_config(preset="smoke", model=name, input_width=96, run_dir=tmp_path))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no config.json"),
        ("{", "is no JSON file"),
        ("[]", "of type 'list', not 'vitpose'"),
        ('{"model_type": "vit"}', "of type 'vit', not 'vitpose'"),
        (json.dumps({"model_type": "vitpose", "backbone_config": BACKBONE | {"num_experts": 6}}), "several experts"),
    ],
)
def test_a_folder_with_another_network_is_refused(content, message, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        build_model(f"vitpose:{tmp_path}", num_joints=5)


def test_without_a_network_the_message_names_file_hub_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match=r"model: cannot fetch config\.json of a/b from .*or give a folder"):
        build_model("vitpose:a/b")


def test_a_mistyped_name_lists_the_forms():
    with pytest.raises(ConfigError, match=r"vitpose:NAME, package\.module:function"):
        make_config(model="vit_pose")
