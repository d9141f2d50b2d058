"""Pictures of each notebook in JupyterLab, page by page, as it is saved. By hand: ``python tests/browser_pages.py TO``.

``python tests/browser_pages.py TO 02 05`` takes those two. A page is a screen of 1280 x 800 pixels, file browser
included. Needs what ``browser_panel.py`` needs.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from browser_panel import ROOT, SIZE, jupyter_lab

# Scrolled like a reader's: by less than a screen, with a pause. Lab would draw only the cells near the view, and white
# pages on a busy machine; with the windowing mode "none" it draws all.
STEP, PAUSE = 640, 1.0
PATIENCE = 5  # pauses without a move after which it is the end
TOP = "document.querySelector('.jp-WindowedPanel-outer').scrollTop"


def photograph(page: Any, name: str, to: Path) -> int:
    """Scroll an open notebook from its first cell to its last; the number of pictures."""
    page.mouse.move(760, 500)
    last, number, waited = -1.0, 0, 0
    while waited < PATIENCE:
        top = page.evaluate(TOP)
        waited = waited + 1 if top == last else 0  # a busy machine may not have drawn the next cells yet
        if not waited:
            page.screenshot(path=to / f"{name}_{number:02d}.png")
            last, number = top, number + 1
        page.mouse.wheel(0, STEP)
        time.sleep(PAUSE)
    return number


def main(to: Path, numbers: list[str]) -> None:
    """Open every notebook, or those with these numbers, and write its pages to a folder."""
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as copy, sync_playwright() as play:
        for folder in ("notebooks", "figures"):
            shutil.copytree(ROOT / folder, Path(copy, folder))
        with jupyter_lab(Path(copy), windowingMode="none") as (address, token):
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for path in sorted(Path(copy, "notebooks").glob("[0-9]*.ipynb")):
                if numbers and path.stem[:2] not in numbers:
                    continue
                page = browser.new_page(viewport=SIZE)
                where = f"{address}/lab/tree/notebooks/{path.name}?token={token}&reset"
                page.goto(where, wait_until="domcontentloaded")
                page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
                time.sleep(5)  # pictures and formulas
                print(f"{path.stem}: {photograph(page, path.stem[:2], to)} pages")
                page.close()
            browser.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
