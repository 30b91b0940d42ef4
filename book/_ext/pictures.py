"""The book's pictures: the map of the model inside the page, and figures that fit their page.

1. "Where we are": one SVG, drawn by code, in the colours of the page, each piece a link. A notebook
   stores a PNG for GitHub and Colab; the page shows the SVG in its place. Other pages write

       ```{model-map} all
       :alt: The whole model, from image to probabilities.
       ```

2. A figure made by `vit_tutorial.figures.page.for_page` comes with its dark picture and with two
   for a phone: the page shows the one that fits.

3. A figure that brought an SVG of its own is that SVG, inside the page.
"""

import io
import json
import re
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from PIL import Image
from sphinx.util.docutils import SphinxDirective

WHOLE = "all"  # the map with every piece lit
INLINE = "inline-svg"  # the name of a figure's SVG among its pictures
PHONE = "(max-width: 600px)"


class ModelMap(SphinxDirective):
    """The map of the model, with one piece lit, or all."""

    required_arguments = 1
    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        from vit_tutorial.figures import model_map

        self.env.note_dependency(model_map.__file__)
        (piece,), there = self.arguments, self.env.found_docs
        address = self.env.app.builder.get_relative_uri
        pages = {name: f"book/{name}" for name in model_map.AREAS}
        pages = {n: p for n, p in pages.items() if p in there and p != self.env.docname}
        if self.env.app.builder.format != "html":
            return []
        links = {name: address(self.env.docname, page) for name, page in pages.items()}
        active = None if piece == WHOLE else piece
        svg = model_map.svg_map(active, self.options.get("alt", ""), links)
        return [nodes.raw("", f'<div class="vit-map-frame">{svg}</div>', format="html")]


def map_markdown(piece: str, alt: str, caption: str) -> str:
    """What stands in the place of a notebook's stored picture of the model."""
    caption = f":::{{container}} map-caption\n{caption}\n:::" if caption else ""
    return f"```{{model-map}} {piece}\n:alt: {alt}\n```\n\n{caption}\n"


def fit_pictures(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Where a figure brought its other pictures, let the browser choose among them."""
    source = Path(app.env.doc2path(page)) if page in app.env.found_docs else Path()
    if source.suffix != ".ipynb":
        return
    for picture, others in pictures_of(source):
        stem = sha256(picture).hexdigest()
        found = re.compile(rf'<img [^>]*src="([^"]*){stem}\.png"[^>]*>')
        if INLINE in others:
            svg = b64decode(others[INLINE]).decode()
            context["body"] = found.sub(lambda _, svg=svg: svg, context["body"])
            continue
        for name, other in others.items():
            path = Path(app.outdir) / "_images" / f"{stem}-{name}.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b64decode(other))
        shapes = {name: shape(b64decode(data)) for name, data in others.items() if "phone" in name}
        shapes[""] = shape(picture)
        context["body"] = found.sub(
            lambda img, shapes=shapes: in_both_modes(img[0], shapes), context["body"]
        )


def size(picture: bytes) -> tuple[int, int]:
    """Width and height in pixels."""
    return Image.open(io.BytesIO(picture)).size


def shape(picture: bytes) -> str:
    """Attributes that keep a place of the picture's shape until it is there."""
    width, height = size(picture)
    return f'width="{width}" height="{height}"'


def pictures_of(notebook: Path) -> list[tuple[bytes, dict[str, str]]]:
    """Each stored figure that brought others along: its bytes, and the others by name."""
    from vit_tutorial.figures.page import MIME

    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [(b64decode("".join(data["image/png"])), data[MIME]) for data in outputs if MIME in data]


def in_both_modes(img: str, shapes: dict[str, str]) -> str:
    """The light and the dark picture of one `<img>`, each with its phone's; one is shown.

    The class is not the theme's `only-dark`, which hides the caption of a figure as well.
    """
    parts = []
    stem = re.search(r'src="([^"]*)\.png"', img)[1]  # type: ignore[index]
    for mode in ("light", "dark"):
        shown = re.sub(r'\.png"', f'-wide-{mode}.webp"', img) if mode == "dark" else img
        phone, source = f"phone-{mode}", ""
        if phone in shapes:
            source = f'<source media="{PHONE}" srcset="{stem}-{phone}.webp" {shapes[phone]}>'
        lazy = shown.replace("<img ", f'<img loading="lazy" {shapes[""]} ')
        parts.append(f'<picture class="page-{mode}">{source}{lazy}</picture>')
    return "".join(parts)
