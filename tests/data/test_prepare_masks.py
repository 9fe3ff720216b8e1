"""Masks in other forms become PNG files of class ids."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_dmt.data.splitting.prepare_masks import COMMAND, main


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_command_that_messages_name_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against advice to run a script that an installation with pip does not have."""
    program, _, name = COMMAND.partition(" -m ")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(name, run_name="__main__")
    assert program == "python" and f"usage: {COMMAND}" in capsys.readouterr().out


def test_painted_masks_become_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against class ids spoiled by smoothed edges, file suffixes or the rotation of phone photos. The report
    must say in which masks colors were moved to the nearest class color."""
    colors = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
    ids = np.repeat(np.arange(3), 4)[None].repeat(6, axis=0)
    painted = colors[ids]
    painted[0, 4] = (250, 4, 4)  # a smoothed edge
    painted[0, 5] = (90, 90, 200)  # of no class
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        Image.fromarray(painted).save(tmp_path / "masks" / f"{name}_mask.png")
        Image.new("RGB", (12, 6)).save(tmp_path / "images" / f"{name}.jpg", **({"exif": exif} if name == "b" else {}))
    (tmp_path / "c.csv").write_text("name,r,g,b\nvoid,0,0,0\nred,255,0,0\ngreen,0,255,0\n")
    out = tmp_path / "out"
    flags = ["--source", str(tmp_path / "masks"), "--colors", str(tmp_path / "c.csv"), "--output", str(out)]
    assert main(flags) == 2 and not out.exists()
    assert "2 of 2 masks cannot be converted" in capsys.readouterr().err
    assert main([*flags, "--suffix", "_mask", "--nearest", "20", "--images", str(tmp_path / "images")]) == 0
    expected = np.array([255, 0, 1])[ids]
    expected[0, 5] = 255
    assert np.array_equal(np.array(Image.open(out / "a.png")), expected)
    assert np.array_equal(np.array(Image.open(out / "b.png")), np.rot90(expected, -1))
    assert json.loads((out / "classes.json").read_text()) == ["red", "green"]
    report = json.loads((out / "report.json").read_text())
    assert report["masks"] == 2 and report["pixels"]["green"] == 48 and report["pixels"]["void"] == 50
    assert report["colors_moved_to_the_nearest"] == {"a.png": round(2 / 72, 4), "b.png": round(2 / 72, 4)}


def test_values_of_masks_by_a_map(tmp_path: Path) -> None:
    """16-bit ids and several values of one class must be read. Guards against a value that the map leaves out becoming
    a class."""
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.array([[0, 100, 300]], np.uint16)).save(tmp_path / "masks" / "a.tif")
    (tmp_path / "map.json").write_text('{"0": "ground", "100": "water", "300": "water"}')
    flags = ["--source", str(tmp_path / "masks"), "--output", str(tmp_path / "out"), "--values"]
    assert main([*flags, str(tmp_path / "map.json")]) == 0
    assert np.array(Image.open(tmp_path / "out" / "a.png")).tolist() == [[0, 1, 1]]
    (tmp_path / "map.json").write_text('{"0": "ground", "100": "water"}')
    flags[3] = str(tmp_path / "other")
    assert main([*flags, str(tmp_path / "map.json")]) == 2 and not (tmp_path / "other").exists()


def test_masks_that_would_lose_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against ids that a 16-bit file cannot hold, pages that are dropped, and transparent pixels that get the
    class of the color stored under them."""
    pages = [Image.new("L", (3, 1)), Image.new("L", (3, 1))]
    for name, value in (("large", 70_000), ("negative", -1), ("pages", 0)):
        (tmp_path / name).mkdir()
        mask = Image.fromarray(np.array([[0, 1, value]], np.int32)) if value else pages[0]
        mask.save(tmp_path / name / "a.tif", **({} if value else {"save_all": True, "append_images": pages[1:]}))
        flags = ["--source", str(tmp_path / name), "--output", str(tmp_path / "out")]
        assert main(flags) == 2 and not (tmp_path / "out").exists()
        assert ("has several frames or pages" if value == 0 else f"contains {value}") in capsys.readouterr().err
    (tmp_path / "clear").mkdir()
    painted = np.array([[(255, 0, 0, 255), (255, 0, 0, 0)]], np.uint8)
    Image.fromarray(painted).save(tmp_path / "clear" / "a.png")
    (tmp_path / "c.csv").write_text("name,r,g,b\nred,255,0,0\ngreen,0,255,0\n")
    flags = ["--source", str(tmp_path / "clear"), "--colors", str(tmp_path / "c.csv"), "--output"]
    assert main([*flags, str(tmp_path / "out"), "--nearest", "-1"]) == 2, "all pixels would be void"
    assert main([*flags, str(tmp_path / "clear" / "out")]) == 2, "the next command would read these masks"
    assert "--nearest is a distance" in (message := capsys.readouterr().err) and "is inside --source" in message
    for number, nearest in enumerate([[], ["--nearest", "20"]]):
        assert main([*flags, str(tmp_path / str(number)), *nearest]) == 0
        assert np.array(Image.open(tmp_path / str(number) / "a.png")).tolist() == [[0, 255]]
