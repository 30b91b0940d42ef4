"""A Vision Transformer in a page: the directive `live`, with `full` or `small` as its argument.

Its files lie in book/_live and are copied to the folder live/ of the built book, not to _static:
Jupyter Book loads every script below _static on every page. Only a page with the directive loads
the small scripts, which fetch the weights when the widget nears the screen (full), or when the
reader touches it (small: until then it shows a stored answer). What stands inside the directive is
shown without JavaScript, and printed.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

SOURCE = Path(__file__).resolve().parents[1] / "_live"
FILES = (
    "vit-engine.js", "vit-weights.js", "vit-parts.js", "vit-live.js", "vit-live.css", "live.html",
)  # fmt: skip
RECORD = "vit_tutorial/benchmarks/records/live_page.json"
PAGES = ("book/index", "book/live")
NAME = re.compile(r"\{\{ *(live_\w+) *\}\}")


class live(nodes.General, nodes.Element):
    """The place of the widget; its children are for readers without JavaScript."""


class Live(Directive):
    """One argument: full or small."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        if self.arguments[0] not in ("full", "small"):
            raise self.error(f"expected full or small, got {self.arguments[0]!r}")
        node = live(mode=self.arguments[0])
        self.state.nested_parse(self.content, self.content_offset, node)
        return [node]


def visit_html(self: Any, node: live) -> None:
    """The widget's place, and its style and scripts, which lie in live/ at the root."""
    home = "../" * self.builder.current_docname.count("/") + "live/"
    self.body.append(
        f'<link rel="stylesheet" href="{home}vit-live.css">'
        f'<script defer src="{home}vit-parts.js"></script>'
        f'<script defer src="{home}vit-live.js"></script>'
        f'<div class="vit-live" data-mode="{node["mode"]}"><noscript>'
    )


def depart_html(self: Any, node: live) -> None:
    self.body.append("</noscript></div>")


def as_it_is(self: Any, node: live) -> None:
    """Elsewhere, as in print, the text alone."""


def values(root: Path) -> dict[str, str]:
    """The measured numbers that a page may name, from the record."""
    record = json.loads((root / RECORD).read_text(encoding="utf-8"))
    run = record["runs"][-1]
    return {
        "live_ms": f"{run['ms a pass']:.1f}",
        "live_kb": f"{run['bytes'] / 1000:.0f}",
        "live_ready": f"{run['ready on a phone, s']:.1f}",
        "live_cpu": record["cpu"].partition(",")[0],
        "live_right": f"{run['drawings right']} of {run['drawings']}",
        "live_logits": f"{run['largest difference of a logit']:.6f}",
        "live_accuracy": f"{100 * run['test_accuracy']:.2f} %",
    }


def show_values(app: Any, docname: str, source: list[str]) -> None:
    """Put the numbers in the place of their names."""
    if docname in PAGES and NAME.search(source[0]):
        known = values(Path(app.srcdir))
        app.env.note_dependency(str(Path(app.srcdir) / RECORD))
        source[0] = NAME.sub(lambda found: known[found[1]], source[0])


def copy_files(app: Any, exception: Exception | None) -> None:
    """Copy what the widget loads, and the page that stands alone."""
    if exception is None and app.builder.format == "html":
        (Path(app.outdir) / "live").mkdir(exist_ok=True)
        for name in FILES:
            shutil.copy2(SOURCE / name, Path(app.outdir) / "live" / name)


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    alone = (as_it_is, as_it_is)
    app.add_node(live, html=(visit_html, depart_html), latex=alone, text=alone, man=alone)
    app.add_directive("live", Live)
    app.connect("source-read", show_values)
    app.connect("build-finished", copy_files)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
