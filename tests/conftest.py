"""One torch thread, the same hypothesis examples in every run, and the folder of real samples."""

import os
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
def samples() -> Path:
    """Folder of published annotations, photos and predictions that the repository does not contain.

    It is taken from ``HDMLIB_SAMPLES``, else ``../shared/data`` beside the checkout. Without it the test is skipped.
    """
    folder = Path(os.environ.get("HDMLIB_SAMPLES", _BESIDE_THE_CHECKOUT)).expanduser()
    if not folder.is_dir():
        pytest.skip("needs the real samples; HDMLIB_SAMPLES names their folder")
    return folder
