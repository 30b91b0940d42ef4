"""What this book adds to Sphinx.

1. "Where we are": the picture of the whole model is drawn for light and dark pages and for wide
   and narrow ones, and stands in for the one light picture that a notebook can store.
2. Figures appear at half their stored pixels: they are stored at twice the size, for sharpness.
3. A folded cell goes by the name in its first line, `# @title Solution`.
4. The reference lists every `forward`, for the shapes in its signature.
5. The tables of the page "Measured" are made from the records.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import measured

TAG = "map:"
WHOLE = "all"  # the picture of index.md, with every piece lit
SHAPES = (("", "map-wide", 752), ("_phone", "map-phone", 358))  # name, class, CSS pixels


def map_name(cell: dict[str, Any]) -> str | None:
    """The piece that a cell's picture of the model lights, if it is such a cell."""
    tags = cell["metadata"].get("tags", [])
    return next((tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)), None)


def map_markdown(piece: str, alt: str, caption: str) -> str:
    """Four pictures, of which the page shows the one that fits its colours and width."""
    lines = []
    for suffix, shape, width in SHAPES:
        for mode in ("light", "dark"):
            lines += [
                f"```{{image}} figures/map_{piece}_{mode}{suffix}.png",
                f":class: only-{mode} {shape}",
                f":width: {width}px",
                ":loading: lazy",  # a browser fetches only the one that it shows
                f":alt: {alt}",
                "```",
            ]
    caption = f":::{{container}} map-caption\n{caption}\n:::" if caption else ""
    return "\n".join(lines) + f"\n\n{caption}\n"


def draw_maps(app: Any) -> None:
    """Draw every picture of the model that the book shows, unless it is newer than its code."""
    from vit_tutorial.figures import model_map

    book = Path(app.srcdir) / "book"
    code = Path(model_map.__file__)
    sources = [code.with_name(name) for name in ("model_map.py", "plots.py", "palette.py")]
    changed = max(path.stat().st_mtime for path in sources)
    notebooks = [json.loads(path.read_text(encoding="utf-8")) for path in book.glob("*.ipynb")]
    pieces = {map_name(cell) for notebook in notebooks for cell in notebook["cells"]} - {None}
    (book / "figures").mkdir(exist_ok=True)
    for piece in sorted({WHOLE, *pieces}):
        for suffix, _, _ in SHAPES:
            for mode in ("light", "dark"):
                path = book / "figures" / f"map_{piece}_{mode}{suffix}.png"
                if not path.exists() or path.stat().st_mtime < changed:
                    active = None if piece == WHOLE else piece
                    model_map.draw_map(active, path, mode=mode, stacked=bool(suffix))


def show_maps(app: Any, docname: str, source: list[str]) -> None:
    """Put the four pictures in the place of each notebook's stored one."""
    if not app.env.doc2path(docname).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        piece = map_name(cell)
        if piece is not None:
            shown = cell["metadata"].get("mystnb", {})
            alt = shown.get("image", {}).get("alt", "")
            caption = shown.get("figure", {}).get("caption", "")
            markdown = map_markdown(piece, " ".join(alt.split()), caption)
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
                image.setdefault("width", f"{png_width(output['data']['image/png']) // 2}px")
    source[0] = json.dumps(notebook)


def show_records(app: Any, docname: str, source: list[str]) -> None:
    """Put tables and numbers from the records in the place of their names."""
    if docname == "book/measured":
        for path in (Path(measured.__file__), *Path(app.srcdir).glob(measured.RECORDS)):
            app.env.note_dependency(str(path))  # a build after the first reads the page again
        source[0] = measured.render(source[0])


def png_width(encoded: str | list[str]) -> int:
    """The width in pixels, which a PNG states in bytes 16 to 20; figures are stored at twice it."""
    head = base64.b64decode("".join(encoded)[:32])
    return int.from_bytes(head[16:20], "big")


def keep_forward(app: Any, what: str, name: str, *rest: Any) -> bool | None:
    """List `forward` in the reference, also where its class says all there is to say."""
    return False if name == "forward" else None


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", draw_maps)
    app.connect("source-read", show_maps)
    app.connect("source-read", show_records)
    app.connect("autodoc-skip-member", keep_forward)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
