"""Diagrams that explain one step of the model with the numbers that they are given.

Each function returns what a cell shows: light and dark, for the column and for a phone. Nothing
here loads data or runs a model.
"""

import io
from base64 import b64encode
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isnan
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from PIL import Image
from torch import Tensor

from vit_tutorial.figures.page import PageFigure, for_page
from vit_tutorial.figures.palette import PALETTE, Number, amounts, colour, ink_on, tint
from vit_tutorial.figures.plots import box, canvas, line, pixels

Size = tuple[Number, Number]
Draw = Callable[[Axes, bool], Any]


def diagram(draw: Draw, wide: Size, phone: Size) -> PageFigure:
    """Let `draw(ax, stacked)` draw on a page of so many CSS pixels."""

    def fill(figure: Figure, stacked: bool) -> None:
        figure.set_layout_engine("none")
        ax = canvas(figure.add_axes((0, 0, 1, 1)), *(phone if stacked else wide))
        draw(ax, stacked)

    return for_page(fill, (wide[0] / 100, wide[1] / 100), (phone[0] / 100, phone[1] / 100))


def write(ax: Axes, x: Number, y: Number, text: str, **look: Any) -> None:
    look = {"ha": "center", "va": "center", "color": colour("ink"), "fontsize": 8.5, **look}
    ax.text(x, y, text, zorder=5, **look)


def quiet(ax: Axes, x: Number, y: Number, text: str, **look: Any) -> None:
    write(ax, x, y, text, color=colour("quiet"), **look)


def cells(
    ax: Axes, x: Number, y: Number, values: Float[Tensor, "rows cols"], name: str,
    size: Size = (26, 20), title: str = "", scale: Number | None = None,
) -> None:  # fmt: skip
    """A small matrix with its left upper corner at (x, y), in its piece's colour.

    With a `scale` its cells are tinted by their amounts; a number that is not known is a dot.
    """
    wide, high = size
    halves = bool(((2 * values) % 1 == 0).all())  # round numbers need no decimals
    for row, numbers in enumerate(values.tolist()):
        for col, number in enumerate(numbers):
            fill = amounts()(number / scale) if scale else tint(name)
            at = (x + col * wide, y + row * high)
            look = {"fc": fill, "ec": tint(name, 0.8), "lw": 0.8, "zorder": 3}
            ax.add_patch(Rectangle(at, wide, high, **look))
            ink = ink_on(fill[:3]) if scale else colour("ink")
            text = "·" if isnan(number) else f"{number:g}" if halves else f"{number:.2f}"
            write(ax, at[0] + wide / 2, at[1] + high / 2, text, color=ink)
    write(ax, x + wide * values.shape[1] / 2, y - 10, title, weight="bold")


# ---- 05: one head --------------------------------------------------------------------------------


def one_head(
    z: Float[Tensor, "T D"],
    q: Float[Tensor, "T d"],
    k: Float[Tensor, "T d"],
    v: Float[Tensor, "T d"],
    reader: int = 0,
) -> PageFigure:
    """How one head works, from tokens to the answer for one `reader`, and many heads beside it.

    The room is made for three tokens of D = 4 numbers and roles of d = 2.
    """
    scores = q @ k.T
    shares = (scores[reader] / q.shape[-1] ** 0.5).softmax(dim=-1)

    def draw(ax: Axes, stacked: bool) -> None:
        roles(ax, z, q, k, v)
        row = scores_of(ax, scores, reader)
        x, y, side = (60, 312, 92) if stacked else (386, 180, 0)
        line(ax, (344, row), (354, row), (354, y + 11), (x + side, y + 11))
        if stacked:
            line(ax, (182, 272), (182, 292), (14, 292), (14, y + 66), (x - 22, y + 66))
        else:
            line(ax, (210, 244), (x - 22, 244))
        weighted_mean(ax, x, y, v, shares, reader)
        many_heads(ax, *((38, 446) if stacked else (372, 14)), shares @ v)

    return diagram(draw, (660, 284), (358, 620))


def roles(ax: Axes, z: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
    """The tokens, and what each of them asks, offers and tells."""
    cells(ax, 24, 120, z, "projection", (20, 20), "tokens z")
    for t in range(len(z)):
        quiet(ax, 14, 130 + 20 * t, f"{t + 1}")
    line(ax, (106, 150), (112, 150), head=False)
    words = {"query": ("q", "asks"), "key": ("k", "offers"), "value": ("v", "tells")}
    for (name, (letter, word)), values, y in zip(
        words.items(), (q, k, v), (34, 124, 214), strict=True
    ):
        middle = y + 10 * len(values)
        line(ax, (112, 150), (112, middle), (118, middle))
        box(ax, 134, middle, 30, 22, name, f"$W_{letter}$")
        line(ax, (150, middle), (158, middle))
        cells(ax, 160, y, values, name, (24, 20), f"{letter}: {word}")


def scores_of(ax: Axes, scores: Float[Tensor, "T T"], reader: int) -> float:
    """Every query meets every key; the reader's row is framed. The height of that row."""
    T, (x, y) = len(scores), (246, 54)
    cells(ax, x, y, scores, "quiet", (32, 22), "scores  q kᵀ")
    for t in range(T):
        quiet(ax, x - 12, y + 11 + 22 * t, f"$q_{t + 1}$")
        quiet(ax, x + 16 + 32 * t, y + 22 * T + 10, f"$k_{t + 1}$")
    look = {"fill": False, "ec": colour("query"), "lw": 2.2, "zorder": 6}
    ax.add_patch(Rectangle((x, y + 22 * reader), 32 * T, 22, **look))
    line(ax, (210, 64), (x - 22, 64))
    line(ax, (210, 154), (x + 16 * T, 154), (x + 16 * T, y + 22 * T + 19))
    return y + 22 * reader + 11.0


def weighted_mean(
    ax: Axes, x: Number, y: Number, v: Tensor, shares: Float[Tensor, "T"], reader: int
) -> None:
    """The softmax of one row, each value's share as a bar, and the mean that they give."""
    box(ax, x + 46, y + 11, 92, 22, "query", f"÷ √{v.shape[-1]}, softmax")
    line(ax, (x + 46, y + 22), (x + 46, y + 32))
    high = 20 * len(shares)
    ax.plot((x, x), (y + 34, y + 34 + high), color=colour("quiet"), lw=0.8)
    for t, share in enumerate(shares.tolist()):
        middle = y + 44 + 20 * t
        look = {"fc": colour("query"), "lw": 0, "zorder": 3}
        ax.add_patch(Rectangle((x, middle - 7), 80 * share, 14, **look))
        write(ax, x + 84, middle, f"{share:.1%}", ha="left")
        quiet(ax, x - 11, middle, f"$v_{t + 1}$")
    middle = y + 34 + high / 2
    line(ax, (x + 130, middle), (x + 166, middle))
    quiet(ax, x + 146, middle - 10, "sum")
    cells(
        ax, x + 170, middle - 11, (shares @ v)[None], "value", (40, 22), f"token {reader + 1} gets"
    )


def many_heads(ax: Axes, x: Number, y: Number, answer: Float[Tensor, "d"]) -> None:
    """Two heads with matrices of their own; their answers side by side, and mixed."""
    write(ax, x + 140, y, "many heads, each with its own matrices", weight="bold")
    for head, left in enumerate((x + 30, x + 160)):
        box(ax, left + 46, y + 30, 104, 28, "quiet", "", lit=False)
        quiet(ax, left + 20, y + 30, f"head {head + 1}")
        for i, (name, letter) in enumerate((("query", "q"), ("key", "k"), ("value", "v"))):
            box(ax, left + 54 + 16 * i, y + 30, 14, 16, name, letter, solid=True)
        into = x + 108 + 66 * head
        line(ax, (left + 46, y + 44), (left + 46, y + 56), (into, y + 56), (into, y + 68))
    blank = torch.full((1, 2), torch.nan)
    cells(ax, x + 75, y + 70, answer[None], "value", (33, 20))
    cells(ax, x + 141, y + 70, blank, "value", (33, 20))
    line(ax, (x + 141, y + 90), (x + 141, y + 98))
    box(ax, x + 141, y + 109, 88, 22, "quiet", "$U_{msa}$ mixes")
    line(ax, (x + 141, y + 120), (x + 141, y + 128))
    cells(ax, x + 97, y + 130, torch.full((1, 4), torch.nan), "projection", (22, 18))
    quiet(ax, x + 192, y + 139, "D numbers", ha="left")


# ---- 06: the block -------------------------------------------------------------------------------


def block(pre: Float[Tensor, "L 3"], post: Float[Tensor, "L 5"]) -> PageFigure:
    """One block in both orders; the stream is as wide as its tokens were measured to be long.

    `pre` holds for each block the length of the stream as it comes in, after attention is added
    and after the MLP is added; `post` as it comes in, after each addition and after each norm.
    Above is the first block, below all of them. Both orders have one scale.
    """
    longest = max(pre.max().item(), post.max().item())

    def draw(ax: Axes, stacked: bool) -> None:
        for i, (kind, lengths) in enumerate((("pre-norm", pre), ("post-norm", post))):
            x, y = (14, 230 * i) if stacked else (4 + 334 * i, 0)
            write(ax, x, y + 12, kind, ha="left", weight="bold", fontsize=10)
            inside_a_block(ax, x, y + 116, lengths[0].tolist(), 26 / longest, i == 0)
            through_all(ax, x, y + 192, lengths, 26 / longest)

    return diagram(draw, (660, 226), (358, 456))


def inside_a_block(
    ax: Axes, x: Number, y: Number, lengths: Sequence[float], scale: Number, pre: bool
) -> None:
    """Attention and MLP beside the stream; `scale` is how wide a token of length 1 is drawn."""
    stops = (0, 158, 286, 318) if pre else (0, 108, 140, 236, 272, 318)
    for (start, end), length in zip(pairwise(stops), lengths, strict=True):
        wide = max(1.5, scale * length)
        at = (x + start, y - wide / 2)
        look = {"fc": tint("projection", 0.6), "lw": 0, "zorder": 1}
        ax.add_patch(Rectangle(at, end - start, wide, **look))
        quiet(ax, x + (start + end) / 2, y + 35, f"{length:.1f}")
    branches = ((20, 98, 80, 158), (178, 240, 44, 286)) if pre else (
        (14, 59, 70, 108), (158, 197, 50, 236))  # fmt: skip
    words = (("attention", "attention"), ("mlp", "MLP"))
    for (leave, middle, wide, back), (name, word) in zip(branches, words, strict=True):
        corner, out = (x + leave, y - 54), (x + back, y - 54)
        line(ax, (x + leave, y), corner, out, (x + back, y - 8))
        box(ax, x + middle, y - 54, wide, 44, name, word)
        if pre:
            box(ax, x + leave + 22, y - 54, 18, 50, "quiet", "norm", rotation=90)
        else:
            box(ax, x + back + 32, y, 18, 50, "quiet", "norm", rotation=90)
        ring = {"fc": colour("paper"), "ec": colour("ink"), "lw": 1.2, "zorder": 4}
        ax.add_patch(Circle((x + back, y), 7, **ring))
        write(ax, x + back, y - 0.5, "+")


def through_all(
    ax: Axes, x: Number, y: Number, lengths: Float[Tensor, "L points"], scale: Number
) -> None:
    """The stream through all blocks, from the first block's input to the last one's output."""
    along = torch.cat([lengths[:1, 0], lengths[:, -1]])  # before the first, and after each
    places = x + 28 + 258 * torch.arange(len(along)) / (len(along) - 1)
    half = (scale * along / 2).clamp(min=0.75)
    ax.fill_between(places, y - half, y + half, color=tint("projection", 0.6), lw=0)
    quiet(ax, x + 22, y, f"{along[0]:.1f}", ha="right")
    quiet(ax, x + 292, y, f"{along[-1]:.1f}", ha="left")
    quiet(ax, x + 157, y + 21, f"the stream through all {len(lengths)} blocks")


# ---- 01: from patches to rows --------------------------------------------------------------------

INK = 0.38  # of full ink behind a number, so that it is readable on every cell
UNROLL = """
.vit-unroll{MODE_LIGHT}html[data-theme=dark] .vit-unroll{MODE_DARK}
.vit-unroll{max-width:480px;margin:0 auto}
.vit-unroll svg{display:block;width:100%;height:auto}
.vit-unroll svg{fill:var(--u-ink);font:12px sans-serif}
.vit-unroll .n{text-anchor:middle;dominant-baseline:central}
.vu{stroke:var(--u-quiet);stroke-width:.6}
.vit-unroll :is(.k,.f rect){fill:none;stroke:var(--u-patches);stroke-width:2}
.vit-unroll .g{fill:none;stroke:var(--u-quiet);stroke-width:.5;opacity:.6}
.vit-unroll :is(.d,.f){opacity:0}
.vit-unroll label{display:none;padding:.4rem 0;cursor:pointer}
@media screen and (prefers-reduced-motion:no-preference){
.vit-unroll label{display:inline-block}
.vit-unroll:has(:checked) .l{animation:vu-l .8s backwards}
.vit-unroll:has(:checked) .u{animation:vu-u .5s backwards;animation-delay:calc(1.1s + .4s*var(--k))}
.vit-unroll:has(:checked) .d{animation:vu-d 4.3s 3.3s}
.vit-unroll:has(:checked) .t{animation:vu-t 3.5s steps(49) 4.1s backwards}
.vit-unroll:has(:checked) .f{animation:vu-y 3.5s steps(7) 4.1s}
.vit-unroll:has(:checked) .f rect{animation:vu-x .5s steps(7) 4.1s 7}}
@keyframes vu-l{from{transform:translate(var(--x),var(--y)) scale(.2083)}}
@keyframes vu-u{from{transform:translate(var(--x),var(--y))}}
@keyframes vu-d{0%{opacity:1}18%,99%{opacity:1;transform:translateY(var(--y)) scaleY(.125)}}
@keyframes vu-t{from{clip-path:inset(0 0 100% 0)}to{clip-path:inset(0)}}
@keyframes vu-y{from,99%{opacity:1}to{opacity:1;transform:translateY(140px)}}
@keyframes vu-x{to{transform:translateX(140px)}}
"""


def unrolling(image: Float[Tensor, "28 28"], number: int = 18) -> PageFigure:
    """Patch `number` lifts, unrolls into 16 numbers and drops into its row, as all 49 do.

    The book's page shows an SVG that moves when the reader asks for it; a notebook stores a still.
    """
    rows = image.unfold(0, 4, 4).unfold(1, 4, 4).reshape(49, 16)
    row, col = (number - 1) // 7, (number - 1) % 7
    values, at = rows[number - 1].view(4, 4), (8 + 20 * col, 24 + 20 * row)
    words = [(8, 16, "an image of 49 patches"), (230, 26, f"patch {number}")]
    words += [(8, 186, "unrolled: 16 numbers"), (8, 252, f"49 rows: this one is row {number}")]
    strip = 262 + 3 * (number - 1)  # where in the table the row lies

    def still(ax: Axes, stacked: bool) -> None:
        for x, y, text in words:
            write(ax, x, y - 4, text, ha="left")
        look = {"interpolation": "nearest", "aspect": "auto", "zorder": 1}
        ax.imshow(pixels(image[None]), extent=(8, 148, 164, 24), **look)
        ax.imshow(pixels(rows[None]), extent=(8, 392, 409, 262), **look)
        canvas(ax, 400, 416)
        for i in range(8):
            for xs, ys in (((8 + 20 * i,) * 2, (24, 164)), ((8, 148), (24 + 20 * i,) * 2)):
                ax.plot(xs, ys, color=tint("quiet", 0.6), lw=0.4)
        line(ax, (at[0] + 21, at[1] + 10), (226, 82), name="patches")
        for x, y, wide, high in ((*at, 20, 20), (7, strip - 1, 386, 5), (8, 262, 384, 147)):
            name = "quiet" if high > 20 else "patches"
            edge = {"fill": False, "ec": colour(name), "lw": 0.4 if high > 20 else 1.2}
            ax.add_patch(Rectangle((x, y), wide, high, zorder=3, **edge))
        for k, numbers in enumerate(values.tolist()):
            for i, value in enumerate(numbers):
                for x, y in ((230 + 24 * i, 34 + 24 * k), (8 + 96 * k + 24 * i, 196)):
                    fill = {"fc": tint("ink", INK * value), "ec": tint("quiet", 0.8), "lw": 0.6}
                    ax.add_patch(Rectangle((x, y), 24, 24, **fill))
                    write(ax, x + 12, y + 12, f"{255 * value:.0f}", fontsize=7)

    svg = unrolling_svg(image, rows, values, at, words, strip)
    picture = diagram(still, (400, 416), (400, 416)).pictures["wide-light"]
    return PageFigure({"wide-light": picture, "inline-svg": svg.encode()}, width=400)


def unrolling_svg(
    image: Tensor, rows: Tensor, values: Float[Tensor, "4 4"], at: Size,
    words: Sequence[tuple[int, int, str]], strip: Number,
) -> str:  # fmt: skip
    """The same picture as an SVG in the page's colours; with its box checked, it moves once."""
    light, dark = (
        "".join(f"--u-{name}:{PALETTE[name][mode]};" for name in ("ink", "quiet", "patches"))
        for mode in (0, 1)
    )
    css = UNROLL.replace("MODE_LIGHT", light).replace("MODE_DARK", dark).replace("\n", "")
    strips = "".join(
        f'<g id="vu{k}">'
        + "".join(
            f'<rect class="vu" x="{24 * i}" width="24" height="24" '
            f'fill-opacity="{INK * value:.2f}"/>'
            f'<text x="{24 * i + 12}" y="12">{255 * value:.0f}</text>'
            for i, value in enumerate(numbers)
        )
        + "</g>"
        for k, numbers in enumerate(values.tolist())
    )
    lifted = "".join(f'<use href="#vu{k}" y="{24 * k}"/>' for k in range(4))
    in_line = "".join(f'<use href="#vu{k}" x="{96 * k}"/>' for k in range(4))
    unrolled = "".join(
        f'<g class="u" style="--k:{k};--x:{222 - 96 * k}px;--y:{24 * k - 162}px">'
        f'<use href="#vu{k}" x="{96 * k}"/></g>'
        for k in range(4)
    )
    grid = "".join(f"M{8 + 20 * i} 24v140M8 {24 + 20 * i}h140" for i in range(8))
    return (
        f'<div class="vit-unroll"><style>{css}</style>'
        '<label><input type="checkbox"> Play: lift, unroll, drop</label>'
        '<svg viewBox="0 0 400 416" role="img" aria-label="A patch of a digit is cut out, its '
        'pixels are put into one row of 16 numbers, and the row goes into a table of 49 rows.">'
        f"<defs>{strips}{as_mask('vu-i', image, 8, 24, 140, 140)}"
        f"{as_mask('vu-t', rows, 8, 262, 384, 147)}</defs>"
        + "".join(f'<text x="{x}" y="{y}">{text}</text>' for x, y, text in words)
        + '<rect x="8" y="24" width="140" height="140" mask="url(#vu-i)"/>'
        f'<path class="g" d="{grid}"/>'
        f'<path class="k" d="M{at[0]} {at[1]}h20v20h-20zM{at[0] + 20} {at[1]}L230 34M{at[0] + 20} '
        f'{at[1] + 20}L230 130"/><g class="f"><rect x="8" y="24" width="20" height="20"/></g>'
        '<rect class="t" x="8" y="262" width="384" height="147" mask="url(#vu-t)"/>'
        '<path class="g" d="M8 262h384v147h-384z"/>'
        f'<path class="k" d="M7 {strip - 1}h386v5h-386z"/>'
        f'<g class="n" transform="translate(8 196)">{unrolled}'
        f'<g class="d" style="--y:{strip - 196}px">{in_line}</g></g>'
        f'<g class="n" transform="translate(230 34)"><g class="l" style="--x:{at[0] - 230}px;'
        f'--y:{at[1] - 34}px">{lifted}</g></g></svg></div>'
    )


def as_mask(
    name: str, values: Float[Tensor, "rows cols"], x: int, y: int, wide: int, high: int
) -> str:
    """Numbers from 0 to 1 as a mask: what is filled through it shows them in the fill's colour."""
    file = io.BytesIO()
    Image.fromarray((255 * values).byte().numpy()).save(file, "PNG", optimize=True)
    return (
        f'<mask id="{name}"><image x="{x}" y="{y}" width="{wide}" height="{high}" '
        'preserveAspectRatio="none" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{b64encode(file.getvalue()).decode()}"/></mask>'
    )


# ---- 02: from a patch to a token -----------------------------------------------------------------


def patch_to_token(patch: Float[Tensor, "P P"], E: Float[Tensor, "D P2"]) -> PageFigure:
    """One patch unrolls into a row; a question is a column of E, and each answer one number.

    For small patches of one channel; the first three questions and the last one are drawn.
    """
    row, answers = patch.flatten(), E @ patch.flatten()
    asked = [0, 1, 2, len(E) - 1]

    def draw(ax: Axes, stacked: bool) -> None:
        P, wide = len(patch), min(20, 320 // row.numel())
        shade(ax, 24, 38, patch, 88 / P)
        write(ax, 68, 26, f"a patch, {P} × {P}", weight="bold")
        x, y = (24, 186) if stacked else (160, 66)
        line(ax, (68, 130), (68, y - 28), head=True) if stacked else line(
            ax, (118, 82), (x - 6, 82)
        )
        shade(ax, x, y, row[None], wide)
        write(
            ax,
            x + wide * row.numel() / 2,
            y - 12,
            f"unrolled: {row.numel()} numbers",
            weight="bold",
        )
        questions(ax, *((24, 256) if stacked else (160, 136)), E, answers, asked)

    return diagram(draw, (660, 290), (358, 410))


def questions(
    ax: Axes, x: Number, y: Number, E: Tensor, answers: Tensor, asked: Sequence[int]
) -> None:
    """A few rows of E as little pictures of the patch's size, and below them what they answer."""
    P, largest = round(E.shape[1] ** 0.5), E.abs().max().item()
    write(ax, x, y - 14, f"{len(E)} questions, each a column of E", ha="left", weight="bold")
    for i, d in enumerate(asked):
        left = x + 64 * i + (22 if i == len(asked) - 1 else 0)
        shade(ax, left, y, E[d].reshape(P, P), 52 / P, largest)
        line(ax, (left + 26, y + 55), (left + 26, y + 76))
        cells(ax, left, y + 78, answers[d].reshape(1, 1), "projection", (52, 22))
        quiet(ax, left + 26, y + 110, f"number {d + 1}")
    for height in (26, 89):
        quiet(ax, x + 64 * 3 + 5, y + height, "· ·")
    quiet(ax, x, y + 130, "product and sum: one number of the token for each", ha="left")


def shade(
    ax: Axes, x: Number, y: Number, values: Float[Tensor, "rows cols"], size: Number,
    scale: Number | None = None,
) -> None:  # fmt: skip
    """Numbers as squares without words: ink on paper, or with a `scale` blue and rust around 0."""
    colours = amounts(signed=True)
    for row, numbers in enumerate(values.tolist()):
        for col, number in enumerate(numbers):
            fill = colours(0.5 + number / scale / 2) if scale else tint("ink", number)
            look = {"fc": fill, "ec": tint("patches", 0.6), "lw": 0.6, "zorder": 3}
            ax.add_patch(Rectangle((x + size * col, y + size * row), size, size, **look))


# ---- 03: the class token's way -------------------------------------------------------------------


def class_token_path(layers: int = 6, patches: int = 4) -> PageFigure:
    """In every block the class token reads the patches; after the last the head reads it alone."""
    levels = {316: "tokens", 232: "after block 1", 148: f"after block {layers}"}

    def draw(ax: Axes, stacked: bool) -> None:
        apart, thin = 47 if stacked else 84, {"color": tint("quiet", 0.45), "lw": 0.6, "zorder": 1}
        places = [30, *(36 + apart * i for i in range(1, patches + 1))]
        for y, word in levels.items():
            for i, place in enumerate(places):
                name, wide = ("projection", 40) if i else ("class_token", 52)
                box(ax, place, y, wide, 24, name, f"{i}" if i else "[class]", solid=i == 0)
            quiet(ax, places[-1] + 34, y, word, ha="left")
        for low, high in pairwise(levels):
            for i, place in enumerate(places):
                ink = "quiet" if i else "class_token"
                line(ax, (place, low - 12), (place, high + 13), name=ink)
                for other in places[1:] if i else ():  # the patches read one another too
                    ax.plot((place, other), (low - 12, high + 13), **thin)
                if i:
                    line(ax, (place - 5, low - 12), (places[0] + 8, high + 13), name="attention")
        quiet(ax, places[0] - 14, 190, "...", rotation=90)
        line(ax, (places[0], 136), (places[0], 84), name="class_token")
        box(ax, places[0], 70, 52, 28, "head", "head")
        write(ax, places[0] + 36, 70, "reads the class token alone", ha="left")
        line(ax, (places[0], 56), (places[0], 34))
        write(ax, places[0] + 36, 24, "one score for each class", ha="left")
        shade(ax, places[0] - 25, 18, torch.tensor([[0.1, 0.05, 0.9, 0.1, 0.15]]), 10)

    return diagram(draw, (660, 336), (358, 336))


# ---- 04: adding positions ------------------------------------------------------------------------


def adding_positions(
    tokens: Float[Tensor, "N D"], positions: Float[Tensor, "N D"], order: Sequence[int] = (2, 0, 1)
) -> PageFigure:
    """The same tokens in two orders: as a set they are alike, their sums with positions are not.

    The room is made for three tokens of three numbers.
    """

    def draw(ax: Axes, stacked: bool) -> None:
        rows = list(range(len(tokens)))
        for i, (title, now) in enumerate((("in order", rows), ("shuffled", list(order)))):
            x, y = (22, 140 * i) if stacked else (22 + 332 * i, 0)
            write(ax, x - 14, y + 14, title, ha="left", weight="bold", fontsize=10)
            wide = 100 / tokens.shape[1]
            parts = [("projection", tokens[now], "tokens"), ("positions", positions, "positions")]
            parts.append(("ink", tokens[now] + positions, "sum"))
            for j, (name, values, word) in enumerate(parts):
                at = x + 104 * j
                cells(ax, at, y + 50, values, name, (wide * 0.8, 22), word)
                sign = ("", "+", "=")[j]
                write(ax, at - 12, y + 83, sign, fontsize=11)
            for row, token in enumerate(now):
                quiet(ax, x - 9, y + 61 + 22 * row, "abcdefgh"[token])

    return diagram(draw, (660, 126), (358, 270))


# ---- 07: the whole model, step by step -----------------------------------------------------------


def model_steps(steps: Sequence[tuple[str, str, str, int]]) -> PageFigure:
    """From image to logits: for each step its piece, its name, the shape it gives, its parameters.

    The bars share one scale, from 0.
    """
    most = max(parameters for *_, parameters in steps) or 1

    def draw(ax: Axes, stacked: bool) -> None:
        shape_at, bar_at, room = (116, 196, 90) if stacked else (190, 320, 260)
        for at, word in ((12, "step"), (shape_at, "shape"), (bar_at, "parameters")):
            quiet(ax, at, 12, word, ha="left")
        for i, (piece, name, shape, parameters) in enumerate(steps):
            y = 38 + 28 * i
            ax.add_patch(Rectangle((4, y - 10), 4, 20, fc=colour(piece), lw=0))
            write(ax, 14, y, name, ha="left")
            write(ax, shape_at, y, shape, ha="left")
            bar = {"fc": colour(piece), "lw": 0}
            ax.add_patch(Rectangle((bar_at, y - 8), room * parameters / most, 16, **bar))
            after = bar_at + room * parameters / most + 6
            write(ax, after, y, f"{parameters:,}" if parameters else "none", ha="left")
            if i:
                line(ax, (6, y - 18), (6, y - 11))

    high = 52 + 28 * len(steps)
    return diagram(draw, (660, high), (358, high))
