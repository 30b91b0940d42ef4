"""Style sheets without the rules that no page uses: of the theme's, three quarters.

A rule stays where some page or some script has every class that its selector asks for. A sheet
that is not understood stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import tinycss2

WORD = re.compile(r"-?[A-Za-z_][\w-]*")
BUILT = "bs-"  # Bootstrap puts these names together


def used(pages: Iterable[str], scripts: Iterable[str]) -> set[str]:
    """The classes of the pages, and every word of the scripts, which may set it as a class."""
    found = set[str]()
    for page in pages:
        for names in re.findall(r"""class=(?:"([^"]*)"|'([^']*)')""", page):
            found |= set(" ".join(names).split())
        scripts = [*scripts, *re.findall(r"<script[^>]*>(.*?)</script>", page, re.S)]
    return found.union(*map(WORD.findall, scripts))


def selectors(tokens: Iterable[Any]) -> Iterable[list[Any]]:
    """The parts of a list of selectors, between its commas."""
    part: list[Any] = []
    for token in tokens:
        if token == ",":
            yield part
            part = []
        else:
            part.append(token)
    yield part


def needed(selector: list[Any], known: set[str]) -> bool:
    """Whether a page may have what the selector asks for; what stands in brackets is not read."""
    names = [word.value for dot, word in pairwise(selector) if dot == "." and word.type == "ident"]
    return all(name in known or name.startswith(BUILT) for name in names)


def smaller(css: str, known: set[str]) -> str:
    """The style sheet without rules for classes that are not known, and without comments."""
    rules = tinycss2.parse_stylesheet(css, skip_whitespace=True)
    if any(rule.type == "error" for rule in rules):
        return css
    return "".join(lighter(rule, known) for rule in rules)


def lighter(rule: Any, known: set[str]) -> str:
    """What is left of one rule; of comments the licences."""
    if rule.type == "comment":
        return rule.serialize() if rule.value.startswith("!") else ""
    if rule.type == "at-rule" and rule.lower_at_keyword not in ("media", "supports"):
        return rule.serialize()
    body = tinycss2.serialize(token for token in rule.content if token.type != "comment").strip()
    if rule.type == "at-rule":
        head, body = f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}", smaller(body, known)
    else:
        parts = [part for part in selectors(rule.prelude) if needed(part, known)]
        head = ",".join(tinycss2.serialize(part).strip() for part in parts)
    return f"{head.strip()}{{{body}}}" if head and body else ""


def prune(built: Path) -> None:
    """Make every style sheet of a built site smaller."""
    pages = [path.read_text(encoding="utf-8") for path in built.rglob("*.html")]
    scripts = [path.read_text(encoding="utf-8") for path in built.glob("_static/**/*.js")]
    known = used(pages, scripts)
    for path in built.glob("_static/**/*.css"):
        path.write_text(smaller(path.read_text(encoding="utf-8"), known), encoding="utf-8")
