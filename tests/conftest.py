"""One torch thread, the same hypothesis examples in every run, and the folders of real samples."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported: on two cores, two threads in each of several test processes wait for one another.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

_BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def samples() -> Callable[[str], Path]:
    """Finds published files that the repository does not contain: ``samples("mpii_val_pckh_oracle")`` is their folder.

    They are looked for in ``HDMLIB_SAMPLES``, else in ``../shared/data`` beside the checkout. Without them the test
    is skipped.
    """
    root = Path(os.environ.get("HDMLIB_SAMPLES", _BESIDE_THE_CHECKOUT)).expanduser()

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(
                f"{name} is not in {root}; `hdmlib data samples` fetches what is public, HDMLIB_SAMPLES names it"
            )
        return root / name

    return folder
