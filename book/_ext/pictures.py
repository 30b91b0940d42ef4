"""The book's pictures: the map of the model inside the page, and figures that fit their page.

1. "Where we are": one SVG, drawn by code, in the colours of the page, each piece a link. A notebook
   stores a PNG for GitHub and Colab; the page shows the SVG in its place. Other pages write

       ```{model-map} all
       :alt: The whole model, from image to probabilities.
       ```

2. A figure made by `vit_tutorial.figures.page.for_page` comes with its dark picture and with two
   for a phone: the page shows the one that fits.
"""

import json
import re
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

WHOLE = "all"  # the map with every piece lit
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
        for name, other in others.items():
            path = Path(app.outdir) / "_images" / f"{stem}-{name}.webp"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b64decode(other))
        found = re.compile(rf'<img [^>]*src="([^"]*){stem}\.png"[^>]*>')
        context["body"] = found.sub(
            lambda img, others=others: in_both_modes(img[0], others), context["body"]
        )


def pictures_of(notebook: Path) -> list[tuple[bytes, dict[str, str]]]:
    """Each stored figure that brought others along: its bytes, and the others by name."""
    from vit_tutorial.figures.page import MIME

    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [(b64decode("".join(data["image/png"])), data[MIME]) for data in outputs if MIME in data]


def in_both_modes(img: str, others: dict[str, str]) -> str:
    """The light and the dark picture of one `<img>`, each with its phone's; one is shown.

    The class is not the theme's `only-dark`, which hides the caption of a figure as well.
    """
    parts = []
    stem = re.search(r'src="([^"]*)\.png"', img)[1]  # type: ignore[index]
    for mode in ("light", "dark"):
        shown = re.sub(r'\.png"', f'-wide-{mode}.webp"', img) if mode == "dark" else img
        phone, source = f"phone-{mode}", ""
        if phone in others:
            source = f'<source media="{PHONE}" srcset="{stem}-{phone}.webp">'
        lazy = shown.replace("<img ", '<img loading="lazy" ')
        parts.append(f'<picture class="page-{mode}">{source}{lazy}</picture>')
    return "".join(parts)
