"""The tables and numbers of the page "Measured", made from the records when the book is built.

The page names them: `{{ race }}` stands for the table of the race, `{{ race_ratio }}` for one
number. Records are read with `vit_tutorial.benchmarks.record.read`, cards of the shipped weights
with `pretrained_card`; nothing is measured here, and no number is typed.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

NAME = re.compile(r"\{\{ *(\w+) *\}\}")
DASH = "–"
SMALL = ("small_models", "fashion", "cifar10")  # records of models trained to their end
RECORDS = "vit_tutorial/*/*/*.json"  # records and the cards of the shipped weights


def render(page: str) -> str:
    """The page with every `{{ name }}` replaced. Raises ValueError for an unknown name."""
    known = values()
    missing = sorted(set(NAME.findall(page)) - set(known))
    if missing:
        raise ValueError(f"the page asks for {', '.join(missing)}; known: {', '.join(known)}")
    return NAME.sub(lambda found: known[found[1]], page)


def values() -> dict[str, str]:
    """Every table and number that the page may ask for."""
    from vit_tutorial.benchmarks import record

    speed = record.read("throughput")
    race_record = record.read("mnist")
    small = [run for name in SMALL for run in record.read(name)["runs"]]
    lean = record.read("race")
    return {
        "results": results(small, race_record),
        **race(race_record["runs"]),
        "lean_race": finishing_times(lean["runs"]),
        "lean_machine": lean["cpu"],
        "photographs": photographs(record.read("photographs")["runs"]),
        **speeds(speed),
        "machine": machine(speed),
        "ablations": ablations(record.read("ablations")["runs"]),
        "records": records(record.FOLDER),
    }


# ---- small pieces


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def by_variant(runs: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs of each variant, in the order of the record."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        found.setdefault(run["variant"], []).append(run)
    return found


def accuracy(shares: Sequence[float]) -> str:
    """A mean in percent, with the lowest and the highest of several."""
    mean, low, high = (100 * x for x in (sum(shares) / len(shares), min(shares), max(shares)))
    return f"{mean:.2f} %" + (f" ({low:.2f} to {high:.2f})" if len(shares) > 1 else "")


def span(numbers: Sequence[float], form: str = ",.0f") -> str:
    """From the lowest to the highest; one number where both read alike."""
    return " to ".join(dict.fromkeys(f"{x:{form}}" for x in (min(numbers), max(numbers))))


def duration(seconds: Sequence[float]) -> str:
    """Short times in seconds, long ones in minutes."""
    if max(seconds) < 300:
        return f"{span(seconds)} s"
    return f"{span([s / 60 for s in seconds])} minutes"


# ---- the tables


def results(small: list[dict[str, Any]], race_record: dict[str, Any]) -> str:
    """One row for each model that this project trained to its end, and its test accuracy."""
    from vit_tutorial.weights.checkpoint import pretrained_card

    rows = []
    for name, runs in by_variant(small).items():
        first = runs[0]
        rows.append((f"`--preset {name}`", first["data"], runs, first["recipe"]["patch_size"],
                     first["parameters"], first["epochs"], first["threads"]))  # fmt: skip
    card = pretrained_card("mnist")
    rows.append(('`load_pretrained("mnist")`', card["data"], [card], card["config"]["patch_size"],
                 card["parameters"], len(card["history"]), card["threads"]))  # fmt: skip
    fast = by_variant(race_record["runs"])["the fast recipe"]
    rows.append(("the fast recipe of the race below", race_record["data"], fast,
                 race_record["model"]["patch_size"], parameters(race_record["model"]),
                 race_record["recipe"]["epochs"], race_record["threads"]))  # fmt: skip
    return table(
        ("model", "data", "test accuracy", "n", "P", "parameters", "training"),
        [
            (name, data, accuracy([run["test_accuracy"] for run in runs]), len(runs), patch,
             f"{weights:,}", f"{epochs} epochs, {duration([run['seconds'] for run in runs])}, "
             f"{threads} thread{'s' * (threads > 1)}")
            for name, data, runs, patch, weights, epochs, threads in rows
        ],
    )  # fmt: skip


def parameters(model: dict[str, Any]) -> int:
    """How many numbers the race's model has: its record gives the shape."""
    import torch

    from vit_tutorial import VisionTransformer, ViTConfig

    with torch.device("meta"):
        built = VisionTransformer(ViTConfig(image_size=28, channels=1, classes=10, **model))
    return sum(p.numel() for p in built.parameters())


def photographs(runs: list[dict[str, Any]]) -> str:
    """A ViT and a CNN on a folder of photographs."""
    rows = []
    for name, its in by_variant(runs).items():
        shares = ([run[f"{part}_accuracy"] for run in its] for part in ("training", "test"))
        time = duration([run["seconds"] for run in its])
        rows.append((name, f"{its[0]['parameters']:,}", *map(accuracy, shares), len(its), time))
    return table(
        ("network", "parameters", "on training images", "on test images", "n", "time"), rows
    )


def finishing_times(runs: list[dict[str, Any]]) -> str:
    """Seconds of training until the goals of the race are reached."""
    goals = ("97 %", "98 %", "99 %")
    rows = []
    for name, its in by_variant(runs).items():
        times = [[run[goal] for run in its] for goal in goals]
        means = [DASH if None in t else f"{sum(t) / len(t):.0f} s" for t in times]
        rows.append((name, *means, accuracy([run["test_accuracy"] for run in its]), len(its)))
    return table(("recipe", *goals, "at the end", "n"), rows)


def race(runs: list[dict[str, Any]]) -> dict[str, str]:
    """The table of the race, and how the plain recipe compares."""
    variants = by_variant(runs)
    fast, plain = ([run["97 %"] for run in variants[name]]
                   for name in ("the fast recipe", "the plain recipe"))  # fmt: skip
    ratio = sum(plain) / len(plain) / (sum(fast) / len(fast))
    return {
        "race": finishing_times(runs),
        "race_ratio": f"{ratio:.1f}",
        "race_plain": span(plain),
        "race_fast": span(fast),
    }


def speeds(record: dict[str, Any]) -> dict[str, str]:
    """Training steps, inference and memory beside ours, size by size, and torch.compile."""
    from vit_tutorial.benchmarks.throughput import SIZES

    sizes: dict[str, dict[str, dict[str, Any]]] = {}
    for run in record["runs"]:
        sizes.setdefault(run["size"], {})[run["model"]] = run
    labels = {}
    for size in sizes:
        c, B = SIZES[size]
        shape = f"{c.image_size} pixels, P {c.patch_size}, D {c.hidden_size}, L {c.layers}"
        labels[size] = f"({size}) {shape}, batch {B}"
    names = list(dict.fromkeys(run["model"] for run in record["runs"] if "infer, ms" in run))
    others = names[1:]

    def compared(what: str, form: str, columns: list[str]) -> str:
        def cell(models: dict[str, dict[str, Any]], name: str) -> str:
            found = models.get(name, {}).get(what)
            return DASH if found is None else f"{found:{form}}"

        rows = [(f"({s})", *(cell(models, n) for n in columns)) for s, models in sizes.items()]
        return table(("size", *columns), rows)

    compiled = [(s, models["ours, compiled"]) for s, models in sizes.items()
                if "ours, compiled" in models]  # fmt: skip
    turns = [models["ours"]["train, turns"] for models in sizes.values()]
    return {
        "speed": compared("train, over ours", ".2f", others),
        "inference": compared("infer, over ours", ".2f", others),
        "memory": compared("step adds, MiB", ",.0f", names),
        "turns": span(turns),
        "ours_ms": table(
            ("size", "parameters", "training step", "inference"),
            [(labels[s], f"{m['ours']['parameters']:,}", f"{m['ours']['train, ms']:.0f} ms",
              f"{m['ours']['infer, ms']:.0f} ms") for s, m in sizes.items()],
        ),
        "speed_models": "\n".join(f"- {name}: {note}" for name, note in record["models"].items()),
        "compiled": table(
            ("size", "compiled step over plain", "seconds to compile", "steps to win them back"),
            [(f"({s})", f"{row['train, over ours']:.2f}", f"{row['compiling, s']:.0f}",
              f"{row['steps to win it back']:,}" if row["steps to win it back"] else DASH)
             for s, row in compiled],
        ),
    }  # fmt: skip


def machine(record: dict[str, Any]) -> str:
    """The machine of a record, in words."""
    libraries = {**record["versions"], **record.get("peers", {})}
    told = ", ".join(f"{name} {libraries[name]}" for name in libraries if name != "vit-tutorial")
    return f"{record['cpu']}, {record['gpu'] or 'no GPU'}; {told}"


def ablations(runs: list[dict[str, Any]]) -> str:
    """What each ingredient of a recipe is worth."""
    rows = []
    for name, its in by_variant(runs).items():
        shares = ([run[f"{split}_accuracy"] for run in its] for split in ("validation", "test"))
        rows.append((name, *map(accuracy, shares), len(its)))
    return table(("variant", "validation accuracy", "test accuracy", "n"), rows)


def records(folder: Path) -> str:
    """A list of the records, with the benchmark that makes each and what it measures."""
    lines = []
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        command = re.search(r"benchmarks[./](\w+)", found["command"])
        name = command[1] if command else path.stem
        by = "" if name == path.stem else f" by `{name}`"
        runs, threads = len(found["runs"]), found["threads"]
        told = f"{runs} runs{by}, begun {found['date']}, {threads} thread{'s' * (threads > 1)}"
        lines.append(f"- `{path.stem}` ({told}): {about(name)}")
    return "\n".join(lines)


def about(name: str) -> str:
    """The first line of a benchmark's docstring."""
    spec = importlib.util.find_spec(f"vit_tutorial.benchmarks.{name}")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no benchmark {name} for a record")
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0]
