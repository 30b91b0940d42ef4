"""What this book adds to Sphinx.

1. "Where we are", and figures that fit light and dark pages, wide and narrow: see `pictures.py`.
2. Figures appear as wide as they say, else at half their stored pixels.
3. A folded cell goes by the name in its first line, `# @title Solution`.
4. The reference lists every `forward`, for the shapes in its signature.
5. The tables of the page "Measured" are made from the records.
6. A link to an exercise notebook downloads it.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import measured
import pictures
import widgets

TAG = "map:"


def map_name(cell: dict[str, Any]) -> str | None:
    """The piece that a cell's picture of the model lights, if it is such a cell."""
    tags = cell["metadata"].get("tags", [])
    return next((tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)), None)


def show_maps(app: Any, docname: str, source: list[str]) -> None:
    """Put the map of the model in the place of each notebook's stored one."""
    if not app.env.doc2path(docname).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        piece = map_name(cell)
        if piece is not None:
            shown = cell["metadata"].get("mystnb", {})
            alt = shown.get("image", {}).get("alt", "")
            caption = shown.get("figure", {}).get("caption", "")
            markdown = pictures.map_markdown(piece, " ".join(alt.split()), caption)
            cell.update(cell_type="markdown", metadata={}, source=markdown)
            cell.pop("outputs", None)
            cell.pop("execution_count", None)
        title = re.match("# @title (.+)", "".join(cell["source"]))
        if title:  # the name under which Colab folds a cell
            names = dict.fromkeys(("code_prompt_show", "code_prompt_hide"), title[1])
            cell["metadata"].setdefault("mystnb", {}).update(names)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                image = cell["metadata"].setdefault("mystnb", {}).setdefault("image", {})
                said = output.get("metadata", {}).get("image/png", {}).get("width")
                stored = base64.b64decode("".join(output["data"]["image/png"]))
                width = said or pictures.size(stored)[0] // 2
                image.setdefault("width", f"{width}px")
    notebook["cells"] = widgets.with_widgets(notebook["cells"])
    source[0] = json.dumps(notebook)


def offer_exercises(app: Any, docname: str, source: list[str]) -> None:
    """A link to an exercise notebook downloads it: those notebooks are no pages of the book."""
    source[0] = source[0].replace("](exercises/", "](path:exercises/")


def show_records(app: Any, docname: str, source: list[str]) -> None:
    """Put tables and numbers from the records in the place of their names."""
    if docname == "book/measured":
        for path in (Path(measured.__file__), *Path(app.srcdir).glob(measured.RECORDS)):
            app.env.note_dependency(str(path))  # a build after the first reads the page again
        source[0] = measured.render(source[0])


def keep_forward(app: Any, what: str, name: str, *rest: Any) -> bool | None:
    """List `forward` in the reference, also where its class says all there is to say."""
    return False if name == "forward" else None


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("model-map", pictures.ModelMap)
    app.connect("source-read", show_maps)
    app.connect("source-read", show_records)
    app.connect("source-read", offer_exercises)
    app.connect("autodoc-skip-member", keep_forward)
    app.connect("html-page-context", pictures.fit_pictures)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
