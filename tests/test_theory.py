"""Theorem 1 as equalities in float64, and where its assumption fails."""

import math

import pytest
import torch

from hdmlib.heatmaps import dot_map, gaussian_map
from hdmlib.theory import constant_far_from_borders, proof_lines, theorem_terms

SIZE = (24, 20)


def heatmaps(kind, joints):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(*joints.shape[:-1], *SIZE, generator=generator, dtype=torch.float64)
    return {
        "random": noise,
        "zero": torch.zeros_like(noise),
        "huge and of both signs": 1e6 * noise,
        "the target itself": gaussian_map(joints, SIZE, 2.0),
        "one cell far away": (noise == noise.amax((-2, -1), keepdim=True)).double(),
    }[kind]


KINDS = ["random", "zero", "huge and of both signs", "the target itself", "one cell far away"]


def relative(left, right, scale):
    return float(((left - right).abs() / scale).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0, 3.0])
def test_the_theorem_and_each_line_of_its_proof_hold_on_the_grid(kind, sigma):
    joints = torch.tensor([[[10.3, 11.8], [0.0, 0.0], [19.0, 23.2]]], dtype=torch.float64)
    maps = heatmaps(kind, joints)
    scale = maps.square().sum((-2, -1)) + 1
    terms = theorem_terms(maps, joints, sigma)
    assert relative(terms.gaussian_mse, terms.dot_mse + terms.cross + terms.constant, scale) < 1e-12
    assert terms.gap.abs().max() == 0
    cells = (joints + 0.5).floor()
    lines = proof_lines(maps, dot_map(cells, SIZE), gaussian_map(cells, SIZE, sigma))
    for line, (left, right) in lines.items():
        assert relative(left, right, scale) < 1e-12, line


@pytest.mark.parametrize("offset", [(0.5, 0.0), (0.3, -0.4), (0.1, 0.1)])
def test_off_the_grid_exactly_the_gap_is_missing(offset):
    sigma, joints = 1.5, torch.tensor([[10.0 + offset[0] - 1e-9, 11.0 + offset[1]]], dtype=torch.float64)
    maps = heatmaps("random", joints)
    terms = theorem_terms(maps, joints, sigma, on_grid=False)
    missing = terms.gaussian_mse - (terms.dot_mse + terms.cross + terms.constant)
    torch.testing.assert_close(missing, terms.gap, rtol=1e-12, atol=1e-12)
    expected = -2 * (1 - math.exp(-(offset[0] ** 2 + offset[1] ** 2) / (2 * sigma**2)))
    assert float(terms.gap) == pytest.approx(expected, rel=1e-6)
    lines = proof_lines(maps, dot_map(joints, SIZE), gaussian_map(joints, SIZE, sigma))
    wrong = [line for line, (left, right) in lines.items() if relative(left, right, 1) > 1e-9]
    assert wrong == ["<d, G> = |d|²", "|H - G|² = |H - d|² + 2<H, d - G> + C"]


def test_the_cut_gaussian_of_hrnet_satisfies_every_line_on_the_map_and_beside_it():
    joints = torch.tensor([[10.3, 11.8], [-2.4, 5.0], [19.4, 23.4]], dtype=torch.float64)
    maps, cut = heatmaps("random", joints), gaussian_map(joints, SIZE, 1.5, rounded=True)
    dots = dot_map((joints + 0.5).floor(), SIZE)
    assert dots.sum((-2, -1)).tolist() == [1, 0, 1]
    assert cut.amax((-2, -1)).tolist() == pytest.approx([1, math.exp(-(1**2) / (2 * 1.5**2)), 1])
    for line, (left, right) in proof_lines(maps, dots, cut).items():
        assert relative(left, right, 1) < 1e-9, line


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 3.0])
def test_the_constant_has_a_closed_form_away_from_the_borders(sigma):
    joints = torch.tensor([[40.0, 40.0]], dtype=torch.float64)
    constant = theorem_terms(torch.zeros(1, 81, 81), joints, sigma).constant
    assert float(constant) == pytest.approx(constant_far_from_borders(sigma), rel=1e-12)
    if sigma >= 1:
        assert float(constant) == pytest.approx(math.pi * sigma**2 - 1, rel=1e-3)


def test_the_squared_error_may_prefer_a_gaussian_in_the_wrong_place_to_the_dot_in_the_right_one():
    sigma, joint = 2.0, torch.tensor([[10.0, 11.0]], dtype=torch.float64)
    in_place = theorem_terms((gaussian_map(joint, SIZE, 0.1)), joint, sigma)
    off = theorem_terms(gaussian_map(joint + torch.tensor([3.0, 0.0]), SIZE, sigma), joint, sigma)
    assert off.gaussian_mse < in_place.gaussian_mse
    assert off.dot_mse > in_place.dot_mse
