"""Training steps and inference of our model beside those of four libraries, at the same sizes.

    python -m vit_tutorial.benchmarks.throughput                all sizes, ten seconds each
    python -m vit_tutorial.benchmarks.throughput --compile      torch.compile of ours as well
    python -m vit_tutorial.benchmarks.throughput --only timm    ours beside one library

Our class, the same through `lab.shortcut` (its last block computes the class token alone), and the
models of timm, torchvision, transformers and vit-pytorch take turns in one process, so that a busy
machine slows all alike. The figure of a model is its median; its ratio is its median over that of
our plain class. The number of turns and the quartiles of the ratio over turns are recorded too.
Every model gets images of the same shape, the same loss and fused AdamW, no dropout, and its
library's default attention. A training step is forward, backward and update. On a GPU all run in
bfloat16 (autocast). The peak memory of one step is measured in a separate process for each model.
With `--compile` our plain class is also timed through `torch.compile`, with the seconds that
compiling takes and the number of steps after which they are won back.

(a) and (b) are the small models of the book, (c) and (d) published sizes. (e) is the model of the
fast recipe: with 17 tokens the matrices are so small that calls and copies decide, not products.
(f) is what a folder of photographs gets, 64 pixels in patches of 8: three channels, 65 tokens, and
a width between the digits' models and the published ones.

The record is written after every size, and sizes that it holds are not repeated: a ratio means
something within one run, and all models of a size are timed in one. `--again` starts afresh.
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

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.benchmarks import record as records
from vit_tutorial.lab.shortcut import shortcut
from vit_tutorial.model import VisionTransformer, ViTConfig, variant

RECORD = records.FOLDER / "throughput.json"
SMALL = ViTConfig(28, 4, 1, 10, layers=4, hidden_size=64, mlp_size=128, heads=4)
SHIPPED = ViTConfig(28, 4, 1, 10, layers=6, hidden_size=64, mlp_size=128, heads=4)
FAST = ViTConfig(28, 7, 1, 10, layers=3, hidden_size=64, mlp_size=128, heads=4)
PHOTOS = ViTConfig(64, 8, 3, 10, layers=6, hidden_size=96, mlp_size=192, heads=4)
SIZES = {  # the model, images in a batch
    "a": (SMALL, 256),
    "b": (SHIPPED, 128),
    "c": (variant("Ti/16"), 8),
    "d": (variant("S/16"), 4),
    "e": (FAST, 128),
    "f": (PHOTOS, 64),
}


# ---- models of one size


def ours_with_shortcut(c: ViTConfig) -> nn.Module:
    return shortcut(VisionTransformer(c))


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
    from vit_pytorch import ViT  # type: ignore[import-untyped]

    return ViT(
        image_size=c.image_size, patch_size=c.patch_size, channels=c.channels,
        num_classes=c.classes, dim=c.hidden_size, depth=c.layers, heads=c.heads,
        dim_head=c.hidden_size // c.heads, mlp_dim=c.mlp_size,
    )  # fmt: skip


def transformers(c: ViTConfig) -> nn.Module:
    from transformers import ViTConfig as TheirConfig
    from transformers import ViTForImageClassification

    config = TheirConfig(
        image_size=c.image_size, patch_size=c.patch_size, num_channels=c.channels,
        num_labels=c.classes, hidden_size=c.hidden_size, num_hidden_layers=c.layers,
        num_attention_heads=c.heads, intermediate_size=c.mlp_size,
    )  # type: ignore[call-arg]  # fmt: skip
    return ViTForImageClassification(config)


class Peer(NamedTuple):
    """How a model is built, its package, and how its size or its work differs from ours."""

    build: Callable[[ViTConfig], nn.Module]
    package: str
    note: str


PEERS = {
    "ours": Peer(VisionTransformer, "vit-tutorial", "the plain class"),
    "ours, shortcut": Peer(
        ours_with_shortcut, "vit-tutorial",
        "the same parameters and logits; its last block computes the class token alone",
    ),
    "timm": Peer(timm, "timm", "same parameters"),
    "torchvision": Peer(
        torchvision, "torchvision", "same parameters; for one channel conv_proj is replaced"
    ),
    "transformers": Peer(transformers, "transformers", "same parameters"),
    "vit-pytorch": Peer(
        vit_pytorch, "vit-pytorch", "a norm before and after the patch embedding; qkv has no bias"
    ),
}  # fmt: skip


def installed(package: str) -> bool:
    return importlib.util.find_spec(package.replace("-", "_")) is not None


# ---- timing


class Runner:
    """One model, its optimizer and its batch; `seconds` makes one step and times it."""

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
    """MiB that the first training step of a model adds; None where the system does not tell."""
    if device.type == "cpu" and not Path("/proc/self/status").exists():
        return None
    module = ["-m", "vit_tutorial.benchmarks.throughput", "--peak", name]
    command = [sys.executable, *module, "--sizes", size, "--device", device.type]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_here(name: str, size: str, device: torch.device) -> float:
    """The measurement of `peak`, made in a fresh process."""
    runner = Runner(name, size, device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        runner.seconds("train")
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    held = high_water()
    runner.seconds("train")
    return round(high_water() - held, 1)


def high_water() -> float:
    """The most memory that this process has held so far, in MiB (Linux only)."""
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
    parser = records.arguments(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE",
                        help="of " + ", ".join(SIZES))  # fmt: skip
    parser.add_argument("--seconds", type=float, default=10, metavar="S",
                        help="timed for each size, training and inference each (10)")  # fmt: skip
    others = [name for name in PEERS if name != "ours"]
    parser.add_argument("--only", action="append", choices=others, metavar="NAME",
                        help="beside ours; may be repeated: " + "; ".join(others))  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="torch.compile of ours as well")
    parser.add_argument("--again", action="store_true", help="replace the record")
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
    wanted = [name for name in PEERS if name in ("ours", *(args.only or PEERS))]
    names = [name for name in wanted if name.startswith("ours") or installed(PEERS[name].package)]
    for name in set(wanted) - set(names):
        print(f"{name} is left out: it is not installed (pip install {name})", file=sys.stderr)
    what = {
        "peers": {PEERS[n].package: version(PEERS[n].package) for n in names},
        "models": {n: PEERS[n].note for n in names},
        "precision": "CPU: float32; CUDA: bfloat16 (autocast)",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "seconds": args.seconds,
    }
    try:
        record = records.start(args.out, what, anew=args.again)
    except ValueError as error:
        print(f"{records.program()}: error: {error}, or --again", file=sys.stderr)
        return 2
    made = {(run["device"], run["size"], run["model"]) for run in record["runs"]}
    for device in devices:
        for size in args.sizes:
            rows = []
            if (device.type, size, "ours") not in made:
                rows += measure(size, names, device, args.seconds)
            if args.compile and (device.type, size, "ours, compiled") not in made:
                rows.append(compiled(size, device, args.seconds))
            for row in rows:
                print(*(f"{key} {value}" for key, value in row.items()), sep=", ", flush=True)
            record["runs"] += rows
            records.keep(args.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
