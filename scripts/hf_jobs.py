# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-dmt[timm,heic]"]
#
# [tool.hf-jobs]
# name = "hf-dmt"
# flavor = "a10g-small"
# timeout = "6h"
# secrets = ["HF_TOKEN"]
# env = { HF_HUB_DISABLE_PROGRESS_BARS = "1" }
# ///
"""`hf-dmt train` on Hugging Face Jobs, or anywhere with uv; it takes the same flags.

    hf jobs uv run scripts/hf_jobs.py --model_a google/vit-base-patch16-224-in21k --model_b facebook/dinov2-base \
        --dataset_name me/my-images --num_labeled 200 --bf16 --push_to_hub --hub_model_id me/my-pair
    uv run scripts/hf_jobs.py --max_steps 2

The disk of a job is deleted when it ends, so a job without `--push_to_hub` is refused before training. With
`--hub_strategy checkpoint`, another job can continue after a timeout: `--resume_from_checkpoint me/my-pair`.
"""

import os
import sys
from collections.abc import Mapping, Sequence


def main(argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Train; returns the exit code of `hf-dmt train`, or 2 for a job whose results would be lost."""
    asks_for_help = {"-h", "--help", "--help_all", "--check"} & set(argv)
    if "JOB_ID" in environment and not asks_for_help and not pushes(argv):
        print(
            "hf_jobs.py: error: The output of a job is deleted when it ends, and --push_to_hub is not set. Add "
            "--push_to_hub --hub_model_id OWNER/NAME.",
            file=sys.stderr,
        )
        return 2
    from hf_dmt.commands.train import main as train

    return train(argv)


def pushes(argv: Sequence[str]) -> bool:
    """Whether flags or config file ask for a push; also true for invalid ones, which `hf-dmt train` explains."""
    from hf_dmt.commands.train import RECIPES
    from hf_dmt.training.settings.command_line import settings_given

    try:
        return bool(settings_given(argv, RECIPES).get("push_to_hub"))
    except ValueError:
        return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
