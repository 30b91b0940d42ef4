"""How long does it take to import the model, beside the three libraries that it needs?

    python -m vit_tutorial.benchmarks.import_time [--repeats N]

Fresh processes take turns: one imports torch, einops and jaxtyping, the next VisionTransformer;
each reports the seconds of its import statement alone. The first turn fills the disk's cache and is
dropped. Medians and their ratio are recorded; the exit code is 1 if the ratio is above the goal. A
record is replaced, not extended: a ratio means something within one run.
"""

import statistics
import subprocess
import sys

from vit_tutorial.benchmarks import record as records

RECORD = records.FOLDER / "import_time.json"
GOAL = 1.2
WAYS = {
    "libraries": "import torch, einops, jaxtyping",
    "package": "from vit_tutorial import VisionTransformer",
}
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(statement: str) -> float:
    """How long an import statement takes in a fresh process."""
    command = [sys.executable, "-c", TIMED.format(statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(repeats: int) -> dict[str, float]:
    """Median seconds of both imports, the ratio of the medians, and its quartiles over turns."""
    turns = [{name: seconds(way) for name, way in WAYS.items()} for _ in range(repeats + 1)][1:]
    medians = {name: statistics.median(turn[name] for turn in turns) for name in WAYS}
    ratios = [turn["package"] / turn["libraries"] for turn in turns]
    low, _, high = statistics.quantiles([*ratios, *ratios] if len(ratios) < 2 else ratios, n=4)
    return {
        **{f"{name}, s": round(median, 3) for name, median in medians.items()},
        "package over libraries": round(medians["package"] / medians["libraries"], 3),
        "lower quartile": round(low, 3),
        "upper quartile": round(high, 3),
    }


def main() -> int:
    """Measure, print and record."""
    args = records.repeated(__doc__, RECORD, 9).parse_args()
    record = records.start(
        args.out, {"repeats": args.repeats, "imports": WAYS, "goal": GOAL}, anew=True
    )
    run = measure(args.repeats)
    record["runs"].append(run)
    records.keep(args.out, record)
    print(*(f"{name} {value}" for name, value in run.items()), sep="\n")
    return int(run["package over libraries"] > GOAL)


if __name__ == "__main__":
    sys.exit(main())
