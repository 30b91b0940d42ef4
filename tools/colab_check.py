"""Run notebooks the way Colab does: torch and Jupyter are there, the package is not.

    python tools/colab_check.py [05 08 ... | all] [--keep FOLDER] [--torch-index ADDRESS]

A new environment gets torch, torchvision, a kernel and a few more. Each notebook goes alone into
an empty folder, and its own first cell installs the package; what it installed is removed before
the next one. The project's address is led to the last commit of this checkout, so the check needs
a package index but no published repository. A number names a chapter and, where there is one, its
exercises.

With --keep, FOLDER holds the environment and what was found, in results.json: the next call with
the same FOLDER runs only notebooks that have not passed with this notebook, this package and this
environment. What the environment is made of is written beside it; where that differs, it is made
anew.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

from address import PLACEHOLDER

ROOT = Path(__file__).resolve().parents[1]
GIVEN = ["torch", "torchvision", "ipykernel", "nbclient", "nbformat", "matplotlib"]  # as in Colab
GIVEN += ["scikit-learn", "safetensors", "tqdm"]  # einops is left out, to be on the safe side
CONSTRAINTS = ROOT / "constraints.txt"
LIMIT = 30  # seconds for the set-up cell
RUN = """
import nbformat, sys, time
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
client = NotebookClient(notebook, timeout=600, kernel_name="python3")
with client.setup_kernel():
    for index, cell in enumerate(notebook.cells):
        start = time.perf_counter()
        client.execute_cell(cell, index)
        if "%pip install" in cell.source:  # the set-up cell
            print(f"{time.perf_counter() - start:.1f}")
            print("".join(o.get("text", "") for o in cell.outputs).strip().splitlines()[-1])
"""
WHERE = "import torch, vit_tutorial; print(torch.__version__, vit_tutorial.__file__)"
TORCH = "import torch; print(torch.__version__)"


def environment(folder: Path) -> dict[str, str]:
    """Colab's mark, the copy in the place of the address, and nothing of the caller's."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {
        **kept,
        "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "COLAB_RELEASE_TAG": "simulated",
        "VIT_TUTORIAL_BUDGET": "quick",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{(folder / 'repository').as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{PLACEHOLDER}",
    }


def repository(folder: Path) -> None:
    """A git repository of the last commit alone.

    This checkout itself will not do where it is shallow, as on GitHub: pip's way to clone it
    (git clone --filter=blob:none) then never ends.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files = subprocess.run(
        ["git", "-C", str(ROOT), "archive", "HEAD"], stdout=subprocess.PIPE, check=True
    )
    subprocess.run(["tar", "-x"], cwd=folder, input=files.stdout, check=True)
    who = ["-c", "user.name=colab", "-c", "user.email=colab@users.noreply.github.com"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "The last commit"]):
        subprocess.run(["git", *words], cwd=folder, check=True)


def short(*parts: str) -> str:
    """A short name of the parts, which differs where one of them does."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def made_of(index: list[str]) -> str:
    """A short name of what the environment is made of."""
    return short(sys.version, *index, *GIVEN, CONSTRAINTS.read_text(encoding="utf-8"))


class Colab:
    """An environment as Colab has it, in a folder, made where it is not there."""

    def __init__(self, folder: Path, index: list[str]):
        self.folder, self.settings = folder, environment(folder)
        given = folder / f"given-{made_of(index)}.txt"  # written last: half of one is made anew
        if not given.exists():
            for old in folder.glob("given*.txt"):
                old.unlink()
            venv.create(folder / "venv", with_pip=True, clear=True)
            pins = ["-c", str(CONSTRAINTS)]
            self.do(folder, "-m", "pip", "install", "-q", *index, *pins, *GIVEN)
            given.write_text("\n".join(sorted(self.installed())), encoding="utf-8")
        self.given = set(given.read_text(encoding="utf-8").split())
        self.torch = self.do(folder, "-c", TORCH)

    def do(self, place: Path, *words: str) -> str:
        """What Python prints in the environment. Raises CalledProcessError where it fails."""
        command = [str(self.folder / "venv" / "bin" / "python"), *words]
        run = subprocess.run(
            command, cwd=place, env=self.settings, check=True, text=True, stdout=subprocess.PIPE
        )
        return run.stdout.strip()

    def installed(self) -> set[str]:
        """The names of all packages of the environment."""
        listed = json.loads(self.do(self.folder, "-m", "pip", "list", "--format", "json"))
        return {package["name"] for package in listed}

    def run(self, notebook: Path) -> tuple[float, str]:
        """Run one notebook alone; the seconds of its set-up cell and the last line it printed.

        Raises RuntimeError where no cell installs the package, or torch was changed, or the
        package came from elsewhere.
        """
        if more := self.installed() - self.given:
            self.do(self.folder, "-m", "pip", "uninstall", "-q", "-y", *sorted(more))
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            empty = Path(place)
            shutil.copy(notebook, empty)
            told = self.do(empty, "-c", RUN, notebook.name).splitlines()
            if not told:
                raise RuntimeError("no cell installs the package: none has %pip install")
            seconds, said = told[:2]
            after, where = self.do(empty, "-c", WHERE).split(maxsplit=1)
        if after != self.torch:
            raise RuntimeError(f"torch was {self.torch}, and the first cell made it {after}")
        if not Path(where).is_relative_to((self.folder / "venv").resolve()):
            raise RuntimeError(f"the package was not installed by the notebook, but is {where}")
        return float(seconds), said


def notebooks(names: list[str]) -> list[Path]:
    """The chapters and exercises whose numbers are named, or all of them."""
    found = sorted([*ROOT.glob("book/[0-9]*.ipynb"), *ROOT.glob("book/exercises/[0-9]*.ipynb")])
    return [p for p in found if names == ["all"] or p.name[:2] in {name[:2] for name in names}]


def git(*words: str) -> str:
    """What git says of this checkout."""
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def check(found: list[Path], folder: Path, index: list[str]) -> int:
    """Run the notebooks and record each; how many failed."""
    record = folder / "results.json"
    results: dict[str, Any] = (
        json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    )
    package = git("rev-parse", "HEAD:vit_tutorial", "HEAD:pyproject.toml")
    repository(folder / "repository")
    colab = Colab(folder, index)
    for notebook in found:
        name, start = notebook.relative_to(ROOT / "book").as_posix(), time.perf_counter()
        passed = results.get(name, {})
        state = short(notebook.read_text(encoding="utf-8"), package, made_of(index))
        if passed.get("passed") and passed["state"] == state:
            print(f"colab: {name} has passed before, set-up cell {passed['setup']} s")
            continue
        result: dict[str, Any] = {"state": state, "passed": False}
        try:
            result["setup"], result["said"] = colab.run(notebook)
            result["passed"] = True
            told = f"passed, set-up cell {result['setup']} s: {result['said']}"
            if result["setup"] > LIMIT:
                told += f" (slow: more than {LIMIT} s)"
        except (subprocess.CalledProcessError, RuntimeError) as error:
            result["error"] = str(error)
            told = f"FAILED: {error}"
        result["seconds"] = round(time.perf_counter() - start)
        results[name] = result
        record.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"colab: {name} {told}; {result['seconds']} s in all", flush=True)
    names = [notebook.relative_to(ROOT / "book").as_posix() for notebook in found]
    return sum(not results[name]["passed"] for name in names)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", default=["05"], help="numbers, or all")
    parser.add_argument("--keep", type=Path, help="a folder for environment and results")
    parser.add_argument("--torch-index", help="an extra index for a torch without CUDA")
    options = parser.parse_args()
    found = notebooks(options.chapters)
    if not found:
        parser.error(f"no chapter {' '.join(options.chapters)} in book/")
    index = ["--extra-index-url", options.torch_index] if options.torch_index else []
    if git("status", "--porcelain", "vit_tutorial", "pyproject.toml"):
        print("note: not everything is committed, and the check sees the last commit")
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        return int(check(found, options.keep.resolve(), index) > 0)
    with tempfile.TemporaryDirectory() as folder:
        return int(check(found, Path(folder).resolve(), index) > 0)


if __name__ == "__main__":
    sys.exit(main())
