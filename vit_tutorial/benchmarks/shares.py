"""What training one model takes of each process: alone, with a whole model each, with a share each.

    python -m vit_tutorial.benchmarks.shares [--repeats N]

The laboratory's training takes six steps: AdamW, float32, gloo between processes of one thread. In
each process the memory held after the last step and the most held on the way are counted, less
what was held after the same training of a tiny model, which brings the libraries in. glibc is told
to give back what is freed. Each way runs in fresh processes, in turns; given are the largest over
the processes, the median over the turns, and the median of the last four steps. Two processes share
a batch, so each has half of its images, but they are few: most of the memory is weights, gradients
and AdamW's two means. The record is replaced.
"""

import gc
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn

from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import Data, Split
from vit_tutorial.lab.loop import Step, Training
from vit_tutorial.lab.recipes import Recipe
from vit_tutorial.model import VisionTransformer, ViTConfig

RECORD = records.FOLDER / "shares.json"
CONFIG = ViTConfig(32, 8, 3, 10, 12, 512, 2048, 8)  # 17 tokens; 38 million weights
TINY = replace(CONFIG, layers=1, hidden_size=8, mlp_size=8)
WAYS = {"alone": (1, None), "ddp": (2, None), "fsdp": (2, torch.device("cpu"))}
STEPS, BATCH = 6, 4


def held(which: str) -> float:
    """MiB of memory that this process holds ("VmRSS"), or held at most ("VmHWM"); Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(which))


def noise(M: int) -> Split:
    """Random images with random labels."""
    dice = torch.Generator().manual_seed(0)
    C, (H, W) = CONFIG.channels, CONFIG.height_width
    images = torch.randint(256, (M, C, H, W), dtype=torch.uint8, generator=dice)
    labels = torch.randint(CONFIG.classes, (M,), generator=dice)
    return Split(images, labels, torch.full((C,), 0.5), torch.full((C,), 0.5))


def run(rank: int, meeting: str, way: str, out: str) -> None:
    """Train in one of the processes; write what it held and how long a step took."""
    processes, shards = WAYS[way]
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    classes = [str(k) for k in range(CONFIG.classes)]
    data = Data("noise", noise(STEPS * BATCH), noise(BATCH), noise(BATCH), classes)
    recipe, found, ends = Recipe(epochs=1, batch_size=BATCH, augment=0.0), [], []

    def on_step(step: Step) -> None:
        ends.append(time.perf_counter())
        if step.number == STEPS:
            gc.collect()
            found.append(held("VmRSS"))

    for config in (TINY, CONFIG):
        ends.clear()
        dice = torch.Generator().manual_seed(0)
        training = Training(VisionTransformer(config), data, recipe, dice, shards=shards)
        list(training.epochs(on_step))
    before, after = found
    seconds = statistics.median(b - a for a, b in pairwise(ends[1:]))
    mine = torch.tensor([after - before, held("VmHWM") - before, 1000 * seconds])
    if processes > 1:
        dist.all_reduce(mine, dist.ReduceOp.MAX)
        dist.destroy_process_group()
    if rank == 0:
        torch.save(mine, out)


def once(way: str) -> torch.Tensor:
    """One turn of one way: memory held, most memory held, ms a step."""
    with tempfile.TemporaryDirectory() as folder:
        out, meeting = Path(folder, "out"), Path(folder, "meeting").as_uri()
        spawn(run, (meeting, way, str(out)), nprocs=WAYS[way][0])
        return torch.load(out, weights_only=True)


def main() -> int:
    """Take turns, print and record."""
    args = records.repeated(__doc__ or "", RECORD, 3).parse_args()
    os.environ |= {f"MALLOC_{kind}_THRESHOLD_": "262144" for kind in ("MMAP", "TRIM")}  # bytes
    parameters = sum(p.numel() for p in VisionTransformer(CONFIG).parameters())
    what: dict[str, Any] = {"repeats": args.repeats, "parameters": parameters, "batch": BATCH}
    record = records.start(args.out, what, anew=True)
    load = round(os.getloadavg()[0], 1)
    turns = [{way: once(way) for way in WAYS} for _ in range(args.repeats)]
    for way, (processes, _) in WAYS.items():
        median = torch.stack([turn[way] for turn in turns]).median(dim=0).values.tolist()
        names = ("held, MiB", "most held, MiB", "step, ms")
        figures = {name: round(x, 1) for name, x in zip(names, median, strict=True)}
        weighs = round(figures["held, MiB"] * 2**20 / parameters, 1)
        row = {"way": way, "processes": processes, **figures, "bytes a weight": weighs}
        record["runs"].append(row | {"load": load})
        print(*(f"{name} {value}" for name, value in row.items()), sep=", ")
    records.keep(args.out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
