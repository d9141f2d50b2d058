"""What a training step and a crop cost, beside the least that they could cost.

Run by hand, on one thread, on a machine that does nothing else:

    python -m pytest tests/bench_training.py -p no:xdist -o addopts=--import-mode=importlib -s

The loss: a step of HRNet-W32 with each of the losses beside a bare loop with a mean squared error against targets that
are there already. The data: crops a second of the whole pipeline (decode, warp, tensors) beside decoding alone, on the
photos of the real samples (see ``conftest.py``) and on embedded people.
"""

import cv2
import pytest
import torch

from hdmlib.config import make_config
from hdmlib.data.loader import make_loader
from hdmlib.data.photos import read_image
from hdmlib.data.sources import open_data
from hdmlib.experiments.engine import augmentation_of, frame_of
from hdmlib.losses.registry import LOSSES, build_loss
from hdmlib.models.registry import build_model
from hdmlib.synthetic.dataset import embedded_dataset

BATCH, SIZE = 2, (256, 192)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = build_model("hrnet_w32", num_joints=17).to(memory_format=torch.channels_last).train()
    return model, torch.optim.Adam(model.parameters(), lr=1e-4)


@pytest.mark.parametrize("loss", ["bare MSE", *LOSSES])
def test_step(benchmark, network, loss):
    model, optimiser = network
    images = torch.randn(BATCH, 3, *SIZE).to(memory_format=torch.channels_last)
    cells = torch.tensor([SIZE[1] / 4 - 1, SIZE[0] / 4 - 1])
    joints, weights = torch.rand(BATCH, 17, 2) * cells, torch.ones(BATCH, 17)
    targets = torch.rand(BATCH, 17, SIZE[0] // 4, SIZE[1] // 4)
    criterion = None if loss == "bare MSE" else build_loss(loss)

    def step():
        optimiser.zero_grad(set_to_none=True)
        heatmaps = model(images)
        if criterion is None:
            value = torch.nn.functional.mse_loss(heatmaps, targets)
        else:
            value = criterion(heatmaps, joints, weights)
        value.backward()
        optimiser.step()

    benchmark.pedantic(step, rounds=8, iterations=1, warmup_rounds=1)


def people_of(name, request, tmp_path_factory):
    if name == "embedded":
        root = embedded_dataset(tmp_path_factory.mktemp("people"), format="coco", train=60, val=2, size=256)
    else:
        root = request.getfixturevalue("samples")(name)
    config = make_config("laptop", dataset="coco", data_root=root, train_people=200)
    return open_data(config).train


@pytest.mark.parametrize("what", ["decode alone", "whole pipeline"])
@pytest.mark.parametrize("name", ["embedded", "lspet_crops", "coco_subset"])
def test_crops(benchmark, request, tmp_path_factory, name, what):
    people = people_of(name, request, tmp_path_factory)
    recipe = make_config("coco_w32_256x192")
    loader = make_loader(people, frame_of(recipe), augmentation=augmentation_of(recipe), batch_size=32)
    photos = [people.image_path(i) for i in range(len(people))]

    def whole():
        for _ in loader:
            pass

    def decode():
        for path in photos:
            read_image(path)

    benchmark.pedantic(decode if what == "decode alone" else whole, rounds=5, iterations=1, warmup_rounds=1)
    print(f"\n{name}, {what}: {len(people) / benchmark.stats.stats.min:.0f} crops/s")
