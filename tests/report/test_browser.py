"""The report in a real browser, at the width of a phone and of a desk, light and dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hf_dmt.report import write_report
from tests.report.runs import write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (chromium, chromium-browser or google-chrome on the path)"
)

# Headless Chromium makes no window narrower than 500 pixels, a frame can have any width.
FRAME = """<body style="margin:0">
<iframe id="frame" src="{report}" style="width:{width}px;height:2000px;border:0"></iframe>
<pre id="found"></pre><script>
window.onload = () => {{
  const page = document.getElementById("frame").contentDocument, view = page.defaultView;
  const boxes = (what) => Array.from(page.querySelectorAll(what), (node) => node.getBoundingClientRect());
  const luminance = (color) => color.match(/[0-9.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 765;
  document.getElementById("found").textContent = JSON.stringify({{
    figures: boxes("figure svg").map((box) => [box.width, box.height]),
    marks: Array.from(page.querySelectorAll("figure svg"), (svg) => svg.querySelectorAll("path").length),
    pictures: Array.from(page.images, (image) => [image.naturalWidth, image.getBoundingClientRect().width]),
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    letters: Math.min(...boxes("figure svg text").map((box) => box.height)),
    page: luminance(view.getComputedStyle(page.body).backgroundColor),
    ink: luminance(view.getComputedStyle(page.body).color),
    svgInk: luminance(view.getComputedStyle(page.querySelector("figure svg text")).fill),
  }});
}};
</script></body>"""


def look(report: Path, width: int, *, dark: bool) -> dict:
    """What a browser says of the page; fails on anything in its console."""
    frame = report.with_name("frame.html")
    frame.write_text(FRAME.format(report=report.name, width=width))
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        f"--user-data-dir={report.parent / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--window-size=1600,2000",
        "--enable-logging=stderr",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found is not None and found.group(1), done.stderr[-2000:]
    seen: dict = json.loads(html.unescape(found.group(1)))
    return seen


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("classes", [2, 150])
def test_nothing_is_cut_off_empty_or_invisible(tmp_path: Path, classes: int, width: int) -> None:
    """A page wider than the screen, a figure of no height or black letters on black pass every check of the text."""
    names = [f"a rather long class name, number {number}" for number in range(classes)]
    report = write_report(write_run(tmp_path, classes=names, pixels=classes == 150, gallery=True))
    dark = width == 390
    seen = look(report, width, dark=dark)
    assert seen["overflow"] <= 0
    assert len(seen["figures"]) == 13
    assert all(300 < wide <= width and high > 150 for wide, high in seen["figures"])
    assert all(marks > 5 for marks in seen["marks"])
    assert len(seen["pictures"]) == (30 if classes == 150 else 5)
    assert all(real == 32 and shown > 90 for real, shown in seen["pictures"])
    assert seen["letters"] >= 8
    assert (seen["page"] < 0.2) if dark else (seen["page"] > 0.9)
    assert abs(seen["page"] - seen["ink"]) > 0.6 and abs(seen["page"] - seen["svgInk"]) > 0.25


def test_hostile_names_stay_silent(tmp_path: Path) -> None:
    """Whatever a name holds, the browser runs and loads nothing: either would show in its console."""
    names = ["<script>console.log('run')</script>", '"><img src="http://127.0.0.1:9/x" onerror="console.log(1)">']
    look(write_report(write_run(tmp_path, classes=names)), 1440, dark=False)
