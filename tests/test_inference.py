"""Predictions on single photos are those of the evaluation, whatever form photo, people and checkpoint come in."""

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from PIL import Image
from typer.testing import CliRunner

import hdmlib
from hdmlib.cli import app
from hdmlib.config import make_config
from hdmlib.data.crops import Frame, invert, transform
from hdmlib.data.photos import read_image
from hdmlib.experiments.prediction import predict_people
from hdmlib.experiments.runs import run
from hdmlib.inference import open_network, predict
from hdmlib.models.checkpoints import CheckpointError, export_hrnet
from hdmlib.models.registry import build_model
from hdmlib.plots.people import people_on_photo
from hdmlib.reader import _statistics, normalise
from hdmlib.skeletons import COCO_17, MPII_16, skeleton_from_names


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A finished smoke run."""
    return run(make_config("smoke", run_dir=tmp_path_factory.mktemp("runs"), device="cpu"), weights=True)


@pytest.fixture(scope="module")
def crowd(smoke):
    """Indices of the validation people on the photo that shows most of them, two at least."""
    index = smoke.data.val.image_index
    together = np.flatnonzero(index == np.bincount(index).argmax())
    assert len(together) >= 2
    return together


@pytest.fixture(scope="module")
def photo(smoke, crowd):
    return smoke.data.val.image_path(crowd[0])


@pytest.fixture(scope="module")
def boxes(smoke, crowd):
    return smoke.data.val.boxes[crowd]


@pytest.mark.parametrize("flip_test", [False, True])
def test_a_person_comes_out_as_in_the_evaluation(smoke, flip_test):
    config = smoke.config.model_copy(update={"flip_test": flip_test})
    people = smoke.data.val.subset(range(8))
    evaluated = predict_people(config, smoke.model(), people)
    network = open_network(smoke.folder, flip_test=flip_test)
    annotated = people.boxes + np.array([0, 0, 1, 1])  # a reader clips to the last pixel, which takes one off each side
    for i in range(len(people)):
        [found] = predict(people.image_path(i), annotated[[i]], checkpoint=network)
        np.testing.assert_allclose(found.joints[0], evaluated.joints[i], atol=1e-4)
        np.testing.assert_allclose(found.confidence[0], evaluated.confidence[i], atol=1e-5)


def test_the_fields_fit_together(smoke, photo, boxes):
    [found] = hdmlib.predict(photo, boxes, checkpoint=smoke.folder)
    n, k, (width, height) = len(boxes), 17, Frame(smoke.config.input_size).cells
    assert (found.path, found.skeleton) == (photo, COCO_17)
    assert found.photo.shape == (96, 128, 3)
    assert found.joints.shape == (n, k, 2)
    assert found.confidence.shape == (n, k)
    assert found.heatmaps.shape == (n, k, height, width)
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()
    # a joint lies within a cell of where its own map, in its place on the photo, is highest
    cells = transform(found.joints, found.to_cells)
    rows, columns = np.unravel_index(found.heatmaps.reshape(n, k, -1).argmax(axis=2), (height, width))
    assert np.abs(cells - np.stack([columns, rows], axis=2)).max() < 2


def test_many_people_come_out_as_each_alone(smoke, photo, boxes):
    network = open_network(smoke.folder)
    many = np.tile(boxes, (20, 1))  # more than go through the network at once
    [together] = predict(photo, many, checkpoint=network)
    alone = [predict(photo, boxes[[i]], checkpoint=network)[0] for i in range(len(boxes))]
    for i in range(len(many)):
        one = alone[i % len(boxes)]
        np.testing.assert_allclose(together.joints[i], one.joints[0], atol=1e-4)
        np.testing.assert_allclose(together.heatmaps[i], one.heatmaps[0], atol=1e-6)


def test_nobody_is_no_error(smoke, photo):
    for nobody in ([], np.zeros((0, 4))):
        [found] = predict(photo, nobody, checkpoint=smoke.folder)
        assert found.joints.shape == (0, 17, 2)
        assert found.heatmaps.shape == (0, 17, 16, 16)
        assert not found.heat().any()


def test_an_array_a_path_and_a_folder_are_the_same(smoke, photo, tmp_path):
    network = open_network(smoke.folder)
    other = next(path for path in smoke.data.val.images if path != photo)
    shutil.copy(photo, tmp_path / "b.jpg")
    shutil.copy(other, tmp_path / "a.JPG")
    (tmp_path / "notes.txt").write_text("no photo")
    [from_path], [from_array] = (predict(image, checkpoint=network) for image in (str(photo), read_image(photo)))
    in_folder = predict(tmp_path, checkpoint=network)
    assert [found.path.name for found in in_folder] == ["a.JPG", "b.jpg"]
    assert from_array.path is None
    for found in (from_array, in_folder[1]):
        np.testing.assert_array_equal(found.joints, from_path.joints)
        np.testing.assert_array_equal(found.photo, from_path.photo)
    assert not np.array_equal(in_folder[0].joints, from_path.joints)


def test_pictures_of_pil_grey_arrays_and_a_single_box(smoke, photo, boxes):
    network, box = open_network(smoke.folder), boxes[0].tolist()
    [expected] = predict(photo, [box], checkpoint=network)
    lying = Image.open(photo)
    [found] = predict(lying, box, checkpoint=network)
    np.testing.assert_array_equal(found.joints, expected.joints)
    grey = np.asarray(lying.convert("L"))
    [flat], [deep] = (predict(a, box, checkpoint=network) for a in (grey, np.repeat(grey[..., None], 3, axis=2)))
    np.testing.assert_array_equal(flat.joints, deep.joints)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "grey of 16 bits", "lying"])
def test_a_picture_of_pil_is_the_picture_of_its_file(smoke, photo, tmp_path, kind):
    picture, exif = Image.open(photo), Image.Exif()
    picture.putalpha(Image.fromarray(np.tile(np.arange(128, dtype=np.uint8), (96, 1))))
    if kind == "palette":
        picture = picture.quantize(16)
    elif kind == "grey of 16 bits":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif kind == "LA":
        picture = picture.convert("LA")
    elif kind == "lying":
        exif[0x0112] = 6
    picture.save(tmp_path / "1.png", exif=exif)
    network = open_network(smoke.folder)
    [of_file] = predict(tmp_path / "1.png", checkpoint=network)
    with Image.open(tmp_path / "1.png") as opened:
        [of_picture] = predict(opened, checkpoint=network)
    np.testing.assert_array_equal(of_picture.photo, of_file.photo)
    assert len(np.unique(of_picture.photo)) > 10


def test_weights_in_a_runs_folder_are_described_by_its_record(smoke, photo):
    [best], [last] = (predict(photo, checkpoint=smoke.folder / f"{name}.safetensors") for name in ("best", "model"))
    np.testing.assert_array_equal(last.joints, predict(photo, checkpoint=smoke.folder)[0].joints)
    assert best.joints.shape == last.joints.shape


def test_without_boxes_the_photo_is_the_person(smoke, photo):
    network = open_network(smoke.folder)
    [found], [boxed] = (predict(photo, box, checkpoint=network) for box in (None, [[0, 0, 128, 96]]))
    np.testing.assert_array_equal(found.boxes, [[0, 0, 128, 96]])
    np.testing.assert_array_equal(found.joints, boxed.joints)


def test_a_photo_that_lies_on_its_side_is_turned_upright(smoke, tmp_path):
    upright = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / "phone.png", exif=exif)
    [found] = predict(tmp_path / "phone.png", checkpoint=smoke.folder)
    np.testing.assert_array_equal(found.photo, upright)
    with Image.open(tmp_path / "phone.png") as opened:
        for image in (tmp_path / "phone.png", opened):
            [found] = predict(image, checkpoint=smoke.folder, upright=False)
            np.testing.assert_array_equal(found.photo, np.rot90(upright))


def test_heat_lies_where_the_cells_are_on_the_photo(smoke, photo, boxes):
    [found] = predict(photo, boxes, checkpoint=smoke.folder)
    heatmaps = np.zeros_like(found.heatmaps)
    heatmaps[:, 0, 7, 9] = 5.0  # one hot cell per person
    heat = dataclasses.replace(found, heatmaps=heatmaps).heat()
    assert heat.shape == found.photo.shape[:2]
    rows, columns = np.indices(heat.shape)
    elsewhere = np.ones(heat.shape, bool)
    for affine in found.to_cells:
        x, y = transform(np.array([[9, 7]]), invert(affine))[0]
        assert heat[round(y), round(x)] > 0.5
        cell = 1 / affine[0, 0]
        elsewhere &= np.hypot(columns - x, rows - y) > 1.5 * cell
    assert not heat[elsewhere].any()


# ------------------------------------------------------------------------------------------------------- weights alone


def test_weights_with_a_description_equal_the_run(smoke, photo, boxes, tmp_path):
    export_hrnet(smoke.model(), tmp_path / "weights.pth")
    described = {
        "model": "hrnet_nano", "input_size": (64, 64), "loss": "matching", "coordinates": "center", "skeleton": COCO_17
    }  # fmt: skip
    [alone] = predict(photo, boxes, checkpoint=tmp_path / "weights.pth", **described)
    [of_run] = predict(photo, boxes, checkpoint=smoke.folder)
    np.testing.assert_array_equal(alone.joints, of_run.joints)


def test_published_weights_are_read_as_published(photo, boxes, tmp_path):
    """Gaussian weights: HRNet's coordinates, peaks as confidence, an input that is not square."""
    torch.manual_seed(0)
    export_hrnet(build_model("hrnet_nano", num_joints=16), tmp_path / "mpii.pth")
    network = open_network(
        tmp_path / "mpii.pth", model="hrnet_nano", input_size=(96, 128), loss="gaussian_mse", skeleton=MPII_16
    )
    assert network.config.coordinates == "hrnet"
    [found] = predict(photo, boxes, checkpoint=network)
    assert found.heatmaps.shape == (len(boxes), 16, 32, 24)
    np.testing.assert_array_equal(found.confidence, np.maximum(found.heatmaps.max(axis=(2, 3)), 0))
    middle = transform(boxes[:, None, :2] + (boxes[:, None, 2:] - 1) / 2, found.to_cells)
    np.testing.assert_allclose(middle, np.broadcast_to([12, 16], middle.shape))


# ------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([1, 2, 3], r"\(N, 4\), one row .* got shape \(3,\)"),
        ([[1, 2, 3]], r"got shape \(1, 3\)"),
        ([["a", 2, 3, 4]], "must be numbers"),
        ([[1, 2, 3, 4], [1, 2, 0, 4]], r"number 1, \[1.0, 2.0, 0.0, 4.0\], has no area"),
        ([[128, 0, 9, 9]], "outside the photo of 128 x 96"),
        ([[-20, 0, 9, 9]], "outside the photo"),
        ([[float("nan"), 0, 9, 9]], "not finite"),
    ],
)
def test_boxes_that_are_none(smoke, photo, wrong, told):
    with pytest.raises(ValueError, match=f"boxes: .*{told}"):
        predict(photo, wrong, checkpoint=smoke.folder)


def test_images_that_are_none(smoke, photo, tmp_path):
    network = open_network(smoke.folder)
    text, torn = tmp_path / "text.jpg", tmp_path / "torn.jpg"
    text.write_text("<html>")
    torn.write_bytes(photo.read_bytes()[:2000])
    (tmp_path / "empty").mkdir()
    for image, told in [
        ("https://example.org/photo.jpg", "is a web address"),
        (Path("https://example.org/photo.jpg"), "is a web address"),
        (text, r"text\.jpg: photo unreadable"),
        (torn, r"torn\.jpg: photo unreadable or truncated"),
        (tmp_path, r"text\.jpg: photo unreadable"),  # one of a folder's
        (tmp_path / "empty", r"no photo in or below the folder .*empty; looked for \.jpg"),
        (np.zeros((9, 9, 4), np.uint8), r"\(H, W, 3\) uint8 RGB, got \(9, 9, 4\) uint8"),
        (np.zeros((9, 9, 3)), "got .* float64"),
        (torch.zeros(3, 9, 9), "got Tensor"),
        (Image.new("F", (9, 9)), "a picture of mode 'F' has no known range; convert it"),
    ]:
        with pytest.raises(ValueError, match=f"image: .*{told}"):
            predict(image, checkpoint=network)
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.jpg"):
        predict(tmp_path / "nothing.jpg", checkpoint=network)
    for number in range(4):
        (tmp_path / f"torn{number}.png").write_bytes(b"no photo")
    with pytest.raises(ValueError, match=r"torn0\.png: photo unreadable.*; and \d more; or predict without them"):
        predict(tmp_path, checkpoint=network)
    (tmp_path / "a.jpg").write_bytes(b"GIF89a")
    Image.new("1", (2**15, 1)).save(tmp_path / "b.png")
    for name, remedy in (("a.jpg", r"\(restore it, or convert it to JPEG or PNG\)"), ("b.png", r"\(make it smaller\)")):
        with pytest.raises(ValueError, match=rf"{name}: photo [a-z ]+ {remedy}; or predict without it"):
            predict(tmp_path / name, checkpoint=network)
    with pytest.raises(ValueError, match="for a folder call predict for each photo"):
        predict(photo.parent, [[0, 0, 9, 9]], checkpoint=network)


def test_checkpoints_that_are_none(smoke, tmp_path):
    weights = tmp_path / "elsewhere.safetensors"
    shutil.copy(smoke.folder / "model.safetensors", weights)
    described = {"model": "hrnet_nano", "input_size": (64, 64), "loss": "matching"}
    with pytest.raises(FileNotFoundError, match=r"no run's folder and no weights file .*nowhere"):
        open_network(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no record\.json in it; give the folder of a finished run"):
        open_network(tmp_path)
    with pytest.raises(ValueError, match=r"model, input_size, loss, skeleton: required, because .*holds weights"):
        open_network(weights)
    with pytest.raises(CheckpointError, match=r"predicts 17 joints, the model 16(.|\n)*16 joints, those of .*mpii-16"):
        open_network(weights, skeleton=MPII_16, **described)
    with pytest.raises(ValueError, match=r"skeleton: 'mpii-16' has other joints .* predicts 17: nose, left_eye"):
        open_network(smoke.folder, skeleton=MPII_16)
    with pytest.raises(ValueError, match=r"skeleton: 'mine' has other joints .* predicts 17: nose, left_eye"):
        open_network(smoke.folder, skeleton=skeleton_from_names([f"x{n}" for n in range(17)], name="mine"))
    with pytest.raises(ValueError, match=r"skeleton: a Skeleton is needed, such as .*COCO_17, got 'coco'"):
        open_network(smoke.folder, skeleton="coco")
    with pytest.raises(ValueError, match=r"model: given by the record in .*; leave it out"):
        open_network(smoke.folder, model="hrnet_w32")
    with pytest.raises(ValueError, match=r"input_size: is \(width, height\)"):
        open_network(weights, skeleton=COCO_17, **described | {"input_size": (64,)})
    with pytest.raises(ValueError, match=r"input_size: is \(width, height\) in pixels, got 96"):
        open_network(weights, skeleton=COCO_17, **described | {"input_size": 96})
    with pytest.raises(ValueError, match="loss_options: is a dictionary"):
        open_network(weights, skeleton=COCO_17, loss_options=[1], **described)
    with pytest.raises(ValueError, match=r"decoder: 'drak' is not known. Did you mean 'dark'"):
        open_network(smoke.folder, decoder="drak")
    with pytest.raises(ValueError, match=r"device: 'cdua' is not usable here"):
        open_network(smoke.folder, device="cdua")
    with pytest.raises(ValueError, match=r"checkpoint: .* the result of open_network is needed, got Conv2d"):
        predict(np.zeros((9, 9, 3), np.uint8), checkpoint=torch.nn.Conv2d(3, 17, 1))
    with pytest.raises(ValueError, match=r"flip_test: the network is open already"):
        predict(np.zeros((9, 9, 3), np.uint8), checkpoint=open_network(smoke.folder), flip_test=True)


# ---------------------------------------------------------------------------------------------- figure and command line


def test_the_figure_shows_every_person(smoke, photo, boxes):
    [found] = predict(photo, boxes, checkpoint=smoke.folder)
    figure = people_on_photo(found.photo, found.boxes, found.joints, found.skeleton, heat=found.heat())
    people, heat = figure.axes
    np.testing.assert_array_equal([patch.get_bbox().bounds for patch in people.patches], boxes)
    dots = [collection.get_offsets() for collection in people.collections if isinstance(collection, PathCollection)]
    np.testing.assert_allclose(dots, found.joints)
    assert len(heat.images) == 2
    sure = found.confidence > np.median(found.confidence)
    [alone] = people_on_photo(found.photo, found.boxes, found.joints, found.skeleton, shown=sure).axes
    dots = [collection.get_offsets() for collection in alone.collections if isinstance(collection, PathCollection)]
    np.testing.assert_allclose(np.concatenate(dots), found.joints[sure])


def test_the_command_line_prints_and_draws(smoke, photo, boxes, tmp_path):
    words = ["predict", str(photo), "--checkpoint", str(smoke.folder), "--box", *map(str, boxes[0])]
    answer = CliRunner().invoke(app, [*words, "--to", str(tmp_path / "out.png")])
    assert answer.exit_code == 0, answer.output
    [found] = predict(photo, boxes[:1], checkpoint=smoke.folder)
    heading, *lines, written = answer.output.splitlines()
    assert heading.split() == ["joint", "x", "y", "confidence"]
    assert written == f"written: {tmp_path / 'out.png'}, {tmp_path / 'out.pdf'}"
    assert len(lines) == 1 + 17
    name, x, y, confidence = lines[1].split()
    assert name == "nose"
    np.testing.assert_allclose([float(x), float(y)], found.joints[0, 0], atol=0.051)
    assert float(confidence) == pytest.approx(found.confidence[0, 0], abs=0.0051)
    assert cv2.imread(str(tmp_path / "out.png")).ndim == 3
    assert (tmp_path / "out.pdf").exists()


def test_the_command_line_says_what_is_wrong_in_one_line(smoke, photo, tmp_path):
    for words in (["nothing.jpg"], [str(photo.parent), "--to", str(tmp_path / "out.png")]):
        answer = CliRunner().invoke(app, ["predict", *words, "--checkpoint", str(smoke.folder)])
        assert answer.exit_code == 2
        assert answer.output.count("\n") == 1
        assert answer.output.startswith("error: ")
    assert not any(tmp_path.iterdir())


def test_normalise_in_inference_mode_leaves_later_gradients_alone():
    _statistics.cache_clear()
    with torch.inference_mode():
        normalise(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    pixels = torch.ones(1, 3, 4, 4, requires_grad=True)
    normalise(pixels).square().sum().backward()
    assert pixels.grad.abs().min() > 0
