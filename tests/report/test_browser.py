"""The report in a real browser, at the width of a phone and of a desktop screen, light and dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from hf_dmt.report import write_report
from tests.report.runs import write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (chromium, chromium-browser or google-chrome on the path)"
)

# Headless Chromium makes no window narrower than 500 pixels, a frame can have any width.
FRAME = '<iframe src="{report}" style="width:{width}px;height:2000px;border:0"></iframe>'
PAGE = """<body style="margin:0">
{frames}
<pre id="found"></pre><script>
const measures = (frame) => {{
  const page = frame.contentDocument, view = page.defaultView;
  const boxes = (what) => Array.from(page.querySelectorAll(what), (node) => node.getBoundingClientRect());
  const luminance = (color) => color.match(/[0-9.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 765;
  return {{
    figures: boxes("figure svg").map((box) => [box.width, box.height]),
    marks: Array.from(page.querySelectorAll("figure svg"), (svg) => svg.querySelectorAll("path").length),
    pictures: Array.from(page.images, (image) => [image.naturalWidth, image.getBoundingClientRect().width]),
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    letters: Math.min(...boxes("figure svg text").map((box) => box.height)),
    page: luminance(view.getComputedStyle(page.body).backgroundColor),
    ink: luminance(view.getComputedStyle(page.body).color),
    svgInk: luminance(view.getComputedStyle(page.querySelector("figure svg text")).fill),
  }};
}};
window.onload = () => {{
  const frames = Array.from(document.querySelectorAll("iframe"), measures);
  document.getElementById("found").textContent = JSON.stringify(frames);
}};
</script></body>"""


def look(reports: Sequence[Path], width: int, *, dark: bool, folder: Path) -> list[dict]:
    """What a browser measures on each page; fails if anything appears in its console."""
    page = folder / f"page-{width}.html"
    page.write_text(PAGE.format(frames="\n".join(FRAME.format(report=file.as_uri(), width=width) for file in reports)))
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / f'profile-{width}'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--window-size=1600,2000",
        "--enable-logging=stderr",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found is not None and found.group(1), done.stderr[-2000:]
    seen: list[dict] = json.loads(html.unescape(found.group(1)))
    return seen


CLASSES = (2, 150)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], dict]:
    """Measurements by number of classes and width. All pages of a width share one start of the browser, which takes
    longer than a page."""
    reports = []
    for count in CLASSES:
        names = [f"a rather long class name, number {number}" for number in range(count)]
        folder = tmp_path_factory.mktemp("run")
        reports.append(write_report(write_run(folder, classes=names, pixels=count == 150, gallery=True)))
    looks = tmp_path_factory.mktemp("looks")
    return {
        (count, width): found
        for width, dark in ((390, True), (1440, False))
        for count, found in zip(CLASSES, look(reports, width, dark=dark, folder=looks), strict=True)
    }


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("classes", CLASSES)
def test_nothing_is_cut_off_empty_or_invisible(seen: dict[tuple[int, int], dict], classes: int, width: int) -> None:
    """Guards against a page wider than the screen, a figure of no height, and black letters on black: checks of the
    text miss these."""
    dark, found = width == 390, seen[classes, width]
    assert found["overflow"] <= 0
    assert len(found["figures"]) == 13
    assert all(300 < wide <= width and high > 150 for wide, high in found["figures"])
    assert all(marks > 5 for marks in found["marks"])
    assert len(found["pictures"]) == (30 if classes == 150 else 5)
    assert all(real == 32 and shown > 90 for real, shown in found["pictures"])
    assert found["letters"] >= 8
    assert (found["page"] < 0.2) if dark else (found["page"] > 0.9)
    assert abs(found["page"] - found["ink"]) > 0.6 and abs(found["page"] - found["svgInk"]) > 0.25


def test_hostile_names_stay_silent(tmp_path: Path) -> None:
    """Whatever a name contains, the browser must run and load nothing from it; either would show in its console."""
    names = ["<script>console.log('run')</script>", '"><img src="http://127.0.0.1:9/x" onerror="console.log(1)">']
    look([write_report(write_run(tmp_path, classes=names))], 1440, dark=False, folder=tmp_path)
