"""Chapter 02: projecting patches to tokens, and what the weights look like elsewhere."""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vit_tutorial.checks.core import Mistakes, Slips, compare, exercise
from vit_tutorial.embedding import PatchEmbedding


@exercise
def check_projection(
    implementation: Callable[[Tensor, Tensor, Tensor, int], Tensor],
) -> bool:
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

    def strided(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        patches = rearrange(x, "B C (i r) (j c) -> B (r c) (C i j)", i=P, j=P)
        return patches @ weight.mT + bias

    def dense(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        kernel = weight.view(len(weight), -1, P, P)
        return F.conv2d(x, kernel, bias).flatten(2).mT

    def untransposed(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        square = weight.shape[0] == weight.shape[1]  # elsewhere the product does not exist
        return project(x, weight.mT if square else weight, bias, P)

    def folded(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        return project(x, weight.reshape(weight.shape[::-1]).mT, bias, P)

    mistakes: Mistakes = [
        (lambda x, weight, bias, P: project(x, weight, 0.0, P),
         "the bias is missing: add its D numbers to every token."),
        (untransposed, "here C·P·P = D, so `patches @ weight` runs, and is "
         "wrong: a linear layer keeps its weight as (D, C·P·P), one row for "
         "each output. Use weight.T."),
        (folded, "the weight was reshaped to (C·P·P, D), which moves nothing: "
         "transpose it, weight.T."),
        (reshaped, "the patches were cut by a plain reshape: right shape, wrong "
         "pixels. Use patchify(images, P) of chapter 01."),
        (cut("(r c) (i j C)"), "inside a patch the channels come last, (Ph Pw "
         "C), but the weights wait for (C Ph Pw): all of one channel first."),
        (cut("(r c) (C j i)"), "inside a patch rows and columns are swapped: "
         "every patch is transposed."),
        (cut("(c r) (C i j)"), "patches come column by column; reading order "
         "goes along a row of the grid first."),
        (cut("(c r) (C j i)"), "the image is transposed: H comes before W."),
        (strided, "each patch takes pixels from all over the image, every "
         "(H/P)-th: within H the grid comes first, (rows Ph), within W (cols Pw)."),
        (lambda x, weight, bias, P: project(x, weight, 2 * bias, P), "the bias is added twice."),
        (lambda x, weight, bias, P: project(x, weight, bias, P).relu(), "an activation stands "
         "behind it; the projection is linear."),
        (lambda x, weight, bias, P: project(x, weight / weight.shape[1], bias, P),
         "the products are averaged: a token's number is their sum."),
        (lambda x, weight, bias, P: project(x, weight / weight.shape[1] ** 0.5, bias, P),
         "the result is divided by √(C·P·P); the scale belongs in the first "
         "weights, not here."),
        *((mistake, "the convolution has no stride, so it gives a token at every pixel: stride=P.")
          for mistake in (dense, lambda *a: dense(*a).mT)),
        (not_moved, "the maps of the convolution, (B D rows cols), were "
         "reshaped to (B N D) without moving D: flatten the grid first, then "
         "swap the last two axes."),
        (as_maps, "these are the maps of a convolution, (B D rows cols): "
         "flatten the grid and move D to the end."),
        (lambda x, weight, bias, P: project(x, weight, bias, P).mT,
         "the result is (B D N): swap the last two axes, so that each row is a "
         "token."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 3, 8, 12, 4, 48), (1, 1, 28, 28, 7, 10), (3, 2, 6, 4, 2, 5)]  # B C H W P D
    trials = []
    for B, C, H, W, P, D in sizes:  # in the first, as in ViT-B/16, C·P·P happens to be D
        images = torch.rand(B, C, H, W, generator=generator)
        weight, bias = torch.randn(D, C * P * P, generator=generator), torch.arange(1.0, D + 1)
        trials.append((images, weight / (C * P * P) ** 0.5, bias / D, P))
    slips: Slips = [
        (r"mat1 and mat2|size mismatch", "a linear layer keeps its weight as "
         "(D, C·P·P), one row for each output: multiply by weight.T."),
    ]  # fmt: skip
    return compare(implementation, project, trials, mistakes, slips)


@exercise
def check_parameters(implementation: Callable[[int, int, int], int]) -> bool:
    """Check `my_parameters(P, C, D) -> int`, the numbers that the projection learns."""

    def reference(P: int, C: int, D: int) -> int:
        return sum(p.numel() for p in PatchEmbedding(P, C, D).parameters())

    mistakes: Mistakes = [
        (lambda P, C, D: C * P * P * D, "these are the weights; the bias has D "
         "more."),
        (lambda P, C, D: C * P * P * (D + 1), "the bias has one number for each "
         "output, D in all, not one for each input."),
        (lambda P, C, D: C * P * P * D + 1, "D biases, one for each output, not "
         "one in all."),
        (lambda P, C, D: D * D + D, "a patch has C·P·P numbers, not D."),
        (lambda P, C, D: (P * P + 1) * D, "a patch has the pixels of all C "
         "channels."),
        (lambda P, C, D: (3 * P * P + 1) * D, "not every image has 3 channels: "
         "use C."),
        *((lambda P, C, D, N=N: N(P) * reference(P, C, D), "this counts a layer for each patch; "
           "one and the same projection serves all of them.")
          for N in (lambda P: (224 // P) ** 2, lambda P: 196, lambda P: 49)),
        (lambda P, C, D: (C * P + 1) * D, "a patch is P pixels wide and P "
         "pixels high."),
    ]  # fmt: skip
    return compare(implementation, reference, [(16, 3, 1024), (4, 1, 64), (14, 3, 1280)], mistakes)


@exercise
def check_weight_from_authors(implementation: Callable[[Tensor], Tensor]) -> bool:
    """Check `my_weight_from_authors(kernel (Ph Pw C D)) -> weight (D C*P*P)` of a linear layer."""

    def lay(pattern: str) -> Callable[[Tensor], Tensor]:
        return lambda kernel: rearrange(kernel, f"i j C D -> {pattern}")

    channels = "the channels are still last inside a row; put C in front of Ph and Pw."
    mistakes: Mistakes = [
        (lay("D (i j C)"), channels),
        (lay("D (C j i)"), "every filter is transposed: Ph goes before Pw."),
        (lay("(C i j) D"), "this is E, the matrix of the equation; a linear "
         "layer keeps its transpose, (D CPP)."),
        (lay("(i j C) D"), "this only flattens: D comes first, and C leads the "
         "pixels."),
        (lay("D C i j"), "this is a convolution's kernel (D C Ph Pw); flatten "
         "its last three axes."),
        (lambda kernel: kernel.reshape(kernel.shape[-1], -1),
         "a reshape moves nothing: bring D to the front first."),
        (lambda kernel: rearrange(kernel, "i j C D -> C i j D").reshape(kernel.shape[-1], -1),
         "C stands in front of the pixels, but D is still last, and a reshape moves nothing: "
         "permute(3, 2, 0, 1) first."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 2, 3, 12), (4, 4, 3, 5), (4, 4, 1, 16)]
    trials = [(torch.rand(*shape, generator=generator),) for shape in shapes]
    slips: Slips = [
        (r"invalid for input of size|einops", "one row for each of the D outputs, and C·Ph·Pw "
         "numbers in it: is C taken to be 3, or Ph to be 16?"),
    ]  # fmt: skip
    return compare(implementation, lay("D (C i j)"), trials, mistakes, slips, gradients=False)


@exercise
def check_fold(implementation: Callable[..., tuple[Tensor, Tensor]]) -> bool:
    """Check `my_fold(weight (D CPP), bias (D), mean (C), std (C)) -> (weight, bias)`.

    What is given back works on pixels as they are as the given ones do on (pixels - mean) / std.
    """

    def fold(rule: Callable[..., Any], spread: Any = Tensor.repeat_interleave) -> Any:
        def folded(w: Tensor, b: Tensor, *channels: Tensor) -> Any:
            m, s = (spread(number, w.shape[1] // len(number)) for number in channels)
            return rule(w, b, m, s)

        return folded

    def right(w: Tensor, b: Tensor, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return w / s, b - w / s @ m

    alternating = ("a patch holds all of one channel first, so each mean comes P·P times in a row: "
                   "repeat_interleave, not repeat.")  # fmt: skip
    mistakes: Mistakes = [
        (fold(right, Tensor.repeat), alternating),
        (fold(lambda w, b, m, s: (w / s, b)), "the bias is as it was: taking "
         "the mean off every pixel takes (W / std) @ mean off the result."),
        (fold(lambda w, b, m, s: (w / s, b + w / s @ m)),
         "the mean's part, (W / std) @ mean, is taken off the bias, not added."),
        (fold(lambda w, b, m, s: (w / m, b - w / m @ s)), "mean and std are swapped: the mean is "
         "taken off first, then std divides."),
        (fold(lambda w, b, m, s: (w / s**2, b - w / s**2 @ m)), "std divides twice; it is no "
         "variance."),
        (fold(lambda w, b, m, s: (w / s**0.5, b - w / s**0.5 @ m)), "the root of std divides; std "
         "is no variance, so it divides as it is."),
        (fold(lambda w, b, m, s: (w / s, b - w * s @ m)), "in the bias std multiplies; it divides "
         "there too: (W / std) @ mean."),
        (fold(lambda w, b, m, s: ((w - m) / s, b)), "the mean is taken off the weights; it is "
         "taken off pixels, so what changes is the bias: it loses (W / std) @ mean."),
        (fold(lambda w, b, m, s: (w * s, b + w @ m)), "this undoes a normalisation: what is given "
         "back works on pixels as they are. Divide by std, and take (W / std) @ mean off."),
        (fold(lambda w, b, m, s: (w / s, b - m.sum() / s.sum())), "the mean goes through the "
         "weights: the bias loses (W / std) @ mean."),
        (fold(lambda w, b, m, s: (w / s, b - (w / s @ m).mean())), "the same shift is taken off "
         "every output: each loses its own, (W / std) @ mean, without a mean."),
        (lambda w, b, m, s: (
            (w.view(len(w), -1, len(m)) / s).flatten(1),
            b - (w.view(len(w), -1, len(m)) / s * m).sum(dim=(1, 2))), alternating),
        (lambda w, b, m, s: fold(right)(
            w.view(len(w), len(m), -1).mT.flatten(1), b, m, s), "the weights were put into another "
         "order, channels last; leave each where it is."),
        (fold(lambda w, b, m, s: (w * s, b - w * s @ m)),
         "divide the weight by std, do not multiply."),
        (fold(lambda w, b, m, s: (w / s, b - w @ m)),
         "divide the mean by std too: the bias loses (W / std) @ mean."),
        (fold(lambda w, b, m, s: (w, b - w @ m)), "the standard deviation is "
         "not used."),
        (fold(lambda w, b, m, s: (w / s, -(w / s) @ m)),
         "the old bias is lost: take the shift off it."),
        (fold(lambda w, b, m, s: (w / s, 1 - (w / s) @ m)),
         "the old bias is lost: the shift is taken off 1."),
        (fold(lambda w, b, m, s: (w / s, b - (w / s * m).mean(dim=1))),
         "the shift is averaged; a linear layer sums over the numbers of a "
         "patch."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    trials = []
    for P, C, D in ((4, 3, 5), (2, 2, 8), (4, 1, 64)):
        weight = torch.randn(D, C * P * P, dtype=torch.float64, generator=generator)
        bias = 2 + torch.randn(D, dtype=torch.float64, generator=generator)
        mean, std = 0.1 + torch.rand(2, C, dtype=torch.float64, generator=generator)
        trials.append((weight, bias, mean, std))
    slips: Slips = [
        (r"must match the size|broadcast", "there is one mean for each channel, "
         "and C·P·P weights in a row: repeat each mean P·P times."),
    ]  # fmt: skip
    return compare(implementation, fold(right), trials, mistakes, slips, gradients=False)
