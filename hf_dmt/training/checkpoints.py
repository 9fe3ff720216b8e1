"""Which checkpoints can be resumed from.

`trainer_state.json` is written last, but rank 0 writes it without waiting for the other ranks, and stock
`get_last_checkpoint` looks at nothing but the number. A checkpoint cut by a kill would then fail on resume or, worse,
resume without its optimizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import is_zipfile

from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..models.pair import PAIR_FILE, PEER_FOLDER


def last_complete_checkpoint(output_dir: str | Path, world_size: int) -> Path | None:
    """The newest `checkpoint-N` that holds everything a resume needs, else None."""
    found = [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        if not missing_files(path, world_size):
            return path
    return None


def missing_files(checkpoint: str | Path, world_size: int) -> list[str]:
    """What a checkpoint lacks: both members, optimizer, scheduler, a readable state, every rank's random state."""
    folder = Path(checkpoint)
    needed = [PAIR_FILE, "config.json", f"{PEER_FOLDER}/config.json", OPTIMIZER_NAME, SCHEDULER_NAME]
    ranks = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    missing = [name for name in [*needed, *ranks] if not (folder / name).is_file()]
    # torch.save writes a zip archive, whose directory comes last: a file cut anywhere is none.
    missing += [path.name for path in folder.glob("*.pt*") if not is_zipfile(path)]
    for member in (".", PEER_FOLDER):
        if not any((folder / member).glob("model*.safetensors")):
            missing.append(f"{member}/model.safetensors")
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        missing.append(TRAINER_STATE_NAME)
    return missing
