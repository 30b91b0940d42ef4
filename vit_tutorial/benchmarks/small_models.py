"""The best small models, by the package's own command; the test images are read once a run.

    python -m vit_tutorial.benchmarks.small_models [--only PRESET]

The preset `mnist-best` with five seeds, or that given by `--only`: `fashion` for Fashion-MNIST,
`cifar10-small` for two cores, `cifar10` for a GPU, `digits` where there is no MNIST (two minutes a
run).

Every run is `vit-tutorial train --preset NAME --seed S`, in its own folder under `runs`, in the
folder where the benchmark is started. A run that was killed resumes when the benchmark is started
again, and runs that the record holds are not repeated, so n can grow over several days; runs made
by hand in those folders, one on each core, are taken over. Recipes and sizes were chosen on
validation images, but large patches on MNIST were first tried after the test errors of
`ablations.py` had hinted at them; no run was chosen by its test figure. Where the data folder holds
`cifar10_jpeg`, as class folders, CIFAR-10 is read from there: the same images, once through JPEG.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vit_tutorial.__main__ import main
from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import data_root
from vit_tutorial.lab.recipes import PRESETS, Recipe

RECORD = records.FOLDER / "small_models.json"
RUNS = Path("runs") / "small_models"
VARIANTS = {name: name for name in ("mnist-best", "fashion", "cifar10-small", "cifar10", "digits")}
KEPT = ("parameters", "validation_accuracy", "test_accuracy", "test_images", "seconds", "threads")


def recipe(preset: str) -> dict[str, Any]:
    """The model's shape and the training of a preset, as they are now."""
    return {**PRESETS[preset].model, **asdict(PRESETS[preset].training)}


def run(preset: str, seed: int, root: Path | None) -> dict[str, Any]:
    """Train one model to its end; return what its card says."""
    out = RUNS / f"{preset}-seed{seed}"
    words = ["train", "--preset", preset, "--seed", str(seed), "--out", str(out)]
    words += ["--root", str(root)] if root else []
    copy = data_root(root) / "cifar10_jpeg"
    jpeg = preset.startswith("cifar10") and copy.is_dir()
    words += ["--data", f"folder:{copy}"] if jpeg else []
    words += ["--resume"] if (out / "state.safetensors").exists() else []
    if code := main(words):
        raise KeyboardInterrupt if code == 130 else ValueError(f"{preset}, seed {seed}: see above")
    card = json.loads((out / "card.json").read_text(encoding="utf-8"))
    told = {"data": "cifar10 (JPEG copy)" if jpeg else card["data"]}
    told |= {"epochs": len(card["history"])} | {name: card[name] for name in KEPT}
    return told | {"recipe": recipe(preset)}


def prepare(args: argparse.Namespace) -> tuple[dict[str, Any], Callable[[str, int], Any]]:
    """The function that makes a run; ValueError if the record holds runs of another recipe."""
    made = json.loads(args.out.read_text(encoding="utf-8"))["runs"] if args.out.exists() else []
    for entry in made:
        was, now = asdict(Recipe()) | entry["recipe"], recipe(entry["variant"])
        differ = [k for k in was | now if was.get(k) != now.get(k)]
        if differ:
            told = ", ".join(f"{k} {was.get(k)} (now {now.get(k)})" for k in differ)
            raise ValueError(
                f"{args.out} holds runs of {entry['variant']} with {told}: move that file away, "
                "or give another --out"
            )
    return {}, lambda preset, seed: run(preset, seed, args.root)


if __name__ == "__main__":
    if not {"--only", "--list", "--help", "-h"} & set(sys.argv):
        sys.argv += ["--only", "mnist-best"]
    sys.exit(records.study(__doc__, RECORD, VARIANTS, None, prepare, seeds=5))
