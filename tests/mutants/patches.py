"""Chapter 01: right styles and mistakes."""

import torch
from einops import rearrange
from torch.nn import functional as F

from vit_tutorial.checks import (
    check_channels_last,
    check_overlapping,
    check_patchify,
    check_sizes,
    check_unpatchify,
)

RIGHT, WRONG = {}, {}
# ---- patchify


def patches_in_loops(images, P):
    B, _, H, W = images.shape
    out = []
    for b in range(B):
        row = []
        for y in range(0, H, P):
            for x in range(0, W, P):
                row.append(images[b, :, y : y + P, x : x + P].flatten())
        out.append(torch.stack(row))
    return torch.stack(out)


def patches_by_view_and_permute(images, P):
    B, C, H, W = images.shape
    grid = images.view(B, C, H // P, P, W // P, P)
    return grid.permute(0, 2, 4, 1, 3, 5).contiguous().view(B, -1, C * P * P)


def patches_by_einops(images, P):
    return rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=P, q=P)


def patches_by_unfold(images, P):
    return F.unfold(images, P, stride=P).transpose(1, 2)


def patches_by_tensor_unfold(images, P):
    C = images.shape[1]
    grid = images.unfold(2, P, P).unfold(3, P, P)
    return grid.permute(0, 2, 3, 1, 4, 5).flatten(1, 2).reshape(len(images), -1, C * P * P)


def patches_in_double_precision(images, P):
    return patches_by_unfold(images.double(), P)


RIGHT[check_patchify] = [
    patches_in_loops,
    patches_by_view_and_permute,
    patches_by_einops,
    patches_by_unfold,
    patches_by_tensor_unfold,
    patches_in_double_precision,
]


def patches_by_reshape(images, P):
    return images.reshape(len(images), -1, images.shape[1] * P**2)


def patches_split_but_not_moved(images, P):
    B, C, H, W = images.shape
    return images.view(B, C, H // P, P, W // P, P).view(B, H // P * (W // P), -1)


def patches_with_the_channel_in_front(images, P):
    windows = images.unfold(2, P, P).unfold(3, P, P)
    return windows.contiguous().view(images.shape[0], -1, images.shape[1] * P * P)


def patches_down_the_columns(images, P):
    H, W = images.shape[2:]
    cut = [
        images[:, :, y : y + P, x : x + P].flatten(1)
        for x in range(0, W, P)
        for y in range(0, H, P)
    ]
    return torch.stack(cut, dim=1)


def patches_with_colours_last(images, P):
    B, C, H, W = images.shape
    grid = images.permute(0, 2, 3, 1).reshape(B, H // P, P, W // P, P, C)
    return grid.transpose(2, 3).flatten(3).flatten(1, 2)


def patches_turned_over(images, P):
    B, C, H, W = images.shape
    grid = images.reshape(B, C, H // P, P, W // P, P)
    return grid.permute(0, 2, 4, 1, 5, 3).reshape(B, -1, C * P * P)


def patches_with_channels_apart(images, P):
    return patches_in_loops(images, P).view(len(images), -1, images.shape[1], P * P)


def patches_in_a_grid(images, P):
    B, _, H, W = images.shape
    return patches_in_loops(images, P).view(B, H // P, W // P, -1)


def patches_across(images, P):
    return F.unfold(images, P, stride=P)


def patches_rescaled(images, P):
    return patches_in_loops(images, P) / 255


WRONG[check_patchify] = [
    (patches_by_reshape, "plain reshape has the right shape and the wrong pixels"),
    (patches_split_but_not_moved, "plain reshape has the right shape and the wrong pixels"),
    (patches_with_the_channel_in_front, "the channel axis still leads"),
    (patches_down_the_columns, "column by column"),
    (patches_with_colours_last, "the channels come last"),
    (patches_turned_over, "rows and columns are swapped"),
    (patches_with_channels_apart, "still has its channels apart"),
    (patches_in_a_grid, "flatten rows and columns"),
    (patches_across, "swap the last two axes"),
    (patches_rescaled, "the values are not"),
]


def square_grid(images, P):
    n = images.shape[2] // P
    return rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", h=n, w=n, p=P)


def three_channels(images, P):
    return patches_by_unfold(images.reshape(len(images), 3, *images.shape[2:]), P)


def first_image_alone(images, P):
    return patches_by_unfold(images[:1], P)


def grid_of_the_first_image(images, P):
    _, C, H, W = images.shape
    grid = images.reshape(C, H // P, P, W // P, P).permute(1, 3, 0, 2, 4)
    return grid.reshape(1, -1, C * P * P)


def by_numpy(images, P):
    return torch.from_numpy(images.numpy()).unfold(2, P, P)


def without_a_gradient(images, P):
    return torch.tensor(patches_by_unfold(images, P).tolist())


def normalised_in_place(images, P):
    images /= 1
    images -= images.mean()
    return patches_by_unfold(images, P)


def written_into(images, P):
    patches = patches_by_unfold(images, P)
    images.zero_()
    return patches.clone()


def view_after_permute(images, P):
    B, C, H, W = images.shape
    grid = images.view(B, C, H // P, P, W // P, P).permute(0, 2, 4, 1, 3, 5)
    return grid.view(B, -1, C * P * P)


def only_one_way_returns(images, P):
    if images.shape[2] != images.shape[3]:
        return patches_by_unfold(images, P)
    return None


WRONG[check_patchify] += [
    (
        lambda x, P: (
            x.reshape(*x.shape[:2], x.shape[2] // P, P, x.shape[3] // P, P)
            .permute(0, 2, 3, 1, 4, 5)
            .reshape(len(x), -1, x.shape[1] * P * P)
        ),
        "permute takes Ph before cols",
    ),
    (lambda x, P: patches_by_unfold(x.mT.contiguous(), P), "the image is transposed"),
    (
        lambda x, P: patches_by_unfold(x.reshape(*x.shape[:2], x.shape[3], x.shape[2]), P),
        "the grid's rows and columns are swapped",
    ),
    (
        lambda x, P: F.unfold(x, P, dilation=(x.shape[2] // P, x.shape[3] // P)).mT,
        "from all over the image",
    ),
    (lambda x, P: patches_by_unfold(x.flip(2), P), "the right numbers in other places"),
    (lambda x, P: patches_by_unfold(x, P).unflatten(2, (x.shape[1], P, P)), "the right ones"),
    (lambda x, P: -patches_by_unfold(x, P), "the wrong sign"),
    (square_grid, "the grid has H/P rows and W/P columns"),
    (three_channels, "C taken to be 3"),
    (first_image_alone, "expected"),
    (grid_of_the_first_image, "the grid has H/P rows"),
    (by_numpy, "numpy cannot hand a gradient back|Numpy cannot"),
    (without_a_gradient, "carries no gradient"),
    (lambda x, P: patches_by_unfold(x, P).detach(), "carries no gradient"),
    (lambda x, P: patches_by_unfold(x.data, P), "carries no gradient"),
    (written_into, "writes into its input `images`"),
    (view_after_permute, "use reshape"),
    (only_one_way_returns, "a return on every way"),
    (lambda x, P: patches_by_unfold(x, P).flatten(0, 1), "keep B as an axis"),
    (lambda x: x, "the function is called with|The function is called with"),
]


def put_back_by_fold(patches, P, rows):
    cols = patches.shape[1] // rows
    return F.fold(patches.mT, (rows * P, cols * P), P, stride=P)


def put_back_by_loops(patches, P, rows):
    B, N, numbers = patches.shape
    cols = N // rows
    image = torch.zeros(B, numbers // P**2, rows * P, cols * P)
    for n in range(N):
        y, x = n // cols * P, n % cols * P
        image[:, :, y : y + P, x : x + P] = patches[:, n].reshape(B, -1, P, P)
    return image


def put_back_by_permute(patches, P, rows):
    B, N, numbers = patches.shape
    cols, C = N // rows, numbers // P**2
    grid = patches.reshape(B, rows, cols, C, P, P).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(B, C, rows * P, cols * P)


RIGHT[check_unpatchify] = [put_back_by_fold, put_back_by_loops, put_back_by_permute]


def put_back(patches, P, rows, pattern="(r c) (C i j)", image="C (r i) (c j)"):
    return rearrange(patches, f"B {pattern} -> B {image}", r=rows, i=P, j=P)


WRONG[check_unpatchify] = [
    (
        lambda x, P, r: x.reshape(len(x), -1, r * P, x.shape[1] // r * P),
        "does not bring pixels back",
    ),
    (lambda x, P, r: put_back(x, P, r, "(c r) (C i j)"), "down the columns"),
    (lambda x, P, r: put_back(x, P, r, "(r c) (i j C)"), "channels were taken to come last"),
    (lambda x, P, r: put_back(x, P, r, "(r c) (C j i)"), "every patch is transposed"),
    (lambda x, P, r: put_back(x, P, x.shape[1] // r), "taken for the number of columns"),
    (lambda x, P, r: put_back(x, P, r, image="C (i r) (j c)"), "take turns"),
    (lambda x, P, r: put_back(x, P, r, image="(r i) (c j) C"), "the channels come last"),
    (lambda x, P, r: put_back(x.detach(), P, r), "carries no gradient"),
    (
        lambda x, P, r: put_back(x, P, round(x.shape[1] ** 0.5)),
        "the grid was taken to be square",
    ),
    (lambda x, P, r: put_back(x, P, r) / 2, "each is 0.5 times"),
    (lambda x, P, r: put_back(x.flip(2), P, r), "the right numbers in other places"),
    (lambda x, P, r: put_back(x, P, r).mT, "expected .2, 3, 8, 12.; the numbers are the right"),
]

RIGHT[check_sizes] = [
    lambda C, H, W, P: ((H // P) * (W // P), C * P * P, ((H // P) * (W // P)) ** 2),
    lambda C, H, W, P: [H * W // P**2, torch.tensor(C * P**2), int((H * W / P**2) ** 2)],
]
WRONG[check_sizes] = [
    (lambda C, H, W, P: (H * W / P**2, C * P * P, (H * W // P**2) ** 2), "did you divide by /"),
    (lambda C, H, W, P: (H // P, C * P * P, H // P), "counts rows"),
    (lambda C, H, W, P: ((H // P) ** 2, C * P * P, (H // P) ** 4), "taken to be square"),
    (lambda C, H, W, P: (H * W // P, C * P * P, 1), "P times P pixels"),
    (lambda C, H, W, P: (H * W // P**2, P * P, 1), "one channel"),
    (lambda C, H, W, P: (H * W // P**2, 3 * P * P, 1), "3 channels"),
    (lambda C, H, W, P: (H * W // P**2, C * P * P, H * W // P**2), "one weight for each token"),
    (lambda C, H, W, P: (H * W // P**2, C * P * P, (H * W // P**2 + 1) ** 2), "class token"),
    (lambda C, H, W, P: (H * W // P**2, C * P * P, H * W), "counts pixels"),
    (lambda C, H, W, P: H * W // P**2, "should return 3 values, not one"),
    (lambda C, H, W, P: (1, 2), "should return 3 values, not 2"),
    (lambda C, H, W, P: (1, 2, None), "nothing back|should return a number"),
    (lambda C, H, W, P: (H * W // P**2, C * P * P + 1, (H * W // P**2) ** 2), "value 2 of 3"),
]

RIGHT[check_channels_last] = [
    lambda x, P: patches_by_unfold(x.permute(0, 3, 1, 2), P),
    lambda x, P: rearrange(x, "b (r i) (c j) k -> b (r c) (k i j)", i=P, j=P),
]
WRONG[check_channels_last] = [
    (lambda x, P: rearrange(x, "b (r i) (c j) k -> b (r c) (i j k)", i=P, j=P), "still last"),
    (lambda x, P: rearrange(x, "b (r i) (c j) k -> b (c r) (k i j)", i=P, j=P), "column by column"),
    (lambda x, P: rearrange(x, "b (r i) (c j) k -> b (r c) (k j i)", i=P, j=P), "transposed"),
    (lambda x, P: x.reshape(len(x), -1, x.shape[3] * P * P), "plain reshape"),
    (lambda x, P: patches_by_unfold(x.reshape(len(x), -1, *x.shape[1:3]), P), "colors mix"),
    (lambda x, P: patches_by_unfold(x.transpose(1, 3), P), "transposed on the way"),
    (patches_by_unfold, "stopped with|shape"),
]


def windows_by_loops(images, P, S):
    H, W = images.shape[2:]
    return torch.stack([
        images[:, :, y : y + P, x : x + P].flatten(1)
        for y in range(0, H - P + 1, S) for x in range(0, W - P + 1, S)
    ], dim=1)  # fmt: skip


RIGHT[check_overlapping] = [
    windows_by_loops,
    lambda x, P, S: F.unfold(x, P, stride=S).transpose(1, 2),
]


def windows(images, P, S, pattern="b (r c) (k i j)"):
    return rearrange(images.unfold(2, P, S).unfold(3, P, S), f"b k r c i j -> {pattern}")


WRONG[check_overlapping] = [
    (lambda x, P, S: windows(x, P, P), "there is no overlap"),
    (lambda x, P, S: windows(x, P, S, "b (r c) (i j k)"), "channels come last"),
    (lambda x, P, S: windows(x, P, S, "b (c r) (k i j)"), "column by column"),
    (lambda x, P, S: windows(x, P, S, "b (r c) (k j i)"), "transposed"),
    (lambda x, P, S: windows(x[:, :, :-S, :-S], P, S), "expected|last row and column"),
    (lambda x, P, S: F.unfold(x, P, stride=S), "swap the last two axes"),
    (
        lambda x, P, S: x.unfold(2, P, S).unfold(3, P, S).reshape(len(x), -1, x.shape[1] * P * P),
        "channels still lead",
    ),
]

WRONG[check_patchify] += [
    (lambda x, P: rearrange(x, "B C (r p) (c q) -> B (r c) (C p q)"),
     "Could not infer sizes.*give each by its name"),
]  # fmt: skip
WRONG[check_unpatchify] += [
    (lambda x, P, r: rearrange(x, "B (r c) (C p q) -> B C (r p) (c q)", r=r, p=P),
     "Could not infer sizes.*give each by its name"),
]  # fmt: skip
WRONG[check_patchify] += [
    (lambda x, P: rearrange(x, "B C (r P) (c P) -> B (r c) (C P P)", P=P), "twice on one side"),
]
