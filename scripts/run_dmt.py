#!/usr/bin/env python
"""Train a pair by dynamic mutual training: `accelerate launch scripts/run_dmt.py [CONFIG.yaml] [--flags]`.

Without arguments it runs a small embedded example to the end.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import datasets
import transformers

from hf_dmt import DMTTrainer, DMTTrainingArguments, ModelPair
from hf_dmt.commands.preflight import Preflight, class_line
from hf_dmt.data.arguments import DataArguments
from hf_dmt.data.files import write_json
from hf_dmt.data.reading.builtin import BUILTIN_SETS
from hf_dmt.data.splitting.assemble import RunImages, assemble
from hf_dmt.data.splitting.splits import SPLIT_FILE
from hf_dmt.hub.repository import HubError
from hf_dmt.models import loading
from hf_dmt.models.networks import tiny
from hf_dmt.report import print_summary, write_figures, write_report
from hf_dmt.training.run.folder import check_output_folder, check_split, locked, resumes
from hf_dmt.training.run.protocol import peak_memory
from hf_dmt.training.run.runtime_errors import RunError
from hf_dmt.training.scoring.evaluation import without_loss
from hf_dmt.training.settings.command_line import ModelArguments, parse, print_error

RECIPES = Path(__file__).parent / "recipes"


def main(argv: Sequence[str] | None = None) -> int:
    """Run.

    Returns:
        The exit code: 0; 1 if the run could not go on or its result not be pushed, with everything so far in the
        output folder, or if `--check` found a problem; 2 for a mistake in what was given.

    Raises:
        SystemExit: 143 after SIGTERM, with a checkpoint saved.
    """
    try:
        model_args, data_args, args = parse(sys.argv[1:] if argv is None else argv, RECIPES)
        # Weights of tiny models load in milliseconds, and 20 progress bars for them hide the run's own.
        transformers.utils.logging.disable_progress_bar()
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        if model_args.check:
            return check(model_args, data_args, args)
        check_output_folder(args)
        images = assemble(
            data_args, model_args.task, token=args.hub_token, model_classes=lambda: common_classes(model_args, args)
        )
        if resumes(args):
            check_split(args.output_dir, images.split)
        if data_args.dataset_name in BUILTIN_SETS:
            args.horizontal_flip = False  # a mirrored digit is another digit, or none
        pair = build_pair(model_args, args, images.class_names)
        trainer = build_trainer(pair, args, images)
        checkpoint = trainer.checkpoint_to_resume(args.resume_from_checkpoint)
        hold = ExitStack()
        hold.enter_context(locked(args.output_dir, writes=args.should_save))
    except (ValueError, OSError) as problem:
        print_error(str(problem))
        return 2
    code = 1
    with hold:
        try:
            if args.should_save:
                write_json(Path(args.output_dir) / SPLIT_FILE, images.split)
                introduce(trainer, images)
            run(trainer, checkpoint)
            code = 0
        except HubError as problem:
            print_error(f"{problem} Everything is in {args.output_dir}. Push it later: {push_command(trainer)}")
        except (RunError, OSError) as problem:
            print_error(str(problem))
        finally:
            trainer.accelerator.end_training()
    return code


def check(model_args: ModelArguments, data_args: DataArguments, args: DMTTrainingArguments) -> int:
    """What a run with these flags would meet, on stdout; nothing is written.

    Returns:
        The exit code: 0 if the run can be started, 1 if there is a problem.
    """
    found = Preflight()
    with found.collecting():
        check_output_folder(args)
    with found.collecting():
        images = found.open_images(
            data_args, model_args.task, token=args.hub_token, model_classes=lambda: common_classes(model_args, args)
        )
        if images is not None:
            found.look_at_images(images, data_args)
            pair = build_pair(model_args, args, images.class_names)
            found.look_at_models(pair, images)
            found.rehearse(pair, args, images)
    if args.should_save:
        print(json.dumps(found.as_json(), indent=1) if model_args.json else found.text())
    return 1 if found.problems else 0


def common_classes(model_args: ModelArguments, args: DMTTrainingArguments) -> list[str] | None:
    """The class names that both checkpoints agree on, if they name any."""
    if model_args.pair is not None:
        code = model_args.trust_remote_code
        return ModelPair.from_pretrained(model_args.pair, token=args.hub_token, trust_remote_code=code).class_names
    sources = [model_args.model_a or "", model_args.model_b or ""]
    if any(source.startswith(tiny.PREFIX) for source in sources):
        return None
    configs = [
        loading.load_config(source, trust_remote_code=model_args.trust_remote_code, token=args.hub_token)
        for source in sources
    ]
    names = [loading.label_names(config) for config in configs if loading.has_named_classes(config)]
    return names[0] if len(names) == 2 and names[0] == names[1] else None


def build_pair(model_args: ModelArguments, args: DMTTrainingArguments, class_names: list[str]) -> ModelPair:
    """The saved pair, or a new one whose heads have exactly the data's classes."""
    if model_args.pair is not None:
        pair = ModelPair.from_pretrained(
            model_args.pair, token=args.hub_token, trust_remote_code=model_args.trust_remote_code
        )
        if pair.class_names != class_names:
            raise ValueError(
                f"The pair {model_args.pair!r} predicts {len(pair.class_names)} classes "
                f"({', '.join(pair.class_names[:3])}, ...), the data has {len(class_names)} "
                f"({', '.join(class_names[:3])}, ...). Give data of the same classes, or start from two models with "
                "--model_a and --model_b."
            )
        return pair
    return ModelPair.from_models(
        model_args.model_a or "",
        model_args.model_b or "",
        task=model_args.task,
        id2label=dict(enumerate(class_names)),
        image_size=model_args.image_size,
        seed=args.seed,
        trust_remote_code=model_args.trust_remote_code,
        token=args.hub_token,
    )


def build_trainer(pair: ModelPair, args: DMTTrainingArguments, images: RunImages) -> DMTTrainer:
    return DMTTrainer(
        model=pair,
        args=args,
        train_dataset=images.labeled,
        unlabeled_dataset=images.unlabeled,
        eval_dataset=images.evaluation,
        test_dataset=images.test,
    )


def introduce(trainer: DMTTrainer, images: RunImages) -> None:
    """What is about to run, in a few lines."""
    pair, args = trainer.model, trainer.args
    a, b = (
        f"{pair.member(name).config.model_type} ({pair.member(name).num_parameters() / 1e6:.1f} M)" for name in "ab"
    )
    unlabeled = len(images.unlabeled) if images.unlabeled is not None else 0
    print(f"{args.method}: a = {a}, b = {b}; {len(images.labeled)} labeled and {unlabeled} unlabeled images")
    if args.freeze_backbone:
        print(f"backbones frozen: {pair.num_parameters(only_trainable=True) / 1e6:.2f} M parameters are trained")
    steps = " + ".join(str(steps) for steps in {phase.index: phase.steps for phase in trainer.phases}.values())
    turns = ", the members in turn" if args.member_schedule == "alternate" else ""
    processes = f", {args.world_size} processes" if args.world_size > 1 else ""
    batch = f"{trainer.knobs.labeled_batch_size} + {trainer.knobs.pseudo_batch_size}"
    print(f"phases of {steps} updates of {batch} images{turns}{processes}")
    print(f"output: {args.output_dir}")
    counts = zip(images.class_names, images.images_per_class, strict=True)
    print(f"labeled images: {class_line([{'name': name, 'labeled_images': count} for name, count in counts])}")
    for note in [*images.notes, *images.view_notes(pair.image_size)]:
        print(note)


def run(trainer: DMTTrainer, checkpoint: str | None) -> None:
    """Train, score, export, report, publish.

    Raises:
        HubError: the push at the end failed; everything else is done and in the output folder.
    """
    start = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    folder = trainer.export()
    test = None
    if trainer.test_dataset is not None:
        last = trainer.records.results["phases"][-1]["test"]
        test = (
            without_loss(trainer.scores(trainer.test_dataset, title="testing"))
            if trainer.args.load_best_model_at_end
            else last
        )
    trainer.records.save(
        test=test, peak_memory_bytes=peak_memory(trainer.args.device), total_seconds=round(time.monotonic() - start, 3)
    )
    if trainer.args.should_save:
        report = write_report(folder)
        write_figures(folder)
        print_summary(folder)
        print(f"pair: {folder}\nreport: {report}")
    if not trainer.args.push_to_hub:
        trainer.create_model_card()
        return
    trainer.push_to_hub()
    if trainer.args.should_save:
        print(f"published: {trainer.hub_model_id}")


def push_command(trainer: DMTTrainer) -> str:
    """What publishes the output folder at any later time."""
    args = trainer.args
    command = ["python", "-m", "hf_dmt.hub", "push", args.output_dir, trainer.hub_model_id or ""]
    command += ["--private"] if args.hub_private_repo else []
    command += ["--revision", args.hub_revision] if args.hub_revision else []
    return shlex.join(command)


if __name__ == "__main__":
    sys.exit(main())
