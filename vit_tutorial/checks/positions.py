"""Chapter 04: sine-cosine positions, other tables, and another grid."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vit_tutorial.checks.core import Mistakes, Slips, compare, exercise
from vit_tutorial.positions import resample_positions, sincos_positions

Table = Callable[[int, int, int], Tensor]  # from rows, cols and D to positions


@exercise
def check_sincos(implementation: Table) -> bool:
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
        (table(order=(2, 3, 0, 1)), "x and y are swapped: the first half of a "
         "row tells the column x, the second half the row y."),
        (table(transposed=True), "the patches go down the columns; reading "
         "order goes along a row first, so x changes fastest."),
        (table(order=(2, 3, 0, 1), transposed=True), "the patches go down the "
         "columns, and x and y are swapped: are rows and cols mixed up?"),
        (table(order=(1, 0, 3, 2)), "cosine stands before sine: the order is "
         "sin x, cos x, sin y, cos y."),
        (table(order=(0, 2, 1, 3)), "your quarters are sin x, sin y, cos x, cos "
         "y; keep both of x together, then both of y: sin x, cos x, sin y, cos "
         "y."),
        (table(join=turns), alternating),
        (table(order=(2, 3, 0, 1), join=turns), alternating + " And x and y are swapped."),
        (table(join=four_turns), alternating),
        *((table(divisor=of_n), exponent) for of_n in DIVISORS),
        (table(rates=lambda n: torch.linspace(1, 1e-4, n, dtype=torch.float64)), "the frequencies "
         "fall in equal steps; it is the exponents that do: 10000 ** (-i / (n - 1))."),
        (table(rates=lambda n: 10000 ** torch.linspace(0, 1, n)), "the frequencies grow to 10000: "
         "the exponent is negative."),
        (table(sign=1), "the frequencies grow to 10000: the exponent is negative."),
        *((table(base=base), f"the frequencies end at 1/{base:.4g}; they go down to 1/10000.")
          for base in (1000.0, 100.0, 10.0, 100000.0, math.e)),
        (table(move=lambda place, n: place + 1), "rows and columns count from 0 "
         "here, not from 1."),
        (table(move=lambda place, n: place / n), "places were scaled to 0..1; a "
         "step to the next patch is 1."),
        (table(move=lambda place, n: place / max(n - 1, 1)),
         "places were scaled to 0..1; a step to the next patch is 1."),
        (table(move=lambda place, n: 2 * math.pi * place),
         "there is no 2π in it: the angle is place times frequency."),
        (lambda rows, cols, D: right(max(rows, cols), max(rows, cols), D)[: rows * cols],
         "the grid was taken to be square, and cut off: it has rows and cols."),
        (table(order=(1, 0, 2, 3)), "cosine stands before sine for x: the order is sin x, cos x, "
         "sin y, cos y."),
        (table(order=(0, 1, 3, 2)), "cosine stands before sine for y: the order is sin x, cos x, "
         "sin y, cos y."),
        (table(order=(0, 1, 0, 1)), "both halves tell x: the second half is that of the row, y."),
        (table(order=(2, 3, 2, 3)), "both halves tell y: the first half is that of the column, x."),
        (table(order=(0, 2, 0, 2)), "there are sines only: each place has a cosine too."),
        (table(order=(0, 3, 2, 1)), "sines and cosines of x and y are mixed: sin x, cos x, sin y, "
         "cos y."),
        (lambda rows, cols, D: 0.02 * right(rows, cols, D), "the table is scaled by 0.02; sine and "
         "cosine stay as they are."),
        *((mistake, one_number) for mistake in in_one_dimension()),
        (lambda rows, cols, D: right(rows, cols, D)[None],
         "drop the leading axis: the result is (N D)."),
        (lambda rows, cols, D: right(rows, cols, D).view(rows, cols, D),
         "flatten rows and columns into one axis: the result is (N D)."),
        (lambda rows, cols, D: torch.cat([torch.zeros(1, D), right(rows, cols, D)]),
         "there is a row too many: the class token stands nowhere, so the "
         "result is for N patches only."),
        (lambda rows, cols, D: right(rows, cols, D).T,
         "the result is transposed: one row for each patch, (N D)."),
    ]  # fmt: skip
    trials = [(3, 5, 24), (7, 7, 64), (4, 2, 8)]
    return compare(implementation, sincos_positions, trials, mistakes)


@exercise
def check_dot(implementation: Callable[[int, int, int], float]) -> bool:
    """Check `my_dot(dx, dy, D) -> float`: positions dx columns and dy rows apart, multiplied."""

    def waves_of(D: int, divisor: float | int | None = None, base: float = 1e4) -> Tensor:
        n = D // 4
        return base ** (-torch.arange(n, dtype=torch.float64) / (divisor or n - 1))

    def reference(dx: int, dy: int, D: int) -> float:
        w = waves_of(D)
        return float(((w * dx).cos() + (w * dy).cos()).sum())

    def rule(combine: Callable[[Tensor, Tensor], Tensor]) -> Callable[[int, int, int], float]:
        return lambda dx, dy, D: float(combine(waves_of(D) * dx, waves_of(D) * dy))

    mistakes: Mistakes = [
        (lambda *a: reference(*a) / (a[2] / 4), "this is a mean over the frequencies: a dot "
         "product is a sum."),
        (lambda *a: reference(*a) * 2, "this is twice the product: sine and cosine of a frequency "
         "give one cosine together, so there are D/4 of them for x, and as many for y."),
        (lambda *a: reference(*a) / a[2] ** 0.5, "this is divided by √D: the product itself is "
         "asked for."),
        (lambda *a: -reference(*a), "the sign is turned round."),
        (lambda *a: reference(*a) / (a[2] / 2), "this is the cosine of the "
         "angle between them; the product is D/2 times that."),
        (rule(lambda x, y: x.cos().sum()), "only the columns count so far: add "
         "the cosines of the rows."),
        (rule(lambda x, y: y.cos().sum()), "only the rows count so far: add the "
         "cosines of the columns."),
        (rule(lambda x, y: (x.cos() * y.cos()).sum()),
         "the halves of x and y are added in a dot product, not multiplied."),
        (rule(lambda x, y: (x.sin() + y.sin()).sum()), "sines are added; sin a sin b + cos a cos b "
         "is cos(a - b)."),
        (rule(lambda x, y: (x - y).cos().sum()), "add the two cosines; the difference of the two "
         "angles says nothing."),
        (rule(lambda x, y: (x.square() + y.square()).sqrt().cos().sum()), "the distance along the "
         "diagonal does not count: add a cosine for the columns and one for the rows."),
        (rule(lambda x, y: (x + y).cos().sum()), "add the two cosines, not the "
         "two angles."),
        (rule(lambda x, y: (x.sin() + x.cos() + y.sin() + y.cos()).sum()),
         "sin a sin b + cos a cos b is cos(a - b): only cosines are left."),
        (lambda dx, dy, D: float((waves_of(2 * D, D // 2 - 1) * dx).cos().sum()
                                 + (waves_of(2 * D, D // 2 - 1) * dy).cos().sum()),
         "there are D/4 frequencies for each of x and y, not D/2."),
        *((lambda dx, dy, D, of_n=of_n: float(
            (waves_of(D, of_n(D // 4)) * dx).cos().sum()
            + (waves_of(D, of_n(D // 4)) * dy).cos().sum()),
           "the exponents do not end at 1: frequency i of n = D/4 is 10000 ** (-i / (n - 1)).")
          for of_n in DIVISORS),
        *((lambda dx, dy, D, base=base: float(
            (waves_of(D, base=base) * dx).cos().sum() + (waves_of(D, base=base) * dy).cos().sum()),
           f"the frequencies end at 1/{base:.4g}; they go down to 1/10000.")
          for base in (1000.0, 100.0, 100000.0)),
        (lambda dx, dy, D: float((waves_of(64) * dx).cos().sum() + (waves_of(64) * dy).cos().sum()),
         "the frequencies are those of D = 64 whatever D is: there are D/4 of them."),
    ]  # fmt: skip
    steps = [(0, 0), (1, 0), (1, 1), (3, 0), (3, 3), (-2, 1)]
    trials = [(dx, dy, 64) for dx, dy in steps] + [(1, 2, 32), (0, 4, 24)]
    return compare(implementation, reference, trials, mistakes)


@exercise
def check_two_tables(implementation: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Check `my_two_tables(columns (cols D/2), rows (rows D/2)) -> (N D)`, in reading order."""

    def lay(columns: Tensor, rows: Tensor, swap: bool = False) -> Tensor:
        pairs = [(columns[x], rows[y]) for y in range(len(rows)) for x in range(len(columns))]
        return torch.stack([torch.cat(pair[::-1] if swap else pair) for pair in pairs])

    def down(columns: Tensor, rows: Tensor) -> Tensor:
        grid = lay(columns, rows).view(len(rows), len(columns), -1)
        return grid.transpose(0, 1).flatten(0, 1)

    mistakes: Mistakes = [
        (lambda c, r: lay(c, r, swap=True), "the halves are swapped: the "
         "column's half comes first."),
        (down, "the patches go down the columns; along a row of the grid the "
         "column changes."),
        (lambda c, r: torch.cat([c.repeat(len(r), 1), r.repeat(len(c), 1)], dim=1),
         "the row's half changes with every patch; along a row of the grid it "
         "stays the same."),
        (lambda c, r: torch.cat([c.repeat_interleave(len(r), 0), r.repeat_interleave(len(c), 0)],
                                dim=1),
         "the column's half stays the same along a row of the grid; it changes with every patch: "
         "repeat, not repeat_interleave."),
        (lambda c, r: lay(r, c), "the patches go down the columns, and the halves are swapped: are "
         "the two tables mixed up? The columns' comes first."),
        (lambda c, r: lay(c.flip(0), r), "the columns are counted from the right."),
        (lambda c, r: lay(c, r).mT, "the result is transposed: one row for each patch, (N D)."),
        (lambda c, r: lay(c, r)[None], "drop the leading axis: the result is (N D)."),
        (lambda c, r: torch.cat([c, r]), "the tables stand one above the other; every pair of a "
         "column and a row is a patch, N in all."),
        (lambda c, r: lay(c, r).view(len(r), len(c), -1),
         "flatten rows and columns into one axis: the result is (N D)."),
        (lambda c, r: (c[None] + r[:, None]).flatten(0, 1),
         "the halves are added; put them side by side."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    sizes = [(5, 3, 4), (2, 4, 3), (3, 3, 6)]  # cols rows D/2
    trials = [
        (torch.randn(cols, half, generator=generator), torch.randn(rows, half, generator=generator))
        for cols, rows, half in sizes
    ]
    return compare(implementation, lay, trials, mistakes)


@exercise
def check_relative(implementation: Callable[[Tensor, int, int], Tensor]) -> bool:
    """Check `my_relative_bias(steps (2*rows-1, 2*cols-1), rows, cols) -> (N N)`.

    Row t, column s holds the number for the step from patch t to patch s.
    """

    def look_up(
        row: Callable[..., Any], col: Callable[..., Any], down: bool = False
    ) -> Callable[..., Tensor]:
        def bias(steps: Tensor, rows: int, cols: int) -> Tensor:
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
            y, x = (place.T.flatten() if down else place.flatten() for place in (y, x))
            dy, dx = y[None, :] - y[:, None], x[None, :] - x[:, None]
            return steps[row(dy, rows), col(dx, cols)]

        return bias

    right = look_up(lambda dy, rows: dy + rows - 1, lambda dx, cols: dx + cols - 1)
    mistakes: Mistakes = [
        (look_up(lambda dy, rows: rows - 1 - dy, lambda dx, cols: cols - 1 - dx),
         "the sign is turned: t reads s, so the step is s minus t."),
        (look_up(lambda dy, rows: dy + rows - 1, lambda dx, cols: cols - 1 - dx),
         "the sign of dx is turned: it is the column of s minus the column of t."),
        (look_up(lambda dy, rows: rows - 1 - dy, lambda dx, cols: dx + cols - 1),
         "the sign of dy is turned: it is the row of s minus the row of t."),
        (look_up(lambda dy, rows: dy, lambda dx, cols: dx),
         "the step 0 stands in the middle of the table: add rows - 1 and cols - "
         "1, or negative steps count from the end."),
        (look_up(lambda dy, rows: dy.abs(), lambda dx, cols: dx.abs()),
         "steps to the left and to the right have numbers of their own: no absolute value; the "
         "step 0 stands in the middle of the table, at rows - 1 and cols - 1."),
        (look_up(lambda dy, rows: 0 * dy + rows - 1, lambda dx, cols: dx + cols - 1),
         "only the columns count: the rows' step chooses the row of the table."),
        (look_up(lambda dy, rows: dy + rows - 1, lambda dx, cols: 0 * dx + cols - 1),
         "only the rows count: the columns' step chooses the column of the table."),
        (look_up(lambda dy, rows: dy + rows - 1, lambda dx, cols: dx + cols - 1, down=True),
         "the patches are counted down the columns; reading order goes along a row of "
         "the grid first: the row is t // cols, the column t % cols."),
        (look_up(lambda dy, rows: dy.abs() + rows - 1, lambda dx, cols: dx.abs() + cols - 1),
         "steps to the left and to the right have numbers of their own: no "
         "absolute value."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    trials = [
        (torch.randn(2 * rows - 1, 2 * cols - 1, generator=generator), rows, cols)
        for rows, cols in [(3, 4), (4, 2), (3, 3)]
    ]
    slips: Slips = [
        (r"out of bounds", "an index is too large: rows go with dy + rows - 1, "
         "columns with dx + cols - 1; is one of them used for the other?"),
    ]  # fmt: skip
    return compare(implementation, right, trials, mistakes, slips)


@exercise
def check_resample_positions(
    implementation: Callable[[Tensor, tuple[int, int], tuple[int, int]], Tensor],
) -> bool:
    """Check `my_resample_positions(positions (1 T D), old_grid, new_grid) -> (1 T' D)`.

    The first position is the class token's; grids are (rows, cols); bicubic, with antialias.
    """
    Grid = tuple[int, int]

    def stretch(grid: Tensor, old: Grid, new: Grid, **how: Any) -> Tensor:
        images = grid.mT.reshape(1, -1, *old)
        options: dict[str, Any] = {"mode": "bicubic", "antialias": True} | how
        return F.interpolate(images, size=new, **options).flatten(2).mT

    def rest(**how: Any) -> Callable[[Tensor, Grid, Grid], Tensor]:
        return lambda p, old, new: torch.cat([p[:, :1], stretch(p[:, 1:], old, new, **how)], dim=1)

    def in_a_line(p: Tensor, size: int, mode: str) -> Tensor:
        return F.interpolate(p.mT, size=size, mode=mode).mT

    def turned(p: Tensor, old: Grid, new: Grid) -> Tensor:
        images = p[:, 1:].unflatten(1, old).permute(0, 3, 2, 1)  # (1 D cols rows)
        grid = F.interpolate(images, size=new, mode="bicubic", antialias=True)
        return torch.cat([p[:, :1], grid.flatten(2).mT], dim=1)

    def not_moved_back(p: Tensor, old: Grid, new: Grid) -> Tensor:
        grid = stretch(p[:, 1:], old, new).mT
        return torch.cat([p[:, :1], grid.reshape(1, -1, p.shape[2])], dim=1)

    def unmoved(p: Tensor, old: Grid, new: Grid) -> Tensor:
        return rest()(torch.cat([p[:, :1], p[:, 1:].reshape(1, p.shape[2], -1).mT], 1), old, new)

    def untransposed(p: Tensor, old: Grid, new: Grid) -> Tensor:
        images = p[:, 1:].reshape(1, -1, *old)  # right shape, but D and N are mixed
        grid = F.interpolate(images, size=new, mode="bicubic", antialias=True)
        return torch.cat([p[:, :1], grid.reshape(1, -1, p.shape[2])], dim=1)

    mistakes: Mistakes = [
        (lambda p, old, new: stretch(p[:, 1:], old, new),
         "the class token's position is gone: it stays in front as it is."),
        (lambda p, old, new: torch.cat([stretch(p[:, 1:], old, new), p[:, :1]], dim=1),
         "the class token's position stands last; it comes first."),
        (lambda p, old, new: torch.cat([p[:, :1], stretch(p[:, :-1], old, new)], dim=1),
         "the last position was left out of the grid; leave out the first, the "
         "class token's."),
        (rest(antialias=False), "antialias=True is missing: it matters where "
         "the grid shrinks."),
        (rest(mode="bilinear"), "this is bilinear; this book resamples "
         'bicubically: mode="bicubic".'),
        (rest(mode="bilinear", antialias=False), "this is bilinear, without antialias: "
         'mode="bicubic", antialias=True.'),
        (rest(mode="bilinear", antialias=False, align_corners=True), "this is bilinear, with "
         'align_corners: mode="bicubic", antialias=True, and nothing else.'),
        (rest(mode="area", antialias=False), 'this is a mean over areas: mode="bicubic".'),
        (rest(mode="nearest", antialias=False), 'this is nearest: mode="bicubic".'),
        *((lambda p, old, new, mode=mode: torch.cat(
            [p[:, :1], in_a_line(p[:, 1:], new[0] * new[1], mode)], dim=1), "the positions were "
           "resampled as one line; they lie in a grid, (1 D rows cols), in two directions.")
          for mode in ("linear", "nearest")),
        *((lambda p, old, new, mode=mode: in_a_line(p, 1 + new[0] * new[1], mode), "the positions "
           "were resampled as one line, the class token's among them: take that off first, and lay "
           "the others out as a grid.") for mode in ("linear", "nearest")),
        (not_moved_back, "on the way back a reshape mixes tokens with their numbers: flatten the "
         "grid, then move D to the end."),
        (turned, "the old grid was laid out as (cols, rows): D comes in front, and the rows stay "
         "before the columns."),
        (lambda p, old, new: rest()(torch.cat([p.mean(1, keepdim=True), p[:, 1:]], 1), old, new),
         "the class token got the mean of the positions; it keeps its own."),
        (lambda p, old, new: torch.cat([0 * p[:, :1], stretch(p[:, 1:], old, new)], dim=1),
         "the class token's position is zero; it stays as it is."),
        (rest(align_corners=True), "align_corners=True shifts the grid: leave "
         "it out."),
        (rest(align_corners=True, antialias=False), "align_corners=True shifts "
         "the grid: leave it out, and set antialias=True."),
        *((mistake, "a reshape to (1 D rows cols) mixes tokens with their "
         "numbers: move D in front first.")
          for mistake in (untransposed, unmoved)),
        (lambda p, old, new: rest()(p, old[::-1], new[::-1]),
         "rows and columns are swapped: a grid is (rows, cols)."),
        (lambda p, old, new: rest()(p, old, new[::-1]),
         "the new grid has rows and columns swapped."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    grids = [((3, 4), (6, 8)), ((4, 6), (2, 3)), ((2, 3), (2, 3)), ((2, 6), (3, 4))]
    trials = [
        (torch.randn(1, 1 + old[0] * old[1], 8, generator=generator), old, new)
        for old, new in grids
    ]
    slips: Slips = [
        (r"invalid for input of size|shape|size", "T = 1 + rows · cols: take "
         "the class token's position off first, and do not take the grid to be "
         "square."),
    ]  # fmt: skip
    return compare(implementation, resample_positions, trials, mistakes, slips)


# What the exponents of n frequencies are divided by, where it is not n - 1.
DIVISORS: tuple[Callable[[int], float | int], ...] = (
    lambda n: n, lambda n: 2 * n, lambda n: 4 * n, lambda n: n / 2,
)  # fmt: skip


def waves(
    place: Tensor, n: int, base: float = 1e4, divisor: float | int | None = None, sign: int = -1,
    rates: Callable[[int], Tensor] | None = None,
) -> list[Tensor]:  # fmt: skip
    """Sine and cosine of n angles for every place."""
    powers = base ** (sign * torch.arange(n, dtype=torch.float64) / (divisor or n - 1))
    angles = place.flatten()[:, None] * (rates(n) if rates else powers)
    return [angles.sin(), angles.cos()]


def table(
    order: tuple[int, ...] = (0, 1, 2, 3),  # of sin x, cos x, sin y, cos y
    move: Callable[[Tensor, int], Tensor] = lambda place, n: place,
    join: Callable[[list[Tensor]], Tensor] = lambda parts: torch.cat(parts, dim=1),
    transposed: bool = False,
    divisor: Callable[[int], float | int] = lambda n: n - 1,
    **how: Any,  # base, sign and rates of `waves`
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
