"""The whole model: the authors' sizes and first weights, and what its answer depends on."""

import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision.models import vision_transformer

from vit_tutorial.lab.export import export_onnx
from vit_tutorial.model import VARIANTS, VisionTransformer, ViTConfig, variant
from vit_tutorial.patches import patchify, unpatchify

TINY = dict(
    image_size=(8, 12), patch_size=4, channels=3, classes=5,
    layers=2, hidden_size=16, mlp_size=32, heads=4,
)  # fmt: skip


def tiny(**changes):
    """A small model in eval mode whose parameters are all drawn anew: no zero hides a part."""
    model = VisionTransformer(ViTConfig(**{**TINY, **changes}))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def pictures(B=2, C=3, H=8, W=12):
    return torch.randn(B, C, H, W, dtype=torch.float64)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


each_pool = pytest.mark.parametrize("pool", ["token", "mean"])


# ---- the authors' sizes

AUTHORS = {
    "Ti/16": 5_717_416,
    "S/16": 22_050_664,
    "B/16": 86_567_656,
    "B/32": 88_224_232,
    "L/16": 304_326_632,
    "H/14": 632_045_800,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_as_many_parameters_as_the_authors_state(name):
    with torch.device("meta"):
        assert parameters(VisionTransformer(variant(name))) == AUTHORS[name]


def test_mean_pooling_has_as_many_parameters_as_the_authors_gap():
    with torch.device("meta"):
        assert parameters(VisionTransformer(variant("B/16", pool="mean"))) == 86_566_120


def test_a_representation_adds_one_dense_layer():
    D, R, K = 16, 24, 5
    more = parameters(tiny(representation_size=R)) - parameters(tiny())
    assert more == (D * R + R) + (R * K + K) - (D * K + K)


def test_a_variant_can_be_changed_by_name():
    config = variant("S/16", image_size=(32, 48), classes=10)
    assert (config.layers, config.hidden_size, config.heads) == (12, 384, 6)
    assert (config.classes, config.grid) == (10, (2, 3))


@pytest.mark.parametrize(("name", "nearest"), [("B16", "'B/16'"), ("Ti/32", "'Ti/16'"), ("X", "")])
def test_an_unknown_variant_is_refused_with_the_nearest_names(name, nearest):
    with pytest.raises(ValueError, match=f"unknown variant '{name}'; did you mean .*{nearest}"):
        variant(name)


# ---- the same answer by other people's code


@pytest.mark.parametrize("representation_size", [None, 24])
def test_logits_agree_with_torchvision(representation_size):
    model = tiny(image_size=12, representation_size=representation_size)
    theirs = vision_transformer.VisionTransformer(
        image_size=12, patch_size=4, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=32,
        num_classes=5, representation_size=representation_size,
    ).double().eval()  # fmt: skip
    names = {
        "embedding.patches.projection.": "conv_proj.",
        "embedding.positions": "encoder.pos_embedding",
        "embedding.class_token": "class_token",
        "encoder.blocks.": "encoder.layers.encoder_layer_",
        ".norm1.": ".ln_1.",
        ".norm2.": ".ln_2.",
        "encoder.norm.": "encoder.ln.",
        ".attention.qkv.": ".self_attention.in_proj_",
        ".attention.projection.": ".self_attention.out_proj.",
    }
    deep = {"head.0.": "heads.pre_logits.", "head.2.": "heads.head."}
    names |= deep if representation_size else {"head.": "heads.head."}
    weights, shapes = {}, theirs.state_dict()
    for name, tensor in model.state_dict().items():
        for ours, their in names.items():
            name = name.replace(ours, their)
        weights[name] = tensor.view_as(shapes[name])
    theirs.load_state_dict(weights)
    images = pictures(W=12, H=12)
    assert_close(model(images), theirs(images))


def test_logits_of_images_that_are_not_square_agree_with_timm():
    timm = pytest.importorskip("timm.models.vision_transformer", reason="in the extra `compare`")
    model = tiny()
    theirs = timm.VisionTransformer(
        img_size=(8, 12), patch_size=4, num_classes=5, embed_dim=16, depth=2, num_heads=4,
        mlp_ratio=2,
    ).double().eval()  # fmt: skip
    with torch.no_grad():  # both list their parameters in the order of the forward pass
        for ours, their in zip(model.parameters(), theirs.parameters(), strict=True):
            their.copy_(ours.view_as(their))
    images = pictures()
    assert_close(model(images), theirs(images))


# ---- what the answer depends on


@given(
    C=st.integers(1, 4), P=st.integers(1, 4), rows=st.integers(1, 3), cols=st.integers(1, 3),
    K=st.integers(1, 4), pool=st.sampled_from(["token", "mean"]),
    positions=st.sampled_from(["learned", "sincos", "none"]),
)  # fmt: skip
def test_images_of_any_size_that_patches_tile_get_one_logit_per_class(
    C, P, rows, cols, K, pool, positions
):
    model = tiny(
        image_size=(rows * P, cols * P), patch_size=P, channels=C, classes=K,
        pool=pool, positions=positions,
    )  # fmt: skip
    images = pictures(2, C, rows * P, cols * P)
    T = rows * cols + (pool == "token")
    assert model.config.grid == (rows, cols)
    assert model(images).shape == (2, K)
    assert model.attention_maps(images).shape == (2, 2, 4, T, T)


@each_pool
def test_every_pixel_has_a_say(pool):
    model, images = tiny(pool=pool), pictures().requires_grad_()
    (model(images) * torch.arange(1.0, 6.0)).sum().backward()
    assert (images.grad.abs() > 1e-12).all()


@each_pool
def test_the_logits_of_an_image_do_not_depend_on_its_batch(pool):
    model, images = tiny(pool=pool), pictures(4)
    one_by_one = torch.cat([model(image[None]) for image in images])
    assert_close(model(images), one_by_one)


def shuffled(images):
    """The same patches in another order."""
    patches = patchify(images, 4)
    return unpatchify(patches[:, torch.tensor([3, 0, 5, 1, 4, 2])], 4, rows=2)


@each_pool
@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_positions_are_all_that_tells_patches_apart(pool, positions):
    model, images = tiny(pool=pool, positions=positions), pictures()
    assert (model(images) - model(shuffled(images))).abs().max() > 1e-3
    nn.init.zeros_(model.embedding.positions)
    assert_close(model(images), model(shuffled(images)))


@each_pool
def test_without_positions_the_order_of_patches_does_not_matter(pool):
    model, images = tiny(pool=pool, positions="none"), pictures()
    assert_close(model(images), model(shuffled(images)))


def test_the_head_reads_the_class_token_and_nothing_else():
    model, images = tiny(), pictures()
    z = model.encoder(model.embedding(images))
    assert_close(model(images), F.linear(z[:, 0], model.head.weight, model.head.bias))


def test_mean_pooling_reads_all_patches_alike_after_the_last_norm():
    model, images = tiny(pool="mean"), pictures()
    z = model.embedding(images)
    for block in model.encoder.blocks:
        z = block(z)
    norm = model.encoder.norm
    tokens = F.layer_norm(z, (16,), norm.weight, norm.bias, eps=1e-6).unbind(dim=1)
    assert_close(model.features(images), sum(tokens) / 6)


@each_pool
def test_without_classes_the_answer_is_the_features(pool):
    model, images = tiny(pool=pool, classes=0), pictures()
    assert model(images).shape == (2, 16)
    assert torch.equal(model(images), model.features(images))


def test_a_representation_is_a_tanh_layer_before_the_head():
    model, images = tiny(representation_size=24), pictures()
    first, _, last = model.head
    hidden = torch.tanh(model.features(images) @ first.weight.T + first.bias)
    assert_close(model(images), hidden @ last.weight.T + last.bias)


@each_pool
def test_looking_at_attention_leaves_the_answer_unchanged(pool):
    model, images = tiny(pool=pool), pictures()
    before, state = model(images), {k: v.clone() for k, v in model.state_dict().items()}
    maps = model.attention_maps(images)
    assert torch.equal(model(images), before)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not maps.requires_grad
    assert_close(maps.sum(dim=-1), torch.ones(maps.shape[:-1], dtype=torch.float64))


def test_every_parameter_learns_but_the_key_bias():
    model = tiny()
    F.cross_entropy(model(pictures(8)), torch.arange(8) % 5).backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if name.endswith("qkv.bias"):  # a number added to all scores of a row cancels in softmax
            q, k, v = gradient.chunk(3)
            assert k.abs().max() < 1e-12 < min(q.abs().max(), v.abs().max())
        else:
            assert gradient.abs().max() > 1e-9, name


def test_the_model_is_the_same_in_double_precision():
    model, images = tiny(), pictures()
    in_double = model(images)
    assert_close(model.float()(images.float()).double(), in_double, atol=1e-4, rtol=1e-4)


# ---- first weights


@pytest.fixture(scope="module")
def fresh():
    """A model as it is made, large enough for its statistics to be sharp."""
    torch.manual_seed(0)
    return VisionTransformer(
        ViTConfig(32, 4, 3, 10, layers=2, hidden_size=192, mlp_size=384, heads=3)
    )


@pytest.mark.parametrize("K", [2, 10, 1000])
def test_at_first_every_class_is_as_likely(K):
    model = VisionTransformer(ViTConfig(**{**TINY, "classes": K})).double()
    loss = F.cross_entropy(model(pictures(4)), torch.arange(4) % K)
    assert_close(loss.item(), math.log(K))


def test_class_token_and_head_start_at_zero(fresh):
    for parameter in (fresh.embedding.class_token, fresh.head.weight, fresh.head.bias):
        assert not parameter.any()


def test_only_the_last_layer_of_a_deep_head_starts_at_zero():
    first, _, last = VisionTransformer(ViTConfig(**TINY, representation_size=24)).head
    assert first.weight.any()
    assert not last.weight.any()


def test_positions_start_with_a_standard_deviation_of_2_percent(fresh):
    assert fresh.embedding.positions.std().item() == pytest.approx(0.02, rel=0.03)
    assert abs(fresh.embedding.positions.mean().item()) < 0.001


@pytest.mark.parametrize("part", range(3), ids="qkv")
def test_q_k_and_v_are_each_drawn_as_a_square_matrix(fresh, part):
    bound = math.sqrt(6 / (192 + 192))  # for the packed matrix it would be sqrt(6 / (4 * 192))
    for block in fresh.encoder.blocks:
        matrix = block.attention.qkv.weight[192 * part : 192 * (part + 1)]
        assert 0.99 * bound < matrix.abs().max().item() <= bound
        assert matrix.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_projection_and_mlp_are_xavier_uniform(fresh):
    for block in fresh.encoder.blocks:
        for linear in (block.attention.projection, block.mlp[0], block.mlp[-1]):
            bound = math.sqrt(6 / sum(linear.weight.shape))
            assert 0.99 * bound < linear.weight.abs().max().item() <= bound
            assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_attention_biases_start_at_zero_and_mlp_biases_almost(fresh):
    for block in fresh.encoder.blocks:
        assert not block.attention.qkv.bias.any()
        assert not block.attention.projection.bias.any()
        for linear in (block.mlp[0], block.mlp[-1]):
            assert linear.bias.std().item() == pytest.approx(1e-6, rel=0.2)


def test_the_patch_projection_is_lecun_normal(fresh):
    projection = fresh.embedding.patches.projection
    weight, std = projection.weight, math.sqrt(1 / (3 * 4 * 4))
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    # JAX cuts off at two standard deviations and widens what is left by 1 / 0.87962566
    assert 0.97 < weight.abs().max().item() / (2 * std / 0.87962566) <= 1
    assert not projection.bias.any()


def test_norms_start_as_plain_norms(fresh):
    for module in fresh.modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()


def test_the_same_seed_makes_the_same_model():
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(VisionTransformer(ViTConfig(**TINY)).state_dict())
    same, again, other = (torch.cat([v.flatten() for v in state.values()]) for state in models)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


# ---- what a user can get wrong


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(image_size=30, patch_size=4), "patch_size 4 does not divide image_size 30 x 30"),
        (dict(image_size=(8, 10)), "patch_size 4 does not divide image_size 8 x 10"),
        (dict(image_size=(10, 8)), "patch_size 4 does not divide image_size 10 x 8"),
        (dict(image_size=0), "image_size must be at least 1, got 0"),
        (dict(image_size=(8, -4)), "image_size must be at least 1, got -4"),
        (dict(heads=3), "3 heads do not divide hidden_size 16"),
        (dict(heads=0), "heads must be at least 1, got 0"),
        (dict(layers=0), "layers must be at least 1, got 0"),
        (dict(patch_size=-4), "patch_size must be at least 1, got -4"),
        (dict(channels=0), "channels must be at least 1, got 0"),
        (dict(mlp_size=0), "mlp_size must be at least 1, got 0"),
        (dict(dropout=1.0), r"dropout must lie in \[0, 1\), got 1.0"),
        (dict(dropout=-0.1), r"dropout must lie in \[0, 1\), got -0.1"),
        (dict(positions="learnt"), "unknown positions 'learnt'; did you mean 'learned'"),
        (dict(pool="max"), "unknown pool 'max'; did you mean 'mean'"),
        (dict(positions="sincos", hidden_size=6, heads=2), "multiple of 4 from 8 on, got 6"),
        (dict(positions="sincos", hidden_size=4, heads=2), "multiple of 4 from 8 on, got 4"),
        (dict(classes=-1), "classes=-1"),
        (dict(classes=0, representation_size=8), "classes=0 with representation_size=8"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**{**TINY, **wrong})


@pytest.mark.parametrize("shape", [(1, 8, 12), (3, 12, 8), (3, 16, 24)])
def test_images_of_another_shape_are_refused_with_both_shapes(shape):
    message = r"\(3, 8, 12\), got \({}, {}, {}\)".format(*shape)
    for ask in (tiny(), tiny().features, tiny().attention_maps):
        with pytest.raises(ValueError, match=message):
            ask(torch.zeros(2, *shape, dtype=torch.float64))


def test_a_config_cannot_be_changed_behind_its_model():
    config = ViTConfig(**TINY)
    with pytest.raises(FrozenInstanceError):
        config.layers = 3
    assert hash(config) == hash(ViTConfig(**TINY))


# ---- the model in other hands


@pytest.mark.long
@each_pool
@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_an_exported_model_takes_batches_of_any_size(pool, positions):
    model = tiny(pool=pool, positions=positions)
    sizes = ({0: torch.export.Dim("B", min=1, max=64)},)
    # strict tracing, which older releases do by default, stops at the tests' shape checks
    program = torch.export.export(model, (pictures(),), dynamic_shapes=sizes, strict=False).module()
    for B in (1, 3, 17):
        images = pictures(B)
        assert_close(program(images), model(images))


@each_pool
def test_a_traced_model_takes_batches_of_any_size(pool):
    model = tiny(pool=pool)
    traced = torch.jit.trace(model, pictures())
    for B in (1, 3, 17):
        images = pictures(B)
        assert_close(traced(images), model(images))


@pytest.mark.long
@each_pool
def test_onnx_with_a_dynamic_batch_gives_the_same_logits(pool, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is in the extra `test`")
    model, path = tiny(pool=pool).float(), tmp_path / "model.onnx"
    export_onnx(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for B in (1, 3, 17):
        images = pictures(B).float()
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        assert_close(torch.from_numpy(logits), model(images).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "sincos", "none"])
@pytest.mark.parametrize("assign", [True, False])
def test_a_model_made_without_memory_becomes_real_with_its_weights(positions, assign):
    model, images = tiny(positions=positions), pictures()
    with torch.device("meta"):
        made = VisionTransformer(ViTConfig(**TINY, positions=positions))
    made = made if assign else made.to_empty(device="cpu").double()
    made.load_state_dict(model.state_dict(), assign=assign)
    assert_close(made.eval()(images), model(images))
