"""Which settings a resumed run may change: those that cannot affect its weights, and those that it explicitly
accepts."""

from __future__ import annotations

_WORDS = {
    "logging": "logging_dir logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_level "
    "log_level_replica log_on_each_node disable_tqdm debug skip_memory_metrics include_num_input_tokens_seen "
    "include_tokens_per_second",
    "reporting": "report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id metrics",
    "saving": "output_dir overwrite_output_dir save_strategy save_steps save_total_limit save_on_each_node "
    "save_safetensors keep_pseudo_labels",
    "evaluation": "eval_strategy eval_steps eval_delay eval_on_start eval_accumulation_steps eval_do_concat_batches "
    "eval_use_gather_object include_for_metrics batch_eval_metrics do_train do_eval do_predict",
    "hub": "push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision",
    "devices": "use_cpu no_cuda use_mps_device local_rank ddp_backend ddp_timeout ddp_bucket_cap_mb ddp_static_graph "
    "ddp_find_unused_parameters fsdp fsdp_config deepspeed parallelism_config dataloader_num_workers "
    "dataloader_pin_memory dataloader_prefetch_factor dataloader_multiprocessing_context torch_empty_cache_steps",
    "this start": "resume_from_checkpoint accept_changes restore_callback_states_from_checkpoint max_skipped_updates",
    # Their results are compared instead: the plan, the images, the two models, the classes.
    "sources": "dataset_name dataset_config_name train_split eval_split test_split test_fraction image_column "
    "label_column num_labeled labeled_fraction labeled_ids extra_labels split_seed id2label skip_corrupt_images "
    "unlabeled_dataset_name unlabeled_split unlabeled_dir task model_a model_b pair trust_remote_code image_size "
    "check json freeze_backbone",
}
HARMLESS: dict[str, str] = {name: group for group, names in _WORDS.items() for name in names.split()}
"""Settings that a resume may change, by kind: they cannot affect the weights, or their effect is compared instead."""

PLAN_SETTINGS = ("max_steps", "label_ratios", "supervised_epochs", "phase_epochs")
"""They only matter through the plan of phases, which is compared; if it differs, the error names them."""

ACCEPTABLE: dict[str, str] = {
    "phases": "later phases may be longer, or there may be more of them",
    "gradient_accumulation_steps": "the same updates, split differently",
    "per_device_eval_batch_size": "labels may differ in the last bit",
    "bf16": "another precision",
    "fp16": "another precision",
    "tf32": "another precision",
    "torch_compile": "other kernels",
}
"""What a resume may change if `--accept_changes` names it."""

# Which weights of a phase are kept, or which model is exported, depends on when the eval split is scored.
CADENCE = ("eval_strategy", "eval_steps", "eval_delay", "save_strategy", "save_steps")
# Machines, people and paths: not recorded at all, because an identity may be published with a checkpoint.
PRIVATE = {
    *_WORDS["this start"].split(),
    *_WORDS["hub"].split(),
    *_WORDS["sources"].split(),
    *_WORDS["reporting"].split(),
    *("output_dir", "logging_dir", "fsdp_config", "deepspeed", "local_rank", "debug", "difference_maximized_sampling"),
}
