"""Two equal ways to attend, in a whole training step: which is faster at which number of tokens?

    python benchmarks/attention_kernel.py

Times forward, backward and update of small models with the plain products and with PyTorch's
fused kernel, one after the other in one process, so that a busy machine slows both alike; medians
and their ratio are recorded. `vit_tutorial.attention.FUSED_FROM` follows from it.
"""

import argparse
import statistics
import sys
import time

import record as records
import torch

from vit_tutorial import attention
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import TrainConfig, parameter_groups, train_step

RECORD = records.ROOT / "benchmarks" / "records" / "attention_kernel.json"
WAYS = {"plain products": 10**9, "fused kernel": 0}  # the value of FUSED_FROM that picks each
SIZES = [  # image, P, L, D, MLP, h, B
    (28, 7, 4, 64, 128, 4, 128),
    (28, 4, 4, 64, 128, 4, 256),  # (a) of throughput.py
    (28, 4, 6, 64, 128, 4, 128),  # (b)
    (32, 4, 6, 64, 128, 4, 64),
    (48, 4, 4, 64, 128, 4, 32),
    (64, 4, 4, 64, 128, 4, 16),
    (224, 16, 4, 192, 768, 3, 8),
]


def measure(size: tuple[int, ...], repeats: int) -> dict[str, object]:
    """Median seconds of a step for each way at one size, and fused over plain."""
    image, P, L, D, mlp, h, B = size
    torch.manual_seed(0)
    config = ViTConfig(image, P, 1, 10, L, D, mlp, h)
    model = VisionTransformer(config)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), fused=True)
    batch = torch.randn(B, 1, image, image), torch.randint(10, (B,))
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for repeat in range(repeats + 2):
        for way, attention.FUSED_FROM in WAYS.items():
            start = time.perf_counter()
            train_step(model, optimizer, batch, 1e-3, TrainConfig())
            if repeat >= 2:  # the first two warm up
                seconds[way].append(time.perf_counter() - start)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    rows, cols = config.grid
    return {
        "tokens": rows * cols + 1, "head_size": D // h, "batch": B, "layers": L,
        **{f"{way}, ms": round(1000 * median, 2) for way, median in medians.items()},
        "fused over plain": round(medians["fused kernel"] / medians["plain products"], 3),
    }  # fmt: skip


def main() -> int:
    """Measure every size; print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="steps timed (15)")
    repeats = parser.parse_args().repeats
    RECORD.unlink(missing_ok=True)  # a ratio is only worth something within one run
    record = records.start(RECORD, {"repeats": repeats})
    for size in SIZES:
        run = measure(size, repeats)
        record["runs"].append(run)
        print(*(f"{name} {value}" for name, value in run.items()), sep=", ", flush=True)
        records.keep(RECORD, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
