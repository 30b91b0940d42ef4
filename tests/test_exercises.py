"""The exercise notebooks give nothing away; every solution passes, and every stub is answered."""

import contextlib
import io
import re
from collections.abc import Iterable

import nbformat
import pytest
import torch

from tools import exercises

CALL = re.compile(r"^check_\w+\([Mm]y\w+", re.MULTILINE)  # of a check, on what the reader wrote
CHAPTERS = {path.stem: path for path in exercises.chapters()}


def printed(cells: list, wanted: Iterable[int]) -> dict[int, str]:
    """What each of these cells prints, run in one namespace with all that they need."""
    wanted, space, found = set(wanted), {"__name__": "__main__"}, {}
    for i in sorted(wanted | exercises.needed(cells, wanted)):
        with contextlib.redirect_stdout(io.StringIO()) as out, torch.enable_grad():
            exec(compile(exercises.tree(cells[i]), f"cell {i}", "exec"), space)
        found[i] = out.getvalue()
    return {i: found[i] for i in wanted}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_stub_is_answered_and_every_solution_passes(chapter, monkeypatch, tmp_path):
    monkeypatch.setenv("VIT_TUTORIAL_BUDGET", "quick")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # where the reader's progress is kept
    cells = exercises.cells_of(CHAPTERS[chapter])
    code = [i for i, cell in enumerate(cells) if cell.cell_type == "code"]
    solved = [i for i in code if exercises.is_solution(cells[i])]
    asked = [i for i in code if CALL.search(cells[i].source) and i not in solved]
    told = printed(cells, {*asked, *solved})
    assert asked
    assert solved
    assert [i for i in asked if "○ " not in told[i]] == []
    assert [i for i in solved if "✓ " not in told[i]] == []


def test_an_exercise_notebook_holds_the_work_and_gives_nothing_away(tmp_path, monkeypatch):
    new = nbformat.v4
    tagged = {"metadata": {"tags": ["setup"]}}
    chapter = [
        new.new_markdown_cell("# 01 · A\n\nAbout."),
        new.new_code_cell("import torch", **tagged),
        new.new_code_cell("x = 1"),
        new.new_code_cell("y = x", outputs=[new.new_output("stream", text="y")]),
        new.new_markdown_cell("Prose.\n\n## Your turn\n\nSee [here](02_b.ipynb)."),
        new.new_code_cell("def my_f(z):\n    ...\n\n\ncheck_f(my_f)"),
        new.new_code_cell("# @title Solution\ndef book_f(z):\n    return z"),
        new.new_code_cell("passed(my_f, book_f)(y)", execution_count=3),
        new.new_markdown_cell("## Common mistakes"),
        new.new_code_cell("y + 1"),
    ]
    path = tmp_path / "01_a.ipynb"
    nbformat.write(new.new_notebook(cells=chapter), path)
    title, *made = exercises.make(path).cells
    assert "[the chapter](../01_a.ipynb)" in title.source
    assert [cell.source for cell in made if cell.cell_type == "code"][:-1] == [
        "import torch", "x = 1", "y = x", chapter[5].source, "my_f(y)",
    ]  # fmt: skip
    assert "## Your turn\n\nSee [here](../02_b.ipynb)." in [cell.source for cell in made]
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
