"""HRNet: a photo flows in, one heatmap per joint flows out, at a quarter of the photo's size.

The network keeps a fine branch (stride 4) from end to end and adds coarser branches beside it, one per stage, each
with half the resolution and twice the channels; after every module each branch receives the sum of all branches.
Source: Sun, Xiao, Liu, Wang, *Deep High-Resolution Representation Learning for Human Pose Estimation*, CVPR 2019.

Names of sub-modules are those of the official code, because the names *are* the checkpoint format: weights published
for HRNet-W32 and W48 load without translation (``checkpoints.py``). ``hrnet_nano`` is the same network, small enough
to be trained on one CPU core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BN_MOMENTUM = 0.1


@dataclass(frozen=True)
class HRNetSpec:
    """The numbers that make one member of the family.

    Attributes:
        width: Channels of the finest branch; branch ``b`` has ``width * 2**b``.
        stem: Channels of the two stride-2 convolutions at the entrance.
        layer1: Bottleneck blocks of the single-branch first stage.
        planes: Inner channels of those bottlenecks; they put out four times as many.
        modules: Modules of stage 2, 3, ...; stage ``s`` has ``s`` branches, so three entries mean four branches.
        blocks: Residual blocks of each branch of each module.
        init_std: Deviation of every convolution's initial weights, or ``None`` for torch's own initialisation.
    """

    width: int
    stem: int = 64
    layer1: int = 4
    planes: int = 64
    modules: tuple[int, ...] = (1, 4, 3)
    blocks: int = 4
    init_std: float | None = 0.001

    @property
    def divisor(self) -> int:
        """Stride of the coarsest branch in input pixels; an input's height and width must be multiples of it."""
        return 4 * 2 ** len(self.modules)


MODELS: dict[str, HRNetSpec] = {
    "hrnet_w32": HRNetSpec(width=32),
    "hrnet_w48": HRNetSpec(width=48),
    # Trained from scratch. There torch's initialisation makes no clear difference to the squared error (PCKh@0.5 38.0,
    # and 38.5 with N(0, 0.001); two seeds) and helps a softmax (cross-entropy 38.7 and 36.4; three seeds): measured
    # after 8 epochs on the upright half of lspet_crops.
    "hrnet_nano": HRNetSpec(width=16, stem=16, layer1=1, planes=8, modules=(1, 1), blocks=2, init_std=None),
}


def _conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    """Convolution ``.0``, batch norm ``.1`` and, unless it stands before a sum, a ReLU."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, momentum=BN_MOMENTUM),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, momentum=BN_MOMENTUM)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, momentum=BN_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + x, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last one widening fourfold, around which the input is added."""

    expansion = 4

    def __init__(self, inputs: int, planes: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes, momentum=BN_MOMENTUM)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes, momentum=BN_MOMENTUM)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, momentum=BN_MOMENTUM)
        self.downsample = nn.Identity() if inputs == outputs else _conv_bn(inputs, outputs, kernel=1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 * planes, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x), inplace=True)


class FusionModule(nn.Module):
    """Residual blocks on every branch by itself, then every branch becomes the sum of all of them.

    Args:
        channels: Channels of each branch, finest first.
        blocks: Residual blocks per branch.
        outputs: How many branches are put out; the last module of the network needs the finest only.
    """

    def __init__(self, channels: Sequence[int], blocks: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c) for _ in range(blocks))) for c in channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(channels, source, target) for source in range(len(channels)))
            for target in range(outputs)
        )

    @staticmethod
    def _path(channels: Sequence[int], source: int, target: int) -> nn.Module:
        """The way from branch ``source`` to the resolution and the channels of branch ``target``."""
        if source == target:
            return nn.Identity()
        if source > target:
            fit = _conv_bn(channels[source], channels[target], kernel=1, relu=False)
            return nn.Sequential(*fit, nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"))
        halvings = [_conv_bn(channels[source], channels[source], stride=2) for _ in range(target - source - 1)]
        return nn.Sequential(*halvings, _conv_bn(channels[source], channels[target], stride=2, relu=False))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One (B, C_b, H / 2**b, W / 2**b) tensor per branch -> the same, ``outputs`` of them."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [
            F.relu(reduce(torch.add, (path(x) for path, x in zip(paths.children(), maps, strict=True))), inplace=True)
            for paths in self.fuse_layers
        ]


def _transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """From the branches of one stage to those of the next, which has one more: the coarsest one is halved."""
    layers: list[nn.Module] = [
        nn.Identity() if old == new else _conv_bn(old, new) for old, new in zip(before, after, strict=False)
    ]
    layers.append(nn.Sequential(_conv_bn(before[-1], after[-1], stride=2)))
    return nn.ModuleList(layers)


class HRNet(nn.Module):
    """Photo -> heatmaps at a quarter of its size.

    Args:
        spec: Widths and depths, see ``HRNetSpec``.
        num_joints: Number ``K`` of heatmaps.
    """

    stride = 4

    def __init__(self, spec: HRNetSpec, num_joints: int) -> None:
        super().__init__()
        self.spec = spec
        self.num_joints = num_joints
        self.conv1 = nn.Conv2d(3, spec.stem, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(spec.stem, momentum=BN_MOMENTUM)
        self.conv2 = nn.Conv2d(spec.stem, spec.stem, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(spec.stem, momentum=BN_MOMENTUM)
        widened = spec.planes * Bottleneck.expansion
        self.layer1 = nn.Sequential(*(Bottleneck(widened if i else spec.stem, spec.planes) for i in range(spec.layer1)))
        before = [widened]
        for s, modules in enumerate(spec.modules, start=2):  # transition1 and stage2, transition2 and stage3, ...
            channels = [spec.width * 2**b for b in range(s)]
            self.add_module(f"transition{s - 1}", _transition(before, channels))
            ends = s == len(spec.modules) + 1
            outputs = [1 if ends and m == modules - 1 else s for m in range(modules)]
            self.add_module(f"stage{s}", nn.Sequential(*(FusionModule(channels, spec.blocks, o) for o in outputs)))
            before = channels
        self.final_layer = nn.Conv2d(spec.width, num_joints, 1)
        self._initialise()

    def _initialise(self) -> None:
        """The published networks draw every convolution from N(0, 0.001), and are then given ImageNet's weights.

        The head starts like that in any case, so that all heatmaps begin near 0.
        """
        if self.spec.init_std is not None:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=self.spec.init_std)
        nn.init.normal_(self.final_layer.weight, std=0.001)
        assert self.final_layer.bias is not None
        nn.init.zeros_(self.final_layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps of a batch of normalised photos.

        Args:
            images: (B, 3, H, W) float, RGB with ImageNet's mean removed and its deviation divided out.

        Returns:
            (B, K, H/4, W/4) heatmaps, unbounded.

        Raises:
            ValueError: If H or W is no multiple of the coarsest branch's stride (32 for W32 and W48).
        """
        height, width = images.shape[-2:]
        divisor = self.spec.divisor
        if height % divisor or width % divisor:
            raise ValueError(
                f"input of {width} x {height} pixels (width x height): both must be multiples of {divisor}, "
                f"the stride of this network's coarsest branch; choose another crop size"
            )
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        maps = [self.layer1(x)]
        for s in range(2, len(self.spec.modules) + 2):
            grow = self.get_submodule(f"transition{s - 1}")
            # The new, coarsest branch grows out of what was the coarsest so far.
            maps = [layer(x) for layer, x in zip(grow.children(), [*maps, maps[-1]], strict=True)]
            maps = self.get_submodule(f"stage{s}")(maps)
        return self.final_layer(maps[0])
