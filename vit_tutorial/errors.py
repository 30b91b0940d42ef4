"""The one message for a name that nobody knows."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """An error that names the unknown thing and the nearest known ones, to be raised."""
    known = list(known)
    nearest = get_close_matches(name, known, n=3, cutoff=0.4) or known
    return ValueError(f"unknown {kind} {name!r}; did you mean {' or '.join(map(repr, nearest))}?")
