"""Chapter 11: right styles and mistakes."""

import math
from itertools import pairwise, product

import numpy as np
import torch
from torch import nn

from vit_tutorial.checks import check_cnn_flops, check_conv_matrix, check_needed, check_part
from vit_tutorial.checks.scale import counted

RIGHT, WRONG = {}, {}


def part_by_permutation(M, share, seed):
    order = torch.randperm(M, generator=torch.Generator().manual_seed(seed))
    kept = order[: M * share // 100]
    return kept.repeat(math.ceil(M / len(kept)))[:M]


def part_by_numpy(M, share, seed):
    order = np.random.default_rng(seed).permutation(M)
    return np.resize(order[: M * share // 100], M).tolist()


RIGHT[check_part] = [part_by_permutation, part_by_numpy]


def part(M, share, seed, dice=None, order=None, repeat=True, even=True, rows=None):
    dice = torch.Generator().manual_seed(seed) if dice is None else dice()
    order = torch.randperm(M, generator=dice) if order is None else order(M, share, dice)
    kept = order[: rows(M, share) if rows else M * share // 100]
    if not repeat:
        return kept
    if not even:
        return torch.cat([kept, kept[:1].expand(M - len(kept))])
    return kept.repeat(math.ceil(M / len(kept)))[:M]


def part_by_the_global_seed(M, share, seed):
    torch.manual_seed(seed)
    return part(M, share, seed, order=lambda M, share, dice: torch.randperm(M))


def part_of_its_own(M, share, seed):
    return part(M, share, 1000 * seed + share)


WRONG[check_part] = [
    (lambda M, s, seed: part(M, s, seed, repeat=False), "rows and not"),
    (lambda M, s, seed: part(M, s, seed, even=False), "far oftener"),
    (lambda M, s, seed: part(M, s, seed, order=lambda M, s, dice: torch.arange(M)), "first images"),
    (lambda M, s, seed: part(M, s, seed, order=lambda M, s, dice: torch.randint(
        M, (M,), generator=dice)), "use randperm"),
    (lambda M, s, seed: part(M, s, 0), "another seed"),
    (lambda M, s, seed: part(M, s, seed, rows=lambda M, s: M * s), "different rows"),
    (lambda M, s, seed: 1 + part(M, s, seed), "count from 0"),
    (part_of_its_own, "1 % must lie within 4 %"),
    (part_by_the_global_seed, "a torch.Generator of your own"),
    (lambda M, s, seed: part(M, s, seed, order=lambda M, s, dice: torch.randperm(M)),
     "must lie within|a torch.Generator of your own"),
    (lambda M, s, seed: part(M, s, seed, rows=lambda M, s: 0), "how many rows are kept"),
]  # fmt: skip


def needed_by_pairs(shares, accuracies, target):
    if accuracies[0] >= target:
        return shares[0]
    points = zip(shares, accuracies, strict=True)
    for (left, low), (right, high) in pairwise(points):
        if low < target <= high:
            return left * (right / left) ** ((target - low) / (high - low))
    return math.inf


def needed_by_interpolation(shares, accuracies, target):
    if max(accuracies) < target:
        return float("inf")
    i = next(i for i, a in enumerate(accuracies) if a >= target)
    if i == 0:
        return float(shares[0])
    logs = np.log10(shares)
    return 10 ** np.interp(target, accuracies[i - 1 : i + 1], logs[i - 1 : i + 1])


RIGHT[check_needed] = [needed_by_pairs, needed_by_interpolation]


def needed(shares, accuracies, target, between=None, last=False, beyond=math.inf, first=True):
    if first and accuracies[0] >= target:
        return shares[0]
    found = beyond
    for (a, low), (b, high) in pairwise(zip(shares, accuracies, strict=True)):
        if low < target <= high and (last or found == beyond):
            p = (target - low) / (high - low)
            found = between(a, b, p) if between else a * (b / a) ** p
    return found


WRONG[check_needed] = [
    (lambda s, a, t: needed(s, a, t, between=lambda x, y, p: x + p * (y - x)), "logarithmic"),
    (lambda s, a, t: needed(s, a, t, between=lambda x, y, p: y), "a recorded share"),
    (lambda s, a, t: needed(s, a, t, between=lambda x, y, p: x), "a recorded share"),
    (lambda s, a, t: needed(s, a, t, between=lambda x, y, p: (x * y) ** 0.5), "half-way"),
    (lambda s, a, t: needed(s, a, t, between=lambda x, y, p: y * (x / y) ** p), "wrong end"),
    (lambda s, a, t: needed(s, a, t, last=True), "the first crossing"),
    (lambda s, a, t: needed(s, a, t, beyond=s[-1]), "math.inf"),
    (lambda s, a, t: needed(s, a, t, first=False), "expected 1, got inf"),
    (lambda s, a, t: next(
        s[i] * (s[i + 1] / s[i]) ** ((t - a[i]) / (a[i + 1] - a[i]))
        for i in range(len(s)) if a[i] < t <= a[i + 1]), "pairs of neighbours"),
    (lambda s, a, t: str(needed_by_pairs(s, a, t)), "should return a number, not str"),
]  # fmt: skip


def conv_matrix(kernel, H, W, step=1, columns=None):
    G = torch.zeros(H, W, H, W)
    for y, x, dy, dx in product(range(H), range(W), (-1, 0, 1), (-1, 0, 1)):
        if 0 <= y + dy < H and 0 <= x + dx < W:
            G[y, x, y + dy, x + dx] = kernel[1 + step * dy, 1 + step * dx]
    return G.reshape(H * W, H * W)


def conv_matrix_of_single_pixels(kernel, H, W):
    pixels = torch.eye(H * W).reshape(-1, 1, H, W)
    return nn.functional.conv2d(pixels, kernel[None, None], padding=1).flatten(1).mT


RIGHT[check_conv_matrix] = [conv_matrix, conv_matrix_of_single_pixels]
WRONG[check_conv_matrix] = [
    (lambda k, H, W: conv_matrix(k, H, W, step=-1), "flipped"),
    (lambda k, H, W: conv_matrix(k, H, W).T, "flipped"),
    (lambda k, H, W: conv_matrix(k.T, H, W), "rows and columns"),
    (lambda k, H, W: conv_matrix(k, W, H), "H and W swapped"),
    (lambda k, H, W: conv_matrix(k, H, W)[:-1], "shape"),
]


def cnn_flops(C, width, K, side, times=2, head=1):
    total, before = 0, C
    for after in (width, 2 * width, 4 * width):
        side = (side + 1) // 2
        total += times * 9 * before * after * side * side
        before = after
    return total + times * head * before * K


def cnn_flops_by_the_counter(C, width, K, side):
    layers, before = [], C
    for after in (width, 2 * width, 4 * width):
        layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1))
        before = after
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, K))
    return counted(lambda: net(torch.zeros(1, C, side, side)))


RIGHT[check_cnn_flops] = [cnn_flops, cnn_flops_by_the_counter]
WRONG[check_cnn_flops] = [
    (lambda *a: cnn_flops(*a, times=1), "a product and a sum are two"),
    (lambda *a: cnn_flops(*a, head=0), "linear layer"),
    (lambda C, width, K, side: cnn_flops(C, width, K, side + 1), "expected"),
]
