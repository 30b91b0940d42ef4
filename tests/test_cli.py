"""The command line does what its help says, and a wrong word costs one clear line."""

import hashlib
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points, version

import numpy as np
import pytest
import torch
from PIL import Image

from vit_tutorial import __main__ as cli
from vit_tutorial import data, from_checkpoint, load_pretrained, train
from vit_tutorial.data import load
from vit_tutorial.lab.folders import load as load_any
from vit_tutorial.lab.recipes import PRESETS
from vit_tutorial.model import VARIANTS, VisionTransformer, ViTConfig, variant
from vit_tutorial.weights import checkpoint
from vit_tutorial.weights.preprocessing import Preprocessing, preprocessing

SMALL = ["--layers", "1", "--hidden-size", "16", "--mlp-size", "16", "--heads", "2"]
QUICK = ["train", "--data", "digits", "--epochs", "1", "--device", "cpu", *SMALL]
FILES = ["attention.png", "card.json", "curves.png", "metrics.jsonl", "model.safetensors"]
KEPT = [*FILES, "state.safetensors"]


def files(folder):
    return sorted(file.name for file in folder.iterdir())


def refused(capsys, *arguments):
    """What is said on standard error; exit code 2, one line, nothing else."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("vit-tutorial: error: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What `train` leaves, and what it says on the way."""
    out = tmp_path_factory.mktemp("runs") / "one"
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
        assert cli.main([*QUICK, "--epochs", "2", "--seed", "3", "--out", str(out)]) == 0
    return out, "\n".join(said)


@pytest.fixture
def digit(tmp_path):
    """A picture of a digit, light ink on dark paper, as in MNIST."""
    image = load("digits").test.images[0, 0]
    Image.fromarray(image.numpy()).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


# ---- help


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["predict"], ["info"]])
def test_help_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    for example in ("examples:", "vit-tutorial train ", "vit-tutorial predict seven.png"):
        assert example in said


def test_every_example_in_the_help_is_understood():
    lines = [line.split() for line in cli.EXAMPLES.splitlines()[1:]]
    assert len(lines) == 11
    for words in lines:
        assert words[0] in ("vit-tutorial", "torchrun")
        words = words[words.index("vit_tutorial") :] if words[0] == "torchrun" else words
        for explained in ("MNIST,", "the", "go"):
            words = words[: words.index(explained)] if explained in words else words
        assert callable(cli.parser().parse_args(words[1:]).run)


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("vit-tutorial 0.")


@pytest.mark.parametrize(
    "words",
    [
        [], ["trian"], ["train", "--epochs", "many"], ["train", "--epoch5", "1"], ["predict"],
        ["train", "--out", ""], ["train", "--out="], ["predict", ""], ["train", "--\x1b[31m"],
    ],
)  # fmt: skip
def test_words_that_make_no_command_end_with_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "error:" in said.splitlines()[-1]
    assert "\x1b" not in said


@pytest.mark.long
def test_the_installed_command_and_the_module_are_the_same():
    (script,) = entry_points(group="console_scripts", name="vit-tutorial")
    assert script.load() is cli.main
    command = [sys.executable, "-m", "vit_tutorial", "info", "Ti/17"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert run.stderr.startswith(
        "vit-tutorial: error: unknown variant 'Ti/17'; did you mean 'Ti/16'"
    )


# ---- train


def test_training_leaves_weights_card_history_curves_and_an_attention_picture(trained):
    out, said = trained
    assert files(out) == KEPT
    for name in FILES:
        assert str(out / name) in said
    for name in ("curves.png", "attention.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 100
            assert len(picture.convert("L").getcolors()) > 10  # something is drawn


def test_metrics_hold_one_line_per_epoch(trained):
    lines = [json.loads(line) for line in (trained[0] / "metrics.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == [1, 2]
    for line in lines:
        assert set(line) == {"number", "train_loss", "val_loss", "val_accuracy", "seconds"}
        assert 0 <= line["val_accuracy"] <= 1


def test_the_card_says_how_the_weights_came_about(trained):
    out, said = trained
    card = json.loads((out / "card.json").read_text())
    assert card["command"].startswith("vit-tutorial train --data digits --epochs 1 --device cpu")
    assert (card["seed"], card["data"], card["test_images"]) == (3, "digits", 360)
    assert card["config"]["hidden_size"] == 16
    assert card["training"]["epochs"] == 2
    assert card["history"][-1]["val_accuracy"] == card["validation_accuracy"]
    assert card["versions"]["torch"] == version("torch")
    assert f"{card['parameters']:,} parameters" in said
    assert f"test accuracy {card['test_accuracy']:.2%}" in said
    found = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    assert card["sha256"] == found


def test_the_weights_on_disk_have_the_accuracy_on_the_card(trained):
    card = json.loads((trained[0] / "card.json").read_text())
    model, more = checkpoint.load(trained[0] / "model.safetensors")
    data = load("digits", seed=3)
    assert train.evaluate(model, data.test).accuracy == card["test_accuracy"]
    assert train.evaluate(model, data.val).accuracy == card["validation_accuracy"]
    assert more["preprocessing"] == preprocessing(data)
    assert (more["epoch"], more["history"]) == (2, card["history"])


def test_the_same_command_gives_the_same_history(trained, tmp_path, capsys):
    torch.manual_seed(99)  # whatever was drawn before must not matter
    cli.main([*QUICK, "--epochs", "2", "--seed", "3", "--out", str(tmp_path / "again")])
    capsys.readouterr()
    histories = [
        json.loads((out / "card.json").read_text())["history"]
        for out in (trained[0], tmp_path / "again")
    ]
    for history in histories:
        for epoch in history:
            epoch.pop("seconds")
    assert histories[0] == histories[1]


def test_training_does_not_overwrite_a_model(trained, capsys):
    out = trained[0]
    before = (out / "model.safetensors").read_bytes()
    assert f"{out} already holds a model: give another --out, or --resume" in refused(
        capsys, *QUICK, "--out", out
    )
    assert (out / "model.safetensors").read_bytes() == before


def test_without_a_name_training_takes_the_default_data_and_a_folder_of_its_own(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--epochs", "1", *SMALL]) == 0
    assert files(tmp_path / "runs" / "digits-seed0") == KEPT
    assert "1318 images to train on, 119 to validate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--patch-size", "14"], {"patch_size": 14}),
        (["--dropout", "0.2"], {"dropout": 0.2}),
        (["--positions", "sincos", "--pool", "mean"], {"positions": "sincos", "pool": "mean"}),
        (["--preset", "mnist-p4", *SMALL], {"patch_size": 4, "layers": 1}),
    ],
)
def test_options_reach_the_model(options, expected):
    args = cli.parser().parse_args([*QUICK, *options])
    config, _ = cli.configure(args, load("digits"))
    for name, value in expected.items():
        assert getattr(config, name) == value


def test_options_reach_the_recipe_and_the_rest_is_the_presets():
    options = ["--learning-rate", "0.5", "--warmup", "0", "--augment", "0", "--batch-size", "9"]
    args = cli.parser().parse_args([*QUICK, *options])
    _, recipe = cli.configure(args, load("digits"))
    assert (recipe.learning_rate, recipe.warmup, recipe.augment) == (0.5, 0, 0)
    assert (recipe.batch_size, recipe.epochs) == (9, 1)
    assert recipe.weight_decay == PRESETS["digits"].training.weight_decay


def folder_of(tmp_path, size, mode="RGB"):
    for name, level in (("dark", 30), ("light", 220)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            colour = level + i if mode == "L" else (level, level, i)
            Image.new(mode, size, colour).save(tmp_path / "photos" / name / f"{i}.png")
    return f"folder:{tmp_path / 'photos'}"


@pytest.mark.parametrize(("size", "P"), [((16, 24), 1), ((64, 64), 8), ((7, 7), 7), ((30, 20), 1)])
def test_for_a_folder_the_patch_size_is_chosen_so_that_it_divides(tmp_path, size, P):
    args = cli.parser().parse_args(["train", "--data", folder_of(tmp_path, size)])
    config, _ = cli.configure(args, load_any(args.data))
    assert config.patch_size == P
    assert config.height_width == size[::-1]


def test_a_folder_of_photographs_is_trained_on_evaluated_and_asked(tmp_path, capsys):
    name, out = folder_of(tmp_path, (24, 16)), tmp_path / "out"
    recipe = ["--epochs", "1", "--batch-size", "4", "--patch-size", "8", "--image-size", "16"]
    assert cli.main(["train", "--data", name, *recipe, *SMALL, "--out", str(out)]) == 0
    assert "2 x 2 patches" in capsys.readouterr().out
    weights = ["--weights", str(out / "model.safetensors")]
    assert cli.main(["evaluate", *weights, "--data", name]) == 0
    assert "of 4 wrong" in capsys.readouterr().out
    picture = str(tmp_path / "photos" / "dark" / "0.png")
    assert cli.main(["predict", picture, *weights]) == 0
    assert {"dark", "light"} <= set(capsys.readouterr().out.split())


def test_a_folder_that_has_grown_is_tested_on_what_was_not_seen(tmp_path, capsys):
    name, out = folder_of(tmp_path, (8, 8)), tmp_path / "out"
    words = ["train", "--data", name, "--epochs", "1", "--patch-size", "8", *SMALL]
    assert cli.main([*words, "--out", str(out)]) == 0
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 255, 0)).save(tmp_path / "photos" / "dark" / f"new{i}.png")
    capsys.readouterr()
    weights = str(out / "model.safetensors")
    assert cli.main(["evaluate", "--data", name, "--weights", weights]) == 0
    said = capsys.readouterr()
    assert "seen in training, 2 in validation; 7 are left to test, 3 of them new" in said.err
    assert "of 7 wrong" in said.out


def test_photographs_get_a_size_a_model_and_a_recipe_of_their_own(tmp_path):
    args = cli.parser().parse_args(["train", "--data", folder_of(tmp_path, (90, 70))])
    _, model, data, recipe = cli.new_run(args)
    assert model.config.height_width == (64, 64)
    assert (model.config.patch_size, model.config.layers, data.test.images.shape[1]) == (8, 6, 3)
    assert (recipe.augmentation, recipe.optimizer, recipe.batch_size) == ("photo", "muon", 2)


def test_options_of_the_larger_runs_reach_the_recipe():
    words = "--optimizer muon --muon-rate 0.01 --average 0.9 --label-smoothing 0.1 --cutmix 1"
    words += " --drop-patches 0.5 --augmentation photo --precision bf16 --accumulate 2"
    _, recipe = cli.configure(cli.parser().parse_args([*QUICK, *words.split()]), load("digits"))
    assert (recipe.optimizer, recipe.muon_rate, recipe.average) == ("muon", 0.01, 0.9)
    assert (recipe.label_smoothing, recipe.cutmix, recipe.augmentation) == (0.1, 1, "photo")
    assert (recipe.precision, recipe.accumulate, recipe.drop_patches) == ("bf16", 2, 0.5)


# ---- evaluate and predict


def test_evaluation_prints_accuracy_and_loss_on_the_split_asked_for(trained, capsys):
    out = trained[0]
    data, model = load("digits", seed=3), checkpoint.load(out / "model.safetensors")[0]
    prepared = from_checkpoint(out / "model.safetensors")[1]
    for name in ("train", "val", "test"):
        words = ["evaluate", "--weights", out / "model.safetensors", "--data", "digits"]
        assert cli.main([*map(str, words), "--split", name]) == 0
        split = cli.replace(
            getattr(data, name), mean=torch.tensor(prepared.mean), std=torch.tensor(prepared.std)
        )
        loss, accuracy = train.evaluate(model, split)
        wrong = len(split) - round(accuracy * len(split))
        assert capsys.readouterr().out == (
            f"digits, {name}: accuracy {accuracy:.2%} ({wrong} of {len(split)} wrong), "
            f"loss {loss:.4f}\n"
        )


def test_evaluation_normalises_as_the_model_was_trained_not_as_the_data_say(capsys):
    assert cli.main(["evaluate", "--data", "digits"]) == 0  # the shipped model, MNIST's statistics
    said = capsys.readouterr().out
    model, prepared = from_checkpoint("mnist")
    split = load("digits").test
    split = cli.replace(split, mean=torch.tensor(prepared.mean), std=torch.tensor(prepared.std))
    assert f"accuracy {train.evaluate(model, split).accuracy:.2%} " in said


def test_prediction_prints_the_top_classes_with_their_probabilities(digit, capsys):
    model, prepared = from_checkpoint("mnist")
    shares = model(prepared(digit))[0].double().exp()
    shares = shares / shares.sum()
    order = sorted(range(10), key=lambda label: -shares[label])
    assert cli.main(["predict", str(digit), str(digit), "--top", "4"]) == 0
    line = ", ".join(f"{label} {shares[label]:.1%}" for label in order[:4])
    assert capsys.readouterr().out == f"{digit}: {line}\n" * 2


def test_there_are_no_more_classes_to_print_than_there_are(digit, capsys):
    assert cli.main(["predict", str(digit), "--top", "99"]) == 0
    assert capsys.readouterr().out.count("%") == 10


def test_dark_ink_on_light_paper_is_inverted_if_asked(digit, tmp_path, capsys):
    with Image.open(digit) as image:
        Image.eval(image, lambda level: 255 - level).save(tmp_path / "paper.png")
    cli.main(["predict", str(digit)])
    light = capsys.readouterr().out.split(": ")[1]
    cli.main(["predict", str(tmp_path / "paper.png"), "--invert"])
    assert capsys.readouterr().out.split(": ")[1] == light
    cli.main(["predict", str(tmp_path / "paper.png")])
    assert capsys.readouterr().out.split(": ")[1] != light


def test_a_light_border_is_noted_if_the_model_reads_light_ink(digit, tmp_path, capsys):
    with Image.open(digit) as image:
        Image.eval(image, lambda level: 255 - level).save(tmp_path / "paper.png")
        clear = Image.new("LA", image.size)
        clear.putalpha(image)
        clear.save(tmp_path / "clear.png")
    cli.main(["predict", str(digit)])
    answer = capsys.readouterr()
    assert answer.err == ""
    for name in ("paper.png", "clear.png"):
        assert cli.main(["predict", str(digit), str(tmp_path / name)]) == 0
        assert capsys.readouterr().err == (
            f"vit-tutorial: note: the border is light in (1) {tmp_path / name}: "
            "for dark ink on light paper give --invert\n"
        )
        assert cli.main(["predict", str(tmp_path / name), "--invert"]) == 0
        said = capsys.readouterr()
        assert (said.out.split(": ")[1], said.err) == (answer.out.split(": ")[1], "")


@pytest.mark.parametrize("mean", [(0.8,), (0.2, 0.2, 0.2)])
def test_a_light_border_is_usual_for_other_models(tmp_path, mean, capsys):
    model = VisionTransformer(ViTConfig(8, 4, len(mean), 2, 1, 16, 16, 2))
    prepared = Preprocessing((8, 8), mean, (0.5,) * len(mean), ("a", "b"))
    checkpoint.save(tmp_path / "model.safetensors", model, preprocessing=prepared)
    Image.new("L", (8, 8), 255).save(tmp_path / "paper.png")
    words = ["predict", tmp_path / "paper.png", "--weights", tmp_path / "model.safetensors"]
    assert cli.main([str(word) for word in words]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("part", [1, 3 * 28 * 28])
def test_many_images_go_through_the_model_in_parts(digit, tmp_path, monkeypatch, capsys, part):
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for i, path in enumerate(paths):
        Image.fromarray(load("digits").test.images[i, 0].numpy()).save(path)
    words = ["predict", *map(str, paths), "--maps", str(tmp_path / "maps.png")]
    assert cli.main(words) == 0
    together, drawn = capsys.readouterr().out, (tmp_path / "maps.png").read_bytes()
    sizes, forward = [], VisionTransformer.forward

    def counted(model, images):
        sizes.append(len(images))
        return forward(model, images)

    monkeypatch.setattr(VisionTransformer, "forward", counted)
    monkeypatch.setattr(cli, "PART", part)
    assert cli.main(words) == 0
    assert capsys.readouterr().out == together
    assert (tmp_path / "maps.png").read_bytes() == drawn
    assert sizes == [1] * 7 if part == 1 else [3, 3, 1]


def test_nothing_is_answered_if_one_of_many_images_cannot_be_read(digit, monkeypatch, capsys):
    monkeypatch.setattr(cli, "PART", 1)
    assert "cannot read the image nowhere.png" in refused(capsys, "predict", digit, "nowhere.png")
    assert cli.main(["predict", str(digit), "nowhere.png"]) == 2
    assert capsys.readouterr().out == ""


def test_maps_are_drawn_if_asked(digit, tmp_path, capsys):
    maps = tmp_path / "maps.png"
    assert cli.main(["predict", str(digit), str(digit), "--maps", str(maps)]) == 0
    assert f"what the class token reads: {maps}" in capsys.readouterr().out
    with Image.open(maps) as picture:
        assert picture.width > picture.height  # two images side by side
        assert len(picture.convert("L").getcolors()) > 10


def test_what_is_drawn_is_the_class_tokens_row_of_each_head_and_of_the_rollout():
    model, images = load_pretrained("mnist"), torch.rand(2, 1, 28, 28)
    maps, rollout = cli.read_maps(model, images)
    whole = model.attention_maps(images)
    torch.testing.assert_close(maps[1, 4, 3].flatten(), whole[1, 4, 3, 0, 1:])
    by_hand = torch.eye(50)
    for block in range(6):
        by_hand = (whole[1, block].mean(dim=0) + torch.eye(50)) / 2 @ by_hand
    torch.testing.assert_close(rollout[1].flatten(), by_hand[0, 1:])


def test_a_picture_takes_the_place_of_no_image_that_is_asked_about(digit, tmp_path, capsys):
    before = digit.read_bytes()
    (tmp_path / "link.png").symlink_to(digit)
    for name in (digit, tmp_path / "link.png"):
        assert "is one of the images" in refused(capsys, "predict", digit, "--maps", name)
    assert digit.read_bytes() == before


def test_a_picture_that_cannot_be_written_leaves_the_old_one(digit, tmp_path, monkeypatch, capsys):
    (tmp_path / "maps.png").write_bytes(b"old")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    said = refused(capsys, "predict", digit, "--maps", tmp_path / "maps.png")
    assert "No space left on device; the file is as it was before" in said
    assert files(tmp_path) == ["digit.png", "maps.png"]
    assert (tmp_path / "maps.png").read_bytes() == b"old"


@pytest.mark.long
def test_of_many_images_the_first_are_drawn_in_rows_and_it_is_said(
    digit, tmp_path, monkeypatch, capsys
):
    maps = tmp_path / "maps.png"
    for drawn, part, few in ((7, 3, " of the first 7 images"), (9, 2, "")):
        monkeypatch.setattr(cli, "DRAWN", drawn)
        monkeypatch.setattr(cli, "PART", part * 28 * 28)
        assert cli.main(["predict", *[str(digit)] * 9, "--maps", str(maps)]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[-1] == f"what the class token reads{few}: {maps}"
        assert len(said) == 10
        with Image.open(maps) as picture:
            assert picture.width > 2 * picture.height  # rows of four


def test_a_model_without_head_names_no_classes(digit, tmp_path, capsys):
    prepared = Preprocessing((8, 8), (0.5,), (0.5,), ())
    model = VisionTransformer(ViTConfig(8, 4, 1, 0, 1, 16, 16, 2))
    checkpoint.save(tmp_path / "x.safetensors", model, preprocessing=prepared)
    for words in (["predict", digit], ["evaluate", "--data", "digits"]):
        said = refused(capsys, *words, "--weights", tmp_path / "x.safetensors")
        assert "x.safetensors has no head" in said


# ---- info


@pytest.mark.parametrize("name", VARIANTS)
def test_info_says_the_shapes_and_parameters_of_a_variant(name, capsys):
    assert cli.main(["info", name]) == 0
    said = capsys.readouterr().out
    with torch.device("meta"):
        model = VisionTransformer(variant(name))
    rows = {line.split()[0]: line.split() for line in said.splitlines()[1:]}
    N, D = 224**2 // int(name[-2:]) ** 2, variant(name).hidden_size
    assert rows["image"][1:4] == ["3", "x", "224"]
    assert rows["patches"][1:4] == [str(N), "x", str(3 * int(name[-2:]) ** 2)]
    assert rows["tokens"][1:4] == [str(N + 1), "x", str(D)]
    assert rows["logits"][1] == "1000"
    total = sum(parameter.numel() for parameter in model.parameters())
    assert rows["parameters"][-1] == f"{total:,}"
    parts = [rows[part][-1] for part in ("tokens", str(variant(name).layers), "logits")]
    assert sum(int(part.replace(",", "")) for part in parts) == total


def test_info_takes_another_size_and_number_of_classes(capsys):
    assert cli.main(["info", "B/32", "--image-size", "384", "--classes", "10"]) == 0
    said = capsys.readouterr().out
    assert "144 x 3072" in said
    assert "145 x 768" in said
    assert "logits" in said


# ---- what a user can get wrong


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--data", "mnsit"], "unknown data set 'mnsit'; did you mean 'mnist'"),
        (["train", "--preset", "digit"], "unknown preset 'digit'; did you mean 'digits'"),
        (["train", "--data", "folder:nowhere"], "no such folder: nowhere"),
        (["train", "--data", "mnist"], "mnist is neither in"),
        (["train", "--preset", "mnist"], "mnist is neither in"),
        (["train", "--preset", "fashion"], "fashion_mnist is neither in"),
        ([*QUICK, "--patch-size", "5"], "patch_size 5 does not divide image_size 28 x 28"),
        ([*QUICK, "--heads", "3"], "3 heads do not divide hidden_size 16"),
        ([*QUICK, "--epochs", "0"], "epochs must be above 0, got 0"),
        ([*QUICK, "--pool", "max"], "unknown pool 'max'; did you mean 'mean'"),
        ([*QUICK, "--positions", "1d"], "unknown positions '1d'"),
        ([*QUICK, "--optimizer", "sgd"], "unknown optimizer 'sgd'; did you mean"),
        ([*QUICK, "--accumulate", "3"], "3 parts do not divide batch_size 64"),
        ([*QUICK, "--seed", "-1"], "--seed must lie in 0..9223372036854775807, got -1"),
        ([*QUICK, "--dropout", "1"], "dropout must lie in [0, 1), got 1.0"),
        ([*QUICK, "--augment", "1e30"], "augment must be at most 10, got 1e+30"),
        ([*QUICK, "--augment", "nan"], "augment must be a number, got nan"),
        ([*QUICK, "--weight-decay", "1e9"], "weight_decay times the learning rate must be below 1"),
        ([*QUICK, "--save-minutes", "nan"], "--save-minutes must be at least 0, got nan"),
        ([*QUICK, "--hidden-size", "1000000000"], "training would take more than"),
        ([*QUICK, "--layers", "1000000000"], "training would take more than"),
        ([*QUICK, "--image-size", "32"], "image_size=32 is for folders; digits"),
        ([*QUICK, "--device", "gpu"], "cannot use the device 'gpu'"),
        (["evaluate", "--weights", "nowhere.safetensors"], "no such checkpoint: nowhere"),
        (["evaluate", "--weights", "minst"], "unknown pretrained model 'minst'"),
        (["evaluate"], "mnist is neither in"),
        (["train", "--data", "."], "unknown data set '.'; for a folder give folder:."),
        (["export", "--onnx", "."], "--onnx .: it is a folder"),
        (["export", "--onnx", "no/x.onnx"], "--onnx no/x.onnx: no such folder: no"),
        (["predict", "nowhere.png"], "cannot read the image nowhere.png"),
        (["predict", "nowhere.png", "--top", "0"], "--top must be at least 1, got 0"),
        (["info", "B"], "unknown variant 'B'; did you mean"),
        (["info", "B/16", "--classes", "9" * 20], f"no tensor holds {'9' * 20} classes of images"),
        (
            ["info", "B/16", "--image-size", "1" + "0" * 20],
            "no tensor holds 1000 classes of images",
        ),
        (["info", "B/16", "--image-size", "100"], "patch_size 16 does not divide image_size 100"),
    ],
)
def test_wrong_input_costs_one_clear_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "DEBIAN", tmp_path / "nowhere")  # a machine may have the package
    assert message in refused(capsys, *words)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("classes", "more", "message"),
    [
        (["only"], [], "has one class, 'only': expected at least two"),
        (["a", "b"], ["--image-size", "40000"], "images of at most 67,108,864 pixels, got 40000 x"),
        (
            ["a", "b"],
            ["--image-size", "1000", "--patch-size", "1", "--layers", "999"],
            "would take more than",
        ),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(tmp_path, capsys, classes, more, message):
    for name in classes:
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (4, 4), i).save(tmp_path / "data" / name / f"{i}.png")
    words = ["train", "--data", f"folder:{tmp_path / 'data'}", "--out", tmp_path / "out"]
    assert message in refused(capsys, *words, *more)
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_none_is_named(tmp_path, capsys):
    (tmp_path / "notes.png").write_text("not a picture")
    assert "cannot read the image" in refused(capsys, "predict", tmp_path / "notes.png")


def test_weights_that_are_none_are_named(tmp_path, capsys):
    (tmp_path / "half.safetensors").write_bytes(b"half")
    weights = tmp_path / "half.safetensors"
    said = refused(capsys, "evaluate", "--weights", weights, "--data", "digits")
    assert f"cannot read {weights}: it is damaged, or holds no weights" in said


def test_classes_that_the_model_does_not_know_are_refused_whatever_the_size(tmp_path, capsys):
    name = folder_of(tmp_path, (16, 16), mode="L")
    said = refused(capsys, "evaluate", "--data", name)
    assert f"mnist knows the classes (10) 0, 1, 2, ..., {name} has (2) dark, light" in said


def test_a_model_without_numbers_for_an_answer_or_with_no_seed_is_refused(digit, tmp_path, capsys):
    model, prepared = cli.from_checkpoint("mnist")
    checkpoint.save(tmp_path / "odd.safetensors", model, preprocessing=prepared, seed="x")
    words = ["--weights", tmp_path / "odd.safetensors"]
    said = refused(capsys, "evaluate", "--data", "digits", *words)
    assert "odd.safetensors is 'x', expected 0 to 2**63 - 1" in said
    torch.nn.init.constant_(model.head.weight, 3e38)
    checkpoint.save(tmp_path / "odd.safetensors", model, preprocessing=prepared)
    for asked in (["predict", digit], ["evaluate", "--data", "digits"]):
        assert "odd.safetensors answers with NaN or inf" in refused(capsys, *asked, *words)


def test_a_batch_larger_than_the_data_is_refused(tmp_path, capsys):
    assert cli.main([*QUICK, "--batch-size", "2000", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()  # a progress bar comes before it
    assert said[-1] == "vit-tutorial: error: 1318 images do not fill a batch of 2000"


def test_maps_that_cannot_be_written_are_refused(digit, capsys):
    capsys.readouterr()
    assert cli.main(["predict", str(digit), "--maps", str(digit.parent / "no" / "maps.png")]) == 2
    assert "maps.png" in capsys.readouterr().err


# ---- what nobody foresaw, and what the terminal gets


def test_whatever_goes_wrong_is_one_line_and_with_debug_a_traceback(monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("no memory holds this\nframe #0: of many")

    monkeypatch.setattr(cli, "variant", fail)
    said = refused(capsys, "info", "B/16")
    assert "RuntimeError: no memory holds this (--debug shows where)" in said
    assert cli.main(["info", "B/16", "--debug"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_closed_error_stream_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["info", "Ti/17"]) == 2
    sys.stderr.close()
    assert capsys.readouterr().out == ""


def test_names_from_outside_do_not_reach_the_terminal_raw(tmp_path, capsys):
    evil = "red\x1b[31m\nvit-tutorial: all is well"
    model = VisionTransformer(ViTConfig(8, 4, 1, 2, 1, 16, 16, 2))
    prepared = Preprocessing((8, 8), (0.5,), (0.5,), (evil, "b"))
    checkpoint.save(tmp_path / "x.safetensors", model, preprocessing=prepared)
    Image.new("L", (8, 8)).save(tmp_path / f"{evil}.png")
    words = ["--weights", str(tmp_path / "x.safetensors")]
    assert cli.main(["predict", str(tmp_path / f"{evil}.png"), *words]) == 0
    said = capsys.readouterr().out
    assert said.count("red\\x1b[31m\\nvit-tutorial: all is well") == 2
    said += refused(capsys, "evaluate", "--data", "digits", *words)
    said += refused(capsys, "predict", tmp_path / f"{evil}.npz", *words)
    assert "\x1b" not in said
    assert said.count("\n") == 3


def test_evaluate_gives_the_figure_that_finetune_printed_and_both_see_what_predict_sees(
    tmp_path, monkeypatch, capsys
):
    """Wide colour photographs for a grey model that keeps the ratio and crops."""
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            noise = np.random.default_rng([i, ord(name)]).integers(0, 256, (20, 47, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / "photos" / name / f"{i}.png")
    model = VisionTransformer(ViTConfig(8, 4, 1, 3, 1, 16, 16, 2))
    prepared = Preprocessing((8, 8), (0.4,), (0.2,), ("x", "y", "z"), resize=10)
    checkpoint.save(tmp_path / "old.safetensors", model, preprocessing=prepared)
    data, out = ["--data", f"folder:{tmp_path / 'photos'}"], tmp_path / "out"
    old = ["--weights", str(tmp_path / "old.safetensors"), "--epochs", "1", "--device", "cpu"]
    assert cli.main(["finetune", *data, *old, "--out", str(out)]) == 0
    printed = capsys.readouterr().out.partition("test accuracy ")[2].split("%")[0]
    seen, evaluate = [], cli.evaluate
    monkeypatch.setattr(cli, "evaluate", lambda m, split: seen.append(split) or evaluate(m, split))
    assert cli.main(["evaluate", *data, "--weights", str(out)]) == 0
    assert f"accuracy {printed}% " in capsys.readouterr().out
    read = from_checkpoint(out)[1].bytes
    known = {read(path).numpy().tobytes() for path in tmp_path.glob("photos/*/*")}
    assert {image.numpy().tobytes() for image in seen[0].images} <= known
    data = load("digits")  # of another size: resized and cropped by the checkpoint's own steps
    split = prepared.split(data.test)
    picture = Image.fromarray(data.test.images[3, 0].numpy())
    assert torch.equal(split.images[3], prepared.bytes(picture))
    assert split.mean.item() == pytest.approx(0.4)


def test_ctrl_c_while_the_libraries_are_imported_is_one_line(tmp_path):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    command = [sys.executable, "-m", "vit_tutorial", "info", "B/16"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "vit-tutorial: stopped\n")
