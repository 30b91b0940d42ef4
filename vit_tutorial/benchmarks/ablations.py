"""The recipe with one ingredient changed at a time: what does each one give?

    python -m vit_tutorial.benchmarks.ablations [--only "no warm-up"] [--list]

Every variant, three seeds each, or those given by `--only`; all runs have the same budget. The
record is written after every run, and runs that it holds are not repeated, so that an interrupted
benchmark resumes where it stopped.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.benchmarks import record as records
from vit_tutorial.benchmarks.norm_placement import post_norm
from vit_tutorial.data import Data, Split, batches, load, random_affine
from vit_tutorial.lab.recipes import PRESETS, Recipe, model_config
from vit_tutorial.model import VisionTransformer
from vit_tutorial.train import Metrics, evaluate, parameter_groups, schedule, set_rate

RECORD = records.FOLDER / "ablations.json"


def nothing(model: nn.Module) -> None:
    """Leave the initial weights as they are."""


def unit_weights(model: nn.Module) -> None:
    """Draw the weights of every linear layer again, with a standard deviation of 1."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)


def raw(split: Split) -> Split:
    """Pixels as the bytes say, 0 to 255, in place of mean 0 and standard deviation 1."""
    return replace(split, mean=0 * split.mean, std=torch.full_like(split.std, 1 / 255))


def one_group(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay everything: biases, norms, class token and positions too."""
    return [{"params": list(model.parameters()), "weight_decay": weight_decay}]


def softmax_twice(logits: Tensor, labels: Tensor) -> Tensor:
    """A softmax before the loss, which has one inside."""
    return F.cross_entropy(logits.softmax(dim=1), labels)


def constant(progress: float, warmup: float) -> float:
    """After the warm-up, the full rate to the end."""
    return min(1.0, progress / warmup)


def at_once(progress: float, warmup: float) -> float:
    """No warm-up: half a cosine over the whole training."""
    return schedule(progress, 0.0)


@dataclass(frozen=True)
class Variant:
    """What replaces a part of the package's recipe."""

    model: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[VisionTransformer], None] = nothing
    split: Callable[[Split], Split] = lambda split: split
    augment: bool = True
    groups: Callable[[nn.Module, float], list[dict[str, Any]]] = parameter_groups
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    schedule: Callable[[float, float], float] = schedule
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy


VARIANTS = {
    "the recipe": Variant(),
    "no warm-up": Variant(schedule=at_once),
    "constant rate": Variant(schedule=constant),
    "no augmentation": Variant(augment=False),
    "raw 0..255 pixels": Variant(split=raw),
    "decay on everything": Variant(groups=one_group),
    "softmax before the loss": Variant(loss=softmax_twice),
    "Adam with coupled L2": Variant(optimizer=torch.optim.Adam),
    "initial weights of std 1": Variant(change=unit_weights),
    "post-norm": Variant(change=post_norm),
    "no positions": Variant({"positions": "none"}),
    "sine-cosine positions": Variant({"positions": "sincos"}),
    "mean pooling": Variant({"pool": "mean"}),
    "1 head": Variant({"heads": 1}),
    "8 heads": Variant({"heads": 8}),
    "patches of 4": Variant({"patch_size": 4}),
    "patches of 14": Variant({"patch_size": 14}),
}


def shortened(preset: str, epochs: int) -> Recipe:
    """The preset's recipe, cut short, with augmentation at full strength (one row has none)."""
    return replace(PRESETS[preset].training, epochs=epochs, augment=1.0, shortcut=False)


def run(variant: Variant, data: Data, preset: str, epochs: int, seed: int) -> dict[str, Any]:
    """Train one model; validation and test accuracy after the last epoch, and the seconds.

    The loop of `train.train`, line by line, with the variant's part in its place. A loss that is
    no longer finite ends the training, not the benchmark.
    """
    start, config = time.perf_counter(), shortened(preset, epochs)
    train, val, test = (variant.split(split) for split in (data.train, data.val, data.test))
    data = replace(data, train=train, val=val, test=test)
    torch.manual_seed(seed)
    model = VisionTransformer(model_config(data, PRESETS[preset].model | dict(variant.model)))
    variant.change(model)
    optimizer = variant.optimizer(variant.groups(model, config.weight_decay), fused=True)
    generator = torch.Generator().manual_seed(seed)
    augment = random_affine if config.augment and variant.augment else None
    steps, step, finite = epochs * (len(data.train) // config.batch_size), 0, True
    for _ in range(epochs):
        model.train()
        for images, labels in batches(data.train, config.batch_size, generator, augment):
            progress, step = (step + 0.5) / steps, step + 1
            set_rate(optimizer, config.learning_rate * variant.schedule(progress, config.warmup))
            loss = variant.loss(model(images), labels)
            if not (finite := bool(loss.isfinite())):
                break
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
        if not finite:
            break
    scores: dict[str, Metrics] = {x: evaluate(model, getattr(data, x)) for x in ("val", "test")}
    return {
        "validation_accuracy": scores["val"].accuracy,
        "test_accuracy": scores["test"].accuracy,
        "finite": finite,
        "seconds": round(time.perf_counter() - start, 1),
    }


def prepare(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[Variant, int], Any]]:
    """The budget that all runs share, and how one is made."""
    data = load("mnist", args.root)
    budget = {
        "data": "mnist", "preset": "mnist", "epochs": args.epochs,
        "model": PRESETS["mnist"].model, "training": asdict(shortened("mnist", args.epochs)),
    }  # fmt: skip
    return budget, lambda variant, seed: run(variant, data, "mnist", args.epochs, seed)


if __name__ == "__main__":
    sys.exit(records.study(__doc__, RECORD, VARIANTS, 2, prepare))
