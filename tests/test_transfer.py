"""A trained model keeps what it has learned when its head, its images or its rates change."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.testing import assert_close

from vit_tutorial.data import Data, Split, load
from vit_tutorial.lab.loop import Training, train, train_step
from vit_tutorial.lab.optim import layer_groups
from vit_tutorial.lab.recipes import Recipe
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.positions import resample_positions, sincos_positions
from vit_tutorial.train import evaluate, parameter_groups, predictions, set_rate
from vit_tutorial.transfer import adapt, features, few_shot, least_squares, score, transfer
from vit_tutorial.weights.checkpoint import load_pretrained
from vit_tutorial.weights.preprocessing import Preprocessing


def model(**changes):
    shape = dict(image_size=16, patch_size=4, channels=3, classes=5, layers=3, hidden_size=16)
    made = VisionTransformer(ViTConfig(**{**shape, **dict(mlp_size=24, heads=2), **changes}))
    for name, parameter in made.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.1)
    return made


def split(M, classes=3, shape=(3, 16, 16), seed=0):
    drawn = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (M, *shape), generator=drawn).byte()
    C = shape[0]
    return Split(images, torch.arange(M) % classes, torch.full((C,), 0.4), torch.full((C,), 0.3))


def small_data():
    return Data("noise", split(24), split(6, seed=1), split(6, seed=2), list("abc"))


def timm_names(state):
    """Our weights by timm's names, in its shapes."""
    pairs = {
        "embedding.patches.projection": "patch_embed.proj",
        "embedding.class_token": "cls_token",
        "embedding.positions": "pos_embed",
        "encoder.": "",
        "attention.projection": "attn.proj",
        "attention.qkv": "attn.qkv",
        "mlp.0": "mlp.fc1",
        "mlp.3": "mlp.fc2",
    }
    renamed = {}
    for name, value in state.items():
        for ours, theirs in pairs.items():
            name = name.replace(ours, theirs)
        renamed[name] = value.view(-1, 3, 4, 4) if name == "patch_embed.proj.weight" else value
    return renamed


def in_timm(of):
    timm = pytest.importorskip("timm", reason="timm is in the extra `compare`")
    c = of.config
    return timm.models.VisionTransformer(
        img_size=c.image_size, patch_size=c.patch_size, num_classes=c.classes, depth=c.layers,
        embed_dim=c.hidden_size, num_heads=c.heads, mlp_ratio=c.mlp_size / c.hidden_size,
    ).eval()  # fmt: skip


# ---- a new head, another size


@pytest.mark.parametrize("changes", [{}, dict(pool="mean"), dict(representation_size=8)])
def test_a_new_head_starts_at_zero_above_the_same_features(changes):
    old, images = model(**changes), torch.randn(2, 3, 16, 16)
    before = {name: weight.clone() for name, weight in old.state_dict().items()}
    new = transfer(old, 7)
    assert new(images).shape == (2, 7)
    assert new(images).abs().max() == 0
    assert torch.equal(new.features(images), old.features(images))
    assert new.config == replace(old.config, classes=7, representation_size=None)
    nn.init.ones_(new.encoder.norm.weight)
    assert all(torch.equal(weight, before[name]) for name, weight in old.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_a_new_model_is_in_the_mode_and_of_the_type_of_the_old_one(training):
    new = transfer(model().double().train(training), 2)
    assert new.training is training
    assert {parameter.dtype for parameter in new.parameters()} == {torch.float64}
    assert all(parameter.requires_grad for parameter in new.parameters())


@pytest.mark.parametrize("size", [8, 24, 40])
def test_at_another_resolution_the_features_are_those_of_timm_at_that_resolution(size):
    old, images = model(), torch.randn(2, 3, size, size)
    theirs = in_timm(old)
    theirs.load_state_dict(timm_names(old.state_dict()))
    theirs.set_input_size(img_size=size)
    expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
    assert_close(transfer(old, 2, size).features(images), expected, atol=1e-5, rtol=0)


def test_learned_positions_go_from_grid_to_grid_and_back_to_where_they_were():
    old = model(pool="mean")
    wide = transfer(old, 2, (8, 24))
    expected = resample_positions(old.embedding.positions, (4, 4), (2, 6), prefix_tokens=0)
    assert torch.equal(wide.embedding.positions, expected)
    assert wide(torch.zeros(1, 3, 8, 24)).shape == (1, 2)


def test_sincos_positions_are_made_anew_and_no_positions_stay_none():
    new = transfer(model(positions="sincos"), 2, 24)
    assert torch.equal(new.embedding.positions[0, 1:], sincos_positions(6, 6, 16))
    assert transfer(model(positions="none"), 2, 24).embedding.positions.abs().max() == 0


def test_a_size_that_the_patches_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="patch_size 4 does not divide image_size 18 x 18"):
        transfer(model(), 2, 18)


# ---- what is trained


def test_frozen_means_that_the_head_alone_moves_and_nothing_drops_out():
    new = transfer(model(dropout=0.5), 3, frozen=True)
    before = {name: weight.clone() for name, weight in new.state_dict().items()}
    recipe = Recipe(epochs=2, batch_size=8, weight_decay=0.5)
    list(train(new, small_data(), recipe, torch.Generator()))
    moved = {n for n, weight in new.state_dict().items() if not torch.equal(weight, before[n])}
    assert moved == {"head.weight", "head.bias"}
    assert all(p.grad is None for n, p in new.named_parameters() if not n.startswith("head"))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(new.train()(images), new.eval()(images))


def scales(of, decay):
    """Every parameter's factor on the learning rate, by name."""
    groups = layer_groups(of, parameter_groups(of, 0.1), decay)
    names = {id(parameter): name for name, parameter in of.named_parameters()}
    found = [(names[id(p)], group["scale"]) for group in groups for p in group["params"]]
    assert len(found) == len(names)  # all, and none twice
    return dict(found)


def test_layer_decay_gives_every_parameter_the_rate_that_timm_gives_it():
    optim = pytest.importorskip("timm.optim", reason="timm is in the extra `compare`")
    of = model(layers=4)
    theirs = in_timm(of)
    names = {id(parameter): name for name, parameter in theirs.named_parameters()}
    groups = optim.param_groups_layer_decay(theirs, layer_decay=0.6)
    expected = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    ours = timm_names({n: torch.full((16 * 48,), s) for n, s in scales(of, 0.6).items()})
    for name, scale in expected.items():
        # timm counts the last norm to the last block, BEiT and this package to the head
        said = 1.0 if name.startswith("norm.") else scale
        assert ours[name].flatten()[0].item() == pytest.approx(said), name


def test_layer_decay_leaves_weight_decay_as_it_is_and_a_decay_of_1_changes_nothing():
    of = model()
    groups = parameter_groups(of, 0.1)
    assert layer_groups(of, groups, 1.0) is groups
    decayed, others = ({id(p) for p in group["params"]} for group in groups)
    for group in layer_groups(of, groups, 0.5):
        whole = decayed if group["weight_decay"] else others
        assert {id(p) for p in group["params"]} <= whole
    assert scales(of, 0.5)["embedding.positions"] == 0.5**4


def test_the_first_step_moves_every_part_by_its_own_rate():
    of, batch = model(), (torch.randn(8, 3, 16, 16), torch.arange(8) % 5)
    factors, before = scales(of, 0.5), {n: p.detach().clone() for n, p in of.named_parameters()}
    optimizer = torch.optim.AdamW(layer_groups(of, parameter_groups(of, 0.0), 0.5))
    set_rate(optimizer, 1e-3)
    train_step(of, optimizer, batch, Recipe(gradient_clip=1e9))
    for name, parameter in of.named_parameters():  # Adam's first step is the rate
        step = (parameter - before[name]).abs().max().item()
        assert step == pytest.approx(1e-3 * factors[name], rel=0.02), name


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5])
def test_a_layer_decay_that_makes_no_sense_is_refused(decay):
    with pytest.raises(ValueError, match=rf"layer_decay must lie in \(0, 1\], got {decay}"):
        Recipe(layer_decay=decay)


def test_training_with_layer_decay_can_be_taken_up_again():
    recipe = Recipe(epochs=2, batch_size=8, layer_decay=0.5)

    def dice():
        return torch.Generator().manual_seed(0)

    torch.manual_seed(0)
    _, whole = train(transfer(model(), 3), small_data(), recipe, dice())
    torch.manual_seed(0)
    half = Training(transfer(model(), 3), small_data(), recipe, dice())
    next(half.epochs())
    resumed = Training(transfer(model(), 3), small_data(), recipe, dice(), half.state())
    (second,) = resumed.epochs()
    assert (second.train_loss, second.val_loss) == (whole.train_loss, whole.val_loss)


def test_features_of_a_model_in_half_precision_feed_any_estimator():
    of = model().to(torch.bfloat16)
    assert features(of, split(7)).dtype == torch.float32
    assert 0 <= score(KNeighborsClassifier(1), of, split(9), split(7)) <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_resized_as_in_float32(dtype):
    old = model().to(dtype)
    new = transfer(old, 2, image_size=24)
    expected = resample_positions(old.embedding.positions.float(), (4, 4), (6, 6))
    assert new.embedding.positions.dtype == dtype
    assert_close(new.embedding.positions, expected.to(dtype))


# ---- images as a model reads them


def prepared(C, H, W):
    return Preprocessing((H, W), (0.5,) * C, (0.25,) * C, ("a", "b", "c"))


@pytest.mark.parametrize(("C", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_become_what_pillow_would_make_of_them(C, mode, channels):
    smooth = torch.nn.functional.interpolate(
        torch.rand(4, channels, 5, 5), (40, 30), mode="bicubic"
    )
    given = replace(split(4, shape=(channels, 40, 30)), images=(255 * smooth).clamp(0, 255).byte())
    got = adapt(given, prepared(C, 24, 32))
    assert got.images.shape == (4, C, 24, 32)
    assert (got.mean.tolist(), got.std.tolist()) == ([0.5] * C, [0.25] * C)
    for image, expected in zip(got.images, given.images, strict=True):
        picture = Image.fromarray(expected.permute(1, 2, 0).numpy().squeeze()).convert(mode)
        resized = np.asarray(picture.resize((32, 24), Image.Resampling.BICUBIC)).reshape(24, 32, C)
        assert torch.equal(image.permute(1, 2, 0), torch.tensor(resized))


def test_images_that_fit_are_left_alone_and_channels_that_cannot_be_made_are_refused():
    given = split(4)
    assert torch.equal(adapt(given, prepared(3, 16, 16)).images, given.images)
    with pytest.raises(ValueError, match="the model reads 4 channels, an image has 1 or 3"):
        adapt(given, prepared(4, 16, 16))


def test_images_to_train_on_are_whole_where_those_to_ask_about_are_cropped():
    given, steps = split(4), replace(prepared(3, 8, 8), resize=12, interpolation="bilinear")
    whole = adapt(given, steps)
    expected = replace(steps, resize=None, interpolation="bicubic")
    assert torch.equal(whole.images, torch.stack([expected.bytes(i) for i in given.images]))
    assert not torch.equal(whole.images, steps.split(given).images)


# ---- frozen features


@pytest.mark.parametrize("training", [True, False])
def test_features_are_what_the_head_reads_in_eval_mode(training):
    of, images = model(dropout=0.5).train(training), split(7)
    got = features(of, images, batch_size=3)
    assert of.training is training
    assert not got.requires_grad
    assert_close(of.eval().head(got), predictions(of, images))


def test_few_shot_draws_as_many_of_each_class_anew_for_every_seed():
    given = split(30)
    one, again, other = (
        few_shot(given, 4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert one.labels.bincount().tolist() == [4, 4, 4]
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, other.images)
    images = {tuple(image.flatten().tolist()): label for image, label in
              zip(given.images, given.labels.tolist(), strict=True)}  # fmt: skip
    drawn = [tuple(image.flatten().tolist()) for image in one.images]
    assert len(set(drawn)) == 12
    assert [images[image] for image in drawn] == one.labels.tolist()


@pytest.mark.parametrize("per_class", [0, 11])
def test_few_shot_refuses_more_than_there_are(per_class):
    with pytest.raises(ValueError, match=f"1 to 10 images of each class .*, got {per_class}"):
        few_shot(split(30), per_class, torch.Generator())


@pytest.mark.parametrize(("M", "D"), [(60, 8), (9, 30), (3, 3)])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e4])
def test_least_squares_are_scikit_learns_ridge_regression_to_plus_and_minus_1(M, D, strength):
    X, labels = torch.randn(M, D, dtype=torch.float64) + 3, torch.arange(M) % 3
    Y = torch.where(labels[:, None] == torch.arange(3), 1.0, -1.0).double()
    theirs = Ridge(alpha=strength).fit(X.numpy(), Y.numpy())
    ours = least_squares(X, labels, 3, strength)
    assert_close(ours.weight.detach(), torch.tensor(theirs.coef_), atol=1e-6, rtol=0)
    assert_close(ours.bias.detach(), torch.tensor(theirs.intercept_), atol=1e-6, rtol=0)


def test_the_closed_form_is_where_the_penalised_error_has_no_slope():
    X, labels = torch.randn(20, 6, dtype=torch.float64), torch.arange(20) % 4
    head = least_squares(X, labels, 4, strength=0.7)
    targets = 2 * torch.eye(4, dtype=torch.float64)[labels] - 1
    (((head(X) - targets) ** 2).sum() + 0.7 * (head.weight**2).sum()).backward()
    assert head.weight.grad.abs().max() < 1e-12
    assert head.bias.grad.abs().max() < 1e-12


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_a_strength_that_is_not_above_0_is_refused(strength):
    with pytest.raises(ValueError, match=re.escape(f"strength must be above 0, got {strength}")):
        least_squares(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]), 2, strength)


def test_a_label_without_a_column_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.1 for 2 classes, got 0\.\.2"):
        least_squares(torch.randn(3, 2), torch.arange(3), 2, 1.0)


@pytest.fixture(scope="module")
def digits():
    """200 small digits to learn from, 100 to be asked about, and the shipped model."""
    data, shipped = load("digits"), load_pretrained("mnist")
    train, test = (
        replace(part, images=part.images[:M], labels=part.labels[:M])
        for part, M in ((data.train, 200), (data.test, 100))
    )
    return shipped, train, test


def test_the_closed_form_is_a_head_for_the_model(digits):
    shipped, train, test = digits
    new = transfer(shipped, 10)
    new.head = least_squares(features(shipped, train), train.labels, 10, strength=1.0)
    assert evaluate(new, test).accuracy > 0.8


@pytest.mark.parametrize(
    "estimator",
    [
        KNeighborsClassifier(5, metric="cosine"),
        LogisticRegression(max_iter=1000),
        RandomForestClassifier(100, random_state=0),
    ],
)
def test_any_classifier_of_scikit_learn_can_read_frozen_features(digits, estimator):
    assert score(estimator, *digits) > 0.8


def test_the_score_is_the_share_of_test_images_that_the_classifier_names_right(digits):
    shipped, train, test = digits
    near = torch.cdist(features(shipped, test), features(shipped, train)).argmin(dim=1)
    expected = (train.labels[near] == test.labels).double().mean().item()
    assert score(KNeighborsClassifier(1), *digits) == pytest.approx(expected)
