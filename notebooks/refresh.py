"""Execute notebooks in place, leaving files that change only when their content does, and their figures in figures/.

``python notebooks/refresh.py`` runs all of them, ``python notebooks/refresh.py 02_train`` one, and
``python notebooks/refresh.py README`` writes the tables of README and ``RESULTS.md`` from the committed records. Each
ends by binding the book (``book.py``): links, contents page, small pictures.
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


def refresh_tables(*pages: Path) -> None:
    """Put the tables of both studies, as the records have them, between the markers of the pages that have such."""
    from hdmlib.study.claims import claims_text
    from hdmlib.study.second import every_difference_text, second_text

    tables = {
        "second": second_text(),
        "differences": every_difference_text(),
        "claims": claims_text(),
    }
    for page in pages:
        text = page.read_text()
        for marker, table in tables.items():
            before, found, rest = text.partition(f"<!-- {marker} -->\n")
            if found:
                after = rest.partition(f"<!-- /{marker} -->")[2]
                text = f"{before}{found}{table}\n<!-- /{marker} -->{after}"
        page.write_text(text)


if __name__ == "__main__":
    names = sys.argv[1:] or [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]
    for name in names:
        if name == "README":
            refresh_tables(FOLDER.parent / "README.md", FOLDER / "RESULTS.md")
        else:
            refresh(FOLDER / f"{name}.ipynb")
    bind()
