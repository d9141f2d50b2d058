"""Flags that a device computes and the host reads later, so that a training never waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor


class DeferredFlags:
    """One set of numbers on its way from a device to the host; at most one at a time.

    On a CPU the numbers are there at once. On a GPU they are copied in the stream's order and read at a later call,
    when the copy has arrived by itself.
    """

    def __init__(self) -> None:
        self._copy: Tensor | None = None
        self._arrival: torch.cuda.Event | None = None

    def post(self, flags: Tensor) -> None:
        """Start to bring ``flags`` to the host, in place of any that are still under way."""
        if flags.is_cuda:
            self._copy, self._arrival = flags.to("cpu", non_blocking=True), torch.cuda.Event()
            self._arrival.record()
        else:
            self._copy, self._arrival = flags.cpu(), None

    def arrived(self) -> Tensor | None:
        """The posted numbers, once, if they have arrived; never waits for a GPU."""
        if self._copy is None or (self._arrival is not None and not self._arrival.query()):
            return None
        copy, self._copy = self._copy, None
        return copy
