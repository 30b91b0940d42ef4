"""The model as far as it is built, trained in the same plain way after every chapter.

    python -m vit_tutorial.benchmarks.ladder [--only "four heads"] [--list]

Every rung, three seeds each, or those given by `--only`: one pass over MNIST with
`vit_tutorial.train.fit`, but for the last rung, which is the recipe of chapter 08. Accuracies are
on the validation images. The record is written after every run, and runs that it holds are not
repeated.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops.layers.torch import Reduce
from jaxtyping import Float
from torch import Tensor, nn

from vit_tutorial.attention import MultiHeadSelfAttention
from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import Data, load
from vit_tutorial.embedding import Embedding, PatchEmbedding
from vit_tutorial.encoder import Encoder
from vit_tutorial.lab.recipes import SMALL
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import TrainConfig, fit, train

RECORD = records.FOLDER / "ladder.json"
P, D, K = 7, 64, 10  # 16 patches of 49 pixels, in an image of 28 x 28


class FirstToken(nn.Module):
    """Token 0 alone, for the head to read."""

    def forward(self, z: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        return z[:, 0]


def mean_of(*layers: nn.Module) -> nn.Sequential:
    """The head reads the mean over all tokens."""
    return nn.Sequential(*layers, Reduce("B T D -> B D", "mean"), nn.Linear(D, K))


def class_token_of(*layers: nn.Module) -> nn.Sequential:
    """The head reads the class token."""
    return nn.Sequential(*layers, FirstToken(), nn.Linear(D, K))


def embedding(**choice: Any) -> Embedding:
    """Patches, and what the choice adds to them."""
    return Embedding(28, P, 1, D, **choice)


def whole(positions: str = "learned") -> VisionTransformer:
    """The package's model of four blocks."""
    shape: dict[str, Any] = {**SMALL, "positions": positions}
    return VisionTransformer(ViTConfig(28, channels=1, classes=K, **shape))


@dataclass(frozen=True)
class Rung:
    """How a model is made, and the chapter that has got that far."""

    chapter: int
    make: Callable[[], nn.Module]
    recipe: bool = False  # trained as in chapter 08, not by `fit`


VARIANTS = {
    "all pixels, one matrix": Rung(2, lambda: nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, K))),
    "patches, projection, mean": Rung(2, lambda: mean_of(PatchEmbedding(P, 1, D))),
    "class token alone": Rung(3, lambda: class_token_of(embedding(positions="none"))),
    "positions, mean": Rung(4, lambda: mean_of(embedding(class_token=False))),
    "GELU, mean": Rung(4, lambda: mean_of(PatchEmbedding(P, 1, D), nn.GELU())),
    "positions, GELU, mean": Rung(4, lambda: mean_of(embedding(class_token=False), nn.GELU())),
    "one head, no positions": Rung(
        5, lambda: class_token_of(embedding(positions="none"), MultiHeadSelfAttention(D, 1))
    ),
    "one head": Rung(5, lambda: class_token_of(embedding(), MultiHeadSelfAttention(D, 1))),
    "four heads": Rung(5, lambda: class_token_of(embedding(), MultiHeadSelfAttention(D, 4))),
    "one block": Rung(6, lambda: class_token_of(embedding(), Encoder(1, D, 4, 2 * D))),
    "four blocks, no positions": Rung(
        6, lambda: class_token_of(embedding(positions="none"), Encoder(4, D, 4, 2 * D))
    ),
    "four blocks": Rung(6, lambda: class_token_of(embedding(), Encoder(4, D, 4, 2 * D))),
    "the whole model, no positions": Rung(7, lambda: whole("none")),
    "the whole model": Rung(7, whole),
    "the recipe": Rung(8, whole, recipe=True),
}


def run(rung: Rung, data: Data, seed: int) -> dict[str, Any]:
    """Train one model; its parameters, validation accuracy and the seconds."""
    torch.manual_seed(seed)
    model, config = rung.make(), TrainConfig()
    start = time.perf_counter()
    if rung.recipe:
        *_, last = train(model, data, config, torch.Generator().manual_seed(seed))
        accuracy = last.val_accuracy
    else:
        accuracy = fit(model, data, seed)
    return {
        "chapter": rung.chapter,
        "epochs": config.epochs if rung.recipe else 1,
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation_accuracy": accuracy,
        "seconds": round(time.perf_counter() - start, 1),
    }


def prepare(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[Rung, int], Any]]:
    """The budget that all runs share, and the function that makes a run."""
    data = load("mnist", args.root)
    return {"data": "mnist", "model": SMALL}, lambda rung, seed: run(rung, data, seed)


if __name__ == "__main__":
    sys.exit(records.study(__doc__, RECORD, VARIANTS, None, prepare))
