"""Move a slider of notebook 01 in JupyterLab and see its picture change. By hand: ``python tests/browser_panel.py``.

Needs playwright (``pip install playwright``) and a Chromium, found on the path or by ``playwright install chromium``.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "notebooks/01_matching_loss.ipynb"
SIZE: Any = {"width": 1280, "height": 800}


@contextmanager
def jupyter_lab(folder: Path, **notebook: str) -> Iterator[tuple[str, str]]:
    """Address and token of a JupyterLab with settings of its own, those of its notebooks among them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, settings = secrets.token_hex(16), tempfile.mkdtemp()
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None",
    ]  # fmt: skip
    for name, content in {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},  # else it asks
        "notebook-extension/tracker": notebook,
    }.items():
        path = Path(settings, "@jupyterlab", f"{name}.jupyterlab-settings")
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    places = {"JUPYTERLAB_SETTINGS_DIR": settings, "JUPYTERLAB_WORKSPACES_DIR": settings}
    server = subprocess.Popen(command, env=os.environ | places, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
                break
            except OSError:
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}", token
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(settings, ignore_errors=True)


def main(shots: Path) -> None:
    """Run the notebook's cells, move the first slider, and save a picture before and after."""
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as copy, sync_playwright() as play:
        shutil.copytree(ROOT / "notebooks", Path(copy, "notebooks"))
        with jupyter_lab(Path(copy)) as (address, token):
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE)
            page.goto(f"{address}/lab/tree/{NOTEBOOK}?token={token}&reset", wait_until="domcontentloaded")
            page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
            time.sleep(5)  # the kernel connects
            page.click('.lm-MenuBar-itemLabel:text-is("Run")')
            page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
            picture = page.locator("img.widget-image")
            picture.wait_for(timeout=180_000)
            picture.scroll_into_view_if_needed()
            before = picture.get_attribute("src")
            page.screenshot(path=shots / "panel_before.png")
            page.locator(".widget-slider .noUi-handle").first.focus()
            for _ in range(8):
                page.keyboard.press("ArrowRight")
            for _ in range(900):  # the kernel may be busy with the cells below
                if picture.get_attribute("src") != before:
                    break
                time.sleep(0.1)
            else:
                raise SystemExit("the slider moved and the picture did not change")
            page.screenshot(path=shots / "panel_after.png")
            print(f"the picture followed the slider; see {shots}/panel_before.png and panel_after.png")
            browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd())
