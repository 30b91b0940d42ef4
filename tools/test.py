"""Run everything that CI runs, in order, and stop at the first failure.

    python tools/test.py               all steps
    python tools/test.py unit book     only these steps

Nothing needs the network: every step runs with it cut off (tools/no_network).
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "-p no:cacheprovider --nbval-lax --nbval-current-env --nbval-cell-timeout=300 -q"


def run(*command: str | Path, **environment: str) -> None:
    """Run one program in the project's folder, and raise CalledProcessError if it fails."""
    paths = [str(ROOT / "tools" / "no_network"), os.environ.get("PYTHONPATH", "")]
    cut_off = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "JUPYTER_PLATFORM_DIRS": "1"}
    environment = {**os.environ, **cut_off, **environment}
    subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, check=True)


def module(name: str, *arguments: str | Path, **environment: str) -> None:
    """Run one module with this Python."""
    run(sys.executable, "-m", name, *arguments, **environment)


def lint() -> None:
    """Faults that can be seen without running: ruff check."""
    module("ruff", "check", ".")


def layout() -> None:
    """The layout of the code: ruff format."""
    module("ruff", "format", "--check", ".")


def types() -> None:
    """The types of the package: mypy."""
    module("mypy")


def agree() -> None:
    """Book, package and address say the same."""
    run(sys.executable, "tools/sync_book.py")


def unit() -> None:
    """The truths in tests/, with the lines of the package that they reach."""
    module("pytest", "--cov", "--cov-report=term", "--durations=5")


def notebooks() -> None:
    """Every chapter from top to bottom, on the embedded digits, with the quick budget."""
    chapters = sorted(ROOT.glob("book/*.ipynb"))
    sanitize = f"--nbval-sanitize-with={ROOT / 'tools' / 'nbval_sanitize.cfg'}"
    with tempfile.TemporaryDirectory() as empty:  # no data set but the one in the package
        budget = {"VIT_TUTORIAL_DATA": empty, "VIT_TUTORIAL_BUDGET": "quick"}
        for path in chapters:
            start = time.perf_counter()
            module("pytest", *NOTEBOOK.split(), sanitize, path, **budget)
            print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{len(chapters)} chapters ran")


def book() -> None:
    """The book, from nothing, with every warning an error."""
    shutil.rmtree(ROOT / "_build", ignore_errors=True)  # a page built before would not warn again
    program = Path(sys.executable).with_name("jupyter-book")
    run(program, "build", ".", "-W", "-n", "--keep-going", "--quiet")
    index = ROOT / "_build" / "html" / "book" / "index.html"
    if not index.is_file():
        raise FileNotFoundError(f"jupyter-book ended well, but there is no {index}")
    print(f"The book: {index}")
    print("Open that file in a browser, or `make serve` and open http://127.0.0.1:8000/book/")


def links() -> None:
    """Every link within the built book leads somewhere."""
    run(sys.executable, "tools/check_pages.py", "links")


def accessibility() -> None:
    """The built pages in a real browser, where there is one: axe, page errors, widths."""
    run(sys.executable, "tools/check_pages.py", "accessibility")


ORDER = (lint, layout, types, agree, unit, notebooks, book, links, accessibility)
STEPS = {step.__name__: step for step in ORDER}


def timed(step: Callable[[], None]) -> float:
    """Run one step under its name; its seconds."""
    start = time.perf_counter()
    print(f"\n== {step.__name__}: {step.__doc__}", flush=True)
    step()
    seconds = time.perf_counter() - start
    print(f"== {step.__name__}: passed in {seconds:.0f} s", flush=True)
    return seconds


def main(names: list[str]) -> int:
    """Run the named steps, or all."""
    unknown = set(names) - set(STEPS)
    if unknown:
        print(f"unknown step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
        return 2
    total = 0.0
    for name in names or STEPS:
        try:
            total += timed(STEPS[name])
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            print(f"\ntest: FAILED in step {name} ({error})", flush=True)
            return 1
        except KeyboardInterrupt:
            print(f"\ntest: stopped in step {name}", flush=True)
            return 130
    what = f"step {', '.join(names)}" if names else f"all {len(STEPS)} steps"
    print(f"\ntest: {what} passed in {total:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
