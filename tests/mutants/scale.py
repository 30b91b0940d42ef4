"""Chapter 13: right styles and mistakes."""

import torch
from torch import nn
from torch.nn import functional as F

from vit_tutorial.checks import (
    check_accumulated,
    check_batch,
    check_flops,
    check_interrupted,
    check_shortcut,
    check_twice_the_tokens,
)
from vit_tutorial.checks.scale import counted
from vit_tutorial.lab.loop import Training
from vit_tutorial.lab.recipes import Recipe
from vit_tutorial.lab.shortcut import ClassTokenShortcut
from vit_tutorial.model import VisionTransformer
from vit_tutorial.train import train

RIGHT, WRONG = {}, {}


def flops(c, times=2, token=True, scores=2, square=4, blocks=None, ends=True, mlp=2, heads=1):
    N, D, m = c.grid[0] * c.grid[1], c.hidden_size, c.mlp_size
    T = N + (token and c.pool == "token")
    block = T * (square * D**2 + mlp * D * m) + heads * scores * T**2 * D
    outside = N * c.channels * c.patch_size**2 * D + D * c.classes
    return times * ((c.layers if blocks is None else blocks) * block + ends * outside)


def flops_by_the_counter(c):
    model = VisionTransformer(c)
    return counted(lambda: model(torch.zeros(1, c.channels, *c.height_width)))


RIGHT[check_flops] = [flops, flops_by_the_counter]
WRONG[check_flops] = [
    (lambda c: flops(c, times=1), "two operations"),
    (lambda c: flops(c, token=False), "the class token is a token too"),
    (lambda c: flops(c, scores=0), "scores and the weighted sums"),
    (lambda c: flops(c, scores=1), "two products without weights"),
    (lambda c: flops(c, heads=c.heads), "the heads share D"),
    (lambda c: flops(c, square=3), "4D², not 3D²"),
    (lambda c: flops(c, mlp=1), "two matrices"),
    (lambda c: flops(c, blocks=1), "this is one block"),
    (lambda c: flops(c, ends=False), "the patches' projection and the head"),
    (lambda c: flops(c, times=6), "expected"),
]


def shortcut(model, images, one=slice(1), near=slice(None), early=False, add=1, norm=True):
    z, blocks = model.embedding(images), list(model.encoder.blocks)
    for i, block in enumerate(blocks):
        rows = one if early or i == len(blocks) - 1 else slice(None)
        q, k, v = block.attention.split_heads(block.norm1(z))
        read = F.scaled_dot_product_attention(q[:, :, rows], k[:, :, near], v[:, :, near])
        z = add * z[:, rows] + block.attention.projection(read.transpose(1, 2).flatten(2))
        z = z + block.mlp(block.norm2(z))
    return model.head((model.encoder.norm(z) if norm else z)[:, 0])


def shortcut_of_the_package(model, images):
    return ClassTokenShortcut(model)(images)


RIGHT[check_shortcut] = [shortcut, shortcut_of_the_package]


def shortcut_too_late(model, images):
    z, (*blocks, last) = model.embedding(images), model.encoder.blocks
    for block in blocks:
        z = block(z)
    z = z[:, :1] + last.attention(last.norm1(z))[:, :1]
    return model.head(model.encoder.norm(z + last.mlp(last.norm2(z)))[:, 0])


WRONG[check_shortcut] = [
    (lambda m, x: shortcut(m, x, near=slice(1)), "still reads all tokens"),
    (lambda m, x: shortcut(m, x, early=True), "only the last block"),
    (lambda m, x: shortcut(m, x, add=0), "the block adds"),
    (lambda m, x: shortcut(m, x, one=slice(-1, None)), "the class token is the first"),
    (lambda m, x: shortcut(m, x, norm=False), "comes before the head"),
    (lambda m, x: m(x), "0 FLOPs were saved"),
    (shortcut_too_late, "cut q and z before the products"),
    (lambda m, x: shortcut(m, x.detach()), "no gradient reaches"),
]


def twice(D, m, h, T):
    def kept(T):
        return T * (8 * D + 2 * m + 4 + h * T)

    return kept(2 * T) / kept(T)


RIGHT[check_twice_the_tokens] = [
    twice,
    lambda D, m, h, T: 2 * (8 * D + 2 * m + 4 + 2 * h * T) / (8 * D + 2 * m + 4 + h * T),
]
WRONG[check_twice_the_tokens] = [
    (lambda D, m, h, T: 2, "2 is right for fused"),
    (lambda D, m, h, T: 4.0, "only A grows with"),
    (lambda D, m, h, T: twice(D, m, 1, T), "each of the h heads"),
    (lambda D, m, h, T: 1 / twice(D, m, h, T), "the other way round"),
    (lambda D, m, h, T: twice(D, 0, h, T), "the MLP keeps its middle"),
    (lambda D, m, h, T: 3, "expected"),
]


def batch(memory, c, each=16, size=4, fused=True, up=0):
    N = c.grid[0] * c.grid[1]
    T, D, m = N + (c.pool == "token"), c.hidden_size, c.mlp_size
    kept = c.layers * T * (8 * D + 2 * m + 4 + c.heads * (1 if fused else T))
    kept += N * c.channels * c.patch_size**2 + T * (2 * D + 2) + c.classes
    with torch.device("meta"):
        weights = sum(p.numel() for p in VisionTransformer(c).parameters())
    room = memory - each * weights
    return room / (size * kept) if up is None else room // (size * kept) + up


RIGHT[check_batch] = [batch, lambda memory, c: float(int(batch(memory, c, up=None)))]
WRONG[check_batch] = [
    (lambda M, c: batch(M, c, each=4), "only the weights are counted"),
    (lambda M, c: batch(M, c, each=8), "two numbers for each weight"),
    (lambda M, c: batch(M, c, each=12), "not one"),
    (lambda M, c: batch(M, c, each=0), "the weights need room"),
    (lambda M, c: batch(M, c, size=1), "a number has 4 bytes"),
    (lambda M, c: batch(M, c, size=2), "not 2"),
    (lambda M, c: batch(M, c, fused=False), "attention is fused"),
    (lambda M, c: batch(M, c, up=1), "one image too many"),
    (lambda M, c: batch(M, c, up=None), "round down"),
    (lambda M, c: 0, "expected"),
]


def resumed(fresh, data, settings, dice):
    begun = Training(fresh(), data, Recipe(**settings), dice())
    first = next(iter(begun.epochs()))
    (second,) = Training(fresh(), data, Recipe(**settings), dice(), state=begun.state()).epochs()
    return first.val_loss, second.val_loss


def resumed_from_a_list(fresh, data, settings, dice):
    losses, state = [], None
    for _ in range(2):
        run = Training(fresh(), data, Recipe(**settings), dice(), state=state)
        losses.append(next(iter(run.epochs())).val_loss)
        state = run.state()
    return losses


RIGHT[check_interrupted] = [resumed, resumed_from_a_list]


def never_interrupted(fresh, data, settings, dice):
    return [epoch.val_loss for epoch in train(fresh(), data, Recipe(**settings), dice())]


def started_again(fresh, data, settings, dice):
    return tuple(
        next(iter(train(fresh(), data, Recipe(**settings), dice()))).val_loss for _ in range(2)
    )


def with_a_shorter_schedule(fresh, data, settings, dice):
    (first,) = train(fresh(), data, Recipe(**{**settings, "epochs": 1}), dice())
    return first.val_loss, resumed(fresh, data, settings, dice)[1]


def without_the_state(fresh, data, settings, dice):
    return next(iter(train(fresh(), data, Recipe(**settings), dice()))).val_loss, *[
        epoch.val_loss for epoch in train(fresh(), data, Recipe(**settings), dice())
    ]


def with_other_weights(fresh, data, settings, dice):
    other = fresh()
    nn.init.ones_(other.head.weight)
    first = next(iter(train(other, data, Recipe(**settings), dice())))
    return first.val_loss, resumed(fresh, data, settings, dice)[1]


WRONG[check_interrupted] = [
    (never_interrupted, "go on with a new model"),
    (started_again, "without state= the run starts anew"),
    (with_a_shorter_schedule, "keep the recipe as it is"),
    (without_the_state, "3 losses, not 2"),
    (with_other_weights, "expected"),
    (
        lambda fresh, data, settings, dice: resumed(fresh, data, settings, dice)[0],
        "1 losses, not 2",
    ),
]


def accumulated(gradient_of, parts):
    M = sum(len(labels) for _, labels in parts)
    return sum(len(labels) / M * gradient_of(images, labels) for images, labels in parts)


def accumulated_step_by_step(gradient_of, parts):
    total, M = 0, 0
    for images, labels in parts:
        total, M = total + len(labels) * gradient_of(images, labels), M + len(labels)
    return total / M


RIGHT[check_accumulated] = [accumulated, accumulated_step_by_step]
WRONG[check_accumulated] = [
    (lambda g, parts: sum(g(*part) for part in parts), "sum of the means"),
    (lambda g, parts: sum(g(*part) for part in parts) / len(parts), "mean of means"),
    (lambda g, parts: sum(len(y) * g(x, y) for x, y in parts), "number of images"),
    (lambda g, parts: g(*parts[-1]), "last part"),
    (lambda g, parts: g(*(torch.cat(x) for x in zip(*parts, strict=True))), "there is memory for"),
]
