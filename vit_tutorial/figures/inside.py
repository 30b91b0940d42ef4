"""Drawings of what a trained model holds: filters, and a number for each head of each block."""

import numpy as np
from einops import rearrange
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vit_tutorial.figures.palette import Number, amounts, colour, tint
from vit_tutorial.figures.plots import numbers_of, show_attention


def show_filters(
    ax: Axes, filters: Float[Tensor, "n C P P"], columns: int, scale: Number | None = None
) -> Axes:
    """Filters as small pictures in reading order, all on one scale.

    Of one channel: blue above zero, rust below, zero the page. Of three channels: colours around a
    middle grey, which is zero. `scale` is the number of the strongest colour.
    """
    values = numbers_of(filters)
    n, C, P = values.shape[:3]
    rows = -(-n // columns)
    shares = 0.5 + values / (2 * (scale or np.abs(values).max() or 1))
    sheet = np.full((rows * columns, C, 4 * P + 2, 4 * P + 2), np.nan)  # a gap of half a pixel
    sheet[:n, :, :-2, :-2] = shares.repeat(4, axis=2).repeat(4, axis=3)
    sheet = rearrange(sheet, "(r c) C y x -> (r y) (c x) C", r=rows)[:-2, :-2]
    picture = amounts(signed=True)(sheet[..., 0])[..., :3] if C == 1 else sheet
    ax.imshow(np.where(np.isnan(sheet[..., :1]), tint("quiet", 0.3), picture))
    ax.axis("off")
    return ax


def show_by_block(
    ax: Axes, values: Float[Tensor, "L h"], controls: Float[Tensor, "L n"] | None = None
) -> Axes:
    """A dot for each head of each block; a grey bar spans what the controls of the block gave."""
    L = len(values)
    if controls is not None:
        low, high = numbers_of(controls.amin(dim=1)), numbers_of(controls.amax(dim=1))
        ax.bar(range(1, L + 1), high - low, 0.7, low, color=tint("quiet", 0.3))
    ax.plot(range(1, L + 1), numbers_of(values), "o", color=colour("attention"), ms=5)
    ax.set(xlabel="block", xticks=range(1, L + 1))
    return ax


def show_heads(
    figure: Figure,
    image: Float[Tensor, "C H W"],
    maps: Float[Tensor, "n rows cols"],
    names: list[str],
    columns: int,
    scale: Number | None = None,
) -> np.ndarray:
    """Maps over one image in panels of one scale; the last panel has the bar."""
    rows = -(-len(maps) // columns)
    axes = figure.subplots(rows, columns, squeeze=False)
    scale = scale or float(maps.max())
    for i, ax in enumerate(axes.flat):
        if i < len(maps):
            show_attention(ax, image, maps[i], scale, bar=i == len(maps) - 1)
            ax.set_title(names[i])
        else:
            ax.axis("off")
    return axes
