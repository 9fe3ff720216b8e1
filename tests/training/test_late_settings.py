"""Settings that the underlying libraries read when training begins: refused before anything is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import make_pair

from hf_dmt import DMTTrainingArguments, ModelPair
from hf_dmt.training.settings.late_settings import check_late_settings
from hf_dmt.training.settings.terminal import as_flags


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return make_pair("vit", "resnet")


def checked(pair: ModelPair, folder: Path, **settings: Any) -> None:
    check_late_settings(DMTTrainingArguments(output_dir=str(folder), use_cpu=True, **settings), pair)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "tracker that is not installed": ({"report_to": ["wandb"]}, r"--report_to wandb cannot be used.*Install"),
    "tracker that does not exist": ({"report_to": ["nobody"]}, r"--report_to nobody cannot be used"),
    "tracker that fails a second time": (
        {"report_to": ["mlflow"]},
        r"--report_to mlflow cannot be used: mlflow is not",
    ),
    "compilation in no mode": (
        {"torch_compile": True, "torch_compile_mode": "fast"},
        r"--torch_compile_mode fast cannot be used: Unrecognized mode",
    ),
    "compilation by nobody": (
        {"torch_compile": True, "torch_compile_backend": "nobody"},
        r"--torch_compile_backend nobody cannot be used: Invalid backend",
    ),
    "momentum with a typo": (
        {"optim": "sgd", "optim_args": "momentun=0.9"},
        r"--optim_args momentun=0.9 has no effect on --optim sgd",
    ),
    "momentum of AdamW": (
        {"optim_args": "momentum=0.9,foo=1"},
        r"--optim_args momentum=0.9 has no effect on --optim adamw_torch",
    ),
    "half an object": (
        {"lr_scheduler_kwargs": "{lr_end: 1"},
        r"--lr_scheduler_kwargs '\{lr_end: 1' is not JSON .*Give an object",
    ),
    "images fetched in no time": (
        {"dataloader_prefetch_factor": 0, "dataloader_num_workers": 1},
        r"--dataloader_prefetch_factor must be .* at least 1, got 0",
    ),
    "schedule without its arguments": (
        {"lr_scheduler_type": "warmup_stable_decay"},
        r"--lr_scheduler_type warmup_stable_decay cannot be used.*--lr_scheduler_kwargs",
    ),
    "schedule with strange arguments": (
        {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": "x"}},
        r"--lr_scheduler_type polynomial cannot be used",
    ),
    "schedule that follows a score": (
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
        r"every phase has its own schedule",
    ),
    "optimizer that is not installed": ({"optim": "adamw_bnb_8bit"}, r"--optim adamw_bnb_8bit cannot be used"),
    "optimizer with other weights": ({"optim": "schedule_free_adamw"}, r"evaluates with other weights"),
    "optimizer with strange arguments": ({"optim": "sgd", "optim_args": "momentum=x"}, r"--optim sgd cannot be used"),
    "moment above one": ({"adam_beta2": 2.0}, r"--optim adamw_torch.* cannot be used: Invalid beta.*--adam_beta2"),
    "checkpoints of activations": ({"gradient_checkpointing": True}, r"model b \(ResNet.*does not support it"),
    "noise on embeddings": ({"neftune_noise_alpha": 5.0}, r"--neftune_noise_alpha 5.0 is not supported.*language"),
    "kernels of language models": ({"use_liger_kernel": True}, r"--use_liger_kernel True is not supported.*language"),
    "another seed for data": ({"data_seed": 3}, r"--data_seed 3 is not supported.*--seed"),
    "evaluation in bf16": ({"bf16_full_eval": True}, r"--bf16_full_eval True is not supported.*--bf16"),
    "inputs for metrics": ({"include_for_metrics": ["inputs"]}, r"include_for_metrics.*logits and labels"),
    "metrics in pieces": ({"eval_do_concat_batches": False}, r"eval_do_concat_batches False.*one array"),
    "tokens": ({"include_num_input_tokens_seen": True}, r"include_num_input_tokens_seen all.*language models"),
    "accumulation of accelerate": (
        {"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 2}}},
        r"accelerator_config sets the accumulation steps.*gradient_accumulation_steps",
    ),
    "batches of accelerate": (
        {"accelerator_config": {"split_batches": True}},
        r"sets 'split_batches' .*no effect",
    ),
    "loss alone": ({"prediction_loss_only": True}, r"--prediction_loss_only True is not supported"),
    "checkpoints of weights alone": ({"save_only_model": True}, r"--save_only_model True.*--save_total_limit 1"),
}


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_precision_without_a_gpu(name: str, tmp_path: Path) -> None:
    """Guards against the message "Your setup doesn't support bf16/gpu", and a traceback during training for fp16."""
    with pytest.raises(ValueError, match=f"`{name}` needs a GPU, and there is none"):
        DMTTrainingArguments(str(tmp_path), **{name: True})
    assert DMTTrainingArguments(str(tmp_path), bf16=True, use_cpu=True).bf16


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_fail_late_is_refused_at_once(pair: ModelPair, tmp_path: Path, name: str) -> None:
    """Guards against a traceback when training begins, in a folder that then counts as used, after `--check` said
    Ready."""
    settings, says = REFUSED[name]
    with pytest.raises(ValueError) as caught:
        checked(pair, tmp_path / "run", **settings)
    assert re.search(rf"(?s){says}", as_flags(str(caught.value))), str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr_scheduler_type": "cosine", "warmup_steps": 0.1},
        {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0}},
        {"optim": "adafactor"},
        {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=True"},
        {"report_to": ["tensorboard"]},
    ],
)
def test_what_works_passes(pair: ModelPair, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Guards against refusing valid settings in the trial of two updates, and against writing to the folder."""
    checked(pair, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
