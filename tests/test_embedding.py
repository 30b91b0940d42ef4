"""Equation 1: patches times one matrix, a class token in front, positions added."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from vit_tutorial.embedding import Embedding, PatchEmbedding
from vit_tutorial.patches import patchify
from vit_tutorial.positions import sincos_positions

sizes = st.integers(1, 4)


def embedding(image_size=(8, 12), P=4, C=3, D=8, **options):
    made = Embedding(image_size, P, C, D, **options).double()
    if made.class_token is not None:
        nn.init.normal_(made.class_token)  # it starts at zero, where a test could not see it
    return made


@given(C=sizes, P=sizes, rows=sizes, cols=sizes, D=st.integers(1, 9))
def test_a_linear_layer_on_patches_is_a_convolution_with_stride_P(C, P, rows, cols, D):
    embed = PatchEmbedding(P, C, D).double()
    images = torch.randn(2, C, rows * P, cols * P, dtype=torch.float64)
    kernel = embed.projection.weight.view(D, C, P, P)
    convolved = F.conv2d(images, kernel, embed.projection.bias, stride=P)
    assert_close(embed(images), convolved.flatten(2).mT)


def test_every_patch_goes_through_the_same_matrix():
    embed = PatchEmbedding(P=4, C=3, D=8).double()
    patch = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    tokens = embed(patch.tile(1, 1, 2, 3))
    assert_close(tokens, tokens[:, :1].expand(1, 6, 8))


@pytest.mark.parametrize("positions", ["learned", "sincos", "none"])
def test_equation_1_written_out_token_by_token(positions):
    embed = embedding(positions=positions)
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    E, bias = embed.patches.projection.weight, embed.patches.projection.bias
    patches = patchify(images, 4)
    tokens = embed(images)
    assert tokens.shape == (2, 1 + 6, 8)
    for b in range(2):
        assert_close(tokens[b, 0], embed.class_token[0, 0] + embed.positions[0, 0])
        for n in range(6):
            by_hand = E @ patches[b, n] + bias + embed.positions[0, 1 + n]
            assert_close(tokens[b, 1 + n], by_hand)


def test_without_a_class_token_there_are_as_many_tokens_as_patches():
    embed = embedding(class_token=False)
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    assert embed.class_token is None
    assert embed.positions.shape == (1, 6, 8)
    assert_close(embed(images), embed.patches(images) + embed.positions)


def test_the_class_token_is_the_same_for_every_image():
    first = embedding()(torch.randn(5, 3, 8, 12, dtype=torch.float64))[:, 0]
    assert_close(first, first[:1].expand(5, 8))


@pytest.mark.parametrize("class_token", [True, False])
def test_sincos_positions_belong_to_patches_and_are_zero_for_the_class_token(class_token):
    table = Embedding((8, 12), 4, 3, 8, positions="sincos", class_token=class_token).positions
    assert torch.equal(table[0, -6:], sincos_positions(2, 3, 8))
    assert not table[0, :-6].any()


@pytest.mark.parametrize("positions", ["sincos", "none"])
def test_fixed_positions_are_neither_trained_nor_saved_but_move_with_the_module(positions):
    embed = Embedding(8, 4, 3, 8, positions=positions)
    assert "positions" not in dict(embed.named_parameters())
    assert "positions" not in embed.state_dict()
    assert embed.double().positions.dtype == torch.float64


def test_learned_positions_are_one_parameter_for_all_images():
    embed = embedding()
    assert isinstance(embed.positions, nn.Parameter)
    images = torch.randn(3, 3, 8, 12, dtype=torch.float64)
    embed(images).sum().backward()
    assert_close(embed.positions.grad, torch.full((1, 7, 8), 3.0, dtype=torch.float64))


def test_dropout_comes_right_after_the_positions():
    embed = embedding(dropout=0.5)
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    whole = embed.eval()(images)  # the class token and the positions are in
    torch.manual_seed(3)
    dropped = embed.train()(images)
    torch.manual_seed(3)
    assert_close(dropped, F.dropout(whole, 0.5))
    assert (dropped == 0).any()


def test_one_number_means_a_square_image():
    torch.manual_seed(0)
    square = Embedding(8, 4, 3, 8)
    torch.manual_seed(0)
    spelled_out = Embedding((8, 8), 4, 3, 8)
    images = torch.randn(1, 3, 8, 8)
    assert_close(square(images), spelled_out(images))


@pytest.mark.parametrize("shape", [(1, 8, 12), (3, 12, 8), (3, 8, 16), (3, 4, 12), (4, 8, 12)])
def test_an_image_of_another_shape_is_refused_with_both_shapes(shape):
    message = r"\(C, H, W\) = \(3, 8, 12\), got \({}, {}, {}\)".format(*shape)
    with pytest.raises(ValueError, match=message):
        embedding()(torch.zeros(2, *shape, dtype=torch.float64))


def test_positions_of_an_unknown_kind_are_refused_by_name():
    with pytest.raises(ValueError, match="sincoss"):
        Embedding(8, 4, 1, 8, positions="sincoss")
