"""Whole pictures: learning curves and attention maps as files, and drawings inside an HTML page."""

import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import ceil
from typing import Any

from jaxtyping import Float
from matplotlib import rc_context
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
    pixels: Float[Tensor, "B C H W"], maps: Float[Tensor, "B rows cols"], kind: str = "png"
) -> bytes:
    """Each image (pixels in 0..1) with its attention map, in rows of up to six, on one scale."""
    cols = min(6, len(maps))
    rows = ceil(len(maps) / cols)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(rows, cols, squeeze=False).flatten()
        for i, (ax, image) in enumerate(zip(axes, pixels, strict=False)):
            plots.show_attention(ax, image, maps[i], float(maps.max()), bar=i == len(maps) - 1)
        for ax in axes[len(maps) :]:
            ax.set_axis_off()

    return content(draw, 1.9 * cols + 1, 2.1 * rows, kind)


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
