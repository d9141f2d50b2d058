"""The bench that waits for a GPU: every line of it that a CPU can run, in its small form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).with_name("bench_gpu.py")
# Runs the script where only torch, numpy and Triton are installed.
BARE = """
import runpy, sys
missing = ("accelerate", "cv2", "numba", "pandas", "pydantic", "safetensors", "scipy")
sys.modules.update(dict.fromkeys(missing))  # None: not installed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bench(tmp_path: Path, *words: str, start: tuple[str, ...] = ()) -> tuple[dict, str]:
    record = tmp_path / "record.json"
    command = [sys.executable, *start, str(BENCH), "--device", "cpu", "--small", "--to", str(record), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(record.read_text()), done.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return bench(tmp_path_factory.mktemp("bench"))


def test_every_part_runs(found):
    record, _ = found
    assert set(record["skipped"]) == {"registers"}
    assert all(record["parts"][name] for name in record["parts"] if name != "registers")


def test_the_kernel_and_the_torch_path_are_right(found):
    pytest.importorskip("triton")
    rows = found[0]["parts"]["correctness"]
    assert {row["path"] for row in rows} == {"interpreter", "torch"}
    assert all(row["met"] for row in rows)


def test_the_table_names_each_row(found):
    record, table = found
    for rows in record["parts"].values():
        assert all(row["what"] in table for row in rows)


def test_a_bare_machine_is_told_what_a_part_needs(tmp_path):
    record, _ = bench(tmp_path, "--only", "waits", "crops", "gpu_demo", start=("-c", BARE))
    assert record["parts"]["waits"]
    assert record["skipped"] == {
        "crops": "needs cv2: pip install '.[train]'",
        "gpu_demo": "needs pydantic: pip install '.[train]'",
    }


def test_without_time_nothing_is_begun(tmp_path):
    record, _ = bench(tmp_path, "--minutes", "0")
    assert set(record["skipped"].values()) == {"the time was over"}
