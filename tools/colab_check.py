"""Run notebooks the way Colab does: torch and Jupyter are there, the package is not.

    python tools/colab_check.py [05 08 ... | all] [--torch-index ADDRESS]

A new environment gets torch, torchvision and the kernel. Each notebook goes alone into an empty
folder, and its own first cell installs the package. The project's address is led to the last
commit of this checkout, so the check needs a package index but no published repository. A number
names a chapter and, where there is one, its exercises.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from address import PLACEHOLDER

ROOT = Path(__file__).resolve().parents[1]
GIVEN = ["torch", "torchvision", "ipykernel", "nbclient", "nbformat", "matplotlib"]  # as in Colab
RUN = """
import nbformat, sys, time
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
client = NotebookClient(notebook, timeout=600, kernel_name="python3")
with client.setup_kernel():
    for index, cell in enumerate(notebook.cells):
        start = time.perf_counter()
        client.execute_cell(cell, index)
        if "setup" in cell.metadata.get("tags", []):
            print(f"{time.perf_counter() - start:.0f}")
"""
WHERE = "import torch, vit_tutorial; print(torch.__version__, vit_tutorial.__file__)"
TORCH = "import torch; print(torch.__version__)"


def environment(folder: Path) -> dict[str, str]:
    """Colab's mark, this checkout in the place of the address, and nothing of the caller's."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {
        **kept,
        "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "COLAB_RELEASE_TAG": "simulated",
        "VIT_TUTORIAL_BUDGET": "quick",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{PLACEHOLDER}",
    }


class Colab:
    """An environment as Colab has it, in a folder."""

    def __init__(self, folder: Path, index: list[str]):
        self.folder, self.settings = folder, environment(folder)
        venv.create(folder / "venv", with_pip=True)
        pins = ["-c", str(ROOT / "constraints.txt")]
        self.do(folder, "-m", "pip", "install", "-q", *index, *pins, *GIVEN)
        self.torch = self.do(folder, "-c", TORCH)

    def do(self, place: Path, *words: str) -> str:
        """What Python prints in the environment. Raises CalledProcessError where it fails."""
        command = [str(self.folder / "venv" / "bin" / "python"), *words]
        run = subprocess.run(
            command, cwd=place, env=self.settings, check=True, text=True, stdout=subprocess.PIPE
        )
        return run.stdout.strip()

    def run(self, notebook: Path) -> str:
        """Run one notebook alone; the seconds of its first cell. Raises RuntimeError if off."""
        self.do(self.folder, "-m", "pip", "uninstall", "-q", "-y", "vit_tutorial")
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            empty = Path(place)
            shutil.copy(notebook, empty)
            seconds = self.do(empty, "-c", RUN, notebook.name)
            after, where = self.do(empty, "-c", WHERE).split(maxsplit=1)
        if after != self.torch:
            raise RuntimeError(f"torch was {self.torch}, and the first cell made it {after}")
        if not Path(where).is_relative_to((self.folder / "venv").resolve()):
            raise RuntimeError(f"the package was not installed by the notebook, but is {where}")
        return seconds


def notebooks(names: list[str]) -> list[Path]:
    """The chapters and exercises whose numbers are named, or all of them."""
    found = sorted([*ROOT.glob("book/[0-9]*.ipynb"), *ROOT.glob("book/exercises/[0-9]*.ipynb")])
    return [p for p in found if names == ["all"] or p.name[:2] in {name[:2] for name in names}]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", default=["05"], help="numbers, or all")
    parser.add_argument("--torch-index", help="an extra index for a torch without CUDA")
    options = parser.parse_args()
    found = notebooks(options.chapters)
    if not found:
        parser.error(f"no chapter {' '.join(options.chapters)} in book/")
    index = ["--extra-index-url", options.torch_index] if options.torch_index else []
    status = ["git", "status", "--porcelain", "vit_tutorial", "pyproject.toml"]
    if subprocess.run(status, cwd=ROOT, capture_output=True, text=True, check=True).stdout:
        print("note: not everything is committed, and the check sees the last commit")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        colab = Colab(Path(folder).resolve(), index)
        for notebook in found:
            name, start = notebook.relative_to(ROOT / "book"), time.perf_counter()
            try:
                first = colab.run(notebook)
                told = f"passed in {time.perf_counter() - start:.0f} s, first cell {first} s"
            except (subprocess.CalledProcessError, RuntimeError) as error:
                failed, told = failed + 1, f"FAILED: {error}"
            print(f"colab: {name} {told}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
