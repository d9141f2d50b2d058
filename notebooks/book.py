"""The notebooks as one book: links from each to its neighbours, the contents page, small pictures with a description.

``python notebooks/book.py`` writes all of it and executes nothing. The contents page takes its words from the notebooks
(question, answer and time from the first cell, the verdict from the last output) and the descriptions of its pictures
from ``figures/README.md``, so that none of them is written twice; ``tests/test_notebooks.py`` compares.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).resolve().parent
FIGURES = FOLDER.parent / "figures"
CONTENTS = FOLDER / "README.md"
BEGIN, END = "<!-- contents -->\n", "<!-- /contents -->\n"
# Of each picture in a notebook: one that is mostly white is a diagram, which needs fewer.
COLOURS, COLOURS_OF_A_DIAGRAM = 256, 128
# Keeps the colours of thin lines and small marks, which the default spends on backgrounds.
COVERAGE = Image.Quantize.MAXCOVERAGE
# The picture of each notebook on the contents page, a name in figures/.
PICTURES = {
    "01_matching_loss": "01_descent",
    "02_train": "02_first",
    "03_loss_vs_pckh": "03_fig2",
    "04_ablation": "04_forest",
    "05_qualitative": "05_fig1",
    "06_theorem1": "06_two_heatmaps",
    "07_formulation": "07_cost",
    "08_in_your_training": "08_trainings",
    "09_matching_and_likelihood": "09_sum",
}


def chapters() -> list[Path]:
    """The notebooks in the order of their numbers."""
    return sorted(FOLDER.glob("[0-9]*.ipynb"))


def title(notebook: NotebookNode) -> str:
    """Its first heading."""
    return re.findall(r"^# (.+)$", notebook.cells[0].source, flags=re.M)[0]


def opening(notebook: NotebookNode, word: str) -> str:
    """The sentence after a word in bold, ``Question``, ``Answer`` or ``Time``, in its first cell; empty if missing."""
    found = re.search(
        rf"^\*\*{word}\.\*\* (.+?)(?:<br>)?$", notebook.cells[0].source, flags=re.M
    )
    return found.group(1) if found else ""


def verdict(notebook: NotebookNode) -> str:
    """The outcome that its last code cell printed; several outcomes are counted."""
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    printed = "".join(output.get("text", "") for output in last.outputs)
    outcomes = Counter(re.findall(r"\bverdict[^:\n]*: (.+?)[;.]?$", printed, flags=re.M))
    if sum(outcomes.values()) == 1:
        return next(iter(outcomes))
    return ", ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common())


def links(number: int, titles: dict[str, str]) -> str:
    """The line at the head and the foot of a notebook: previous, contents, next."""
    names = list(titles)
    line = ["[Contents](README.md)"]
    if number > 0:
        line.insert(
            0,
            f"[←\N{NO-BREAK SPACE}{titles[names[number - 1]]}]({names[number - 1]}.ipynb)",
        )
    if number + 1 < len(names):
        line.append(
            f"[{titles[names[number + 1]]}\N{NO-BREAK SPACE}→]({names[number + 1]}.ipynb)"
        )
    return " | ".join(line)


def with_links(notebook: NotebookNode, line: str) -> None:
    """Put the line of links first in the first cell, and alone in the last."""
    first = notebook.cells[0]
    first.source = (
        line
        + "\n\n"
        + re.sub(r"\A[^\n]*\[Contents\]\(README\.md\)[^\n]*\n+", "", first.source)
    )
    if "[Contents](README.md)" not in notebook.cells[-1].source:
        notebook.cells.append(
            nbformat.v4.new_markdown_cell(id=f"cell-{len(notebook.cells):02d}")
        )
    notebook.cells[-1].source = line


def with_small_pictures(notebook: NotebookNode) -> None:
    """Give the pictures of the outputs a palette: a third of the size, hardly a difference to be seen."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" not in output.get("data", {}):
                continue
            picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
            rgb = picture.convert("RGB")
            counts = dict(map(reversed, rgb.getcolors(rgb.width * rgb.height)))
            diagram = 2 * counts.get((255, 255, 255), 0) > rgb.width * rgb.height
            colours = COLOURS_OF_A_DIAGRAM if diagram else COLOURS
            if picture.mode != "P" or len(counts) > colours:
                small = io.BytesIO()
                rgb.quantize(colours, COVERAGE, kmeans=2, dither=Image.Dither.NONE).save(
                    small, "PNG", optimize=True
                )
                output.data["image/png"] = base64.b64encode(small.getvalue()).decode()


def with_descriptions(notebook: NotebookNode, shows: dict[str, str]) -> None:
    """Describe the pictures that are known by their names, as the table of figures does."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            picture = output.get("metadata", {}).get("image/png", {})
            picture.update(
                {"alt": shows[picture["alt"]]} if picture.get("alt") in shows else {}
            )


def described_figures() -> dict[str, str]:
    """Name of a figure -> what it shows, from the table of ``figures/README.md``."""
    rows = re.findall(
        r"^\| (\[.+?) \| (.+?) \|", (FIGURES / "README.md").read_text(), flags=re.M
    )
    return {
        name: shown for names, shown in rows for name in re.findall(r"\[(\w+)\]", names)
    }


def contents_table(notebooks: dict[str, NotebookNode]) -> str:
    """A row for each notebook: picture, title, question and answer, verdict, time."""
    shows = described_figures()
    rows = ["| | notebook | verdict | time |", "| --- | --- | --- | --- |"]
    for name, notebook in notebooks.items():
        picture = PICTURES[name]
        image = f'<img src="../figures/{picture}.png" width="220" alt="{shows[picture]}">'
        question, answer, time = (
            opening(notebook, word) for word in ("Question", "Answer", "Time")
        )
        words = f"**[{title(notebook)}]({name}.ipynb)**<br>{question} {answer}"
        rows.append(f"| [{image}]({name}.ipynb) | {words} | {verdict(notebook)} | {time} |")
    return "\n".join(rows) + "\n"


def contents_page(notebooks: dict[str, NotebookNode]) -> str:
    """The contents page with its table as the notebooks have it."""
    before, _, rest = CONTENTS.read_text().partition(BEGIN)
    return before + BEGIN + contents_table(notebooks) + END + rest.partition(END)[2]


def bind() -> None:
    """Write links, small pictures with their descriptions, and the contents page."""
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in chapters()}
    titles = {name: title(notebook) for name, notebook in notebooks.items()}
    shows = described_figures()
    for number, (name, notebook) in enumerate(notebooks.items()):
        with_links(notebook, links(number, titles))
        with_small_pictures(notebook)
        with_descriptions(notebook, shows)
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
    CONTENTS.write_text(contents_page(notebooks))


if __name__ == "__main__":
    bind()
