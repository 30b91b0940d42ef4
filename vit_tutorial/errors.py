"""The one message for a name that nobody knows, and the one way to print a name from outside."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """An error that names the unknown thing and the nearest known ones, to be raised."""
    known = list(known)
    nearest = get_close_matches(name, known, n=3, cutoff=0.4) or known[:10]
    return ValueError(f"unknown {kind} {name!r}; did you mean {' or '.join(map(repr, nearest))}?")


def shown(name: object, limit: int = 300) -> str:
    """A name from outside, safe to print in a line of text: what cannot be seen is escaped.

    Control codes, line breaks, marks that turn the direction of writing and bytes that are not
    UTF-8 become backslash escapes; letters of all scripts stay. A name of more than `limit`
    characters loses its middle. (HTML needs `html.escape` as well.)
    """
    text = "".join(c if c.isprintable() or c in JOINERS else escaped(c) for c in str(name))
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[-(limit // 2) :]}"


JOINERS = "\u200c\u200d"  # invisible, but letters of several scripts need them


def escaped(c: str) -> str:
    """A character as Python writes it in a string; a stray byte of a file's name as \\xff."""
    stray = 0xDC80 <= ord(c) <= 0xDCFF  # as `os.fsdecode` keeps it
    return f"\\x{ord(c) - 0xDC00:02x}" if stray else c.encode("unicode_escape").decode()
