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

from hf_dmt.report import figures, write_report
from hf_dmt.report.panels import PANELS
from tests.report.runs import write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (chromium, chromium-browser or google-chrome on the path)"
)

# Headless Chromium makes no window narrower than 500 pixels, a frame can have any width. What a page in a frame is told
# that its reader prefers, light or dark, is the color scheme of the frame.
FRAME = '<iframe src="{report}" style="width:{width}px;height:2000px;border:0;color-scheme:{scheme}"></iframe>'
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


CLASSES = (2, 150)
WIDTHS = {390: "dark", 1440: "light"}


def look(frames: Sequence[str], folder: Path) -> tuple[list[dict], list[str]]:
    """What a browser measures in each frame, and what appears in its console."""
    page = folder / "page.html"
    page.write_text(PAGE.format(frames="\n".join(frames)))
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1600,2000",
        "--enable-logging=stderr",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found is not None and found.group(1), done.stderr[-2000:]
    return json.loads(html.unescape(found.group(1))), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], list[str]]:
    """All pages share one start of the browser, which takes longer than a page: each number of classes at each width,
    and a page of hostile names."""
    reports = []
    for count in CLASSES:
        names = [f"a rather long class name, number {number}" for number in range(count)]
        folder = tmp_path_factory.mktemp("run")
        reports.append(write_report(write_run(folder, classes=names, pixels=count == 150, gallery=True)))
    hostile = ["<script>console.log('run')</script>", '"><img src="http://127.0.0.1:9/x" onerror="console.log(1)">']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "PANELS", [panel for panel in PANELS if panel.name in ("scores", "labels_per_class")])
        last = write_report(write_run(tmp_path_factory.mktemp("run"), classes=hostile))
    frames = [
        FRAME.format(report=report.as_uri(), width=width, scheme=scheme)
        for width, scheme in WIDTHS.items()
        for report in reports
    ]
    return look([*frames, FRAME.format(report=last.as_uri(), width=1440, scheme="light")], last.parent)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("classes", CLASSES)
def test_nothing_is_cut_off_empty_or_invisible(looks: tuple[list[dict], list[str]], classes: int, width: int) -> None:
    """Guards against a page wider than the screen, a figure of no height, and black letters on black: checks of the
    text miss these."""
    found = looks[0][list(WIDTHS).index(width) * len(CLASSES) + CLASSES.index(classes)]
    dark = WIDTHS[width] == "dark"
    assert found["overflow"] <= 0
    assert len(found["figures"]) == 13
    assert all(300 < wide <= width and high > 150 for wide, high in found["figures"])
    assert all(marks > 5 for marks in found["marks"])
    assert len(found["pictures"]) == (30 if classes == 150 else 5)
    assert all(real == 32 and shown > 90 for real, shown in found["pictures"])
    assert found["letters"] >= 8
    assert (found["page"] < 0.2) if dark else (found["page"] > 0.9)
    assert abs(found["page"] - found["ink"]) > 0.6 and abs(found["page"] - found["svgInk"]) > 0.25


def test_hostile_names_stay_silent(looks: tuple[list[dict], list[str]]) -> None:
    """Whatever a name contains, the browser must run and load nothing from it; either would show in its console, as
    would an error on one of the other pages."""
    seen, console = looks
    assert len(seen[-1]["figures"]) == 2, "the page of hostile names is shown"
    assert not console, console
