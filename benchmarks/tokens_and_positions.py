"""What the head reads, and how the tokens learn their places: the choices of chapters 03 and 04.

    python benchmarks/tokens_and_positions.py                     every variant, three seeds each
    python benchmarks/tokens_and_positions.py --only "mean"       one of them (may be given again)
    python benchmarks/tokens_and_positions.py --list              the names of the variants

Every run has the same budget and, but for the two that say so, the same learning rate. The record
is written after every run, and runs that it holds are not made again.
"""

import argparse
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import record as records
import torch
from ablations import runs_to_make
from jaxtyping import Float
from torch import Tensor, nn

from vit_tutorial.data import Data, load
from vit_tutorial.embedding import Embedding
from vit_tutorial.model import VisionTransformer
from vit_tutorial.train import PRESETS, evaluate, model_config, train

RECORD = records.ROOT / "benchmarks" / "records" / "tokens_and_positions.json"


class Concatenated(nn.Module):
    """Position and token side by side, 2D numbers, and one more matrix back to D."""

    def __init__(self, embedding: Embedding):
        super().__init__()
        self.patches, self.class_token = embedding.patches, embedding.class_token
        self.positions = embedding.positions
        D = self.positions.shape[-1]
        self.mix = nn.Linear(2 * D, D)
        nn.init.xavier_uniform_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B T D"]:
        first = self.class_token.expand(len(images), -1, -1)
        tokens = torch.cat([first, self.patches(images)], dim=1)
        places = self.positions.expand(len(images), -1, -1)
        return self.mix(torch.cat([tokens, places], dim=-1))


@dataclass(frozen=True)
class Variant:
    """The package's model and recipe, but for what is given."""

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
    shape, config = PRESETS["mnist"]
    budget = {
        "data": "mnist", "preset": "mnist", "epochs": args.epochs,
        "model": shape, "training": asdict(replace(config, epochs=args.epochs)),
    }  # fmt: skip
    try:
        data = load("mnist", args.root)
        record = records.start(args.out, budget)
    except ValueError as error:
        print(f"tokens_and_positions: error: {error}", file=sys.stderr)
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
        print("\ntokens_and_positions: stopped; the record holds every run", file=sys.stderr)
        sys.exit(130)
