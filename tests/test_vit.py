"""The one-file Vision Transformer that the book offers is the package's, and trains as it does."""

import ast
import importlib.util
import re
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
sys.modules["vit"] = vit  # dataclasses look their module up
spec.loader.exec_module(vit)


def shape(config):
    """The part of a package's config that the file has, too."""
    names = asdict(vit.ViTConfig())
    return vit.ViTConfig(**{n: value for n, value in asdict(config).items() if n in names})


def test_the_file_needs_torch_alone():
    found = set()
    for node in ast.walk(ast.parse(PATH.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    assert "torch" in found
    assert found <= {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", ["mnist", "mnist-best"])
def test_the_shipped_weights_give_the_same_logits_and_maps(name):
    theirs = load_pretrained(name)
    ours = vit.VisionTransformer(shape(theirs.config)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(3, 1, 28, 28)
    assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)
    assert_close(ours.attention_maps(images), theirs.attention_maps(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_same_seed_gives_the_lessons_first_weights_and_its_history(dropout):
    lesson = model(dropout)
    torch.manual_seed(0)
    ours = vit.VisionTransformer(shape(lesson.config))
    assert_close(ours.state_dict(), lesson.state_dict(), rtol=0, atol=0)
    pixels = [value.view(-1, 1, 1) for value in (DATA.train.mean, DATA.train.std)]
    sets = [(part.images, part.labels) for part in (DATA.train, DATA.val)]
    recipe = TrainConfig(epochs=3, batch_size=8)
    torch.manual_seed(1)  # dropout draws from here
    expected = figures(train(lesson, DATA, recipe, seeded()))
    torch.manual_seed(1)
    got = list(vit.train(ours, *sets, pixels, seeded(), epochs=3, batch_size=8))
    assert_close(torch.tensor(got), torch.tensor(expected), rtol=0, atol=1e-5)
    assert expected[-1][1] < expected[0][1]


def test_a_file_of_images_that_are_not_square_is_learned_from_the_command_line(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    images = DATA.train.images.repeat(1, 3, 1, 2)  # fewer than a batch
    torch.save((images, DATA.train.labels), "pictures.pt")
    vit.main("pictures.pt", "patch_size=4", "layers=1", "hidden_size=16", "epochs=2")
    assert "    2 " in capsys.readouterr().out
    saved = torch.load("vit.pt", weights_only=True)
    again = vit.VisionTransformer(vit.ViTConfig(**saved["config"])).eval()
    again.load_state_dict(saved["model"])
    assert again.attention_maps((images[:2] / 255 - saved["mean"]) / saved["std"]).shape[-1] == 9
    with pytest.raises(TypeError, match="mlp_sise"):
        vit.main("pictures.pt", "mlp_sise=4")


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
        "MLP": "BookMLP", "EncoderBlock": "BookBlock", "Encoder": "BookEncoder",
        "VisionTransformer": "BookViT", "initialise": "authors_weights",
    }  # fmt: skip
    (path,) = ROOT.glob("book/16_*.ipynb")
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    text = PATH.read_text(encoding="utf-8")
    renamed = re.sub("|".join(rf"\b{n}\b" for n in names), lambda m: names[m[0]], text)
    for name in names.values():
        (cell,) = [c for c in cells if re.search(rf"^(class|def) {name}\b", c, re.MULTILINE)]
        ours, theirs = methods(renamed, name), methods(cell, name)
        assert theirs
        assert theirs == {part: ours[part] for part in theirs}
