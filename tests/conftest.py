"""One torch thread, as in the kernels: two on two cores wait for one another. The same examples in every run."""

import os

from hypothesis import settings

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
