"""One drawing, stored for every page: light and dark, as wide as the column and for a phone.

GitHub, Colab and Jupyter show the light wide picture. The book's pages show the one that fits.
"""

import io
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from vit_tutorial.figures.palette import MODES, Number, paper

MIME = "application/vnd.vit-tutorial.figure+json"
Inches = tuple[Number, Number]


@dataclass(frozen=True)
class PageFigure:
    """What a cell shows: PNG for all, and beside it WebP for dark pages and for phones."""

    pictures: dict[str, bytes]  # "wide-light" is the PNG

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        others = {name: b64encode(picture).decode() for name, picture in self.pictures.items()}
        first = others.pop("wide-light")
        return {"image/png": first, MIME: others, "text/plain": "<figure>"}


def for_page(
    draw: Callable[[Figure, bool], Any], size: Inches, phone: Inches | None = None
) -> PageFigure:
    """Let `draw(figure, stacked)` draw light and dark; with `phone`, once more for a phone.

    Sizes are in inches of 100 CSS pixels: the column is 6.6 wide, a phone 3.58. `stacked` is True
    for the phone's figure, whose panels lie one below the other.
    """
    shapes = {"wide": size} | ({"phone": phone} if phone else {})
    pictures = {}
    for mode in MODES:
        with plt.rc_context(paper(mode)):
            for shape, inches in shapes.items():
                figure = Figure(figsize=inches, layout="constrained")
                draw(figure, shape == "phone")
                pictures[f"{shape}-{mode}"] = stored(figure, (shape, mode) == ("wide", "light"))
    return PageFigure(pictures)


def stored(figure: Figure, png: bool) -> bytes:
    file, look = io.BytesIO(), {} if png else {"pil_kwargs": {"lossless": True}}
    figure.savefig(file, format="png" if png else "webp", **look)
    return file.getvalue()
