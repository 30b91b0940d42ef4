"""Attention by five routes that agree, and what the formula promises."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from vit_tutorial.attention import MultiHeadSelfAttention, attention_weights

few = st.integers(1, 5)


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def heads_of(D=16, h=4):
    """Attention with biases that are not zero, and weights large enough to read selectively."""
    made = MultiHeadSelfAttention(D, h).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


@given(heads=st.lists(few, max_size=2), T=few, d=few)
def test_every_row_of_attention_sums_to_one(heads, T, d):
    weights = attention_weights(3 * noise(*heads, T, d), 3 * noise(*heads, T, d))
    assert weights.shape == (*heads, T, T)
    assert (weights >= 0).all()
    assert_close(weights.sum(dim=-1), torch.ones(*heads, T, dtype=torch.float64))


@given(T=few, d=few)
def test_attention_weights_are_exponentials_of_scaled_scores_number_by_number(T, d):
    q, k = noise(T, d), noise(T, d)
    weights = attention_weights(q, k)
    for t in range(T):
        scores = [sum(float(q[t, i] * k[s, i]) for i in range(d)) / math.sqrt(d) for s in range(T)]
        total = sum(math.exp(score) for score in scores)
        by_hand = [math.exp(score) / total for score in scores]
        assert_close(weights[t], torch.tensor(by_hand, dtype=torch.float64))


def test_a_query_that_asks_nothing_reads_all_tokens_alike():
    weights = attention_weights(torch.zeros(5, 4), torch.randn(5, 4))
    assert_close(weights, torch.full((5, 5), 1 / 5))


def test_a_token_reads_the_key_that_matches_its_query():
    q = 100 * torch.eye(4)
    k = torch.eye(4)[[2, 0, 3, 1]]  # token 0 asks for what stands at place 1, and so on
    assert attention_weights(q, k).argmax(dim=-1).tolist() == [1, 3, 0, 2]


def test_the_same_number_added_to_all_scores_of_a_query_changes_nothing():
    q, k, shift = noise(6, 4), noise(6, 4), noise(4)
    assert_close(attention_weights(q, k + shift), attention_weights(q, k))


def test_very_large_scores_do_not_overflow():
    weights = attention_weights(torch.full((3, 4), 1e4), torch.full((3, 4), 1e4))
    assert_close(weights, torch.full((3, 3), 1 / 3))


# ---- the fused kernel


@given(B=few, h=few, T=few, d=few)
def test_fused_attention_agrees_with_softmax_of_scores(B, h, T, d):
    q, k, v = noise(3, B, h, T, d)
    written_out = torch.einsum("bhts,bhsd->bhtd", attention_weights(q, k), v)
    assert_close(F.scaled_dot_product_attention(q, k, v), written_out)


@pytest.mark.parametrize("T", [5, 50, 197])
def test_the_output_does_not_depend_on_the_kernel(T):
    module, x = heads_of(), noise(2, T, 16)
    outputs = []
    for kernel in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel([kernel, SDPBackend.MATH]):
            outputs.append(module(x))
    assert_close(outputs[0], outputs[1])


def test_nothing_is_dropped_while_training():
    module, x = heads_of(), noise(2, 10, 16)
    assert not [part for part in module.modules() if isinstance(part, nn.Dropout)]
    assert torch.equal(module.train()(x), module.eval()(x))


# ---- many heads


@given(B=few, T=few, h=few, d=few)
def test_heads_in_a_loop_give_the_same_as_heads_in_a_batch(B, T, h, d):
    D = h * d
    module, x = heads_of(D, h), noise(B, T, D)
    Wq, Wk, Wv = module.qkv.weight.view(3, h, d, D)
    bq, bk, bv = module.qkv.bias.view(3, h, d)
    outputs = []
    for i in range(h):
        q, k, v = x @ Wq[i].T + bq[i], x @ Wk[i].T + bk[i], x @ Wv[i].T + bv[i]
        weights = torch.softmax(q @ k.mT / math.sqrt(d), dim=2)
        assert_close(module.weights(x)[:, i], weights)
        outputs.append(weights @ v)
    joined = torch.cat(outputs, dim=-1) @ module.projection.weight.T + module.projection.bias
    assert_close(module(x), joined)


@given(B=few, T=few, h=few, d=few)
def test_outputs_and_weights_of_each_head_agree_with_pytorch(B, T, h, d):
    module, x = heads_of(h * d, h), noise(B, T, h * d)
    theirs = nn.MultiheadAttention(h * d, h, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(module.qkv.weight)
        theirs.in_proj_bias.copy_(module.qkv.bias)
        theirs.out_proj.weight.copy_(module.projection.weight)
        theirs.out_proj.bias.copy_(module.projection.bias)
    output, weights = theirs(x, x, x, average_attn_weights=False)
    assert_close(module(x), output)
    assert_close(module.weights(x), weights)


def test_the_weights_shown_are_the_weights_used():
    module, x = heads_of(), noise(2, 10, 16)
    values = module.split_heads(x)[2]
    read = torch.einsum("bhts,bhsd->bthd", module.weights(x), values).flatten(2)
    assert_close(module(x), F.linear(read, module.projection.weight, module.projection.bias))


@pytest.mark.parametrize("head", range(4))
def test_every_head_reads_all_D_numbers_of_a_token(head):
    module, x = heads_of(), noise(1, 5, 16).requires_grad_()
    (noise(5, 5) * module.weights(x)[0, head]).sum().backward()
    assert (x.grad.abs() > 1e-12).all()


@given(T=few, seed=st.integers(0, 99))
def test_permuted_tokens_give_permuted_outputs(T, seed):
    module, x = heads_of(), noise(2, T, 16)
    order = torch.randperm(T, generator=torch.Generator().manual_seed(seed))
    assert_close(module(x[:, order]), module(x)[:, order])
    assert_close(module.weights(x[:, order]), module.weights(x)[:, :, order][..., order])


def test_heads_in_another_order_with_the_projection_to_match_change_nothing():
    module, x = heads_of(), noise(2, 5, 16)
    expected, order = module(x), [2, 0, 3, 1]
    with torch.no_grad():
        for packed in (module.qkv.weight, module.qkv.bias):
            packed.copy_(packed.unflatten(0, (3, 4, 4))[:, order].flatten(0, 2))
        mixing = module.projection.weight
        mixing.copy_(mixing.unflatten(1, (4, 4))[:, order].flatten(1))
    assert_close(module(x), expected)


@pytest.mark.parametrize(("D", "h"), [(16, 3), (16, 0), (16, -4), (4, 8)])
def test_heads_that_do_not_divide_the_hidden_size_are_refused(D, h):
    with pytest.raises(ValueError, match=f"{h} heads do not divide a hidden size of {D}"):
        MultiHeadSelfAttention(D, h)
