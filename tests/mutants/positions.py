"""Chapter 04: right styles and mistakes."""

import math

import torch
from torch.nn import functional as F

from vit_tutorial.checks import (
    check_dot,
    check_relative,
    check_resample_positions,
    check_sincos,
    check_two_tables,
)
from vit_tutorial.positions import sincos_positions

RIGHT, WRONG = {}, {}
# ---- fixed positions


def sincos(rows, cols, D, last=None, start=0, scale=lambda side: 1.0, base=10000.0, sign=-1):
    """By loops, as the formula is read, with places to go wrong."""
    n = D // 4
    w = [base ** (sign * i / (last(n) if last else n - 1)) for i in range(n)]
    table = []
    for y in range(start, rows + start):
        for x in range(start, cols + start):
            angles = [[w_i * v * scale(side) for w_i in w] for v, side in ((x, cols), (y, rows))]
            table.append([f(a) for part in angles for f in (math.sin, math.cos) for a in part])
    return torch.tensor(table)


def sincos_by_outer_products(rows, cols, D):
    w = 1 / 10000 ** torch.linspace(0, 1, D // 4, dtype=torch.float64)
    x, y = torch.arange(cols).repeat(rows), torch.arange(rows).repeat_interleave(cols)
    a, b = torch.outer(x.double(), w), torch.outer(y.double(), w)
    return torch.cat((a.sin(), a.cos(), b.sin(), b.cos()), 1)


RIGHT[check_sincos] = [sincos, sincos_by_outer_products]


def quarters(order):
    return lambda rows, cols, D: torch.cat(
        [sincos(rows, cols, D).chunk(4, dim=1)[i] for i in order], dim=1
    )


def down_the_columns(rows, cols, D):
    return sincos(rows, cols, D).view(rows, cols, D).transpose(0, 1).reshape(-1, D)


def by_turns(rows, cols, D):
    sin_x, cos_x, sin_y, cos_y = sincos(rows, cols, D).chunk(4, dim=1)
    pairs = [torch.stack(pair, dim=2).flatten(1) for pair in ((sin_x, cos_x), (sin_y, cos_y))]
    return torch.cat(pairs, dim=1)


def by_number(rows, cols, D):
    n = torch.arange(rows * cols)[:, None]
    angles = n / 10000 ** (torch.arange(D // 2) / (D // 2))
    table = torch.zeros(rows * cols, D)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    return table


WRONG[check_sincos] = [
        (quarters([2, 3, 0, 1]), "x and y are swapped"),
        (down_the_columns, "the patches go down the columns; reading order"),
        (quarters([1, 0, 3, 2]), "cosine stands before sine"),
        (quarters([0, 2, 1, 3]), "your quarters are sin x, sin y"),
        (by_turns, "sine and cosine take turns"),
        (by_number, "positions in one dimension"),
        (lambda r, c, D: sincos(r, c, D, last=lambda n: n), "the exponents do not end at 1"),
        (lambda r, c, D: sincos(r, c, D, sign=1), "the exponent is negative"),
        (lambda r, c, D: sincos(r, c, D, base=1000.0), "the frequencies end at 1/1000"),
        (lambda r, c, D: sincos(r, c, D, start=1), "count from 0 here, not from 1"),
        (lambda r, c, D: sincos(r, c, D, scale=lambda side: 1 / side), r"scaled to 0\.\.1"),
        (lambda r, c, D: sincos(r, c, D, scale=lambda side: 2 * math.pi), "no 2π in it"),
        (lambda r, c, D: sincos(r, c, D)[None], "drop the leading axis"),
        (lambda r, c, D: sincos(r, c, D).view(r, c, D), "flatten rows and columns"),
        (lambda r, c, D: F.pad(sincos(r, c, D), (0, 0, 1, 0)), "a row too many"),
        (lambda r, c, D: sincos(r, c, D).T, "the result is transposed"),
    ]  # fmt: skip


WRONG[check_sincos] += [
    (lambda r, c, D: sincos(max(r, c), max(r, c), D)[: r * c], "the grid was taken to be square"),
    (lambda r, c, D: sincos(c, r, D), "are rows and cols mixed up"),
    (lambda r, c, D: 0.02 * sincos(r, c, D), "scaled by 0.02"),
    (lambda r, c, D: sincos(r, c, D).flip(1), "the right numbers in other places"),
]


def dot_by_formula(dx, dy, D):
    w = 10000 ** -torch.linspace(0, 1, D // 4)
    return ((w * dx).cos() + (w * dy).cos()).sum()


def dot_by_table(dx, dy, D):
    at = sincos_positions(12, 12, D).view(12, 12, D)
    return float(at[5, 5] @ at[5 + dy, 5 + dx])


RIGHT[check_dot] = [dot_by_formula, dot_by_table]


def frequencies(D, n=None):
    return [10000 ** (-i / ((n or D // 4) - 1)) for i in range(n or D // 4)]


WRONG[check_dot] = [
    (lambda dx, dy, D: dot_by_formula(dx, dy, D) / (D / 2), "cosine of the angle"),
    (lambda dx, dy, D: sum(math.cos(w * dx) for w in frequencies(D)), "only the columns"),
    (lambda dx, dy, D: sum(math.cos(w * dy) for w in frequencies(D)), "only the rows"),
    (lambda dx, dy, D: sum(math.cos(w * dx) * math.cos(w * dy) for w in frequencies(D)),
     "not multiplied"),
    (lambda dx, dy, D: sum(math.cos(w * (dx + dy)) for w in frequencies(D)), "not the two angles"),
    (lambda dx, dy, D: sum(math.cos(w * dx) + math.cos(w * dy) for w in frequencies(D, D // 2)),
     "D/4 frequencies"),
    (lambda dx, dy, D: sum(math.cos(dx / 10000 ** (i / (D // 4)))
                           + math.cos(dy / 10000 ** (i / (D // 4))) for i in range(D // 4)),
     "exponents do not end at 1"),
    (lambda dx, dy, D: sum(math.cos(w * dx) + math.cos(w * dy) for w in frequencies(64)),
     "those of D = 64 whatever D is"),
    (lambda dx, dy, D: sum(math.sin(w * dx) + math.sin(w * dy) for w in frequencies(D)),
     "sines are added"),
    (lambda dx, dy, D: dot_by_formula(dx, dy, D) * 4 / D, "a mean over the frequencies"),
    (lambda dx, dy, D: 2 * dot_by_formula(dx, dy, D), "twice the product"),
    (lambda dx, dy, D: -dot_by_formula(dx, dy, D), "the sign is turned"),
    (lambda dx, dy, D: dot_by_formula(dx, dy, D) / math.sqrt(D), "divided by √D"),
    (lambda dx, dy, D: sum(math.cos(w * math.hypot(dx, dy)) for w in frequencies(D)), "diagonal"),
    (lambda dx, dy, D: sum(math.cos(dx / 1000 ** (i / (D // 4 - 1)))
                           + math.cos(dy / 1000 ** (i / (D // 4 - 1))) for i in range(D // 4)),
     "end at 1/1000;"),
    (lambda dx, dy, D: sum(math.cos(dx / 10000 ** (2 * i / D))
                           + math.cos(dy / 10000 ** (2 * i / D)) for i in range(D // 4)),
     "exponents do not end at 1"),
    (lambda dx, dy, D: dot_by_formula(dx, dy, D) + 1e-2, r"expected 32, got 32\.01 "),
]  # fmt: skip


def tables_by_loops(columns, rows):
    return torch.stack([torch.cat([column, row]) for row in rows for column in columns])


def tables_by_repeat(columns, rows):
    return torch.cat([columns.repeat(len(rows), 1), rows.repeat_interleave(len(columns), 0)], 1)


RIGHT[check_two_tables] = [tables_by_loops, tables_by_repeat]
WRONG[check_two_tables] = [
    (lambda c, r: tables_by_repeat(c, r).roll(c.shape[1], 1), "the halves are swapped"),
    (
        lambda c, r: torch.cat([c.repeat_interleave(len(r), 0), r.repeat(len(c), 1)], 1),
        "down the columns",
    ),
    (lambda c, r: torch.cat([c.repeat(len(r), 1), r.repeat(len(c), 1)], 1), "stays the same"),
    (lambda c, r: tables_by_loops(c, r).view(len(r), len(c), -1), "flatten rows and columns"),
    (lambda c, r: c.repeat(len(r), 1) + r.repeat_interleave(len(c), 0), "the halves are added"),
    (lambda c, r: tables_by_loops(r, c), "down the columns, and the halves are swapped"),
    (
        lambda c, r: torch.cat([c.repeat_interleave(len(r), 0), r.repeat_interleave(len(c), 0)], 1),
        "column's half stays the same",
    ),
    (lambda c, r: tables_by_repeat(c.flip(0), r), "counted from the right"),
    (lambda c, r: tables_by_repeat(c, r).T, "transposed"),
    (lambda c, r: torch.cat([c, r]), "one above the other"),
    (lambda c, r: tables_by_repeat(c, r.flip(0)), "the right numbers in other places"),
    (lambda c, r: tables_by_repeat(c, r) * 2, "each is 2 times what it should be"),
    (lambda c, r: tables_by_loops(c.detach(), r), "no gradient reaches `c`"),
]


def bias_by_loops(steps, rows, cols):
    places = [(y, x) for y in range(rows) for x in range(cols)]
    return torch.stack([
        torch.stack([steps[v - y + rows - 1, u - x + cols - 1] for v, u in places])
        for y, x in places
    ])  # fmt: skip


def bias_by_index(steps, rows, cols, sign=1, shift=True, absolute=False, by=None):
    y, x = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).T
    dy, dx = sign * (y - y[:, None]), sign * (x - x[:, None])
    if absolute:
        dy, dx = dy.abs(), dx.abs()
    return steps[dy + shift * (rows - 1), dx + shift * ((by or cols) - 1)]


RIGHT[check_relative] = [bias_by_loops, bias_by_index]
WRONG[check_relative] = [
    (lambda s, r, c: bias_by_index(s, r, c, sign=-1), "the sign is turned: t reads s"),
    (lambda s, r, c: bias_by_index(s.flip(1), r, c), "the sign of dx"),
    (lambda s, r, c: bias_by_index(s.flip(0), r, c), "the sign of dy"),
    (lambda s, r, c: bias_by_index(s, r, c, shift=False), "in the middle of the table"),
    (lambda s, r, c: bias_by_index(s, r, c, absolute=True), "no absolute value"),
    (lambda s, r, c: bias_by_index(s.T, r, c), "an index is too large|An index is too large"),
    (lambda s, r, c: bias_by_index(s, r, c, by=r), "an index is too large"),
    (lambda s, r, c: bias_by_index(s, r, c, shift=False, absolute=True), "at rows - 1"),
    (lambda s, r, c: bias_by_index(s[r - 1 : r].expand_as(s), r, c), "only the columns count"),
    (lambda s, r, c: bias_by_index(s[:, c - 1 : c].expand_as(s), r, c), "only the rows count"),
    (lambda s, r, c: bias_by_index(s.T, c, r), "down the columns"),
    (lambda s, r, c: bias_by_index(s, r, c) + 1, "off by .1"),
    (lambda s, r, c: bias_by_index(s.detach(), r, c), "carries no gradient"),
]


def stretched(positions, old, new, transposed=False, **how):
    D = positions.shape[-1]
    grid = positions[0].T.reshape(1, D, *old)
    how = {"mode": "bicubic", "antialias": True, **how}
    return F.interpolate(grid, size=tuple(new), **how).reshape(1, D, -1).transpose(1, 2)


def resampled_with_the_class_token(p, old, new, **how):
    return torch.cat([p[:, :1], stretched(p[:, 1:], old, new, **how)], dim=1)


def resampled_channel_by_channel(p, old, new):
    columns = [stretched(p[:, 1:, d : d + 1], old, new) for d in range(p.shape[2])]
    return torch.cat([p[:, :1], torch.cat(columns, dim=2)], dim=1)


RIGHT[check_resample_positions] = [resampled_with_the_class_token, resampled_channel_by_channel]


def taken_to_be_square(p, old, new):
    side = int((p.shape[1] - 1) ** 0.5)
    return resampled_with_the_class_token(p, (side, side), new)


def reshaped_without_moving(p, old, new):
    grid = F.interpolate(p[:, 1:].reshape(1, -1, *old), new, mode="bicubic", antialias=True)
    return torch.cat([p[:, :1], grid.reshape(1, -1, p.shape[2])], dim=1)


WRONG[check_resample_positions] = [
    (lambda p, a, b: stretched(p[:, 1:], a, b), "the class token's position is gone"),
    (lambda p, a, b: torch.cat([stretched(p[:, 1:], a, b), p[:, :1]], 1), "stands last"),
    (lambda p, a, b: torch.cat([p[:, :1], stretched(p[:, :-1], a, b)], 1), "the last position"),
    (lambda p, a, b: resampled_with_the_class_token(p, a, b, antialias=False), "antialias=True"),
    (lambda p, a, b: resampled_with_the_class_token(p, a, b, mode="bilinear"), "bilinear"),
    (
        lambda p, a, b: resampled_with_the_class_token(p, a, b, mode="nearest", antialias=False),
        "nearest",
    ),
    (
        lambda p, a, b: resampled_with_the_class_token(p, a, b, align_corners=True),
        "shifts the grid",
    ),
    (lambda p, a, b: resampled_with_the_class_token(p, a[::-1], b[::-1]), "rows and columns"),
    (lambda p, a, b: resampled_with_the_class_token(p, a, b[::-1]), "new grid has rows"),
    (reshaped_without_moving, "mixes tokens with their numbers"),
    (taken_to_be_square, "to be square"),
    (lambda p, a, b: resampled_with_the_class_token(p.detach(), a, b), "carries no gradient"),
    (lambda p, a, b: p, r"expected \(1, 49, 8\)"),
    (
        lambda p, a, b: resampled_with_the_class_token(p, a, b, mode="bilinear", antialias=False),
        "bilinear, without antialias",
    ),
    (
        lambda p, a, b: torch.cat(
            [p[:, :1], F.interpolate(p[:, 1:].mT, b[0] * b[1], mode="linear").mT], 1
        ),
        "as one line; they lie in a grid",
    ),
    (
        lambda p, a, b: F.interpolate(p.mT, 1 + b[0] * b[1], mode="linear").mT,
        "the class token's am",
    ),
    (
        lambda p, a, b: torch.cat([p[:, :1], stretched(p[:, 1:], a, b).mT.reshape(1, -1, 8)], 1),
        "on the way back",
    ),
    (
        lambda p, a, b: torch.cat(
            [
                p[:, :1],
                F.interpolate(
                    p[:, 1:].reshape(1, *a, 8).permute(0, 3, 2, 1),
                    b,
                    mode="bicubic",
                    antialias=True,
                )
                .flatten(2)
                .mT,
            ],
            1,
        ),
        "laid out as .cols, rows",
    ),
    (lambda p, a, b: torch.cat([p.mean(1)[None], stretched(p[:, 1:], a, b)], 1), "the mean of"),
]


def unmoved(p, old, new):
    images = p[:, 1:].reshape(1, p.shape[2], *old)
    grid = F.interpolate(images, size=new, mode="bicubic", antialias=True)
    return torch.cat([p[:, :1], grid.flatten(2).mT], dim=1)


def in_equal_steps(rows, cols, D, w=lambda n: torch.linspace(1, 1e-4, n)):
    w = w(D // 4)
    y, x = (place.flatten()[:, None] * w for place in torch.meshgrid(
        torch.arange(rows), torch.arange(cols), indexing="ij"))  # fmt: skip
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


WRONG[check_resample_positions] += [(unmoved, "mixes tokens with their numbers")]
WRONG[check_sincos] += [
    (in_equal_steps, "fall in equal steps"),
    (lambda *a: in_equal_steps(*a, lambda n: 10000 ** torch.linspace(0, 1, n)), "grow to 10000"),
]
