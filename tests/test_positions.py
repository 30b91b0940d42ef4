"""Fixed positions follow their formula; learned ones can be stretched to another grid."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torch.testing import assert_close

from vit_tutorial.positions import resample_positions, sincos_positions

sides = st.integers(1, 6)


@given(rows=sides, cols=sides, quarter=st.integers(2, 5))
def test_sincos_positions_follow_the_formula_number_by_number(rows, cols, quarter):
    table = sincos_positions(rows, cols, 4 * quarter)
    for n in range(rows * cols):
        y, x = divmod(n, cols)
        w = [10000 ** (-i / (quarter - 1)) for i in range(quarter)]
        by_hand = (
            [math.sin(x * w_i) for w_i in w]
            + [math.cos(x * w_i) for w_i in w]
            + [math.sin(y * w_i) for w_i in w]
            + [math.cos(y * w_i) for w_i in w]
        )
        assert_close(table[n], torch.tensor(by_hand), atol=1e-6, rtol=0)


def test_no_patch_has_a_position_more_alike_than_its_neighbours_have():
    table = sincos_positions(7, 7, 64).view(7, 7, 64)
    for y in range(7):
        for x in range(7):
            likeness = F.cosine_similarity(table[y, x], table, dim=-1)
            likeness[y, x] = -1.0  # with itself it is 1
            nearest = divmod(int(likeness.argmax()), 7)
            assert abs(nearest[0] - y) + abs(nearest[1] - x) == 1


def test_no_two_sincos_positions_are_the_same():
    table = sincos_positions(14, 20, 32)
    assert len(table.unique(dim=0)) == 14 * 20


@pytest.mark.parametrize("D", [4, 6, 10, 0])
def test_sincos_positions_need_a_size_that_splits_into_four(D):
    with pytest.raises(ValueError, match=f"multiple of 4 from 8 on, got {D}"):
        sincos_positions(2, 2, D)


# ---- stretching


@given(rows=sides, cols=sides, prefix=st.integers(0, 2))
def test_resampling_to_the_same_grid_changes_nothing(rows, cols, prefix):
    positions = torch.randn(1, prefix + rows * cols, 4, dtype=torch.float64)
    grid = (rows, cols)
    assert torch.equal(resample_positions(positions, grid, grid, prefix), positions)


def test_as_many_patches_in_another_shape_are_another_grid():
    positions = torch.randn(1, 1 + 4 * 9, 8, dtype=torch.float64)
    assert not torch.equal(resample_positions(positions, (4, 9), (6, 6)), positions)


@pytest.mark.parametrize(("old", "new"), [(4, 7), (7, 4), (14, 24), (5, 5), (1, 3)])
def test_resampling_square_grids_agrees_with_timm(old, new):
    layers = pytest.importorskip("timm.layers", reason="timm is in the extra `compare`")
    positions = torch.randn(1, 1 + old * old, 8)
    expected = layers.resample_abs_pos_embed(positions, [new, new], num_prefix_tokens=1)
    assert_close(resample_positions(positions, (old, old), (new, new)), expected)


@pytest.mark.parametrize(
    ("old", "new"), [((3, 5), (6, 4)), ((6, 4), (3, 5)), ((2, 7), (7, 2)), ((7, 7), (3, 9))]
)
def test_every_channel_is_resampled_as_pillow_resizes_a_picture(old, new):
    positions = torch.randn(1, 1 + old[0] * old[1], 3)
    got = resample_positions(positions, old, new)
    assert got.shape == (1, 1 + new[0] * new[1], 3)
    for channel in range(3):
        picture = Image.fromarray(positions[0, 1:, channel].view(old).numpy())
        resized = np.asarray(picture.resize(new[::-1], Image.Resampling.BICUBIC))
        assert_close(got[0, 1:, channel].view(new), torch.tensor(resized), atol=1e-5, rtol=0)


def test_the_class_token_keeps_its_position():
    positions = torch.randn(1, 1 + 9, 8, dtype=torch.float64)
    assert torch.equal(resample_positions(positions, (3, 3), (5, 4))[:, 0], positions[:, 0])


def test_stretching_a_constant_gives_the_constant():
    ones = torch.ones(1, 6, 8, dtype=torch.float64)
    assert_close(resample_positions(ones, (2, 3), (5, 4), 0), ones[:, :1].expand(1, 20, 8))


@pytest.mark.parametrize(("T", "prefix"), [(9, 1), (11, 1), (10, 0)])
def test_positions_that_do_not_fit_the_grid_are_refused(T, prefix):
    with pytest.raises(ValueError, match=f"{T} positions are not {prefix} and a grid of 3 x 3"):
        resample_positions(torch.zeros(1, T, 8), (3, 3), (5, 5), prefix)
