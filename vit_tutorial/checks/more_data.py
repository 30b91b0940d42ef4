"""Chapter 11: parts of a data set drawn fairly, and a curve read sideways."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vit_tutorial.checks.core import CheckFailed, Mistakes, Slips, compare, exercise


@exercise
def check_part(implementation: Callable[[int, int, int], Any]) -> bool:
    """Check `my_part(M, share, seed) -> M row numbers` of a nested part of `share` percent.

    The kept rows are drawn by the seed and repeated to M; smaller parts lie within larger ones.
    """

    @wraps(implementation)
    def judged(M: int, seed: int) -> Any:
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        rows: dict[int, list[int]] = {}
        for share in (1, 4, 10, 100):
            if (got := implementation(M, share, seed)) is None:
                return None
            rows[share] = torch.as_tensor(got).tolist()
        untouched = torch.equal(before, torch.get_rng_state())
        again = torch.as_tensor(implementation(M, 10, seed)).tolist()
        other = torch.as_tensor(implementation(M, 10, seed + 1)).tolist()
        fault = fault_of(M, rows) or fault_of_seed(untouched, rows[10], again, other)
        if fault:
            raise CheckFailed(f"{implementation.__name__}: {fault}")
        return 1

    slips: Slips = [
        (r"division by zero|modulo", "how many rows are kept? M * share // 100."),
    ]  # fmt: skip
    trials = [(1051, 0), (730, 3)]
    return compare(judged, lambda M, seed: 1, trials, [], slips, gradients=False)


def fault_of(M: int, rows: dict[int, list[int]]) -> str:
    """What is wrong with the rows of each share; empty if nothing is."""
    for share, row in rows.items():
        kept, size = set(row), M * share // 100
        often = [row.count(k) for k in list(kept)[:50]]
        if len(row) != M:
            return f"{len(row)} rows and not {M}: repeat the kept ones."
        if not kept <= set(range(M)):
            return "rows count from 0 to M - 1."
        if len(kept) != size:
            return (f"{len(kept)} different rows for {share} %, not {size}; randint draws some "
                    "twice and some never: use randperm.")  # fmt: skip
        if max(often) - min(often) > 1:
            return "some rows come far oftener than others: repeat the whole list, then cut."
    if not set(rows[1]) < set(rows[4]) < set(rows[10]):
        return "1 % must lie within 4 %: shuffle all M by the seed, keep the first."
    return ""


def fault_of_seed(untouched: bool, drawn: list[int], again: list[int], other: list[int]) -> str:
    """What is wrong with the use of the seed; empty if nothing is."""
    if set(drawn) == set(range(len(set(drawn)))):
        return "these are the first images, not a draw."
    if not untouched:
        return ("the global random numbers were used, so whatever is random afterwards changes: "
                "make a torch.Generator of your own.")  # fmt: skip
    if drawn != again:
        return "the same seed must draw the same rows."
    if set(drawn) == set(other):
        return "another seed should draw other images."
    return ""


@exercise
def check_needed(
    implementation: Callable[[Sequence[float], Sequence[float], float], float],
) -> bool:
    """Check `my_needed(shares, accuracies, target) -> share`: where a curve first reaches a target.

    Between two points it runs straight on a logarithmic axis of shares; math.inf if it never does.
    """

    def crossing(
        shares: Sequence[float], accuracies: Sequence[float], target: float, *,
        between: Any = lambda a, b, part: a * (b / a) ** part, last: bool = False,
        beyond: float = math.inf,
    ) -> float:  # fmt: skip
        if accuracies[0] >= target:
            return float(shares[0])
        found = [
            float(between(a, b, (target - low) / (high - low)))
            for (a, low), (b, high) in pairwise(zip(shares, accuracies, strict=True))
            if low < target <= high
        ]
        return found[-1 if last else 0] if found else beyond

    mistakes: Mistakes = [
        (lambda *a: crossing(*a, between=lambda x, y, part: x + (y - x) * part),
         "this is a straight line in shares; the axis is logarithmic: left * "
         "(right / left) ** part."),
        (lambda *a: crossing(*a, between=lambda x, y, part: y),
         "this is a recorded share; go between it and the one before."),
        (lambda *a: crossing(*a, between=lambda x, y, part: x),
         "this is a recorded share; go between it and the next."),
        (lambda *a: crossing(*a, between=lambda x, y, part: (x * y) ** 0.5),
         "half-way is right only where the target is half-way: use the part of "
         "the way that it is."),
        (lambda *a: crossing(*a, between=lambda x, y, part: y * (x / y) ** part),
         "the part of the way is counted from the wrong end."),
        (lambda *a: crossing(*a, last=True), "the curve dips later on: the "
         "first crossing counts."),
        (lambda s, a, t: crossing(s, a, t, beyond=float(s[-1])),
         "where the target is never reached the answer is math.inf, not the "
         "last share."),
    ]  # fmt: skip
    shares, rising = [1.0, 10.0, 100.0], [0.5, 0.7, 0.8]
    trials: list[tuple[Any, ...]] = [(shares, rising, t) for t in (0.6, 0.725, 0.81, 0.4, 0.8, 0.7)]
    trials += [([1.0, 10.0, 100.0, 1000.0], [0.5, 0.7, 0.6, 0.9], 0.65)]
    slips: Slips = [
        (r"index out of range", "at the last share there is no next one: go "
         "over pairs of neighbours."),
        (r"division by zero", "two neighbours may have the same accuracy."),
    ]  # fmt: skip
    return compare(implementation, crossing, trials, mistakes, slips, gradients=False)


@exercise
def check_conv_matrix(implementation: Callable[[Tensor, int, int], Tensor]) -> bool:
    """Check `my_conv_matrix(kernel (3 3), H, W) -> G (H*W H*W)`: G x is the convolution of x."""

    def matrix(kernel: Tensor, H: int, W: int, mode: str = "constant") -> Tensor:
        ones = F.pad(torch.eye(H * W).view(-1, 1, H, W), (1, 1, 1, 1), mode)
        return F.conv2d(ones, kernel[None, None]).flatten(1).T

    mistakes: Mistakes = [
        (lambda k, H, W: matrix(k.flip(0, 1), H, W), "the kernel is flipped, or G transposed: "
         "row i is what pixel i of the result reads, and g[0, 0] is for the pixel up left of it."),
        (lambda k, H, W: matrix(k.T, H, W), "rows and columns of the kernel are swapped."),
        (lambda k, H, W: matrix(k, H, W, "circular"), "it wraps around: the left neighbor of "
         "the first pixel of a row is no pixel at all, not the last one of the row."),
        (lambda k, H, W: matrix(k, W, H), "the pixels are counted with H and W swapped: "
         "pixel (y, x) has number y * W + x."),
    ]  # fmt: skip
    dice = torch.Generator().manual_seed(0)
    trials = [(torch.randn(3, 3, generator=dice), H, W) for H, W in ((6, 6), (3, 5), (4, 2))]
    return compare(implementation, matrix, trials, mistakes, gradients=False)


@exercise
def check_cnn_flops(implementation: Callable[[int, int, int, int], float]) -> bool:
    """Check `my_flops(C, width, K, side)` of one image in a CNN of three halving convolutions.

    Its widths are width, 2 width and 4 width; then a mean over places and one linear layer to K.
    """

    def flops(
        C: int, width: int, K: int, side: int, *, each: int = 2, head: bool = True,
        up: bool = True, after: bool = True,
    ) -> int:  # fmt: skip
        total, widths = 0, (C, width, 2 * width, 4 * width)
        for old, new in pairwise(widths):
            smaller = -(-side // 2) if up else side // 2
            total += each * 9 * old * new * (smaller if after else side) ** 2
            side = smaller
        return total + each * head * 4 * width * K

    mistakes: Mistakes = [
        (lambda *a: flops(*a, each=1), "a product and a sum are two: FLOPs are twice that."),
        (lambda *a: flops(*a, head=False), "the linear layer at the end is missing."),
        (lambda *a: flops(*a, after=False), "a layer's places are those of its *result*: "
         "halve the side first."),
        (lambda *a: flops(*a, up=False), "7 is halved to 4 here, not to 3."),
    ]  # fmt: skip
    trials = [(1, 39, 10, 28), (3, 40, 10, 32), (2, 5, 3, 21)]
    return compare(implementation, flops, trials, mistakes, gradients=False)
