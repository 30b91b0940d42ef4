"""What a stranger gets wrong is said at the door; what a model learnt from stays out of tests."""

import numpy as np
import pytest
import torch
from PIL import Image

from vit_tutorial import ViTConfig
from vit_tutorial import __main__ as cli
from vit_tutorial.lab.folders import load
from vit_tutorial.weights import checkpoint, hub


@pytest.fixture
def folder(tmp_path):
    """Forty random images of two classes, without a `test` folder."""
    for label in "ab":
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            pixels = np.random.default_rng([i, ord(label)]).integers(0, 256, (8, 12), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def trained(folder, tmp_path):
    """A tiny model, trained on the folder with a seed that is not the default."""
    sizes = "--patch-size 4 --layers 1 --hidden-size 8 --mlp-size 8 --heads 1"
    recipe = "--epochs 1 --batch-size 8 --seed 5"
    out = tmp_path / "run"
    words = ["train", "--data", f"folder:{folder}", "--out", str(out)]
    assert cli.main([*words, *sizes.split(), *recipe.split()]) == 0
    return out / "model.safetensors"


def test_evaluate_sees_the_split_that_the_model_was_trained_on(
    folder, trained, monkeypatch, capsys
):
    expected, seen = load(f"folder:{folder}", seed=5).test.images, []
    assert not torch.equal(expected, load(f"folder:{folder}", seed=0).test.images)
    evaluate = cli.evaluate
    monkeypatch.setattr(cli, "evaluate", lambda m, split: seen.append(split) or evaluate(m, split))
    words = ["evaluate", "--weights", str(trained), "--data", f"folder:{folder}"]
    assert cli.main(words) == 0, capsys.readouterr().err
    assert {x.numpy().tobytes() for x in seen[0].images} == {x.numpy().tobytes() for x in expected}


def test_evaluate_refuses_classes_that_the_model_does_not_know(tmp_path, capsys):
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(10):
            Image.new("L", (28, 28), i).save(tmp_path / label / f"{i}.png")
    assert cli.main(["evaluate", "--data", f"folder:{tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "mnist knows the classes (10) 0, 1, 2, ..." in error
    assert "has (2) a, b" in error


@pytest.mark.parametrize(
    ("name", "said"), [("maps.txt", ".png"), ("maps", ".png"), ("no/maps.png", "no such folder")]
)
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(name, said, tmp_path, capsys):
    image = tmp_path / "seven.png"
    Image.new("L", (28, 28)).save(image)
    assert cli.main(["predict", str(image), "--maps", str(tmp_path / name)]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["seven.png"]


def test_maps_of_a_model_without_class_token_are_not_called_its_reading(folder, tmp_path, capsys):
    sizes = "--patch-size 4 --layers 1 --hidden-size 8 --mlp-size 8 --heads 1 --pool mean"
    words = ["train", "--data", f"folder:{folder}", "--out", str(tmp_path / "mean")]
    assert cli.main([*words, *sizes.split(), "--epochs", "1", "--batch-size", "8"]) == 0
    weights, maps = str(tmp_path / "mean" / "model.safetensors"), str(tmp_path / "maps.png")
    image = str(folder / "a" / "0.png")
    assert cli.main(["predict", image, "--weights", weights, "--maps", maps]) == 0
    assert f"what all tokens read: {maps}" in capsys.readouterr().out


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_no_generator_takes_is_refused(seed, capsys):
    assert cli.main(["train", "--data", "digits", "--seed", str(seed)]) == 2
    assert str(seed) in capsys.readouterr().err


@pytest.mark.parametrize("size", [0, -3])
def test_a_representation_has_at_least_one_number(size):
    with pytest.raises(ValueError, match=f"at least 1, got {size}"):
        ViTConfig(representation_size=size)


def test_a_checkpoint_is_found_by_path_or_by_shipped_name(tmp_path):
    assert hub.find(tmp_path / "x.safetensors") == tmp_path / "x.safetensors"
    assert hub.find("mnist") == checkpoint.PRETRAINED / "mnist.safetensors"
