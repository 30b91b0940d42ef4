"""What a benchmark leaves behind: one JSON file, written whole after every run."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from vit_tutorial import checkpoint
from vit_tutorial.runs import machine

ROOT = Path(__file__).resolve().parents[1]
Variant = TypeVar("Variant")
SAME = ("versions", "machine", "cpu", "threads")  # what runs must share to be compared


def study(
    about: str,
    out: Path,
    variants: Mapping[str, Variant],
    epochs: int | None,
    prepare: Callable[[argparse.Namespace], tuple[dict[str, Any], Callable[[Variant, int], Any]]],
    data: Sequence[str] = ("mnist",),
    seeds: int = 3,
) -> int:
    """Run every variant with every seed, seed by seed, and keep each run in `out` as it ends.

    `prepare` loads the data and gives the record's own part (data, sizes, budget) and the function
    that makes one run from a variant and a seed. Runs that the record holds are not made again, so
    an interrupted study goes on where it stopped, and n can grow later. Of several data sets each
    has a record of its own, `out` with the data set's name behind. With `epochs` None the variants
    say how long they train. The exit code is 2 for wrong input or missing data, 130 after Ctrl-C.
    """
    parser = options(about, variants, epochs, data, seeds)
    args = parser.parse_args()
    args.out = args.out or (out.with_stem(f"{out.stem}_{args.data}") if len(data) > 1 else out)
    if args.list:
        print(*variants, sep="\n")
        return 0
    for name in ("seeds", "epochs"):
        if getattr(args, name, 1) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    try:
        what, run = prepare(args)
        record = start(args.out, what)
    except ValueError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    made = {(entry["seed"], entry["variant"]) for entry in record["runs"]}
    names = args.only or variants
    todo = [pair for s in range(args.seeds) for n in names if (pair := (s, n)) not in made]
    print(f"{len(made)} runs in {args.out}, {len(todo)} to make", flush=True)
    shared = {} if epochs is None else {"epochs": args.epochs}
    code = {"commit": commit()}  # of this run; the record's own is that of its first
    try:
        for number, (seed, name) in enumerate(todo, start=1):
            figures = run(variants[name], seed)
            record["runs"].append({"variant": name, "seed": seed, **shared, **figures, **code})
            keep(args.out, record)
            told = ", ".join(f"{k} {v}" for k, v in figures.items() if not isinstance(v, list))
            print(f"{number:3} of {len(todo)}: {name:<25} seed {seed}: {told}", flush=True)
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: stopped; the record holds every finished run", file=sys.stderr)
        return 130
    return 0


def options(
    about: str, variants: Mapping[str, Any], epochs: int | None, data: Sequence[str], seeds: int
) -> argparse.ArgumentParser:
    """What every study can be told."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=seeds, metavar="N", help=f"default {seeds}")
    if epochs is not None:
        said = f"of each run; default {epochs}"
        parser.add_argument("--epochs", type=int, default=epochs, metavar="N", help=said)
    parser.add_argument("--only", action="append", choices=variants, metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the names of the variants")
    parser.add_argument("--root", type=Path, metavar="DIR", help="where the data set lies")
    parser.add_argument("--data", default=data[0], choices=data)
    parser.add_argument("--out", type=Path, metavar="FILE", help="the record")
    return parser


def start(path: Path, what: dict[str, Any]) -> dict[str, Any]:
    """The record at `path` if there is one, else a new one, which says how it is being made.

    `what` is the benchmark's own part: data, sizes, budget. Raises ValueError if the record was
    made under another one, or on another machine.
    """
    header = {"command": shlex.join(["python", *sys.argv]), "commit": commit(), **here(), **what}
    if not path.exists():
        return {**header, "runs": []}
    record = json.loads(path.read_text(encoding="utf-8"))
    for name in (*SAME, *what):
        if record[name] != json.loads(json.dumps(header[name])):
            raise ValueError(
                f"{path} was made with {name} {record[name]}, now it is {header[name]}: "
                "move that file away, or give another --out"
            )
    return record


def keep(path: Path, record: dict[str, Any]) -> None:
    """Replace the file in one step, one line for each run."""
    runs = ",\n".join(f"  {json.dumps(run)}" for run in record["runs"])
    head = json.dumps({k: v for k, v in record.items() if k != "runs"}, indent=1)
    text = f'{head[:-2]},\n "runs": [\n{runs}\n ]\n}}\n'
    checkpoint.write(path, text.encode())


def here() -> dict[str, Any]:
    """Versions, machine, threads and date."""
    return {**machine(torch.device("cpu")), "cpu": f"{cpu()}, {os.cpu_count()} cores"}


def cpu() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def commit() -> str | None:
    """The commit of the code, with "-dirty" where files differ from it; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
