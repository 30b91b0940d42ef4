"""The laboratory's training loop: `vit_tutorial.train.train` for long, large and resumed runs.

With the lesson's settings it gives the lesson's history to the bit. Beyond them it stops and
resumes exactly, runs on several processes, and knows bf16, micro-batches, Muon, an average of the
weights, cutmix and the shortcut for the class token.
"""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.data import Data, batches, check_labels
from vit_tutorial.lab import distributed
from vit_tutorial.lab.augment import AUGMENTATIONS, cutmix
from vit_tutorial.lab.optim import kept_after_a_step, make_optimizer, update_average
from vit_tutorial.lab.recipes import Recipe
from vit_tutorial.lab.resume import State, check_same
from vit_tutorial.lab.shortcut import ClassTokenShortcut, shortcut
from vit_tutorial.train import Epoch, evaluate, number_of_logits, schedule, set_rate
from vit_tutorial.weights.files import check_numbers

Batch = tuple[Float[Tensor, "B C H W"], Int[Tensor, " B"] | Float[Tensor, "B K"]]


class Step(NamedTuple):
    """What `on_step` is told after a step: its number from 1, of how many, and how it went.

    Loss and accuracy are those of this process's share of the batch, before the update. They are
    still on the device: reading them waits for it.
    """

    number: int
    steps: int
    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


def train(
    model: nn.Module, data: Data, recipe: Recipe, generator: torch.Generator
) -> Iterator[Epoch]:
    """As `vit_tutorial.train.train`, for every setting of a `Recipe`."""
    return Training(model, data, recipe, generator).epochs()


class Training:
    """One training: what it changes, how far it is, and how it goes on.

    Trains `model` in place, on the device it is on. `state` continues exactly where it was taken;
    raises ValueError if it is of other settings or of another model, or if a label has no logit.
    With `shards`, the device to train on, several processes each train a share of a copy; `model`
    holds the whole weights at every record.
    """

    def __init__(
        self, model: nn.Module, data: Data, recipe: Recipe, generator: torch.Generator,
        state: State | None = None, compiled: bool = False, shards: torch.device | None = None,
    ):  # fmt: skip
        self.model, self.data, self.recipe, self.generator = model, data, recipe, generator
        self.classes = number_of_logits(model, data.val)
        check_labels(data.train.labels, self.classes)
        self.average: nn.Module | None = None
        if shards is None or distributed.processes() == 1:
            self.trained, self.average = model, deepcopy(model) if recipe.average else None
            network = shortcut(model) if recipe.shortcut else model
        else:  # the shortcut calls parts of a block, whose weights come together for the whole one
            check_shards(recipe, compiled)
            network = self.trained = distributed.sharded(model, shards)
            self.average = distributed.sharded(model, shards) if recipe.average else None
        self.patches = patches_seen(network, recipe.drop_patches) if recipe.drop_patches else (0, 0)
        self.weight = next(self.trained.parameters())
        self.optimizer = make_optimizer(self.trained, recipe)
        if compiled:
            network.compile()
        self.inner: Any = network
        self.network = distributed.wrap(network)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        steps = len(data.train) // recipe.batch_size
        self.losses = torch.zeros(steps, dtype=self.weight.dtype, device=self.weight.device)
        self.shuffle = generator.get_state()
        self.last, self.begun = self.snapshot(), False
        if state is not None:
            self.resume(state)

    def resume(self, state: State) -> None:
        """Go on where a state was taken; ValueError, before anything changes, if it cannot be."""
        check_same("the training", asdict(Recipe()) | state.settings, self.settings())
        n, found = len(self.losses), kinds(state.tensors)
        if state.step > n or state.epoch * n + state.step > self.recipe.epochs * n:
            raise ValueError(f"there is no step {state.step} after epoch {state.epoch}")
        expected = kinds(self.last.tensors)
        if state.epoch or state.step:
            expected |= kinds(kept_after_a_step(self.optimizer))
        if found.get("epoch.dropout", "").startswith("uint8"):  # of any device
            expected["epoch.dropout"] = found["epoch.dropout"]
        check_same("the training of this model", found, expected)
        for name, tensor in state.tensors.items():
            if tensor.is_floating_point():
                check_numbers(name, tensor)
        self.restore(state)  # of shares only this process's is kept
        self.last = state if self.trained is self.model else self.snapshot()

    def settings(self) -> dict[str, Any]:
        """What has to be the same when a state is resumed."""
        return asdict(self.recipe) | {"training_images": len(self.data.train)}

    def epochs(self, on_step: Callable[[Step], None] | None = None) -> Iterator[Epoch]:
        """Train to the end; yield a record after every epoch.

        At a record, and at the end, the model holds the average of the weights if there is one.
        Stop reading to stop early, or raise in `on_step`; `epochs()` then goes on from there.
        (After another error within a step, go on from a state.)
        Raises ValueError if the loss is no longer finite: the message names the step, and the
        model is put back to where it was at the last record, or at the start.
        """
        while self.epoch < self.recipe.epochs:
            if not self.step and (self.begun or self.average is not None):
                self.restore(self.last)
            self.begun, start = True, time.perf_counter() - self.seconds
            self.finish_epoch(on_step, start)
            losses = distributed.mean(self.losses)
            self.check_finite(losses)
            self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0
            done = self.snapshot()
            self.take_average()
            val = evaluate(self.trained, self.data.val)
            self.check_finite(torch.tensor([val.loss]), self.epoch * len(self.losses))
            self.last, self.begun = done, False
            yield Epoch(self.epoch, losses.mean().item(), *val, time.perf_counter() - start)
        self.take_average()  # also where a finished state was all there is

    def take_average(self) -> None:
        """Bring the average of the weights, if there is one, and all shares into the model."""
        if self.average is not None:
            self.trained.load_state_dict(self.average.state_dict())
        if self.trained is not self.model:
            held = self.model.state_dict()
            for name, tensor in self.trained.state_dict().items():
                held[name].copy_(distributed.whole(tensor))

    def finish_epoch(self, on_step: Callable[[Step], None] | None, start: float) -> None:
        """Train to the end of the epoch, keeping the loss of every step."""
        recipe, steps = self.recipe, self.recipe.epochs * len(self.losses)
        self.trained.train()
        for batch in self.rest_of_epoch():
            number = self.epoch * len(self.losses) + self.step + 1
            distributed.own_dropout(self.generator.initial_seed(), number)
            set_rate(self.optimizer, self.rate(number))
            if recipe.drop_patches:
                self.inner.kept = self.tokens_of_step(number / steps)
            loss, accuracy = train_step(self.network, self.optimizer, batch, recipe)
            self.losses[self.step] = loss
            self.step, self.seconds = self.step + 1, time.perf_counter() - start
            if self.average is not None:
                update_average(self.average, self.trained, recipe.average, number)
            if on_step is not None:
                on_step(Step(number, steps, loss, accuracy))

    def tokens_of_step(self, progress: float) -> Int[Tensor, " _"] | None:
        """The class token and the patches that a step sees, by number; None: all of them.

        A random choice, after PatchDropout (https://arxiv.org/abs/2208.07220), which draws for each
        image; here one draw serves a batch. In the last tenth of the steps all patches are seen, so
        that the model ends on images as it will meet them. `progress` counts steps, 0 to 1.
        """
        if progress > 0.9:
            return None
        patches, seen = self.patches
        chosen = 1 + torch.randperm(patches, generator=self.generator)[:seen]
        kept = torch.cat([torch.zeros(1, dtype=torch.long), chosen])
        return kept.to(self.weight.device, non_blocking=True)

    def rate(self, number: int) -> float:
        """The learning rate of a step, counted from 1."""
        progress = (number - 0.5) / (self.recipe.epochs * len(self.losses))
        return self.recipe.learning_rate * schedule(progress, self.recipe.warmup)

    def rest_of_epoch(self) -> Iterator[Batch]:
        """The batches of an epoch that are still to come, in the order that was drawn for it."""
        recipe, now = self.recipe, self.generator.get_state()
        augment = partial(AUGMENTATIONS[recipe.augmentation], strength=recipe.augment)
        self.shuffle = self.shuffle if self.step else now
        self.generator.set_state(self.shuffle)
        epoch = batches(
            self.data.train, recipe.batch_size, self.generator, augment if recipe.augment else None,
            self.weight.device, self.weight.dtype, start=self.step,
        )  # fmt: skip
        if self.step:
            self.generator.set_state(now)
        for images, labels in epoch:
            if recipe.cutmix:
                yield cutmix(images, labels, self.classes, self.generator, recipe.cutmix)
            else:
                yield images, labels

    def check_finite(self, losses: Float[Tensor, " _"], first: int | None = None) -> None:
        """Put the model back and raise ValueError if a loss is not finite.

        `first` is the number of the first loss's step, without it the first step of the epoch.
        """
        wrong = (~losses.isfinite()).nonzero()
        if not len(wrong):
            return
        start = self.epoch * len(self.losses) + 1 if first is None else first
        number, loss = start + int(wrong[0]), losses[wrong[0]].item()
        self.restore(self.last)
        if not self.last.step:
            self.take_average()  # as at the record
        place = f"epoch {self.epoch}" + (f" and {self.step} steps" if self.step else "")
        raise ValueError(
            f"the loss became {loss} at step {number} (learning rate {self.rate(number):.2g}); "
            f"the model is back where {place} left it. Try a lower rate."
        )

    def state(self) -> State:
        """Everything that training changes, as it is now: to be saved or resumed, not changed.

        Within an epoch it is a new copy, at a record the one that is kept for a loss that is not
        finite. Of several processes all have to call this; shares are put together on the first.
        """
        state = self.snapshot() if self.step else self.last
        return replace(state, tensors=distributed.gathered(state.tensors))

    def snapshot(self) -> State:
        """A new state."""
        named: dict[str, dict[str, Tensor]] = {
            f"optimizer.{i}": entry for i, entry in self.optimizer.state_dict()["state"].items()
        }
        named["model"] = self.trained.state_dict()
        named["average"] = {} if self.average is None else self.average.state_dict()
        named["epoch"] = {
            "losses": distributed.mean(self.losses.clone())
            if self.step
            else torch.zeros_like(self.losses),
            "shuffle": self.shuffle if self.step else self.generator.get_state(),
            "generator": self.generator.get_state(),
            "dropout": random_numbers(self.weight.device).get_rng_state(),
        }
        tensors = {f"{a}.{b}": t.detach().clone() for a in named for b, t in named[a].items()}
        return State(self.epoch, self.step, self.seconds, self.settings(), tensors)

    def restore(self, state: State) -> None:
        """Put everything back to where a state was taken."""
        share = distributed.shared_as
        for module, part in ((self.trained, "model"), (self.average, "average")):
            if module is not None:
                held, kept = module.state_dict(), state.part(part)
                module.load_state_dict({name: share(held[name], t) for name, t in kept.items()})
        entries: dict[int, dict[str, Tensor]] = {}
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name, tensor in state.part("optimizer").items():
            i, _, kind = name.partition(".")
            entries.setdefault(int(i), {})[kind] = share(weights[int(i)], tensor).clone()
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": entries})
        self.epoch, self.step, self.seconds = state.epoch, state.step, state.seconds
        self.losses.copy_(state.tensors["epoch.losses"])
        self.shuffle = state.tensors["epoch.shuffle"]
        self.generator.set_state(state.tensors["epoch.generator"])
        source, dropout = random_numbers(self.weight.device), state.tensors["epoch.dropout"]
        if source.get_rng_state().shape == dropout.shape:  # not after a move to another device
            source.set_rng_state(dropout)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, recipe: Recipe
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Forward, backward, update; loss and accuracy on this process's share before the update.

    The gradient is the mean over equal micro-batches and processes, so it is that of the whole
    batch. Labels may be shares of the classes. Raises ValueError if processes and micro-batches do
    not divide the batch. Nothing is read from the device.
    """
    optimizer.zero_grad()
    scores = []
    shares = [distributed.share(x, recipe.accumulate) for x in batch]
    for i, (images, labels) in enumerate(zip(*shares, strict=True), start=1):
        with distributed.meeting(model, i == recipe.accumulate):
            with torch.autocast(images.device.type, torch.bfloat16, recipe.precision == "bf16"):
                logits = model(images)
            logits = logits.float() if recipe.precision == "bf16" else logits
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            (loss / recipe.accumulate).backward()
        hits = logits.argmax(dim=1) == (labels if labels.ndim == 1 else labels.argmax(dim=1))
        scores.append(torch.stack([loss.detach(), hits.to(loss).mean()]))
    nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
    optimizer.step()
    loss, accuracy = torch.stack(scores).mean(dim=0)
    return loss, accuracy


def check_shards(recipe: Recipe, compiled: bool) -> None:
    """Raise ValueError for what needs the whole weights in one place."""
    if recipe.optimizer != "adamw":
        raise ValueError(f"fsdp trains with adamw: {recipe.optimizer} needs whole matrices")
    if recipe.drop_patches:
        raise ValueError("fsdp leaves no patches out: set drop_patches to 0")
    if compiled:
        raise ValueError("fsdp and compile do not go together here: leave one of them out")


def patches_seen(network: nn.Module, share: float) -> tuple[int, int]:
    """The number of patches, and how many of them are seen where `share` is left out, at least 1.

    Raises ValueError if none can be left out: there is no shortcut, or the share is too small.
    """
    if not isinstance(network, ClassTokenShortcut):
        raise ValueError(
            f"drop_patches {share} needs the shortcut of a VisionTransformer with a class token: "
            "set it to 0 to see all patches in every step"
        )
    patches = prod(network.model.config.grid)
    if not (left_out := round(share * patches)):
        raise ValueError(
            f"drop_patches {share} leaves out none of {patches} patches: "
            f"expected 0, or more than {0.5 / patches:.2g}"
        )
    return patches, max(1, patches - left_out)


def kinds(tensors: dict[str, Tensor]) -> dict[str, str]:
    """What each tensor is, such as "float32 (8, 16)"."""
    return {k: f"{t.dtype} {tuple(t.shape)}".removeprefix("torch.") for k, t in tensors.items()}


def random_numbers(device: torch.device) -> Any:
    """Where PyTorch keeps the random state that dropout on a device draws from."""
    return torch if device.type == "cpu" else getattr(torch, device.type)
