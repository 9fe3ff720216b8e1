"""What has to hold on a GPU, in about three minutes and one table: run this first on a new machine or a new torch.

    python scripts/benchmarks/gpu_check.py --device cuda [--json FILE]
    python scripts/benchmarks/gpu_check.py --quick          # on the CPU, toy models: checks this script

Rows with a goal are checks: the official code's losses and gradients, losses in half precision against float32, one
update of a pair against two plain Trainer steps (eager, and compiled on a GPU), labels against bare forward passes,
memory of the members in turn against both at once, and a run that was cut and resumed against one that was not. The
exit code is 1 where one fails. Models have random weights; images are made from their number.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair, dynamic_mutual_loss
from hf_dmt.data.members import MEMBERS
from hf_dmt.training.settings.methods import Knobs
from hf_dmt.training.step import member_steps, total_loss

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.labeling import bare_forwards, model_ready, our_pass
from scripts.benchmarks.measure import Row, finish, in_turns, options, peak_memory, ratios
from scripts.benchmarks.step import Clock, compare, pair_step, usual_settings
from scripts.benchmarks.subjects import IMAGES, PIXELS, Pictures, decoded, image_pair, pixel_pair

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def goldens(device: torch.device) -> Row:
    """The official code's pixel losses and gradients, computed on the device."""
    facts, tensors = json.loads((GOLDEN / "golden.json").read_text())["cases"], load_file(GOLDEN / "golden.safetensors")
    worst = 0.0
    cases = sorted(name for name in facts if name.startswith("pixel_"))
    for case in cases:
        logits, labels, confidence = (
            tensors[f"{case}.{what}"].to(device) for what in ("logits", "labels", "confidence")
        )
        logits.requires_grad_()
        found = dynamic_mutual_loss(
            logits,
            labels,
            confidence,
            torch.arange(len(logits), device=device) < facts[case]["num_pseudo"],
            gamma1=facts[case]["gamma_agree"],
            gamma2=facts[case]["gamma_disagree"],
            ignore_index=facts[case]["ignore_index"],
            positive_disagree="drop" if facts[case]["gamma_agree"] or facts[case]["gamma_disagree"] else "keep",
        )
        found.loss.backward()
        expected = facts[case]["expected"]["dmt"]["loss"]
        gradient = tensors[f"{case}.dmt.grad"].to(device)
        assert logits.grad is not None
        loss_error = abs(found.loss.item() - expected) / max(abs(expected), 1e-12)
        gradient_error = ((logits.grad - gradient).norm() / gradient.norm().clamp(min=1e-12)).item()
        worst = max(worst, loss_error, gradient_error)
    return Row(
        f"losses and gradients of {len(cases)} golden cases", "the official code", [worst], "largest error", "<= 1e-5"
    )


def precision(pair: ModelPair, device: torch.device, dtype: str) -> Row:
    """The loss of one batch under autocast, weights and all, against float32."""
    torch.manual_seed(0)
    side, classes = pair.image_size, len(pair.class_names)
    units = (8,) if pair.task == IMAGES else (8, side, side)
    sample = {
        "pixel_values": torch.rand(8, 3, side, side, device=device),
        "labels": torch.randint(classes, units, device=device),
        "confidence": torch.rand(units, device=device),
        "is_pseudo": torch.arange(8, device=device) >= 2,
    }
    pair.eval()
    values = []
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast(device.type, dtype=HALF[dtype], enabled=enabled):
            steps, logits = member_steps(
                pair, dict.fromkeys(MEMBERS, sample), Knobs(), ramp=1.0, pseudo_weight=1.0, mixup_seeds=(0, 1)
            )
            values.append(total_loss(steps, logits, None, 1).item())
    error = abs(values[1] - values[0]) / abs(values[0])
    return Row(f"loss in {dtype}, {pair.task}", "float32", [error], "relative error", "<= 0.03", {"loss": values[0]})


def labels(pair: ModelPair, count: int, rounds: int, settings: dict[str, Any]) -> Row:
    accelerator = Accelerator(cpu=settings["use_cpu"], mixed_precision="bf16" if settings["bf16"] else "no")
    images, size = decoded(Pictures(count, pair.image_size)), 16
    batches = model_ready(pair, images, size)
    with tempfile.TemporaryDirectory() as folder:
        jobs = {
            "ours": partial(our_pass, pair, images, size, Path(folder), accelerator),
            "bare": partial(bare_forwards, pair, batches, accelerator),
        }
        seconds = in_turns(jobs, rounds)
    details = {"images/s": count / min(seconds["ours"])}
    found = ratios(seconds, "ours", "bare")  # ours resizes and stores; a bare pass takes tensors that are ready
    return Row(f"labels, {pair.task}", "bare forward passes", found, "of their time", "", details)


def memory(make: Any, batch: tuple[int, int], device: str, settings: dict[str, Any]) -> Row:
    items = decoded(Pictures(sum(batch), make().image_size, make().task))
    peaks = {}
    for schedule in ("together", "alternate"):

        def run(schedule: str = schedule) -> None:
            pair_step(make(), items, 3, batch, Clock(cpu_time=False), **settings, member_schedule=schedule)

        before, peak = peak_memory(run, device)
        peaks[schedule] = (peak - before) / 2**20
    ratio = peaks["alternate"] / peaks["together"]
    details = {f"{name} MiB": value for name, value in peaks.items()}
    return Row(f"memory, members in turn, {make().task}", "both at once", [ratio], "of its memory", "<= 1", details)


class Stop(TrainerCallback):
    """Ends a run as a kill would, after its update `at` was saved."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.at:
            raise KeyboardInterrupt


def resumed(make: Any, settings: dict[str, Any]) -> Row:
    """The largest difference of a weight between a run that was cut in the middle of a phase and one that was not."""
    items = decoded(Pictures(16, make().image_size, make().task))
    unlabeled = [{"image": item["image"]} for item in items]
    folder = Path(tempfile.mkdtemp())
    given = {
        **{key: value for key, value in usual_settings().items() if key != "save_strategy"},
        **{"label_ratios": [1.0], "max_steps": 4, "labeled_batch_size": 2, "pseudo_batch_size": 6},
        **{"save_strategy": "steps", "save_steps": 6},
        **{key: value for key, value in settings.items() if key != "torch_compile"},
    }

    def run(name: str, callbacks: Sequence[TrainerCallback] = (), *, resume: bool = False) -> ModelPair:
        pair = make()
        arguments = DMTTrainingArguments(output_dir=str(folder / name), **given)
        trainer = DMTTrainer(pair, arguments, items, unlabeled, callbacks=list(callbacks))
        trainer.train(resume_from_checkpoint=resume or None)
        return pair

    try:
        whole = run("whole")
        try:
            run("cut", [Stop(6)])
            raise RuntimeError("the run was not cut: no checkpoint of update 6")
        except KeyboardInterrupt:
            pass
        again = run("cut", resume=True).state_dict()
        pairs = [(value.float(), again[key].float()) for key, value in whole.state_dict().items()]
        apart = max((one - two).abs().max().item() for one, two in pairs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    # Atomic additions make some of a GPU's backward passes differ in their last bits from run to run.
    goal = "<= 0" if settings["use_cpu"] else "<= 1e-4"
    return Row(f"weights after a resume, {make().task}", "the same run, not cut", [apart], "largest difference", goal)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = options(__doc__, argv, gpu=True)
    device = torch.device(args.device)
    gpu = args.device == "cuda"
    if gpu:
        makers = {IMAGES: partial(image_pair, 224, "base", both=True), PIXELS: partial(pixel_pair, 512, "b2")}
        batches, steps, rounds, images = {IMAGES: (16, 48), PIXELS: (4, 12)}, 8, 2, 256
    else:
        makers = {IMAGES: partial(image_pair, 32, "toy", both=True), PIXELS: partial(pixel_pair, 32, "toy")}
        batches, steps, rounds, images = {IMAGES: (2, 6), PIXELS: (2, 2)}, 4, 1, 16
    settings: dict[str, Any] = {"use_cpu": not gpu, "bf16": gpu}
    rows = [goldens(device)]
    for task, make in makers.items():
        pair = make().to(device)
        rows += [precision(pair, device, dtype) for dtype in (HALF if gpu else ["bf16"])]
        rows.append(labels(pair, images, rounds, settings))
        if args.quick and task == PIXELS:
            continue  # whole runs of one task are enough to check this script
        items = decoded(Pictures(64 if gpu else 16, pair.image_size, task))
        for compiled in (False, True) if gpu else (False,):
            given = {**settings, "torch_compile": compiled}
            row = compare(make(), items, steps, batches[task], rounds, cpu_time=False, **given)
            rows.append(replace(row, what=f"{row.what}, compiled") if compiled else row)
        rows.append(memory(make, batches[task], args.device, settings))
        rows.append(resumed(make, settings))
    finish(rows, args)
    failed = [row.what for row in rows if row.met is False]
    if failed and not args.quick:
        raise SystemExit(f"Not as it must be: {'; '.join(failed)}.")
    return rows


if __name__ == "__main__":
    main()
