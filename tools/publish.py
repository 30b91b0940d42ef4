"""Publish the notebooks for Colab: copies with the repository's address, in their own branch.

    python tools/publish.py FOLDER                 write the copies into FOLDER
    python tools/publish.py --push REMOTE          replace the branch `colab` of a git remote

The address comes from where this runs (tools/address.py). Without one, and if a copy would still
hold OWNER/REPO, nothing is written and the exit code is 1.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from address import PLACEHOLDER, ROOT, repository

BRANCH = "colab"
README = """# Notebooks for Colab

Made from the branch `main` of https://github.com/{slug}: the same notebooks, with this
repository's address in their first cell. Do not edit them here.
"""


def copies(slug: str) -> dict[str, str]:
    """The text of every file of the branch, by path."""
    found = {"README.md": README.format(slug=slug)}
    paths = sorted([*ROOT.glob("book/*.ipynb"), *ROOT.glob("book/exercises/*.ipynb")])
    for path in paths:
        text = path.read_text(encoding="utf-8")
        found[path.relative_to(ROOT).as_posix()] = text.replace(PLACEHOLDER, slug)
    return found


def write(folder: Path, slug: str) -> int:
    """Write the copies; how many notebooks they are. Raises ValueError without an address."""
    made = copies(slug)
    left = [name for name, text in made.items() if PLACEHOLDER in text]
    if slug == PLACEHOLDER or left:
        raise ValueError(
            "the repository has no address here: set VIT_TUTORIAL_REPOSITORY to owner/name, or "
            "run in a clone whose remote `origin` lies on GitHub"
        )
    for name, text in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return len(made) - 1


def push(remote: str, slug: str) -> int:
    """Replace the branch by one commit with the copies; how many notebooks it holds."""
    with tempfile.TemporaryDirectory() as place:
        count = write(Path(place), slug)

        def git(*words: str) -> None:
            subprocess.run(["git", *words], cwd=place, check=True, stdout=subprocess.DEVNULL)

        git("init", "-q", "-b", BRANCH)
        git("add", "-A")
        who = ["-c", "user.name=publish", "-c", "user.email=publish@users.noreply.github.com"]
        git(*who, "commit", "-q", "-m", f"The notebooks of {slug}")
        git("push", "-q", "--force", address_of(remote), f"HEAD:refs/heads/{BRANCH}")
    return count


def address_of(remote: str) -> str:
    """The address of a remote of this clone, by its name; anything else as it is."""
    command = ["git", "-C", str(ROOT), "remote", "get-url", remote]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or remote


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="write the copies into this folder")
    parser.add_argument("--push", metavar="REMOTE", help="replace the branch `colab` of REMOTE")
    options = parser.parse_args(arguments)
    if bool(options.folder) == bool(options.push):
        parser.error("give a folder, or --push REMOTE")
    try:
        slug = repository()
        count = push(options.push, slug) if options.push else write(options.folder, slug)
    except (ValueError, subprocess.CalledProcessError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 1
    print(f"publish: {count} notebooks of {slug}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
