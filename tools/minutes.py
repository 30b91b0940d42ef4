"""The times at the top of each chapter: prose, code and exercises.

    python tools/minutes.py            say which are wrong; exit code 1 if so
    python tools/minutes.py --write    set them

Reading: 200 words or 10 lines of code in a minute, rounded to five minutes; the set-up, folded
cells and what stands in <details> are not counted. Exercises: the minutes in their headings.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.sync_book import ROOT

TIME = re.compile(
    r"(Time: about )\d+( minutes to read with its code, )\d+( more for the exercises)"
)
EXERCISE = re.compile(r"^### .*[●○]{3} · (\d+) minutes", re.MULTILINE)
FOLD = re.compile(r"<details>.*?</details>", re.DOTALL)
APART = {"setup", "hide-cell", "hide-input", "remove-cell"}


def minutes(cells: list) -> tuple[int, int]:
    """Minutes to read a chapter, and minutes for its exercises."""
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    words = len(re.findall(r"\w[\w'’-]*", FOLD.sub("", prose)))
    shown = (
        c for c in cells if c.cell_type == "code" and not APART & {*c.metadata.get("tags", [])}
    )
    lines = sum(bool(line.strip()) for cell in shown for line in cell.source.splitlines())
    return 5 * round((words / 200 + lines / 10) / 5), sum(map(int, EXERCISE.findall(prose)))


def main(arguments: list[str] | None = None) -> int:
    """Compare or write; the exit code is 1 if a time is wrong and stays so, or is not given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="set the times")
    write, wrong = parser.parse_args(arguments).write, 0
    for path in sorted(ROOT.glob("book/[0-9][0-9]_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        first, (read, work) = notebook.cells[0], minutes(notebook.cells)
        said = TIME.sub(rf"\g<1>{read}\g<2>{work}\g<3>", first.source)
        given = bool(TIME.search(first.source))
        if given and said == first.source:
            continue
        print(f"{path.name}: {read} minutes to read with its code, {work} more for the exercises")
        if write and given:
            first.source = said
            path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        else:
            wrong += 1
    print(f"minutes: {wrong} chapters with a wrong time or none" if wrong else "minutes: all right")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
