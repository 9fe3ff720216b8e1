"""Mistyped models are found before torch and transformers are imported, and nothing else is refused there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hf_dmt.__main__ import main
from hf_dmt.hub.model_ids import not_found
from tests.hub_server import HubServer


@pytest.fixture
def models(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One public and one private model on the Hub, and a folder with a model."""
    monkeypatch.chdir(tmp_path)
    api = HfApi(token="hf_mine")
    for name, private in (("me/public", False), ("me/private", True)):
        api.create_repo(name, private=private)
        api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "me" / "publi").mkdir(parents=True)  # a copy under nearly the same name makes no id wrong


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    "flags",
    [
        "--model_a nobody/none --model_b me/public",
        "--model_a me/public --model_b=nobody/none",
        "config.yaml",
        "config.json --model_b me/public",
        "--model_b nobody/none --gama1 3",
    ],
)
def test_an_id_that_does_not_exist(flags: str) -> None:
    """Guards against seconds of imports, or minutes of reading images, before a mistyped id is reported."""
    Path("config.yaml").write_text("model_a: me/public\nmodel_b: nobody/none\n")
    Path("config.json").write_text('{"model_a": "nobody/none", "model_b": "nobody/other"}')
    said = not_found(flags.split())
    assert said is not None and said.startswith("Cannot load a model from 'nobody/none' (the Hub has no such model")


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(
    "flags",
    [
        "",
        "digits",
        "--model_a me/public --model_b me/public",
        "--model_a me/private --model_b tiny:resnet --hub_token hf_mine",
        "--model_a folder --model_b ./folder",
        "--model_a backbone:nobody/none --model_b paper:wrn-28-2",
        "--model_a resnet50",
        "--model_a",
        "--model_a --model_b nobody/none",
        "nothing.yaml",
        "broken.yaml",
        "list.yaml",
        "folder --model_a me/public",
        "config.yaml --model_a me/public",
    ],
)
def test_what_the_command_itself_judges(flags: str) -> None:
    """Guards against refusing a model that exists, and against a traceback for flags that the command explains."""
    Path("broken.yaml").write_text("model_a: [")
    Path("list.yaml").write_text("[model_a, nobody/none]")
    Path("config.yaml").write_text("model_a: nobody/none\nmodel_b:\n")
    assert not_found(flags.split()) is None


def test_the_token_of_a_config_file_is_used(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against refusing a private model that the run itself could read."""
    api = HfApi(token="hf_mine")
    api.create_repo("me/in-config", private=True)
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="me/in-config")
    config = tmp_path / "config.yaml"
    for token in ("$MINE", "hf_mine"):
        config.write_text(f"model_a: me/in-config\nmodel_b: tiny:vit\nhub_token: {token}\n")
        monkeypatch.setenv("MINE", "hf_mine")
        assert not_found([str(config)]) is None


def test_a_check_for_programs_keeps_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against `hf-dmt check --json` that ends without its findings."""
    monkeypatch.setattr("hf_dmt.hub.model_ids.not_found", lambda argv: "no such model")
    monkeypatch.setattr("hf_dmt.commands.check.main", lambda argv: 7)
    assert [main(["check", *flags]) for flags in ([], ["--json"], ["--json=true"])] == [1, 7, 7]


def test_a_private_model_without_token(hub: HubServer) -> None:
    """A model that the user may not read must be reported like one that does not exist: the Hub does not tell which."""
    HfApi(token="hf_mine").create_repo("me/never-read", private=True)
    said = not_found(["--model_a", "me/never-read"])
    assert said is not None and "no such model, or it is private" in said and "hf auth login" in said


@pytest.mark.parametrize(("command", "code"), [("train", 2), ("check", 1)])
def test_offline_and_without_imports(command: str, code: int, tmp_path: Path) -> None:
    """Guards against an import of torch before the answer, and against waiting for a network that is not there."""
    program = (
        f"import sys; from hf_dmt.__main__ import main; code = main(['{command}', '--model_a', 'nobody/none'])\n"
        "print(code, sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    environment = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"{code} []"
    assert "it is not in the cache, and the Hub cannot be reached" in done.stderr
