"""The picture of the whole model that opens every chapter, with that chapter's piece lit."""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, PathPatch
from matplotlib.path import Path as Outline
from torch import Tensor

from vit_tutorial.errors import unknown
from vit_tutorial.figures.palette import MODES, Number, colour, paper, tint
from vit_tutorial.figures.plots import box, canvas, line, rounded
from vit_tutorial.figures.svg import Link, themed_svg

LIT = {  # what each chapter is about
    "patching": {"image", "patches"},
    "projection": {"projection"},
    "class_token": {"class_token", "read"},
    "positions": {"positions"},
    "attention": {"attention"},
    "encoder": {"frame", "norm", "attention", "mlp", "+"},
    "head": {"read", "head"},
    "training": set(),
    "attention_maps": {"image", "patches", "attention", "maps"},
}
WIDE = ((5, 104), (317, 104), (573, 104))  # where each of the three parts begins
STACKED = ((20, 65), (64, 248), (76, 390))  # on a phone, one below the other
AREAS = {  # a page: which of the three parts, its words, and where in that part
    "01_patching": (0, "Chapter 01: the image and its patches", (-3, -50, 138, 100)),
    "02_projection": (0, "Chapter 02: projection", (139, -50, 56, 100)),
    "03_class_token": (0, "Chapter 03: the class token", (200, -66, 42, 132)),
    "04_position_embeddings": (0, "Chapter 04: positions", (247, -66, 60, 132)),
    "05_attention_heads": (1, "Chapter 05: attention", (15, -70, 94, 63)),
    "06_encoder": (1, "Chapter 06: the encoder block", (130, -70, 92, 63)),
    "07_head": (2, "Chapter 07: head and probabilities", (66, -50, 96, 100)),
}
COLUMN = 56  # how far above and below the middle the words of a column of tokens stand
FOUR = (  # the first 4 of MNIST's test images, its middle 20 x 20 pixels at 2 bits each
    "AAAAAAAABwABAAAHAAKAAAsAAYAAHgABwAB8AALAALQAA8AB4AALgALQAA9AA8AALgADgAAuAAKAAD0AAuVavQAAv//8"
    "AAAVULwAAAAAfQAAAAC8AAAAAHwAAAAAvAAAAAD0AA=="
)


def where_we_are(active: str | None = None) -> Figure:
    """The map as a light figure, for the end of a notebook cell."""
    look = paper()
    # before the context: the first figure turns a notebook's display on, and the context's end
    # would turn it off again
    page = {"dpi": look["figure.dpi"], "facecolor": look["figure.facecolor"]}
    figure = plt.figure(figsize=inches(active), **page)
    with plt.rc_context(look):
        model_map(figure.add_axes((0, 0, 1, 1)), active)
    plt.close(figure)  # the cell shows what it returns; left open, the figure would appear twice
    return figure


def draw_map(
    active: str | None, path: str | Path, mode: str = "light", stacked: bool = False
) -> None:
    """Draw the map into a PNG file; the same bytes each time on the same machine."""
    with plt.rc_context(paper(mode)):
        figure = drawn(active, stacked, mode).figure
        figure.savefig(path, format="png", metadata={"Software": None})


def svg_map(active: str | None, title: str, addresses: Mapping[str, str]) -> str:
    """The map inside a page, wide and stacked: its mode's colours, and each piece a link.

    `addresses` leads from the keys of `AREAS` to pages; a piece without one is no link.
    """
    parts = []
    for stacked in (False, True):
        light, dark = (drawn(active, stacked, mode) for mode in MODES)
        origins = STACKED if stacked else WIDE
        links: list[Link] = []
        for page, (part, words, (x, y, width, height)) in AREAS.items():
            if page in addresses:
                left, top = origins[part][0] + x, origins[part][1] + y
                links.append((addresses[page], words, (left, top, width, height)))
        parts.append(themed_svg(light, dark, ("map-wide", "map-phone")[stacked], title, links))
    return "".join(parts)


def drawn(active: str | None, stacked: bool, mode: str) -> Axes:
    with plt.rc_context(paper(mode)):
        figure = Figure(figsize=inches(active, stacked))
        return model_map(figure.add_axes((0, 0, 1, 1)), active, stacked)


def inches(active: str | None = None, stacked: bool = False) -> tuple[float, float]:
    """The size of the map's figure, 100 pixels an inch."""
    if stacked:
        return 3.58, 4.82 if active == "training" else 4.56
    return 7.52, 1.94 if active in ("training", "attention_maps") else 1.70


def model_map(ax: Axes, active: str | None = None, stacked: bool = False) -> Axes:
    """The shipped model from image to probabilities; None lights everything.

    `ax` fills a figure of `inches(active, stacked)`. Raises ValueError for an unknown `active`.
    """
    if active is not None and active not in LIT:
        raise unknown("piece of the model", active, LIT)
    pen, (first, second, third) = Pen(ax, active), STACKED if stacked else WIDE
    embedding(pen, *first)
    encoder(pen, *second, stacked)
    reading(pen, *third, stacked)
    if stacked:  # from row to row, like reading
        for (_, y), (x, below), end, turn in (
            (first, (44, second[1]), 314, 139),
            (second, (76, third[1]), 318, 306),
        ):
            path = ((end, y), (346, y), (346, turn), (12, turn), (12, below), (x, below))
            line(ax, *path, head=below == third[1])
    if active == "training":
        gradients(pen, *third, stacked)
    if active == "attention_maps":
        back_to_the_image(pen, stacked)
    width, height = inches(active, stacked)
    return canvas(ax, 100 * width, 100 * height)


@dataclass(frozen=True)
class Pen:
    """Draws in full what the chapter is about, and the rest quiet but readable."""

    ax: Axes
    active: str | None

    def lit(self, part: str) -> bool:
        everything = self.active in (None, "training")
        return part != "quiet" and (everything or part in LIT[str(self.active)])

    def write(self, x: Number, y: Number, text: str, part: str, **look: Any) -> None:
        lit, everything = self.lit(part), self.active in (None, "training")
        look = {"weight": "bold" if lit and not everything else "normal", "fontsize": 8.5, **look}
        ink = colour("ink" if lit else "quiet")
        self.ax.text(x, y, text, color=ink, ha="center", va="center", **look)

    def name(
        self, x: Number, y: Number, title: str, shape: str, part: str, apart: int = 40
    ) -> None:
        """The piece's name above it, the shape that leaves it below."""
        self.write(x, y - apart, title, part)
        self.write(x, y + apart, shape, part)

    def box(self, x: Number, y: Number, width: Number, height: Number, name: str,
            text: str = "", part: str = "", **look: Any) -> None:  # fmt: skip
        box(self.ax, x, y, width, height, name, text, self.lit(part or name), **look)

    def tokens(self, x: Number, y: Number, names: list[str], part: str = "class_token") -> None:
        """A column of tokens, the first four and the last."""
        for name, up in zip(names, (-36, -22, -8, 6, 36), strict=True):
            first = name == "class_token"
            self.box(x, y + up, 26, 11, name, "", part if first else name, solid=first)
        for up in (17, 21, 25):
            self.ax.add_patch(Circle((x, y + up), 1.1, fc=colour("quiet"), lw=0))


def four() -> Float[Tensor, "1 28 28"]:
    bits = np.unpackbits(np.frombuffer(b64decode(FOUR), np.uint8)).reshape(20, 20, 2)
    return torch.from_numpy(np.pad(bits @ (2, 1) / 3, 4)).unsqueeze(0)


def digit(ax: Axes, x: Number, y: Number, gap: Number, alpha: Number) -> None:
    """The four, 56 pixels wide, its patches apart by `gap` of a patch: squares, as sharp as SVG."""
    side, inside = 8, 8 / (1 + gap)  # of a patch, with its gap and without
    levels = (four()[0] * 3).round()
    corner = [x + side * (i // 4) + (side - inside) / 2 + inside / 4 * (i % 4) for i in range(28)]
    down = [y - x + left for left in corner]
    for level in range(4):  # 0: the paper of whole patches
        size, step = (inside / 4, 1) if level else (inside, 4)
        found = [(corner[c], down[r]) for r in range(0, 28, step) for c in range(0, 28, step)
                 if level == 0 or levels[r, c] == level]  # fmt: skip
        squares = Outline.make_compound_path(*(
            Outline([(a, b), (a + size, b), (a + size, b + size), (a, b + size), (a, b)],
                    closed=True)
            for a, b in found
        ))  # fmt: skip
        look = {"fc": tint("ink", level / 3), "lw": 0, "alpha": alpha, "zorder": 2}
        ax.add_patch(PathPatch(squares, **look))


def embedding(pen: Pen, x: Number, y: Number) -> None:
    """Image, patches, projection, class token and positions; 308 wide.

    Columns are higher than boxes, and so are their names: beside each other they would not fit.
    """
    for left, part, gap in ((x, "image", 0), (x + 74, "patches", 0.3)):
        lit, name = pen.lit(part), part if pen.lit(part) else "quiet"
        look = {"ec": tint(name, 1 if lit else 0.75), "fc": tint(name, 0.6 if lit else 0.3)}
        rounded(pen.ax, left + 29, y, 58, 58, lw=1.6 if lit else 0.8, zorder=1, **look)
        digit(pen.ax, left + 1, y - 28, gap, 1 if lit else 0.55)
    pen.box(x + 168, y, 26, 58, "projection", "linear", rotation=90)
    pen.tokens(x + 221, y, ["class_token"] + 4 * ["projection"])
    pen.tokens(x + 277, y, 5 * ["positions"])
    pen.write(x + 249, y, "+", "positions", fontsize=11)
    pen.name(x + 29, y, "image", "1×28×28", "image")
    pen.name(x + 103, y, "patches", "49×16", "patches")
    pen.name(x + 168, y, "projection", "16→64", "projection")
    pen.name(x + 221, y, "[class]", "50×64", "class_token", COLUMN)
    pen.name(x + 277, y, "positions", "50×64", "positions", COLUMN)
    for start, end in ((60, 72), (134, 153), (182, 206)):
        line(pen.ax, (x + start, y), (x + end, y))


def encoder(pen: Pen, x: Number, y: Number, stacked: bool) -> None:
    """One encoder block, its two branches above the residual stream; 244 wide."""
    edge, width = ("ink", 1.6) if pen.active == "encoder" else ("quiet", 0.8)
    look = {"fc": colour("paper"), "ec": colour(edge), "lw": width, "zorder": 1}
    for back in (6, 3, 0):  # a stack of equal blocks
        rounded(pen.ax, x + 120 + back, y - 26.5 - back, 236, 105, **look)
    line(pen.ax, (x - 20, y), (x + 254, y), head=not stacked)
    for start, wide, name in ((10, 70, "attention"), (127, 62, "mlp")):
        out = x + start + wide + 37
        line(pen.ax, (x + start, y), (x + start, y - 39), (out, y - 39), (out, y - 8))
        pen.box(x + start + 15.5, y - 39, 17, 56, "quiet", "norm", "norm", rotation=90)
        pen.box(x + start + 27.5 + wide / 2, y - 39, wide, 56, name)
        plus = colour("ink" if pen.lit("+") else "quiet")
        pen.ax.add_patch(Circle((out, y), 7, fc=colour("paper"), ec=plus, lw=1.2, zorder=3))
        pen.write(out, y - 0.5, "+", "+", zorder=4)
    for up, word in ((58, "attention"), (20, "4 heads")):
        pen.write(x + 72.5, y - up, word, "attention", zorder=4)
    for up, word in ((58, "MLP"), (39, "64→128"), (22, "→64")):
        pen.write(x + 185.5, y - up, word, "mlp", zorder=4)
    for left, name in ((52.5, "query"), (72.5, "key"), (92.5, "value")):
        pen.box(x + left, y - 39, 16, 16, name, name[0], "attention", solid=True)
    pen.write(x + 120, y - 94, "encoder block, 6 times", "frame")
    pen.write(x + 120, y + 15, "residual stream", "+", fontstyle="italic", weight="normal")
    pen.write(x + 120, y + 40, "50×64 in, 50×64 out", "frame")


def reading(pen: Pen, x: Number, y: Number, stacked: bool) -> None:
    """The last norm, the class token, the head and the probabilities; 174 wide, stacked 204."""
    end = x + (150 if stacked else 120)
    pen.box(x + 8.5, y, 17, 48, "quiet", "norm", "head", rotation=90)
    pen.tokens(x + 42, y, ["class_token"] + 4 * ["quiet"], "read")
    line(pen.ax, (x + 18, y), (x + 28, y))
    line(pen.ax, (x + 56, y - 36), (x + 61, y - 36), (x + 61, y), (x + 71, y))
    pen.box(x + 86, y, 26, 58, "head", "linear", rotation=90)
    line(pen.ax, (x + 100, y), (end - 4, y))
    bars = [2, 4, 3, 1, 30, 2, 3, 4, 2, 6]  # a sketch: this digit is a four
    ink = tint("head", 1) if pen.lit("head") else tint("quiet", 0.6)
    pen.ax.barh(y + np.linspace(-38, 38, 10), bars, 5, end, color=ink)
    pen.name(x + 42, y, "[class]", "64", "read", COLUMN)
    pen.name(x + 86, y, "head", "64→10", "head")
    pen.name(end + 13, y, "probabilities", "10", "head", COLUMN)


def gradients(pen: Pen, x: Number, y: Number, stacked: bool) -> None:
    """From the probabilities to the loss, and from there back to every weight."""
    loss = x + (189 if stacked else 159)
    line(pen.ax, (loss - 6, y - 4), (loss, y - 4), (loss, y + 66))
    box(pen.ax, loss, y + 76, 34, 18, "ink", "loss")
    left, end, words = WIDE[0][0] + 168, y + 52, "gradients, back to every weight"
    if stacked:  # back along the way that the tokens came
        left, end, words = 12, y + 6, "gradients"
    line(pen.ax, (loss - 17, y + 76), (left, y + 76), (left, end))
    line(pen.ax, (x + 86, y + 76), (x + 86, y + 52))
    page = {"backgroundcolor": colour("paper"), "zorder": 5}
    pen.write((left + x + 86) / 2, y + 76, words, "training", **page)


def back_to_the_image(pen: Pen, stacked: bool) -> None:
    """The weights of attention, laid over the patches that they read."""
    (first, y), (second, below) = (STACKED if stacked else WIDE)[:2]
    patches, attention = first + 103, second + 44
    if stacked:
        line(pen.ax, (attention, below - 68), (attention, y + 52), name="attention")
        return
    low = y + 76
    path = ((attention, y - 10), (attention, low), (patches, low), (patches, y + 52))
    line(pen.ax, *path, name="attention")
    page = {"backgroundcolor": colour("paper"), "zorder": 5}
    pen.write((patches + attention) / 2, low, "weights, 6×4×50×50", "maps", **page)
