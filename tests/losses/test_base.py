"""What all losses share: reductions, optional weights, ignored joints, guards against inputs that are a mistake."""

import copy
import inspect
import pickle
import warnings

import numpy as np
import pytest
import torch

from hdmlib import Decoded
from hdmlib.losses import LOSSES, MatchingLoss, build_loss, visibility_weights
from hdmlib.losses.controls import CrossEntropy, GaussianMSE
from hdmlib.losses.deferred import DeferredFlags
from hdmlib.losses.guards import FEWEST_JOINTS

SIZE = (12, 10)


def batch(people=3, joints=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    heatmaps = torch.randn(people, joints, *SIZE, generator=generator)
    places = torch.rand(people, joints, 2, generator=generator) * torch.tensor([9.0, 11.0])
    return heatmaps, places, (torch.rand(people, joints, generator=generator) > 0.2).float()


# ------------------------------------------------------------------------------------------------------- reductions


@pytest.mark.parametrize("name", LOSSES)
def test_reductions_agree_with_the_unreduced_losses(name):
    heatmaps, joints, weights = batch()
    losses = build_loss(name, reduction="none")(heatmaps, joints, weights)
    assert losses.shape == (3, 4)
    assert (losses[weights == 0] == 0).all()
    people = losses.mean(dim=1) if name.endswith("mse") else losses.sum(dim=1)
    torch.testing.assert_close(build_loss(name)(heatmaps, joints, weights), people.mean())
    torch.testing.assert_close(
        build_loss(name, reduction="joint_mean")(heatmaps, joints, weights), losses.sum() / weights.sum()
    )
    torch.testing.assert_close(
        build_loss(name, reduction="per_joint")(heatmaps, joints, weights), losses.sum(0) / weights.sum(0)
    )


@pytest.mark.parametrize("name", LOSSES)
def test_the_joint_mean_does_not_grow_with_the_number_of_joints(name):
    heatmaps, joints, _ = batch(2, 3)
    loss = build_loss(name, reduction="joint_mean")
    few = loss(heatmaps, joints)
    many = loss(heatmaps.repeat(1, 7, 1, 1), joints.repeat(1, 7, 1))
    torch.testing.assert_close(many, few)


def descend(reduction, count, steps=40, lr=2.0):
    """Gradient descent on one map that ``count`` joints share."""
    joint = torch.tensor([4.3, 6.6])
    loss = MatchingLoss(cost="euclidean", epsilon=0.25, reduction=reduction)
    shared = torch.zeros(1, 1, *SIZE, requires_grad=True)
    for _ in range(steps):
        loss(shared.expand(1, count, *SIZE), joint.expand(1, count, 2)).backward()
        with torch.no_grad():
            shared -= lr * shared.grad
            shared.grad = None
    return shared.detach()


def test_one_learning_rate_serves_any_number_of_joints():
    torch.testing.assert_close(descend("joint_mean", 133), descend("joint_mean", 17), rtol=1e-4, atol=1e-4)
    assert (descend("mean", 133) - descend("mean", 17)).abs().max() > 1  # the sum over joints grows with K


def test_an_unknown_reduction_is_named():
    with pytest.raises(ValueError, match=r"reduction 'sum' is not known\. Known: mean, joint_mean, per_joint, none"):
        MatchingLoss(reduction="sum")


# ---------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("name", LOSSES)
def test_without_weights_every_joint_is_labelled(name):
    heatmaps, joints, weights = batch()
    loss = build_loss(name)
    assert torch.equal(loss(heatmaps, joints), loss(heatmaps, joints, torch.ones_like(weights)))


def test_cocos_flags_become_weights():
    assert visibility_weights(torch.tensor([[0, 1, 2]])).tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_a_zero_weight_joint_spoils_nothing_whatever_its_map_holds(name, value):
    heatmaps, joints, weights = batch()
    weights[1, 2] = 0
    loss = build_loss(name)
    sound = heatmaps.clone().requires_grad_()
    expected = loss(sound, joints, weights)
    expected.backward()
    spoilt = heatmaps.clone()
    spoilt[1, 2] = value
    spoilt.requires_grad_()
    found = loss(spoilt, joints, weights)
    found.backward()
    assert torch.equal(found, expected)
    assert torch.equal(spoilt.grad, sound.grad)


# -------------------------------------------------------------------------------------------------- empty and absurd


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "joint_mean"])
def test_an_empty_batch_is_0_with_a_gradient(name, reduction):
    heatmaps = torch.zeros(0, 4, *SIZE, requires_grad=True)
    value = build_loss(name, reduction=reduction)(heatmaps, torch.zeros(0, 4, 2), torch.zeros(0, 4))
    assert value == 0
    value.backward()
    assert heatmaps.grad.shape == heatmaps.shape


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_unlabelled_joints_is_0_with_a_gradient(name):
    heatmaps, joints, weights = batch()
    heatmaps.requires_grad_()
    value = build_loss(name, reduction="joint_mean")(heatmaps, joints, 0 * weights)
    value.backward()
    assert value == 0
    assert (heatmaps.grad == 0).all()


@pytest.mark.parametrize("shape", [(2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)])
def test_maps_without_joints_or_cells_are_refused(shape):
    with pytest.raises(ValueError, match="have no joint or no cell"):
        MatchingLoss()(torch.zeros(shape), torch.zeros(*shape[:2], 2), torch.ones(shape[:2]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("what", "message"),
    [("heatmaps", "heatmaps hold NaN or infinity"), ("weights", "weights must be finite and not negative")],
)
def test_numbers_that_are_not_finite_are_refused_by_name(name, what, message):
    heatmaps, joints, weights = batch()
    weights[0, 0] = 1
    if what == "heatmaps":
        heatmaps[0, 0, 3, 3] = float("nan")
    else:
        weights[0, 0] = float("nan")
    with pytest.raises(ValueError, match=message):
        build_loss(name)(heatmaps, joints, weights)


@pytest.mark.parametrize("name", LOSSES)
def test_negative_weights_are_refused(name):
    heatmaps, joints, weights = batch()
    with pytest.raises(ValueError, match="weights must be finite and not negative"):
        build_loss(name)(heatmaps, joints, weights - 1)


# ----------------------------------------------------------------------------------------------------------- guards


@pytest.mark.parametrize("name", ["matching", "cross_entropy", "soft_argmax"])
def test_softmaxed_maps_are_noticed_once(name):
    heatmaps, joints, weights = batch()
    loss, maps = build_loss(name), heatmaps.flatten(2).softmax(-1).view_as(heatmaps)
    with pytest.warns(UserWarning, match="distributions already"):
        loss(maps, joints, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            loss(maps, joints, weights)


def test_softmaxed_maps_of_half_precision_are_noticed():
    heatmaps, joints, weights = batch()
    with pytest.warns(UserWarning, match="distributions already"):
        MatchingLoss()(heatmaps.flatten(2).softmax(-1).view_as(heatmaps).bfloat16(), joints, weights)


def test_maps_that_stay_within_a_sigmoid_are_noticed():
    heatmaps, joints, weights = batch()
    loss = MatchingLoss()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(15):
            loss(heatmaps.sigmoid(), joints, weights)
        for _ in range(20):
            GaussianMSE()(heatmaps.sigmoid(), joints, weights)
    with pytest.warns(UserWarning, match="as after a sigmoid"):
        loss(heatmaps.sigmoid(), joints, weights)


def test_raw_maps_that_are_between_0_and_1_at_first_are_no_sigmoids():
    heatmaps, joints, weights = batch()
    loss = MatchingLoss()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in range(40):
            loss(heatmaps if call == 7 else heatmaps.sigmoid(), joints, weights)


@pytest.mark.parametrize("options", [{"suppliers": "relu_plain"}, {"suppliers": "relu"}])
def test_softmaxed_maps_suit_relu_suppliers(options):
    heatmaps, joints, weights = batch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MatchingLoss(**options)(heatmaps.flatten(2).softmax(-1).view_as(heatmaps), joints, weights)


@pytest.mark.parametrize("name", LOSSES)
def test_joints_in_pixels_are_noticed(name):
    heatmaps, joints, _ = batch(3, FEWEST_JOINTS)
    with pytest.warns(UserWarning, match="most joints lie outside the heatmap"):
        build_loss(name)(heatmaps, 4 * joints + 20)


def test_joints_in_pixels_are_noticed_however_few_a_batch_has():
    heatmaps, loss = torch.randn(2, 1, 24, 24), MatchingLoss()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(7):
            loss(heatmaps, torch.full((2, 1, 2), 60.0))
    with pytest.warns(UserWarning, match="most joints lie outside the heatmap"):  # eight joints of four calls
        loss(heatmaps, torch.full((2, 1, 2), 60.0))


@pytest.mark.parametrize("fractions", [lambda cells: cells / 12, lambda cells: cells / 6 - 1])
def test_joints_in_fractions_of_the_picture_are_noticed(fractions):
    heatmaps, joints, _ = batch(3, FEWEST_JOINTS)
    with pytest.warns(UserWarning, match="not in fractions of the picture"):
        MatchingLoss()(heatmaps, fractions(joints.clamp(min=0)))


def test_flags_as_weights_are_noticed():
    heatmaps, joints, _ = batch()
    flags = torch.tensor([0.0, 1, 2, 2]).expand(3, 4)
    with pytest.warns(UserWarning, match="visibility_weights"):
        MatchingLoss()(heatmaps, joints, flags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MatchingLoss()(heatmaps, joints, visibility_weights(flags))
        MatchingLoss()(heatmaps, joints, 0.5 * flags)


def small_numbers(flags):
    return np.array(flags, dtype=np.uint16)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, small_numbers, list])
def test_flags_may_be_a_tensor_an_array_or_a_list(kind):
    assert visibility_weights(kind([[0, 1, 2], [2, 1, 0]])).tolist() == [[0, 1, 1], [1, 1, 0]]


def test_flags_that_the_default_collate_has_taken_apart_are_refused():
    collated = torch.utils.data.default_collate([{"v": [0, 1, 2]}, {"v": [2, 1, 0]}])["v"]
    with pytest.raises(TypeError, match="let the dataset give an array or a tensor"):
        visibility_weights(collated)


def test_what_is_no_tensor_is_named():
    heatmaps, joints, weights = batch()
    with pytest.raises(TypeError, match="heatmaps must be a tensor, got list; call the loss for each output"):
        MatchingLoss()([heatmaps, heatmaps], joints, weights)
    with pytest.raises(TypeError, match="joints must be a tensor, got ndarray"):
        MatchingLoss()(heatmaps, joints.numpy(), weights)


def test_a_shape_of_another_framework_comes_with_its_remedy():
    heatmaps, joints, weights = batch()
    flags = torch.cat([joints, weights[..., None]], dim=2)
    for inputs, remedy in (
        ((heatmaps, joints, weights[..., None]), r"take weights\.squeeze\(2\)"),
        ((heatmaps, flags), r"joints\[\.\.\., :2\]"),
        ((heatmaps.permute(0, 2, 3, 1), joints), r"take heatmaps\.permute\(0, 3, 1, 2\)"),
        ((heatmaps, heatmaps), "joints_from_heatmaps"),
    ):
        with pytest.raises(ValueError, match=remedy):
            MatchingLoss()(*inputs)


def test_joints_that_are_not_finite_are_noticed_and_ignored():
    heatmaps, joints, weights = batch()
    weights[:] = 1
    joints[0, 1] = float("nan")
    without = weights.clone()
    without[0, 1] = 0
    with pytest.warns(UserWarning, match="hold NaN or infinity and are ignored"):
        value = MatchingLoss()(heatmaps, joints, weights)
    assert value == MatchingLoss()(heatmaps, joints, without)


def test_a_mistake_that_comes_later_is_still_noticed():
    heatmaps, joints, weights = batch()
    loss = MatchingLoss()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            loss(heatmaps, joints, weights)
    loss(heatmaps, joints, weights)
    loss(heatmaps, joints, weights)
    with pytest.raises(ValueError, match="NaN or infinity"):  # the 8th call is inspected
        loss(heatmaps * float("nan"), joints, weights + 1)


def test_flags_that_wait_for_others_are_added_up_and_not_lost():
    flags = DeferredFlags()
    assert flags.arrived() is None
    for raised in ([True, False], [False, True], [False, True]):
        flags.post(torch.tensor(raised))
    assert flags.arrived().tolist() == [1, 0]
    assert flags.arrived().tolist() == [0, 2]
    assert flags.arrived() is None


def test_a_loss_can_be_copied_and_pickled_while_flags_of_a_gpu_are_under_way():
    loss = MatchingLoss()
    loss(torch.randn(2, 3, 12, 9), torch.rand(2, 3, 2) * 8)
    loss._guard.flags._arrival = torch.Event("cpu")  # stands for CUDA's, which cannot be copied either
    for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), Decoded(torch.nn.Identity(), loss).loss):
        assert copied._guard.calls == 1
        copied(torch.randn(2, 3, 12, 9), torch.rand(2, 3, 2) * 8)


@pytest.mark.parametrize("loss", [GaussianMSE(), CrossEntropy()])
def test_gradients_of_people_by_torch_func(loss):
    heatmaps, joints = torch.randn(3, 2, 9, 8), 7 * torch.rand(3, 2, 2)
    each = torch.func.vmap(torch.func.grad(lambda h, j: loss(h[None], j[None])))(heatmaps, joints)
    together = torch.func.grad(lambda h: loss.per_person(h, joints).sum())(heatmaps)
    torch.testing.assert_close(each, together)


def test_the_matching_loss_says_on_the_first_call_that_torch_func_cannot_have_it():
    with pytest.raises(RuntimeError, match="the whole batch"):
        torch.func.vmap(torch.func.grad(lambda h, j: MatchingLoss()(h[None], j[None])))(
            torch.randn(3, 2, 9, 8), 7 * torch.rand(3, 2, 2)
        )


def test_joints_have_no_gradient_in_the_matching_loss():
    joints = (7 * torch.rand(1, 2, 2)).requires_grad_()
    assert not MatchingLoss()(torch.randn(1, 2, 9, 8), joints).requires_grad


@pytest.mark.parametrize("loss", ["matching", MatchingLoss])
def test_what_is_no_loss_decodes_nothing(loss):
    with pytest.raises(TypeError, match=r"loss must be a loss of hdmlib's, such as MatchingLoss\(\), got"):
        Decoded(torch.nn.Identity(), loss)


def test_a_network_of_several_outputs_is_not_decoded():
    with pytest.raises(TypeError, match="the network gives list, not heatmaps"):
        Decoded(torch.nn.Identity(), MatchingLoss())([torch.randn(1, 2, 9, 8)])


def test_a_network_in_float64_is_decoded_in_float64():
    joints, confidence = Decoded(torch.nn.Identity(), MatchingLoss())(torch.randn(1, 2, 9, 8).double())
    assert joints.dtype == confidence.dtype == torch.float64


def test_a_warning_points_to_the_line_that_called_the_loss():
    def call():
        return MatchingLoss()(torch.randn(2, 8, 9, 8), torch.full((2, 8, 2), 300.0))

    def call_per_person():
        return MatchingLoss().per_person(torch.randn(2, 8, 9, 8), torch.full((2, 8, 2), 300.0))

    for function in (call, call_per_person):
        with pytest.warns(UserWarning, match="most joints lie outside") as caught:
            function()
        assert caught[0].filename == __file__


def test_a_printed_loss_names_its_options():
    assert "sigma=0.75, rounded=False, likelihood=0.0, reduction='mean'" in repr(GaussianMSE())
    options = inspect.signature(MatchingLoss).parameters
    assert all(f"{name}=" in repr(MatchingLoss(epsilon=0.1, likelihood_start=0.2)) for name in options)


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.int64(1), 1])
def test_numbers_of_numpy_are_numbers(value):
    assert MatchingLoss(epsilon=value).epsilon == float(value)


@pytest.mark.parametrize("value", [True, "0.1", float("nan"), None])
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"epsilon must be a number from 0\.0001 to 10000, got"):
        MatchingLoss(epsilon=value)
