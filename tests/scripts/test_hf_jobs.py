"""The script for Hugging Face Jobs and uv: its header as the Hub's own client reads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hf_dmt.commands import train
from scripts import hf_jobs

SCRIPT = Path(hf_jobs.__file__)


def test_the_header_is_what_the_hubs_client_reads() -> None:
    """Guards against a misspelled key or a header that is not found: the job would run without a GPU and without a
    token."""
    header = pytest.importorskip("huggingface_hub.cli._uv_script_header", reason="came with huggingface_hub 2.4")
    with header.load_uv_script(str(SCRIPT)) as script:
        found = script.header
    assert (found.flavor, found.timeout, found.secrets) == ("a10g-small", "6h", ["HF_TOKEN"])


def test_the_dependencies_are_extras_that_exist() -> None:
    """Guards against a renamed extra: the installer only warns, and the job fails at its first model."""
    (block,) = re.findall(r"(?ms)^# /// script$\n(.*?)^# ///$", SCRIPT.read_text())
    (extras,) = re.findall(r'dependencies = \["hf-dmt\[(.*?)\]"\]', block)
    project = (SCRIPT.parents[1] / "pyproject.toml").read_text()
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", project, re.M), extra


def test_a_job_that_would_keep_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against hours of GPU time whose result is thrown away with the container."""
    called: list[list[str]] = []
    monkeypatch.setattr(train, "main", lambda argv: called.append(list(argv)) or 0)
    assert hf_jobs.main(["--max_steps", "2"], {"JOB_ID": "1"}) == 2
    assert "--push_to_hub" in capsys.readouterr().err and not called
    assert hf_jobs.main(["--max_steps", "2"], {}) == hf_jobs.main(["--push_to_hub"], {"JOB_ID": "1"}) == 0
    assert called == [["--max_steps", "2"], ["--push_to_hub"]]


def test_a_push_is_asked_for_in_every_way_that_train_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against refusing a job that pushes, and against hours of GPU time whose result is thrown away because a
    push was named and switched off."""
    monkeypatch.setattr(train, "main", lambda argv: 0)
    (config := tmp_path / "config.yaml").write_text("push_to_hub: true\n")

    def code(*argv: str) -> int:
        return hf_jobs.main(argv, {"JOB_ID": "1"})

    assert code("--push_to_hub=true") == code(str(config)) == code("--num_processes", "2", "--push_to_hub", "true") == 0
    assert (
        code("--push_to_hub", "false") == code("--push_to_hub=False") == code(str(config), "--push_to_hub", "no") == 2
    )
    assert code("--num_processes", "2") == 2 and code("nothing.yaml") == 0, "train says what is wrong with the file"
