"""Make the exercise notebooks from the chapters: stubs and checks in, solutions and outputs out.

    python tools/exercises.py            say which are out of date; exit code 1 if so
    python tools/exercises.py --write    write book/exercises/NN_name.ipynb

Kept are the set-up cell, every section that holds a stub (a code cell that defines `my_...` or
`My...` and leaves `...` to the reader), the section "One more rung", and of the other code what
these need. The chapter is the source: edit that, and never an exercise notebook.
"""

import argparse
import ast
import dis
import re
import sys
from pathlib import Path
from types import CodeType

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.run_notebooks import KERNEL
from tools.sync_book import ROOT, TAG

BOOK, FOLDER = ROOT / "book", ROOT / "book" / "exercises"
SOLUTION = "# @title Solution"
KEPT = "One more rung"  # a section to work in, though it has no stub
PASSED = re.compile(r"\bpassed\(\s*([Mm]y\w+),\s*[Bb]ook\w+\s*\)")
LINK = re.compile(r"\]\((?=[\w-]+\.(?:ipynb|md)\b)")  # to another page of the book


def chapters() -> list[Path]:
    """The chapters that hold a stub, in order."""
    paths = sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))
    return [p for p in paths if any(map(is_stub, cells_of(p)))]


def tree(cell: NotebookNode) -> ast.Module:
    """The syntax of a code cell, its magics included."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def is_stub(cell: NotebookNode) -> bool:
    """Whether the reader has to fill in a function or a method here."""
    if cell.cell_type != "code" or is_solution(cell):
        return False
    mine = [n for n in tree(cell).body if getattr(n, "name", "").lower().startswith("my")]
    return any(isinstance(x, ast.Constant) and x.value is ... for n in mine for x in ast.walk(n))


def is_solution(cell: NotebookNode) -> bool:
    """Whether this cell gives the answer away."""
    return cell.source.startswith(SOLUTION)


def shown(cell: NotebookNode) -> str:
    """The dotted name of what a cell shows of the package, or nothing."""
    tags = cell.metadata.get("tags", [])
    return next((tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)), "")


def names(cell: NotebookNode) -> tuple[set[str], set[str]]:
    """The names that a code cell makes, and those that it takes from other cells."""
    made: set[str] = set()
    read: set[str] = set()

    def walk(code: CodeType, top: bool) -> None:
        for op in dis.get_instructions(code):
            if isinstance(op.argval, CodeType):
                walk(op.argval, False)
            elif op.opname == "STORE_NAME" and top:
                made.add(op.argval)
            elif op.opname in ("LOAD_NAME", "LOAD_GLOBAL") and op.argval not in made:
                read.add(op.argval)

    walk(compile(tree(cell), "cell", "exec"), True)
    return made, read


def needed(cells: list[NotebookNode], kept: set[int]) -> set[int]:
    """The other code cells whose names the kept ones use, directly or through one another."""
    code = [
        i
        for i, cell in enumerate(cells)
        if cell.cell_type == "code" and (i in kept or not is_solution(cell))
    ]
    made, uses = ({i: names(cells[i])[n] for i in code} for n in (0, 1))
    uses |= {i: set() for i in code if shown(cells[i]) and i not in kept}  # will be imported
    found, todo = set(kept), sorted(kept & set(code))
    while todo:
        here = todo.pop()
        for name in uses[here] - set().union(*(made[i] for i in found & set(code) if i < here)):
            makers = [i for i in code if name in made[i] and i != here]
            if makers:  # else it is Python's own
                maker = max([i for i in makers if i < here], default=makers[0])
                todo += {maker} - found
                found.add(maker)
    return found - kept


def cells_of(path: Path) -> list[NotebookNode]:
    """The cells of a chapter; a heading of the second level begins a cell of its own."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            found.append(cell)
            continue
        parts = re.split(r"^(?=## )", cell.source, flags=re.MULTILINE)
        parts = [part.strip() for part in parts if part.strip()]
        found += [text(cell.id + n * "x", part) for n, part in enumerate(parts)]
    return found


def sections(cells: list[NotebookNode]) -> list[list[int]]:
    """The numbers of the cells under each heading of the second level."""
    found: list[list[int]] = [[]]
    for i, cell in enumerate(cells):
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            found.append([])
        found[-1].append(i)
    return found


def make(path: Path) -> NotebookNode:
    """The exercise notebook of one chapter."""
    cells = cells_of(path)
    work = [
        numbers
        for numbers in sections(cells)[1:]
        if any(is_stub(cells[i]) for i in numbers)
        or cells[numbers[0]].source.startswith(f"## {KEPT}")
    ]
    kept = {i for numbers in work for i in numbers if not is_solution(cells[i])}
    setup = {i for i, cell in enumerate(cells) if "setup" in cell.metadata.get("tags", [])}
    before = needed(cells, kept) - setup
    title = cells[0].source.splitlines()[0].removeprefix("# ")
    made = [text("exercises-title", opening(title, path.name))]
    made += [plain(cells[i]) for i in sorted(setup)]
    if min(before | kept) in before:
        made.append(text("exercises-before", "## From the chapter\n\nRun these first."))
    for i in sorted(before | kept):
        made.append(imported(cells[i]) if i in before else plain(cells[i]))
    made += [text("exercises-end", "## How far you are"), code("exercises-progress", PROGRESS)]
    for cell in made:
        left = re.search(r"\b[Bb]ook_\w+", cell.source) if cell.cell_type == "code" else None
        if left:
            raise ValueError(f"{path.name}: {left[0]} is used outside a solution: {cell.source}")
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python", "file_extension": ".py"}}
    return nbformat.v4.new_notebook(cells=made, metadata=metadata)


PROGRESS = "from vit_tutorial.checks import progress\n\nprogress()"


def opening(title: str, name: str) -> str:
    """What stands first in an exercise notebook."""
    lines = [
        f"# {title}: exercises",
        f"To work in, beside [the chapter](../{name}): the exercises with their checks and hints, "
        "and nothing that gives the answer away. Fill in each `...`, run the cell, and read what "
        "the check says. The dots say how hard an exercise is. The solutions are in the chapter.",
    ]
    return "\n\n".join(lines)


def text(name: str, source: str) -> NotebookNode:
    """A cell of prose that the chapter does not have."""
    return nbformat.v4.new_markdown_cell(source, id=name)


def code(name: str, source: str) -> NotebookNode:
    """A code cell that the chapter does not have."""
    return nbformat.v4.new_code_cell(source, id=name)


def plain(cell: NotebookNode) -> NotebookNode:
    """A cell of the chapter without its output; links lead out of the folder."""
    if cell.cell_type == "markdown":
        return text(cell.id, LINK.sub("](../", cell.source))
    made = code(cell.id, PASSED.sub(r"\1", cell.source))
    if made.source != cell.source:  # it runs the reader's function, and may come before that works
        made.metadata["tags"] = ["raises-exception"]
    return made


def imported(cell: NotebookNode) -> NotebookNode:
    """As `plain`, but what the package defines is imported: its text is an answer."""
    if not shown(cell):
        return plain(cell)
    module, _, name = shown(cell).rpartition(".")
    return code(cell.id, f"from {module} import {name}")


def main(arguments: list[str] | None = None) -> int:
    """Compare or write; the exit code is 1 if something is out of date and stays so."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write what is out of date")
    write = parser.parse_args(arguments).write
    wanted = {FOLDER / p.name: nbformat.writes(make(p)) + "\n" for p in chapters()}
    there = {p: p.read_text(encoding="utf-8") for p in FOLDER.glob("*.ipynb")}
    stale = sorted(p for p in wanted.keys() | there.keys() if wanted.get(p) != there.get(p))
    for path in stale if write else []:
        if path in wanted:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'written' if write else 'differs from its chapter'}")
    if not stale:
        print("exercises: the notebooks to work in agree with the chapters")
    elif not write:
        print(f"exercises: {len(stale)} differ; mend with python tools/exercises.py --write")
    return int(bool(stale) and not write)


if __name__ == "__main__":
    sys.exit(main())
