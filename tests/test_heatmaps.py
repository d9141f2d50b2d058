"""Targets: where the mass of an annotation goes, also on corners, on the border and outside."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hdmlib.heatmaps import demanders, dot_map, gaussian_map, inside

SIZE = (9, 7)  # height, width


def joint(x, y, dtype=torch.float64):
    return torch.tensor([[x, y]], dtype=dtype)


on_map = st.tuples(st.floats(0, SIZE[1] - 1), st.floats(0, SIZE[0] - 1))


@given(on_map)
def test_the_mean_of_the_subpixel_demanders_is_the_joint(xy):
    points, weights = demanders(joint(*xy), SIZE)
    assert points.shape == (1, 4, 2)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, dtype=weights.dtype))
    torch.testing.assert_close((weights[..., None] * points).sum(-2), joint(*xy))


@given(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), st.sampled_from(["subpixel", "naive"]))
def test_demanders_are_cells_of_the_map_wherever_the_joint_is(xy, kind):
    points, weights = demanders(joint(*xy), SIZE, kind)
    assert (points == points.round()).all()
    assert (points >= 0).all()
    assert (points < torch.tensor([SIZE[1], SIZE[0]])).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, dtype=weights.dtype))


@pytest.mark.parametrize(
    ("xy", "expected"),
    [
        ((3.0, 4.0), {(3, 4): 1.0}),  # on a cell's centre
        ((6.0, 8.0), {(6, 8): 1.0}),  # the last one
        ((2.5, 4.5), {(2, 4): 0.25, (3, 4): 0.25, (2, 5): 0.25, (3, 5): 0.25}),  # on a corner of cells
        ((2.25, 0.0), {(2, 0): 0.75, (3, 0): 0.25}),
        ((-0.4, 3.5), {(0, 3): 0.5, (0, 4): 0.5}),  # in the outer half of a border cell: moved to its centre
        ((6.4, 8.4), {(6, 8): 1.0}),
        ((-20.0, 30.0), {(0, 8): 1.0}),  # outside: the nearest cell, to which the losses give no weight
        ((float("nan"), float("inf")), {(0, 0): 1.0}),
    ],
)
def test_subpixel_demanders(xy, expected):
    points, weights = demanders(joint(*xy), SIZE)
    found = {tuple(p.int().tolist()): w.item() for p, w in zip(points[0], weights[0], strict=True) if w > 0}
    assert found == pytest.approx(expected)


def test_naive_demander_is_the_nearest_cell():
    points, weights = demanders(torch.tensor([[2.4, 3.6], [2.6, 3.4]]), SIZE, "naive")
    assert points.tolist() == [[[2, 4]], [[3, 3]]]
    assert weights.tolist() == [[1], [1]]


def test_a_map_of_one_cell():
    points, weights = demanders(joint(0.2, -0.3), (1, 1))
    assert (points == 0).all()
    assert weights.sum() == 1


def test_unknown_demanders_are_refused_by_name():
    with pytest.raises(ValueError, match=r"'bilinear'.*subpixel, naive"):
        demanders(joint(1, 1), SIZE, "bilinear")


def test_inside_reaches_to_the_outer_edge_of_the_border_cells():
    joints = torch.tensor([[-0.5, 0], [-0.51, 0], [6.5, 8.5], [6.6, 8], [3, 8.6], [3, -0.6], [float("nan"), 1]])
    assert inside(joints, SIZE).tolist() == [True, False, True, False, False, False, False]


def test_gaussian_map_has_its_peak_and_width_where_they_belong():
    heatmap = gaussian_map(joint(2.25, 5.5), SIZE, sigma=1.5)[0]
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")
    expected = torch.exp(-((x - 2.25) ** 2 + (y - 5.5) ** 2) / (2 * 1.5**2)).double()
    torch.testing.assert_close(heatmap, expected, rtol=1e-6, atol=1e-6)


def test_rounded_gaussian_is_hrnets():
    # int(x + 0.5) is the centre, with the value 1, and 3 sigma away the target ends
    heatmap = gaussian_map(joint(10.5, 9.49), (24, 24), sigma=2.0, rounded=True)[0]
    assert heatmap[9, 11] == heatmap.max() == 1
    assert heatmap[9, 11 + 6] > 0
    assert heatmap[9, 11 + 7] == 0
    assert heatmap[9 + 7, 11] == 0
    assert (heatmap > 0).sum() == 13 * 13


@given(on_map)
def test_dot_map_is_one_cell(xy):
    heatmap = dot_map(joint(*xy), SIZE)[0]
    (cell,) = heatmap.nonzero().tolist()
    assert heatmap.sum() == 1
    assert abs(cell[1] - xy[0]) <= 0.5
    assert abs(cell[0] - xy[1]) <= 0.5


def test_dot_map_of_a_joint_outside_is_empty():
    assert dot_map(torch.tensor([[7.0, 3.0], [3.0, float("nan")]]), SIZE).sum() == 0


def test_batch_shapes_and_dtypes_pass_through():
    joints = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0)) * 5
    assert gaussian_map(joints, SIZE, 1.0).shape == (2, 3, *SIZE)
    assert dot_map(joints, SIZE).dtype == torch.float32
    assert demanders(joints.double(), SIZE)[1].dtype == torch.float64
    assert inside(joints, SIZE).shape == (2, 3)


def test_a_joint_between_two_cells_is_on_the_same_one_for_every_target():
    joints, size = torch.tensor([[[2.5, 4.5]]]), (12, 10)
    cell = (5, 3)  # halves go up
    assert dot_map(joints, size)[0, 0][cell] == 1
    assert gaussian_map(joints, size, 1.0, rounded=True)[0, 0][cell] == 1
    assert demanders(joints, size, "naive")[0].flatten().tolist() == [3, 5]


def test_a_joint_beyond_the_border_is_rounded_as_by_hrnet():
    """``int(x / 4 + 0.5)`` truncates: from -1.5 to -0.5 it is the cell 0."""
    target = gaussian_map(torch.tensor([[[-1.2, 4.0]]]), (12, 10), 2.0, rounded=True)[0, 0]
    assert target[4, 0] == 1
