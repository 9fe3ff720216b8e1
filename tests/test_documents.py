"""README.md and docs/: every command, every Python block and the notebook runs and prints what the page quotes.

Each page is executed from top to bottom in its own folder, which contains the images that the page mentions. Models and
data sets come from the test Hub, under their real ids, but tiny. Commands are called in this process, with the minimum
number of updates.

    ```bash       commands, which must succeed
    ```console    `$ command`, then its output, in this order among other lines; `...` stands for anything
    ```python     code; the blocks of a page share their names
    ```text       not code: a tree of files, a formula

A block after `<!-- not run: reason -->` is skipped, and `NOT_RUN` lists it.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import importlib
import json
import re
import shlex
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import matplotlib.pyplot as plt
import pdoc
import pytest
import torch

import hf_dmt
from hf_dmt import DMTTrainingArguments, ModelPair
from hf_dmt.__main__ import COMMANDS
from hf_dmt.commands import launch, opening, queue, train
from hf_dmt.data.splitting import prepare_masks
from hf_dmt.models.weights.trained_parts import choose_trained
from hf_dmt.training import finishing
from hf_dmt.training.settings.command_line import Parser, parse
from tests.data import small_files
from tests.hub_repos import Blob, Repo
from tests.hub_server import HubServer
from tests.small_checkpoints import save_checkpoints

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

# Every block that is not run, by the reason that stands above it.
NOT_RUN = {
    "README.md": ["installs the package", "needs a run and a person", "trains for an hour"],
    "docs/trainer.md": ["trains for an hour"],
}

# Parameters that the task never uses: DINOv2's token for hidden patches, which only pretraining needs.
OUT_OF_USE = ("mask_token",)

# Nearly the fewest updates that a run can have; batch sizes and ratios that a page gives hold. The first step of Adam
# is as long as the learning rate, so a phase of one update can undo the other one exactly. At 32 pixels the last stage
# of a SegFormer has one token, and attention to itself teaches it nothing.
SMALLER = shlex.split("--labeled_batch_size 4 --pseudo_batch_size 4 --label_ratios 1.0")
SMALLEST = shlex.split("--max_steps 2 --image_size 64 --use_cpu true --bf16 false --dataloader_num_workers 0")
# The same for Python; what a page gives holds.
FROM_PYTHON = {"max_steps": 2, "labeled_batch_size": 4, "pseudo_batch_size": 4, "label_ratios": [1.0], "use_cpu": True}


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, what it is, and why it is not run if it is not."""

    place: str
    kind: str
    code: str
    not_run: str | None


def blocks(page: str) -> list[Block]:
    text = PAGES[page].read_text(encoding="utf-8")
    fence = re.compile(r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
    return [
        Block(f"{page}:{text.count(chr(10), 0, found.start('kind')) + 1}", found["kind"], found["code"], found["why"])
        for found in fence.finditer(text)
    ]


# ---- commands --------------------------------------------------------------------------------------------------------


def commands(code: str) -> list[list[str]]:
    """The words of each command, without comments."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def call(words: list[str]) -> int:
    """Run one command in this process; returns its exit code."""
    match words:
        case ["hf-dmt", "train", *given]:
            config = [given.pop(0)] if given and not given[0].startswith("-") else []
            arguments = [*config, *SMALLER, *given, *SMALLEST]
            code = train.run(arguments)
            if code == 0 and "--output_dir" in arguments:
                assert_run_trained(arguments)
            return code
        case ["hf-dmt", command, *given] if command in COMMANDS:
            return importlib.import_module(f"hf_dmt.commands.{command}").main(given)
        case ["make", target, *_]:  # that the documented target exists; running it would build an environment
            return 0 if re.search(rf"^{target}:", MAKEFILE, re.M) else 2
    raise AssertionError(f"{shlex.join(words)}: no way to run this here. Teach `call`, or say why it is not run.")


def assert_run_trained(arguments: list[str]) -> None:
    """What a finished run exports against what it started from, which is built again from the same flags."""
    model, _, args = parse(arguments, train.RECIPES)
    found = ModelPair.from_pretrained(args.output_dir)
    start = opening.build_pair(model, args, found.class_names)
    choose_trained(start, {"a": args.train, "b": args.train_b or args.train})
    assert_trained(found, start)


def assert_trained(found: ModelPair, start: ModelPair) -> None:
    """Every trainable tensor of both members has changed."""
    trained = dict(found.named_parameters())
    still = {
        name
        for name, value in start.named_parameters()
        if value.requires_grad and torch.equal(value, trained[name].to(value.device))
    }
    assert not {name for name in still if not name.endswith(OUT_OF_USE)}, still


def expected(code: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and what the page says it prints."""
    for part in re.split(r"^\$ ", code, flags=re.M)[1:]:
        command, _, output = part.replace("\\\n", " ").partition("\n")
        yield command, output


def missing_from(output: str, said: str) -> str | None:
    """The first piece of what a page says that is not in the output, in order and whatever the line breaks."""
    have = " ".join(output.split())
    for piece in filter(None, (" ".join(part.split()) for part in said.split("..."))):
        _, found, have = have.partition(piece)
        if not found:
            return piece
    return None


# ---- the folder of a person who reads a page -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    save_checkpoints(root)
    return root


@pytest.fixture
def desk(checkpoints: Path, tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the images, and a Hub with the models and data sets, that the pages name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    for folder in (path.parent for path in checkpoints.rglob("config.json")):
        publish(hub, "model", folder.relative_to(checkpoints).as_posix(), folder)
    small_files.class_folder(Path("my_images"), each=8)
    for number in range(12):
        small_files.save(small_files.image(15 * number), Path("my_unlabeled") / "ab"[number % 2] / f"{number}.jpg")
        small_files.save(small_files.image(15 * number), Path("my_unlabeled_scenes") / f"{number}.jpg")
    small_files.scene_folder(Path("my_scenes"), [(0, 1), (1, 2), (0, 2), (0, 1, 2)] * 3)
    publish(hub, "dataset", "uoft-cs/cifar10", labeled_table(tmp_path / "cifar10"))
    Path("classes.json").write_text('["road", "tree", "sky"]')
    small_files.scene_folder(Path("scenes_counted_from_1"), [(1, 2, 3), (1, 2), (1, 3), (2, 3)])
    small_files.scene_folder(Path("object_as_255"), [(0, 255), (255, 0)] * 2)
    small_files.scene_folder(Path("painted_masks"))
    small_files.save(small_files.image(90), Path("painted_masks/masks/00.png"))
    small_files.cut(small_files.class_folder(Path("one_broken_file"), each=8) / "dog" / "03.jpg")
    small_files.image(90).save("image.jpg")
    small_files.image(90).save("painted.png")
    return tmp_path


def labeled_table(root: Path) -> Path:
    """Parquet files as CIFAR-10 has them on the Hub, of three classes."""
    rows = {
        "img": [small_files.image(6 * number, (8, 8)) for number in range(30)],
        "label": [number % 3 for number in range(30)],
    }
    kinds = {"img": datasets.Image(), "label": datasets.ClassLabel(names=["airplane", "automobile", "bird"])}
    return small_files.parquet(root, train=small_files.table(rows, kinds), test=small_files.table(rows, kinds))


def publish(hub: HubServer, kind: str, name: str, folder: Path) -> None:
    """Put a folder on the Hub in one commit, whoever owns the name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    blobs = {path.relative_to(folder).as_posix(): Blob(path.read_bytes(), lfs=False) for path in files}
    repo = hub.hub.repos[kind, name] = Repo(name, kind, private=False)
    repo.commit("main", blobs, author="me", title="Add files")


def names_of_a_page() -> dict[str, Any]:
    """What Python on a page may take for granted: two checkpoints and a few images in lists."""
    images = [small_files.image(8 * number) for number in range(40)]
    return {
        "model_a": "google/vit-base-patch16-224-in21k",
        "model_b": "facebook/dinov2-base",
        "output_dir": "runs/python",
        "labeled": [{"image": image, "label": index % 2} for index, image in enumerate(images[:10])],
        "unlabeled": [{"image": image} for image in images[10:30]],
        "validation": [{"image": image, "label": index % 2} for index, image in enumerate(images[30:])],
    }


# ---- tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs(
    page: str, desk: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a flag, file or call in the documents that no longer exists, a message that reads differently now,
    and a documented run that trains nothing or only one model."""
    if page != "README.md":  # once is enough: drawing takes longer than such a run does
        monkeypatch.setattr(finishing, "write_report", lambda folder: folder / "report.html")
        monkeypatch.setattr(finishing, "write_figures", lambda folder: None)
    monkeypatch.setattr(
        hf_dmt, "DMTTrainingArguments", functools.partial(DMTTrainingArguments, **FROM_PYTHON), raising=False
    )
    names = names_of_a_page()
    for block in blocks(page):
        if block.not_run:
            continue
        match block.kind:
            case "python":
                exec(compile("\n" * int(block.place.partition(":")[2]) + block.code, str(PAGES[page]), "exec"), names)
                if trainer := names.pop("trainer", None):
                    labels = dict(enumerate(trainer.model.class_names))
                    task = trainer.model.task
                    start = ModelPair.from_models(names["model_a"], names["model_b"], task=task, id2label=labels)
                    assert_trained(trainer.model, start)
            case "bash":
                for words in commands(block.code):
                    capfd.readouterr()
                    code = call(words)
                    assert code == 0, f"{block.place}: {shlex.join(words)}\n{''.join(capfd.readouterr())}"
            case "yaml":  # a config file, called as its first line says
                Path(block.code.splitlines()[0].removeprefix("# ")).write_text(block.code, encoding="utf-8")
            case "console":
                for command, said in expected(block.code):
                    capfd.readouterr()
                    (words,) = commands(command)
                    call(words)
                    printed = "".join(capfd.readouterr())
                    lost = missing_from(printed, said)
                    assert lost is None, f"{block.place}: not printed: {lost}\nprinted:\n{printed}"
            case kind:
                assert kind == "text", f"{block.place}: a block of kind {kind!r} is not run by anything"


def test_what_is_not_run_says_why() -> None:
    """Guards against blocks that drop out of the test one by one."""
    found = {page: [block.not_run for block in blocks(page) if block.not_run] for page in PAGES}
    assert {page: reasons for page, reasons in found.items() if reasons} == NOT_RUN


def test_every_fence_is_seen() -> None:
    """Guards against a block that `blocks` overlooks because it is indented or marked in another way."""
    for page, path in PAGES.items():
        fences = [line for line in path.read_text(encoding="utf-8").splitlines() if "```" in line]
        assert len(fences) == 2 * len(blocks(page)), page


def test_flags_that_pages_name_exist() -> None:
    """Guards against a flag that was renamed everywhere except in a sentence of a page."""
    ours = {option for action in Parser()._actions for option in action.option_strings}
    ours |= {f"--{flag.name}" for flag in dataclasses.fields(queue.QueueArguments)}
    programs = (*ROOT.glob("scripts/**/*.py"), *ROOT.glob("hf_dmt/commands/*.py"), Path(prepare_masks.__file__))
    for program in programs:
        ours |= set(re.findall(r"add_argument\(\s*\"(--[a-z_]+)\"", program.read_text(encoding="utf-8")))
    ours |= {f"--{name}" for name in launch.PASSED_ON} | {"--help", "--help_all"}
    ours.add("--only")  # of the benchmarks, which name their parts
    accelerate = {"--multi_gpu", "--mixed_precision", "--dynamo_backend", "--cpu"}
    for page, path in PAGES.items():
        text = re.sub(
            r"^```console\n.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S
        )  # may be mistakes
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_]*", text))
        assert not named - ours - accelerate - {"--flags"}, page  # stands for any


def test_links_lead_to_files() -> None:
    """Guards against a page that was moved or a heading that was renamed."""
    for page, path in PAGES.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            if re.match(r"https?:", target):
                continue
            file, _, heading = target.partition("#")
            found = (path.parent / file).resolve() if file else path
            assert found.exists(), f"{page}: {target}"
            if heading:
                headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.M)
                slugs = {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}
                assert heading in slugs, f"{page}: {target}"


def test_the_notebook_runs(desk: Path) -> None:
    """Guards against a cell that no longer runs; here each phase has a single update."""
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        for number, cell in enumerate(cells()):
            code = "".join(cell["source"])
            if "parameters" in cell["metadata"].get("tags", []):
                code = 'settings = {"max_steps": 1, "label_ratios": [1.0], "use_cpu": True}'
            exec(compile(code, f"{NOTEBOOK}, code cell {number}", "exec"), names)
    plt.close("all")
    assert [phase["steps"] for phase in names["phases"]] == [1, 1]


def test_what_the_notebook_shows_is_one_whole_run() -> None:
    """Guards against pictures from an older run, from cells that were run out of order, or of an error."""
    assert [cell["execution_count"] for cell in cells()] == list(range(1, len(cells()) + 1))
    kinds = [output["output_type"] for cell in cells() for output in cell["outputs"]]
    assert kinds.count("display_data") == 3 and "error" not in kinds


def cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("module", re.findall(r"\bhf_dmt[\w.]*", re.findall(r"pdoc .*\\\n(.*)", MAKEFILE)[0]))
def test_docstrings_become_pages_of_the_api(module: str) -> None:
    """Guards against a docstring section that the converter does not know: it would appear as plain text."""
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        page = pdoc.render.html_module(pdoc.doc.Module(importlib.import_module(module)), all_modules={})
    shown = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "Arguments:" in shown or "Attributes:" in shown
    assert not re.search(r"^\s*(Args|Keyword Args|Returns|Raises|Attributes): *\S", shown, re.M)
