"""The report as parsed HTML. Rendering in a browser is tested in test_browser.py."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from hf_dmt.data.labels.pseudo_labels import ImageLabels
from hf_dmt.report import figures, write_figures, write_report
from hf_dmt.report.disagreement import last_disagreement
from hf_dmt.report.html import _sure
from hf_dmt.report.panels import COLORS, PANELS, cases
from hf_dmt.report.run import read_run
from tests.report.runs import write_run

MANY = [f"class {number}" for number in range(150)]
TEN = [str(number) for number in range(10)]
CASES = {
    "2 classes": {},
    "10 classes, no truth, no test": {"classes": TEN, "truth_known": False, "has_test": False},
    "150 classes": {"classes": MANY},
    "pictures": {"gallery": True},
    "masks with pictures": {"classes": [*TEN, "void"], "pixels": True, "gallery": True},
    "masks, 150 classes, no store": {"classes": MANY, "pixels": True, "store": False, "has_test": False},
    "nothing held out": {"has_eval": False, "has_test": False},
    "test only": {"has_eval": False},
    "labels alone": {"method": "supervised"},
    "online": {"method": "cps"},
    "self-training, bare folder": {"method": "dst", "split": False, "store": False},
    "after phase 0": {"phases": 1},
    "before phase 0": {"phases": 0},
}
# The figures that differ from those of the first case; in the cases that are not named here, all may.
DIFFERENT = {
    "10 classes, no truth, no test": ("scores", "label_accuracy", "classes_covered", "labels_per_class", "calibration"),
    "150 classes": ("classes_covered", "labels_per_class"),
    "pictures": ("scores",),
    "masks with pictures": ("scores", "labels_per_class"),
    "masks, 150 classes, no store": ("scores",),
    "nothing held out": ("scores", "seconds"),
    "test only": ("scores",),
    "self-training, bare folder": ("scores", "labels_per_class"),
}
OF_TELEMETRY = ("loss", "mean_weight", "cases_a", "cases_b", "grad_norm")


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "style" not in self._inside:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def values(self, key: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == key]


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def draw_only(patch: pytest.MonkeyPatch, *names: str) -> None:
    """Leave out the figures that a test is not about: drawing takes most of the time of a report."""
    patch.setattr(figures, "PANELS", [panel for panel in PANELS if panel.name in names])


@pytest.fixture(scope="module")
def html_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The report of each of CASES with its DIFFERENT figures, made once."""

    @cache
    def make(case: str) -> str:
        with pytest.MonkeyPatch.context() as patch:
            draw_only(patch, *DIFFERENT.get(case, [panel.name for panel in PANELS]))
            return write_report(write_run(tmp_path_factory.mktemp("run"), **CASES[case])).read_text(encoding="utf-8")

    return make


def figure_names(page: Page) -> set[str]:
    found = {value for tag, key, value in page.attributes if tag == "figure" and key == "id"}
    return {value.removeprefix("figure-") for value in found}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_run_has_a_clean_report(html_of: Callable[[str], str], case: str) -> None:
    """A missing value must be a dash or be left out, never None or nan, and the page must load nothing."""
    page = Page(html_of(case))
    assert not re.search(r"\b(None|nan|inf|undefined)\b", page.text)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    for tag, key, value in page.attributes:
        if key.split(":")[-1] in ("href", "src", "srcset", "data", "action"):
            assert value.startswith(("#", "data:image/")), (tag, key, value[:80])
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert page.tags["svg"] == len(figure_names(page))
    # Colors must come from the page, or dark letters stand on the dark page.
    assert not [value for value in page.values("style") if any(color in value for color in COLORS.values())]


@pytest.mark.parametrize("case", CASES)
def test_svg_references_resolve_within_their_own_figure(html_of: Callable[[str], str], case: str) -> None:
    """Matplotlib's ids repeat from figure to figure. Guards against the clip path of another figure, which cuts the
    curve off."""
    assert_own_references(html_of(case))


def assert_own_references(html: str) -> None:
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ids = set(re.findall(r'\bid="([^"]+)"', svg))
        used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
        assert used and used <= ids


@pytest.mark.slow
@pytest.mark.parametrize("case", DIFFERENT)
def test_the_figures_like_those_of_the_first_case_are_drawn_too(tmp_path: Path, case: str) -> None:
    """Guards against a figure that starts to depend on what a kind of run lacks: the usual tests do not draw it
    there."""
    assert_own_references(write_report(write_run(tmp_path, **CASES[case])).read_text(encoding="utf-8"))


def test_a_full_run_has_every_figure_and_each_has_curves(html_of: Callable[[str], str]) -> None:
    html = html_of("2 classes")
    assert figure_names(Page(html)) == {
        "scores",
        "label_accuracy",
        "classes_covered",
        "labels_per_class",
        "separation_a",
        "separation_b",
        "calibration",
        "loss",
        "mean_weight",
        "cases_a",
        "cases_b",
        "grad_norm",
        "seconds",
    }
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        assert any(f"var(--{name})" in svg for name in ("a", "agree", "weight")), svg[:200]


def test_figures_without_data_are_left_out(html_of: Callable[[str], str]) -> None:
    """Guards against an empty frame, which looks like a result of zero."""
    assert figure_names(Page(html_of("labels alone"))) == {
        "scores",
        "loss",
        "grad_norm",
        "seconds",
    }
    unknown = Page(html_of("10 classes, no truth, no test"))
    assert "label_accuracy" not in figure_names(unknown)
    assert "labels right" not in unknown.text and "and so is the share of right pseudo labels" in unknown.text
    assert figure_names(Page(html_of("before phase 0"))) == set()


def test_headline_tiles_and_phases_show_the_results(html_of: Callable[[str], str]) -> None:
    """Guards against numbers of the wrong split, phase or model, which would look just as plausible."""
    text = Page(html_of("2 classes")).text
    assert "The unlabeled images were worth +25.0 (a), +25.0 (b) and +25.0 (ensemble) points of test accuracy." in text
    assert "53.0 → 78.0" in text and "56.0 → 81.0" in text and "59.0 → 84.0" in text
    # Phase 2: not tested, scored on eval, ratio, steps, selected and right labels, times.
    assert "2 – – – 65.0 68.0 71.0 0.4 40 40.0 40.0 89.0 89.0 2.5 s 22.0 s" in text


@pytest.mark.usefixtures("one_figure")
def test_a_gain_within_chance_is_marked(tmp_path: Path) -> None:
    """Guards against half a point in green on 400 images, which invites people to publish noise."""
    write_run(tmp_path)
    file = tmp_path / "dmt_results.json"
    results = json.loads(file.read_text())
    for name, value in {"a": 0.535, "b": 0.9, "ensemble": 0.2}.items():
        results["test"][name] |= {"accuracy": value, "mean_accuracy": value}
    file.write_text(json.dumps(results))
    page = page_of(tmp_path)
    tiles = [value for tag, key, value in page.attributes if tag == "b" and key == "class"]
    assert tiles == ["even", "up", "down"]
    assert "53.0 → 53.5 %, may be chance" in page.text


def test_the_page_starts_with_the_answer(html_of: Callable[[str], str]) -> None:
    """The gain, the failures and the next steps must come before any figure about training."""
    text = Page(html_of("2 classes")).text
    parts = [
        "were worth +25.0",
        "may be chance",
        "Where it fails",
        "What to do next",
        "hf-dmt queue",
        "Phase by phase",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_eval_figures_say_that_they_are_eval_figures(html_of: Callable[[str], str]) -> None:
    assert "There is no test split" in html_of("10 classes, no truth, no test")
    assert "There is no test split" not in html_of("2 classes")


def test_unfinished_run_says_so(html_of: Callable[[str], str]) -> None:
    unfinished = {case for case in CASES if "has not finished" in html_of(case)}
    assert unfinished == {"after phase 0", "before phase 0"}


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</svg></figure><b>bold</b>",
    "$\\frac{1}{$",
    "{{ 7 * 7 }}",
    "null\x00 bell\x07 line\nbreak",
    "\ud800 half a letter",
    "犬",
]


@pytest.mark.parametrize("pixels", [False, True])
def test_names_from_data_are_text_and_nothing_else(
    tmp_path: Path, pixels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class names and file names come from strangers, and reports are opened from the Hub. Guards against names that
    run as HTML, scripts or templates, and against typesetting one as a formula."""
    draw_only(monkeypatch, "scores", "labels_per_class")  # the latter shows names
    ids = [f"<img src=x onerror=alert({row})>.png" for row in range(200)]
    page = page_of(write_run(tmp_path, classes=HOSTILE, pixels=pixels, ids=ids, has_test=False))
    assert "script" not in page.tags and "img" not in page.tags and page.tags["b"] == 3  # the tiles
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert "<script>alert(1)</script>" in page.text and "{{ 7 * 7 }}" in page.text and "犬" in page.text
    assert pixels or "<img src=x onerror=alert(" in page.text  # an id among the disagreements
    policy = [value for tag, key, value in page.attributes if tag == "meta" and key == "content"]
    assert any("default-src 'none'" in value for value in policy)


@pytest.mark.usefixtures("one_figure")
def test_a_number_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    """Guards against a traceback from the template engine instead of a report when a results file was edited."""
    write_run(tmp_path)
    results = json.loads((tmp_path / "dmt_results.json").read_text())
    left = {key: value for key, value in results.items() if key not in ("num_unlabeled", "num_labeled")}
    (tmp_path / "dmt_results.json").write_text(json.dumps(left))
    assert "after training on unlabeled images" in " ".join(page_of(tmp_path).text.split())


def test_dollar_names_stay_as_written_in_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against class names that Matplotlib takes for a formula, as it does with text between dollar signs."""
    draw_only(monkeypatch, "labels_per_class")
    run = write_run(tmp_path, classes=["$5 bill$", "$10 bill$"], store=False, split=False)
    (svg,) = re.findall(r"<svg.*?</svg>", write_report(run).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert "$5 bill$" in svg


def test_telemetry_of_a_killed_or_diverged_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There must be a report even if the last line is half written, losses are NaN, or gradients are infinite."""
    draw_only(monkeypatch, *OF_TELEMETRY)
    write_run(tmp_path)
    lines = (tmp_path / "telemetry.jsonl").read_text().splitlines()
    broken = json.loads(lines[3]) | {"a/loss": float("nan"), "a/grad_norm": float("inf"), "b/grad_norm": 0.0}
    lines[3] = json.dumps(broken)
    (tmp_path / "telemetry.jsonl").write_text("\n".join(lines) + '\n{"step": 2')
    assert figure_names(page_of(tmp_path)) == set(OF_TELEMETRY)
    (tmp_path / "telemetry.jsonl").unlink()
    assert not figure_names(page_of(tmp_path))


def test_a_long_run_makes_no_huge_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against drawing thousands of log events as curves of thousands of points: a phone could not scroll such a
    page."""
    draw_only(monkeypatch, *OF_TELEMETRY)
    write_run(tmp_path, steps=3_000, log_every=12)  # 1,500 events
    assert write_report(tmp_path).stat().st_size < 450_000


@pytest.mark.usefixtures("one_figure")
def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    """Guards against random ids or a date, which would make every push of an unchanged run a change."""
    write_run(tmp_path)
    assert write_report(tmp_path).read_bytes() == write_report(tmp_path).read_bytes()
    first = [path.read_bytes() for path in write_figures(tmp_path)]
    assert first == [path.read_bytes() for path in write_figures(tmp_path)]


def test_png_figures_are_there_and_not_blank(tmp_path: Path) -> None:
    """The model card links to these figures by name, so they must exist and not be blank."""
    paths = write_figures(write_run(tmp_path, classes=MANY))
    assert {path.parent for path in paths} == {tmp_path / "figures"} and len(paths) == 4
    for path in paths:
        image = Image.open(path).convert("RGB")
        assert image.width == 800
        assert len(image.getcolors(maxcolors=image.width * image.height)) > 20, path.name


def test_classes_without_labels_are_named(html_of: Callable[[str], str]) -> None:
    """A class that a model never predicts is the most important fact about a failed run, so the report must name it."""
    text = Page(html_of("2 classes")).text
    assert "1 of the 2 classes is missing from the labels by a kept in the last phase: dog." in text
    assert "labels by b kept" not in text


@pytest.mark.usefixtures("one_figure")
def test_worst_class_stands_first_and_absent_ones_last(tmp_path: Path) -> None:
    """The classes on which the models fail must be visible without scrolling through 150 classes."""
    html = write_report(write_run(tmp_path, classes=TEN, pixels=True)).read_text(encoding="utf-8")
    table = re.search(r'<table id="all-classes".*?</table>', html, flags=re.DOTALL)
    assert table is not None
    shown = re.findall(r'<tr><th class="name">(\d)</th>', table.group())
    ious = read_run(tmp_path).results["test"]["ensemble"]["per_class_iou"]
    assert shown == [*sorted(TEN[:-1], key=lambda name: ious[name]), "9"]


def test_members_that_trained_in_turn_are_not_drawn_through_the_others_turn(tmp_path: Path) -> None:
    """Guards against drawing the shares of b's first updates over all updates of a, as if b had been trained all the
    time."""
    run = read_run(write_run(tmp_path, phases=2, steps=40))
    shares = {"agree": 0.5, "negative_disagree": 0.25, "positive_disagree": 0.25}
    turns = [("a", 50), ("a", 60), ("b", 70), ("b", 80)]
    events = [{"step": step, **{f"{name}/{key}": value for key, value in shares.items()}} for name, step in turns]
    run = replace(run, events=events)
    for member, spans in (("a", [(40, 50), (50, 60)]), ("b", [(60, 70), (70, 80)])):
        axes = Figure().subplots()
        assert cases(axes, run, member)
        bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
        assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars] == spans * 3
        assert [bar.get_y() for bar in bars] == [0, 0, 50, 50, 75, 75]


@pytest.mark.usefixtures("one_figure")
def test_disagreement_by_hand(tmp_path: Path) -> None:
    """Disagreements are ordered by the confidence of the less certain model: if one model only guesses, there is no
    real contradiction."""
    write_run(tmp_path, ids=[f"{row}.png" for row in range(4)])
    place = tmp_path / "pseudo_labels" / "phase-5"
    selected = np.ones(4, dtype=bool)
    for member, labels, confidence in (
        ("a", [0, 0, 1, 1], [0.9, 1.0, 0.8, 0.7]),
        ("b", [1, 1, 0, 1], [0.9, 0.4, 0.8, 0.9]),
    ):
        stored = ImageLabels(np.array(labels), np.array(confidence, dtype=np.float32), selected)
        stored.write(place / member, [f"{row}.png" for row in range(4)], {"phase": 5})
    found = last_disagreement(read_run(tmp_path))
    assert found is not None
    assert (found.phase, found.agree, found.total) == (5, 0.25, 4)
    assert [image["id"] for image in found.images] == ["0.png", "2.png", "1.png"]
    assert found.pairs == [("cat", "dog", 2), ("dog", "cat", 1)]
    assert "a and b agreed on 25.0 % of the 4 unlabeled images" in page_of(tmp_path).text


def test_galleries_show_every_picture_with_what_was_said_of_it(html_of: Callable[[str], str]) -> None:
    """Guards against a picture beside the labels of another one, and against a missing tile: neither would be
    noticed."""
    images, masks = Page(html_of("pictures")), Page(html_of("masks with pictures"))
    assert images.tags["img"] == 5 and masks.tags["img"] == 5 * 6
    said = "a predicts cat {}90.0 % confident b predicts dog {}90.0 % confident "
    assert said.format("✓ ", "") + "images/0000.jpg" in images.text  # truth: cat
    assert said.format("", "✓ ") + "images/0002.jpg" in images.text  # truth: dog
    assert "disagreement-images" not in images.values("id")  # the same images, without the pictures
    assert masks.values("alt")[:6] == [
        f"{what} of images/0000.jpg"
        for what in (
            "image",
            "labels by a",
            "labels by b",
            "weight of a’s labels (mean 0.25)",
            "weight of b’s labels (mean 0.25)",
            "truth",
        )
    ]
    assert "a and b agreed on 70.0 % of the pixels" in masks.text and "40.0 % of the pixels" in masks.text


@pytest.mark.usefixtures("one_figure")
def test_a_report_for_others_shows_no_pictures(tmp_path: Path) -> None:
    """Guards against a push of the report that publishes the owner's unlabeled images without anyone noticing."""
    run = write_run(tmp_path / "run", gallery=True)
    public = write_report(run, to=tmp_path, pictures=False)
    assert "data:image" not in public.read_text(encoding="utf-8") and public.parent == tmp_path
    assert "data:image" in write_report(run).read_text(encoding="utf-8")


@pytest.mark.usefixtures("one_figure")
def test_a_gallery_that_lost_a_file_is_passed_over(tmp_path: Path) -> None:
    """A missing thumbnail must not prevent the page: a page without the gallery is better than none."""
    run = write_run(tmp_path, gallery=True)
    (run / "gallery" / "phase-5" / "03-image.png").unlink()
    assert page_of(run).tags["img"] == 0


def test_separation_is_told_for_both_members(html_of: Callable[[str], str]) -> None:
    """How well right and wrong labels are separated is the claim that the method rests on. Where the truth is unknown,
    the report must say nothing about it."""
    text = Page(html_of("2 classes")).text
    for member in "ab":
        told = f"labels by {member} better than {member}'s own confidence (AUROC 0.80 vs 0.70)"
        assert told in text.replace(" )", ")")
    assert "AUROC" not in Page(html_of("10 classes, no truth, no test")).text


@pytest.mark.parametrize(
    ("confidence", "shown"), [(0.5, "50.0"), (0.99987, "99.99"), (0.999996, "99.9996"), (1, "100.0")]
)
def test_only_certainty_is_100_percent(confidence: float, shown: str) -> None:
    """Thresholds of trained models are all above 99.9 %. Guards against rounding them to 100.0, which looks like a
    threshold that no label passes."""
    assert _sure(confidence) == shown


def test_an_incomplete_store_is_passed_over(tmp_path: Path) -> None:
    """A run killed while labeling leaves labels of one model only. Guards against comparing them with older ones, which
    would show errors that are not there."""
    write_run(tmp_path)
    (tmp_path / "pseudo_labels" / "phase-5" / "b" / "manifest.json").unlink()
    found = last_disagreement(read_run(tmp_path))
    assert found is not None and found.phase == 4


def test_pixel_thresholds_are_shown_as_confidence(html_of: Callable[[str], str]) -> None:
    """Guards against showing codes such as 30000, which mean nothing to a reader."""
    page = Page(html_of("masks with pictures"))
    assert "threshold, confidence %" in page.text
    assert not [text for text in page.texts if text.strip().startswith("300")]


@pytest.mark.usefixtures("one_figure")
def test_what_went_wrong_in_a_phase_is_on_the_page(tmp_path: Path) -> None:
    """Guards against a report that looks like any other although the run collapsed or skipped many of its updates."""
    file = write_run(tmp_path) / "dmt_results.json"
    results = json.loads(file.read_text())
    results["phases"][2] |= {"alarms": ["a predicts 3 of the 10 classes."]}
    results["phases"][3]["skipped_updates"] = 7
    file.write_text(json.dumps(results))
    text = " ".join(" ".join(Page(write_report(tmp_path).read_text(encoding="utf-8")).texts).split())
    assert "Signs of collapse in phase 2" in text
    assert "a predicts 3 of the 10 classes." in text
    assert "7 of 40 updates in phase 3 had non-finite gradients" in text
