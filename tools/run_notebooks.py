"""Run the chapters in full, in order, on the real MNIST, and store their outputs.

    python tools/run_notebooks.py          every chapter
    python tools/run_notebooks.py 05 08    only these

It refuses on the embedded digits, so that a stored figure always shows the real data. A chapter
that fails is left as it was.
"""

import base64
import io
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1_000_000  # bytes in a stored notebook
FOREIGN = re.compile(r"/(?:work|root|tmp|home|Users|private|var/folders)/[^\s\"']*")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def chapters(names: list[str]) -> list[Path]:
    """The notebooks whose numbers are named, or all of them, in order."""
    paths = sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb"))
    missing = [name for name in names if not any(p.name.startswith(name[:2]) for p in paths)]
    if missing:
        there = ", ".join(p.stem for p in paths) or "none"
        raise SystemExit(f"no chapter {', '.join(missing)}; there are: {there}")
    return [p for p in paths if not names or p.name[:2] in {name[:2] for name in names}]


def merge_streams(outputs: list) -> list:
    """Join what a cell printed in several pieces."""
    merged: list = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == "stream" == last.output_type and last.name == output.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def tidy(notebook) -> None:
    """Drop what differs from run to run or from machine to machine."""
    version = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": version})
    for cell in notebook.cells:
        for key in ("execution", "ExecuteTime", "collapsed", "widgets"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = merge_streams(cell.outputs)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])


def smaller(encoded: str) -> str:
    """A drawing with a palette of 256 colours, a third of its size; a photograph as it was."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    few = picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    changed = np.abs(np.asarray(few.convert("RGB"), dtype=int) - np.asarray(picture, dtype=int))
    if changed.mean() > 0.3:  # of 255 levels: the eye would see bands
        return encoded
    file = io.BytesIO()
    few.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def foreign_paths(notebook) -> list[str]:
    """Paths of this machine in what the cells printed or showed as text."""
    texts = [
        "".join(output.get("text", "")) + "".join(output.get("data", {}).get("text/plain", ""))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    ]
    return [match for text in texts for match in FOREIGN.findall(text)]


def run(path: Path) -> str:
    """Run one chapter and store it; what to say about it."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources=resources, record_timing=False
    )
    start = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - start
    tidy(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        raise ValueError(f"the cells did not run once each, in order: {counts}")
    if found := foreign_paths(notebook):
        raise ValueError(f"paths of this machine in the outputs: {found}")
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) >= LIMIT:
        raise ValueError(f"{len(text.encode()):,} bytes, and at most {LIMIT:,} are stored")
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return f"{path.stem}: {seconds:.0f} s, {len(text.encode()) / 1000:.0f} kB"


def main(names: list[str]) -> int:
    """Run the named chapters; 2 without MNIST, 1 if one fails."""
    for name in ("VIT_TUTORIAL_BUDGET", "COLAB_RELEASE_TAG"):
        os.environ.pop(name, None)
    from vit_tutorial.data import default_dataset

    if (dataset := default_dataset()) != "mnist":
        print(
            f"The default data set here is {dataset}; stored outputs must show the real MNIST.\n"
            "Set VIT_TUTORIAL_DATA to a folder that holds MNIST/raw, or allow its download."
        )
        return 2
    for path in chapters(names):
        try:
            print(run(path), flush=True)
        except (CellExecutionError, ValueError) as error:
            print(f"{path.stem}: FAILED, left as it was\n{error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
