"""Runs of the whole command line in separate processes that are killed at a chosen instant.

An instant is a file operation of the run (opening, renaming, removing, making a folder, for output and images), an
update, or a batch without gradients. They are counted by an audit hook, so instant 137 of a run is always the same one,
and a seeded choice can be repeated. The faults are real: SIGKILL; or a limit on the size of files with SIGXFSZ at its
default, which ends the process in the middle of a write, also in libraries written in C++ and Rust.

A plain module, because the processes import it. They are forked from a server that has imported everything once.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image

_FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}

# The first function of this table found on the stack says in which stage of a run an instant lies.
_STAGE_OF = {
    "export": "final export",
    "write_report": "final export",
    "write_figures": "final export",
    "_write_card": "final export",
    "_save_checkpoint": "saving a checkpoint",
    "_sample": "updates",
    "compute_loss": "updates",
    "finish": "writing the store",
    "write": "writing the store",
    "label_images": "labeling",
    "label_pixels": "labeling",
    "evaluate": "between phases",
    "begin_phase": "between phases",
}
STAGES = (
    "before training",
    "updates of phase 0",
    "between phases",
    "labeling",
    "writing the store",
    "updates of a later phase",
    "saving a checkpoint",
    "final export",
)


class Instants:
    """Counts the instants of this process, and ends it at one of them.

    Args:
        folders: whose files count. kill_at: number of the instant, from 1; None only counts.
        half_written: the process dies in the first write that makes a file longer than this, from that instant on.
    """

    def __init__(self, folders: list[str], kill_at: int | None, half_written: int | None) -> None:
        self.folders, self.kill_at, self.half_written = tuple(folders), kill_at, half_written
        self.stages: list[str] = []
        self.trainer: Any = None
        self.process = os.getpid()

    def on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FILE_EVENTS and str(arguments[0]).startswith(self.folders):
            self.reach(sys._getframe(1))

    def reach(self, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a data worker, which inherits the hook
            return
        self.stages.append("" if self.kill_at else self._stage(frame))
        if len(self.stages) != self.kill_at:
            return
        if self.half_written is None:
            os.kill(os.getpid(), signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.half_written, self.half_written))

    def _stage(self, frame: FrameType | None) -> str:
        while frame is not None:
            stage = _STAGE_OF.get(frame.f_code.co_name)
            if stage == "updates":
                return f"{stage} of phase 0" if self.trainer.course.current.index == 0 else f"{stage} of a later phase"
            if stage and (stage != "writing the store" or "pseudo_labels" in frame.f_code.co_filename):
                return stage
            frame = frame.f_back
        return "before training"


def _run(arguments: list[str], folders: list[str], how: dict[str, Any], output: str, stages: str | None) -> None:
    from hf_dmt import DMTTrainer, ModelPair
    from hf_dmt.commands.train import run as main
    from hf_dmt.report import figures

    gc.freeze()  # every training ends in gc.collect(), which need not walk through the libraries
    figures.PANELS = figures.PANELS[:1]  # the other panels are drawn and written in the same way
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # data workers start as in a run of the command line
    # Image checks cached by an earlier run would leave out instants and shift the numbers of the others.
    os.environ["HF_ASSETS_CACHE"] = f"{output}.looks"
    sys.stdout = sys.stderr = open(output, "a", buffering=1)  # noqa: SIM115  (until the process ends)
    instants = Instants(folders, how.get("kill_at"), how.get("half_written"))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # here: an instant may come in a thread that reads files
    compute_loss: Callable[..., Any] = DMTTrainer.compute_loss

    def compute_loss_at_an_instant(trainer: Any, *given: Any, **named: Any) -> Any:
        loss = compute_loss(trainer, *given, **named)
        instants.trainer = trainer
        instants.reach(sys._getframe(0))
        if how.get("sigterm_at") == trainer.state.global_step + 1:
            del how["sigterm_at"]  # an update calls this for each model, and a second signal ends a run at once
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    compute_loss_at_an_instant.__code__ = compute_loss_at_an_instant.__code__.replace(co_name="compute_loss")
    begin_phase = DMTTrainer.begin_phase

    def begin(trainer: Any) -> None:
        instants.trainer = trainer
        begin_phase(trainer)

    clean_logits: Callable[..., Any] = ModelPair.clean_logits

    def clean_logits_at_an_instant(pair: Any, *given: Any, **named: Any) -> Any:
        # With data workers, labeling has no other instant in this process: the workers open the images.
        instants.reach(sys._getframe(0))
        return clean_logits(pair, *given, **named)

    ModelPair.clean_logits = clean_logits_at_an_instant  # type: ignore[method-assign]
    DMTTrainer.compute_loss = compute_loss_at_an_instant  # type: ignore[method-assign]
    DMTTrainer.begin_phase = begin  # type: ignore[method-assign]
    sys.addaudithook(instants.on_event)
    code = main(arguments)
    if stages:
        Path(stages).write_text(json.dumps(instants.stages))
    sys.exit(code)


class Runs:
    """One command line and the folders of its runs.

    Attributes:
        stages: of every instant of the uninterrupted run.
        expected: the output folder of the uninterrupted run.
    """

    def __init__(self, data: Path, work: Path, arguments: list[str]) -> None:
        self.data, self.work, self.arguments = data, work, arguments
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["kills", "hf_dmt.commands.train", "matplotlib.pyplot"])
        self.context = context
        self.one_at_a_time = threading.Lock()
        self.expected = work / "uninterrupted"
        listed = work / "stages.json"
        assert self.run(self.expected, stages=listed) == 0, self.output(self.expected)
        self.stages: list[str] = json.loads(listed.read_text())

    def run(self, folder: Path, *, resume: bool = False, stages: Path | None = None, **how: Any) -> int:
        """The exit code of a run; negative is the signal that ended it.

        Args:
            how: `kill_at`, `half_written`: as for `Instants`. `sigterm_at`: the update in which SIGTERM arrives.
        """
        arguments = [*self.arguments, "--output_dir", str(folder)]
        arguments += ["--resume_from_checkpoint", "True"] if resume else []
        log = str(self.work / f"{folder.name}.log")
        watched = [str(folder), str(self.data)]
        process = self.context.Process(
            target=_run, args=(arguments, watched, how, log, str(stages) if stages else None)
        )
        # Starting a process also collects the exit codes of finished ones, and each can be read only once. A thread
        # that starts a run at that moment would take it from the thread that waits for it, which then gets 255.
        with self.one_at_a_time:
            process.start()
        ended = wait([process.sentinel], 900)  # a hang, on a machine with other work too
        assert ended, "the run hangs"
        with self.one_at_a_time:
            return process.exitcode

    def output(self, folder: Path) -> str:
        """What the runs in this folder printed."""
        return (self.work / f"{folder.name}.log").read_text()[-3000:]

    def draw(self, stage: str, seed: int) -> list[int]:
        """Numbers of all instants of a stage, in random order."""
        numbers = [number for number, found in enumerate(self.stages, start=1) if found == stage]
        return [int(number) for number in np.random.default_rng([seed, STAGES.index(stage)]).permutation(numbers)]


def write_images(root: Path, task: str) -> Path:
    """A small image set of a task: class folders, or images beside masks."""
    rng = np.random.default_rng(4)
    for number in range(24):
        label = number % 3
        colors = rng.integers(0, 120, (16, 16, 3)).astype(np.uint8)
        colors[..., label] += 130
        if task == "image-classification":
            path = root / "abc"[label] / f"{number:02d}.png"
        else:
            path = root / "images" / f"{number:02d}.png"
            mask = np.full((16, 16), label, dtype=np.uint8)
            mask[:, 8:] = (label + 1) % 3
            (root / "masks").mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(root / "masks" / path.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colors).save(path)
    return root
