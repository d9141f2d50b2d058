import cv2
import numpy as np
import pytest
import torch

from hdmlib.data.augmentation import Augmentation
from hdmlib.data.crops import Frame, Region, float32_parts, invert, transform
from hdmlib.reader import normalise

RULES = ("center", "hrnet", "udp")


def region(rotation: float = 0.0, mirrored: bool = False) -> Region:
    return Region(np.array([120.0, 90.0]), np.array([100.0, 160.0]), rotation, mirrored)


def smooth_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blurred noise: where two resamplings of it differ, their grids differ and not their rounding."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 6), None, 0, 255, cv2.NORM_MINMAX)


# Worked by hand for a 96 x 128 input: the region grows to 120 x 160, so W / L = 0.8, and (150, 50) is (30, -40) from
# its centre. Turned by 90 degrees (u, v) becomes (v, -u); mirrored, u changes its sign first.
@pytest.mark.parametrize(
    ("rule", "rotation", "mirrored", "in_input", "in_cells"),
    [
        ("center", 0, False, (24 + 47.5, -32 + 63.5), (17.5, 7.5)),
        ("hrnet", 0, False, (24 + 48, -32 + 64), (18, 8)),
        ("udp", 0, False, (30 * 95 / 120 + 47.5, -40 * 127 / 160 + 63.5), (71.25 * 23 / 95, 31.75 * 31 / 127)),
        ("center", 90, False, (-32 + 47.5, -24 + 63.5), (3.5, 9.5)),
        ("hrnet", 90, False, (-32 + 48, -24 + 64), (4, 10)),
        ("center", 0, True, (-24 + 47.5, -32 + 63.5), (5.5, 7.5)),
        ("hrnet", 90, True, (-32 + 48, 24 + 64), (4, 22)),
        ("hrnet", 30, False, (0.8 * (30 * 0.8660254 - 40 * 0.5) + 48, 0.8 * (-30 * 0.5 - 40 * 0.8660254) + 64), None),
    ],
)
def test_affine_by_hand(rule, rotation, mirrored, in_input, in_cells):
    frame = Frame((96, 128), rule)
    to_input = frame.to_input(region(rotation, mirrored))
    point = np.array([[150.0, 50.0]])
    np.testing.assert_allclose(transform(point, to_input)[0], in_input, atol=1e-3)
    if in_cells:
        np.testing.assert_allclose(transform(point, frame.to_cells(to_input))[0], in_cells, atol=1e-3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_cells_return_to_the_photo_for_a_batch(rule, mirrored):
    frame = Frame((64, 96), rule)
    to_input = np.stack([frame.to_input(region(angle, mirrored)) for angle in (-40, 0, 75)])
    affine = np.stack([frame.to_cells(a) for a in to_input])
    photo = np.random.default_rng(1).uniform(0, 200, (3, 5, 2))
    cells = transform(photo, affine)
    np.testing.assert_allclose(transform(cells, invert(affine)), photo, atol=1e-9)
    np.testing.assert_allclose(frame.input_points(cells), transform(photo, to_input), atol=1e-9)


@pytest.mark.parametrize("rule", ["center", "udp"])
@pytest.mark.parametrize("rotation", [0.0, 25.0])
def test_mirror_commutes_exactly(rule, rotation):
    frame = Frame((96, 128), rule)
    plain = frame.to_cells(frame.to_input(region(rotation)))
    # a mirrored photo, cropped by the mirrored rectangle, whose rotation runs the other way
    width = 300
    twin = Region(np.array([width - 1 - 120.0, 90.0]), np.array([100.0, 160.0]), -rotation)
    mirrored = frame.to_cells(frame.to_input(twin))
    points = np.random.default_rng(0).uniform(0, 200, (8, 2))
    reflected = np.stack([width - 1 - points[:, 0], points[:, 1]], axis=1)
    expected = transform(points, plain) * [-1, 1] + [frame.cells[0] - 1, 0]
    np.testing.assert_allclose(transform(reflected, mirrored), expected, atol=1e-9)


@pytest.mark.parametrize("rule", ["center", "udp"])
@pytest.mark.parametrize("scale", [0.6, 6.0])
def test_crop_of_the_mirrored_photo_is_the_mirrored_crop(rule, scale):
    photo, frame = smooth_photo(200, 252), Frame((96, 128), rule)
    here = Region(np.array([120.0, 90.0]), scale * np.array([100.0, 160.0]))
    there = Region(np.array([251 - 120.0, 90.0]), here.size)
    crop = frame.crop(photo, frame.to_input(here)).astype(int)
    twin = frame.crop(np.ascontiguousarray(photo[:, ::-1]), frame.to_input(there)).astype(int)
    assert crop.std() > 20
    assert np.abs(twin - crop[:, ::-1]).max() <= 3  # grey levels; OpenCV's bilinear weights are multiples of 1/32
    flagged = frame.crop(photo, frame.to_input(Region(here.centre, here.size, mirrored=True))).astype(int)
    assert np.abs(flagged - crop[:, ::-1]).max() <= 3


def test_hrnet_mirror_is_off_by_three_quarters_of_a_cell():
    frame = Frame((96, 128), "hrnet")
    x = np.array([[37.0, 50.0]])
    cells = frame.to_cells(np.eye(2, 3))
    back = frame.cells[0] - 1 - transform([95 - x[0, 0], 50.0] * np.ones((1, 2)), cells)[0, 0]
    assert back == pytest.approx(transform(x, cells)[0, 0] - 0.75)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("length", [40.0, 150.0, 700.0])
def test_pixels_follow_the_affine(rule, length):
    """A bright spot of the photo is seen in the crop where the affine puts its centre, with and without averaging."""
    spot = np.array([251.3, 187.6])
    ys, xs = np.mgrid[:400, :500]
    light = 255 * np.exp(-((xs - spot[0]) ** 2 + (ys - spot[1]) ** 2) / (2 * (length / 25) ** 2))
    photo = np.repeat(light.round().astype(np.uint8)[..., None], 3, axis=2)
    frame = Frame((96, 96), rule)
    to_input = frame.to_input(Region(spot + np.array([0.11, -0.07]) * length, np.full(2, length), 20.0))
    crop = frame.crop(photo, to_input)[..., 0].astype(float)
    ys, xs = np.mgrid[:96, :96]
    seen = np.array([(crop * xs).sum(), (crop * ys).sum()]) / crop.sum()
    np.testing.assert_allclose(seen, transform(spot[None], to_input)[0], atol=0.02)


def test_center_rule_averages_where_it_shrinks():
    """A fine checkerboard shrunk sixfold is grey when averaged; bilinear samples, as parity wants them, alias."""
    checks = np.repeat((np.indices((600, 600)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    whole = Region(np.array([299.5, 299.5]), np.array([600.0, 600.0]), 7.0)
    spread = {}
    for rule in RULES:
        frame = Frame((96, 96), rule)
        spread[rule] = frame.crop(checks, frame.to_input(whole))[30:66, 30:66].std()
    assert spread["center"] < 3 < 20 < min(spread["hrnet"], spread["udp"])


def test_outside_the_photo_is_black():
    frame = Frame((64, 64))
    crop = frame.crop(
        np.full((50, 50, 3), 200, np.uint8), frame.to_input(Region(np.array([-10.0, 25.0]), np.full(2, 60.0)))
    )
    assert (crop[:, :40] == 0).all()
    assert (crop[32, 50:] == 200).all()


def test_normalise_is_imagenets_on_either_memory_format():
    images = torch.randint(0, 256, (2, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((images.permute(0, 2, 3, 1) / 255 - mean) / std).permute(0, 3, 1, 2)
    result = normalise(images)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    last = normalise(images.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(90, 96), (96, 0), (4, 4), (96,)])
def test_input_size_must_fit_the_stride(size):
    with pytest.raises(ValueError, match="multiples of 4"):
        Frame(size)


def test_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'centre' is not known\. Did you mean 'center'\? Known: center"):
        Frame((96, 96), "centre")


def test_three_float32_hold_every_bit_of_a_float64():
    values = np.random.default_rng(0).normal(size=(200, 2, 3)) * 10.0 ** np.arange(-3, 3).reshape(2, 3)
    parts = float32_parts(values)
    assert (parts.dtype, parts.shape) == (np.float32, (3, 200, 2, 3))
    np.testing.assert_array_equal(parts.sum(axis=0, dtype=np.float64), values)


JOINTS = np.random.default_rng(5).uniform(20, 200, (16, 2))
UPPER = tuple(range(7, 16))


def draws(augmentation: Augmentation, labelled: np.ndarray | None = None, count: int = 4000) -> list[Region]:
    rng = np.random.default_rng(0)
    labelled = np.ones(16, bool) if labelled is None else labelled
    return [augmentation.draw(region(), JOINTS, labelled, UPPER, rng) for _ in range(count)]


def test_none_changes_nothing():
    for drawn in draws(Augmentation(), count=20):
        np.testing.assert_array_equal(drawn.centre, region().centre)
        np.testing.assert_array_equal(drawn.size, region().size)
        assert (drawn.rotation, drawn.mirrored) == (0, False)


def test_mpii_recipe_has_its_distribution():
    drawn = draws(Augmentation(scale=0.25, rotation=30, mirror_probability=0.5))
    factors = np.array([r.size[0] / 100 for r in drawn])
    angles = np.array([r.rotation for r in drawn])
    assert factors.min() == pytest.approx(0.75)
    assert factors.max() == pytest.approx(1.25)
    assert np.mean(np.isclose(factors, 1.25)) == pytest.approx(0.159, abs=0.02)  # P(N > 1)
    assert np.mean(angles != 0) == pytest.approx(0.6, abs=0.03)
    assert np.abs(angles).max() == pytest.approx(60)
    assert np.mean([r.mirrored for r in drawn]) == pytest.approx(0.5, abs=0.03)
    assert all((r.centre == region().centre).all() for r in drawn)


def test_coco_recipe_shows_half_bodies_as_hrnet_does():
    drawn = draws(Augmentation(scale=0.35, rotation=45, mirror_probability=0.5, half_body_probability=0.3))
    halves = [r for r in drawn if (r.centre != region().centre).any()]
    assert len(halves) / len(drawn) == pytest.approx(0.3, abs=0.03)
    upper = [r for r in halves if np.allclose(r.centre, JOINTS[list(UPPER)].mean(axis=0))]
    assert len(upper) / len(halves) == pytest.approx(0.691, abs=0.04)  # HRNet's randn() < 0.5
    extent = np.ptp(JOINTS[list(UPPER)], axis=0) * 1.5
    ratios = np.array([r.size / extent for r in upper])
    np.testing.assert_allclose(ratios[:, 0], ratios[:, 1])
    assert ratios.min() >= 0.65 - 1e-9
    assert ratios.max() <= 1.35 + 1e-9


@pytest.mark.parametrize(
    ("labelled", "half"),
    [
        (range(8), None),  # not more than eight joints
        (range(9), "lower"),  # two upper joints are too few
        ((0, 1, *range(7, 16)), "upper"),  # two lower joints are too few
    ],
)
def test_half_body_takes_what_is_labelled(labelled, half):
    mask = np.isin(np.arange(16), labelled)
    chosen = {"lower": JOINTS[:7], "upper": JOINTS[7:]}.get(half)
    centres = np.array([r.centre for r in draws(Augmentation(half_body_probability=1), mask, count=50)])
    expected = region().centre if chosen is None else chosen.mean(axis=0)
    np.testing.assert_allclose(centres, np.broadcast_to(expected, centres.shape))


def test_half_body_of_coincident_joints_is_given_up():
    augmentation = Augmentation(half_body_probability=1)
    rng = np.random.default_rng(0)
    drawn = augmentation.draw(region(), np.full((16, 2), 33.0), np.ones(16, bool), UPPER, rng)
    np.testing.assert_array_equal(drawn.size, region().size)
    no_upper = augmentation.draw(region(), JOINTS, np.ones(16, bool), (), rng)
    np.testing.assert_array_equal(no_upper.centre, region().centre)
