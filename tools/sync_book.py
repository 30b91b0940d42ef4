"""Keep the book, the package and the project's address in agreement.

    python tools/sync_book.py                          say what differs; exit code 1 if so
    python tools/sync_book.py --write                  copy package to cells, address to links
    python tools/sync_book.py --repository owner/name  set the address, everywhere at once

A cell tagged `source:vit_tutorial.attention.MultiHeadSelfAttention` holds that object's source to
the letter; a cell tagged `setup` holds SETUP. The address stands once, as Repository in
pyproject.toml.
"""

import argparse
import ast
import re
import sys
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
TAG = "source:"
PLACEHOLDER = "OWNER/REPO"  # as long as the project has no public address
SLUG = r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*?"
# what stands before and after owner/name where a link is to this project and to no other
OWN_LINK = re.compile(
    r"(git\+https://github\.com/|git clone https://github\.com/|repository-code: https://github\.com/"
    r"|colab\.research\.google\.com/github/|\n  url: https://github\.com/"
    r"|https://github\.com/(?=[^\s/]+/[^\s/]+/actions/workflows/))"
    rf"({SLUG})(?=\.git\b|[\s/)\"'`\\>]|$)"
)
OWN_PAGES = re.compile(r"(baseurl: )(https://\S+)")
SETUP = """\
import os

if "COLAB_RELEASE_TAG" in os.environ:  # in Colab only: fetch the package
    %pip install -q git+https://github.com/{slug}

import matplotlib.pyplot as plt
import torch

from vit_tutorial.figures.palette import paper
from vit_tutorial.train import default_device

plt.rcParams.update(paper())  # the book's look
torch.manual_seed(0)
device = default_device()"""


def repository() -> str:
    """The project's owner/name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix("https://github.com/")


def pages(slug: str) -> str:
    """The address of the built book on GitHub Pages."""
    owner, name = slug.split("/")
    return f"https://{owner if slug == PLACEHOLDER else owner.lower()}.github.io/{name}/"


def source(name: str) -> str:
    """The text of one top-level class, function or constant of the package."""
    module, _, attribute = name.rpartition(".")
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not path.is_file():
        raise LookupError(f"no module {module} for the tag {TAG}{name}")
    text = path.read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        targets = [*getattr(node, "targets", []), getattr(node, "target", None)]
        names = [getattr(node, "name", None), *(getattr(t, "id", None) for t in targets)]
        if attribute in names:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    raise LookupError(f"{module} has no {attribute} for the tag {TAG}{name}")


def tagged_cells(notebook):
    """The cells that show the package, each with the dotted name of what it shows."""
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag.startswith(TAG):
                yield tag.removeprefix(TAG), cell


def sync_cells(path: Path, slug: str, write: bool) -> list[str]:
    """Compare one notebook with the package; with `write`, copy package to cells."""
    notebook = nbformat.read(path, as_version=4)
    expected = [(name, cell, source(name)) for name, cell in tagged_cells(notebook)]
    setups = [c for c in notebook.cells if "setup" in c.metadata.get("tags", [])]
    expected += [("the set-up cell", cell, SETUP.format(slug=slug)) for cell in setups]
    stale = [name for name, cell, text in expected if cell.source != text]
    if stale and write:
        for _, cell, text in expected:
            cell.source = text
        nbformat.write(notebook, path)
    return [f"{path.name}: {name} differs" for name in stale]


def sync_address(path: Path, slug: str, write: bool) -> list[str]:
    """Compare one file's links to this project with its address; with `write`, mend them."""
    old = path.read_text(encoding="utf-8")
    new = OWN_PAGES.sub(rf"\g<1>{pages(slug)}", OWN_LINK.sub(rf"\g<1>{slug}", old))
    if slug != PLACEHOLDER:
        new = new.replace(pages(PLACEHOLDER), pages(slug)).replace(PLACEHOLDER, slug)
    if new != old and write:
        path.write_text(new, encoding="utf-8")
    return [f"{path.relative_to(ROOT)}: a link does not lead to {slug}"] if new != old else []


def set_repository(slug: str) -> None:
    """Write a new owner/name into pyproject.toml and every link that held the old one."""
    old = repository()
    for path in [ROOT / "pyproject.toml", *linked_files()]:
        text = path.read_text(encoding="utf-8").replace(pages(old), pages(slug))
        path.write_text(text.replace(f"github.com/{old}", f"github.com/{slug}"), encoding="utf-8")


def linked_files() -> list[Path]:
    """The files that hold links to this project."""
    names = ["_config.yml", "README.md", "CITATION.cff"]
    return [ROOT / n for n in names] + sorted([*ROOT.glob("book/*.md"), *ROOT.glob("book/*.ipynb")])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where something differs and nothing was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="copy package to cells")
    parser.add_argument("--repository", metavar="OWNER/NAME", help="set the project's address")
    options = parser.parse_args(arguments)
    if options.repository:
        if not re.fullmatch(SLUG, options.repository):
            parser.error(f"expected owner/name, got {options.repository!r}")
        set_repository(options.repository)
    slug, write = repository(), options.write or bool(options.repository)
    try:
        found = [x for p in sorted(ROOT.glob("book/*.ipynb")) for x in sync_cells(p, slug, write)]
    except LookupError as error:
        print(f"sync_book: {error.args[0]}")
        return 1
    found += [x for p in linked_files() for x in sync_address(p, slug, write)]
    print(*found, sep="\n", end="\n" if found else "")
    if not found:
        print("sync_book: book, package and address agree")
    elif write:
        print(f"sync_book: {len(found)} mended")
    else:
        print(f"sync_book: {len(found)} differ; mend with python tools/sync_book.py --write")
    return int(bool(found) and not write)


if __name__ == "__main__":
    sys.exit(main())
