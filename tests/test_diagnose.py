"""`diagnose` finds each planted fault, none in right models, and leaves the model as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v3_small
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.swin_transformer import SwinTransformer
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
    lines = capsys.readouterr().out.splitlines()
    assert sum(line[0] in "✓✗–" for line in lines) == len(TESTS)
    assert max(map(len, lines)) <= 96


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


class Convolutions(nn.Sequential):
    """Strides that leave the last row of pixels out, a norm, and much dropout."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__(
            nn.Conv2d(3, 16, 3, stride=2), norm(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2),
            nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(32 * 49, 5),
        )  # fmt: skip


class FunctionalDropout(nn.Module):
    """An MLP whose dropout is no module."""

    def __init__(self):
        super().__init__()
        self.into, self.back = nn.Linear(3072, 64), nn.Linear(64, 5)

    def forward(self, x):
        return self.back(F.dropout(self.into(x.flatten(1)).relu(), 0.3, self.training))


class FrozenFeatures(nn.Module):
    """Only a head learns, on features without a graph."""

    def __init__(self):
        super().__init__()
        self.body, self.head = ours().requires_grad_(False), nn.Linear(64, 5)

    def forward(self, x):
        with torch.no_grad():
            y = self.body.features(x)
        return self.head(y)


class ThreeMatrices(nn.Module):
    """A small ViT whose queries, keys and values have a matrix each."""

    def __init__(self, D=64):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, D, 8, 8), nn.LayerNorm(D)
        self.places = nn.Parameter(torch.randn(1, 16, D))
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.cls_head = nn.Linear(D, 5)

    def forward(self, x):
        z = self.norm(self.patches(x).flatten(2).mT + self.places)
        weights = (self.q(z) @ self.k(z).mT / 8).softmax(-1)
        return self.cls_head((z + weights @ self.v(z)).mean(1))


class TwoHeads(nn.Module):
    """In training a second head gives logits too."""

    def __init__(self):
        super().__init__()
        self.body, self.second = ours(), nn.Linear(5, 5)

    def forward(self, x):
        logits = self.body(x)
        return (logits, self.second(logits)) if self.training else {"logits": logits}


class Rows(nn.Module):
    """A recurrent network that reads an image row by row."""

    def __init__(self):
        super().__init__()
        self.read, self.head = nn.LSTM(96, 48, 2, batch_first=True, dropout=0.2), nn.Linear(48, 5)

    def forward(self, x):
        return self.head(self.read(x.transpose(1, 2).flatten(2))[0][:, -1])


def other_timm(name, **sizes):
    timm = pytest.importorskip("timm", reason="in the extra `compare`")
    return getattr(timm.models, name)(num_classes=5, **sizes)


def other_hugging_face(kind, **sizes):
    transformers = pytest.importorskip("transformers", reason="in the extra `compare`")
    config = getattr(transformers, f"{kind}Config")(image_size=32, num_labels=5, **sizes)
    return getattr(transformers, f"{kind}ForImageClassification")(config)


RIGHT_MODELS = {
    "an MLP": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 64), nn.ReLU(), nn.Linear(64, 5)),
    "convolutions": Convolutions,
    "convolutions, instance norm": lambda: Convolutions(
        lambda C: nn.InstanceNorm2d(C, affine=True, track_running_stats=True)
    ),
    "dropout as a function": FunctionalDropout,
    "frozen features": FrozenFeatures,
    "q, k and v apart": ThreeMatrices,
    "two heads": TwoHeads,
    "a recurrent network": Rows,
    "logarithms of probabilities": lambda: nn.Sequential(ours(), nn.LogSoftmax(dim=1)),
    "float64": lambda: ours(dropout=0.1).double(),
    "one logit": lambda: VisionTransformer(ViTConfig(32, 8, 3, 1, 1, 64, 96, 4)),
    "timm, mean": lambda: timm_model(class_token=False, global_pool="avg"),
    "timm, registers": lambda: timm_model(reg_tokens=2, qk_norm=True),
    "timm, two class tokens": lambda: other_timm(
        "VisionTransformerDistilled", img_size=32, patch_size=8, embed_dim=64, num_heads=4, depth=1
    ),
    "timm, MLP-Mixer": lambda: other_timm(
        "MlpMixer", img_size=32, patch_size=8, embed_dim=64, num_blocks=1
    ),
    "Swin": lambda: SwinTransformer(
        [4, 4], 24, [1, 1], [2, 4], [4, 4], stochastic_depth_prob=0.2, num_classes=5
    ),
    "Hugging Face, DINOv2": lambda: other_hugging_face(
        "Dinov2", patch_size=8, hidden_size=64, num_hidden_layers=1, num_attention_heads=4
    ),
    "MobileNet": lambda: mobilenet_v3_small(num_classes=5),
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
    kind = next(model.parameters()).dtype
    images, labels = images_and_labels(K=2 if name == "one logit" else 5)
    findings = diagnose(model, images.to(kind), labels)
    assert [f for f in findings if f.result == "failed"] == []
    said = {finding.test: finding for finding in findings}
    assert said["decay where it belongs"].why == "no optimizer was given"
    attention = said["rows of attention sum to 1"]
    has_attention = any("attn" in n or "attention" in n for n, _ in model.named_modules())
    reads = has_attention or name == "q, k and v apart"
    assert attention.result == ("passed" if reads else "not applicable"), attention.why


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


class Broken(VisionTransformer):
    """Ours, with another way from the images to the logits."""

    def __init__(self, way, **more):
        super().__init__(ViTConfig(32, 8, 3, 5, 2, 64, 96, 4, **more))
        self.way = way

    def forward(self, images):
        return self.way(self, images)

    def right(self, images):
        return super().forward(images)


def without_graph(m, x):
    with torch.no_grad():
        z = m.encoder(m.embedding(x))
    return m.head(z[:, 0])


def with_positions_for_the_class_token_alone(m, x):
    first = m.embedding.class_token + m.embedding.positions[:, :1]
    tokens = torch.cat([first.expand(len(x), -1, -1), m.embedding.patches(x)], dim=1)
    return m.head(m.encoder(tokens)[:, 0])


def with_tokens_and_images_exchanged(m, x):
    z = m.embedding(x).transpose(0, 1)
    return m.head(m.encoder(z).transpose(0, 1)[:, 0])


PLANTED = {  # a fault, the test that finds it, and words of its reason
    "a sigmoid": (lambda m, x: m.right(x).sigmoid(), "no softmax", "a sigmoid stands behind"),
    "a tanh": (lambda m, x: m.right(x).tanh(), "no softmax", "a tanh stands behind"),
    "a ReLU": (lambda m, x: m.right(x).relu(), "no softmax", "a relu stands behind"),
    "the winner alone": (
        lambda m, x: F.one_hot(m.right(x).argmax(1), 5).to(x), "gradient", "argmax"),
    "no graph": (without_graph, "gradient", "none at embedding.class_token"),
    "detached tokens": (lambda m, x: m.head(m.encoder(m.embedding(x).detach())[:, 0]), "gradient",
                        "none at embedding"),
    "the blocks are not read": (lambda m, x: m.head(m.embedding(x)[:, 0]), "the output depends",
                                "all images get the same"),
    "divided by the batch's norm": (
        lambda m, x: m.right(x / x.norm()), "an image's logits", "an image alone"),
    "softmax over the batch": (lambda m, x: m.right(x).softmax(0), "an image's logits", "alone"),
    "images and tokens exchanged": (with_tokens_and_images_exchanged, "the output depends",
                                    "all images get the same"),
    "positions for one token": (with_positions_for_the_class_token_alone, "swapping", "where are"),
    "always in eval mode": (lambda m, x: m.eval().right(x), "train and eval", "is it ever called"),
    "dropout in every mode": (lambda m, x: m.right(F.dropout(x)), "train and eval", "is random"),
    "a logarithm of logits": (lambda m, x: m.right(x).log(), "one batch", "nan or inf"),
    "a part of the image": (lambda m, x: m.right(F.pad(x[..., :24], (0, 8))), "the output depends",
                            "8 columns and 0 rows"),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault):
    way, test, words = PLANTED[fault]
    torch.manual_seed(0)
    findings = diagnose(Broken(way, dropout=0.1), *images_and_labels())
    assert [words for f in findings if f.result == "failed" and f.test.startswith(test)
            and words in f.why]  # fmt: skip


class Unbiased(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight)


def test_a_bias_that_is_left_out_is_found():
    model = ours()
    model.encoder.blocks[0].mlp[0] = Unbiased(64, 96)
    result, why = other("gradient reaches every parameter", model)
    assert (result, why) == ("failed", "none at encoder.blocks.0.mlp.0.bias")


def test_a_model_in_which_nothing_can_learn_is_told_so():
    result, why = other("gradient reaches every parameter", ours().requires_grad_(False))
    assert (result, "no parameter can learn" in why) == ("failed", True)


def test_decay_of_biases_is_no_fault_without_tokens():
    model, test = Convolutions(), "decay where it belongs"
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=5e-4)
    assert other(test, model, optimizer)[0] == "passed"
    model = ThreeMatrices()  # a head may be called cls_head
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1))
    assert other(test, model, optimizer)[0] == "passed"


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
