"""What the head reads, and how the tokens learn their places: the choices of chapters 03 and 04.

    python -m vit_tutorial.benchmarks.tokens_and_positions [--only "mean"] [--list]

Every variant, three seeds each, or those given by `--only`. Every run has the same budget and, but
for the two that say so, the same learning rate. The record is written after every run, and runs
that it holds are not repeated.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import Data, load
from vit_tutorial.embedding import Embedding
from vit_tutorial.lab.loop import train
from vit_tutorial.lab.recipes import PRESETS, model_config
from vit_tutorial.model import VisionTransformer
from vit_tutorial.train import evaluate

RECORD = records.FOLDER / "tokens_and_positions.json"


class Concatenated(nn.Module):
    """Position and token concatenated, 2D numbers, and one more matrix back to D."""

    def __init__(self, embedding: Embedding):
        super().__init__()
        self.patches = embedding.patches
        self.class_token = embedding.get_parameter("class_token")
        self.positions = embedding.get_parameter("positions")
        D = self.positions.shape[-1]
        self.mix = nn.Linear(2 * D, D)
        nn.init.xavier_uniform_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B T D"]:
        patches = self.patches(images)
        first = self.class_token.expand(patches.shape[0], -1, -1)
        tokens = torch.cat([first, patches], dim=1)
        places = self.positions.expand_as(tokens)
        return self.mix(torch.cat([tokens, places], dim=-1))


@dataclass(frozen=True)
class Variant:
    """What replaces a part of the package's model and recipe."""

    positions: str = "learned"
    pool: str = "token"
    concatenated: bool = False
    learning_rate: float | None = None


VARIANTS = {
    "class token, learned": Variant(),
    "mean": Variant(pool="mean"),
    "sine-cosine": Variant(positions="sincos"),
    "none": Variant(positions="none"),
    "concatenated": Variant(concatenated=True),
    "class token, rate 1e-3": Variant(learning_rate=1e-3),
    "mean, rate 1e-3": Variant(pool="mean", learning_rate=1e-3),
}


def run(variant: Variant, data: Data, preset: str, epochs: int, seed: int) -> dict[str, Any]:
    """Train one model; its parameters, validation and test accuracy at the end, and the seconds."""
    start, (shape, config) = time.perf_counter(), PRESETS[preset]
    rate = variant.learning_rate or config.learning_rate
    torch.manual_seed(seed)
    choice = {"positions": variant.positions, "pool": variant.pool}
    model = VisionTransformer(model_config(data, {**shape, **choice}))
    if variant.concatenated:
        model.embedding = Concatenated(model.embedding)  # type: ignore[assignment]
    config = replace(config, epochs=epochs, learning_rate=rate)
    *_, last = train(model, data, config, torch.Generator().manual_seed(seed))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation_accuracy": last.val_accuracy,
        "test_accuracy": evaluate(model, data.test).accuracy,
        "seconds": round(time.perf_counter() - start, 1),
    }


def prepare(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[Variant, int], Any]]:
    """The budget that all runs share, and the function that makes a run."""
    data, (shape, config) = load("mnist", args.root), PRESETS["mnist"]
    budget = {
        "data": "mnist", "preset": "mnist", "epochs": args.epochs,
        "model": shape, "training": asdict(replace(config, epochs=args.epochs)),
    }  # fmt: skip
    return budget, lambda variant, seed: run(variant, data, "mnist", args.epochs, seed)


if __name__ == "__main__":
    sys.exit(records.study(__doc__, RECORD, VARIANTS, 2, prepare))
