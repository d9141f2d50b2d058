"""The notebooks of the claims retrain everything, tiny, when told to: their code paths, not their numbers."""

import re
from pathlib import Path

import nbformat
import papermill
import pytest

from hdmlib.config import make_config
from hdmlib.data.sources import embedded_folder

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One folder of runs: the notebooks share most of them."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("03_loss_vs_pckh", {"seeds": 1}),
        ("04_ablation", {"seeds": 1}),
        ("05_qualitative", {}),
        ("06_theorem1", {}),
        ("07_formulation", {}),
        ("09_matching_and_likelihood", {}),
    ],
)
def test_smoke(name, parameters, runs, tmp_path, monkeypatch):
    if name == "05_qualitative":  # the embedded people as if they were somebody's photos
        parameters = {**parameters, "data_root": str(embedded_folder(make_config("smoke")))}
    for variable, value in {"HDMLIB_RUNS": runs, "OMP_NUM_THREADS": 1, "PYTHONWARNINGS": "ignore"}.items():
        monkeypatch.setenv(variable, str(value))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        NOTEBOOKS / f"{name}.ipynb", out, {"preset": "smoke", **parameters}, progress_bar=False, cwd=tmp_path
    )
    notebook = nbformat.read(out, as_version=4)
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    printed = "".join(output.get("text", "") for output in last.outputs)
    assert re.search(r"measured [-+]?\d|measured [-+]?nan", printed)
    if name != "06_theorem1":  # what holds of every heatmap holds of tiny networks' too
        assert set(
            re.findall(r"\bverdict\b.*?(not testable at this scale|reproduced|holds|fails|undecided)", printed)
        ) == {"not testable at this scale"}
