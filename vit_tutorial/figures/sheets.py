"""Whole pictures: learning curves and attention maps as files, and drawings inside an HTML page."""

import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
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


def draw_history(history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """`show_history` as a picture file."""
    with rc_context(paper()):
        figure = Figure(figsize=(7, 5), layout="constrained")
        show_history(figure, history)
        figure.savefig(path)


def draw_maps(
    pixels: Float[Tensor, "B C H W"], maps: Float[Tensor, "B rows cols"], path: str | Path
) -> None:
    """Each image (pixels in 0..1) with its attention map, side by side and all on one scale."""
    with rc_context(paper()):
        figure = Figure(figsize=(1.9 * len(maps) + 1, 2.1), layout="constrained")
        axes = figure.subplots(1, len(maps), squeeze=False)[0]
        for i, (ax, image) in enumerate(zip(axes, pixels, strict=True)):
            plots.show_attention(ax, image, maps[i], float(maps.max()), bar=i == len(maps) - 1)
        figure.savefig(path)


def picture(draw: Callable[[Figure], None], width: Number, height: Number, alt: str) -> str:
    """An HTML element that holds the drawing on light and on dark paper; 100 pixels are an inch."""
    files = []
    for mode in MODES:
        with rc_context(paper(mode)):
            figure, file = Figure(figsize=(width, height), layout="constrained"), io.BytesIO()
            draw(figure)
            figure.savefig(file, format="png")
        files.append(f"data:image/png;base64,{b64encode(file.getvalue()).decode()}")
    light, dark = files
    size = f'width="{100 * width:.0f}" height="{100 * height:.0f}"'
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" {size} alt="{escape(alt)}"></picture>'
    )
