"""What an untrusted file must not do: run code, access files outside its folder, or make the program call home."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

from hf_dmt import ModelPair
from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.splitting.assemble import assemble
from tests.data import small_files as files

ROOT = Path(__file__).parents[1]
SOURCES = [path for name in ("hf_dmt", "scripts") for path in sorted((ROOT / name).rglob("*.py"))]
RUNS_CODE = {"eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "torch.load", "yaml.load"}


def test_nothing_read_from_a_file_is_run() -> None:
    """Guards against a convenient line somewhere that breaks the promise of safetensors, JSON and safe YAML."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in RUNS_CODE:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}")
            if isinstance(node, ast.keyword) and node.arg == "shell":
                found.append(f"{path.relative_to(ROOT)}:{node.value.lineno} shell=")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "{outside}/secret.jpg", "cat/../../secret.jpg", "cat/link.jpg/../../x"]
)
@pytest.mark.parametrize("kind", ["ids.txt", "split.json"])
def test_ids_do_not_reach_outside_the_data(tmp_path: Path, name: str, kind: str) -> None:
    """Guards against ids that reach other files of the training machine: an id may only choose among the images of the
    folder."""
    given = files.animal_flags(tmp_path)
    files.save(files.image(9), tmp_path / "secret.jpg")
    ids = ["cat/00.jpg", name.replace("{outside}", str(tmp_path))]
    text = "\n".join(ids) if kind == "ids.txt" else json.dumps({"labeled": ids, "eval": ["../secret.jpg"]})
    with pytest.raises(ValueError, match="1 of 2 labeled ids are not in the training split"):
        assemble(DataArguments(**given, labeled_ids=files.text_file(tmp_path, text, kind)), "image-classification")


def test_pair_metadata_does_not_reach_outside_the_pair(tmp_path: Path) -> None:
    """Guards against a pair that takes its other model from a folder of the machine that opens it."""
    pair = ModelPair.from_models("tiny:vit", "tiny:resnet", id2label={0: "x", 1: "y"}, image_size=16)
    pair.save_pretrained(tmp_path / "pair")
    shutil.move(tmp_path / "pair" / "peer", tmp_path / "outside")
    settings = json.loads((tmp_path / "pair" / "dmt_config.json").read_text())
    for primary in ("../outside", str(tmp_path / "outside"), "a"):
        hostile = {**settings, "primary": primary, "peer": "../outside", "folders": {"b": "../outside"}}
        (tmp_path / "pair" / "dmt_config.json").write_text(json.dumps(hostile))
        with pytest.raises(ValueError, match=r"is damaged|without its member b"):
            ModelPair.from_pretrained(tmp_path / "pair")
