"""How much data does a ViT need? Beside a convolutional network, on parts of a data set.

    python -m vit_tutorial.benchmarks.data_scaling [--data cifar10] [--only "ViT, 1 %"] [--list]

Every variant, three seeds each, or those given by `--only`; on MNIST unless told otherwise. Both
networks have the same number of parameters (within 1 %), the same recipe, and see the same number
of images in the same number of steps whatever their share of the data: a network with 1 % of the
images sees each of them a hundred times as often. The record is written after every run, and runs
that it holds are not repeated.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import Data, Split, data_root
from vit_tutorial.lab import folders
from vit_tutorial.lab.recipes import SMALL, model_config
from vit_tutorial.model import VisionTransformer
from vit_tutorial.train import TrainConfig, evaluate, train

RECORD = records.FOLDER / "data_scaling.json"
PATCH = {"mnist": 7, "fashion_mnist": 7, "cifar10": 8}  # 16 patches of an image of each
AUGMENT = {"mnist": 1.0, "fashion_mnist": 0.5, "cifar10": 0.5}
SHARES = (1, 3, 10, 30, 100)  # per cent of the training images


class SmallCNN(nn.Sequential):
    """Three 3 x 3 convolutions of stride 2, each twice as wide, then the mean over places."""

    def __init__(self, C: int, width: int, K: int):
        widths = (C, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, K))


@dataclass(frozen=True)
class Variant:
    """Which network, on how many per cent of the training images, with augmentation or not."""

    network: str
    share: int
    augment: bool = True


VARIANTS = {f"{net}, {share} %": Variant(net, share) for share in SHARES for net in ("ViT", "CNN")}
VARIANTS |= {
    f"{net}, {share} %, no augmentation": Variant(net, share, augment=False)
    for share in (1, 10)
    for net in ("ViT", "CNN")
}


def count(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in model.parameters())


def build(network: str, name: str, data: Data) -> nn.Module:
    """The book's small ViT, or the CNN of the width that comes nearest in parameters."""
    vit = VisionTransformer(model_config(data, {**SMALL, "patch_size": PATCH[name]}))
    if network == "ViT":
        return vit
    return cnn_like(vit, data)


def cnn_like(vit: nn.Module, data: Data) -> SmallCNN:
    """The CNN of the width that comes nearest in parameters."""
    C, K = data.train.images.shape[1], len(data.classes)
    width = min(range(8, 120), key=lambda w: abs(count(SmallCNN(C, w, K)) - count(vit)))
    return SmallCNN(C, width, K)


def part(split: Split, share: int, seed: int) -> Split:
    """`share` per cent of the images, drawn by seed, repeated until there are as many as before."""
    M = len(split)
    order = torch.randperm(M, generator=torch.Generator().manual_seed(seed))
    kept = order[: M * share // 100]
    rows = kept.repeat(-(-M // len(kept)))[:M]
    return replace(split, images=split.images[rows], labels=split.labels[rows])


def recipe(name: str, epochs: int) -> TrainConfig:
    """The recipe of both networks; only linear layers are decayed, so no convolution is."""
    return TrainConfig(epochs=epochs, augment=AUGMENT[name])


def run(variant: Variant, name: str, data: Data, epochs: int, seed: int) -> dict[str, Any]:
    """Train one network; what it cost, and its accuracy on validation and test at the end."""
    start, config = time.perf_counter(), recipe(name, epochs)
    config = config if variant.augment else replace(config, augment=0.0)
    torch.manual_seed(seed)
    model = build(variant.network, name, data)
    counter = FlopCounterMode(display=False)  # an older one does not know the CPU's fused kernel
    with sdpa_kernel(SDPBackend.MATH), counter as flops, torch.no_grad():
        model.eval()(data.val.normalise(data.val.images[:1].float() / 255))
    smaller = replace(data, train=part(data.train, variant.share, seed))
    *_, last = train(model, smaller, config, torch.Generator().manual_seed(seed))
    return {
        "network": variant.network,
        "share": variant.share,
        "augment": variant.augment,
        "images": len(data.train) * variant.share // 100,
        "parameters": count(model),
        "flops": flops.get_total_flops(),
        "training_loss": round(last.train_loss, 4),
        "validation_accuracy": last.val_accuracy,
        "test_accuracy": evaluate(model, data.test).accuracy,
        "seconds": round(time.perf_counter() - start, 1),
    }


def prepare(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[Variant, int], Any]]:
    """The budget that all runs share, and the function that makes a run."""
    name, copy = args.data, data_root(args.root) / "cifar10_jpeg"
    jpeg = name == "cifar10" and copy.is_dir()  # the same images, once through JPEG
    data = folders.load(f"folder:{copy}" if jpeg else name, None if jpeg else args.root)
    budget = {
        "data": "cifar10 (JPEG copy)" if jpeg else name, "epochs": args.epochs,
        "model": {**SMALL, "patch_size": PATCH[name]},
        "training": asdict(recipe(name, args.epochs)),
    }  # fmt: skip
    return budget, lambda variant, seed: run(variant, name, data, args.epochs, seed)


if __name__ == "__main__":
    sys.exit(records.study(__doc__, RECORD, VARIANTS, 3, prepare, tuple(PATCH)))
