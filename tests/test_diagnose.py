"""`diagnose` finds each planted fault, none in right models, and leaves the model as it was."""

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from vit_tutorial.benchmarks import bugs
from vit_tutorial.benchmarks.record import read
from vit_tutorial.checks import diagnose
from vit_tutorial.checks.diagnose import TESTS, Case
from vit_tutorial.data import load
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import parameter_groups

FOUND_BY = {
    bugs.RIGHT: None,
    "softmax twice": "no softmax at the end",
    "batch in the class token": "an image's logits do not depend on its batch",
    "softmax over the readers": "rows of attention sum to 1",
    "scaled too late": "rows of attention sum to 1",
    "causal mask left in": "the output depends on the image",
    "batch_first forgotten": "the output depends on the image",
    "norm made in forward": "an image's logits do not depend on its batch",
    "positions made in forward": "train and eval agree where they should",
    "blocks in a list": "gradient reaches every parameter",
    "decay on everything": "decay where it belongs",
}


def images_and_labels(C=3, size=32, K=5, B=12):
    torch.manual_seed(1)
    return torch.randn(B, C, size, size), torch.arange(B) % K


def failed(findings):
    return [finding.test for finding in findings if finding.result == "failed"]


@pytest.mark.parametrize("piece", bugs.PIECES)
def test_the_fault_of_each_piece_of_chapter_15_is_found(piece, monkeypatch, capsys):
    monkeypatch.setattr(bugs.BatchInTheToken, "batch_size", 12)
    build, optimizer_of = bugs.PIECES[piece]
    torch.manual_seed(0)
    model = build()
    found = failed(diagnose(model, *images_and_labels(1, 28, 10), optimizer_of(model)))
    assert found == [] if FOUND_BY[piece] is None else FOUND_BY[piece] in found
    assert len(capsys.readouterr().out.splitlines()) == len(TESTS)


def ours(**more):
    return VisionTransformer(ViTConfig(32, 8, 3, 5, 2, 64, 96, 4, **more))


def timm_model(**more):
    timm = pytest.importorskip("timm", reason="in the extra `compare`")
    sizes = dict(img_size=32, patch_size=8, embed_dim=64, num_heads=4, depth=2, num_classes=5)
    return timm.models.VisionTransformer(**sizes, **more)


def hugging_face(**more):
    transformers = pytest.importorskip("transformers", reason="in the extra `compare`")
    sizes = dict(image_size=32, patch_size=8, hidden_size=64, num_hidden_layers=2, num_labels=5)
    more = dict(num_attention_heads=4, intermediate_size=96, **more)
    return transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, **more))


RIGHT_MODELS = {
    "ours, dropout": lambda: ours(dropout=0.1),
    "ours, mean": lambda: ours(pool="mean", positions="sincos", representation_size=16),
    "timm": lambda: timm_model(drop_path_rate=0.2, init_values=1e-5),
    "torchvision": lambda: TorchvisionViT(32, 8, 2, 4, 64, 96, num_classes=5, dropout=0.1),
    "Hugging Face": hugging_face,
    "Hugging Face, eager": lambda: hugging_face(attn_implementation="eager"),
    "a ResNet": lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5),
}


@pytest.mark.parametrize("name", RIGHT_MODELS)
def test_no_fault_is_found_in_a_right_model(name):
    torch.manual_seed(0)
    model = RIGHT_MODELS[name]()
    findings = diagnose(model, *images_and_labels())
    assert failed(findings) == []
    said = {finding.test: finding for finding in findings}
    assert said["decay where it belongs"].why == "no optimizer was given"
    attention = said["rows of attention sum to 1"]
    assert attention.result == ("not applicable" if name == "a ResNet" else "passed"), attention.why


def other(test, model, optimizer=None, **sizes):
    findings = {f.test: f for f in diagnose(model, *images_and_labels(**sizes), optimizer)}
    return findings[test].result, findings[test].why


def test_positions_left_out_are_found():
    result, why = other("swapping patches changes the logits", ours(positions="none"))
    assert (result, "where are the positions" in why) == ("failed", True)


class Cropping(VisionTransformer):
    def forward(self, images):
        return super().forward(images[..., :32, :32])


def test_pixels_that_are_cropped_are_found():
    model = Cropping(ViTConfig(32, 8, 3, 5, 1, 16, 32, 2))
    result, why = other("the output depends on the image", model, size=35)
    assert (result, why) == ("failed", "3 columns and 3 rows of pixels are never read")


class Dropping(VisionTransformer):
    def forward(self, images):
        return super().forward(nn.functional.dropout(images, 0.1))


def test_dropout_that_never_rests_is_found():
    result, why = other("train and eval agree where they should", Dropping(ours().config))
    assert (result, "eval mode is random" in why) == ("failed", True)


def test_decay_on_norms_and_a_parameter_left_out_are_found():
    model, test = ours(), "decay where it belongs"
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    assert "biases, norms, tokens or positions" in other(test, model, optimizer)[1]
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1)[:1])
    assert "not in the optimizer: embedding.class_token" in other(test, model, optimizer)[1]


@pytest.mark.parametrize(
    ("weight", "result", "words"),
    [(0.0, "passed", "starts at zero"), (0.3, "passed", "up to twice as high"),
     (9.0, "failed", "far above")],
)  # fmt: skip
def test_the_first_loss_is_judged_by_the_head(weight, result, words):
    model = ours()
    nn.init.normal_(model.head.weight, std=weight)
    found = other("first loss near ln K", model)
    assert (found[0], words in found[1]) == (result, True)


def test_twenty_right_models_with_xavier_heads_are_no_fault():
    for seed in range(20):
        torch.manual_seed(seed)
        model = VisionTransformer(ViTConfig(16, 8, 3, 7, 1, 16, 32, 2))
        nn.init.xavier_uniform_(model.head.weight)
        case = Case(model, *images_and_labels(size=16, K=7))
        assert TESTS["first loss near ln K"](case)[0] == "passed"


def test_the_model_keeps_its_weights_gradients_and_mode():
    model, (images, labels) = ours(dropout=0.1).train(), images_and_labels()
    before = [p.clone() for p in model.parameters()]
    dice = torch.get_rng_state()
    diagnose(model, images, labels)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(dice, torch.get_rng_state())


def test_a_piece_is_trained_and_a_batch_in_the_class_token_takes_no_other():
    digits = bugs.first_images(load("digits"), 200)
    right = bugs.run(bugs.PIECES[bugs.RIGHT], digits, 0, passes=1)
    baked = bugs.run(bugs.PIECES["batch in the class token"], digits, 0, passes=1)
    assert 0 <= right["accuracy"] <= 1
    assert baked["train_loss"] == right["train_loss"]
    assert baked["accuracy_alone"] is None


def test_the_record_holds_every_piece_with_three_seeds():
    runs = [(run["variant"], run["seed"]) for run in read("bugs")["runs"]]
    assert sorted(runs) == sorted((name, seed) for name in bugs.PIECES for seed in range(3))
