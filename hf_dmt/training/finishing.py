"""The end of a phase and of a run: score the pair, export it, and write results, report, figures and card.

The trainer's class imports this file, so it cannot be named in the signatures.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..report import write_figures, write_report
from .inputs.image_sets import first_set
from .run.protocol import peak_memory
from .scoring.evaluation import without_loss


def record_phase(trainer: Any) -> None:
    """Complete the record of the current phase with the scores of its last evaluation, and of the test images after
    the first and the last phase."""
    phase, records = trainer.course.current, trainer.records
    scores = trainer.last_scores if trainer.eval_dataset is not None else None
    tested = trainer.test_dataset is not None and phase.index in (trainer.phases[0].index, trainer.phases[-1].index)
    test = trainer.scores(trainer.test_dataset, title="testing") if tested else (None, None)
    trainer.scored.enter(records.entry, "eval", scores, trainer.last_counts)
    trainer.scored.enter(records.entry, "test", *test)
    if trainer.other_scores:
        records.note(eval_sets={name: without_loss(of_set) for name, of_set in trainer.other_scores.items()})
    records.close_phase()
    trainer.model.metadata["phase"] = phase.index


def record_scores(trainer: Any) -> None:
    """Record the scores of the pair that training leaves, which is what `finish` and `push_to_hub` publish. They are
    those of the last phase, unless the best pair was loaded after it or a callback stopped training within a phase."""
    phases, within_phase = trainer.records.results["phases"], trainer.course.begun
    final: dict[str, Any] = {split: phases[-1][split] if phases else None for split in ("eval", "test")}
    if within_phase and trainer.eval_dataset is not None:
        trainer.last_scores, trainer.last_counts = trainer.scores(first_set(trainer.eval_dataset), title="evaluating")
    if within_phase or trainer.args.load_best_model_at_end:
        trainer.scored.enter(final, "eval", trainer.last_scores, trainer.last_counts)
        if trainer.test_dataset is not None:
            trainer.scored.enter(final, "test", *trainer.scores(trainer.test_dataset, title="testing"))
    trainer.records.save(**final)


def finish(trainer: Any) -> Path:
    """See `DMTTrainer.finish`."""
    start = time.monotonic()
    if "task" not in trainer.records.results:
        raise ValueError(
            "finish() writes the report of a run, but this trainer has not trained; in the folder of a finished run it "
            "would overwrite the models and results. Call train() first, with `resume_from_checkpoint=True` for a run "
            "that is there already; save_model(folder) writes the pair alone."
        )
    folder = trainer.export()
    seconds = trainer.train_seconds + time.monotonic() - start
    trainer.records.save(peak_memory_bytes=peak_memory(trainer.args.device), total_seconds=round(seconds, 3))
    if trainer.args.should_save:
        write_report(folder)
        write_figures(folder)
        trainer.publisher.write_card(folder)
    trainer.accelerator.wait_for_everyone()
    return folder
