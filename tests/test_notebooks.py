"""What nbval does not see: a notebook that was never run, messy outputs, a sanitizer that replaces nothing."""

import ast
import copy
import re
import runpy
import subprocess
import sys
from itertools import chain
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
BOOK = runpy.run_path(str(FOLDER / "book.py"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


# Colab's kernel is IPython. Its pip is only noted: README's own command proves that the project can be installed.
AS_ON_COLAB = """
import os, sys, types
from IPython.core.interactiveshell import InteractiveShell
sys.modules["google.colab"] = types.ModuleType("google.colab")
shell = InteractiveShell.instance()
shell.register_magic_function(lambda line: print("pip", line), magic_name="pip")
shell.run_cell(sys.argv[1]).raise_error()
print(os.getcwd())
"""


def test_on_colab_the_first_cell_fetches_the_project_and_enters_it(tmp_path):
    [cell] = [cell for cell in _code(nbformat.read(FOLDER / "02_train.ipynb", as_version=4)) if "colab" in cell.source]
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "origin")], check=True)
    source = cell.source.replace("https://github.com/OWNER/hdmlib", (tmp_path / "origin").as_uri())
    call = [sys.executable, "-c", AS_ON_COLAB, source]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ['pip install --quiet "./hdmlib[train]"', str(tmp_path / "hdmlib")]


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_every_code_cell_was_run_in_order(notebook):
    assert [cell.execution_count for cell in _code(notebook)] == list(range(1, len(_code(notebook)) + 1))


def test_outputs_are_clean(notebook):
    outputs = [output for cell in _code(notebook) for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    mimes = {mime for output in outputs for mime in output.get("data", {})}
    assert not mimes & {"application/vnd.jupyter.widget-view+json", "image/svg+xml"}
    assert "/home/" not in str(outputs)


def test_metadata_is_minimal(notebook):
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    tags = {tag for cell in notebook.cells for tag in cell.metadata.get("tags", ())}
    assert tags <= {"parameters", "nbval-ignore-output"}  # raises-exception would pass where nothing raises


def test_a_mistyped_parameter_would_be_refused(notebook):
    """A cell names all parameters; test_notebook.py and test_errors.py run such cells."""
    cells = _code(notebook)
    [parameters] = [cell for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    names = [line.target.id for line in ast.parse(parameters.source).body]
    nodes = chain.from_iterable(
        ast.walk(ast.parse(re.sub(r"(?m)^( *)[!%].*", r"\1pass", cell.source))) for cell in cells
    )
    calls = {ast.unparse(node) for node in nodes if isinstance(node, ast.Call)}
    assert names
    assert calls & {"notebook_config(globals())", f"check_parameters(globals(), {names})"}


def test_it_ends_in_a_verdict_that_was_computed(notebook):
    last = _code(notebook)[-1]
    printed = "".join(output.get("text", "") for output in last.outputs)
    assert re.search(r"\bverdict[^:\n]*: ", printed)
    assert re.search(r"measured [-+]?\d", printed)
    assert "nbval-ignore-output" not in last.metadata.get("tags", ())


def test_the_sanitizer_replaces_something():
    text = (FOLDER / "sanitize.cfg").read_text()
    patterns = re.findall(r"^regex: (.+)$", text, flags=re.M)
    assert patterns
    assert (
        len(patterns) == len(re.findall(r"^replace: ", text, flags=re.M)) == len(re.findall(r"^\[", text, flags=re.M))
    )
    committed = "".join(path.read_text() for path in NOTEBOOKS)
    for pattern in patterns:
        assert re.search(pattern, committed), pattern


def test_no_notebook_holds_a_long_function(notebook):
    for cell in _code(notebook):
        assert len(cell.source.splitlines()) <= 45


# ------------------------------------------------------------------------------------------------------- one book


@pytest.fixture(scope="module")
def book():
    return {path.stem: nbformat.read(path, as_version=4) for path in NOTEBOOKS}


def test_the_numbers_of_the_notebooks_are_their_order(book):
    assert [int(name[:2]) for name in book] == list(range(1, len(book) + 1))
    assert [int(BOOK["title"](notebook)[:2]) for notebook in book.values()] == list(range(1, len(book) + 1))


def test_each_notebook_leads_to_its_neighbours_and_to_the_contents(book):
    titles = {name: BOOK["title"](notebook) for name, notebook in book.items()}
    for number, (name, notebook) in enumerate(book.items()):
        bound = copy.deepcopy(notebook)
        BOOK["with_links"](bound, BOOK["links"](number, titles))
        assert bound == notebook, f"{name}: run `python notebooks/book.py`"
        targets = set(re.findall(r"\]\((\w+\.(?:ipynb|md))\)", notebook.cells[-1].source))
        around = list(book)[max(number - 1, 0) : number + 2]
        assert targets == {"README.md", *(f"{other}.ipynb" for other in around if other != name)}


def test_each_opens_with_question_answer_and_time(book):
    for name, notebook in book.items():
        for word in ("Question", "Answer", "Time"):
            assert BOOK["opening"](notebook, word), f"{name}: no line that starts with **{word}.**"


def test_the_contents_page_is_that_of_the_notebooks(book):
    assert BOOK["CONTENTS"].read_text() == BOOK["contents_page"](book), "run `python notebooks/book.py`"


def test_every_relative_link_leads_somewhere(book):
    texts = {name: [cell.source for cell in n.cells if cell.cell_type == "markdown"] for name, n in book.items()}
    pages = ("README.md", "RESULTS.md", "../README.md", "../figures/README.md")
    texts |= {name: [(FOLDER / name).read_text()] for name in pages}
    for name, text in ((name, "\n".join(parts)) for name, parts in texts.items()):
        targets = re.findall(r"\]\(([^)#:\s]+)[)#]", text) + re.findall(r'src="([^":]+)"', text)
        assert not [target for target in targets if not ((FOLDER / name).parent / target).exists()], name


def test_all_notebooks_together_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 3e6, "run `python notebooks/book.py`"
