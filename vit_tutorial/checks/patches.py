"""Chapter 01: cutting an image into patches."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from vit_tutorial.checks.core import Mistakes, check
from vit_tutorial.patches import patchify


def check_patchify(implementation: Callable[[Tensor, int], Tensor]) -> None:
    """Check `my_patchify(images (B C H W), P) -> (B N C*P*P)`; raises CheckFailed with a hint."""

    def cut(pattern: str) -> Callable[..., Tensor]:
        return lambda images, P: rearrange(images, f"B C (r i) (c j) -> {pattern}", i=P, j=P)

    def reshaped(images: Tensor, P: int) -> Tensor:
        B, C, H, W = images.shape
        return images.reshape(B, (H // P) * (W // P), C * P * P)

    def swapped(images: Tensor, P: int) -> Tensor:
        B, C, H, W = images.shape
        folded = images.unfold(2, P, P).unfold(3, P, P)  # (B C rows cols P P)
        return folded.reshape(B, (H // P) * (W // P), C * P * P)

    mistakes: Mistakes = [
        (reshaped, "a plain reshape has the right shape and the wrong pixels: it takes C·P·P "
         "numbers in reading order, which is pieces of rows. Split H and W first, then move axes."),
        (swapped, "the channel axis still leads, so a patch mixes pixels of several patches. Move "
         "C behind the two grid axes before flattening."),
        (cut("B (c r) (C i j)"), "patches come column by column; reading order goes along a row "
         "of the grid first."),
        (cut("B (r c) (i j C)"), "inside a patch the channels come last, (Ph Pw C); this book "
         "uses (C Ph Pw), so that a convolution's kernel can be flattened into the projection."),
        (cut("B (r c) (C j i)"), "inside a patch rows and columns are swapped: every patch is "
         "transposed."),
        (cut("B (r c) C (i j)"), "each patch still has its channels apart: flatten C, Ph and Pw "
         "into one axis."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [((2, 3, 8, 12), 4), ((1, 1, 28, 28), 7), ((3, 2, 6, 4), 2)]
    trials = [(torch.rand(*shape, generator=generator), P) for shape, P in shapes]
    check(implementation, patchify, trials, mistakes)
