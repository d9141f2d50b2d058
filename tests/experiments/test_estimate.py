"""The size of the published networks and of their training, against what their authors print."""

from types import SimpleNamespace

import pytest
import torch

from hdmlib.config import make_config
from hdmlib.experiments.estimate import BYTES_PER_PARAMETER, _kept_for_backward, estimate
from hdmlib.skeletons import COCO_17, MPII_16


class People:
    """As many people as asked for; nothing else of a dataset is looked at."""

    def __init__(self, count, skeleton):
        self.count, self.skeleton = count, skeleton

    def __len__(self):
        return self.count


def data(train, val, skeleton):
    return SimpleNamespace(train=People(train, skeleton), val=People(val, skeleton))


@pytest.mark.parametrize(
    ("preset", "skeleton", "parameters", "printed"),
    [  # "GFLOPs" of HRNet's README are multiply-adds / 1024^3
        ("coco_w48_384x288", COCO_17, 63_595_745, 32.9),
        ("mpii_w32_256x256", MPII_16, 28_536_080, 9.5),
    ],
)
def test_published_sizes(preset, skeleton, parameters, printed):
    found = estimate(make_config(preset), data(1000, 100, skeleton))
    assert found.parameters == parameters
    assert round(found.multiply_adds / 1024**3, 1) == printed


def test_steps_work_and_memory():
    config = make_config("smoke", batch_size=32, epochs=5, flip_test=True)
    found = estimate(config, data(100, 10, COCO_17))
    assert (found.steps_per_epoch, found.steps) == (4, 20)
    assert found.operations == 2 * found.multiply_adds * 5 * (3 * 100 + 2 * 10)
    kept = [
        estimate(make_config("smoke", batch_size=n), data(100, 10, COCO_17)).memory - BYTES_PER_PARAMETER * p
        for n, p in ((1, found.parameters), (8, found.parameters), (500, found.parameters))
    ]
    assert kept[1] == 8 * kept[0]
    assert kept[2] == 100 * kept[0]  # no batch is larger than the data
    for told in ("5 epochs", "20 in", "GiB", "50-60 hours on 4 P100"):
        assert told in str(found)


def test_what_is_kept_for_the_backward_pass_by_hand():
    """A convolution keeps its input, an in-place ReLU its output, and both are one storage here."""
    with torch.device("meta"):
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(inplace=True), torch.nn.Conv2d(4, 5, 1)
        )
        crop = torch.empty(1, 3, 8, 6)
    assert _kept_for_backward(model, crop) == 4 * 8 * 6 * (3 + 4)
