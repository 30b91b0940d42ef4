"""Widgets in the chapters: static, without a library, with data made when the book is built.

A figure's cell that is tagged `widget:attention`, `widget:positions` or `widget:patches` gets the
widget below its figure; the figure stands without JavaScript, on GitHub and in print. Another page
writes

    ```{vit-widget} attention
    ```

Script and style are loaded on pages with a widget alone, its data when the reader asks for it.
"""

import json
from base64 import b64encode
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

TAG = "widget:"
STATIC = Path(__file__).parent / "vit_static"  # outside _static, which every page loads whole
WORDS = {
    "attention": "Explore: what does each patch read?",
    "positions": "Explore: which positions are alike?",
    "patches": "Explore: how large should a patch be?",
}


class Widget(SphinxDirective):
    """The place of one widget, and the button that asks for it."""

    required_arguments = 1
    option_spec: ClassVar = {}

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        if name not in WORDS:
            raise self.error(f"unknown widget {name!r}; there are: {', '.join(WORDS)}")
        up = "../" * self.env.docname.count("/")
        return [nodes.raw("", place(name, f"{up}_static/"), format="html")]


def place(name: str, static: str) -> str:
    """What stands in a page until the reader asks; `static` is the address of script and data."""
    return (
        f'<div class="vit-widget" data-widget="{name}" data-from="{static}vit_{name}.js">'
        f'<button class="vit-ask" type="button" hidden>{WORDS[name]}</button></div>'
    )


def with_widgets(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells of a notebook, and below each tagged one a cell with its widget."""
    found = []
    for cell in cells:
        found.append(cell)
        for tag in cell["metadata"].get("tags", []):
            if tag.startswith(TAG):
                text = f"```{{vit-widget}} {tag.removeprefix(TAG)}\n```\n"
                extra = {"cell_type": "markdown", "metadata": {}, "source": text}
                found.append(extra | {"id": f"widget-{len(found)}"})
    return found


def load_on_its_pages(
    app: Any, page: str, template: str, context: dict[str, Any], tree: Any
) -> None:
    """Script and style, on pages with a widget."""
    if 'class="vit-widget"' in context.get("body", ""):
        app.add_js_file("vit_widgets.js", loading_method="defer")
        app.add_css_file("vit_widgets.css")


def use_folder(app: Any) -> None:
    """Add the folder after Jupyter Book has looked for files that all pages load."""
    app.config.html_static_path.append(str(STATIC))


def write_data(app: Any, exception: Exception | None) -> None:
    """One script of numbers for each widget: a page on a disk cannot read JSON."""
    if exception is None and app.builder.format == "html":
        for name, make in MAKE.items():
            path = Path(app.outdir) / "_static" / f"vit_{name}.js"
            path.write_text(f"VIT_DATA = {json.dumps(make())};\n", encoding="utf-8")


SHOWN = [10, 2, 5, 8]  # of the test digits


@cache
def model_and_digits() -> tuple[Any, Any, Any]:
    """The shipped model, and four test digits: pixels in 0..1 and what the model reads."""
    from vit_tutorial.data import load
    from vit_tutorial.weights.hub import from_checkpoint

    model, preparation = from_checkpoint("mnist")
    pixels = load("digits").test.images[SHOWN] / 255
    return model, pixels, preparation.normalise(pixels)


def in_bytes(values: Any) -> str:
    """Numbers from 0 to 1 as bytes, in base64."""
    return b64encode((255 * values).round().byte().numpy().tobytes()).decode()


def attention() -> dict[str, Any]:
    """All weights of all blocks and heads for each digit, as shares of `top`."""
    from vit_tutorial.data import load

    model, pixels, images = model_and_digits()
    maps = model.attention_maps(images)  # (B L h T T)
    top = maps.max()
    _, L, h, T = maps.shape[:4]
    shape = {
        "digits": load("digits").test.labels[SHOWN].tolist(),
        "blocks": L,
        "heads": h,
        "tokens": T,
        "top": top.item(),
    }
    return {**shape, "pixels": in_bytes(pixels), "weights": in_bytes(maps / top)}


def positions() -> dict[str, Any]:
    """For each kind of table the cosine of every two positions, from -1 to 1 as 0 to 1.

    The mean position is taken off, as in chapter 04.
    """
    from vit_tutorial.attention_maps import position_similarity
    from vit_tutorial.positions import sincos_positions

    model, _, _ = model_and_digits()
    learned = model.embedding.positions.detach()[:, 1:]
    found = {}
    for kind, table in {
        "learned": learned,
        "sine, cosine": sincos_positions(7, 7, 64)[None],
    }.items():
        alike = position_similarity(table - table.mean(dim=1), 7, 7)
        found[kind] = in_bytes((alike.clamp(-1, 1) + 1) / 2)
    return {"alike": found}


def patches() -> dict[str, Any]:
    """The digit of chapter 01; a browser cuts it."""
    from vit_tutorial.data import load

    test = load("digits").test
    return {"pixels": in_bytes(test.images[test.labels == 4][13] / 255)}


MAKE: dict[str, Callable[[], dict[str, Any]]] = {
    "attention": attention, "positions": positions, "patches": patches,
}  # fmt: skip


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("vit-widget", Widget)
    app.connect("builder-inited", use_folder, priority=900)
    app.connect("html-page-context", load_on_its_pages)
    app.connect("build-finished", write_data)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
