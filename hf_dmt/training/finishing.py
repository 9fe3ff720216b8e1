"""The end of a run: export the pair, score it, and write results, report, figures and card."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..report import write_figures, write_report
from .run.protocol import peak_memory


def finish(trainer: Any) -> Path:
    """See `DMTTrainer.finish`. The trainer's class imports this file, so it cannot be named in the signature."""
    start = time.monotonic()
    if "task" not in trainer.records.results:
        raise ValueError(
            "finish() writes the report of a run, but this trainer has not trained; in the folder of a finished run it "
            "would overwrite the models and results. Call train() first, with `resume_from_checkpoint=True` for a run "
            "that is there already; save_model() writes the pair alone."
        )
    folder = trainer.export()
    phases = trainer.records.results["phases"]
    final: dict[str, Any] = {"test": phases[-1]["test"] if phases else None}
    if trainer.test_dataset is not None and trainer.args.load_best_model_at_end:
        trainer.scored.enter(final, "test", *trainer.scores(trainer.test_dataset, title="testing"))
    seconds = trainer.train_seconds + time.monotonic() - start
    trainer.records.save(**final, peak_memory_bytes=peak_memory(trainer.args.device), total_seconds=round(seconds, 3))
    if trainer.args.should_save:
        write_report(folder)
        write_figures(folder)
        trainer.publisher.write_card(folder)
    trainer.accelerator.wait_for_everyone()
    return folder
