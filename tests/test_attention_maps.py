"""Arithmetic on attention weights, each against loops written out."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from vit_tutorial.attention_maps import (
    attention_distance,
    attention_entropy,
    attention_rollout,
    class_token_maps,
    position_similarity,
)

few = st.integers(1, 4)


def weights(*shape):
    """Random attention: rows sum to one, columns do not."""
    return (2 * torch.randn(*shape, dtype=torch.float64)).softmax(dim=-1)


def ones(*shape):
    return torch.ones(*shape, dtype=torch.float64)


# ---- the class token's map


@given(rows=few, cols=few)
def test_the_class_tokens_map_is_laid_out_as_the_image_is(rows, cols):
    T = 1 + rows * cols
    maps = weights(2, 3, T, T)
    read = class_token_maps(maps, rows, cols)
    assert read.shape == (2, 3, rows, cols)
    for row, col in product(range(rows), range(cols)):
        assert torch.equal(read[..., row, col], maps[..., 0, 1 + row * cols + col])


def test_without_a_class_token_the_map_says_how_much_each_patch_is_read_on_average():
    maps = weights(2, 6, 6)
    read = class_token_maps(maps, 2, 3)
    for row, col in product(range(2), range(3)):
        by_hand = sum(maps[:, reader, row * 3 + col] for reader in range(6)) / 6
        assert_close(read[:, row, col], by_hand)
    assert_close(read.sum(dim=(-2, -1)), ones(2))


# ---- rollout


@given(B=few, L=few, h=few, T=few)
def test_every_row_of_the_rollout_sums_to_one(B, L, h, T):
    rollout = attention_rollout(weights(B, L, h, T, T))
    assert rollout.shape == (B, T, T)
    assert_close(rollout.sum(dim=-1), ones(B, T))


def test_the_rollout_of_identities_is_the_identity():
    eye = torch.eye(5, dtype=torch.float64)
    assert_close(attention_rollout(eye.expand(2, 3, 4, 5, 5)), eye.expand(2, 5, 5))


def test_the_rollout_adds_up_all_paths_from_an_output_token_back_to_an_input_token():
    L, h, T = 3, 2, 3
    maps = weights(1, L, h, T, T)
    step = [
        [[(sum(maps[0, layer, :, t, s].tolist()) / h + (t == s)) / 2 for s in range(T)]
         for t in range(T)]
        for layer in range(L)
    ]  # fmt: skip
    by_hand = torch.zeros(T, T, dtype=torch.float64)
    for after, middle, early, start in product(range(T), repeat=4):
        by_hand[after, start] += step[2][after][middle] * step[1][middle][early] * (
            step[0][early][start]
        )  # fmt: skip
    assert_close(attention_rollout(maps)[0], by_hand)


def test_what_the_last_block_reads_was_gathered_by_the_blocks_before():
    # block 1: token 1 reads token 2; block 2: token 0 reads token 1
    maps = torch.eye(3, dtype=torch.float64).expand(1, 2, 1, 3, 3).clone()
    maps[0, 0, 0, 1] = torch.tensor([0, 0, 1.0])
    maps[0, 1, 0, 0] = torch.tensor([0, 1.0, 0])
    rollout = attention_rollout(maps)[0]
    assert_close(rollout[0].tolist(), [0.5, 0.25, 0.25])  # token 2 reaches token 0 over token 1
    assert attention_rollout(maps.flip(1))[0, 0, 2] == 0  # in the other order it cannot


# ---- distance


@given(rows=few, cols=few, prefix=st.integers(0, 1))
def test_attention_distance_by_brute_force(rows, cols, prefix):
    N = rows * cols
    maps = weights(2, 2, 3, prefix + N, prefix + N)
    distance = attention_distance(maps, rows, cols)
    assert distance.shape == (2, 2, 3)
    for b, layer, head in product(range(2), range(2), range(3)):
        total = 0.0
        for n in range(N):
            row = maps[b, layer, head, prefix + n, prefix:].tolist()
            apart = [math.dist(divmod(n, cols), divmod(m, cols)) for m in range(N)]
            total += sum(w * far for w, far in zip(row, apart, strict=True)) / sum(row)
        assert distance[b, layer, head].item() == pytest.approx(total / N, abs=1e-6)


def test_a_head_that_reads_its_own_patch_looks_no_distance_at_all():
    maps = torch.eye(7, dtype=torch.float64).expand(1, 1, 1, 7, 7)
    assert attention_distance(maps, 2, 3).item() == 0


def test_what_the_class_token_reads_and_is_read_does_not_change_the_distance():
    maps = weights(1, 1, 1, 7, 7)
    expected = attention_distance(maps, 2, 3)
    changed = maps.clone()
    changed[..., 0, :] = ones(7) / 7
    changed[..., 1:, 0] = 0.9
    changed[..., 1:, 1:] *= 0.1 / maps[..., 1:, 1:].sum(dim=-1, keepdim=True)
    assert_close(attention_distance(changed, 2, 3), expected)


# ---- entropy


def test_entropy_counts_the_tokens_that_are_read_alike():
    one, four = torch.eye(8)[None, None, None], torch.zeros(1, 1, 1, 8, 8)
    four[..., :4] = 0.25
    both = torch.cat([one, four, torch.full_like(four, 1 / 8)], dim=2)
    assert_close(attention_entropy(both)[0, 0], torch.tensor([0.0, 2.0, 3.0]))


# ---- positions


@given(rows=few, cols=few, prefix=st.integers(0, 1))
def test_position_similarity_is_the_cosine_for_every_two_patches(rows, cols, prefix):
    positions = torch.randn(1, prefix + rows * cols, 5, dtype=torch.float64)
    similarity = position_similarity(positions, rows, cols)
    assert similarity.shape == (rows, cols, rows, cols)
    for n, m in product(range(rows * cols), repeat=2):
        expected = F.cosine_similarity(positions[0, prefix + n], positions[0, prefix + m], dim=0)
        assert_close(similarity[(*divmod(n, cols), *divmod(m, cols))], expected)


def test_every_patch_is_most_like_itself():
    similarity = position_similarity(torch.randn(1, 7, 8), 2, 3)
    for row, col in product(range(2), range(3)):
        assert_close(similarity[row, col].max().item(), 1.0)
        assert similarity[row, col].argmax() == row * 3 + col


# ---- what a user can get wrong


@pytest.mark.parametrize("T", [5, 8])
def test_maps_that_do_not_fit_the_grid_are_refused(T):
    message = f"a grid of 2 x 3 has 6 patches, or 7 tokens with the class token; got {T}"
    for call in (
        lambda: class_token_maps(weights(T, T), 2, 3),
        lambda: attention_distance(weights(1, 1, 1, T, T), 2, 3),
        lambda: position_similarity(torch.randn(1, T, 8), 2, 3),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distances_are_measured_in_half_precision_too(dtype):
    maps = torch.rand(2, 3, 2, 7, 7).softmax(dim=-1)
    found = attention_distance(maps.to(dtype), 2, 3)
    assert found.dtype == dtype
    assert_close(found.float(), attention_distance(maps, 2, 3), atol=0.02, rtol=0.02)
