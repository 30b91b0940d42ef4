"""The one-file Vision Transformer that the book offers is the package's, and trains as it does."""

import ast
import importlib.util
import re
import runpy
import sys
from dataclasses import asdict

import nbformat
import pytest
import torch
from image_files import DATA, figures, model, seeded
from torch.testing import assert_close

from tools.sync_book import ROOT
from vit_tutorial import load_pretrained
from vit_tutorial.train import TrainConfig, train

PATH = ROOT / "book" / "vit.py"
spec = importlib.util.spec_from_file_location("vit", PATH)
vit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(vit)
SIZES = ("image_size", "patch_size", "channels", "classes", "layers", "hidden_size", "mlp_size",
         "heads", "dropout")  # fmt: skip


def like(config):
    """The file's model in the sizes of a package's config."""
    return vit.VisionTransformer(**{name: asdict(config)[name] for name in SIZES})


def test_the_file_is_short():
    lines = PATH.read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 130  # docstrings and comments included


def test_the_file_needs_torch_alone():
    found = set()
    for node in ast.walk(ast.parse(PATH.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    assert "torch" in found
    assert found <= {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", ["mnist", "mnist-best", "fashion"])
def test_the_shipped_weights_give_the_same_logits(name):
    theirs = load_pretrained(name)
    ours = like(theirs.config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(3, 1, 28, 28)
    assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_same_seed_gives_the_lessons_first_weights_and_its_history(dropout):
    lesson = model(dropout)
    torch.manual_seed(0)
    ours = like(lesson.config)
    assert_close(ours.state_dict(), lesson.state_dict(), rtol=0, atol=0)
    sets = [(part.normalise(part.images / 255), part.labels) for part in (DATA.train, DATA.val)]
    recipe = TrainConfig(epochs=3, batch_size=8, augment=0.0)
    torch.manual_seed(1)  # dropout draws from here
    expected = figures(train(lesson, DATA, recipe, seeded()))
    torch.manual_seed(1)
    got = list(vit.train(ours, *sets, 3, 8, augment=lambda images, _: images, generator=seeded()))
    assert_close(torch.tensor(got), torch.tensor(expected), rtol=0, atol=1e-5)
    assert expected[-1][1] < expected[0][1]


def test_augmentation_moves_every_image_in_its_own_way_and_not_far():
    blob = torch.zeros(6, 1, 29, 29)
    blob[..., 10:19, 10:19] = 1
    moved = vit.random_affine(blob, seeded())
    assert all(not torch.equal(moved[i], moved[j]) for i in range(6) for j in range(i))
    assert (moved.sum(dim=(1, 2, 3)) / 81 - 1).abs().max() < 0.4  # 1.15² is 1.32
    assert moved[..., [0, -1], :].sum() == 0  # the border stays black
    rows = (moved * torch.arange(29.0).view(-1, 1)).sum(dim=(1, 2, 3)) / moved.sum(dim=(1, 2, 3))
    assert 0.1 < (rows - 14).abs().mean() < 0.15 * 29 / 2 * 1.2


def run(monkeypatch, *arguments):
    """The file as a script."""
    monkeypatch.setattr(sys, "argv", ["vit.py", *arguments])
    runpy.run_path(str(PATH), run_name="__main__")


def test_a_file_of_images_that_are_not_square_is_learned_from_the_command_line(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    images = DATA.train.images.repeat(1, 3, 1, 2)  # fewer than a batch
    torch.save((images, DATA.train.labels), "pictures.pt")
    run(monkeypatch, "pictures.pt", "patch_size=4", "layers=1", "hidden_size=16", "epochs=2")
    assert "epoch 2: loss" in capsys.readouterr().out
    saved = torch.load("vit.pt", weights_only=True)
    again = vit.VisionTransformer(**saved["sizes"]).eval()
    again.load_state_dict(saved["model"])
    assert again((images[:2] / 255 - saved["mean"]) / saved["std"]).isfinite().all()
    with pytest.raises(TypeError, match="mlp_sise"):
        run(monkeypatch, "pictures.pt", "mlp_sise=4")


def test_without_a_file_the_first_lines_say_how_to_make_one(monkeypatch):
    with pytest.raises(SystemExit, match=r"torch\.save"):
        run(monkeypatch)


def methods(source, name):
    """A class's or function's parts as text without docstrings and comments, by name."""
    found = {}
    for node in ast.parse(source).body:
        if getattr(node, "name", None) == name:
            parts = node.body if isinstance(node, ast.ClassDef) else [node]
            for part in (p for p in parts if isinstance(p, ast.FunctionDef)):
                part.name = "it" if part is node else part.name
                if ast.get_docstring(part):
                    part.body = part.body[1:]
                found[part.name] = ast.unparse(part)
    return found


def test_the_solutions_of_the_empty_file_are_this_file():
    names = {
        "patchify": "book_patchify", "PatchEmbedding": "BookPatchEmbedding",
        "Embedding": "BookEmbedding", "MultiHeadSelfAttention": "BookAttention",
        "EncoderBlock": "BookBlock", "Encoder": "BookEncoder",
        "VisionTransformer": "BookViT", "initialise": "authors_weights",
    }  # fmt: skip
    (path,) = ROOT.glob("book/16_*.ipynb")
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    text = PATH.read_text(encoding="utf-8")
    renamed = re.sub("|".join(rf"\b{n}\b" for n in names), lambda m: names[m[0]], text)
    for name in names.values():
        (cell,) = [c for c in cells if re.search(rf"^(class|def) {name}\b", c, re.MULTILINE)]
        ours, theirs = methods(renamed, name), methods(cell, name)
        if name == "BookViT":  # takes a config, and the file its sizes
            theirs.pop("__init__")
        assert theirs
        assert theirs == {part: ours[part] for part in theirs}
