"""Photographs of six kinds of waste: a ViT with the defaults for a folder, beside a CNN.

    python -m vit_tutorial.benchmarks.photographs [--only ViT] [--list]

Three seeds each, or as `--seeds` says. A variant with "10 %" in its name trains on that share of
the photographs, and shows each so much more often that the steps stay the same; those runs have a
record of their own, `photographs_shares`, made with `--out`. The ViT is what
`vit-tutorial train --data folder:trashnet` makes without another option. The CNN has as many
parameters, within 1 %, and the same recipe, except for AdamW at a rate of 0.003 in the place of
Muon, which is for a ViT's matrices, and no average of the weights. Its epochs were set, by the time
of a step of each, so that it trains for about as long. Nothing was chosen by the test images, which
are read once a run. The folder is `trashnet` beside the data sets, 2,527 photographs from
https://github.com/garythung/trashnet, read at 64 x 64 pixels; the split is that of the run's seed.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vit_tutorial.benchmarks import record as records
from vit_tutorial.benchmarks.data_scaling import cnn_like, count, part
from vit_tutorial.data import data_root
from vit_tutorial.lab import folders
from vit_tutorial.lab.loop import train
from vit_tutorial.lab.recipes import OWN_PHOTOS, Recipe, model_config
from vit_tutorial.model import VisionTransformer
from vit_tutorial.train import evaluate

RECORD = records.FOLDER / "photographs.json"
VIT = OWN_PHOTOS.training
CNN = replace(VIT, optimizer="adamw", learning_rate=3e-3, average=0.0, shortcut=False, epochs=33)
WHOLE = {"ViT": VIT, "CNN": CNN, "ViT, no augmentation": replace(VIT, augment=0.0)}
VARIANTS = {name: (recipe, 100) for name, recipe in WHOLE.items()} | {
    f"{name}, {share} %": (WHOLE[name], share) for share in (10, 30) for name in ("ViT", "CNN")
}


def run(recipe: Recipe, share: int, seed: int, root: Path) -> dict[str, Any]:
    """Train one network on the split of its seed; what it cost, and its accuracy at the end."""
    data = folders.load(f"folder:{root / 'trashnet'}", seed=seed, image_size=64, apart=True)
    M = len(data.train)
    data = replace(data, train=part(data.train, share, seed))
    start = time.perf_counter()
    torch.manual_seed(seed)
    model: nn.Module = VisionTransformer(model_config(data, OWN_PHOTOS.model))
    if recipe.optimizer != "muon":  # which is for the ViT's blocks
        model = cnn_like(model, data)
    *_, last = train(model, data, recipe, torch.Generator().manual_seed(seed))
    frequent = data.test.labels.bincount().max().item() / len(data.test)
    return {
        "images": M * share // 100,
        "test_images": len(data.test),
        "most_frequent_class": round(frequent, 4),
        "parameters": count(model),
        "epochs": recipe.epochs,
        "training_loss": round(last.train_loss, 4),
        "training_accuracy": round(evaluate(model, data.train).accuracy, 4),
        "validation_accuracy": last.val_accuracy,
        "test_accuracy": evaluate(model, data.test).accuracy,
        "seconds": round(time.perf_counter() - start, 1),
    }


def prepare(
    args: argparse.Namespace,
) -> tuple[dict[str, Any], Callable[[tuple[Recipe, int], int], Any]]:
    """What all runs share, and the function that makes a run."""
    root = data_root(args.root)
    shared = {"data": "trashnet", "model": OWN_PHOTOS.model, "ViT": asdict(VIT), "CNN": asdict(CNN)}
    return shared, lambda variant, seed: run(*variant, seed, root)


if __name__ == "__main__":
    sys.exit(records.study(__doc__, RECORD, VARIANTS, None, prepare, ("trashnet",)))
