"""`hf-dmt train [CONFIG.yaml] [--flags]`: train a pair by dynamic mutual training.

Without arguments it trains on the embedded digits.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import datasets
import transformers

from ..data.arguments import DataArguments, data_flags
from ..data.builtin import BUILTIN_SETS
from ..data.splitting.assemble import RunImages, assemble
from ..hub.offline import fail_fast_offline
from ..hub.repository import HubError, check_name
from ..method.selection import DivergedError
from ..models.timm_members import architecture
from ..report import print_summary
from ..report.next_steps import Given, without_flags
from ..training.publishing import repository_of
from ..training.run.checkpoints import last_complete_checkpoint
from ..training.run.folder import check_output_folder, check_split, locked
from ..training.run.runtime_errors import RunError
from ..training.settings.command_line import Parser, parse
from ..training.settings.help import everything, screens
from ..training.settings.methods import OF_A_METHOD
from ..training.settings.terminal import as_flags, print_error, speak_in_flags
from ..training.trainer import DMTTrainer
from .launch import launcher_parser, start
from .opening import build_pair, describe_masks, look_up_models
from .preflight import check, class_line

RECIPES = Path(__file__).parent / "recipes"  # of the embedded sets


def main(argv: Sequence[str] | None = None) -> int:
    """Run on as many processes as `accelerate config` or `--num_processes` ask for; exit codes as in `run`."""
    return start("train", sys.argv[1:] if argv is None else argv, run)


def run(argv: Sequence[str] | None = None) -> int:
    """Run in this process, which may be one of several started by a launcher.

    Returns:
        The exit code: 0; 1 if the run failed or could not be pushed (everything so far is in the output folder), or if
        `--check` found a problem; 2 for invalid arguments.

    Raises:
        SystemExit: 143 after SIGTERM and 130 after Ctrl-C, with a checkpoint saved.
        KeyboardInterrupt: after a second Ctrl-C, or one that is not during training.
    """
    given = sys.argv[1:] if argv is None else argv
    if asked := {"-h", "--help", "--help_all"} & set(given):
        print((everything if "--help_all" in asked else screens)(Parser(), launcher_parser()))
        return 0
    fail_fast_offline()
    speak_in_flags()
    try:
        model_args, data_args, args = parse(given, RECIPES)
        # The weights of tiny models load in milliseconds; their progress bars would only hide the run's own.
        transformers.utils.logging.disable_progress_bar()
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        if model_args.check:
            return check(model_args, data_args, args)
        check_output_folder(args)
        if args.push_to_hub:
            check_name(repository_of(args))
        models = look_up_models(model_args, args)
        images = assemble(
            data_args, model_args.task, token=args.hub_token, model_classes=models.classes, of_pair=models.split
        )
        if args.resume_from_checkpoint:
            check_split(args.output_dir, images.split)
        if data_args.dataset_name in BUILTIN_SETS and args.horizontal_flip:
            args.horizontal_flip = False
            images.notes.append("Views are not flipped: a flipped digit is a different digit, or none.")
        pair = build_pair(model_args, args, images.class_names, models.folder)
        images.notes.extend(describe_masks(pair, data_args.reduce_labels))
        trainer = DMTTrainer(pair, args, images.labeled, images.unlabeled, images.evaluation, images.test)
        trainer.start.split, trainer.start.digests = images.split, images.split["contents"]
        trainer.start.settings = {**vars(model_args), **vars(data_args)}
        checkpoint = trainer.checkpoint_to_resume(args.resume_from_checkpoint)
        if args.world_size == 1:  # a launcher handles it otherwise
            trainer.preemption.signals.add(signal.SIGINT)
        hold = ExitStack()
        hold.enter_context(locked(args.output_dir, writes=args.should_save))
    except (ValueError, OSError) as problem:
        print_error(str(problem))
        return 2
    code = 1
    with hold:
        try:
            if args.should_save:
                introduce(trainer, images)
                if checkpoint is not None:
                    print(f"resuming from {checkpoint}")
            carry_out(trainer, checkpoint, flags_given(given, data_args))
            code = 0
        except HubError as problem:
            print_error(f"{problem} Everything is in {args.output_dir}. To push it later: {push_command(trainer)}")
        except (RunError, DivergedError, OSError) as problem:
            print_error(str(problem))
        except KeyboardInterrupt:
            if args.should_save and (last := last_complete_checkpoint(args.output_dir)):
                command = f"--output_dir {shlex.quote(args.output_dir)} --resume_from_checkpoint true"
                print(f"\nTo continue from {last.name}, repeat the command with {command}", file=sys.stderr)
            raise
        finally:
            trainer.accelerator.end_training()
    return code


def introduce(trainer: DMTTrainer, images: RunImages) -> None:
    """Print a short summary of the run that is about to start."""
    pair, args = trainer.model, trainer.args
    a, b = (
        f"{architecture(pair.member(name).config)} ({pair.member(name).num_parameters() / 1e6:.1f} M)" for name in "ab"
    )
    unlabeled = len(images.unlabeled) if images.unlabeled is not None else 0
    print(f"{args.method}: a = {a}, b = {b}; {len(images.labeled)} labeled and {unlabeled} unlabeled images")
    if (trained := pair.num_parameters(only_trainable=True)) < pair.num_parameters():
        print(f"trained (--train): {trained / 1e6:.2f} M parameters; all others are frozen")
    steps = " + ".join(str(steps) for steps in {phase.index: phase.steps for phase in trainer.phases}.values())
    turns = ", models in turn" if args.member_schedule == "alternate" else ""
    processes = f", {args.world_size} processes" if args.world_size > 1 else ""
    batch = f"{trainer.knobs.labeled_batch_size} + {trainer.knobs.pseudo_batch_size}"
    print(f"phases of {steps} updates of {batch} images{turns}{processes}")
    print(f"output: {args.output_dir}")
    counts = zip(images.class_names, images.images_per_class, strict=True)
    print(f"labeled images: {class_line([{'name': name, 'labeled_images': count} for name, count in counts])}")
    if notes := [*images.notes, *images.view_notes(pair.image_size)]:
        print(as_flags("\n".join(notes)))


def carry_out(trainer: DMTTrainer, checkpoint: str | None, given: Given) -> None:
    """Train, evaluate, export, write the report, and publish.

    Raises:
        HubError: the final push failed; everything else is done and in the output folder.
    """
    trainer.train(resume_from_checkpoint=checkpoint or False)
    folder = trainer.finish()
    if trainer.args.should_save:
        print_summary(folder, given)
        print(f"pair: {folder}\nreport: {folder / 'report.html'}")
    if not trainer.args.push_to_hub:
        return
    trainer.push_to_hub(exported=folder)
    if trainer.args.should_save:
        print(f"published: {trainer.hub_model_id}")


# Flags that the commands after a run do not repeat: its folder, secrets, and what compare sets or refuses.
_OF_THE_FOLDER = {"output_dir", "resume_from_checkpoint", "overwrite_output_dir", "accept_changes", "hub_token"}
_OF_A_COMPARISON = {"method", "seed", "split_seed", "max_steps"} | OF_A_METHOD


def flags_given(argv: Sequence[str], data: DataArguments) -> Given:
    """The flags of this run, for the commands that follow it."""
    again = without_flags(argv, _OF_THE_FOLDER)
    in_full = without_flags(again, {"max_steps"})
    return Given(
        train=again,
        in_full=in_full if len(in_full) < len(again) else [*again, "--max_steps", "-1"],  # set in a config file
        any_method=without_flags(again, {"method"} | OF_A_METHOD),
        compare=without_flags(again, _OF_A_COMPARISON | {"push_to_hub", "hub_model_id"}),
        data=data_flags(data),
        unlabeled=data.unlabeled_dir,
    )


def push_command(trainer: DMTTrainer) -> str:
    """The command that publishes the output folder later."""
    args = trainer.args
    command = ["hf-dmt", "push", args.output_dir, trainer.hub_model_id or ""]
    command += ["--private"] if args.hub_private_repo else []
    command += ["--revision", args.hub_revision] if args.hub_revision else []
    return shlex.join(command)
