"""Keep the book and the package in agreement.

    python tools/sync_book.py           say what differs; exit code 1 if so
    python tools/sync_book.py --write   copy package to cells

A cell tagged `source:vit_tutorial.attention.MultiHeadSelfAttention` holds that object's source to
the letter; a cell tagged `setup` holds SETUP. Its OWNER/REPO is replaced in the published copies
(tools/publish.py). A translated chapter, translations/es/01_patching.ipynb, has the code and the
outputs of the original.
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


def sync_translation(path: Path, write: bool) -> list[str]:
    """Compare a translated chapter's code with the original's; with `write`, copy it, outputs too.

    Raises LookupError if there is no such chapter, or one with another number of code cells.
    """
    original = ROOT / "book" / path.name
    if not original.is_file():
        raise LookupError(f"{path.relative_to(ROOT)} translates no chapter of the book")
    there, here = (nbformat.read(p, as_version=4) for p in (original, path))
    pairs = [[c for c in book.cells if c.cell_type == "code"] for book in (here, there)]
    if len(pairs[0]) != len(pairs[1]):
        counts = f"{len(pairs[0])} code cells, the original {len(pairs[1])}"
        raise LookupError(f"{path.relative_to(ROOT)} has {counts}")
    stale = [i for i, (ours, theirs) in enumerate(zip(*pairs, strict=True), start=1)
             if (ours.source, ours.outputs) != (theirs.source, theirs.outputs)]  # fmt: skip
    if stale and write:
        for ours, theirs in zip(*pairs, strict=True):
            for key in ("source", "outputs", "execution_count"):
                ours[key] = theirs[key]
        nbformat.write(here, path)
    return [f"{path.relative_to(ROOT)}: code cell {i} differs" for i in stale]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where something differs and nothing was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="copy package to cells")
    options = parser.parse_args(arguments)
    write = options.write
    try:
        found = [x for p in sorted(ROOT.glob("book/*.ipynb")) for x in sync_cells(p, write)]
        translated = sorted(ROOT.glob("translations/*/*.ipynb"))
        found += [x for p in translated for x in sync_translation(p, write)]
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
