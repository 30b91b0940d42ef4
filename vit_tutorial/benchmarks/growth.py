"""What grows in the first steps: the positions of a model of digits, and a small one for colour.

    python -m vit_tutorial.benchmarks.growth [--only NAME] [--root DIR]

Two short trainings (chapter 10). "digits" has the shape of `load_pretrained("mnist")`, and its
positions are kept at a few steps; "colour" reads CIFAR-10, and the whole model is kept. Both are
stored beside the record, in half precision. Where the data folder holds `cifar10_jpeg`, as class
folders, CIFAR-10 is read from there: the same images, once through JPEG.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import Data, batches, data_root, random_affine
from vit_tutorial.lab import folders
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import evaluate, parameter_groups, schedule, set_rate
from vit_tutorial.weights import checkpoint
from vit_tutorial.weights.preprocessing import Preprocessing

RECORD = records.FOLDER / "growth.json"
POSITIONS = records.FOLDER / "growth.safetensors"  # a table for each kept step
COLOUR = records.FOLDER / "growth_colour.safetensors"  # a model: `from_checkpoint` reads it
FORMAT = "vit_tutorial growth 1"
KEPT = (0, 25, 50, 100, 200, 400, 800)  # steps after which the positions are kept
BATCH, RATE = 128, 2e-3
SHAPES = {
    "digits": ("mnist", ViTConfig(28, 4, 1, 10, 6, 64, 128, 4), 800),
    "colour": ("cifar10", ViTConfig(32, 4, 3, 10, 3, 48, 96, 4), 1200),
}


def steps(
    model: VisionTransformer, data: Data, number: int, generator: torch.Generator
) -> Iterator[int]:
    """The lesson's loop, one step at a time; how many steps were made, from 0 on."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), RATE, fused=True)
    augment, done = partial(random_affine, strength=1.0), 0
    yield done
    while done < number:
        for images, labels in batches(data.train, BATCH, generator, augment):
            set_rate(optimizer, RATE * schedule((done + 0.5) / number, 0.1))
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            done += 1
            yield done
            if done == number:
                return


def run(name: str, seed: int, root: Path | None, number: int | None = None) -> dict[str, Any]:
    """Train one of the two; store what is kept of it, and return what the record says."""
    source, config, planned = SHAPES[name]
    data, start = images(source, root), time.perf_counter()
    torch.manual_seed(seed)
    model, tables = VisionTransformer(config), {}
    for step in steps(model, data, number or planned, torch.Generator().manual_seed(seed)):
        if step in KEPT:
            tables[f"positions.{step}"] = model.embedding.positions.detach().half()
    seconds = time.perf_counter() - start
    val = evaluate(model, data.val)
    if name == "digits":
        checkpoint.write(POSITIONS, checkpoint.pack(tables, {"format": FORMAT}))
    else:
        mean, std = (tuple(value.tolist()) for value in (data.train.mean, data.train.std))
        preparation = Preprocessing(config.height_width, mean, std, tuple(data.classes))
        checkpoint.save(COLOUR, model.half(), preprocessing=preparation)
    told = {"steps": number or planned, "val_accuracy": round(val.accuracy, 4)}
    return {**told, "seconds": round(seconds, 1)}


def images(name: str, root: Path | None) -> Data:
    copy = data_root(root) / "cifar10_jpeg"
    jpeg = name == "cifar10" and copy.is_dir()
    return folders.load(f"folder:{copy}" if jpeg else name, None if jpeg else root)


def prepare(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[str, int], Any]]:
    """The budget that both runs share, and the function that makes a run."""
    budget = {"batch": BATCH, "learning_rate": RATE, "kept": KEPT}
    return budget, lambda name, seed: run(name, seed, args.root)


if __name__ == "__main__":
    variants = {name: name for name in SHAPES}
    sys.exit(records.study(__doc__ or "", RECORD, variants, None, prepare, seeds=1))
