"""Train a classifier: AdamW, linear warm-up, cosine decay, and a record of every epoch."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.data import Data, Split, batches, check_labels, random_affine


@dataclass(frozen=True)
class TrainConfig:
    """Every number of the lesson's recipe. Raises ValueError for one that makes no sense."""

    epochs: int = 8
    batch_size: int = 128  # images a step
    learning_rate: float = 3e-3  # at its peak
    weight_decay: float = 0.05  # of the matrices
    warmup: float = 0.1  # share of all steps
    gradient_clip: float = 1.0  # largest norm of all gradients together, as in the paper
    augment: float = 1.0  # strength of `random_affine`; 0 leaves images as they are

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("weight_decay", "augment"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name, value in vars(self).items():
            if value == math.inf and name != "gradient_clip":  # without a limit nothing is clipped
                raise ValueError(f"{name} must be finite, got inf")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must lie in [0, 1), got {self.warmup}")


class Metrics(NamedTuple):
    """Mean cross-entropy in nats, and the share of images classified right, over a whole split."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training data gave; losses in nats, accuracy in 0..1."""

    number: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    seconds: float  # of training and validation


def train(
    model: nn.Module, data: Data, config: TrainConfig, generator: torch.Generator
) -> Iterator[Epoch]:
    """Train `model` in place, on the device it is on; yield a record after every epoch.

    Stop reading to stop early. The generator shuffles and augments, so the same seed gives the same
    history. Raises ValueError if a label has no logit, and if the loss is no longer finite.
    """
    weight = next(model.parameters())
    check_labels(data.train.labels, number_of_logits(model, data.val))
    groups = parameter_groups(model, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, config.learning_rate, fused=True)
    augment = partial(random_affine, strength=config.augment) if config.augment else None
    steps, step = config.epochs * (len(data.train) // config.batch_size), 0
    for number in range(1, config.epochs + 1):
        start, losses = time.perf_counter(), []
        model.train()
        for images, labels in batches(
            data.train, config.batch_size, generator, augment, weight.device, weight.dtype
        ):
            progress = (step + 0.5) / steps  # the middle of a step: the last one learns too
            set_rate(optimizer, config.learning_rate * schedule(progress, config.warmup))
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
            losses.append(loss.detach())  # stays on the device: to read it would wait for the step
            step += 1
        train_loss = torch.stack(losses).mean().item()
        val = evaluate(model, data.val)
        if not math.isfinite(train_loss + val.loss):
            raise ValueError(f"the loss became {train_loss + val.loss} in epoch {number}: {LOWER}")
        yield Epoch(number, train_loss, *val, time.perf_counter() - start)


LOWER = "start again from fresh weights with a lower learning rate"


def fit(model: nn.Module, data: Data, seed: int) -> float:
    """Train for one pass over the data with AdamW and nothing else; the validation accuracy, 0..1.

    128 shuffled images a step at a learning rate of 3e-3: no schedule, no augmentation. `seed`
    shuffles; the model is trained in place, on the device it is on.
    """
    generator, device = torch.Generator().manual_seed(seed), next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for images, labels in batches(data.train, 128, generator, device=device):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return evaluate(model, data.val).accuracy


def number_of_logits(model: nn.Module, split: Split) -> int:
    """K, from the model's answer to one image."""
    return predictions(
        model, Split(split.images[:1], split.labels[:1], split.mean, split.std)
    ).shape[1]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of every group; a group's "scale" multiplies it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def schedule(progress: float, warmup: float) -> float:
    """The factor on the learning rate: 0 to 1 over the warm-up, then half a cosine back to 0.

    `progress` and `warmup` are shares of the whole training, 0 to 1.
    """
    if progress < warmup:
        return progress / warmup
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay the weights of linear layers, and nothing else: no bias, norm, token or position."""
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    ids = {id(matrix) for matrix in matrices}
    others = [p for p in model.parameters() if id(p) not in ids]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


@torch.no_grad()
def predictions(model: nn.Module, split: Split, batch_size: int = 1000) -> Float[Tensor, "M K"]:
    """The logits for every image of a split, in order, with the model in eval mode.

    `batch_size` at a time, or as many as have four million pixels together. The model is left in
    the mode it was in.
    """
    weight, training = next(model.parameters()), model.training
    size = min(batch_size, 2**22 // math.prod(split.images.shape[2:]) or 1)
    epoch = batches(split, size, None, None, weight.device, weight.dtype)
    try:
        model.eval()
        return torch.cat([model(images) for images, _ in epoch])
    finally:
        model.train(training)


def evaluate(model: nn.Module, split: Split, batch_size: int = 1000) -> Metrics:
    """Loss and accuracy over a whole split, computed from all logits at once, in float32 or more.

    Raises ValueError if a label has no logit.
    """
    logits = predictions(model, split, batch_size)
    logits = logits.float() if logits.itemsize < 4 else logits
    check_labels(split.labels, logits.shape[1])
    labels = split.labels.to(logits.device)
    right = (logits.argmax(dim=1) == labels).sum().item()
    return Metrics(F.cross_entropy(logits, labels).item(), right / len(labels))


def default_device() -> torch.device:
    """cuda where there is one, else mps, else cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
