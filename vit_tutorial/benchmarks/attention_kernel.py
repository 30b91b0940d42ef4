"""Attention written out beside PyTorch's fused kernel, in a whole training step.

    python -m vit_tutorial.benchmarks.attention_kernel

Two models with the same weights differ in one line: softmax(q kᵀ / √d) v as two products with a
softmax between them, or `F.scaled_dot_product_attention`, as the package has it. Forward, backward
and update of both take turns in one process, so that a busy machine slows both alike; medians and
their ratio are recorded. A record is replaced, not extended: a ratio means something within one
run.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.attention import MultiHeadSelfAttention, attention_weights
from vit_tutorial.benchmarks import record as records
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import parameter_groups

RECORD = records.FOLDER / "attention_kernel.json"
SIZES = [  # image, P, L, D, MLP, h, B
    (28, 7, 4, 64, 128, 4, 128),
    (28, 4, 4, 64, 128, 4, 256),  # (a) of throughput.py
    (28, 4, 6, 64, 128, 4, 128),  # (b)
    (32, 4, 6, 64, 128, 4, 64),
    (48, 4, 4, 64, 128, 4, 32),
    (64, 4, 4, 64, 128, 4, 16),
    (224, 16, 4, 192, 768, 3, 8),
]


class WrittenOut(MultiHeadSelfAttention):
    """The (T T) weights are made and kept for the backward pass."""

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        q, k, v = self.split_heads(x)
        read = attention_weights(q, k) @ v
        return self.projection(rearrange(read, "B h T d -> B T (h d)"))


class Fused(MultiHeadSelfAttention):
    """One kernel, which never stores the weights."""

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        q, k, v = self.split_heads(x)
        read = F.scaled_dot_product_attention(q, k, v)
        return self.projection(rearrange(read, "B h T d -> B T (h d)"))


WAYS = {"plain products": WrittenOut, "fused kernel": Fused}


def build(config: ViTConfig, way: Callable[[int, int], nn.Module]) -> VisionTransformer:
    """A model whose blocks attend in this way; the weights are the same for each."""
    torch.manual_seed(0)
    model = VisionTransformer(config)
    for block in model.encoder.blocks:
        attention = way(config.hidden_size, config.heads)
        attention.load_state_dict(block.get_submodule("attention").state_dict())
        block.attention = attention
    return model


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    """Forward, backward, update."""
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def measure(size: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Median milliseconds of a step for each way at one size, and fused over plain."""
    image, P, L, D, mlp, h, B = size
    config = ViTConfig(image, P, 1, 10, L, D, mlp, h)
    models = {name: build(config, way) for name, way in WAYS.items()}
    optimizers = {
        name: torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-3, fused=True)
        for name, model in models.items()
    }
    batch = torch.randn(B, 1, image, image), torch.randint(10, (B,))
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for repeat in range(repeats + 2):
        for name, model in models.items():
            start = time.perf_counter()
            train_step(model, optimizers[name], *batch)
            if repeat >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows, cols = config.grid
    return {
        "tokens": rows * cols + 1, "head_size": D // h, "batch": B, "layers": L,
        **{f"{name}, ms": round(1000 * median, 2) for name, median in medians.items()},
        "fused over plain": round(medians["fused kernel"] / medians["plain products"], 3),
    }  # fmt: skip


def main() -> int:
    """Measure every size; print and record."""
    args = records.repeated(__doc__, RECORD, 15).parse_args()
    record = records.start(args.out, {"repeats": args.repeats}, anew=True)
    for size in SIZES:
        run = measure(size, args.repeats)
        record["runs"].append(run)
        print(*(f"{name} {value}" for name, value in run.items()), sep=", ", flush=True)
        records.keep(args.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
