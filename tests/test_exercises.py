"""Exercise notebooks give nothing away; every solution passes, and no open stub stops a cell."""

import ast
import contextlib
import io
import re

import nbformat
import pytest
import torch

from tools import exercises

CALL = re.compile(r"^check_\w+\([Mm]y\w+", re.MULTILINE)  # of a check, on what the reader wrote
WAITS = re.compile(r"^if not (?:passed|\(passed)\(", re.MULTILINE)
CHAPTERS = {path.stem: path for path in exercises.chapters()}


def printed(cell: nbformat.NotebookNode, space: dict) -> str:
    """What a code cell prints when it is run with the names of `space`."""
    with contextlib.redirect_stdout(io.StringIO()) as out, torch.enable_grad():
        exec(compile(exercises.tree(cell), f"cell {cell.id}", "exec"), space)
    return out.getvalue()


def solutions(path) -> dict[str, str]:
    """For each stub, by the cell's id: the solution that follows, under the reader's names."""
    cells, found, stub = exercises.cells_of(path), {}, ""
    for cell in cells:
        if exercises.is_stub(cell):
            stub = cell.id
        elif exercises.is_solution(cell) and stub:
            source = "\n".join(map(ast.unparse, exercises.answer(cell)))
            source = re.sub(r"\bbook_(?=\w)", "my_", source)
            found[stub], stub = re.sub(r"\bBook(?=[A-Z])", "My", source), ""
    return found


@pytest.mark.long
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_an_open_exercise_stops_nothing_and_every_solution_passes(chapter, monkeypatch, tmp_path):
    monkeypatch.setenv("VIT_TUTORIAL_BUDGET", "quick")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # where the reader's progress is kept
    notebook, solved = exercises.make(CHAPTERS[chapter]), solutions(CHAPTERS[chapter])
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    asked = [cell for cell in code if CALL.search(cell.source)]
    waiting = [cell for cell in code if WAITS.search(cell.source)]
    space = {"__name__": "__main__"}
    told = {cell.id: printed(cell, space) for cell in code}  # from top to bottom, nothing solved
    assert asked
    assert len(solved) == sum(map(exercises.is_solution, exercises.cells_of(CHAPTERS[chapter])))
    assert waiting or chapter in ("14_recipe", "15_find_the_bug")
    assert [cell.id for cell in asked if "○ " not in told[cell.id]] == []
    assert [cell.id for cell in waiting if "○ solve " not in told[cell.id]] == []
    for cell in [cell for cell in code if cell in asked or cell in waiting]:
        cell.source = solved.get(cell.id, cell.source)
        told[cell.id] = printed(cell, space)
    assert [cell.id for cell in asked if "✓ " not in told[cell.id]] == []
    assert [cell.id for cell in waiting if "○ solve " in told[cell.id]] == []


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_what_a_task_or_a_hint_names_is_there(chapter):
    """Classes and called functions in the text that the chapter defines: the reader calls them."""
    cells, made = exercises.cells_of(CHAPTERS[chapter]), exercises.make(CHAPTERS[chapter]).cells
    there = set().union(*(unit.makes for unit in exercises.units(made)))
    kept = {i for i, cell in enumerate(made) if not cell.id.startswith("exercises-")}
    known = set().union(
        *(
            unit.makes
            for unit in exercises.units(cells)
            if unit.alias or not exercises.is_solution(cells[unit.cell])
        )
    )
    asked = {
        name
        for _, source, given in exercises.exercise_of(made, kept)
        for name, _ in exercises.spoken(source)
        if name not in given
    }
    assert (asked & known) - there == set()


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_import_is_used(chapter):
    cells = exercises.make(CHAPTERS[chapter]).cells
    imports = {
        name
        for cell in cells
        if "find_spec" not in cell.source and cell.id != "exercises-own"  # used by the reader
        for unit in exercises.units([cell])
        if unit.alias
        for name in unit.makes
    }
    sources = [cell.source for cell in cells] + list(solutions(CHAPTERS[chapter]).values())
    words = re.findall(r"\w+", "\n".join(re.sub(IMPORT, "", source) for source in sources))
    assert imports - set(words) == set()


IMPORT = re.compile(r"^(?:from .*)?import (?:\([^)]*\)|.*)$", re.MULTILINE)
POINTS = re.compile(r"\bthe \w+ above\b|\bbelow the solution\b", re.IGNORECASE)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_no_text_points_at_what_is_in_the_chapter_alone(chapter):
    """'The map above' and 'the cell below the solution' are not in the exercise notebook."""
    said = [cell.source for cell in exercises.make(CHAPTERS[chapter]).cells]
    assert [found[0] for source in said for found in POINTS.finditer(source)] == []


def test_an_exercise_notebook_holds_the_work_and_gives_nothing_away(tmp_path, monkeypatch):
    new = nbformat.v4
    tagged = {"metadata": {"tags": ["setup"]}}
    chapter = [
        new.new_markdown_cell("# 01 · A\n\nAbout."),
        new.new_code_cell("import torch", **tagged),
        new.new_code_cell("import os\nfrom vit_tutorial import a, b\n\nprint(os.name)"),
        new.new_code_cell("x = [1]\nz = b.slow()\nx.append(2)"),
        new.new_code_cell("class Secret: ...", metadata={"tags": ["source:vit_tutorial.a.Secret"]}),
        new.new_code_cell("y = x, Secret", outputs=[new.new_output("stream", text="y")]),
        new.new_code_cell("class Told: ..."),
        new.new_markdown_cell("Prose.\n\n## Your turn\n\nSee [here](02_b.ipynb), use `Told.f(z)`."),
        new.new_code_cell("def my_f(z):\n    ...\n\n\ncheck_f(my_f)"),
        new.new_code_cell("# @title Solution\nimport cmath\ndef book_f(z):\n    return a.f(z)"),
        new.new_markdown_cell("Then measure:"),
        new.new_code_cell("v = 3\nw = passed(my_f, book_f)(y)\nprint(w)", execution_count=3),
        new.new_markdown_cell("It is 4.\n\n### 2. More"),
        new.new_code_cell("print(v)"),
        new.new_code_cell("print(w)"),
        new.new_markdown_cell("## Common mistakes"),
        new.new_code_cell("y + 1"),
    ]
    path = tmp_path / "01_a.ipynb"
    nbformat.write(new.new_notebook(cells=chapter), path)
    title, *made = exercises.make(path).cells
    assert "[the chapter](../01_a.ipynb)" in title.source
    wait = 'if not passed(my_f, None):\n    print("○ solve my_f first: this cell uses it")\nelse:\n'
    assert [cell.source for cell in made if cell.cell_type == "code"][:-1] == [
        "import torch", "from vit_tutorial import a", "x = [1]\nx.append(2)",
        "from vit_tutorial.a import Secret", "y = x, Secret", "class Told: ...",
        "import cmath", chapter[8].source,
        f"v = 3\n{wait}    w = my_f(y)\n    print(w)", "print(v)", f"{wait}    print(w)",
    ]  # fmt: skip
    said = [cell.source for cell in made if cell.cell_type == "markdown"]
    assert "## Your turn\n\nSee [here](../02_b.ipynb), use `Told.f(z)`." in said
    assert "Then, when your check has passed, measure:" in said
    fold = "<details><summary>What we saw</summary>\n\nIt is 4.\n\n</details>\n\n### 2. More"
    assert fold in said
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in made)

    monkeypatch.setattr(exercises, "BOOK", tmp_path)
    monkeypatch.setattr(exercises, "ROOT", tmp_path)
    monkeypatch.setattr(exercises, "FOLDER", tmp_path / "exercises")
    assert [exercises.main(words) for words in ([], ["--write"], [])] == [1, 0, 0]


def test_a_solution_that_another_cell_uses_is_refused(tmp_path):
    sources = ["def my_f(): ...", "# @title Solution\ndef book_f(): return 1", "book_f()"]
    chapter = [nbformat.v4.new_markdown_cell("## Your turn")]
    chapter += [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=chapter), tmp_path / "01_a.ipynb")
    with pytest.raises(ValueError, match=r"01_a\.ipynb: book_f is used outside a solution"):
        exercises.make(tmp_path / "01_a.ipynb")
