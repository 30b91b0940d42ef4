"""A drawing as SVG inside a page: its colours follow the page, its pieces are links.

The drawing is made twice, light and dark. Shapes are taken from the first; where a colour differs
between the two, the SVG has a CSS variable, which the page's mode sets.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.patches import FancyArrowPatch, Patch
from matplotlib.path import Path
from matplotlib.text import Text

from vit_tutorial.figures.palette import Number

Area = tuple[Number, Number, Number, Number]  # x, y, width, height
Link = tuple[str, str, Area]  # address, words, where
LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
ANCHOR = {"left": "start", "center": "middle", "right": "end"}


def themed_svg(light: Axes, dark: Axes, name: str, title: str, links: Sequence[Link] = ()) -> str:
    """The drawing as one element of class `vit-map NAME`, made from its light and dark version.

    One unit of the Axes is one CSS pixel. `title` is what a screen reader says.
    """
    inks = Inks(name)
    pairs = zip(artists(light), artists(dark), strict=True)
    body = [text(a, b, inks) if isinstance(a, Text) else shape(a, b, inks) for a, b in pairs]
    (_, width), (height, _) = light.get_xlim(), light.get_ylim()
    areas = (
        f'<a href="{escape(url)}" aria-label="{escape(words)}"><title>{escape(words)}</title>'
        f'<rect class="vit-map-link" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5"/></a>'
        for url, words, (x, y, w, h) in links
    )
    return (
        f'<svg class="vit-map {name}" viewBox="0 0 {width:g} {height:g}" role="group" '
        f'aria-label="{escape(title)}" style="max-width:{width:g}px">'
        f'<style>{inks.css()}</style><g aria-hidden="true">{"".join(body)}</g>'
        f"{''.join(areas)}</svg>"
    )


class Inks:
    """The colours of a drawing, each a pair of light and dark with a CSS variable of its own."""

    def __init__(self, name: str):
        self.name, self.pairs = name, dict[tuple[str, str], str]()

    def ink(self, light: Any, dark: Any) -> str:
        if to_rgba(light)[3] == 0:
            return "none"
        pair = to_hex(light), to_hex(dark)
        return f"var({self.pairs.setdefault(pair, f'--m{len(self.pairs)}')})"

    def css(self) -> str:
        both = ("".join(f"{v}:{pair[i]};" for pair, v in self.pairs.items()) for i in (0, 1))
        light, dark = (f".vit-map.{self.name}{{{rules}}}" for rules in both)
        return f"{light}html[data-theme=dark] {dark}"


def artists(ax: Axes) -> list[Patch | Text]:
    """What is drawn on the Axes, from the lowest to the highest."""
    drawn = [a for a in (*ax.patches, *ax.texts) if not isinstance(a, Text) or a.get_text()]
    return sorted(drawn, key=lambda artist: artist.get_zorder())


def shape(a: Patch, b: Patch, inks: Inks) -> str:
    path = a.get_path().transformed(a.get_patch_transform())
    d = "".join(
        "Z" if code == Path.CLOSEPOLY else LETTERS[code] + " ".join(f"{v:.4g}" for v in points)
        for points, code in path.iter_segments(simplify=False)
    )
    fill = inks.ink(a.get_facecolor(), b.get_facecolor())
    edge = inks.ink(a.get_edgecolor(), b.get_edgecolor()) if a.get_linewidth() else "none"
    if isinstance(a, FancyArrowPatch):  # its head is filled, its line has no area
        fill = edge
    stroke = (
        "" if edge == "none" else f' stroke="{edge}" stroke-width="{pixels(a.get_linewidth())}"'
    )
    alpha = "" if a.get_alpha() is None else f' opacity="{a.get_alpha():g}"'
    return f'<path d="{d}" fill="{fill}"{stroke}{alpha}/>'


def text(a: Text, b: Text, inks: Inks) -> str:
    x, y = a.get_position()
    look = f'fill="{inks.ink(a.get_color(), b.get_color())}" font-size="{pixels(a.get_fontsize())}"'
    look += f' text-anchor="{ANCHOR[a.get_horizontalalignment()]}"'
    if a.get_fontweight() == "bold":
        look += ' font-weight="700"'
    if a.get_fontstyle() == "italic":
        look += ' font-style="italic"'
    if a.get_rotation():
        look += f' transform="rotate(-{a.get_rotation():g} {x:g} {y:g})"'
    if a.get_bbox_patch() and b.get_bbox_patch():  # words that lie on a line
        page = inks.ink(a.get_bbox_patch().get_facecolor(), b.get_bbox_patch().get_facecolor())
        look += f' stroke="{page}" stroke-width="7" paint-order="stroke"'
    return f'<text x="{x:g}" y="{y:g}" {look}>{escape(a.get_text())}</text>'


def pixels(points: Number) -> str:
    """Points as CSS pixels, 100 to the inch."""
    return f"{points * 100 / 72:.3g}"
