"""Pictures for the README: ``python -m benchmarks.screenshots STORE --out FOLDER``.

Needs the ``dev`` extra and a Chromium: the system's, or Playwright's own (``playwright install
chromium``). Only for stores whose corpus may be shown, such as the synthetic one.
"""

from __future__ import annotations

import argparse
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distill.runs.read import collect
from featstore.core.files import make_folders, write_file
from featstore.inspection.view.payloads import Payloads
from featstore.inspection.view.serve import served
from featstore.store.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTH, HEIGHT = 1360, 800
COLOURS = 128
"""Of a picture: a page has few, and a palette makes it a third of the size."""
PICTURES = {
    "view-utterance.png": ("light", "fold=4&tau=2&agree=no&role=test"),
    "view-map.png": ("dark", "fold=4&tab=map&tau=2"),
}
"""File -> the theme, and the state that the address asks for."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium: the system's where there is one."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def ready(page: Page, address: str) -> None:
    """Open the page and wait until it has drawn itself."""
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    page.wait_for_selector(".curves svg, .curves .hint", state="attached")


def take(store: Path, runs: Path | None, out: Path) -> list[Path]:
    """Take every picture; the files written."""
    make_folders(out)
    written = []
    with (
        served(Payloads(Store.open(store), collect([runs]) if runs else None)) as address,
        chromium() as browser,
    ):
        for name, (theme, state) in PICTURES.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            ready(page, f"{address}#{state}&theme={theme}")
            page.wait_for_timeout(500)  # the audio player fades in
            write_file(out / name, _small(page.screenshot()))
            written.append(out / name)
            page.close()
    return written


def _small(png: bytes) -> bytes:
    """The same picture with a palette."""
    from PIL import Image

    made = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").quantize(COLOURS).save(made, "PNG", optimize=True)
    return made.getvalue()


def main() -> None:
    """Parse and take."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screenshots")
    parser.add_argument("store", type=Path, help="a store, e.g. demo/store")
    parser.add_argument("--runs", type=Path, help="run folders of it, e.g. demo/runs")
    parser.add_argument("--out", type=Path, required=True, help="where the pictures go")
    options = parser.parse_args()
    for path in take(options.store, options.runs, options.out):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
