"""A block is Equations 2 and 3; the encoder is blocks and a last norm."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from vit_tutorial.encoder import MLP, Encoder, EncoderBlock
from vit_tutorial.model import VisionTransformer, ViTConfig

few = st.integers(1, 4)


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def random_(module):
    """Every parameter drawn anew, norms and biases too, so that none can hide."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.double()


def as_pytorch_has_it(block, D, h, mlp_size):
    """nn.TransformerEncoderLayer with the weights of our block."""
    layer = nn.TransformerEncoderLayer(
        D, h, mlp_size, dropout=0.0, activation="gelu", layer_norm_eps=1e-6,
        batch_first=True, norm_first=True, dtype=torch.float64,
    )  # fmt: skip
    pairs = [
        (layer.norm1, block.norm1),
        (layer.self_attn.out_proj, block.attention.projection),
        (layer.norm2, block.norm2),
        (layer.linear1, block.mlp[0]),
        (layer.linear2, block.mlp[-1]),
    ]
    for theirs, ours in pairs:
        theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
        layer.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
    return layer


# ---- MLP


def test_the_mlp_is_two_matrices_with_x_times_phi_of_x_between():
    mlp, x = random_(MLP(4, 6)), noise(1, 1, 4)
    W1, b1, W2, b2 = (parameter.tolist() for parameter in mlp.parameters())
    inner = [sum(w * v for w, v in zip(row, x.flatten().tolist(), strict=True)) for row in W1]
    inner = [value + bias for value, bias in zip(inner, b1, strict=True)]
    gelu = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in inner]
    outer = [sum(w * v for w, v in zip(row, gelu, strict=True)) for row in W2]
    by_hand = [value + bias for value, bias in zip(outer, b2, strict=True)]
    assert_close(mlp(x).flatten(), torch.tensor(by_hand, dtype=torch.float64))


def test_the_mlp_treats_every_token_alone():
    mlp, x = random_(MLP(4, 6)), noise(2, 5, 4)
    one_by_one = torch.stack([mlp(x[:, t]) for t in range(5)], dim=1)
    assert_close(mlp(x), one_by_one)


# ---- a block


@given(B=few, T=few, h=few, d=few, mlp_size=st.integers(1, 9))
def test_a_block_agrees_with_pytorch(B, T, h, d, mlp_size):
    D = h * d
    block, z = random_(EncoderBlock(D, h, mlp_size)), noise(B, T, D)
    assert_close(block(z), as_pytorch_has_it(block, D, h, mlp_size)(z))


def test_a_block_whose_last_matrices_are_zero_is_the_identity():
    block, z = random_(EncoderBlock(8, 2, 16)), noise(2, 5, 8)
    for linear in (block.attention.projection, block.mlp[-1]):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    assert torch.equal(block(z), z)


def test_what_a_branch_adds_does_not_depend_on_the_size_of_the_stream():
    block, z = random_(EncoderBlock(8, 2, 16)), noise(2, 5, 8)
    nn.init.zeros_(block.mlp[-1].weight)
    nn.init.zeros_(block.mlp[-1].bias)
    added = block(z) - z
    assert_close(block(1000 * z) - 1000 * z, added, atol=1e-5, rtol=1e-5)


def test_equation_2_comes_before_equation_3():
    block, z = random_(EncoderBlock(8, 2, 16)), noise(2, 5, 8)
    after_attention = z + block.attention(block.norm1(z))
    assert_close(block(z), after_attention + block.mlp(block.norm2(after_attention)))


def test_permuted_tokens_give_permuted_outputs():
    encoder, z, order = random_(Encoder(2, 8, 2, 16)), noise(2, 6, 8), torch.randperm(6)
    assert_close(encoder(z[:, order]), encoder(z)[:, order])


# ---- the encoder


@given(L=st.integers(1, 3), h=few)
def test_the_encoder_agrees_with_pytorch(L, h):
    D = 4 * h
    encoder, z = random_(Encoder(L, D, h, 2 * D)), noise(2, 5, D)
    theirs = z
    for block in encoder.blocks:
        theirs = as_pytorch_has_it(block, D, h, 2 * D)(theirs)
    theirs = F.layer_norm(theirs, (D,), encoder.norm.weight, encoder.norm.bias, eps=1e-6)
    assert_close(encoder(z), theirs)


def test_the_last_norm_leaves_every_token_with_mean_0_and_variance_1():
    z = Encoder(2, 64, 4, 128).double()(100 * noise(2, 5, 64))
    assert_close(z.mean(dim=-1), torch.zeros(2, 5, dtype=torch.float64))
    assert_close(z.var(dim=-1, correction=0), torch.ones(2, 5, dtype=torch.float64))


def test_an_encoder_of_identities_is_its_last_norm():
    encoder, z = random_(Encoder(3, 8, 2, 16)), noise(2, 5, 8)
    for block in encoder.blocks:
        for linear in (block.attention.projection, block.mlp[-1]):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
    assert_close(encoder(z), encoder.norm(z))


def test_every_norm_has_the_authors_epsilon():
    norms = [m for m in Encoder(3, 8, 2, 16).modules() if isinstance(m, nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-6] * (2 * 3 + 1)


def test_attention_maps_are_what_each_block_reads_on_the_way():
    encoder, z = random_(Encoder(3, 8, 2, 16)), noise(2, 5, 8)
    maps = encoder.attention_maps(z)
    assert maps.shape == (2, 3, 2, 5, 5)
    for layer, block in enumerate(encoder.blocks):
        theirs = as_pytorch_has_it(block, 8, 2, 16)
        x = theirs.norm1(z)
        weights = theirs.self_attn(x, x, x, average_attn_weights=False)[1]
        assert_close(maps[:, layer], weights)
        z = theirs(z)


# ---- dropout (appendix B.1: after every dense layer but qkv, and after adding positions)


def test_dropout_stands_after_both_matrices_of_the_mlp_and_after_the_heads_are_joined():
    block, z = random_(EncoderBlock(8, 2, 16, dropout=0.4)).train(), noise(2, 5, 8)
    torch.manual_seed(1)
    got = block(z)
    torch.manual_seed(1)
    by_hand = z + F.dropout(block.attention(block.norm1(z)), 0.4)
    inner = F.dropout(F.gelu(block.mlp[0](block.norm2(by_hand))), 0.4)
    by_hand = by_hand + F.dropout(block.mlp[-1](inner), 0.4)
    assert_close(got, by_hand)


def test_dropout_acts_once_on_the_embedding_and_three_times_in_each_block():
    config = ViTConfig(8, 4, 1, 3, layers=2, hidden_size=8, mlp_size=16, heads=2, dropout=0.1)
    model, dropped = VisionTransformer(config), []
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            assert module.p == 0.1, name
            module.register_forward_hook(lambda _, inputs, output: dropped.append(output.shape))
    model.encoder(model.embedding(torch.randn(2, 1, 8, 8)))
    stream, hidden = (2, 5, 8), (2, 5, 16)
    assert dropped == [stream, *2 * (stream, hidden, stream)]  # none of shape (B h T T)


@pytest.mark.parametrize("make", [lambda: MLP(8, 16), lambda: EncoderBlock(8, 2, 16)])
def test_nothing_is_dropped_unless_asked_for(make):
    module, z = make().train(), torch.randn(2, 5, 8)
    assert torch.equal(module(z), module(z))


def test_nothing_is_dropped_when_not_training():
    encoder, z = Encoder(2, 8, 2, 16, dropout=0.5).eval(), torch.randn(2, 5, 8)
    assert torch.equal(encoder(z), encoder(z))
    assert not torch.equal(encoder.train()(z), encoder(z))
