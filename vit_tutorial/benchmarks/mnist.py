"""Seconds of training until a small ViT reads 97, 98, 99 and 99.3 % of MNIST's test digits right.

    python -m vit_tutorial.benchmarks.mnist [--only "the plain recipe"] [--list]

Every recipe, five seeds each, or those given by `--only`. All but two train the same model (P 7,
D 64, L 3); one of them starts with larger patches. The two of four patches train the model of
`mnist-best` (P 14, D 96, L 3) in batches of 256; they were chosen on validation images, with seed
0 alone. The fast recipe was chosen on validation images, except that the fourth block was dropped,
for time, after the test figures of one run with it had been seen. The recipes named after it differ
from it in one thing (AdamW has its usual rate of 0.003; the two parts with large and small patches
each have their own warm-up and schedule); nothing was chosen by their figures.

The test images are the finishing line, evaluated four times an epoch; the time of a goal is that
of the first evaluation at or above it. The validation split is that of seed 0 in every run. The
clock runs while the model trains, from the first batch on; it stops while the test images are
evaluated.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import Data, data_root, load, random_affine
from vit_tutorial.lab.loop import Step, Training
from vit_tutorial.lab.optim import make_optimizer, update_average
from vit_tutorial.lab.recipes import PRESETS, Recipe, model_config
from vit_tutorial.lab.shortcut import shortcut
from vit_tutorial.model import VisionTransformer
from vit_tutorial.positions import resample_positions
from vit_tutorial.train import evaluate, schedule, set_rate

RECORD = records.FOLDER / "mnist.json"
GOALS = (0.97, 0.98, 0.99, 0.993)
LOOKS = 4  # at the test images in an epoch


@dataclass
class Clock:
    """The seconds of training, and the accuracy each time that the clock stood still."""

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
        """The test accuracy of these weights."""
        self.model.load_state_dict(weights)
        found = evaluate(self.model, self.data.test).accuracy
        self.looks.append((round(self.seconds, 1), found))

    def figures(self) -> dict[str, Any]:
        """Seconds to every goal (None: not reached), the last accuracy, and the whole curve."""
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
    """The steps of an epoch after which the test images are evaluated."""
    return {math.ceil(per_epoch * i / LOOKS) for i in range(1, LOOKS + 1)}


def by_the_package(recipe: Recipe, data: Data, seed: int, root: Path | None) -> dict[str, Any]:
    """Train as `vit-tutorial train` does."""
    clock = Clock(data, fresh(data, seed))
    go(fresh(data, seed), clock, recipe, data, torch.Generator().manual_seed(seed))
    return clock.figures()


def few_tokens_first(data: Data, seed: int, root: Path | None) -> dict[str, Any]:
    """In the first half of the steps every batch keeps a random half of its patch tokens."""
    model, clock = fresh(data, seed), Clock(data, fresh(data, seed))
    steps = FAST.epochs * (len(data.train) // FAST.batch_size)
    dice, done = torch.Generator().manual_seed(seed), count()

    def drop(embedding: nn.Module, images: Any, tokens: Tensor) -> Tensor | None:
        if not embedding.training or next(done) >= steps // 2:
            return None
        order = 1 + torch.randperm(tokens.shape[1] - 1, generator=dice)
        return tokens[:, [0, *order[: len(order) // 2].tolist()]]  # the class token stays

    model.embedding.register_forward_hook(drop)
    go(model, clock, FAST, data, torch.Generator().manual_seed(seed))
    return clock.figures()


def large_patches_first(data: Data, seed: int, root: Path | None) -> dict[str, Any]:
    """Two epochs with patches of 14 x 14, then four with those of 7 x 7, each with a warm-up.

    The matrix for small patches adds up the numbers for 2 x 2 pixels: on a smooth image the tokens
    stay as they were. Positions are stretched as for a larger image.
    """
    config, generator = fresh(data, seed).config, torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    large = VisionTransformer(replace(config, patch_size=14))
    clock = Clock(data, VisionTransformer(large.config))
    go(large, clock, replace(FAST, epochs=2), data, generator)
    weights = large.state_dict()
    kernels = weights["embedding.patches.projection.weight"].unflatten(1, (1, 14, 14))
    table = resample_positions(weights["embedding.positions"], large.config.grid, config.grid)
    weights["embedding.patches.projection.weight"] = 4 * F.avg_pool2d(kernels, 2).flatten(1)
    weights["embedding.positions"] = table
    small, clock.model = fresh(data, seed), fresh(data, seed)
    small.load_state_dict(weights)
    clock.go_on()
    go(small, clock, replace(FAST, epochs=4), data, generator)
    return clock.figures()


def go(
    model: VisionTransformer, clock: Clock, recipe: Recipe, data: Data, dice: torch.Generator
) -> None:
    """Train to the end under a clock, which stands still for validation and looks."""
    per_epoch = len(data.train) // recipe.batch_size
    training = Training(model, data, recipe, dice)

    def on_step(step: Step) -> None:
        if (step.number - 1) % per_epoch + 1 in looks(per_epoch):
            step.loss.item()  # a GPU may still be at work on the step
            clock.stop()
            clock.look((training.average or model).state_dict())
            clock.go_on()

    for _ in training.epochs(on_step):
        clock.go_on()  # validation is not training


def four_patches(known: float, data: Data, seed: int, root: Path | None) -> dict[str, Any]:
    """A model of four patches; of the images that it knows, a share is in each pass.

    A pass is shorter, and there are more of them: as many steps in all as in six whole passes.
    After InfoBatch (https://arxiv.org/abs/2303.04947), without its weights.
    """
    torch.manual_seed(seed)
    model = VisionTransformer(model_config(data, PRESETS["mnist-best"].model))
    network, average, optimizer = shortcut(model), deepcopy(model), make_optimizer(model, LEAN)
    clock, dice = Clock(data, deepcopy(model)), torch.Generator().manual_seed(seed)
    train, losses, step = data.train, torch.full((len(data.train),), math.inf), 0
    per_epoch = len(train) // LEAN.batch_size
    steps = LEAN.epochs * per_epoch
    model.train()
    while step < steps:
        for rows in rows_of_pass(losses, known, dice).split(LEAN.batch_size)[: steps - step]:
            images = random_affine(train.images[rows].float() / 255, dice, LEAN.augment)
            rate = schedule((step + 0.5) / steps, LEAN.warmup)
            set_rate(optimizer, LEAN.learning_rate * rate)
            each = F.cross_entropy(
                network(train.normalise(images)), train.labels[rows], reduction="none"
            )
            optimizer.zero_grad()
            each.mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), LEAN.gradient_clip)
            optimizer.step()
            step, losses[rows] = step + 1, each.detach()
            update_average(average, model, LEAN.average, step)
            if (step - 1) % per_epoch + 1 in looks(per_epoch):
                clock.stop()
                clock.look(average.state_dict())
                clock.go_on()
    return clock.figures()


def rows_of_pass(
    losses: Float[Tensor, " M"], known: float, generator: torch.Generator
) -> Int[Tensor, " _"]:
    """The images of a pass, shuffled: all that the model does not know, a share of the others.

    Known is an image whose loss, when it was last seen, lay below the mean of all.
    """
    order = torch.randperm(len(losses), generator=generator)
    drawn = torch.rand(len(order), generator=generator) < known
    return order[drawn | (losses[order] >= losses.mean())]


def plainly(epochs: int, data: Data, seed: int, root: Path | None) -> dict[str, Any]:
    """As many tutorials do: Adam at 1e-3, batches of 64, one PIL image at a time, nothing else.

    None of them is copied. One of the kind,
    https://github.com/FANZ3R/Vision_Transformer_From_scratch, with patches of 7 x 7 and batches of
    64, reports 96.33 % after five epochs.
    """
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
    """The training images through torchvision's transforms, without those for validation."""
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
LEAN = replace(FAST, batch_size=256, muon_rate=0.03)
Race = Callable[[Data, int, Path | None], dict[str, Any]]
VARIANTS: dict[str, Race] = {
    "the fast recipe": partial(by_the_package, FAST),
    "with AdamW": partial(by_the_package, replace(FAST, optimizer="adamw", learning_rate=3e-3)),
    "without the mean": partial(by_the_package, replace(FAST, average=0.0)),
    "smooth labels": partial(by_the_package, replace(FAST, label_smoothing=0.1)),
    "batches of 64": partial(by_the_package, replace(FAST, batch_size=64)),
    "batches of 256": partial(by_the_package, replace(FAST, batch_size=256)),
    "Muon twice as fast": partial(by_the_package, replace(FAST, muon_rate=0.04)),
    "few tokens first": few_tokens_first,
    "large patches first": large_patches_first,
    "four patches": partial(four_patches, 1.0),
    "four patches, hard images": partial(four_patches, 0.2),
    "the plain recipe": partial(plainly, 8),  # epochs
}


def prepare(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[Race, int], Any]]:
    """What all runs share, and the function that makes a run."""
    data = load("mnist", args.root)
    shared = {"data": "mnist", "model": PRESETS["mnist-fast"].model, "recipe": asdict(FAST)}
    return shared, lambda race, seed: race(data, seed, args.root)


if __name__ == "__main__":
    sys.exit(records.study(__doc__, RECORD, VARIANTS, None, prepare, seeds=5))
