"""`vit-tutorial finetune` on a folder of images, and the report that it leaves."""

import json
import os
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from vit_tutorial import __main__ as cli
from vit_tutorial import from_checkpoint, train
from vit_tutorial.data import Data, Split
from vit_tutorial.figures.report import draw_errors
from vit_tutorial.lab import report as reports
from vit_tutorial.lab import run as runs
from vit_tutorial.lab.report import confusion, headline, html_report, wilson
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.weights import checkpoint
from vit_tutorial.weights.preprocessing import Preprocessing

FILES = ["card.json", "metrics.jsonl", "model.safetensors", "report.html"]
KEPT = [*FILES, "state.safetensors"]
ODD = '<b>$a_$ & "b"'
COLOURS = {ODD: (200, 60, 60), "green": (60, 200, 60), "zebra": (60, 60, 200)}


def pretrained(path, **changes):
    """A small model on disk, as if trained on other images."""
    torch.manual_seed(0)
    shape = dict(image_size=8, patch_size=4, channels=3, classes=2, layers=2, hidden_size=16)
    config = ViTConfig(**{**shape, **dict(mlp_size=16, heads=2), **changes})
    C = config.channels
    prepared = Preprocessing(config.height_width, (0.4,) * C, (0.2,) * C, ("x", "y"))
    checkpoint.save(path, VisionTransformer(config), preprocessing=prepared, seed=0)
    return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of noisy colours, twelve images each, of several sizes."""
    folder, dice = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(12):
            noise = dice.integers(-50, 50, (10 + i, 14, 3))
            picture = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """What one command leaves: folder, weights it started from, and what it said."""
    home = tmp_path_factory.mktemp("home")
    weights, out, said = pretrained(home / "old.safetensors"), home / "out", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, sep=" ", **_: said.append(sep.join(words)))
        words = ["finetune", "--data", f"folder:{photos}", "--weights", weights, "--epochs", "4"]
        assert cli.main([*words, "--device", "cpu", "--seed", "2", "--out", str(out)]) == 0
    return out, weights, "\n".join(said)


def finetune(photos, weights, out, *more):
    words = ["finetune", "--data", f"folder:{photos}", "--weights", weights, "--epochs", "1"]
    return cli.main([*words, "--device", "cpu", "--out", str(out), *more])


class Page(HTMLParser):
    """The words, pictures and addresses of a page; every tag must be closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.images, self.sources = [], "", [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.sources += [attributes[n] for n in ("src", "srcset", "href") if n in attributes]
        if tag == "img":
            self.images.append(attributes)
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += " ".join(data.split()) + " "


# ---- the command


def test_finetuning_leaves_weights_card_history_and_report(run):
    out, weights, said = run
    assert sorted(path.name for path in out.iterdir()) == KEPT
    assert all(str(out / name) in said for name in FILES)
    card = json.loads((out / "card.json").read_text())
    assert (card["weights"], card["seed"], card["test_images"]) == (weights, 2, 6)
    assert (card["config"]["classes"], card["training"]["layer_decay"]) == (3, 0.75)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 4
    right = round(6 * card["test_accuracy"])
    assert f"({right} of 6 right)" in said


def test_the_weights_on_disk_have_the_accuracy_on_the_card(run, photos):
    out, weights, _ = run
    model, prepared = from_checkpoint(out / "model.safetensors")
    assert prepared.classes == tuple(sorted(COLOURS))
    assert prepared.mean == pytest.approx((0.4,) * 3)  # the old model's, not the folder's
    arguments = ["finetune", "--data", f"folder:{photos}", "--weights", weights, "--seed", "2"]
    data = cli.finetune_run(cli.parser().parse_args(arguments)).data
    card = json.loads((out / "card.json").read_text())
    assert train.evaluate(model, data.test).accuracy == card["test_accuracy"]


def test_evaluation_gives_the_figure_that_finetuning_printed(run, photos, capsys):
    weights = str(run[0] / "model.safetensors")
    assert cli.main(["evaluate", "--data", f"folder:{photos}", "--weights", weights]) == 0
    card = json.loads((run[0] / "card.json").read_text())
    said = capsys.readouterr()
    assert f"accuracy {card['test_accuracy']:.2%} (" in said.out
    assert said.err == (
        f"{photos}: 27 images were seen in training, 3 in validation; 6 are left to test, 0 of "
        "them new since then\n"
    )


def test_the_new_weights_answer_with_the_folders_class_names(run, photos, capsys):
    picture = str(photos / "green" / "0.png")
    assert cli.main(["predict", picture, "--weights", str(run[0] / "model.safetensors")]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in COLOURS)


def test_the_same_seed_gives_the_same_history(run, photos, tmp_path):
    torch.manual_seed(99)  # whatever was drawn before must not matter
    assert finetune(photos, run[1], tmp_path / "a", "--seed", "2", "--epochs", "4") == 0
    lines = [(out / "metrics.jsonl").read_text() for out in (run[0], tmp_path / "a")]
    one, again = (re.sub(r'"seconds": [^}]*', "", text) for text in lines)
    assert one == again


@pytest.mark.long
def test_a_stopped_finetuning_goes_on_and_ends_with_the_same_figures(
    run, photos, tmp_path, monkeypatch
):
    class Stopping(runs.Training):
        def epochs(self, on_step):
            yield next(super().epochs(on_step))
            raise KeyboardInterrupt("after the first epoch")

    words = ["--seed", "2", "--epochs", "4", "--save-minutes", "0"]
    training = runs.Training
    monkeypatch.setattr(runs, "Training", Stopping)
    assert finetune(photos, run[1], tmp_path / "out", *words) == 130
    monkeypatch.setattr(runs, "Training", training)
    more = ["finetune", "--data", f"folder:{photos}", "--resume", "--out", str(tmp_path / "out")]
    assert cli.main(more) == 0
    lines = [(out / "metrics.jsonl").read_text() for out in (run[0], tmp_path / "out")]
    one, again = (re.sub(r'"seconds": [^}]*', "", text) for text in lines)
    assert one == again


def test_frozen_keeps_every_weight_but_the_heads(run, photos, tmp_path):
    assert finetune(photos, run[1], tmp_path / "out", "--frozen") == 0
    old, new = (checkpoint.load(p)[0] for p in (run[1], tmp_path / "out" / "model.safetensors"))
    for name, weight in new.state_dict().items():
        same = not name.startswith("head") and torch.equal(weight, old.state_dict()[name])
        assert same or name.startswith("head"), name
    assert new.head.weight.abs().max() > 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["trained_parameters"] == 3 * 16 + 3
    assert card["training"]["learning_rate"] == 0.01


def test_another_image_size_is_another_grid(run, photos, tmp_path):
    assert finetune(photos, run[1], tmp_path / "out", "--image-size", "12") == 0
    model, prepared = from_checkpoint(tmp_path / "out" / "model.safetensors")
    assert (model.config.grid, prepared.height_width) == ((3, 3), (12, 12))


@pytest.mark.parametrize("changes", [dict(channels=1), dict(pool="mean", positions="sincos")])
def test_grey_models_and_those_without_class_token_take_a_folder_of_photographs(
    photos, tmp_path, changes, capsys
):
    weights = pretrained(tmp_path / "old.safetensors", **changes)
    assert finetune(photos, weights, tmp_path / "out") == 0
    new = str(tmp_path / "out" / "model.safetensors")
    assert cli.main(["predict", str(photos / "green" / "0.png"), "--weights", new]) == 0
    assert "green" in capsys.readouterr().out


def test_a_data_set_with_a_size_of_its_own_is_brought_to_the_models(tmp_path, undrawn):
    weights = pretrained(tmp_path / "old.safetensors", layers=1)  # 8 x 8 pixels, in colour
    words = ["finetune", "--data", "digits", "--weights", weights, "--epochs", "1"]
    assert cli.main([*words, "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert (card["test_images"], card["training"]["batch_size"]) == (360, 128)


def test_a_folder_of_six_images_is_enough(tmp_path):
    for name in "ab":
        (tmp_path / "few" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (9, 9), 40 * i).save(tmp_path / "few" / name / f"{i}.png")
    weights = pretrained(tmp_path / "old.safetensors")
    assert finetune(tmp_path / "few", weights, tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == KEPT


def test_without_a_name_the_output_folder_is_called_after_the_images(
    run, photos, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["finetune", "--data", f"folder:{photos}", "--weights", run[1], "--epochs", "1"]
    assert cli.main([*words, "--seed", "4"]) == 0
    assert (tmp_path / "runs" / "finetune-photos-seed4" / "report.html").is_file()


@pytest.mark.parametrize("timm", [True, False])
def test_where_little_was_transferred_what_helps_more_is_offered(
    photos, tmp_path, monkeypatch, undrawn, capsys, timm
):
    monkeypatch.setattr(cli, "reachable", lambda: timm)
    monkeypatch.setattr(cli, "find_spec", lambda name: object())
    words = ["--learning-rate", "1e-9", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert cli.main(["finetune", "--data", f"folder:{photos}", "--epochs", "1", *words]) == 0
    said = capsys.readouterr()
    assert "always to answer '<b>$a_$ & \"b\"' would get 33.33% (2 of 6)" in said.out
    first, last = (line for line in said.err.splitlines() if "note" in line)
    assert "these weights know grey digits alone" in first
    assert "not surely better: what mnist knows helps little here" in last
    tuned = f"vit-tutorial finetune --data folder:{photos} --weights timm:vit_tiny_patch16_224"
    own = f"vit-tutorial train --data folder:{photos}"
    order = f"try {tuned}, or {own}" if timm else f"try {own}, or {tuned} (needs timm and a"
    assert order in first
    assert order in last


def test_names_of_any_kind_reach_the_report(tmp_path, undrawn, capsys):
    names = [os.fsdecode(b"caf\xe9"), "<b>x\n\x1b[31m", "\u732b", "y" * 200]
    for label, name in enumerate(names):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            file = tmp_path / "data" / name / (os.fsdecode(b"\xff") + f"{i}.png")
            Image.new("L", (9, 9), 40 * i + label).save(file)
    weights = pretrained(tmp_path / "old.safetensors", layers=1)
    assert finetune(tmp_path / "data", weights, tmp_path / "out") == 0
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    for seen in (r"caf\xe9", r"<b>x\n\x1b[31m", "\u732b", "y" * 200):
        assert page.words.count(f" {seen} ") >= 3  # a row, a column, the table
    picture = tmp_path / "data" / names[0] / (os.fsdecode(b"\xff") + "0.png")
    new = str(tmp_path / "out" / "model.safetensors")
    capsys.readouterr()
    assert cli.main(["predict", str(picture), "--weights", new]) == 0
    assert r"\xff0.png: " in capsys.readouterr().out


# ---- what a user can get wrong


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--image-size", "10"], "patch_size 4 does not divide image_size 10 x 10"),
        (["--image-size", "0"], "image_size must be at least 1, got 0"),
        (["--batch-size", "28"], "--batch-size 28 is more than the 27 images"),
        (["--batch-size", "0"], "batch_size must be above 0, got 0"),
        (["--epochs", "0"], "epochs must be above 0, got 0"),
        (["--layer-decay", "1.5"], "layer_decay must lie in (0, 1], got 1.5"),
        (["--learning-rate", "0"], "learning_rate must be above 0, got 0.0"),
        (["--seed", "-1"], "--seed must lie in 0.."),
        (["--device", "gpu"], "cannot use the device 'gpu'"),
        (["--weights", "nowhere.safetensors"], "no such checkpoint: nowhere"),
        (["--data", "folder:nowhere"], "no such folder: nowhere"),
        (["--data", "mnsit"], "unknown data set 'mnsit'"),
    ],
)
def test_wrong_input_costs_one_clear_line_and_leaves_nothing(
    run, photos, tmp_path, more, message, capsys
):
    assert finetune(photos, run[1], tmp_path / "out", *more) == 2
    said = capsys.readouterr().err
    assert said.startswith("vit-tutorial: error: ")
    assert message in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_one_class_is_nothing_to_tell_apart(run, tmp_path, capsys):
    (tmp_path / "photos" / "only").mkdir(parents=True)
    for i in range(9):
        Image.new("L", (8, 8), i).save(tmp_path / "photos" / "only" / f"{i}.png")
    assert finetune(tmp_path / "photos", run[1], tmp_path / "out") == 2
    assert "has one class, 'only': expected at least two" in capsys.readouterr().err


def test_a_model_is_not_overwritten(run, photos, capsys):
    before = (run[0] / "model.safetensors").read_bytes()
    assert finetune(photos, run[1], run[0]) == 2
    assert f"{run[0]} already holds a model: give another --out" in capsys.readouterr().err
    assert (run[0] / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("words", [[], ["--data", "digits", "--frozen", "--layer-decay", "0.5"]])
def test_no_data_and_a_decay_of_frozen_layers_are_refused(words, capsys):
    assert cli.main(["finetune", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vit-tutorial: error: --")


def test_every_example_in_the_help_is_understood():
    lines = [line.split() for line in cli.FINETUNE_EXAMPLES.splitlines() if "  vit-" in line]
    assert len(lines) == 3
    assert all(cli.parser().parse_args(words[1:]).run is cli.run_finetune for words in lines)


# ---- the report


def test_the_page_needs_no_other_file_and_describes_every_picture(run):
    text = (run[0] / "report.html").read_text()
    page = Page(text)
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?:|<script|@import|url\(", text)
    assert all(len(image["alt"]) > 20 for image in page.images)


def test_the_names_of_classes_are_words_not_html(run):
    text = (run[0] / "report.html").read_text()
    assert "<b>" not in text
    assert ODD in Page(text).words
    assert ODD in " ".join(image["alt"] for image in Page(text).images) + Page(text).words


def noise(labels, classes=3):
    pixels = torch.tensor([0.5] * 3)
    return Split(
        torch.randint(0, 256, (len(labels), 3, 8, 8)).byte(), torch.tensor(labels), pixels, pixels
    )


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes longer than all the rest: here pictures have words alone."""
    words = '<img src="data:image/png;base64," alt="{}">'
    monkeypatch.setattr(reports, "picture", lambda draw, w, h, alt: words.format(escape(alt)))


def page_of(predicted, labels, confidence=5.0, pool="token"):
    """The page for given predictions."""
    data = Data("noise", noise([0, 1, 1]), noise([0]), noise(labels), ["ape", "bee", "cow"])
    model = VisionTransformer(ViTConfig(8, 4, 3, 3, 1, 8, 8, 1, pool=pool)).eval()
    logits = confidence * torch.eye(3)[torch.tensor(predicted)]
    logits += torch.linspace(0, 0.5, len(labels))[:, None] * torch.eye(3)[torch.tensor(predicted)]
    epoch = dict(train_loss=1.0, val_loss=1.25, val_accuracy=0.5)
    history = [epoch, epoch | dict(train_loss=0.5, val_accuracy=0.75)]
    return Page(html_report(model, data, logits, history, {"Weights": "a < b"}))


def test_the_page_says_accuracy_baseline_and_every_class_with_its_numbers():
    page = page_of(predicted=[0, 0, 1, 1, 1, 0], labels=[0, 0, 1, 1, 1, 1])
    assert "83.3% of the test images are right (5 of 6; 95 % interval 43.6% to 97.0%" in page.words
    assert "Always to answer “bee”" in page.words
    assert "would get 66.7%" in page.words
    assert "ape 2 of 2 100.0% 34% to 100% bee 3 of 4 75.0% 30% to 95%" in page.words
    assert "cow 0 of 0 no images 0% to 100%" in page.words
    assert "Taken for ape (99.2%), is bee (0.4%)" in page.words
    assert "Weights a < b" in page.words
    alts = [image["alt"] for image in page.images]
    assert "Most often bee is taken for ape: 1 of 4 images." in alts[0]
    assert "validation accuracy from 50.0% to 75.0%" in alts[-1]


def test_the_worst_errors_are_those_of_which_the_model_was_surest(undrawn):
    page = page_of(predicted=[0] * 20, labels=[1, 2] * 10, confidence=1.0)
    shares = [float(x) for x in re.findall(r"ape \(([\d.]+)%\)", page.words)]
    assert "Shown: 12 of 20, the surest first." in page.words
    assert len(shares) == 12
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(100 * np.exp(1.5) / (np.exp(1.5) + 2), abs=0.06)


@pytest.mark.parametrize(
    ("pool", "reader"), [("token", "the class token reads"), ("mean", "all tokens read")]
)
def test_the_page_says_whose_attention_is_shown(pool, reader, undrawn):
    page = page_of(predicted=[0, 0], labels=[0, 1], pool=pool)
    assert f"what {reader} in the last block" in page.words
    assert page.images[1]["alt"] == f"An image of bee, and how much {reader} of its 4 patches."


def test_a_page_without_errors_says_so(undrawn):
    page = page_of(predicted=[0, 1, 2], labels=[0, 1, 2])
    assert "There is none: every test image is right." in page.words
    assert "There is no error." in page.images[0]["alt"]


def test_the_confusion_matrix_is_scikit_learns(monkeypatch, undrawn):
    seen = []
    monkeypatch.setattr(reports, "headline", lambda matrix, data: seen.append(matrix) or "")
    predicted, labels = [0, 0, 1, 2, 1, 0], [0, 1, 1, 1, 2, 0]
    page_of(predicted, labels)
    assert seen[0].tolist() == confusion_matrix(labels, predicted).tolist()


def test_the_baseline_is_the_commonest_class_of_the_training_images():
    data = Data("noise", noise([2, 2, 0]), noise([0]), noise([0, 0, 2]), ["ape", "bee", "cow"])
    said = headline(torch.tensor([[2, 0, 0], [0, 0, 0], [0, 0, 1]]), data)
    assert "“cow”" in said
    assert "33.3%" in said


def test_a_long_name_is_cut_in_the_drawing_alone():
    names = ["a" * 60, "b", "c"]
    shown = confusion(torch.tensor([[0, 1, 0], [0, 0, 0], [0, 0, 0]]), names)
    assert "a" * 60 in shown  # in the words for those who cannot see it


def test_of_many_classes_the_worst_pairs_are_listed_beside_a_picture_of_one_size():
    shown = {}
    for K in (31, 1000):
        matrix = 5 * torch.eye(K).long()
        matrix[3, 7], matrix[K - 1, 2] = 4, 2
        shown[K] = Page(confusion(matrix, [f"c{i}" for i in range(K)]))
        words = "class taken for images c3 c7 4 of 9 c{} c2 2 of 7 "
        assert shown[K].words == words.format(K - 1)
    sizes = [(page.images[0]["width"], page.images[0]["height"]) for page in shown.values()]
    assert sizes == [("480", "480")] * 2


def test_no_pair_of_many_classes_is_lost_in_the_picture(monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda ax, x, **_: drawn.append(x))
    matrix = torch.zeros(1000, 1000).long()
    matrix[999, 0], matrix[5, 5] = 3, 100
    draw_errors(Figure(), matrix)
    assert drawn[0].shape == (200, 200)
    assert drawn[0][199, 0] == drawn[0].sum() == 3


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 7), (32, 36), (9945, 10000), (5, 10)])
def test_the_interval_is_scipys(right, n):
    theirs = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right, n) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_a_page_of_a_grey_model_shows_its_images_too(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "WORST", 2)
    weights = pretrained(tmp_path / "old.safetensors", channels=1)
    arguments = ["finetune", "--data", f"folder:{photos}", "--weights", weights]
    _, model, data, _ = cli.finetune_run(cli.parser().parse_args(arguments))
    wrong = torch.eye(3)[(data.test.labels + 1) % 3]
    epoch = dict(train_loss=1.0, val_loss=1.0, val_accuracy=0.5)
    page = Page(html_report(model, replace(data, name="grey"), wrong, [epoch], {}))
    assert len(page.images) == 2 + 2
