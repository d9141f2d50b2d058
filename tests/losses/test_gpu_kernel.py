"""The fused kernel against the torch path, in Triton's interpreter: no GPU is needed to know that it is right."""

import os
import subprocess
import sys
import warnings

import pytest
import torch

from hdmlib.heatmaps import demanders
from hdmlib.losses import MatchingLoss
from hdmlib.losses.matching import Matching, _solve
from hdmlib.transport import Cost, Problem, TransportWarning

pytest.importorskip("triton", reason="Triton is not installed")
from hdmlib.losses import gpu_kernel

# Triton reads this when it is first imported, which any test may have done before: the kernel has a process of its own.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter's process")
def test_the_kernel_in_the_interpreter():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        "-o",
        "addopts=--import-mode=importlib",
        __file__,
    ]
    run = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


def test_without_a_c_compiler_the_kernel_is_not_used_and_one_warning_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    gpu_kernel._has_compiler.cache_clear()
    with pytest.warns(RuntimeWarning, match="install gcc, or set CC"):
        assert not gpu_kernel._has_compiler()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not gpu_kernel._has_compiler()
    gpu_kernel._has_compiler.cache_clear()
    monkeypatch.setenv("CC", "my-cc")
    assert gpu_kernel._has_compiler()
    gpu_kernel._has_compiler.cache_clear()


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="this torch has no such tag")
def test_cuda_graphs_leave_the_operator_out():
    assert torch.Tag.cudagraph_unsafe in torch.ops.hdmlib.matching.default.tags


SIZE = (9, 7)


def problem(count=4, size=SIZE, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    heatmaps = scale * torch.randn(count, *size, generator=generator)
    joints = torch.rand(count, 2, generator=generator) * torch.tensor([size[1] - 1.0, size[0] - 1.0])
    joints[0] = torch.tensor([3.0, 2.25])  # two demanders of weight 0
    return heatmaps, *demanders(joints, size)


def matching(
    suppliers="softmax", epsilon=0.25, regulariser="entropy", cost="euclidean", tau=2.0, mass_floor=1e-4, likelihood=0.0
):
    return Matching(Problem(epsilon, regulariser, Cost(cost, tau)), suppliers, mass_floor, likelihood)


def both(heatmaps, points, shares, **options):
    """Value and gradient by the kernel, which must settle, and by the torch path."""
    value, gradient, error = gpu_kernel.run_kernel(heatmaps, points, shares, matching(**options))
    assert (error <= gpu_kernel.TOLERANCE).all()
    return (value, gradient), _solve(heatmaps, points, shares, matching(**options))


def assert_agree(fused, reference):
    torch.testing.assert_close(fused[0], reference[0], rtol=1e-5, atol=1e-5)
    # a gradient of rounding errors alone, of a map that is where it should be, is compared with the potentials' size
    scale = reference[1].flatten(1).abs().amax(1)[:, None, None].clamp(min=1e-2)
    torch.testing.assert_close(fused[1] / scale, reference[1] / scale, rtol=0, atol=2e-5)


class TestKernel:
    __test__ = INTERPRETED

    @pytest.mark.parametrize("suppliers", ["softmax", "relu", "relu_plain"])
    @pytest.mark.parametrize("regulariser", ["kl", "entropy"])
    @pytest.mark.parametrize("epsilon", [0.2, 1.0])
    def test_agrees_with_the_torch_path(self, suppliers, regulariser, epsilon):
        assert_agree(*both(*problem(), suppliers=suppliers, regulariser=regulariser, epsilon=epsilon))

    @pytest.mark.parametrize(("cost", "epsilon"), [("sqeuclidean", 4.0), ("saturating", 0.2), ("saturating", 1.0)])
    def test_agrees_for_other_costs(self, cost, epsilon):
        assert_agree(*both(*problem(), cost=cost, epsilon=epsilon))

    def test_agrees_for_the_defaults_of_the_loss(self):
        loss = MatchingLoss()
        options = {"suppliers": loss.suppliers, "epsilon": loss.epsilon, "regulariser": loss.problem.regulariser}
        options |= {"cost": loss.problem.cost.kind, "tau": loss.problem.cost.tau}
        for scale in (0.1, 2.0, 20.0):
            assert_agree(*both(*problem(8, (16, 16), scale=scale), **options))

    @pytest.mark.parametrize("regulariser", ["kl", "entropy"])
    @pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
    def test_agrees_with_a_likelihood(self, regulariser, scale):
        options = {"regulariser": regulariser, "cost": "saturating", "tau": 1.0, "epsilon": 0.05, "likelihood": 0.2}
        assert_agree(*both(*problem(scale=scale), **options))

    def test_a_long_tau_does_not_cancel(self):
        assert_agree(*both(*problem(size=(16, 16)), cost="saturating", tau=1e4, epsilon=1.0))

    def test_a_map_without_demand_is_ignored_whatever_it_holds(self):
        heatmaps, points, shares = problem()
        sound, _ = both(heatmaps, points, shares)
        heatmaps[2], shares[2] = torch.nan, 0.0
        value, gradient, _ = gpu_kernel.run_kernel(heatmaps, points, shares, matching())
        assert value[2] == 0
        assert (gradient[2] == 0).all()
        others = [0, 1, 3]
        assert torch.equal(value[others], sound[0][others])
        assert torch.equal(gradient[others], sound[1][others])

    @pytest.mark.parametrize("size", [(2, 2), (16, 16), (3, 21), (20, 15)])
    def test_agrees_for_other_sizes(self, size):
        assert_agree(*both(*problem(size=size)))

    @pytest.mark.parametrize("suppliers", ["softmax", "relu", "relu_plain"])
    def test_agrees_on_maps_without_mass_and_at_the_ends_of_float32(self, suppliers):
        heatmaps, points, shares = problem(6)
        heatmaps[0], heatmaps[1] = -1.0, 0.0
        heatmaps[2] *= 1e30
        heatmaps[3] *= 1e-42
        heatmaps[4] = -1.0
        heatmaps[4, 8, 6] = 1.0
        fused, reference = both(heatmaps, points, shares, suppliers=suppliers)
        assert fused[0].isfinite().all()
        assert fused[1].isfinite().all()
        assert_agree(fused, reference)

    def test_a_strided_batch_is_read_rightly(self):
        heatmaps, points, shares = problem()
        strided = heatmaps.transpose(1, 2).contiguous().transpose(1, 2)
        assert not strided.is_contiguous()
        assert_agree(*both(strided, points, shares))

    def test_leaves_to_the_torch_path_what_it_is_not_made_for(self, monkeypatch):
        heatmaps, _, _ = problem()
        assert not gpu_kernel.is_supported(heatmaps, 4, matching())  # on a CPU
        on_gpu = torch.empty(4, *SIZE, device="meta")  # a tensor that claims to be on a GPU, for the other conditions
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        assert gpu_kernel.is_supported(on_gpu, 4, matching())
        for change in (
            {"epsilon": 0.06}, {"suppliers": "softplus"}, {"regulariser": "debiased"}, {"cost": "sqeuclidean"}
        ):  # fmt: skip
            assert not gpu_kernel.is_supported(on_gpu, 4, matching(**change))
        assert not gpu_kernel.is_supported(on_gpu, 1, matching())
        assert not gpu_kernel.is_supported(on_gpu.double(), 4, matching())

    def test_takes_maps_of_the_published_recipes_and_warns_once_of_larger_ones(self, monkeypatch):
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        monkeypatch.setattr(gpu_kernel, "_has_compiler", lambda: True)
        gpu_kernel._fits.cache_clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for size in ((64, 48), (64, 64), (96, 72), (72, 96)):
                assert gpu_kernel.is_supported(torch.empty(1, *size, device="meta"), 4, matching())
        large = torch.empty(1, 128, 96, device="meta")
        with pytest.warns(RuntimeWarning, match="128 x 96 cells are too large for the GPU kernel"):
            assert not gpu_kernel.is_supported(large, 4, matching())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not gpu_kernel.is_supported(large, 4, matching())

    def test_the_second_launch_settles_what_the_first_did_not(self, monkeypatch):
        """With few evaluations no map settles at once; through stages of epsilon all of them do."""
        heatmaps, points, shares = problem(6, (16, 16), scale=20.0)
        options = {"cost": "saturating", "tau": 1.0, "epsilon": 0.05}
        reference = _solve(heatmaps, points, shares, matching(**options))
        monkeypatch.setattr(gpu_kernel, "MAX_EVALUATIONS", 2)
        monkeypatch.setattr(gpu_kernel, "STAGES", 1)
        *_, error = gpu_kernel.run_kernel(heatmaps, points, shares, matching(**options))
        assert (error > gpu_kernel.TOLERANCE).any()
        monkeypatch.setattr(gpu_kernel, "MAX_EVALUATIONS", 12)
        monkeypatch.setattr(gpu_kernel, "STAGES", 6)
        value, gradient, error = gpu_kernel.run_kernel(heatmaps, points, shares, matching(**options))
        assert (error <= gpu_kernel.TOLERANCE).all()
        assert_agree((value, gradient), reference)

    def test_the_second_launch_leaves_settled_maps_alone(self):
        heatmaps, points, shares = problem()
        heatmaps[1] = torch.nan  # never settles, so that both launches do their work
        value, gradient, error = gpu_kernel.run_kernel(heatmaps, points, shares, matching())
        others = [0, 2, 3]
        alone = gpu_kernel.run_kernel(heatmaps[others], points[others], shares[others], matching())
        assert torch.equal(value[others], alone[0])
        assert torch.equal(gradient[others], alone[1])
        assert not error[1] <= gpu_kernel.TOLERANCE

    def test_unsettled_maps_are_reported_at_a_later_call(self):
        heatmaps, points, shares = problem()
        gpu_kernel.solve(heatmaps, points, shares, matching())
        heatmaps[1] = torch.nan
        with warnings.catch_warnings():
            warnings.simplefilter("error", TransportWarning)
            gpu_kernel.solve(heatmaps, points, shares, matching())
        with pytest.warns(TransportWarning, match="1 maps of an earlier batch did not settle"):
            gpu_kernel.solve(*problem(), matching())
