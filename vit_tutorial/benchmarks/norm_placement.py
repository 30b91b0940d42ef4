"""Pre-norm beside post-norm: gradients by depth, and the loss of the first steps (chapter 06).

    python -m vit_tutorial.benchmarks.norm_placement [--only NAME] [--list]

Every variant, five seeds each, or those given by `--only`, on the digits that come with
scikit-learn. The record is written after every run, and runs that it holds are not repeated.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import Split, load
from vit_tutorial.encoder import EncoderBlock
from vit_tutorial.model import VisionTransformer, ViTConfig

RECORD = records.FOLDER / "norm_placement.json"
STEPS, BATCH = 40, 32


class PostNorm(nn.Module):
    """The order of 2017: add, then normalise the stream."""

    def __init__(self, block: EncoderBlock):
        super().__init__()
        self.block = block

    def forward(self, z: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        z = self.block.norm1(z + self.block.attention(z))
        return self.block.norm2(z + self.block.mlp(z))


def post_norm(model: VisionTransformer) -> None:
    """Normalise after the sum, as the first Transformers did."""
    blocks = model.encoder.blocks
    model.encoder.blocks = nn.ModuleList(PostNorm(block) for block in blocks)  # type: ignore[arg-type]
    model.encoder.norm = nn.Identity()  # type: ignore[assignment]  # the last block has normalised


@dataclass(frozen=True)
class Variant:
    """Where the norms stand, in how many blocks, and the rate of the first steps."""

    order: str
    blocks: int
    rate: float


VARIANTS = {
    f"{order}, {L} blocks, rate {rate:g}": Variant(order, L, rate)
    for L in (4, 12, 24)
    for rate in (1e-3, 1e-4)
    for order in ("pre-norm", "post-norm")
}


def fresh(variant: Variant, seed: int) -> VisionTransformer:
    """A narrow model whose head is not zero: a head of zeros passes no gradient back."""
    torch.manual_seed(seed)
    model = VisionTransformer(ViTConfig(28, 7, 1, 10, variant.blocks, 32, 64, 4))
    nn.init.xavier_uniform_(model.get_parameter("head.weight"))
    if variant.order == "post-norm":
        post_norm(model)
    return model


def run(variant: Variant, split: Split, seed: int) -> dict[str, Any]:
    """The gradient's norm of every block before the first step, and the loss after the last."""
    start, model = time.perf_counter(), fresh(variant, seed)
    images, labels = split.normalise(split.images / 255), split.labels
    F.cross_entropy(model(images[:64]), labels[:64]).backward()
    blocks = [list(block.parameters()) for block in model.encoder.blocks]
    norms = [nn.utils.get_total_norm([p.grad for p in b if p.grad is not None]) for b in blocks]
    optimizer = torch.optim.AdamW(model.parameters(), lr=variant.rate)
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(STEPS):
        rows = torch.randint(len(labels), (BATCH,), generator=generator)
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {
        **asdict(variant),
        "gradient_norms": [float(f"{norm:.4g}") for norm in norms],
        "loss": round(sum(losses[-5:]) / 5, 4),
        "seconds": round(time.perf_counter() - start, 1),
    }


def prepare(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[Variant, int], Any]]:
    """The budget that all runs share, and the function that makes a run."""
    split = load("digits").train
    budget = {"data": "digits", "steps": STEPS, "batch": BATCH, "hidden_size": 32}
    return budget, lambda variant, seed: run(variant, split, seed)


if __name__ == "__main__":
    sys.exit(records.study(__doc__, RECORD, VARIANTS, None, prepare, seeds=5))
