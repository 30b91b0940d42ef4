"""Chapter 05: attention weights, and many heads in one product."""

import math
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_tutorial.attention import attention_weights
from vit_tutorial.checks.core import Mistakes, check


def check_attention_weights(implementation: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check `my_attention_weights(q (... T d), k (... T d)) -> (... T T)`; CheckFailed hints."""

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
        x: Tensor, qkv: nn.Linear, projection: nn.Module, h: int, pack: str = "(n h d)",
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
        (lambda x, qkv, projection, h: heads(x, qkv, nn.Identity(), h),
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
