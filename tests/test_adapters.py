"""The loss in other people's trainings: what notebook 08 gives as text for frameworks that are not installed here.

Each block of its section 4 is executed as it stands, on stand-ins that have the framework's signatures (the versions
are named in the notebook), and must train maps towards drawn targets. What is installed (Hugging Face, Lightning) the
notebook itself runs.
"""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
import torch
from torch import nn

from hdmlib import decode
from hdmlib.heatmaps import gaussian_map

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "08_in_your_training.ipynb"
SIZE = (16, 20)


class Registry:
    """mmengine's and DeepLabCut's registries, as far as a class is entered: with and without parentheses."""

    def __init__(self):
        self.entered = {}

    def register_module(self, entered=None):
        def enter(cls):
            self.entered[cls.__name__] = cls
            return cls

        return enter(entered) if entered else enter


class LightningPoseLoss:
    """``HeatmapLoss`` of Lightning Pose 2.4.3: drops all-zero targets, then takes the mean of ``compute_loss``."""

    def __call__(self, heatmaps_targ, heatmaps_pred, stage=None):
        ignored = torch.all(heatmaps_targ.flatten(2) == 0.0, dim=-1)
        return self.compute_loss(targets=heatmaps_targ[~ignored], predictions=heatmaps_pred[~ignored]).mean(), []


@pytest.fixture
def frameworks(monkeypatch):
    """Stand-ins under the names that the blocks import."""
    registry = Registry()
    contents = {
        "mmpose.registry": {"MODELS": registry},
        "lightning_pose.losses": {"factory": SimpleNamespace(get_loss_classes=dict)},
        "lightning_pose.losses.losses": {"HeatmapLoss": LightningPoseLoss},
        "sleap_nn.training.lightning_modules": {"SingleInstanceLightningModule": nn.Module},
        "deeplabcut.pose_estimation_pytorch.models.criterions.base": {
            "CRITERIONS": registry,
            "BaseCriterion": nn.Module,
        },
        "segmentation_models_pytorch": {"Unet": lambda name, in_channels, classes: nn.Conv2d(in_channels, classes, 1)},
    }
    for name, content in contents.items():
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            part = ".".join(parts[:length])
            if part not in sys.modules:
                monkeypatch.setitem(sys.modules, part, ModuleType(part))
        vars(sys.modules[name]).update(content)


def blocks():
    """The Python blocks of the notebook's text, by the framework in bold before them."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    found = re.findall(r"^\*\*([^*]+)\*\*:.*?^```python\n(.*?)^```", text, flags=re.M | re.S)
    return dict(found)


def drawn_batch():
    """Targets (2, 3, 16, 20) around joints between the cells, one of them unlabelled."""
    joints = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([15.0, 11.0]) + 2
    targets = gaussian_map(joints, SIZE, sigma=1.5)
    targets[1, 2] = 0
    labelled = torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    return joints, targets, labelled


ADAPTERS = {
    "mmpose 1.3.2": lambda names: (
        lambda maps, targets, labelled: names["MatchingHeatmapLoss"]()(maps, targets, labelled)
    ),
    "Lightning Pose 2.4.3": lambda names: (
        lambda maps, targets, labelled: names["HeatmapMatchingLoss"]()(
            heatmaps_targ=targets, heatmaps_pred=maps.flatten(2).softmax(2).view_as(maps), stage="train"
        )[0]
    ),
    "sleap-nn 0.3.5": lambda names: (
        lambda maps, targets, labelled: names["MatchingModule"]()._compute_negative_weighted_loss(
            maps, targets, {}, stage="train"
        )
    ),
    "DeepLabCut 3.0.2": lambda names: (
        lambda maps, targets, labelled: names["MatchingCriterion"]()(
            maps, target=targets, weights=labelled[..., None, None].expand_as(targets)
        )
    ),
}


@pytest.mark.parametrize("framework", ADAPTERS)
def test_a_published_adapter_trains_towards_drawn_targets(framework, frameworks):
    names = {}
    exec(blocks()[framework], names)
    loss_of = ADAPTERS[framework](names)
    joints, targets, labelled = drawn_batch()
    maps = torch.zeros_like(targets, requires_grad=True)
    optimiser = torch.optim.Adam([maps], lr=0.3)
    losses = []
    for _ in range(60):
        loss = loss_of(maps, targets, labelled)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    found, _ = decode(maps.detach().flatten(2).softmax(2).view_as(maps), "barycentre")
    assert (found - joints).norm(dim=2)[labelled > 0].max() < 0.2
    assert maps.grad[1, 2].abs().max() == 0  # the unlabelled joint


def test_lightning_pose_finds_the_loss_by_its_name(frameworks):
    names = {}
    exec(blocks()["Lightning Pose 2.4.3"], names)
    assert names["factory"].get_loss_classes() == {"heatmap_matching": names["HeatmapMatchingLoss"]}
    empty = torch.zeros(2, 3, *SIZE)  # a batch without a label: every target is dropped
    assert names["HeatmapMatchingLoss"]()(heatmaps_targ=empty, heatmaps_pred=empty)[0] == 0


def test_a_network_of_another_library_is_one_line(frameworks):
    names = {}
    exec(blocks()["timm and segmentation_models.pytorch"], names)
    assert names["unet"](num_joints=5)(torch.zeros(1, 3, 8, 8)).shape == (1, 5, 8, 8)


def test_every_block_of_the_notebook_is_tested():
    assert set(blocks()) == {*ADAPTERS, "timm and segmentation_models.pytorch"}
