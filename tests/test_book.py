"""The book's code is the package's code, and every chapter keeps to the book's pattern."""

import ast
import dis
import re
import subprocess
import sys
from pathlib import Path
from types import CodeType

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager

from tools import run_notebooks, sync_book
from tools.sync_book import ROOT, SETUP, tagged_cells
from vit_tutorial import checks

BOOK = ROOT / "book"
CHAPTERS = {path.name[:2]: path for path in sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))}
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in CHAPTERS.values()}
HEADINGS = [
    "Where we are",
    "Step by step",
    "Write it yourself",
    "The definition",
    "Proof",
    "Your turn",
    "Common mistakes",
    "What we have now",
]
# The chapter in which each part of the model is defined; the longest matching name decides.
HOME = {
    "patches": "01",
    "embedding.PatchEmbedding": "02",
    "embedding": "03",
    "positions": "04",
    "attention": "05",
    "encoder": "06",
    "model": "07",
    "model.lecun_normal_": "07",
    "attention_maps": "09",
    "attention_maps.attention_distance": "10",
    "attention_maps.position_similarity": "10",
}
FOREIGN = re.compile(r"/(?:work|root|tmp|home|Users|private|var/folders)/")
each_chapter = pytest.mark.parametrize("chapter", NOTEBOOKS)


def public(path: Path) -> set[str]:
    """The classes and functions that one module of the package offers."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    named = {n.name for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    return {name for name in named if not name.startswith("_")}


def modules() -> dict[str, set[str]]:
    """What each module offers: all but the benchmarks, which are run and not imported."""
    found = {}
    for path in sorted(ROOT.glob("vit_tutorial/**/*.py")):
        *folders, _ = path.relative_to(ROOT / "vit_tutorial").parts
        if not {"benchmarks", "checks"} & set(folders):
            found[".".join([*folders, path.stem])] = public(path)
    # some chapters define checks that the package has by now: left out until they call those
    return {**found, "checks": {n for n in checks.__all__ if not n.startswith("check_")}}


PACKAGE = modules()
ON_THE_PATH = [
    f"{m}.{n}" for m in dict.fromkeys(k.split(".")[0] for k in HOME) for n in sorted(PACKAGE[m])
]


def home(name: str) -> str:
    """The chapter that defines `module.name`."""
    return HOME.get(name) or HOME[name.split(".")[0]]


def code_cells(chapter: str) -> list:
    return [cell for cell in NOTEBOOKS[chapter].cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def with_tag(chapter: str, prefix: str) -> list:
    return [c for c in code_cells(chapter) if any(t.startswith(prefix) for t in tags(c))]


def shows_image(cell) -> bool:
    return any(m.startswith("image/") for o in cell.outputs for m in o.get("data", {}))


def names_defined(cell) -> tuple[set[str], set[str]]:
    """The functions and classes that a cell defines, and the names that it assigns to."""
    tree = ast.parse(TransformerManager().transform_cell(cell.source))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    assigned = (
        name.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for name in ast.walk(node)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    )
    return {node.name for node in tree.body if isinstance(node, kinds)}, set(assigned)


def names_read(cell) -> set[str]:
    """The names that a cell, or a function defined in it, takes from whatever ran before."""
    bound, read = set(), set()

    def walk(code: CodeType, later: bool, top: bool = False) -> None:
        for op in dis.get_instructions(code):
            if isinstance(op.argval, CodeType):  # of a comprehension: at once; a function: later
                inner = op.argval.co_name
                walk(op.argval, later or not inner.startswith("<") or inner == "<lambda>")
            elif op.opname == "STORE_NAME" and top:
                bound.add(op.argval)
            elif op.opname in ("LOAD_NAME", "LOAD_GLOBAL") and (later or op.argval not in bound):
                read.add(op.argval)

    walk(compile(TransformerManager().transform_cell(cell.source), "cell", "exec"), False, top=True)
    return read


def names_made(cell) -> set[str]:
    """The names that a cell binds, but for imports and the exercises' own, stub and solution."""
    code = compile(TransformerManager().transform_cell(cell.source), "cell", "exec")
    bound = {op.argval for op in dis.get_instructions(code) if op.opname == "STORE_NAME"}
    imports = (n for n in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source)))
               if isinstance(n, ast.Import | ast.ImportFrom))  # fmt: skip
    brought = {(a.asname or a.name).split(".")[0] for node in imports for a in node.names}
    return {name for name in bound - brought if not name.startswith("my_")}


def test_the_chapters_that_set_the_pattern_are_there():
    assert {"01", "05", "08", "09"} <= set(CHAPTERS)


def test_the_table_of_contents_lists_every_page_that_is_there():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]
    pages = [*BOOK.glob("*.md"), *BOOK.glob("*.ipynb")]
    assert sorted(listed) == sorted(f"book/{page.stem}" for page in pages)


def test_the_reference_lists_every_module():
    text = (BOOK / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"automodule:: vit_tutorial\.([\w.]+)", text))
    assert listed == {m for m in PACKAGE if PACKAGE[m] and "_" not in (m[0], m.split(".")[-1][0])}


def test_book_and_package_agree(capsys):
    assert sync_book.main([]) == 0, capsys.readouterr().out


def test_a_cell_that_differs_from_the_package_is_found_and_mended(tmp_path, capsys):
    tag = "source:vit_tutorial.attention.attention_weights"
    cell = nbformat.v4.new_code_cell("softmax = None", metadata={"tags": [tag]})
    path = tmp_path / "chapter.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert len(sync_book.sync_cells(path, write=True)) == 1
    mended = path.read_bytes()
    assert b"def attention_weights(" in mended
    assert sync_book.sync_cells(path, write=True) == []
    assert path.read_bytes() == mended


def test_a_tag_without_its_object_is_named():
    with pytest.raises(LookupError, match="no attention_wieghts"):
        sync_book.source("vit_tutorial.attention.attention_wieghts")
    with pytest.raises(LookupError, match=r"no module vit_tutorial\.atention"):
        sync_book.source("vit_tutorial.atention.attention_weights")


@pytest.mark.parametrize("name", ON_THE_PATH)
def test_each_part_of_the_model_is_shown_once(name):
    shown = [n for notebook in NOTEBOOKS.values() for n, _ in tagged_cells(notebook)]
    count = shown.count(f"vit_tutorial.{name}")
    assert count == 1 if home(name) in CHAPTERS else count <= 1


def test_nothing_is_shown_twice():
    shown = [n for notebook in NOTEBOOKS.values() for n, _ in tagged_cells(notebook)]
    assert sorted(shown) == sorted(set(shown))


@each_chapter
def test_no_other_cell_defines_a_name_of_the_package(chapter):
    everything = set().union(
        *(n for m, n in PACKAGE.items() if not m.startswith(("lab.", "weights.")))
    )
    path = {name.split(".")[1] for name in ON_THE_PATH}
    for cell in code_cells(chapter):
        if not any(tag.startswith(sync_book.TAG) for tag in tags(cell)):
            defined, assigned = names_defined(cell)
            assert not defined & everything, cell.source
            assert not assigned & path, cell.source


@each_chapter
def test_a_name_that_another_cell_reads_is_made_in_one_cell_alone(chapter):
    # so that a reader can go back to a cell; `python -m pytest -p tools.twice` does go back
    cells = [
        c for c in code_cells(chapter) if not any(t.startswith(sync_book.TAG) for t in tags(c))
    ]
    made = [names_made(cell) for cell in cells]
    read = set().union(*map(names_read, cells))
    twice = {name for names in made for name in names if sum(name in other for other in made) > 1}
    assert twice & read == set()


@pytest.mark.parametrize(
    ("sources", "clash"),
    [
        (["x = 1", "print(x)"], set()),
        (["x = 1", "print(x)", "x = 2"], {"x"}),
        (["x = 1", "x = 2; print(x)"], set()),
        (["for x in 'ab': print(x)", "print([x for x in 'ab'])", "x = 1; print(x)"], set()),
        (["x = 1\ndef f():\n    return x", "x = 2"], {"x"}),
        (["x = 1\nf = lambda x: x", "x = 2"], set()),
        (["from math import e", "print(e)", "from math import e"], set()),
        (["def my_f(): ...", "def my_f(): return 1", "my_f()"], set()),
    ],
)
def test_how_names_are_found(sources, clash):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    made, read = [names_made(c) for c in cells], set().union(*map(names_read, cells))
    assert {n for names in made for n in names if sum(n in m for m in made) > 1} & read == clash


def test_a_cell_that_cannot_run_again_is_found(tmp_path):
    cells = [nbformat.v4.new_code_cell(text) for text in ("left = [1]", "left.pop()")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "chapter.ipynb")
    command = ["-m", "pytest", "-p", "tools.twice", "--nbval-lax", "--nbval-current-env", "-q"]
    command = [sys.executable, *command, str(tmp_path / "chapter.ipynb")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "pop from empty list" in done.stdout
    assert "1 failed, 3 passed" in done.stdout


@each_chapter
def test_the_headings_stand_in_the_books_order(chapter):
    text = [c.source for c in NOTEBOOKS[chapter].cells if c.cell_type == "markdown"]
    found = re.findall(r"^## +(.+?) *$", "\n".join(text), flags=re.MULTILINE)
    assert [heading for heading in found if heading in HEADINGS] == HEADINGS


@each_chapter
def test_the_title_carries_the_chapters_number(chapter):
    first = NOTEBOOKS[chapter].cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {chapter[:2]} · ")


@each_chapter
def test_the_set_up_is_the_same_everywhere(chapter):
    (cell,) = with_tag(chapter, "setup")
    assert cell.source == SETUP


@each_chapter
def test_one_picture_says_where_we_are(chapter):
    (cell,) = with_tag(chapter, "map:")
    assert shows_image(cell)


@each_chapter
def test_cells_ran_once_in_order_and_without_errors(chapter):
    cells = code_cells(chapter)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell.source.strip()
        assert all(o.output_type != "error" for o in cell.outputs), cell.source


@each_chapter
def test_some_outputs_are_compared_when_the_chapter_runs_again(chapter):
    checked = with_tag(chapter, "nbval-check-output")
    assert checked
    for cell in checked:
        assert cell.outputs, cell.source
        assert not shows_image(cell), cell.source


@each_chapter
def test_nothing_tells_of_the_machine_it_ran_on(chapter):
    notebook = NOTEBOOKS[chapter]
    assert run_notebooks.foreign_paths(notebook) == []
    for cell in notebook.cells:
        assert not FOREIGN.search(cell.source), cell.source


@each_chapter
def test_a_notebook_stays_small(chapter):
    assert CHAPTERS[chapter[:2]].stat().st_size < 1_000_000


@each_chapter
def test_every_figure_has_an_alternative_text_and_a_caption(chapter):
    for cell in filter(shows_image, code_cells(chapter)):
        shown = cell.metadata.get("mystnb", {})
        assert len(shown.get("image", {}).get("alt", "")) > 20, cell.source
        assert len(shown.get("figure", {}).get("caption", "")) > 20, cell.source


@each_chapter
def test_a_cell_fits_the_page(chapter):
    for cell in code_cells(chapter):
        if not any(tag.startswith(sync_book.TAG) for tag in tags(cell)):
            assert len(cell.source.splitlines()) <= 30, cell.source


def test_pictures_in_pages_have_an_alternative_text():
    for path in BOOK.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        pictures = re.findall(r"```\{(?:image|model-map)\}", text)
        assert len(pictures) == len(re.findall(r"^:alt: \S", text, re.M))
        assert not re.search(r"!\[\s*\]\(", text)
        assert not FOREIGN.search(text)


def test_stored_outputs_hold_nothing_that_changes_from_run_to_run():
    cell = nbformat.v4.new_code_cell("print(1)", metadata={"execution": {"iopub": "2026"}})
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=t) for t in ("1", "\n")]
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})
    run_notebooks.tidy(notebook)
    assert [output.text for output in cell.outputs] == ["1\n"]
    assert "execution" not in cell.metadata
    assert "widgets" not in notebook.metadata
