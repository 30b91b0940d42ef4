"""Chapter 14: right styles and mistakes."""

import torch
from torch.nn import functional as F

from vit_tutorial.checks import check_average, check_gap, check_orthogonal

RIGHT, WRONG = {}, {}
# ---- the gap between two ranges


def gap_by_cases(base, other):
    width = max(base) - min(base)
    if min(other) > max(base):
        return (min(other) - max(base)) / width
    return -(min(base) - max(other)) / width if max(other) < min(base) else 0


def gap_by_tensors(base, other):
    a, b = torch.tensor(base), torch.tensor(other)
    return (F.relu(b.min() - a.max()) - F.relu(a.min() - b.max())) / (a.max() - a.min())


RIGHT[check_gap] = [gap_by_cases, gap_by_tensors]
WRONG[check_gap] = [
    (lambda a, b: -gap_by_cases(a, b), "the wrong way round"),
    (lambda a, b: abs(gap_by_cases(a, b)), "sign is missing"),
    (lambda a, b: gap_by_cases(a, b) * (max(a) - min(a)), "divide the gap by the width"),
    (lambda a, b: max(gap_by_cases(a, b), 0.0), "is negative, not 0"),
    (lambda a, b: (sum(b) / len(b) - sum(a) / len(a)) / (max(a) - min(a)), "between the means"),
    (lambda a, b: (min(b) - max(a)) / (max(a) - min(a)), "no gap"),
    (lambda a, b: gap_by_cases(a, b) * (max(a) - min(a)) / ((max(b) - min(b)) or 1),
     "width of `other`"),
    (lambda a, b: gap_by_cases(a, b) > 1, "expected"),
]  # fmt: skip
# ---- the average


def average_by_lerp(average, weights, keep):
    return average.lerp(weights, 1 - keep)


def average_by_moving(average, weights, keep):
    return average + (1 - keep) * (weights - average)


RIGHT[check_average] = [average_by_lerp, average_by_moving]
WRONG[check_average] = [
    (lambda a, w, keep: a.lerp(w, keep), "share"),
    (lambda a, w, keep: (a + w) / 2, "not used"),
    (lambda a, w, keep: keep * a + w, "sum to 1"),
    (lambda a, w, keep: keep * a, "new weights are missing"),
    (lambda a, w, keep: a.mul_(keep).add_((1 - keep) * w), "writes into its input"),
    (lambda a, w, keep: keep * a + (1 - keep) * w.mean(), "values are not"),
]
# ---- orthogonal matrices


def rounds(X, steps, a=3.4445, b=-4.7750, c=2.0315):
    for _ in range(steps):
        A = X @ X.mT
        X = a * X + b * A @ X + c * A @ A @ X
    return X


def scaled(G, dim=(1, 2)):
    return G / (G.square().sum(dim=dim, keepdim=True).sqrt() + 1e-7)


def orthogonal_without_turning(G, steps):
    return rounds(scaled(G), steps)  # the same numbers, by larger products


def orthogonal_one_by_one(G, steps):
    return torch.stack([rounds(g / (g.norm() + 1e-7), steps) for g in G])


RIGHT[check_orthogonal] = [orthogonal_without_turning, orthogonal_one_by_one]
WRONG[check_orthogonal] = [
    (rounds, "not divided by their norm"),
    (lambda G, steps: rounds(scaled(G, (0, 1, 2)), steps), "whole batch"),
    (lambda G, steps: rounds(scaled(G, 2), steps), "values are not"),
    (lambda G, steps: rounds(scaled(G), steps, b=2.0315, c=-4.7750), "swapped"),
    (lambda G, steps: rounds(scaled(G), steps, b=4.7750), "sign of b"),
    (lambda G, steps: rounds(scaled(G), 1), "one round only"),
    (lambda G, steps: rounds(scaled(G), 5), "`steps` is not used"),
    (lambda G, steps: scaled(G), "rounds are missing"),
    (lambda G, steps: rounds(scaled(G), steps).mT, "transposed"),
    (lambda G, steps: rounds(scaled(G), steps + 1), "values are not"),
]
