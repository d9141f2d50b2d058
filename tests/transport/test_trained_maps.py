"""The solvers on the maps that a trained network makes: sharp, wrong here and there, and harder than noise."""

import pytest
import torch

from hdmlib.config import make_config
from hdmlib.data.sources import open_data
from hdmlib.experiments.engine import training_loader
from hdmlib.experiments.store import REFERENCE_RECORDS
from hdmlib.heatmaps import demanders
from hdmlib.losses import make_suppliers
from hdmlib.models import build_model, load_weights
from hdmlib.reader import normalise
from hdmlib.transport import Problem, problem
from hdmlib.transport.cost import block_corners


@pytest.fixture(scope="module")
def trained():
    """Suppliers of labelled joints on augmented crops, as a network trained by matching makes them, and demanders."""
    [weights] = REFERENCE_RECORDS.glob("*-matching-s0-*.model.safetensors")
    config = make_config(preset="smoke", input_width=96, input_height=96, image_size=256, batch_size=32)
    people = open_data(config).train
    network = build_model("hrnet_nano", num_joints=len(people.skeleton))
    load_weights(network, weights)
    network.eval()
    batch = next(iter(training_loader(config, people)))
    with torch.no_grad():
        maps = network(normalise(batch["image"]))
    labelled = batch["weights"] > 0
    points, shares = demanders(batch["joints"][labelled], tuple(maps.shape[2:]))
    return make_suppliers(maps[labelled], "softmax"), points, shares


def test_newtons_method_settles_in_the_compiled_loops(trained):
    pytest.importorskip("numba")
    supply, points, shares = trained
    corners = block_corners(points.double(), tuple(supply.shape[1:]))
    found = problem._solve_in_loops(supply.contiguous(), corners, shares.double(), Problem(), 1e-5)
    assert len(supply) > 300
    assert (found.error <= 1e-5).all()  # without shortened steps a tenth of these maps cycles
    assert found.evaluations <= 24


def test_the_loops_agree_with_newtons_method_in_stages(trained, monkeypatch):
    pytest.importorskip("numba")
    supply, points, shares = trained
    quick = problem.solve_maps(supply, points, shares, Problem(), 1e-6)
    monkeypatch.setattr(problem, "accelerator", lambda module: None)
    slow = problem.solve_maps(supply, points, shares, Problem(), 1e-6)
    assert max(quick.error.max(), slow.error.max()) <= 1e-6
    torch.testing.assert_close(quick.value, slow.value, rtol=1e-5, atol=1e-6)
    where = supply > 1e-6  # elsewhere the gradient of a sharp map is rounding
    torch.testing.assert_close(quick.gradient[where], slow.gradient[where], rtol=1e-4, atol=1e-4)
