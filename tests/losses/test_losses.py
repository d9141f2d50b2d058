"""The losses: what they are worth, where they lead, and that no heatmap breaks them."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from hdmlib.heatmaps import demanders, dot_map
from hdmlib.losses.matching import MatchingLoss
from hdmlib.losses.registry import LOSSES, build_loss
from hdmlib.losses.suppliers import SUPPLIERS, make_suppliers
from hdmlib.transport.problem import solve

SIZE = (12, 10)
NORMALISED = ("matching", "cross_entropy", "soft_argmax")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(people=2, joints=3, dtype=torch.float32, seed=0):
    generator = seeded(seed)
    heatmaps = torch.randn(people, joints, *SIZE, generator=generator, dtype=dtype)
    positions = torch.rand(people, joints, 2, generator=generator, dtype=dtype) * 8.5 + 0.25
    weights = torch.rand(people, joints, generator=generator, dtype=dtype) + 0.5
    return heatmaps, positions, weights


def value_and_gradient(loss, heatmaps, joints, weights):
    heatmaps = heatmaps.clone().requires_grad_()
    value = loss(heatmaps, joints, weights)
    value.backward()
    return value.detach(), heatmaps.grad


# ------------------------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", LOSSES)
def test_value_is_a_scalar_with_a_gradient_in_the_heatmaps_own_type(name):
    heatmaps, joints, weights = batch()
    for dtype in (torch.float32, torch.float64):
        value, gradient = value_and_gradient(build_loss(name), heatmaps.to(dtype), joints, weights)
        assert value.shape == ()
        assert value.dtype == gradient.dtype == dtype
        assert gradient.shape == heatmaps.shape
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name):
    heatmaps, joints, weights = batch(1, 2, torch.float64)
    loss = build_loss(name)
    assert torch.autograd.gradcheck(lambda h: loss(h, joints, weights), (heatmaps.requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_a_batch_is_the_mean_over_people(name):
    heatmaps, joints, weights = batch(3)
    loss = build_loss(name)
    people = loss.per_person(heatmaps, joints, weights)
    assert people.shape == (3,)
    torch.testing.assert_close(loss(heatmaps, joints, weights), people.mean())
    alone = torch.stack([loss(heatmaps[i : i + 1], joints[i : i + 1], weights[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(people, alone)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_scale_the_loss_of_a_joint(name):
    heatmaps, joints, _ = batch(1, 1)
    one = build_loss(name)(heatmaps, joints, torch.ones(1, 1))
    half = build_loss(name)(heatmaps, joints, torch.full((1, 1), 0.5))
    squared = name.endswith("mse")  # as in HRNet, where the weight multiplies the maps
    torch.testing.assert_close(half, one * (0.25 if squared else 0.5))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("missing", ["unlabelled", "nan", "infinite", "left of the map", "below the map"])
@pytest.mark.filterwarnings("ignore:.*are ignored:UserWarning")
def test_an_ignored_joint_changes_nothing(name, missing):
    heatmaps, joints, weights = batch()
    expected = build_loss(name)
    without = weights.clone()
    without[0, 1] = 0
    reference = value_and_gradient(expected, heatmaps, joints, without)
    if missing == "unlabelled":
        weights[0, 1], joints[0, 1] = 0, 1e9
    else:
        coordinate = {"nan": float("nan"), "infinite": float("inf"), "left of the map": -0.51, "below the map": 11.51}
        joints[0, 1, 1 if missing == "below the map" else 0] = coordinate[missing]
    value, gradient = value_and_gradient(expected, heatmaps, joints, weights)
    torch.testing.assert_close(value, reference[0])
    torch.testing.assert_close(gradient, reference[1])
    assert (gradient[0, 1] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_float32(name, dtype):
    heatmaps, joints, weights = batch()
    short = heatmaps.to(dtype)
    expected = build_loss(name)(short.float(), joints, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(build_loss(name), short, joints, weights)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("layout", ["channels last", "transposed", "sliced", "expanded"])
def test_any_memory_layout(name, layout):
    heatmaps, joints, weights = batch()
    other = {
        "channels last": lambda h: h.contiguous(memory_format=torch.channels_last),
        "transposed": lambda h: h.transpose(2, 3).contiguous().transpose(2, 3),
        "sliced": lambda h: torch.cat([h, h + 1], dim=3)[..., : SIZE[1]],
        "expanded": lambda h: h[:1].expand(2, -1, -1, -1),
    }[layout](heatmaps)
    value, gradient = value_and_gradient(build_loss(name), other.contiguous(), joints, weights)
    leaf = other.detach().requires_grad_()
    again = build_loss(name)(leaf, joints, weights)
    again.backward()
    torch.testing.assert_close(again.detach(), value)
    torch.testing.assert_close(leaf.grad, gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_compiles_in_one_graph(name):
    # aot_eager runs all of the tracing and needs no C++ compiler
    heatmaps, joints, weights = batch()
    loss = build_loss(name)
    expected = value_and_gradient(loss, heatmaps, joints, weights)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = value_and_gradient(compiled, heatmaps, joints, weights)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_readout_is_a_map_to_decode(name):
    loss, (heatmaps, _, _) = build_loss(name), batch()
    readout = loss.readout(heatmaps)
    assert readout.shape == heatmaps.shape
    assert loss.confidence == ("mass" if name in NORMALISED else "peak")
    if name in NORMALISED:
        assert (readout >= 0).all()
        torch.testing.assert_close(readout.sum((2, 3)), torch.ones(2, 3))
    else:
        assert readout is heatmaps


@pytest.mark.parametrize("name", LOSSES)
def test_descent_puts_the_map_on_the_annotation(name):
    loss = build_loss(name)
    joints, weights = torch.tensor([[[3.3, 7.6], [6.0, 2.25]]]), torch.ones(1, 2)
    heatmaps = (0.1 * torch.randn(1, 2, *SIZE, generator=seeded())).requires_grad_()
    optimiser = torch.optim.Adam([heatmaps], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        loss(heatmaps, joints, weights).backward()
        optimiser.step()
    share = loss.readout(heatmaps).detach().clamp(min=0)
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij")
    mean = torch.stack([(share * x).sum((2, 3)), (share * y).sum((2, 3))], -1) / share.sum((2, 3))[..., None]
    # a dot can say no more than its cell
    tolerance = 0.5 if name == "dot_mse" else 0.15
    assert (mean - joints).abs().max() <= tolerance


# ---------------------------------------------------------------------------------------------------------- controls


def test_gaussian_mse_is_hrnets():
    # JointsMSELoss there: the mean over joints of 0.5 MSE(w p, w t), unlabelled joints in the denominator
    heatmaps, joints, _ = batch()
    weights = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.5]])
    loss = build_loss("gaussian_mse", sigma=1.5)
    target = loss.target(joints, SIZE)
    expected = sum(
        0.5
        * nn.functional.mse_loss(weights[:, k, None, None] * heatmaps[:, k], weights[:, k, None, None] * target[:, k])
        for k in range(3)
    )
    torch.testing.assert_close(loss(heatmaps, joints, weights), expected / 3)


@pytest.mark.parametrize("name", ["gaussian_mse", "dot_mse"])
def test_squared_losses_vanish_at_their_target(name):
    _, joints, weights = batch()
    loss = build_loss(name)
    target = dot_map(joints, SIZE) if name == "dot_mse" else loss.target(joints, SIZE)
    assert loss(target, joints, weights) == 0


def test_cross_entropy_is_torchs_with_the_demanders_as_a_soft_label():
    heatmaps, joints, weights = batch()
    points, shares = demanders(joints, SIZE)
    label = torch.zeros(2, 3, *SIZE)
    for b, k, m in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4)):
        x, y = points[b, k, m].long()
        label[b, k, y, x] += shares[b, k, m]
    expected = nn.functional.cross_entropy(heatmaps.view(6, -1), label.view(6, -1), reduction="none").view(2, 3)
    torch.testing.assert_close(
        build_loss("cross_entropy")(heatmaps, joints, weights), (weights * expected).sum(1).mean()
    )


def test_soft_argmax_is_the_distance_of_the_mean():
    heatmaps = torch.full((1, 1, *SIZE), -1e4)
    heatmaps[0, 0, 3, 2] = heatmaps[0, 0, 3, 4] = 0  # mean (3, 3)
    value = build_loss("soft_argmax")(heatmaps, torch.tensor([[[3.5, 5.0]]]), torch.ones(1, 1))
    assert value.item() == pytest.approx(0.5 + 2)


# ---------------------------------------------------------------------------------------------------------- matching


@pytest.mark.parametrize("suppliers", SUPPLIERS)
@pytest.mark.parametrize("regulariser", ["kl", "entropy", "debiased"])
def test_matching_is_the_transport_of_the_suppliers(suppliers, regulariser):
    heatmaps, joints, weights = batch(dtype=torch.float64)
    supply = make_suppliers(heatmaps, suppliers)
    torch.testing.assert_close(supply.sum((2, 3)), torch.ones(2, 3, dtype=torch.float64))
    points, shares = demanders(joints, SIZE)
    for cost, tau in (("euclidean", 2.0), ("saturating", 1.0)):
        solution = solve(supply, points, shares, 0.4, regulariser=regulariser, cost=cost, tau=tau)
        loss = MatchingLoss(epsilon=0.4, suppliers=suppliers, regulariser=regulariser, cost=cost, tau=tau)
        torch.testing.assert_close(loss(heatmaps, joints, weights), (weights * solution.value).sum(1).mean())


@pytest.mark.parametrize("suppliers", SUPPLIERS)
@pytest.mark.parametrize(
    "options", [{}, {"regulariser": "kl", "epsilon": 1.0}, {"cost": "euclidean"}, {"demanders": "naive"}]
)
def test_gradient_of_the_matching_loss_equals_finite_differences(suppliers, options):
    heatmaps, joints, weights = batch(1, 2, torch.float64)
    heatmaps = heatmaps.abs() + 0.1  # where all suppliers are smooth
    loss = MatchingLoss(suppliers=suppliers, **options)
    assert torch.autograd.gradcheck(lambda h: loss(h, joints, weights), (heatmaps.requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize("suppliers", ["relu", "relu_plain"])
@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e6])
def test_relu_suppliers_do_not_see_the_scale(suppliers, scale):
    heatmaps, joints, weights = batch(dtype=torch.float64)
    loss = MatchingLoss(suppliers=suppliers)
    value, gradient = value_and_gradient(loss, heatmaps, joints, weights)
    scaled, scaled_gradient = value_and_gradient(loss, scale * heatmaps, joints, weights)
    torch.testing.assert_close(scaled, value)
    torch.testing.assert_close(scale * scaled_gradient, gradient, rtol=1e-6, atol=1e-9)
    # hence, after Euler, <dL/dh, relu(h)> = 0 for each map
    radial = (gradient * heatmaps.clamp(min=0)).sum((2, 3))
    torch.testing.assert_close(radial, torch.zeros_like(radial), rtol=0, atol=1e-8)


def test_softmax_suppliers_do_not_see_a_shift():
    heatmaps, joints, weights = batch(dtype=torch.float64)
    value, gradient = value_and_gradient(MatchingLoss(), heatmaps, joints, weights)
    shifted, _ = value_and_gradient(MatchingLoss(), heatmaps + 5, joints, weights)
    torch.testing.assert_close(shifted, value)
    torch.testing.assert_close(gradient.sum((2, 3)), torch.zeros(2, 3, dtype=torch.float64), rtol=0, atol=1e-8)


def one_cell(value):
    heatmap = torch.full(SIZE, -1.0)
    heatmap[10, 1] = value
    return heatmap


HARD_MAPS = {
    "all negative": torch.full(SIZE, -3.0),
    "all zero": torch.zeros(SIZE),
    "one positive cell": one_cell(2.0),
    "one huge cell": one_cell(1e30),
    "one denormal cell": one_cell(1e-41),
    "huge": 1e30 * torch.randn(SIZE, generator=seeded(1)),
    "all at the largest number": torch.full(SIZE, torch.finfo(torch.float32).max),
    "hugely negative": torch.full(SIZE, -1e30),
    "both ends": torch.finfo(torch.float32).max * torch.randn(SIZE, generator=seeded(2)).sign(),
    "denormal": 1e-41 * torch.randn(SIZE, generator=seeded(3)),
    "tiny": 1e-20 * torch.rand(SIZE, generator=seeded(4)),
}


@pytest.mark.parametrize("name", HARD_MAPS)
@pytest.mark.parametrize("suppliers", SUPPLIERS)
def test_no_finite_map_breaks_the_matching_loss(name, suppliers):
    heatmaps = HARD_MAPS[name][None, None]
    joints, weights = torch.tensor([[[3.3, 4.6]]]), torch.ones(1, 1)
    for regulariser in ("kl", "entropy"):
        for epsilon in (0.01, 0.25, 10.0):
            loss = MatchingLoss(suppliers=suppliers, regulariser=regulariser, epsilon=epsilon)
            value, gradient = value_and_gradient(loss, heatmaps, joints, weights)
            assert value.isfinite()
            assert gradient.isfinite().all()
            assert loss.readout(heatmaps).isfinite().all()
            # one huge map must not drown what the others say
            assert gradient.abs().max() < 1e8


DISTANCE = {"cost": "euclidean", "epsilon": 0.25}


# A cost that saturates gives all of a ReLU's far cells the same push, so they rise together: that pair is left out.
@pytest.mark.parametrize(
    ("suppliers", "options"),
    [("relu", DISTANCE), ("softplus", DISTANCE), ("softmax", DISTANCE), ("softplus", {}), ("softmax", {})],
)
def test_a_dead_channel_recovers(suppliers, options):
    joint, weights = torch.tensor([[[3.3, 7.6]]]), torch.ones(1, 1)
    heatmaps = torch.full((1, 1, *SIZE), -1.0).requires_grad_()
    loss = MatchingLoss(suppliers=suppliers, **options)
    optimiser = torch.optim.Adam([heatmaps], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        loss(heatmaps, joint, weights).backward()
        optimiser.step()
    share = loss.readout(heatmaps.detach())[0, 0]
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij")
    assert (share * x).sum().item() == pytest.approx(3.3, abs=0.1)
    assert (share * y).sum().item() == pytest.approx(7.6, abs=0.1)
    assert share.argmax().item() // SIZE[1] in (7, 8)


@pytest.mark.parametrize("kind", SUPPLIERS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_suppliers_of_maps_that_are_not_finite_are_not_finite(kind, value):
    heatmaps = torch.ones(2, 4, 4)
    heatmaps[0, 1, 2] = value
    assert make_suppliers(heatmaps, kind).isfinite().all(dim=(1, 2)).tolist() == [False, True]


def test_under_the_plain_relu_a_dead_channel_stays_dead():
    heatmaps = torch.full((1, 1, *SIZE), -1.0)
    _, gradient = value_and_gradient(
        MatchingLoss(suppliers="relu_plain"), heatmaps, torch.tensor([[[3.3, 7.6]]]), torch.ones(1, 1)
    )
    assert (gradient == 0).all()


def test_the_one_sided_relu_differs_from_the_plain_one_only_where_it_raises_a_cell():
    heatmaps, joints, weights = batch()
    value, plain = value_and_gradient(MatchingLoss(suppliers="relu_plain"), heatmaps, joints, weights)
    one_sided_value, one_sided = value_and_gradient(MatchingLoss(suppliers="relu"), heatmaps, joints, weights)
    assert value == one_sided_value
    added = one_sided - plain
    assert (added <= 0).all()
    assert (added[heatmaps > 0] == 0).all()
    assert (added < 0).any()


# ---------------------------------------------------------------------------------------------------------- registry


def test_names_of_the_registry():
    assert list(LOSSES) == ["matching", "gaussian_mse", "dot_mse", "cross_entropy", "soft_argmax"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("emd", {}, "loss 'emd' is not known. Known: matching, gaussian_mse"),
        ("matching", {"eps": 1.0}, "loss 'matching' has no option 'eps'; it has: epsilon, regulariser, suppliers"),
        ("soft_argmax", {"beta": 1.0}, "loss 'soft_argmax' has no option 'beta'"),
        ("matching", {"epsilon": -1.0}, "epsilon must be a number from 0.0001 to 10000, got -1.0"),
        ("matching", {"epsilon": float("inf")}, "epsilon must be a number from 0.0001 to 10000, got inf"),
        ("matching", {"epsilon": "1"}, "epsilon must be a number from 0.0001 to 10000, got '1'"),
        ("matching", {"tau": 0}, "tau must be a number from 0.001 to 1e\\+06, got 0"),
        ("matching", {"suppliers": "abs"}, "suppliers 'abs' is not known. Known: softmax, softplus, relu, relu_plain"),
        ("matching", {"regulariser": "l2"}, "regulariser 'l2' is not known. Known: kl, entropy"),
        ("matching", {"demanders": "five"}, "demanders 'five' is not known. Did you mean 'naive'"),
        ("matching", {"cost": "l1"}, "cost 'l1' is not known. Known: euclidean"),
        ("gaussian_mse", {"sigma": 0.0}, "sigma must be a number from 0.001 to 10000, got 0.0"),
    ],
)
def test_build_loss_says_what_is_wrong(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_loss(name, **options)


def test_shapes_that_do_not_fit_are_named():
    heatmaps, joints, weights = batch()
    with pytest.raises(
        ValueError, match=r"weights \(B, K\), got heatmaps \(2, 3, 12, 10\), joints \(2, 3, 2\), weights \(2,\)"
    ):
        build_loss("matching")(heatmaps, joints, weights[:, 0])


@pytest.mark.parametrize("suppliers", ["relu", "relu_plain"])
def test_above_its_peak_the_mass_floor_makes_every_map_pull_alike(suppliers):
    heatmap = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joints, weights = torch.tensor([[[4.3, 6.7]]]), torch.ones(1, 1)

    def pull(scale, mass_floor):
        h = (scale * heatmap).requires_grad_()
        MatchingLoss(suppliers=suppliers, epsilon=0.5, mass_floor=mass_floor)(h, joints, weights).backward()
        return h.grad

    torch.testing.assert_close(pull(0.01, 1e-4), 100 * pull(1.0, 1e-4))  # as the quotient has it
    torch.testing.assert_close(pull(0.01, 2.0), pull(1.0, 2.0))


@pytest.mark.parametrize("options", [{}, {"epsilon_start": 1.0, "likelihood": 0.1}, {"likelihood_start": 0.5}])
def test_options_make_the_same_loss_again(options):
    assert MatchingLoss(**MatchingLoss(**options).options()).options() == MatchingLoss(**options).options()
    changed = MatchingLoss(**{**MatchingLoss().options(), "epsilon": 0.2, "likelihood": 0.1})
    assert (changed.epsilon_now(), changed.likelihood_now()) == (0.2, 0.1)


# ------------------------------------------------------------------------------------------- derivatives and compiling


def test_a_second_derivative_is_refused_in_a_sentence():
    heatmaps, joints, weights = batch()
    loss = MatchingLoss()
    heatmaps.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(heatmaps, joints, weights), heatmaps, create_graph=True)
    with pytest.raises(RuntimeError, match="the matching loss has no second derivative"):
        gradient.sum().backward()
    with pytest.raises(RuntimeError, match="the whole batch"):
        torch.func.grad(lambda h: loss(h, joints, weights))(heatmaps.detach())


@pytest.mark.parametrize("options", [{}, {"epsilon_start": 1.0}, {"likelihood_start": 1.0}])
def test_a_compiled_loss_is_not_compiled_again_as_a_weight_changes(options):
    heatmaps, joints, weights = batch()
    loss = MatchingLoss(**options)
    compiled = torch.compile(loss, backend="aot_eager")  # unlike "eager" it takes a changing number for a constant
    for step in range(3):
        loss.set_progress(step / 20)
        compiled(heatmaps, joints, weights)
    graphs = counters["stats"]["unique_graphs"]
    for step in range(3, 8):
        loss.set_progress(step / 20)
        torch.testing.assert_close(compiled(heatmaps, joints, weights), loss(heatmaps, joints, weights))
    assert counters["stats"]["unique_graphs"] == graphs


# ------------------------------------------------------------------------------------------- joints just off the map


def hrnet_weight(joint, size, sigma):
    """Whether HRNet trains on a joint: its patch, 3 sigma around the rounded joint, touches the map."""
    mu = [int(c + 0.5) for c in joint]  # truncates towards 0, as there
    upper_left = [int(m - 3 * sigma) for m in mu]
    bottom_right = [int(m + 3 * sigma + 1) for m in mu]
    outside = upper_left[0] >= size[1] or upper_left[1] >= size[0] or bottom_right[0] < 0 or bottom_right[1] < 0
    return 0.0 if outside else 1.0


@pytest.mark.parametrize("sigma", [0.75, 1.5, 2, 3])
def test_the_rounded_gaussian_trains_on_the_joints_that_hrnet_does(sigma):
    places = torch.arange(-13.0, 24.0, 0.7)
    joints = torch.cartesian_prod(places, places)
    loss = build_loss("gaussian_mse", sigma=sigma, rounded=True)
    used = loss.usable(joints, SIZE)
    assert used.tolist() == [hrnet_weight(joint, SIZE, sigma) > 0 for joint in joints.tolist()]
    assert used.sum() > build_loss("gaussian_mse").usable(joints, SIZE).sum()


def test_a_joint_off_the_map_whose_gaussian_reaches_it_is_trained_on():
    heatmaps = torch.zeros(1, 2, *SIZE)
    joints = torch.tensor([[[-2.0, 5.0], [-9.0, 5.0]]])
    losses = build_loss("gaussian_mse", sigma=2.0, rounded=True, reduction="none")(heatmaps, joints)
    assert losses[0, 0] > 0
    assert losses[0, 1] == 0
    assert (build_loss("gaussian_mse", sigma=2.0, reduction="none")(heatmaps, joints) == 0).all()


@pytest.mark.parametrize("given", ["False", "no", 0])
def test_a_word_is_not_taken_for_true(given):
    with pytest.raises(ValueError, match="rounded: is true or false"):
        build_loss("gaussian_mse", rounded=given)


def test_suppliers_of_no_kind_are_refused():
    with pytest.raises(ValueError, match=r"suppliers 'sofmax' is not known\. Did you mean 'softmax'"):
        make_suppliers(torch.zeros(1, 3, 3), "sofmax")
