"""Pre-train on the digits 0 to 4, then learn 5 to 9 from a handful of each: what is reused?

    python -m vit_tutorial.benchmarks.few_shot [--only "from scratch, 1"] [--list]

Every method, ten draws of examples each, or those given by `--only`. A seed draws the examples; the
pre-trained model is the same for all of them. All test images of 5 to 9 are read once a run. The
record is written after every run, and runs that it holds are not repeated.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import Data, Split, load
from vit_tutorial.lab.loop import train
from vit_tutorial.lab.recipes import PRESETS, Recipe, model_config
from vit_tutorial.model import VisionTransformer
from vit_tutorial.train import evaluate
from vit_tutorial.transfer import features, few_shot, least_squares, transfer

RECORD = records.FOLDER / "few_shot.json"
STEPS, BATCH = 100, 32  # of every training on few examples
TUNED = {"fine-tuned": 1e-3, "from scratch": 3e-3}  # learning rates
STRENGTH = 10.0  # of the least squares' penalty


def estimator(method: str, per_class: int, seed: int) -> ClassifierMixin:
    """An untrained classifier of scikit-learn's."""
    if method == "nearest neighbours":
        return KNeighborsClassifier(n_neighbors=1, metric="cosine")
    if method == "random forest":
        return RandomForestClassifier(n_estimators=300, random_state=seed, n_jobs=1)
    return LogisticRegression(max_iter=1000)  # the linear probe


@dataclass(frozen=True)
class Variant:
    """A way to learn, and from how many examples of each class."""

    method: str
    per_class: int


METHODS = ("fine-tuned", "linear probe", "least squares", "nearest neighbours", "random forest",
           "from scratch", "raw pixels")  # fmt: skip
VARIANTS = {f"{m}, {k}": Variant(m, k) for k in (1, 5, 25, 100) for m in METHODS}


def digits_of(data: Data, first: int, last: int) -> Data:
    """The images of some classes, numbered from 0; pixels are normalised as before."""

    def only(split: Split) -> Split:
        kept = (split.labels >= first) & (split.labels <= last)
        return replace(split, images=split.images[kept], labels=split.labels[kept] - first)

    train, val, test = (only(split) for split in (data.train, data.val, data.test))
    return replace(data, train=train, val=val, test=test, classes=data.classes[first : last + 1])


def recipe(examples: int, rate: float) -> Recipe:
    """STEPS steps, whatever the number of examples."""
    batch = min(BATCH, examples)
    epochs = -(-STEPS // (examples // batch))
    return Recipe(epochs=epochs, batch_size=batch, learning_rate=rate, augment=0.5)


class Study:
    """The pre-trained model, and its features of every image of 5 to 9, computed once."""

    def __init__(self, data: Data, epochs: int):
        shape, config = PRESETS["mnist"]
        self.config = replace(config, epochs=epochs)
        first, self.data = digits_of(data, 0, 4), digits_of(data, 5, 9)
        torch.manual_seed(0)
        self.scratch = model_config(self.data, shape)
        self.model = VisionTransformer(model_config(first, shape))
        *_, last = train(self.model, first, self.config, torch.Generator().manual_seed(0))
        self.accuracy = last.val_accuracy
        splits = {x: getattr(self.data, x) for x in ("train", "test")}
        self.pixels = {x: s.normalise(s.images / 255).flatten(1) for x, s in splits.items()}
        self.known = {x: features(self.model, split) for x, split in splits.items()}

    def run(self, variant: Variant, seed: int) -> dict[str, Any]:
        """Learn from one draw of examples; the accuracy on all test images of 5 to 9."""
        start = time.perf_counter()
        numbers = torch.arange(len(self.data.train)).view(torch.uint8).view(-1, 1, 1, 8)
        numbered = replace(self.data.train, images=numbers)  # each image is its number in 8 bytes
        few = few_shot(numbered, variant.per_class, torch.Generator().manual_seed(seed))
        rows = few.images.flatten().view(torch.int64)
        learn = self.trained if variant.method in TUNED else self.fitted
        accuracy = learn(variant, rows, seed)
        seconds = round(time.perf_counter() - start, 1)
        return {**asdict(variant), "test_accuracy": accuracy, "seconds": seconds}

    def fitted(self, variant: Variant, rows: Tensor, seed: int) -> float:
        """By a classifier on frozen features, or on pixels: the control."""
        labels, test = self.data.train.labels[rows], self.data.test.labels
        if variant.method in ("least squares", "raw pixels"):
            known = self.pixels if variant.method == "raw pixels" else self.known
            head = least_squares(known["train"][rows], labels, 5, STRENGTH)
            guesses = head(known["test"]).argmax(dim=1)
            return (guesses == test).double().mean().item()
        found = estimator(variant.method, variant.per_class, seed)
        found.fit(self.known["train"][rows].numpy(), labels.numpy())
        return float(found.score(self.known["test"].numpy(), test.numpy()))

    def trained(self, variant: Variant, rows: Tensor, seed: int) -> float:
        """By gradient descent on the whole model, pre-trained or not."""
        torch.manual_seed(seed)
        split = self.data.train
        few = replace(split, images=split.images[rows], labels=split.labels[rows])
        fresh = variant.method == "from scratch"
        model = VisionTransformer(self.scratch) if fresh else transfer(self.model, classes=5)
        data = replace(self.data, train=few, val=few)  # nothing is chosen by validation here
        config = recipe(len(rows), TUNED[variant.method])
        for _ in train(model, data, config, torch.Generator().manual_seed(seed)):
            pass
        return evaluate(model, self.data.test).accuracy


def prepare(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[Variant, int], Any]]:
    """The pre-training that all runs share, and the function that makes a run."""
    study = Study(load("mnist", args.root), args.epochs)
    budget = {
        "data": "mnist", "preset": "mnist", "epochs": args.epochs,
        "pretraining": asdict(study.config), "pretraining_validation_accuracy": study.accuracy,
        "steps": STEPS, "batch": BATCH, "learning_rates": TUNED, "strength": STRENGTH,
    }  # fmt: skip
    return budget, study.run


if __name__ == "__main__":
    sys.exit(records.study(__doc__, RECORD, VARIANTS, 8, prepare, seeds=10))
