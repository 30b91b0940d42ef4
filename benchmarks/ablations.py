"""The recipe, with one ingredient taken out at a time: what does each one give?

    python benchmarks/ablations.py                      every variant, three seeds each
    python benchmarks/ablations.py --only "no warm-up"  one of them (may be given again)
    python benchmarks/ablations.py --list               the names of the variants

Every run has the same budget. The record is written after every run, and runs that it holds are
not made again, so that an interrupted benchmark goes on where it stopped.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import record as records
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.data import Data, Split, batches, load, random_affine
from vit_tutorial.model import VisionTransformer
from vit_tutorial.train import (
    PRESETS,
    Metrics,
    TrainConfig,
    evaluate,
    model_config,
    parameter_groups,
    schedule,
)

RECORD = records.ROOT / "benchmarks" / "records" / "ablations.json"


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
    """The package's recipe, but for what is given."""

    initialise: Callable[[nn.Module], None] = nothing
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
    "initial weights of std 1": Variant(initialise=unit_weights),
}


def shortened(preset: str, epochs: int) -> TrainConfig:
    """The preset's recipe, cut short; augmentation at full strength, so that it can be missed."""
    return replace(PRESETS[preset].training, epochs=epochs, augment=1.0)


def run(variant: Variant, data: Data, preset: str, epochs: int, seed: int) -> dict[str, Any]:
    """Train one model; validation and test accuracy after the last epoch, and the seconds.

    As `train.train` does it, line by line, with the variant's piece in its place. A loss that is
    no longer finite ends the training, not the benchmark.
    """
    start, config = time.perf_counter(), shortened(preset, epochs)
    data = replace(data, **{x: variant.split(getattr(data, x)) for x in ("train", "val", "test")})
    torch.manual_seed(seed)
    model = VisionTransformer(model_config(data, PRESETS[preset].model))
    variant.initialise(model)
    optimizer = variant.optimizer(variant.groups(model, config.weight_decay), fused=True)
    generator = torch.Generator().manual_seed(seed)
    augment = random_affine if config.augment and variant.augment else None
    steps, step, finite = epochs * (len(data.train) // config.batch_size), 0, True
    for _ in range(epochs):
        model.train()
        for images, labels in batches(data.train, config.batch_size, generator, augment):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * variant.schedule(step / steps, config.warmup)
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


def runs_to_make(done: list[dict[str, Any]], names: Iterable[str], seeds: int) -> list[Any]:
    """(seed, variant) for everything that the record lacks, seed by seed."""
    made = {(entry["seed"], entry["variant"]) for entry in done}
    return [pair for s in range(seeds) for n in names if (pair := (s, n)) not in made]


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing; the exit code is 2 for wrong input or without MNIST."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--epochs", type=int, default=2, metavar="N", help="of each run; default 2")
    parser.add_argument("--only", action="append", choices=VARIANTS, metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the names of the variants")
    parser.add_argument("--root", type=Path, metavar="DIR", help="where the data set lies")
    parser.add_argument("--out", type=Path, default=RECORD, metavar="FILE", help="the record")
    args = parser.parse_args(arguments)
    if args.list:
        print(*VARIANTS, sep="\n")
        return 0
    if min(args.seeds, args.epochs) < 1:
        parser.error(f"--seeds {args.seeds}, --epochs {args.epochs}: both must be at least 1")
    preset = PRESETS["mnist"]
    budget = {
        "data": "mnist", "preset": "mnist", "epochs": args.epochs,
        "model": preset.model, "training": asdict(shortened("mnist", args.epochs)),
    }  # fmt: skip
    try:
        data = load("mnist", args.root)
        record = records.start(args.out, budget)
    except ValueError as error:
        print(f"ablations: error: {error}", file=sys.stderr)
        return 2
    todo = runs_to_make(record["runs"], args.only or VARIANTS, args.seeds)
    print(f"{len(record['runs'])} runs in {args.out}, {len(todo)} to make", flush=True)
    for number, (seed, name) in enumerate(todo, start=1):
        figures = run(VARIANTS[name], data, "mnist", args.epochs, seed)
        record["runs"].append({"variant": name, "seed": seed, "epochs": args.epochs, **figures})
        records.keep(args.out, record)
        print(
            f"{number:3} of {len(todo)}: {name:<25} seed {seed}: validation "
            f"{figures['validation_accuracy']:.2%}, test {figures['test_accuracy']:.2%}, "
            f"{figures['seconds']:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nablations: stopped; the record holds every finished run", file=sys.stderr)
        sys.exit(130)
