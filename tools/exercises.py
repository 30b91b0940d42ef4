"""Make the exercise notebooks from the chapters: stubs and checks in, solutions and outputs out.

    python tools/exercises.py            say which are out of date; exit code 1 if so
    python tools/exercises.py --write    write book/exercises/NN_name.ipynb

Kept are the set-up cell, every section that holds a stub (a code cell that defines `my_...` or
`My...` and leaves `...` to the reader) and the section "One more rung". Of the other code come the
statements that these need, and no more. Text that follows a measurement is folded. A cell that
runs the reader's function first asks whether its check has passed, so an exercise that is open
stops nothing. The chapter is the source: edit that, and never an exercise notebook.
"""

import argparse
import ast
import dis
import re
import sys
import textwrap
from dataclasses import dataclass, field
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
PASSED = re.compile(r"\bpassed\(\s*([Mm]y\w+),\s*([Bb]ook\w+)\s*\)")
LINK = re.compile(r"\]\((?=[\w-]+\.(?:ipynb|md|py)\b)")  # to another page of the book
MINE = re.compile(r"[Mm]y(_\w+|[A-Z]\w*)")  # what the reader writes
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")  # code within a sentence
CLASS = re.compile(r"[A-Z]\w*[a-z]\w*")  # the name of a class
CHANGING = {
    "add",
    "append",
    "backward",
    "eval",
    "extend",
    "load_state_dict",
    "pop",
    "step",
    "train",
    "update",
}
WIDTH = 84  # of a line of code in a notebook


@dataclass(eq=False)
class Unit:
    """One statement of a code cell, or one name of an import."""

    cell: int
    node: ast.stmt
    makes: set[str]
    reads: set[str] = field(default_factory=set)
    alias: ast.alias | None = None


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


def answer(cell: NotebookNode) -> list[ast.stmt]:
    """The statements of a solution up to its check; a measurement may follow."""
    body = tree(cell).body
    checks = [n for n, node in enumerate(body) if re.search(r"\bcheck_", ast.unparse(node))]
    return body[: max(checks, default=len(body)) + 1]


def shown(cell: NotebookNode) -> str:
    """The dotted name of what a cell shows of the package, or nothing."""
    tags = cell.metadata.get("tags", [])
    return next((tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)), "")


def names(nodes: list[ast.stmt]) -> tuple[set[str], set[str]]:
    """The names that some statements make, and those that they take from elsewhere."""
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

    walk(compile(ast.Module(nodes, []), "cell", "exec"), True)
    return made, read


def units(cells: list[NotebookNode]) -> list[Unit]:
    """The statements of all code cells, in order."""
    found = []
    for i, cell in enumerate(cells):
        for node in tree(cell).body if cell.cell_type == "code" else []:
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    found.append(Unit(i, node, {name}, alias=alias))
            else:
                found.append(Unit(i, node, *names([node])))
    return found


def root(node: ast.AST) -> str:
    """The name that `a.b[c].d(e)` begins with, here "a"; else nothing."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def changes(node: ast.stmt, name: str) -> bool:
    """Whether a statement changes a value in place: `x[0] = ...`, `x.eval()`, `train(x)`."""
    for part in [] if isinstance(node, ast.FunctionDef | ast.ClassDef) else ast.walk(node):
        if isinstance(part, ast.Attribute | ast.Subscript) and isinstance(part.ctx, ast.Store):
            values = [part]
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
            method = getattr(part.value.func, "attr", "")
            in_place = method.endswith("_")
            values = [part.value.func] if in_place or method in CHANGING else []
            values += part.value.args if in_place else []
        elif isinstance(part, ast.Call) and root(part.func) in ("fit", "train"):
            values = part.args[:1]
        else:
            continue
        if name in map(root, values):
            return True
    return False


def spoken(source: str) -> list[tuple[str, set[str]]]:
    """The functions that the code in a text calls and the classes it names, with all else there."""
    found = []
    for span in SPAN.findall(source):
        try:
            parts = [p for p in ast.walk(ast.parse(span)) if isinstance(p, ast.Name)]
        except SyntaxError:
            parts = []
        made = {part.id for part in parts if isinstance(part.ctx, ast.Store)}
        for name in re.findall(r"(?<![.\w])([A-Za-z_]\w*)", span):
            if CLASS.fullmatch(name) or re.search(rf"(?<![.\w]){name}\(", span):
                found.append((name, {part.id for part in parts} - made))
    return found


def exercise_of(cells: list[NotebookNode], kept: set[int]) -> list[tuple[int, str, set[str]]]:
    """The texts under each heading, with their cell and the arguments of the stubs there."""
    found: list[tuple[int, str, set[str]]] = []
    given: set[str] = set()
    for i in sorted(kept):
        if cells[i].cell_type == "markdown":
            for part in re.split(r"^(?=##)", cells[i].source, flags=re.MULTILINE):
                given = set() if part.startswith("##") else given
                found.append((i, part, given))
        elif is_stub(cells[i]):
            nodes = ast.walk(tree(cells[i]))
            given |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return found


def mentioned(cells: list[NotebookNode], kept: set[int]) -> list[tuple[int, str]]:
    """What a reader needs besides, and from which cell on: names in the text and in the solutions.

    Of a solution only the imports count: a reader's own answer is likely to use the same.
    """
    makers: dict[str, list[Unit]] = {}
    for unit in units(cells):
        if not is_solution(cells[unit.cell]):
            for name in unit.makes:
                makers.setdefault(name, []).append(unit)
    found = []
    for i, source, given in exercise_of(cells, kept):
        for name, others in spoken(source):
            if name in makers and name not in given:
                maker = makers[name][0].node  # a layer or a function runs on what stands beside it
                runs = isinstance(maker, ast.Assign | ast.FunctionDef)
                found += [(i, n) for n in {name} | (others - given if runs else set())]
    for i, cell in enumerate(cells):
        for name in names(answer(cell))[1] if is_solution(cell) else []:
            earlier = [unit for unit in makers.get(name, []) if unit.cell < i]
            if earlier and all(unit.alias or shown(cells[unit.cell]) for unit in earlier):
                found.append((i, name))
    return found


def needed(cells: list[NotebookNode], kept: set[int]) -> list[Unit]:
    """The statements outside of the kept cells that these need, with their text and solutions."""
    every = [u for u in units(cells) if u.cell in kept or not is_solution(cells[u.cell])]
    makers: dict[str, list[int]] = {}
    for n, unit in enumerate(every):
        for name in unit.makes:
            makers.setdefault(name, []).append(n)
    for name, numbers in makers.items():  # what the package shows and the chapter imports as well
        first = next((n for n in numbers if every[n].alias), len(every))
        makers[name] = [n for n in numbers if n <= first or not shown(cells[every[n].cell])]
    wanted = [(n, name) for n, unit in enumerate(every) if unit.cell in kept for name in unit.reads]
    for i, name in mentioned(cells, kept):
        wanted.append((sum(unit.cell < i for unit in every), name))
    found: set[int] = set()
    while wanted:
        here, name = wanted.pop()
        earlier = [n for n in makers.get(name, []) if n < here] or makers.get(name, [])[:1]
        new: set[int] = set()  # stays empty where the name is Python's own, or the reader's
        for n in reversed(earlier):
            new.add(n)
            if not isinstance(every[n].node, ast.If | ast.For | ast.While | ast.Try):
                break
        if new and not every[max(new)].alias:
            new |= {n for n in range(min(new) + 1, here) if changes(every[n].node, name)}
        for n in new - found:
            found.add(n)
            if every[n].cell not in kept and not shown(cells[every[n].cell]):
                wanted += [(n, name) for name in every[n].reads]
    there = {n for n, unit in enumerate(every) if n in found or unit.cell in kept}
    there |= {n for n, unit in enumerate(every) if "setup" in tags(cells[unit.cell])}
    for n, unit in enumerate(every):  # a seed; a print, where all of its cell is there
        cell = [m for m, other in enumerate(every) if other.cell == unit.cell]
        rest = {m for m in cell if not isinstance(every[m].node, ast.Expr)}
        seed = unit.reads <= {"torch"} and rest & found
        if isinstance(unit.node, ast.Expr) and (seed or (rest and rest <= found)):
            sources = [[m for m in makers.get(name, []) if m < n][-1:] for name in unit.reads]
            found |= {n} if {m for source in sources for m in source} <= there else set()
    return [every[n] for n in sorted(found) if every[n].cell not in kept]


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


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
    setup = {i for i, cell in enumerate(cells) if "setup" in tags(cell)}
    before: dict[int, list[Unit]] = {}
    for unit in needed(cells, kept):
        if unit.cell not in setup:
            before.setdefault(unit.cell, []).append(unit)
    title = cells[0].source.splitlines()[0].removeprefix("# ")
    made = [text("exercises-title", opening(title, path.name))]
    made += [plain(cells[i]) for i in sorted(setup)]
    if before and min(before) < min(kept):
        made.append(text("exercises-before", "## From the chapter\n\nRun these first."))
    own = books(cells)
    brought = [u for u in units([c for c in cells if is_solution(c)]) if u.alias]
    waits: dict[str, list[str]] = {}
    for i in sorted(before.keys() | kept):
        if brought and i == min(kept):
            lines = dict.fromkeys(ast.unparse(unit.node) for unit in brought)
            made.append(code("exercises-imports", "\n".join(lines)))
        if own and i == min(kept):
            made.append(code("exercises-own", OWN_SAID + "\n".join(own.values())))
        if i in kept and idle(cells, i, kept):
            continue
        cell = plain(cells[i]) if i in kept else imported(cells[i], before[i])
        if cell.cell_type == "code" and not is_stub(cell):
            cell.source = guarded(cell.source, set(own), waits)
        elif i - 1 in kept and measures(cells[i - 1]):
            cell.source = folded(cell.source)
        made.append(cell)
    made += [text("exercises-end", "## How far you are"), code("exercises-progress", PROGRESS)]
    for cell in made:
        left = re.findall(r"\b[Bb]ook(?:_\w+|[A-Z]\w*)", cell.source)
        left = set(left) - set(own) if cell.cell_type == "code" else None
        if left:
            name = min(left)
            raise ValueError(f"{path.name}: {name} is used outside a solution: {cell.source}")
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python", "file_extension": ".py"}}
    return nbformat.v4.new_notebook(cells=made, metadata=metadata)


PROGRESS = "from vit_tutorial.checks import progress\n\nprogress()"
OWN_SAID = "# the book's parts, for a step of yours that will not come out today\n"
OWN = {  # what the package has under another name than a solution that is made of classes
    "book_patchify": "patches.patchify",
    "BookPatchEmbedding": "embedding.PatchEmbedding",
    "BookEmbedding": "embedding.Embedding",
    "BookAttention": "attention.MultiHeadSelfAttention",
    "BookBlock": "encoder.EncoderBlock",
    "BookEncoder": "encoder.Encoder",
    "BookViT": "model.VisionTransformer",
}
LOOP = """from vit_tutorial.train import train


def book_training_loop(model, data, config, generator):
    return [epoch.train_loss for epoch in train(model, data, config, generator)]"""


def books(cells: list[NotebookNode]) -> dict[str, str]:
    """Where the reader builds the model of classes: the package's parts, by the solutions' names.

    So an exercise that is still open stops none that follows, and no answer is to be read.
    """
    made: set[str] = set()
    for cell in cells:
        made |= names(tree(cell).body)[0] if is_solution(cell) else set()
    if "BookViT" not in made:
        return {}
    found = {}
    for name in [name for name in OWN if name in made]:
        module, _, there = OWN[name].rpartition(".")
        found[name] = f"from vit_tutorial.{module} import {there} as {name}"
    return found | ({"book_training_loop": LOOP} if "book_training_loop" in made else {})


def opening(title: str, name: str) -> str:
    """What stands first in an exercise notebook."""
    lines = [
        f"# {title}: exercises",
        f"To work in, beside [the chapter](../{name}): its exercises, with their checks and hints. "
        "Fill in each `...`, run the cell, and read what the check says. The dots say how hard an "
        "exercise is. Answers, and what we saw when we measured, are folded; the solutions are in "
        "the chapter.",
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
    if cell.cell_type == "code":
        return code(cell.id, cell.source)
    source = re.sub(r"\bThen measure\b", "Then, when your check has passed, measure", cell.source)
    return text(cell.id, LINK.sub("](../", source))


def imported(cell: NotebookNode, chosen: list[Unit]) -> NotebookNode:
    """The chosen statements of a cell; what the package defines is imported: it is an answer."""
    if shown(cell):
        module, _, name = shown(cell).rpartition(".")
        return code(cell.id, f"from {module} import {name}")
    lines, found, blank, end = cell.source.splitlines(), [], 0, 0
    body = tree(cell).body
    if len(chosen) == sum(len(getattr(node, "names", [0])) for node in body):
        return code(cell.id, cell.source)
    for node in body:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        blank = max(blank, sum(not line.strip() for line in lines[end:start]))
        end = node.end_lineno or start
        here = [unit for unit in chosen if unit.node.lineno == node.lineno]
        if not here:
            continue
        found += blank * [""] if found else []
        if len(here) == len(getattr(node, "names", [0])):
            found += lines[start:end]
        else:
            found.append(import_of(node, [unit.alias for unit in here if unit.alias]))
        blank = 0
    return code(cell.id, "\n".join(found))


def import_of(node: ast.stmt, aliases: list[ast.alias]) -> str:
    """An import of some of its names, in lines that fit a notebook."""
    if isinstance(node, ast.ImportFrom):
        line = ast.unparse(ast.ImportFrom(node.module, aliases, node.level))
    else:
        line = ast.unparse(ast.Import(aliases))
    if len(line) <= WIDTH:
        return line
    head, _, tail = line.partition("import ")
    return f"{head}import (\n{textwrap.indent(textwrap.fill(tail + ',', WIDTH - 4), '    ')}\n)"


def guarded(source: str, own: set[str], waits: dict[str, list[str]]) -> str:
    """The cell, which runs what needs an exercise only when that exercise's check has passed.

    `waits` holds, for each name made so far, the exercises without which it is not there.
    """
    source = PASSED.sub(lambda m: m[0] if m[2] in own else m[1], source)
    body = ast.parse(PASSED.sub(r"\2", TransformerManager().transform_cell(source))).body
    first, asked = None, []
    for node in body:
        makes, reads = names([node])
        needs = [[n] if MINE.fullmatch(n) else waits.get(n, []) for n in sorted(reads)]
        needs = list(dict.fromkeys(n for some in needs for n in some))
        later = isinstance(node, ast.FunctionDef | ast.ClassDef)  # fails when it is called
        if needs and not later and first is None:
            first = node
        if first is not None:
            asked += [n for n in needs if n not in asked]
        waits |= dict.fromkeys(makes, needs)
    if first is None:
        return source
    makes, _ = names(body[body.index(first) :])
    waits |= dict.fromkeys(makes, asked)
    lines = source.splitlines()
    head, tail = lines[: first.lineno - 1], "\n".join(lines[first.lineno - 1 :])
    ask = " and ".join(f"passed({name}, None)" for name in asked)
    named, it = " and ".join(asked), "it" if len(asked) == 1 else "them"
    test = f"if not {ask}:" if len(asked) == 1 else f"if not ({ask}):"
    said = f'    print("○ solve {named} first: this cell uses {it}")'
    inside = textwrap.indent(tail, "    ")
    written = "\n".join([*head, test, said, "else:", inside])
    as_it_was = ast.parse(source).body[body.index(first) :]
    if list(map(ast.dump, ast.parse(written).body[-1].orelse)) != list(map(ast.dump, as_it_was)):
        raise ValueError(f"a text of several lines cannot be indented: {source}")
    return written


def measures(cell: NotebookNode) -> bool:
    """Whether a code cell shows something, and is not for the reader to fill in."""
    if cell.cell_type != "code" or is_stub(cell):
        return False
    top = [n for n in tree(cell).body if not isinstance(n, ast.FunctionDef | ast.ClassDef)]
    calls = [part for node in top for part in ast.walk(node) if isinstance(part, ast.Expr)]
    return any(isinstance(part.value, ast.Call) for part in calls)


def idle(cells: list[NotebookNode], i: int, kept: set[int]) -> bool:
    """Whether a cell only chooses a function for cells of the chapter that are not kept."""
    if not PASSED.search(cells[i].source) or measures(cells[i]):
        return False
    later = [cells[j] for j in kept if j > i and cells[j].cell_type == "code"]
    return not any(names(tree(cells[i]).body)[0] & names(tree(cell).body)[1] for cell in later)


def folded(source: str) -> str:
    """What follows a measurement, up to a heading or a fold, behind a line to click on."""
    found = re.search(r"^(?:#|<details)", source, flags=re.MULTILINE)
    end = found.start() if found else len(source)
    seen, rest = source[:end], source[end:]
    if not seen.strip():
        return source
    title = "What we saw, and what comes next" if seen.rstrip().endswith(":") else "What we saw"
    fold = f"<details><summary>{title}</summary>\n\n{seen.strip()}\n\n</details>"
    return f"{fold}\n\n{rest}".strip()


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
