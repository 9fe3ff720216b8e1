"""The methods, settings of dmt and suites that `hf-dmt compare` knows, as flags of `hf-dmt train`."""

from __future__ import annotations

from .comparison import BASELINE, ORACLE, REFERENCE

EQUAL = "equal-pair"

ARMS: dict[str, list[str]] = {
    REFERENCE: [],
    BASELINE: ["--method", "supervised"],
    "mutual": ["--method", "mutual"],
    "cbst": ["--method", "cbst"],
    "dst": ["--method", "dst"],
    "naive": ["--method", "naive"],
    "flip": ["--method", "flip"],
    "dmt-online": ["--strategy", "online"],
    "cps": ["--method", "cps"],
    "online-st": ["--method", "online-st"],
    # Variants expressed as settings of this package: hard labels above 0.95 from the model's own weak view, learned on
    # a strong view; hard labels from averaged weights.
    "fixmatch": ["--method", "online-st", "--online_threshold", "0.95", "--augmentation", "strong"],
    "mean-teacher": ["--method", "online-st", "--online_threshold", "0", "--ema_decay", "0.99"],
    "graph": ["--labeler", "graph"],
    ORACLE: ["--method", "supervised"],  # with all labels
}

# One knob of dmt at a time.
SETTINGS: dict[str, list[str]] = {
    "graph-0": ["--labeler", "graph", "--gamma1", "0", "--gamma2", "0", "--positive_disagree", "keep"],
    **{f"gamma-{gamma}": ["--gamma1", str(gamma), "--gamma2", str(gamma)] for gamma in (0, 1, 3, 9)},
    "ratios-1": ["--label_ratios", "1"],
    "ratios-3": ["--label_ratios", "0.33", "0.67", "1"],
    "sequential": ["--exchange", "sequential", "--ema_decay", "0"],
    "restart-initial": ["--restart", "initial", "--gamma_schedule", "ramp"],
    "no-ema": ["--ema_decay", "0"],
    "augmentation-strong": ["--augmentation", "strong"],
    EQUAL: [],  # model b twice, with its learning rate
}

_SMALL = ["--logging_steps", "50", "--per_device_eval_batch_size", "128", "--warmup_steps", "0.05"]
_CIFAR_CPU = ["--model_a", "tiny:vit", "--model_b", "tiny:resnet", "--image_size", "32", "--learning_rate", "2e-3",
              "--learning_rate_b", "1e-3", "--labeled_batch_size", "16", "--pseudo_batch_size", "48",
              "--num_labeled", "1000", "--supervised_epochs", "80", "--phase_epochs", "0.4", *_SMALL]  # fmt: skip
# Sized for 25 minutes per method on one H200, but not measured on one. A fifth of the labels is held out.
_WRN_GPU = ["--dataset_name", "{cifar10}", "--model_a", "paper:wrn-28-2", "--model_b", "paper:wrn-28-2",
            "--image_size", "32", "--optim", "sgd", "--optim_args", "momentum=0.9,nesterov=true", "--learning_rate",
            "0.1", "--weight_decay", "5e-4", "--lr_scheduler_type", "cosine", "--labeled_batch_size", "64",
            "--pseudo_batch_size", "448", "--phase_epochs", "29", "--bf16", "true", "--dataloader_num_workers", "8",
            "--logging_steps", "200", "--per_device_eval_batch_size", "1000"]  # fmt: skip
_VIT_GPU = ["--dataset_name", "{cifar10}", "--model_a", "{vit_a}", "--model_b", "{vit_b}", "--num_labeled", "500",
            "--learning_rate", "5e-5", "--warmup_steps", "0.05", "--labeled_batch_size", "16", "--pseudo_batch_size",
            "48", "--supervised_epochs", "60", "--phase_epochs", "0.5", "--bf16", "true", "--dataloader_num_workers",
            "8", "--logging_steps", "50", "--per_device_eval_batch_size", "128"]  # fmt: skip
_CAMVID_CPU = ["--task", "semantic-segmentation", "--label_column", "annotation", "--model_a", "tiny:segformer",
               "--model_b", "tiny:upernet", "--image_size", "96", "--num_labeled", "60", "--supervised_learning_rate",
               "2e-3", "--learning_rate", "5e-4", "--labeled_batch_size", "4", "--pseudo_batch_size", "12",
               "--supervised_epochs", "150", "--phase_epochs", "2", "--label_ratios", "0.2", "0.4", "0.6",
               "--test_split", "validation", *_SMALL]  # fmt: skip

# Two ImageNet networks on photographs. A fifth of the labels is held out; 30, 60, 100 and 150 are trained on.
_IMAGENET = ["--model_a", "{lite2}", "--model_b", "{mobilenet}", "--image_size", "128", "--labeled_batch_size", "8",
             "--pseudo_batch_size", "24", "--phase_epochs", "1", *_SMALL]  # fmt: skip
_TRASHNET = ["--dataset_name", "{trashnet}"]
_CIFAR_128 = ["--dataset_name", "{cifar128}"]  # 400 training and 200 test images of each class, enlarged to 128 px
_HEADS = [*_TRASHNET, *_IMAGENET, "--freeze_backbone", "true", "--augmentation", "none", "--learning_rate", "3e-3",
          "--weight_decay", "0", "--supervised_epochs", "100"]  # fmt: skip
# The last six blocks (four fifths of the weights), each slower than the next one; few updates, or three times as many.
_DEEP = [*_IMAGENET, "--image_size", "96", "--augmentation", "weak", "--train", "last:6", "--layer_decay", "0.6",
         "--freeze_batch_norm", "true", "--supervised_learning_rate", "3e-3", "--learning_rate", "1e-3",
         "--labeled_batch_size", "4", "--pseudo_batch_size", "12", "--label_ratios", "0.2",
         "0.5", "--supervised_epochs", "9", "--phase_epochs", "0.22", "--per_device_eval_batch_size", "16",
         "--logging_steps", "10"]  # fmt: skip
_LONG = ["--image_size", "128", "--supervised_epochs", "20", "--phase_epochs", "1", "--supervised_learning_rate",
         "1e-3", "--learning_rate", "3e-4", "--ema_decay", "0.98"]  # fmt: skip
_CAMVID_PRETRAINED = ["--task", "semantic-segmentation", "--dataset_name", "{camvid}", "--label_column", "annotation",
                      "--model_a", "{deeplab}", "--model_b", "{deeplab_half}", "--image_size", "128", "--num_labeled",
                      "58", "--test_split", "validation", "--train", "last:6", "--layer_decay", "0.6",
                      "--freeze_batch_norm", "true", "--supervised_learning_rate", "2e-3", "--learning_rate", "5e-4",
                      "--labeled_batch_size", "4", "--pseudo_batch_size", "12", "--supervised_epochs", "30",
                      "--phase_epochs", "1", "--label_ratios", "0.3", "0.6", "--warmup_steps", "0.05",
                      "--per_device_eval_batch_size", "8", "--logging_steps", "10"]  # fmt: skip

# The flags of `hf-dmt train` per suite and data set; {name} is the folder given as --data name=FOLDER.
SUITES: dict[str, dict[str, list[str]]] = {
    "smoke": {"digits": ["--supervised_epochs", "4", "--phase_epochs", "0.05", "--per_device_eval_batch_size", "500"]},
    "cpu": {
        "digits": [],
        "digit-scenes": ["--task", "semantic-segmentation"],
        "cifar10": ["--dataset_name", "{cifar10}", *_CIFAR_CPU],
        "camvid": ["--dataset_name", "{camvid}", *_CAMVID_CPU],
    },
    "pretrained": {
        "trashnet-heads-30": [*_HEADS, "--num_labeled", "38"],
        "trashnet-heads-60": [*_HEADS, "--num_labeled", "75"],
        "trashnet-heads-150": [*_HEADS, "--num_labeled", "188", "--supervised_epochs", "40"],
        "trashnet-30": [*_TRASHNET, *_DEEP, "--num_labeled", "38"],
        "trashnet-60": [*_TRASHNET, *_DEEP, "--num_labeled", "75"],
        "trashnet-60-long": [*_TRASHNET, *_DEEP, "--num_labeled", "75", *_LONG],
        "cifar10-100": [*_CIFAR_128, *_DEEP, "--num_labeled", "125", *_LONG, "--phase_epochs", "0.5"],
        "camvid-46": _CAMVID_PRETRAINED,
    },
    "gpu": {
        "cifar10-4000": [*_WRN_GPU, "--num_labeled", "5000", "--supervised_epochs", "384"],
        "cifar10-1000": [*_WRN_GPU, "--num_labeled", "1250", "--supervised_epochs", "1536"],
        "cifar10-vit": _VIT_GPU,
    },
}  # fmt: skip
