"""How pytest runs the notebooks: strictly, on one thread, from any folder, never on results of an earlier run."""

import os
import tempfile
from pathlib import Path

import pytest

# Kernels inherit these. One thread each: two torch threads on two cores wait for one another.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["PYTHONWARNINGS"] = "ignore"  # warnings print paths and process numbers
os.environ.pop("MPLBACKEND", None)  # Agg would take the inline figures away
# Train for real, whatever lies in runs/.
os.environ.setdefault("HDMLIB_RUNS", tempfile.mkdtemp(prefix="hdmlib-runs-"))


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("nbval"):
        config.option.nbval_sanitize_with = str(Path(__file__).with_name("sanitize.cfg"))
        config.option.nbval_current_env = True
        config.option.nbval_cell_timeout = 300
