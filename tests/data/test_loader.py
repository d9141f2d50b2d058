import json
import signal
import subprocess
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator

from hdmlib.data.augmentation import Augmentation
from hdmlib.data.coco import read_coco
from hdmlib.data.crops import Frame, invert, transform
from hdmlib.data.dataset import DataError, PoseDataset
from hdmlib.data.loader import CropDataset, make_loader, share_of
from hdmlib.heatmaps import inside

COUNT = 11
VARIED = Augmentation(scale=0.35, rotation=45, mirror_probability=0.5, half_body_probability=0.3)
SQUARE = Frame((64, 64))
NAMES = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> PoseDataset:
    """People in two photos of blurred noise; number 3 has an unlabelled joint and one far outside its box."""
    root = tmp_path_factory.mktemp("people")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    images = [{"id": i, "file_name": f"{i}.png", "width": 160, "height": 120} for i in range(2)]
    for image in images:
        noise = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
        cv2.imwrite(str(root / "images" / image["file_name"]), cv2.GaussianBlur(noise, (0, 0), 3))
    annotations = []
    for i in range(COUNT):
        x, y = rng.uniform(0, 60), rng.uniform(0, 40)
        joints = np.column_stack([rng.uniform([x, y], [x + 60, y + 60], (5, 2)), np.full(5, 2)])
        if i == 3:
            joints[1] = 0
            joints[2, :2] = 159, 119
        box = [x, y, 60, 60]
        keypoints = joints.ravel().tolist()
        annotations.append(
            {"id": i, "image_id": i % 2, "category_id": 1, "bbox": box, "area": 3600, "keypoints": keypoints}
        )
    category = {"id": 1, "name": "person", "keypoints": NAMES}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (root / "train.json").write_text(json.dumps(content))
    return read_coco(root, "train")


def epoch_of(loader, epoch: int) -> dict[str, torch.Tensor]:
    loader.set_epoch(epoch)
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"workers": -1}, {"batch_size": 0}, {"process": 2, "processes": 2}])
def test_parameters_are_checked_before_the_first_batch(people, wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must be"):
        make_loader(people, Frame((64, 64)), **wrong)


def test_shapes_types_and_ranges(people):
    batch = next(iter(make_loader(people, Frame((64, 96)), batch_size=4)))
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "image": ((4, 3, 96, 64), torch.uint8),
        "joints": ((4, 5, 2), torch.float32),
        "weights": ((4, 5), torch.float32),
        "index": ((4,), torch.int64),
        "affine": ((4, 3, 2, 3), torch.float32),
    }
    assert batch["index"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("coordinates", ["center", "hrnet", "udp"])
def test_cells_map_back_to_the_photo(people, coordinates):
    data = epoch_of(make_loader(people, Frame((64, 64), coordinates)), 0)
    seen = data["weights"].numpy() > 0
    photo = transform(data["joints"], invert(data["affine"].double().sum(dim=1)))
    np.testing.assert_allclose(photo[seen], people.joints[seen], atol=1e-3)
    assert seen.sum() > 0.9 * seen.size


def test_unlabelled_joints_weigh_nothing_and_joints_outside_keep_their_place(people):
    data = epoch_of(make_loader(people, (64, 64)), 0)  # stands for a Frame
    labelled = people.visibility[3] > 0
    assert data["weights"][3].tolist() == labelled.tolist()
    assert not labelled.all()
    assert (data["joints"][3, ~labelled] == 0).all()
    on_map = inside(data["joints"][3], (16, 16)).numpy()
    assert (labelled & ~on_map).any()  # a loss decides whether it can use them


def test_image_is_rgb(tmp_path, people):
    path = tmp_path / "images" / "red.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.full((120, 160, 3), (0, 0, 255), np.uint8))  # OpenCV writes BGR
    content = json.loads((people.images[0].parents[1] / "train.json").read_text())
    content["annotations"] = content["annotations"][:1]
    content["images"][0]["file_name"] = "red.png"
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = epoch_of(make_loader(read_coco(tmp_path, "train"), SQUARE), 0)
    assert data["image"][0, :, 32, 32].tolist() == [255, 0, 0]


def test_mirrored_crops_swap_left_and_right(people):
    plain = epoch_of(make_loader(people, SQUARE), 0)
    mirrored = epoch_of(make_loader(people, SQUARE, augmentation=Augmentation(mirror_probability=1)), 0)
    order = [0, 2, 1, 4, 3]
    assert torch.equal(mirrored["weights"], plain["weights"][:, order])
    expected = torch.stack([15 - plain["joints"][..., 0], plain["joints"][..., 1]], dim=-1)[:, order]
    seen = mirrored["weights"] > 0
    torch.testing.assert_close(mirrored["joints"][seen], expected[seen], atol=1e-4, rtol=0)
    assert (mirrored["image"].int() - plain["image"].flip(-1).int()).abs().max() <= 3
    # what maps back is the mirrored order: joint 1 of the crop is joint 2 of the photo
    photo = transform(mirrored["joints"], invert(mirrored["affine"].double().sum(dim=1)))
    np.testing.assert_allclose(photo[seen], people.joints[:, order][seen.numpy()], atol=1e-3)


def test_same_numbers_for_any_workers_and_any_start(people):
    options = {"augmentation": VARIED, "batch_size": 4, "shuffle": True, "seed": 5}
    alone, helped = (
        make_loader(people, SQUARE, **options),
        make_loader(people, SQUARE, workers=2, **options),
    )
    epochs = [epoch_of(alone, epoch) for epoch in range(3)]
    for epoch in (0, 1, 2):  # the workers persist and must follow
        assert_equal(epochs[epoch], epoch_of(helped, epoch))
    assert_equal(epochs[2], epoch_of(make_loader(people, SQUARE, **options), 2))  # a resumed run
    assert sorted(epochs[0]["index"].tolist()) == list(range(COUNT))
    assert epochs[0]["index"].tolist() != epochs[1]["index"].tolist()
    first = [epochs[epoch]["affine"][epochs[epoch]["index"] == 0] for epoch in (0, 1)]
    assert not torch.equal(*first)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_the_shares_of_all_processes_are_the_batch(people, processes):
    options = {"augmentation": VARIED, "batch_size": 4, "shuffle": True, "seed": 5}
    shares = [
        make_loader(people, SQUARE, process=process, processes=processes, **options) for process in range(processes)
    ]
    for whole, *parts in zip(make_loader(people, SQUARE, **options), *shares, strict=True):
        count = len(whole["index"])
        bounds = [share_of(count, process, processes) for process in range(processes)]
        sizes = [end - first for first, end in bounds]
        assert sum(sizes) == count
        assert max(sizes) - min(sizes) <= 1
        for key, values in whole.items():
            own = [part[key] for part, size in zip(parts, sizes, strict=True) if size]
            assert torch.equal(torch.cat(own), values)
        idle = [part["index"].tolist() for part, size in zip(parts, sizes, strict=True) if not size]
        assert all(one == whole["index"][:1].tolist() for one in idle)


def test_augmentation_is_a_function_of_seed_epoch_and_person(people):
    items = [CropDataset(people, SQUARE, VARIED, seed=seed) for seed in (0, 0, 1)]
    assert_equal(*({k: torch.as_tensor(v) for k, v in item[(4, 7)].items()} for item in items[:2]))
    assert not torch.equal(items[0][(4, 7)]["affine"], items[2][(4, 7)]["affine"])
    assert not torch.equal(items[0][(4, 7)]["affine"], items[0][(5, 7)]["affine"])


LOOKS = {"colour_jitter": 0.4, "blur": 2.0, "cutout": 0.3}


def test_colour_blur_and_cutout_are_functions_of_seed_epoch_and_person(people):
    plain = CropDataset(people, SQUARE, VARIED, seed=3)
    for name, value in LOOKS.items():
        altered = [CropDataset(people, SQUARE, replace(VARIED, **{name: value}), seed=s) for s in (3, 3, 4)]
        first, again, other = (crops[(2, 7)] for crops in altered)
        assert torch.equal(first["image"], again["image"]), name
        assert not torch.equal(first["image"], plain[(2, 7)]["image"]), name
        assert not torch.equal(first["image"], altered[0][(3, 7)]["image"]), name
        for key in ("joints", "weights", "affine"):  # the regions are those without the option
            assert torch.equal(first[key], plain[(2, 7)][key]), (name, key)
        assert not torch.equal(other["affine"], first["affine"])


def test_options_at_zero_change_no_pixel(people):
    plain, zero = VARIED, replace(VARIED, **dict.fromkeys(LOOKS, 0.0))
    assert not zero.alters_pixels
    first, second = (make_loader(people, SQUARE, augmentation=a, seed=1) for a in (plain, zero))
    assert_equal(epoch_of(first, 1), epoch_of(second, 1))


def test_each_option_does_what_it_is_named_for():
    rng = np.random.default_rng(0)
    crop = cv2.resize(rng.integers(60, 200, (16, 16, 3), np.uint8), (64, 64), interpolation=cv2.INTER_NEAREST)
    before = crop.copy()
    grey = np.repeat(crop[..., :1], 3, axis=2)
    for _ in range(20):
        jittered = Augmentation(colour_jitter=0.3).alter(grey, rng)
        assert np.ptp(jittered.astype(int), axis=2).max() <= 1  # grey stays grey
        assert 0.65 * grey.mean() < jittered.mean() < 1.35 * grey.mean()
        blurred = Augmentation(blur=3).alter(crop, rng)
        assert blurred.std() <= crop.std()
        assert abs(blurred.mean() - crop.mean()) < 2
        changed = (Augmentation(cutout=0.25).alter(crop, rng) != crop).any(axis=2)
        rows, columns = changed.any(axis=1).nonzero()[0], changed.any(axis=0).nonzero()[0]
        assert max(np.ptp(rows), np.ptp(columns)) < 16
        assert changed.sum() > 0.9 * len(rows) * len(columns)
    np.testing.assert_array_equal(crop, before)


def test_global_generators_are_left_alone(people):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the legacy global state is what must not move
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    epoch_of(make_loader(people, SQUARE, augmentation=VARIED, shuffle=True, workers=1), 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_cache_changes_nothing(people):
    options = {"augmentation": VARIED, "shuffle": True}
    cached = make_loader(people, SQUARE, cache=True, **options)
    assert_equal(epoch_of(make_loader(people, SQUARE, **options), 1), epoch_of(cached, 1))


def test_accelerates_loader_takes_the_epoch(people):
    loader = make_loader(people, SQUARE, shuffle=True, augmentation=VARIED, batch_size=4)
    expected = epoch_of(loader, 6)
    prepared = Accelerator(cpu=True).prepare(
        make_loader(people, SQUARE, shuffle=True, augmentation=VARIED, batch_size=4)
    )
    assert_equal(expected, epoch_of(prepared, 6))


def test_a_person_cut_far_off_the_photo_has_black_crop_and_finite_joints(people):
    lost = people.subset([0])
    lost.centres[:] = 1e6
    data = epoch_of(make_loader(lost, SQUARE), 0)
    assert (data["image"] == 0).all()
    assert data["joints"].isfinite().all()
    assert not inside(data["joints"], (16, 16))[data["weights"] > 0].any()


def test_broken_photo_stops_with_its_name(people, tmp_path):
    content = json.loads((people.images[0].parents[1] / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps(content))
    (tmp_path / "images").mkdir()
    for path in people.images:
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    copy = read_coco(tmp_path, "train")
    copy.images[1].write_bytes(b"")
    with pytest.raises(DataError, match=rf"cannot decode the photo .*{copy.images[1].name}"):
        epoch_of(make_loader(copy, SQUARE), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinates": "pixel"}, "coordinates rule 'pixel' is not known"),
        ({"input_size": (63, 64)}, "multiples of 4"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Frame(**{"input_size": (64, 64), **options})


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="macOS and Windows do not name a signal's sender")
@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_workers_outlive_a_sigterm_to_all_and_end_by_that_of_their_trainer(people, start):
    loader = make_loader(people, SQUARE, batch_size=2, workers=2)
    loader.multiprocessing_context = start
    batches = iter(loader)
    for _ in range(2):
        next(batches)  # one of each worker: both have begun
    workers = batches._workers
    for worker in workers:  # as Slurm sends it: by another process
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert sum(len(batch["index"]) for batch in batches) == COUNT - 4
    assert all(worker.is_alive() for worker in workers)
    for worker in workers:
        worker.terminate()
        worker.join(30)
        assert worker.exitcode == 0
