"""The other side of `peers.py`: updates of FixMatch in semilearn 0.3.2, in an environment of its own.

`peers.py` starts this file with the Python of that environment. Each line on its standard input asks for one round; the
answer is a line with the median seconds of an update, from the end of one to the end of the next.

The batches come from semilearn's data set class, RandAugment and a DataLoader; its model, loss, optimizer, schedule and
weight average are used as they are. Only its calls that need a GPU are left out: copies to it, and timers.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from itertools import pairwise

import numpy as np
import torch
from semilearn import get_config, get_net_builder
from semilearn.algorithms.fixmatch.fixmatch import FixMatch
from semilearn.datasets.augmentation import RandAugment
from semilearn.datasets.cv_datasets.datasetbase import BasicDataset
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms

SIDE, CLASSES = 32, 10


def views(*, strong: bool) -> transforms.Compose:
    """semilearn's views of CIFAR."""
    steps = [transforms.RandomCrop(SIDE, padding=4, padding_mode="reflect"), transforms.RandomHorizontalFlip()]
    normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return transforms.Compose([*steps, *([RandAugment(3, 5)] if strong else []), transforms.ToTensor(), normalize])


class OnImages(FixMatch):
    """FixMatch on images in memory."""

    images: np.ndarray

    def set_dataset(self) -> dict[str, BasicDataset]:
        labels = np.arange(len(self.images)) % CLASSES
        labeled = BasicDataset("fixmatch", self.images, labels, CLASSES, views(strong=False))
        unlabeled = BasicDataset(
            "fixmatch", self.images, labels, CLASSES, views(strong=False), True, views(strong=True)
        )
        return {"train_lb": labeled, "train_ulb": unlabeled}

    def set_data_loader(self) -> dict[str, DataLoader]:
        sizes = {"train_lb": self.args.batch_size, "train_ulb": self.args.batch_size * self.args.uratio}
        return {
            name: DataLoader(
                self.dataset_dict[name],
                batch_size=size,
                sampler=RandomSampler(self.dataset_dict[name], replacement=True, num_samples=10**6),
            )
            for name, size in sizes.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="(N, 32, 32, 3) uint8, as .npy")
    parser.add_argument("--net", required=True, choices=["wrn_28_2", "vit_tiny_patch2_32"])
    parser.add_argument("--labeled", type=int, required=True)
    parser.add_argument("--unlabeled", type=int, required=True, help="a multiple of the labeled images")
    parser.add_argument(
        "--one_pass", action="store_true", help="all views in one forward pass, weak ones with gradient"
    )
    parser.add_argument("--steps", type=int, required=True, help="updates per round; the first does not count")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cpu_time", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    now = time.process_time if args.cpu_time else time.perf_counter
    with contextlib.redirect_stdout(sys.stderr):
        config = {"algorithm": "fixmatch", "net": args.net, "num_classes": CLASSES, "num_train_iter": 10**6}
        config |= {"batch_size": args.labeled, "uratio": args.unlabeled // args.labeled, "use_cat": args.one_pass}
        OnImages.images = np.load(args.images)
        settings = get_config(config)
        settings.distributed = False
        algorithm = OnImages(settings, get_net_builder(settings.net, settings.net_from_name))
        algorithm.model.train()
        algorithm.call_hook("before_run", "EMAHook")
        batches = zip(*algorithm.loader_dict.values(), strict=True)
    for _ in sys.stdin:
        ends = []
        for _ in range(args.steps):
            labeled, unlabeled = next(batches)
            algorithm.out_dict, algorithm.log_dict = algorithm.train_step(
                labeled["x_lb"], labeled["y_lb"], unlabeled["x_ulb_w"], unlabeled["x_ulb_s"]
            )
            algorithm.call_hook("after_train_step", "ParamUpdateHook")
            algorithm.call_hook("after_train_step", "EMAHook")
            algorithm.it += 1
            ends.append(now())
        print(statistics.median(after - before for before, after in pairwise(ends)), flush=True)


if __name__ == "__main__":
    main()
