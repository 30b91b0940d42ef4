"""What the README shows is what happens."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDS = ROOT / "benchmarks" / "records"


def test_the_example_prints_what_the_readme_says(real_data, capsys):
    code, output = re.search(r"```python\n(.+?)```\s+```text\n(.+?)```", README, re.DOTALL).groups()
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == output


def test_the_results_are_the_shipped_models():
    from vit_tutorial.checkpoint import pretrained_card

    card = pretrained_card("mnist")
    assert f"{card['parameters']:,}" in README
    assert f"{card['test_accuracy']:.2%}".replace("%", " %") in README


def seconds_to(goal, runs):
    """The mean over seeds; a dash where one of them did not get there."""
    times = [run[goal] for run in runs]
    return f"{sum(times) / len(times):.0f} s" if None not in times else "–"


def test_the_race_is_the_record():
    races = json.loads((RECORDS / "mnist.json").read_text(encoding="utf-8"))["runs"]
    means = {}
    for name in dict.fromkeys(run["variant"] for run in races):
        runs = [run for run in races if run["variant"] == name]
        means[name] = sum(run["97 %"] for run in runs) / len(runs)
        shares = [100 * run["test_accuracy"] for run in runs]
        told = [seconds_to(goal, runs) for goal in ("97 %", "98 %", "99 %")]
        low, high = min(shares), max(shares)
        told += [f"{sum(shares) / len(shares):.2f} % ({low:.2f} to {high:.2f})", str(len(runs))]
        assert f"| {name} | {' | '.join(told)} |" in README
    ratio = means["the plain recipe"] / means["the fast recipe"]
    assert f"takes {ratio:.1f} times as long" in README


def test_the_small_models_are_the_record():
    file = RECORDS / "small_models.json"
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    for name in dict.fromkeys(run["variant"] for run in runs):
        row = next(line for line in README.splitlines() if f"--preset {name}`" in line)
        shares = [100 * run["test_accuracy"] for run in runs if run["variant"] == name]
        mean, low, high = sum(shares) / len(shares), min(shares), max(shares)
        told = f"{mean:.2f} % ({low:.2f} to {high:.2f})" if len(shares) > 1 else f"{mean:.2f} %"
        assert f"| {told} | {len(shares)} |" in row


def test_the_speed_beside_others_is_the_record():
    runs = json.loads((RECORDS / "throughput.json").read_text(encoding="utf-8"))["runs"]
    for size in dict.fromkeys(run["size"] for run in runs):
        others = {run["model"]: run for run in runs if run["size"] == size}
        names = ("timm", "torchvision", "transformers", "vit-pytorch")
        told = [f"{others[name]['train, over ours']:.2f}" for name in names]
        assert f"({size}) | {' | '.join(told)} |" in README
    compiled = [run["train, over ours"] for run in runs if run["model"] == "ours, compiled"]
    *told, last = (f"{ratio:.2f}" for ratio in compiled)
    assert f"{', '.join(told)} and {last} of its time" in README
