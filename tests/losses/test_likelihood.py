"""The likelihood term of the matching loss: its value, its gradient, and where it makes no sense."""

import warnings

import pytest
import torch

from hdmlib.heatmaps import demanders
from hdmlib.losses import MatchingLoss, build_loss, make_suppliers
from hdmlib.losses.controls import CrossEntropy, GaussianMSE
from hdmlib.transport import TransportWarning

SIZE = (9, 8)


def batch(dtype=torch.float64, scale=2.0):
    generator = torch.Generator().manual_seed(0)
    heatmaps = scale * torch.randn(2, 3, *SIZE, generator=generator, dtype=torch.float64)
    joints = torch.rand(2, 3, 2, generator=generator, dtype=torch.float64) * torch.tensor([7.0, 8.0])
    weights = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.5, 1.0]], dtype=torch.float64)
    return heatmaps.to(dtype), joints.to(dtype), weights.to(dtype)


@pytest.mark.parametrize("weight", [0.05, 0.2, 3.0])
def test_it_adds_cross_entropy_on_the_demanders(weight):
    heatmaps, joints, weights = batch()
    with_it = MatchingLoss(likelihood=weight).per_person(heatmaps, joints, weights)
    apart = MatchingLoss().per_person(heatmaps, joints, weights)
    apart = apart + weight * build_loss("cross_entropy").per_person(heatmaps, joints, weights)
    torch.testing.assert_close(with_it, apart, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("suppliers", ["softmax", "softplus"])
@pytest.mark.parametrize("regulariser", ["kl", "entropy"])
@pytest.mark.parametrize("kind", ["subpixel", "naive"])
def test_gradcheck(suppliers, regulariser, kind):
    heatmaps, joints, weights = batch()
    loss = MatchingLoss(
        likelihood=0.2, suppliers=suppliers, regulariser=regulariser, demanders=kind, epsilon=0.25, cost="euclidean"
    )
    assert torch.autograd.gradcheck(lambda h: loss(h, joints, weights), (heatmaps.requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize("suppliers", ["softmax", "softplus"])
def test_the_cross_entropy_is_that_of_the_suppliers(suppliers):
    heatmaps, joints, weights = batch()
    options = {"suppliers": suppliers, "regulariser": "kl"}
    added = MatchingLoss(likelihood=1.0, **options).per_person(heatmaps, joints, weights)
    added = added - MatchingLoss(**options).per_person(heatmaps, joints, weights)
    points, shares = demanders(joints, SIZE)
    cells = (points[..., 1] * SIZE[1] + points[..., 0]).long()
    log_supply = make_suppliers(heatmaps, suppliers).flatten(2).log().gather(2, cells)
    torch.testing.assert_close(added, -(weights * (shares * log_supply).sum(-1)).sum(1), rtol=1e-8, atol=1e-8)


def test_a_map_without_mass_at_the_joint_still_has_a_gradient():
    """Where matching alone is silent: a softmax map whose mass lies far from the joint."""
    heatmaps = torch.zeros(1, 1, *SIZE)
    heatmaps[0, 0, 1, 1] = 200.0  # exp(-200) underflows in float32
    joints = torch.tensor([[[6.0, 7.0]]])
    norms = {}
    for weight in (0.0, 0.2):
        h = heatmaps.clone().requires_grad_()
        value = MatchingLoss(likelihood=weight)(h, joints)
        value.backward()
        assert value.isfinite()
        norms[weight] = h.grad[0, 0, 7, 6].abs().item()
    assert norms[0.0] < 1e-6
    assert norms[0.2] == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize("suppliers", ["relu", "relu_plain"])
def test_suppliers_that_may_be_0_have_no_likelihood(suppliers):
    with pytest.raises(ValueError, match=r"likelihood: suppliers .* choose one of softmax, softplus"):
        MatchingLoss(suppliers=suppliers, likelihood=0.1)


@pytest.mark.filterwarnings("error", category=TransportWarning)
def test_float32_agrees_with_float64():
    wide, narrow = batch(), batch(torch.float32)
    loss = MatchingLoss(likelihood=0.2)
    results = []
    for heatmaps, joints, weights in (wide, narrow):
        h = heatmaps.clone().requires_grad_()
        value = loss(h, joints, weights)
        value.backward()
        results.append((value.double(), h.grad.double()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-4)


def test_its_weight_goes_in_a_straight_line_over_the_first_half_of_the_training():
    loss = MatchingLoss(likelihood=0.1, likelihood_start=0.5)
    seen = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        loss.set_progress(progress)
        seen.append(loss.likelihood_now())
    assert seen == pytest.approx([0.5, 0.3, 0.1, 0.1])
    loss.set_progress(0.0)
    assert loss.eval().likelihood_now() == 0.1


@pytest.mark.parametrize("loss", [MatchingLoss(likelihood=0.1), GaussianMSE()])
@pytest.mark.parametrize("progress", [-1, 12, float("nan"), None])
def test_a_progress_that_is_no_share_of_the_training_is_refused(loss, progress):
    with pytest.raises(ValueError, match="progress must be a number from 0 to 1"):
        loss.set_progress(progress)


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.1), (0.5, 0.0)])
def test_a_changing_weight_is_that_weight_at_each_moment(start, end):
    heatmaps, joints, weights = batch()
    loss = MatchingLoss(likelihood=end, likelihood_start=start)
    for progress in (0.0, 0.2, 0.9):
        loss.set_progress(progress)
        there = MatchingLoss(likelihood=loss.likelihood_now())
        torch.testing.assert_close(loss(heatmaps, joints, weights), there(heatmaps, joints, weights))


@pytest.mark.parametrize("options", [{"epsilon_start": 1.0}, {"likelihood": 0.1, "likelihood_start": 0.5}])
def test_a_schedule_that_no_training_moves_on_is_noticed_once(options):
    heatmaps, joints = torch.randn(1, 2, 9, 8), 7 * torch.rand(1, 2, 2)
    moved, held, forgotten = MatchingLoss(**options), MatchingLoss(**options), MatchingLoss(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(70):
            moved.set_progress(step / 70)
            moved(heatmaps, joints)
            held.set_progress(0.0)  # many steps in one epoch, or parts of a step
            held(heatmaps, joints)
            forgotten.train(step < 63)(heatmaps, joints)
    forgotten.train()
    with pytest.warns(UserWarning, match="set_progress") as caught:
        forgotten(heatmaps, joints)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forgotten(heatmaps, joints)


def test_a_weight_that_only_starts_above_0_needs_positive_suppliers_too():
    with pytest.raises(ValueError, match="likelihood: suppliers 'relu' may be 0"):
        MatchingLoss(suppliers="relu", likelihood_start=0.1)


@pytest.mark.parametrize("weight", [0.1, 2.0])
def test_the_gaussian_takes_the_same_second_term(weight):
    heatmaps, joints, weights = batch()
    with_it = GaussianMSE(likelihood=weight, reduction="none")(heatmaps, joints, weights)
    apart = GaussianMSE(reduction="none")(heatmaps, joints, weights)
    entropy = CrossEntropy(reduction="none")(10 * heatmaps, joints, weights)
    torch.testing.assert_close(with_it, apart + weight * weights * entropy / (SIZE[0] * SIZE[1]))
    loss = GaussianMSE(likelihood=weight)
    assert torch.autograd.gradcheck(lambda h: loss(h, joints, weights), (heatmaps.requires_grad_(),))


def test_the_gaussian_with_joints_off_the_map_has_no_likelihood():
    with pytest.raises(ValueError, match="likelihood: not with rounded"):
        GaussianMSE(rounded=True, likelihood=0.1)
