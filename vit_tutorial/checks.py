"""Self-checks for the exercises: they test values, and say which mistake the values point to."""

import math
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_tutorial.attention import attention_weights
from vit_tutorial.patches import patchify


class CheckFailed(AssertionError):
    """An exercise is not right yet; the message says what to look at."""


Mistakes = list[tuple[Callable[..., Tensor], str]]  # what a mistake computes, and the hint


def check(
    implementation: Callable[..., Any],
    reference: Callable[..., Tensor],
    trials: list[tuple[Any, ...]],
    mistakes: Mistakes,
) -> None:
    """Compare with the reference on every trial; name the mistake whose values these are."""
    name = implementation.__name__
    for arguments in trials:
        expected, got = reference(*arguments), implementation(*arguments)
        if got is None:
            print(f"○ {name} gave nothing back yet: write its body, and return the result")
            return
        if not isinstance(got, Tensor):
            raise CheckFailed(f"{name} should return a tensor, not {type(got).__name__}")
        if agree(got, expected):
            continue
        for mistake, hint in mistakes:
            if agree(got, mistake(*arguments)):
                raise CheckFailed(f"{name}: {hint}")
        if got.shape != expected.shape:
            shapes = f"{tuple(got.shape)}, expected {tuple(expected.shape)}"
            raise CheckFailed(f"{name}: the result has shape {shapes}")
        off = (got - expected).abs().max().item()
        raise CheckFailed(
            f"{name}: the shape is right but the values are not; the largest difference is "
            f"{off:.3g}. Try it on a tensor small enough to work out by hand."
        )
    print(f"✓ {name} is right: {len(trials)} inputs, every value compared")


def agree(got: Tensor, expected: Tensor) -> bool:
    """Equal in shape, and in values up to rounding."""
    return got.shape == expected.shape and torch.allclose(got.to(expected), expected, atol=1e-5)


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
         "neighbours in memory, which is pieces of rows. Split H and W first, then move axes."),
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


def check_attention_weights(implementation: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check `my_attention_weights(q (T d), k (T d)) -> (T T)`; raises CheckFailed with a hint."""

    def scores(q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1)

    mistakes: Mistakes = [
        (lambda q, k: (scores(q, k) / q.shape[-1] ** 0.5).softmax(dim=-2),
         "the columns sum to 1, not the rows: row t is what token t reads, so the softmax runs "
         "over the last axis."),
        (lambda q, k: scores(q, k).softmax(dim=-1),
         "the scores are not scaled: divide by √d before the softmax."),
        (lambda q, k: (scores(q, k) / q.shape[-1]).softmax(dim=-1),
         "the scores are divided by d; the standard deviation of a sum of d products is √d."),
        (lambda q, k: scores(q, k).softmax(dim=-1) / q.shape[-1] ** 0.5,
         "the scale comes after the softmax, so rows no longer sum to 1: scale the scores."),
        (lambda q, k: scores(q, k) / q.shape[-1] ** 0.5,
         "these are the scaled scores; the softmax is missing."),
        (lambda q, k: (scores(k, q) / q.shape[-1] ** 0.5).softmax(dim=-1),
         "q and k are swapped: row t should belong to the query of token t."),
        (lambda q, k: (scores(q, k) / q.shape[-2] ** 0.5).softmax(dim=-1),
         "the scores are divided by √T, the number of tokens; use √d, the size of a query."),
        (lambda q, k: (scores(q, k) / q.shape[-1] ** 0.5 + causal(q)).softmax(dim=-1),
         "tokens read only what stands before them: a causal mask, as in GPT. In an image every "
         "patch may read every patch."),
    ]  # fmt: skip

    def causal(q: Tensor) -> Tensor:
        T = q.shape[-2]
        return torch.full((T, T), -math.inf).triu(1)

    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (5, 16), (2, 4, 6, 8)]
    trials = [tuple(torch.randn(2, *shape, generator=generator).unbind()) for shape in shapes]
    check(implementation, attention_weights, trials, mistakes)


def check_multi_head(
    implementation: Callable[[Tensor, nn.Linear, nn.Linear, int], Tensor],
) -> None:
    """Check `my_multi_head(x (B T D), qkv, projection, h) -> (B T D)`; CheckFailed has a hint.

    `qkv` is Linear(D, 3D), whose outputs are packed (3 h d); `projection` is Linear(D, D).
    """

    def heads(
        x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int, pack: str = "(n h d)",
        scale: Callable[[int, int], float] = lambda d, h: math.sqrt(d), join: str = "B T (h d)",
        axis: int = -1,
    ) -> Tensor:  # fmt: skip
        q, k, v = rearrange(qkv(x), f"B T {pack} -> n B h T d", n=3, h=h)
        weights = (q @ k.mT / scale(q.shape[-1], h)).softmax(dim=axis)
        return projection(rearrange(weights @ v, f"B h T d -> {join}"))

    def scrambled(x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int) -> Tensor:
        B, T, D = x.shape
        q, k, v = (part.reshape(B, h, T, D // h) for part in qkv(x).chunk(3, dim=-1))
        return projection((attention_weights(q, k) @ v).transpose(1, 2).reshape(B, T, D))

    def not_moved_back(x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int) -> Tensor:
        q, k, v = rearrange(qkv(x), "B T (n h d) -> n B h T d", n=3, h=h)
        return projection((attention_weights(q, k) @ v).reshape(x.shape))

    def own_slice(x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int) -> Tensor:
        parts = rearrange(x, "B T (h d) -> B h T d", h=h)
        weight = rearrange(qkv.weight, "(n h d) (g e) -> n h g d e", n=3, h=h, g=h)
        weight = weight.diagonal(dim1=1, dim2=2).movedim(-1, 1)  # (n h d e)
        bias = rearrange(qkv.bias, "(n h d) -> n h 1 d", n=3, h=h)
        q, k, v = torch.einsum("bhte,nhde->nbhtd", parts, weight) + bias[:, None]
        return projection(rearrange(attention_weights(q, k) @ v, "B h T d -> B T (h d)"))

    mistakes: Mistakes = [
        (scrambled, "a reshape straight to (B, h, T, d) mixes tokens with channels: right shape, "
         "wrong values. Split D into (h, d) first, then swap the axes T and h."),
        (not_moved_back, "the heads were joined without moving T back in front of h: rearrange "
         "(B h T d) to (B T h d) before flattening."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, pack="(h n d)"),
         "qkv is packed (3 h d): all queries, then all keys, then all values."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, pack="(n d h)"),
         "within D the heads come first, (h d): head i owns d neighbouring columns."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, join="B T (d h)"),
         "joined as (d h): put each head's d numbers side by side, (h d)."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, scale=lambda d, h: math.sqrt(d * h)),
         "scaled by √D; each head compares vectors of d = D/h numbers, so use √d."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, scale=lambda d, h: d), "scaled by d, not by √d."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, scale=lambda d, h: 1.0),
         "the scores are not scaled by √d."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, axis=-2),
         "the softmax runs over the wrong axis: rows must sum to 1."),
        (lambda x, qkv, projection, h: heads(x, qkv, nn.Identity(), h),  # type: ignore[arg-type]
         "the output projection is missing: without it the heads are never mixed."),
        (lambda x, qkv, projection, h: heads(x, qkv, projection, 1),
         "this is one large head; split D into h heads."),
        (own_slice, "each head sees only its own slice of the input; every head should read all D "
         "numbers of a token."),
    ]  # fmt: skip

    def reference(x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int) -> Tensor:
        return heads(x, qkv, projection, h)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trials = [
            (torch.randn(B, T, D), nn.Linear(D, 3 * D), nn.Linear(D, D), h)
            for B, T, D, h in [(2, 5, 12, 3), (1, 7, 16, 4), (3, 4, 8, 2)]
        ]
        for _, qkv, _, _ in trials:  # scores large enough for a wrong scale to show
            nn.init.normal_(qkv.weight, std=0.7)
    with torch.no_grad():
        check(implementation, reference, trials, mistakes)
