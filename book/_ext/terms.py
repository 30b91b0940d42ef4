"""The glossary is the index of terms: its links lead to the paragraph that explains the term.

An entry names a chapter; the build finds the paragraph. Best is one that sets the term in *italics*
or **bold**, then a heading that holds it, then the first that uses it. Where that is not the right
one, the link says some words of the right one: `[chapter 13](13_scale.ipynb "of the weights")`. A
chapter that holds neither is a warning, and so an error of the build.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\((\d\d_\w+)\.ipynb(?: \"([^\"]+)\")?\)")
PLURAL = "(?:s|es)?"
Way = tuple[str, list[str], str]  # the name of the place, what to look for, the chapter


def place(names: list[str], chapter: str) -> str:
    """The name of the place in a chapter where a term is explained."""
    return "-".join(["term", *re.findall(r"[a-z0-9]+", names[0].lower()), chapter[:2]])


def entries(glossary: str) -> list[tuple[list[str], str]]:
    """The names of each entry, and its text."""
    found = []
    for entry in re.split(r"\n\n+", glossary.split("```{glossary}")[1].split("```")[0].strip()):
        names = [line.strip() for line in entry.splitlines() if re.match(r"\S", line)]
        found.append((names, entry))
    return found


def bare(name: str) -> str:
    """A name without what tells it from another: "head (of attention)" is a "head"."""
    return re.sub(r" \(.*", "", name)


def ways(glossary: str) -> list[Way]:
    """Every link from a term to a chapter."""
    return [
        (place(names, chapter), [words] if words else names, chapter)
        for names, text in ((list(map(bare, full)), text) for full, text in entries(glossary))
        for _, chapter, words in LINK.findall(text)
    ]


def paragraphs(text: str) -> list[int]:
    """Where the paragraphs of a cell begin, but for what is folded or inside a formula."""
    starts, folded, formula = [], False, False
    for match in re.finditer(r"(?:\A|\n\n+)(?=\S)(.*?)(?=\n\n|\Z)", text, flags=re.S):
        body = match[1]
        folded = folded or body.startswith("<details")
        if not (folded or formula or body.startswith(("|", "$$", "Time:"))):
            starts.append(match.start(1))
        formula ^= body.count("$$") % 2 == 1
        folded = folded and "</details>" not in body
    return starts


def rank(names: list[str], paragraph: str) -> int:
    """How well a paragraph explains a term: *term* 5, in *...* 4, heading 3, used 2, listed 1."""
    term = f"(?:{'|'.join(map(re.escape, names))}){PLURAL}"
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
    if not re.search(rf"\b{term}\b", plain, flags=re.I):
        return 0
    if plain.startswith(("#", "- ", "> ")):
        return 3 if plain.startswith("#") else 1
    for start, end in ((r"", r"\b"), (r"[^*\n]*\b", r"\b[^*\n]*")):
        if re.search(rf"(?<![\w*])\*+(?=\S){start}{term}{end}\*", plain, flags=re.I):
            return 4 + (not start)
    return 2


def find(names: list[str], notebook: dict[str, Any]) -> tuple[int, int] | None:
    """The cell and the place in its text where a term is explained best, or None."""
    best, found = 0, None
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            for start in paragraphs(text):
                if (new := rank(names, text[start:].split("\n\n")[0])) > best:
                    best, found = new, (number, start)
    return found


def mark(app: Any, docname: str, source: list[str]) -> None:
    """Name the places in a chapter, and lead the glossary's links there."""
    path = Path(app.srcdir, "book", "glossary.md")
    if docname == "book/glossary":
        for name, _, _ in ways(source[0]):
            source[0] = LINK.sub(rf"{{ref}}`\1 <{name}>`", source[0], count=1)
    elif docname.startswith("book/") and app.env.doc2path(docname).endswith(".ipynb"):
        app.env.note_dependency(str(path))
        notebook = json.loads(source[0])
        missing = insert(notebook, docname.removeprefix("book/"), path.read_text(encoding="utf-8"))
        source[0] = json.dumps(notebook)
        if missing:
            from sphinx.util import logging

            told = f"the glossary looks for {', '.join(missing)}: not in this chapter"
            logging.getLogger(__name__).warning(told, location=docname)


def above(notebook: dict[str, Any], number: int, start: int) -> tuple[int, int]:
    """The place itself, or that of the heading right above it: a name below one is lost."""
    text = "".join(notebook["cells"][number]["source"])
    heading = re.search(r"^#+ .*\n+\Z", text[:start], flags=re.M)
    return number, heading.start() if heading else start


def insert(notebook: dict[str, Any], chapter: str, glossary: str) -> list[str]:
    """Put the names of the places into a chapter; return the terms that it never uses."""
    wanted = [(name, names) for name, names, where in ways(glossary) if where == chapter]
    places = {name: find(names, notebook) for name, names in wanted}
    there = [(above(notebook, *spot), name) for name, spot in places.items() if spot]
    for (number, start), name in sorted(there, reverse=True):
        text = "".join(notebook["cells"][number]["source"])
        notebook["cells"][number]["source"] = f"{text[:start]}({name})=\n{text[start:]}"
    return [names[0] for name, names in wanted if not places[name]]


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", mark)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
