"""Train a classifier: AdamW or Muon, linear warm-up, cosine decay, and a record of every epoch."""

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vit_tutorial import distributed
from vit_tutorial.data import (
    Data,
    Split,
    batches,
    check_labels,
    cutmix,
    random_affine,
    random_elastic,
    random_photo,
)
from vit_tutorial.errors import unknown
from vit_tutorial.model import ViTConfig
from vit_tutorial.muon import Muon, muon_groups


@dataclass(frozen=True)
class TrainConfig:
    """Every number of the recipe. Raises ValueError for one that makes no sense."""

    epochs: int = 8
    batch_size: int = 128  # images a step, over all parts and processes
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.1  # share of all steps
    gradient_clip: float = 1.0  # largest norm of all gradients together, as in the paper
    augment: float = 1.0  # strength; 0 leaves images as they are
    layer_decay: float = 1.0  # the rate of a block as a share of the rate of the one after it
    optimizer: str = "adamw"  # or "muon" for the matrices inside the blocks
    muon_rate: float = 0.02  # the learning rate of those
    average: float = 0.0  # what the mean of the weights keeps at a step; 0: no mean is used
    label_smoothing: float = 0.0  # share of a label that is spread over all classes
    augmentation: str = "affine"  # by `random_affine`, "elastic" or "photo"
    cutmix: float = 0.0  # its alpha; 0 leaves images apart
    precision: str = "float32"  # or "bf16" where a product loses little by it
    accumulate: int = 1  # parts of a batch, one after the other where memory is short

    def __post_init__(self) -> None:
        sizes = ("epochs", "batch_size", "accumulate", "gradient_clip")
        for name in (*sizes, "learning_rate", "muon_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("warmup", "average", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}")
        for name in ("weight_decay", "augment", "cutmix"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        if self.batch_size % self.accumulate:
            raise ValueError(f"{self.accumulate} parts do not divide batch_size {self.batch_size}")


CHOICES = {
    "optimizer": ("adamw", "muon"),
    "augmentation": ("affine", "elastic", "photo"),
    "precision": ("float32", "bf16"),
}


class Metrics(NamedTuple):
    """Mean cross-entropy in nats, and the share of images classified right, over a whole split."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class State:
    """All that an exact resumption needs: how far training is, and every tensor that it changes.

    These are "model.*", "average.*", "optimizer.*", the "epoch.losses" so far, and where the random
    numbers stand: "epoch.shuffle" as the epoch began, "epoch.generator" and "epoch.dropout" now.
    """

    epoch: int  # whole epochs done
    step: int  # steps done in the next one
    seconds: float  # spent on those steps
    tensors: dict[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one part, by the names that they have there."""
        start = f"{name}."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


class Step(NamedTuple):
    """What `on_step` is told after a step: its number from 1, of how many, and how it went."""

    number: int
    steps: int
    loss: float
    accuracy: float
    state: Callable[[], State]  # for whoever wants to save or stop within an epoch


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training data gave; losses in nats, accuracy in 0..1."""

    number: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    seconds: float  # of training and validation
    state: State = field(repr=False, compare=False)


class Parts(NamedTuple):
    """What training changes, beside PyTorch's own random state."""

    model: nn.Module
    network: nn.Module  # the model, or what spreads its batches over processes
    average: nn.Module | None
    optimizer: torch.optim.Optimizer
    generator: torch.Generator


def train(
    model: nn.Module,
    data: Data,
    config: TrainConfig,
    generator: torch.Generator,
    state: State | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Iterator[Epoch]:
    """Train `model` in place, on the device it is on; yield a record after every epoch.

    Stop reading to stop early, or raise in `on_step`. The generator shuffles and augments, so the
    same seed gives the same history; `state` goes on exactly where it was taken. With an average
    the model holds that at every record, and at the end. Raises ValueError if the labels do not
    fit the model, or if the loss is no longer finite: the message names the step, and the model is
    put back to where it was at the last record, or at the start.
    """
    average = deepcopy(model) if config.average else None
    optimizer = make_optimizer(model, config)
    parts = Parts(model, distributed.wrap(model), average, optimizer, generator)
    per_epoch = len(data.train) // config.batch_size
    last = state or snapshot(parts, 0, 0, torch.zeros(per_epoch), generator.get_state())
    restore(parts, last)
    for number in range(last.epoch + 1, config.epochs + 1):
        start = time.perf_counter() - last.seconds
        model.load_state_dict(last.part("model"))  # which the average may stand in for
        try:
            losses = finish_epoch(parts, data, config, last, on_step)
            done = snapshot(parts, number, 0, torch.zeros(per_epoch), generator.get_state())
            if average is not None:
                model.load_state_dict(average.state_dict())
            val = evaluate(model, data.val)
            check_finite(val.loss, number * per_epoch, config, last)
        except ValueError:
            restore(parts, last)
            if average is not None and not last.step:
                model.load_state_dict(average.state_dict())  # as at the record
            raise
        last = done
        yield Epoch(number, losses.mean().item(), *val, time.perf_counter() - start, last)


def finish_epoch(
    parts: Parts,
    data: Data,
    config: TrainConfig,
    last: State,
    on_step: Callable[[Step], None] | None,
) -> Float[Tensor, " steps"]:
    """Train to the end of the epoch that `last` is in; the loss at every step of it."""
    start, device = time.perf_counter() - last.seconds, next(parts.model.parameters()).device
    losses = last.tensors["epoch.losses"].to(device, copy=True)
    parts.model.train()
    for i, batch in enumerate(rest_of_epoch(data, config, parts.generator, last, device)):
        done = last.step + i + 1
        step, steps = last.epoch * len(losses) + done, config.epochs * len(losses)
        rate = config.learning_rate * schedule(step / steps, config.warmup)
        distributed.own_dropout(parts.generator.initial_seed(), step)
        loss, accuracy = train_step(parts.network, parts.optimizer, batch, rate, config)
        check_finite(loss.item(), step, config, last)
        losses[done - 1] = loss
        if parts.average is not None:
            decay = min(config.average, (1 + step) / (10 + step))  # a short memory at first
            weights = list(parts.average.parameters()), list(parts.model.parameters())
            get_ema_multi_avg_fn(decay)(*weights, step)
        if on_step is not None:
            seconds = time.perf_counter() - start
            shuffle = last.tensors["epoch.shuffle"]
            now = partial(snapshot, parts, last.epoch, done, losses, shuffle, seconds)
            on_step(Step(step, steps, loss.item(), accuracy.item(), now))
    return losses


def check_finite(loss: float, step: int, config: TrainConfig, last: State) -> None:
    """Raise ValueError if the loss is not finite; `train` then puts the model back to `last`."""
    if not math.isfinite(loss):
        per_epoch = len(last.tensors["epoch.losses"])
        progress = step / (config.epochs * per_epoch)
        rate = config.learning_rate * schedule(progress, config.warmup)
        place = f"epoch {last.epoch}" + (f" and {last.step} steps" if last.step else "")
        raise ValueError(
            f"the loss became {loss} at step {step} (learning rate {rate:.2g}); the model "
            f"is back where {place} left it. Try a lower rate."
        )


def rest_of_epoch(
    data: Data, config: TrainConfig, generator: torch.Generator, last: State, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch from where `last` is in it, in the order that was drawn for it."""
    ways = {"affine": random_affine, "elastic": random_elastic, "photo": random_photo}
    strong = partial(ways[config.augmentation], strength=config.augment) if config.augment else None
    generator.set_state(last.tensors["epoch.shuffle"])
    epoch = batches(data.train, config.batch_size, generator, strong, device, last.step)
    if last.step:
        generator.set_state(last.tensors["epoch.generator"])
    for images, labels in epoch:
        if config.cutmix:
            images, labels = cutmix(images, labels, len(data.classes), generator, config.cutmix)
        yield images, labels


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Float[Tensor, "B C H W"], Int[Tensor, " B"] | Float[Tensor, "B K"]],
    rate: float,
    config: TrainConfig,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Forward, backward, update; the loss and accuracy on this batch before the update.

    The gradient is the mean over equal parts of the batch, so it is that of the whole. Labels may
    be shares of the classes. Raises ValueError if processes and parts do not divide the batch.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)
    optimizer.zero_grad()
    scores = []
    shares = [distributed.share(x, config.accumulate) for x in batch]
    for i, (images, labels) in enumerate(zip(*shares, strict=True), start=1):
        with distributed.meeting(model, i == config.accumulate):
            with torch.autocast(images.device.type, torch.bfloat16, config.precision == "bf16"):
                logits = model(images)
            logits = logits.float() if config.precision == "bf16" else logits
            loss = loss_of(logits, labels, config.label_smoothing)
            (loss / config.accumulate).backward()
        hits = logits.argmax(dim=1) == (labels if labels.ndim == 1 else labels.argmax(dim=1))
        scores.append(torch.stack([loss.detach(), hits.to(loss).mean()]))
    nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
    optimizer.step()
    loss, accuracy = distributed.mean(torch.stack(scores).mean(dim=0))
    return loss, accuracy


def loss_of(
    logits: Float[Tensor, "B K"],
    labels: Int[Tensor, " B"] | Float[Tensor, "B K"],
    smoothing: float,
) -> Float[Tensor, ""]:
    """Mean cross-entropy; the softmax is inside. Raises ValueError if a label has no logit."""
    if labels.ndim == 1:
        check_labels(labels, logits.shape[1])
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, or Muon for the matrices in the blocks and AdamW for the rest."""
    groups = parameter_groups(model, config.weight_decay)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(layer_groups(model, groups, config.layer_decay), fused=True)
    groups = muon_groups(model, groups, config.muon_rate / config.learning_rate)
    groups = layer_groups(model, groups, config.layer_decay)
    return Muon(groups, betas=(0.9, 0.95), fused=True)


def snapshot(
    parts: Parts,
    epoch: int,
    step: int,
    losses: Float[Tensor, " steps"],
    shuffle: Tensor,
    seconds: float = 0.0,
) -> State:
    """A copy of all that changes while training."""
    device = next(parts.model.parameters()).device
    named: dict[str, dict[str, Tensor]] = {
        f"optimizer.{i}": entry for i, entry in parts.optimizer.state_dict()["state"].items()
    }
    named["model"] = parts.model.state_dict()
    named["average"] = {} if parts.average is None else parts.average.state_dict()
    named["epoch"] = {"losses": losses, "shuffle": shuffle}
    named["epoch"] |= {"generator": parts.generator.get_state()}
    named["epoch"] |= {"dropout": random_numbers(device).get_rng_state()}
    tensors = {f"{a}.{b}": t.detach().clone() for a in named for b, t in named[a].items()}
    return State(epoch, step, seconds, tensors)


def restore(parts: Parts, state: State) -> None:
    """Put everything back to where `snapshot` found it."""
    parts.model.load_state_dict(state.part("model"))
    if parts.average is not None:
        parts.average.load_state_dict(state.part("average"))
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.part("optimizer").items():
        i, _, kind = name.partition(".")
        entries.setdefault(int(i), {})[kind] = tensor.clone()
    parts.optimizer.load_state_dict(parts.optimizer.state_dict() | {"state": entries})
    parts.generator.set_state(state.tensors["epoch.generator"])
    source, kept = random_numbers(next(parts.model.parameters()).device), state.part("epoch")
    if len(source.get_rng_state()) == len(kept["dropout"]):  # not after a move to another device
        source.set_rng_state(kept["dropout"])


def random_numbers(device: torch.device) -> Any:
    """Where PyTorch keeps the random state that dropout on a device draws from."""
    return torch if device.type == "cpu" else getattr(torch, device.type)


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
            new = {**group, "params": [], "scale": scale * group.get("scale", 1.0)}
            parts.setdefault((i, scale), new)["params"].append(p)
    return list(parts.values())


def predictions(model: nn.Module, split: Split, batch_size: int = 1000) -> Tensor:
    """The logits (M K) for every image of a split, in order, with the model in eval mode.

    `batch_size` at a time, or as many as have four million pixels together.
    """
    device, training = next(model.parameters()).device, model.training
    model.eval()
    size = min(batch_size, 2**22 // math.prod(split.images.shape[2:]) or 1)
    with torch.no_grad():
        parts = [model(images) for images, _ in batches(split, size, None, device=device)]
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
FLAT = {"patch_size": 14, "layers": 3, "hidden_size": 96, "mlp_size": 192, "heads": 4}
LITE = {"patch_size": 4, "layers": 7, "hidden_size": 256, "mlp_size": 512, "heads": 4}
FAST = TrainConfig(
    epochs=6, learning_rate=0.01, warmup=0.05, augment=0.7,
    optimizer="muon", muon_rate=0.02, average=0.98,
)  # fmt: skip
BEST = TrainConfig(
    epochs=100, learning_rate=0.006, warmup=0.05, augmentation="elastic",
    optimizer="muon", muon_rate=0.02, average=0.998,
)  # fmt: skip
PHOTOS = TrainConfig(
    epochs=200, learning_rate=0.002, warmup=0.05, augmentation="photo", cutmix=1.0,
    label_smoothing=0.1, optimizer="muon", muon_rate=0.02, average=0.999,
)  # fmt: skip
FEW_PHOTOS = replace(PHOTOS, epochs=16, learning_rate=0.005, augment=0.5, cutmix=0.0, average=0.99)
PRESETS = {
    "digits": Preset(SMALL, TrainConfig(epochs=80, batch_size=64)),
    "mnist": Preset(SMALL, TrainConfig(epochs=16)),  # a few minutes on two cores
    "mnist-fast": Preset(SMALL | {"layers": 3}, FAST),  # that of benchmarks/mnist.py
    "mnist-p4": Preset(SMALL | {"patch_size": 4, "layers": 6}, TrainConfig(epochs=24)),  # shipped
    "mnist-best": Preset(FLAT, BEST),  # that of benchmarks/small_models.py
    "cifar10": Preset(LITE, PHOTOS),  # for a GPU
    # under a million parameters, in 80 minutes of a core
    "cifar10-small": Preset(LITE | {"layers": 6, "hidden_size": 96, "mlp_size": 192}, FEW_PHOTOS),
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
