"""Chapter 14: a rule for differences, an average of the weights, and Muon's matrices."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vit_tutorial.checks.core import Mistakes, compare, exercise
from vit_tutorial.lab.optim import orthogonal

Numbers = Sequence[float]


@exercise
def check_gap(implementation: Callable[[Numbers, Numbers], float]) -> bool:
    """Check `my_gap(base, other) -> float`; raises CheckFailed with a hint.

    The signed gap between the ranges of two lists of numbers, in widths of the first.
    """

    def over(base: Numbers, other: Numbers) -> float:
        return max(min(other) - max(base), 0.0) - max(min(base) - max(other), 0.0)

    def width(numbers: Numbers) -> float:
        return max(numbers) - min(numbers)

    def mean(numbers: Numbers) -> float:
        return sum(numbers) / len(numbers)

    mistakes: Mistakes = [
        (lambda a, b: -over(a, b) / width(a),
         "the sign is the wrong way round: positive where `other` lies above `base`."),
        (lambda a, b: abs(over(a, b)) / width(a),
         "the sign is missing: negative where `other` lies below `base`."),
        (lambda a, b: over(a, b), "divide the gap by the width of `base`, its largest number "
         "less its smallest."),
        (lambda a, b: over(a, b) / (width(b) or 1),
         "the gap is divided by the width of `other`; the unit is the spread of `base`."),
        (lambda a, b: (mean(b) - mean(a)) / width(a), "this is the distance between the means; "
         "the gap lies between the ranges, and is 0 where they overlap."),
        (lambda a, b: max(over(a, b), 0) / width(a),
         "where `other` lies below `base` the gap is negative, not 0."),
        (lambda a, b: (min(b) - max(a)) / width(a), "where the ranges overlap, or `other` lies "
         "below, this is no gap: it is 0 in the first case, and in the second it lies on the "
         "other side."),
    ]  # fmt: skip
    trials = [
        ([3.0, 3.5, 4.0], [4.5, 6.0]),
        ([3.0, 3.5, 4.0], [1.0, 0.5]),
        ([3.0, 3.5, 4.0], [3.5, 7.0]),
        ([2.0, 4.0], [1.0, 5.0]),
        ([1.0, 3.0, 2.0], [9.0]),
    ]
    return compare(implementation, lambda a, b: over(a, b) / width(a), trials, mistakes)


@exercise
def check_average(implementation: Callable[[Tensor, Tensor, float], Tensor]) -> bool:
    """Check `my_average(average, weights, keep) -> the new average`; CheckFailed has a hint."""
    mistakes: Mistakes = [
        (lambda a, w, keep: keep * w + (1 - keep) * a, "`keep` is the share of the average that "
         "stays; here it is the share of the new weights, which count (1 - keep)."),
        (lambda a, w, keep: (a + w) / 2, "`keep` is not used: this is a plain mean of the two."),
        (lambda a, w, keep: keep * a + w, "the two shares have to sum to 1: the weights count "
         "(1 - keep)."),
        (lambda a, w, keep: keep * a, "the new weights are missing."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (2, 4), (1,)]
    trials = [
        (torch.randn(shape, generator=generator), torch.randn(shape, generator=generator), keep)
        for shape, keep in zip(shapes, (0.9, 0.98, 0.25), strict=True)
    ]
    return compare(
        implementation, lambda a, w, keep: keep * a + (1 - keep) * w, trials, mistakes,
        gradients=False,
    )  # fmt: skip


@exercise
def check_orthogonal(implementation: Callable[[Tensor, int], Tensor]) -> bool:
    """Check `my_orthogonal(gradients (B m n), steps) -> (B m n)`; CheckFailed has a hint."""

    def rounds(X: Tensor, steps: int, a: float = 3.4445, b: float = -4.7750, c: float = 2.0315,
               turn: bool = True) -> Tensor:  # fmt: skip
        tall = turn and X.shape[1] > X.shape[2]
        X = X.mT if tall else X
        for _ in range(steps):
            A = X @ X.mT
            X = a * X + (b * A + c * A @ A) @ X
        return X.mT if tall else X

    def scaled(G: Tensor, axes: tuple[int, ...]) -> Tensor:
        return G / (G.square().sum(dim=axes, keepdim=True).sqrt() + 1e-7)

    mistakes: Mistakes = [
        (rounds, "the gradients are not divided by their norm: with singular values above 1 the "
         "rounds run away."),
        (lambda G, steps: rounds(scaled(G, (0, 1, 2)), steps), "one norm was taken of the whole "
         "batch; each matrix is divided by its own: dim=(1, 2)."),
        (lambda G, steps: rounds(scaled(G, (1, 2)), steps, b=2.0315, c=-4.7750),
         "b and c are swapped: b goes with A, c with A @ A."),
        (lambda G, steps: rounds(scaled(G, (1, 2)), steps, b=4.7750), "the sign of b is lost: it "
         "is -4.7750."),
        (lambda G, steps: rounds(scaled(G, (1, 2)), 1), "one round only: repeat it `steps` times."),
        (lambda G, steps: rounds(scaled(G, (1, 2)), 5), "`steps` is not used: there are always "
         "five rounds."),
        (lambda G, steps: scaled(G, (1, 2)), "only the norm is taken off; the rounds are missing."),
        (lambda G, steps: rounds(scaled(G, (1, 2)), steps).mT, "the result is transposed: turn a "
         "matrix back only if you turned it."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    trials = [
        (torch.randn(shape, generator=generator, dtype=torch.float64) / 10, steps)
        for shape, steps in (((2, 3, 5), 5), ((3, 6, 2), 3), ((1, 4, 4), 5), ((2, 5, 3), 4))
    ]
    return compare(implementation, orthogonal, trials, mistakes, gradients=False)
