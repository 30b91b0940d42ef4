"""Chapter 02: projecting patches to tokens."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from vit_tutorial.checks.core import Mistakes, check


def check_projection(
    implementation: Callable[[Tensor, Tensor, Tensor, int], Tensor],
) -> None:
    """Check `my_projection(images (B C H W), weight, bias, P) -> (B N D)`; CheckFailed has a hint.

    `weight` (D, C*P*P) and `bias` (D,) are those of a linear layer.
    """

    def project(
        x: Tensor, weight: Tensor, bias: Tensor | float, P: int, cut: str = "B (r c) (C i j)"
    ) -> Tensor:
        return rearrange(x, f"B C (r i) (c j) -> {cut}", i=P, j=P) @ weight.mT + bias

    def cut(pattern: str) -> Callable[..., Tensor]:
        return lambda x, weight, bias, P: project(x, weight, bias, P, f"B {pattern}")

    def reshaped(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        return x.reshape(len(x), -1, weight.shape[1]) @ weight.mT + bias

    def as_maps(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        tokens = project(x, weight, bias, P)
        return rearrange(tokens, "B (r c) D -> B D r c", r=x.shape[2] // P)

    def not_moved(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        return as_maps(x, weight, bias, P).reshape(len(x), -1, len(weight))

    def untransposed(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        square = weight.shape[0] == weight.shape[1]  # elsewhere the product does not exist
        return project(x, weight.mT if square else weight, bias, P)

    def folded(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        return project(x, weight.reshape(weight.shape[::-1]).mT, bias, P)

    mistakes: Mistakes = [
        (lambda x, weight, bias, P: project(x, weight, 0.0, P),
         "the bias is missing: add its D numbers to every token."),
        (untransposed, "here C·P·P = D, so `patches @ weight` runs, and is wrong: a linear layer "
         "keeps its weight as (D, C·P·P), one row for each output. Use weight.T."),
        (folded, "the weight was reshaped to (C·P·P, D), which moves nothing: transpose it, "
         "weight.T."),
        (reshaped, "the patches were cut by a plain reshape: right shape, wrong pixels. Use "
         "patchify(images, P) of chapter 01."),
        (cut("(r c) (i j C)"), "inside a patch the channels come last, (Ph Pw C), but the weights "
         "wait for (C Ph Pw): all of one channel first."),
        (cut("(r c) (C j i)"), "inside a patch rows and columns are swapped: every patch is "
         "transposed."),
        (cut("(c r) (C i j)"), "patches come column by column; reading order goes along a row of "
         "the grid first."),
        (lambda x, weight, bias, P: project(x, weight / weight.shape[1], bias, P),
         "the products are averaged: a token's number is their sum."),
        (lambda x, weight, bias, P: project(x, weight / weight.shape[1] ** 0.5, bias, P),
         "the result is divided by √(C·P·P); the scale belongs in the first weights, not here."),
        (not_moved, "the maps of the convolution, (B D rows cols), were reshaped to (B N D) "
         "without moving D: flatten the grid first, then swap the last two axes."),
        (as_maps, "these are the maps of a convolution, (B D rows cols): flatten the grid and "
         "move D to the end."),
        (lambda x, weight, bias, P: project(x, weight, bias, P).mT,
         "the result is (B D N): swap the last two axes, so that each row is a token."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 3, 8, 12, 4, 48), (1, 1, 28, 28, 7, 10), (3, 2, 6, 4, 2, 5)]  # B C H W P D
    trials = []
    for B, C, H, W, P, D in sizes:  # in the first, as in ViT-B/16, C·P·P happens to be D
        images = torch.rand(B, C, H, W, generator=generator)
        weight, bias = torch.randn(D, C * P * P, generator=generator), torch.arange(1.0, D + 1)
        trials.append((images, weight / (C * P * P) ** 0.5, bias / D, P))
    check(implementation, project, trials, mistakes)
