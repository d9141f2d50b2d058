"""Flags that a device computes and the host reads later, so that a training never waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor


class DeferredFlags:
    """Counts on their way from a device to the host; none is lost.

    On a CPU they are there at once. On a GPU they are copied in the stream's order and read at a later call, when the
    copy has arrived by itself; what is posted meanwhile is added up and sent after it.
    """

    def __init__(self) -> None:
        self._copy: Tensor | None = None
        self._arrival: torch.cuda.Event | None = None
        self._waiting: Tensor | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """A copy starts with flags of its own: CUDA's events can be neither copied nor pickled."""
        return DeferredFlags, ()

    def post(self, flags: Tensor) -> None:
        """Start to bring counts, or flags to be counted, to the host."""
        flags = flags.long()
        if self._waiting is not None:
            flags = flags + self._waiting.to(flags.device)
        if self._copy is None:
            self._send(flags)
        else:
            self._waiting = flags

    def arrived(self) -> Tensor | None:
        """The counts that have arrived and were not read yet; never waits for a GPU."""
        if self._copy is None or (self._arrival is not None and not self._arrival.query()):
            return None
        copy, self._copy = self._copy, None
        if self._waiting is not None:
            self._send(self._waiting)
            self._waiting = None
        return copy

    def _send(self, flags: Tensor) -> None:
        if flags.is_cuda:
            with torch.cuda.device_of(flags):  # an event is recorded on the current device's stream
                self._copy, self._arrival = flags.to("cpu", non_blocking=True), torch.cuda.Event()
                self._arrival.record()
        else:
            self._copy, self._arrival = flags.cpu(), None
