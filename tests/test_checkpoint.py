"""A checkpoint comes back as it was saved, or not at all."""

import hashlib
import json
import os
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from vit_tutorial import from_checkpoint
from vit_tutorial.data import load as load_data
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import evaluate
from vit_tutorial.weights import checkpoint, hub
from vit_tutorial.weights.checkpoint import load, load_pretrained, pretrained_card, save
from vit_tutorial.weights.preprocessing import Preprocessing

PREPARED = Preprocessing((8, 12), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), ("cat", "dog", "emu"))


def tiny(**changes):
    """A small model whose parameters are all drawn anew."""
    sizes = dict(patch_size=4, layers=1, hidden_size=8, mlp_size=8, heads=2, classes=3)
    model = VisionTransformer(ViTConfig(**{"image_size": (8, 12), **sizes, **changes}))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


@pytest.fixture
def path(tmp_path):
    """A checkpoint of a tiny model."""
    save(tmp_path / "model.safetensors", tiny(), preprocessing=PREPARED)
    return tmp_path / "model.safetensors"


def files(folder):
    return sorted(file.name for file in folder.iterdir())


# ---- there and back


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(image_size=8),
        dict(pool="mean", positions="sincos"),
        dict(positions="none", representation_size=6, dropout=0.1),
        dict(classes=0),
    ],
)
def test_a_model_comes_back_with_its_config_and_its_answers(tmp_path, changes):
    model = tiny(**changes)
    save(tmp_path / "model.safetensors", model)
    read, _ = load(tmp_path / "model.safetensors")
    assert read.config == model.config
    assert not read.training
    images = torch.randn(2, 3, *model.config.height_width)
    assert torch.equal(read(images), model(images))


def test_what_is_saved_beside_the_weights_comes_back(tmp_path):
    more = {"epoch": 3, "history": [{"val_loss": 0.5}], "preprocessing": PREPARED}
    save(tmp_path / "deep" / "er" / "model.safetensors", tiny(), **more)
    assert load(tmp_path / "deep" / "er" / "model.safetensors")[1] == more


def test_the_file_is_plain_safetensors(path):
    tensors = load_file(path)
    assert set(tensors) == set(tiny().state_dict())
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    assert json.loads(header["config"])["hidden_size"] == 8


def test_saving_leaves_one_file_that_others_may_read(path):
    assert files(path.parent) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


# ---- wrapped models, and models that are not what their config says


def compiled_inside(model):
    """The model with one compiled block."""
    model.encoder.blocks[0] = torch.compile(model.encoder.blocks[0])
    return model


@pytest.mark.long
@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        compiled_inside,
        nn.DataParallel,  # its names are those of DistributedDataParallel
        lambda model: torch.compile(nn.DataParallel(model)),
    ],
)
def test_a_wrapped_model_is_saved_as_the_model_inside(tmp_path, wrap):
    model, wrapped = tiny(), wrap(tiny())
    inside = next(part for part in wrapped.modules() if isinstance(part, VisionTransformer))
    assert set(wrapped.state_dict()) != set(model.state_dict())
    plain = {n.replace("_orig_mod.", ""): w.clone() for n, w in inside.state_dict().items()}
    save(tmp_path / "model.safetensors", wrapped)
    read, _ = load(tmp_path / "model.safetensors")
    assert read.config == model.config
    assert plain.keys() == read.state_dict().keys()
    assert all(torch.equal(w, plain[name]) for name, w in read.state_dict().items())


def without_head(model):
    model.head = nn.Identity()


def more_classes(model):
    model.head = nn.Linear(8, 5)


def pruned(model):
    prune.random_unstructured(model.encoder.blocks[0].mlp[0], "weight", amount=0.5)


def narrower(model):
    model.encoder.blocks[0].mlp[0] = nn.Linear(8, 4)
    model.encoder.blocks[0].mlp[3] = nn.Linear(4, 8)


def a_block_less(model):
    model.encoder.blocks = model.encoder.blocks[:0]


def another_activation(model):
    model.encoder.blocks[0].mlp[1] = nn.ReLU()


def another_epsilon(model):
    model.encoder.norm.eps = 1e-3


def no_bias(model):
    model.encoder.blocks[0].attention.qkv = nn.Linear(8, 24, bias=False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            without_head,
            r"head Identity\(\), expected Linear.*head\.weight missing, expected \(3, ",
        ),
        (
            more_classes,
            r"head\.bias \(5,\), expected \(3,\); head\.weight \(5, 8\), expected \(3",
        ),
        (pruned, r"mlp\.0\.weight missing.*mlp\.0\.weight_mask \(8, 8\), expected no such tensor"),
        (narrower, r"mlp\.0\.weight \(4, 8\), expected \(8, 8\).*mlp\.3\.weight \(8, 4\), expec"),
        (a_block_less, r"encoder\.blocks\.0\.attention\.projection\.bias missing.* and 4 more$"),
        (another_activation, r"blocks\.0\.mlp\.1 ReLU\(\), expected GELU\(approximate='none'\)$"),
        (another_epsilon, r"encoder\.norm LayerNorm.*eps=0\.001.*expected LayerNorm.*eps=1e-06"),
        (no_bias, r"attention\.qkv\.bias missing, expected \(24,\)$"),
    ],
)
def test_a_model_that_is_not_what_its_config_says_is_refused_by_name(path, change, named):
    before, model = path.read_bytes(), tiny()
    change(model)
    for wrapped in (model, torch.compile(model)):
        with pytest.raises(ValueError, match=f"model does not fit its configuration: .*{named}"):
            save(path, wrapped)
    assert path.read_bytes() == before
    assert files(path.parent) == [path.name]


def test_other_modules_are_refused(tmp_path):
    for module, named in (
        (nn.Linear(2, 2), "Linear has no ViTConfig as its `config`"),
        (nn.Sequential(nn.Upsample(8), tiny()), r"0\.head\.bias|1\.embedding\.class_token"),
        (AveragedModel(tiny()), r"n_averaged \(\), expected no such tensor"),
    ):
        with pytest.raises(ValueError, match=named):
            save(tmp_path / "model.safetensors", module)
    assert files(tmp_path) == []


def test_blocks_that_share_their_weights_are_saved_one_by_one(tmp_path):
    model = tiny(layers=2)
    model.encoder.blocks[1] = model.encoder.blocks[0]
    save(tmp_path / "model.safetensors", model)
    images = torch.randn(2, 3, 8, 12)
    assert torch.equal(load(tmp_path / "model.safetensors")[0](images), model(images))


# ---- precision


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("positions", ["learned", "sincos", "none"])
def test_a_model_comes_back_in_the_precision_it_was_saved_in(tmp_path, dtype, positions):
    model = tiny(positions=positions).to(dtype)
    save(tmp_path / "model.safetensors", model)
    read, _ = load(tmp_path / "model.safetensors")
    assert {w.dtype for w in (*read.parameters(), *read.buffers())} == {dtype}
    assert all(w.requires_grad for w in read.parameters())
    assert torch.equal(read.embedding.positions, model.embedding.positions)
    images = torch.randn(2, 3, 8, 12).to(dtype)
    assert torch.equal(read(images), model(images))


def test_every_tensor_keeps_its_own_precision(tmp_path):
    model = tiny()
    model.encoder.bfloat16()
    model.head.double()
    save(tmp_path / "model.safetensors", model)
    read = load(tmp_path / "model.safetensors")[0].state_dict()
    assert {w.dtype for w in read.values()} == {torch.float32, torch.bfloat16, torch.float64}
    for name, tensor in model.state_dict().items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_saving_and_loading_draw_no_random_numbers(path):
    before = torch.get_rng_state()
    save(path, load(path)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_model_does_not_change_with_its_file(path):
    model, _ = load(path)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(bytes(64))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())


# ---- a file is replaced whole or not at all


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_checkpoint_and_nothing_else(
    path, monkeypatch, step, error
):
    before = path.read_bytes()

    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        save(path, tiny())
    assert path.read_bytes() == before
    assert files(path.parent) == [path.name]


def test_what_json_cannot_hold_is_refused_before_anything_is_written(path):
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save(path, tiny(), more=object())
    assert path.read_bytes() == before
    assert files(path.parent) == [path.name]


# ---- damaged and foreign files


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no such checkpoint: .*nowhere\.safetensors"):
        load(tmp_path / "nowhere.safetensors")


def test_a_file_cut_short_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"cannot read {path}: it is damaged, or"):
            load(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match=f"cannot read {path}: it is damaged, or"):
        load(path)


def complaint(path):
    """What `load` says against a file, if anything."""
    try:
        load(path)
    except ValueError as error:
        return str(error)
    return None


def test_a_flipped_bit_in_the_header_gives_an_error_that_names_the_file_or_no_harm(path):
    whole = path.read_bytes()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    refused = 0
    for place in range(0, end, 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 7
        path.write_bytes(damaged)
        said = complaint(path)
        assert said is None or str(path) in said
        refused += said is not None
    assert refused > end / 5 / 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda header: header.pop("config"),
        lambda header: header.pop("more"),
        lambda header: header.update(config="{"),
        lambda header: header.update(config="[]"),
        lambda header: header.update(config='{"image_size": 8, "depth": 3}'),
        lambda header: header.update(config='{"image_size": 9, "patch_size": 4}'),
        lambda header: header.update(more='{"preprocessing": {"mean": [0.5]}}'),
        lambda header: header.update(more='{"preprocessing": 3}'),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(path, damage):
    header = {"format": checkpoint.FORMAT, "config": '{"image_size": 8}', "more": "{}"}
    damage(header)
    save_file(tiny().state_dict(), path, header)
    with pytest.raises(ValueError, match=f"cannot read {path}: "):
        load(path)


@pytest.mark.parametrize("header", [None, {"format": "pt"}, {"format": "vit_tutorial 99"}])
def test_somebody_elses_safetensors_are_refused(path, header):
    save_file({"weight": torch.zeros(2)}, path, header)
    found = repr(header["format"]) if header else "None"
    with pytest.raises(ValueError, match=f"has format {found}, expected 'vit_tutorial 1'"):
        load(path)


def test_tensors_that_do_not_fit_the_config_are_refused(path):
    header = {"format": checkpoint.FORMAT, "more": "{}"}
    config = json.dumps({**tiny().config.__dict__, "hidden_size": 16})
    save_file(tiny().state_dict(), path, {**header, "config": config})
    with pytest.raises(ValueError, match=f"cannot read {path}: the model does not fit.*8.*16"):
        load(path)
    tensors = tiny().state_dict()
    tensors.pop("head.bias")
    save_file(tensors, path, {**header, "config": json.dumps(tiny().config.__dict__)})
    with pytest.raises(ValueError, match=r"does not fit.*head\.bias"):
        load(path)


class Bomb:
    """Unpickling it calls os.mkdir."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_a_pickle_is_refused_and_not_opened(path):
    torch.save({"model": Bomb(path.parent / "harm")}, path)
    with pytest.raises(ValueError, match=f"cannot read {path}"):
        load(path)
    assert files(path.parent) == [path.name]


# ---- the shipped model


@pytest.mark.parametrize(
    ("name", "grid", "most", "least"),
    [("mnist", (7, 7), 250_000, 0.993), ("mnist-best", (2, 2), 250_000, 0.993),
     ("fashion", (7, 7), 400_000, 0.93)],
)  # fmt: skip
def test_a_shipped_model_is_small_and_its_card_says_how_it_was_made(name, grid, most, least):
    card, file = pretrained_card(name), checkpoint.PRETRAINED / f"{name}.safetensors"
    model = load_pretrained(name)
    assert not model.training
    assert model.config.grid == grid
    assert file.stat().st_size < 1_000_000
    count = sum(parameter.numel() for parameter in model.parameters())
    assert card["parameters"] == count <= most
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    stated = {"seed", "data", "training", "versions", "seconds", "machine", "test_images"}
    assert stated <= set(card)
    assert card["command"].startswith("vit-tutorial train")
    assert model.config == ViTConfig(**card["config"])
    assert least <= card["test_accuracy"] <= 1
    assert card["history"][-1]["val_accuracy"] == card["validation_accuracy"]
    assert card["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_shipped_model_reads_other_peoples_digits():
    test = load_data("digits").test  # scikit-learn's, which it has never seen
    assert evaluate(load_pretrained("mnist"), test).accuracy > 0.6


def test_a_shipped_model_comes_with_its_preprocessing_in_the_same_precision():
    images = torch.rand(2, 1, 28, 28)
    for name in ("mnist", "fashion"):
        model, steps = from_checkpoint(name)
        assert steps.precision == "float32"
        assert torch.equal(model(images), load_pretrained(name)(images))


@pytest.mark.parametrize("name", ["mnist", "mnist-best", "fashion"])
def test_a_shipped_model_reaches_the_accuracy_on_its_card(name, real_data):
    card = pretrained_card(name)
    folder = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[card["data"]]
    if not (real_data / folder).is_dir():
        pytest.skip(f"VIT_TUTORIAL_DATA has no {folder}")
    test = load_data(card["data"]).test
    accuracy = evaluate(load_pretrained(name), test).accuracy
    assert accuracy >= card["test_accuracy"] - 2 / len(test)  # two, for another machine's rounding


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The shipped files, where they can be damaged."""
    folder = shutil.copytree(checkpoint.PRETRAINED, tmp_path / "pretrained")
    monkeypatch.setattr(checkpoint, "PRETRAINED", folder)
    return folder


def test_a_single_flipped_bit_in_the_shipped_weights_is_noticed(copied):
    file = copied / "mnist.safetensors"
    content = bytearray(file.read_bytes())
    stated = hashlib.sha256(content).hexdigest()
    content[-1000] ^= 1
    file.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    for ask in (load_pretrained, from_checkpoint):
        with pytest.raises(ValueError, match=f"SHA-256 {found}, the card says {stated}"):
            ask("mnist")


def test_shipped_weights_that_were_lost_are_noticed(copied):
    (copied / "mnist.safetensors").unlink()
    with pytest.raises(ValueError, match="SHA-256 no file, the card says"):
        load_pretrained("mnist")


@pytest.mark.parametrize("ask", [load_pretrained, from_checkpoint, pretrained_card])
def test_an_unknown_model_is_refused_with_the_names_there_are(ask):
    with pytest.raises(ValueError, match="unknown pretrained model 'minst'; did you mean 'mnist'"):
        ask("minst")


# ---- a model with its preprocessing


def test_a_model_comes_with_the_preprocessing_that_it_was_saved_with(path):
    for name in (path, str(path)):
        model, prepared = from_checkpoint(name)
        assert prepared == PREPARED
        assert model.config == tiny().config
        assert not model.training


def test_a_checkpoint_that_does_not_say_how_to_prepare_images_is_no_model_to_ask(path):
    save(path, tiny())
    with pytest.raises(ValueError, match="does not say how its images are prepared"):
        from_checkpoint(path)


def test_the_shipped_model_carries_its_preprocessing():
    model, prepared = from_checkpoint("mnist")
    assert prepared.height_width == model.config.height_width == (28, 28)
    assert prepared.classes == tuple("0123456789")
    assert prepared.mean == pytest.approx([0.1307], abs=2e-3)  # of MNIST's training pixels
    assert prepared.std == pytest.approx([0.3081], abs=2e-3)


def test_a_folder_of_the_same_name_does_not_hide_the_shipped_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert from_checkpoint("mnist")[0].config.grid == (7, 7)


def test_what_a_file_of_ours_says_beside_the_weights_is_at_hand_where_a_model_is_asked_for(path):
    save(path, tiny(), seed=7, preprocessing=PREPARED)
    assert hub.with_more(path)[2] == {"seed": 7, "preprocessing": PREPARED}
    assert hub.with_more("mnist")[2]["data"] == pretrained_card("mnist")["data"]
