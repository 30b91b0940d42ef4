"""Train a classifier: AdamW, linear warm-up, cosine decay, and a record after every epoch."""

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.data import Data, Split, batches, check_labels, random_affine
from vit_tutorial.model import ViTConfig


@dataclass(frozen=True)
class TrainConfig:
    """Every number of the recipe. Raises ValueError for one that makes no sense."""

    epochs: int = 8
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.1  # share of all steps
    gradient_clip: float = 1.0  # largest norm of all gradients together, as in the paper
    augment: float = 1.0  # strength of `random_affine`; 0 leaves images as they are
    layer_decay: float = 1.0  # the rate of a block as a share of the rate of the one after it

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must lie in [0, 1), got {self.warmup}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}")
        for name in ("weight_decay", "augment"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


class Metrics(NamedTuple):
    """Mean cross-entropy in nats, and the share of images classified right, over a whole split."""

    loss: float
    accuracy: float


class Step(NamedTuple):
    """What `on_step` is told after a step: its number from 1, of how many, and how it went."""

    number: int
    steps: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class State:
    """All that an exact resumption needs, as it was at the end of an epoch."""

    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    generator: Tensor
    dropout: Tensor  # PyTorch's own random state, which dropout draws from


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training data gave; losses in nats, accuracy in 0..1."""

    number: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    seconds: float  # of training and validation
    state: State = field(repr=False, compare=False)


def train(
    model: nn.Module,
    data: Data,
    config: TrainConfig,
    generator: torch.Generator,
    state: State | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Iterator[Epoch]:
    """Train `model` in place, on the device it is on; yield a record after every epoch.

    Stop reading to stop early. The generator shuffles and augments, so the same seed gives the
    same history; `state` goes on after the epoch that it was taken from. Raises ValueError if the
    labels do not fit the model, or if the loss is no longer finite: the message names the step,
    and the model is put back to the end of the last epoch.
    """
    device = next(model.parameters()).device
    groups = layer_groups(model, parameter_groups(model, config.weight_decay), config.layer_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)
    last = state or snapshot(0, model, optimizer, generator)
    if state is not None:
        restore(model, optimizer, generator, state)
    per_epoch = len(data.train) // config.batch_size
    augment = partial(random_affine, strength=config.augment) if config.augment else None
    for number in range(last.epoch + 1, config.epochs + 1):
        start, losses = time.perf_counter(), []
        model.train()
        epoch = batches(data.train, config.batch_size, generator, augment, device)
        for step, batch in enumerate(epoch, start=(number - 1) * per_epoch + 1):
            rate = config.learning_rate * schedule(
                step / (config.epochs * per_epoch), config.warmup
            )
            loss, accuracy = train_step(model, optimizer, batch, rate, config.gradient_clip)
            if not loss.isfinite():
                restore(model, optimizer, generator, last)
                raise diverged(loss.item(), step, rate, last.epoch)
            losses.append(loss)
            if on_step is not None:
                on_step(Step(step, config.epochs * per_epoch, loss.item(), accuracy.item()))
        val = evaluate(model, data.val)
        if not math.isfinite(val.loss):  # the last update broke what was finite before it
            restore(model, optimizer, generator, last)
            raise diverged(val.loss, step, rate, last.epoch)
        last = snapshot(number, model, optimizer, generator)
        seconds = time.perf_counter() - start
        yield Epoch(number, torch.stack(losses).mean().item(), *val, seconds, last)


def diverged(loss: float, step: int, rate: float, epoch: int) -> ValueError:
    """The error for a loss that is not finite, to be raised once the model is put back."""
    return ValueError(
        f"the loss became {loss} at step {step} (learning rate {rate:.2g}); "
        f"the model is back where epoch {epoch} left it. Try a lower rate."
    )


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Float[Tensor, "B C H W"], Int[Tensor, " B"]],
    rate: float,
    gradient_clip: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Forward, backward, update; the loss and accuracy on this batch before the update."""
    images, labels = batch
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)  # another than 1 only with layer_decay
    logits = model(images)
    check_labels(labels, logits.shape[1])
    loss = F.cross_entropy(logits, labels)  # softmax is inside
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
    optimizer.step()
    return loss.detach(), (logits.argmax(dim=1) == labels).float().mean()


def snapshot(
    epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> State:
    """A copy of all that changes while training."""
    states = deepcopy(model.state_dict()), deepcopy(optimizer.state_dict())
    return State(epoch, *states, generator.get_state(), torch.get_rng_state())


def restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, state: State
) -> None:
    """Put everything back to where `snapshot` found it."""
    model.load_state_dict(state.model)
    optimizer.load_state_dict(deepcopy(state.optimizer))
    generator.set_state(state.generator)
    torch.set_rng_state(state.dropout)


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


def layer_groups(
    model: nn.Module, groups: list[dict[str, Any]], decay: float
) -> list[dict[str, Any]]:
    """Split groups by depth: going down, each block's rate is `decay` times that of the one above.

    The head and the last norm keep the full rate, the embedding gets decay^(L + 1) of it, as in
    BEiT (https://arxiv.org/abs/2106.08254). With a decay of 1 the groups stay as they are.
    """
    if decay == 1:
        return groups
    blocks = model.get_submodule("encoder.blocks").children()
    stages = [model.get_submodule("embedding"), *blocks]
    scales = {
        id(p): decay ** (len(stages) - i) for i, s in enumerate(stages) for p in s.parameters()
    }
    parts: dict[tuple[int, float], dict[str, Any]] = {}
    for i, group in enumerate(groups):
        for p in group["params"]:
            scale = scales.get(id(p), 1.0)
            new = {**group, "params": [], "scale": scale}
            parts.setdefault((i, scale), new)["params"].append(p)
    return list(parts.values())


def predictions(model: nn.Module, split: Split, batch_size: int = 1000) -> Tensor:
    """The logits (M K) for every image of a split, in order, with the model in eval mode."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    with torch.no_grad():
        parts = [model(images) for images, _ in batches(split, batch_size, None, device=device)]
    model.train(training)
    return torch.cat(parts)


def evaluate(model: nn.Module, split: Split, batch_size: int = 1000) -> Metrics:
    """Loss and accuracy over a whole split; the model is left in the mode it was in.

    Raises ValueError if a label has no logit.
    """
    logits = predictions(model, split, batch_size)
    check_labels(split.labels, logits.shape[1])
    labels = split.labels.to(logits.device)
    right = (logits.argmax(dim=1) == labels).sum().item()
    return Metrics(F.cross_entropy(logits, labels).item(), right / len(labels))


class Preset(NamedTuple):
    """A model's shape, but for what the data set fixes, and how it is trained."""

    model: dict[str, int]
    training: TrainConfig


SMALL = {"patch_size": 7, "layers": 4, "hidden_size": 64, "mlp_size": 128, "heads": 4}
PRESETS = {
    "digits": Preset(SMALL, TrainConfig(epochs=80, batch_size=64)),
    "mnist": Preset(SMALL, TrainConfig(epochs=16)),  # a few minutes on two cores
    "mnist-p4": Preset(SMALL | {"patch_size": 4, "layers": 6}, TrainConfig(epochs=24)),  # shipped
}


def model_config(data: Data, shape: dict[str, Any]) -> ViTConfig:
    """A config whose image size, channels and classes are the data's, the rest from `shape`."""
    C, H, W = data.train.images.shape[1:]
    size = H if H == W else (H, W)
    fixed = {"image_size": size, "channels": C, "classes": len(data.classes)}
    return ViTConfig(**(fixed | shape))


def default_device() -> torch.device:
    """cuda where there is one, else mps, else cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
