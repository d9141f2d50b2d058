"""How long the matching loss takes, beside the libraries that solve the same problem and beside a Gaussian MSE.

Run by hand, on one thread, on a machine that does nothing else:

    python -m pytest tests/bench_matching.py -p no:xdist -o addopts=--import-mode=importlib

Every solver gets the same 68 maps of 64 x 48 and returns value and gradient at a marginal error of at most 1e-5. POT
and GeomLoss are told beforehand how many iterations that takes (or, where they do not reach it, the most tried). The
record (figures/results/bench_matching.json, or the path in HDM_BENCH_RECORD) is what notebook 01 shows.
"""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from hdmlib.heatmaps import demanders
from hdmlib.losses.controls import GaussianMSE
from hdmlib.losses.matching import MatchingLoss
from hdmlib.transport.problem import solve

MAPS, SIZE, ERROR = 68, (64, 48), 1e-5
EPSILONS = (1.0, 0.25, 0.1)
DEFAULT_RECORD = Path(__file__).parents[1] / "figures" / "results" / "bench_matching.json"


@pytest.fixture(scope="module")
def record():
    """Filled by the benchmarks, written when all are done."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: dict = {
        "what": f"{MAPS} maps of {SIZE[0]} x {SIZE[1]}, forward and backward, float32, one thread, least of the rounds",
        "rows": [],
        "memory": {},
        "machine": {"processor": _processor(), "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "numpy", "pot", "geomloss") if _installed(name)},
    }
    yield found
    torch.set_num_threads(threads)
    path = Path(os.environ.get("HDM_BENCH_RECORD", DEFAULT_RECORD))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n")
    ours = {row["problem"]: row["milliseconds"] for row in found["rows"] if row["method"] == "hdmlib"}
    print(f"\n{path}")
    for row in found["rows"]:
        ratio = row["milliseconds"] / ours.get(row["problem"], float("nan"))
        print(f"{row['problem']:16} {row['method']:24} {row['milliseconds']:8.2f} ms, {ratio:6.1f} times hdmlib")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except ModuleNotFoundError:
        return False


def problem(maps=MAPS, size=SIZE):
    """Heatmaps as a network half-way through training gives them (a bump near the joint, noise), and the joints."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    joints = torch.rand(maps, 2, generator=generator) * torch.tensor([width - 1.0, height - 1.0])
    peaks = joints + 3 * torch.randn(maps, 2, generator=generator)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    squared = (x - peaks[:, 0, None, None]) ** 2 + (y - peaks[:, 1, None, None]) ** 2
    heatmaps = 8 * torch.exp(-squared / 18) + torch.randn(maps, height, width, generator=generator)
    return heatmaps, joints


def timed(benchmark, record, problem, method, step, rounds=40, **notes):
    benchmark.pedantic(step, rounds=rounds, iterations=1, warmup_rounds=1 if rounds < 10 else 5)
    milliseconds = 1e3 * benchmark.stats.stats.min
    record["rows"].append({"problem": problem, "method": method, "milliseconds": milliseconds} | notes)


def loss_step(loss, heatmaps, joints):
    heatmaps = heatmaps.view(4, -1, *heatmaps.shape[1:]).requires_grad_()
    joints, weights = joints.view(4, -1, 2), torch.ones(heatmaps.shape[:2])

    def step():
        heatmaps.grad = None
        loss(heatmaps, joints, weights).backward()

    return step


def marginal_error(plan, shares):
    """Largest L1 error over the maps, of plans (B, N, M) whose rows are right."""
    return (plan.sum(1) - shares).abs().sum(1).max().item()


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_matching(benchmark, record, epsilon):
    heatmaps, joints = problem()
    supply = heatmaps.flatten(1).softmax(1).view_as(heatmaps)
    solution = solve(supply, *demanders(joints, SIZE), epsilon, tolerance=ERROR)
    notes = {"iterations": solution.evaluations, "marginal_error": solution.error.max().item()}
    step = loss_step(MatchingLoss(epsilon=epsilon), heatmaps, joints)
    timed(benchmark, record, f"epsilon {epsilon:g}", "hdmlib", step, **notes)


def test_gaussian_mse(benchmark, record):
    step = loss_step(GaussianMSE(sigma=2.0), *problem())
    timed(benchmark, record, "epsilon 1", "Gaussian MSE", step)


def cost_matrix(points):
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    cells = torch.stack([x, y], dim=-1).reshape(1, -1, 2).float()
    return cells, torch.cdist(cells.expand(len(points), -1, -1), points)


@pytest.mark.parametrize("epsilon", [1.0, 0.1])
def test_pot(benchmark, record, epsilon):
    batch = pytest.importorskip("ot.batch")
    heatmaps, joints = problem()
    points, shares = demanders(joints, SIZE)
    shares = shares.clamp(min=1e-8)  # log 0 is refused there

    def step(iterations=None, tol=0.0):
        logits = heatmaps.flatten(1).requires_grad_()
        supply = logits.softmax(1)
        _, costs = cost_matrix(points)
        result = batch.solve_batch(
            costs, epsilon, supply, shares, max_iter=iterations or needed, tol=tol, grad="envelope"
        )
        # its envelope has no gradient to the weights: they are given the potential, as ours are
        potential = epsilon * result.potentials[0].detach()
        (result.value.detach() + (supply * potential).sum(1)).sum().backward()
        return result.plan

    def error(iterations):
        plan = step(iterations)
        return (plan.sum(2) - heatmaps.flatten(1).softmax(1)).abs().sum(1).max().item()

    needed = next((n for n in (6, 9, 12, 15, 20, 30, 45, 70, 100) if error(n) <= ERROR), 140)
    notes = {"iterations": needed, "marginal_error": error(needed)}
    timed(benchmark, record, f"epsilon {epsilon:g}", "POT solve_batch", step, rounds=3, **notes)


@pytest.mark.parametrize("epsilon", [1.0])
def test_geomloss(benchmark, record, epsilon):
    geomloss = pytest.importorskip("geomloss")
    heatmaps, joints = problem()
    points, shares = demanders(joints, SIZE)
    cells, costs = cost_matrix(points)
    cells = cells.expand(MAPS, -1, -1).contiguous()

    def divergence(scaling, potentials=False):
        return geomloss.SamplesLoss(
            "sinkhorn", p=1, blur=epsilon, scaling=scaling, debias=False, backend="tensorized", potentials=potentials
        )

    def error(scaling):
        supply = heatmaps.flatten(1).softmax(1)
        a, b = divergence(scaling, potentials=True)(supply, cells, shares, points)
        plan = torch.exp((a[:, :, None] + b[:, None, :] - costs) / epsilon) * supply[:, :, None] * shares[:, None, :]
        return max(marginal_error(plan, shares), (plan.sum(2) - supply).abs().sum(1).max().item())

    scalings = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)
    errors = {scaling: error(scaling) for scaling in scalings}
    scaling = next((s for s in scalings if errors[s] <= ERROR), min(errors, key=errors.get))
    loss = divergence(scaling)

    def step():
        logits = heatmaps.flatten(1).requires_grad_()
        loss(logits.softmax(1), cells, shares, points).sum().backward()

    notes = {"scaling": scaling, "marginal_error": errors[scaling]}
    timed(benchmark, record, f"epsilon {epsilon:g}", "GeomLoss SamplesLoss", step, rounds=3, **notes)


@pytest.mark.parametrize("size", [(32, 24), (64, 48), (128, 96), (256, 192)])
def test_time_grows_with_the_cells(benchmark, record, size):
    step = loss_step(MatchingLoss(epsilon=1.0), *problem(MAPS, size))
    timed(benchmark, record, f"{size[0]} x {size[1]}", "hdmlib", step, rounds=10)


@pytest.mark.parametrize("people", [4, 32])
def test_peak_memory(benchmark, record, people):
    """Bytes beyond the heatmaps at the worst moment of a step, gradient included, over the bytes of the heatmaps."""
    heatmaps, joints = problem(17 * people)
    step = loss_step(MatchingLoss(epsilon=1.0), heatmaps, joints)
    step()
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held, peak = 0, 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    record["memory"][f"{17 * people} maps"] = peak / heatmaps.nbytes
    benchmark.pedantic(step, rounds=1)
    assert peak <= 3 * heatmaps.nbytes
