"""What a benchmark leaves behind: one JSON file, written whole after every run."""

import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from vit_tutorial import checkpoint
from vit_tutorial.__main__ import machine

ROOT = Path(__file__).resolve().parents[1]
SAME = ("versions", "machine", "cpu", "threads")  # what runs must share to be compared


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
