"""The benchmarks: their records come with the package, and what they measure is what they say."""

import json
import runpy
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vit_tutorial.attention import MultiHeadSelfAttention
from vit_tutorial.benchmarks import (
    ablations,
    attention_kernel,
    data_scaling,
    few_shot,
    gpu,
    growth,
    import_time,
    ladder,
    mnist,
    norm_placement,
    photographs,
    small_models,
    throughput,
    tokens_and_positions,
)
from vit_tutorial.benchmarks import record as records
from vit_tutorial.data import Data, Split, load
from vit_tutorial.lab.recipes import PRESETS, SMALL, model_config
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import TrainConfig, train
from vit_tutorial.weights.checkpoint import unpack
from vit_tutorial.weights.hub import from_checkpoint

NAMES = sorted(path.stem for path in Path(records.FOLDER.parent).glob("*.py"))
COMMANDS = [name for name in NAMES if name not in ("__init__", "record")]
CPU = torch.device("cpu")


def few(data: Data, M: int) -> Data:
    """The first M images of each split."""

    def first(split: Split) -> Split:
        return replace(split, images=split.images[:M], labels=split.labels[:M])

    return replace(data, train=first(data.train), val=first(data.val), test=first(data.test))


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits")


# ---- records


@pytest.mark.parametrize("name", [path.stem for path in records.FOLDER.glob("*.json")])
def test_a_record_says_how_it_was_made(name):
    record = records.read(name)
    assert record["runs"]
    assert {"command", "commit", "versions", "machine", "cpu", "threads", "date"} <= set(record)
    assert not any(str(Path.home()) in str(value) for value in record.values())


def test_an_unknown_record_is_named():
    with pytest.raises(ValueError, match=r"unknown record 'ablation'; did you mean 'ablations'"):
        records.read("ablation")


def test_code_outside_a_checkout_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "ROOT", tmp_path)
    assert records.commit() is None


@pytest.mark.parametrize("command", COMMANDS)
def test_every_benchmark_says_how_it_is_called(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{records.FOLDER.parent / command}.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert not stopped.value.code
    said = capsys.readouterr().out.split()
    assert said[:4] == ["usage:", "python", "-m", f"vit_tutorial.benchmarks.{command}"]


# ---- a study


def study(monkeypatch, out: Path, *words: str, run=None, **more) -> int:
    """A study of two variants, with three seeds."""
    made = run or (lambda variant, seed: {"score": variant + seed})
    monkeypatch.setattr(sys, "argv", ["/somewhere/else/trial.py", "--out", str(out), *words])
    monkeypatch.setattr(records, "machine", lambda device: {"versions": {}, "threads": 1} | MACHINE)
    variants = {"one": 1, "ten more": 10}
    return records.study("About.", out, variants, 2, lambda args: ({"data": "d"} | more, made))


MACHINE = {"machine": "m", "date": "today"}


def test_a_study_makes_every_variant_with_every_seed_and_then_nothing(monkeypatch, tmp_path):
    out = tmp_path / "trial.json"
    assert study(monkeypatch, out, "--seeds", "2") == 0
    record = json.loads(out.read_text())
    assert record["command"].startswith("python -m vit_tutorial.benchmarks.trial --out")
    found = [(run["variant"], run["seed"], run["epochs"], run["score"]) for run in record["runs"]]
    assert found == [
        ("one", 0, 2, 1),
        ("ten more", 0, 2, 10),
        ("one", 1, 2, 2),
        ("ten more", 1, 2, 11),
    ]

    def never(variant, seed):
        raise AssertionError("this run is in the record")

    assert study(monkeypatch, out, "--seeds", "2", run=never) == 0
    assert json.loads(out.read_text()) == record


def test_a_study_that_was_stopped_keeps_its_runs_and_goes_on(monkeypatch, tmp_path):
    out = tmp_path / "trial.json"

    def stopped(variant, seed):
        if variant == 10:
            raise KeyboardInterrupt
        return {"score": variant}

    assert study(monkeypatch, out, run=stopped) == 130
    assert len(json.loads(out.read_text())["runs"]) == 1
    assert study(monkeypatch, out, "--only", "ten more") == 0
    assert [run["variant"] for run in json.loads(out.read_text())["runs"]] == [
        "one",
        *3 * ["ten more"],
    ]


def test_a_study_refuses_what_cannot_be_compared(monkeypatch, tmp_path, capsys):
    out = tmp_path / "trial.json"
    assert study(monkeypatch, out) == 0
    assert study(monkeypatch, out, data="other") == 2
    assert "was made with data d, now it is other" in capsys.readouterr().err
    monkeypatch.setitem(MACHINE, "machine", "faster")
    assert study(monkeypatch, out) == 2
    assert "was made with machine m, now it is faster" in capsys.readouterr().err


def test_a_number_below_one_is_refused(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        study(monkeypatch, tmp_path / "trial.json", "--seeds", "0")
    assert "must be at least 1, got 0" in capsys.readouterr().err


# ---- what the studies train


@pytest.mark.long
def test_the_ablations_loop_with_nothing_changed_is_the_lessons(digits):
    torch.manual_seed(3)
    model = VisionTransformer(model_config(digits, PRESETS["digits"].model))
    config = TrainConfig(epochs=1, batch_size=64)
    (epoch,) = train(model, digits, config, torch.Generator().manual_seed(3))
    made = ablations.run(ablations.VARIANTS["the recipe"], digits, "digits", 1, seed=3)
    assert made["validation_accuracy"] == epoch.val_accuracy
    assert made["finite"]


@pytest.mark.long
@pytest.mark.parametrize("name", [n for n in ablations.VARIANTS if n != "the recipe"])
def test_every_ablation_runs(digits, name):
    made = ablations.run(ablations.VARIANTS[name], few(digits, 64), "digits", 1, seed=0)
    assert 0 <= made["test_accuracy"] <= 1


def test_both_networks_of_data_scaling_have_as_many_parameters_within_one_per_cent(digits):
    counts = [data_scaling.count(data_scaling.build(n, "mnist", digits)) for n in ("ViT", "CNN")]
    assert abs(counts[1] / counts[0] - 1) < 0.01


def test_a_share_of_the_data_is_seen_in_as_many_steps(digits):
    part = data_scaling.part(digits.train, 10, seed=0)
    assert len(part) == len(digits.train)
    assert len(part.images.flatten(1).unique(dim=0)) <= len(digits.train) // 10


@pytest.mark.parametrize("name", ["ViT, 10 %", "CNN, 1 %, no augmentation"])
def test_data_scaling_runs(digits, name):
    variant = data_scaling.VARIANTS[name]
    made = data_scaling.run(variant, "mnist", few(digits, 256), 1, seed=0)
    assert made["images"] == 256 * variant.share // 100
    assert made["flops"] > 4e6


@pytest.mark.long
def test_few_shot_learns_from_so_many_images_of_each_class(digits, monkeypatch):
    monkeypatch.setattr(few_shot, "STEPS", 2)
    study = few_shot.Study(digits, epochs=1)
    for method in few_shot.METHODS:
        made = study.run(few_shot.Variant(method, 1), seed=0)
        assert 0 <= made["test_accuracy"] <= 1


@pytest.mark.long
@pytest.mark.parametrize("name", tokens_and_positions.VARIANTS)
def test_every_choice_of_tokens_and_positions_runs(digits, name):
    variant = tokens_and_positions.VARIANTS[name]
    made = tokens_and_positions.run(variant, few(digits, 128), "mnist", 1, seed=0)
    assert made["parameters"] > 130_000


def test_the_ladders_record_is_of_the_models_that_the_code_makes_now():
    runs = records.read("ladder")["runs"]
    for name, rung in ladder.VARIANTS.items():
        made = {(run["chapter"], run["parameters"]) for run in runs if run["variant"] == name}
        assert made == {(rung.chapter, sum(p.numel() for p in rung.make().parameters()))}, name


def test_some_rungs_of_the_ladder_cannot_see_what_the_chapter_says(digits):
    images = digits.train.images[:20] / 255
    blind = ladder.VARIANTS["class token alone"].make()
    torch.testing.assert_close(blind(images), blind(images[:1]).expand(20, -1), rtol=0, atol=0)
    placed, bag = (
        ladder.VARIANTS[n].make() for n in ("positions, mean", "patches, projection, mean")
    )
    bag[0].load_state_dict(placed[0].patches.state_dict())
    bag[2].load_state_dict(placed[2].state_dict())
    shift = placed[0].positions.mean(dim=1) @ placed[2].weight.T
    torch.testing.assert_close(placed(images), bag(images) + shift)


def test_gradients_of_both_orders_of_norms_are_recorded(digits, monkeypatch):
    monkeypatch.setattr(norm_placement, "STEPS", 1)
    for order in ("pre-norm", "post-norm"):
        made = norm_placement.run(norm_placement.Variant(order, 3, 1e-3), digits.train, seed=0)
        assert len(made["gradient_norms"]) == 3
        assert all(norm > 0 for norm in made["gradient_norms"])


@pytest.mark.long
@pytest.mark.parametrize(
    "race",
    ["the fast recipe", "few tokens first", "large patches first", "four patches, hard images"],
)
def test_a_race_looks_at_the_test_images_and_says_when_a_goal_was_reached(
    digits, monkeypatch, race
):
    monkeypatch.setattr(mnist, "FAST", replace(mnist.FAST, epochs=1, batch_size=32))
    monkeypatch.setattr(mnist, "LEAN", replace(mnist.LEAN, epochs=1, batch_size=32))
    monkeypatch.setattr(mnist, "GOALS", (0.0, 0.999))
    run = mnist.VARIANTS[race]
    if race == "the fast recipe":
        run = mnist.partial(mnist.by_the_package, mnist.FAST)
    made = run(few(digits, 128), 0, None)
    assert len(made["looks"]) % mnist.LOOKS == 0
    assert made["0 %"] == made["looks"][0][0]
    assert made["99.9 %"] is None


def test_a_pass_holds_every_hard_image_and_a_share_of_the_known():
    losses = torch.cat([torch.zeros(3000), torch.ones(1000)])
    rows = mnist.rows_of_pass(losses, 0.2, torch.Generator().manual_seed(0))
    hard = rows[rows >= 3000]
    assert sorted(hard.tolist()) == [*range(3000, 4000)]
    assert len(rows.unique()) == len(rows)
    assert 500 < len(rows) - len(hard) < 700
    assert rows.tolist() != sorted(rows.tolist())
    first = mnist.rows_of_pass(torch.full((100,), torch.inf), 0.0, torch.Generator())
    assert len(first) == 100  # nothing is known yet


def test_photographs_train_both_networks_on_one_split(tmp_path):
    for name in "abc":
        (tmp_path / "trashnet" / name).mkdir(parents=True)
        for i in range(10):
            pixels = np.random.default_rng(ord(name) * i).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "trashnet" / name / f"{i}.png")
    vit, cnn = (
        photographs.run(replace(recipe, epochs=1, batch_size=8), 100, 0, tmp_path)
        for recipe in (photographs.VIT, photographs.CNN)
    )
    recipe, share = photographs.VARIANTS["CNN, 30 %"]
    few = photographs.run(replace(recipe, epochs=1, batch_size=8), share, 0, tmp_path)
    assert few["images"] == cnn["images"] * 30 // 100
    assert few["test_images"] == cnn["test_images"]
    assert (vit["images"], vit["test_images"]) == (cnn["images"], cnn["test_images"])
    assert vit["most_frequent_class"] == pytest.approx(1 / 3, abs=1e-4)
    assert abs(cnn["parameters"] / vit["parameters"] - 1) < 0.01


def test_what_needs_a_gpu_is_recorded_step_by_step_and_a_failure_stops_nothing(
    tmp_path, monkeypatch, capsys
):
    def broken(args, folder):
        raise gpu.Failed("exit code 1: no room")

    steps = {"broken": broken, "same logits": gpu.same_logits}
    monkeypatch.setattr(gpu, "STEPS", steps)
    monkeypatch.setattr(
        gpu,
        "variant",
        lambda name: ViTConfig(224, 56, layers=1, hidden_size=8, heads=2, mlp_size=8),
    )
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--out", str(tmp_path / "r")])
    assert gpu.main() == 1
    first, second = json.loads((tmp_path / "r").read_text())["runs"]
    assert (first["passed"], first["error"]) == (False, "exit code 1: no room")
    assert second["passed"]
    assert second["float32_gap"] == 0 < second["bf16_gap"]
    assert "no room" in capsys.readouterr().out
    with pytest.raises(gpu.Failed, match="the 8 minutes were over"):
        gpu.call(["0", "--bind", "127.0.0.1"], 0.0, "http.server")  # would go on for ever
    if not torch.cuda.is_available():
        monkeypatch.setattr(sys, "argv", ["gpu.py"])
        with pytest.raises(SystemExit) as stopped:
            gpu.main()
        assert stopped.value.code == 2
        assert "no CUDA device" in capsys.readouterr().err


def test_the_best_small_models_refuse_runs_of_another_recipe(tmp_path, monkeypatch):
    recipe = small_models.recipe("digits") | {"epochs": 3}
    out = tmp_path / "record.json"
    out.write_text(json.dumps({"runs": [{"variant": "digits", "recipe": recipe}]}))
    monkeypatch.setattr(sys, "argv", ["small_models.py", "--out", str(out), "--only", "digits"])
    args = records.options("", small_models.VARIANTS, None, ("mnist",), 5).parse_args()
    with pytest.raises(ValueError, match=r"runs of digits with epochs 3 \(now 80\): move"):
        small_models.prepare(args)
    assert small_models.recipe("digits") == SMALL | asdict(PRESETS["digits"].training)


# ---- speeds


@pytest.mark.parametrize("way", attention_kernel.WAYS.values())
def test_both_ways_to_attend_are_the_packages(way):
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    known, made = MultiHeadSelfAttention(8, 2).double(), way(8, 2).double()
    made.load_state_dict(known.state_dict())
    torch.testing.assert_close(made(x), known(x))


def test_the_two_models_of_the_kernels_share_their_weights():
    config = ViTConfig(8, 4, 1, 3, 2, 16, 32, 2)
    one, two = (attention_kernel.build(config, way) for way in attention_kernel.WAYS.values())
    torch.testing.assert_close(one.state_dict(), two.state_dict())
    made = attention_kernel.measure((8, 4, 2, 16, 32, 2, 4), repeats=1)
    assert made["tokens"] == 5
    assert made["fused over plain"] > 0


def throughput_of(monkeypatch, out: Path, *words: str) -> int:
    tiny = ViTConfig(8, 4, 1, 3, 1, 16, 32, 2), 2
    monkeypatch.setattr(throughput, "SIZES", {"a": tiny, "b": tiny})
    monkeypatch.setattr(throughput, "peak", lambda name, size, device: 1.5)
    monkeypatch.setattr(throughput.torch.cuda, "is_available", lambda: False)
    argv = ["throughput.py", "--seconds", "0.01", "--out", str(out), *words]
    monkeypatch.setattr(sys, "argv", argv)
    return throughput.main()


def test_the_speeds_stand_over_those_of_the_plain_class(monkeypatch, tmp_path):
    out = tmp_path / "speeds.json"
    only = ["--only", "ours, shortcut", "--only", "torchvision"]
    assert throughput_of(monkeypatch, out, "--sizes", "a", *only) == 0
    first = json.loads(out.read_text())["runs"]
    assert [run["model"] for run in first] == ["ours", "ours, shortcut", "torchvision"]
    assert first[0]["train, over ours"] == first[0]["infer, over ours"] == 1
    assert len({run["parameters"] for run in first}) == 1
    assert throughput_of(monkeypatch, out, *only) == 0  # the other size is added
    runs = json.loads(out.read_text())["runs"]
    assert runs[:3] == first
    assert [run["size"] for run in runs] == 3 * ["a"] + 3 * ["b"]


def test_speeds_of_another_run_are_not_mixed_in(monkeypatch, tmp_path, capsys):
    out = tmp_path / "speeds.json"
    assert throughput_of(monkeypatch, out, "--only", "torchvision") == 0
    assert throughput_of(monkeypatch, out, "--only", "ours, shortcut") == 2
    assert "--again" in capsys.readouterr().err
    assert throughput_of(monkeypatch, out, "--only", "ours, shortcut", "--again") == 0
    assert {run["model"] for run in json.loads(out.read_text())["runs"]} == {
        "ours",
        "ours, shortcut",
    }


def test_the_peak_of_a_step_is_measured(monkeypatch):
    monkeypatch.setattr(throughput, "SIZES", {"a": (ViTConfig(8, 4, 1, 3, 1, 16, 32, 2), 2)})
    assert throughput.peak_here("ours", "a", CPU) >= 0


@pytest.mark.parametrize(("package", "code"), [(2.2, 0), (2.5, 1)])
def test_the_import_is_measured_against_the_libraries(monkeypatch, tmp_path, package, code):
    times = {"import torch, einops, jaxtyping": 2.0}
    times["from vit_tutorial import VisionTransformer"] = package
    monkeypatch.setattr(import_time, "seconds", times.get)
    out = tmp_path / "import.json"
    monkeypatch.setattr(sys, "argv", ["import_time.py", "--repeats", "1", "--out", str(out)])
    assert import_time.main() == code
    (run,) = json.loads(out.read_text())["runs"]
    assert run["package over libraries"] == package / 2


def test_an_import_takes_time():
    assert import_time.seconds("import json") > 0


# ---- growth


def test_growth_keeps_the_positions_of_its_steps_and_a_whole_model(monkeypatch, tmp_path, digits):
    tiny = ViTConfig(28, 14, 1, 10, 1, 8, 16, 2)
    monkeypatch.setattr(growth, "images", lambda name, root: few(digits, 128))
    monkeypatch.setattr(growth, "SHAPES", {"digits": ("", tiny, 2), "colour": ("", tiny, 2)})
    monkeypatch.setattr(growth, "KEPT", (0, 2))
    for name in ("POSITIONS", "COLOUR"):
        monkeypatch.setattr(growth, name, tmp_path / f"{name}.safetensors")
    assert growth.run("digits", 0, None)["steps"] == growth.run("colour", 0, None)["steps"] == 2
    tables, _ = unpack(growth.POSITIONS, growth.FORMAT)
    assert set(tables) == {"positions.0", "positions.2"}
    assert not torch.equal(tables["positions.0"], tables["positions.2"])
    model, preparation = from_checkpoint(growth.COLOUR)
    assert torch.equal(model.embedding.positions, tables["positions.2"])  # the same steps
    assert preparation.classes == tuple(digits.classes)


def test_what_growth_keeps_comes_with_the_package():
    tables, _ = unpack(growth.POSITIONS, growth.FORMAT)
    assert set(tables) == {f"positions.{step}" for step in growth.KEPT}
    model, _ = from_checkpoint(growth.COLOUR)
    assert model.config == growth.SHAPES["colour"][1]
    assert growth.POSITIONS.stat().st_size + growth.COLOUR.stat().st_size < 200_000
