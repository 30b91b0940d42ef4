"""One batch on one process, on two, and on two threads: how much faster is a step?

    python -m vit_tutorial.benchmarks.scaling

Two processes hold the same model, each takes half of the batch, and gloo averages their gradients
(DistributedDataParallel). The three ways take turns in one run, so that a busy machine slows all
alike; its load is recorded with the times: medians, the fastest, and those of one all-reduce of as
many gradients. A record is replaced, not extended: a ratio means something within one run.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from vit_tutorial.benchmarks import record as records
from vit_tutorial.model import VisionTransformer, ViTConfig

RECORD = records.FOLDER / "scaling.json"
SIZES = {"shipped": (6, 64, 128, 4), "larger": (6, 256, 1024, 8)}  # L, D, MLP, h; 50 tokens
BATCHES = (4, 32)
WAYS = {  # processes, and threads of each
    "1 process": (1, 1),
    "2 processes": (2, 1),
    "1 process, 2 threads": (1, 2),
}


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    """Forward, backward, update; in several processes the backward pass averages gradients."""
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def prepare(processes: int, config: ViTConfig, batch: int) -> Callable[[], None]:
    """One training step of this process, with its share of the batch."""
    torch.manual_seed(0)  # the same weights and the same batch everywhere
    model: nn.Module = VisionTransformer(config)
    images, labels = torch.randn(batch, 1, 28, 28), torch.randint(10, (batch,))
    if processes > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    share = slice(dist.get_rank() % processes, None, processes)
    return partial(step, model, optimizer, images[share], labels[share])


def seconds(work: Callable[[], Any] | None, threads: int) -> float:
    """How long until every process has done its part; None has nothing to do but to wait."""
    torch.set_num_threads(threads)
    dist.barrier()
    start = time.perf_counter()
    if work is not None:
        work()
    dist.barrier()
    return time.perf_counter() - start


def measure(size: str, batch: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of a step in each way, and of averaging as many gradients."""
    L, D, mlp, h = SIZES[size]
    load = round(os.getloadavg()[0], 1)  # of others, and of our own sizes before this one
    config = ViTConfig(28, 4, 1, 10, L, D, mlp, h)
    gradients = torch.zeros(sum(p.numel() for p in VisionTransformer(config).parameters()))
    works: dict[str, tuple[Callable[[], Any] | None, int]] = {
        name: (prepare(n, config, batch) if dist.get_rank() < n else None, threads)
        for name, (n, threads) in WAYS.items()
    }
    works["all-reduce"] = partial(dist.all_reduce, gradients), 1
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 2):
        for name, (work, threads) in works.items():
            taken = 1000 * seconds(work, threads)
            if repeat >= 2:  # the first two warm up
                times[name].append(taken)
    medians = {f"{n}, ms": round(statistics.median(t), 2) for n, t in times.items()}
    fastest = {f"{n}, fastest": round(min(t), 2) for n, t in times.items()}
    what = {"model": size, "parameters": len(gradients), "batch": batch}
    return {**what, "load": load, **medians, **fastest}


def run(rank: int, meeting: str, repeats: int, out: Path, record: dict[str, Any]) -> None:
    """Measure every size in one of two processes; the first prints and records."""
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    for size in SIZES:
        for batch in BATCHES:
            made = measure(size, batch, repeats)
            if rank == 0:
                record["runs"].append(made)
                print(*(f"{name} {value}" for name, value in made.items()), sep=", ", flush=True)
                records.keep(out, record)
    dist.destroy_process_group()


def main() -> int:
    """Start two processes that meet at a file of their own."""
    args = records.repeated(__doc__, RECORD, 9).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        record = records.start(args.out, {"repeats": args.repeats}, anew=True)
        spawn(run, (meeting, args.repeats, args.out, record), nprocs=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
