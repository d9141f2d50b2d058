"""Worker processes that do not outlive the process that started them."""

from __future__ import annotations

import os
import threading
import time


def end_with(parent: int) -> None:
    """End this process soon after its parent was killed; else it would wait for the next task for ever.

    On Windows it does nothing: there a process keeps the number of a parent that is gone.

    Args:
        parent: Process number of the parent.
    """
    threading.Thread(target=_wait_and_end, args=(parent,), daemon=True).start()


def _wait_and_end(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
