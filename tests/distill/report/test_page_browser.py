"""The page in headless Chromium: it asks for nothing, complains of nothing, fits a telephone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from distill.report import collect, figures, pages, summarise
from tests.distill.report.full_study import write_full

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

WRAPPER = """<body style="margin:0">
<iframe id="frame" src="report.html" width="{width}" height="900" style="border:0"></iframe>
<script>
frame.onload = () => {{
  const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
  const outside = [...page.querySelectorAll("body *")].filter(
    (e) => !e.closest(".scroll") && e.getBoundingClientRect().right > {width} + 1);
  document.body.dataset.seen = JSON.stringify({{
    overflow: root.scrollWidth - root.clientWidth,
    outside: outside.map((e) => e.tagName),
    fetched: view.performance.getEntriesByType("resource").map((e) => e.name)
      .filter((name) => !name.startsWith("data:")),
    ground: view.getComputedStyle(page.body).backgroundColor,
    ink: view.getComputedStyle(page.querySelector("td")).color,
    images: [...page.images].map((e) => [e.naturalWidth, e.getBoundingClientRect().width]),
  }});
}};
</script>"""


def chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
             "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND",
             "--virtual-time-budget=3000"]  # fmt: skip
    return subprocess.run(
        [CHROMIUM, *fixed, *arguments], capture_output=True, text=True, timeout=120, check=True
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    report = summarise(collect([write_full(root / "runs", range(1, 11))]))
    drawings = [figures.draw(study) for study in report.studies]
    (root / "report.html").write_text(pages.html(report, drawings))
    return root


def seen(folder: Path, width: int, *arguments: str) -> dict[str, object]:
    """What a frame of that width makes of the page."""
    (folder / "wrapper.html").write_text(WRAPPER.format(width=width))
    done = chromium("--dump-dom", *arguments, (folder / "wrapper.html").as_uri())
    assert "CONSOLE" not in done.stderr, done.stderr
    (found,) = re.findall(r'data-seen="([^"]*)"', done.stdout)
    measured: dict[str, object] = json.loads(found.replace("&quot;", '"'))
    return measured


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_fetched_and_nothing_hangs_over(folder: Path, width: int) -> None:
    found = seen(folder, width)
    assert found["fetched"] == []
    assert found["overflow"] == 0
    assert found["outside"] == []
    images = found["images"]
    assert isinstance(images, list)
    assert len(images) == 8
    assert all(natural > 400 and shown > 400 for natural, shown in images)  # drawn, and readable


def test_dark_and_light_differ_in_ground_and_ink(folder: Path) -> None:
    light = seen(folder, 1280, "--blink-settings=preferredColorScheme=1")
    dark = seen(folder, 1280, "--blink-settings=preferredColorScheme=0")

    def brightness(colour: object) -> float:
        return sum(map(int, re.findall(r"\d+", str(colour))[:3])) / 3

    assert brightness(light["ground"]) > 240 > 60 > brightness(light["ink"])
    assert brightness(dark["ground"]) < 40 < 200 < brightness(dark["ink"])


def test_the_policy_has_no_complaint_alone_and_forbids_what_is_added(folder: Path) -> None:
    address = (folder / "report.html").as_uri()
    assert "CONSOLE" not in chromium("--dump-dom", address).stderr
    # the same page with a script: were there no policy, it would run unremarked
    bad = (folder / "report.html").read_text().replace("</main>", "<script>1</script></main>")
    (folder / "bad.html").write_text(bad)
    done = chromium("--dump-dom", (folder / "bad.html").as_uri())
    assert "CONSOLE" in done.stderr
    assert "Content Security Policy" in done.stderr


def test_it_prints(folder: Path) -> None:
    target = folder / "page.pdf"
    address = (folder / "report.html").as_uri()
    chromium("--no-pdf-header-footer", f"--print-to-pdf={target}", address)
    assert target.read_bytes().startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", target.read_bytes()))
    assert 5 < pages < 40
