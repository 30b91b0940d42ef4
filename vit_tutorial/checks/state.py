"""What the reader has passed: in this session as functions, across sessions as names in a file."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any
from weakref import WeakSet

PASSED: WeakSet[Any] = WeakSet()  # functions and classes whose check has passed in this session


def passed(mine: Any, book: Any) -> Any:
    """`mine` if its check has passed in this session, else `book`.

    So a chapter goes on with the reader's function where it is right, and with the book's where the
    exercise is still open.
    """
    return mine if mine in PASSED else book


def remember(check: str, implementation: Any) -> None:
    """Note a passed check; the book's own solutions (`book_…`, `Book…`) stay out of the file."""
    name = implementation.__name__
    while implementation is not None:  # what a check or a decorator has wrapped
        PASSED.add(implementation)
        implementation = getattr(implementation, "__wrapped__", None)
    if name.lower().startswith("book") or check in (known := remembered()):
        return
    with contextlib.suppress(OSError):  # nowhere to write: progress lasts for this session
        path().parent.mkdir(parents=True, exist_ok=True)
        path().write_text(json.dumps(sorted([*known, check]), indent=1), encoding="utf-8")


def remembered() -> list[str]:
    """The names of all checks that were passed, in this session or before."""
    try:
        names = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def path() -> Path:
    """The file: in $XDG_STATE_HOME, else in ~/.local/state."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "vit_tutorial" / "progress.json"
