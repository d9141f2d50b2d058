"""The compiled loops against the path that needs none."""

import subprocess
import sys
from functools import partial

import pytest
import torch

from hdmlib.heatmaps import demanders
from hdmlib.transport import REGULARISERS, Cost, Problem, problem

pytest.importorskip("numba", reason="numba is not installed: the torch path does everything")

# The setting of the tests that name no other.
solve = partial(problem.solve, cost="euclidean", tau=2.0)
SIZE = (40, 32)
JOINTS = [[15.3, 20.6], [15.999, 20.5], [15.0, 20.25], [0.01, 0.02], [31.0, 38.4], [-3.0, 55.0]]


def maps(sharpness, dtype):
    noise = torch.randn(len(JOINTS), SIZE[0] * SIZE[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (sharpness * noise).softmax(1).unflatten(1, SIZE).to(dtype)


def both(monkeypatch, supply, epsilon, **options):
    """Solutions of the loops and of the path without them."""
    given = supply, *demanders(torch.tensor(JOINTS, dtype=supply.dtype), SIZE), epsilon
    assert problem._fits_cpu_loops(supply, Problem(epsilon, cost=Cost(options.get("cost", "euclidean"), 2.0)))
    quick = solve(*given, **options)
    with monkeypatch.context() as without:
        without.setattr(problem, "accelerator", lambda module: None)
        return quick, solve(*given, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("regulariser", REGULARISERS)
@pytest.mark.parametrize(("cost", "epsilon"), [("euclidean", 0.1), ("euclidean", 2.0), ("saturating", 0.1)])
@pytest.mark.parametrize("sharpness", [0.0, 3.0, 30.0])
def test_both_paths_agree(monkeypatch, sharpness, cost, epsilon, regulariser, dtype):
    quick, slow = both(monkeypatch, maps(sharpness, dtype), epsilon, cost=cost, regulariser=regulariser)
    goal = 1e-10 if dtype == torch.float64 else 1e-6
    assert max(quick.error.max(), slow.error.max()) <= goal
    close = {"rtol": 1e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(quick.value, slow.value, **close)
    torch.testing.assert_close(quick.gradient, slow.gradient, **close)


def test_the_squared_cost_goes_through_the_loops_where_epsilon_is_large(monkeypatch):
    quick, slow = both(monkeypatch, maps(3.0, torch.float64), 10.0, cost="sqeuclidean")
    torch.testing.assert_close(quick.gradient, slow.gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("cost", "epsilon"), [("saturating", 0.0098), ("saturating", 0.0105), ("euclidean", 0.02)])
def test_an_epsilon_at_which_a_float32_overflows_is_solved_all_the_same(cost, epsilon):
    supply = torch.zeros(1, 16, 12, dtype=torch.float64)
    supply[0, 4:6, 7:9] = torch.tensor([[0.45, 0.05], [0.35, 0.15]])
    cells, shares = demanders(torch.tensor([[7.3, 4.4]], dtype=torch.float64), (16, 12))
    options = {"cost": cost, "tau": 1.0, "regulariser": "entropy"}
    exact = solve(supply, cells, shares, epsilon, **options)
    found = solve(supply.float(), cells.float(), shares.float(), epsilon, **options)
    assert found.gradient.isfinite().all()
    torch.testing.assert_close(found.value.double(), exact.value, rtol=1e-4, atol=1e-4)


@pytest.fixture
def staged(monkeypatch):
    """Numbers of maps that are solved by stages."""
    asked, real = [], problem.maximise
    monkeypatch.setattr(
        problem, "maximise", lambda costs, weights, *rest: asked.append(len(weights)) or real(costs, weights, *rest)
    )
    return asked


def test_maps_that_the_loops_lose_are_solved_all_the_same(monkeypatch, staged):
    supply, joints = maps(3.0, torch.float32), torch.tensor(JOINTS)
    monkeypatch.setattr(problem, "MOST_SPREAD_WORTH_A_TRY", 1e9)  # the squared cost without stages: too much for them
    solution = solve(supply, *demanders(joints, SIZE), 0.5, cost="sqeuclidean")
    assert solution.error.max() <= 1e-6
    assert sum(staged) > 0


@pytest.mark.parametrize(("cost", "epsilon"), [("saturating", 0.02), ("saturating", 0.03), ("euclidean", 0.05)])
def test_the_epsilons_of_trainings_need_no_stages(staged, cost, epsilon):
    solution = solve(maps(3.0, torch.float64), *demanders(torch.tensor(JOINTS), SIZE), epsilon, cost=cost, tau=1.0)
    assert solution.error.max() <= 1e-10
    assert staged == []


def test_a_map_does_not_depend_on_its_company():
    supply, joints = maps(3.0, torch.float32), torch.tensor(JOINTS)
    together = solve(supply, *demanders(joints, SIZE), 0.25)
    for i in range(len(JOINTS)):
        alone = solve(supply[i], *demanders(joints[i], SIZE), 0.25)
        assert torch.equal(alone.gradient, together.gradient[i])
        assert torch.equal(alone.value, together.value[i])


def test_a_map_of_nan_does_not_spoil_its_neighbours():
    supply, joints = maps(3.0, torch.float32), torch.tensor(JOINTS)
    sound = problem.solve_maps(supply, *demanders(joints, SIZE), Problem(0.25, cost=Cost("euclidean")))
    supply[2] = torch.nan
    with pytest.warns(problem.TransportWarning, match="1 of 6 maps"):
        spoilt = problem.solve_maps(supply, *demanders(joints, SIZE), Problem(0.25, cost=Cost("euclidean")))
    others = [0, 1, 3, 4, 5]
    assert torch.equal(spoilt.gradient[others], sound.gradient[others])


def test_without_a_folder_for_compiled_code_they_are_compiled_all_the_same_and_warn_once():
    # numba looks for a folder by its locators
    program = """
import warnings, numba.core.caching
numba.core.caching.CacheImpl._locator_classes = []
import torch
from hdmlib import MatchingLoss
from hdmlib.extras import accelerator
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("default")
    for _ in range(2):
        MatchingLoss()(torch.rand(1, 2, 8, 8), torch.full((1, 2, 2), 3.5), torch.ones(1, 2))
assert accelerator("hdmlib.transport.cpu_loops").maximise.signatures
print(*[w.message for w in caught if "NUMBA_CACHE_DIR" in str(w.message)], sep=chr(10))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, done.stdout
