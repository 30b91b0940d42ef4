"""Training steps and inference of five Vision Transformers of the same sizes, side by side.

    python benchmarks/throughput.py

Ours and those of timm, torchvision, vit-pytorch and transformers take turns in one process, so
that a busy machine slows all alike; a model's figure is its median, and its ratio is its median
over ours. The number of turns and the quartiles of the ratio, turn by turn, stand beside it. Every
model gets images of the same shape, the same loss and fused AdamW, no dropout, and its library's
default way to attend. A training step is forward, backward and update. On a GPU all run in
bfloat16 (autocast). A process of its own for each model tells the peak memory of one step.
With `--compile` ours is timed through `torch.compile` as well, beside the others, with the seconds
that compiling takes and the number of steps after which they are won back.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import record as records
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.model import VisionTransformer, ViTConfig, variant

RECORD = records.ROOT / "benchmarks" / "records" / "throughput.json"
SMALL = ViTConfig(28, 4, 1, 10, layers=4, hidden_size=64, mlp_size=128, heads=4)
SHIPPED = ViTConfig(28, 4, 1, 10, layers=6, hidden_size=64, mlp_size=128, heads=4)
SIZES = {  # the model, images in a batch
    "a": (SMALL, 256),
    "b": (SHIPPED, 128),
    "c": (variant("Ti/16"), 8),
    "d": (variant("S/16"), 4),
}


# ---- five models of one size


def timm(c: ViTConfig) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        c.image_size, c.patch_size, c.channels, c.classes, embed_dim=c.hidden_size,
        depth=c.layers, num_heads=c.heads, mlp_ratio=c.mlp_size / c.hidden_size,
    )  # fmt: skip


def torchvision(c: ViTConfig) -> nn.Module:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(
        c.image_size, c.patch_size, c.layers, c.heads, c.hidden_size, c.mlp_size,
        num_classes=c.classes,
    )  # fmt: skip
    if c.channels != 3:  # it takes no number of channels
        model.conv_proj = nn.Conv2d(c.channels, c.hidden_size, c.patch_size, c.patch_size)
    return model


def vit_pytorch(c: ViTConfig) -> nn.Module:
    from vit_pytorch import ViT

    return ViT(
        image_size=c.image_size, patch_size=c.patch_size, channels=c.channels,
        num_classes=c.classes, dim=c.hidden_size, depth=c.layers, heads=c.heads,
        dim_head=c.hidden_size // c.heads, mlp_dim=c.mlp_size,
    )  # fmt: skip


def transformers(c: ViTConfig) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=c.image_size, patch_size=c.patch_size, num_channels=c.channels,
        num_labels=c.classes, hidden_size=c.hidden_size, num_hidden_layers=c.layers,
        num_attention_heads=c.heads, intermediate_size=c.mlp_size,
    )  # fmt: skip
    return ViTForImageClassification(config)


class Peer(NamedTuple):
    """How a model is built, its package, and how its size or its work differs from ours."""

    build: Callable[[ViTConfig], nn.Module]
    package: str
    note: str


PEERS = {
    "ours": Peer(
        VisionTransformer, "vit-tutorial",
        "its last block works out the class token alone, which is all that the head reads",
    ),
    "timm": Peer(timm, "timm", "same parameters"),
    "torchvision": Peer(
        torchvision, "torchvision", "same parameters; for one channel conv_proj is replaced"
    ),
    "vit-pytorch": Peer(
        vit_pytorch, "vit-pytorch", "a norm before and after the patch embedding; qkv has no bias"
    ),
    "transformers": Peer(transformers, "transformers", "same parameters"),
}  # fmt: skip


def installed(package: str) -> bool:
    return importlib.util.find_spec(package.replace("-", "_")) is not None


# ---- timing


class Runner:
    """One model, its optimizer and its batch; `train` and `infer` make one step and time it."""

    def __init__(self, name: str, size: str, device: torch.device, compiled: bool = False):
        config, B = SIZES[size]
        torch.manual_seed(0)
        self.model = PEERS[name].build(config).to(device)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, fused=True)
        self.images = torch.randn(B, config.channels, *config.height_width, device=device)
        self.labels = torch.randint(config.classes, (B,), device=device)
        self.device = device
        self.call = torch.compile(self.model) if compiled else self.model

    def logits(self) -> Tensor:
        out = self.call(self.images)
        return out if isinstance(out, Tensor) else out.logits  # transformers wraps them

    def train(self) -> None:
        loss = F.cross_entropy(self.logits().float(), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.inference_mode()
    def infer(self) -> None:
        self.logits()

    def seconds(self, what: str) -> float:
        """How long one step takes."""
        self.model.train(what == "train")
        bf16 = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else None
        start = time.perf_counter()
        with bf16 or nullcontext():
            getattr(self, what)()
        if bf16:
            torch.cuda.synchronize()
        return time.perf_counter() - start


def in_turns(runners: dict[str, Runner], what: str, budget: float) -> dict[str, list[float]]:
    """A B C A B C ... for about `budget` seconds, but five rounds at least; two warm up."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    warm = [[r.seconds(what) for r in runners.values()] for _ in range(2)]
    for _ in range(min(200, max(5, round(budget / sum(warm[-1]))))):
        for name, runner in runners.items():
            times[name].append(runner.seconds(what))
    return times


def peak(name: str, size: str, device: torch.device) -> float | None:
    """MiB that one training step adds to a model that has made none; None where none can tell."""
    if device.type == "cpu" and not Path("/proc/self/status").exists():
        return None
    command = [sys.executable, __file__, "--peak", name, "--sizes", size, "--device", device.type]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_here(name: str, size: str, device: torch.device) -> float:
    """What `peak` asks a fresh process for."""
    runner = Runner(name, size, device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        runner.seconds("train")
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    before = high_water()
    runner.seconds("train")
    return round(high_water() - before, 1)


def high_water() -> float:
    """The most memory that this process has held so far, in MiB; Linux tells it."""
    # not ru_maxrss, which starts from that of the process that called this one
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


# ---- the record


def measure(
    size: str, names: list[str], device: torch.device, budget: float
) -> list[dict[str, Any]]:
    """One row for each model: ms, ratio to ours, parameters, peak memory."""
    runners = {name: Runner(name, size, device) for name in names}
    times = {what: in_turns(runners, what, budget) for what in ("train", "infer")}
    rows = []
    for name, runner in runners.items():
        row = {"size": size, "model": name, "device": device.type, "parameters": runner.parameters}
        for what, of in times.items():
            mine, ours = statistics.median(of[name]), statistics.median(of["ours"])
            ratios = [a / b for a, b in zip(of[name], of["ours"], strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4)
            row[f"{what}, ms"] = round(1000 * mine, 2)
            row[f"{what}, over ours"] = round(mine / ours, 3)
            row[f"{what}, quartiles"] = [round(low, 3), round(high, 3)]
            row[f"{what}, turns"] = len(ratios)
        rows.append(row | {"step adds, MiB": peak(name, size, device)})
    return rows


def compiled(size: str, device: torch.device, budget: float) -> dict[str, Any]:
    """Our training step through torch.compile, in turns with the plain one."""
    pair = {"plain": Runner("ours", size, device), "ours": Runner("ours", size, device, True)}
    plain_first = pair["plain"].seconds("train")
    compiling = pair["ours"].seconds("train") - plain_first
    medians = {n: statistics.median(t) for n, t in in_turns(pair, "train", budget).items()}
    won = medians["plain"] - medians["ours"]
    return {
        "size": size, "model": "ours, compiled", "device": device.type,
        "train, ms": round(1000 * medians["ours"], 2),
        "train, over ours": round(medians["ours"] / medians["plain"], 3),
        "compiling, s": round(compiling, 1),
        "steps to win it back": round(compiling / won) if won > 0 else None,
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE",
                        help="of " + ", ".join(SIZES))  # fmt: skip
    parser.add_argument("--seconds", type=float, default=10, metavar="S",
                        help="timed for each size, training and inference each (10)")  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="torch.compile of ours as well")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: CPU, and CUDA if any")
    parser.add_argument("--out", type=Path, default=RECORD, metavar="FILE", help="the record")
    parser.add_argument("--peak", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.seconds > 0:
        parser.error(f"--seconds must be above 0, got {args.seconds}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here")
    return args


def main() -> int:
    """Measure every size on every device; print and record."""
    args = arguments()
    both = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    devices = [torch.device(d) for d in ([args.device] if args.device else both)]
    if args.peak:
        print(json.dumps(peak_here(args.peak, args.sizes[0], devices[0])))
        return 0
    names = [name for name, peer in PEERS.items() if name == "ours" or installed(peer.package)]
    for name in PEERS.keys() - set(names):
        print(f"{name} is left out: it is not installed (pip install {name})", file=sys.stderr)
    args.out.unlink(missing_ok=True)  # a ratio is only worth something within one run
    what = {
        "peers": {PEERS[n].package: version(PEERS[n].package) for n in names},
        "models": {n: PEERS[n].note for n in names},
        "precision": "CPU: float32; CUDA: bfloat16 (autocast)",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    record = records.start(args.out, what)
    for device in devices:
        for size in args.sizes:
            rows = measure(size, names, device, args.seconds)
            rows += [compiled(size, device, args.seconds)] if args.compile else []
            for row in rows:
                print(*(f"{key} {value}" for key, value in row.items()), sep=", ", flush=True)
            record["runs"] += rows
            records.keep(args.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
