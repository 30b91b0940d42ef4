"""Whole pictures: learning curves and attention maps as files, and drawings inside an HTML page."""

import io
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from math import ceil
from typing import Any

import torch
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vit_tutorial.figures import plots
from vit_tutorial.figures.palette import MODES, Number, paper


def show_history(figure: Figure, history: Sequence[Mapping[str, Any]]) -> None:
    """Losses above, validation accuracy below, epoch by epoch."""
    above, below = figure.subplots(2, 1, sharex=True)
    losses = {"training": "train_loss", "validation": "val_loss"}
    curves = {name: [row[key] for row in history] for name, key in losses.items()}
    plots.show_curves(above, curves, xlabel="")
    accuracy = {"validation": [row["val_accuracy"] for row in history]}
    plots.show_curves(below, accuracy, ylabel="accuracy", percent=True)


def history_picture(history: Sequence[Mapping[str, Any]], kind: str = "png") -> bytes:
    """`show_history` as the content of a picture file."""
    return content(lambda figure: show_history(figure, history), 7, 5, kind)


def maps_picture(
    pixels: Float[Tensor, "B C H W"],
    maps: Float[Tensor, "B L h rows cols"],
    rollout: Float[Tensor, "B rows cols"],
    kind: str = "png",
) -> bytes:
    """What the class token reads, over each image (pixels in 0..1), as the content of a file.

    Of one image the last block's mean over heads, rollout, and below every head of every block on
    a scale of their own. Of several images the first two alone, on one scale, four images a row.
    """
    both = torch.stack([maps[:, -1].mean(dim=1), rollout], dim=1)  # (B 2 rows cols)
    L, h = maps.shape[1:3]
    if len(pixels) > 1:
        columns = min(4, len(pixels))
        size = 3.1 * columns + 1, 1.75 * ceil(len(pixels) / columns) + 0.2
        return content(lambda figure: show_pairs(figure, pixels, both, columns), *size, kind)
    side = min(1.4, max(0.6, 11 / h))

    def draw(figure: Figure) -> None:
        above, below = figure.subfigures(2, 1, height_ratios=(2.4, side * L + 0.3))
        plain, *beside = above.subplots(1, 3)
        plots.show_images(plain, pixels)
        show_both(beside, pixels[0], both[0], both.max().item(), bar=True)
        plots.show_attention_grid(below.subplots(L, h, squeeze=False), pixels[0], maps[0])

    return content(draw, max(7, side * h + 1.2), 2.4 + side * L + 0.3, kind)


def show_pairs(
    figure: Figure,
    pixels: Float[Tensor, "B C H W"],
    both: Float[Tensor, "B 2 rows cols"],
    columns: int,
) -> None:
    """The last block and rollout of each image, side by side."""
    rows = ceil(len(pixels) / columns)
    axes = figure.subplots(rows, 2 * columns, squeeze=False).reshape(-1, 2)
    for i, pair in enumerate(axes):
        if i < len(pixels):
            bar = i == columns - 1  # beside the first row
            show_both(pair, pixels[i], both[i], both.max().item(), bar, titles=i < columns)
        else:
            for ax in pair:
                ax.set_axis_off()


def show_both(
    axes: Iterable[Axes],
    image: Float[Tensor, "C H W"],
    both: Float[Tensor, "2 rows cols"],
    scale: float,
    bar: bool,
    titles: bool = True,
) -> None:
    """The last block and rollout of one image on one scale; the second may have the bar."""
    words = ("last block, mean", "rollout")
    for ax, weights, word in zip(axes, both, words, strict=True):
        plots.show_attention(ax, image, weights, scale, bar=bar and word == words[-1])
        ax.set_title(word if titles else "")


def content(
    draw: Callable[[Figure], None], width: Number, height: Number, kind: str, mode: str = "light"
) -> bytes:
    """A drawing as the content of a picture file; sizes in inches."""
    with rc_context(paper(mode)):
        figure, file = Figure(figsize=(width, height), layout="constrained"), io.BytesIO()
        draw(figure)
        figure.savefig(file, format=kind)
    return file.getvalue()


def picture(draw: Callable[[Figure], None], width: Number, height: Number, alt: str) -> str:
    """An HTML element that holds the drawing on light and on dark paper; 100 pixels are an inch."""
    parts = (b64encode(content(draw, width, height, "png", mode)).decode() for mode in MODES)
    light, dark = (f"data:image/png;base64,{part}" for part in parts)
    size = f'width="{100 * width:.0f}" height="{100 * height:.0f}"'
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" {size} alt="{escape(alt)}"></picture>'
    )
