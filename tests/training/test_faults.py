"""External failures during training: each ends in one message that says what to do, and nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from small_runs import KillAt, assert_same, images, make_pair, make_trainer, results, scenes, state_of, telemetry
from torch.utils.data import Subset, get_worker_info
from transformers import TrainerCallback

from hf_dmt import DMTTrainingArguments
from hf_dmt.data.reading.image_set import ImageSet
from hf_dmt.data.reading.rows import FileRows
from hf_dmt.training.run import checkpoints
from hf_dmt.training.run.folder import check_output_folder
from hf_dmt.training.run.runtime_errors import RunError, explained, out_of_memory
from hf_dmt.training.settings.terminal import as_flags

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}


class AtStep(TrainerCallback):
    """Causes an external failure after an update."""

    def __init__(self, step: int, happens: Any) -> None:
        self.step, self.happens = step, happens

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.happens()


def unlabeled_files(folder: Path) -> ImageSet:
    folder.mkdir()
    for number, item in enumerate(images(12, seed=1)):
        item["image"].save(folder / f"{number}.png")
    paths = sorted(folder.iterdir())
    return ImageSet(FileRows(paths, folder), torch.arange(12).numpy(), "image-classification")


def test_images_deleted_between_labeling_and_training(tmp_path: Path) -> None:
    """Guards against hours of training that end in a traceback from Pillow. When the file is back, the run continues
    where it stopped."""
    source = unlabeled_files(tmp_path / "more")
    whole = make_pair()
    make_trainer(tmp_path / "whole", whole, unlabeled=source, **SAVING).train()
    gone = AtStep(4, lambda: shutil.move(tmp_path / "more", tmp_path / "elsewhere"))
    with pytest.raises(RunError, match=r"\d+\.png cannot be read.*`resume_from_checkpoint=True`"):
        make_trainer(tmp_path / "run", unlabeled=source, callbacks=[gone], **SAVING).train()
    shutil.move(tmp_path / "elsewhere", tmp_path / "more")
    pair = make_pair()
    make_trainer(tmp_path / "run", pair, unlabeled=source, **SAVING).train(resume_from_checkpoint=True)
    assert all(torch.equal(value, pair.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("role", ["labeled", "unlabeled", "evaluation"])
def test_an_item_that_cannot_be_read_is_named(tmp_path: Path, role: str) -> None:
    """Guards against an error from the code of a data set that does not say which of its images it is about."""

    class Torn(list[Any]):
        def __getitem__(self, row: Any) -> Any:
            if row == 5 and reading:
                raise OSError("image file is truncated")
            return super().__getitem__(row)

    reading = False
    trainer = make_trainer(tmp_path, **{"evaluation": images(6), role: Torn(images(12)), "max_steps": 3})
    with pytest.raises(ValueError, match=r"Item 5 of the \w+ images cannot be read \(OSError: image file is trunc"):
        reading = True
        trainer.train()
    trainer.start.digests = {}  # a set of more than 16 images is not read completely before training
    with pytest.raises(RunError, match=r"Image 5 cannot be read \(OSError: image file is truncated\)"):
        trainer.train()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.full((16, 16), 255), "Label 255 in the mask of image 4, which is to be scored, is outside 0"),
        (np.zeros((16, 8)), "The image 4 is 16x16, but its mask is 8x16"),
        (None, "Image 4, which is to be scored, has no label"),
    ],
)
def test_a_mask_that_cannot_be_scored_is_named(tmp_path: Path, wrong: Any, message: str) -> None:
    """Guards against scores on a mask of another size than its image, and against errors that name no image. Of a set
    that reads its masks when they are needed, only the first is checked before."""
    evaluated = Subset(scenes(6), range(6))
    trainer = make_trainer(tmp_path, make_pair("segformer", "segformer"), evaluation=evaluated)
    evaluated.dataset[4]["mask"] = None if wrong is None else wrong.astype(np.uint8)
    with pytest.raises(ValueError, match=message):
        trainer.evaluate()


def test_the_output_folder_may_be_moved(tmp_path: Path) -> None:
    """Guards against a run that needs paths of its old disk after its folder was moved to another one."""
    whole = make_pair()
    make_trainer(tmp_path / "whole", whole, **SAVING).train()
    with pytest.raises(RuntimeError, match="at step 5"):
        make_trainer(tmp_path / "run", callbacks=[KillAt(5)], **SAVING).train()
    shutil.move(tmp_path / "run", tmp_path / "disk" / "moved")
    pair = make_pair()
    make_trainer(tmp_path / "disk" / "moved", pair, **SAVING).train(resume_from_checkpoint=True)
    assert all(torch.equal(value, pair.state_dict()[name]) for name, value in whole.state_dict().items())
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a folder that even root cannot write to")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Guards against finding out at the first checkpoint of a long run that the folder is not writable."""
    with pytest.raises(OSError, match=r"`output_dir` .* cannot be written|No such file|not permitted"):
        make_trainer("/proc/hf_dmt").train()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against replacing the previous checkpoint with half of a new one."""

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer = make_trainer(tmp_path, save_total_limit=1, **SAVING)
    trainer.add_callback(AtStep(4, lambda: monkeypatch.setattr(torch, "save", full)))
    with pytest.raises(OSError, match=r"checkpoint-4"):
        trainer.train()
    (tmp_path / "telemetry.jsonl").unlink()
    (tmp_path / "telemetry.jsonl").mkdir()
    with pytest.raises(OSError, match=r"Cannot write telemetry\.jsonl in .*Free disk space"):
        trainer.log({"loss": 1.0})
    (tmp_path / "telemetry.jsonl").rmdir()
    without_number = checkpoints.not_written(
        tmp_path / "checkpoint-9", RuntimeError("[enforce fail at inline_container")
    )
    assert str(without_number).startswith("checkpoint-9 cannot be written") and "(the file was cut off)" in str(
        without_number
    )
    monkeypatch.undo()
    again = make_trainer(tmp_path, **SAVING)
    assert again.checkpoint_to_resume(True) == str(tmp_path / "checkpoint-3"), "the end of phase 0"


def test_no_memory_on_the_device(tmp_path: Path) -> None:
    """The flags in the error message must be all that a resume needs, and the updates must stay the same."""
    whole, pair, saved = make_pair(), make_pair(), {"per_device_eval_batch_size": 2, "optim": "sgd", **SAVING}
    make_trainer(tmp_path / "whole", whole, gradient_accumulation_steps=2, **saved).train()

    def greedy(module: Any, inputs: Any) -> None:
        if module.training and len(inputs[0]) > 4 and trainer.state.global_step == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    pair.model_b.swin.register_forward_pre_hook(greedy)
    trainer = make_trainer(tmp_path / "run", pair, **saved)
    with pytest.raises(RunError, match=r"4 labeled \+ 4 pseudo-labeled.*Tried to allocate 2 GiB") as caught:
        trainer.train()
    advice = "--resume_from_checkpoint true --gradient_accumulation_steps 2 --per_device_eval_batch_size 1 "
    advice += "--accept_changes gradient_accumulation_steps per_device_eval_batch_size"
    assert advice in as_flags(str(caught.value)).replace("`", "")
    names = ["gradient_accumulation_steps", "per_device_eval_batch_size"]
    followed = {**saved, "gradient_accumulation_steps": 2, "per_device_eval_batch_size": 1, "accept_changes": names}
    make_trainer(tmp_path / "run", pair, **followed).train(resume_from_checkpoint=True)
    assert_same(state_of(pair), state_of(whole), tolerance=1e-5)


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3.00 GiB for an array with shape (805306368,) and data type float32"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_no_memory_in_other_words(tmp_path: Path, problem: Exception) -> None:
    """Guards against a traceback without advice where memory ran out on a CPU or inside a library."""
    args = make_trainer(tmp_path).args
    knobs = args.knobs("image-classification")
    with pytest.raises(RunError, match="Out of memory for updates of 4 labeled"), explained(args, knobs):
        raise problem
    with pytest.raises(RuntimeError, match="my own bug"), explained(args, knobs):
        raise RuntimeError("my own bug in the allocation of memory")


def test_no_memory_and_nothing_to_divide(tmp_path: Path) -> None:
    """Guards against advice that a resume refuses: smaller updates need a new run."""
    args = make_trainer(tmp_path, labeled_batch_size=3, pseudo_batch_size=5).args
    said = out_of_memory(args, args.knobs("image-classification"), "CUDA out of memory")
    assert "`accept_changes=['per_device_eval_batch_size']`, if labeling ran out" in said
    assert "a new run with `labeled_batch_size=1` and `pseudo_batch_size=2`" in said


class Deadly(list[dict[str, Any]]):
    """Images that kill the worker process that reads them, as the kernel does when memory runs out."""

    def __getitem__(self, index: Any) -> Any:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_worker_process_that_is_killed(tmp_path: Path) -> None:
    """Guards against an error that says only `DataLoader worker (pid 123) exited unexpectedly`."""
    trainer = make_trainer(tmp_path, labeled=Deadly(images(12)), dataloader_num_workers=1)
    with pytest.raises(RunError, match=r"worker was killed.*`dataloader_num_workers` .*checkpoint if there is one"):
        trainer.train()


def tracker(event: str) -> TrainerCallback:
    """One of the Trainer's integrations whose service is down."""

    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError("dashboard.example: connection refused")

    kind = type("DashboardCallback", (TrainerCallback,), {event: fail, "__module__": "transformers.integrations.x"})
    return kind()


def test_a_tracker_that_goes_down_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guards against a failing dashboard that ends days of training; the telemetry has every value."""
    pair = make_pair()
    make_trainer(tmp_path / "run", pair, callbacks=[tracker("on_log")]).train()
    assert len(results(tmp_path / "run")["phases"]) == 3 and any("loss" in line for line in telemetry(tmp_path / "run"))
    without = make_pair()
    make_trainer(tmp_path / "without", without).train()
    assert all(torch.equal(value, without.state_dict()[name]) for name, value in state_of(pair).items())
    with pytest.raises(RunError, match=r"DashboardCallback cannot be started.*`report_to`"):
        make_trainer(tmp_path / "never", callbacks=[tracker("on_train_begin")]).train()


def test_a_failed_start_leaves_its_folder_free(tmp_path: Path) -> None:
    """Guards against the message that a folder "already holds a run" when nothing was trained in it."""
    with pytest.raises(RunError, match=r"DashboardCallback cannot be started"):
        make_trainer(tmp_path, callbacks=[tracker("on_train_begin")]).train()
    assert (tmp_path / ".run.json").is_file(), "this test needs a start that has written something"
    second = make_trainer(tmp_path, max_steps=1)
    check_output_folder(second.args)
    second.train()
    assert len(results(tmp_path)["phases"]) == 3


def test_a_folder_without_permission_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against "[Errno 13]" from the stock constructor after all images were read."""
    args = DMTTrainingArguments(str(tmp_path / "no" / "run"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(ValueError, match=f"cannot be written: there is no permission to write to '{tmp_path}'"):
        check_output_folder(args)


def test_a_clock_that_is_set_back_deletes_no_new_checkpoint(tmp_path: Path) -> None:
    """Guards against deleting the newest checkpoint because it looks like the oldest by file time."""

    def set_back() -> None:
        for number, folder in enumerate(sorted(tmp_path.glob("checkpoint-*"))):
            os.utime(folder, (2_000_000_000 - number, 2_000_000_000 - number))

    trainer = make_trainer(tmp_path, save_total_limit=2, **SAVING)
    for step in (3, 5, 7):
        trainer.add_callback(AtStep(step, set_back))
    trainer.train()
    kept = sorted(int(folder.name.rpartition("-")[2]) for folder in tmp_path.glob("checkpoint-*"))
    assert kept[-1] == 8 and len(kept) == 2 and kept[0] >= 5
    assert make_trainer(tmp_path, **SAVING).checkpoint_to_resume(True) == str(tmp_path / "checkpoint-8")


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    """Guards against two runs that overwrite each other's checkpoints and records."""
    with FileLock(tmp_path / ".run.lock"), pytest.raises(ValueError, match=r"Another run is training in .*Wait"):
        make_trainer(tmp_path).train()
    assert not any(tmp_path.glob("**/*.safetensors"))
    left = [tmp_path / name for name in (".a.partial", "checkpoint-9/.run.json.partial")]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    make_trainer(tmp_path).train()  # a lock file that no process holds does not block
    assert not any(file.exists() for file in left), "what a killed process was writing is still there"
