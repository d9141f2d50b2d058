"""PCK against three published MPII rows, and its rules on hand-made people."""

import numpy as np
import pytest
from scipy.io import loadmat

from hdmlib.metrics.pck import NOT_COUNTED, PCKH_THRESHOLDS, PCKReport, localisation_error, pck, pck_report
from hdmlib.skeletons import COCO_17, LSP_14, MPII_16, skeleton_from_names

# PCKh@0.5 as published for predictions on MPII's validation people, and the file that holds them: bearpaw/pytorch-pose
# (README, 2 and 8 stacks), princeton-vl/pose-hg-demo (issue 1). Their mean gives all 14 joints the same weight.
COLUMNS = ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle")
PUBLISHED = {
    "preds_bearpaw_hg_s2_b1.mat": ((95.80, 94.57, 88.12, 83.31, 86.24, 80.88, 77.44), 86.76),
    "preds_bearpaw_hg_s8_b1.mat": ((96.79, 95.19, 90.08, 85.32, 87.48, 84.26, 80.73), 88.64),
    "preds_newell_valid-ours.h5": ((95.94, 94.68, 88.53, 83.38, 87.48, 83.09, 79.05), 87.56),
}


def read_predictions(path):
    if path.suffix == ".mat":
        return loadmat(path)["preds"]
    h5py = pytest.importorskip("h5py", reason="h5py reads the hourglass predictions")
    with h5py.File(path) as file:
        return file["preds"][:]


def unweighted_mean(report: PCKReport) -> float:
    """The hourglass papers' mean, in which each joint counts the same."""
    return float(report.values[[joint not in NOT_COUNTED for joint in report.joints]].mean())


def test_published_rows_to_the_printed_digit(samples):
    oracle = samples("mpii_val_pckh_oracle")
    content = loadmat(oracle / "detections_our_format.mat")
    truth, visible = content["pos_gt_src"].transpose(2, 0, 1), 1 - content["jnt_missing"].T
    corners = content["headboxes_src"]
    sizes = 0.6 * np.linalg.norm(corners[1] - corners[0], axis=0)
    for name, (row, mean) in PUBLISHED.items():
        predictions = read_predictions(oracle / name)
        report = pck_report(predictions, truth, sizes, visible, MPII_16)
        assert tuple(report.columns) == COLUMNS
        assert [round(value, 2) for value in report.columns.values()] == list(row), name
        assert round(unweighted_mean(report), 2) == mean, name
        # both means again, joint by joint, at every threshold
        distances = np.linalg.norm(predictions - truth, axis=2) / sizes[:, None]
        counted = visible * [joint not in NOT_COUNTED for joint in MPII_16.joints] > 0
        for threshold in PCKH_THRESHOLDS.values():
            report = pck_report(predictions, truth, sizes, visible, MPII_16, threshold)
            assert report.mean == pytest.approx(100 * (distances[counted] <= threshold).mean()), name
            shares = [(distances[:, j][counted[:, j]] <= threshold).mean() for j in range(16) if counted[:, j].any()]
            assert unweighted_mean(report) == pytest.approx(100 * np.mean(shares)), name


def people(n=3, k=2):
    truth = np.arange(n * k * 2, dtype=float).reshape(n, k, 2)
    return truth.copy(), truth, np.full(n, 10.0), np.ones((n, k), dtype=int)


def test_shares_by_hand():
    predictions, truth, sizes, visible = people()
    predictions[0, 0] += [3, 4]  # error 5 = 0.5 x 10: found, the border counts
    predictions[1, 0] += [3.1, 4]  # missed
    predictions[:, 1] += 100
    visible[0, 1] = 0
    shares, counts = pck(predictions, truth, sizes, visible)
    assert shares.tolist() == [2 / 3, 0]
    assert counts.tolist() == [3, 2]


def test_predictions_that_are_not_finite_are_misses():
    predictions, truth, sizes, visible = people()
    predictions[0, 0], predictions[1, 0] = np.nan, np.inf
    shares, _ = pck(predictions, truth, sizes, visible)
    assert shares.tolist() == [1 / 3, 1]
    assert localisation_error(predictions, truth, visible) == (0, 0, 4)


def test_unlabelled_joints_do_not_count_whatever_their_coordinates():
    predictions, truth, sizes, visible = people()
    visible[:, 1] = 0
    truth[:, 1] = np.nan
    report = pck_report(predictions, truth, sizes, visible, skeleton_from_names(["a", "b"]))
    assert report.values[0] == report.mean == 100
    assert np.isnan(report.values[1])
    assert np.isnan(report.columns["B"])


@pytest.mark.parametrize("bad", [0, -1, np.nan, np.inf])
def test_people_without_a_size_are_left_out_and_counted(bad):
    predictions, truth, sizes, visible = people()
    predictions[0] += 100
    sizes[0] = bad
    report = pck_report(predictions, truth, sizes, visible, skeleton_from_names(["a", "b"]))
    assert report.left_out == 1
    assert report.counts.tolist() == [2, 2]
    assert report.mean == 100


def test_two_means_and_the_joints_that_count():
    truth = np.zeros((4, 16, 2))
    predictions = truth.copy()
    visible = np.ones((4, 16))
    predictions[:, [6, 7]] = 99  # pelvis and thorax: missed, but not counted
    predictions[:, 0] = 99  # right ankle: missed, labelled for one person only
    visible[1:, 0] = 0
    report = pck_report(predictions, truth, np.ones(4), visible, MPII_16)
    assert unweighted_mean(report) == pytest.approx(100 * 13 / 14)
    assert report.mean == pytest.approx(100 * 52 / 53)
    assert report.columns["Ankle"] == 50


@pytest.mark.parametrize("skeleton", [COCO_17, MPII_16, LSP_14])
def test_every_skeleton_has_the_seven_columns(skeleton):
    k = len(skeleton)
    report = pck_report(np.zeros((1, k, 2)), np.zeros((1, k, 2)), [1], np.ones((1, k)), skeleton)
    assert tuple(report.columns) == COLUMNS
    assert set(report.columns.values()) == {100}


def test_nobody_at_all_gives_nan_without_warnings(recwarn):
    report = pck_report(np.zeros((0, 16, 2)), np.zeros((0, 16, 2)), [], np.zeros((0, 16)), MPII_16)
    assert np.isnan([report.mean, *report.columns.values(), *report.values]).all()
    assert np.isnan(localisation_error(np.zeros((0, 1, 2)), np.zeros((0, 1, 2)), np.zeros((0, 1)))[:2]).all()
    assert not recwarn


def test_localisation_error_by_hand():
    truth = np.zeros((1, 4, 2))
    predictions = np.array([[[3, 4], [0, 1], [0, 2], [50, 50]]])
    assert localisation_error(predictions, truth, [[1, 2, 1, 0]]) == (8 / 3, 2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": np.zeros((3, 2))}, "people, joints, 2"),
        ({"sizes": np.ones(2)}, "one length per person"),
        ({"visible": np.ones((3, 5))}, "visible must be"),
        ({"threshold": 0}, "threshold must be positive"),
        ({"truth": np.full((3, 2, 2), np.nan)}, "person 0, joint 0 is labelled but not finite"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = dict(zip(("predictions", "truth", "sizes", "visible"), people(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        pck(**arguments)


def test_a_skeleton_of_another_size_is_refused():
    with pytest.raises(ValueError, match="16 joints, the predictions have 2"):
        pck_report(*people(), MPII_16)


def test_a_thorax_counts_where_the_joints_are_not_mpiis():
    skeleton = skeleton_from_names(["head", "thorax", "abdomen"])  # of an insect
    truth = np.zeros((1, 3, 2))
    predictions = truth.copy()
    predictions[:, 1] = 99
    assert pck_report(predictions, truth, np.ones(1), np.ones((1, 3)), skeleton).mean == pytest.approx(200 / 3)
