"""Every decoder on hand-made maps, on Gaussians of known centre, under flips, and where there is nothing to decode."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from hdmlib.decoding import METHODS, decode, joints_from_heatmaps
from hdmlib.heatmaps import gaussian_map
from hdmlib.losses.matching import MatchingLoss

SIZE = (20, 24)  # height, width


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussians(centres, sigma, size=SIZE):
    """(B, K, H, W) unnormalised Gaussians of peak 1 round centres (B, K, 2)."""
    y, x = torch.arange(size[0])[:, None], torch.arange(size[1])
    squared = (x - centres[..., 0, None, None]) ** 2 + (y - centres[..., 1, None, None]) ** 2
    return torch.exp(-squared / (2 * sigma**2))


def inner_centres(batch=16, joints=4):
    return 7 + torch.rand(batch, joints, 2, generator=generator()) * torch.tensor([10.0, 6.0])


def one_map(values):
    return torch.tensor(values, dtype=torch.float32)[None, None]


# Largest error in cells on Gaussians of sigma 1 and 2 well inside the map.
ACCURACY = {
    ("argmax", 1): 0.71, ("argmax", 2): 0.71, ("quarter", 1): 0.36, ("quarter", 2): 0.36, ("barycentre", 1): 0.07,
    ("dark", 1): 0.02, ("dark", 2): 0.02, ("transport", 1): 0.27, ("transport", 2): 0.14,
}  # fmt: skip


@pytest.mark.parametrize(("method", "sigma"), ACCURACY)
def test_gaussians_are_found(method, sigma):
    centres = inner_centres()
    joints, confidence = decode(gaussians(centres, sigma), method, **({"sigma": sigma} if method == "dark" else {}))
    assert (joints - centres).norm(dim=2).max() < ACCURACY[method, sigma]
    assert ((confidence > 0.75) & (confidence <= 1)).all()


def test_dark_at_the_published_sigma_of_large_inputs():
    centres = inner_centres() + 14
    joints, _ = decode(gaussians(centres, 3.0, (48, 52)), "dark", sigma=3.0)
    assert (joints - centres).norm(dim=2).max() < 0.02


def test_dark_against_opencv_kernel_and_the_formula_by_hand():
    """Against the smoothing of the published code (OpenCV, 11 cells) and its Taylor step written out for one map."""
    import cv2

    heatmap = gaussians(torch.tensor([[[9.3, 8.8]]]), 2.0)[0, 0] + 0.2 * torch.rand(SIZE, generator=generator())
    py, px = np.unravel_index(int(heatmap.argmax()), SIZE)
    log = np.log(cv2.GaussianBlur(np.pad(heatmap.double().numpy(), 5), (11, 11), 0)[5:-5, 5:-5])
    g = np.array([log[py, px + 1] - log[py, px - 1], log[py + 1, px] - log[py - 1, px]]) / 2
    hxx = (log[py, px + 2] - 2 * log[py, px] + log[py, px - 2]) / 4
    hyy = (log[py + 2, px] - 2 * log[py, px] + log[py - 2, px]) / 4
    hxy = (log[py + 1, px + 1] - log[py + 1, px - 1] - log[py - 1, px + 1] + log[py - 1, px - 1]) / 4
    expected = np.array([px, py]) - np.linalg.solve([[hxx, hxy], [hxy, hyy]], g)
    assert np.abs(expected - [px, py]).max() > 0.05
    assert decode(heatmap[None, None].double(), "dark")[0][0, 0].numpy() == pytest.approx(expected, abs=1e-6)


def test_dark_takes_no_step_without_a_maximum_ahead():
    """A lone spike in the valley between two hills: smoothed, the map curves upward there."""
    heatmap = gaussians(torch.tensor([[[6.0, 10.0]]]), 1.0) + 0.9 * gaussians(torch.tensor([[[14.0, 10.0]]]), 1.0)
    heatmap[0, 0, 10, 10] = 1.01
    assert decode(heatmap, "dark")[0].tolist() == [[[10, 10]]]


def test_quarter_by_hand():
    heatmap = torch.zeros(1, 1, 6, 8)
    heatmap[0, 0, 3, 4] = 1
    heatmap[0, 0, 3, 5] = 0.5
    heatmap[0, 0, 2, 4] = 0.1
    assert decode(heatmap)[0].tolist() == [[[4.25, 2.75]]]
    assert decode(heatmap)[1].tolist() == [[1]]


@pytest.mark.parametrize(
    ("px", "py", "moves"),
    [(2, 2, True), (1, 3, False), (3, 1, False), (6, 4, True), (7, 3, False), (3, 5, False), (0, 0, False)],
)
def test_quarter_moves_exactly_where_hrnet_does(px, py, moves):
    """1 < x < W - 1 and 1 < y < H - 1 on a map of 6 rows and 8 columns that rises toward the upper left."""
    heatmap = 0.5 - 0.01 * (torch.arange(6.0)[:, None] + torch.arange(8.0))
    heatmap[py, px] = 1
    expected = [px - 0.25, py - 0.25] if moves else [px, py]
    assert decode(heatmap[None, None])[0].tolist() == [[expected]]


def test_barycentre_by_hand():
    heatmap = one_map([[0, 0, 0, 0, 9], [0, 0, 2, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, -5, 0]])
    heatmap[0, 0, 0, 4] = 0
    joints, _ = decode(heatmap, "barycentre", radius=1)
    assert joints[0, 0].tolist() == pytest.approx([(2 * 2 + 3 + 2) / 4, (2 + 1 + 2) / 4])
    heatmap[0, 0, 3, 0] = 1.5  # outside the window
    assert torch.equal(decode(heatmap, "barycentre", radius=1)[0], joints)


def test_barycentre_recovers_four_bilinear_cells_and_the_median_does_not():
    """The minimiser of the matching loss: its mean is the annotation, its median the heaviest cell."""
    x, y = 5.3, 4.2
    heatmap = torch.zeros(1, 1, 10, 12)
    heatmap[0, 0, 4:6, 5:7] = torch.tensor([[0.7 * 0.8, 0.3 * 0.8], [0.7 * 0.2, 0.3 * 0.2]])
    assert decode(heatmap, "barycentre")[0][0, 0].tolist() == pytest.approx([x, y])
    assert decode(heatmap, "transport")[0][0, 0].tolist() == [5, 4]


def random_maps(kind):
    shape, random = (3, 3, *SIZE), generator(1)
    noise = torch.rand(shape, generator=random, dtype=torch.float64)
    centres = inner_centres(6, 3).double()
    return {
        "noise": noise,
        "sparse": noise * (torch.rand(shape, generator=random) > 0.98),
        "spiky": noise**40,
        "two peaks": gaussians(centres[:3], 1.0) + 0.9 * gaussians(centres[3:] - 6, 1.0),
        "sharp": gaussians(centres[:3], 0.3),
        "twelve orders": 10 ** (-12 * noise),
    }[kind]


@pytest.mark.parametrize("kind", ["noise", "sparse", "spiky", "two peaks", "sharp", "twelve orders"])
def test_transport_is_the_geometric_median(kind):
    maps = random_maps(kind)
    assert (maps.sum((2, 3)) > 0).all()
    joints = decode(maps, "transport")[0]
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    for heatmap, joint in zip(maps.flatten(0, 1).numpy(), joints.flatten(0, 1).numpy(), strict=True):
        mass = heatmap / heatmap.sum()

        def cost(point, mass=mass):
            return (mass * np.hypot(columns - point[0], rows - point[1])).sum()

        options = {"xatol": 1e-7, "fatol": 1e-14, "maxiter": 1000}
        starts = (joint + 0.3, np.array([12.0, 10.0]))
        found = min(
            (minimize(cost, start, method="Nelder-Mead", options=options) for start in starts), key=lambda r: r.fun
        )
        assert np.abs(joint - found.x).max() < 1e-4
        assert cost(joint) <= found.fun + 1e-9


@pytest.mark.parametrize("cells", [3, 4, 6, 10])
def test_transport_of_a_few_cells(cells):
    """The hard maps: few cells of very different mass, where Newton's full step overshoots. At the median the pulls
    of the cells are in balance, or the cell it lies on outweighs them."""
    random = generator(cells)
    maps = torch.zeros(1, 500, *SIZE, dtype=torch.float64)
    places = torch.randint(SIZE[0] * SIZE[1], (500, cells), generator=random)
    maps[0].flatten(1).scatter_(1, places, torch.rand(500, cells, generator=random, dtype=torch.float64) ** 3)
    # On this one, steps of Newton and Weiszfeld in turn need hundreds.
    maps[0, 0] = 0
    maps[0, 0].view(-1)[[464, 46, 113, 284, 417]] = torch.tensor([0.7693, 0.5229, 0.2624, 0.0008, 0.0196]).double()
    joints = decode(maps, "transport")[0][0]
    columns, rows = torch.meshgrid(torch.arange(SIZE[1]), torch.arange(SIZE[0]), indexing="xy")
    offset = torch.stack((columns, rows), dim=-1) - joints[:, None, None]
    distance = offset.norm(dim=3, keepdim=True)
    mass = maps[0, ..., None]
    pull = (mass * torch.where(distance > 0, offset / distance, 0)).sum((1, 2)).norm(dim=1)
    held = (mass * (distance == 0)).sum((1, 2, 3))
    assert (held == 0).sum() > 30  # medians between the cells, where the search is put to the test
    assert (pull <= held + 1e-5 * mass.sum((1, 2, 3))).all()


def test_transport_of_mass_on_one_line():
    """The median on a line is that of one dimension: left of it and right of it lies less than half of the mass."""
    heatmap = torch.zeros(1, 2, 9, 9)
    heatmap[0, 0, 4, torch.tensor([0, 3, 8])] = torch.tensor([0.4, 0.2, 0.4])
    heatmap[0, 1].fill_diagonal_(1)
    joints = decode(heatmap, "transport")[0][0]
    assert joints.tolist() == [[3, 4], [4, 4]]


def test_transport_ignores_how_far_away_an_outlier_is():
    near, far = torch.zeros(1, 1, *SIZE), torch.zeros(1, 1, *SIZE)
    for heatmap, column in ((near, 15), (far, 23)):
        heatmap[0, 0, 10, [5, 6, 7]] = 1
        heatmap[0, 0, 10, column] = 0.5
    assert torch.equal(decode(near, "transport")[0], decode(far, "transport")[0])


@pytest.mark.parametrize("method", METHODS)
def test_flipped_maps_give_flipped_joints(method):
    maps = gaussians(inner_centres(), 1.3) + 0.3 * gaussians(inner_centres() - 4, 2.0)
    maps = maps + 0.01 * torch.rand(maps.shape, generator=generator())
    joints, confidence = decode(maps, method, "mass")
    flipped, same = decode(maps.flip(3), method, "mass")
    assert torch.allclose(flipped[..., 0], SIZE[1] - 1 - joints[..., 0], atol=2e-4)
    assert torch.allclose(flipped[..., 1], joints[..., 1], atol=2e-4)
    assert torch.allclose(confidence, same, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("confidence", ["peak", "mass"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_maps_that_show_nothing(method, confidence, value):
    joints, score = decode(torch.full((1, 2, 6, 5), value), method, confidence)
    assert joints.abs().sum() == score.abs().sum() == 0


@pytest.mark.parametrize("method", METHODS)
def test_one_positive_cell_anywhere(method):
    """Corners and borders included: the joint is that cell, all of the mass is near it."""
    maps = torch.full((1, 30, 5, 6), -1.0)
    maps.view(1, 30, 30)[0].fill_diagonal_(2.0)
    for confidence, expected in (("peak", 2), ("mass", 1)):
        joints, score = decode(maps.clamp(min=0) if method == "dark" else maps, method, confidence)
        cells = torch.stack((torch.arange(30) % 6, torch.arange(30) // 6), dim=1)
        assert torch.allclose(joints[0], cells.float(), atol=1e-5)
        assert torch.allclose(score, torch.full((1, 30), float(expected)))


def test_mass_by_hand():
    heatmap = torch.zeros(1, 1, 9, 9)
    heatmap[0, 0, 4, 4] = 3
    heatmap[0, 0, 2, 6] = 1  # two cells off: in the window
    heatmap[0, 0, 4, 7] = 2  # three cells off
    heatmap[0, 0, 5, 4] = -9  # does not count
    assert decode(heatmap, "argmax", "mass")[1].item() == pytest.approx(4 / 6)
    assert decode(heatmap, "argmax", "peak")[1].item() == 3


@pytest.mark.parametrize("method", METHODS)
def test_scale_does_not_matter(method):
    maps = gaussians(inner_centres(2, 2), 1.5) * 2.0**-10
    joints, mass = decode(maps, method, "mass")
    for factor in (2.0**-90, 2.0**100):
        scaled, same = decode(maps * factor, method, "mass")
        assert torch.allclose(scaled, joints, atol=1e-5)
        assert torch.allclose(same, mass, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_dtype(method, dtype):
    maps = gaussians(inner_centres(2, 2), 1.5).to(dtype)
    joints, confidence = decode(maps, method)
    assert joints.dtype == confidence.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.allclose(joints.float(), decode(maps.float(), method)[0], atol=1e-4)


@pytest.mark.parametrize("confidence", ["peak", "mass"])
@pytest.mark.parametrize("method", METHODS)
def test_autocast_changes_no_digit(method, confidence):
    heatmaps = gaussians(inner_centres(), 1.5)
    expected = decode(heatmaps, method, confidence)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decode(heatmaps, method, confidence)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_any_memory_layout_and_no_gradient(method):
    maps = gaussians(inner_centres(3, 4), 1.5).requires_grad_()
    expected = decode(maps, method, "mass")
    assert not expected[0].requires_grad
    channels_last = maps.to(memory_format=torch.channels_last)
    strided = torch.stack((maps, maps), dim=-1)[..., 0]
    for layout in (channels_last, strided):
        assert not layout.is_contiguous()
        got = decode(layout, method, "mass")
        assert torch.allclose(got[0], expected[0], atol=1e-6)
        assert torch.allclose(got[1], expected[1], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (1, 1, 1, 1), (1, 1, 1, 7), (1, 1, 3, 3)])
def test_small_and_empty_batches(method, shape):
    joints, confidence = decode(torch.ones(shape), method, "mass")
    assert joints.shape == (*shape[:2], 2)
    assert confidence.shape == shape[:2]
    assert joints.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_maps_are_named(bad):
    maps = torch.ones(2, 3, 4, 4)
    maps[1, 2, 0, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinity, first in image 1, joint 2"):
        decode(maps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "softargmax"}, "decoding method 'softargmax' is not known. Did you mean 'argmax'"),
        ({"confidence": "max"}, "confidence 'max' is not known. Known: peak, mass"),
        ({"method": "quarter", "sigma": 2}, "'quarter' has no option 'sigma'; it has: none"),
        ({"method": "dark", "radius": 2}, "'dark' has no option 'radius'; it has: sigma"),
        ({"method": "dark", "sigma": 0}, "sigma must be a number from 0.001 to 10000, got 0"),
        ({"method": "dark", "sigma": "2"}, "sigma must be a number .*, got '2'"),
        ({"method": "barycentre", "radius": float("inf")}, "radius must be a number from 1"),
        ({"method": "barycentre", "radius": 0}, "radius must be a number from 1"),
        ({"method": "barycentre", "radius": 1.5}, "radius must be a whole number"),
    ],
)
def test_unknown_names_and_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        decode(torch.ones(1, 1, 4, 4), **arguments)


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 1, 0, 4)])
def test_shapes_that_are_no_heatmaps(shape):
    with pytest.raises(ValueError, match=r"must be a \(B, K, H, W\) tensor"):
        decode(torch.ones(shape))


# -------------------------------------------------------------------------------------------------- drawn targets


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("cut", [False, True])
def test_joints_come_back_from_gaussian_targets(sigma, cut):
    generator = torch.Generator().manual_seed(0)
    joints = torch.rand(4, 17, 2, generator=generator) * torch.tensor([31.0, 23.0])
    joints[0, :4] = torch.tensor([[0.0, 0.0], [31.0, 23.0], [0.4, 22.7], [30.6, 0.2]])  # border cells
    targets = gaussian_map(joints, (24, 32), sigma)
    if cut:  # as many libraries do
        targets = targets * (targets > 0.011)
    targets[1, 3] = 0  # unlabelled
    found, weights = joints_from_heatmaps(targets)
    assert weights[1, 3] == 0
    assert weights.sum() == 4 * 17 - 1
    labelled = weights > 0
    inner = (joints > 1).all(-1) & (joints < torch.tensor([30.0, 22.0])).all(-1)
    off = (found - joints).norm(dim=-1)
    assert off[labelled & inner].max() < 0.01
    assert off[labelled].max() < (0.5 if cut else 0.01)  # at the border a cut target may leave its highest cell alone


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_rounded_targets_on_corners_are_those_cells(sigma):
    corners = torch.tensor([[[0.0, 0.0], [7.0, 0.0], [0.0, 5.0], [7.0, 5.0]]])
    joints, weights = joints_from_heatmaps(gaussian_map(corners, (6, 8), sigma, rounded=True))
    torch.testing.assert_close(joints, corners, atol=1e-3, rtol=0)
    assert weights.all()


@pytest.mark.parametrize("radius", [0.8, 1.5, 2.0, 3.0])
def test_a_disc_is_the_middle_of_its_cells(radius):
    joints = torch.tensor([[8.0, 7.0], [5.5, 9.5], [8.0, 6.5]])
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(18.0), indexing="ij")
    distance = torch.hypot(columns - joints[:, 0, None, None], rows - joints[:, 1, None, None])
    found, weights = joints_from_heatmaps((distance <= radius)[None].float())
    torch.testing.assert_close(found[0], joints)
    assert weights.eq(1).all()


def test_a_gaussian_with_a_flat_top_is_the_middle_of_the_top():
    joints = torch.tensor([[[8.3, 7.6], [4.0, 5.0]]])
    found, _ = joints_from_heatmaps(gaussian_map(joints, (16, 18), 2.0).clamp(max=0.6))
    assert (found - joints).abs().max() <= 0.5


def test_a_target_on_a_single_cell_is_that_cell():
    targets = torch.zeros(1, 1, 8, 8)
    targets[0, 0, 5, 2] = 1
    joints, weights = joints_from_heatmaps(targets)
    assert joints[0, 0].tolist() == [2, 5]
    assert weights.tolist() == [[1]]


@pytest.mark.parametrize("value", [0.0, 1 / 64])
def test_a_target_without_a_peak_is_unlabelled(value):
    # Lightning Pose draws a uniform map for an unlabelled joint if uniform_heatmaps_for_nan_keypoints is on
    joints, weights = joints_from_heatmaps(torch.full((1, 1, 8, 8), value))
    assert joints.tolist() == [[[0, 0]]]
    assert weights.tolist() == [[0]]


def test_targets_that_are_not_finite_are_refused_by_the_loss():
    targets = torch.zeros(2, 3, 8, 8)
    targets[:, :, 4, 4] = 1
    targets[1, 1, 0, 0], targets[1, 2] = torch.inf, torch.nan
    joints, weights = joints_from_heatmaps(targets)
    assert weights.isfinite().tolist() == [[True, True, True], [True, False, False]]
    with pytest.raises(ValueError, match="weights must be finite"):
        MatchingLoss()(torch.zeros(2, 3, 8, 8), joints, weights)
    torch.testing.assert_close(torch.func.vmap(joints_from_heatmaps)(targets[:1, None])[0], joints[:1, None])


def test_targets_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"must be a \(B, K, H, W\) tensor of at least 3 x 3 cells"):
        joints_from_heatmaps(torch.zeros(3, 8, 8))


@pytest.mark.parametrize("read", [decode, joints_from_heatmaps])
def test_what_is_no_tensor_is_refused_by_its_type(read):
    with pytest.raises(ValueError, match=r"must be a \(B, K, H, W\) tensor .*, got ndarray"):
        read(np.zeros((1, 1, 4, 4)))
