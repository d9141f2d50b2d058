"""Execute notebooks in place, leaving files that change only when their content does, and their figures in figures/.

``python notebooks/refresh.py`` runs all of them, ``python notebooks/refresh.py 02_train`` one, and
``python notebooks/refresh.py README`` writes README's tables from the committed records. Each ends by binding the book
(``book.py``): links, contents page, small pictures.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from book import bind
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["PYTHONWARNINGS"] = "ignore"
os.environ.pop("MPLBACKEND", None)
# Figures that the gallery shows are kept there.
os.environ["HDMLIB_FIGURES"] = str(FOLDER.parent / "figures")
os.environ.setdefault("HDMLIB_RUNS", tempfile.mkdtemp(prefix="hdmlib-runs-"))


def refresh(path: Path) -> None:
    """Run one notebook from the top and write it back."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", record_timing=False, store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
        extra_arguments=["--IPKernelApp.log_level=40"],  # else it prints about its transport at each start
    )  # fmt: skip
    client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
    nbformat.write(notebook, path)
    count = sum(cell.cell_type == "code" for cell in notebook.cells)
    print(f"{path.name}: {count} code cells")


def refresh_readme(path: Path) -> None:
    """Put the tables of both studies, as the records have them, between README's markers."""
    from hdmlib.study.claims import claims_text
    from hdmlib.study.second import second_text

    for marker, text in {"claims": claims_text(), "second": second_text()}.items():
        before, _, rest = path.read_text().partition(f"<!-- {marker} -->\n")
        after = rest.partition(f"<!-- /{marker} -->")[2]
        path.write_text(f"{before}<!-- {marker} -->\n{text}\n<!-- /{marker} -->{after}")


if __name__ == "__main__":
    names = sys.argv[1:] or [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]
    for name in names:
        if name == "README":
            refresh_readme(FOLDER.parent / "README.md")
        else:
            refresh(FOLDER / f"{name}.ipynb")
    bind()
