"""Chapter 04: sine-cosine positions."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vit_tutorial.checks.core import Mistakes, check
from vit_tutorial.positions import sincos_positions

Table = Callable[[int, int, int], Tensor]  # from rows, cols and D to positions


def check_sincos(implementation: Table) -> None:
    """Check `my_sincos(rows, cols, D) -> (N D)`; raises CheckFailed with a hint."""
    right = table()
    alternating = (
        "sine and cosine take turns; this book keeps a quarter of D together for each: "
        "sin x, cos x, sin y, cos y."
    )
    exponent = (
        "the exponents do not end at 1: frequency i of n = D/4 is 10000 ** (-i / (n - 1)), "
        "from 1 down to 1/10000."
    )
    one_number = (
        "these are positions in one dimension: only the patch's number counts, so the "
        "patch below is far away. Half of D belongs to the column, half to the row."
    )
    mistakes: Mistakes = [
        (table(order=(2, 3, 0, 1)), "x and y are swapped: the first half of a row tells the column "
         "x, the second half the row y."),
        (table(transposed=True), "the patches go down the columns; reading order goes along a row "
         "first, so x changes fastest."),
        (table(order=(2, 3, 0, 1), transposed=True), "the patches go down the columns, and x and y "
         "are swapped."),
        (table(order=(1, 0, 3, 2)), "cosine stands before sine: the order is sin x, cos x, sin y, "
         "cos y."),
        (table(order=(0, 2, 1, 3)), "your quarters are sin x, sin y, cos x, cos y; keep both of x "
         "together, then both of y: sin x, cos x, sin y, cos y."),
        (table(join=turns), alternating),
        (table(order=(2, 3, 0, 1), join=turns), alternating + " And x and y are swapped."),
        (table(join=four_turns), alternating),
        *((table(divisor=of_n), exponent) for of_n in DIVISORS),
        (table(sign=1), "the frequencies grow to 10000: the exponent is negative."),
        *((table(base=base), f"the frequencies end at 1/{base:.4g}; they go down to 1/10000.")
          for base in (1000.0, 100.0, 10.0, 100000.0, math.e)),
        (table(move=lambda place, n: place + 1), "rows and columns count from 0 here, not from 1."),
        (table(move=lambda place, n: place / n), "places were scaled to 0..1; a step to the next "
         "patch is 1."),
        (table(move=lambda place, n: place / max(n - 1, 1)), "places were scaled to 0..1; a step "
         "to the next patch is 1."),
        (table(move=lambda place, n: 2 * math.pi * place), "there is no 2π in it: the angle is "
         "place times frequency."),
        *((mistake, one_number) for mistake in in_one_dimension()),
        (lambda rows, cols, D: right(rows, cols, D)[None], "drop the leading axis: the result is "
         "(N D)."),
        (lambda rows, cols, D: right(rows, cols, D).view(rows, cols, D), "flatten rows and columns "
         "into one axis: the result is (N D)."),
        (lambda rows, cols, D: torch.cat([torch.zeros(1, D), right(rows, cols, D)]), "there is a "
         "row too many: the class token stands nowhere, so the result is for N patches only."),
        (lambda rows, cols, D: right(rows, cols, D).T, "the result is transposed: one row for each "
         "patch, (N D)."),
    ]  # fmt: skip
    check(implementation, sincos_positions, [(3, 5, 24), (7, 7, 64), (4, 2, 8)], mistakes)


# What the exponents of n frequencies are divided by, where it is not n - 1.
DIVISORS: tuple[Callable[[int], float | int], ...] = (
    lambda n: n, lambda n: 2 * n, lambda n: 4 * n, lambda n: n / 2,
)  # fmt: skip


def waves(
    place: Tensor, n: int, base: float = 1e4, divisor: float | int | None = None, sign: int = -1
) -> list[Tensor]:
    """Sine and cosine of n angles for every place."""
    rates = base ** (sign * torch.arange(n, dtype=torch.float64) / (divisor or n - 1))
    angles = place.flatten()[:, None] * rates
    return [angles.sin(), angles.cos()]


def table(
    order: tuple[int, ...] = (0, 1, 2, 3),  # of sin x, cos x, sin y, cos y
    move: Callable[[Tensor, int], Tensor] = lambda place, n: place,
    join: Callable[[list[Tensor]], Tensor] = lambda parts: torch.cat(parts, dim=1),
    transposed: bool = False,
    divisor: Callable[[int], float | int] = lambda n: n - 1,
    **how: Any,  # base and sign of `waves`
) -> Table:
    """The right table of positions, or a wrong one, by what is given."""

    def fill(rows: int, cols: int, D: int) -> Tensor:
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
        if transposed:
            x, y = x.T, y.T
        n = D // 4
        parts = waves(move(x, cols), n, divisor=divisor(n), **how)
        parts += waves(move(y, rows), n, divisor=divisor(n), **how)
        return join([parts[i] for i in order]).float()

    return fill


def in_one_dimension() -> list[Table]:
    """Eight tables of the patch's number alone: once or twice, in turns or not, two exponents."""

    def flat(twice: bool, alternating: bool, transformer: bool) -> Table:
        def fill(rows: int, cols: int, D: int) -> Tensor:
            n = D // 4 if twice else D // 2
            parts = waves(torch.arange(rows * cols), n, divisor=n if transformer else None)
            one = turns(parts) if alternating else torch.cat(parts, dim=1)
            return (torch.cat([one, one], dim=1) if twice else one).float()

        return fill

    return [flat(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)]


def turns(parts: list[Tensor]) -> Tensor:
    """sin, cos, sin, cos, ... within x, then within y."""
    pairs = [torch.stack(parts[i : i + 2], dim=-1).flatten(1) for i in range(0, len(parts), 2)]
    return torch.cat(pairs, dim=1)


def four_turns(parts: list[Tensor]) -> Tensor:
    """sin x, cos x, sin y, cos y, and again from the first, frequency by frequency."""
    return torch.stack(parts, dim=-1).flatten(1)
