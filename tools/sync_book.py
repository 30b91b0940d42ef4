"""Keep the book and the package in agreement.

    python tools/sync_book.py           say what differs; exit code 1 if so
    python tools/sync_book.py --write   copy package to cells

A cell tagged `source:vit_tutorial.attention.MultiHeadSelfAttention` holds that object's source to
the letter; a cell tagged `setup` holds SETUP. Its OWNER/REPO is replaced in the published copies
(tools/publish.py).
"""

import argparse
import ast
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
TAG = "source:"
SETUP = """\
import importlib.util

if importlib.util.find_spec("vit_tutorial") is None:  # in Colab: fetch the package
    %pip install -q git+https://github.com/OWNER/REPO

import matplotlib.pyplot as plt
import torch

from vit_tutorial.figures.palette import paper
from vit_tutorial.train import default_device

plt.rcParams.update(paper())  # the book's look
torch.manual_seed(0)
device = default_device()
print(f"PyTorch {torch.__version__} on {device}")"""


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


def sync_cells(path: Path, write: bool) -> list[str]:
    """Compare one notebook with the package; with `write`, copy package to cells."""
    notebook = nbformat.read(path, as_version=4)
    expected = [(name, cell, source(name)) for name, cell in tagged_cells(notebook)]
    setups = [c for c in notebook.cells if "setup" in c.metadata.get("tags", [])]
    expected += [("the set-up cell", cell, SETUP) for cell in setups]
    stale = [name for name, cell, text in expected if cell.source != text]
    if stale and write:
        for _, cell, text in expected:
            cell.source = text
        nbformat.write(notebook, path)
    return [f"{path.name}: {name} differs" for name in stale]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where something differs and nothing was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="copy package to cells")
    options = parser.parse_args(arguments)
    write = options.write
    try:
        found = [x for p in sorted(ROOT.glob("book/*.ipynb")) for x in sync_cells(p, write)]
    except LookupError as error:
        print(f"sync_book: {error.args[0]}")
        return 1
    print(*found, sep="\n", end="\n" if found else "")
    if not found:
        print("sync_book: book and package agree")
    elif write:
        print(f"sync_book: {len(found)} mended")
    else:
        print(f"sync_book: {len(found)} differ; mend with python tools/sync_book.py --write")
    return int(bool(found) and not write)


if __name__ == "__main__":
    sys.exit(main())
