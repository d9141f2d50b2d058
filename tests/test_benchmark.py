"""Official evaluation: truth as prediction, the same by both formats, detectors, confidence, published rows."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hdmlib import benchmark, published
from hdmlib.benchmark import (
    _detector,
    coco_results,
    evaluate,
    evaluate_coco,
    evaluate_mpii,
    evaluation_config,
    mpii_scores,
)
from hdmlib.cli import app
from hdmlib.config import ConfigError, make_config
from hdmlib.data.coco import read_coco
from hdmlib.data.coco_files import find_coco
from hdmlib.data.crops import Frame, Region, invert, transform
from hdmlib.data.dataset import DataError
from hdmlib.data.detections import read_detections
from hdmlib.data.intake import DataWarning
from hdmlib.data.mpii import read_mpii
from hdmlib.decoding import decode
from hdmlib.experiments.prediction import predict_people
from hdmlib.experiments.runs import run
from hdmlib.heatmaps import gaussian_map
from hdmlib.losses.suppliers import make_suppliers
from hdmlib.metrics.oks import oks_ap
from hdmlib.models.checkpoints import save_weights
from hdmlib.models.registry import build_model
from hdmlib.synthetic.dataset import embedded_dataset

PHOTOS = 40


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    """Forty pictures of embedded people in COCO's layout."""
    return embedded_dataset(tmp_path_factory.mktemp("coco"), format="coco", train=1, val=PHOTOS)


@pytest.fixture(scope="module")
def mpii(tmp_path_factory) -> Path:
    """Five pictures of embedded people in MPII's layout, with head sizes."""
    return embedded_dataset(tmp_path_factory.mktemp("mpii"), format="mpii", train=1, val=5)


@pytest.fixture
def boxes(coco, tmp_path) -> Path:
    """A detector's file: three shifted boxes round each person, with scores."""
    people, rng = read_coco(coco, "val"), np.random.default_rng(0)
    entries = [
        {
            "image_id": int(image), "category_id": 1, "score": float(rng.uniform(0.05, 1)),
            "bbox": (box + rng.normal(0, 2, 4)).tolist(),
        }
        for image, box in zip(people.image_ids, people.boxes, strict=True)
        for _ in range(3)
    ]  # fmt: skip
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(entries))
    return path


class Oracle(torch.nn.Module):
    """A network that puts out HRNet's target maps of the joints it is given, and their mirror image in turn."""

    def __init__(self, cells: torch.Tensor, weights: torch.Tensor, size: tuple[int, int], order: tuple[int, ...]):
        super().__init__()
        self.maps = gaussian_map(cells, size, 2.0, rounded=True) * weights[..., None, None]
        self.order, self.position, self.mirrored = list(order), 0, False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        now = slice(self.position, self.position + len(images))
        maps = self.maps[now]
        if self.mirrored:  # the mirrored crop: by HRNet's rule a mirrored map is 3/4 of a cell off, here a whole one
            maps = torch.cat([maps[..., 1:], maps[..., -1:]], dim=-1)[:, self.order].flip(-1)
            self.position += len(images)
        self.mirrored = not self.mirrored
        return maps


def affines_of(people, frame: Frame) -> np.ndarray:
    """From each person's photo to cells."""
    regions = (Region(centre, size) for centre, size in zip(people.centres, people.sizes, strict=True))
    return np.stack([frame.to_cells(frame.to_input(region)) for region in regions])


def truth_of(config, people) -> Oracle:
    frame = Frame(config.input_size, config.coordinates)
    cells = torch.tensor(transform(people.joints, affines_of(people, frame)), dtype=torch.float32)
    weights = torch.tensor(people.visibility > 0, dtype=torch.float32)
    return Oracle(cells, weights, frame.cells[::-1], people.skeleton.flip_order)


def full(preset: str, **values):
    return make_config(preset, loss="gaussian_mse", device="cpu", workers=0, batch_size=5, **values)


def checkpoint(path: Path, joints: int) -> Path:
    torch.manual_seed(0)
    save_weights(build_model("hrnet_nano", joints), path)
    return path


# ------------------------------------------------------------------------------------------------ truth as prediction


def test_truth_as_results(coco):
    people = read_coco(coco, "val")
    results = coco_results(people, np.ones(len(people)), people.joints, np.ones(people.visibility.shape), (192, 256))
    assert len(results) == len(people) > PHOTOS  # several people on a photo, none suppressed
    assert oks_ap(find_coco(coco, "val").annotations, results, people.skeleton.sigmas)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("preset", ["coco_w32_256x192", "coco_w48_384x288"])
def test_true_maps_through_hrnets_rules_on_coco(coco, preset, tmp_path):
    """Crop, rounded centres, flip test with its shift, quarter decoding, back to the photo, scores, AP."""
    config = full(preset, data_root=coco, val_split="val")
    people = read_coco(coco, "val")
    report = evaluate_coco(config, truth_of(config, people), to=tmp_path / "results.json")
    assert report.ours.values["AP75"] == pytest.approx(100)
    assert report.ours.values["AP"] > 97  # rounded targets and people of 60 pixels
    assert report.people == len(people)
    assert report.rows == ()
    assert "is not all of COCO val2017" in report.remark
    written = json.loads((tmp_path / "results.json").read_text())
    assert {frozenset(entry) for entry in written} == {frozenset(("image_id", "category_id", "keypoints", "score"))}
    assert (
        100 * oks_ap(find_coco(coco, "val").annotations, written, people.skeleton.sigmas)["AP"]
        == report.ours.values["AP"]
    )


def test_results_are_written_with_the_ids_of_the_annotation_file(coco, tmp_path):
    content = json.loads(find_coco(coco, "val").annotations.read_text())
    kept = {image["id"]: f"val-{image['id']}" for image in content["images"][:3]}
    content["images"] = [image | {"id": kept[image["id"]]} for image in content["images"][:3]]
    content["annotations"] = [
        a | {"image_id": kept[a["image_id"]], "category_id": "7"}
        for a in content["annotations"] if a["image_id"] in kept
    ]  # fmt: skip
    content["categories"][0]["id"] = "7"
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(find_coco(coco, "val").photos, target_is_directory=True)
    config = full("coco_w32_256x192", data_root=tmp_path, val_split="val")
    people = read_coco(tmp_path, "val")
    report = evaluate_coco(config, truth_of(config, people), to=tmp_path / "results.json")
    written = json.loads((tmp_path / "results.json").read_text())
    assert {entry["image_id"] for entry in written} <= set(kept.values())
    scores = oks_ap(tmp_path / "val.json", written, people.skeleton.sigmas)
    assert 100 * scores["AP"] == report.ours.values["AP"] > 90


def test_joints_come_back_within_half_a_cell(coco):
    """HRNet's targets stand on the nearest cell, which loses up to half a cell; a flip without its shift loses more."""
    config = full("coco_w32_256x192", data_root=coco, val_split="val")
    people = read_coco(coco, "val")
    frame = Frame(config.input_size, "hrnet")
    prediction = predict_people(config, truth_of(config, people), people)
    cell = 4 * frame.extended(people.sizes)[:, 0] / config.input_width
    error = np.abs(prediction.joints - people.joints).max(axis=2) / cell[:, None]
    inside = (people.visibility > 0) & (prediction.confidence > 0.5)
    assert inside.sum() > 100
    assert 0.4 < error[inside].max() <= 0.5 + 1e-6


def test_true_maps_through_hrnets_rules_on_mpii(mpii):
    config = full("mpii_w32_256x256", data_root=mpii)
    people = read_mpii(mpii, "valid")
    report = evaluate_mpii(config, truth_of(config, people))
    assert report.ours.values["PCKh@0.5"] == 100
    assert report.ours.values["Ankle"] == 100
    assert "is not all of MPII val" in report.remark


def test_mpii_means_are_weighted_and_named_for_their_thresholds(mpii):
    people = read_mpii(mpii, "valid")
    length = people.head_sizes[:, None, None]
    off = np.zeros_like(people.joints)
    off[:, 0, :1] = 0.105 * length[:, 0]  # right ankles
    ankles = (people.visibility[:, 0] > 0).sum()
    scores = mpii_scores(people, people.joints + off)
    counted = (people.visibility[:, [j for j in range(16) if j not in (6, 7)]] > 0).sum()
    assert scores["PCKh@0.5"] == scores["PCKh@0.11"] == 100
    assert scores["PCKh@0.1"] == pytest.approx(100 * (1 - ankles / counted))
    assert (scores["Ankle"], scores["Ankle@0.1"], scores["Ankle@0.11"]) == (100, 50, 100)


def test_mpii_without_head_sizes_is_refused(mpii, tmp_path):
    shutil.copytree(mpii, tmp_path / "mpii", ignore=shutil.ignore_patterns("*.mat"))
    with pytest.raises(DataError, match=r"nobody has a head size.*gt_valid\.mat"):
        evaluate_mpii(full("mpii_w32_256x256", data_root=tmp_path / "mpii"))


# ------------------------------------------------------------------------------------------------------------ detectors


def test_results_from_detections(coco, boxes):
    """The box score counts, and of the many boxes round one person the suppression leaves one."""
    found = read_detections(coco, "val", boxes)
    truth = read_coco(coco, "val")
    # every box is given the joints of a person of its photo
    owner = [int(np.flatnonzero(truth.image_ids == image)[0]) for image in found.people.image_ids]
    ones = np.ones((len(owner), 17))
    results = coco_results(found.people, found.scores, truth.joints[owner], 0.5 * ones, (192, 256))
    assert len(results) == PHOTOS
    best = {image: found.scores[found.people.image_ids == image].max() for image in set(found.people.image_ids)}
    assert {r["image_id"]: r["score"] for r in results} == pytest.approx({k: 0.5 * v for k, v in best.items()})


def test_truth_that_cannot_be_read_is_counted_where_people_are_a_detectors(coco, boxes, tmp_path):
    shutil.copytree(coco, tmp_path / "coco")
    file = find_coco(tmp_path / "coco", "val").annotations
    content = json.loads(file.read_text())
    for annotation in content["annotations"][:5]:
        annotation["keypoints"] = 7
    file.write_text(json.dumps(content))
    config = full("coco_w32_256x192", data_root=tmp_path / "coco", val_split="val", boxes=boxes, model="hrnet_nano")
    with pytest.warns(DataWarning, match=r"ground truth .*left out 5 of 49 annotations"):
        evaluate_coco(config, build_model("hrnet_nano", num_joints=17))


def test_the_detector_is_named_by_its_own_precision(coco, boxes, tmp_path):
    boxes.write_text(json.dumps(json.loads(boxes.read_text())[:20]))
    config = full("coco_w32_256x192", data_root=coco, val_split="val", boxes=boxes, model="hrnet_nano")
    weights = checkpoint(tmp_path / "nano.safetensors", 17)
    report = evaluate(config.model_copy(update={"checkpoint": weights, "flip_test": False, "batch_size": 64}))
    assert report.ours.boxes.startswith("detector, AP ")
    assert report.people == 20
    assert report.ours.values["AP"] < 5


@pytest.mark.parametrize("own", [lambda n: n, lambda n: 7, lambda n: f"a{n}", lambda n: None])
def test_a_detector_that_finds_every_box_is_perfect_whatever_the_annotations_ids(coco, own):
    people = read_coco(coco, "val")
    truth = json.loads(find_coco(coco, "val").annotations.read_text())
    truth["annotations"] = [{**a, "id": own(n)} for n, a in enumerate(truth["annotations"])]
    assert _detector(truth, people, np.ones(len(people)), 1) == "detector, AP 100.0"


# ----------------------------------------------------------------------------------------------------------- confidence


def test_mass_ranks_people_where_the_raw_peak_cannot(coco):
    """Maps that know their own error, each person's on an arbitrary scale, which the matching loss does not see."""
    people, rng = read_coco(coco, "val"), np.random.default_rng(0)
    frame = Frame((192, 256))
    width, height = frame.cells
    affines = affines_of(people, frame)
    labelled = people.visibility > 0
    cells = np.where(labelled[..., None], transform(people.joints, affines), (width / 2, height / 2))
    n, k = labelled.shape
    spread = np.exp(rng.normal(np.log(0.8), 0.6, (n, 1)) + rng.normal(0, 0.4, (n, k)))  # in cells
    share = np.where(rng.random((n, k)) < 0.2 * np.minimum(1, spread), rng.uniform(0.5, 1, (n, k)), 1.0)
    near = cells + spread[..., None] * rng.standard_normal(cells.shape)
    far = rng.uniform(0, (width, height), cells.shape)
    wrong = (rng.random((n, k)) > share)[..., None]

    def bump(centre):
        x, y = (np.exp(-((np.arange(m) - centre[..., i, None]) ** 2) / (2 * spread[..., None] ** 2))
                for i, m in enumerate((width, height)))  # fmt: skip
        return y[..., :, None] * x[..., None, :]

    maps = share[..., None, None] * bump(np.where(wrong, far, near))
    maps += (1 - share)[..., None, None] * bump(np.where(wrong, near, far))
    raw = torch.tensor(maps * np.exp(rng.standard_normal((n, 1, 1, 1))), dtype=torch.float32)
    normalised = make_suppliers(raw, "relu")
    joints, mass = decode(normalised, method="barycentre", confidence="mass")
    joints = transform(joints.double().numpy(), invert(affines))
    truth = json.loads(find_coco(coco, "val").annotations.read_text())
    precision = {
        name: oks_ap(truth, coco_results(people, np.ones(n), joints, values, (192, 256)), people.skeleton.sigmas)["AP"]
        for name, values in (("mass", mass.numpy()), ("raw", raw.amax(dim=(2, 3)).numpy()))
    }
    assert precision["mass"] > precision["raw"] + 0.05
    assert (mass > 0.2).float().mean() > 0.95
    assert (normalised.amax(dim=(2, 3)) > 0.2).float().mean() < 0.6


# ------------------------------------------------------------------------------------------------------- published rows


def test_published_rows_of_the_same_setting_only(coco):
    people = read_coco(coco, "val")

    def methods(config, boxes=published.BOXES_56, whole=True):
        report = benchmark._report(config, people, published.COCO, boxes, {"AP": 70.0}, whole)
        assert bool(report.rows) == (not report.remark)
        return [(row.method, row.values["AP"]) for row in report.rows]

    assert methods(full("coco_w32_256x192")) == [("HRNet", 74.4), ("mmpose", 74.9)]
    assert methods(full("coco_w48_384x288")) == [("HRNet", 76.3), ("mmpose", 76.7)]
    assert methods(full("coco_w48_384x288", decoder="dark")) == [("HRNet + DARK", 76.8)]
    matching = make_config("coco_w48_384x288", loss="matching")
    assert methods(matching, published.BOXES_65) == [("Distribution matching", 78.8)]
    assert methods(matching) == []
    assert methods(full("coco_w32_256x192"), published.BOXES_TRUTH) == [("HRNet", 76.5)]
    assert methods(full("coco_w32_256x192", flip_test=False)) == []
    assert methods(full("coco_w32_256x192"), whole=False) == []
    assert methods(make_config("coco_w32_256x192", loss="cross_entropy")) == []


# --------------------------------------------------------------------------------------------------------- runs of ours


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run that differs from every preset in model input, loss and decoder."""
    config = make_config(
        "smoke", loss="cross_entropy", decoder="mean", coordinates="udp", input_width=96, train_people=4, val_people=4,
        epochs=1, device="cpu", run_dir=tmp_path_factory.mktemp("runs"),
    )  # fmt: skip
    return run(config, weights=True)


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_a_run_is_evaluated_as_its_record_describes_it(coco, trained, name):
    words = ["preset=coco_w32_256x192", f"data_root={coco}", f"checkpoint={trained.folder / name}", "val_split=val",
             "workers=0", "device=cpu"]  # fmt: skip
    result = CliRunner().invoke(app, ["evaluate", *words])
    assert result.exit_code == 0, result.output
    described = trained.config.model_copy(update={"dataset": "coco", "data_root": coco})
    scores = str(evaluate_coco(described, trained.model())).splitlines()
    assert result.output.splitlines() == scores
    assert scores[0].startswith("hrnet_nano, input 96 x 64 (width x height); maps of cross_entropy, mean decoding, wi")


def test_how_a_runs_maps_are_read_may_be_chosen_but_not_what_it_was_trained_with(coco, trained):
    given = {"dataset": "coco", "data_root": coco, "checkpoint": trained.folder, "device": "cpu", "workers": 0}
    chosen = evaluate(evaluation_config(**given, decoder="argmax", flip_test=True, input_width=96))
    assert chosen.ours.note == "maps of cross_entropy, argmax decoding, with flip test"
    for name, value in {"model": "hrnet_w32", "loss": "matching", "input_height": 96, "coordinates": "center"}.items():
        with pytest.raises(ConfigError, match=f"^{name}: the run in .* was trained with {name}=.*; leave it out"):
            evaluate(evaluation_config(**given, **{name: value}))
    weights = given | {"checkpoint": trained.folder / "best.safetensors"}
    with pytest.raises(ConfigError, match=r"^input_height, loss, coordinates: the run in"):
        evaluate(make_config(**weights, input_width=96))


def test_a_run_with_other_joints_than_the_data_is_refused(mpii, trained):
    config = evaluation_config(dataset="mpii", data_root=mpii, val_split="valid", checkpoint=trained.folder)
    with pytest.raises(DataError, match=r"^data_root: .* has other joints than the run in .* predicts 17: nose,"):
        evaluate(config)


def test_weights_in_a_runs_folder_that_are_described_are_not_taken_for_the_runs(trained):
    other = checkpoint(trained.folder / "other.safetensors", 16)
    assert evaluation_config(checkpoint=other).input_width == 96
    assert evaluation_config("mpii_w32_256x256", checkpoint=other, loss="gaussian_mse").input_width == 256


# --------------------------------------------------------------------------------------------------------- command line


def test_the_command_line_prints_the_scores_and_says_that_there_is_no_row(mpii, tmp_path):
    weights = checkpoint(tmp_path / "nano.safetensors", 16)
    words = ["preset=mpii_w32_256x256", "loss=gaussian_mse", "model=hrnet_nano", f"checkpoint={weights}",
             f"data_root={mpii}", "workers=0", "device=cpu"]  # fmt: skip
    result = CliRunner().invoke(app, ["evaluate", *words])
    assert result.exit_code == 0, result.output
    for told in ("PCKh@0.5", "PCKh@0.1 ", "PCKh@0.11", "Ankle@0.11", "7 people", "no published row"):
        assert told in result.output


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"checkpoint": None}, "checkpoint: required by an evaluation"),
        ({"data_root": None}, "data_root: required by an evaluation"),
        ({"checkpoint": Path("nowhere.pth")}, r"checkpoint: no file .*nowhere\.pth"),
        ({"checkpoint": Path(__file__).parent}, r"tests: no record\.json in it; give the folder of a finished run"),
        ({"val_people": 3}, "val_people, val_offset: the official evaluation is on the whole split"),
        ({"val_offset": 3}, "val_people, val_offset: the official evaluation is on the whole split"),
        ({"dataset": "synthetic"}, "dataset: set it to coco or mpii"),
        ({"dataset": "mpii", "boxes": "boxes.json"}, "boxes, to: MPII"),
        ({"val_split": "test"}, r"person_keypoints_test2017\.json"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_read(coco, values, told, tmp_path):
    config = full("coco_w32_256x192", data_root=coco, val_split="val", checkpoint=tmp_path / "there.pth")
    (tmp_path / "there.pth").touch()
    with pytest.raises((ConfigError, DataError, FileNotFoundError), match=told):
        evaluate(config.model_copy(update=values))


def test_results_are_not_promised_to_a_folder_that_is_not_there(coco, tmp_path):
    (tmp_path / "there.pth").touch()
    config = full("coco_w32_256x192", data_root=coco, val_split="val", checkpoint=tmp_path / "there.pth")
    with pytest.raises(ConfigError, match="to: cannot write in"):
        evaluate(config, to=tmp_path / "none" / "results.json")


def test_a_report_is_a_table_with_ours_first(mpii):
    config = full("mpii_w32_256x256", data_root=mpii)
    report = evaluate_mpii(config, truth_of(config, read_mpii(mpii, "valid")))
    hrnet = published.select(dataset=published.MPII, model="HRNet-W32")[0]
    frame = dataclasses.replace(report, rows=(hrnet,)).table()
    assert frame["method"].tolist() == ["this network", "HRNet"]
    assert frame["PCKh@0.5"].tolist() == [100, 90.3]


def test_results_replace_neither_the_boxes_nor_earlier_results(coco, tmp_path):
    boxes, weights = tmp_path / "boxes.json", checkpoint(tmp_path / "nano.safetensors", 17)
    boxes.write_text("[]")
    words = ["preset=coco_w32_256x192", f"data_root={coco}", f"checkpoint={weights}", f"boxes={boxes}"]
    for more, told in ([], "is read by this command"), (["--overwrite"], "is read by this command"):
        result = CliRunner().invoke(app, ["evaluate", *words, "--to", str(boxes), *more])
        assert result.exit_code == 2
        assert told in result.output
    earlier = tmp_path / "results.json"
    earlier.write_text("[]")
    result = CliRunner().invoke(app, ["evaluate", *words, "--to", str(earlier)])
    assert "--overwrite" in result.output
    assert boxes.read_text() == earlier.read_text() == "[]"
