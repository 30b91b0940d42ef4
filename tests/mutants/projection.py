"""Chapter 02: right styles and mistakes."""

import torch
from mutants.patches import (
    patches_by_reshape,
    patches_by_unfold,
    patches_down_the_columns,
    patches_in_loops,
    patches_turned_over,
    patches_with_colours_last,
)
from torch.nn import functional as F

from vit_tutorial.checks import (
    check_fold,
    check_parameters,
    check_projection,
    check_weight_from_authors,
)

RIGHT, WRONG = {}, {}
# ---- the projection


def project(images, weight, bias, P, cut=patches_by_unfold):
    return cut(images, P) @ weight.T + bias


def tokens_by_convolution(images, weight, bias, P):
    kernel = weight.view(len(weight), -1, P, P)
    return F.conv2d(images, kernel, bias, stride=P).flatten(2).transpose(1, 2)


def tokens_by_linear(images, weight, bias, P):
    return F.linear(patches_in_loops(images, P), weight, bias)


RIGHT[check_projection] = [project, tokens_by_convolution, tokens_by_linear]


def maps_of_a_convolution(images, weight, bias, P):
    return F.conv2d(images, weight.view(len(weight), -1, P, P), bias, stride=P)


def maps_reshaped(images, weight, bias, P):
    maps = maps_of_a_convolution(images, weight, bias, P)
    return maps.reshape(len(maps), -1, len(weight))


def weight_not_transposed(images, weight, bias, P):
    try:
        return patches_by_unfold(images, P) @ weight + bias
    except RuntimeError:  # as the reader would after the first two sizes: only now transpose
        return project(images, weight, bias, P)


def weight_reshaped(images, weight, bias, P):
    return patches_by_unfold(images, P) @ weight.reshape(-1, len(weight)) + bias


WRONG[check_projection] = [
        (lambda x, w, b, P: patches_by_unfold(x, P) @ w.T, "the bias is missing"),
        (weight_not_transposed, "keeps its weight as"),
        (weight_reshaped, "which moves nothing"),
        (lambda *a: project(*a, cut=patches_by_reshape), "cut by a plain reshape"),
        (lambda *a: project(*a, cut=patches_with_colours_last), "the channels come last"),
        (lambda *a: project(*a, cut=patches_turned_over), "every patch is transposed"),
        (lambda *a: project(*a, cut=patches_down_the_columns), "column by column"),
        (lambda x, w, b, P: (patches_by_unfold(x, P)[..., None, :] * w).mean(-1) + b, "averaged"),
        (lambda x, w, b, P: project(x, w / w.shape[1] ** 0.5, b, P), "divided by √"),
        (maps_reshaped, "without moving D"),
        (maps_of_a_convolution, "these are the maps of a convolution"),
        (lambda *a: project(*a).transpose(1, 2), r"\(B D N\): swap the last two axes"),
    ]  # fmt: skip


WRONG[check_projection] += [
    (lambda x, w, b, P: patches_by_unfold(x, P) @ w + b, "keeps its weight as"),
    (lambda x, w, b, P: project(x, w.data, b, P), "no gradient reaches `w`"),
    (lambda x, w, b, P: project(x, w, b.detach(), P), "no gradient reaches `b`"),
    (lambda x, w, b, P: project(x, w, b, P).relu(), "an activation stands behind"),
    (lambda x, w, b, P: project(x, w, b, P) + b, "added twice"),
    (lambda x, w, b, P: project(x.mT.contiguous(), w, b, P), "the image is transposed"),
    (
        lambda x, w, b, P: F.unfold(x, P, dilation=(x.shape[2] // P, x.shape[3] // P)).mT @ w.T + b,
        "from all over the image",
    ),
    (lambda x, w, b, P: project(x - x.mean(), w, b, P), "values are not"),
    (lambda x, w, b, P: project(x, w, b, 16), "stopped with|expected"),
]

RIGHT[check_parameters] = [
    lambda P, C, D: (C * P**2 + 1) * D,
    lambda P, C, D: sum(p.numel() for p in torch.nn.Linear(C * P * P, D).parameters()),
]
WRONG[check_parameters] = [
    (lambda P, C, D: C * P * P * D, "the bias has D more"),
    (lambda P, C, D: C * P * P * D + C * P * P, "one number for each output"),
    (lambda P, C, D: C * P * P * D + 1, "not one in all"),
    (lambda P, C, D: D * D + D, "not D"),
    (lambda P, C, D: P * P * D + D, "all C channels"),
    (lambda P, C, D: 3 * P * P * D + D, "3 channels"),
    (lambda P, C, D: C * P * D + D, "P pixels wide"),
    (lambda P, C, D: C * P * P * D + D + 1, "expected 787,456, got 787,457"),
    (lambda P, C, D: "many", "should return a number, not str"),
]

RIGHT[check_weight_from_authors] = [
    lambda kernel: kernel.permute(3, 2, 0, 1).flatten(1),
    lambda kernel: torch.stack([kernel[..., d].permute(2, 0, 1).flatten()
                                for d in range(kernel.shape[3])]),
]  # fmt: skip
WRONG[check_weight_from_authors] = [
    (lambda kernel: kernel.flatten(0, 2).T, "channels are still last"),
    (lambda kernel: kernel.permute(3, 2, 1, 0).flatten(1), "every filter is transposed"),
    (lambda kernel: kernel.permute(2, 0, 1, 3).flatten(0, 2), "this is E"),
    (lambda kernel: kernel.flatten(0, 2), "only flattens"),
    (lambda kernel: kernel.permute(3, 2, 0, 1), "a convolution's kernel"),
    (lambda kernel: kernel.reshape(kernel.shape[3], -1), "a reshape moves nothing"),
    (lambda kernel: kernel.permute(3, 2, 0, 1).flatten(1) * 2, "values are not"),
]


def fold_in_two_lines(weight, bias, mean, std):
    times = weight.shape[1] // len(mean)
    m, s = mean.repeat_interleave(times), std.repeat_interleave(times)
    return weight / s, bias - weight / s @ m


def fold_by_channels(weight, bias, mean, std):
    w = weight.view(len(weight), len(mean), -1) / std[:, None]
    return w.flatten(1), bias - (w.sum(dim=2) * mean).sum(dim=1)


RIGHT[check_fold] = [fold_in_two_lines, fold_by_channels]


def spread(weight, *channels):
    return [c.repeat_interleave(weight.shape[1] // len(c)) for c in channels]


def folded(rule):
    return lambda w, b, mean, std: rule(w, b, *spread(w, mean, std))


WRONG[check_fold] = [
    (folded(lambda w, b, m, s: (w / s, 1 - (w / s) @ m)), "the old bias is lost"),
    (folded(lambda w, b, m, s: (w / s, -(w / s) @ m)), "the old bias is lost"),
    (folded(lambda w, b, m, s: (w / s, b)), "the bias is as it was"),
    (folded(lambda w, b, m, s: (w / s, b + w / s @ m)), "taken off the bias, not added"),
    (folded(lambda w, b, m, s: (w * s, b - w * s @ m)), "divide the weight by std"),
    (folded(lambda w, b, m, s: (w / s, b - w @ m)), "divide the mean by std too"),
    (folded(lambda w, b, m, s: (w, b - w @ m)), "standard deviation is not used"),
    (folded(lambda w, b, m, s: w / s), "should return 2 values, not one"),
    (folded(lambda w, b, m, s: (w / s, b - (w / s @ m).mean())), "the same shift"),
    (folded(lambda w, b, m, s: (w / m, b - w / m @ s)), "mean and std are swapped"),
    (folded(lambda w, b, m, s: (w / s**2, b - w / s**2 @ m)), "std divides twice"),
    (folded(lambda w, b, m, s: ((w - m) / s, b)), "taken off the weights"),
    (folded(lambda w, b, m, s: (w / s, b - w * s @ m)), "in the bias std multiplies"),
    (folded(lambda w, b, m, s: (w * s, b + w @ m)), "undoes a normalisation"),
    (folded(lambda w, b, m, s: (w / s, b - w / s @ m + 1)), "off by .1"),
    (lambda w, b, mean, std: fold_in_two_lines(
        w.view(len(w), len(mean), -1).mT.flatten(1), b, mean, std), "another order"),
    (lambda w, b, mean, std: (w / std.repeat(w.shape[1] // len(std)),
                              b - w / std.repeat(w.shape[1] // len(std))
                              @ mean.repeat(w.shape[1] // len(std))), "repeat_interleave"),
    (lambda w, b, mean, std: (w / std, b - w / std @ mean), "repeat each mean"),
]  # fmt: skip

WRONG[check_projection] += [
    (lambda x, w, b, P: F.conv2d(x, w.view(len(w), -1, P, P), b).flatten(2).mT, "has no stride"),
    (lambda x, w, b, P: F.conv2d(x, w.view(len(w), -1, P, P), b).flatten(2), "has no stride"),
]
WRONG[check_parameters] += [
    (lambda P, C, D: 196 * (C * P * P * D + D), "a layer for each patch"),
    (lambda P, C, D: (224 // P) ** 2 * (C * P * P * D + D), "a layer for each patch"),
]
WRONG[check_weight_from_authors] += [
    (lambda kernel: kernel.permute(2, 0, 1, 3).reshape(kernel.shape[-1], -1), "D is still last"),
    (lambda kernel: kernel.permute(3, 2, 0, 1).reshape(-1, 3 * kernel.shape[0] ** 2),
     "C taken to be 3|expected"),
]  # fmt: skip
