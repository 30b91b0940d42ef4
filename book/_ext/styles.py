"""Style sheets without the rules that no page uses: of the theme's, three quarters.

A rule stays where some page or some script has every class that its selector asks for. A sheet
that is not understood stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

RULE = re.compile(r"([^{}]*)\{((?:[^{}]|\{[^{}]*\})*)\}")
CLASS = re.compile(r"\.(-?[A-Za-z_](?:[\w-]|\\.)*)")
COMMENT = re.compile(r"/\*(?!!).*?\*/", re.S)
LICENCE = re.compile(r"/\*!.*?\*/", re.S)
STATEMENT = re.compile(r"@(?:import|charset)[^;{}]*;")
COMMA = re.compile(r",(?![^(]*\))")
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


def needed(selector: str, known: set[str]) -> bool:
    """Whether a page may have what the selector asks for; what stands in brackets is not read."""
    while (less := re.sub(r"\([^()]*\)", "", selector)) != selector:
        selector = less
    names = [name.replace("\\", "") for name in CLASS.findall(selector)]
    return all(name in known or name.startswith(BUILT) for name in names)


def smaller(css: str, known: set[str]) -> str:
    """The style sheet without rules for classes that are not known."""
    kept = LICENCE.findall(css)
    rest = LICENCE.sub("", COMMENT.sub("", css))
    kept += STATEMENT.findall(rest)
    rest = STATEMENT.sub("", rest)
    if RULE.sub("", rest).strip():
        return css
    for head, body in RULE.findall(rest):
        head = head.strip()
        if head.startswith(("@media", "@supports")):
            body = smaller(body, known)
        elif not head.startswith("@"):
            head = ",".join(part for part in COMMA.split(head) if needed(part, known))
        if head and body.strip():
            kept.append(f"{head}{{{body}}}")
    return "".join(kept)


def prune(built: Path) -> None:
    """Make every style sheet of a built site smaller."""
    pages = [path.read_text(encoding="utf-8") for path in built.rglob("*.html")]
    scripts = [path.read_text(encoding="utf-8") for path in built.glob("_static/**/*.js")]
    known = used(pages, scripts)
    for path in built.glob("_static/**/*.css"):
        path.write_text(smaller(path.read_text(encoding="utf-8"), known), encoding="utf-8")
