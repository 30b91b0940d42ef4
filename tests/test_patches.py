"""Patches hold every pixel once, in a known order, and can be put back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from vit_tutorial.patches import patchify, unpatchify

sizes = st.integers(1, 4)


def numbered(B, C, H, W):
    """Images in which every pixel has a number of its own."""
    return torch.arange(B * C * H * W, dtype=torch.float64).view(B, C, H, W)


@given(B=sizes, C=sizes, P=sizes, rows=sizes, cols=sizes)
def test_patches_put_back_give_the_image(B, C, P, rows, cols):
    images = numbered(B, C, rows * P, cols * P)
    patches = patchify(images, P)
    assert patches.shape == (B, rows * cols, C * P * P)
    assert torch.equal(unpatchify(patches, P, rows), images)


@given(C=sizes, P=sizes, rows=sizes, cols=sizes)
def test_a_patch_is_cut_out_of_the_image_in_reading_order(C, P, rows, cols):
    images = numbered(2, C, rows * P, cols * P)
    patches = patchify(images, P)
    for b in range(2):
        for n in range(rows * cols):
            y, x = n // cols * P, n % cols * P
            by_hand = [
                images[b, c, y + i, x + j] for c in range(C) for i in range(P) for j in range(P)
            ]
            assert patches[b, n].tolist() == by_hand


@given(C=sizes, P=sizes, rows=sizes, cols=sizes)
def test_patches_are_what_a_convolution_would_read(C, P, rows, cols):
    images = numbered(2, C, rows * P, cols * P)
    columns = F.unfold(images, kernel_size=P, stride=P)  # (B C*P*P N), which conv2d is made of
    assert torch.equal(patchify(images, P), columns.mT)


def test_one_pixel_belongs_to_one_patch():
    images = torch.zeros(1, 3, 8, 12, dtype=torch.float64)
    images[0, 1, 5, 9] = 1.0  # row 1, column 2 of the grid of 2 x 3
    where = patchify(images, 4).nonzero().tolist()
    assert where == [[0, 5, 1 * 16 + 1 * 4 + 1]]


@pytest.mark.parametrize(("H", "W", "P"), [(10, 12, 4), (12, 10, 4), (8, 8, 3), (8, 8, 16)])
def test_an_image_that_patches_do_not_tile_is_refused_not_cropped(H, W, P):
    with pytest.raises(ValueError, match=rf"{P} x {P} pixels .* image of {H} x {W}"):
        patchify(torch.zeros(1, 1, H, W), P)


@pytest.mark.parametrize("P", [0, -2])
def test_a_patch_has_at_least_one_pixel(P):
    with pytest.raises(ValueError, match=f"{P} x {P} pixels"):
        patchify(torch.zeros(1, 1, 4, 4), P)
    with pytest.raises(ValueError, match=rf"16 numbers .* {P} x {P}"):
        unpatchify(torch.zeros(1, 4, 16), P, rows=2)


@pytest.mark.parametrize("rows", [0, 4, 7])
def test_patches_that_do_not_fill_the_rows_are_refused(rows):
    with pytest.raises(ValueError, match=f"6 patches do not fill {rows} rows"):
        unpatchify(torch.zeros(1, 6, 4), P=2, rows=rows)


def test_a_patch_that_holds_no_whole_channel_is_refused():
    with pytest.raises(ValueError, match=r"20 numbers .* 4 x 4"):
        unpatchify(torch.zeros(1, 6, 20), P=4, rows=2)
