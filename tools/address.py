"""The repository's address, found where the book is built: no file holds it."""

import os
import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "OWNER/REPO"  # what the set-up cells hold until a copy is published
SLUG = r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9_.-]+?"


@cache
def repository() -> str:
    """owner/name from VIT_TUTORIAL_REPOSITORY, else GitHub Actions, else git's remote `origin`.

    OWNER/REPO where none of them tells. Raises ValueError for a setting that is not owner/name.
    """
    for name in ("VIT_TUTORIAL_REPOSITORY", "GITHUB_REPOSITORY"):
        if slug := os.environ.get(name):
            if not re.fullmatch(SLUG, slug):
                raise ValueError(f"{name} should be owner/name, got {slug!r}")
            return slug
    return slug_of(origin()) or PLACEHOLDER


def origin() -> str:
    """The address of git's remote `origin`; empty without git, repository or remote."""
    command = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def slug_of(address: str) -> str:
    """owner/name of a repository on GitHub, by https or ssh; empty for another place."""
    found = re.fullmatch(rf"(?:\w+://)?(?:[^@/]+@)?github\.com[:/]({SLUG})(?:\.git)?/?", address)
    return found[1] if found else ""


def pages(slug: str) -> str:
    """The address of the built book on GitHub Pages."""
    owner, name = slug.split("/")
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"
