"""One drawing, stored for every page: light and dark, as wide as the column and for a phone.

GitHub, Colab and Jupyter show the light wide picture. The book's pages show the one that fits.
"""

import io
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vit_tutorial.figures.palette import MODES, Number, paper, rgb

MIME = "application/vnd.vit-tutorial.figure+json"
PHOTO = 16_384
Inches = tuple[Number, Number]


@dataclass(frozen=True)
class PageFigure:
    """What a cell shows: PNG for all, and beside it WebP for dark pages and for phones."""

    pictures: dict[str, bytes]  # "wide-light" is the PNG
    width: int  # of the PNG as shown, in CSS pixels

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        others = {name: b64encode(picture).decode() for name, picture in self.pictures.items()}
        first = others.pop("wide-light")
        data = {"image/png": first, MIME: others, "text/plain": "<figure>"}
        return data, {"image/png": {"width": self.width}}


def for_page(
    draw: Callable[[Figure, bool], Any], size: Inches, phone: Inches | None = None
) -> PageFigure:
    """Let `draw(figure, stacked)` draw light and dark; with `phone`, twice more for a phone.

    Sizes are in inches of 100 CSS pixels: the column is 6.6 wide, a phone 3.58. `stacked` is True
    for the phone's figure, whose panels lie one below the other.
    """
    shapes = {"wide": size} | ({"phone": phone} if phone else {})
    pictures = {}
    for shape, inches in shapes.items():
        for mode in MODES:
            with plt.rc_context(paper(mode)):
                figure = Figure(figsize=inches, layout="constrained")
                draw(figure, shape == "phone")
                name = f"{shape}-{mode}"
                pictures[name] = stored(figure, name == "wide-light")
    return PageFigure(pictures, round(100 * size[0]))


def stored(figure: Figure, png: bool) -> bytes:
    """In few colours, chosen so that small parts keep theirs: a notebook holds up to 1 MB.

    A photograph in detail, with more than PHOTO colours, keeps all of them.
    """
    file, small = io.BytesIO(), io.BytesIO()
    figure.savefig(file, format="png", dpi=160 if png else 120)
    picture, choice = Image.open(file).convert("RGB"), Image.Quantize.MAXCOVERAGE
    if picture.getcolors(PHOTO) is None:
        picture.save(small, "PNG" if png else "WEBP", optimize=png, quality=85)
        return small.getvalue()
    few = picture.quantize(48 if png else 32, choice, kmeans=1, dither=Image.Dither.NONE)
    colours = np.array(few.getpalette()).reshape(-1, 3)
    ground = np.round(255 * rgb(figure.get_facecolor()[:3])).astype(int)
    colours[np.abs(colours - ground).max(axis=1) < 4] = ground  # exactly the page's
    few.putpalette(colours.flatten().tolist())
    if png:
        few.save(small, "PNG", optimize=True)
    else:
        few.convert("RGB").save(small, "WEBP", lossless=True, method=6)
    return small.getvalue()
