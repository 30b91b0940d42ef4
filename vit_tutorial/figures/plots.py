"""The drawings that chapters share.

Each drawing draws what it is given on the Axes it is given, and returns them. Nothing here loads
data, runs a model or shows a figure. Tensors may live on any device; images are float in 0..1 or
uint8, with one channel (drawn as ink on paper) or three (drawn in their own colours).
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, Num
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from torch import Tensor

from vit_tutorial.figures.palette import Number, amounts, colour, ink_on, paper, rgb, tint

__all__ = [
    "amounts", "box", "canvas", "colour", "line", "paper", "show_attention",
    "show_attention_grid", "show_confusion", "show_curves", "show_images", "show_matrix",
    "show_patches", "show_positions", "tint", "token_row",
]  # fmt: skip

Point = tuple[Number, Number]

# ---- diagrams ------------------------------------------------------------------------------------


def canvas(ax: Axes, width: Number, height: Number) -> Axes:
    """Let one unit be one CSS pixel where `ax` is width/100 x height/100 inches; y goes down."""
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.axis("off")
    return ax


def box(
    ax: Axes,
    x: Number,
    y: Number,
    width: Number,
    height: Number,
    name: str,
    text: str = "",
    lit: bool = True,
    solid: bool = False,
    **font: Any,
) -> Axes:
    """A rounded box around (x, y): in its piece's colour where lit, a quiet outline where not."""
    edge = colour(name) if lit else tint("quiet", 0.75)
    fill = tint(name, 1 if solid else 0.16) if lit else tint("quiet", 0.10)
    rounded(ax, x, y, width, height, fc=fill, ec=edge, lw=1.6 if lit else 0.8, zorder=3)
    ink = ink_on(fill) if lit and solid else colour("ink" if lit else "quiet")
    look = {"ha": "center", "va": "center", "color": ink, "fontsize": 8.5, **font}
    ax.text(x, y, text, zorder=4, **look)
    return ax


def rounded(ax: Axes, x: Number, y: Number, width: Number, height: Number, **look: Any) -> None:
    corners = f"round,pad=0,rounding_size={min(4, width / 4, height / 3)}"
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(FancyBboxPatch(corner, width, height, corners, **look))


def line(ax: Axes, *points: Point, head: bool = True, name: str = "quiet") -> Axes:
    """A line through the points, with an arrow head at its end."""
    steps = list(pairwise(points))
    for a, b in steps:
        last = head and (a, b) == steps[-1]
        style = "-|>,head_length=2.6,head_width=1.5" if last else "-"
        ax.add_patch(
            FancyArrowPatch(
                a, b, arrowstyle=style, color=colour(name), lw=1, shrinkA=0, shrinkB=0, zorder=2,
                capstyle="round",
            )
        )  # fmt: skip
    return ax


def token_row(
    ax: Axes, labels: Sequence[object], shape: str = "", name: str = "projection"
) -> Axes:
    """Tokens in reading order, 54 pixels each; "[class]" is solid, None stands for many others."""
    for i, label in enumerate(labels):
        first = label == "[class]"
        if label is None:
            ax.text(27 + 54 * i, 22, "· · ·", ha="center", va="center", color=colour("quiet"))
        else:
            piece = "class_token" if first else name
            box(ax, 27 + 54 * i, 22, 52 if first else 46, 30, piece, str(label), solid=first)
    end = 54 * len(labels)
    line(ax, (4, 44), (4, 50), (end - 4, 50), (end - 4, 44), head=False)
    ax.text(end / 2, 60, shape, ha="center", va="center", color=colour("ink"))
    return canvas(ax, end, 68)


# ---- images --------------------------------------------------------------------------------------


def pixels(image: Num[Tensor, "C H W"]) -> Float[np.ndarray, "H W 3"]:
    """The image as the page shows it: one channel as ink on paper, three in their own colours."""
    values = image.detach().cpu().float().numpy() / (1 if image.is_floating_point() else 255)
    if values.ndim != 3 or len(values) not in (1, 3):
        shape = tuple(image.shape)
        raise ValueError(f"expected an image of shape (1, H, W) or (3, H, W), got {shape}")
    if values.size and not -1e-3 <= values.min() <= values.max() <= 1.001:
        raise ValueError(
            f"expected an image in 0..1 or uint8, got values from {values.min():.3g} to "
            f"{values.max():.3g}: undo the normalisation first"
        )
    shown = np.moveaxis(values.clip(0, 1), 0, -1)
    if len(values) == 3:
        return shown.astype(float)
    return rgb(colour("paper")) + (rgb(colour("ink")) - rgb(colour("paper"))) * shown


def patches_apart(
    picture: Float[np.ndarray, "H W 3"], P: int, gap: Number = 0.12
) -> Float[np.ndarray, "H2 W2 4"]:
    """The picture as RGBA with clear gaps around its patches, each `gap` of a patch wide."""
    H, W = picture.shape[:2]
    if P < 1 or H % P or W % P:
        raise ValueError(f"patches of {P} x {P} pixels do not tile an image of {H} x {W}")
    finer = max(1, round(40 / P))  # so that the gap is a whole number of the new pixels
    rgba = np.dstack([picture, np.ones((H, W))]).repeat(finer, 0).repeat(finer, 1)
    rim = max(1, round(gap / 2 * P * finer))
    cut = rearrange(rgba, "(r h) (c w) k -> r h c w k", h=P * finer, w=P * finer)
    cut = np.pad(cut, ((0, 0), (rim, rim), (0, 0), (rim, rim), (0, 0)))
    return rearrange(cut, "r h c w k -> (r h) (c w) k")


def show_images(
    ax: Axes,
    images: Num[Tensor, "B C H W"],
    labels: Sequence[object] | None = None,
    columns: int | None = None,
) -> Axes:
    """A contact sheet in reading order, at most ten images a row unless `columns` says otherwise.

    Each label stands below its image. Raises ValueError unless there is one label for each image.
    """
    words = [""] * len(images) if labels is None else [str(label) for label in labels]
    if len(words) != len(images) or not words:
        raise ValueError(
            f"expected one label for each of 1 or more images, got {len(words)} for {len(images)}"
        )
    H, W = images.shape[-2:]
    columns = columns or max(1, min(len(images), 10))
    rows, wide, high = -(-len(images) // columns), 1.08 * W, 1.08 * H
    room = 13 * max((word.count("\n") + bool(word) for word in words), default=0)
    width, height = size_in_points(ax)
    high += room / min(width / (columns * wide), max(1, height - rows * room) / (rows * high))
    for i, (image, word) in enumerate(zip(images, words, strict=True)):
        x, y = i % columns * wide, i // columns * high
        # many a photograph is shown smaller than it is: "nearest" would leave pixels out
        ax.imshow(pixels(image), extent=(x, x + W, y + H, y), interpolation="antialiased")
        frame = Rectangle((x, y), W, H, fc="none", ec=tint("quiet", 0.4), lw=0.8, clip_on=False)
        ax.add_patch(frame)
        middle, below = (x + W / 2, y + H), (0, -3)
        ax.annotate(word, middle, below, textcoords="offset points", ha="center", va="top")
    return canvas(ax, columns * wide - 0.08 * W, rows * high - 0.08 * H)


def show_patches(ax: Axes, image: Num[Tensor, "C H W"], P: int, numbers: bool = True) -> Axes:
    """The image cut into P x P patches, numbered from 1 in reading order (0 is the class token).

    Raises ValueError if P does not divide H and W.
    """
    cut = patches_apart(pixels(image), P)
    rows, cols = image.shape[-2] // P, image.shape[-1] // P
    ax.add_patch(Rectangle((0, 0), cols, rows, fc=tint("patches", 0.45), lw=0))
    ax.imshow(cut, extent=(0, cols, rows, 0), interpolation="nearest", zorder=1)
    halo = [patheffects.withStroke(linewidth=2, foreground=colour("paper"))]
    for n in range(rows * cols if numbers else 0):
        x, y = n % cols + 0.11, n // cols + 0.11
        ax.text(x, y, str(n + 1), va="top", fontsize=8.5, path_effects=halo)
    return canvas(ax, cols, rows)


# ---- attention -----------------------------------------------------------------------------------


def show_attention(
    ax: Axes,
    image: Num[Tensor, "C H W"],
    weights: Float[Tensor, "rows cols"],
    scale: Number | None = None,
    bar: bool = True,
) -> Axes:
    """How much is read from each patch: opaque weights, so that a colour has one meaning.

    The image lies on top, a digit as its outline and a photograph as smaller patches (not where a
    patch has less than 5 points). Panels that are compared get one `scale` (the weight of the
    strongest colour) and one of them the bar, in percent, with a mark at the even share 1/N.
    Raises ValueError if the grid and image do not fit.
    """
    shown, picture = numbers_of(weights), pixels(image)
    H, W, P = *picture.shape[:2], max(1, picture.shape[0] // max(1, len(shown)))
    if shown.shape != (H / P, W / P):
        grid = " x ".join(map(str, shown.shape))
        raise ValueError(f"a grid of {grid} square patches does not fit an image of {H} x {W}")
    highest = float(scale or shown.max()) or 1.0
    colours = ax.imshow(shown, cmap=amounts(), extent=(0, W, H, 0), vmin=0, vmax=highest)
    if len(image) == 1:
        outline(ax, numbers_of(image[0]))
    elif min(size_in_points(ax)) >= 5 * max(shown.shape):
        cut = patches_apart(picture, P, gap=0.5)
        ax.imshow(cut, extent=(0, W, H, 0), interpolation="antialiased")
    ax.set(xlim=(0, W), ylim=(H, 0), xticks=[], yticks=[])
    ax.spines[:].set(visible=True, linewidth=0.8)
    if bar:
        mark_even_share(weights_bar(ax, colours, percent=True), 1 / shown.size)
    return ax


def show_attention_grid(
    axes: np.ndarray,
    image: Num[Tensor, "C H W"],
    maps: Float[Tensor, "L h rows cols"],
    scale: Number | None = None,
) -> np.ndarray:
    """One row of panels for each block and one column for each head, all on one scale.

    `axes` is what `plt.subplots(L, h, squeeze=False)` gives; the last panel has the bar.
    """
    if axes.shape != maps.shape[:2]:
        raise ValueError(f"expected axes of shape {tuple(maps.shape[:2])}, got {axes.shape}")
    scale = scale or float(maps.max())
    for layer, head in np.ndindex(axes.shape):
        last = (layer + 1, head + 1) == axes.shape
        ax = show_attention(axes.item(layer, head), image, maps[layer, head], scale, bar=last)
        ax.set_title(f"head {head + 1}" if layer == 0 else "")
        ax.set_ylabel(f"block {layer + 1}" if head == 0 else "")
    return axes


def show_positions(
    ax: Axes,
    similarity: Float[Tensor, "rows cols rows cols"],
    scale: Number | None = None,
    bar: bool = True,
) -> Axes:
    """The paper's Figure 7: a panel for each patch, which holds its similarity to all patches.

    The panels lie as the patches do. Blue is above zero, rust below, the page is zero. Tables that
    are compared get one `scale`, and one of them the bar.
    """
    values = numbers_of(similarity)
    if values.ndim != 4 or values.shape[:2] != values.shape[2:]:
        raise ValueError(f"expected a similarity of (rows, cols, rows, cols), got {values.shape}")
    rows, cols = values.shape[:2]
    gaps = ((0, 0), (0, 0), (0, 1), (0, 1))
    panels = rearrange(np.pad(values, gaps, constant_values=np.nan), "r c y x -> (r y) (c x)")
    scale, extent = scale or np.abs(values).max() or 1.0, (0, cols, rows, 0)
    cmap = amounts(signed=True).with_extremes(bad=tint("quiet", 0.3))
    shown = ax.imshow(panels[:-1, :-1], cmap=cmap, extent=extent, vmin=-scale, vmax=scale)
    ax.set(xlabel="patch's column", ylabel="patch's row")
    for axis, n in ((ax.xaxis, cols), (ax.yaxis, rows)):
        some = np.arange(0, n, -(-n // 10))
        axis.set_ticks(some + 0.5, [str(i + 1) for i in some])
        axis.set_tick_params(length=0)
    ax.spines[:].set(visible=True, linewidth=0.8)
    if bar:
        weights_bar(ax, shown)
    return ax


def numbers_of(values: Num[Tensor, "..."]) -> Num[np.ndarray, "..."]:
    return (values.float() if values.is_floating_point() else values).detach().cpu().numpy()


def outline(ax: Axes, image: Num[np.ndarray, "H W"]) -> None:
    """The outline of a digit at half its ink: a dark line in a light one, seen on any weight."""
    half, thin = image.max() / 2, min(size_in_points(ax)) < 110
    if half <= image.min():
        return  # an even image has no outline
    down, right = (np.arange(n) + 0.5 for n in image.shape)
    for width, name in ((1.8 if thin else 2.8, "paper"), (0.8 if thin else 1.2, "ink")):
        ax.contour(right, down, image, [half], colors=[colour(name)], linewidths=width)


def weights_bar(ax: Axes, shown: AxesImage, percent: bool = False) -> Colorbar:
    """A colour bar, 12 pixels wide, to the right of the Axes; it takes no room from them."""
    width = 9 / min(size_in_points(ax))
    side = ax.inset_axes((1 + 1.2 * width, 0, width, 1))
    form = FuncFormatter(lambda share, _: f"{100 * share:.3g}%") if percent else None
    bar = ax.figure.colorbar(shown, cax=side, format=form, ticks=MaxNLocator(5))
    bar.outline.set_linewidth(0.8)
    return bar


def mark_even_share(bar: Colorbar, share: float) -> None:
    """A mark where every patch gets the same: what lies above it is more than nothing."""
    bar.ax.plot(-0.45, share, ">", color=colour("ink"), ms=4, clip_on=False)
    bar.ax.set_xlabel(f"\u25b8 even: {share:.1%}", loc="left", labelpad=7)


def size_in_points(ax: Axes) -> tuple[float, float]:
    extent = ax.get_window_extent()
    return extent.width / ax.figure.dpi * 72, extent.height / ax.figure.dpi * 72


# ---- numbers -------------------------------------------------------------------------------------


def show_matrix(
    ax: Axes,
    matrix: Num[Tensor, "rows cols"],
    row_labels: Sequence[object],
    column_labels: Sequence[object],
    numbers: bool = True,
    form: str = ".2f",
    scale: float | int | None = None,
) -> Axes:
    """A small matrix with its numbers, on attention's scale; on the signed one if any is below 0.

    `scale` is the value of the darkest colour: give matrices that are compared the same one. Raises
    ValueError unless there is one label for each row and each column.
    """
    values = numbers_of(matrix)
    scale, signed = scale or float(np.abs(values).max()) or 1.0, bool(values.min() < 0)
    shown = ax.imshow(values, cmap=amounts(signed), vmin=-scale if signed else 0, vmax=scale)
    label_cells(ax, values.shape, row_labels, column_labels)
    for (row, col), value in np.ndenumerate(values if numbers else np.zeros((0, 0))):
        word = f"{value:{form}}".replace("-", "\u2212")  # a true minus
        write_in_cell(ax, row, col, word, ink_on(shown.to_rgba(value)))
    return ax


def show_confusion(ax: Axes, matrix: Int[Tensor, "K K"], classes: Sequence[object]) -> Axes:
    """How often each true class (row) was taken for each class (column); zeros are not written.

    The diagonal, what was right, stays quiet, so that the colours belong to the errors.
    Raises ValueError unless there is one name for each class.
    """
    values = numbers_of(matrix)
    right = np.eye(len(values), dtype=bool)
    errors = np.where(right, 0, values)
    cells = np.array(amounts()(errors / max(1, errors.max())))[..., :3]
    cells[right] = tint("quiet", 0.12)
    ax.imshow(cells)
    label_cells(ax, values.shape, classes, classes)
    ax.set(xlabel="predicted", ylabel="true class")
    for (row, col), count in np.ndenumerate(values):
        ink = colour("quiet") if row == col else ink_on(cells[row, col])
        write_in_cell(ax, row, col, str(count or ""), ink)
    return ax


def label_cells(
    ax: Axes, shape: tuple[int, ...], rows: Sequence[object], columns: Sequence[object]
) -> None:
    if shape != (len(rows), len(columns)):
        raise ValueError(f"{len(rows)} row and {len(columns)} column labels do not fit {shape}")
    room = min(np.array(size_in_points(ax)) / shape[::-1])  # cells are square
    slanted = max(len(str(name)) for name in columns) * 5.5 > room  # points a letter
    ax.set_xticks(range(len(columns)), [str(name) for name in columns])
    ax.set_yticks(range(len(rows)), [str(name) for name in rows])
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    if slanted:
        plt.setp(ax.get_xticklabels(), rotation=45, ha="left", rotation_mode="anchor")
    ax.tick_params(length=0)
    ax.spines[:].set(visible=True, linewidth=0.8)


def write_in_cell(ax: Axes, row: int, col: int, word: str, ink: str) -> None:
    ax.text(col, row, word, ha="center", va="center", color=ink, fontsize=8.5)


def show_curves(
    ax: Axes,
    curves: Mapping[str, Sequence[Number]],
    ylabel: str = "loss",
    xlabel: str = "epoch",
    percent: bool = False,
) -> Axes:
    """One line for each name, against 1, 2, 3, ...; each is named at its end, not in a legend.

    The first is quiet, the second ink ("training", then "validation"): they are no pieces.
    Raises ValueError for a curve without a finite number.
    """
    names = ["quiet", "ink", "query", "class_token", "projection", "head", "key", "value"]
    drawn = []
    for (label, values), name in zip(curves.items(), cycle(names), strict=False):
        if not np.isfinite(values).any():
            raise ValueError(f"the curve {label!r} has no finite number: {list(values)}")
        drawn += ax.plot(range(1, len(values) + 1), values, color=colour(name), label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if percent:
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    name_lines(ax, drawn)
    return ax


def name_lines(ax: Axes, lines: Sequence[Line2D]) -> None:
    """Write each line's name to the right of its end, a line of text apart from the others."""
    ax.autoscale_view()
    top = size_in_points(ax)[1]
    to_axes = ax.transData + ax.transAxes.inverted()
    ends, heights = [], []
    for curve in lines:
        x, y = np.array(curve.get_data(), dtype=float)
        last = np.flatnonzero(np.isfinite(y))[-1]
        ends.append((x[last], y[last]))
        heights.append(float(np.asarray(to_axes.transform(ends[-1]))[1]) * top)
    for curve, end, old, new in zip(lines, ends, heights, apart(heights, top), strict=True):
        ink = curve.get_color()
        ax.plot(*end, "o", ms=4, color=ink, clip_on=False)
        link = {"arrowstyle": "-", "color": ink, "lw": 0.8, "relpos": (0, 0.5), "shrinkB": 0}
        ax.annotate(
            str(curve.get_label()), end, (12, new - old), textcoords="offset points",
            va="center", arrowprops=link, annotation_clip=False,
        )  # fmt: skip


def apart(heights: Sequence[float], top: float, gap: float = 13.0) -> list[float]:
    """The heights in their order, moved up and then down from the top to be `gap` apart."""
    order, moved = np.argsort(heights, kind="stable"), list(heights)
    for lower, upper in pairwise(order):
        moved[upper] = max(moved[upper], moved[lower] + gap)
    for upper in order[::-1]:
        moved[upper] = top = min(moved[upper], top)
        top -= gap
    return moved
