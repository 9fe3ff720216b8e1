"""The demo page in a real browser with a real upload, and as a Space."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hf_dmt import ModelPair
from hf_dmt.data.reading.decoding import to_rgb
from tests.data.small_files import image, save

gr = pytest.importorskip("gradio", reason="needs the extra `demo`")
browsers = pytest.importorskip("playwright.sync_api", reason="needs the extra `test`")

from hf_dmt.commands import demo  # noqa: E402
from hf_dmt.commands.demo import LOOK, main, page, see_image, see_pixels, write_space  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAMES = ["a cat, asleep", "dog", "owl"]
BEACON = "http://127.0.0.1:9/beacon.png"
HOSTILE = [f'<img src="{BEACON}">', f"![x]({BEACON})", f"<style>@import url({BEACON})</style>"]

needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (chromium, chromium-browser or google-chrome on the path)"
)


def make_pair(task: str, names: list[str] = NAMES) -> ModelPair:
    a, b = ("tiny:vit", "tiny:resnet") if task == "image-classification" else ("tiny:segformer", "tiny:upernet")
    return ModelPair.from_models(a, b, task=task, id2label=dict(enumerate(names)), image_size=32)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@contextmanager
def opened(browser: Any, blocks: Any, size: dict[str, int], asked: list[str]) -> Iterator[Any]:
    """The page in Chromium, which adds the addresses it asks for to `asked`; fails on an error in its console."""
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **LOOK)
    errors: list[str] = []
    try:
        tab = browser.new_page(viewport=size)
        tab.set_default_timeout(120_000)  # milliseconds; only a page that hangs takes that long, also on a busy machine
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda problem: errors.append(str(problem)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address)
        yield tab
        tab.close()
    finally:
        blocks.close(verbose=False)
    assert not errors, errors


@pytest.mark.parametrize("task", ["image-classification", "semantic-segmentation"])
def test_an_upload_is_read_as_in_training(tmp_path: Path, task: str) -> None:
    """Guards against predictions for the white image to which Gradio converts a 16-bit one."""
    Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64).save(tmp_path / "16-bit.png")
    pair = make_pair(task)
    upload = next(block for block in page(pair, "x").blocks.values() if isinstance(block, gr.Image))
    given = upload.preprocess(upload.data_model(path=str(tmp_path / "16-bit.png")))
    see: Any = see_image if task == "image-classification" else see_pixels
    found, expected = see(pair, given), see(pair, to_rgb(tmp_path / "16-bit.png"))
    assert found[-1] == expected[-1]
    if task == "semantic-segmentation":
        assert np.asarray(found[0][0]).std() > 50, "shown as it is, not white"
        assert all(np.array_equal(one[0], other[0]) for one, other in zip(found[0][1], expected[0][1], strict=True))
    else:
        assert found == expected


@needs_browser
@pytest.mark.parametrize(
    ("task", "names"), [("image-classification", NAMES), ("semantic-segmentation", HOSTILE)], ids=["images", "pixels"]
)
def test_an_upload_shows_what_each_member_says(browser: Any, tmp_path: Path, task: str, names: list[str]) -> None:
    """Guards against a page that loads, but answers an upload with an error or not at all, and against a class name
    that loads a remote file and so reveals the address of everyone who opens the page."""
    pair = make_pair(task, names)
    asked: list[str] = []
    picture = image(90, (60, 40))
    file = save(picture, tmp_path / "picture.png")
    pixels = task == "semantic-segmentation"
    size = {"width": 390, "height": 900} if pixels else {"width": 1280, "height": 900}
    with opened(browser, page(pair, f'{names[0]} <b title="x">'), size, asked) as tab:
        tab.locator("#image input[type=file]").set_input_files(str(file))
        tab.locator("#verdict >> text=/They|Both/").wait_for()
        expected = (see_pixels if pixels else see_image)(pair, picture)
        said = tab.locator("#verdict").inner_text()
        # Escapes are not shown, except within what Gradio takes for a link.
        assert said.strip().replace("\\", "") == expected[-1].replace("**", "").replace("\\", "")
        for name, shown in zip(("a", "b", "ensemble"), expected, strict=False):
            part = tab.locator(f"#{name}")
            if pixels:
                assert part.locator("img").count() == 1 + len(shown[1])
                for _, label in shown[1]:
                    assert label in part.inner_text()
            else:
                best = max(shown, key=shown.get)
                assert best in part.inner_text() and f"{100 * shown[best]:.0f}%" in part.inner_text()
        assert tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        tab.screenshot(path=str(tmp_path / "page.png"), full_page=True)
        assert names[0].rstrip(">") in tab.locator("h1").inner_text(), "the title is text"
        assert tab.locator("h1 img, h1 b, #verdict img, #verdict style").count() == 0
    assert not [address for address in asked if "beacon" in address]
    assert asked, "the browser's requests are seen"


@needs_browser
@pytest.mark.slow
def test_names_in_labels_of_an_image_fetch_nothing(browser: Any, tmp_path: Path) -> None:
    """The same for the list of classes beside an image, which the page of a classifier shows."""
    file = save(image(90, (60, 40)), tmp_path / "picture.png")
    asked: list[str] = []
    blocks = page(make_pair("image-classification", HOSTILE), "my pair")
    with opened(browser, blocks, {"width": 1280, "height": 900}, asked) as tab:
        tab.locator("#image input[type=file]").set_input_files(str(file))
        tab.locator("#verdict >> text=/They|Both/").wait_for()
        assert tab.locator("#verdict img, #verdict style").count() == 0
        assert BEACON in tab.locator("#verdict").inner_text()
    assert asked and not [address for address in asked if "beacon" in address]


def test_what_is_shown_is_what_the_members_say() -> None:
    """Guards against swapping models a and b, and against an ensemble that equals one of them."""
    pair, picture = make_pair("image-classification"), image(90, (60, 40))
    a, b, ensemble, _ = see_image(pair, picture)
    for name, found in (("a", a), ("b", b)):
        inputs = pair.processor(name)(picture, return_tensors="pt")
        with torch.no_grad():
            logits = pair.member(name).eval()(**inputs).logits[0]
        assert list(found.values()) == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)
    assert {entry["label"]: entry["score"] for entry in pair.pipeline()(picture)} == pytest.approx(ensemble)
    assert ensemble["dog"] == pytest.approx((a["dog"] + b["dog"]) / 2)


def test_overlays_are_of_the_size_of_the_picture_and_cover_it_once() -> None:
    """Guards against masks at the network's size, which the page stretches or refuses."""
    shown = see_pixels(make_pair("semantic-segmentation"), image(90, (60, 40)))
    for picture, masks in shown[:3]:
        assert picture.size == (60, 40)
        assert np.array_equal(np.sum([mask for mask, _ in masks], axis=0), np.ones((40, 60)))
    masks_a, masks_b = ({label: mask for mask, label in masks} for _, masks in shown[:2])
    same = sum((masks_a[label] & masks_b[label]).sum() for label in masks_a.keys() & masks_b.keys())
    [(differ, _)] = shown[3][1]
    assert differ.sum() == 60 * 40 - same
    assert f"{100 * differ.mean():.1f} %" in shown[4]
    assert see_pixels(make_pair("semantic-segmentation"), None) == [None, None, None, None, ""]


def test_a_space_holds_all_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a Space that depends on a folder of the machine that wrote it, or lacks a file."""
    make_pair("image-classification").save_pretrained(tmp_path / "pair")
    space = tmp_path / "space"
    assert main([str(tmp_path / "pair"), "--write_space", str(space)]) == 0
    _, settings, about = (space / "README.md").read_text().split("---\n")
    assert yaml.safe_load(settings) == {
        **{"title": "pair", "sdk": "gradio", "sdk_version": gr.__version__, "app_file": "app.py"}
    }
    needed = (space / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("transformers>=") for line in needed) and not any("extra" in line for line in needed)
    assert str(tmp_path) not in (space / "app.py").read_text() + about
    assert {path.name for path in (space / "pair").iterdir()} >= {"config.json", "model.safetensors", "peer"}
    assert main([str(tmp_path / "pair"), "--write_space", str(space)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing"), "--write_space", str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


def test_a_space_installs_what_its_members_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a Space that cannot open its pair, because a member is a model of timm."""
    pair = make_pair("image-classification")
    monkeypatch.setattr(type(pair.model_b.config), "model_type", "timm_wrapper")
    write_space("me/pair", pair, tmp_path / "space")
    needed = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    assert sum(line.startswith("timm>=") for line in needed) == 1 and not any("extra" in line for line in needed)


def test_a_port_that_is_taken_is_an_error_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a traceback for a page that is still open, and a page without a title for the current folder."""
    make_pair("image-classification").save_pretrained(tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    titles = []
    monkeypatch.setattr(demo, "page", lambda pair, title: titles.append(title) or page(pair, title))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main([".", "--port", str(taken.getsockname()[1])]) == 2
    assert main([".", "--port", "70000"]) == 2
    assert capsys.readouterr().err.count("Choose another --port, or omit it") == 2
    assert titles == ["mine"] * 2


@pytest.mark.slow
def test_a_space_starts_on_its_own(tmp_path: Path) -> None:
    """Guards against a Space that only works in the place where it was written."""
    make_pair("image-classification").save_pretrained(tmp_path / "pair")
    assert main([str(tmp_path / "pair"), "--write_space", str(tmp_path / "space")]) == 0
    (tmp_path / "pair").rename(tmp_path / "moved")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = {**os.environ, "GRADIO_SERVER_PORT": str(port), "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "app.py"]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(command, cwd=tmp_path / "space", env=ours, stdout=log, stderr=log)
    try:
        for _ in range(240):
            assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
            try:
                answer = urlopen(f"http://127.0.0.1:{port}/config", timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        assert b"where they disagree" in answer
        assert (tmp_path / "space" / "hf_dmt" / "__pycache__").is_dir()  # this package, not the one installed here
    finally:
        server.kill()
        server.wait()
