"""What the README and the page "Measured" show is what happens, and what the records hold."""

import json
import re
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from vit_tutorial.lab.recipes import PRESETS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "book" / "measured.md").read_text(encoding="utf-8")
RECORDS = ROOT / "vit_tutorial" / "benchmarks" / "records"
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import measured  # noqa: E402


def runs(name):
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))["runs"]


def variants(name):
    return dict.fromkeys(run["variant"] for run in runs(name))


def shares(name, variant, key="test_accuracy"):
    return [100 * run[key] for run in runs(name) if run["variant"] == variant]


def told(found):
    """A mean in percent, and the lowest and the highest where there are several."""
    mean = f"{statistics.fmean(found):.2f} %"
    return mean if len(found) == 1 else f"{mean} ({min(found):.2f} to {max(found):.2f})"


def card(name):
    path = ROOT / "vit_tutorial" / "weights" / "pretrained" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page():
    return measured.render(PAGE)


def cells(page):
    """Every row of the page's tables, as its cells."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


# ---- the README


def test_the_example_prints_what_the_readme_says(real_data, capsys):
    code, output = re.search(r"```python\n(.+?)```\s+```text\n(.+?)```", README, re.DOTALL).groups()
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == output


def test_the_readme_is_short_and_its_paths_exist():
    assert len(README.splitlines()) <= 60
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)|(?:src|srcset)=\"([^\"]+)\"", README)
    for link in filter(None, sum(links, ())):
        assert (ROOT / link).exists(), link
    chapters = {path.name for path in ROOT.glob("book/[0-9][0-9]_*.ipynb")}
    assert chapters == set(re.findall(r"book/(\w+\.ipynb)", README))


def test_the_results_are_the_shipped_models():
    for name in ("mnist", "mnist-best", "fashion"):
        rows = [line for line in README.splitlines() if line.startswith("|")]
        row = next(line for line in rows if f'load_pretrained("{name}")' in line)
        assert f"{card(name)['parameters']:,}" in row
    assert f"{card('mnist')['test_accuracy']:.2%}".replace("%", " %") in README
    assert f"{card('mnist')['test_accuracy']:.2%} of {card('mnist')['test_images']:,}" in README


def test_the_preset_makes_the_shipped_clothes():
    assert card("fashion")["training"] == asdict(PRESETS["fashion"].training)


@pytest.mark.parametrize("record", measured.SMALL)
def test_the_small_models_are_the_record(record):
    for name in variants(record):
        row = next(line for line in README.splitlines() if f"--preset {name}`" in line)
        found = shares(record, name)
        size = next(run["parameters"] for run in runs(record) if run["variant"] == name)
        assert f"| {size:,} | {told(found)} | {len(found)} |" in row


def test_what_the_page_says_of_one_machine_holds_for_both_records():
    machines = {json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))["cpu"]
                for name in ("race", "photographs")}  # fmt: skip
    assert machines == {measured.values()["lean_machine"]}


def test_the_pages_photographs_are_the_record(page):
    for name in variants("photographs"):
        row = next(row for row in cells(page) if row[0] == name and len(row) == 6)
        found = shares("photographs", name)
        assert row[3:5] == [told(found), str(len(found))]


# ---- the page


def test_nothing_is_left_to_fill_in_and_what_is_unknown_is_named(page):
    assert "{{" in PAGE
    assert "{{" not in page
    assert "}}" not in page
    with pytest.raises(ValueError, match="raec"):
        measured.render("{{ raec }}")


def test_no_number_of_a_record_is_typed_into_the_page():
    typed = set(re.findall(r"\d+\.\d+", PAGE))
    assert typed <= {"98.94", "98.99", "99.3", "0.28", "0.001", "0.003"}  # from no record, or goals


def test_the_pages_small_models_are_the_record(page):
    for record in measured.SMALL:
        for name in variants(record):
            row = next(row for row in cells(page) if row[0] == f"`--preset {name}`")
            found = shares(record, name)
            assert row[2:4] == [told(found), str(len(found))]
    row = next(row for row in cells(page) if row[0] == '`load_pretrained("mnist")`')
    assert row[2] == f"{100 * card('mnist')['test_accuracy']:.2f} %"
    assert row[5] == f"{card('mnist')['parameters']:,}"
    fast = next(row for row in cells(page) if row[0] == "the fast recipe of the race below")
    assert fast[2] == told(shares("mnist", "the fast recipe"))


def test_the_fast_recipes_model_has_the_size_that_the_page_says(page):
    row = next(row for row in cells(page) if row[0] == "the fast recipe of the race below")
    D, mlp, P, L = 64, 128, 7, 3
    block = 4 * D + (3 * D * D + 3 * D) + (D * D + D) + (2 * D * mlp + mlp + D)
    embedding = (P * P * D + D) + D + (16 + 1) * D
    assert row[4:6] == [str(P), f"{embedding + L * block + 2 * D + 10 * D + 10:,}"]


def seconds_to(goal, times):
    """The mean over seeds; a dash where one of them did not get there."""
    found = [run[goal] for run in times]
    return f"{sum(found) / len(found):.0f} s" if None not in found else "–"


def test_the_race_is_the_record(page):
    means = {}
    for name in variants("mnist"):
        its = [run for run in runs("mnist") if run["variant"] == name]
        means[name] = sum(run["97 %"] for run in its) / len(its)
        times = [seconds_to(goal, its) for goal in ("97 %", "98 %", "99 %")]
        assert [name, *times, told(shares("mnist", name)), str(len(its))] in cells(page)
    for name in variants("race"):
        its = [run for run in runs("race") if run["variant"] == name]
        times = [seconds_to(goal, its) for goal in ("97 %", "98 %", "99 %")]
        assert [name, *times, told(shares("race", name)), str(len(its))] in cells(page)
    ratio = means["the plain recipe"] / means["the fast recipe"]
    assert f"takes {ratio:.1f} times as long" in page
    assert all(run["99.3 %"] is None for run in runs("mnist"))  # "no run of six epochs reached it"


@pytest.mark.parametrize("what", ["train, over ours", "infer, over ours"])
def test_the_speed_beside_others_is_the_record(page, what):
    for size in dict.fromkeys(run["size"] for run in runs("throughput")):
        others = {run["model"]: run for run in runs("throughput") if run["size"] == size}
        ratios = [f"{run[what]:.2f}" for name, run in others.items()
                  if name not in ("ours", "ours, compiled")]  # fmt: skip
        rows = [row for row in cells(page) if row[0] == f"({size})"]
        assert ratios in [row[1:] for row in rows]
        memory = [f"{run['step adds, MiB']:,.0f}" for run in others.values() if what in run
                  and "step adds, MiB" in run]  # fmt: skip
        assert memory in [row[1:] for row in rows]


def test_our_own_times_are_the_record(page):
    for run in runs("throughput"):
        if run["model"] == "ours":
            row = next(row for row in cells(page) if row[0].startswith(f"({run['size']}) "))
            times = [f"{run['train, ms']:.0f} ms", f"{run['infer, ms']:.0f} ms"]
            assert row[1:] == [f"{run['parameters']:,}", *times]


def test_the_compiled_steps_are_the_record(page):
    compiled = [run for run in runs("throughput") if run["model"] == "ours, compiled"]
    assert compiled
    for run in compiled:
        ratio, seconds = f"{run['train, over ours']:.2f}", f"{run['compiling, s']:.0f}"
        rows = [row for row in cells(page) if row[0] == f"({run['size']})"]
        assert [ratio, seconds] in [row[1:3] for row in rows]


def test_the_ablations_are_the_record(page):
    for name in variants("ablations"):
        both = [told(shares("ablations", name, f"{s}_accuracy")) for s in ("validation", "test")]
        assert [name, *both, str(len(shares("ablations", name)))] in cells(page)


def test_every_record_is_listed_with_a_benchmark_that_exists(page):
    for path in RECORDS.glob("*.json"):
        number, by = re.search(rf"- `{path.stem}` \((\d+) runs(?: by `(\w+)`)?,", page).groups()
        assert int(number) == len(runs(path.stem))
        assert (RECORDS.parent / f"{by or path.stem}.py").exists()
