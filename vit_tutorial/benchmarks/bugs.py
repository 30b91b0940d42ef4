"""What ten published mistakes cost: the pieces of chapter 15, trained broken and mended.

    python -m vit_tutorial.benchmarks.bugs [--only "softmax twice"] [--list]

Every piece, three seeds each, or those given by `--only`. Every run has the same budget. The record
is written after every run, and runs that it holds are not repeated.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.attention import MultiHeadSelfAttention, attention_weights
from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import Data, Split, batches, load
from vit_tutorial.embedding import Embedding
from vit_tutorial.encoder import Encoder
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import parameter_groups, schedule, set_rate

RECORD = records.FOLDER / "bugs.json"
IMAGES, PASSES, BATCH, RATE = 6000, 3, 100, 3e-3
CONFIG = ViTConfig(28, 7, 1, 10, 2, 64, 128, 4)


class SoftmaxTwice(VisionTransformer):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(dim=-1)


class BatchInTheToken(Embedding):
    batch_size = BATCH

    def forward(self, images: Tensor) -> Tensor:
        class_tokens = self.class_token.repeat(self.batch_size, 1, 1)
        tokens = torch.cat([class_tokens, self.patches(images)], dim=1)
        return tokens + self.positions


class OverTheReaders(MultiHeadSelfAttention):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split_heads(x)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        read = scores.softmax(dim=-2) @ v
        return self.projection(read.transpose(1, 2).flatten(2))


class ScaledTooLate(MultiHeadSelfAttention):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split_heads(x)
        weights = (q @ k.mT).softmax(dim=-1) / q.shape[-1] ** 0.5
        return self.projection((weights @ v).transpose(1, 2).flatten(2))


class MaskLeftIn(MultiHeadSelfAttention):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split_heads(x)
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.projection(read.transpose(1, 2).flatten(2))


class BatchFirstForgotten(MultiHeadSelfAttention):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split_heads(x.transpose(0, 1))  # T stands where B is read
        read = (attention_weights(q, k) @ v).transpose(1, 2).flatten(2)
        return self.projection(read).transpose(0, 1)


class NormMadeInForward(Encoder):
    def forward(self, z: Tensor) -> Tensor:
        for block in self.blocks:
            z = block(z)
        norm = nn.BatchNorm1d(z.shape[1], device=z.device, dtype=z.dtype)
        return norm(z)


class PositionsMadeInForward(Embedding):
    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), tokens], dim=1)
        return tokens + nn.Parameter(torch.randn_like(tokens[:1]))


class BlocksInAList(Encoder):
    def __init__(self, L: int, D: int, h: int, mlp_size: int):
        super().__init__(L, D, h, mlp_size)
        blocks = list(self.blocks)
        del self.blocks
        self.blocks = blocks


def everything_decayed(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), RATE, weight_decay=0.05)


def right_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; the matrices are decayed, and nothing else."""
    return torch.optim.AdamW(parameter_groups(model, 0.05), RATE)


def whole(cls: type[VisionTransformer]) -> Callable[[], nn.Module]:
    """Another class of model."""
    return lambda: cls(CONFIG)


def with_embedding(cls: type[Embedding]) -> Callable[[], nn.Module]:
    """The package's model with another embedding, of the same first weights."""

    def build() -> nn.Module:
        model, c = VisionTransformer(CONFIG), CONFIG
        other = cls(c.image_size, c.patch_size, c.channels, c.hidden_size)
        other.load_state_dict(model.embedding.state_dict())
        model.embedding = other
        return model

    return build


def with_encoder(cls: type[Encoder]) -> Callable[[], nn.Module]:
    """The package's model with another encoder."""

    def build() -> nn.Module:
        model, c = VisionTransformer(CONFIG), CONFIG
        model.encoder = cls(c.layers, c.hidden_size, c.heads, c.mlp_size)
        return model

    return build


def with_attention(cls: type[MultiHeadSelfAttention]) -> Callable[[], nn.Module]:
    """The package's model with another attention in every block, of the same first weights."""

    def build() -> nn.Module:
        model = VisionTransformer(CONFIG)
        for block in model.encoder.blocks:
            other = cls(CONFIG.hidden_size, CONFIG.heads)
            other.load_state_dict(block.attention.state_dict())
            block.attention = other
        return model

    return build


Piece = tuple[Callable[[], nn.Module], Callable[[nn.Module], torch.optim.Optimizer]]
RIGHT = "right"
PIECES: dict[str, Piece] = {  # in the order of chapter 15
    RIGHT: (whole(VisionTransformer), right_optimizer),
    "softmax twice": (whole(SoftmaxTwice), right_optimizer),
    "batch in the class token": (with_embedding(BatchInTheToken), right_optimizer),
    "softmax over the readers": (with_attention(OverTheReaders), right_optimizer),
    "scaled too late": (with_attention(ScaledTooLate), right_optimizer),
    "causal mask left in": (with_attention(MaskLeftIn), right_optimizer),
    "batch_first forgotten": (with_attention(BatchFirstForgotten), right_optimizer),
    "norm made in forward": (with_encoder(NormMadeInForward), right_optimizer),
    "positions made in forward": (with_embedding(PositionsMadeInForward), right_optimizer),
    "blocks in a list": (with_encoder(BlocksInAList), right_optimizer),
    "decay on everything": (whole(VisionTransformer), everything_decayed),
}


def accuracy(model: nn.Module, split: Split, batch_size: int) -> float | None:
    """The share of images that are right; None if the model cannot take such a batch."""
    model.eval()
    try:
        with torch.no_grad():
            right = [
                (model(images).argmax(dim=1) == labels).sum()
                for images, labels in batches(split, batch_size, None)
            ]
    except RuntimeError:
        return None
    return torch.stack(right).sum().item() / len(split)


def run(piece: Piece, data: Data, seed: int, passes: int = PASSES) -> dict[str, Any]:
    """Train one piece; accuracy on validation images in batches, and one image at a time."""
    start, (build, optimizer_of) = time.perf_counter(), piece
    torch.manual_seed(seed)
    model = build()
    optimizer, dice = optimizer_of(model), torch.Generator().manual_seed(seed)
    steps, step = passes * (len(data.train) // BATCH), 0
    for _ in range(passes):
        model.train()
        for images, labels in batches(data.train, BATCH, dice):
            set_rate(optimizer, RATE * schedule((step + 0.5) / steps, 0.1))
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    few = replace(data.val, images=data.val.images[:500], labels=data.val.labels[:500])
    return {
        "train_loss": round(loss.item(), 4),
        "accuracy": accuracy(model, data.val, BATCH),
        "accuracy_alone": accuracy(model, few, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def first_images(data: Data, count: int) -> Data:
    """The data set with fewer training images."""
    train = data.train
    return replace(
        data, train=replace(train, images=train.images[:count], labels=train.labels[:count])
    )


def prepare(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[Piece, int], Any]]:
    """The budget that all runs share, and the function that makes a run."""
    data = first_images(load("mnist", args.root), IMAGES)
    budget = {
        "data": "mnist", "images": IMAGES, "passes": PASSES, "batch_size": BATCH,
        "learning_rate": RATE, "model": "28 px, P 7, 2 blocks, D 64, 4 heads, MLP 128",
    }  # fmt: skip
    return budget, lambda piece, seed: run(piece, data, seed)


if __name__ == "__main__":
    sys.exit(records.study(__doc__, RECORD, PIECES, None, prepare))
