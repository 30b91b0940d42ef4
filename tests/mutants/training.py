"""Chapter 08: right styles and mistakes."""

import math
from dataclasses import replace
from functools import partial, wraps

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vit_tutorial.checks import (
    check_accuracy,
    check_bold_recipe,
    check_parameter_groups,
    check_schedule,
    check_train_step,
    check_training_loop,
)
from vit_tutorial.data import batches, random_affine
from vit_tutorial.train import evaluate, parameter_groups, schedule, train

RIGHT, WRONG = {}, {}
# ---- the schedule


def rate_with_an_if(progress, warmup):
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def rate_as_a_tensor(progress, warmup):
    share = torch.tensor((progress - warmup) / (1 - warmup))
    return torch.where(
        share < 0, progress / max(warmup, 1e-9), (1 + torch.cos(share * torch.pi)) / 2
    )


def rate_by_numpy(progress, warmup):
    if warmup == 0:
        return float(np.cos(np.pi / 2 * progress) ** 2)  # half a cosine, as a square
    return float(np.interp(progress, [0, warmup], [0, 1])) * (
        1 if progress < warmup else np.cos(np.pi / 2 * (progress - warmup) / (1 - warmup)) ** 2
    )


RIGHT[check_schedule] = [rate_with_an_if, rate_as_a_tensor, rate_by_numpy]


def rate_without_warm_up(progress, warmup):
    return (1 + math.cos(math.pi * progress)) / 2


def rate_flat_before_the_cosine(progress, warmup):
    return rate_with_an_if(max(progress, warmup), warmup)


def rate_that_never_falls(progress, warmup):
    return min(1.0, progress / warmup) if warmup else 1.0


def rate_that_falls_in_a_line(progress, warmup):
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


def rate_whose_cosine_ignores_the_warm_up(progress, warmup):
    return progress / warmup if progress < warmup else rate_without_warm_up(progress, warmup)


def rate_that_does_not_stretch_the_rest(progress, warmup):
    return progress / warmup if progress < warmup else rate_without_warm_up(progress - warmup, 0)


def rate_that_goes_below_zero(progress, warmup):
    if progress < warmup:
        return progress / warmup
    return math.cos(math.pi * (progress - warmup) / (1 - warmup))


def rate_by_a_quarter_of_a_cosine(progress, warmup):
    if progress < warmup:
        return progress / warmup
    return math.cos(math.pi / 2 * (progress - warmup) / (1 - warmup))


def rate_warm_too_soon(progress, warmup, epochs=8):
    return rate_with_an_if(progress, warmup / epochs)


def rate_that_divides_by_no_warm_up(progress, warmup):
    return rate_with_an_if(progress, warmup) if progress > warmup else progress / warmup


def rate_in_words(progress, warmup):
    return "high"


WRONG[check_schedule] = [
    (rate_without_warm_up, "there is no warm-up"),
    (rate_flat_before_the_cosine, "no warm-up: the factor is 1 from the start"),
    (rate_that_never_falls, "the factor never falls"),
    (rate_that_falls_in_a_line, "falls in a straight line"),
    (rate_whose_cosine_ignores_the_warm_up, "ignores the warm-up"),
    (rate_that_does_not_stretch_the_rest, "does not reach 0 at the end: stretch"),
    (rate_that_goes_below_zero, "goes below 0"),
    (rate_by_a_quarter_of_a_cosine, "a quarter of a cosine"),
    (rate_warm_too_soon, "over too soon"),
    (rate_that_divides_by_no_warm_up, "a warm-up of 0 divides by zero"),
    (rate_in_words, "should return a number, not str"),
]


def by(function, **how):
    """The function with some choices made, under its own name."""
    return wraps(function)(lambda *arguments: function(*arguments, **how))


def warm(rest):
    def rate(progress, warmup):
        if progress < warmup:
            return progress / warmup
        return rest((progress - warmup) / (1 - warmup))

    return rate


WRONG[check_schedule] += [
    (warm(lambda share: 1 + math.cos(math.pi * share)), "divide by 2"),
    (warm(lambda share: 1 + math.cos(math.pi * share) / 2), "with the brackets"),
    (warm(lambda share: (1 - math.cos(math.pi * share)) / 2), "the sign before the cosine"),
    (warm(lambda share: (1 + math.cos(180 * share)) / 2), "takes radians"),
    (warm(lambda share: (1 + math.cos(share)) / 2), "the π is missing"),
    (warm(lambda share: (1 + math.cos(2 * math.pi * share)) / 2), "a whole turn"),
    (warm(lambda share: (1 + math.sin(math.pi * share)) / 2), "this is a sine"),
    (warm(lambda share: 0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2), "a floor of 0.1"),
    (
        warm(lambda share: 0.5 + math.cos(math.pi * share) / 4),
        "for progress = .*expected|expected .* for",
    ),
    (lambda progress, warmup: rate_with_an_if(progress, warmup) * 3e-3, "expected"),
]


def step_in_four_lines(model, images, labels, optimizer):
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def step_that_clears_afterwards(model, images, labels, optimizer):
    loss = nn.CrossEntropyLoss()(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return loss.item()


def step_by_hand(model, images, labels, optimizer):
    loss = -model(images).log_softmax(dim=-1)[range(len(labels)), labels].mean()
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    optimizer.step()
    return loss.detach()


def step_that_sets_the_mode(model, images, labels, optimizer):
    model.train()
    return step_in_four_lines(model, images, labels, optimizer)


RIGHT[check_train_step] = [
    step_in_four_lines, step_that_clears_afterwards, step_by_hand, step_that_sets_the_mode,
]  # fmt: skip


def step(model, images, labels, optimizer, loss_of=F.cross_entropy, order="zbs", told=None):
    loss = loss_of(model(images), labels)
    for letter in order:
        if letter == "z":
            optimizer.zero_grad()
        elif letter == "b":
            loss.backward()
        else:
            optimizer.step()
    return loss.item() if told is None else told(loss, model, images, labels)


def clipping_step(model, images, labels, optimizer):
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    return loss.item()


WRONG[check_train_step] = [
    (by(step, order="bs"), "zero_grad"),
    (by(step, order="zb"), "the weights do not move"),
    (by(step, order="zs"), "the weights do not move"),
    (by(step, order="bzs"), "the weights do not move"),
    (by(step, order=""), "the weights do not move"),
    (by(step, order="szb"), "backward.. comes before optimizer.step"),
    (by(step, loss_of=lambda x, y: F.cross_entropy(x.softmax(1), y)), "a softmax comes before"),
    (by(step, loss_of=lambda x, y: F.cross_entropy(x, y, reduction="sum")), "take the mean"),
    (by(step, loss_of=F.nll_loss), "nll_loss"),
    (by(step, loss_of=lambda x, y: -F.cross_entropy(x, y)), "the sign is turned"),
    (by(step, told=lambda loss, m, x, y: F.cross_entropy(m(x), y).item()), "after the update"),
    (by(step, told=lambda loss, m, x, y: len(y) * loss.item()), "with the batch size"),
    (by(step, told=lambda loss, m, x, y: loss), "give back loss.item"),
    (by(step, told=lambda loss, m, x, y: (loss.item(), 1)), "not tuple"),
    (by(step, told=lambda loss, m, x, y: (m(x).argmax(1) == y).float().mean().item()), "expected"),
    (by(step, loss_of=lambda x, y: F.cross_entropy(x.detach(), y)), "no gradient"),
    (by(step, loss_of=lambda x, y: F.cross_entropy(x, y, reduction="none")), "one number"),
    (by(step, order="zbss"), "runs twice for one backward"),
    (by(step, loss_of=lambda x, y: F.cross_entropy(x.sigmoid(), y)), "a sigmoid comes before"),
    (by(step, loss_of=lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1)), "are smoothed"),
    (
        by(step, loss_of=lambda x, y: F.mse_loss(x, F.one_hot(y, x.shape[1]).float())),
        "the squared error",
    ),
    (clipping_step, "the gradients are clipped here"),
]


def loop_in_the_book(model, data, config, generator):
    groups = parameter_groups(model, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, config.learning_rate)
    augment = partial(random_affine, strength=config.augment) if config.augment else None
    steps, step, history = config.epochs * (len(data.train) // config.batch_size), 0, []
    for _ in range(config.epochs):
        losses = []
        model.train()
        for images, labels in batches(data.train, config.batch_size, generator, augment):
            for group in optimizer.param_groups:
                factor = schedule((step + 0.5) / steps, config.warmup)
                group["lr"] = config.learning_rate * factor
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
            losses.append(loss.item())
            step += 1
        history.append(sum(losses) / len(losses))
    return history


def loop_of_the_package(model, data, config, generator):
    return [epoch.train_loss for epoch in train(model, data, config, generator)]


def loop_with_a_lambda_schedule(model, data, config, generator):
    groups = parameter_groups(model, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, config.learning_rate, fused=True)
    each = len(data.train) // config.batch_size
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: schedule((step + 0.5) / (each * config.epochs), config.warmup)
    )
    history = torch.zeros(config.epochs)
    for epoch in range(config.epochs):
        augment = partial(random_affine, strength=config.augment) if config.augment else None
        for images, labels in batches(data.train, config.batch_size, generator, augment):
            optimizer.zero_grad()
            loss = F.cross_entropy(model.train()(images), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
            scheduler.step()
            history[epoch] += loss.detach() / each
        evaluate(model, data.val)
    return history


def loop_from_bytes(model, data, config, generator, split="train", order="each", labels_too=True,
                    group=slice(None), divide=255, prepare=None, keep=False, train="each",
                    late=False, told=None, lr=None, guard=True, keep_losses=False,
                    reduction="mean", clip="norm", smooth=0.0, after=False, start=0.5,
                    own_dice=False):  # fmt: skip
    """Chapter 16's loop: everything by hand."""
    part = getattr(data, split)
    mean, std = (t.view(-1, 1, 1) for t in (data.train.mean, data.train.std))
    made = parameter_groups(model, config.weight_decay)
    optimizer = torch.optim.AdamW(made, **({} if lr is None else {"lr": lr * config.learning_rate}))
    M, step, history, losses = len(part.labels), 0, [], []
    steps = -(-M // config.batch_size) if keep else M // config.batch_size
    if train == "once":
        model.train()
    rows_of_all = torch.arange(M)
    if order != "none" and not own_dice:
        rows_of_all = torch.randperm(M, generator=generator)

    def set_rate(rate):
        for each in optimizer.param_groups[group]:
            each["lr"] = rate

    for epoch in range(config.epochs):
        if train == "each":
            model.train()
        if own_dice:
            rows_of_all = torch.randperm(M)
        elif epoch and order == "each":
            rows_of_all = torch.randperm(M, generator=generator)
        losses = losses if keep_losses else []
        for i in range(steps):
            rows = rows_of_all[i * config.batch_size : (i + 1) * config.batch_size]
            pixels = part.images[rows].float() / divide
            if (config.augment and not late) or not guard:
                pixels = random_affine(pixels, generator, config.augment)
            pixels = prepare(pixels, mean, std) if prepare else (pixels - mean) / std
            if config.augment and late:
                pixels = random_affine(pixels, generator, config.augment)

            progress = min((step + start) / (steps * config.epochs), 1.0)
            rate = config.learning_rate * schedule(progress, config.warmup)
            if not after:
                set_rate(rate)
            labels = part.labels[rows if labels_too else slice(i * len(rows), (i + 1) * len(rows))]
            loss = F.cross_entropy(
                model(pixels), labels, reduction=reduction, label_smoothing=smooth
            )
            optimizer.zero_grad()
            loss.backward()
            if clip == "norm":
                nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            elif clip == "value":
                nn.utils.clip_grad_value_(model.parameters(), config.gradient_clip)
            elif clip == "each":
                for p in model.parameters():
                    nn.utils.clip_grad_norm_(p, config.gradient_clip)
            else:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if after:
                set_rate(rate)
            step += 1
            losses.append(loss.item() * (len(rows) if told == "images" else 1))
        history.append(sum(losses) / (M if told in ("images", "all") else len(losses)))
        if train == "once":
            evaluate(model, data.val)
            model.eval()
    return history


RIGHT[check_training_loop] = [
    loop_in_the_book, loop_of_the_package, loop_with_a_lambda_schedule, loop_from_bytes,
]  # fmt: skip


def loop(model, data, config, generator, rate=None, clip=True, zero=True, groups=True, step_=True,
         kind=torch.optim.AdamW, mode=True, strength=None, softmax=False, mean=None, shuffle=True,
         anew=False):  # fmt: skip
    made = parameter_groups(model, config.weight_decay)
    made = (
        made
        if groups
        else [{"params": list(model.parameters()), "weight_decay": config.weight_decay}]
    )
    optimizer = kind(made, config.learning_rate)
    strength = config.augment if strength is None else strength
    augment = partial(random_affine, strength=strength) if strength else None
    each = len(data.train) // config.batch_size
    steps, step, history = config.epochs * each, 0, []
    rate = rate or (lambda step: schedule((step + 0.5) / steps, config.warmup))
    for _ in range(config.epochs):
        if anew:
            optimizer = kind(made, config.learning_rate)
        losses = []
        if mode:
            model.train()
        for images, labels in batches(
            data.train, config.batch_size, generator if shuffle else None, augment
        ):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * rate(step)
            logits = model(images)
            loss = F.cross_entropy(logits.softmax(-1) if softmax else logits, labels)
            if zero:
                optimizer.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            if step_:
                optimizer.step()
            losses.append(loss.item())
            step += 1
        history.append(mean(losses) if mean else sum(losses) / len(losses))
    return history


def rated(rule):
    """The rate by a rule of step, steps, steps an epoch, epochs and warm-up."""

    def run(model, data, config, generator):
        each = len(data.train) // config.batch_size
        return loop(model, data, config, generator, rate=lambda step: rule(
            step, config.epochs * each, each, config.epochs, config.warmup))  # fmt: skip

    return run


WRONG[check_training_loop] = [
    (rated(lambda s, n, each, E, w: 1.0), "stays at its peak"),
    (rated(lambda s, n, each, E, w: schedule(s / n, w)), "the first learns nothing"),
    (rated(lambda s, n, each, E, w: schedule((s + 1) / n, w)), "the last learns nothing"),
    (rated(lambda s, n, each, E, w: schedule((s % each + 0.5) / each, w)), "starts anew"),
    (rated(lambda s, n, each, E, w: schedule((s % each + 0.5) / n, w)), "starts anew"),
    (rated(lambda s, n, each, E, w: schedule(s // each / E, w)), "only once an epoch"),
    (by(loop, clip=False), "not clipped"),
    (by(loop, zero=False), "of earlier steps are still there"),
    (by(loop, groups=False), "everything is decayed"),
    (by(loop, kind=torch.optim.Adam), "coupled L2"),
    (by(loop, mode=False), "model.train.. is missing"),
    (by(loop, strength=0.0), "not augmented"),
    (by(loop, strength=1.0), "strength 1"),
    (by(loop, mean=lambda losses: losses[-1]), "the last step's loss"),
    (by(loop, mean=sum), "the sum over the steps"),
    (by(loop, mean=lambda losses: losses[0]), "the first step's loss"),
    (by(loop, softmax=True), "a softmax comes before"),
    (by(loop, step_=False), "optimizer.step.. is missing"),
    (by(loop, anew=True), "made anew in every epoch"),
    (by(loop, shuffle=False), "neither shuffled nor augmented"),
    (by(loop_from_bytes, group=slice(1), lr=1), "the first group only"),
    (by(loop_from_bytes, group=slice(1)), "the first group only, and the others keep"),
    (by(loop_from_bytes, group=slice(1, 2), lr=1), "the last group only"),
    (by(loop_from_bytes, group=slice(0), lr=1), "stays at its peak"),
    (by(loop_from_bytes, group=slice(0)), "AdamW's own of 0.001"),
    (by(loop_from_bytes, order="none"), "the images are not shuffled"),
    (by(loop_from_bytes, order="once"), "shuffled once"),
    (by(loop_from_bytes, own_dice=True), "does not come from the generator"),
    (by(loop_from_bytes, labels_too=False), "the labels are not"),
    (by(loop_from_bytes, divide=1), "normalised as bytes"),
    (by(loop_from_bytes, divide=1, prepare=lambda x, m, s: x), "the model sees bytes"),
    (by(loop_from_bytes, prepare=lambda x, m, s: x), "not normalised"),
    (by(loop_from_bytes, prepare=lambda x, m, s: x - m), "nothing is divided"),
    (by(loop_from_bytes, prepare=lambda x, m, s: ((x - m) / s - m) / s), "normalised twice"),
    (by(loop_from_bytes, prepare=lambda x, m, s: x - m / s), "expected"),
    (by(loop_from_bytes, late=True), "augmented after they are normalised"),
    (by(loop_from_bytes, guard=False), "draws from the generator at strength 0"),
    (by(loop_from_bytes, split="test"), "data.test, which is read once"),
    (by(loop_from_bytes, split="val"), "data.val, which is kept"),
    (by(loop_from_bytes, keep=True), "the last, smaller batch is a step too"),
    (by(loop_from_bytes, keep=True, told="images"), "counts by its images"),
    (by(loop_from_bytes, told="images"), "divided by all images"),
    (by(loop_from_bytes, told="all"), "divided by the number of images|expected"),
    (by(loop_from_bytes, keep_losses=True), "losses of earlier epochs"),
    (by(loop_from_bytes, train="once"), "model.train.. runs only once"),
    (by(loop_from_bytes, train="never"), "model.train.. is missing"),
    (by(loop_from_bytes, reduction="sum"), "the loss is summed over the batch"),
    (by(loop_from_bytes, clip="value"), "each number of the gradient is clipped"),
    (by(loop_from_bytes, clip="each"), "each tensor is clipped by itself"),
    (by(loop_from_bytes, clip=1.0), "to a norm of 1"),
    (by(loop_from_bytes, smooth=0.1), "smoothed by 0.1"),
    (by(loop_from_bytes, start=0), "the first learns nothing"),
    (by(loop_from_bytes, start=1), "the last learns nothing"),
    (by(loop_from_bytes, start=1.5), "one step ahead"),
    (by(loop_from_bytes, after=True, lr=1), "the rate is set after the step"),
    (
        by(loop_from_bytes, prepare=lambda x, m, s: (x - m.flatten()) / s.flatten().repeat(3)),
        "one number for each channel",
    ),
    (
        lambda m, d, c, g: [F.cross_entropy(m(d.train.images), d.train.labels)],
        "the images are bytes|TypeCheckError",
    ),
    (lambda *a: loop(*a)[-1:], "1 losses for 2 epochs|one mean for each"),
    (lambda *a: list(train(*a)), "a number as the loss, not Epoch"),
    (rated(lambda s, n, each, E, w: schedule((s + 0.5) / n, 0.0)), "there is no warm-up"),
    (rated(lambda s, n, each, E, w: schedule(0.5 / n, w)), "does the scheduler ever step"),
    (rated(lambda s, n, each, E, w: schedule((s // each + 0.5) / n, w)), "after every batch"),
    (by(loop_from_bytes, prepare=lambda x, m, s: (x - m) / s**2), "by the variance"),
    (by(loop_from_bytes, prepare=lambda x, m, s: 2 * x - 1), "moved to -1..1"),
    (lambda *a: loop(*a)[-1], "a list, one loss for each epoch"),
    (lambda m, d, c, g: [m(images) for images, labels in d.train], "data.train has .images"),
    (rated(lambda s, n, each, E, w: schedule(s / (n - 1), w)), "first and the last step"),
    (rated(lambda s, n, each, E, w: schedule((s + 0.5) / n, w) / 0.02), "the factor alone"),
    (by(loop, groups=False, kind=torch.optim.Adam), "coupled L2.*everything is decayed"),
    (by(loop, kind=torch.optim.SGD), "this is SGD"),
]


def counted_and_divided(model, split, batch_size):
    before = model.training
    model.eval()
    right = 0
    with torch.no_grad():
        for images, labels in batches(split, batch_size, None):
            right += int((model(images).argmax(dim=1) == labels).sum())
    model.train(before)
    return right / len(split)


RIGHT[check_accuracy] = [
    counted_and_divided,
    lambda model, split, batch_size: evaluate(model, split, batch_size).accuracy,
]


def counted(model, split, batch_size, evaluate=True, back=True, generator=None, divide=None):
    before, right, seen, means = model.training, 0, 0, []
    if evaluate:
        model.eval()
    for images, labels in batches(split, batch_size, generator):
        hits = (model(images).argmax(1) == labels).float()
        right, seen, means = (
            right + hits.sum().item(),
            seen + len(hits),
            [*means, hits.mean().item()],
        )
    if back:
        model.train(before)
    return divide(right, seen, means) if divide else right / seen


WRONG[check_accuracy] = [
    (by(counted, divide=lambda right, seen, means: sum(means) / len(means)), "batch means"),
    (lambda m, s, b: counted(m, s, b, generator=torch.Generator()), "expected|left out"),
    (by(counted, evaluate=False), "in training mode"),
    (by(counted, back=False), "left in eval mode"),
    (by(counted, divide=lambda right, seen, means: 100 * right / seen), "a percentage"),
    (by(counted, divide=lambda right, seen, means: right), "the number of right images"),
    (by(counted, divide=lambda right, seen, means: 1 - right / seen), "wrong images"),
    (
        by(counted, divide=lambda right, seen, means: torch.tensor([right, seen])),
        "should return a number",
    ),
]


def groups_by_type(model, weight_decay):
    return parameter_groups(model, weight_decay)


def groups_by_name(model, weight_decay):
    linear = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    parts = {True: [], False: []}
    for name, p in model.named_parameters():
        parts[name in linear].append(p)
    return [dict(params=parts[True], weight_decay=weight_decay),
            dict(params=parts[False], weight_decay=0)]  # fmt: skip


RIGHT[check_parameter_groups] = [
    groups_by_type,
    groups_by_name,
    lambda model, decay: [{**g, "params": iter(g["params"])} for g in groups_by_type(model, decay)],
]


def groups_by_rule(rule):
    def groups(model, weight_decay):
        named = list(model.named_parameters())
        decayed = [p for n, p in named if rule(n, p)]
        others = [p for n, p in named if not rule(n, p)]
        return [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    return groups


WRONG[check_parameter_groups] = [
    (groups_by_rule(lambda n, p: True), "is decayed; only weights of linear layers"),
    (groups_by_rule(lambda n, p: p.ndim >= 2), "class token and positions have three"),
    (groups_by_rule(lambda n, p: p.ndim == 2), "may have two axes, as a matrix has"),
    (groups_by_rule(lambda n, p: p.ndim == 2 and n.endswith("weight")), "positions.weight is dec"),
    (groups_by_rule(lambda n, p: p.ndim == 2 and "pos" not in n and "reg" not in n),
     "norm.weight is decayed"),
    (groups_by_rule(lambda n, p: "bias" not in n), "is decayed; only weights of linear layers"),
    (groups_by_rule(lambda n, p: p.ndim == 2 and "norm" not in n and "head" not in n),
     "head.* is not decayed"),
    (groups_by_rule(lambda n, p: False), "is not decayed"),
    (lambda m, d: groups_by_type(m, d)[:1], "is in no group"),
    (lambda m, d: [*groups_by_type(m, d), {"params": list(m.parameters()), "weight_decay": 0.0}],
     "is in 2 groups"),
    (lambda m, d: groups_by_type(m, 0.1), "decayed by 0.1, not by the given"),
    (lambda m, d: list(m.parameters()), "should return dicts"),
    (lambda m, d: groups_by_type(m, d)[::-1] and [
        {"params": g["params"], "weight_decay": d - g["weight_decay"]}
        for g in groups_by_type(m, d)], "is not decayed|is decayed"),
]  # fmt: skip


RIGHT[check_bold_recipe] = [
    lambda recipe: replace(recipe, epochs=1, learning_rate=10 * recipe.learning_rate, warmup=0.0),
    lambda recipe: type(recipe)(
        **{**vars(recipe), "epochs": 1, "learning_rate": recipe.learning_rate * 10, "warmup": 0.0}
    ),
]


def bold(recipe, **other):
    changes = {"epochs": 1, "learning_rate": 10 * recipe.learning_rate, "warmup": 0.0, **other}
    return replace(recipe, **changes)


def changed_in_place(recipe):
    recipe.epochs = 1
    return recipe


WRONG[check_bold_recipe] = [
    (lambda r: bold(r, epochs=r.epochs), "epochs, not one"),
    (lambda r: bold(r, learning_rate=r.learning_rate), "1 times the recipe's"),
    (lambda r: bold(r, warmup=r.warmup), "the warm-up is still"),
    (lambda r: bold(r, weight_decay=0.0), "weight_decay changed too"),
    (lambda r: vars(bold(r)), "should return a TrainConfig"),
    (changed_in_place, "a recipe is frozen"),
]


def step_in_eval_mode(model, images, labels, optimizer):
    model.eval()
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def groups_by_in(model, weight_decay):
    decayed = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    rest = [p for p in model.parameters() if p not in decayed]
    return [dict(params=decayed, weight_decay=weight_decay), dict(params=rest, weight_decay=0.0)]


WRONG[check_train_step] += [(step_in_eval_mode, "leaves the model in eval mode")]
WRONG[check_parameter_groups] += [(groups_by_in, "use `is`, or id")]
WRONG[check_schedule] += [
    (
        lambda p, w: p if p < w else (1 + math.cos(math.pi * (p - w) / (1 - w))) / 2,
        "divide, progress / warmup",
    ),
]
WRONG[check_accuracy] += [
    (
        lambda m, s, b: counted(m, s, b, divide=lambda right, seen, _: right / (len(s) // b * b)),
        "those of the full batches only",
    ),
    (lambda m, s, b: counted(m, s, b, generator=torch.Generator()), "left out, as `batches` does"),
]
