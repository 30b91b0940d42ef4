"""Each chapter leads to the glossary and to the reference where it first names something of theirs.

The first mention of a term of the glossary, in running text, becomes a link to its entry; the first
`name` in code type of a function or class that the chapter imports or defines, a link to the
reference. What is folded, a heading, a caption, a link already, or the output of a cell, stays as
it is. No chapter is edited for it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.inventory import InventoryFile
from terms import PLURAL, bare, entries

# words of several meanings: links only in the chapters that their entry names
SEVERAL = {"key", "register", "head (of attention)", "head (of classification)"}
KINDS = ("function", "class", "exception")  # a method needs its class: ViTConfig.patches
Index = dict[tuple[str, str], str]  # ("term", a term) or ("py", a dotted name): a page and a place


def index(app: Any) -> Index:
    """Where the glossary and the reference explain what, from the site's root.

    A translation has neither: it leads into the book, which was built before it.
    """
    env, address = app.env, app.builder.get_target_uri
    if "book/glossary" in env.found_docs:
        things = [*env.get_domain("std").get_objects(), *env.get_domain("py").get_objects()]
        kinds = {"term": "term", **dict.fromkeys(KINDS, "py")}
        return {(kinds[kind], name): f"{address(page)}#{place}"
                for name, _, kind, page, place, _ in things if kind in kinds}  # fmt: skip
    file = Path(app.srcdir, "_build", "html", "objects.inv")
    if not file.is_file():
        return {}
    with file.open("rb") as stream:
        book = InventoryFile.load(stream, "", lambda folder, path: path)
    found = {("term", name): item[2] for name, item in book.get("std:term", {}).items()}
    for kind in KINDS:
        found |= {("py", name): item[2] for name, item in book.get(f"py:{kind}", {}).items()}
    return found


def names_of(cells: list[dict[str, Any]], found: Index) -> dict[str, str]:
    """The package's objects by the names that a chapter has for them, and by module.name.

    A chapter knows what it imports, and what a cell tagged source: defines.
    """
    whole = {name for kind, name in found if kind == "py"}
    last = {name: [full for full in whole if full.endswith(f".{name}")]
            for name in {full.rsplit(".", 1)[1] for full in whole}}  # fmt: skip
    known = set[str]()
    for cell in cells:
        if cell["cell_type"] == "code":
            tags = cell["metadata"].get("tags", [])
            known |= {tag.removeprefix("source:") for tag in tags if tag.startswith("source:")}
            known |= imported("".join(cell["source"]))
    names = {full.split(".", 1)[1]: found["py", full] for full in whole}
    names |= {".".join(full.split(".")[-2:]): found["py", full] for full in whole}
    for full in known:
        name = full.rsplit(".", 1)[-1]
        # what __init__ offers stands in the reference under its own module
        full = full if full in whole or len(last.get(name, [])) != 1 else last[name][0]
        if full in whole:
            names[name] = found["py", full]
    return names


def imported(code: str) -> set[str]:
    """The dotted names of what a cell takes from the package."""
    body = ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", code, flags=re.M)).body
    return {f"{line.module}.{name.name}" for line in body if isinstance(line, ast.ImportFrom)
            and (line.module or "").startswith("vit_tutorial") for name in line.names}  # fmt: skip


def pattern(names: list[str]) -> re.Pattern[str]:
    """What a term looks like in a text: its plural too; capitals count where it has any."""
    forms = []
    for name in sorted(names, key=len, reverse=True):
        if "(of " not in name:  # "head" alone may be either head
            words = r"\s+".join(map(re.escape, bare(name).split())) + PLURAL
            forms.append(words if re.search("[A-Z]", name) else f"(?i:{words})")
    return re.compile(rf"(?<![\w-])(?:{'|'.join(forms)})(?![\w-])")


def running(tree: nodes.document) -> Iterator[nodes.Text | nodes.literal]:
    """The pieces of running text and of code type in it, in order, but for what is folded."""
    folded = 0
    for node in tree.findall():
        if isinstance(node, nodes.raw):
            folded += node.astext().count("<details") - node.astext().count("</details")
        elif isinstance(node, nodes.Text | nodes.literal) and not folded and in_text(node):
            yield node


def in_text(node: nodes.Node) -> bool:
    """Whether a piece stands in a paragraph, and in no link, caption, cell or code type."""
    paragraph, place = False, node.parent
    while place is not None:
        paragraph |= isinstance(place, nodes.paragraph)
        if isinstance(place, nodes.reference | nodes.literal | nodes.title | nodes.caption):
            return False
        if isinstance(place, nodes.math | nodes.raw | nodes.literal_block | nodes.term):
            return False
        if isinstance(place, nodes.Element):
            if {"cell", "cell_output", "map-caption", "download"} & set(place.get("classes", [])):
                return False
            if place.tagname in ("download_reference", "pending_xref", "desc", "legend"):
                return False
        place = place.parent
    return paragraph


def link(to: str, kind: str, *content: nodes.Node) -> nodes.reference:
    """A quiet link around what is there."""
    return nodes.reference("", "", *content, internal=True, refuri=to, classes=[f"{kind}-link"])


def terms_of(glossary: str, chapter: str, found: Index) -> dict[re.Pattern[str], str]:
    """What each term looks like that may become a link in this chapter, and where it leads."""
    return {
        pattern(names): found["term", names[0]]
        for names, text in entries(glossary)
        if ("term", names[0]) in found and (f"]({chapter}_" in text or not SEVERAL & set(names))
    }


def lead(
    tree: nodes.document, up: str, terms: dict[re.Pattern[str], str], names: dict[str, str]
) -> None:
    """Make links of the first mentions; `up` leads from the page to the site's root."""
    for node in list(running(tree)):
        if isinstance(node, nodes.literal):
            name = re.sub(r"\(.*\)$", "", node.astext())
            if to := names.pop(name, None):
                names = {other: there for other, there in names.items() if there != to}
                node.parent.replace(node, link(up + to, "api", node.deepcopy()))
        else:
            node.parent.replace(node, linked(node.astext(), terms, up))


def linked(text: str, terms: dict[re.Pattern[str], str], up: str) -> list[nodes.Node]:
    """A text in pieces, the first mentions among them as links; those terms then lead nowhere.

    At each place the longest term counts, so that a second "class token" is not a first "token".
    """
    made: list[nodes.Node] = []
    while hits := [(hit.start(), -hit.end(), number, hit)
                   for number, term in enumerate(terms) if (hit := term.search(text))]:  # fmt: skip
        *_, hit = min(hits)
        to, terms[hit.re] = terms[hit.re], ""
        made += [nodes.Text(text[: hit.start()]), nodes.Text(hit[0])]
        made[-1:] = [link(up + to, "term", made[-1])] if to else made[-1:]
        text = text[hit.end() :]
    return [piece for piece in [*made, nodes.Text(text)] if piece.astext()]


def mentions(app: Any, tree: nodes.document, page: str) -> None:
    """Lead a chapter's first mentions to where they are explained."""
    source = Path(app.env.doc2path(page))
    if app.builder.format == "html" and re.fullmatch(r"\d\d_\w+\.ipynb", source.name):
        glossary = Path(app.srcdir, "book", "glossary.md").read_text(encoding="utf-8")
        cells, found = json.loads(source.read_text(encoding="utf-8"))["cells"], index(app)
        terms = terms_of(glossary, source.name[:2], found)
        lead(tree, "../" * page.count("/"), terms, names_of(cells, found))


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("doctree-resolved", mentions)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
