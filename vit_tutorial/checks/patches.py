"""Chapter 01: cutting an image into patches."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vit_tutorial.checks.core import Mistakes, Slips, compare, exercise
from vit_tutorial.patches import patchify, unpatchify

SQUARE: Slips = [
    (r"invalid for input|rearrange|einops|must match|divisible", "the grid has H/P rows and W/P "
     "columns; is one number used for both, or is C taken to be 3, or B to be 1?"),
]  # fmt: skip
LAST: Slips = [
    (r"invalid for input|rearrange|einops|must match|divisible", "here the channels are the last "
     "axis, (B H W C): the pattern on the left has to say so, and P divides H and W."),
]  # fmt: skip
WINDOW: Slips = [
    (r"stack expects|invalid for input|rearrange|einops|must match", "the last window starts at "
     "H - P, so a range ends at H - P + 1; rows and columns have counts of their own."),
]  # fmt: skip
RESHAPED = (
    "a plain reshape has the right shape and the wrong pixels: it takes C·P·P numbers in reading "
    "order, which is pieces of rows. Split H and W first, then move axes."
)


@exercise
def check_patchify(implementation: Callable[[Tensor, int], Tensor]) -> bool:
    """Check `my_patchify(images (B C H W), P) -> (B N C*P*P)`; raises CheckFailed with a hint."""

    def cut(pattern: str) -> Callable[..., Tensor]:
        return lambda images, P: rearrange(images, f"B C (r i) (c j) -> {pattern}", i=P, j=P)

    def reshaped(images: Tensor, P: int) -> Tensor:
        B, C, H, W = images.shape
        return images.reshape(B, (H // P) * (W // P), C * P * P)

    def grid_swapped(images: Tensor, P: int, axes: tuple[int, ...] = (0, 2, 4, 1, 3, 5)) -> Tensor:
        B, C, H, W = images.shape  # W // P rows and H // P columns
        cut = images.reshape(B, C, W // P, P, H // P, P)
        return cut.permute(axes).reshape(B, -1, C * P * P)

    def out_of_turn(images: Tensor, P: int) -> Tensor:
        B, C, H, W = images.shape
        cut = images.reshape(B, C, H // P, P, W // P, P).permute(0, 2, 3, 1, 4, 5)
        return cut.reshape(B, -1, C * P * P)

    def swapped(images: Tensor, P: int) -> Tensor:
        B, C, H, W = images.shape
        folded = images.unfold(2, P, P).unfold(3, P, P)  # (B C rows cols P P)
        return folded.reshape(B, (H // P) * (W // P), C * P * P)

    mistakes: Mistakes = [
        (reshaped, RESHAPED),
        (swapped, "the channel axis still leads, so a patch mixes pixels of "
         "several patches. Move C behind the two grid axes before flattening."),
        (cut("B (c r) (C i j)"), "patches come column by column; reading order "
         "goes along a row of the grid first."),
        (cut("B (r c) (i j C)"), "inside a patch the channels come last, (Ph Pw "
         "C); this book uses (C Ph Pw), so that a convolution's kernel can be "
         "flattened into the projection."),
        (cut("B (r c) (C j i)"), "inside a patch rows and columns are swapped: "
         "every patch is transposed."),
        (cut("B (c r) (C j i)"), "the image is transposed: patches come column by column, and so "
         "do the pixels inside each. H comes before W."),
        (out_of_turn, "after the first reshape the axes are B, C, rows, Ph, cols, Pw, and permute "
         "takes Ph before cols. N is rows and cols, a patch is C, Ph and Pw: (0, 2, 4, 1, 3, 5)."),
        (grid_swapped, "the grid's rows and columns are swapped: it has H/P rows and W/P columns, "
         "and images are (B C H W)."),
        (lambda images, P: rearrange(images, "B C (i r) (j c) -> B (r c) (C i j)", i=P, j=P),
         "each patch takes pixels from all over the image, every "
         "(H/P)-th: within H the grid comes first, (rows Ph), within W (cols Pw)."),
        (cut("B (r c) C (i j)"), "each patch still has its channels apart: "
         "flatten C, Ph and Pw into one axis."),
        (cut("B r c (C i j)"), "the grid is still two axes: flatten rows and "
         "columns into N."),
        (cut("B (C i j) (r c)"), "the result is (B CPP N): swap the last two "
         "axes, so that each row is a patch."),
        (cut("(B r c) (C i j)"), "the patches of all images are in one row: "
         "keep B as an axis of its own."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [((2, 3, 8, 12), 4), ((1, 1, 28, 28), 7), ((3, 2, 6, 4), 2)]
    trials = [(torch.rand(*shape, generator=generator), P) for shape, P in shapes]
    return compare(implementation, patchify, trials, mistakes, SQUARE)


@exercise
def check_unpatchify(implementation: Callable[[Tensor, int, int], Tensor]) -> bool:
    """Check `my_unpatchify(patches (B N C*P*P), P, rows) -> (B C H W)`; CheckFailed has a hint."""

    def put(pattern: str, image: str = "B C (r i) (c j)") -> Callable[..., Tensor]:
        return lambda patches, P, rows: rearrange(
            patches, f"B {pattern} -> {image}", r=rows, i=P, j=P
        )

    def reshaped(patches: Tensor, P: int, rows: int) -> Tensor:
        return patches.reshape(unpatchify(patches, P, rows).shape)

    mistakes: Mistakes = [
        (reshaped, "a plain reshape does not bring pixels back: split N into "
         "rows and columns and the patch into (C Ph Pw), then move each Ph next "
         "to its row."),
        (put("(c r) (C i j)"), "patches were put down the columns; they come in "
         "reading order, along a row of the grid first."),
        (put("(r c) (i j C)"), "inside a patch the channels were taken to come "
         "last; the order is (C Ph Pw)."),
        (put("(r c) (C j i)"), "every patch is transposed: Ph goes with the "
         "rows of the image, Pw with the columns."),
        (lambda x, P, rows: unpatchify(x, P, x.shape[1] // rows),
         "`rows` was taken for the number of columns; there are N / rows "
         "columns."),
        (lambda x, P, rows: unpatchify(x, P, round(x.shape[1] ** 0.5)), "the grid was taken to be "
         "square: it has `rows` rows, and N / rows columns."),
        (put("(c r) (C j i)"), "the image is transposed: rows of the grid go with H."),
        (put("(r c) (C i j)", "B C (c i) (r j)"), "height and width are swapped: rows of the grid "
         "go with H, columns with W."),
        (put("(r c) (C i j)", "B C (i r) (j c)"), "pixels of all patches take "
         "turns: within a row of the image the grid's axis comes first, (rows "
         "Ph)."),
        (put("(r c) (C i j)", "B (r i) (c j) C"), "the channels come last; the "
         "result is (B C H W)."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 6, 48, 4, 2), (1, 16, 49, 7, 4), (3, 6, 8, 2, 3)]  # B N CPP P rows
    trials = [
        (torch.rand(B, N, numbers, generator=generator), P, rows)
        for B, N, numbers, P, rows in sizes
    ]
    return compare(implementation, unpatchify, trials, mistakes, SQUARE)


@exercise
def check_sizes(implementation: Callable[[int, int, int, int], tuple[int, int, int]]) -> bool:
    """Check `my_sizes(C, H, W, P) -> (patches, numbers in each, attention weights)`."""

    def reference(C: int, H: int, W: int, P: int) -> tuple[int, int, int]:
        _, N, numbers = patchify(torch.zeros(1, C, H, W), P).shape  # measured, not computed
        return N, numbers, N * N

    mistakes: Mistakes = [
        (lambda C, H, W, P: (H // P, None, None), "the first number counts "
         "rows; a grid has rows times columns."),
        (lambda C, H, W, P: ((H // P) ** 2, None, None),
         "the grid was taken to be square; it has (H/P) rows and (W/P) columns."),
        (lambda C, H, W, P: (H * W // P, None, None),
         "a patch covers P times P pixels, so there are H·W/P² of them."),
        (lambda C, H, W, P: (None, P * P, None), "the second number counts the "
         "pixels of one channel; a patch has all C."),
        (lambda C, H, W, P: (None, 3 * P * P, None), "the second number takes "
         "every image to have 3 channels."),
        (lambda C, H, W, P: (None, None, H // P * (W // P)),
         "the third number has one weight for each token; every token weighs "
         "every token."),
        (lambda C, H, W, P: (None, None, (H // P * (W // P) + 1) ** 2),
         "the third number counts the class token of chapter 03 too; here there "
         "are N tokens."),
        (lambda C, H, W, P: (None, None, H * W), "the third number counts "
         "pixels; the tokens are the patches, and each pair has a weight."),
    ]  # fmt: skip
    trials = [(3, 224, 224, 16), (1, 28, 28, 7), (3, 384, 384, 16), (2, 32, 48, 8), (3, 48, 32, 8)]
    return compare(implementation, reference, trials, mistakes)


@exercise
def check_channels_last(implementation: Callable[[Tensor, int], Tensor]) -> bool:
    """Check `my_patchify_channels_last(images (B H W C), P) -> (B N C*P*P)`."""

    def cut(pattern: str) -> Callable[..., Tensor]:
        return lambda images, P: rearrange(images, f"B (r i) (c j) C -> B {pattern}", i=P, j=P)

    def mixed(images: Tensor, P: int) -> Tensor:
        B, H, W, C = images.shape
        return patchify(images.reshape(B, C, H, W), P)

    mistakes: Mistakes = [
        (cut("(r c) (i j C)"), "the channels are still last inside a patch; the "
         "order is (C Ph Pw)."),
        (cut("(c r) (C i j)"), "patches come column by column; reading order "
         "goes along a row of the grid first."),
        (cut("(r c) (C j i)"), "every patch is transposed."),
        (lambda x, P: rearrange(x, "B (i r) (j c) C -> B (r c) (C i j)", i=P, j=P),
         "each patch takes pixels from all over the image, every "
         "(H/P)-th: within H the grid comes first, (rows Ph), within W (cols Pw)."),
        (lambda x, P: x.reshape(len(x), -1, x.shape[3] * P * P), RESHAPED),
        (mixed, "reshaped to (B C H W), the colors mix: a reshape never moves "
         "an axis."),
        (lambda x, P: patchify(x.permute(0, 3, 2, 1), P),
         "the image was transposed on the way: move C only, and keep H before W."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [((2, 8, 12, 3), 4), ((1, 6, 4, 2), 2), ((3, 4, 4, 1), 2)]
    trials = [(torch.rand(*shape, generator=generator), P) for shape, P in shapes]
    return compare(implementation, cut("(r c) (C i j)"), trials, mistakes, LAST)


@exercise
def check_overlapping(implementation: Callable[[Tensor, int, int], Tensor]) -> bool:
    """Check `my_overlapping(images (B C H W), P, S) -> (B N C*P*P)`, one patch every S pixels."""

    def cut(pattern: str, end: int | None = None) -> Callable[..., Tensor]:
        def windows(images: Tensor, P: int, S: int) -> Tensor:
            found = images.unfold(2, P, S).unfold(3, P, S)[:, :, :end, :end]
            return rearrange(found, f"B C r c i j -> B {pattern}")

        return windows

    def channels_lead(images: Tensor, P: int, S: int) -> Tensor:
        found = images.unfold(2, P, S).unfold(3, P, S)
        return found.reshape(len(images), -1, images.shape[1] * P * P)

    mistakes: Mistakes = [
        (lambda images, P, S: patchify(images, P), "there is no overlap yet: "
         "step by S, not by P."),
        (channels_lead, "the channels still lead: move them behind rows and "
         "columns."),
        (cut("(r c) (i j C)"), "the channels come last inside a patch; the "
         "order is (C Ph Pw)."),
        (cut("(c r) (C i j)"), "the patches come column by column."),
        (cut("(r c) (C j i)"), "every patch is transposed."),
        (cut("(r c) (C i j)", -1), "the last row and column of patches are "
         "missing: the last one starts at H - P."),
        (cut("(C i j) (r c)"), "the result is (B CPP N): swap the last two axes."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [((2, 3, 8, 12), 4, 2), ((1, 1, 28, 28), 7, 3), ((1, 2, 6, 4), 2, 2)]
    trials = [(torch.rand(*shape, generator=generator), P, S) for shape, P, S in shapes]

    def reference(images: Tensor, P: int, S: int) -> Tensor:
        return F.unfold(images, P, stride=S).mT

    return compare(implementation, reference, trials, mistakes, WINDOW)
