"""The records of the benchmarks: one JSON file each, written whole after every run."""

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

from vit_tutorial.errors import unknown
from vit_tutorial.lab.run import machine
from vit_tutorial.weights import checkpoint

FOLDER = Path(__file__).resolve().parent / "records"
ROOT = FOLDER.parents[2]  # of a checkout; an installed package has no .git there
Variant = TypeVar("Variant")
SAME = ("versions", "machine", "cpu", "threads")  # what runs must share to be compared


def read(name: str) -> dict[str, Any]:
    """The record of a benchmark, as it comes with the package.

    Its "runs" are a list of dictionaries; the rest says how they were made. Raises ValueError for
    an unknown name.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.json"))
    if name not in known:
        raise unknown("record", name, known)
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def study(
    about: str,
    out: Path,
    variants: Mapping[str, Variant],
    epochs: int | None,
    prepare: Callable[[argparse.Namespace], tuple[dict[str, Any], Callable[[Variant, int], Any]]],
    data: Sequence[str] = ("mnist",),
    seeds: int = 3,
) -> int:
    """Run every variant with every seed, seed by seed; write the record after each run.

    `prepare` loads the data and returns the record's own part (data, sizes, budget) and the
    function that makes one run from a variant and a seed. Runs that the record holds are not
    repeated, so an interrupted study resumes, and n can grow later. With several data sets each
    has its own record, `out` with the name of the data set appended. With `epochs` None each
    variant says how long it trains. Returns the exit code: 2 for wrong input or missing data, 130
    after Ctrl-C.
    """
    parser = options(about, variants, epochs, data, seeds)
    args = parser.parse_args()
    args.out = args.out or (out.with_stem(f"{out.stem}_{args.data}") if len(data) > 1 else out)
    if args.list:
        print(*variants, sep="\n")
        return 0
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
        print(f"\n{parser.prog}: stopped; the record holds all finished runs", file=sys.stderr)
        return 130
    return 0


def options(
    about: str, variants: Mapping[str, Any], epochs: int | None, data: Sequence[str], seeds: int
) -> argparse.ArgumentParser:
    """The options that all studies share."""
    parser = arguments(about)
    parser.add_argument("--seeds", type=positive, default=seeds, metavar="N", help=f"({seeds})")
    if epochs is not None:
        said = f"of each run ({epochs})"
        parser.add_argument("--epochs", type=positive, default=epochs, metavar="N", help=said)
    parser.add_argument("--only", action="append", choices=variants, metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the names of the variants")
    parser.add_argument("--root", type=Path, metavar="DIR", help="where the data set lies")
    parser.add_argument("--data", default=data[0], choices=data)
    parser.add_argument("--out", type=Path, metavar="FILE", help="the record")
    return parser


def arguments(about: str) -> argparse.ArgumentParser:
    """A parser that shows the module's docstring, and how the module is called."""
    return argparse.ArgumentParser(
        program(), description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def repeated(about: str, out: Path, repeats: int) -> argparse.ArgumentParser:
    """The options of a benchmark that times things in turns, `repeats` times by default."""
    parser = arguments(about)
    said = f"turns timed ({repeats})"
    parser.add_argument("--repeats", type=positive, default=repeats, metavar="N", help=said)
    parser.add_argument("--out", type=Path, default=out, metavar="FILE", help="the record")
    return parser


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def program() -> str:
    """How this process was called: python -m vit_tutorial.benchmarks.NAME."""
    return f"python -m vit_tutorial.benchmarks.{Path(sys.argv[0]).stem}"


def start(path: Path, what: dict[str, Any], anew: bool = False) -> dict[str, Any]:
    """The record at `path` if there is one, else (or `anew`) a new one that says how it is made.

    `what` is the benchmark's own part: data, sizes, budget. Raises ValueError if the existing
    record was made with other settings, or on another machine.
    """
    command = " ".join([program(), *map(shlex.quote, sys.argv[1:])])
    header = {"command": command, "commit": commit(), **here(), **what}
    if anew or not path.exists():
        return {**header, "runs": []}
    record = json.loads(path.read_text(encoding="utf-8"))
    for name in (*SAME, *what):
        if record.get(name) != json.loads(json.dumps(header[name])):
            raise ValueError(
                f"{path} was made with {name} {record.get(name)}, now it is {header[name]}: "
                "move that file away, or give another --out"
            )
    return record


def keep(path: Path, record: dict[str, Any]) -> None:
    """Replace the file atomically; each run has a line."""
    runs = ",\n".join(f"  {json.dumps(run)}" for run in record["runs"])
    head = json.dumps({k: v for k, v in record.items() if k != "runs"}, indent=1)
    text = f'{head[:-2]},\n "runs": [\n{runs}\n ]\n}}\n'
    checkpoint.write(path, text.encode())


def here() -> dict[str, Any]:
    """Versions, machine, threads and date."""
    return {**machine(torch.device("cpu")), "cpu": f"{cpu()}, {os.cpu_count()} cores"}


def cpu() -> str:
    """The name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def commit() -> str | None:
    """The commit of the code, with "-dirty" where files differ from it; None outside a checkout."""
    if not (ROOT / ".git").exists():  # installed: a repository around it is another project's
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
