"""Chapter 08: one step, the loop, the schedule, what is decayed, and an honest accuracy."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.checks.core import (
    CheckFailed,
    Mistakes,
    Slips,
    compare,
    exercise,
    learning,
)
from vit_tutorial.data import Data, Split, random_affine
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import TrainConfig, evaluate, parameter_groups, schedule, train

CASES = (ViTConfig((8, 8), 4, 1, 3, 1, 8, 16, 2, dropout=0.2),
         ViTConfig((8, 12), 4, 2, 3, 2, 8, 16, 2, pool="mean", representation_size=6))  # fmt: skip


def model_of(config: ViTConfig) -> VisionTransformer:
    """The same small model every time, with a head that is not zero."""
    torch.manual_seed(0)
    model = VisionTransformer(config)
    for layer in model.head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.3)
    return model


@exercise
def check_train_step(implementation: Callable[..., float]) -> bool:
    """Check `my_train_step(model, images, labels, optimizer) -> float`, the loss before the update.

    Three steps in a row are compared, and the weights after them.
    """

    def three(rule: Callable[..., Any]) -> Callable[[ViTConfig, str], Any]:
        @learning
        @wraps(rule)
        def steps(config: ViTConfig, kind: str) -> Any:
            model = model_of(replace(config, dropout=0.0))  # so that the mode does not matter
            optimizer: torch.optim.Optimizer
            if kind == "SGD":
                optimizer = torch.optim.SGD(model.parameters(), 0.3)
            else:
                optimizer = torch.optim.AdamW(model.parameters(), 0.01)
            losses: list[float] = []
            for part in range(3):
                dice = torch.Generator().manual_seed(part)
                images = torch.randn(4, config.channels, *config.height_width, generator=dice)
                labels = torch.randint(3, (4,), generator=dice)
                if (loss := rule(model, images, labels, optimizer)) is None:
                    return None
                if not model.training:
                    raise CheckFailed(
                        f"{rule.__name__} leaves the model in eval mode, in which dropout is off: "
                        "a training step runs in training mode."
                    )
                losses.append(as_loss(rule.__name__, loss))
            weights = torch.cat([p.detach().flatten() for p in model.parameters()])
            return (*losses, weights)

        return steps

    def step(
        model: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer,
        loss_of: Callable[..., Tensor] = F.cross_entropy, zero: bool = True, move: bool = True,
        late: bool = False, sign: float = 1.0, told: float = 1.0, moves: int = 1, clip: float = 0.0,
    ) -> float:  # fmt: skip
        loss = sign * loss_of(model(images), labels)
        if zero:
            optimizer.zero_grad()
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        for _ in range(moves if move else 0):
            optimizer.step()
        if late:
            return loss_of(model(images), labels).item()
        return told * loss.item()

    def wrong(**how: Any) -> Callable[[ViTConfig, str], Any]:
        return three(partial_named(step, **how))

    mistakes: Mistakes = [
        (wrong(zero=False), "the gradients of the step before are still there: "
         "backward() adds to them, so call optimizer.zero_grad() before it."),
        (wrong(move=False), "the weights do not move: zero_grad(), then "
         "loss.backward(), then optimizer.step()."),
        (wrong(late=True), "this is the loss after the update; give back the "
         "one that was differentiated."),
        (wrong(loss_of=lambda x, y: F.cross_entropy(x.softmax(dim=-1), y)),
         "a softmax comes before the cross-entropy, which has its own: give it "
         "the logits."),
        (wrong(loss_of=lambda x, y: F.cross_entropy(x, y, reduction="sum")),
         "the loss is summed over the batch: take the mean."),
        (wrong(loss_of=lambda x, y: F.nll_loss(x, y)),
         "nll_loss waits for log-probabilities: use F.cross_entropy on the "
         "logits."),
        (wrong(sign=-1.0), "the sign is turned round: this climbs."),
        (wrong(moves=2), "optimizer.step() runs twice for one backward()."),
        *((wrong(clip=most), "the gradients are clipped here; in this step they are taken as they "
           "are. (Clipping belongs to the loop.)") for most in (1.0, 0.5, 0.1)),
        (wrong(loss_of=lambda x, y: F.mse_loss(x, F.one_hot(y, x.shape[1]).float())),
         "this is the squared error: use F.cross_entropy on the logits."),
        (wrong(loss_of=lambda x, y: F.cross_entropy(x.sigmoid(), y)),
         "a sigmoid comes before the cross-entropy, which has a softmax of its own: give it the "
         "logits."),
        (wrong(loss_of=lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1)),
         "labels are smoothed by 0.1; here the loss takes them as they are."),
        (wrong(told=4.0), "the loss is multiplied with the batch size; give "
         "back the mean."),
    ]  # fmt: skip
    trials = list(zip(CASES, ("SGD", "AdamW"), strict=True))
    slips: Slips = [
        (r"does not require grad", "the loss has no gradient: is something "
         "detached, or under torch.no_grad()?"),
        (r"modified by an inplace", "the weights moved before the gradients were there: backward() "
         "comes before optimizer.step()."),
        (r"backward through the graph a second time",
         "backward() may run once a step."),
        (r"scalar outputs", "backward() starts from one number: take the mean "
         "over the batch."),
    ]  # fmt: skip
    return compare(three(implementation), three(step), trials, mistakes, slips)


def partial_named(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """`functools.partial` with a name."""
    return wraps(function)(partial(function, **how))


def as_loss(name: str, loss: Any) -> float:
    """A loss as a float; a tensor that still holds its graph is refused."""
    if isinstance(loss, Tensor) and loss.requires_grad:
        raise CheckFailed(
            f"{name}: the loss still holds the graph of the whole step, so memory fills up when "
            "losses are kept: give back loss.item()."
        )
    if not isinstance(loss, int | float | Tensor) or (
        isinstance(loss, Tensor) and loss.numel() != 1
    ):
        kind = type(loss).__name__
        raise CheckFailed(f"{name} should give a number as the loss, not {kind}")
    return float(loss)


@exercise
def check_training_loop(implementation: Callable[..., Iterable[float]]) -> bool:
    """Check `my_training_loop(model, data, config, generator) -> the training loss of every epoch`.

    Compared with the history of `vit_tutorial.train.train` on the same seed.
    """

    def history(rule: Callable[..., Any]) -> Callable[[TrainConfig], Any]:
        @learning
        @wraps(rule)
        def losses(config: TrainConfig) -> Any:
            model = model_of(CASES[0]).eval()  # a loop calls train() itself; there is dropout
            got = rule(model, small_data(), config, torch.Generator().manual_seed(1))
            if got is None:
                return None
            if not isinstance(got, Iterable) or (isinstance(got, Tensor) and got.ndim == 0):
                raise CheckFailed(
                    f"{rule.__name__} should give back a list, one loss for each epoch, not one "
                    "number."
                )
            found = [as_loss(rule.__name__, loss) for loss in got]
            if len(found) != config.epochs:
                raise CheckFailed(
                    f"{rule.__name__}: {len(found)} losses for {config.epochs} epochs; give back "
                    "one mean for each."
                )
            return tuple(found)

        return losses

    def reference(*arguments: Any) -> list[float]:
        return [epoch.train_loss for epoch in train(*arguments)]

    def wrong(**how: Any) -> Callable[[TrainConfig], Any]:
        return history(partial_named(loop, **how))

    mistakes = [*rate_mistakes(wrong), *step_mistakes(wrong), *image_mistakes(wrong)]
    mistakes += loss_mistakes(wrong)
    bold = TrainConfig(2, 8, 0.02, weight_decay=2.0, warmup=0.2, gradient_clip=99.0, augment=0.0)
    other = replace(bold, augment=1.5, batch_size=6, gradient_clip=4.0)  # norms are 3 to 25
    trials = [(bold,), (other,)]
    return compare(history(implementation), history(reference), trials, mistakes, LOOP_SLIPS)


Progress = Callable[[int, int, int, TrainConfig], float]  # of a step, from its number
MIDDLE = "The middle of a step is (step + 0.5) / steps."
MEAN_OF = "the loss of an epoch is the mean over its steps, each of which counts the same."
ANEW = "the schedule starts anew in every epoch: count the steps over all epochs."
AS_BYTES = (
    "the images are normalised as bytes, 0 to 255, but mean and std are those of pixels in 0..1: "
    "divide by 255 first."
)
SMALLER = "the last, smaller batch is a step too"
LOOP_SLIPS: Slips = [
    (r"does not require grad", "the loss has no gradient: is something "
     "under no_grad?"),
    (r"do not fill a batch", "batches(data.train, config.batch_size, "
     "generator, augment)."),
    (r"Byte|unsigned char|uint8", "the images are bytes: .float() / 255 "
     "makes pixels in 0..1 of them."),
    (r"The size of tensor a .* must match", "mean and std have one number for each channel: "
     ".view(-1, 1, 1) lets them meet (B C H W)."),
    (r"affine_grid|grid_sampler|Expected 4D|random_affine", "random_affine(pixels, generator, "
     "strength) takes pixels (B C H W) in 0..1."),
    (r"'(Split|Data)'", "data.train has .images (bytes, (M C H W)), "
     ".labels, .mean and .std."),
    (r"index .* out of bounds", "an index goes beyond the images: rows of the order, "
     "config.batch_size at a time."),
]  # fmt: skip


def at(progress: Progress) -> Progress:
    """The factor of the schedule at a progress that is perhaps wrong."""
    return lambda step, steps, each, c: schedule(progress(step, steps, each, c), c.warmup)


def up_to_the_end(step: int, steps: int, each: int, c: TrainConfig) -> float:
    """The right factor, and after the last step that of the end."""
    return schedule(min((step + 0.5) / steps, 1.0), c.warmup)


def rate_mistakes(wrong: Callable[..., Any]) -> Mistakes:
    """Of the learning rate."""
    return [
        (wrong(rate=lambda step, steps, each, c: 1.0),
         "the learning rate stays at its peak: set it before every step, "
         "config.learning_rate * schedule(progress, config.warmup)."),
        (wrong(rate=at(lambda step, steps, each, c: step / steps)),
         "progress is taken at the start of a step, so the first learns nothing. " + MIDDLE),
        (wrong(rate=at(lambda step, steps, each, c: (step + 1) / steps)),
         "progress is taken at the end of a step, so the last learns nothing. " + MIDDLE),
        (wrong(rate=lambda step, *rest: up_to_the_end(step + 1, *rest)),
         "the rate is one step ahead: set it before the step, and count the step after it. "
         + MIDDLE),
        (wrong(rate=lambda step, steps, each, c: 1e-3 / c.learning_rate),
         "the rate is AdamW's own of 0.001 all the time: set it before every step, "
         "config.learning_rate * schedule(progress, config.warmup)."),
        (wrong(rate=lambda step, steps, each, c: schedule((step + 0.5) / steps, c.warmup)
               if step else 1.0),
         "the first step runs at the peak: set the rate before every step, the first one too."),
        (wrong(rate=lambda step, steps, each, c: schedule((step - 0.5) / steps, c.warmup)
               if step else 1.0),
         "the rate is set after the step, so the first step runs at the peak and each later one at "
         "the rate of the step before: set it before optimizer.step()."),
        (wrong(rate=at(lambda step, steps, each, c: step / (steps - 1))),
         "progress is step / (steps - 1), so the first and the last step learn nothing. " + MIDDLE),
        (wrong(rate=at(lambda step, steps, each, c: (step % each + 0.5) / steps)),
         ANEW),
        (wrong(rate=at(lambda step, steps, each, c: (step % each + 0.5) / each)),
         ANEW),
        (wrong(rate=at(lambda step, steps, each, c: (step // each) / c.epochs)),
         "the rate changes only once an epoch: set it before every step."),
        (wrong(rate=at(lambda step, steps, each, c: (step // each + 0.5) / c.epochs)),
         "the rate changes only once an epoch: set it before every step."),
        (wrong(rate=at(lambda step, steps, each, c: (step // each + 0.5) / steps)),
         "the rate moves on by one step in a whole epoch: the scheduler steps after every batch."),
        (wrong(rate=at(lambda step, steps, each, c: 0.5 / steps)),
         "the rate stays where it starts: does the scheduler ever step?"),
        (wrong(rate=lambda step, steps, each, c: schedule((step + 0.5) / steps, 0.0)),
         "there is no warm-up: give schedule config.warmup as well."),
        (wrong(rate=lambda step, steps, each, c: schedule((step + 0.5) / steps, c.warmup)
               / c.learning_rate),
         "the rate is the factor alone: multiply it by config.learning_rate."),
        (wrong(group=0), "the rate is set in the first group only: the others keep the rate they "
         "were made with. Set it in every group of optimizer.param_groups."),
        (wrong(group=0, first="optimizer's own"), "the rate is set in the first group only, and "
         "the others keep the optimizer's own of 0.001: set it in every group of "
         "optimizer.param_groups."),
        (wrong(group=1), "the rate is set in the last group only: set it in every group of "
         "optimizer.param_groups."),
        (wrong(compound=True), "the rate is multiplied by the factor again and again: it is "
         "config.learning_rate times the factor, and not the rate of the step before."),
    ]  # fmt: skip


def step_mistakes(wrong: Callable[..., Any]) -> Mistakes:
    """Of clipping, gradients, decay, the optimizer and the mode."""
    return [
        (wrong(clip=None), "the gradients are not clipped: "
         "nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip) "
         "between backward() and step()."),
        (wrong(clip="value"), "each number of the gradient is clipped: clip the norm of all "
         "gradients together, nn.utils.clip_grad_norm_."),
        (wrong(clip="each"), "the gradient of each tensor is clipped by itself: clip the norm of "
         "all gradients together, in one call with model.parameters()."),
        (wrong(clip=1.0), "the gradients are clipped to a norm of 1, not to config.gradient_clip."),
        (wrong(zero=False), "the gradients of earlier steps are still there: "
         "optimizer.zero_grad() before backward()."),
        (wrong(groups=False), "everything is decayed: give AdamW "
         "parameter_groups(model, config.weight_decay)."),
        (wrong(optimizer=torch.optim.Adam), "Adam adds the decay to the "
         "gradient (coupled L2); AdamW takes it off the weights."),
        (wrong(optimizer=torch.optim.Adam, groups=False), "Adam adds the decay to the gradient "
         "(coupled L2), and everything is decayed: use AdamW with parameter_groups."),
        (wrong(optimizer=torch.optim.SGD), "this is SGD: use AdamW."),
        (wrong(decay=0.0), "nothing is decayed: config.weight_decay belongs to "
         "the matrices. AdamW with parameter_groups(model, config.weight_decay) does that."),
        (wrong(decay=0.01, groups=False), "everything is decayed, by AdamW's own 0.01: give it "
         "parameter_groups(model, config.weight_decay)."),
        (wrong(mode="never"), "model.train() is missing, so dropout is off: call "
         "it before every epoch."),
        (wrong(mode="once"), "model.train() runs only once, and what measures the model at the end "
         "of an epoch leaves it in eval mode: call it before every epoch."),
    ]  # fmt: skip


def image_mistakes(wrong: Callable[..., Any]) -> Mistakes:
    """Of what the model sees: augmentation, normalising, order, split, batches."""
    return [
        (wrong(augment=0.0), "the images are not augmented: random_affine, with config.augment as "
         "its strength, belongs between scaling to 0..1 and normalising (`batches` does both if it "
         "is given as `augment`)."),
        (wrong(augment="always"), "random_affine draws from the generator at strength 0 as well, "
         "which changes every later random number: call it only if config.augment is not 0."),
        (wrong(augment=1.0), "augmentation has strength 1, not config.augment."),
        (wrong(prepare="augment late"), "the images are augmented after they are normalised: "
         "what comes in from outside is 0, which is black only before. Augment pixels in 0..1."),
        (wrong(prepare="bytes"), AS_BYTES),
        (wrong(prepare="bytes", augment=0.0), AS_BYTES + " And they are not augmented."),
        (wrong(prepare="raw bytes"), "the model sees bytes, 0 to 255: divide by 255, take off the "
         "mean, and divide by the standard deviation."),
        (wrong(prepare="no mean"), "the images are not normalised: take data.train.mean off the "
         "pixels and divide by data.train.std."),
        (wrong(prepare="no std"), "the mean is taken off, but nothing is divided by "
         "data.train.std."),
        (wrong(prepare="variance"), "the pixels are divided by the variance: divide by std, not by "
         "std squared."),
        (wrong(prepare="halves"), "the pixels are moved to -1..1; take data.train.mean off them "
         "and divide by data.train.std."),
        (wrong(prepare="twice"), "the images are normalised twice; `batches` does it already."),
        (wrong(order="none"), "the images are not shuffled: a new order in every epoch, from the "
         "generator (torch.randperm, or `batches` with the generator)."),
        (wrong(order="none", keep=True, augment=0.0, counted=False), "the images are neither "
         "shuffled nor augmented, and the last, smaller batch is not left out: give `batches` the "
         "generator."),
        (wrong(order="once"), "the images are shuffled once, and every epoch has the same order: "
         "draw a new one in every epoch."),
        (wrong(order="own seed"), "the order does not come from the generator that is given: "
         "torch.randperm(M, generator=generator), so that a seed gives the same history."),
        (wrong(order="labels stay"), "the images are shuffled and the labels are not: index both "
         "by the same rows."),
        (wrong(split="val"), "this trains on data.val, which is kept for choosing settings: train "
         "on data.train."),
        (wrong(split="test"), "this trains on data.test, which is read once, at the end: "
         "data.train."),
        (wrong(keep=True), SMALLER + "; it is left out, so there are "
         "len(data.train) // config.batch_size steps in an epoch."),
        (wrong(keep=True, counted=False), SMALLER + ", and is not counted for the rate; "
         "it is left out."),
        *((wrong(keep=True, counted=False, average=average, rate=up_to_the_end),
           SMALLER + ", and is not counted for the rate; it is left out.")
          for average in ("mean", "images")),
        (wrong(keep=True, average="images"), SMALLER + ", and its loss counts by its images; "
         "it is left out."),
    ]  # fmt: skip


def loss_mistakes(wrong: Callable[..., Any]) -> Mistakes:
    """Of the loss, and of what is given back."""
    return [
        (wrong(average="all images"), "the sum over the steps is divided by all images, the "
         "left-out ones too: " + MEAN_OF),
        (wrong(average="last"), "this is the last step's loss: " + MEAN_OF),
        (wrong(average="sum"), "this is the sum over the steps: " + MEAN_OF),
        (wrong(average="first"), "this is the first step's loss: " + MEAN_OF),
        (wrong(average="running"), "losses of earlier epochs are in the mean too: start an empty "
         "list in every epoch."),
        (wrong(average="per image"), "the sum over the steps is divided by the number of images: "
         + MEAN_OF),
        (wrong(average="after"), "the loss is measured after the update: keep the one that was "
         "differentiated."),
        (wrong(average="validation"), "this is the validation loss: give back the mean of the "
         "training losses."),
        (wrong(loss=lambda x, y: F.cross_entropy(x, y, reduction="sum")),
         "the loss is summed over the batch: F.cross_entropy takes the mean by itself."),
        (wrong(loss=lambda x, y: F.cross_entropy(x, y, reduction="sum"), told="mean"),
         "the loss that is differentiated is the sum over the batch: take its mean."),
        (wrong(loss=lambda x, y: F.cross_entropy(x.softmax(dim=-1), y)),
         "a softmax comes before the cross-entropy, which has its own."),
        (wrong(loss=lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1)),
         "labels are smoothed by 0.1; here the loss takes them as they are."),
        (wrong(move=False), "the weights do not move: optimizer.step() is missing."),
        (wrong(anew=True), "the optimizer is made anew in every epoch and "
         "forgets what it has averaged: make it once."),
    ]  # fmt: skip


def small_data() -> Data:
    """Random images of 8 x 8: 20, 10 and 12 of them."""
    dice, parts = torch.Generator().manual_seed(0), []
    for size in (20, 10, 12):
        images = torch.randint(256, (size, 1, 8, 8), generator=dice, dtype=torch.uint8)
        labels = torch.randint(3, (size,), generator=dice)
        parts.append(Split(images, labels, torch.tensor([0.5]), torch.tensor([0.3])))
    return Data("random", parts[0], parts[1], parts[2], ["a", "b", "c"])


def orders(kind: str, M: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    """The order of the images in every epoch."""
    if kind == "once":
        yield from [torch.randperm(M, generator=generator)] * epochs
    for _ in range(0 if kind == "once" else epochs):
        if kind == "none":
            yield torch.arange(M)
        else:
            yield torch.randperm(M, generator=None if kind == "own seed" else generator)


def prepared(
    split: Split, rows: Tensor, kind: str, augment: float | None, generator: torch.Generator
) -> Tensor:
    """Some images as the model reads them, or wrongly so."""
    images = split.images[rows].float()
    mean, std = (number.view(-1, 1, 1) for number in (split.mean, split.std))
    pixels = images if "bytes" in kind else images / 255
    if kind == "augment late" and augment:
        return random_affine((pixels - mean) / std, generator, augment)
    if augment is not None:
        pixels = random_affine(pixels, generator, augment)
    if kind in ("no mean", "raw bytes"):
        return pixels
    if kind == "no std":
        return pixels - mean
    if kind == "halves":
        return (pixels - 0.5) / 0.5
    std = std**2 if kind == "variance" else std
    return (((pixels - mean) / std if kind == "twice" else pixels) - mean) / std


def clipped(model: nn.Module, how: Any, most: float) -> None:
    """Clip the gradients, or do it wrongly."""
    if how == "value":
        nn.utils.clip_grad_value_(model.parameters(), most)
    elif how == "each":
        for parameter in model.parameters():
            nn.utils.clip_grad_norm_(parameter, most)
    elif how is not None:
        nn.utils.clip_grad_norm_(model.parameters(), most if how == "norm" else how)


def averaged(kind: str, losses: list[float], every: list[float], M: int, batch: int) -> float:
    """What is told of the losses of an epoch; `every` holds the earlier epochs' as well."""
    sizes = [min(batch, M - batch * i) for i in range(len(losses))]
    return {
        "last": losses[-1], "first": losses[0], "sum": sum(losses),
        "running": sum(every) / len(every),
        "per image": sum(losses) / (batch * len(losses)),
        "all images": sum(losses) * batch / M,
        "images": sum(a * b for a, b in zip(losses, sizes, strict=True)) / M,
    }.get(kind, sum(losses) / len(losses))  # fmt: skip


def loop(
    model: nn.Module, data: Data, config: TrainConfig, generator: torch.Generator,
    rate: Any = lambda step, steps, each, c: schedule((step + 0.5) / steps, c.warmup),
    group: int | None = None, first: Any = None, compound: bool = False, clip: Any = "norm",
    zero: bool = True, groups: bool = True, move: bool = True, optimizer: Any = torch.optim.AdamW,
    decay: float | None = None, mode: str = "every epoch", augment: Any = None,
    prepare: str = "", order: str = "", split: str = "train", keep: bool = False,
    loss: Any = F.cross_entropy, told: str = "", anew: bool = False, average: str = "mean",
    counted: bool = True,
) -> list[float]:  # fmt: skip
    """The lesson's loop, or a wrong one, by what is given."""
    decay = config.weight_decay if decay is None else decay
    parts: Any = parameter_groups(model, decay)
    parts = parts if groups else [{"params": list(model.parameters()), "weight_decay": decay}]
    start = {"lr": config.learning_rate} if first is None else {}
    optimize, step, history, every = optimizer(parts, **start), 0, [], []
    images_of = getattr(data, split)
    strength = config.augment if augment is None else augment  # None leaves images as they are
    strength = config.augment if augment == "always" else strength or None
    M, batch = len(images_of), config.batch_size
    each = -(-M // batch) if keep else M // batch
    count = each if counted else M // batch  # of the steps in an epoch, for the rate
    if mode == "once":
        model.train()
    for rows_of_epoch in orders(order, M, config.epochs, generator):
        optimize = optimizer(parts, **start) if anew else optimize
        if mode == "every epoch":
            model.train()
        losses: list[float] = []
        for rows in rows_of_epoch[: each * batch].split(batch):
            factor = rate(step, config.epochs * count, count, config)
            for part in optimize.param_groups if group is None else [optimize.param_groups[group]]:
                part["lr"] = part["lr"] * factor if compound else config.learning_rate * factor
            images = prepared(images_of, rows, prepare, strength, generator)
            labels = images_of.labels[rows]
            if order == "labels stay":
                labels = images_of.labels[len(losses) * batch :][: len(rows)]
            found = loss(model(images), labels)
            if zero:
                optimize.zero_grad()
            found.backward()
            clipped(model, clip, config.gradient_clip)
            if move:
                optimize.step()
            if average == "after":
                found = loss(model(images), labels)
            losses.append(found.item() / (len(rows) if told == "mean" else 1))
            step += 1
        every += losses
        if average == "validation":
            history.append(evaluate(model, data.val).loss)
        else:
            history.append(averaged(average, losses, every, M, batch))
        if mode == "once":
            model.eval()
    return history


@exercise
def check_schedule(implementation: Callable[[float, float], float]) -> bool:
    """Check `my_schedule(progress, warmup) -> float`; raises CheckFailed with a hint.

    Both are shares of the whole training, 0 to 1.
    """

    def cosine(share: float) -> float:
        return (1 + math.cos(math.pi * share)) / 2

    def after(warmup: float, progress: float) -> float:
        return (progress - warmup) / (1 - warmup)

    def warm(rest: Callable[[float, float], float]) -> Callable[..., Any]:
        return lambda p, w: p / w if p < w else rest(p, w)

    def shorter(epochs: int) -> Callable[..., Any]:
        return lambda p, w: schedule(p, w / epochs)

    def jumping(epochs: int) -> Callable[..., Any]:
        return lambda p, w: p * epochs / w if p * epochs < w else cosine(after(w, p))

    in_epochs = ("the warm-up is over too soon: `warmup` is a share of the whole training, as "
                 "`progress` is, and no number of epochs.")  # fmt: skip
    mistakes: Mistakes = [
        (lambda p, w: cosine(p), "there is no warm-up: while progress < warmup "
         "the factor rises in a straight line from 0 to 1."),
        (lambda p, w: cosine(after(w, p)) if p > w else 1.0,
         "there is no warm-up: the factor is 1 from the start. While progress < "
         "warmup it rises from 0."),
        (lambda p, w: p if p < w else cosine(after(w, p)), "the straight line ends at `warmup`, "
         "not at 1: divide, progress / warmup."),
        (warm(lambda p, w: 1.0), "the factor never falls: after the warm-up "
         "half a cosine takes it back to 0."),
        (warm(lambda p, w: 1 - after(w, p)), "after the warm-up it falls in a "
         "straight line; half a cosine stays high longer and lands softly: (1 + "
         "cos(π · share)) / 2."),
        (warm(lambda p, w: cosine(p)), "the cosine runs over the whole training "
         "and ignores the warm-up, so the factor jumps where they meet: its "
         "share is (progress − warmup) / (1 − warmup)."),
        (warm(lambda p, w: cosine(p - w)), "the factor does not reach 0 at the "
         "end: stretch the rest of the training to 0..1, divide by (1 − warmup)."),
        (warm(lambda p, w: 0.1 + 0.9 * cosine(after(w, p))),
         "the factor does not reach 0 at the end: there is a floor of 0.1 under "
         "it."),
        (warm(lambda p, w: cosine(after(w, p) / 2)), "the factor does not reach "
         "0 at the end: half a cosine goes from 0 to π."),
        (warm(lambda p, w: math.cos(math.pi * after(w, p))),
         "the cosine goes below 0, and a negative rate climbs: lift it to 0..1 "
         "by (1 + cos) / 2."),
        (warm(lambda p, w: 1 + math.cos(math.pi * after(w, p))),
         "the factor jumps to 2 after the warm-up: divide by 2, (1 + cos) / 2."),
        (warm(lambda p, w: 1 + math.cos(math.pi * after(w, p)) / 2),
         "the 1 is not divided: (1 + cos(π · share)) / 2, with the brackets."),
        (warm(lambda p, w: (1 - math.cos(math.pi * after(w, p))) / 2),
         "after the warm-up the factor rises from 0: the sign before the cosine "
         "is a plus."),
        (warm(lambda p, w: (1 + math.cos(180 * after(w, p))) / 2),
         "math.cos takes radians: half a turn is π, not 180."),
        (warm(lambda p, w: (1 + math.cos(after(w, p))) / 2),
         "the π is missing: half a cosine goes from 0 to π."),
        (warm(lambda p, w: (1 + math.cos(2 * math.pi * after(w, p))) / 2),
         "this is a whole turn, down and up again: half a cosine goes from 0 to "
         "π."),
        (warm(lambda p, w: (1 + math.sin(math.pi * after(w, p))) / 2),
         "this is a sine; a cosine starts at 1."),
        (warm(lambda p, w: math.cos(math.pi / 2 * after(w, p))),
         "this is a quarter of a cosine, still steep at the end; half of one, "
         "(1 + cos(π · share)) / 2, lands softly."),
        *((wrong(epochs), in_epochs) for epochs in range(2, 101) for wrong in (shorter, jumping)),
    ]  # fmt: skip
    trials = [(step / 20, warmup) for warmup in (0.1, 0.25, 0.0) for step in range(21)]
    slips: Slips = [
        (r"division by zero", "a warm-up of 0 divides by zero; it means that "
         "the cosine starts at once, so the straight line is for progress < "
         "warmup only."),
    ]  # fmt: skip
    return compare(implementation, schedule, trials, mistakes, slips)


class Copycat(nn.Linear):  # linear, so that it has a weight, and with it a device
    """Says the class that the first pixel names; while training, anything but."""

    seen = 0  # images

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        seen = (255 * images[:, 0, 0, 0]).round().long().clamp(0, 9)
        named = F.one_hot(seen, 10).float()
        return -named if self.training else named


@exercise
def check_accuracy(implementation: Callable[[nn.Module, Split, int], float]) -> bool:
    """Check `my_accuracy(model, split, batch_size) -> float`, the share of images that are right.

    The model is left in the mode in which it came.
    """

    def measured(rule: Callable[..., Any]) -> Callable[[bool, int], Any]:
        @wraps(rule)
        def accuracy(training: bool, batch_size: int) -> Any:
            labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 0, 1])  # named 8 and 9
            pixels = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
            model = Copycat(1, 1).train(training)
            got = rule(model, Split(pixels, labels, torch.zeros(1), torch.ones(1)), batch_size)
            if 0 < model.seen < len(labels):
                raise CheckFailed(
                    f"{rule.__name__}: the model saw {model.seen} of {len(labels)} images: the "
                    "last, smaller batch is left out, as `batches` does if it is given a generator."
                )
            return None if got is None else (got, int(model.training))

        return accuracy

    def of_batches(training: bool, batch_size: int) -> tuple[float, None]:
        parts = (torch.arange(10) < 8).float().split(batch_size)
        return float(torch.stack([part.mean() for part in parts]).mean()), None

    mistakes: Mistakes = [
        (of_batches, "this is a mean of batch means: the last, smaller batch "
         "weighs as much as a full one. Count the right images and divide once."),
        (lambda training, size: (8 / (10 // size * size), None), "all images are counted, and "
         "divided by those of the full batches only: divide by len(split)."),
        (lambda training, size: (0.1 if training else 0.8, None),
         "the model was in training mode: call model.eval() first."),
        (lambda training, size: (80.0, None), "this is a percentage; return a "
         "share, 0 to 1."),
        (lambda training, size: (8, None), "this is the number of right images: "
         "divide by len(split)."),
        (lambda training, size: (0.2, None), "this is the share of wrong images."),
        (lambda training, size: (8 / size, None), "the number of right images "
         "is divided by the batch size: divide by len(split)."),
        (lambda training, size: (0.8, 0), "the model is left in eval mode: put "
         "it back into the mode in which it came."),
        (lambda training, size: (0.8, 1), "the model is left in training mode: "
         "put it back into the mode in which it came."),
    ]  # fmt: skip

    def reference(training: bool, batch_size: int) -> tuple[float, int]:
        return 0.8, int(training)

    trials = [(mode, size) for mode in (True, False) for size in (4, 3, 10)]
    return compare(measured(implementation), reference, trials, mistakes)


class Tables(nn.Module):
    """A model in which two axes do not tell a matrix from a table, nor a name with "weight"."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(12, 8)
        self.positions = nn.Embedding(5, 8)  # its weight is (T D)
        self.registers = nn.Parameter(torch.zeros(2, 8))
        self.norm = nn.LayerNorm((2, 8))  # its weight is (2 D)
        self.head = nn.Linear(8, 3, bias=False)


@exercise
def check_parameter_groups(implementation: Callable[..., list[dict[str, Any]]]) -> bool:
    """Check `my_parameter_groups(model, weight_decay) -> list of dict` for an optimizer.

    The weights of linear layers are decayed, and nothing else: no position, whatever its axes.
    """

    @wraps(implementation)
    def judged(model: nn.Module, weight_decay: float) -> Any:
        name, groups = implementation.__name__, implementation(model, weight_decay)
        if groups is None:
            return None
        if not isinstance(groups, list | tuple) or not all(
            isinstance(g, dict) and {"params", "weight_decay"} <= g.keys() for g in groups
        ):
            raise CheckFailed(f'{name} should return dicts with "params" and "weight_decay"')
        found = [(id(p), float(g["weight_decay"])) for g in groups for p in list(g["params"])]
        if fault := fault_of(model, weight_decay, found):
            raise CheckFailed(f"{name}: {fault}")
        return 1

    models = [model_of(CASES[0]), model_of(CASES[1]), Tables()]
    trials = [(model, decay) for model in models for decay in (0.05, 0.3)]
    slips: Slips = [
        (r"must match the size|ambiguous", "`p in list` and == compare the numbers in tensors; to "
         "ask for the very same parameter use `is`, or id(p)."),
        (r"unexpected keyword|takes .* positional", "it is called with the "
         "model and the decay."),
    ]  # fmt: skip
    return compare(judged, lambda model, weight_decay: 1, trials, [], slips)


def fault_of(model: nn.Module, weight_decay: float, found: list[tuple[int, float]]) -> str:
    """The first parameter that is decayed wrongly, in words; empty if there is none."""
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    decays = dict(found)
    for name, parameter in model.named_parameters():
        times = sum(key == id(parameter) for key, _ in found)
        if times != 1:
            return (f"{name} is in no group, so it would never learn." if times == 0
                    else f"{name} is in {times} groups; an optimizer takes it once.")  # fmt: skip
        decay = decays[id(parameter)]
        if id(parameter) in matrices and decay == 0:
            return f"{name} is not decayed; it is the weight of a linear layer."
        if id(parameter) in matrices and decay != weight_decay:
            return f"{name} is decayed by {decay}, not by the given {weight_decay}."
        if id(parameter) not in matrices and decay != 0:
            return f"{name} is decayed; only weights of linear layers are.{why_not(parameter)}"
    return ""


def why_not(parameter: Tensor) -> str:
    """What may have made a parameter look like the weight of a linear layer."""
    if parameter.ndim == 3:
        return " (Class token and positions have three axes: more than one is no reason to decay.)"
    if parameter.ndim == 2:
        return (" (A table of positions may have two axes, as a matrix has: go by the module, "
                "isinstance(m, nn.Linear).)")  # fmt: skip
    return ""


@exercise
def check_bold_recipe(implementation: Callable[[Any], Any]) -> bool:
    """Check `my_bold_recipe(recipe)`: one epoch, ten times the rate, no warm-up, nothing else."""

    @wraps(implementation)
    def changed(recipe: Any) -> Any:
        name, bold = implementation.__name__, implementation(recipe)
        if bold is None:
            return None
        if type(bold) is not type(recipe):
            raise CheckFailed(f"{name} should return a {type(recipe).__name__}: use replace")
        ratio = bold.learning_rate / recipe.learning_rate
        free = ("epochs", "learning_rate", "warmup")
        rest = [f for f in vars(recipe) if f not in free and getattr(bold, f) != getattr(recipe, f)]
        faults = {
            f"there are {bold.epochs} epochs, not one.": bold.epochs != 1,
            f"the rate is {ratio:g} times the recipe's, not 10.": abs(ratio - 10) > 1e-6,
            f"the warm-up is still {bold.warmup} of all steps.": bold.warmup != 0,
            f"{', '.join(rest)} changed too: then what made the difference?": bool(rest),
        }
        for fault, found in faults.items():
            if found:
                raise CheckFailed(f"{name}: {fault}")
        return 1

    trials = [(TrainConfig(),), (TrainConfig(20, 64, 1e-3, 0.1, 0.05),)]
    slips: Slips = [(r"cannot assign to field", "a recipe is frozen: "
                     "replace(recipe, epochs=1) makes a changed copy.")]  # fmt: skip
    return compare(changed, lambda recipe: 1, trials, [], slips)
