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
from PIL import Image

from vit_tutorial.figures.palette import Number, paper

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
    for the phone's figure, whose panels lie one below the other; it is light, as a notebook has
    room for few pictures.
    """
    shapes = {"wide-light": (size, False), "wide-dark": (size, False)}
    shapes |= {"phone-light": (phone, True)} if phone else {}
    pictures = {}
    for name, (inches, stacked) in shapes.items():
        with plt.rc_context(paper(name.split("-")[1])):
            figure = Figure(figsize=inches, layout="constrained")
            draw(figure, stacked)
            pictures[name] = stored(figure, name == "wide-light")
    return PageFigure(pictures)


def stored(figure: Figure, png: bool) -> bytes:
    """The first picture in full; the others at 120 dots an inch, in 32 colours."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=200 if png else 120)
    if png:
        return file.getvalue()
    few = Image.open(file).convert("RGB").quantize(32, dither=Image.Dither.NONE)
    small = io.BytesIO()
    few.convert("RGB").save(small, "WEBP", lossless=True, method=4)
    return small.getvalue()
