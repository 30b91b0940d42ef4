"""Seconds of training until a small ViT reads 97, 98, 99 and 99.3 % of MNIST's test digits right.

    python benchmarks/mnist.py                            every recipe with every seed
    python benchmarks/mnist.py --only "the plain recipe"  one of them
    python benchmarks/mnist.py --list                     their names

Every recipe trains the same model (P 7, D 64, L 3). The recipes were chosen on validation images,
but the fourth block was dropped, for time, when the test figures of one run with it had been seen.
The test images are the finishing line, read four times an epoch; a goal's time is that of the
first look at or above it. The validation split is that of seed 0 in every run. The clock runs while
the model trains, from the first batch on; it stands still while the test images are read.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import record as records
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from vit_tutorial.data import Data, data_root, load
from vit_tutorial.model import VisionTransformer
from vit_tutorial.train import PRESETS, Step, TrainConfig, evaluate, model_config, train

RECORD = records.ROOT / "benchmarks" / "records" / "mnist.json"
GOALS = (0.97, 0.98, 0.99, 0.993)
LOOKS = 4  # at the test images in an epoch


@dataclass
class Clock:
    """The seconds of training, and how much was right each time that it stood still."""

    data: Data
    model: nn.Module  # a copy to look with, so that training is not touched
    looks: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self.since

    def go_on(self) -> None:
        self.since = time.perf_counter()

    def look(self, weights: dict[str, Tensor]) -> None:
        """What share of the test images these weights read right."""
        self.model.load_state_dict(weights)
        found = evaluate(self.model, self.data.test).accuracy
        self.looks.append((round(self.seconds, 1), found))

    def figures(self) -> dict[str, Any]:
        """Seconds to every goal (None: not reached), the last figure, and the whole curve."""
        reached = {
            f"{100 * goal:g} %": next((s for s, right in self.looks if right >= goal), None)
            for goal in GOALS
        }
        return {
            **reached,
            "test_accuracy": self.looks[-1][1],
            "seconds": round(self.seconds, 1),
            "looks": self.looks,
        }


def looks(per_epoch: int) -> set[int]:
    """The steps of an epoch after which to look."""
    return {math.ceil(per_epoch * i / LOOKS) for i in range(1, LOOKS + 1)}


def by_the_package(config: TrainConfig, data: Data, seed: int) -> dict[str, Any]:
    """Train as `vit-tutorial train` does."""
    model = fresh(data, seed)
    clock, per_epoch = Clock(data, fresh(data, seed)), len(data.train) // config.batch_size

    def on_step(step: Step) -> None:
        if (step.number - 1) % per_epoch + 1 in looks(per_epoch):
            clock.stop()
            state = step.state()
            clock.look(state.part("average") or state.part("model"))
            clock.go_on()

    generator = torch.Generator().manual_seed(seed)
    for _ in train(model, data, config, generator, on_step=on_step):
        clock.go_on()  # validation is not training
    return clock.figures()


def plainly(epochs: int, data: Data, seed: int, root: Path | None) -> dict[str, Any]:
    """As most tutorials do: Adam at 1e-3, batches of 64, one PIL image at a time, nothing else."""
    model = fresh(data, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = plain_loader(data, seed, root)
    clock = Clock(data, fresh(data, seed))
    for _ in range(epochs):
        model.train()
        for number, (images, labels) in enumerate(loader, start=1):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            if number in looks(len(loader)):
                clock.stop()
                clock.look(model.state_dict())
                clock.go_on()
    return clock.figures()


def plain_loader(data: Data, seed: int, root: Path | None) -> DataLoader:
    """The training images through torchvision's transforms, those for validation left out."""
    mean, std = data.train.mean.tolist(), data.train.std.tolist()
    prepared = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    whole = datasets.MNIST(data_root(root), train=True, transform=prepared)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    rows = order[len(data.val) :].tolist()  # as `data.load` splits
    shuffle = torch.Generator().manual_seed(seed)
    return DataLoader(Subset(whole, rows), batch_size=64, shuffle=True, generator=shuffle)


def fresh(data: Data, seed: int) -> VisionTransformer:
    """The model before training."""
    torch.manual_seed(seed)
    return VisionTransformer(model_config(data, PRESETS["mnist-fast"].model))


FAST = PRESETS["mnist-fast"].training
VARIANTS: dict[str, TrainConfig | int] = {
    "the fast recipe": FAST,
    "the fast recipe with AdamW": replace(FAST, optimizer="adamw", learning_rate=3e-3),
    "the plain recipe": 8,  # epochs
}


def prepare(
    args: argparse.Namespace,
) -> tuple[dict[str, Any], Callable[[TrainConfig | int, int], Any]]:
    """What all runs share, and how one is made."""
    data = load("mnist", args.root)
    shared = {"data": "mnist", "model": PRESETS["mnist-fast"].model, "recipe": asdict(FAST)}

    def run(variant: TrainConfig | int, seed: int) -> dict[str, Any]:
        if isinstance(variant, int):
            return plainly(variant, data, seed, args.root)
        return by_the_package(variant, data, seed)

    return shared, run


if __name__ == "__main__":
    sys.exit(records.study(__doc__, RECORD, VARIANTS, None, prepare, seeds=5))
