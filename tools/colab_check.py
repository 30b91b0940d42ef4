"""Run one chapter the way Colab does: torch and Jupyter are there, the package is not.

    python tools/colab_check.py [chapter, such as 05] [--torch-index ADDRESS]

A new environment gets torch, torchvision and the kernel; the notebook alone goes into an empty
folder; its own first cell installs the package. The project's address is led to the last commit of
this checkout, so the check needs a package index but no published repository.
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
import nbformat, sys
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
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


def check(chapter: Path, folder: Path, index: list[str]) -> None:
    """Build the environment, run the chapter, and see that nothing came from elsewhere."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    empty = folder / "content"
    empty.mkdir()
    shutil.copy(chapter, empty)
    settings = environment(folder)

    def do(*command: str) -> str:
        words = [str(python), *command]
        run = subprocess.run(
            words, cwd=empty, env=settings, check=True, text=True, stdout=subprocess.PIPE
        )
        return run.stdout.strip()

    pins = ["-c", str(ROOT / "constraints.txt")]
    do("-m", "pip", "install", "-q", *index, *pins, *GIVEN)
    before = do("-c", TORCH)
    do("-c", RUN, chapter.name)
    after, where = do("-c", WHERE).split(maxsplit=1)
    if after != before:
        raise RuntimeError(f"torch was {before}, and the first cell made it {after}")
    if not Path(where).is_relative_to((folder / "venv").resolve()):
        raise RuntimeError(f"the package was not installed by the notebook, but read from {where}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapter", nargs="?", default="05")
    parser.add_argument("--torch-index", help="an extra index for a torch without CUDA")
    options = parser.parse_args()
    found = sorted((ROOT / "book").glob(f"{options.chapter}*.ipynb"))
    if not found:
        parser.error(f"no chapter {options.chapter} in book/")
    index = ["--extra-index-url", options.torch_index] if options.torch_index else []
    status = ["git", "status", "--porcelain", "vit_tutorial", "pyproject.toml"]
    if subprocess.run(status, cwd=ROOT, capture_output=True, text=True, check=True).stdout:
        print("note: not everything is committed, and the check sees the last commit")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(found[0], Path(folder).resolve(), index)
        except (subprocess.CalledProcessError, RuntimeError) as error:
            print(f"colab: {found[0].stem} FAILED: {error}")
            return 1
    print(f"colab: {found[0].stem} passed in {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
