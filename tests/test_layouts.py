"""Other people's weights give other people's logits, or are refused by name."""

import os

import numpy as np
import pytest
import torch
from others import (
    TO_1E_5,
    as_in_files,
    authors_logits,
    filled,
    hf_model,
    noise,
    npz_arrays,
    timm_model,
    torchvision_model,
    transformers,
)
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close
from torchvision import models

from vit_tutorial import VisionTransformer, ViTConfig
from vit_tutorial.encoder import MLP
from vit_tutorial.weights import hub, layouts
from vit_tutorial.weights.hub import from_checkpoint
from vit_tutorial.weights.layouts import (
    from_huggingface,
    from_npz,
    from_timm,
    from_torchvision,
    read_checkpoint,
    to_timm,
)


def read_config(source, *stated, **more):
    """Only the config of a checkpoint."""
    return read_checkpoint(source, *stated, **more)[0]


def ours(source, convert, **stated):
    """Our model with converted weights; whoever does not know the layout finds the same."""
    config, state = read_checkpoint(source, **stated)
    model = VisionTransformer(config).double().eval()
    model.load_state_dict(convert(source))
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
    return model


@torch.no_grad()
def assert_same(model, theirs, *, C=3):
    """Our model and their function agree on random images."""
    images = noise(2, C, *model.config.height_width)
    logits = theirs(images)
    assert 0.1 < logits.std() < 10
    assert_close(model(images), logits, **TO_1E_5)


# ---- timm


@pytest.mark.parametrize(("D", "h"), [(192, 3), (384, 6), (768, 12)], ids=["tiny", "small", "base"])
def test_the_heads_of_timms_sizes_need_not_be_stated(D, h):
    theirs = timm_model(size=224, P=16, D=D, h=h, L=1, K=10)
    model = ours(theirs.state_dict(), from_timm)
    assert model.config == ViTConfig(
        image_size=224, classes=10, layers=1, hidden_size=D, mlp_size=4 * D, heads=h
    )
    assert_same(model, theirs)


@pytest.mark.parametrize(
    "changes",
    [
        dict(size=48),
        dict(size=28, P=14),
        dict(size=(16, 48), in_chans=1),
        dict(K=0),
        dict(mlp_ratio=2, in_chans=5),
        dict(class_token=False, global_pool="avg", fc_norm=False),
        dict(size=(24, 40), class_token=False, global_pool="avg", fc_norm=False, K=0),
    ],
)
def test_timms_logits_and_its_weights_again_to_the_bit(changes):
    theirs, channels = timm_model(**changes), changes.get("in_chans", 3)
    weights, size = theirs.state_dict(), changes.get("size", 32)
    stated = {} if isinstance(size, int) else {"image_size": size}
    model = ours(weights, from_timm, heads=4, **stated)
    assert_same(model, theirs, C=channels)
    again = to_timm(model.state_dict(), channels=channels if channels == 5 else None)
    assert list(again) == list(to_timm(from_timm(weights), channels=channels))
    assert set(again) == set(weights)
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    timm_model(**changes).load_state_dict(again, strict=True)


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_a_model_of_ours_goes_to_timm_and_back(pool):
    config = ViTConfig((8, 12), 4, 1, 5, 2, 16, 32, 4, pool=pool)
    model = filled(VisionTransformer(config))
    more = {} if pool == "token" else dict(class_token=False, global_pool="avg", fc_norm=False)
    theirs = timm_model((8, 12), 4, 16, 4, mlp_ratio=2, in_chans=1, **more)
    theirs.load_state_dict(to_timm(model.state_dict()), strict=True)
    assert_same(model, theirs, C=1)
    back = from_timm(to_timm(model.state_dict()))
    assert list(back) == list(model.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(class_token=False, global_pool="avg"), r"missing.*norm\.weight.*surplus.*fc_norm"),
        (dict(global_pool="avg"), r"fc_norm\.weight"),
        (dict(global_pool="map"), r"attn_pool\.latent"),
        (dict(qkv_bias=False), r"missing tensors: blocks\.0\.attn\.qkv\.bias"),
        (dict(init_values=0.1), r"surplus: blocks\.0\.ls1\.gamma"),
        (dict(pre_norm=True), r"norm_pre\.weight"),
        (dict(reg_tokens=4), "reg_token"),
        (dict(qk_norm=True), r"q_norm\.weight"),
        (dict(pos_embed="none"), "missing tensors: pos_embed"),
    ],
)
def test_what_timm_has_and_we_do_not_is_refused_by_name(changes, named):
    with pytest.raises(ValueError, match=named):
        from_timm(timm_model(**changes).state_dict())


@pytest.mark.parametrize("name", ["dist_token", "mask_token", "head_dist.weight"])
def test_a_token_or_head_too_many_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"surplus: {name}"):
        from_timm({**timm_model().state_dict(), name: torch.zeros(1, 1, 64)})


def test_what_timm_does_not_have_does_not_go_to_timm():
    sizes = dict(image_size=8, patch_size=4, layers=1, hidden_size=16, mlp_size=16, heads=2)
    deep = VisionTransformer(ViTConfig(**sizes, representation_size=8)).state_dict()
    with pytest.raises(ValueError, match=r"head\.0\.weight"):
        to_timm(deep)
    fixed = VisionTransformer(ViTConfig(**sizes, positions="sincos")).state_dict()
    with pytest.raises(ValueError, match=r"missing tensors: embedding\.positions"):
        to_timm(fixed)
    two = VisionTransformer(ViTConfig(**sizes, channels=2)).state_dict()
    with pytest.raises(ValueError, match=r"\(16, 32\) has no square patches of 3 or 1 channels"):
        to_timm(two)


# ---- torchvision


@pytest.mark.parametrize(
    ("name", "sizes", "config"),
    [
        ("vit_b_16", (224, 16, 768, 12, 3072), dict(patch_size=16)),
        ("vit_b_32", (224, 32, 768, 12, 3072), dict(patch_size=32)),
        (
            "vit_h_14",
            (56, 14, 1280, 16, 5120),
            dict(patch_size=14, hidden_size=1280, mlp_size=5120, heads=16, image_size=56),
        ),
    ],
)
def test_torchvisions_sizes_at_depth_1(name, sizes, config):
    theirs = torchvision_model(*sizes, K=10, L=1)
    with torch.device("meta"):  # the same layout as the published model, but for the depth
        published = getattr(models, name)(num_classes=10, image_size=sizes[0]).state_dict()
    assert all(published[n].shape == t.shape for n, t in theirs.state_dict().items())
    model = ours(theirs.state_dict(), from_torchvision)
    assert model.config == ViTConfig(classes=10, layers=1, **config)
    assert_same(model, theirs)


@pytest.mark.parametrize("changes", [{}, dict(representation_size=24), dict(size=40)])
def test_torchvisions_logits(changes):
    theirs = torchvision_model(**changes)
    model = ours(theirs.state_dict(), from_torchvision, heads=4)
    assert model.config.representation_size == changes.get("representation_size")
    assert_same(model, theirs)


def test_torchvision_without_heads_gives_features():
    theirs = torchvision_model()
    theirs.heads = nn.Identity()
    assert_same(ours(theirs.state_dict(), from_torchvision, heads=4), theirs)


def test_the_older_names_in_torchvisions_files_are_known():
    weights = torchvision_model().state_dict()
    old = {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): tensor
        for name, tensor in weights.items()
    }
    assert "encoder.layers.encoder_layer_1.mlp.linear_2.bias" in old
    new = from_torchvision(weights)
    assert all(torch.equal(tensor, new[name]) for name, tensor in from_torchvision(old).items())
    torchvision_model().load_state_dict(old)  # torchvision thinks so too
    del old["encoder.layers.encoder_layer_1.mlp.linear_2.bias"]
    with pytest.raises(ValueError, match=r"missing tensors: .*_1\.mlp\.linear_2\.bias;"):
        from_torchvision(old)


# ---- Hugging Face


@pytest.mark.parametrize("rename", [str, as_in_files], ids=["memory", "files"])
@pytest.mark.parametrize("epsilon", [1e-12, 0.1])
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "gelu_pytorch_tanh"])
def test_hugging_faces_logits(rename, epsilon, act):
    theirs = hf_model(layer_norm_eps=epsilon, hidden_act=act)
    weights = {rename(name): tensor for name, tensor in theirs.state_dict().items()}
    model = ours(weights, from_huggingface, **hub.hf_settings(theirs.config.to_dict()))
    assert (model.config.heads, model.config.epsilon) == (4, epsilon)
    assert model.config.gelu == ("exact" if act == "gelu" else "tanh")
    assert_same(model, lambda images: theirs(images).logits)


@pytest.mark.parametrize("rename", [str, as_in_files], ids=["memory", "files"])
@pytest.mark.parametrize("pooler", [True, False])
def test_hugging_faces_features_are_what_its_pooler_reads(rename, pooler):
    theirs = filled(transformers.ViTModel(hf_model().config, add_pooling_layer=pooler))
    weights = {rename(name): tensor for name, tensor in theirs.state_dict().items()}
    assert ("pooler.dense.weight" in weights) == pooler
    model = ours(weights, from_huggingface, heads=4)
    assert model.config.classes == 0
    assert model.config.epsilon == 1e-12
    assert_same(model, lambda images: theirs(images).last_hidden_state[:, 0])


def test_images_that_are_not_square_agree_with_hugging_face():
    theirs = hf_model(image_size=[16, 40])
    settings = hub.hf_settings(theirs.config.to_dict())
    model = ours(theirs.state_dict(), from_huggingface, **settings)
    assert model.config.grid == (2, 5)
    assert_same(model, lambda images: theirs(images).logits)


def test_attention_maps_are_hugging_faces():
    theirs = hf_model(attn_implementation="eager")
    model = ours(theirs.state_dict(), from_huggingface, heads=4)
    images = noise(2, 3, 32, 32)
    maps = torch.stack(theirs(images, output_attentions=True).attentions, dim=1)
    assert maps.shape == (2, 2, 4, 17, 17)
    assert maps.std() > 0.01
    assert_close(model.attention_maps(images), maps, **TO_1E_5)


def test_a_mask_token_of_hugging_face_is_refused_by_name():
    theirs = transformers.ViTModel(hf_model().config, use_mask_token=True)
    with pytest.raises(ValueError, match=r"surplus: embeddings\.mask_token"):
        from_huggingface(theirs.state_dict())


def test_another_activation_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown hidden_act 'quick_gelu'; did you mean 'gelu'"):
        hub.hf_settings({"hidden_act": "quick_gelu"})


# ---- the authors' npz


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(pre=24),
        dict(K=0),
        dict(C=1, D=16, h=4),  # as many heads as numbers in a head
        dict(D=16, h=1),
        dict(token=False),
        dict(size=(16, 40)),
    ],
)
def test_the_authors_logits(changes):
    arrays, size = npz_arrays(**changes), changes.get("size")
    model = ours(arrays, from_npz, **({"image_size": size} if size else {}))
    assert model.config.heads == changes.get("h", 4)
    assert (model.config.epsilon, model.config.gelu) == (1e-6, "tanh")
    assert model.config.representation_size == changes.get("pre")
    assert_same(model, lambda images: authors_logits(arrays, images), C=changes.get("C", 3))


def test_the_two_gelus_differ_where_it_can_be_seen():
    arrays = npz_arrays()
    exact = ours(arrays, from_npz, gelu="exact")
    images = noise(2, 3, 32, 32)
    gap = (exact(images) - authors_logits(arrays, images)).abs().max()
    assert 1e-5 < gap < 1e-2


# ---- strict

SMALL = {
    "timm": (from_timm, lambda: timm_model(L=1, D=16).state_dict()),
    "torchvision": (
        from_torchvision,
        lambda: torchvision_model(L=1, D=16, mlp=24, representation_size=12).state_dict(),
    ),
    "memory": (
        from_huggingface,
        lambda: hf_model(num_hidden_layers=1, hidden_size=16).state_dict(),
    ),
    "files": (
        from_huggingface,
        lambda: {as_in_files(name): tensor for name, tensor in SMALL["memory"][1]().items()},
    ),
    "npz": (from_npz, lambda: {n: torch.tensor(a) for n, a in npz_arrays(L=1, pre=12).items()}),
    "ours": (to_timm, lambda: from_timm(timm_model(L=1, D=16).state_dict())),
}
MISSHAPEN = {
    "a column less": lambda t: t[..., :-1],
    "an axis more": lambda t: t[None],
    "twice": lambda t: torch.cat([t, t]),
}
each_layout = pytest.mark.parametrize("layout", SMALL)


@each_layout
def test_a_missing_tensor_is_named(layout):
    convert, make = SMALL[layout]
    weights = make()
    convert(weights)
    for name in weights:
        with pytest.raises(ValueError, match=rf"missing tensors: {name};|without {name}"):
            convert({n: tensor for n, tensor in weights.items() if n != name})


@each_layout
def test_a_surplus_tensor_is_named(layout):
    convert, make = SMALL[layout]
    weights = make()
    for name in ("extra", *(f"{n}_2" for n in weights)):
        with pytest.raises(ValueError, match=f"surplus: {name}$"):
            convert({**weights, name: torch.zeros(2)})


@each_layout
@pytest.mark.parametrize("how", MISSHAPEN)
def test_a_misshapen_tensor_is_named(layout, how):
    convert, make = SMALL[layout]
    weights = make()
    for name, tensor in weights.items():
        with pytest.raises(ValueError, match=name):
            convert({**weights, name: MISSHAPEN[how](tensor)})


def test_query_key_and_value_whose_sizes_only_add_up_are_refused():
    weights = hf_model().state_dict()
    for part, rows in (("q", 60), ("k", 68)):
        weights[f"vit.layers.0.attention.{part}_proj.weight"] = torch.zeros(rows, 64)
    with pytest.raises(ValueError, match=r"q_proj\.weight \(60, 64\).*k_proj\.weight \(68, 64\)"):
        from_huggingface(weights)


def test_long_lists_of_names_are_cut():
    with pytest.raises(ValueError, match=r"not the tensors of timm: a0, a1.* and 12 more"):
        from_timm({f"a{i}": torch.zeros(1) for i in range(20)})


# ---- what no tensor tells


def test_a_grid_that_is_not_square_has_to_be_stated_and_to_fit():
    weights = timm_model(size=(16, 48)).state_dict()
    with pytest.raises(ValueError, match=r"pos_embed has 12 patches and cls_token: no square"):
        read_config(weights, heads=4)
    for ask in (from_timm, read_config):
        with pytest.raises(ValueError, match=r"12 patches.*image_size \(16, 40\) makes 2 x 5"):
            ask(weights, image_size=(16, 40))
    sizes = [read_config(weights, size, heads=4).grid for size in ((16, 48), (48, 16), (24, 32))]
    assert sizes == [(2, 6), (6, 2), (3, 4)]


def test_a_model_without_class_token_whose_positions_seem_to_have_one_says_its_size():
    weights = timm_model(
        size=(16, 40), class_token=False, global_pool="avg", fc_norm=False
    ).state_dict()  # 2 x 5 = 3 x 3 + 1
    with pytest.raises(ValueError, match="pos_embed has 10 patches without cls_token: no square"):
        from_timm(weights)
    state = from_timm(weights, image_size=(16, 40))
    assert set(to_timm(state, image_size=(16, 40))) == set(weights)


def test_positions_for_the_patches_alone_are_no_image_of_theirs():
    weights = timm_model(no_embed_class=True).state_dict()
    with pytest.raises(ValueError, match="pos_embed has 15 patches and cls_token: no square"):
        read_config(weights)
    with pytest.raises(ValueError, match=r"15 patches and cls_token.*makes 4 x 4"):
        from_timm(weights, image_size=32)


@pytest.mark.parametrize(
    ("D", "h"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1664, 16)]
)
def test_heads_that_nothing_states_are_those_of_the_published_models(D, h):
    assert layouts.published_heads(D) == h


def test_other_heads_have_to_be_stated():
    with pytest.raises(ValueError, match="64 does not divide 100: state heads"):
        read_config(timm_model(D=100, h=4, L=1).state_dict())


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (dict(gelu="quick"), "unknown gelu 'quick'; did you mean"),
        (dict(epsilon=0.0), "epsilon must lie between 0 and 1, got 0.0"),
        (dict(epsilon=float("nan")), "epsilon must lie between 0 and 1, got nan"),
        (dict(heads=5), "5 heads do not divide hidden_size 64"),
    ],
)
def test_what_is_stated_has_to_make_sense(stated, message):
    with pytest.raises(ValueError, match=message):
        read_config(timm_model(L=1).state_dict(), **stated)


def test_an_unknown_gelu_does_not_pass_for_one():
    with pytest.raises(RuntimeError, match="approximate"):
        MLP(4, 8, gelu="quick")(torch.zeros(1, 1, 4))


# ---- numbers and files


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_halves_become_float32_and_all_else_keeps_its_bits(dtype):
    weights = {name: tensor.to(dtype) for name, tensor in timm_model(L=1).state_dict().items()}
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    for name, tensor in to_timm(from_timm(weights)).items():
        assert tensor.dtype == kept
        assert torch.equal(tensor, weights[name].to(kept))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(64, dtype=torch.int8), "norm.bias holds torch.int8"),
        (np.array(["a"]), "norm.bias is no tensor"),
        (None, "norm.bias is no tensor"),
    ],
)
def test_what_is_no_array_of_floats_is_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        from_timm({**timm_model(L=1).state_dict(), "norm.bias": wrong})


def test_files_are_read_as_dicts_are(tmp_path):
    weights = timm_model(L=1).state_dict()
    save_file(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "a.pth")
    torch.save({"model": weights}, tmp_path / "b.bin")  # as DeiT's
    expected = from_timm(weights)
    for name in ("a.safetensors", "a.pth", "b.bin"):
        for path in (tmp_path / name, str(tmp_path / name)):
            read = from_timm(path)
            assert all(torch.equal(read[name], expected[name]) for name in expected)
    arrays = npz_arrays(L=1)
    np.savez(tmp_path / "a.npz", **arrays)
    for name, tensor in from_npz(tmp_path / "a.npz").items():
        assert torch.equal(tensor, from_npz(arrays)[name])


class Bomb:
    """Unpickling it calls os.mkdir."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("name", ["x.pth", "x.bin", "x.npz", "x.safetensors"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(name, tmp_path):
    bomb = Bomb(tmp_path / "harm")
    if name == "x.npz":
        np.savez(tmp_path / name, cls=np.array([bomb], dtype=object))
    else:
        torch.save({"norm.weight": bomb}, tmp_path / name)
    for ask in (from_timm, read_checkpoint, from_checkpoint):
        with pytest.raises(ValueError, match=name):
            ask(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x.pth", "x.npz"])
def test_missing_and_damaged_files_are_named(name, tmp_path):
    for ask in (from_npz, from_checkpoint):
        with pytest.raises(ValueError, match=f"no such checkpoint: .*{name}"):
            ask(tmp_path / name)
    (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
    for ask in (from_npz, from_checkpoint):
        with pytest.raises(
            ValueError, match=f"cannot read .*{name}: it is damaged, or holds no weights"
        ):
            ask(tmp_path / name)


def test_a_file_of_one_tensor_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds no dict of tensors, but a Tensor"):
        from_timm(tmp_path / "x.pth")


def test_tensors_of_another_model_are_of_no_known_layout(tmp_path):
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="not the tensors of a known layout: bias, weight"):
        from_checkpoint(tmp_path / "x.safetensors")
