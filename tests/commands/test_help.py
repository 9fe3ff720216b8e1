"""`hf-dmt` and its help: fast start, two screens, and no flags that do not exist."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from typing import Any

import pytest

from hf_dmt.__main__ import COMMANDS, called, main
from hf_dmt.commands.launch import launcher_parser
from hf_dmt.data.arguments import DataArguments
from hf_dmt.training.settings.arguments import REPLACED
from hf_dmt.training.settings.command_line import ModelArguments, Parser
from hf_dmt.training.settings.help import FIRST, everything, screens
from hf_dmt.training.settings.knobs import KNOBS, RUN_SETTINGS


def named(page: str) -> list[str]:
    return [line.split()[0].removeprefix("--") for line in page.splitlines() if line.startswith("  --")]


@pytest.mark.parametrize("width", [80, 100])
def test_help_is_two_screens(width: int) -> None:
    """Guards against so many flags that the important ones scroll off the screen."""
    lines = screens(Parser(), launcher_parser(), width).splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= width
    assert named("\n".join(lines)) == [name for group in FIRST.values() for name in group]


def test_defaults_in_help_are_those_of_the_tasks() -> None:
    """Guards against help that states another batch size than the run uses."""
    page = screens(Parser(), launcher_parser(), 100)
    for name in FIRST["method (see docs/methods.md and docs/settings.md)"]:
        if name in KNOBS:
            line = next(line for line in page.splitlines() if line.startswith(f"  --{name} "))
            images, masks = (
                KNOBS[name].default_for(task) for task in ("image-classification", "semantic-segmentation")
            )
            shown = line.rpartition("[")[2].rstrip("]").split("; masks: ")
            assert len(shown) == 1 + (images != masks), line
    assert "[16; masks: 4]" in page and "[5e-05]" in page


def test_every_flag_of_ours_is_listed_and_none_that_is_refused() -> None:
    """Guards against a flag that the help omits, and against a listed flag that every run refuses."""
    page = named(everything(Parser(), launcher_parser(), 100))
    assert len(page) == len(set(page))
    ours = {*KNOBS, *RUN_SETTINGS}
    ours |= {field.name for one in (DataArguments, ModelArguments) for field in dataclasses.fields(one)}
    assert not ours - set(page)
    assert not set(REPLACED) & set(page)
    assert {"num_processes", "accelerate_config", "weight_decay", "lr_scheduler_type"} <= set(page)


def test_help_is_shown_before_anything_is_opened(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against reading a config file, or starting processes, just to print help."""
    for words in (["train", "nothing.yaml", "--help"], ["train", "--num_processes", "2", "-h"], ["check", "--help"]):
        assert main(words) == 0
        assert "--model_a" in capsys.readouterr().out


def test_what_does_not_exist_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a typo that gets no suggestion."""
    assert main(["trian"]) == 2
    assert "Did you mean `hf-dmt train`?" in capsys.readouterr().err
    assert main(["everything"]) == 2
    assert ", ".join(COMMANDS) in capsys.readouterr().err
    assert main(["train", "--gama1", "3"]) == 2
    assert "Did you mean --gamma1?" in capsys.readouterr().err
    assert main(["train", "digit-scene"]) == 2
    assert "digit-scenes" in capsys.readouterr().err


def test_the_start_is_light() -> None:
    """Guards against `hf-dmt --help` waiting seconds for torch because of an import at the top of a file."""
    program = (
        "import sys; from hf_dmt.__main__ import main; main(['--help']); main(['--version']); main(['trian'])\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stdout.splitlines()[0] == "usage: hf-dmt COMMAND [ARGUMENTS]"
    for name in COMMANDS:
        assert f"  {name} " in done.stdout


def test_a_name_that_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a UnicodeEncodeError for a class name in a log file on a system whose encoding is not UTF-8."""
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    assert called(lambda words: print(*words) or 0, ["\u732b", "caf\udce9"]) == 0
    shown.flush()
    assert shown.buffer.getvalue() == b"\\u732b caf\\udce9\n"


def test_a_reader_that_stops_is_no_error() -> None:
    """Guards against a traceback after `hf-dmt check ... | head`."""
    program = "import sys; from hf_dmt.__main__ import called; sys.exit(called(lambda _: print('x' * 10**6) or 0, []))"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == "" and run.wait() == 141


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_no_flag_may_be_abbreviated(command: str) -> None:
    """Guards against `--seed 5` counting as `--seeds 5`, and against a new flag that changes what a script means."""
    try:
        code: Any = main([command, "--hel"])
    except SystemExit as end:
        code = end.code
    assert code == 2, "0 if it is taken for --help"
