"""The cost of a training before it starts: a config and its data in, counts and an estimate of memory out.

The network runs once on torch's ``meta`` device, where tensors have shapes but no values, so nothing is computed.
Multiply-adds are those of its convolutions and matrix products; the tensors that autograd saves for the backward pass
are counted as they are saved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from hdmlib.config import Config
from hdmlib.data.sources import Data
from hdmlib.models.registry import build_model
from hdmlib.published import TRAINING_COST

# A weight, its gradient and Adam's two moments, in float32.
BYTES_PER_PARAMETER = 16
# A backward pass costs twice a forward pass.
PASSES_OF_A_STEP = 3
# The rate that hours are given for, well below the peak of a large GPU; twice the rate takes half the time.
TERAFLOPS = 10


@dataclass(frozen=True)
class Estimate:
    """The size of a training.

    Attributes:
        parameters: Number of the network's weights.
        multiply_adds: Multiply-adds of one crop's forward pass.
        steps_per_epoch: Optimiser steps per epoch.
        epochs: Epochs of the training.
        operations: Floating-point operations of the whole training with its evaluations, two for a multiply-add.
        memory: Bytes of weights, gradients, Adam's moments and the tensors saved for the backward pass of one batch, or
            of the part that is computed at a time, without the workspace of convolutions and allocator.
    """

    parameters: int
    multiply_adds: int
    steps_per_epoch: int
    epochs: int
    operations: float
    memory: int

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.steps_per_epoch * self.epochs

    def __str__(self) -> str:
        cost = TRAINING_COST
        return "\n".join(
            (
                f"network   {self.parameters:,} parameters, {self.multiply_adds / 1e9:.1f} G multiply-adds a crop",
                f"steps     {self.steps_per_epoch:,} an epoch, {self.steps:,} in {self.epochs} epochs",
                f"memory    at least {self.memory / 2**30:.1f} GiB for one batch",
                f"work      {self.operations:.2g} operations: {self.operations / (TERAFLOPS * 3.6e15):,.1f} hours at "
                f"{TERAFLOPS} TFLOP/s sustained",
                f"for scale {cost.model} on {cost.dataset} took {cost.hours[0]}-{cost.hours[1]} hours on "
                f"{cost.hardware}",
            )
        )


def estimate(config: Config, data: Data) -> Estimate:
    """Count the operations and the memory of a training; nothing is computed or allocated.

    Args:
        config: Network, input, batch, epochs, precision.
        data: The people, for their number and that of their joints.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton

    with torch.device("meta"):
        model = build_model(config.model, num_joints=len(data.train.skeleton))
        crop = torch.empty(1, 3, config.input_height, config.input_width)
    with FlopCounterMode(display=False) as counter:
        kept = _kept_for_backward(model, crop)
    multiply_adds = counter.get_total_flops() // 2
    parameters = sum(weight.numel() for weight in model.parameters())
    if config.precision == "bf16":
        kept //= 2
    part = math.ceil(min(config.batch_size, len(data.train)) / config.accumulate)
    evaluated = (2 if config.flip_test else 1) * len(data.val)
    crops = config.epochs * (PASSES_OF_A_STEP * len(data.train) + evaluated)
    return Estimate(
        parameters=parameters,
        multiply_adds=multiply_adds,
        steps_per_epoch=math.ceil(len(data.train) / config.batch_size),
        epochs=config.epochs,
        operations=2.0 * multiply_adds * crops,
        memory=BYTES_PER_PARAMETER * parameters + part * kept,
    )


def _kept_for_backward(model: nn.Module, crop: Tensor) -> int:
    """Bytes that autograd saves in one forward pass, without weights, a shared storage counted once."""
    own = {StorageWeakRef(weight.untyped_storage()) for weight in [*model.parameters(), *model.buffers()]}
    storages: dict[StorageWeakRef, Tensor] = {}  # holds the tensors, so that no storage's address is reused

    def keep(tensor: Tensor) -> Tensor:
        storages.setdefault(StorageWeakRef(tensor.untyped_storage()), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(crop)
    return sum(tensor.untyped_storage().nbytes() for ref, tensor in storages.items() if ref not in own)
