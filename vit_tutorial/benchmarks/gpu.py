"""What needs a GPU, proved and timed in one run of at most eight minutes.

    python -m vit_tutorial.benchmarks.gpu [--root DIR]     on a machine with CUDA
    python -m vit_tutorial.benchmarks.gpu --device cpu     a rehearsal of all but the last two

In this order: the logits of a ViT-S/16 on the device beside those on the CPU, in float32 and in
bfloat16; a short training on scikit-learn's digits, plain, with `--precision bf16`, with
`--compile`, and through torchrun with one process (NCCL on CUDA); a training that starts on the
CPU, goes on on the device and ends on the CPU; training steps beside the other libraries; and the
preset `cifar10`, whose goal is more than 91.4 % with fewer than 4 million parameters. A step that
fails is recorded with the last line that it printed, and the next one starts; what would begin
after eight minutes is left out. The exit code is 1 if a step failed.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import data_root
from vit_tutorial.model import VisionTransformer, variant

RECORD = records.FOLDER / "gpu.json"
SECONDS = 480
Figures = dict[str, Any]


class Failed(Exception):
    """A step that did not do what it should."""


def same_logits(args: argparse.Namespace, folder: Path) -> Figures:
    """Largest difference of logits between the device and the CPU; float32 must be near."""
    torch.manual_seed(0)
    model, images = VisionTransformer(variant("S/16")).eval(), torch.randn(4, 3, 224, 224)
    torch.nn.init.normal_(model.get_parameter("head.weight"), std=0.02)  # a fresh head is zero
    with torch.inference_mode():
        expected = model(images)
        model, images = model.to(args.device), images.to(args.device)
        plain = model(images)
        with torch.autocast(args.device, torch.bfloat16):
            rounded = model(images)
    gaps = [(found.float().cpu() - expected).abs().max().item() for found in (plain, rounded)]
    if gaps[0] > 1e-2 * expected.abs().max():
        raise Failed(f"logits on {args.device} differ by {gaps[0]:.2g}")
    return {"float32_gap": gaps[0], "bf16_gap": gaps[1], "largest": expected.abs().max().item()}


def call(words: list[str], left: float, module: str = "vit_tutorial") -> str:
    """Run a module of Python's to its end; what it printed. Failed where its exit code is not 0."""
    command = [sys.executable, "-m", module, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(left, 1))
    except subprocess.TimeoutExpired:
        raise Failed(f"the {SECONDS // 60} minutes were over") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise Failed(f"exit code {done.returncode}: {said}")
    return done.stdout


def card(out: Path) -> Figures:
    """What the card of a training says."""
    found = json.loads((out / "card.json").read_text(encoding="utf-8"))
    kept = ("parameters", "validation_accuracy", "test_accuracy", "machine", "seconds")
    return {name: found[name] for name in kept}


def digits(args: argparse.Namespace, out: Path) -> list[str]:
    """A short training on the embedded digits."""
    return ["train", "--data", "digits", "--epochs", str(args.epochs), "--out", str(out)]


def training(*more: str) -> Callable[[argparse.Namespace, Path], Figures]:
    """A step that trains with these options."""

    def step(args: argparse.Namespace, folder: Path) -> Figures:
        call([*digits(args, folder), "--device", args.device, *more], args.left())
        return card(folder)

    return step


def one_process(args: argparse.Namespace, folder: Path) -> Figures:
    """Through torchrun."""
    words = ["--standalone", "--nproc-per-node=1", "-m", "vit_tutorial", *digits(args, folder)]
    call([*words, "--device", args.device], args.left(), "torch.distributed.run")
    return card(folder)


def there_and_back(args: argparse.Namespace, folder: Path) -> Figures:
    """Stopped after an epoch, on the CPU and then on the device; the end again on the CPU."""
    words, metrics = digits(args, folder), folder / "metrics.jsonl"
    for number, device in enumerate(("cpu", args.device), start=1):
        resumed = ["--resume"] if number > 1 else []
        command = [sys.executable, "-m", "vit_tutorial", *words, "--device", device, *resumed]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while running.poll() is None and args.left() > 0 and epochs(metrics) < number:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        said = running.communicate()[0].decode(errors="replace").strip()
        if running.returncode != 130:
            last = said.splitlines()[-1] if said else "nothing"
            raise Failed(f"exit code {running.returncode} on {device}, not 130: {last}")
    before = epochs(metrics)
    call([*words, "--device", "cpu", "--resume"], args.left())
    return {"epochs_when_last_stopped": before, **card(folder)}


def epochs(metrics: Path) -> int:
    """How many epochs a training has finished."""
    return len(metrics.read_text(encoding="utf-8").splitlines()) if metrics.exists() else 0


def speeds(args: argparse.Namespace, folder: Path) -> Figures:
    """The steps of all libraries, by `throughput`, in its own form."""
    out = folder.with_suffix(".json")
    words = ["--device", args.device, "--seconds", "2", "--compile", "--out", str(out)]
    call(words, args.left(), "vit_tutorial.benchmarks.throughput")
    return {"steps": json.loads(out.read_text(encoding="utf-8"))["runs"]}


def cifar10(args: argparse.Namespace, folder: Path) -> Figures:
    """The preset for a GPU; its test accuracy is reached or it is not."""
    copy = data_root(args.root) / "cifar10_jpeg"
    data = f"folder:{copy}" if copy.is_dir() else "cifar10"
    words = ["train", "--preset", "cifar10", "--data", data, "--out", str(folder)]
    words += ["--root", str(args.root)] if args.root else []
    call([*words, "--device", args.device, "--precision", "bf16"], args.left())
    return {"data": "JPEG copy" if copy.is_dir() else "cifar10", **card(folder)}


STEPS: dict[str, Callable[[argparse.Namespace, Path], Figures]] = {
    "same logits": same_logits,
    "float32": training(),
    "bf16": training("--precision", "bf16"),
    "compile": training("--compile"),
    "one process of torchrun": one_process,
    "from the CPU and back": there_and_back,
    "speeds": speeds,
    "cifar10": cifar10,
}


def main() -> int:
    """Take the steps; print and record each as it ends."""
    parser = records.arguments(__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="(cuda)")
    parser.add_argument("--epochs", type=records.positive, default=8, help="on the digits (8)")
    parser.add_argument("--root", type=Path, metavar="DIR", help="where CIFAR-10 lies")
    parser.add_argument("--out", type=Path, default=RECORD, metavar="FILE", help="the record")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device here (--device cpu rehearses)")
    if args.epochs < 3:  # two stops and an end
        parser.error(f"--epochs must be at least 3, got {args.epochs}")
    start = time.perf_counter()
    args.left = lambda: SECONDS - (time.perf_counter() - start)
    name = torch.cuda.get_device_name() if args.device == "cuda" else None
    record = records.start(args.out, {"gpu": name}, anew=True)
    chosen = [n for n in STEPS if args.device == "cuda" or n not in ("speeds", "cifar10")]
    with tempfile.TemporaryDirectory() as folder:
        for number, step in enumerate(chosen):
            if args.left() <= 0:
                break
            begun, entry = time.perf_counter(), {"variant": step, "passed": True}
            try:
                entry |= STEPS[step](args, Path(folder) / str(number))
            except (Failed, OSError, RuntimeError, ValueError) as error:
                entry |= {"passed": False, "error": str(error).splitlines()[0][:300]}
            entry["step_seconds"] = round(time.perf_counter() - begun, 1)
            record["runs"].append(entry)
            records.keep(args.out, record)
            print(*(f"{k} {v}" for k, v in entry.items() if k != "steps"), sep=", ", flush=True)
    return int(any(not run["passed"] for run in record["runs"]))


if __name__ == "__main__":
    sys.exit(main())
